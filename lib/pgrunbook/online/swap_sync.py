"""The synchronisation of a swap: the table that is not live catches up with the live one, and is compared with it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import psycopg
from psycopg import sql

from pgrunbook.config.targets import Target
from pgrunbook.database.connection import Connection, transaction
from pgrunbook.database.control import Obedience
from pgrunbook.errors import Broken
from pgrunbook.online import change_log, swap_build, swap_copy, swap_room, swap_store, swap_trust
from pgrunbook.online.change_log import of_live, value, whole
from pgrunbook.online.swap_room import SwapRoom
from pgrunbook.online.swap_store import SwapState, TableSwap
from pgrunbook.online.throttle import ThrottleGoals

DRAIN_TIMEOUT_MS = 3_600_000
NEAR_NOTES = 200
MOST_ROUNDS = 1_000
MOST_ATTEMPTS = 20
SAMPLES = 5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SwapComparison:
    """How the two tables of a swap compare in one snapshot; ``samples`` are keys of rows that differ."""

    live_rows: int
    other_rows: int
    is_equal: bool
    samples: tuple[str, ...] = ()


def catch_up(
    conn: Connection, swap: TableSwap, *, near: int = NEAR_NOTES, on_drain: Callable[[int], None] = lambda _: None
) -> int:
    """Drain the log until a drain finds hardly anything; return how many notes there were in all.

    Each drain is a transaction. Raises psycopg's errors unchanged, the failed drain is aborted; Broken where writers
    are faster for good, Interrupted and Blocked as ``database.control``.
    Locks: RowExclusiveLock on the other table.
    """
    total, obedience = 0, Obedience(conn, run_id=swap.run_id)
    for _ in range(MOST_ROUNDS):
        obedience.now()
        notes = _drained(conn, swap)
        on_drain(notes)
        total += notes
        if notes <= near:
            return total
    raise Broken(
        f"could not catch up with table {swap.table.label}: it is written faster than it is copied",
        detail=f"{MOST_ROUNDS:,} rounds left more than {near:,} changes each.",
        state="The table of today is whole; the other one is behind it.",
        hint="Go on when there is less traffic.",
    )


def compare(conn: Connection, swap: TableSwap) -> SwapComparison:
    """Bring the other table up to date, and compare all rows of both in that snapshot.

    Locks: AccessShareLock on both.
    """
    swap_trust.refuse_foreign_code(conn, swap)
    with _snapshot(conn):
        change_log.drain(conn, swap)
        with conn.as_target():
            live, other = (conn.execute(query).fetchone() or (0, None) for query in _sums(conn, swap))
            counts = int(str(live[0])), int(str(other[0]))
            if live == other:
                return SwapComparison(*counts, is_equal=True)
            samples = tuple(str(row[0]) for row in conn.execute(_differing(conn, swap)))
    return SwapComparison(*counts, is_equal=False, samples=samples)


def refuse_difference(swap: TableSwap, found: SwapComparison) -> None:
    """Raise Broken where the rows of both tables are not the same."""
    if found.is_equal:
        return
    raise Broken(
        f"the two tables of the swap of {swap.table.label} hold other rows",
        detail=f"{found.live_rows:,} rows are live, {found.other_rows:,} in the other table; keys that differ: "
        f"{', '.join(found.samples) or 'none is found by its key'}.",
        state="The live table is as the application has written it; the other one is not read by anybody.",
        hint="An expression of values that gives another value each time, or a trigger that was switched off, does"
        " this: take the swap away and begin it again.",
    )


def _drained(conn: Connection, swap: TableSwap) -> int:
    """Drain once, in one snapshot; a conflict with somebody who writes the same rows is tried again."""
    swap_trust.refuse_foreign_code(conn, swap)
    for attempt in range(1, MOST_ATTEMPTS + 1):
        try:
            with _snapshot(conn):
                return change_log.drain(conn, swap)
        except psycopg.errors.SerializationFailure as exc:
            if attempt == MOST_ATTEMPTS:
                raise
            log.info("attempt %s of %s at a drain: %s", attempt, MOST_ATTEMPTS, exc.diag.message_primary)
    return 0


def drain_once(conn: Connection, swap: TableSwap, *, timeout_ms: int) -> None:
    """Bring over what is noted by now, where that takes less than this time; else it is left for the next drain.

    Raises as ``swap_trust.refuse_foreign_code``.
    Locks: RowExclusiveLock on the other table; AccessExclusiveLock where the live table was emptied.
    """
    swap_trust.refuse_foreign_code(conn, swap)
    try:
        with _snapshot(conn, timeout_ms):
            change_log.drain(conn, swap)
    except (psycopg.errors.SerializationFailure, psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled) as exc:
        log.info("changes of %s are left for the next drain: %s", swap.table, exc.diag.message_primary)


@contextmanager
def _snapshot(conn: Connection, timeout_ms: int = DRAIN_TIMEOUT_MS) -> Iterator[None]:
    with transaction(conn, lock_timeout_ms=timeout_ms, statement_timeout_ms=timeout_ms):
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SET LOCAL jit = off")
        yield


def _sums(conn: Connection, swap: TableSwap) -> tuple[sql.Composed, sql.Composed]:
    """Return the queries for count and checksum of the rows of both tables, in the columns of the other one."""
    query = sql.SQL(
        "SELECT pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashtextextended(CAST(ROW({}) AS pg_catalog.text),"
        " 0::pg_catalog.int8)) FROM {} AS {}"
    )
    live, other = _values(swap)
    return (
        query.format(live, whole(conn, swap.table), sql.Identifier("s")),
        query.format(other, whole(conn, swap.other), sql.Identifier("t")),
    )


def _differing(conn: Connection, swap: TableSwap) -> sql.Composed:
    """Return the query for the keys, as texts, of some rows that are in one table only, or differ."""
    live, other = _values(swap)
    given = dict(swap.other_side.filled)
    keys = sql.SQL(", ").join(value(given[column]) for column in swap.plan.key)
    own = sql.SQL(", ").join(sql.Identifier("t", column) for column in swap.plan.key)
    side = sql.SQL("SELECT CAST(ROW({}) AS pg_catalog.text) AS k, CAST(ROW({}) AS pg_catalog.text) AS v FROM {} AS {}")
    return sql.SQL(
        "SELECT DISTINCT coalesce(a.k, b.k) FROM ({}) AS a FULL JOIN ({}) AS b ON a.k OPERATOR(pg_catalog.=) b.k"
        " WHERE (a.v OPERATOR(pg_catalog.=) b.v) IS NOT TRUE LIMIT {}"
    ).format(
        side.format(keys, live, whole(conn, swap.table), sql.Identifier("s")),
        side.format(own, other, whole(conn, swap.other), sql.Identifier("t")),
        sql.Literal(SAMPLES),
    )


def _values(swap: TableSwap) -> tuple[sql.Composable, sql.Composable]:
    live = sql.SQL(", ").join(value(expression) for _, expression in swap.other_side.filled)
    other = sql.SQL(", ").join(sql.Identifier("t", column) for column, _ in swap.other_side.filled)
    return live, other


def notes_left(conn: Connection, swap: TableSwap) -> int:
    """Return how many changes are noted and not yet brought over."""
    return of_live(swap).noted(conn)[0]


def fill(
    conn: Connection,
    target: Target,
    swap: TableSwap,
    *,
    goals: ThrottleGoals = swap_copy.GOALS,
    workers: int = swap_copy.WORKERS,
    on_part: Callable[[str, int], None] = lambda _what, _rows: None,
    most_log_bytes: int = 0,
) -> TableSwap:
    """Bring a swap up to its cut-over: copy, catch up, build, compare; return it as it is then.

    The same call goes on where it stopped. Raises as its parts; Broken where the rows are not the same in the end,
    NoRoomError where the room is used up, as ``online.swap_room`` says.
    """
    with swap_room.watched(conn, target, swap, most_log_bytes) as room:
        return _filled(conn, target, swap, room, goals, workers, on_part)


def _filled(
    conn: Connection,
    target: Target,
    swap: TableSwap,
    room: SwapRoom,
    goals: ThrottleGoals,
    workers: int,
    on_part: Callable[[str, int], None],
) -> TableSwap:
    if swap.state is SwapState.COPYING:
        swap_copy.copy_whole(
            conn, target, swap, goals=goals, workers=workers, refuse=room.refuse,
            on_range=lambda one: on_part("copied", one.rows),
        )  # fmt: skip
        with _snapshot(conn):
            change_log.drain(conn, swap)
            swap = replace(swap, state=SwapState.BUILDING)
            swap_store.note(conn, swap)
    if swap.state is SwapState.BUILDING:
        swap = swap_build.build(conn, swap, lambda name: on_part(name, 0))
        catch_up(conn, swap, on_drain=lambda notes: on_part("replayed", notes))
        refuse_difference(swap, compare(conn, swap))
        swap = replace(swap, state=SwapState.READY)
        swap_store.note(conn, swap)
    return swap
