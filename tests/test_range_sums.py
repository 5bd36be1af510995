"""Checksums of large tables of a living database, by ranges of the key."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from psycopg.pq import TransactionStatus

from pgrunbook.database.checksums import TableName, checksums
from pgrunbook.database.range_sums import bounded_sum, range_sums
from servers import Server

Make = Callable[..., str]
# Table, and the number of groups of three rows that ten rows are read in.
TABLES = {
    "a (id int PRIMARY KEY, v text)": ("a", "SELECT n, 'v' || n FROM generate_series(-4, 5) n", 4),
    '"B c" ("I %s d" text COLLATE "C" PRIMARY KEY)': ("B c", "SELECT 'ü%s''' || n FROM generate_series(1, 10) n", 4),
    "b (n numeric, t timestamptz, d float8, PRIMARY KEY (t, n, d))": (
        "b", ("SELECT n / 3.0, '2026-11-29'::timestamptz + (n % 2) * interval '1 us',"
             " CASE n WHEN 1 THEN 'NaN' ELSE n / 7.0 END::float8 FROM generate_series(1, 10) n"), 4,
    ),
    "p (id uuid, PRIMARY KEY (id)) PARTITION BY HASH (id)": (
        "p", "SELECT pg_catalog.gen_random_uuid() FROM generate_series(1, 10)", 4,
    ),
    "keyless (n int)": ("keyless", "SELECT 1 FROM generate_series(1, 10)", 1),
    "fixed (c character(5) PRIMARY KEY)": ("fixed", "SELECT 'x' || n FROM generate_series(1, 10) n", 1),
    "exact (id bigint PRIMARY KEY)": ("exact", "SELECT generate_series(1, 9)", 4),
    "nothing (id int PRIMARY KEY)": ("nothing", "SELECT 1 WHERE false", 1),
}  # fmt: skip


@pytest.mark.newest
def test_the_sum_of_all_ranges_is_that_of_the_table(server: Server, database: Make) -> None:
    """For keys of every kind of type, composite, quoted, partitioned, and for tables without one."""
    name = database(*(f"CREATE TABLE {table}" for table in TABLES),
                    "CREATE TABLE p_0 PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
                    "CREATE TABLE p_1 PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
                    *(f'INSERT INTO "{table}" {rows}' for table, rows, _ in TABLES.values()))  # fmt: skip
    with server.connect(name) as conn:
        for table, _, groups in TABLES.values():
            named = TableName("public", table)
            assert len(list(range_sums(conn, named, group_rows=3))) == groups, table
            assert bounded_sum(conn, named, group_rows=3) == checksums(conn, [named])[named], table
        named = TableName("public", "a")
        without = checksums(conn, [named], without={named: ["v"]})[named]
        assert bounded_sum(conn, named, without=["v"], group_rows=3) == without


@pytest.mark.newest
def test_no_snapshot_is_kept_from_one_range_to_the_next(server: Server, database: Make) -> None:
    """What is written ahead of it counts as it is when its range is read; VACUUM may clean behind it."""
    rows = "INSERT INTO a SELECT n, n FROM generate_series(1, 9) n"
    name = database("CREATE TABLE a (id int PRIMARY KEY, v int)", rows)
    table = TableName("public", "a")
    with server.connect(name) as conn, server.connect(name) as other:
        groups = range_sums(conn, table, group_rows=3)
        found = [next(groups)]
        assert conn.info.transaction_status == TransactionStatus.IDLE
        other.execute("UPDATE a SET v = 0 WHERE id = 8")
        other.execute("DELETE FROM a WHERE id = 5")
        found += groups
        now = checksums(conn, [table])[table]
    assert (sum(g.rows for g in found), str(sum(int(g.checksum) for g in found))) == (8, now.checksum)
