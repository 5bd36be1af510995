"""Row level security: what a policy hides from the target's role is told before, and never overlooked by us."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import psycopg
import pytest

from budget import sample
from pgrunbook.config.targets import Target
from pgrunbook.database import health
from pgrunbook.database.connection import Connection, connect
from pgrunbook.plan.step import Expansion
from pgrunbook.safe_forms import row_security
from pgrunbook.safe_forms.expander import Expander
from pgrunbook.sql import statements
from servers import Server
from undo_data_stage import capture_obstacle

ROWS = 600
STAGE = """
CREATE SCHEMA app AUTHORIZATION rls_owner;
SET ROLE rls_owner;
CREATE TABLE app.t (id integer PRIMARY KEY, a integer, who text, u uuid);
INSERT INTO app.t SELECT i, i, NULL FROM generate_series(1, 600) AS i;
CREATE TABLE app.free (id integer PRIMARY KEY, a integer);
INSERT INTO app.free SELECT i, i FROM generate_series(1, 600) AS i;
ALTER TABLE app.t ENABLE ROW LEVEL SECURITY;
CREATE POLICY sees ON app.t FOR SELECT USING (id <= 400);
CREATE POLICY more ON app.t FOR SELECT TO rls_other USING (id <= 450);
CREATE POLICY changes ON app.t FOR UPDATE USING (id <= 100);
CREATE POLICY changes_too ON app.t FOR UPDATE USING (id BETWEEN 391 AND 410);
CREATE POLICY deletes ON app.t FOR DELETE USING (id > 300);
CREATE POLICY even ON app.t AS RESTRICTIVE FOR DELETE USING (id % 2 = 0);
CREATE POLICY adds ON app.t FOR INSERT WITH CHECK (true);
CREATE VIEW app.seen AS SELECT * FROM app.t;
CREATE VIEW app.invoked WITH (security_invoker) AS SELECT * FROM app.t;
CREATE TABLE app.closed (id integer PRIMARY KEY, a integer);
INSERT INTO app.closed SELECT i, i FROM generate_series(1, 600) AS i;
ALTER TABLE app.closed ENABLE ROW LEVEL SECURITY;
CREATE FUNCTION app.change() RETURNS void LANGUAGE sql AS 'UPDATE app.t SET a = 0 WHERE id > 0';
GRANT USAGE, CREATE ON SCHEMA app TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA app TO PUBLIC;
RESET ROLE;
ALTER TABLE app.t SET (autovacuum_enabled = false);
ALTER TABLE app.closed SET (autovacuum_enabled = false);
ALTER TABLE app.free SET (autovacuum_enabled = false);
ANALYZE app.t, app.closed, app.free
"""
ROLES = {
    "rls_owner": "", "rls_member": "IN ROLE rls_owner", "rls_other": "", "rls_passing": "BYPASSRLS",
    "rls_super": "SUPERUSER",
}  # fmt: skip
# Each statement that reads rows, in which the number of rows tells how many it saw.
READING = [
    "UPDATE app.t SET a = 0 WHERE id > 0", "DELETE FROM app.t WHERE id > 0", "SELECT * FROM app.t",
    "INSERT INTO app.free SELECT id + 1000, a FROM app.t", "CREATE TABLE app.made AS SELECT id FROM app.t",
    "SELECT id INTO app.made FROM app.t", "UPDATE app.free SET a = 0 FROM app.t WHERE t.id = free.id",
    "DELETE FROM app.free USING app.t WHERE t.id = free.id", "COPY app.t TO STDOUT",
    "COPY (SELECT id FROM app.t) TO STDOUT",
    "WITH seen AS (SELECT id FROM app.t) DELETE FROM app.free WHERE id IN (SELECT id FROM seen)",
    "MERGE INTO app.free USING app.t ON t.id = free.id WHEN MATCHED THEN UPDATE SET a = 0",
    "SELECT * FROM app.invoked", "INSERT INTO app.free SELECT id + 1000, a FROM app.invoked",
    "UPDATE app.closed SET a = 0 WHERE id > 0", "DELETE FROM app.closed WHERE id > 0",
]  # fmt: skip
# Statements that policies do not reach, or that the server refuses aloud.
UNFILTERED = [
    "INSERT INTO app.t VALUES (1001)", "TRUNCATE app.t", "ALTER TABLE app.t ADD CHECK (id > 0) NOT VALID",
    "CREATE INDEX ON app.t (a)", "CREATE VIEW app.v AS SELECT * FROM app.t",
    "EXPLAIN UPDATE app.t SET a = 0", "UPDATE app.free SET a = 0", "PREPARE p AS DELETE FROM app.t",
    "CREATE MATERIALIZED VIEW app.m AS SELECT id FROM app.t WITH NO DATA", "LOCK TABLE app.t", "ANALYZE app.t",
    "VACUUM app.t", "CREATE TABLE app.like_it (LIKE app.t)", "COMMENT ON TABLE app.t IS 'x'",
]  # fmt: skip


@pytest.fixture(scope="module")
def hidden(newest: Server) -> Iterator[Server]:
    """A database with tables that hide rows, and a role of each kind."""
    newest.run("postgres", *(f"CREATE ROLE {role} LOGIN {how}" for role, how in ROLES.items()), "CREATE DATABASE rls")
    newest.run("rls", STAGE)
    yield newest
    newest.run("postgres", "DROP DATABASE rls WITH (FORCE)", *(f"DROP ROLE {role}" for role in reversed(ROLES)))


@pytest.fixture(params=[False, True], ids=["owner is free", "forced"])
def forced(request: pytest.FixtureRequest, hidden: Server) -> bool:
    """Whether the policies are for the owner, too."""
    word = "FORCE" if request.param else "NO FORCE"
    hidden.run("rls", *(f"ALTER TABLE app.{table} {word} ROW LEVEL SECURITY" for table in ("t", "closed")))
    return bool(request.param)


@pytest.fixture
def as_role(hidden: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Target]:
    def target(role: str) -> Target:
        monkeypatch.setenv("URL_of_role", f"postgresql://{role}@/rls?host={hidden.socket_dir}")
        return Target(name="rls", url_from="URL_of_role")

    return target


def expanded(conn: Connection, sql: str, **options: bool) -> Expansion:
    planner = Expander(conn, batch_rows=10, **options)
    (statement,) = statements.parse(sql, "0001_m.sql")
    return planner.expand(statement)


def told(found: Expansion) -> str:
    return found.gate.says if found.gate and "row level security" in found.gate.says else ""


def seen(conn: Connection, sql: str) -> int:
    """Return how many rows a session of the role sees in a statement."""
    with conn.transaction(force_rollback=True), conn.as_target():
        if sql.startswith("COPY"):
            with conn.cursor() as cursor, cursor.copy(sql.encode()) as copy:
                return sum(1 for _ in copy.rows())
        return conn.execute(sql.encode()).rowcount


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.usefixtures("forced")
@pytest.mark.parametrize("role", sample(list(ROLES), 2))
def test_a_gate_says_how_many_rows_a_statement_sees(role: str, as_role: Callable[[str], Target]) -> None:
    """For each kind of statement and of role: a gate where the server shows fewer rows, with the number it shows."""
    with connect(as_role(role)) as conn:
        for sql in READING:
            visible = seen(conn, sql)
            says = told(expanded(conn, sql))
            assert bool(says) is (visible < ROWS), sql
            if says:
                name = "closed" if "closed" in sql else "t"
                assert f"this role sees {visible:,} of about 600 rows of app.{name}" in says, sql
        for sql in UNFILTERED:
            assert told(expanded(conn, sql)) == "", sql


def test_a_view_is_read_as_its_owner(forced: bool, as_role: Callable[[str], Target]) -> None:
    """Whom the view's owner's policies bind, they bind everybody who reads through it, a superuser too."""
    for role in ("rls_other", "rls_super"):
        with connect(as_role(role)) as conn:
            found = told(expanded(conn, "INSERT INTO app.free SELECT id + 1000, a FROM app.seen"))
            assert (seen(conn, "SELECT * FROM app.seen") < ROWS) is forced
            assert ("the policies show rls_owner" in found) is forced


def test_what_code_runs_is_judged_too(as_role: Callable[[str], Target]) -> None:
    """DO, and a function that the statement calls."""
    with connect(as_role("rls_other")) as conn:
        for sql in ("DO 'BEGIN UPDATE app.t SET a = 0 WHERE id > 0; END'", "SELECT app.change()"):
            assert re.search(
                r"inside .*row level security .* sees 120 of about 600 rows of app.t", told(expanded(conn, sql))
            )


def test_no_batches_where_rows_are_hidden(as_role: Callable[[str], Target], hidden: Server) -> None:
    """Neither of the migration's own statement nor of one of ours: a column that is filled row by row."""
    hidden.run("rls", "ALTER TABLE app.t FORCE ROW LEVEL SECURITY")
    with connect(as_role("rls_owner")) as conn:
        for sql in ("UPDATE app.t SET a = 0", "ALTER TABLE app.t ADD COLUMN x uuid DEFAULT gen_random_uuid()"):
            found = expanded(conn, sql)
            assert [step.sql for step in found.steps] == [sql]
            assert "row level security hides rows of app.t" in found.explains
            assert found.gate is not None
        assert [step.batches is None for step in expanded(conn, "UPDATE app.free SET a = 0").steps] == [
            True,
            False,
            True,
        ]


CHECKING = [
    "ALTER TABLE app.t ADD CONSTRAINT k FOREIGN KEY (id) REFERENCES app.free",
    "ALTER TABLE app.t VALIDATE CONSTRAINT old",
    "ALTER TABLE app.t ADD COLUMN x integer DEFAULT 700 REFERENCES app.free",
]
CHECKING_ALL = [
    "ALTER TABLE app.t ADD CONSTRAINT k CHECK (id < 700)", "ALTER TABLE app.t ALTER a SET NOT NULL",
    "ALTER TABLE app.t ADD CONSTRAINT k UNIQUE (a)", "CREATE UNIQUE INDEX ON app.t (a)",
]  # fmt: skip


def test_the_check_of_a_foreign_key_passes_over_hidden_rows_and_is_a_gate(
    forced: bool, as_role: Callable[[str], Target], hidden: Server
) -> None:
    """The server refuses what violates a constraint, but for foreign keys whose rows the owner does not see."""
    violating = (
        "INSERT INTO app.t VALUES (700, NULL, 'x'), (701, 1, 'x')",
        "ALTER TABLE app.t ADD CONSTRAINT old FOREIGN KEY (id) REFERENCES app.free NOT VALID",
    )
    with connect(as_role("rls_owner")) as conn, hidden.connect("rls") as super_:
        for sql in (*CHECKING, *CHECKING_ALL):
            for one in violating:
                super_.execute(one)
            if sql == CHECKING[2]:
                super_.execute("DELETE FROM app.t WHERE id <= 400")  # those that are seen
            passes = True
            try:
                with conn.transaction(force_rollback=True), conn.as_target():
                    conn.execute(sql.encode())
            except psycopg.errors.IntegrityError:
                passes = False
            says = told(expanded(conn, sql))
            assert passes is (forced and sql in CHECKING), sql
            assert ("the rows that it checks: this role sees" in says) is passes, sql
            super_.execute("ALTER TABLE app.t DROP CONSTRAINT old; DELETE FROM app.t WHERE id >= 700")
            super_.execute("INSERT INTO app.t SELECT i, i FROM generate_series(1, 600) AS i ON CONFLICT DO NOTHING")


def test_rows_that_a_policy_hides_are_not_captured(forced: bool, as_role: Callable[[str], Target]) -> None:
    """RETURNING would need to see what is written: rows are written as the server would, and there is no way back."""
    with connect(as_role("rls_owner")) as conn:
        for sql in ("INSERT INTO app.t VALUES (1001)", "UPDATE app.t SET a = 0 WHERE id > 0", "DELETE FROM app.t"):
            because = capture_obstacle(conn, sql)
            assert (because == 'row level security hides rows of "app"."t" from this session') is forced, because


def test_our_own_statements_fail_where_they_would_see_fewer_rows(as_role: Callable[[str], Target]) -> None:
    """Counting, as anything else that is not the migration's text; where it is an estimate, it says so."""
    with connect(as_role("rls_other")) as conn:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security policy for table"):
            conn.execute("SELECT count(*) FROM app.t")
        assert health.row_counts(conn)["app.t"] == (ROWS, False)


def test_a_setting_of_the_migration_is_the_targets(as_role: Callable[[str], Target]) -> None:
    """With row_security off a statement fails, as it would in psql; the gate stands all the same."""
    with connect(as_role("rls_other")) as conn:
        with conn.as_target():
            conn.execute("SET row_security = off")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            seen(conn, READING[0])
        assert row_security.ID == "row-security"
        assert "sees 120 of about 600 rows" in told(expanded(conn, READING[0]))
