"""Objects that a statement drops, or whose owner it changes, and with which others fall."""

from __future__ import annotations

from typing import Any, NamedTuple

from pglast import ast

from pgrunbook.sql.tree import dotted, object_kind

ROUTINES = ("FUNCTION", "PROCEDURE", "ROUTINE", "AGGREGATE")
_BY_METHOD = ("OPCLASS", "OPFAMILY")
_BY_TYPES = (*ROUTINES, "OPERATOR")
_KINDS = (*_BY_TYPES, *_BY_METHOD, "TYPE", "DOMAIN", "SEQUENCE", "SCHEMA", "EXTENSION", "FOREIGN_SERVER", "FDW",
          "LANGUAGE", "COLLATION", "TSCONFIGURATION", "TSDICTIONARY", "TSPARSER", "TSTEMPLATE")  # fmt: skip


class Dropped(NamedTuple):
    """One object; ``args`` are the internal names of a routine's or an operator's types, None where any will do.

    ``word`` stands for it where what falls with it is looked up. Everything that a role owns is of kind "OWNED", or
    "REASSIGNED" where it only gets another owner.
    """

    word: str
    kind: str
    schema: str | None
    name: str
    args: list[str] | None = None


def dropped(node: Any) -> list[Dropped]:
    """Return what a statement drops; not tables, views and indexes, which are judged by what is read of them."""
    match node:
        case ast.DropStmt() if object_kind(node.removeType) in _KINDS:
            return [_object(object_kind(node.removeType), entry) for entry in node.objects]
        case ast.DropOwnedStmt():
            return [_owned("OWNED", role) for role in node.roles]
        case ast.ReassignOwnedStmt():
            return [_owned("REASSIGNED", role) for role in node.roles]
    return []


def _object(kind: str, entry: Any) -> Dropped:
    schema, name = dotted(entry[1:] if kind in _BY_METHOD else entry)
    args = None
    if kind in _BY_TYPES and not entry.args_unspecified:
        args = [("_" if arg.arrayBounds else "") + arg.names[-1].sval for arg in entry.objargs or () if arg is not None]
    return Dropped(
        f"{kind} {schema or ''}.{name}({'*' if args is None else ', '.join(args)})", kind, schema, name, args
    )


def _owned(kind: str, role: Any) -> Dropped:
    return Dropped(f"{kind} {role.rolename}", kind, None, role.rolename or "")
