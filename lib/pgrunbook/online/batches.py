"""The batch loop: one statement executed in many transactions, by ranges of a key or of pages; it can resume.

1. The loop records where it ends, as the table is at its start, in ``pgrunbook.batch``.
2. Each batch is a transaction: it finds the end of its range, executes the statement on that range, and updates
   the progress row. Progress is the key, never a changed value: a row that the statement leaves unchanged cannot
   stop the loop. By pages, passes follow each other until one finds nothing to do.
3. Where others write to the table, a tracker notes rows that are new, and rows whose key has changed
   (``database.row_tracker``). Batches leave the new ones out, and behind the last range come those that were moved:
   each row that was there at the start is changed once, and no other.
4. A row that moved to another partition while a batch waited for it makes the batch fail (SQLSTATE 40001): it is
   aborted and executed again. With a throttle, a batch whose lock or statement times out is halved. A lock is waited
   for in short parts, and what the batch holds is given back after each: no client is the victim of a deadlock with it.
5. A batch that the server refuses for a row stops the loop, and a note names the row; or it is halved until that row
   stands alone, is recorded and passed over (``online.bad_rows``).
6. Between two batches the loop obeys the control row (``database.control``), or its throttle (``online.throttle``).
7. Where the caller allows it, and nobody else is at work, a batch does not wait for the disk; before the loop returns,
   or raises, all are there. A crash of the server takes back the last of them whole: the loop does these again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import cast

import psycopg
from psycopg import errors as pg
from psycopg import sql

from pgrunbook.database import step_log
from pgrunbook.database.column_fill import SETTING
from pgrunbook.database.connection import Connection
from pgrunbook.database.control import Obedience, Order
from pgrunbook.errors import Broken
from pgrunbook.online import bad_rows as refusals
from pgrunbook.online import batch_progress, tracked_pages
from pgrunbook.online.bad_rows import OF_A_ROW, STOP, BadRows
from pgrunbook.online.batch_progress import BatchProgress, BatchSession
from pgrunbook.online.ranges import Key, KeyRanges, PageRanges, ranges_of, texts
from pgrunbook.online.single_rows import are_at, key_at, rows_of, told
from pgrunbook.online.throttle import Throttle
from pgrunbook.online.tracked_pages import WINDOWS, TrackedPages
from pgrunbook.plan.step import GUARD, RANGE, Batches

LOCK_TIMEOUT_MS = 2_000
STATEMENT_TIMEOUT_MS = 30_000

# The pass behind the ranges of a key: the rows that were moved. Passes over pages: so many at the most.
_MOVED = tracked_pages.MOVED
_MOST_PASSES = 20
_MOVED_ATTEMPTS = 50
_TIMEOUTS = (pg.LockNotAvailable, pg.QueryCanceled, pg.DeadlockDetected)
_TIMEOUT_ATTEMPTS = 10

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Haste:
    """On a branch, where nobody waits: after so many batches of a loop, the later ones are so many times as large."""

    times: int
    after: int


def run_batches(
    conn: Connection,
    batches: Batches,
    *,
    resume_from: str,
    on_batch: Callable[[BatchProgress], None] = lambda _: None,
    lock_timeout_ms: int = LOCK_TIMEOUT_MS,
    statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
    haste: Haste | None = None,
    on_pause: Callable[[Order], None] = lambda _: None,
    throttle: Throttle | None = None,
    bad_rows: BadRows = STOP,
    most_batches: int | None = None,
    one_pass: bool = False,
    first_page: int = 0,
    late: bool = False,
) -> BatchProgress:
    """Execute the statement batch by batch, from the progress row ``resume_from`` on; return the final progress.

    ``on_batch`` is called after each commit, ``on_pause`` when somebody asks the loop to pause. With a ``throttle``
    that one says when a batch begins, and of how many rows. After ``most_batches`` the loop returns, to go on later.
    With ``one_pass`` a loop by pages ends behind the last page: nobody else makes rows that are not done. It begins at
    ``first_page``, for a trial. With ``late`` a batch does not wait for the disk while nobody else is at work.
    The connection must be in autocommit mode, outside a transaction.

    Raises psycopg's errors unchanged (a lock timeout, a row that the server refuses, which a note names): committed
    batches stay, the failed batch is aborted, and the same call continues after the last committed batch. Raises Broken
    where somebody has switched the tracker's triggers off, Interrupted and Blocked as ``database.control`` and
    ``online.throttle``, Refused for more bad rows than are passed over.
    Locks: RowExclusiveLock on the table, and the rows of one batch.
    """
    step_log.create(conn)
    if bad_rows.policy == "skip":
        refusals.create(conn)
    session = batch_progress.session_of(conn, lock_timeout_ms, statement_timeout_ms, late=late)
    loop = _Loop(conn, batches, resume_from, lock_timeout_ms, haste, bad_rows, throttle, one_pass, first_page, session)
    obedience, made = Obedience(conn, on_pause), 0
    try:
        while True:
            if throttle is not None:
                throttle.turn()
            else:
                obedience.now()
            before, after = loop.batch()
            if before is not None and before.is_done:
                return before
            if before is not None:
                on_batch(after)
                made += 1
            if made == most_batches:
                return after
    finally:
        session.catch_up(conn, resume_from)


@dataclass
class _Loop:
    """A loop at work. ``most`` bounds the next batch while rows are isolated, None where nothing was refused.

    ``reached`` is where the last attempt ended, ``refused`` the single row that it was refused for, and why. A batch
    has waited for a lock for ``waited_ms`` until now.
    """

    conn: Connection
    batches: Batches
    name: str
    lock_timeout_ms: int
    haste: Haste | None
    bad_rows: BadRows
    throttle: Throttle | None
    one_pass: bool
    first_page: int
    session: BatchSession
    waited_ms: int = 0
    asked: int = 0
    full: int = 0
    most: int | None = None
    reached: Key = ()
    refused: tuple[Key, psycopg.Error] | None = None
    rows_before_pass: int | None = None
    statement_s: float = 0.0
    attempts: dict[type[psycopg.Error], int] = field(default_factory=dict)

    def batch(self) -> tuple[BatchProgress | None, BatchProgress]:
        """Execute the next batch, in as many attempts as that takes; return the progress before and after it."""
        self.attempts.clear()
        self.waited_ms = 0
        while True:
            try:
                return self._attempt()
            except pg.SerializationFailure as exc:
                self._again(exc, _MOVED_ATTEMPTS)
            except _TIMEOUTS as exc:
                if self._waits_on(exc):
                    continue
                if self.throttle is None or not self.throttle.can_halve:
                    raise
                self._again(exc, _TIMEOUT_ATTEMPTS)
                self.throttle.failed()
                self.throttle.turn()
            except OF_A_ROW as exc:
                if self.bad_rows.policy == "stop":
                    self._name(exc)
                    raise
                if self.batches.by_pages:
                    return self._apart(exc)
                self._halve()
                self.refused = (self.reached, exc) if self.asked == 1 else None

    def _again(self, exc: psycopg.Error, most: int) -> None:
        attempt = self.attempts[type(exc)] = self.attempts.get(type(exc), 0) + 1
        if attempt >= most or self.conn.closed:
            raise exc
        log.info("attempt %s of %s at a batch: %s", attempt, most, exc.diag.message_primary)

    def _waits_on(self, exc: psycopg.Error) -> bool:
        """Tell whether the lock is waited for again, now that all that this batch had locked is given back."""
        if not isinstance(exc, pg.LockNotAvailable) or self.conn.closed:
            return False
        self.waited_ms += self.session.wait_ms
        is_over = self.waited_ms >= self.lock_timeout_ms
        self.waited_ms = 0 if is_over else self.waited_ms
        return not is_over

    def _attempt(self) -> tuple[BatchProgress | None, BatchProgress]:
        began = time.monotonic()
        with self.conn.transaction():
            before = self._open()
            if before is None:
                return None, self._begin()
            if before.is_done:
                return before, before
            self.full = self._rows(before)
            self.asked = min(self.full, self.most or self.full)
            after = self._do(before)
            batch_progress.write(self.conn, after)
            done_at = time.monotonic()
        ended = time.monotonic()
        if self.most is not None:  # behind a row that was refused batches grow again
            self.most = None if self.most >= self.full else self.most * 2
        elif self.throttle is not None:
            took_s, rows = ended - began, after.rows - before.rows
            self.throttle.worked(took_s, rows, asked=self.asked, commit_s=ended - done_at, statement_s=self.statement_s)
        return before, after

    def _open(self) -> BatchProgress | None:
        self.session.limit(self.conn, late=self.throttle is not None and not self.throttle.rests)
        return batch_progress.read(self.conn, self.name)

    def _rows(self, before: BatchProgress) -> int:
        rows = self.throttle.rows if self.throttle is not None else self.batches.rows
        return rows * self.haste.times if self.haste is not None and before.batches >= self.haste.after else rows

    def _begin(self) -> BatchProgress:
        end = ranges_of(self.batches, 1).end(self.conn)
        last = PageRanges.before(self.first_page) if self.first_page else None
        progress = batch_progress.begin(self.conn, self.name, end, last)
        return tracked_pages.begun(self.conn, self.batches, progress) if end else progress

    def _do(self, before: BatchProgress) -> BatchProgress:
        """Execute one batch: the next range, or behind the last one what is left to do."""
        if before.number >= WINDOWS:
            return self._tracked(before)
        ranges = ranges_of(self.batches, before.number)
        if isinstance(ranges, PageRanges):
            return self._window(ranges, before)
        if before.number == _MOVED or before.end_key is None or before.last_key == before.end_key:
            return self._moved(ranges, before)
        upper = self.reached = ranges.upper(self.conn, before.last_key, before.end_key, self.asked)
        due = reached = ranges.condition(before.last_key, upper)
        if ranges.tracker is not None:
            due = sql.SQL("({} AND {})").format(reached, ranges.tracker.is_due(self.batches.alias))
        rows = 0 if self._passes_over() else self._execute(before, due)
        if ranges.tracker is not None:
            self.conn.execute(ranges.tracker.settle(self.batches.alias, reached))
            self.conn.execute(ranges.tracker.progress(ranges.values(upper)))
        return replace(before, last_key=upper, batches=before.batches + 1, rows=before.rows + rows)

    def _tracked(self, before: BatchProgress) -> BatchProgress:
        """Execute one batch of a loop by pages that is tracked, or end one of its passes."""
        due, after = TrackedPages(self.conn, self.batches).due(before, self.asked)
        if due is None:
            self.asked = 1  # how long that takes tells the throttle nothing about a batch
            return after
        self.reached = after.last_key or ()
        rows = self._execute(before, due)
        return replace(after, batches=before.batches + 1, rows=before.rows + rows)

    def _moved(self, ranges: KeyRanges, before: BatchProgress) -> BatchProgress:
        """Execute the statement on rows whose key has changed before a batch reached them; at the end are none."""
        tracker = ranges.tracker
        if tracker is None:
            return replace(before, is_done=True)
        ids = [int(str(row[0])) for row in self.conn.execute(tracker.left(self.asked))]
        if not ids:
            tracked_pages.refuse_switched_off(self.conn, tracker, self.batches.label)
            return replace(before, is_done=True)
        if len(ids) == 1:
            self.asked, self.reached = 1, texts(self.conn.execute(tracker.key_of(ids[0])).fetchone()) or ()
        rows = 0 if self._passes_over() else self._execute(before, tracker.is_left(self.batches.alias, ids))
        self.conn.execute(tracker.settle(self.batches.alias, tracker.is_noted(self.batches.alias, ids), ids))
        return replace(before, number=_MOVED, batches=before.batches + 1, rows=before.rows + rows)

    def _window(self, ranges: PageRanges, before: BatchProgress) -> BatchProgress:
        """Execute one batch by pages; behind the last window, end or begin the next pass."""
        end = cast("Key", before.end_key)
        if not ranges.is_at_end(before.last_key, end):
            self.reached = ranges.upper(self.conn, before.last_key, end, self.asked)
            rows = self._execute(before, ranges.condition(before.last_key, self.reached))
            return replace(before, last_key=self.reached, batches=before.batches + 1, rows=before.rows + rows)
        if self.one_pass or (before.number > 1 and before.rows == self.rows_before_pass):
            return replace(before, is_done=True)
        if before.number == _MOST_PASSES:
            raise Broken(
                f"rows of {self.batches.label} were still not done after {_MOST_PASSES} passes over all of its pages",
                detail="Others make new ones as fast as they are done, and no trigger keeps the columns in sync.",
                state="The batches before are committed.",
                hint="Backfill with keep_in_sync, or by a key.",
            )
        self.rows_before_pass = before.rows
        pages = ranges.end(self.conn)
        return replace(before, number=before.number + 1, last_key=None, end_key=pages, is_done=pages is None)

    def _execute(self, before: BatchProgress, condition: sql.Composable) -> int:
        self.conn.execute("SELECT pg_catalog.set_config('pgrunbook.started_at', %s, true)", [before.started_at])
        if self.batches.fills:
            self.conn.execute("SELECT pg_catalog.set_config(%s, %s, true)", [SETTING, self.batches.fills])
        if not self.batches.fires_triggers:
            self.conn.execute("SET LOCAL session_replication_role = replica")
        text = condition.as_string(self.conn)
        statement = self.batches.statement.replace(RANGE, text, 1).replace(GUARD, text, 1)
        with self.conn.as_target():
            began = time.monotonic()
            rows = self.conn.execute(statement.encode()).rowcount
            self.statement_s = time.monotonic() - began
        return rows

    # -- rows that the server refuses

    def _halve(self) -> None:
        """Halve the batch that was refused; a single row that is refused is passed over next."""
        if self.asked > 1:
            self.most = self.asked // 2

    def _name(self, exc: psycopg.Error) -> None:
        """Note the row that a batch was refused for: its halves are executed and aborted, down to that row."""
        try:
            found = self._place_of_refused()
        except psycopg.Error as other:  # a lock that somebody has now; what is told is the first error
            log.info("the row that was refused was not found: %s", other)
            return
        if found:
            exc.add_note(f"It is the row {told(self.batches, found)}.")

    def _place_of_refused(self) -> Key:
        before = self._progress_now()
        ranges = PageRanges(self.batches, 1) if before.number == WINDOWS else ranges_of(self.batches, before.number)
        if isinstance(ranges, PageRanges):
            rows = rows_of(self.conn, self.batches, ranges.condition(None, self.reached))
            while len(rows) > 1:
                half = rows[: len(rows) // 2]
                rows = half if self._is_refused(before, are_at(self.batches, half)) else rows[len(half) :]
            return key_at(self.conn, self.batches, rows[0]) if rows else ()
        if before.number != 1 or before.end_key is None:
            return self.reached if self.asked == 1 and before.number == _MOVED else ()
        last, left = before.last_key, self.asked
        while left > 1:
            upper = ranges.upper(self.conn, last, before.end_key, left // 2)
            if self._is_refused(before, ranges.condition(last, upper)):
                left //= 2
            else:
                last, left = upper, left - left // 2
        return ranges.upper(self.conn, last, before.end_key, 1)

    def _is_refused(self, before: BatchProgress, condition: sql.Composable) -> bool:
        try:
            with self.conn.transaction(force_rollback=True):
                self._open()
                self._execute(before, condition)
        except OF_A_ROW:
            return True
        return False

    def _passes_over(self) -> bool:
        """Record the row that the last attempt was refused for, where this batch is of that row."""
        found, self.refused = self.refused, None
        if found is None or self.asked > 1 or found[0] != self.reached:
            return False
        refusals.record(self.conn, self.name, found[0], found[1], self.bad_rows)
        return True

    def _apart(self, exc: psycopg.Error) -> tuple[BatchProgress, BatchProgress]:
        """Execute a batch by pages that was refused in parts, down to single rows; return the progress around it."""
        log.info("a batch is executed in parts: %s", exc)
        reached, first = self.reached, self._progress_now()
        left = [rows_of(self.conn, self.batches, ranges_of(self.batches, first.number).condition(None, reached))]
        while left:
            part = left.pop()
            try:
                self._part(part, None)
            except OF_A_ROW as error:
                half = len(part) // 2
                if half:
                    left += [part[half:], part[:half]]
                else:
                    self._part(part, error)
        with self.conn.transaction():
            now = self._open() or first
            after = replace(now, last_key=reached, batches=now.batches + 1)
            batch_progress.write(self.conn, after)
        return first, after

    def _part(self, rows: list[str], refused: psycopg.Error | None) -> None:
        """Execute the statement for rows by their ctid, or record a single one as refused."""
        with self.conn.transaction():
            now = self._open()
            if now is None or not rows:
                return
            if refused is not None:
                refusals.record(self.conn, self.name, key_at(self.conn, self.batches, rows[0]), refused, self.bad_rows)
                return
            done = self._execute(now, are_at(self.batches, rows))
            batch_progress.write(self.conn, replace(now, rows=now.rows + done))

    def _progress_now(self) -> BatchProgress:
        with self.conn.transaction():
            found = self._open()
        assert found is not None  # noqa: S101 - a batch of it was refused
        return found
