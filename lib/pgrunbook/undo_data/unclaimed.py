"""Captured values of a column that go to nobody, because it cannot be told which row is theirs.

Their partition was detached meanwhile, when no trigger saw what became of its rows, or the key of the table is gone.
"""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql
from psycopg.rows import tuple_row

from pgrunbook.database.connection import Connection
from pgrunbook.display.prose import counted
from pgrunbook.undo_data.capture_columns import VALUE
from pgrunbook.undo_data.registry import UndoEntry
from pgrunbook.undo_data.row_notes import GONE, PART, UNKNOWN, is_row, is_there
from pgrunbook.undo_data.tables import as_text, key_name, rows

SAMPLES = 20
_SHOWN_CHARS = 200


@dataclass(frozen=True)
class UnclaimedValues:
    """How many captured values of an entry go to nobody, and some of them, each as one line."""

    entry: UndoEntry
    values: int
    samples: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.values > 0

    @property
    def what(self) -> str:
        """The name of the column."""
        return f"{self.entry.table.schema}.{self.entry.table.name}.{self.entry.columns[0]}"

    @property
    def says(self) -> str:
        """One sentence for a note."""
        return (
            f"{counted(self.values, 'captured value')} of {self.what} "
            f"{'goes' if self.values == 1 else 'go'} to nobody, and can be read in pgrunbook.{self.entry.kept_as}: "
            "a partition was detached, or the key changed, so that nobody knows which rows are theirs."
        )


def unclaimed(conn: Connection, entry: UndoEntry) -> UnclaimedValues:
    """Return the captured values of a column that a revert gives to nobody, though nobody has deleted their row.

    Ask before the revert ends, for it drops the triggers.
    """
    columns = {one["name"] for one in rows(conn, "side_columns", kept_as=entry.side.as_string(None))}
    if GONE not in columns:
        return UnclaimedValues(entry, 0)
    part = sql.Identifier("k", PART) if PART in columns else None
    gone, value = sql.Identifier("k", GONE), sql.Identifier("k", VALUE)
    source = sql.SQL(
        "FROM {} AS k WHERE {} AND {} IS NOT NULL AND ({} = {} OR ({} IS NULL AND NOT {}))"
    ).format(
        entry.side, is_row("k", columns), value, gone, sql.Literal(UNKNOWN), gone,
        is_there(entry.kept_as, "k", columns, part=part),
    )  # fmt: skip
    keys = [as_text(sql.Identifier("k", key_name(number))) for number in range(len(entry.key))]
    shown = sql.SQL(", ").join([*keys, sql.SQL("pg_catalog.left({}, {})").format(as_text(value), _SHOWN_CHARS)])
    with conn.cursor(row_factory=tuple_row) as cursor:
        (count,) = cursor.execute(sql.SQL("SELECT pg_catalog.count(*) {}").format(source)).fetchone() or (0,)
        if not count:
            return UnclaimedValues(entry, 0)
        found = cursor.execute(sql.SQL("SELECT {} {} LIMIT {}").format(shown, source, SAMPLES)).fetchall()
    lines = [
        f"{', '.join(f'{name} {key}' for name, key in zip(entry.key, one, strict=False))}: {entry.columns[0]} {one[-1]}"
        for one in found
    ]
    return UnclaimedValues(entry, int(count), tuple(lines))
