"""The backfill that a permit allows: the trigger that keeps columns in sync comes and goes, and rows are filled."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from psycopg import errors as pg

from pgrunbook import undo_data
from pgrunbook.config.targets import Target
from pgrunbook.database import connection, lock_wait, own_schema, queries, step_log
from pgrunbook.database.connection import Connection
from pgrunbook.database.lock_wait import LAST_PATIENCE_MS, Holder, LockRequest, is_cancellable_autovacuum
from pgrunbook.display.prose import counted
from pgrunbook.errors import Blocked, Broken, Refused
from pgrunbook.execute.lock_requests import SHORTEST_LOCK_TIMEOUT_MS
from pgrunbook.execute.permit import Permit
from pgrunbook.online import backfill, backfill_trust
from pgrunbook.online.backfill import ColumnBackfill
from pgrunbook.online.backfill_run import BackfillRun, Filled
from pgrunbook.online.batch_order import Asked, BatchOrder
from pgrunbook.online.throttle import Throttle
from pgrunbook.sql.lock_modes import CONFLICTS
from pgrunbook.undo_data import Conflicts, FillCapture, OnConflict, UndoEntry
from pgrunbook.undo_data.revert_rows import LeftRows, RevertResult

OnWait = Callable[[Sequence[Holder], float], None]

log = logging.getLogger(__name__)


def install(
    conn: Connection,
    target: Target,
    made: ColumnBackfill,
    permit: Permit,
    on_wait: OnWait,
    capture: FillCapture | None = None,
) -> bool:
    """Install the trigger that keeps the columns in sync; return whether it was not there before.

    With a ``capture`` the side table for old values is made with it, and one that captures elsewhere, or not at all,
    gives way.

    Raises Refused without a permit for it, Blocked where the lock is not to be had, and psycopg's errors.
    Locks: ShareRowExclusiveLock on the table, for moments.
    """
    permit.check(made.subject, conn)
    step_log.create(conn)
    try:
        if backfill.is_in_sync(conn, made) and (capture is None or _captures(conn, made, capture)):
            return False
    except Broken as exc:
        log.info("the trigger is installed anew: %s", exc.detail)

    def installed() -> None:
        fill = made.fill
        if capture is not None:
            undo_data.begin_fill(conn, capture, datetime.now(UTC) + timedelta(days=target.keep_days))
            fill = replace(fill, captures=capture.in_trigger)
        with conn.as_target():
            conn.execute(fill.installation().encode())
        own_schema.hide(conn, *made.fill.function_names)
        backfill_trust.refuse_foreign_text(conn, made.table, made.fill)

    _locked(conn, target, made, "ShareRowExclusiveLock", installed, on_wait, "install its trigger on")
    return True


def remove(
    conn: Connection, target: Target, made: ColumnBackfill, permit: Permit, on_wait: OnWait, subject: str = ""
) -> None:
    """Take the trigger and its functions away, where they are there; ``subject`` is what was checked, if not ``made``.

    Raises as :func:`install`. Locks: AccessExclusiveLock on the table, for moments.
    """
    permit.check(subject or made.subject, conn)
    _locked(
        conn, target, made, "AccessExclusiveLock", lambda: _execute(conn, made.fill.removal()), on_wait,
        "take its trigger from",
    )  # fmt: skip


def fill(run: BackfillRun, asked: Asked, permit: Permit, *, chosen: BatchOrder | None) -> Filled:
    """Fill the rows.

    Raises Refused without a permit for it, and where the table runs code of roles that are not trusted; and what
    ``online.backfill_run`` raises.
    """
    permit.check(run.made.subject, run.conn)
    backfill_trust.refuse_foreign_code(run.conn, run.made.table)
    return run.run(asked, chosen=chosen)


def bring_back(
    conn: Connection, made: ColumnBackfill, subject: str, permit: Permit, entries: Sequence[UndoEntry],
    throttle: Throttle, *, on_conflict: OnConflict, on_rows: Callable[[int], None], left_rows: LeftRows,
    lock_timeout_ms: int,
) -> RevertResult:  # fmt: skip
    """Bring the captured values of a backfill back, in batches under the throttle; the trigger is gone before.

    Rows that somebody has changed since are left, unless ``on_conflict`` is ``restore``. The same call resumes.
    Raises Refused without a permit for it or while the trigger is there, and as ``undo_data.revert``.
    """
    permit.check(subject, conn)
    if backfill.has_trigger(conn, made):
        raise Refused(
            f"trigger {made.fill.trigger_name} would fill again what comes back",
            hint='Run cell "keep-in-sync" first: it takes the trigger away.',
        )
    done = RevertResult(0, Conflicts(0, ()))
    for one in entries:
        before = done.rows
        found = undo_data.revert(
            conn, one, on_conflict="keep" if on_conflict == "stop" else on_conflict, throttle=throttle,
            on_batch=lambda rows, before=before: on_rows(before + rows),  # type: ignore[misc]
            left_rows=left_rows, lock_timeout_ms=lock_timeout_ms,
        )  # fmt: skip
        done = RevertResult(done.rows + found.rows, done.left + found.left)
    return done


def _captures(conn: Connection, made: ColumnBackfill, capture: FillCapture) -> bool:
    """Tell whether the trigger that is there captures into this side table."""
    found = queries.rows(conn, "backfill", "captures", function=made.fill.name, kept_as=capture.side.kept_as)
    return bool(found)


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
