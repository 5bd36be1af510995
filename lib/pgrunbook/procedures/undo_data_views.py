"""The tables of undo data: for the command line, notebooks/purge.ipynb and notebooks/rollback.ipynb."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime

from psycopg import errors as pg
from psycopg import sql

from pgrunbook import undo_data
from pgrunbook.database.connection import Connection
from pgrunbook.display.prose import counted, listed
from pgrunbook.display.show import BAD, GOOD, PLAIN, QUIET, WARN, Cell, Table
from pgrunbook.display.units import human
from pgrunbook.sql.tree import dotted_name
from pgrunbook.undo_data import UndoEntry

WORDS = {
    "update": "rows updated", "delete": "rows deleted", "insert": "rows inserted", "column": "column", "table": "table",
}  # fmt: skip
TONES = {"kept": GOOD, "giving back": WARN, "given back": QUIET, "purged": BAD}
# The state as people read it, by direction of the migration; the database and JSON have the state as it is.
SHOWN = {
    ("giving back", "up"): "reverting", ("given back", "up"): "reverted",
    ("giving back", "down"): "reapplying", ("given back", "down"): "reapplied",
}  # fmt: skip
NOTHING = "No undo data is kept in this database."
HEADINGS = ["id", "of", "run", "step", "what", "table", "rows", "size", "made at", "kept until", "state"]
# A side table without an estimate of the server is counted up to this size: that takes 0.1 s.
COUNTED_UP_TO_BYTES = 16_000_000


def table(conn: Connection, found: Sequence[UndoEntry]) -> Table:
    """Return one row per entry of undo data, in the order given."""
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
    """Return an entry for JSON: times in ISO 8601, sizes in bytes, null for what is not known."""
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
    """Return the migration that an entry belongs to, with its direction."""
    return f"{kept.migration} ({kept.direction})"


def what(kept: UndoEntry) -> str:
    """Return what was captured or parked: rows, a column or a table; and the entry that it belongs to."""
    name = WORDS[kept.kind]
    if kept.kind in ("update", "column") and kept.columns:
        name += f" ({', '.join(kept.columns)})" if kept.kind == "update" else f" {', '.join(kept.columns)}"
    return f"{name}, with {kept.part_of}" if kept.part_of else name


def plain(kept: UndoEntry) -> str:
    """Return the name of its table, unquoted."""
    return f"{kept.table.schema}.{kept.table.name}"


def rows_of(conn: Connection, kept: UndoEntry) -> str:
    """Return how many rows an entry holds: the server's estimate, or counted where that is quick."""
    if kept.rows_estimate >= 0:
        return f"about {kept.rows_estimate:,}" if kept.rows_estimate else "0"
    if kept.kind == "table" or kept.bytes > COUNTED_UP_TO_BYTES:
        return "not counted"
    try:
        found = conn.execute(sql.SQL("SELECT count(*) FROM {}").format(kept.side)).fetchone()
    except (pg.UndefinedTable, pg.LockNotAvailable):  # somebody purges it right now
        return "not counted"
    return f"{int(str(found[0])):,}" if found else "not counted"


def not_reapplied(kept: UndoEntry, holds: int) -> tuple[object, ...]:
    """Return the row of what is still captured of a migration that was rolled back and is applied again."""
    column = f".{kept.columns[0]}" if kept.kind == "column" else ""
    unit = "value" if kept.kind == "column" else "row"
    end = "" if kept.keep_until is None else f" until {moment(kept.keep_until)}"
    says = f"{counted(holds, unit)} {'is' if holds == 1 else 'are'} kept in {dotted_name(*kept.there)}{end}"
    way = f"{says}; the plan says why it did not come back. Copy what you need."
    return Cell("captured by a rollback, not reapplied", WARN), f"{plain(kept)}{column}", kept.migration, way


def gone_to_nobody(kept: UndoEntry, holds: int) -> tuple[object, ...]:
    """Return the row of what a column held, of which some values were reapplied to no row."""
    says = (
        f"{counted(holds, 'value')} of rows that were deleted or changed since, or cannot be told, in"
        f" {dotted_name(*kept.there)}"
    )
    return (
        Cell("captured by a rollback, and nobody's", WARN), f"{plain(kept)}.{kept.columns[0]}", kept.migration,
        f"{says}. Copy what you need.",
    )  # fmt: skip


def left_behind(conn: Connection, migrations: Collection[str]) -> list[tuple[str, object]]:
    """Return the fact of a rollback's verdict that counts the captured values that went to nobody; or none."""
    found = undo_data.gone_to_nobody(conn, migrations, "up")
    names = [f"{counted(holds, 'value')} of {plain(kept)}.{kept.columns[0]}, in {dotted_name(*kept.there)}"
             for kept, holds in found]  # fmt: skip
    return [("captured, and nobody's", listed(names))] if names else []


def triggers(conn: Connection) -> list[tuple[str, object]]:
    """Return the fact of a verdict that names the tables with triggers of ours, and until when they stay; or none."""
    entries = undo_data.followed(conn)
    if not entries:
        return []
    ends = [kept.keep_until for kept in entries if kept.keep_until is not None]
    until = f" (from {moment(max(ends))} on)" if len(ends) == len(entries) else ""
    tables = listed(sorted({plain(kept) for kept in entries}))
    says = f"on {tables}, until what they let follow its rows is reverted, reapplied or purged{until}"
    return [("triggers of pgrunbook", says)]


def state(kept: UndoEntry) -> Cell:
    """Return its state, with the progress while it is reverted or reapplied."""
    shown = SHOWN.get((kept.state, kept.direction), kept.state)
    if kept.state == "giving back":
        shown += f" ({counted(kept.rows_given_back, 'row')} so far)"
    return Cell(shown, TONES.get(kept.state, PLAIN))


def until(kept: UndoEntry) -> str:
    """Return the end of its retention, and whether that is over."""
    if kept.keep_until is None:
        return "no end"
    return moment(kept.keep_until) + (", over" if kept.keep_until < datetime.now(UTC) else "")


def moment(at: datetime) -> str:
    """Return a time, in UTC."""
    return f"{at:%Y-%m-%d %H:%MZ}"
