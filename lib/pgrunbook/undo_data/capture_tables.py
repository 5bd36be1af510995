"""Capture of small tables as a whole, around a statement that does not show which rows it changes.

ON CONFLICT DO UPDATE, MERGE, TRUNCATE, COPY, code: the step locks the tables before it, and is executed as

1. Copy all rows into the side table for deleted ones. Nobody else can write to the tables until the transaction ends.
2. Execute the statement.
3. Rows that have other values now go into the side table for updated ones, new rows into the one for inserted ones.
   Copies of rows that are still there are deleted: what is left was deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

from pglast import ast
from pglast.parser import split
from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.database.facts import Facts
from pgrunbook.database.relations import Relation
from pgrunbook.display.prose import counted
from pgrunbook.plan.step import Keep
from pgrunbook.sql.deparse import parsed, text
from pgrunbook.sql.routines import bodies
from pgrunbook.sql.tree import walk
from pgrunbook.undo_data.cascades import SET_DEFAULT, SET_NULL, CannotCaptureError
from pgrunbook.undo_data.followers import obstacle
from pgrunbook.undo_data.registry import Side, StepKey, add_side_tables, name_of
from pgrunbook.undo_data.tables import CapturedTable, foreign_keys, hash_of, key_name, row, rows, table

# Of these types equal values are the same: a key of another type may be written anew, as 1.0 and 1.00, and be equal.
_EXACT = frozenset({
    "int8", "bool", "bytea", "varchar", "date", "int4", "int2", "text", "timestamptz", "timestamp", "uuid",
})  # fmt: skip
# Others wait while so many rows are copied: about a second.
MOST_ROWS = 50_000
_LOCKS = "LOCK TABLE "


def locking(conn: Connection, statement: str, keeps: Sequence[Keep], is_beyond: Callable[[Relation, int], bool]) -> str:
    """Return a statement behind the lock of the tables that it may change, which says that these are captured.

    ``is_beyond`` tells whether a table holds more rows than that. The lock is the one that the statement itself needs
    in the end: two that wait for a stronger one block each other.

    Raises CannotCaptureError where the tables cannot be captured.
    """
    found = []
    for keep in keeps:
        relation = Facts(conn).relation(parsed(f"TABLE {keep.table}").fromClause[0])
        if relation is None:
            raise CannotCaptureError(f"there is no table {keep.table}")
        reason = _obstacle(conn, relation, is_beyond)
        if reason:
            raise CannotCaptureError(reason)
        found.append(table(conn, relation.oid).source)
    node = parsed(split(statement)[0])
    empties = any(isinstance(part, ast.TruncateStmt) for each in (node, *bodies(node)) for part in walk(each))
    mode = "ACCESS EXCLUSIVE" if empties else "SHARE ROW EXCLUSIVE"
    locked = sql.SQL(_LOCKS + "{} IN {} MODE").format(sql.SQL(", ").join(found), sql.SQL(mode))
    return f"{text(locked)};\n{statement}"


def locked(statement: str) -> tuple[Sequence[Any], str] | None:
    """Return the tables that a step locks in order to capture them, and its statement; None for any other step."""
    if not statement.startswith(_LOCKS):
        return None
    lock, behind = statement.split(";\n", 1)
    return parsed(lock).relations, behind


def begin(conn: Connection, step: str, place: StepKey, *, keep_until: datetime | None = None) -> str:
    """Lock and copy the tables that a step names, in the open transaction; return what is to be executed.

    Its first result reports the rows of the written statement.
    """
    found = locked(step)
    if found is None:
        raise AssertionError("the step captures no whole tables")
    conn.execute(split(step)[0].encode())
    oids = [relation.oid for named in found[0] if (relation := Facts(conn).relation(named)) is not None]
    captures = [_TableCapture(place, table(conn, oid)) for oid in oids]
    ordered = list(_parents_first(conn, captures))
    # The last entry is reverted first: inserted rows go, children first; deleted rows come back, parents first, behind
    # changed ones, which may have their unique values, unless these refer to them.
    deleted = [each.deleted for each in reversed(ordered)]
    updated = [each.updated for each in ordered if each.updated.columns]
    inserted = [each.inserted for each in ordered]
    sides = [*updated, *deleted, *inserted] if _loses_parents(conn, ordered) else [*deleted, *updated, *inserted]
    add_side_tables(conn, place, sides, keep_until=keep_until)
    for each in ordered:
        conn.execute(each.copy())
    return ";\n".join([found[1], *(statement for each in ordered for statement in each.settle())])


def _loses_parents(conn: Connection, captures: Sequence[_TableCapture]) -> bool:
    """Tell whether a row that stays may lose the row that it refers to: a key sets NULL or a default."""
    oids = {each.table.oid for each in captures}
    keys = [key for oid in oids for key in foreign_keys(conn, oid) if key.oid in oids]
    return any({key.on_delete, key.on_update} & {SET_NULL, SET_DEFAULT} for key in keys)


def _obstacle(conn: Connection, relation: Relation, is_beyond: Callable[[Relation, int], bool]) -> str:
    if relation.kind not in "rp":
        return f"{relation.sql} is not a table"
    if relation.is_temporary:
        return f"{relation.sql} is temporary"
    if relation.inherits_down:
        return f"{relation.sql} has child tables, and no unique key spans them"
    found = table(conn, relation.oid)
    if not found.key:
        return f"{found.name} has no unique key that identifies its rows"
    if obstacle(found):
        return f"{found.name} {obstacle(found)}"
    if found.is_filtered:
        return f"row level security hides rows of {found.name} from this session"
    if not rows(conn, "may_lock", oid=relation.oid)[0]["may_lock"]:
        return f"this role may not lock {found.name}"
    taken = _TableCapture(StepKey("", "", "up", 0), found)
    for side in (taken.deleted, taken.updated):
        for name in side.own_names & {column.name for column in side.captured}:
            return f'column "{name}" of {found.name} has the name of a column of ours beside it'
    return f"{found.name} has more than {counted(MOST_ROWS, 'row')}" if is_beyond(relation, MOST_ROWS) else ""


class _TableCapture:
    """A table, and its three side tables."""

    def __init__(self, place: StepKey, captured: CapturedTable) -> None:
        self.table = captured
        others = tuple(column for column in captured.plain if column.name not in captured.key)
        values = tuple(
            column
            for column in captured.plain
            if not column.is_identity_always and not (column.name in captured.key and column.is_one_of(*_EXACT))
        )
        self.deleted = Side(name_of(place, "delete", captured.name), "delete", captured, others)
        self.updated = Side(name_of(place, "update", captured.name), "update", captured, values)
        self.inserted = Side(name_of(place, "insert", captured.name), "insert", captured, captured.plain)

    def copy(self) -> sql.Composed:
        return sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {} AS t").format(
            self.deleted.identifier, self.deleted.targets(), self.deleted.values(row("t"), None), self.table.source
        )

    def settle(self) -> Iterator[str]:
        """Yield the statements that divide the rows among the side tables."""
        source, copies, matches = self.table.source, self.deleted.identifier, self.table.matches("t", "k")
        if self.updated.columns:
            updated = (
                "INSERT INTO {} ({}) SELECT {} FROM {} AS t JOIN {} AS k ON {} WHERE {} OPERATOR(pg_catalog.<>) {}"
            )
            yield text(
                sql.SQL(updated).format(
                    self.updated.identifier, self.updated.targets(), self.updated.values(self._before, row("t")),
                    source, copies, matches, self._hash(row("t")), self._hash(self._before),
                )
            )  # fmt: skip
        yield text(
            sql.SQL(
                "INSERT INTO {} ({}) SELECT {} FROM {} AS t WHERE NOT EXISTS (SELECT FROM {} AS k WHERE {})"
            ).format(
                self.inserted.identifier, self.inserted.targets(), self.inserted.values(row("t"), row("t")),
                source, copies, matches,
            )
        )  # fmt: skip
        yield text(sql.SQL("DELETE FROM {} AS k USING {} AS t WHERE {}").format(copies, source, matches))

    def _before(self, name: str) -> sql.Composable:
        """Return a column of the row as it was copied."""
        stored = key_name(self.table.key.index(name)) if name in self.table.key else name
        return self.table.columns[name].reverted(sql.Identifier("k", stored))

    def _hash(self, values: Callable[[str], sql.Composable]) -> sql.Composable:
        columns = self.updated.columns
        return hash_of(columns, [values(column.name) for column in columns])


def _parents_first(conn: Connection, captures: Sequence[_TableCapture]) -> Iterator[_TableCapture]:
    """Yield tables before those whose foreign keys refer to them; of a circle, in the order given."""
    left = list(captures)
    refers = {each.table.oid: {key.oid for key in foreign_keys(conn, each.table.oid)} for each in left}
    while left:
        free = [
            each
            for each in left
            if not any(each.table.oid in refers[other.table.oid] for other in left if other is not each)
        ]
        for each in free or left[:1]:
            yield each
            left.remove(each)
