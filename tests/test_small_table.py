"""A change of type that rewrites a small table runs as it is written, and not where the table has grown."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from acting import error, run
from budget import sample
from conftest import do, rows
from pgrunbook.config.targets import Target
from pgrunbook.database.schema_diff import diff
from pgrunbook.record.run import Status
from safe_forms_stage import perform, plan
from servers import Server
from test_shadow_column import CASES, NOT_CARRIED, Conn, looks, stage

Project = Callable[..., Target]
TABLE = "CREATE TABLE app.t (id integer PRIMARY KEY, n integer, k integer); CREATE TABLE app.o (n integer);"
TABLE += "CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
TABLE += "INSERT INTO app.t SELECT i, i, i FROM generate_series(1, 60) AS i;"
CHANGE = "ALTER TABLE app.t ALTER n TYPE bigint"
# What has no form beside the traffic, and which PostgreSQL does.
CARRIED = {what: made for what, made in NOT_CARRIED.items() if not made.endswith("!")}


def forms(conn: Conn, statement: str = CHANGE, *, batch_rows: int = 1_000) -> list[tuple[str, str | None]]:
    """The form and the gate of each statement."""
    found = plan(conn, statement, batch_rows=batch_rows)  # type: ignore[arg-type]
    return [(one.form, one.gate and one.gate.id) for one in found]


@pytest.mark.newest
@pytest.mark.parametrize("what", sample([*CARRIED], 5))
def test_it_is_the_plain_change(server: Server, what: str) -> None:
    """Without a gate, whatever hangs on the column; nothing differs from the plain change, and nothing waits."""
    if server.version < {"a key without overlaps": 18}.get(what, 15 if what.endswith((" a schema", "NULLs")) else 0):
        pytest.skip("it is newer than this version")
    with stage(server, f"small {what.lower().replace(chr(39), '')}", f"{TABLE}{CARRIED[what]}") as both:
        expansions = plan(both.conn, CHANGE)  # type: ignore[arg-type]
        assert [(one.form, one.gate, one.differs) for one in expansions] == [("", None, ())]
        perform(both.conn, expansions)  # type: ignore[arg-type]
        both.plain.execute(CHANGE)
        assert diff(looks(both.plain), looks(both.conn)) == []


@pytest.mark.slow
@pytest.mark.parametrize("case", sample([*CASES], 9))
def test_all_changes_of_small_tables_are_plain(server: Server, case: str) -> None:
    """Of one and of several columns, with all that hangs on them."""
    made, change = CASES[case]
    with stage(server, case, made) as both:
        for statement in change.split("; "):
            assert forms(both.conn, statement, batch_rows=2_000) == [("", None)]
            perform(both.conn, plan(both.conn, statement, batch_rows=2_000))  # type: ignore[arg-type]
            both.conn.execute("DROP SCHEMA performed CASCADE")
        both.plain.execute(change)
        assert diff(looks(both.plain), looks(both.conn)) == []


@pytest.mark.parametrize("table", sample(["t", "c"], 9))
def test_a_table_that_has_grown_is_not_rewritten(server: Server, table: str) -> None:
    """The step fails before it begins, and names the table; so it does where a table that refers to it has grown."""
    with stage(server, "grown", f"{TABLE}CREATE TABLE app.c (n integer, id integer REFERENCES app.t)") as both:
        expansions = plan(both.conn, f"{CHANGE}, ALTER id TYPE bigint")  # type: ignore[arg-type]
        before = looks(both.conn)
        row = {"t": "i, i", "c": "1, 1"}[table]
        query = f"INSERT INTO app.{table} (id, n) SELECT {row} FROM generate_series(100, 10100) AS i"
        both.conn.execute(query.encode())
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as refused:
            perform(both.conn, expansions)  # type: ignore[arg-type]
        assert refused.value.diag.message_primary == (
            f"table app.{table} has grown since this was planned, and would be rewritten under a lock"
        )
        assert diff(before, looks(both.conn)) == []


@pytest.mark.slow
def test_what_is_not_small_is_changed_beside_the_traffic(server: Server) -> None:
    """By its rows, by its bytes, or by a table that a foreign key ties to the column."""
    with stage(server, "not small", f"{TABLE}CREATE TABLE app.c (id integer REFERENCES app.t)") as both:
        assert forms(both.conn, batch_rows=59) == [("shadow-column", None)]
        assert forms(both.conn, batch_rows=60) == [("", None)]
        key = "ALTER TABLE app.t ALTER id TYPE bigint"
        assert forms(both.conn, key, batch_rows=60) == [("", None)]
        both.conn.execute("INSERT INTO app.c SELECT 1 FROM generate_series(1, 61)")
        assert forms(both.conn, key, batch_rows=60) == [("shadow-column", None)]
        assert forms(both.conn, batch_rows=60) == [("", None)]
        both.conn.execute("ALTER TABLE app.t ADD b bytea; ALTER TABLE app.t ALTER b SET STORAGE EXTERNAL")
        both.conn.execute("UPDATE app.t SET b = convert_to(repeat('x', 200000), 'UTF8')")
        assert forms(both.conn, batch_rows=60) == [("shadow-column", None)]


@pytest.mark.slow
def test_a_release_and_its_rollback(project: Project) -> None:
    """What is lost is captured as of any plain statement, and comes back; nothing waits for contract."""
    change = "ALTER TABLE states ALTER name TYPE varchar(3) USING left(name, 3), ALTER id TYPE bigint;"
    target = project(folder={"0001_a.sql": change})
    do(target, "CREATE TABLE states (id serial PRIMARY KEY, name text); INSERT INTO states (name) VALUES ('closed')")
    made, code = run("release", with_data="true")
    assert (code, made.status) == (0, Status.DONE), error(made)
    assert rows(target, "SELECT name, pg_typeof(id)::text FROM states") == [("clo", "bigint")]
    assert rows(target, "SELECT count(*) FROM pgrunbook.shadow") == [(0,)]
    made, code = run("rollback", with_data="true")
    assert (code, made.status) == (0, Status.DONE), error(made)
    assert rows(target, "SELECT name, pg_typeof(id)::text FROM states") == [("closed", "integer")]
