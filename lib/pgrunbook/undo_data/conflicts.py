"""Rows that somebody has changed since their step, for a person to decide: what was, what was written, what is now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from psycopg import sql
from psycopg.rows import tuple_row

from pgrunbook.database import connection
from pgrunbook.database.checksums import TableName
from pgrunbook.database.connection import Connection
from pgrunbook.undo_data.comparison import Comparison, compared
from pgrunbook.undo_data.registry import ROWS, STATES, UndoEntry, find, of_migration
from pgrunbook.undo_data.tables import Column, as_text, key_name, rows, written_name

SAMPLES = 20
LOCK_TIMEOUT_MS = 2_000
CHECK_TIMEOUT_MS = 3_600_000
_SHOWN_CHARS = 200

Values = Mapping[str, str | None]
Way = Literal["changed", "deleted", "made again", "referred to", "displaced"]


@dataclass(frozen=True)
class Conflict:
    """A row that cannot be given back without a decision.

    ``displaced`` is a deleted row whose unique value another row has now; ``referred to`` a new row to which rows of
    another table refer. Of ``before``, ``wrote`` and ``now``, each has the kept columns as text, cut to 200
    characters (100 for ``wrote``); None says that there was no such row, a column that is missing in ``wrote`` that
    only the hash of what was written is kept.
    """

    table: TableName
    way: Way
    key: Values
    before: Values | None
    wrote: Values | None
    now: Values | None

    def line(self) -> str:
        """Return it as one line."""
        key = ", ".join(f"{name} {value}" for name, value in self.key.items())
        parts = [f"{says} {_shown(values)}" for says, values in
                 (("before", self.before), ("wrote", self.wrote), ("now", self.now))]  # fmt: skip
        return f"{self.table} ({key}) {self.way}: {'; '.join(parts)}"


@dataclass(frozen=True)
class Conflicts:
    """How many rows are in conflict, and some of them."""

    rows: int
    samples: tuple[Conflict, ...]

    def __bool__(self) -> bool:
        return self.rows > 0

    def __add__(self, other: Conflicts) -> Conflicts:
        return Conflicts(self.rows + other.rows, (self.samples + other.samples)[:SAMPLES])


def conflicts(conn: Connection, kept: UndoEntry, *, samples: int = SAMPLES) -> Conflicts:
    """Return the rows that somebody has changed, deleted or made again since, over all tables that a DELETE reached.

    Of an UPDATE only the kept columns count; rows that a later step of the migration changed again count there.
    A row that is as it was before the step is no conflict: nothing is left to decide. Where giving back has begun,
    only what is left of it counts.

    Raises Broken when the table or its columns are not there any more, Refused when row level security hides rows.
    Locks: AccessShareLock on the tables.
    """
    found = Conflicts(0, ())
    for part in family(conn, kept):
        found += _of_one(conn, part, samples=samples)
    return found


def family(conn: Connection, kept: UndoEntry) -> list[UndoEntry]:
    """Return a thing as the list has it now, and behind it what its DELETE reached, parents first."""
    return find(conn, ids=[kept.id], states=STATES)


def later(conn: Connection, kept: UndoEntry) -> list[UndoEntry]:
    """Return what is kept of later steps of the migration that may have changed the same values again."""
    return [
        one
        for one in of_migration(conn, kept.migration, kept.direction)
        if one.kind in ROWS
        and one.step > kept.step
        and one.table == kept.table
        and ({one.kind, kept.kind} != {"update"} or {*kept.columns, *kept.key} & {*one.columns})
    ]


def left_of(conn: Connection, kept: UndoEntry, *, given_back: int) -> Conflicts:
    """Return the rows that giving back one thing has left as they are; all are compared where it was not all."""
    whole = conn.execute(sql.SQL("SELECT pg_catalog.count(*) FROM {}").format(kept.side)).fetchone()
    if whole == (given_back,):
        return Conflicts(0, ())
    return _of_one(conn, kept, samples=SAMPLES, is_over=True)


def _of_one(conn: Connection, kept: UndoEntry, *, samples: int, is_over: bool = False) -> Conflicts:
    both = compared(conn, kept)
    join, condition = _condition(both, is_over)
    written = {one["name"] for one in rows(conn, "side_columns", kept_as=kept.side.as_string(None))}
    stored = [] if kept.kind != "update" else [
        (column, written_name(number)) for number, column in enumerate(both.columns) if written_name(number) in written
    ]  # fmt: skip
    source = sql.SQL("FROM {} AS k {} JOIN {} AS t ON {} WHERE {}").format(
        kept.side, sql.SQL(join), both.table.source, both.matches, condition
    )
    with conn.transaction():
        connection.limit_locally(conn, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=CHECK_TIMEOUT_MS)
        conn.execute("SET LOCAL DateStyle = ISO; SET LOCAL jit = off")
        query = sql.SQL("SELECT {} {} LIMIT {}").format(_shown_columns(both, stored), source, sql.Literal(samples))
        cursor = conn.cursor(row_factory=tuple_row)
        shown = [_conflict(both, one, [column.name for column, _ in stored]) for one in cursor.execute(query)]
        if len(shown) < samples:
            return Conflicts(len(shown), tuple(shown))
        counted = cursor.execute(sql.SQL("SELECT pg_catalog.count(*) {}").format(source)).fetchone()
    return Conflicts(int(counted[0]) if counted else 0, tuple(shown))


def _condition(both: Comparison, is_over: bool) -> tuple[str, sql.Composable]:
    """Return how the row that is there is joined, and when it is in conflict."""
    kept = both.kept
    differs = sql.SQL("{} <> {}").format(both.hash_now, both.hash_before)
    join, condition = "", sql.SQL("(NOT ({}) OR {})").format(both.is_untouched, both.is_referred_to)
    if kept.kind == "update":
        join = "LEFT"
        condition = sql.SQL("CASE WHEN {} THEN NOT {} ELSE NOT ({}) AND {} END").format(
            both.is_gone, both.is_back, both.is_untouched, differs
        )
    elif kept.kind == "delete":
        join = "LEFT" if is_over else ""
        condition = sql.SQL("({} OR {})").format(both.is_gone, differs)
    if kept.pages_left is not None and not is_over:
        end = sql.Literal(f"({kept.pages_left},0)")
        condition = sql.SQL("{} AND k.ctid < {}::pg_catalog.tid").format(condition, end)
    elsewhere = [] if is_over else [*_deleted_with_it(both), *later(both.conn, kept)]
    return join, sql.SQL(" AND ").join([condition, *(_is_not_in(kept, one) for one in elsewhere)])


def _deleted_with_it(both: Comparison) -> list[UndoEntry]:
    """Return where the same DELETE keeps rows of the table that lost a reference first, and went later."""
    kept = both.kept
    if kept.part_of is None or kept.kind != "update":
        return []
    whole = find(both.conn, ids=[kept.part_of], states=STATES)
    return [one for one in whole if one.kind == "delete" and one.table == kept.table]


def _is_not_in(kept: UndoEntry, other: UndoEntry) -> sql.Composable:
    """Whether another side table does not hold the row; it knows the row by the key that it had before."""
    changes_key = other.kind == "update"
    pairs = [
        sql.SQL("g.{} = k.{}").format(
            sql.Identifier(name if changes_key and name in other.columns else key_name(number)),
            sql.Identifier(key_name(kept.key.index(name))),
        )
        for number, name in enumerate(other.key)
        if name in kept.key
    ]
    return sql.SQL("NOT EXISTS (SELECT FROM {} AS g WHERE {})").format(other.side, sql.SQL(" AND ").join(pairs))


def _shown_columns(both: Comparison, stored: Sequence[tuple[Column, str]]) -> sql.Composable:
    keys = [sql.Identifier("k", key_name(number)) for number in range(len(both.kept.key))]
    before = [] if both.kept.kind == "insert" else [sql.Identifier("k", column.name) for column in both.columns]
    wrote = [sql.Identifier("k", name) for _, name in stored]
    now = [sql.Identifier("t", column.name) for column in both.columns]
    texts = [
        sql.SQL("pg_catalog.left({}, {})").format(as_text(value), sql.Literal(_SHOWN_CHARS))
        for value in (*keys, *before, *wrote, *now)
    ]
    is_referred_to = both.is_referred_to if both.kept.kind == "insert" else sql.SQL("false")
    return sql.SQL(", ").join([*texts, both.is_gone, is_referred_to])


def _conflict(both: Comparison, found: Sequence[Any], written: Sequence[str]) -> Conflict:
    kept, values = both.kept, iter(found)
    key = {name: next(values) for name in kept.key}
    before = None if kept.kind == "insert" else {name: next(values) for name in kept.columns}
    wrote = {name: next(values) for name in written}
    now: Values | None = {name: next(values) for name in kept.columns}
    is_gone, is_referred_to = next(values), next(values)
    way: Way = "changed"
    if is_gone:
        way, now = "displaced" if kept.kind == "delete" else "deleted", None
    elif is_referred_to:
        way = "referred to"
    elif kept.kind == "delete":
        way = "made again"
    return Conflict(kept.table, way, key, before, None if kept.kind == "delete" else wrote, now)


def _shown(values: Values | None) -> str:
    if values is None:
        return "no row"
    if not values:
        return "(only its hash is kept)"
    return ", ".join(f"{name} {'NULL' if value is None else value!r}" for name, value in values.items())
