"""A default that is dropped before a change of type and set again behind it, in statements of their own.

The change takes long beside the traffic, and rows that are inserted meanwhile would have no default. So the statements
are done as the one ALTER TABLE that has the same parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pglast import ast, enums

from pgrunbook.database.facts import Facts
from pgrunbook.sql.deparse import changed
from pgrunbook.sql.statements import Statement
from pgrunbook.sql.tree import tree

A = enums.AlterTableType


def read(facts: Facts, statements: Sequence[Statement]) -> Sequence[Statement]:
    """Return the statements from the first one on that change types and defaults of a table's columns, () for none."""
    first = tree(statements[0].sql)
    if not _is_one(first) or not any(map(_drops, first.cmds)):
        return ()
    table, length = facts.relation(first.relation), 0
    changes: set[str] = set()
    dropped: set[str] = set()
    for number, one in enumerate(statements, 1):
        node = tree(one.sql)
        if table is None or not _is_one(node) or facts.relation(node.relation) != table:
            break
        if node.relation.inh != first.relation.inh:  # ONLY one of them is about partitions, too
            break
        if not all(_taken(cmd, changes, dropped) for cmd in _ordered(node)):
            break
        length = number if changes and dropped <= changes else length
    return tuple(statements[:length]) if length > 1 else ()


def joined(statements: Sequence[Statement]) -> Any:
    """Return the one ALTER TABLE, as a tree."""
    nodes = [tree(one.sql) for one in statements]
    return changed(nodes[0], cmds=tuple(cmd for node in nodes for cmd in _ordered(node)))


def _is_one(node: Any) -> bool:
    is_table = isinstance(node, ast.AlterTableStmt) and node.objtype == enums.ObjectType.OBJECT_TABLE
    return is_table and all(cmd.subtype in (A.AT_AlterColumnType, A.AT_ColumnDefault) for cmd in node.cmds)


def _ordered(node: Any) -> list[Any]:
    """Return the subcommands in PostgreSQL's own order: defaults are set behind the types, and dropped before them."""
    return sorted(node.cmds, key=lambda cmd: (not _drops(cmd), cmd.subtype == A.AT_ColumnDefault))


def _drops(cmd: Any) -> bool:
    return bool(cmd.subtype == A.AT_ColumnDefault) and cmd.def_ is None


def _taken(cmd: Any, changes: set[str], dropped: set[str]) -> bool:
    """Take note of a subcommand; False where joining it with the others would do something else."""
    if cmd.subtype == A.AT_AlterColumnType:
        is_first = cmd.name not in changes
        changes.add(cmd.name)
        return is_first
    if cmd.def_ is None:
        dropped.add(cmd.name)
    return (cmd.def_ is None) != (cmd.name in changes)
