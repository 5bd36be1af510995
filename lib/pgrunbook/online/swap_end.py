"""The end of a swap: what is settled behind a cut-over, and the old table dropped, or the swap taken away."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import psycopg
from psycopg import sql

from pgrunbook.config.targets import Target
from pgrunbook.database import lock_wait
from pgrunbook.database.connection import Connection, transaction
from pgrunbook.database.lock_wait import LockRequest
from pgrunbook.display.prose import counted
from pgrunbook.errors import Blocked, Refused
from pgrunbook.inverse.reader import CLASSES, reading
from pgrunbook.inverse.recreation import drop_and_recreate
from pgrunbook.inverse.way import NoInverseError, Way
from pgrunbook.online import swap_store, swap_trust
from pgrunbook.online.change_log import ChangeLog, whole
from pgrunbook.online.swap_store import SwapState, TableSwap
from pgrunbook.sql.lock_modes import CONFLICTS

SHORTEST_LOCK_TIMEOUT_MS = 50
VALIDATE_TIMEOUT_MS = 24 * 3_600_000
_MAKES, _WITH_DATA = "CREATE MATERIALIZED VIEW ", " WITH DATA"

log = logging.getLogger(__name__)


def settle(
    conn: Connection, target: Target, swap: TableSwap, on_part: Callable[[str], None] = lambda _: None
) -> TableSwap:
    """Validate what the cut-over has made NOT VALID, and make materialized views anew; return the swap without them.

    Each is a transaction: the same call goes on where it stopped. Raises Refused where a check of rows would run code
    of roles that are not trusted, psycopg's errors unchanged.
    Locks: ShareUpdateExclusiveLock on the table of a constraint, RowShareLock on the one that it refers to;
    AccessExclusiveLock on a materialized view, as long as its query runs.
    """
    for statement in swap.plan.validated:
        on_part(statement)
        swap_trust.refuse_foreign_code(conn, swap)
        with transaction(conn, lock_timeout_ms=target.lock_patience_ms, statement_timeout_ms=VALIDATE_TIMEOUT_MS):
            conn.execute(statement.encode())
            left = tuple(one for one in swap.plan.validated if one != statement)
            swap = replace(swap, plan=replace(swap.plan, validated=left))
            swap_store.note(conn, swap)
    for text in swap.plan.views:
        on_part(text.partition(" USING ")[0])
        with transaction(conn, lock_timeout_ms=target.lock_patience_ms, statement_timeout_ms=VALIDATE_TIMEOUT_MS):
            for statement in _made_anew(conn, text, swap.plan.views):
                with conn.as_target():
                    conn.execute(statement.encode())
            left = tuple(one for one in swap.plan.views if one != text)
            swap = replace(swap, plan=replace(swap.plan, views=left))
            swap_store.note(conn, swap)
    return swap


def _made_anew(conn: Connection, text: str, texts: Sequence[str]) -> list[str]:
    """Return the statements that drop a materialized view with all that hangs on it, and make all of it again.

    ``texts`` are those of the cut-over, which name the live table.
    """
    name = _view_of(text)
    oid = conn.oid_of("regclass", name)
    if oid is None:
        return []  # somebody has dropped it
    way, known = Way(), {_view_of(one): one for one in texts}
    with reading(conn) as reader:
        try:
            drop_and_recreate(reader, way, [(CLASSES["pg_class"], oid, 0)], f"DROP MATERIALIZED VIEW {name}")
        except NoInverseError as exc:
            raise Refused(f"cannot make materialized view {name} anew: it {exc}") from exc
    return list(_filled_by_owners([known.get(_view_of(step.sql), step.sql) for step in way.steps]))


def _filled_by_owners(statements: Sequence[str]) -> Iterator[str]:
    """Yield the statements with materialized views made empty, and filled when they have their owners.

    CREATE MATERIALIZED VIEW executes the query with our rights, REFRESH with those of the owner.
    Source: https://www.postgresql.org/docs/current/sql-refreshmaterializedview.html
    """
    filled = []
    for statement in statements:
        if (view := _view_of(statement)) and statement.endswith(_WITH_DATA):
            filled.append(f"REFRESH MATERIALIZED VIEW {view}")
            yield f"{statement.removesuffix(_WITH_DATA)} WITH NO DATA"
        else:
            yield statement
    yield from filled


def _view_of(text: str) -> str:
    """Return the name of the view that a statement creates, "" for another statement."""
    head = text.partition(" USING ")[0]
    return head.removeprefix(_MAKES) if head.startswith(_MAKES) else ""


def finish(conn: Connection, target: Target, swap: TableSwap) -> TableSwap:
    """Drop the old table, the log and our index: from now on there is no way back but a restore.

    Raises Refused before the cut-over, and where something is to be settled yet; Blocked where the lock is not to be
    had. Locks: AccessExclusiveLock on both tables, for a moment.
    """
    if swap.state is not SwapState.CUT_OVER:
        raise Refused(
            f"cannot finish the swap of {swap.table.label}: it is not cut over", detail=f"It is {swap.state}."
        )
    if swap.plan.validated or swap.plan.views:
        raise Refused(
            f"cannot finish the swap of {swap.table.label}: it is not settled",
            detail="; ".join([*swap.plan.validated, *swap.plan.views]),
        )
    return _ended(conn, target, swap, SwapState.FINISHED)


def abandon(conn: Connection, target: Target, swap: TableSwap, *, attempts: int = 0) -> TableSwap:
    """Take a swap away: the new table, the log and the triggers; in so many attempts, 0 for those of the target.

    Raises Refused where the new table is the live one, Blocked where the lock is not to be had.
    Locks: AccessExclusiveLock on the table, for a moment.
    """
    if swap.is_new_live:
        raise Refused(
            f"cannot take the swap of {swap.table.label} away: the new table is the live one",
            detail="What was written since the cut-over is brought back by swapping back first.",
        )
    return _ended(conn, target, swap, SwapState.ABANDONED, attempts)


def _ended(conn: Connection, target: Target, swap: TableSwap, state: SwapState, attempts: int = 0) -> TableSwap:
    """Drop all of it, and note that; where the disk has no room for the note, drop first: that makes room."""
    after = replace(swap, state=state)
    try:
        _locked(conn, target, swap, attempts, lambda: _drop(conn, swap, after))
    except psycopg.errors.DiskFull as exc:
        log.info("the swap of %s is dropped before that is noted: %s", swap.table, exc)
        _locked(conn, target, swap, attempts, lambda: _drop(conn, swap))
        _locked(conn, target, swap, attempts, lambda: _drop(conn, swap, after))
    return after


def _drop(conn: Connection, swap: TableSwap, after: TableSwap | None = None) -> None:
    for name in (f"changes_{swap.name}", f"changes_{swap.name}_back"):
        for statement in ChangeLog(name, swap.table, swap.plan.key, swap.live_side).drop():
            conn.execute(statement)
    conn.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(swap.other.identifier()))
    if swap.plan.has_own_index and swap.is_new_live:
        index = sql.Identifier(swap.table.schema, f"swap_{swap.name}_key")
        conn.execute(sql.SQL("DROP INDEX IF EXISTS {}").format(index))
    if after is not None:
        swap_store.note(conn, after)


def _locked(conn: Connection, target: Target, swap: TableSwap, attempts: int, work: Callable[[], None]) -> None:
    """Do the work in a transaction that locks the live table before the log, as its writers do.

    Where it locked the log first, a writer could be chosen as the victim of a deadlock. Raises Blocked.
    """
    wanted = [LockRequest(str(swap.table), "AccessExclusiveLock", CONFLICTS["AccessExclusiveLock"])]
    patience_ms, holders, attempts = float(target.lock_patience_ms), "", attempts or target.attempts
    for attempt in range(1, attempts + 1):
        is_there = conn.oid_of("regclass", str(swap.table)) is not None
        if is_there:
            seen = lock_wait.until_free(conn, wanted, patience_ms=patience_ms)
            holders = "; ".join(map(str, seen.holders[:3])) or holders
        lock_timeout_ms = min(target.lock_timeout_ms, SHORTEST_LOCK_TIMEOUT_MS * 2 ** min(attempt - 1, 16))
        try:
            with transaction(conn, lock_timeout_ms=lock_timeout_ms, statement_timeout_ms=target.statement_timeout_ms):
                if is_there:
                    conn.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(whole(conn, swap.table)))
                return work()
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as exc:
            log.info("attempt %s of %s to end the swap of %s: %s", attempt, attempts, swap.table, exc)
            patience_ms = min(patience_ms, lock_wait.LAST_PATIENCE_MS)
    raise Blocked(
        f"could not lock table {swap.table.label} to end its swap, in {counted(attempts, 'attempt')}",
        detail=f"{holders or 'Sessions of the application use the table without a pause'}.",
        hint="Wait until these sessions have ended, or end them; then do this again.",
    )
