"""Captured values of a column that go to nobody.

Their row was deleted; or somebody has written a newer value since the type of the column changed, or while they were
reverted; or it cannot be told which row is theirs: their partition was detached meanwhile, when no trigger saw what
became of its rows, and they were written since the capture; or the key of the table is gone.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from psycopg import sql
from psycopg.rows import tuple_row

from pgrunbook.database.connection import Connection
from pgrunbook.display.prose import counted
from pgrunbook.undo_data.capture_columns import VALUE, is_written, record
from pgrunbook.undo_data.registry import UndoEntry, find
from pgrunbook.undo_data.row_notes import GONE, NEW, PART, UNKNOWN, WRITTEN, is_row, is_there, label_of
from pgrunbook.undo_data.tables import as_text, key_name, rows, table

SAMPLES = 20
_SHOWN_CHARS = 200
# The end of the label of a step that has deleted rows.
_OF_STEP = ":[0-9]+$"
_UNKNOWN = (
    "{} of rows that nobody knows, for a partition was detached and its rows were written, or the key was changed"
)


@dataclass(frozen=True)
class UnclaimedValues:
    """How many captured values of an entry go to nobody, and some of them, each as one line.

    The rows of ``deleted`` values are gone, those of ``written`` ones have newer values; of the others nobody knows the
    row.
    """

    entry: UndoEntry
    values: int
    samples: tuple[str, ...] = ()
    deleted: int = 0
    written: int = 0

    def __bool__(self) -> bool:
        return self.values > 0

    @property
    def what(self) -> str:
        """The name of the column."""
        return f"{self.entry.table.schema}.{self.entry.table.name}.{self.entry.columns[0]}"

    @property
    def says(self) -> str:
        """One sentence for a note."""
        unknown = self.values - self.deleted - self.written
        because = [f"{counted(self.deleted, 'row')} deleted since"] if self.deleted else []
        because += [f"{counted(self.written, 'row')} changed since, with newer values"] if self.written else []
        because += [_UNKNOWN.format(counted(unknown, "value"))] if unknown else []
        return (
            f"{counted(self.values, 'captured value')} of {self.what} "
            f"{'goes' if self.values == 1 else 'go'} to nobody, and can be read in pgrunbook.{self.entry.kept_as}: "
            f"{', and '.join(because)}."
        )


def unclaimed(
    conn: Connection, entry: UndoEntry, *, taken_back: Collection[str] = (), is_over: bool = False,
    has_new_type: bool = False,
) -> UnclaimedValues:  # fmt: skip
    """Return the captured values of a column that a revert gives to nobody.

    Ask before the revert ends, for it drops the triggers. Rows that steps of the migrations ``taken_back`` have
    deleted are there again by then. When it ``is_over``, a row that has its value has got it. Where the column still
    ``has_new_type``, that with which its values were captured, rows that were written since are told by it.
    Locks: AccessShareLock on the table.
    """
    columns = {one["name"] for one in rows(conn, "side_columns", kept_as=entry.side.as_string(None))}
    if GONE not in columns:
        return UnclaimedValues(entry, 0)
    part = sql.Identifier("k", PART) if PART in columns else None
    gone, value = sql.Identifier("k", GONE), sql.Identifier("k", VALUE)
    is_deleted = _is_deleted(gone, taken_back)
    is_newer = sql.SQL("(coalesce({} = {}, false) OR {})").format(
        gone, sql.Literal(WRITTEN), _is_written_now(conn, entry, columns) if has_new_type else sql.SQL("false")
    )
    source = sql.SQL(
        "FROM {} AS k WHERE {} AND {} IS NOT NULL AND ({} OR {} OR {} OR ({} IS NULL AND NOT {} AND NOT {}))"
    ).format(
        entry.side, is_row("k", columns), value, is_deleted, _is_nobodys(gone), is_newer, gone,
        is_there(entry.kept_as, "k", columns, part=part),
        _has_row(conn, entry, columns, is_over=is_over),
    )  # fmt: skip
    keys = [as_text(sql.Identifier("k", key_name(number))) for number in range(len(entry.key))]
    shown = sql.SQL(", ").join([*keys, sql.SQL("pg_catalog.left({}, {})").format(as_text(value), _SHOWN_CHARS)])
    counts = sql.SQL(
        "SELECT pg_catalog.count(*), pg_catalog.count(*) FILTER (WHERE {}), pg_catalog.count(*) FILTER (WHERE {}) {}"
    ).format(is_deleted, is_newer, source)
    with conn.cursor(row_factory=tuple_row) as cursor:
        count, deleted, written = cursor.execute(counts).fetchone() or (0, 0, 0)
        if not count:
            return UnclaimedValues(entry, 0)
        found = cursor.execute(sql.SQL("SELECT {} {} LIMIT {}").format(shown, source, SAMPLES)).fetchall()
    lines = [
        f"{', '.join(f'{name} {key}' for name, key in zip(entry.key, one, strict=False))}: {entry.columns[0]} {one[-1]}"
        for one in found
    ]
    return UnclaimedValues(entry, int(count), tuple(lines), int(deleted), int(written))


def gone_to_nobody(conn: Connection, migrations: Collection[str], direction: str) -> list[tuple[UndoEntry, int]]:
    """Return the reverted or reapplied columns some of whose values went to nobody, with how many.

    Locks: AccessShareLock on what is captured.
    """
    found = []
    for one in find(conn, states=["given back"]):
        if one.kind == "column" and one.direction == direction and one.migration in migrations:
            query = sql.SQL("SELECT pg_catalog.count(*) FROM {}").format(one.side)
            (count,) = conn.execute(query).fetchone() or (0,)
            found += [(one, int(str(count)) - one.rows_given_back)]
    return [(one, left) for one, left in found if left > 0]


def _is_deleted(gone: sql.Composable, taken_back: Collection[str]) -> sql.Composable:
    """Return the condition that somebody has deleted the row, or a step whose way back does not bring it again."""
    by_step = sql.SQL("({0} ~ {1} AND pg_catalog.regexp_replace({0}, {1}, '') <> ALL (CAST({2} AS pg_catalog.text[])))")
    return sql.SQL("({} ~ '^[0-9]+$' OR {})").format(
        gone, by_step.format(gone, sql.Literal(_OF_STEP), sql.Literal(list(taken_back)))
    )


def _is_nobodys(gone: sql.Composable) -> sql.Composable:
    """Return the condition that nobody knows the row: it went when we deleted what a migration had inserted.

    What is inserted has no captured value: a statement whose table was captured as a whole has changed its key.
    """
    return sql.SQL("({0} = {1} OR pg_catalog.right({0}, {2}) = {3})").format(
        gone, sql.Literal(UNKNOWN), sql.Literal(len(label_of(""))), sql.Literal(label_of(""))
    )


def _is_written_now(conn: Connection, entry: UndoEntry, columns: Collection[str]) -> sql.Composable:
    """Return the condition that the row of a captured value does not hold what the change of type made of it."""
    there = rows(conn, "oid_of", schema=entry.table.schema, name=entry.table.name)
    found = table(conn, there[0]["oid"]).keyed(entry.key) if there and NEW in columns else None
    if found is None or entry.columns[0] not in found.columns:
        return sql.SQL("false")
    part, version = sql.Identifier("t", "tableoid"), sql.Identifier("t", "xmin")
    return sql.SQL("EXISTS (SELECT FROM {} AS t WHERE {} AND {} AND {})").format(
        found.source, found.matches("t", "k"), is_there(entry.kept_as, "k", columns, part=part, version=version),
        is_written("t", entry.columns[0], "k"),
    )  # fmt: skip


def _has_row(conn: Connection, entry: UndoEntry, columns: Collection[str], *, is_over: bool) -> sql.Composable:
    """Return the condition that the row of a captured value is known, though its partition was detached meanwhile."""
    there = rows(conn, "oid_of", schema=entry.table.schema, name=entry.table.name)
    found = table(conn, there[0]["oid"]).keyed(entry.key) if there and PART in columns else None
    if found is None:
        return sql.SQL("false")
    part, version = sql.Identifier("t", "tableoid"), sql.Identifier("t", "xmin")
    its = is_there(entry.kept_as, "k", columns, part=part, version=version)
    column = found.columns.get(entry.columns[0])
    if is_over and column is not None:
        now, then = sql.Identifier("t", column.name), column.reverted(sql.Identifier("k", VALUE))
        its = sql.SQL("{} OPERATOR(pg_catalog.*=) {}").format(record(now), record(column.in_own_type(then)))
    return sql.SQL("EXISTS (SELECT FROM {} AS t WHERE {} AND {})").format(found.source, found.matches("t", "k"), its)
