"""Statements that reach beyond the object that they name: by CASCADE, by an owner, a tablespace, a whole database.

Safe forms make gates of them and the review makes errors of them, both by what is said here.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any, NamedTuple

from pglast import ast, enums

from pgrunbook.sql.tree import CASCADE, dotted, is_on, object_kind, options

# What may fall without harm to anybody's data or code, and what is judged by its own name.
_NO_LOSS = frozenset({
    "INDEX", "TRIGGER", "RULE", "POLICY", "STATISTIC_EXT", "PUBLICATION", "EVENT_TRIGGER", "TRANSFORM", "TABCONSTRAINT",
})  # fmt: skip
_OWN_NAME = frozenset({"TABLE", "VIEW", "MATVIEW", "SCHEMA", "FOREIGN_TABLE"})
# What code calls by its name, beside tables, columns and views.
_NAMED_BY_CODE = MappingProxyType({
    "AGGREGATE": "aggregate", "ATTRIBUTE": "attribute", "DATABASE": "database", "DOMAIN": "domain",
    "FOREIGN_TABLE": "foreign table", "FUNCTION": "function", "PROCEDURE": "procedure", "ROLE": "role",
    "ROUTINE": "routine", "SCHEMA": "schema", "SEQUENCE": "sequence", "TYPE": "type", "VIEW": "view",
    "MATVIEW": "materialized view",
})  # fmt: skip
_MOVED = frozenset({*_NAMED_BY_CODE, "TABLE"})
_WHOLE = MappingProxyType(
    {
        enums.ReindexObjectType.REINDEX_OBJECT_SCHEMA: "SCHEMA",
        enums.ReindexObjectType.REINDEX_OBJECT_SYSTEM: "SYSTEM",
        enums.ReindexObjectType.REINDEX_OBJECT_DATABASE: "DATABASE",
    }
)


class WideReach(NamedTuple):
    """How a statement reaches further: the kind of gate, and what it does in words."""

    gate: str
    says: str


def reach(node: Any) -> WideReach | None:
    """Return how a statement reaches beyond what it names, as its text tells; None for one that does not."""
    look = _LOOKS.get(type(node))
    return look(node) if look is not None else None


def cascades(node: Any) -> bool:
    """Tell whether a DROP with CASCADE takes along what its kind of object may hold up: columns, views, functions."""
    if not isinstance(node, ast.DropStmt) or node.behavior != CASCADE:
        return False
    return object_kind(node.removeType) not in _NO_LOSS | _OWN_NAME


def renamed(node: Any) -> tuple[str, str] | None:
    """Return the kind and the old name of what gets another name or schema and is called by it; None for others."""
    if isinstance(node, ast.AlterEnumStmt):
        return ("enum value", node.oldVal) if node.oldVal is not None else None
    if isinstance(node, ast.AlterObjectSchemaStmt):
        kind = object_kind(node.objectType)
        name = node.relation.relname if node.relation else dotted(node.object).name
        return (_NAMED_BY_CODE.get(kind, "table"), name) if kind in _MOVED else None
    kind = object_kind(node.renameType)
    if kind not in _NAMED_BY_CODE:
        return None
    name = node.subname or (node.relation.relname if node.relation else dotted(node.object).name)
    return _NAMED_BY_CODE[kind], name


def _drop(node: Any) -> WideReach | None:
    if not cascades(node):
        return None
    names = ", ".join(str(dotted(entry)) for entry in node.objects)
    kind = object_kind(node.removeType).replace("_", " ").lower()
    return WideReach(
        "drop", f"CASCADE drops everything that needs {kind} {names}: columns with their data, views, code"
    )


def _renames(node: Any) -> WideReach | None:
    found = renamed(node)
    if found is None:
        return None
    return WideReach("rename", f'running code still uses the name "{found[1]}" and fails as soon as the change commits')


def _drop_owned(node: Any) -> WideReach:
    roles = ", ".join(str(role.rolename or "the current role") for role in node.roles)
    return WideReach("drop", f"every table, view and function that {roles} owns is dropped, with its data")


def _drop_database(node: Any) -> WideReach:
    return WideReach("drop", f"database {node.dbname} is lost with all its data")


def _move_all(node: Any) -> WideReach:
    return WideReach(
        "rewrite", f"each relation in tablespace {node.orig_tablespacename} is copied while its readers wait"
    )


def _database(node: Any) -> WideReach | None:
    if "tablespace" not in options(node.options):
        return None
    return WideReach(
        "rewrite", f"database {node.dbname} is copied as a whole, and nobody may be connected to it meanwhile"
    )


def _reindex(node: Any) -> WideReach | None:
    if node.kind not in _WHOLE or is_on(node.params, "concurrently"):
        return None
    return WideReach("reindex", f"REINDEX {_WHOLE[node.kind]} locks one table after the other while its writers wait")


_LOOKS: dict[type, Callable[[Any], WideReach | None]] = {
    ast.DropStmt: _drop,
    ast.RenameStmt: _renames,
    ast.AlterObjectSchemaStmt: _renames,
    ast.AlterEnumStmt: _renames,
    ast.DropOwnedStmt: _drop_owned,
    ast.DropdbStmt: _drop_database,
    ast.AlterTableMoveAllStmt: _move_all,
    ast.AlterDatabaseStmt: _database,
    ast.ReindexStmt: _reindex,
}
