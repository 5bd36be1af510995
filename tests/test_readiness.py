"""Is it safe to start: each check shown good and bad on a real server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from acting import error, run
from conftest import Site, connect, do
from pgrunbook.branches.server import Server
from pgrunbook.config.targets import Target
from pgrunbook.database import activity, connection, locks, readiness
from pgrunbook.database.activity import Identity
from pgrunbook.database.connection import Connection
from pgrunbook.database.readiness import Check, Level, Limits
from pgrunbook.errors import Unreachable
from scenes import error_of, kill, session, until

Project = Callable[..., Target]
LIMITS = Limits()


def check(
    conn: Connection,
    name: str,
    limits: Limits = LIMITS,
    *,
    needs_restore_point: bool = True,
    data_dir: Path | None = None,
) -> Check:
    """Make every check, and return the one of that name."""
    found = readiness.checks(
        conn, activity.identity(conn), limits, data_dir=data_dir, needs_restore_point=needs_restore_point
    )
    return next(one for one in found if one.name == name)


@pytest.fixture
def here(project: Project) -> Iterator[Connection]:
    """A session in an empty database."""
    with connect(project(folder={}), purpose="checks") as conn:
        yield conn


@pytest.fixture
def own_server(session_env: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of the test's own, to be configured badly."""
    assert session_env
    server = Server("badly")
    server.start()
    yield server
    server.destroy()


def configure(server: Server, **settings: str) -> None:
    """Change settings of a server of ours, and restart it."""
    with server.connect() as conn:
        for name, value in settings.items():
            conn.execute(f"ALTER SYSTEM SET {name} = {value}")
    server.stop()
    server.start()


def test_a_quiet_primary_is_ready(project: Project) -> None:
    """Every check is good, but for the disk, which SQL cannot see."""
    with connect(project(), purpose="checks") as conn:
        found = readiness.checks(conn, activity.identity(conn), LIMITS, data_dir=None, needs_restore_point=True)
    assert [one.name for one in found] == [
        "primary", "rights", "connections", "pooler", "other runs", "oldest transaction", "WAL archive",
        "replication lag", "replication slots", "slots' bound", "publications", "vacuum at work", "wraparound",
        "free disk",
    ]  # fmt: skip
    assert {one.name: one.level for one in found if one.level is not Level.GOOD} == {"free disk": Level.UNKNOWN}


# -- transactions


def test_a_long_transaction_stops_it_and_a_younger_one_is_to_be_looked_at(project: Project) -> None:
    """By its age; named with process and application."""
    target = project(folder={})
    with connect(target) as conn, session(target, "SELECT 1") as other:
        good = check(conn, "oldest transaction")
        until(lambda: check(conn, "oldest transaction", Limits(transaction_age_s=60)).level is Level.GOOD)
        until(lambda: check(conn, "oldest transaction", Limits(transaction_age_s=5)).level is Level.WARN)
        stop = check(conn, "oldest transaction", Limits(transaction_age_s=0.5))
        pid = other.info.backend_pid
    assert stop.level is Level.STOP
    assert stop.found.endswith(f'(process {pid}, "billing", idle in transaction)')
    assert stop.advice == "Locks will queue behind it; end it, or wait."
    assert good.level is Level.GOOD


@pytest.mark.slow
def test_a_prepared_transaction_counts_by_its_name(own_server: Server) -> None:
    """It is in no session, holds its locks all the same, and has to be found by somebody."""
    configure(own_server, max_prepared_transactions="2")
    with own_server.connect() as conn:
        conn.execute("BEGIN; CREATE TABLE public.a (); PREPARE TRANSACTION 'half done'")
        found = check(conn, "oldest transaction", Limits(transaction_age_s=0))
        conn.execute("ROLLBACK PREPARED 'half done'")
    assert found.level is Level.STOP
    assert found.found == "0 s (prepared transaction half done, prepared)"


# -- rights


@pytest.fixture
def weak(project: Project) -> Iterator[Callable[[str], Connection]]:
    """Sessions of a role without rights, once it was granted some."""
    target = project()
    opened: list[Connection] = []
    do(target, "CREATE ROLE weak LOGIN")

    def as_weak(grants: str = "") -> Connection:
        do(target, grants.replace("DB", str(target.database)) or "SELECT 1")
        conn = Connection.connect(**{**target.conninfo(), "user": "weak"}, autocommit=True)
        opened.append(conn)
        return conn

    yield as_weak
    for conn in opened:
        conn.close()
    do(target, "DROP OWNED BY weak CASCADE")
    do(target, "DROP ROLE weak")


def test_missing_rights_are_listed(weak: Callable[[str], Connection]) -> None:
    """Each that a migration needs, until it has them; then what it cannot see and does not own."""
    lacking = check(weak(""), "rights")
    assert lacking.level is Level.STOP
    assert lacking.found == (
        "lacks a schema pgrunbook that it may write to, or CREATE on the database; "
        "EXECUTE on pg_create_restore_point(text) and pg_switch_wal()"
    )
    assert lacking.advice == (
        "postgres owns it: docs/rights.md says how it is handed over. Let an administrator run GRANT EXECUTE ON"
        " FUNCTION pg_create_restore_point(text), pg_switch_wal() TO weak; or set restore_points = false for this"
        " target: then no restore point is made before a change, and only the migrations' own ways back, and a restore"
        " by your provider's or your own backups, lead back."
    )
    assert "restore_point" not in check(weak(""), "rights", needs_restore_point=False).found
    granted = check(
        weak(
            "GRANT USAGE, CREATE ON SCHEMA pgrunbook TO weak;"
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA pgrunbook TO weak;"
            "GRANT EXECUTE ON FUNCTION pg_create_restore_point(text), pg_switch_wal() TO weak"
        ),
        "rights",
    )
    assert granted.level is Level.WARN
    assert granted.found.endswith("relations belong to others")


HALF = ["USAGE ON SCHEMA pgrunbook", "USAGE, CREATE ON SCHEMA pgrunbook", "CREATE ON SCHEMA pgrunbook"]


@pytest.mark.parametrize("given", HALF)
def test_half_of_the_rights_on_our_schema_is_not_enough(weak: Callable[[str], Connection], given: str) -> None:
    """Where its tables are there, and cannot be written to."""
    assert check(weak(f"GRANT {given} TO weak"), "rights", needs_restore_point=False).level is Level.STOP


def test_a_schema_that_an_administrator_has_made_is_enough(weak: Callable[[str], Connection]) -> None:
    """Without CREATE on the database; where it is missing, the statement to run is named."""
    lacking = check(weak("DROP SCHEMA pgrunbook CASCADE"), "rights", needs_restore_point=False)
    assert lacking.advice == "Let an administrator run CREATE SCHEMA pgrunbook AUTHORIZATION weak."
    made = check(weak("CREATE SCHEMA pgrunbook AUTHORIZATION weak"), "rights", needs_restore_point=False)
    assert made.level is Level.WARN
    assert check(weak("DROP SCHEMA pgrunbook; GRANT CREATE ON DATABASE DB TO weak"), "rights").level is Level.STOP


def test_what_cannot_be_seen_is_not_taken_for_absent(weak: Callable[[str], Connection], project: Project) -> None:
    """Without pg_monitor the transactions of others are unknown, which is not none."""
    hidden = check(weak(""), "oldest transaction")
    assert (hidden.level, hidden.found) == (Level.UNKNOWN, "those of others are not visible")
    assert project
    assert check(weak("GRANT pg_monitor TO weak"), "oldest transaction").level is Level.GOOD


def test_an_owner_who_cannot_see_others_is_told(own_server: Server) -> None:
    """It may migrate, but a blocker would show no query."""
    with own_server.connect() as conn:
        conn.execute("CREATE ROLE owns LOGIN")
        conn.execute("CREATE DATABASE owned OWNER owns")
    target = Target(name="owned", server=own_server.name, database="owned")
    with Connection.connect(**{**target.conninfo(), "user": "owns"}, autocommit=True) as conn:
        found = check(conn, "rights", needs_restore_point=False)
    assert (found.level, found.found) == (Level.WARN, "cannot see what others run")


# -- other runs, vacuum, disk, wraparound


def test_another_run_stops_it(project: Project) -> None:
    """With the name it goes by."""
    target = project(folder={})
    with connect(target) as conn, locks.one_runner(target, "20261122T165431Z-demo-7f3a"):
        found = check(conn, "other runs")
    assert found.level is Level.STOP
    assert "20261122T165431Z-demo-7f3a" in found.found


def test_a_vacuum_at_work_is_to_be_looked_at(project: Project) -> None:
    """With the table and the phase it is in."""
    target = project(folder={})
    do(target, "CREATE TABLE big (n int) WITH (autovacuum_enabled = off)")
    do(target, "INSERT INTO big SELECT generate_series(1, 100000); DELETE FROM big")
    with connect(target) as conn, session(target) as other:
        other.execute(
            "SET vacuum_cost_delay = 100; SET vacuum_cost_limit = 1; SET application_name = 'pgrunbook other'"
        )
        other.pgconn.send_query(b"VACUUM big")
        until(lambda: check(conn, "vacuum at work").found != "none")
        found = check(conn, "vacuum at work")
        kill(target, "other")
        other.close()
    assert found.level is Level.WARN
    assert found.found.startswith("big (")
    assert found.advice == "The server cancels it when we wait for its lock."


def test_transaction_ids_that_run_out_stop_it(here: Connection) -> None:
    """Above the limit a VACUUM comes first."""
    found = check(here, "wraparound", Limits(wraparound_percent=-1))
    assert (found.level, found.advice) == (Level.STOP, "VACUUM FREEZE the oldest tables first.")


def test_the_disk_is_looked_at_where_it_is_ours(here: Connection, site: Site) -> None:
    """Free space against the database's size."""
    data_dir = site.server.data_dir
    assert check(here, "free disk", data_dir=data_dir).found.endswith(
        "; the database has " + readiness._size(size(here))
    )
    assert check(here, "free disk", Limits(free_disk_percent=101), data_dir=data_dir).level is Level.WARN
    too_big = Identity(**{**vars(activity.identity(here)), "size_bytes": shutil.disk_usage("/").total * 4})
    assert readiness._disk(too_big, LIMITS, data_dir).level is Level.STOP


def size(conn: Connection) -> int:
    return activity.identity(conn).size_bytes


# -- the archive


@pytest.mark.slow
def test_an_archive_that_fails_stops_it(own_server: Server) -> None:
    """The folder cannot be written: the check names the segment, and is good again once that is mended."""
    archive = own_server.archive_dir
    away = archive.with_name("away")
    archive.rename(away)
    with own_server.connect() as conn:
        conn.execute("SELECT pg_create_restore_point('p'); SELECT pg_switch_wal()")
        until(lambda: check(conn, "WAL archive").level is Level.STOP)
        found = check(conn, "WAL archive")
        assert found.found.startswith("last attempt failed: 0000000100000000")
        away.rename(archive)
        until(lambda: check(conn, "WAL archive").level is Level.GOOD)


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"archive_mode": "off"}, "off: no restore point can be restored"),
        ({"archive_library": "''", "archive_command": "''"}, "on, but archives nothing"),
    ],
)
def test_an_archive_that_is_off_or_goes_nowhere_stops_it(
    own_server: Server, settings: dict[str, str], found: str
) -> None:
    """Unless the target does without restore points: then it is to be looked at."""
    configure(own_server, **settings)
    with own_server.connect() as conn:
        needed, not_needed = check(conn, "WAL archive"), check(conn, "WAL archive", needs_restore_point=False)
    assert (needed.found, needed.level, not_needed.level) == (found, Level.STOP, Level.WARN)
    assert needed.advice.endswith(readiness.WITHOUT_POINTS)
    assert not_needed.advice == readiness.DONE_WITHOUT_POINTS


# -- replicas and slots


def test_slots_that_nobody_reads_are_named(own_server: Server) -> None:
    """One is to be looked at; once it keeps more WAL than the limit, it stops the run."""
    with own_server.connect() as conn:
        assert check(conn, "replication slots").level is Level.GOOD
        conn.execute("SELECT pg_create_physical_replication_slot('left_behind', true)")
        look = check(conn, "replication slots")
        conn.execute("SELECT pg_switch_wal()")
        stop = check(conn, "replication slots", Limits(slot_retained_bytes=1))
        conn.execute("SELECT pg_drop_replication_slot('left_behind')")
        assert check(conn, "slots' bound").level is Level.GOOD
    assert look.level is Level.WARN
    assert look.found.endswith("of WAL kept by the furthest behind of 1; nobody reads left_behind")
    assert stop.level is Level.STOP


def is_lost(conn: Connection) -> bool:
    """Write more WAL than a slot may keep, and ask whether it is lost by now."""
    for _ in range(3):
        conn.execute("SELECT pg_logical_emit_message(true, '', 'x')")
        conn.execute("SELECT pg_switch_wal()")
    conn.execute("CHECKPOINT")
    return "lost" in check(conn, "replication slots").found


@pytest.mark.slow
def test_what_slots_may_keep_is_told_and_one_that_was_lost(own_server: Server) -> None:
    """Without a bound, whoever stops reading fills the disk; with one, the slot is lost instead."""
    with own_server.connect() as conn, conn.as_target():
        conn.execute("SELECT pg_create_physical_replication_slot('far_behind', true)")
        without = check(conn, "slots' bound")
        conn.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '16MB'")
        conn.execute("SELECT pg_reload_conf()")
        until(lambda: check(conn, "slots' bound").level is Level.GOOD)
        bounded = check(conn, "slots' bound")
        until(lambda: is_lost(conn))
        lost = check(conn, "replication slots")
        conn.execute("SELECT pg_drop_replication_slot('far_behind')")
        conn.execute("ALTER SYSTEM RESET max_slot_wal_keep_size")
        conn.execute("SELECT pg_reload_conf()")
    assert (without.level, without.found) == (Level.WARN, "none: max_slot_wal_keep_size is -1")
    assert "ALTER SYSTEM SET max_slot_wal_keep_size = '10GB'" in without.advice
    assert bounded.found == "max_slot_wal_keep_size is 16MB"
    assert lost.level is Level.WARN
    assert lost.found.endswith("; lost: far_behind")


@pytest.fixture
def standby(own_server: Server, tmp_path: Path) -> Iterator[Target]:
    """A real standby of the server, made by pg_basebackup."""
    data = own_server.dir / "standby"
    sockets = own_server.socket_dir
    own_server.run(
        "pg_basebackup", "-D", str(data), "-R", "-X", "stream", "-c", "fast", "-h", str(sockets), "-U", "postgres"
    )
    options = f"-p 6543 -c unix_socket_directories='{sockets}' -c archive_mode=off -c listen_addresses=''"
    own_server.run("pg_ctl", "start", "-D", str(data), "-w", "-o", options, "-l", str(own_server.dir / "standby.log"))
    service = tmp_path / "pg_service.conf"
    service.write_text(f"[standby]\nhost={sockets}\nport=6543\nuser=postgres\ndbname=postgres\n")
    patch = pytest.MonkeyPatch()
    patch.setenv("PGSERVICEFILE", str(service))
    yield Target(name="standby", service="standby")
    patch.undo()
    own_server.run("pg_ctl", "stop", "-D", str(data), "-m", "immediate", "-w")


@pytest.mark.slow
def test_a_replica_is_refused_and_its_lag_watched(own_server: Server, standby: Target) -> None:
    """On the replica: stop. On the primary: its lag, once replay pauses and WAL goes on."""
    with connect(standby) as replica, own_server.connect() as primary:
        who = activity.identity(replica)
        assert (who.in_recovery, who.role) == (True, "replica")
        found = {c.name: c for c in readiness.checks(replica, who, LIMITS, data_dir=None, needs_restore_point=True)}
        assert (found["primary"].level, found["primary"].advice) == (Level.STOP, "Name the primary in targets.toml.")
        assert {found[n].level for n in ("WAL archive", "replication lag", "replication slots")} == {Level.UNKNOWN}

        until(lambda: "of 1" in check(primary, "replication lag").found)
        assert check(primary, "replication lag").level is Level.GOOD
        replica.execute("SELECT pg_wal_replay_pause()")
        primary.execute("CREATE TABLE public.lag AS SELECT generate_series(1, 1000) AS n")
        until(lambda: check(primary, "replication lag", Limits(replay_lag_bytes=0)).level is Level.STOP)

        primary.execute("CREATE ROLE blind LOGIN")
        with Connection.connect(
            host=str(own_server.socket_dir), user="blind", dbname="postgres", autocommit=True
        ) as blind:
            unseen = check(blind, "replication lag")
        assert (unseen.level, unseen.found) == (Level.UNKNOWN, "not visible for 1 of 1")


@pytest.mark.slow
def test_what_a_person_chose_is_refused_on_a_replica(
    own_server: Server, standby: Target, project: Callable[..., Target]
) -> None:
    """ANALYZE would be passed over with a warning there; a slot of its own is removed."""
    assert standby.service == "standby"
    target = project(folder={"0001_a.sql": "SELECT 1;"}, name="standby", server=None, database=None, service="standby")
    with own_server.connect() as primary, connect(target) as replica:
        primary.execute("CREATE TABLE public.t (n int PRIMARY KEY)")
        primary.execute("ALTER TABLE public.t ADD CONSTRAINT c CHECK (n > 0) NOT VALID")
        until(lambda: replica.execute("SELECT FROM pg_constraint WHERE conname = 'c'").fetchone() is not None)
        replica.execute("SELECT pg_create_physical_replication_slot('its_own', true)")
    invalid = "constraint not validated: c of public.t"
    for given in ({"analyze": "public.t"}, {"reindex": "public.t_pkey"}, {"remove": invalid}):
        made, code = run("troubleshoot", "standby", **given)
        assert (code, error(made).splitlines()[0]) == (3, 'target "standby" is a replica')
    made, code = run("troubleshoot", "standby", remove="replication slot: its_own")
    assert (code, made.parts[-1].says) == (0, "Done: removed replication slot: its_own.")


# -- a pooler


@pytest.fixture
def pooler(site: Site, project: Project) -> Iterator[Callable[[str], Target]]:
    """A pgbouncer in transaction mode before the server; it refuses our settings unless told to pass over them."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    address = project(folder={}).conninfo()
    running: list[subprocess.Popen[bytes]] = []
    folder = Path(tempfile.mkdtemp(prefix="pgrb-pooler-"))  # which the server's account can read
    folder.chmod(0o755)
    patch = pytest.MonkeyPatch()

    def start(ignored: str) -> Target:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        (folder / "users").write_text('"postgres" ""\n')
        (folder / "ini").write_text(
            f"[databases]\n* = host={address['host']}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
            f"unix_socket_dir =\nauth_type = any\nauth_file = {folder / 'users'}\npool_mode = transaction\n"
            f"ignore_startup_parameters = {ignored}\n[databases]\n{address['dbname']} = host={address['host']} "
            f"user=postgres\n"
        )
        account = site.server.installation.account
        running.append(subprocess.Popen([program, "-q", str(folder / "ini")], user=account.name if account else None))

        def is_up() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        until(is_up)
        patch.setenv("POOLED", f"postgresql://postgres@127.0.0.1:{port}/{address['dbname']}")
        return Target(name="pooled", url_from="POOLED")

    yield start
    for process in running:
        process.terminate()
        process.wait()
    shutil.rmtree(folder)
    patch.undo()


def test_a_pooler_is_found_out(pooler: Callable[[str], Target]) -> None:
    """It answers the start-up with a process id of its own."""
    pooled = pooler("options,extra_float_digits")
    with Connection.connect(**pooled.conninfo(), autocommit=True) as conn:
        found = check(conn, "pooler")
    assert (found.level, found.found) == (Level.STOP, "a pooler in between")


def test_a_pooler_that_passes_over_our_settings_gets_none_of_them(pooler: Callable[[str], Target]) -> None:
    """The session behind it is the application's: its search_path and time limits stay as they are."""
    target = pooler("options,extra_float_digits")
    error = error_of(lambda: connection.connect(target))
    assert isinstance(error, Unreachable)
    assert error.detail == "The session is without the settings with which it was opened."
    assert error.hint.startswith("A pooler is in between: name the server's own address.")
    with psycopg.connect(**target.conninfo(), autocommit=True) as application:
        for name, kept in (("search_path", '"$user", public'), ("row_security", "on"), ("statement_timeout", "0")):
            assert application.execute(f"SHOW {name}".encode()).fetchone() == (kept,)


def test_a_pooler_that_refuses_our_settings_is_told_as_one(pooler: Callable[[str], Target]) -> None:
    """Its own words speak of a startup parameter; the hint says what to do."""
    target = pooler("extra_float_digits")
    error = error_of(lambda: connect(target))
    assert isinstance(error, Unreachable)
    assert "unsupported startup parameter" in error.detail
    assert error.hint == (
        "A pooler is in between: name the server's own address. Session settings do not survive pooling."
    )
