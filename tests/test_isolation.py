"""Copies of a server that reach nothing outside: their settings, libraries, subscriptions and foreign servers."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from budget import sample
from pgrunbook.branches import data_branch, datadir, isolation
from pgrunbook.branches.archive import create_restore_point
from pgrunbook.branches.backup import take_base_backup
from pgrunbook.branches.recovery import restore
from pgrunbook.branches.recovery_target import Point
from pgrunbook.branches.schema_branch import copy_schema
from pgrunbook.branches.server import Server
from pgrunbook.branches.server_name import server_names
from pgrunbook.config.targets import Target
from pgrunbook.errors import Refused, WrongInput
from scenes import error_of
from servers import PROGRAMS, VERSIONS, WHEEL

# What settings of these names do may lead outside; each is among those of a copy, or here with the reason.
SUSPECTS = re.compile(r"command|librar|conninfo|director|_file|slot|standby|listen|log_dest|collector|provider|socket")
HARMLESS = {
    "archive_library", "archive_command",  # off, or those of our servers: to its own folder
    "config_file", "unix_socket_directories", "unix_socket_group", "unix_socket_permissions",  # ours
    "log_directory", "log_file_mode",  # of the collector, which is off
    "krb_server_keyfile", "ssl_ca_file", "ssl_cert_file", "ssl_crl_file", "ssl_dh_params_file", "ssl_key_file",
    "ssl_passphrase_command_supports_reload", "dynamic_library_path",  # read only
    "data_directory_mode", "data_sync_retry", "ignore_invalid_pages", "bgwriter_flush_after", "temp_file_limit",
    "hot_standby", "hot_standby_feedback", "max_replication_slots", "max_slot_wal_keep_size",
    "max_standby_archive_delay", "max_standby_streaming_delay", "wal_receiver_create_temp_slot",
    "idle_replication_slot_timeout", "password_encryption", "backslash_quote", "file_copy_method",
    "file_extend_method", "max_files_per_process", "max_notify_queue_pages", "log_replication_commands",
    "autovacuum_worker_slots", "in_hot_standby", "log_filename", "log_temp_files", "output_plugin_libraries",
    "remove_temp_files_after_crash", "ssl_library",
}  # fmt: skip
SCENE = """
CREATE EXTENSION dblink; CREATE EXTENSION postgres_fdw; CREATE EXTENSION file_fdw;
CREATE TABLE followed (n int PRIMARY KEY);
CREATE SERVER there FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{host}', port '5432', dbname 'postgres');
CREATE USER MAPPING FOR PUBLIC SERVER there OPTIONS (user 'postgres');
CREATE FOREIGN TABLE far (n int) SERVER there OPTIONS (table_name 'followed');
CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
CREATE FOREIGN TABLE program (t text) SERVER files OPTIONS (program 'echo x >> {folder}/ran; echo y');
CREATE TABLE parts (n int) PARTITION BY RANGE (n);
CREATE TABLE near PARTITION OF parts FOR VALUES FROM (0) TO (10);
CREATE FOREIGN TABLE part PARTITION OF parts FOR VALUES FROM (10) TO (20) SERVER there OPTIONS (table_name 'followed');
INSERT INTO near VALUES (1);
CREATE FUNCTION calls() RETURNS text LANGUAGE sql
AS $$ SELECT dblink_exec('host={host} user=postgres dbname=postgres', 'INSERT INTO followed VALUES (99)') $$;
CREATE MATERIALIZED VIEW kept AS SELECT n FROM far;
CREATE MATERIALIZED VIEW asked AS
SELECT * FROM dblink('host={host} user=postgres dbname=postgres', 'SELECT n FROM followed') AS t (n int);
CREATE SUBSCRIPTION follows CONNECTION 'host={host} user=postgres dbname=postgres' PUBLICATION told;
"""


@pytest.fixture(scope="module", params=["wheel", *(version for version in VERSIONS if version != WHEEL)])
def state(request: pytest.FixtureRequest) -> Iterator[Path]:
    base = Path(tempfile.mkdtemp(prefix="pgi-"))
    base.chmod(0o755)
    (base / "open").mkdir()
    (base / "open").chmod(0o777)
    with pytest.MonkeyPatch.context() as env:
        env.setenv("PGRUNBOOK_STATE", str(base / "state"))
        env.setenv("PGRUNBOOK_SERVER_FSYNC", "off")
        if request.param != "wheel":
            env.setenv("PGRUNBOOK_PG_BINDIR", str(PROGRAMS[request.param]))
        yield base / "open"
        for name in server_names():
            Server(name).destroy()
        shutil.rmtree(base)


def started(name: str, **settings: str) -> Server:
    server = Server(name)
    server.start()
    with server.connect() as conn:
        for key, value in settings.items():
            conn.execute(f"ALTER SYSTEM SET {key} = {value}".encode())
    server.stop()
    server.start()
    return server


@pytest.fixture(scope="module")
def publisher(state: Path) -> Server:
    assert state.is_dir()  # every server lies beside it
    server = started("publisher", wal_level="logical")
    do(server, "CREATE TABLE followed (n int PRIMARY KEY); INSERT INTO followed VALUES (1), (2)")
    do(server, "CREATE PUBLICATION told FOR TABLE followed")
    return server


@pytest.fixture(scope="module")
def source(state: Path, publisher: Server) -> Server:
    """A server with everything that acts: a worker, a subscription, foreign servers, libraries of sessions."""
    server = started(
        "source",
        shared_preload_libraries="pg_stat_statements, '$libdir/pg_prewarm'",
        archive_command="'false'",
        archive_timeout="'1h'",
        primary_conninfo=f"'host={publisher.socket_dir}'",
        synchronous_standby_names="'nobody'",
        synchronous_commit="local",
        external_pid_file=f"'{state}/pid'",
        log_destination="'stderr, syslog'",
        recovery_target_name="'long-ago'",
        work_mem="'5MB'",
    )
    do(server, "ALTER ROLE postgres SET session_preload_libraries = 'auto_explain'")
    do(server, "ALTER DATABASE postgres SET session_preload_libraries = 'auto_explain'")
    for statement in SCENE.format(host=publisher.socket_dir, folder=state).split(";\n"):
        if statement.strip():
            do(server, statement)
    until(lambda: rows(server, "SELECT count(*) FROM followed") == [(2,)])
    return server


def target(server: Server) -> Target:
    return Target(name="demo", server=server.name, database="postgres")


def do(server: Server, statement: str, database: str = "postgres") -> None:
    with server.connect(database=database) as conn, conn.as_target():
        conn.execute(statement.encode())


def rows(server: Server, query: str, database: str = "postgres") -> list[tuple[object, ...]]:
    with server.connect(database=database) as conn, conn.as_target():
        return conn.execute(query.encode()).fetchall()


def until(holds: object, timeout_s: float = 60) -> None:
    ends_at = time.monotonic() + timeout_s
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < ends_at
        time.sleep(0.05)


@contextmanager
def by_base_backup(source: Server) -> Iterator[tuple[Server, str]]:
    with data_branch.with_data(target(source), most_bytes=2**40) as copy:
        assert copy.how == "base backup with WAL to now"
        yield copy.server, str(copy.safe.database)


@contextmanager
def by_dump(source: Server) -> Iterator[tuple[Server, str]]:
    with pytest.MonkeyPatch.context() as env:
        env.setenv("ADDRESS", f"postgresql://postgres@/postgres?host={source.socket_dir}")
        far = Target(name="far", url_from="ADDRESS")
        with data_branch.with_data(far, most_bytes=2**40) as copy:
            assert copy.how == "dump and restore"
            yield copy.server, str(copy.safe.database)


@contextmanager
def by_schema(source: Server) -> Iterator[tuple[Server, str]]:
    with copy_schema(target(source)) as schema, schema.branch() as branch:
        yield Server(str(branch.server)), str(branch.database)


@contextmanager
def by_restore(source: Server) -> Iterator[tuple[Server, str]]:
    do(source, "ALTER SYSTEM RESET archive_command")
    source.stop()
    source.start()
    take_base_backup(source)
    with source.connect() as conn:
        lsn = create_restore_point(conn, "here")
    new = restore(source, Point(name="here", at_lsn=lsn), name="restored").server
    new.stop()
    new.start()  # it stays a copy
    try:
        yield new, "postgres"
    finally:
        new.destroy()


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize("way", sample([by_base_backup, by_dump, by_schema, by_restore], 2))
def test_a_copy_reaches_nothing_and_nobody(source: Server, publisher: Server, state: Path, way: object) -> None:
    """However it is made: its settings hold, no library acts, no door to another server or program opens."""
    before = rows(publisher, "SELECT pid FROM pg_stat_replication")
    (state / "ran").unlink(missing_ok=True)
    with way(source) as (copy, name):  # type: ignore[operator]
        wanted = isolation.settings(copy)
        told = dict(rows(copy, "SELECT name, source FROM pg_settings", name))
        assert {key: told[key] for key in wanted if told[key] not in isolation.FROM_THE_SERVER} == {}
        assert rows(copy, "SHOW shared_preload_libraries", name)[0][0] in ("", "pg_stat_statements")
        assert not any(str(key).startswith("auto_explain.") for key in told)
        workers = "SELECT backend_type FROM pg_stat_activity WHERE backend_type ~ 'logical|prewarm|archiver'"
        assert {str(kind) for (kind,) in rows(copy, workers, name)} <= {"archiver"}
        assert rows(copy, "SELECT 1 FROM pg_subscription WHERE subenabled OR subslotname IS NOT NULL") == []
        for statement in (
            "TABLE far", "TABLE program", "SELECT calls()", "TABLE parts", "REFRESH MATERIALIZED VIEW kept",
            "REFRESH MATERIALIZED VIEW asked", "IMPORT FOREIGN SCHEMA public FROM SERVER there INTO public",
            f"SELECT dblink_exec('hostaddr=127.0.0.1 port={closed_port()} dbname=x', 'SELECT 1')",
            f"CREATE SUBSCRIPTION another CONNECTION 'host={publisher.socket_dir} user=postgres' PUBLICATION told",
        ):  # fmt: skip
            with pytest.raises(psycopg.Error) as caught:
                do(copy, statement, name)
            assert isolation.explained(f"{caught.value.diag.message_primary} {caught.value.diag.message_detail}")
        assert rows(copy, "TABLE near", name) == ([] if way is by_schema else [(1,)])
        if way in (by_base_backup, by_restore):
            do(copy, "DROP SUBSCRIPTION follows", name)  # it asks nobody
    assert not (state / "ran").exists()
    assert rows(publisher, "SELECT n FROM followed WHERE n = 99") == []
    slots = rows(publisher, "SELECT slot_name FROM pg_replication_slots")
    assert slots == [("follows",)]
    if way is not by_restore:  # for it the source was started again
        assert rows(publisher, "SELECT pid FROM pg_stat_replication") == before


@pytest.mark.slow
@pytest.mark.first_case
def test_the_subscriber_itself_goes_on(source: Server, publisher: Server) -> None:
    """What is published while a branch stands reaches the subscriber, and not the branch."""
    with by_base_backup(source) as (copy, name):
        do(publisher, "INSERT INTO followed VALUES (3)")
        until(lambda: rows(source, "SELECT count(*) FROM followed WHERE n = 3") == [(1,)])
        assert rows(copy, "SELECT count(*) FROM followed WHERE n = 3", name) == [(0,)]


@pytest.mark.slow
@pytest.mark.first_case
def test_every_setting_that_may_lead_outside_is_judged(source: Server) -> None:
    """A server's own list: what a new version brings is to be looked at."""
    names = {str(name) for (name,) in rows(source, "SELECT name FROM pg_settings")}
    suspects = {name for name in names if SUSPECTS.search(name)}
    own = datadir.settings(source.installation, "x", source.socket_dir)
    assert suspects - isolation.settings(source).keys() - own.keys() - HARMLESS == set()


@pytest.mark.slow
def test_a_setting_that_does_not_hold_is_refused(source: Server) -> None:
    """A server that was started otherwise is no copy."""
    error = error_of(lambda: isolation.close(source))
    assert isinstance(error, Refused)
    assert error.message == "the copy of the server could reach outside"
    assert "archive_timeout (configuration file)" in error.detail


@pytest.mark.slow
def test_tablespaces_lie_in_the_folder_of_the_branch(source: Server) -> None:
    """What is written to them on the branch leaves the files of the source as they were."""
    far = source.dir / "far = 1"
    source.do("mkdir", far.name)
    do(source, f"CREATE TABLESPACE far LOCATION '{far}'")
    do(source, "CREATE TABLE lies (n int) TABLESPACE far")
    do(source, "INSERT INTO lies SELECT generate_series(1, 1000)")
    do(source, "CHECKPOINT")
    try:
        before = files(far)
        with by_base_backup(source) as (copy, name):
            assert rows(copy, "SELECT count(*) FROM lies", name) == [(1000,)]
            place = rows(copy, "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'far'")[0][0]
            assert Path(str(place)).is_relative_to(copy.dir)
            do(copy, "UPDATE lies SET n = n + 1; CREATE TABLE more TABLESPACE far AS TABLE lies", name)
            do(copy, "CHECKPOINT")
            assert files(far) == before
        assert rows(source, "SELECT sum(n) FROM lies") == [(500500,)]
    finally:
        do(source, "DROP TABLE lies")
        do(source, "DROP TABLESPACE far")


@pytest.mark.slow
@pytest.mark.first_case
def test_a_tablespace_made_before_the_point_is_not_replayed(source: Server) -> None:
    """The WAL names the folder of the living server; a point before it can be restored."""
    do(source, "ALTER SYSTEM RESET archive_command")
    source.stop()
    source.start()
    take_base_backup(source)
    source.do("mkdir", "later")
    with source.connect() as conn:
        before = create_restore_point(conn, "before-it")
        conn.execute(f"CREATE TABLESPACE later LOCATION '{source.dir / 'later'}'".encode())
        after = create_restore_point(conn, "after-it")
    try:
        error = error_of(lambda: restore(source, Point(name="after-it", at_lsn=after), name="restored"))
        if not (source.installation.bindir / "pg_waldump").is_file():  # one that was fetched, for rehearsals only
            assert isinstance(error, WrongInput)
            assert error.message == "could not find PostgreSQL's program pg_waldump"
            assert not Server("restored").dir.exists()
            return
        assert isinstance(error, Refused)
        assert error.message == (
            'cannot restore to restore point "after-it": a tablespace was made since the base backup'
        )
        assert str(source.dir / "later") in error.detail
        assert not Server("restored").dir.exists()
        restore(source, Point(name="before-it", at_lsn=before), name="restored")
        assert rows(Server("restored"), "SELECT 1 FROM pg_tablespace WHERE spcname = 'later'") == []
    finally:
        Server("restored").destroy()
        do(source, "DROP TABLESPACE later")


@pytest.mark.slow
@pytest.mark.first_case
def test_a_library_that_a_branch_does_not_load_is_named_as_the_reason(source: Server) -> None:
    """The server's own words say that something must be preloaded."""
    assert isolation.explained("pg_cron can only be loaded via shared_preload_libraries") == (
        "It needs a preloaded library, and a branch loads none that acts by itself."
    )
    assert isolation.explained('relation "a" does not exist') == ""
    do(source, "CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
    with by_base_backup(source) as (copy, name):
        assert rows(copy, "SELECT count(*) >= 0 FROM pg_stat_statements", name) == [(True,)]
    with by_dump(source) as (copy, name):
        with pytest.raises(psycopg.Error) as caught:
            rows(copy, "SELECT * FROM pg_stat_statements", name)
        assert isolation.explained(str(caught.value))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def closed_port() -> int:
    return 1
