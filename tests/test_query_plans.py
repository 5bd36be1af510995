"""How the server executes a query, and the queries that take most of its time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from conftest import connect, do, rows
from pgrunbook.config.targets import Target
from pgrunbook.database import connection, query_plans
from pgrunbook.database.connection import Connection
from pgrunbook.database.query_plans import MeasuredQuery, explained, heaviest, measured
from pgrunbook.errors import WrongInput
from scenes import session
from servers import Server, Servers

Project = Callable[..., Target]


@pytest.fixture
def target(project: Project) -> Target:
    """A table with an index, and a trigger that would be seen."""
    target = project(folder={})
    do(target, """
        CREATE TABLE a (id int PRIMARY KEY, n int); INSERT INTO a SELECT i, i FROM generate_series(1, 2000) i;
        CREATE TABLE seen (n int); ANALYZE a; CREATE SEQUENCE s;
        CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM nextval('s'); RETURN NEW; END $$;
        CREATE TRIGGER t AFTER UPDATE ON a FOR EACH ROW EXECUTE FUNCTION f();
    """)  # fmt: skip
    return target


def test_a_query_is_timed_and_its_plan_is_told_node_by_node(target: Target) -> None:
    """Node types with relation and index, the cost, the rows expected and found, the blocks touched."""
    with connect(target) as conn:
        found = measured(conn, "SELECT sum(n) FROM a WHERE id = 7")
    assert (found.error, found.plan is not None) == ("", True)
    assert found.median_ms is not None
    assert found.plan
    assert found.plan.nodes == ("Aggregate", "  Index Scan on a using a_pkey")
    assert (found.plan.rows_estimate, found.plan.rows) == (1, 1)
    assert found.plan.cost > 0
    assert found.plan.blocks


@pytest.mark.parametrize("query", ["UPDATE a SET n = 0", "WITH x AS (DELETE FROM a RETURNING n) SELECT FROM x"])
def test_a_query_that_writes_is_planned_and_executed_only_where_that_is_asked_for(target: Target, query: str) -> None:
    """Unlike the guide's EXPLAIN ANALYZE, which executes it: nothing is written, no trigger fires."""
    with connect(target) as conn:
        found = measured(conn, query)
        assert (found.error, found.median_ms, found.plan and found.plan.rows) == ("", None, None)
        assert found.plan
        assert any(node.strip() == "ModifyTable on a" for node in found.plan.nodes)
        assert rows(target, "SELECT is_called FROM s") == [(False,)]
        found = measured(conn, query, time_writes=True)
        assert found.plan
        assert found.plan.blocks
    assert (found.error, found.median_ms is not None) == ("", True)
    assert rows(target, "SELECT count(*), min(n) FROM a") == [(2000, 1)]


@pytest.mark.first_case
@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("SELECT nextval('s')", "cannot execute nextval() in a read-only transaction"),
        ("DELETE FROM a; COMMIT", "cannot insert multiple commands into a prepared statement"),
        ("SELECT FROM nowhere", 'relation "nowhere" does not exist'),
        ("SELEC", 'syntax error at or near "SELEC"'),
        ("DELETE FROM a WHERE id / 0 > 1", "division by zero"),
    ],
)
def test_what_the_server_refuses_is_told_and_nothing_is_written(target: Target, query: str, told: str) -> None:
    """Also where writes may be executed."""
    with connect(target) as conn:
        assert measured(conn, query, time_writes=True) == MeasuredQuery(None, error=told)
    assert rows(target, "SELECT count(*) FROM a") == [(2000,)]


def test_tables_without_statistics_are_found_until_they_are_analyzed(target: Target) -> None:
    """A new table with rows, and a column whose type was changed: the planner guesses."""
    do(target, 'CREATE TABLE "N w" (n int, m int); INSERT INTO "N w" VALUES (1, 2); CREATE TABLE empty (n int);'
       "ALTER TABLE a ALTER COLUMN n TYPE bigint; ALTER TABLE seen ALTER n SET STATISTICS 0;"
       "INSERT INTO seen VALUES (1)")  # fmt: skip
    with connection.connect(target) as conn:
        found = query_plans.without_statistics(conn)
        assert found == {'public."N w"': ["n", "m"], "public.a": ["n"]}
        with session(target, "LOCK TABLE a"):
            why = {"public.a": "canceling statement due to lock timeout"}
            assert query_plans.analyze(conn, list(found), lock_timeout_ms=50) == why
        assert query_plans.analyze(conn, ["public.a"], lock_timeout_ms=50) == {}
        assert query_plans.without_statistics(conn) == {}


def test_a_table_of_somebody_else_is_not_told_to_be_analyzed(target: Target) -> None:
    """The server passes over it with a warning."""
    told = 'permission denied to analyze "seen", skipping it'
    do(target, "CREATE ROLE looker LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO looker;"
       "INSERT INTO seen VALUES (1)")  # fmt: skip
    try:
        with Connection.connect(**{**target.conninfo(), "user": "looker"}, autocommit=True) as conn:
            assert query_plans.without_statistics(conn) == {"seen": ["n"]}
            assert query_plans.analyze(conn, ["seen"], lock_timeout_ms=50) == {"seen": told}
    finally:
        do(target, "DROP OWNED BY looker; DROP ROLE looker")


def test_without_the_extension_it_says_so(target: Target) -> None:
    """And where the extension is there, but its library is not loaded."""
    with connect(target) as conn:
        assert heaviest(conn, most=5) == ({}, "pg_stat_statements is not installed")
        conn.execute("CREATE EXTENSION pg_stat_statements")
        found, why = heaviest(conn, most=5)
        assert (found, why[:42]) == ({}, "pg_stat_statements could not be read: pg_s"[:42])


@pytest.fixture
def counting(version: int, servers: Servers) -> Iterator[tuple[Server, str]]:
    """A database on a server that counts statements."""
    server = servers.get(version, shared_preload_libraries="pg_stat_statements")
    with server.copied("counted", "template1") as name:
        server.run(name, 'CREATE SCHEMA "S x"', 'CREATE EXTENSION pg_stat_statements SCHEMA "S x"',
                   "CREATE TABLE a (id int PRIMARY KEY)", "INSERT INTO a SELECT generate_series(1, 100)")  # fmt: skip
        yield server, name


@pytest.mark.slow
@pytest.mark.every_version
def test_the_heaviest_queries_are_those_that_the_server_counts(counting: tuple[Server, str], version: int) -> None:
    """Their calls and times; a plan without values from 16 on, but for what other users wrote; none of ours."""
    server, name = counting
    with server.connect(name) as conn:
        for number in range(6):
            conn.execute(f"SELECT count(*), pg_sleep(0.01) FROM a WHERE id > {number}".encode())
            conn.execute("SELECT count(*), pg_sleep(0.05) FROM pg_class JOIN pg_proc ON true LIMIT 1")  # a tool's
        conn.execute("INSERT INTO a SELECT n FROM generate_series(1000, 90000) n")  # a load, once
        conn.execute("CREATE ROLE other; GRANT ALL ON a TO other; SET ROLE other")
        for _ in range(5):
            conn.execute("SELECT id, pg_sleep(0.05) FROM a LIMIT 1")
        conn.execute("RESET ROLE")
        found, why = heaviest(conn, most=2)
        assert why == ""
        first, second = found.values()
        assert [(q.query.split(",")[0], q.calls) for q in (first, second)] == [("SELECT id", 5), ("SELECT count(*)", 6)]
        assert first.plan is None
        assert (second.plan is not None) == (version >= 16)
        assert second.total_ms >= 60
        again, _ = heaviest(conn, most=10, ids=list(found)[1:])
        assert [q.calls for q in again.values()] == [6]
        conn.execute("DROP OWNED BY other; DROP ROLE other")
        with pytest.raises(psycopg.Error):
            conn.execute("SELECT 1/0 AS pgrunbook")


@pytest.mark.first_case
@pytest.mark.parametrize(
    "query",
    [
        "UPDATE a SET n = 0", "WITH x AS (DELETE FROM a RETURNING n) SELECT FROM x", "INSERT INTO a VALUES (0, 0)",
        "SELECT n FROM a WHERE id = 7 FOR UPDATE", "CREATE TABLE made AS SELECT n FROM a", "SELECT sum(n) FROM a",
        "MERGE INTO a USING (SELECT 7 AS id) x ON x.id = a.id WHEN MATCHED THEN DELETE", "DELETE FROM a",
    ],
)  # fmt: skip
def test_what_is_explained_is_executed_once_where_asked_and_aborted(target: Target, query: str) -> None:
    """In the server's own words; without execution it says what it expects, and nothing of what it found."""
    with connection.connect(target) as conn:
        planned = explained(conn, query, execute=False, timeout_ms=5_000)
        assert "cost=" in planned
        assert "actual" not in planned
        assert rows(target, "SELECT is_called FROM s") == [(False,)], "no trigger has fired"
        executed = explained(conn, query, execute=True, timeout_ms=5_000)
    assert "actual" in executed
    assert "Execution Time" in executed
    assert rows(target, "SELECT count(*), min(n), to_regclass('made') FROM a") == [(2000, 1, None)]


@pytest.mark.parametrize("query", ["", "-- nothing", "SELECT 1; DROP TABLE a", "SELECT FROM", ";"])
def test_what_is_not_one_statement_is_not_explained(target: Target, query: str) -> None:
    """Whatever stands behind a semicolon would run, and not be aborted."""
    with connection.connect(target) as conn, pytest.raises(WrongInput, match="EXPLAIN takes one statement"):
        explained(conn, query, execute=True, timeout_ms=5_000)
    assert rows(target, "SELECT count(*) FROM a") == [(2000,)]


@pytest.mark.parametrize("query", ["DROP TABLE a", "COPY a TO STDOUT", "VACUUM a", "COMMIT", "ANALYZE SELECT 1"])
def test_what_the_server_does_not_explain_is_refused_by_it(target: Target, query: str) -> None:
    """And nothing of it is done."""
    with connection.connect(target) as conn, pytest.raises((psycopg.Error, WrongInput)):
        explained(conn, query, execute=True, timeout_ms=5_000)
    assert rows(target, "SELECT count(*) FROM a") == [(2000,)]
