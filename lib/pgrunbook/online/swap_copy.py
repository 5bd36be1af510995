"""The copy of a swap: ranges of the table, each in a transaction and a snapshot of its own, several at a time.

A range is one of pages (ctid), read in order; or of the columns by which rows are to be laid out. No snapshot is older
than its range, so VACUUM cleans behind the copy. A row that is written meanwhile may be copied twice or not at all:
the log of changes has its key, and the drain behind the last range writes what is there then. Until then the new table
has no index, and nothing is unique.

A table that is emptied, or written anew (VACUUM FULL, CLUSTER), has other pages then: the copy begins again.

Source: https://www.postgresql.org/docs/current/tidscan.html (TID Range Scan)
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack
from itertools import pairwise
from typing import NamedTuple

import psycopg
from psycopg import sql

from pgrunbook.config.targets import Target
from pgrunbook.database.connection import Connection, connect, transaction
from pgrunbook.database.queries import load, rows
from pgrunbook.database.sqlstate import said
from pgrunbook.errors import Broken, Refused
from pgrunbook.online import swap_trust
from pgrunbook.online.change_log import filled, whole
from pgrunbook.online.latency import LatencyProbe
from pgrunbook.online.swap_shape import columns
from pgrunbook.online.swap_store import SwapProgress, TableSwap
from pgrunbook.online.throttle import Throttle, ThrottleGoals

RANGE_PAGES = 512  # 4 MB: about a tenth of a second
ORDERED_ROWS = 250_000
WORKERS = 2
COPY_TIMEOUT_MS = 3_600_000
GOALS = ThrottleGoals()
MOST_REFUSED = 5
MOST_COPIES = 10

log = logging.getLogger(__name__)


class RewrittenError(Exception):
    """The table has other pages than those that the ranges are of: nothing was copied of the last one."""


def copy_whole(
    conn: Connection,
    target: Target,
    swap: TableSwap,
    *,
    goals: ThrottleGoals = GOALS,
    workers: int = WORKERS,
    on_range: Callable[[SwapProgress], None] = lambda _: None,
    refuse: Callable[[], None] = lambda: None,
) -> None:
    """Plan the ranges where that was not done yet, and copy them; where the table is rewritten meanwhile, begin again.

    Raises as :func:`copy`; Broken where the table is rewritten again and again.
    Locks: as :func:`copy`; AccessExclusiveLock on the new table, which nobody uses.
    """
    for attempt in range(1, MOST_COPIES + 1):
        if not progress(conn, swap).ranges:
            plan_ranges(conn, swap)
        try:
            copy(target, swap, goals=goals, workers=workers, on_range=on_range, refuse=refuse)
            return
        except RewrittenError:
            log.info("copy %s of %s of %s begins again: it was rewritten", attempt, MOST_COPIES, swap.table)
            _forget(conn, swap)
    raise Broken(
        f"could not copy table {swap.table.label}: it was rewritten {MOST_COPIES} times meanwhile",
        detail="TRUNCATE, VACUUM FULL, CLUSTER or ALTER TABLE gave it other pages since a copy began.",
        state="The table of today is whole; the new one is empty, and nobody reads it.",
        hint="Go on when nobody does that.",
    )


def plan_ranges(conn: Connection, swap: TableSwap) -> int:
    """Note the ranges of a table; return how many there are. Call it behind the commit of the triggers."""
    order = swap.plan.order
    found = _ordered(conn, swap, order) if order else _of_pages(conn, swap)
    with conn.transaction():
        conn.execute(load("swap")["forget_ranges"].encode(), {"name": swap.name})
        for number, (relation, first, following) in enumerate(found, 1):
            conn.execute(
                load("swap")["add_range"].encode(),
                {"name": swap.name, "number": number, "relation": relation, "first": first, "next": following},
            )
    return len(found)


def refuse_order(conn: Connection, swap_oid: int, order: Sequence[str]) -> None:
    """Raise Refused for columns by which rows cannot be laid out in ranges.

    They are not there, may be NULL, or have a type of the application: its operators would be called with our rights.
    """
    there = {one.name: one for one in columns(conn, swap_oid)}
    if wrong := [name for name in order if name not in there or not there[name].is_not_null]:
        raise Refused(
            f"cannot lay rows out by {', '.join(wrong)}",
            detail="Ranges of a column that may be NULL, or that is not there, do not hold every row.",
            hint="Name columns that are NOT NULL.",
        )
    if other := [name for name in order if not there[name].is_plain]:
        raise Refused(
            f"cannot lay rows out by {', '.join(other)}",
            detail="Ranges are compared by PostgreSQL's own operators, and the type is one of the application.",
            hint="Name columns of PostgreSQL's own types.",
        )


def copy(
    target: Target,
    swap: TableSwap,
    *,
    goals: ThrottleGoals = GOALS,
    workers: int = WORKERS,
    on_range: Callable[[SwapProgress], None] = lambda _: None,
    refuse: Callable[[], None] = lambda: None,
) -> SwapProgress:
    """Copy what is not copied yet, with several sessions; return what is.

    It rests where the latency of small transactions on the table is above its goal. Raises psycopg's errors unchanged:
    ranges that are committed stay, and the same call goes on. Raises RewrittenError where the table was rewritten
    meanwhile, Interrupted and Blocked as ``online.throttle``, and what ``refuse`` raises between two ranges.
    Locks: AccessShareLock on the table, RowExclusiveLock on the new one, for each range.
    """
    with ExitStack() as opened:
        conns = [
            opened.enter_context(connect(target, purpose=f"copies {swap.table.label}")) for _ in range(workers + 1)
        ]
        first = conns.pop()
        probe = opened.enter_context(LatencyProbe(target, *swap.table, conns[0].info.backend_pid))
        throttle = Throttle(first, swap.relation, goals, probe=probe, run_id=swap.run_id, refuse=refuse)
        throttle.rest = 0.0  # who is not hurt is not spared
        pool = opened.enter_context(ThreadPoolExecutor(workers))
        throttle.turn()
        busy = {pool.submit(_range, conn, swap): conn for conn in conns}
        while busy:
            done, _ = wait(busy, return_when=FIRST_COMPLETED)
            for one in done:
                conn, found = busy.pop(one), one.result()
                if found is None:
                    continue
                throttle.worked(found.took_s / workers, found.rows)
                on_range(progress(first, swap))
                throttle.turn()
                busy[pool.submit(_range, conn, swap)] = conn
        return progress(first, swap)


def progress(conn: Connection, swap: TableSwap) -> SwapProgress:
    """Return how much is copied."""
    (found,) = rows(conn, "swap", "ranges", name=swap.name)
    return SwapProgress(found["ranges"], found["copied"], found["rows"])


def _forget(conn: Connection, swap: TableSwap) -> None:
    """Empty the new table, and forget its ranges. What was written meanwhile is noted all the same."""
    with transaction(conn, lock_timeout_ms=COPY_TIMEOUT_MS, statement_timeout_ms=COPY_TIMEOUT_MS):
        conn.execute(sql.SQL("TRUNCATE {}").format(swap.other.identifier()))
        conn.execute(load("swap")["forget_ranges"].encode(), {"name": swap.name})


class _CopiedRange(NamedTuple):
    rows: int
    took_s: float


def _range(conn: Connection, swap: TableSwap) -> _CopiedRange | None:
    """Copy one range in a transaction, None where there is none left."""
    began = time.monotonic()
    swap_trust.refuse_foreign_code(conn, swap)
    with transaction(conn, lock_timeout_ms=COPY_TIMEOUT_MS, statement_timeout_ms=COPY_TIMEOUT_MS):
        conn.execute("SET LOCAL jit = off; SET LOCAL synchronous_commit = off")
        found = rows(conn, "swap", "next_range", name=swap.name)
        if not found:
            return None
        one = found[0]
        statement = _copied(conn, swap, one["table"], one["first_place"], one["next_place"])
        with conn.as_target():
            copied = conn.execute(statement).rowcount
        # Asked under the lock of the copy: nobody can rewrite the table between the answer and the commit.
        (ended,) = rows(conn, "swap", "end_range", name=swap.name, number=one["number"], rows=copied)
        if not ended["is_same"]:
            raise RewrittenError(swap.table.label)
    log.info("copied range %s of %s: %s rows", one["number"], swap.table, copied)
    return _CopiedRange(copied, time.monotonic() - began)


def refused_rows(conn: Connection, swap: TableSwap, most: int = MOST_REFUSED) -> list[tuple[str, str]]:
    """Return keys of rows that the new table does not take, each with what the server says; nothing is changed.

    The next range is halved until single pages stand alone, then their rows. Call it when the copy has failed.
    """
    found: list[tuple[str, str]] = []
    swap_trust.refuse_foreign_code(conn, swap)
    with transaction(conn, lock_timeout_ms=COPY_TIMEOUT_MS, statement_timeout_ms=COPY_TIMEOUT_MS):
        ranges = rows(conn, "swap", "next_range", name=swap.name)
        if not ranges or swap.plan.order:
            return []
        one = ranges[0]
        (pages,) = [row["pages"] for row in rows(conn, "swap", "pages", oid=one["relation"])]
        halves = [(int(one["first_place"][0]), int(one["next_place"][0]) if one["next_place"] else pages)]
        while halves and len(found) < most:
            start, end = halves.pop()
            if start >= end or _taken(conn, _copied(conn, swap, one["table"], [str(start)], [str(end)])) is None:
                continue
            if end - start > 1:
                middle = (start + end) // 2
                halves += [(middle, end), (start, middle)]
                continue
            found += _refused_of_page(conn, swap, one["table"], start)
    return found[:most]


def _refused_of_page(conn: Connection, swap: TableSwap, table: str, page: int) -> Iterator[tuple[str, str]]:
    keys = sql.SQL(", ").join(sql.Identifier("s", column) for column in swap.plan.key)
    query = sql.SQL("SELECT s.ctid::text, CAST(ROW({}) AS pg_catalog.text) FROM ONLY {} AS s WHERE {}").format(
        keys, sql.SQL(table), _pages([str(page)], [str(page + 1)])
    )
    for place, key in conn.execute(query).fetchall():
        at = sql.SQL("s.ctid OPERATOR(pg_catalog.=) {}::pg_catalog.tid").format(sql.Literal(place))
        told = _taken(conn, _insert(swap, sql.SQL("ONLY {}").format(sql.SQL(table)), at))
        if told is not None:
            yield str(key), told


def _taken(conn: Connection, statement: sql.Composed) -> str | None:
    """Try to write rows, and take them back; return what the server says against it, None where it takes them."""
    try:
        with conn.transaction(force_rollback=True), conn.as_target():
            conn.execute(statement)
    except (psycopg.DataError, psycopg.IntegrityError) as exc:
        return said(exc)
    return None


def _copied(
    conn: Connection, swap: TableSwap, table: str, first: Sequence[str] | None, following: Sequence[str] | None
) -> sql.Composed:
    if swap.plan.order:
        place = _bounds(swap.plan.order, first, following)
        return _insert(swap, whole(conn, swap.table), sql.SQL("{}{}").format(place, _order(swap.plan.order)))
    return _insert(swap, sql.SQL("ONLY {}").format(sql.SQL(table)), _pages(first or ["0"], following))


def _insert(swap: TableSwap, source: sql.Composed, where: sql.Composed) -> sql.Composed:
    names, values = filled(swap.plan.new)
    return sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} AS s WHERE {}").format(
        swap.other.identifier(), names, values, source, where
    )


_Place = tuple[int, list[str] | None, list[str] | None]


def _of_pages(conn: Connection, swap: TableSwap) -> list[_Place]:
    """Return ranges of pages; the last of a table is open, for what is written behind its end meanwhile."""
    found: list[_Place] = []
    for row in rows(conn, "swap", "pages", oid=swap.relation):
        starts = range(0, max(1, row["pages"]), RANGE_PAGES)
        for start in starts:
            following = None if start == starts[-1] else [str(start + RANGE_PAGES)]
            found.append((row["relation"], [str(start)], following))
    return found


def _ordered(conn: Connection, swap: TableSwap, order: Sequence[str]) -> list[_Place]:
    """Return ranges of the columns by which rows are laid out: about as many rows in each."""
    as_text = sql.SQL(", ").join(sql.SQL("x.{}::text").format(sql.Identifier(name)) for name in order)
    names = sql.SQL(", ").join(sql.Identifier("s", name) for name in order)
    query = sql.SQL(
        "SELECT ARRAY[{}] FROM (SELECT {}, pg_catalog.row_number() OVER (ORDER BY {}) AS pgrunbook_number"
        " FROM {} AS s) AS x WHERE (x.pgrunbook_number OPERATOR(pg_catalog.%) {}) OPERATOR(pg_catalog.=) 1"
        " AND x.pgrunbook_number OPERATOR(pg_catalog.>) 1 ORDER BY x.pgrunbook_number"
    ).format(as_text, names, names, whole(conn, swap.table), sql.Literal(ORDERED_ROWS))
    with transaction(conn, lock_timeout_ms=COPY_TIMEOUT_MS, statement_timeout_ms=COPY_TIMEOUT_MS), conn.as_target():
        ends = [[str(part) for part in row[0]] for row in conn.execute(query) if isinstance(row[0], list)]
    places = [None, *ends, None]
    return [(swap.relation, first, following) for first, following in pairwise(places)]


def _pages(first: Sequence[str], following: Sequence[str] | None) -> sql.Composed:
    upto = sql.SQL(" AND s.ctid OPERATOR(pg_catalog.<) {}::pg_catalog.tid").format(
        sql.Literal(f"({following[0]},0)")
    ) if following else sql.SQL("")  # fmt: skip
    return sql.SQL("s.ctid OPERATOR(pg_catalog.>=) {}::pg_catalog.tid{}").format(sql.Literal(f"({first[0]},0)"), upto)


def _bounds(order: Sequence[str], first: Sequence[str] | None, following: Sequence[str] | None) -> sql.Composable:
    row = sql.SQL(", ").join(sql.Identifier("s", name) for name in order)
    compared = sql.SQL("ROW({}) OPERATOR(pg_catalog.{}) ROW({})")
    parts = [
        compared.format(row, sql.SQL(operator), sql.SQL(", ").join(map(sql.Literal, place)))
        for operator, place in ((">=", first), ("<", following))
        if place is not None
    ]
    return sql.SQL(" AND ").join(parts) if parts else sql.SQL("true")


def _order(order: Sequence[str]) -> sql.Composed:
    return sql.SQL(" ORDER BY {}").format(sql.SQL(", ").join(sql.Identifier("s", name) for name in order))
