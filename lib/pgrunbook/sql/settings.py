"""What a statement sets: settings of its session, or of its transaction alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from pglast import ast, enums

from pgrunbook.sql.tree import once_per_node, quoted, text, walk

SEARCH_PATH = "search_path"
# The name of a setting that is computed when the statement runs, and that of all at once.
ANY = "*"
_MULTI = {"TRANSACTION": True, "TRANSACTION SNAPSHOT": True, "SESSION CHARACTERISTICS": False}
_IDENTIFIER = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^,"\s][^,]*?))\s*(?:,|\Z)')
K = enums.VariableSetKind


@dataclass(frozen=True)
class Setting:
    """A setting that a statement gives a value: its name in lower case, or ``ANY``.

    ``value`` is the text of the value, None where it goes back to its default or is not known; ``is_known`` tells
    which. A local one ends with the transaction.
    """

    name: str
    value: str | None
    is_local: bool
    is_known: bool = True

    @property
    def may_be_search_path(self) -> bool:
        """Whether it changes what names without a schema mean, or may."""
        return self.name in (SEARCH_PATH, ANY)


@once_per_node
def settings(node: Any) -> tuple[Setting, ...]:
    """Return what a statement sets when it runs, in order; () for one that sets nothing.

    Functions that it calls are looked at for ``set_config`` alone.
    """
    match node:
        case ast.VariableSetStmt():
            return (_set(node),)
        case ast.DiscardStmt() if node.target == enums.DiscardMode.DISCARD_ALL:
            return (Setting(ANY, None, is_local=False),)
        case ast.UpdateStmt() if node.relation.relname == "pg_settings":  # its rule calls set_config
            return (Setting(ANY, None, is_local=False, is_known=False),)
        case ast.CreateFunctionStmt() | ast.ViewStmt() | ast.RuleStmt() | ast.CreatePolicyStmt():
            return ()
    plain = is_plain(node)
    found = (_configured(call) for call in walk(node) if is_call(call, "set_config"))
    return tuple(setting if plain else replace(setting, is_known=False) for setting in found)


def is_call(node: Any, *names: str) -> bool:
    """Tell whether a node calls one of these functions, whatever schema it is written with."""
    return isinstance(node, ast.FuncCall) and node.funcname[-1].sval in names


def path_names(value: str) -> list[str]:
    """Return the schemas in the text of a search_path, in order."""
    found = (match for match in _IDENTIFIER.finditer(value) if match[0])
    return [match[1].replace('""', '"') if match[1] is not None else match[2].lower() for match in found]


def is_plain(node: Any) -> bool:
    """Tell whether a statement does nothing but set: executed again it does no harm."""
    if isinstance(node, ast.VariableSetStmt | ast.DiscardStmt):
        return True
    if not isinstance(node, ast.SelectStmt) or node.fromClause or node.whereClause or node.withClause:
        return False
    return bool(node.targetList) and all(is_call(target.val, "set_config") for target in node.targetList)


def _set(node: Any) -> Setting:
    if node.kind == K.VAR_RESET_ALL:
        return Setting(ANY, None, is_local=False)
    if node.kind == K.VAR_SET_MULTI:
        return Setting(node.name.lower(), "", is_local=_MULTI.get(node.name, True))
    name, is_local = node.name.lower(), bool(node.is_local)
    if node.kind == K.VAR_SET_CURRENT:
        return Setting(name, None, is_local, is_known=False)
    if node.kind in (K.VAR_SET_DEFAULT, K.VAR_RESET):
        return Setting(name, None, is_local)
    words = [str(getattr(arg.val, "sval", "")) if _is_string(arg) else text(arg) for arg in node.args or ()]
    return Setting(name, ", ".join(map(quoted, words) if name == SEARCH_PATH else words), is_local)


def _configured(call: Any) -> Setting:
    """Read set_config(name, value, is_local): what is no constant is not known, and counts as the worse."""
    args = [*(call.args or ()), None, None, None][:3]
    name = _constant(args[0])
    value = _constant(args[1])
    local = getattr(getattr(_cast_off(args[2]), "val", None), "boolval", None)
    if local is None and _constant(args[2]) is not None:
        local = str(_constant(args[2])).lower() in ("t", "true", "on", "1", "yes", "y")
    elif local is None and isinstance(getattr(_cast_off(args[2]), "val", None), ast.Boolean):
        local = False
    is_known = name is not None and value is not None and local is not None
    return Setting(ANY if name is None else name.lower(), value, local is not False, is_known)


def _constant(node: Any) -> str | None:
    node = _cast_off(node)
    return str(node.val.sval) if _is_string(node) else None


def _cast_off(node: Any) -> Any:
    while isinstance(node, ast.TypeCast):
        node = node.arg
    return node


def _is_string(node: Any) -> bool:
    return isinstance(node, ast.A_Const) and isinstance(node.val, ast.String)


def all_settings(nodes: Iterable[Any]) -> list[Setting]:
    """Return what several statements set, in order."""
    return [setting for node in nodes for setting in settings(node)]
