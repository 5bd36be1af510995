"""The copy of a swap: ranges of the table, each in a transaction and a snapshot of its own, several at a time.

A range is one of pages (ctid), read in order; or of the columns by which rows are to be laid out. No snapshot is older
than its range, so VACUUM cleans behind the copy. A row that is written meanwhile may be copied twice or not at all:
the log of changes has its key, and the drain behind the last range writes what is there then. Until then the new table
has no index, and nothing is unique.

Source: https://www.postgresql.org/docs/current/tidscan.html (TID Range Scan)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack
from itertools import pairwise

from psycopg import sql

from pgrunbook.config.targets import Target
from pgrunbook.database.connection import Connection, connect, transaction
from pgrunbook.database.control import Obedience
from pgrunbook.database.queries import load, rows
from pgrunbook.errors import Broken, Refused
from pgrunbook.online.change_log import filled, whole
from pgrunbook.online.swap_shape import columns
from pgrunbook.online.swap_store import SwapProgress, TableSwap

RANGE_PAGES = 4_096  # 32 MB: about a second
ORDERED_ROWS = 250_000
WORKERS = 2
COPY_TIMEOUT_MS = 3_600_000

log = logging.getLogger(__name__)


def plan_ranges(conn: Connection, swap: TableSwap) -> int:
    """Note the ranges of a table; return how many there are. Call it behind the commit of the triggers, once."""
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
    """Raise Refused for columns by which rows cannot be laid out in ranges: not there, or may be NULL."""
    there = {one.name: one for one in columns(conn, swap_oid)}
    if wrong := [name for name in order if name not in there or not there[name].is_not_null]:
        raise Refused(
            f"cannot lay rows out by {', '.join(wrong)}",
            detail="Ranges of a column that may be NULL, or that is not there, do not hold every row.",
            hint="Name columns that are NOT NULL.",
        )


def copy(
    target: Target, swap: TableSwap, on_range: Callable[[SwapProgress], None] = lambda _: None, workers: int = WORKERS
) -> SwapProgress:
    """Copy what is not copied yet, with several sessions; return what is.

    Raises psycopg's errors unchanged: ranges that are committed stay, and the same call goes on. Raises Broken where
    the table was rewritten meanwhile, Interrupted and Blocked as ``database.control``.
    Locks: AccessShareLock on the table, RowExclusiveLock on the new one, for each range.
    """
    with ExitStack() as opened:
        conns = [opened.enter_context(connect(target, purpose=f"copies {swap.table}")) for _ in range(workers)]
        with ThreadPoolExecutor(workers) as pool:
            obedience = Obedience(conns[0])
            obedience.now()
            busy = {pool.submit(_range, conn, swap): conn for conn in conns}
            while busy:
                done, _ = wait(busy, return_when=FIRST_COMPLETED)
                for one in done:
                    conn = busy.pop(one)
                    is_more = one.result()
                    on_range(progress(conn, swap))
                    if is_more:
                        if conn is conns[0]:
                            obedience.now()
                        busy[pool.submit(_range, conn, swap)] = conn
        return progress(conns[0], swap)


def progress(conn: Connection, swap: TableSwap) -> SwapProgress:
    """Return how much is copied."""
    (found,) = rows(conn, "swap", "ranges", name=swap.name)
    return SwapProgress(found["ranges"], found["copied"], found["rows"])


def _range(conn: Connection, swap: TableSwap) -> bool:
    """Copy one range in a transaction; return whether there was one."""
    with transaction(conn, lock_timeout_ms=COPY_TIMEOUT_MS, statement_timeout_ms=COPY_TIMEOUT_MS):
        conn.execute("SET LOCAL jit = off; SET LOCAL synchronous_commit = off")
        found = rows(conn, "swap", "next_range", name=swap.name)
        if not found:
            return False
        one = found[0]
        if not one["is_same"]:
            raise Broken(
                f"cannot go on copying table {swap.table}: it was rewritten meanwhile",
                detail=f"VACUUM FULL, CLUSTER or ALTER TABLE gave {one['table']} other pages since the copy began.",
                state="The table of today is whole; the new one holds part of its rows, and nobody reads it.",
                hint="Take the swap away and begin it again: the error's procedure says how.",
            )
        if swap.plan.order:
            source = whole(conn, swap.table)
            place, order = _bounds(swap.plan.order, one["first_place"], one["next_place"]), _order(swap.plan.order)
        else:
            source = sql.SQL("ONLY {}").format(sql.SQL(one["table"]))
            place, order = _pages(one["first_place"], one["next_place"]), sql.Composed([])
        names, values = filled(swap.plan.new)
        statement = sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} AS s WHERE {}{}").format(
            swap.other.identifier(), names, values, source, place, order
        )
        with conn.as_target():
            copied = conn.execute(statement).rowcount
        conn.execute(load("swap")["end_range"].encode(), {"name": swap.name, "number": one["number"], "rows": copied})
    log.info("copied range %s of %s: %s rows", one["number"], swap.table, copied)
    return True


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
        " FROM {} AS s) AS x WHERE x.pgrunbook_number % {} = 1 AND x.pgrunbook_number > 1 ORDER BY x.pgrunbook_number"
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
    parts = [
        sql.SQL("ROW({}) {} ROW({})").format(row, sql.SQL(operator), sql.SQL(", ").join(map(sql.Literal, place)))
        for operator, place in ((">=", first), ("<", following))
        if place is not None
    ]
    return sql.SQL(" AND ").join(parts) if parts else sql.SQL("true")


def _order(order: Sequence[str]) -> sql.Composed:
    return sql.SQL(" ORDER BY {}").format(sql.SQL(", ").join(sql.Identifier("s", name) for name in order))
