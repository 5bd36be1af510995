"""Checksums of a million rows: whole, in buckets and by ranges, beside what the server can do without any care."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import rounds
from ground import Ground

from pgrunbook.database import checksums
from pgrunbook.database.checksums import TableName
from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import snapshot_cursor
from pgrunbook.database.range_sums import bounded_sum

ROWS = 1_000_000
BUCKETS_GOAL = 0.6
PLAIN, BUCKETS = "sum(hash_record_extended(t, 0))", "difference: bucket sums of one side"
TABLE = TableName("public", "summed")
MADE = f"""
CREATE TABLE summed (id bigint PRIMARY KEY, n integer, words text, at timestamptz, price numeric, is_on boolean, u uuid,
    big bigint, code text, facts jsonb, day date, ratio double precision, name varchar(30), tags text[]);
INSERT INTO summed SELECT i, i % 1000, 'text of ' || i, '2026-01-01'::timestamptz + i * interval '1 s', i * 1.01,
    i % 2 = 0, md5(i::text)::uuid, i * 7, md5(i::text), jsonb_build_object('a', i), date '2020-01-01' + i % 3000,
    i / 3.0, 'v' || i, ARRAY['x', 'y' || i] FROM generate_series(1, {ROWS}) AS i
"""
QUERIES = {
    PLAIN: "SELECT count(*), sum(pg_catalog.hash_record_extended(t, 0)) FROM public.summed AS t",
    "md5(string_agg(t::text ORDER BY id))": "SELECT md5(string_agg(t::text, '' ORDER BY id)) FROM public.summed AS t",
}


def sums(ground: Ground, count: int) -> list[str]:
    """Measure them on one table without parallel workers; return the section."""
    ground.new_database()
    with ground.session() as conn:
        conn.execute("SET statement_timeout = 0")
        for statement in MADE.split(";"):
            conn.execute(statement.encode())
        conn.execute("VACUUM ANALYZE summed")
        conn.execute("SET max_parallel_workers_per_gather = 0")
        things = {name: lambda work=work: rounds.call(work) for name, work in _works(conn).items()}
        samples = rounds.interleaved(things, count)
    rows = [
        (name, f"{median(s.took_s for s in some):.2f} s", f"{1 / rounds.ratio(some, samples[PLAIN]):.2f}")
        for name, some in samples.items()
    ]
    speed = 1 / rounds.ratio(samples[BUCKETS], samples[PLAIN])
    return [
        "## Checksums",
        "",
        f"{ROWS:,} rows of 14 columns, one of them numeric, one jsonb, one an array; {count} rounds.",
        "The server's own sum takes 1.0 for 1.00, and depends on OIDs and the order of columns; ours does not.",
        "By ranges no snapshot lasts longer than one of 250,000 rows.",
        "",
        *rounds.table(["what", "took", "speed, of the server's own sum"], rows),
        "",
        rounds.goal(f"in buckets at least {BUCKETS_GOAL} of its speed", speed >= BUCKETS_GOAL, f"{speed:.2f}"),
    ]


def _works(conn: Connection) -> dict[str, Callable[[], object]]:
    asked = {name: lambda text=text: _asked(conn, text) for name, text in QUERIES.items()}
    return {
        **asked,
        "checksums": lambda: checksums.checksums(conn, [TABLE]),
        BUCKETS: lambda: _bucketed(conn),
        "by ranges of the key": lambda: bounded_sum(conn, TABLE),
    }


def _asked(conn: Connection, text: str) -> object:
    with snapshot_cursor(conn, statement_timeout_ms=checksums.STATEMENT_TIMEOUT_MS) as cursor:
        return cursor.execute(text.encode()).fetchall()


def _bucketed(conn: Connection) -> object:
    with snapshot_cursor(conn, statement_timeout_ms=checksums.STATEMENT_TIMEOUT_MS) as cursor:
        (table,) = checksums.described(cursor, [TABLE])
        return checksums.bucket_sums(cursor, table, table.types, table.key)
