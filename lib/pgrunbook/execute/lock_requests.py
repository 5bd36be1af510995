"""The lock requests of an execution: acquire locks without building a lock queue.

1. Check for blockers in old transactions, and wait until there are none, as long as the target's patience lasts.
2. Request the locks under a lock_timeout of 10 ms, in case somebody came in between. Where that is too short,
   check again after a pause: nobody has queued behind us for longer than that.
3. When the patience is over (a table that is never free), request the locks anyway: for 50 ms, twice as long each
   time, the last attempt under the target's own lock_timeout. These attempts are counted. Where the server does
   not let us check for blockers, all attempts are of this kind.
4. An autovacuum would block for minutes. PostgreSQL cancels it when somebody waits for it longer than
   deadlock_timeout, so we wait for it in a mode that blocks no reader or writer. An autovacuum that prevents
   wraparound is not cancelled.

Used by migrate and rollback, through ``execute.execution``. Measured: BENCHMARKS.md, "A schema change among traffic".
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import psycopg
from psycopg import errors as pg
from psycopg import sql

from pgrunbook.database import connection, lock_wait
from pgrunbook.database.connection import Connection
from pgrunbook.database.lock_wait import LAST_PATIENCE_MS, Holder, LockRequest, is_cancellable_autovacuum
from pgrunbook.database.locks import GivesWay
from pgrunbook.execute import failures
from pgrunbook.execute.events import EventLog
from pgrunbook.plan.plan import Change, LockOn, Step
from pgrunbook.sql import classify
from pgrunbook.sql.classify import Policy
from pgrunbook.sql.lock_modes import CONFLICTS, blocks

RETRIED = (pg.LockNotAvailable, pg.DeadlockDetected)

NET_MS = 10
SHORTEST_LOCK_TIMEOUT_MS = 50
GENTLE_PAUSE_S, LONGEST_GENTLE_PAUSE_S = 0.02, 0.25
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
# How long an autovacuum is waited for, and how much longer than deadlock_timeout at least.
YIELD_MS, YIELD_MARGIN_MS = 2_000, 1_000


def until_free(conn: Connection, change: Change, step: Step, patience: Patience, account: EventLog) -> None:
    """Wait until no old transaction blocks the locks, or the patience is over; ``step`` shows the blockers.

    When the server refuses to show blockers, nothing fails: the locks are requested by attempts that are counted.
    Raises psycopg's errors where the connection is lost.
    """
    if not patience.wanted:
        return
    asked: set[int | None] = set()
    start = time.monotonic()

    def on_wait(holders: Sequence[Holder], left_ms: float) -> None:
        account.looking(change, step, holders, left_ms)
        if all(map(is_cancellable_autovacuum, holders)) and not {holder.pid for holder in holders} <= asked:
            asked.update(holder.pid for holder in holders)
            _ask_to_yield(conn, change, step, holders, account)

    try:
        found = lock_wait.until_free(conn, patience.wanted, patience_ms=patience.left_ms, on_wait=on_wait)
    except psycopg.Error as exc:
        if conn.closed:
            raise
        account.event("not-looked", change, step=step.number, reason=failures.one_line(exc))
        patience.looked(free=False)
        return
    patience.looked(free=found.free)
    if found.holders:
        account.looked(change, step, found, start)


def _ask_to_yield(conn: Connection, change: Change, step: Step, holders: Sequence[Holder], account: EventLog) -> None:
    """Make the server cancel the autovacuums on these objects, by waiting for them.

    Locks: ShareUpdateExclusiveLock, released at once. It blocks no reader or writer, also while we wait for it.
    Source: https://www.postgresql.org/docs/current/routine-vacuuming.html#AUTOVACUUM
    """
    for name in dict.fromkeys(holder.object for holder in holders):
        workers = [str(holder) for holder in holders if holder.object == name]
        account.event("autovacuum-asked-to-yield", change, step=step.number, object=name, holders=workers)
        lock = sql.SQL("LOCK TABLE ONLY {} IN SHARE UPDATE EXCLUSIVE MODE").format(sql.SQL(name))
        try:
            row = conn.execute("SELECT setting::int FROM pg_catalog.pg_settings WHERE name = 'deadlock_timeout'")
            waits_ms = max(YIELD_MS, int(str((row.fetchone() or (0,))[0])) + YIELD_MARGIN_MS)
            limits = {"lock_timeout_ms": waits_ms, "statement_timeout_ms": waits_ms + YIELD_MARGIN_MS}
            with connection.transaction(conn, **limits):
                conn.execute(lock)
        except psycopg.Error as exc:
            if conn.closed:
                raise
            account.event("autovacuum-did-not-yield", change, step=step.number, object=name,
                          reason=failures.one_line(exc))  # fmt: skip


def wanted(steps: Sequence[Step]) -> list[LockRequest]:
    """Return the locks of steps that block readers or writers, each with the modes it waits for; [] for none."""
    found = dict.fromkeys((lock.object, lock.mode) for step in steps for lock in step.locks if keeps_out(lock))
    return [LockRequest(name, mode, CONFLICTS[mode]) for name, mode in found]


def keeps_out(lock: LockOn) -> bool:
    """Tell whether a lock blocks readers or writers while it is held or requested."""
    return bool({"readers", "row locks", "writers"} & set(blocks(lock.mode)))


def gives_way(step: Step) -> GivesWay:
    """Return when a step gives way to a client; a batch waits too shortly for that (``online.batch_progress``)."""
    if step.is_loop:
        return ""
    return "soon" if step.policy is Policy.ALONE else "deadlock"


class Patience:
    """How a transaction requests its locks: very briefly while the patience lasts, then by counted attempts."""

    def __init__(self, steps: Sequence[Step], patience_ms: float, attempts: int) -> None:
        self.wanted = wanted(steps)
        self.attempts = attempts
        self.attempt = 1
        self._ends_at = time.monotonic() + patience_ms / 1000
        self._pause_s = GENTLE_PAUSE_S
        self._gentle = False

    @property
    def left_ms(self) -> float:
        """How long to wait for blockers now; every counted attempt waits for a moment at least."""
        return max((self._ends_at - time.monotonic()) * 1000, LAST_PATIENCE_MS)

    def looked(self, *, free: bool) -> None:
        """Take the result of the check for blockers: without any, the next request is a very brief one."""
        self._gentle = free and time.monotonic() < self._ends_at

    def lock_timeout_ms(self, step: Step) -> int:
        """Return how long a step may wait for its locks now.

        A CONCURRENTLY waits for other transactions under the same timeout, and leaves an invalid object when cut off.
        """
        if not any(keeps_out(lock) for lock in step.locks) or classify.wait_is_harmless(step.kind):
            return step.lock_timeout_ms
        if self._gentle:
            return min(step.lock_timeout_ms, NET_MS)
        if self.attempt >= self.attempts:
            return step.lock_timeout_ms
        return int(min(step.lock_timeout_ms, SHORTEST_LOCK_TIMEOUT_MS * 2 ** (self.attempt - 1)))

    def limits(self, step: Step) -> dict[str, int]:
        """Return the timeouts of a step now."""
        return {"lock_timeout_ms": self.lock_timeout_ms(step), "statement_timeout_ms": step.statement_timeout_ms}

    def again_in_s(self, *, counts: bool) -> float | None:
        """Return the pause before the next attempt, None where no attempt is left.

        A very brief request that got no lock is not counted, unless it ``counts`` for another reason (a deadlock).
        """
        if self._gentle and not counts:
            self._pause_s = min(LONGEST_GENTLE_PAUSE_S, self._pause_s * 1.5)
            return self._pause_s
        if self.attempt >= self.attempts:
            return None
        self.attempt += 1
        return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * float(2 ** (self.attempt - 2)))

    def begin_again(self) -> None:
        """Count attempts from 1 again: the last one made progress."""
        self.attempt = 1
