"""Conflicts: rows that somebody has changed since the step. A person decides; notebook rollback shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from psycopg import sql
from psycopg.rows import tuple_row

from pgrunbook.database import connection, inverse_log
from pgrunbook.database.checksums import TableName
from pgrunbook.database.connection import Connection
from pgrunbook.display.prose import listed
from pgrunbook.undo_data.comparison import Comparison, compare
from pgrunbook.undo_data.displaced import is_displaced
from pgrunbook.undo_data.registry import ROWS, STATES, UndoEntry, entries_of_migration, find
from pgrunbook.undo_data.row_notes import GONE, is_row, label_of
from pgrunbook.undo_data.tables import CapturedColumn, as_text, key_name, written_name

SAMPLES = 20
# The most rows that an error shows, and the longest of its lines.
MOST_LINES = 5
LINE_CHARS = 200
LOCK_TIMEOUT_MS = 2_000
CHECK_TIMEOUT_MS = 3_600_000
_SHOWN_CHARS = 200
# Of a value, so many characters are read; rows at a time.
VALUE_CHARS = 10_000
_FETCHED_ROWS = 100

Values = Mapping[str, str | None]
Way = Literal["changed", "deleted", "made again", "referred to", "displaced", "not to be told"]


@dataclass(frozen=True)
class Conflict:
    """A row that cannot be reverted without a decision.

    ``not to be told`` is a captured row of which nobody knows whether the row that has its key now is the same; or an
    inserted one of which nobody knows whether it has another key now.
    ``displaced`` is a row whose unique value another row has now, or whose parent is gone; ``referred to`` an inserted
    row to which rows of another table refer. ``before``, ``wrote`` and ``now`` hold the captured columns as text, cut
    to 10,000 characters (100 for ``wrote``); None means that there was no row. Of a column that is missing in
    ``wrote``, only the hash of the written value is captured. ``by`` is the place of the statement that changed the
    row, and would give back ``before``.
    """

    table: TableName
    way: Way
    key: Values
    before: Values | None
    wrote: Values | None
    now: Values | None
    by: str = ""

    def line(self) -> str:
        """Return it as one line; of a value 200 characters are shown."""
        since = f" since {self.by}" if self.by else ""
        key = ", ".join(f"{name} {value and value[:_SHOWN_CHARS]}" for name, value in self.key.items())
        parts = [f"{says} {_shown(values)}" for says, values in
                 (("before", self.before), ("wrote", self.wrote), ("now", self.now))]  # fmt: skip
        parts[2] = "now not known" if self.way == "not to be told" else parts[2]
        return f"{self.table} ({key}) {self.way}{since}: {'; '.join(parts)}"


EachConflict = Callable[[Conflict], None]


@dataclass(frozen=True)
class Conflicts:
    """How many rows are in conflict, and some of them."""

    rows: int
    samples: tuple[Conflict, ...]

    def __bool__(self) -> bool:
        return self.rows > 0

    def lines(self, most: int = MOST_LINES) -> str:
        """Return so many of the rows for the detail of an error, one per line, and how many more there are."""
        shown = [line if len(line) <= LINE_CHARS else f"{line[: LINE_CHARS - 3]}..."
                 for line in (conflict.line() for conflict in self.samples[:most])]  # fmt: skip
        if self.rows == 1:
            return "".join(shown)
        more = [f"and {self.rows - len(shown):,} more"] if self.rows > len(shown) else []
        return "".join(f"\n  {line}" for line in (*shown, *more))

    def __add__(self, other: Conflicts) -> Conflicts:
        return Conflicts(self.rows + other.rows, (self.samples + other.samples)[:SAMPLES])


def conflicts(
    conn: Connection, entry: UndoEntry, *, samples: int = SAMPLES, before: Sequence[UndoEntry] = (),
    each: EachConflict | None = None,
) -> Conflicts:  # fmt: skip
    """Return the rows that somebody has changed, deleted or inserted again since, in all tables a DELETE reached.

    Of an UPDATE only the captured columns count. Judged is the moment at which the entry is taken back: after
    ``before``, in this order, and after the later steps of its migration and the later entries of its step. A row that
    is already as before the step is no conflict. Where the revert has begun, only rows that it has not reached count.
    ``each`` gets every one, as they are read; only samples stay in memory.

    Raises Broken when the table or its columns no longer exist, Refused when row level security hides rows.
    Locks: AccessShareLock on the tables.
    """
    found = Conflicts(0, ())
    same = entries_of_migration(conn, entry.migration, entry.direction, steps=[entry.step])
    later = [*before, *entries_of_migration(conn, entry.migration, entry.direction, after=entry.step)]
    later += [one for one in same if one.part_of is None and one.id > (entry.part_of or entry.id)]
    for part in family(conn, entry):
        found += _of_one(conn, part, samples=samples, later=later, each=each)
    return found


def family(conn: Connection, entry: UndoEntry) -> list[UndoEntry]:
    """Return an entry as it is stored now, followed by the entries its DELETE cascaded into, parents first."""
    return find(conn, ids=[entry.id], states=STATES)


def later(conn: Connection, entry: UndoEntry) -> list[UndoEntry]:
    """Return the entries of later steps of the migration that may have changed the same values again."""
    return [
        one
        for one in entries_of_migration(conn, entry.migration, entry.direction, after=entry.step)
        if one.kind in ROWS
        and one.table == entry.table
        and ({one.kind, entry.kind} != {"update"} or {*entry.columns, *entry.key} & {*one.columns})
    ]


def left_of(conn: Connection, entry: UndoEntry, *, reverted: int | None, each: EachConflict | None = None) -> Conflicts:
    """Return the rows that the revert of one entry left unchanged; all are compared unless all were reverted.

    ``each`` as for :func:`conflicts`.
    """
    whole = conn.execute(sql.SQL("SELECT pg_catalog.count(*) FROM {}").format(entry.side)).fetchone()
    if whole == (reverted,):
        return Conflicts(0, ())
    return _of_one(conn, entry, samples=SAMPLES, is_over=True, each=each)


def _of_one(
    conn: Connection, entry: UndoEntry, *, samples: int, is_over: bool = False, later: Sequence[UndoEntry] = (),
    each: EachConflict | None = None,
) -> Conflicts:  # fmt: skip
    both = compare(conn, entry, later)
    condition = _condition(both, is_over)
    named = [(column, written_name(number)) for number, column in enumerate(both.columns)]
    stored = [each for each in named if entry.kind == "update" and each[1] in both.side_columns]
    source = sql.SQL("FROM {} AS k LEFT JOIN {} AS t ON {} WHERE {}").format(
        entry.side, both.source, both.matches, condition
    )
    with conn.transaction():
        connection.limit_locally(conn, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=CHECK_TIMEOUT_MS)
        conn.execute("SET LOCAL DateStyle = ISO; SET LOCAL jit = off; SET LOCAL cursor_tuple_fraction = 1")
        query = sql.SQL("SELECT {} {}").format(_shown_columns(both, stored), source)
        written, by = [column.name for column, _ in stored], _place(conn, entry)
        if each is not None:
            rows, shown = 0, list[Conflict]()
            for conflict in (_conflict(both, one, written, by) for one in _fetched(conn, query)):
                each(conflict)
                rows += 1
                shown += [conflict] if len(shown) < samples else []
            return Conflicts(rows, tuple(shown))
        cursor = conn.cursor(row_factory=tuple_row)
        first = cursor.execute(sql.SQL("{} LIMIT {}").format(query, sql.Literal(samples)))
        shown = [_conflict(both, one, written, by) for one in first]
        if len(shown) < samples:
            return Conflicts(len(shown), tuple(shown))
        counted = cursor.execute(sql.SQL("SELECT pg_catalog.count(*) {}").format(source)).fetchone()
    return Conflicts(int(counted[0]) if counted else 0, tuple(shown))


def _place(conn: Connection, entry: UndoEntry) -> str:
    """Return the place of the statement that an entry is of, the migration where nobody has recorded it."""
    ways = inverse_log.read(conn, entry.migration)
    found = [str(way.place) for way in ways if way.run_id == entry.run_id and entry.step in way.steps]
    return listed(found) if found else entry.migration


def _fetched(conn: Connection, query: sql.Composed) -> Iterator[Sequence[Any]]:
    """Yield the rows of a query, of which only a few are in memory at a time."""
    with conn.cursor(name="pgrunbook_conflicts", row_factory=tuple_row) as cursor:
        cursor.itersize = _FETCHED_ROWS
        yield from cursor.execute(query)


def _condition(both: Comparison, is_over: bool) -> sql.Composable:
    """Return the condition that a captured row, joined with the row of today, is in conflict."""
    entry = both.entry
    differs = sql.SQL("{} <> {}").format(both.hash_now, both.hash_before)
    if entry.kind == "insert":
        condition = sql.SQL("CASE WHEN {} THEN {} ELSE NOT ({}) OR {} END").format(
            both.is_gone, both.is_unidentified, both.is_untouched, both.is_referred_to
        )
    else:
        refused = sql.SQL("true") if is_over else is_displaced(both, family(both.conn, entry))
        condition = sql.SQL("CASE WHEN {} THEN {} ELSE {} END").format(both.is_gone, refused, differs)
    if entry.kind == "update":
        # Behind the revert, what nobody has changed and is not as before was refused by the server.
        stays = sql.SQL("true") if is_over else sql.SQL("(NOT ({}) OR {})").format(both.is_untouched, refused)
        changed = sql.SQL("{} AND {}").format(differs, stays)
        condition = sql.SQL("CASE WHEN {} THEN NOT {} ELSE {} END").format(both.is_gone, both.is_back, changed)
    if entry.pages_left is not None and not is_over:
        end = sql.Literal(f"({entry.pages_left},0)")
        condition = sql.SQL("{} AND k.ctid < {}::pg_catalog.tid").format(condition, end)
    elsewhere = [] if is_over else _deleted_with_it(both)
    again = [one for one in both.later if one.kind in ("update", "delete") and one.table == entry.table]
    counts = [sql.SQL("(NOT {} OR {})").format(both.is_gone, _is_not_told_by(both, one)) for one in again]
    return sql.SQL(" AND ").join(
        [is_row("k", both.side_columns), condition, *(_is_not_in(entry, one) for one in elsewhere), *counts]
    )


def _deleted_with_it(both: Comparison) -> list[UndoEntry]:
    """Return the entries in which the same DELETE captured rows of the table that it first set NULL."""
    entry = both.entry
    if entry.part_of is None or entry.kind != "update":
        return []
    whole = find(both.conn, ids=[entry.part_of], states=STATES)
    return [one for one in whole if one.kind == "delete" and one.table == entry.table]


def _is_not_told_by(both: Comparison, other: UndoEntry) -> sql.Composable:
    """The condition that a row which is not there is no conflict of a later step, which is taken back before.

    Of rows that the other step has deleted, somebody has made those again that are not there.
    """
    if other.kind == "delete" and GONE in both.side_columns:
        label = sql.Literal(label_of(other.migration, other.step))
        return sql.SQL("{} IS DISTINCT FROM {}").format(sql.Identifier("k", GONE), label)
    return _is_not_in(both.entry, other)


def _is_not_in(entry: UndoEntry, other: UndoEntry) -> sql.Composable:
    """The condition that another side table does not hold the row, which it knows by the old key."""
    changes_key = other.kind == "update"
    pairs = [
        sql.SQL("g.{} = k.{}").format(
            sql.Identifier(name if changes_key and name in other.columns else key_name(number)),
            sql.Identifier(key_name(entry.key.index(name))),
        )
        for number, name in enumerate(other.key)
        if name in entry.key
    ]
    return sql.SQL("NOT EXISTS (SELECT FROM {} AS g WHERE {})").format(other.side, sql.SQL(" AND ").join(pairs))


def _shown_columns(both: Comparison, stored: Sequence[tuple[CapturedColumn, str]]) -> sql.Composable:
    keys = [sql.Identifier("k", key_name(number)) for number in range(len(both.entry.key))]
    before = [] if both.entry.kind == "insert" else [sql.Identifier("k", column.name) for column in both.columns]
    wrote = [sql.Identifier("k", name) for _, name in stored]
    now = [sql.Identifier("t", column.name) for column in both.columns]
    texts = [
        sql.SQL("pg_catalog.left({}, {})").format(as_text(value), sql.Literal(VALUE_CHARS))
        for value in (*keys, *before, *wrote, *now)
    ]
    is_referred_to = both.is_referred_to if both.entry.kind == "insert" else sql.SQL("false")
    is_refused = both.is_untouched if both.entry.kind == "update" else sql.SQL("false")
    return sql.SQL(", ").join([*texts, both.is_gone, is_referred_to, is_refused, both.is_unidentified])


def _conflict(both: Comparison, found: Sequence[Any], written: Sequence[str], by: str) -> Conflict:
    entry, values = both.entry, iter(found)
    key = {name: next(values) for name in entry.key}
    before = None if entry.kind == "insert" else {name: next(values) for name in entry.columns}
    wrote = {name: next(values) for name in written}
    now: Values | None = {name: next(values) for name in entry.columns}
    is_gone, is_referred_to, is_refused, is_unidentified = values
    way: Way = "changed"
    if is_gone:
        way, now = "displaced" if entry.kind == "delete" else "deleted", None
        way = "not to be told" if is_unidentified else way
    elif is_referred_to:
        way = "referred to"
    elif is_refused:
        way = "displaced"
    elif entry.kind == "delete":
        way = "made again"
    return Conflict(entry.table, way, key, before, None if entry.kind == "delete" else wrote, now, by)


def _shown(values: Values | None) -> str:
    if values is None:
        return "no row"
    if not values:
        return "(only its hash was captured)"
    return ", ".join(
        f"{name} {'NULL' if value is None else repr(value[:_SHOWN_CHARS])}" for name, value in values.items()
    )
