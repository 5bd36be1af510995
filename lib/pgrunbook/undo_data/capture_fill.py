"""Capture of what a backfill fills: by its batches, and by its trigger for what others write meanwhile.

1. Each batch captures the old values of the filled columns in its own transaction, as the UPDATE of a migration does.
2. Where the application writes a row, and the trigger fills it, the trigger captures: the values that the row would
   have without the backfill. So each row is captured once, whoever comes to it first.
3. A row that is filled again, because the application has changed what the columns are made of, keeps its oldest
   values; a column that the application has written itself has that value from then on. What somebody wrote past the
   trigger is a conflict.
4. A row that is inserted meanwhile has no old values: it stays as it is filled.

Nobody's write fails: where the side table is gone, or does not take a row, the server's log says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.errors import Refused
from pgrunbook.plan.step import Batches
from pgrunbook.sql.deparse import text
from pgrunbook.undo_data.capture_rows import rewrite
from pgrunbook.undo_data.cascades import CannotCaptureError
from pgrunbook.undo_data.follower_body import has_key
from pgrunbook.undo_data.registry import Side, StepKey, UndoEntry, add_side_tables, find
from pgrunbook.undo_data.row_notes import GONE, HASH
from pgrunbook.undo_data.tables import CapturedColumn, hash_of, row, written_name

WAS = "pgrunbook_was"  # the row as it was written, in the trigger of the fill
STEP = 1
_CAPTURES = """IF TG_OP = 'UPDATE'
       AND ({was} OPERATOR(pg_catalog.*<>) {new} OR {was} OPERATOR(pg_catalog.*<>) {old}) THEN
        BEGIN
            UPDATE {side} AS k SET {written} WHERE {is_it} AND k.{gone} IS NULL AND k.{hash} = {old_hash};
            IF NOT FOUND AND {was} OPERATOR(pg_catalog.*<>) {new}
               AND NOT EXISTS (SELECT FROM {side} AS k WHERE {is_it} AND k.{gone} IS NULL) THEN
                INSERT INTO {side} ({targets}) VALUES ({values});
            END IF;
        EXCEPTION WHEN OTHERS THEN
            RAISE LOG 'pgrunbook: the values before a backfill are not captured in {kept_as}: %', SQLERRM;
        END;
    END IF;"""


@dataclass(frozen=True)
class FillCapture:
    """How a backfill captures: the side table, and what its trigger executes. Nothing of it is created yet."""

    place: StepKey
    side: Side

    @property
    def in_trigger(self) -> str:
        """What the trigger of the fill does with a row that it has filled."""
        columns, (old, was, new) = self.side.columns, map(row, ("old", WAS, "new"))
        key = [column.captured(old(column.name)) for column in self.side.table.named(self.side.table.key)]
        written = [column.written(new(column.name)) for column in columns if column.is_written_captured]
        captured = [column.captured(was(column.name)) for column in columns]
        hashed = hash_of(columns, [new(column.name) for column in columns])
        names = [sql.Identifier(written_name(n)) for n, column in enumerate(columns) if column.is_written_captured]
        pairs = [*zip(names, written, strict=True), (sql.Identifier(HASH), hashed)]
        sets = [sql.SQL("{} = {}").format(name, value) for name, value in pairs]
        sets += [
            sql.SQL("{0} = CASE WHEN {1} OPERATOR(pg_catalog.*<>) {2} THEN {3} ELSE k.{0} END").format(
                sql.Identifier(c.name), _record(WAS, [c]), _record("old", [c]), value
            )
            for c, value in zip(columns, captured, strict=True)
        ]
        part = [sql.SQL("TG_RELID")] if self.side.table.is_partitioned else []
        made = sql.SQL(_CAPTURES).format(
            was=_record(WAS, columns), new=_record("new", columns), old=_record("old", columns),
            side=self.side.identifier, written=sql.SQL(", ").join(sets), is_it=has_key(key),
            gone=sql.Identifier(GONE), hash=sql.Identifier(HASH),
            old_hash=hash_of(columns, [old(column.name) for column in columns]), targets=self.side.targets(),
            values=sql.SQL(", ").join([*key, *captured, *written, hashed, *part]), kept_as=sql.SQL(self.side.kept_as),
        )  # fmt: skip
        return text(made)


def migration_of(run_id: str) -> str:
    """Return what stands for the migration in the entries of a backfill: each run has its own."""
    return f"backfill {run_id}"


def fill_capture(
    conn: Connection, batches: Batches, columns: Sequence[str], run_id: str, *, is_silent: bool
) -> tuple[Batches, FillCapture]:
    """Return the loop that captures what it fills, and how; nothing is created, and the same call gives the same.

    ``is_silent`` says that nothing but the batches writes in their transactions: then the triggers by which captured
    rows follow theirs need not look at what a batch writes.

    Raises Refused where the rows cannot be captured, or a filled column is one of the key.
    """
    place = StepKey(run_id, migration_of(run_id), "up", STEP)
    try:
        found = rewrite(conn, batches.statement, place, only_named=True)
        (side,) = found.sides
        if side.followers is None:
            raise CannotCaptureError(f"nothing of ours can watch the rows of {side.table.name}: it is another role's")
        if set(columns) & set(side.table.key):
            raise CannotCaptureError(f"its key {', '.join(side.table.key)} is filled")
    except CannotCaptureError as exc:
        raise Refused(
            f"cannot capture undo data of {batches.label}",
            detail=f"Its rows cannot be captured, because {exc}.",
            hint="Backfill without undo_data: then only a restore brings old values back.",
        ) from exc
    side = replace(side, silent_in=batches.fills if is_silent else "")
    return replace(batches, statement=found.sql), FillCapture(place, side)


def begin_fill(conn: Connection, capture: FillCapture, keep_until: datetime | None) -> None:
    """Create the side table of a backfill and its entry, where they are missing.

    Locks: ShareRowExclusiveLock on the table, for the triggers by which its rows are followed.
    """
    add_side_tables(conn, capture.place, [capture.side], keep_until=keep_until)


def entries_of_fill(conn: Connection, run_id: str) -> list[UndoEntry]:
    """Return the undo data of a backfill that is not purged, [] where it has none."""
    return find(conn, migration=migration_of(run_id), direction="up", states=("kept", "giving back", "given back"))


def is_of_fill(entry: UndoEntry) -> bool:
    """Tell whether an entry is the undo data of a backfill."""
    return entry.migration == migration_of(entry.run_id)


def _record(alias: str, columns: Sequence[CapturedColumn]) -> sql.Composable:
    names = [sql.Identifier(alias, column.name) for column in columns]
    return sql.SQL("CAST(ROW({}) AS pg_catalog.record)").format(sql.SQL(", ").join(names))
