"""Connections: named, limited, and silent about secrets."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import psycopg
import pytest

from conftest import do, rows
from pgrunbook.branches.server import Server
from pgrunbook.config.targets import Target
from pgrunbook.database import connection
from pgrunbook.database.connection import OURS, connect, limit, limit_locally, reset, transaction
from pgrunbook.errors import RunbookError, Unreachable, WrongInput
from scenes import error_of, is_at, kill, until

Project = Callable[..., Target]
SECRET = "s3cr€t/p@ss"  # noqa: S105 - it must not be seen
ENCODED = "s3cr%E2%82%ACt%2Fp%40ss"


def test_a_session_says_who_it_is_and_ends_what_takes_too_long(project: Project) -> None:
    """A name for pg_stat_activity, both timeouts, and no end by idleness while it holds a lock."""
    with connect(project(folder={}), purpose="migrate " + "x" * 80) as conn:
        assert conn.autocommit
        shown = conn.execute(
            "SELECT current_setting('application_name'), current_setting('lock_timeout'),"
            " current_setting('statement_timeout'), current_setting('idle_session_timeout'),"
            " current_setting('client_connection_check_interval')"
        ).fetchone()
    assert shown == (("pgrunbook migrate " + "x" * 80)[:63], "2s", "30s", "0", "1s")


def test_where_one_of_two_sessions_fails_the_other_is_cancelled(project: Project) -> None:
    """Both work at once; the error is that of the one that failed, and nobody waits for the other."""
    target = project(folder={})
    with connect(target) as one, connect(target) as other:
        told = {one: "SELECT pg_catalog.pg_sleep(0)", other: "SELECT 'other'"}
        found = connection.at_once((one, other), lambda conn: conn.execute(told[conn].encode()).fetchone())
        assert found == [("",), ("other",)]
        told = {one: "SELECT pg_catalog.pg_sleep(25)", other: "SELECT 1 FROM nowhere"}
        with pytest.raises(psycopg.errors.UndefinedTable):
            connection.at_once((other, one), lambda conn: conn.execute(told[conn].encode()))
        since = (
            "SELECT pg_catalog.clock_timestamp() - query_start < '20 s' FROM pg_catalog.pg_stat_activity WHERE pid = %s"
        )
        assert one.execute(since, [other.info.backend_pid]).fetchone() == (True,)


def test_a_transaction_holds_to_its_limits_and_leaves_none(project: Project) -> None:
    """Both timeouts hold inside, and are as before behind it."""
    with connect(project(folder={})) as conn:
        with transaction(conn, lock_timeout_ms=7, statement_timeout_ms=11_000):
            assert settings(conn) == ("7ms", "11s")
            limit_locally(conn, lock_timeout_ms=8, statement_timeout_ms=12_000)
            assert settings(conn) == ("8ms", "12s")
        assert settings(conn) == ("2s", "30s")
        limit(conn, lock_timeout_ms=9, statement_timeout_ms=13_000)
        assert settings(conn) == ("9ms", "13s")
        reset(conn)
        assert settings(conn) == ("2s", "30s")


def settings(conn: connection.Connection) -> object:
    return conn.execute("SELECT current_setting('lock_timeout'), current_setting('statement_timeout')").fetchone()


def within(conn: connection.Connection, *acts: Callable[[], object]) -> None:
    """Do something in a transaction."""
    with transaction(conn, lock_timeout_ms=1, statement_timeout_ms=9_000):
        for act in acts:
            act()


def failing(error: type[BaseException]) -> Callable[[], object]:
    def fail() -> None:
        raise error

    return fail


def test_a_transaction_is_there_as_a_whole_or_not_at_all(project: Project) -> None:
    """Aborted for whatever reason, the session can be used again."""
    target = project(folder={})
    with connect(target) as conn:
        for error in (ValueError, KeyboardInterrupt):
            with pytest.raises(error):
                within(conn, lambda: conn.execute("CREATE TABLE public.a ()"), failing(error))
        with pytest.raises(psycopg.errors.DivisionByZero):
            within(conn, lambda: conn.execute("CREATE TABLE public.a (); SELECT 1 / 0"))
        assert rows(target, "SELECT to_regclass('a')") == [(None,)]
        within(conn, lambda: conn.execute("CREATE TABLE public.a ()"))
    assert rows(target, "SELECT to_regclass('a')::text") == [("a",)]


def test_a_commit_that_commits_nothing_is_an_error(project: Project) -> None:
    """The server answers ROLLBACK to the COMMIT of a transaction that failed, and calls that success."""
    with connect(project(folder={})) as conn:

        def swallow() -> None:
            with pytest.raises(psycopg.errors.DivisionByZero):
                conn.execute("SELECT 1 / 0")

        error = error_of(lambda: within(conn, swallow))
    assert str(error) == "the server answered COMMIT with ROLLBACK\nState: The transaction was aborted."


def test_a_text_of_the_target_that_failed_unseen_is_told_by_the_commit(project: Project) -> None:
    """The search_path of an aborted transaction cannot be set, and need not be: COMMIT says what became of it."""
    with connect(project(folder={})) as conn:

        def swallow() -> None:
            with conn.as_target(), pytest.raises(psycopg.errors.DivisionByZero):
                conn.execute("SELECT 1 / 0")

        error = error_of(lambda: within(conn, swallow))
        assert str(error) == "the server answered COMMIT with ROLLBACK\nState: The transaction was aborted."
        assert conn.execute("SHOW search_path").fetchone() == (OURS,)


def test_a_transaction_whose_session_ended_raises_what_ended_it(project: Project) -> None:
    """And not that it could not be aborted."""
    target = project(folder={})
    with connect(target, purpose="migrate") as conn, pytest.raises(psycopg.errors.AdminShutdown):
        within(conn, lambda: kill(target), lambda: conn.execute("SELECT 1"))


def test_what_a_session_prepares_is_nobodys_trouble(project: Project) -> None:
    """A migration may DEALLOCATE ALL: we prepare nothing that would be gone."""
    with connect(project(folder={})) as conn:
        for number in range(20):
            assert conn.execute("SELECT %s::int", [number]).fetchone() == (number,)
        assert conn.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)


def test_a_server_that_is_too_old_is_told_to_be() -> None:
    """It refuses a setting that it does not know before it says its version: the words of PostgreSQL 13.23."""
    told = 'FATAL: unrecognized configuration parameter "client_connection_check_interval"'
    (hint,) = (hint for words, hint in connection.HINTS.items() if words in told)
    assert hint == "The server is older than PostgreSQL 14, the oldest that is known."


def test_a_server_that_does_not_run_is_told_with_the_way_to_start_it(session_env: pytest.MonkeyPatch) -> None:
    """With the name it has in targets.toml."""
    assert session_env
    error = error_of(lambda: connect(Target(name="demo", server="not-there")))
    assert isinstance(error, Unreachable)
    assert error.exit_code == 1
    lines = str(error).splitlines()
    assert lines[0] == 'could not connect to target "demo"'
    assert lines[1].startswith("Detail: ")
    assert lines[2:] == [
        "State: Nothing changed in the database.",
        "Hint: Start it: pgrunbook server start --name not-there; for the demo database: pgrunbook demo.",
    ]


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://deploy:{}@nowhere.invalid/db",
        "postgresql://deploy:{}@127.0.0.1:1/db",
        "postgresql://deploy@127.0.0.1:1/db?password={}",
    ],
)
def test_an_address_that_does_not_answer_is_told_without_its_password(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither as it is written in the URL nor as it is meant."""
    monkeypatch.setenv("ADDRESS", address.format(ENCODED))
    error = error_of(lambda: connect(Target(name="prod", url_from="ADDRESS")))
    assert isinstance(error, Unreachable)
    assert (
        error.hint
        == "Check that the server runs, that the service file is right, and that pg_hba.conf lets this machine in."
    )
    assert_silent(error)


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://deploy:{0}@host:no-port/db",
        "postgresql://deploy:{1}@host/db",
        "postgresql://deploy:{0}@host/db?nonsense=1",
        "deploy:{0}@host",
        "mysql://deploy:{0}@host/db",
        "host=h password={0} and then",
    ],
)
def test_an_address_that_cannot_be_read_is_told_without_a_word_of_it(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libpq's own messages quote the address: they are not shown."""
    monkeypatch.setenv("ADDRESS", address.format(ENCODED, SECRET))
    error = error_of(lambda: connect(Target(name="prod", url_from="ADDRESS")))
    assert_silent(error)
    if isinstance(error, WrongInput):
        assert str(error) == (
            'cannot read the address of target "prod"\n'
            "Detail: The environment variable ADDRESS does not hold a connection URL of PostgreSQL.\n"
            "State: Nothing changed in the database.\n"
            "Hint: Write postgresql://user@host/database; in a password, @ : / and % are written as %40 %3A %2F %25."
        )


def assert_silent(error: RunbookError) -> None:
    """Neither the error nor what it was raised from holds the password."""
    for text in (str(error), repr(error.__cause__), "".join(error._render_traceback_())):
        for secret in (SECRET, ENCODED, "p@ss", "s3cr"):
            assert secret not in text
    assert error.__cause__ is None
    assert error.__suppress_context__


def test_a_wrong_password_is_not_shown(session_env: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server says whom it refused; the password stands nowhere."""
    assert session_env
    server = Server("asks")
    server.start()
    try:
        with server.connect() as conn:
            conn.execute("CREATE ROLE deploy LOGIN PASSWORD 'right'")
            hba = conn.execute("SHOW hba_file").fetchone()
        file = Path(str(hba[0])) if hba else Path()
        server.do("tee", str(file), text="local all deploy scram-sha-256\nlocal all all trust\n")
        with server.connect() as conn:
            conn.execute("SELECT pg_reload_conf()")
        monkeypatch.setenv("ADDRESS", f"postgresql://deploy:{ENCODED}@/postgres?host={server.socket_dir}")
        error = error_of(lambda: connect(Target(name="prod", url_from="ADDRESS")))
        assert 'password authentication failed for user "deploy"' in error.detail
        assert_silent(error)
    finally:
        server.destroy()


def test_options_of_the_address_are_kept_beside_ours(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL may set a search_path or name a provider's endpoint; our limits come on top."""
    address = project(folder={}).conninfo()
    url = f"postgresql://postgres@/{address['dbname']}?host={address['host']}&options=-c%20search_path%3Dapp"
    monkeypatch.setenv("ADDRESS", url)
    with connect(Target(name="prod", url_from="ADDRESS")) as conn:
        asked = "SELECT current_setting('search_path'), current_setting('lock_timeout')"
        with conn.as_target():
            assert conn.execute(asked).fetchone() == ("app", "2s")
        assert conn.execute(asked).fetchone() == ("pg_catalog, pg_temp", "2s")


def test_a_superuser_takes_no_role_that_the_owner_of_the_database_has_chosen(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has planted would be trusted, and RESET ROLE there makes it a superuser; who names it has chosen it."""
    target = project(folder={})
    do(target, f"CREATE ROLE owns LOGIN; ALTER DATABASE {target.database} OWNER TO owns")
    address = "postgresql://{}@/{}?host={}{}"
    where = (target.database, target.conninfo()["host"])
    try:
        with psycopg.connect(address.format("owns", *where, "")) as owner:
            owner.execute(f"ALTER DATABASE {target.database} SET role = 'owns'")
        monkeypatch.setenv("BY_URL", address.format("postgres", *where, ""))
        error = error_of(lambda: connect(Target(name="by-url", url_from="BY_URL")))
        assert isinstance(error, WrongInput)
        assert error.message.endswith("as a superuser: the database gives its sessions the role owns")
        for user, options in (("owns", ""), ("postgres", "&options=-c%20role%3Downs")):
            monkeypatch.setenv("BY_URL", address.format(user, *where, options))
            with connect(Target(name="by-url", url_from="BY_URL")) as conn:
                assert conn.execute("SELECT current_user::text").fetchone() == ("owns",)
    finally:
        with psycopg.connect(**{**target.conninfo(), "dbname": "postgres"}, autocommit=True) as admin:
            admin.execute(f"ALTER DATABASE {target.database} OWNER TO postgres")
            admin.execute("DROP ROLE owns")


@pytest.mark.slow
def test_a_statement_ends_when_its_client_is_gone(project: Project) -> None:
    """Killed without a word, we leave nothing running in the server."""
    target = project(folder={})
    script = (
        "import sys; from pgrunbook.config.targets import Target; from pgrunbook.database.connection import connect; "
        "connect(Target(name='d', server='main', database=sys.argv[1])).execute('SELECT pg_sleep(25)')"
    )
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", script, str(target.database)])
    until(is_at(target, "pg_sleep(25)"))
    process.kill()
    process.wait()
    until(lambda: not is_at(target, "pg_sleep(25)")(), within_s=15)
    do(target, "SELECT 1")


PATHS = [
    ("SET search_path = app", "app", "app"),
    ("SET LOCAL search_path = app", "app", '"$user", public'),
    ("SELECT pg_catalog.set_config('search_path', 'app', false)", "app", "app"),
    ("SELECT pg_catalog.set_config('search_path', 'app', true)", "app", '"$user", public'),
    ("SET search_path = app; RESET search_path", '"$user", public', '"$user", public'),
    ("SET search_path = app; RESET ALL", '"$user", public', '"$user", public'),
    ("SET search_path = app; SET LOCAL search_path = other", "other", "app"),
]


@pytest.mark.parametrize(("said", "inside", "after"), PATHS)
def test_the_path_that_a_migration_sets_is_its_own_and_never_ours(
    said: str, inside: str, after: str, project: Project
) -> None:
    """As in a plain session: SET LOCAL ends with its transaction, SET holds, an abort takes both back."""
    path = "SHOW search_path"
    with connect(project(folder={})) as conn:
        for aborts in (False, True):
            acts = [lambda: conn.execute("SELECT 1 / 0")] if aborts else []
            with suppress(psycopg.errors.DivisionByZero):
                within(conn, lambda: set_as_target(conn, said, inside), *acts)
            assert conn.execute(path).fetchone() == (OURS,)
            with conn.as_target():
                assert conn.execute(path).fetchone() == ('"$user", public' if aborts else after,)
            reset(conn)
        assert conn.execute(path).fetchone() == (OURS,)


def set_as_target(conn: connection.Connection, said: str, inside: str) -> None:
    """Set something as a migration does, and see that it holds there, and there only."""
    with conn.as_target():
        for statement in said.split("; "):
            conn.execute(statement.encode())
    assert conn.execute("SHOW search_path").fetchone() == (OURS,)
    with conn.as_target():
        assert conn.execute("SHOW search_path").fetchone() == (inside,)


SECURITY = [
    ("SET row_security = off", "off", "off"),
    ("SET LOCAL row_security = off", "off", "on"),
    ("SELECT pg_catalog.set_config('row_security', 'off', false)", "off", "off"),
    ("SET LOCAL row_security = off; SET row_security = on", "on", "on"),
    ("SET row_security = off; RESET row_security", "on", "on"),
    ("SET row_security = off; RESET ALL", "on", "on"),
    ("SET row_security = off; SET LOCAL row_security = on", "on", "off"),
]


@pytest.mark.first_case
@pytest.mark.parametrize(
    ("default", "said", "inside", "after"),
    [("on", *case) for case in SECURITY] + [("off", *case) for case in SECURITY if "RESET" not in case[0]],
)
def test_row_security_is_off_for_us_and_the_targets_for_a_migration(
    default: str, said: str, inside: str, after: str, project: Project
) -> None:
    """As in a plain session, whatever its default: SET LOCAL ends with its transaction, an abort takes all back."""
    turned = {"on": "off", "off": "on"} if default == "off" else {"on": "on", "off": "off"}
    if default == "off":
        said = said.replace("= off", "= _").replace("= on", "= off").replace("= _", "= on").replace("'off'", "'on'")
    with connect(project(folder={})) as conn:
        conn.beside = (default, *conn.beside[1:])
        for aborts in (False, True):
            acts = [lambda: conn.execute("SELECT 1 / 0")] if aborts else []
            with suppress(psycopg.errors.DivisionByZero):
                within(conn, *(lambda one=one: as_target(conn, one) for one in said.split("; ")),
                       lambda: is_security(conn, "off", turned[inside]), *acts)  # fmt: skip
            is_security(conn, "off", default if aborts else turned[after])
            conn.beside = (default, *conn.beside[1:])
        with conn.transaction(force_rollback=True):
            as_target(conn, said)
        is_security(conn, "off", default)


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_ours_hold_behind_a_transaction_whose_end_nobody_tells_us(end: str, project: Project) -> None:
    """A transaction of plain SQL, with a savepoint or without."""
    with connect(project(folder={})) as conn:
        for inside in (False, True):
            conn.execute("BEGIN")
            with conn.transaction() if inside else nullcontext():
                as_target(conn, "SET LOCAL search_path = app")
            conn.execute(end)
            is_security(conn, "off", "on")
            assert conn.execute("SHOW search_path").fetchone() == (OURS,)


def as_target(conn: connection.Connection, said: str) -> None:
    with conn.as_target():
        conn.execute(said.encode())


def is_security(conn: connection.Connection, ours: str, theirs: str) -> None:
    assert conn.execute("SHOW row_security").fetchone() == (ours,)
    with conn.as_target():
        assert conn.execute("SHOW row_security").fetchone() == (theirs,)
    assert conn.execute("SHOW row_security").fetchone() == (ours,)


def test_deferred_triggers_of_the_application_find_their_names(project: Project) -> None:
    """They run at COMMIT, when our own rows are written already."""
    target = project(folder={})
    do(target, "CREATE TABLE a (n int); CREATE TABLE b (n int)")
    body = "BEGIN INSERT INTO b VALUES (NEW.n); RETURN NULL; END"
    do(target, f"CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS '{body}'")
    deferred = "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION f()"
    do(target, f"CREATE CONSTRAINT TRIGGER t AFTER INSERT ON a {deferred}")
    with connect(target) as conn:
        with transaction(conn, lock_timeout_ms=1000, statement_timeout_ms=9000):
            with conn.as_target():
                conn.execute("INSERT INTO a VALUES (1)")
            conn.execute("SELECT 1")
        with conn.transaction(), conn.as_target():
            conn.execute("INSERT INTO a VALUES (2)")
    assert rows(target, "SELECT n FROM b ORDER BY n") == [(1,), (2,)]


def test_what_copy_sends_is_dropped_and_its_effect_and_its_error_are_not(project: Project) -> None:
    """COPY ... TO STDOUT in a migration: the session goes on, in a transaction and outside of one."""
    with connect(project(folder={})) as conn:
        conn.execute("CREATE TEMPORARY TABLE copied AS SELECT n, repeat('x', 1000) FROM generate_series(1, 20000) AS n")
        for text in ("COPY copied TO STDOUT", "COPY (DELETE FROM copied WHERE n > 5 RETURNING n) TO STDOUT"):
            assert conn.execute(text).rowcount == -1
        assert conn.execute("SELECT count(*) FROM copied").fetchone() == (5,)
        with pytest.raises(psycopg.errors.DivisionByZero), conn.transaction():
            conn.execute("COPY (SELECT 1 / (n - 3) FROM copied ORDER BY n) TO STDOUT (FORMAT binary)")
        assert conn.execute("SELECT count(*) FROM copied").fetchone() == (5,)
