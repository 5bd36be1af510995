"""How what is kept is shown: the list of it, on the command line and in notebooks/purge.ipynb."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from psycopg import errors as pg
from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.display.show import BAD, GOOD, PLAIN, QUIET, WARN, Cell, Table
from pgrunbook.display.units import human
from pgrunbook.undo_data import UndoEntry

WORDS = {
    "update": "rows updated", "delete": "rows deleted", "insert": "rows inserted", "column": "column", "table": "table",
}  # fmt: skip
TONES = {"kept": GOOD, "giving back": WARN, "given back": QUIET, "purged": BAD}
NOTHING = "Nothing is kept in this database."
HEADINGS = ["id", "of", "run", "step", "what", "table", "rows", "size", "made at", "kept until", "state"]
# A side table that the server has not counted yet is counted up to this size: that takes 0.1 s.
COUNTED_UP_TO_BYTES = 16_000_000


def table(conn: Connection, found: Sequence[UndoEntry]) -> Table:
    """Return one row per thing that is kept, in the order given."""
    rows = [
        (
            kept.id,
            of(kept),
            kept.run_id,
            kept.step,
            what(kept),
            plain(kept),
            rows_of(conn, kept),
            human(kept.bytes),
            moment(kept.made_at),
            until(kept),
            state(kept),
        )
        for kept in found
    ]
    return Table(HEADINGS, rows, empty=NOTHING)


def facts(kept: UndoEntry) -> Mapping[str, object]:
    """Return a thing for JSON: times in ISO 8601, sizes in bytes, null for what is not known."""
    return {
        "id": kept.id,
        "part_of": kept.part_of,
        "migration": kept.migration,
        "direction": kept.direction,
        "run_id": kept.run_id,
        "step": kept.step,
        "kind": kept.kind,
        "schema": kept.table.schema,
        "table": kept.table.name,
        "columns": list(kept.columns),
        "kept_as": kept.kept_as,
        "rows_estimate": None if kept.rows_estimate < 0 else kept.rows_estimate,
        "rows_given_back": kept.rows_given_back,
        "bytes": kept.bytes,
        "made_at": kept.made_at.isoformat(),
        "keep_until": kept.keep_until.isoformat() if kept.keep_until else None,
        "state": kept.state,
    }


def of(kept: UndoEntry) -> str:
    """Return the migration of which it is kept, and in which direction that went."""
    return f"{kept.migration} ({kept.direction})"


def what(kept: UndoEntry) -> str:
    """Return what was kept: rows, a column or a table; and what it went with."""
    told = WORDS[kept.kind]
    if kept.kind in ("update", "column") and kept.columns:
        told += f" ({', '.join(kept.columns)})" if kept.kind == "update" else f" {', '.join(kept.columns)}"
    return f"{told}, with {kept.part_of}" if kept.part_of else told


def plain(kept: UndoEntry) -> str:
    """Return the name of its table for people."""
    return f"{kept.table.schema}.{kept.table.name}"


def rows_of(conn: Connection, kept: UndoEntry) -> str:
    """Return how many rows are kept: the server's estimate, or counted where that is quick."""
    if kept.rows_estimate >= 0:
        return f"about {kept.rows_estimate:,}" if kept.rows_estimate else "0"
    if kept.kind == "table" or kept.bytes > COUNTED_UP_TO_BYTES:
        return "not counted"
    try:
        found = conn.execute(sql.SQL("SELECT count(*) FROM {}").format(kept.side)).fetchone()
    except (pg.UndefinedTable, pg.LockNotAvailable):  # somebody is letting go of it right now
        return "not counted"
    return f"{int(str(found[0])):,}" if found else "not counted"


def state(kept: UndoEntry) -> Cell:
    """Return its state; while it is given back, how far that is."""
    told = f"{kept.state} ({kept.rows_given_back:,} rows so far)" if kept.state == "giving back" else kept.state
    return Cell(told, TONES.get(kept.state, PLAIN))


def until(kept: UndoEntry) -> str:
    """Return until when it is kept, and whether that is over."""
    if kept.keep_until is None:
        return "no end"
    return moment(kept.keep_until) + (", over" if kept.keep_until < datetime.now(UTC) else "")


def moment(at: datetime) -> str:
    """Return a time, in UTC."""
    return f"{at:%Y-%m-%d %H:%MZ}"
