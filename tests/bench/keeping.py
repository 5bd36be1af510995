"""An UPDATE of many rows in batches, beside the same that keeps before-images, and giving those back."""

from __future__ import annotations

import sys
from pathlib import Path

import rounds
from ground import DATABASE, Ground, ground, temporary

from pgrunbook.database.connection import Connection
from pgrunbook.online.batches import run_batches
from pgrunbook.plan.step import Batches
from pgrunbook.undo_data import StepKey, capture_batches, entries_of_migration, revert

ROWS, BATCH_ROWS = 1_000_000, 1_000
KEEPING_GOAL, UNDO_GOAL = 1.6, 2.0
LAYOUT = """
CREATE TABLE kept_bench (
    id bigint PRIMARY KEY, a integer, b integer, c text, d text, e timestamptz, f numeric, g boolean, h bigint, i text
);
INSERT INTO kept_bench
SELECT n, n % 1000, n, 'text ' || n, 'd', now(), n / 7.0, true, n, 'some more text here'
FROM generate_series(1, {rows}) AS n;
CREATE INDEX ON kept_bench (a)
"""
UPDATE = Batches(
    schema="public",
    table="kept_bench",
    alias="kept_bench",
    statement="UPDATE kept_bench SET c = c || ' x', b = b + 1 WHERE pgrunbook_range",
    key=("id",),
    key_types=("bigint",),
    rows=BATCH_ROWS,
)

Lines = list[str]


def keep(site: Ground, count: int, rows: int = ROWS) -> Lines:
    """Measure the loop alone, the same loop keeping, and giving back, each on a new table."""
    alone: list[rounds.Sample] = []
    kept: list[rounds.Sample] = []
    undone: list[rounds.Sample] = []
    with site.autovacuum_off():
        for number in range(count):
            for is_kept in (False, True) if number % 2 == 0 else (True, False):
                with _new_table(site, rows) as conn:
                    if not is_kept:
                        alone.append(rounds.call(lambda conn=conn: run_batches(conn, UPDATE, resume_from="alone")))
                        continue
                    loop = capture_batches(conn, UPDATE, StepKey("bench", "bench", "up", 1))
                    kept.append(rounds.call(lambda conn=conn, loop=loop: run_batches(conn, loop, resume_from="kept")))
                    conn.execute("CHECKPOINT")
                    undone.append(rounds.call(lambda conn=conn: _give_back(conn, rows)))
    shown = {"UPDATE alone": alone, "the same, keeping": kept, "giving back": undone}
    rows_shown = [
        (name, *(f"{value:.1f}" for value in rounds.took(some)), f"{rounds.ratio(some, alone):.2f}")
        for name, some in shown.items()
    ]
    keeping_ratio, undo_ratio = rounds.ratio(kept, alone), rounds.ratio(undone, kept)
    return [
        "## Keeping what an UPDATE destroys",
        "",
        f"{rows:,} rows of 10 columns, one of them indexed beside the key; two columns updated, {BATCH_ROWS:,} rows at",
        f"a time, each batch committed; autovacuum off; {count} rounds.",
        "",
        *rounds.table(["", "median s", "least s", "most s", "to UPDATE alone"], rows_shown),
        "",
        rounds.goal(
            f"keeping takes at most {KEEPING_GOAL} times the UPDATE alone",
            keeping_ratio <= KEEPING_GOAL,
            f"{keeping_ratio:.2f}",
        ),
        rounds.goal(
            f"giving back takes at most {UNDO_GOAL:g} times the way there", undo_ratio <= UNDO_GOAL, f"{undo_ratio:.2f}"
        ),
    ]


def _new_table(site: Ground, rows: int) -> Connection:
    site.new_database()
    conn = site.server.connect(purpose="bench", database=DATABASE)
    conn.execute("SET statement_timeout = '600s'")
    with conn.as_target():
        conn.execute(LAYOUT.format(rows=rows).encode())
        conn.execute("VACUUM ANALYZE kept_bench")
    conn.execute("CHECKPOINT")
    return conn


def _give_back(conn: Connection, rows: int) -> None:
    (entry,) = entries_of_migration(conn, "bench", "up")
    given = revert(conn, entry)
    if given.rows != rows or given.left:
        raise RuntimeError(f"{given.rows} rows of {rows} were given back, and {given.left.rows} left")


if __name__ == "__main__":
    with temporary() as folder:
        (folder / "targets.toml").write_text("", encoding="utf-8")
        with ground(folder, Path(folder / "targets.toml")) as site:
            sys.stdout.write("\n".join(keep(site, 3, int(sys.argv[1]) if len(sys.argv) > 1 else ROWS)) + "\n")
