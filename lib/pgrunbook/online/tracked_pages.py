"""A loop by pages over a table to which others write, for a DELETE: what is done is gone, and the rest is met again.

1. Window by window, rows that were there at the start are done: their key is not beyond the last one of then, and the
   tracker has not noted it as new (``database.row_tracker``). A row whose key changes is noted as to be done.
2. One statement reads the whole table in one snapshot, and notes the keys of rows that are left: somebody has written
   them behind us, on pages that we had met. A row that is not among them, and was moved to no other key, did not match
   at that moment: as if the DELETE had come to it then.
3. Those are done by their keys, and all keys noted as done: who changes one from here on is no concern of ours.
4. Behind that come, as in any loop, the rows that were moved.

It serves where the key is random in the table, and that is large: each row of a batch by the key is on another page.
Where a trigger BEFORE DELETE may keep a row, and write it again, what is met is not gone: such a loop goes by the key.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import cast

from psycopg import sql

from pgrunbook.database import queries
from pgrunbook.database.connection import Connection
from pgrunbook.database.row_tracker import RowTracker
from pgrunbook.errors import Broken
from pgrunbook.online import batch_order, batch_progress
from pgrunbook.online.batch_order import OrderFacts
from pgrunbook.online.batch_progress import BatchProgress
from pgrunbook.online.ranges import Key, KeyRanges, PageRanges, texts
from pgrunbook.plan.step import Batches

WINDOWS, READ, FOUND, MOVED = 11, 12, 13, 2
READ_MS = 3_600_000  # it reads the whole table, and holds nobody up
_WHOLE_WINDOWS = 2  # the number of a pass whose batches are whole windows: nothing needs room on the page

log = logging.getLogger(__name__)


def serve(conn: Connection, batches: Batches) -> bool:
    """Tell whether a loop goes by pages: where its statement tells what is left, and facts of the server say so."""
    table = conn.oid_of("regclass", sql.Identifier(batches.schema, batches.table).as_string(conn))
    if not batches.left or not batches.tracker or table is None:
        return False
    row = queries.rows(conn, "backfill", "order_facts", table=table, key=batches.key[0], columns=[])[0]
    found = OrderFacts(**row)
    chosen = found.rows_estimate >= batch_order.SMALL_ROWS and found.is_scattered and found.is_large
    if chosen and (keeping := queries.rows(conn, "backfill", "keeping", table=table)):
        log.info("%s goes by its key: trigger %s may keep rows, which pages would meet again", batches.label,
                 keeping[0]["name"])  # fmt: skip
        return False
    log.info("%s goes by %s: %s", batches.label, "pages" if chosen else "its key", found.told)
    return chosen


def begun(conn: Connection, batches: Batches, progress: BatchProgress) -> BatchProgress:
    """Return the progress of a loop that begins, and write it where that goes by pages."""
    if not serve(conn, batches):
        return progress
    pages = _ranges(batches).end(conn)
    progress = replace(progress, number=WINDOWS if pages else READ, end_key=pages)
    batch_progress.write(conn, progress)
    return progress


def _ranges(batches: Batches) -> PageRanges:
    return PageRanges(batches, _WHOLE_WINDOWS)


class TrackedPages:
    """The passes of such a loop."""

    def __init__(self, conn: Connection, batches: Batches) -> None:
        self._conn, self._batches, self._keys = conn, batches, KeyRanges(batches)
        self._tracker = cast("RowTracker", self._keys.tracker)

    def due(self, before: BatchProgress, rows: int) -> tuple[sql.Composable | None, BatchProgress]:
        """Return the condition of the next batch, and the progress behind it; None where a pass ends instead."""
        if before.number == WINDOWS:
            ranges, end = _ranges(self._batches), cast("Key", before.end_key)
            if ranges.is_at_end(before.last_key, end):
                return None, replace(before, number=READ)
            upper = ranges.upper(self._conn, before.last_key, end, rows)
            window = ranges.condition(before.last_key, upper)
            return sql.SQL("({} AND {})").format(window, self._is_due()), replace(before, last_key=upper)
        if before.number == READ:
            self._read(before.started_at)
            return None, replace(before, number=FOUND, last_key=None, end_key=self._last_found())
        ids = self._found(before.last_key, rows)
        if not ids:
            self._conn.execute(self._tracker.progress(self._keys.values(self._last())))
            return None, replace(before, number=MOVED)
        noted = self._tracker.is_noted(self._batches.alias, ids)
        return sql.SQL("({} AND {})").format(noted, self._is_due()), replace(before, last_key=(str(ids[-1]),))

    def _read(self, started_at: str) -> None:
        """Note the keys of rows that are left; in the transaction of a batch."""
        tracker, alias = self._tracker, self._batches.alias
        noted = sql.SQL("INSERT INTO {} (state, {}) SELECT 'found', {} FROM {} AS {} WHERE {} AND ({})").format(
            tracker.notes,
            sql.SQL(", ").join(map(sql.Identifier, tracker.columns)),
            sql.SQL(", ").join(sql.Identifier(alias, name) for name in self._batches.key),
            sql.Identifier(self._batches.schema, self._batches.table), sql.Identifier(alias),
            self._is_due(), sql.SQL(self._batches.left),
        )  # fmt: skip
        self._conn.execute("SELECT pg_catalog.set_config('pgrunbook.started_at', %s, true)", [started_at])
        self._conn.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(sql.Literal(READ_MS)))
        with self._conn.as_target():
            self._conn.execute(noted)

    def _last_found(self) -> Key | None:
        """Return the last note of a row that is left, by which the end of that pass is told; None where none is."""
        query = sql.SQL("SELECT id FROM {} WHERE state = 'found' ORDER BY id DESC LIMIT 1")
        return texts(self._conn.execute(query.format(self._tracker.notes)).fetchone())

    def _found(self, last: Key | None, most: int) -> list[int]:
        """Return the notes of rows that are left, behind the last one."""
        query = sql.SQL("SELECT id FROM {} WHERE state = 'found' AND id > {} ORDER BY id LIMIT {}")
        after = sql.Literal(int(last[0]) if last else 0)
        rows = self._conn.execute(query.format(self._tracker.notes, after, sql.Literal(most))).fetchall()
        return [int(str(id_)) for (id_,) in rows]

    def _is_due(self) -> sql.Composable:
        due = self._tracker.is_due(self._batches.alias)
        return sql.SQL("({} AND {})").format(self._keys.condition(None, self._last()), due)

    def _last(self) -> Key:
        return cast("Key", self._keys.end(self._conn))


def refuse_switched_off(conn: Connection, tracker: RowTracker, label: str) -> None:
    """Raise Broken where somebody has switched a trigger of the tracker off."""
    found = queries.rows(conn, "relations", "switched_off", function=tracker.function_name)
    if found:
        raise Broken(
            f"cannot tell which rows of {label} were changed meanwhile",
            detail=f'Somebody has switched trigger "{found[0]["name"]}" off, and on again perhaps: rows that were'
            " inserted, or whose key changed meanwhile, may have been changed twice or not at all.",
            state="Nothing changed in the last transaction; the batches before it are committed.",
            hint="Compare the rows with what you expect, or roll the migration back; then begin it again.",
        )
