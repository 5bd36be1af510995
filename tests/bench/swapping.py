"""A swap of a million rows: the copy beside INSERT ... SELECT with the same indexes; how long the cut-over locks."""

from __future__ import annotations

import multiprocessing
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import psycopg
import rounds
from ground import DATABASE, Ground, ground, socket_dir, temporary

from pgrunbook.config import targets
from pgrunbook.database.checksums import TableName
from pgrunbook.database.connection import connect
from pgrunbook.online import cutover, swap_begin, swap_build, swap_copy, swap_end, swap_store, swap_sync
from pgrunbook.online.swap_shape import SwapChoice
from pgrunbook.online.swap_store import TableSwap

ROWS = 1_000_000
RATE_GOAL, LOCK_GOAL_MS = 0.8, 100.0
WRITERS = 2
WARM_NOTES = 200
UNTHROTTLED_MS = 1e6  # the peer spares nobody
LAYOUT = f"""
CREATE TABLE swap_parent (id int PRIMARY KEY);
INSERT INTO swap_parent SELECT n FROM generate_series(1, 1000) AS n;
CREATE TABLE swap_bench (id bigint PRIMARY KEY, parent int NOT NULL REFERENCES swap_parent, b text, c timestamptz,
    d numeric, e text, f uuid);
INSERT INTO swap_bench SELECT n, 1 + n % 1000, 'text ' || n, now(), n / 7.0, repeat('x', 100), md5(n::text)::uuid
    FROM generate_series(1, {ROWS}) AS n;
CREATE INDEX swap_bench_parent ON swap_bench (parent);
CREATE INDEX swap_bench_f ON swap_bench (f);
CREATE TABLE swap_child (id int PRIMARY KEY, bench bigint NOT NULL REFERENCES swap_bench);
INSERT INTO swap_child SELECT n, n FROM generate_series(1, 100000) AS n;
CREATE VIEW swap_view AS SELECT b.id, p.id AS parent FROM swap_bench AS b JOIN swap_parent AS p ON p.id = b.parent
"""
# What everybody does without us: nobody may write meanwhile.
PLAIN = """
DROP TABLE IF EXISTS swap_plain;
CREATE TABLE swap_plain (LIKE swap_bench INCLUDING DEFAULTS);
INSERT INTO swap_plain SELECT * FROM swap_bench;
ALTER TABLE swap_plain ADD PRIMARY KEY (id);
CREATE INDEX ON swap_plain (parent);
CREATE INDEX ON swap_plain (f);
ANALYZE swap_plain
"""
TABLE = TableName("public", "swap_bench")

Lines = list[str]


def section(_: Path) -> str:
    """Return the section of targets.toml."""
    return f'[swapped]\nserver = "main"\ndatabase = "{DATABASE}"\n'


def swapping(site: Ground, count: int) -> Lines:
    """Measure both in turns, then a cut-over forth and back among writers; return the section."""
    site.new_database()
    with site.session() as conn:
        conn.execute("SET statement_timeout = 0")
        for statement in LAYOUT.split(";\n"):
            conn.execute(statement.encode())
    site.settle()
    plain: list[rounds.Sample] = []
    ours: list[rounds.Sample] = []
    held: list[float] = []
    notes: list[int] = []
    compared: list[float] = []
    with site.autovacuum_off():
        for number in range(count):
            for is_ours in (False, True) if number % 2 == 0 else (True, False):
                site.checkpoint()
                if is_ours:
                    swap = _begun()
                    ours.append(rounds.call(lambda swap=swap: _fill(swap)))
                    compared.append(rounds.call(_compare).took_s)
                    _cut_over_twice(held, notes)
                else:
                    plain.append(rounds.call(lambda: _plain(site)))
    speed = 1 / rounds.ratio(ours, plain)
    rows = [
        ("INSERT ... SELECT, indexes, ANALYZE", f"{median(s.took_s for s in plain):.2f} s", "1.00"),
        ("copy, catching up, indexes, ANALYZE", f"{median(s.took_s for s in ours):.2f} s", f"{speed:.2f}"),
        ("comparison of all rows in one snapshot", f"{median(compared):.2f} s", ""),
    ]
    told = (
        f"{len(held)} cut-overs forth and back, while {WRITERS} sessions write: locks held for {median(held):.0f} ms"
        f" ({min(held):.0f} to {max(held):.0f}), with up to {max(notes):,} changes brought over meanwhile."
    )
    return [
        "## A swap of a table",
        "",
        f"{ROWS:,} rows of about 200 bytes, three indexes, a foreign key in either direction, a view; {count} rounds.",
        "",
        *rounds.table(["what", "took", "speed"], rows),
        "",
        told,
        "",
        rounds.goal(f"at least {RATE_GOAL} of the speed of INSERT ... SELECT", speed >= RATE_GOAL, f"{speed:.2f}"),
        rounds.goal(f"locks held for {LOCK_GOAL_MS:.0f} ms at most", max(held) <= LOCK_GOAL_MS, f"{max(held):.0f} ms"),
    ]


def _plain(site: Ground) -> None:
    with site.session() as conn:
        conn.execute("SET statement_timeout = 0")
        for statement in PLAIN.split(";\n"):
            conn.execute(statement.encode())


def _begun() -> TableSwap:
    target = targets.load("swapped")
    with connect(target, purpose="bench") as conn:
        choice = SwapChoice(TABLE)
        return swap_begin.begin(conn, target, choice, swap_begin.look(conn, choice), "bench")


def _fill(swap: TableSwap) -> None:
    """Do what the plain way does too: without the comparison."""
    target = targets.load("swapped")
    with connect(target, purpose="bench") as conn:
        swap_copy.plan_ranges(conn, swap)
        swap_copy.copy(target, swap, goals=replace(swap_copy.GOALS, latency_ms=UNTHROTTLED_MS))
        swap_sync.catch_up(conn, swap)
        swap_store.note(conn, swap_build.build(conn, swap))


def _compare() -> None:
    with connect(targets.load("swapped"), purpose="bench") as conn:
        swap_sync.refuse_difference(_swap(conn), swap_sync.compare(conn, _swap(conn)))


def _swap(conn: object) -> TableSwap:
    found = swap_store.of_table(conn, TABLE)  # type: ignore[arg-type]
    assert found is not None
    return found


def _cut_over_twice(held: list[float], notes: list[int]) -> None:
    """Cut over and back among writers, which are processes of their own, then take the swap away."""
    target = targets.load("swapped")
    apart = multiprocessing.get_context("spawn")
    writers = [apart.Process(target=_write, args=(socket_dir(), seed * 1_000)) for seed in range(WRITERS)]
    for writer in writers:
        writer.start()
    try:
        with connect(target, purpose="bench") as conn:
            for _ in range(2):
                while swap_sync.notes_left(conn, _swap(conn)) < WARM_NOTES:
                    time.sleep(0.1)
                done = cutover.cut_over(conn, target, _swap(conn), keep_hours=1)
                held.append(done.held_ms)
                notes.append(done.notes)
                swap_end.settle(conn, target, done.swap)
    finally:
        for writer in writers:
            writer.terminate()
            writer.join()
    with connect(target, purpose="bench") as conn:
        swap_end.abandon(conn, target, _swap(conn))


def _write(host: str, number: int) -> None:
    with psycopg.connect(host=host, user="postgres", dbname=DATABASE, autocommit=True) as conn:
        while True:
            conn.execute("UPDATE public.swap_bench SET e = 'y' || e WHERE id = %s", [1 + number % ROWS])
            number += 7919


if __name__ == "__main__":
    with temporary() as folder:
        (folder / "targets.toml").write_text(section(folder))
        with ground(folder, folder / "targets.toml") as site:
            print("\n".join(swapping(site, int(sys.argv[1]) if len(sys.argv) > 1 else 2)))  # noqa: T201
