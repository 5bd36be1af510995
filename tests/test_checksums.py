"""Checksums and differences of tables, on every PostgreSQL that this machine has."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import psycopg
import pytest
from psycopg import sql

from pgrunbook.database import checksums as data
from pgrunbook.database.checksums import Sample, TableDifference, TableName, TableSum, checksums, difference
from pgrunbook.errors import WrongInput
from servers import VERSIONS, Server, Servers

Make = Callable[..., str]

T, U = TableName("public", "t"), TableName("public", "u")
TYPES = (
    "CREATE TYPE mood AS ENUM ('sad', 'ok')",
    "CREATE TYPE pair AS (a integer, b mood)",
    "CREATE DOMAIN price AS numeric",
    "CREATE DOMAIN cheap AS price",
)

DIFFERENT = [
    ("numeric", "1.0", "1.00"),
    ("numeric", "NaN", "Infinity"),
    ("numeric[]", "{1.0}", "{1.00}"),
    ("cheap", "1.0", "1.00"),
    ("numrange", "[1.0,2)", "[1.00,2)"),
    ("jsonb", '{"a": 1.0}', '{"a": 1.00}'),
    ("json", '{"a":1}', '{"a": 1}'),
    ("double precision", "0", "-0"),
    ("double precision", "0.1", "0.10000000000000002"),
    ("real", "0", "-0"),
    ("double precision[]", "{0}", "{-0}"),
    ("interval", "24 hours", "1 day"),
    ("interval", "30 days", "1 month"),
    ("text", "", None),
    ("text", "a", "a "),
    ("varchar(9)", "a", "A"),
    ("bpchar", "a", "a "),
    ("text[]", "{}", None),
    ("text[]", "{NULL}", '{"NULL"}'),
    ("integer[]", "{1}", "[0:0]={1}"),
    ("pair", "(,)", None),
    ("pair", "(1,sad)", "(1,ok)"),
    ("pair", "(1,)", "(,ok)"),
    ("mood", "sad", "ok"),
    ("mood[]", "{sad,ok}", "{ok,sad}"),
    ("point", "(0,1)", "(1,0)"),
    ("money", "1.00", "1.01"),
    ("bit(3)", "101", "100"),
    ("tsvector", "a b", "a c"),
    ("bytea", "\\x00", "\\x0000"),
    ("boolean", "true", "false"),
    ("uuid", "00000000-0000-0000-0000-000000000000", "00000000-0000-0000-0000-000000000001"),
    ("timestamptz", "2026-01-01 00:00:00+00", "2026-01-01 00:00:00.000001+00"),
    ("timetz", "01:00:00+01", "00:00:00+00"),
    ("inet", "10.0.0.1/32", "10.0.0.1/31"),
    ("regclass", "pg_class", "pg_type"),
    ("bigint", "0", "4294967297"),
]
SAME = [
    ("jsonb", '{"a": 1, "b": 2}', '{"b":2,"a":1}'),
    ("timestamptz", "2026-01-01 01:00:00+01", "2026-01-01 00:00:00+00"),
    ("numeric", "1.0", "01.0"),
    ("mood", "ok", "ok"),
    ("pair", "(1,ok)", "( 1,ok)"),
    ("regclass", "pg_class", "pg_catalog.pg_class"),
]


def _sum(server: Server, name: str, table: TableName = T) -> TableSum:
    with server.connect(name) as conn:
        return checksums(conn, [table])[table]


def _difference(server: Server, a: str, b: str, table: TableName = T, samples: int = 10) -> TableDifference:
    with server.connect(a) as conn_a, server.connect(b) as conn_b:
        return difference(conn_a, conn_b, table, samples=samples)


def _values(server: Server, name: str, number: int, type_: str, value: str | None) -> TableName:
    table = TableName("public", f"v{number}")
    with server.connect(name) as conn:
        conn.execute(f"CREATE TABLE v{number} (id integer PRIMARY KEY, v {type_})")
        conn.execute(sql.SQL("INSERT INTO {} VALUES (1, {})").format(table.identifier(), sql.Literal(value)))
    return table


@pytest.mark.slow
@pytest.mark.newest
def test_values_that_an_application_can_tell_apart_differ(server: Server, database: Make) -> None:
    """What looks different is different, also where the type's own equality or hash says otherwise."""
    a, b = database(*TYPES), database("CREATE TYPE before AS ENUM ('x')", *TYPES)
    for number, (type_, left, right) in enumerate(DIFFERENT):
        table = _values(server, a, number, type_, left)
        _values(server, b, number, type_, right)
        assert _sum(server, a, table) != _sum(server, b, table), (type_, left, right)
        assert _difference(server, a, b, table) == TableDifference(0, 1, 0, (Sample("changed", "1"),)), type_


@pytest.mark.slow
def test_values_that_look_the_same_are_equal(server: Server, database: Make) -> None:
    """Ways of writing a value, and the OIDs of a database's own types, do not count."""
    a, b = database(*TYPES), database("CREATE TYPE before AS ENUM ('x')", *TYPES)
    for number, (type_, left, right) in enumerate(SAME):
        table = _values(server, a, number, type_, left)
        _values(server, b, number, type_, right)
        assert _sum(server, a, table) == _sum(server, b, table), (type_, left, right)
        assert not _difference(server, a, b, table), type_


def test_texts_that_a_collation_takes_for_equal_differ(server: Server, database: Make) -> None:
    """A nondeterministic collation does not hide a changed letter."""
    name = database()
    try:
        server.run(name, "CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("built without ICU")
    server.run(name, "CREATE TABLE t (v text COLLATE ci)", "INSERT INTO t VALUES ('a')")
    before = _sum(server, name)
    server.run(name, "UPDATE t SET v = 'A'")
    assert _sum(server, name) != before


def test_order_of_columns_and_rows_does_not_count(server: Server, database: Make) -> None:
    """A table that was rebuilt with its columns elsewhere, its rows in another order and gaps, compares equal."""
    a = database(
        "CREATE TABLE t (id integer PRIMARY KEY, a text, b numeric)",
        "INSERT INTO t SELECT n, n, n FROM generate_series(1, 50) n",
    )
    b = database(
        "CREATE TABLE t (b numeric, gone integer, a text, id integer PRIMARY KEY)",
        "ALTER TABLE t DROP COLUMN gone",
        "INSERT INTO t (id, a, b) SELECT n, n, n FROM generate_series(50, 1, -1) n",
    )
    assert _sum(server, a) == _sum(server, b)
    assert not _difference(server, a, b)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE t SET a = b, b = a WHERE id = 1",
        "UPDATE t SET a = CASE id WHEN 1 THEN 'p2' ELSE 'p1' END WHERE id < 3",
        "UPDATE t SET id = 9 WHERE id = 3",
        "DELETE FROM t WHERE id = 1",
        "INSERT INTO t SELECT 100 + id, a, b FROM t WHERE id = 1",
    ],
)
def test_values_that_changed_places_show(server: Server, database: Make, change: str) -> None:
    """Swapped between columns or rows, moved to another key, lost, doubled: the sum is another one."""
    rows = "INSERT INTO t SELECT n, 'p' || n, 'q' || n FROM generate_series(1, 4) n"
    name = database("CREATE TABLE t (id integer PRIMARY KEY, a text, b text)", rows)
    before = _sum(server, name)
    server.run(name, change)
    assert _sum(server, name) != before


def test_each_row_is_counted_once(server: Server, database: Make) -> None:
    """Partitions count with their parent, inheriting tables on their own, views and left out tables not at all."""
    name = database(
        "CREATE SCHEMA pgrunbook CREATE TABLE steps (a integer)",
        "CREATE TABLE migrations (a integer)",
        "CREATE TABLE p (a integer) PARTITION BY LIST (a)",
        "CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1)",
        "CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2)",
        "INSERT INTO p VALUES (1), (2), (2)",
        "CREATE TABLE parent (a integer)",
        "CREATE TABLE child () INHERITS (parent)",
        "INSERT INTO parent VALUES (1)",
        "INSERT INTO child VALUES (1), (2)",
        'CREATE TABLE "Odd ""table""" ("select" integer, "Ü %s {}" text)',
        'INSERT INTO "Odd ""table""" VALUES (1, NULL)',
        "CREATE TABLE nothing ()",
        "INSERT INTO nothing DEFAULT VALUES",
        "CREATE VIEW v AS SELECT * FROM p",
    )
    with server.connect(name) as conn:
        found = checksums(conn, leave_out=("pgrunbook", "public.migrations"))
        partition = checksums(conn, [TableName("public", "p1")])
    assert {str(table): summed.rows for table, summed in found.items()} == {
        '"public"."Odd ""table"""': 1,
        '"public"."child"': 2,
        '"public"."nothing"': 1,
        '"public"."p"': 3,
        '"public"."parent"': 1,
    }
    assert [summed.rows for summed in partition.values()] == [1]


def test_empty_table_has_a_sum_too(server: Server, database: Make) -> None:
    """No rows are 0 rows with sum 0, and two empty tables do not differ."""
    name = database("CREATE TABLE t (a integer, b json)")
    assert _sum(server, name) == TableSum(0, "0")
    assert _difference(server, name, name) == TableDifference(0, 0, 0, ())


def test_a_table_that_was_seen_empty_is_summed_where_rows_came(server: Server, database: Make) -> None:
    """It is counted first, and what was counted may have changed since it was seen."""
    name = database("CREATE TABLE t (id integer)", "CREATE TABLE u (id integer)", "INSERT INTO u VALUES (1), (2)")
    with server.connect(name) as conn:
        tables = list(data.summed_tables(conn, [T, U]).values())
        found = data.sums_of(conn, tables, without_rows={T, U})
        assert found == data.sums_of(conn, tables) == checksums(conn)
    assert (found[T], found[U].rows) == (TableSum(0, "0"), 2)


def test_versions_of_postgresql_sum_alike(servers: Servers) -> None:
    """A branch on another major version can be compared with its origin."""
    columns = ", ".join(f"c{n} {type_}" for n, (type_, _, _) in enumerate(DIFFERENT))
    sums = set()
    for server in map(servers.get, VERSIONS):
        with server.copied("sum_alike", "template1") as name:
            server.run(name, *TYPES, f"CREATE TABLE t ({columns})")
            with server.connect(name) as conn:
                for side in (1, 2):
                    values = sql.SQL(", ").join(sql.Literal(row[side]) for row in DIFFERENT)
                    conn.execute(sql.SQL("INSERT INTO t VALUES ({})").format(values))
            sums.add(_sum(server, name))
    assert len(sums) == 1


def test_all_tables_are_summed_at_one_moment(server: Server, database: Make) -> None:
    """Rows that move between two tables meanwhile are seen exactly once."""
    name = database(
        "CREATE TABLE a (n integer)", "CREATE TABLE b (n integer)", "INSERT INTO a SELECT generate_series(1, 100)"
    )
    done = threading.Event()

    def move() -> None:
        with server.connect(name) as conn:
            while not done.is_set():
                conn.execute("WITH gone AS (DELETE FROM a RETURNING n) INSERT INTO b SELECT n FROM gone")
                conn.execute("WITH gone AS (DELETE FROM b RETURNING n) INSERT INTO a SELECT n FROM gone")

    mover = threading.Thread(target=move)
    mover.start()
    try:
        with server.connect(name) as conn:
            for _ in range(30):
                assert sum(summed.rows for summed in checksums(conn).values()) == 100
    finally:
        done.set()
        mover.join()


def test_rows_behind_a_policy_are_not_passed_over(server: Server, database: Make) -> None:
    """A role that would see a part of the rows gets an error instead of their sum."""
    secure = ("ALTER TABLE t ENABLE ROW LEVEL SECURITY", "GRANT SELECT ON t TO runbook_reader")
    name = database("CREATE TABLE t (a integer)", *secure)
    with server.connect(name) as conn:
        conn.execute("SET ROLE runbook_reader")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            checksums(conn)


KEYS = [
    ("id integer PRIMARY KEY", "{n}", "{n}"),
    ("id uuid PRIMARY KEY", "'00000000-0000-0000-0000-{n:012d}'", "00000000-0000-0000-0000-{n:012d}"),
    ('"The ""Key""" text PRIMARY KEY', "'k, {n}'", "k, {n}"),
    ("b text, a integer, PRIMARY KEY (a, b)", "'x {n}', {n}", '({n},"x {n}")'),
    ("id mood[] PRIMARY KEY, n integer", "array_fill('ok'::mood, array[{n}]), 0", None),
    ("id numeric PRIMARY KEY", "{n}.50", "{n}.50"),
]


@pytest.mark.first_case
@pytest.mark.parametrize(("columns", "value", "told"), KEYS)
def test_rows_are_matched_by_any_kind_of_key(
    server: Server, database: Make, columns: str, value: str, told: str | None
) -> None:
    """One row missing, one changed, one new are told so, with their keys."""
    create = (*TYPES, f"CREATE TABLE t ({columns}, v json)")
    rows = [f"INSERT INTO t VALUES ({value.format(n=n)}, '1')" for n in range(1, 9)]
    a = database(*create, *rows[:7])
    b = database(*create, *rows[:2], rows[2].replace("'1')", "'2')"), *rows[4:])
    found = _difference(server, a, b)
    assert (found.missing, found.changed, found.new) == (1, 1, 1)
    if told is not None:
        expected = {("missing", told.format(n=4)), ("changed", told.format(n=3)), ("new", told.format(n=8))}
        assert {(sample.change, sample.key) for sample in found.samples} == expected


def test_rows_without_key_are_counted(server: Server, database: Make) -> None:
    """Without a primary key equal rows count as often as they are there; a changed one is missing and new."""
    insert = "INSERT INTO t (a, b) VALUES "
    a = database("CREATE TABLE t (a integer, b point)", insert + "(1, '(1,1)'), (1, '(1,1)'), (2, NULL), (3, NULL)")
    b = database("CREATE TABLE t (b point, a integer)", insert + "(1, '(1,1)'), (2, NULL), (2, NULL), (4, NULL)")
    found = _difference(server, a, b)
    assert (found.missing, found.changed, found.new) == (2, 0, 2)
    assert set(found.samples) == {
        Sample("missing", '(1,"(1,1)")'),
        Sample("missing", "(3,)"),
        Sample("new", "(2,)"),
        Sample("new", "(4,)"),
    }


@pytest.mark.first_case
@pytest.mark.parametrize("seed", range(3))
def test_counts_are_exact_whatever_differs(server: Server, database: Make, seed: int) -> None:
    """Random tables: the counts are those of a comparison in Python, and every sample is true."""
    chance = random.Random(seed)  # noqa: S311 - test data
    left = {n: chance.randrange(3) for n in chance.sample(range(9000), 5000)}
    right = {n: v if chance.random() < 0.7 else chance.randrange(3) for n, v in left.items() if chance.random() < 0.9}
    right |= {n: 1 for n in range(8900, 9100) if n not in left}
    names = []
    for rows in (left, right):
        names.append(database("CREATE TABLE t (id integer PRIMARY KEY, v integer)"))
        with server.connect(names[-1]) as conn, conn.cursor().copy("COPY t FROM STDIN") as copy:
            for row in rows.items():
                copy.write_row(row)
    found = _difference(server, *names, samples=100)
    changed = {n for n in left.keys() & right.keys() if left[n] != right[n]}
    truth = {"missing": left.keys() - right.keys(), "changed": changed, "new": right.keys() - left.keys()}
    assert (found.missing, found.changed, found.new) == tuple(map(len, truth.values()))
    assert len(found.samples) == 100
    assert all(int(sample.key) in truth[sample.change] for sample in found.samples)


def test_filled_and_empty_tables_differ_in_all_rows(server: Server, database: Make) -> None:
    """More rows than one fetch holds, and few samples."""
    a = database("CREATE TABLE t (id integer PRIMARY KEY)", "INSERT INTO t SELECT generate_series(1, 25000)")
    b = database("CREATE TABLE t (id integer PRIMARY KEY)")
    found = _difference(server, a, b, samples=3)
    assert (found.missing, found.changed, found.new, len(found.samples)) == (25000, 0, 0, 3)
    assert _difference(server, b, a).new == 25000


def test_column_of_another_type_is_compared_by_what_it_shows(server: Server, database: Make) -> None:
    """An integer that became a bigint, and a varchar that became a text, hold the same rows."""
    a = database("CREATE TABLE t (id integer PRIMARY KEY, v varchar(9))", "INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    b = database("CREATE TABLE t (id bigint PRIMARY KEY, v text)", "INSERT INTO t VALUES (1, 'a'), (2, 'c')")
    assert _difference(server, a, b) == TableDifference(0, 1, 0, (Sample("changed", "2"),))


def test_key_of_another_order_or_locale_does_not_matter(server: Server, database: Make) -> None:
    """Both sides are read in the order of hashes, so that the databases' collations do not count."""
    rows = "INSERT INTO t SELECT chr(60 + n) || 'é' || n, n FROM generate_series(1, 60) n"
    create = "CREATE TABLE t (k text COLLATE {} PRIMARY KEY, v integer)"
    a = database(create.format('"C"'), rows)
    b = database(create.format('"C.utf8"'), rows, "UPDATE t SET v = 0 WHERE v = 7")
    assert _difference(server, a, b) == TableDifference(0, 1, 0, (Sample("changed", "Cé7"),))


def test_table_that_is_not_there_is_named(server: Server, database: Make) -> None:
    """The error names the table, and no database: it may be a branch's, which nobody knows."""
    name = database()
    with pytest.raises(WrongInput) as error:
        _sum(server, name)
    assert str(error.value) == (
        'could not find table "public"."t"\nDetail: No table, partitioned table or materialized view has that name.\n'
        "State: Nothing changed in the database."
    )


def test_tables_with_other_columns_are_not_compared(server: Server, database: Make) -> None:
    """Rows of different shape are a matter of the schema."""
    a, b = database("CREATE TABLE t (a integer, b integer)"), database("CREATE TABLE t (a integer, c integer)")
    with pytest.raises(WrongInput) as error:
        _difference(server, a, b)
    assert str(error.value) == (
        'cannot compare the rows of table "public"."t"\nDetail: Only one side has the columns b, c.\n'
        "State: Nothing changed in the database.\nHint: Compare the schemas first."
    )


def test_buckets_are_a_power_of_two() -> None:
    """The bucket of a row is taken from its hash by a bit mask."""
    assert data._BUCKETS & (data._BUCKETS - 1) == 0


def test_shared_columns_are_compared_and_the_others_are_named(server: Server, database: Make) -> None:
    """After a migration the rows can still be compared with those before it, and nothing is passed over silently."""
    a = database("CREATE TABLE t (id int PRIMARY KEY, a text, o int)", "INSERT INTO t VALUES (1, 'x', 1), (2, 'y', 2)")
    b = database("CREATE TABLE t (id int PRIMARY KEY, a text, n int)", "INSERT INTO t VALUES (1, 'x', 9), (2, 'z', 9)")
    with server.connect(a) as old, server.connect(b) as now:
        found = difference(old, now, T, shared_columns=True)
    assert found == TableDifference(0, 1, 0, (Sample("changed", "2"),), ("n", "o"))
