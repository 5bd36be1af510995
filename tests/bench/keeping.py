"""An UPDATE of many rows in batches, beside the same that keeps before-images, and giving those back.

And what a writer of the application pays for our triggers: while a column is copied, after it was dropped, and on rows
that a migration has inserted.
"""

from __future__ import annotations

import sys
from pathlib import Path

import rounds
from ground import DATABASE, Ground, ground, temporary

from pgrunbook.database.connection import Connection
from pgrunbook.online.batches import run_batches
from pgrunbook.plan.step import Batches, Keep
from pgrunbook.undo_data import StepKey, capture_batches, capture_statement, entries_of_migration, revert
from pgrunbook.undo_data.capture_columns import column_capture
from pgrunbook.undo_data.registry import create

ROWS, BATCH_ROWS = 1_000_000, 1_000
KEEPING_GOAL, UNDO_GOAL = 1.6, 2.0
# A write while its column is copied, and one while captured values follow their rows, to the same without us.
COPYING_GOAL, FOLLOWING_GOAL = 3.0, 2.0
# A write to rows that a migration has inserted, to the same without us.
INSERTED_GOAL = 3.0
WRITTEN_ROWS = 50_000
LAYOUT = """
CREATE TABLE kept_bench (
    id bigint PRIMARY KEY, a integer, b integer, c text, d text, e timestamptz, f numeric, g boolean, h bigint, i text
);
INSERT INTO kept_bench
SELECT n, n % 1000, n, 'text ' || n, 'd', now(), n / 7.0, true, n, 'some more text here'
FROM generate_series(1, {rows}) AS n;
CREATE INDEX ON kept_bench (a)
"""
INSERT = f"""
INSERT INTO public.kept_bench
SELECT id + {{beyond}}, a, b, c, d, e, f, g, h, i FROM public.kept_bench WHERE id <= {WRITTEN_ROWS}
"""
# What a writer does with rows from one number to below another.
WRITES = {
    "UPDATE": b"UPDATE public.kept_bench SET c = c || 'x' WHERE id >= %s AND id < %s",
    "UPDATE of the key": b"UPDATE public.kept_bench SET id = -id WHERE id >= %s AND id < %s",
    "DELETE": b"DELETE FROM public.kept_bench WHERE id >= %s AND id < %s",
}
# How many rows in one statement, and in how many statements, each committed.
SIZES = {"a row": (1, 1_000), "10,000 rows": (10_000, 1)}
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


def write(site: Ground, count: int, rows: int = ROWS) -> Lines:
    """Measure a writer of the application: alone, while a column is copied that it writes, and after its DROP."""
    names = ("b alone", "b while it is copied", "c alone", "c while values of b follow")
    took: dict[str, list[rounds.Sample]] = {name: [] for name in names}
    with site.autovacuum_off():
        for _ in range(count):
            with _new_table(site, rows) as conn:
                _write(conn, took[names[0]], "b = b + 1", 1)
                _write(conn, took[names[2]], "c = c || 'x'", 2)
                keep = Keep("column", "public.kept_bench", "b", ("id",), "integer", f"kept_{'0' * 16}")
                capture = column_capture(conn, keep, changes_type=False)
                create(conn)
                conn.execute(capture.before(BATCH_ROWS)[0].sql.encode())
                _write(conn, took[names[1]], "b = b + 1", 3)
                goes = [
                    *capture.prologue(is_large=True),
                    "ALTER TABLE public.kept_bench DROP COLUMN b",
                    *capture.epilogue(),
                ]
                with conn.transaction():
                    for statement in goes:
                        conn.execute(statement.encode())
                _write(conn, took[names[3]], "c = c || 'x'", 4)
    copying, following = (rounds.ratio(took[names[n]], took[names[n - 1]]) for n in (1, 3))
    ratios = ("", f"{copying:.2f}", "", f"{following:.2f}")
    rows_shown = [
        (name, *(f"{value:.2f}" for value in rounds.took(took[name])), ratio)
        for name, ratio in zip(names, ratios, strict=True)
    ]
    return [
        "## What a writer pays for the capture of a column",
        "",
        f"An UPDATE of {WRITTEN_ROWS:,} rows of {rows:,}; {count} rounds.",
        "",
        *rounds.table(["", "median s", "least s", "most s", "to it alone"], rows_shown),
        "",
        rounds.goal(
            f"a write to a column while it is copied takes at most {COPYING_GOAL:g} times as long",
            copying <= COPYING_GOAL,
            f"{copying:.2f}",
        ),
        rounds.goal(
            f"a write while captured values follow takes at most {FOLLOWING_GOAL:g} times as long",
            following <= FOLLOWING_GOAL,
            f"{following:.2f}",
        ),
    ]


def write_inserted(site: Ground, count: int, rows: int = ROWS) -> Lines:
    """Measure a writer of the application alone, and on rows that a migration has inserted."""
    names = [f"{write}, {size} a statement" for size in SIZES for write in WRITES]
    alone: rounds.Samples = {name: [] for name in names}
    inserted: rounds.Samples = {name: [] for name in names}
    with site.autovacuum_off():
        for _ in range(count):
            with _new_table(site, rows) as conn:
                conn.execute(INSERT.format(beyond=2 * rows).encode())
                _write_each(conn, alone, 2 * rows)
                with conn.transaction():
                    text = INSERT.format(beyond=4 * rows)
                    conn.execute(capture_statement(conn, text, StepKey("bench", "bench", "up", 1)).encode())
                _write_each(conn, inserted, 4 * rows)
    ratios = {name: rounds.ratio(inserted[name], alone[name]) for name in names}
    shown = [
        (name, *(f"{rounds.took(some[name])[0]:.2f}" for some in (alone, inserted)), f"{ratios[name]:.2f}")
        for name in names
    ]
    most = max(ratio for name, ratio in ratios.items() if ", a row" in name)
    return [
        "## What a writer pays for the capture of inserted rows",
        "",
        f"Of a table of {rows:,} rows, a migration has inserted {WRITTEN_ROWS:,}; {count} rounds.",
        "",
        *rounds.table(["", "alone: median s", "on these rows: median s", "ratio"], shown),
        "",
        rounds.goal(
            f"a write of a row that a migration has inserted takes at most {INSERTED_GOAL:g} times as long",
            most <= INSERTED_GOAL,
            f"{most:.2f}",
        ),
    ]


def _write_each(conn: Connection, samples: rounds.Samples, low: int) -> None:
    for size, (count, times) in SIZES.items():
        for what, write in WRITES.items():
            pairs = [(low + 1 + n * count, low + 1 + (n + 1) * count) for n in range(times)]
            samples[f"{what}, {size} a statement"].append(
                rounds.call(lambda write=write, pairs=pairs: [conn.execute(write, pair) for pair in pairs])
            )
            low += count * times


def _write(conn: Connection, samples: list[rounds.Sample], what: str, part: int) -> None:
    where = f"id > {part * WRITTEN_ROWS} AND id <= {(part + 1) * WRITTEN_ROWS}"
    samples.append(rounds.call(lambda: conn.execute(f"UPDATE public.kept_bench SET {what} WHERE {where}".encode())))


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
