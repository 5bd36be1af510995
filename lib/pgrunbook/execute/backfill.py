"""The backfill that a permit allows: the trigger that keeps columns in sync comes and goes, and rows are filled."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from psycopg import errors as pg

from pgrunbook.config.targets import Target
from pgrunbook.database import connection, lock_wait, own_schema, step_log
from pgrunbook.database.connection import Connection
from pgrunbook.database.lock_wait import LAST_PATIENCE_MS, Holder, LockRequest, is_cancellable_autovacuum
from pgrunbook.display.prose import counted
from pgrunbook.errors import Blocked, Broken
from pgrunbook.execute.lock_requests import SHORTEST_LOCK_TIMEOUT_MS
from pgrunbook.execute.permit import Permit
from pgrunbook.online import backfill
from pgrunbook.online.backfill import ColumnBackfill
from pgrunbook.online.backfill_run import BackfillRun, Filled
from pgrunbook.online.batch_order import Asked, BatchOrder
from pgrunbook.sql.lock_modes import CONFLICTS

OnWait = Callable[[Sequence[Holder], float], None]

log = logging.getLogger(__name__)


def install(conn: Connection, target: Target, made: ColumnBackfill, permit: Permit, on_wait: OnWait) -> bool:
    """Install the trigger that keeps the columns in sync; return whether it was not there before.

    Raises Refused without a permit for it, Blocked where the lock is not to be had, and psycopg's errors.
    Locks: ShareRowExclusiveLock on the table, for moments.
    """
    permit.check(made.subject, conn)
    step_log.create(conn)
    try:
        if backfill.is_in_sync(conn, made):
            return False
    except Broken as exc:
        log.info("the trigger is installed anew: %s", exc.detail)

    def installed() -> None:
        with conn.as_target():
            conn.execute(made.fill.installation().encode())
        own_schema.hide(conn, *made.fill.function_names)

    _locked(conn, target, made, "ShareRowExclusiveLock", installed, on_wait, "install its trigger on")
    return True


def remove(conn: Connection, target: Target, made: ColumnBackfill, permit: Permit, on_wait: OnWait) -> None:
    """Take the trigger and its functions away, where they are there.

    Raises as :func:`install`. Locks: AccessExclusiveLock on the table, for moments.
    """
    permit.check(made.subject, conn)
    _locked(
        conn, target, made, "AccessExclusiveLock", lambda: _execute(conn, made.fill.removal()), on_wait,
        "take its trigger from",
    )  # fmt: skip


def fill(run: BackfillRun, asked: Asked, permit: Permit, *, chosen: BatchOrder | None) -> Filled:
    """Fill the rows. Raises Refused without a permit for it, and what ``online.backfill_run`` raises."""
    permit.check(run.made.subject, run.conn)
    return run.run(asked, chosen=chosen)


def _execute(conn: Connection, text: str) -> None:
    conn.execute(text.encode())


def _locked(
    conn: Connection, target: Target, made: ColumnBackfill, mode: str, work: Callable[[], None], on_wait: OnWait,
    says: str,
) -> None:  # fmt: skip
    """Do the work in a transaction that requests a strong lock when nobody old stands in its way."""
    name = made.table.sql
    wanted = [LockRequest(name, mode, CONFLICTS[mode])]
    patience_ms, blockers = float(target.lock_patience_ms), ""
    for attempt in range(1, target.attempts + 1):
        seen = lock_wait.until_free(conn, wanted, patience_ms=patience_ms, on_wait=on_wait)
        blockers = "; ".join(map(str, seen.holders[:3])) or blockers
        if not seen.free and not all(map(is_cancellable_autovacuum, seen.holders)) and attempt == target.attempts:
            break
        lock_timeout_ms = min(target.lock_timeout_ms, SHORTEST_LOCK_TIMEOUT_MS * 2 ** (attempt - 1))
        try:
            with connection.transaction(
                conn, lock_timeout_ms=lock_timeout_ms, statement_timeout_ms=target.statement_timeout_ms
            ):
                return work()
        except (pg.LockNotAvailable, pg.DeadlockDetected) as exc:
            log.info("attempt %s of %s to %s %s: %s", attempt, target.attempts, says, name, exc)
            patience_ms = min(patience_ms, LAST_PATIENCE_MS)
    raise Blocked(
        f"could not {says} {made.table.label} in {counted(target.attempts, 'attempt')}",
        detail=f"{blockers or 'Sessions of the application use the table without a pause'}.",
        hint="Wait until these sessions have ended, or end them; then run this cell again.",
    )
