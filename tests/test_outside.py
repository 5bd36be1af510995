"""Which statements reach outside of their database, by their trees and by what is in the catalog."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conftest import do
from pgrunbook.config.targets import Target
from pgrunbook.database.connection import connect
from pgrunbook.database.facts import Facts
from pgrunbook.plan.step import OUTSIDE
from pgrunbook.safe_forms import outside as gate
from pgrunbook.safe_forms.expander import Expander
from pgrunbook.sql import outside
from pgrunbook.sql.statements import parse
from pgrunbook.sql.tree import tree

Project = Callable[..., Target]
REACHES = [
    "CREATE SUBSCRIPTION s CONNECTION 'host=a' PUBLICATION p",
    "CREATE SUBSCRIPTION s CONNECTION 'host=a' PUBLICATION p WITH (enabled = false)",
    "CREATE SUBSCRIPTION s CONNECTION 'host=a' PUBLICATION p WITH (connect = true)",
    "ALTER SUBSCRIPTION s ENABLE",
    "ALTER SUBSCRIPTION s REFRESH PUBLICATION",
    "ALTER SUBSCRIPTION s CONNECTION 'host=b'",
    "ALTER SUBSCRIPTION s OWNER TO postgres",
    "ALTER SUBSCRIPTION s RENAME TO t",
    "COMMENT ON SUBSCRIPTION s IS 'x'",
    "DROP SUBSCRIPTION s",
    "COPY a TO PROGRAM 'gzip > /tmp/a'",
    "COPY a FROM PROGRAM 'cat /tmp/a'",
    "COPY (SELECT 1) TO PROGRAM 'cat'",
    "COPY a TO '/tmp/a'",
    "COPY a FROM '/tmp/a'",
    "ALTER SYSTEM SET work_mem = '4MB'",
    "ALTER SYSTEM RESET ALL",
    "IMPORT FOREIGN SCHEMA x FROM SERVER s INTO y",
    "CREATE TABLESPACE far LOCATION '/far'",
    "DROP TABLESPACE far",
    "ALTER TABLESPACE far SET (random_page_cost = 1)",
    "ALTER TABLESPACE far RENAME TO near",
    "ALTER TABLESPACE far OWNER TO postgres",
    "LOAD 'auto_explain'",
    "CREATE FUNCTION f() RETURNS int LANGUAGE c AS 'x', 'y'",
    "CREATE EXTENSION pg_cron",
    "DROP EXTENSION IF EXISTS timescaledb",
    "ALTER EXTENSION citus UPDATE",
    "DO LANGUAGE plpython3u 'import os'",
    "SELECT dblink_exec('host=a', 'DELETE FROM b')",
    "SELECT * FROM dblink('host=a', 'SELECT 1') AS t (n int)",
    "SELECT public.dblink_connect_u('host=a')",
    "INSERT INTO a SELECT * FROM dblink('x', 'y') AS t (n int)",
    "WITH x AS (SELECT pg_read_file('/etc/passwd') AS t) UPDATE a SET b = t FROM x",
    "CREATE TABLE a AS SELECT pg_ls_dir('.')",
    "EXPLAIN ANALYZE SELECT pg_read_binary_file('a')",
    "EXPLAIN (ANALYZE) SELECT pg_read_file('a')",
    "SELECT pg_catalog.pg_stat_file('a')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT lo_export(1, '/tmp/a')",
    "SELECT pg_file_write('a', 'b', true)",
    "SELECT pg_reload_conf()",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity",
    "SELECT pg_cancel_backend(1)",
    "SELECT pg_create_physical_replication_slot('a')",
    "SELECT pg_create_logical_replication_slot('a', 'pgoutput')",
    "SELECT pg_drop_replication_slot('a')",
    "SELECT cron.schedule('a', '* * * * *', 'DELETE FROM b')",
    "SELECT net.http_post('http://a')",
    "SELECT http_get('http://a')",
    "SELECT query_to_xml('SELECT pg_read_file(''a'')', true, true, '')",
    "CALL p(pg_read_file('a'))",
    "PREPARE x AS SELECT dblink_exec('a', 'b')",
    "ALTER TABLE a ADD COLUMN b text DEFAULT pg_read_file('a')",
]
STAYS = [
    "CREATE SUBSCRIPTION s CONNECTION 'host=a' PUBLICATION p WITH (connect = false)",
    "CREATE PUBLICATION p FOR ALL TABLES",
    "CREATE EXTENSION dblink",
    "CREATE EXTENSION postgres_fdw",
    "CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'a')",
    "CREATE USER MAPPING FOR PUBLIC SERVER s",
    "CREATE FOREIGN TABLE f (a int) SERVER s",
    "CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$ SELECT dblink_exec('a', 'b') $$",
    "CREATE FUNCTION f() RETURNS text BEGIN ATOMIC SELECT pg_read_file('a'); END",
    "CREATE VIEW v AS SELECT pg_read_file('a')",
    "CREATE MATERIALIZED VIEW v AS SELECT pg_read_file('a') WITH NO DATA",
    "CREATE TABLE a (b text DEFAULT pg_read_file('a'))",
    "EXPLAIN SELECT pg_read_file('a')",
    "COPY a TO STDOUT",
    "NOTIFY a",
    "SELECT pg_notify('a', 'b')",
    "SELECT pg_switch_wal()",
    "SELECT pg_create_restore_point('a')",
    "CHECKPOINT",
    "COMMENT ON TABLE a IS 'pg_read_file'",
    "ALTER TABLE a OWNER TO postgres",
    "ALTER TABLE a RENAME TO b",
    "DROP EXTENSION dblink",
    "DO $$ BEGIN NULL; END $$",
    "DO LANGUAGE plpgsql $$ BEGIN NULL; END $$",
]
FOREIGN = """
CREATE EXTENSION file_fdw;
CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
CREATE FOREIGN TABLE far (a int) SERVER files OPTIONS (filename '/nowhere');
CREATE VIEW seen AS SELECT * FROM far;
CREATE VIEW twice AS SELECT * FROM seen;
CREATE MATERIALIZED VIEW kept AS SELECT * FROM twice WITH NO DATA;
CREATE TABLE parts (a int) PARTITION BY RANGE (a);
CREATE TABLE near PARTITION OF parts FOR VALUES FROM (0) TO (10);
CREATE FOREIGN TABLE part PARTITION OF parts FOR VALUES FROM (10) TO (20) SERVER files OPTIONS (filename '/nowhere');
CREATE TABLE plain (a int);
"""


@pytest.mark.parametrize("sql", REACHES)
def test_what_reaches_outside_is_told(sql: str) -> None:
    """Each in the words that go on after "it"."""
    told = outside.reach(tree(sql))
    assert told
    assert told[0].islower()
    assert outside.reaches(f"SELECT 1; {sql}")


@pytest.mark.parametrize("sql", STAYS)
def test_what_stays_inside_or_is_only_stored_is_not(sql: str) -> None:
    """A function's body and a view's query are text until somebody runs them."""
    assert outside.reach(tree(sql)) == ""


def test_a_block_reaches_what_its_statements_reach(project: Project) -> None:
    """The gate says that it is within it."""
    target = project(folder={})
    block = "DO $$ BEGIN PERFORM 1; PERFORM dblink_exec('host=a', 'b'); END $$"
    with connect(target, purpose="test") as conn:
        found = gate.find(Facts(conn), tree(block))
        assert found is not None
        assert found.says == (
            "within it, it sends something to another server (dblink_exec): it is not rehearsed, "
            "and what comes after it is rehearsed without it"
        )
        assert gate.find(Facts(conn), tree("DO $$ BEGIN PERFORM 1; END $$")) is None


@pytest.mark.first_case
@pytest.mark.parametrize(
    ("sql", "tables"),
    [
        ("SELECT * FROM far", ["public.far"]),
        ("SELECT * FROM public.twice", ["public.far"]),
        ("INSERT INTO plain SELECT * FROM seen", ["public.far"]),
        ("WITH plain AS (SELECT 1) SELECT * FROM plain", []),
        ("UPDATE parts SET a = 1", ["public.part"]),
        ("DELETE FROM parts", ["public.part"]),
        ("TRUNCATE parts", ["public.part"]),
        ("COPY seen TO STDOUT", ["public.far"]),
        ("ANALYZE parts", ["public.part"]),
        ("CREATE TABLE n AS TABLE far", ["public.far"]),
        ("REFRESH MATERIALIZED VIEW kept", ["public.far"]),
        ("REFRESH MATERIALIZED VIEW kept WITH NO DATA", []),
        ("SELECT * FROM kept", []),
        ("SELECT * FROM near, plain", []),
        ("ALTER TABLE parts ADD COLUMN b int", []),
        ("ALTER FOREIGN TABLE far ADD COLUMN b int", []),
        ("DROP FOREIGN TABLE far", []),
        ("CREATE VIEW other AS SELECT * FROM far", []),
        ("SELECT * FROM not_there", []),
    ],
)
def test_a_statement_that_touches_foreign_rows_is_found(project: Project, sql: str, tables: list[str]) -> None:
    """By name, by a view, as a partition; not where only the catalog changes."""
    target = project(folder={})
    do(target, FOREIGN)
    with connect(target, purpose="test") as conn:
        assert Facts(conn).foreign_tables(tree(sql)) == tables
        found = gate.find(Facts(conn), tree(sql))
        assert (found is not None) == bool(tables)


@pytest.mark.parametrize(
    "before",
    ["", "SET search_path TO public;", "LOCK TABLE plain;", "CREATE TABLE far_plain (a int);"],
)
def test_nothing_before_it_and_no_parameter_takes_the_gate_away(project: Project, before: str) -> None:
    """Switched off, moved, bound or fresh: the statement is executed as written, and stays a gate."""
    target = project(folder={})
    do(target, FOREIGN)
    found = parse(f"{before} COPY plain TO PROGRAM 'cat';", "1.sql")
    with connect(target, purpose="test") as conn:
        for off in ({}, {"1.sql:1": "because"}):
            planner = Expander(conn, off=off)
            last = [planner.expand(statement) for statement in found][-1]
            assert last.gate is not None
            assert (last.gate.id, last.gate.is_rehearsed, last.form) == (OUTSIDE, False, "")
