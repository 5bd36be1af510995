"""The swap that a permit allows: a table is made in another shape, filled, and takes the place of the live one.

Used by notebook swap. Each of these may be done again after a crash: the database says how far the swap has come.
"""

from __future__ import annotations

from collections.abc import Callable

import psycopg

from pgrunbook.branches import free_space
from pgrunbook.config.targets import Target
from pgrunbook.database.connection import Connection
from pgrunbook.database.sqlstate import said
from pgrunbook.errors import StatementFailed
from pgrunbook.execute.permit import Permit
from pgrunbook.online import cutover, swap_begin, swap_end, swap_store, swap_sync
from pgrunbook.online.cutover import TableCutover
from pgrunbook.online.swap_begin import SwappedTable
from pgrunbook.online.swap_room import NoRoomError
from pgrunbook.online.swap_shape import SwapChoice
from pgrunbook.online.swap_store import TableSwap
from pgrunbook.online.throttle import ThrottleGoals

AWAY_ATTEMPTS = 40  # while it is there, each write takes more of the room that is used up


def fill(
    conn: Connection,
    target: Target,
    permit: Permit,
    subject: str,
    choice: SwapChoice,
    table: SwappedTable | None,
    *,
    goals: ThrottleGoals,
    workers: int,
    most_log_bytes: int,
    on_part: Callable[[str, int], None],
) -> TableSwap:
    """Begin a swap where none is at work, and bring it up to its cut-over; return it.

    ``table`` is None where it is begun already. Where its room is used up, or the disk is full, it is taken away at
    once: as long as changes are noted, a full disk makes writes of the application fail.
    Raises Refused without a permit or without room on the disk, StatementFailed where it was taken away, and what
    ``online.swap_begin`` and ``online.swap_sync`` raise.
    """
    permit.check(subject, conn)
    swap = swap_store.of_table(conn, choice.table)
    if table is not None and (swap is None or swap.state.is_over):
        if target.server is not None:
            free_space.check(f"a second table {choice.table.label}", round(table.bytes * swap_begin.SPACE_TIMES))
        swap = swap_begin.begin(conn, target, choice, table, permit.run_id)
    assert swap is not None  # noqa: S101 - it was begun just now, or before
    try:
        return swap_sync.fill(
            conn, target, swap, goals=goals, workers=workers, on_part=on_part, most_log_bytes=most_log_bytes
        )
    except (NoRoomError, psycopg.errors.DiskFull) as exc:
        raise _given_up(conn, target, swap, exc) from exc


def cut_over(
    conn: Connection,
    target: Target,
    permit: Permit,
    subject: str,
    swap: TableSwap,
    *,
    keep_hours: float,
    attempts: int,
    on_attempt: Callable[[int, str], None],
) -> TableCutover:
    """Let the two tables change their places; where the disk is full before the first time, the swap is taken away.

    Raises Refused without a permit, StatementFailed where it was taken away, and as ``online.cutover``.
    """
    permit.check(subject, conn)
    try:
        return cutover.cut_over(conn, target, swap, keep_hours=keep_hours, attempts=attempts, on_attempt=on_attempt)
    except psycopg.errors.DiskFull as exc:
        if swap.is_new_live:
            raise
        raise _given_up(conn, target, swap, exc) from exc


def settle(
    conn: Connection, target: Target, permit: Permit, subject: str, swap: TableSwap, on_part: Callable[[str], None]
) -> TableSwap:
    """Validate and make anew what the cut-over has left. Raises Refused without a permit, and as ``swap_end``."""
    permit.check(subject, conn)
    return swap_end.settle(conn, target, swap, on_part)


def end(conn: Connection, target: Target, permit: Permit, subject: str, swap: TableSwap, *, away: bool) -> TableSwap:
    """Drop the old table of a swap, or take the swap away. Raises Refused without a permit, and as its parts."""
    permit.check(subject, conn)
    return swap_end.abandon(conn, target, swap) if away else swap_end.finish(conn, target, swap)


def _given_up(conn: Connection, target: Target, swap: TableSwap, exc: NoRoomError | psycopg.Error) -> StatementFailed:
    """Take a swap away that has no more room; return the error that says so."""
    why = said(exc) if isinstance(exc, psycopg.Error) else str(exc)
    swap_end.abandon(conn, target, swap_store.of_table(conn, swap.table) or swap, attempts=AWAY_ATTEMPTS)
    return StatementFailed(
        f"gave up the swap of {swap.table.label}: there is no more room for it",
        detail=f"{why[0].upper()}{why[1:]}.",
        hint=f"Make room (it takes {swap_begin.SPACE_TIMES} times what the table does), or name a time with fewer"
        " writes; then begin it again. most_log_mb lets its log grow further.",
    )
