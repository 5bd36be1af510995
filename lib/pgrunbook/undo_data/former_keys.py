"""The keys that tables had last: a migration may change rows between DROP and ADD of a key, when no index watches it.

Rows are then captured by the old key. The statement that captures locks out writers, and sees that no two rows have
the same key (``watch``); from then on, what was captured of a row whose key another one gets is noted as unknown
(``follower_body``). The way back makes an index on the old key while it reverts the rows (``helper_index``). Used by
the draft of a release.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pglast import ast, enums
from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.database.facts import Facts
from pgrunbook.database.relations import Relation
from pgrunbook.plan.step import Keep
from pgrunbook.sql.deparse import parsed, text
from pgrunbook.sql.do_branches import unfolded
from pgrunbook.sql.own_code import do
from pgrunbook.sql.tree import dotted_name, strings
from pgrunbook.undo_data.tables import CapturedTable, keyed_without_index, table


class FormerKeys:
    """The key that each table had before the statements of one migration, by the numbers of its columns."""

    def __init__(self) -> None:
        self._numbers: dict[int, tuple[int, ...]] = {}

    def note(self, conn: Connection, node: Any) -> None:
        """Note the key of a table that a statement may take it from; call it before the statement is executed."""
        for part in unfolded(node):
            for oid in _reached(Facts(conn), part):
                found = table(conn, oid)
                if found.key and not found.is_key_deferrable:
                    self._numbers[oid] = tuple(column.number for column in found.named(found.key))

    def named(self, conn: Connection, keeps: Sequence[Keep]) -> tuple[Keep, ...]:
        """Return what is to be captured with the old key of tables that have none now."""
        return tuple(keep if keep.kind == "table" else self._named(conn, keep) for keep in keeps)

    def _named(self, conn: Connection, keep: Keep) -> Keep:
        relation = _relation(conn, keep)
        numbers = self._numbers.get(relation.oid) if relation is not None else None
        if relation is None or numbers is None or table(conn, relation.oid).key:
            return keep
        by_number = {column.number: column.name for column in Facts(conn).columns(relation).values()}
        if not by_number.keys() >= {*numbers}:
            return keep
        return replace(keep, key=tuple(by_number[number] for number in numbers))


def formerly_keyed(conn: Connection, found: CapturedTable, keeps: Sequence[Keep]) -> CapturedTable:
    """Return a table that has no key with the old one that ``keeps`` name; without that, as it is."""
    for keep in keeps:
        relation = _relation(conn, keep) if keep.key else None
        if relation is not None and relation.oid == found.oid and {*keep.key} <= found.columns.keys():
            there = keyed_without_index(conn, found, keep.key)
            if there is not None and all(column.not_null for column in there.named(keep.key)):
                return replace(there, is_key_former=True)
    return found


def watch(found: CapturedTable) -> list[str]:
    """Return the statements that lock out writers, and see that each row has an old key of its own.

    Locks: ShareRowExclusiveLock on the table.
    """
    locked = sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(found.source)
    return [text(locked), see_apart(found)]


def see_apart(found: CapturedTable) -> str:
    """Return the statement that fails where two rows have the same key."""
    names = sql.SQL(", ").join(sql.Identifier(name) for name in found.key)
    columns = ", ".join(found.key)
    told = f"rows of {dotted_name(*found.name)} have the same {columns}: nobody knows which captured values are theirs"
    seen = sql.SQL(
        "BEGIN IF EXISTS (SELECT FROM {} AS t GROUP BY {} HAVING pg_catalog.count(*) > 1)"
        " THEN RAISE unique_violation USING MESSAGE = {}; END IF; END"
    ).format(found.source, names, sql.Literal(told))
    return text(do(seen))


def helper_index(conn: Connection, keep: Keep) -> tuple[str, str] | None:
    """Return the statements that create and drop the index by which rows of an old key are reverted.

    None where an index watches the key, or there is no such table.
    """
    relation = _relation(conn, keep) if keep.key else None
    if relation is None or (found := table(conn, relation.oid)).keyed(keep.key) is not None:
        return None
    if not {*keep.key} <= found.columns.keys():
        return None
    name = "pgrunbook_key_" + hashlib.sha256("\0".join((keep.table, *keep.key)).encode()).hexdigest()[:16]
    made = sql.SQL("CREATE UNIQUE INDEX {} ON {} ({})").format(
        sql.Identifier(name), found.name.identifier(), sql.SQL(", ").join(map(sql.Identifier, keep.key))
    )
    return text(made), text(sql.SQL("DROP INDEX {}").format(sql.Identifier(found.name.schema, name)))


def _relation(conn: Connection, keep: Keep) -> Relation | None:
    return Facts(conn).relation(parsed(f"TABLE {keep.table}").fromClause[0])


def _reached(facts: Facts, node: Any) -> list[int]:
    if isinstance(node, ast.AlterTableStmt) and node.objtype == enums.ObjectType.OBJECT_TABLE:
        relation = facts.relation(node.relation)
        return [] if relation is None or relation.kind not in "rp" else [relation.oid]
    if isinstance(node, ast.DropStmt) and node.removeType == enums.ObjectType.OBJECT_INDEX:
        return [index.relation for names in node.objects if (index := facts.index(strings(names))) is not None]
    return []
