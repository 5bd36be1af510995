"""Databases and roles as they are not meant to be: a right result, or a refusal that says what to change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from budget import sample
from conftest import write_folder
from pgrunbook import history as histories
from pgrunbook.branches import data_branch, schema_branch
from pgrunbook.config.targets import Target
from pgrunbook.database import activity, readiness
from pgrunbook.database.connection import connect
from pgrunbook.database.readiness import Level
from pgrunbook.database.schema import snapshot
from pgrunbook.errors import Unreachable
from pgrunbook.history.state import leave_out
from pgrunbook.rehearse import schema_only, with_data
from scenes import error_of, execute, plan_of
from servers import VERSIONS, Server, Servers

ENOUGH = 2**40
# Wherever it is executed, the database has this name, and the role too.
RELEASE = """
CREATE TABLE told (id integer PRIMARY KEY, db text DEFAULT current_database() CHECK (db = {database}),
    who text DEFAULT session_user CHECK (who = {role}));
INSERT INTO told (id) VALUES (1);
UPDATE t SET a = a + 1;
"""
TABLES = (
    "CREATE TABLE t (id integer PRIMARY KEY, a integer); INSERT INTO t SELECT i, i FROM generate_series(1, 40) AS i"
)
NAMES = [
    "%s {0} \"b\" 'c' 🐘",
    "-U x",
    "back\\slash",
    "$1 {} %",
    "comma, = semi;",
    "new\nline",
    "pg\tx",
    "é" * 31,
]
Made = Callable[..., Target]


@pytest.fixture
def made(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    """Make a role with a database of its own, and a release that asks where it is and who executes it."""
    gone: list[sql.Composable] = []
    admin = server.connect("postgres")

    def make(role: str = "odd", database: str = "odd", *, more: str = "", **options: object) -> Target:
        names = {"role": sql.Identifier(role), "database": sql.Identifier(database)}
        admin.execute(sql.SQL("CREATE ROLE {role} LOGIN").format(**names))
        gone.append(sql.SQL("DROP ROLE {role}").format(**names))
        if database not in ("postgres", "template1"):
            admin.execute(sql.SQL("CREATE DATABASE {database} OWNER {role}").format(**names))
            gone.append(sql.SQL("DROP DATABASE {database} WITH (FORCE)").format(**names))
            gone.append(sql.SQL("ALTER DATABASE {database} IS_TEMPLATE false").format(**names))
        with server.connect(database) as conn:
            conn.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {role} AUTHORIZATION {role}").format(**names))
            conn.execute(sql.SQL("SET ROLE {role}; SET search_path = {role}").format(**names))
            conn.execute(TABLES)
            conn.execute("RESET ROLE")
            conn.execute(sql.SQL("GRANT CREATE ON DATABASE {database} TO {role}").format(**names))
            if more:
                conn.execute(sql.SQL(more).format(**names))
        release = sql.SQL(RELEASE).format(role=sql.Literal(role), database=sql.Literal(database)).as_string()
        write_folder(tmp_path / "m", {"0001_m.sql": release})
        monkeypatch.setenv("URL_odd", f"postgresql:///?host={server.socket_dir}")
        monkeypatch.setenv("PGUSER", role)
        return Target.model_validate(
            {"name": "odd", "url_from": "URL_odd", "database": database, "migrations": tmp_path / "m",
             "history_schema": role, **options}
        )  # fmt: skip

    yield make
    monkeypatch.undo()
    for statement in reversed(gone):
        admin.execute(statement)
    admin.close()


def released(target: Target) -> None:
    """Rehearse without rows and with them, and execute the release on the target."""
    with connect(target) as conn:
        history = histories.read(conn, target)
        here = snapshot(conn, leave_out=leave_out(history))
        done = schema_only.rehearse(target, history, history.pending(), lambda: here, conn, off={})
        assert done.changes[0].proof.proven, done.changes[0].proof.says
        ways = with_data.rehearse(target, history.pending(), done, conn, most_bytes=ENOUGH)
        assert [(back.proven, back.says) for back in ways.trial.ways_back if not back.proven] == []
        execute(target, plan_of(target).model_copy(update={"changes": done.changes}))
        with conn.as_target():
            assert conn.execute("SELECT count(*) FROM told").fetchone() == (1,)


@pytest.mark.slow
@pytest.mark.newest
@pytest.mark.parametrize("name", sample(NAMES, 9))
def test_a_role_and_a_database_of_any_name(made: Made, name: str) -> None:
    """Quotes, emoji, what looks like an option or a pattern; the release finds the same names on each branch."""
    released(made(name, name))


GONE = "CREATE ROLE goes; ALTER DATABASE {database} OWNER TO goes; SET ROLE goes"
DELETE = "DELETE FROM pg_authid WHERE rolname = 'goes'"
DATABASES = {
    "template": "ALTER DATABASE {database} IS_TEMPLATE true",
    "without public": "DROP SCHEMA public",
    "full": "ALTER DATABASE {database} CONNECTION LIMIT 1; ALTER ROLE {role} SUPERUSER",
    "hurried": "ALTER DATABASE {database} SET statement_timeout = '5ms';"
    " ALTER DATABASE {database} SET lock_timeout = 1;"
    " ALTER DATABASE {database} SET idle_in_transaction_session_timeout = '5ms';"
    " ALTER DATABASE {database} SET idle_session_timeout = '5ms';"
    " ALTER DATABASE {database} SET client_min_messages = error",
    "of nobody": "UPDATE pg_database SET datdba = 4711 WHERE datname = current_database()",
    "of a role that is gone": f"{GONE}; GRANT CONNECT, CREATE ON DATABASE {{database}} TO {{role}}; RESET ROLE;"
    f" {DELETE}",
}


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.newest
@pytest.mark.parametrize("kind", sample([*DATABASES], 4))
def test_an_odd_database_is_released_to(made: Made, kind: str) -> None:
    """A template, one whose owner was deleted, one with hasty settings: right on the branches and on the target."""
    released(made(more=DATABASES[kind]))


@pytest.mark.slow
@pytest.mark.newest
def test_what_was_dropped_of_a_new_database_is_on_no_branch(made: Made) -> None:
    """An unqualified name finds no schema on the target, and so on no branch; the history table is not there either."""
    target = made(more="DROP SCHEMA public; DROP EXTENSION plpgsql", history_schema=None)
    asked = "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' UNION SELECT extname FROM pg_extension"
    with connect(target) as conn, schema_branch.copy_schema(target) as copy, copy.branch() as empty:
        assert (history := histories.read(conn, target)).schema == "odd", history
        with data_branch.with_data(target, most_bytes=ENOUGH, plain=False) as full:
            for branch in (empty, full.safe):
                with connect(branch) as there:
                    assert set(there.execute(asked)) == set(conn.execute(asked)) == {("information_schema",), ("odd",)}


@pytest.mark.newest
def test_tables_of_a_role_that_is_gone_cannot_be_copied(made: Made) -> None:
    """pg_dump cannot say whose they are: it is told what to do about it."""
    target = made(more=f"CREATE ROLE goes; CREATE TABLE lost (); ALTER TABLE lost OWNER TO goes; {DELETE}")
    with pytest.raises(Unreachable) as caught, schema_branch.copy_schema(target):
        pass
    assert "role with OID" in caught.value.detail
    assert caught.value.hint.startswith("Give what belongs to that role another owner: ALTER TABLE ... OWNER TO. ")


@pytest.mark.slow
@pytest.mark.newest
@pytest.mark.parametrize("name", sample(["postgres", "template1"], 2))
def test_the_databases_of_every_cluster_are_released_to(made: Made, name: str, server: Server) -> None:
    """Hosted databases are often called postgres: on a branch, too."""
    try:
        released(made(database=name))
    finally:
        with server.connect(name) as conn:
            conn.execute("DROP OWNED BY odd")


ROLES = {
    "5 ms for a statement": "ALTER ROLE {role} SET statement_timeout = '5ms'",
    "5 ms in this database": "ALTER ROLE {role} IN DATABASE {database} SET statement_timeout = '5ms'",
    "hasty": "ALTER ROLE {role} SET lock_timeout = 1;"
    " ALTER ROLE {role} SET idle_in_transaction_session_timeout = '5ms';"
    " ALTER ROLE {role} SET idle_session_timeout = '5ms'; ALTER ROLE {role} SET tcp_user_timeout = 1",
    "50 ms for a transaction": "ALTER ROLE {role} SET transaction_timeout = '50ms'",
    "expired": "ALTER ROLE {role} VALID UNTIL '2020-01-01'",
    "other forms of values": "ALTER ROLE {role} SET IntervalStyle = iso_8601;"
    " ALTER ROLE {role} SET bytea_output = escape; ALTER ROLE {role} SET extra_float_digits = -5",
    "no connect for others": "REVOKE CONNECT ON DATABASE {database} FROM PUBLIC;"
    " GRANT CONNECT ON DATABASE {database} TO {role}",
}


@pytest.mark.slow
@pytest.mark.newest
@pytest.mark.parametrize("kind", sample([*ROLES], 9))
def test_an_odd_role_releases(made: Made, kind: str, server: Server) -> None:
    """Its timeouts are not ours, and who may not log in any more by a password may do so by trust."""
    if "transaction_timeout = '50" in ROLES[kind] and server.version < 17:
        pytest.skip("PostgreSQL 17 is the first to know it")
    released(made(more=ROLES[kind]))


@pytest.mark.slow
@pytest.mark.newest
def test_5_ms_for_every_role_are_not_ours(made: Made, server: Server) -> None:
    """Set for all roles, they also hold for the branch's superuser."""
    try:
        released(made(more="ALTER ROLE ALL SET statement_timeout = '5ms'; ALTER ROLE ALL SET lock_timeout = '1ms'"))
    finally:
        with server.connect("postgres") as conn:
            conn.execute("SET statement_timeout = 0")
            conn.execute("ALTER ROLE ALL RESET ALL")


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize("name", ['Boß "x" 🐘', "-d\\%s"])
def test_the_superuser_of_a_cluster_may_have_any_name(
    servers: Servers, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Objects of every database are its own; a role postgres may be somebody else."""
    server = servers.get(VERSIONS[-1], work_mem=f"{5 + len(name)}MB")
    with server.connect("postgres") as conn:
        conn.execute("CREATE ROLE other SUPERUSER LOGIN")
    with psycopg.connect(host=str(server.socket_dir), user="other", dbname="postgres", autocommit=True) as conn:
        conn.execute(sql.SQL("ALTER ROLE postgres RENAME TO {}").format(sql.Identifier(name)))
        conn.execute("CREATE ROLE postgres LOGIN; CREATE SCHEMA of_postgres AUTHORIZATION postgres")
    monkeypatch.setenv("URL_named", f"postgresql://postgres@/postgres?host={server.socket_dir}")
    target = Target(name="named", url_from="URL_named")
    asked = "SELECT r.rolname, r.rolsuper FROM pg_roles AS r WHERE r.oid = 10 OR r.rolname = 'postgres' ORDER BY r.oid"
    with schema_branch.copy_schema(target) as schema, schema.branch() as branch, connect(branch) as here:
        assert here.execute(asked).fetchall() == [(name, True), ("postgres", False)]
        assert here.execute("SELECT session_user::text").fetchone() == ("postgres",)
    with data_branch.with_data(target, most_bytes=ENOUGH) as copy, connect(copy.safe) as here:
        assert here.execute(asked).fetchall() == [(name, True), ("postgres", False)]


@pytest.fixture
def scram(servers: Servers) -> Server:
    """A server that asks every role but its superuser for a password."""
    hba = servers.folder / "hba-scram"
    hba.write_text("local all postgres trust\nlocal all all scram-sha-256\n")
    hba.chmod(0o644)
    return servers.get(VERSIONS[-1], hba_file=str(hba))


REFUSED = {
    "expired": (
        "ALTER ROLE barred PASSWORD 'quite-long' VALID UNTIL '2020-01-01'",
        'password authentication failed for user "barred"',
        "Check the passfile, and whether the role's password has expired (VALID UNTIL).",
    ),
    "no connect": (
        "REVOKE CONNECT ON DATABASE barred FROM PUBLIC; ALTER ROLE barred PASSWORD 'quite-long'",
        'permission denied for database "barred"',
        "Let an administrator GRANT CONNECT on it to the role: docs/rights.md.",
    ),
    "no connections": (
        "ALTER ROLE barred PASSWORD 'quite-long' CONNECTION LIMIT 0",
        'too many connections for role "barred"',
        "Up to 4 at once are needed: ALTER ROLE or ALTER DATABASE ... CONNECTION LIMIT gives more.",
    ),
    "database without connections": (
        "ALTER DATABASE barred CONNECTION LIMIT 0; ALTER ROLE barred PASSWORD 'quite-long'",
        'too many connections for database "barred"',
        "Up to 4 at once are needed: ALTER ROLE or ALTER DATABASE ... CONNECTION LIMIT gives more.",
    ),
    "no login": (
        "ALTER ROLE barred PASSWORD 'quite-long' NOLOGIN",
        'role "barred" is not permitted to log in',
        "Let an administrator run ALTER ROLE ... LOGIN, or name another role.",
    ),
    "closed database": (
        "ALTER DATABASE barred ALLOW_CONNECTIONS false; ALTER ROLE barred PASSWORD 'quite-long'",
        'database "barred" is not currently accepting connections',
        "Nobody can connect to it (ALLOW_CONNECTIONS false): name another database.",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_whom_the_server_does_not_let_in_is_told_why(scram: Server, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything else; with what an administrator has to change."""
    statements, told, hint = REFUSED[kind]
    monkeypatch.setenv("URL_barred", f"postgresql://barred:quite-long@/barred?host={scram.socket_dir}")
    scram.run("postgres", "CREATE ROLE barred LOGIN", "CREATE DATABASE barred", *statements.split("; "))
    try:
        error = error_of(lambda: connect(Target(name="barred", url_from="URL_barred")))
    finally:
        scram.run("postgres", "DROP DATABASE barred WITH (FORCE)", "DROP ROLE barred")
    assert isinstance(error, Unreachable)
    assert error.message == 'could not connect to target "barred"'
    assert told in error.detail
    assert error.hint == hint


@pytest.mark.newest
@pytest.mark.parametrize("what", ["ROLE {role}", "DATABASE {database}"])
def test_too_few_connections_are_found_before_the_start(made: Made, what: str) -> None:
    """One reads, one holds the run lock, one executes, one watches: with one less nothing begins."""
    target = made(more=f"ALTER {what} CONNECTION LIMIT 3")
    with connect(target) as conn:
        found = readiness.checks(
            conn, activity.identity(conn), readiness.Limits(), data_dir=None, needs_restore_point=False
        )
        (check,) = [one for one in found if one.name == "connections"]
    assert check.level is Level.STOP
    assert check.found.endswith("odd, of which others use 0")
    assert check.advice.endswith("odd CONNECTION LIMIT 4, or more.")
