"""Backups of a server that is not ours: its WAL received through a slot, base backups, and restores from both."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from acting import completed, error, events, outputs, run, wait_until
from conftest import ROOT
from own_state import own_source
from pgrunbook.branches import archive, backup, incremental, received
from pgrunbook.branches.archive import create_restore_point
from pgrunbook.branches.recovery import restore
from pgrunbook.branches.recovery_target import Point
from pgrunbook.branches.server import Server
from pgrunbook.branches.server_status import ServerState
from pgrunbook.config import targets
from pgrunbook.config.targets import Target
from pgrunbook.errors import Blocked, Refused
from pgrunbook.record.run import Status

Command = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.newest
SECTION = (
    (ROOT / "docs" / "guide.md").read_text().partition("### A server that is not ours\n")[2].partition("\n### ")[0]
)
TYPED = [shlex.split(line, comments=True)[1:] for line in re.findall("^pgrunbook .*$", SECTION, re.M)]
RECEIVE = (sys.executable, "-m", "pgrunbook", *TYPED[0])
SLOT = "pgrunbook_hosted"


@pytest.fixture(scope="module")
def hosted(version: int) -> Iterator[Server]:
    """A server that target ``hosted`` reaches by its address alone; it bounds what slots keep, and has a password."""
    with (
        own_source(version, targets='[hosted]\nurl_from = "HOSTED_URL"\n', needs=["pg_receivewal"]) as server,
        pytest.MonkeyPatch.context() as env,
    ):
        env.setenv("HOSTED_URL", f"postgresql://postgres:Hx7Pq2Lm@/postgres?host={server.socket_dir}")
        bounded(server, "1GB")
        ask(server, "CREATE TABLE t (n int)")
        yield server


def target() -> Target:
    return targets.load("hosted")


def ask(server: Server, statement: str) -> list[tuple[object, ...]]:
    with server.connect() as conn, conn.as_target():
        done = conn.execute(statement.encode())
        return done.fetchall() if done.description else []


def bounded(server: Server, size: str) -> None:
    """Let slots keep so much."""
    ask(server, f"ALTER SYSTEM SET max_slot_wal_keep_size = '{size}'")
    ask(server, "SELECT pg_reload_conf()")
    wait_until(lambda: ask(server, "SHOW max_slot_wal_keep_size") == [(size,)])


def is_lost(server: Server) -> bool:
    """Write another segment, so that the server takes away what the slot may not keep."""
    written(server, "later", 2)
    ask(server, "CHECKPOINT")
    return ask(server, "SELECT wal_status FROM pg_replication_slots") == [("lost",)]


@contextmanager
def receiver() -> Iterator[subprocess.Popen[str]]:
    """Receive meanwhile, in a process of its own that is asked to end as the guide's service does."""
    with subprocess.Popen(RECEIVE, env=os.environ, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def refusal() -> list[str]:
    """Return what is told where the WAL is not received; in a process of its own, which would become the receiver."""
    done = subprocess.run(RECEIVE, env=os.environ, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == Refused.exit_code
    return done.stderr.splitlines()


def is_received(server: Server) -> bool:
    return bool(ask(server, f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{SLOT}' AND active"))


def written(server: Server, name: str, row: int) -> Point:
    """Write a row and a restore point, and end the segment."""
    with server.connect() as conn, conn.as_target():
        conn.execute("INSERT INTO t VALUES (%s)", (row,))
        lsn = create_restore_point(conn, name)
        conn.execute("INSERT INTO t VALUES (-1)")
        conn.execute("SELECT pg_switch_wal()")
    return Point(name=name, at_lsn=lsn)


@pytest.mark.slow
def test_what_was_received_is_restored(hosted: Server, command: Command) -> None:
    """From a base backup over the connection and the WAL of the slot; what is not complete waits for its end."""
    kept = received.home(target())
    with receiver() as process:
        wait_until(lambda: is_received(hosted) or process.poll() is not None)
        (create,) = TYPED[1:]
        code, out, _ = command(*create)
        assert (code, out.split(":")[0]) == (0, backup.list_base_backups(kept)[0].id)
        point = written(hosted, "here", 1)
        last = str(ask(hosted, "SELECT pg_walfile_name(pg_switch_wal() - 1)")[0][0])
        wait_until(lambda: last in archive.archived(kept))
        assert refusal()[0] == 'refused to receive the WAL of target "hosted" twice'
        code, _, err = command("backup", "receive", "--target", "hosted", "--drop")
        assert (code, err.splitlines()[0]) == (3, f'refused to drop replication slot "{SLOT}": it is being read')
    assert process.returncode == 0
    assert "secret" not in " ".join(process.args)
    code, out, _ = command("backup", "verify", "--target", "hosted")
    assert (code, out.splitlines()[-1]) == (0, "all of it is whole")
    try:
        done = restore(kept, point, name="restored")
        assert ask(done.server, "SELECT n FROM t") == [(1,)]
    finally:
        Server("restored").destroy()
    assert kept.status().state is ServerState.ABSENT
    with pytest.raises(Refused, match='server "received-hosted" has lost its data'):
        kept.start()
    assert command("backup", "receive", "--target", "hosted", "--drop")[1] == f"dropped replication slot {SLOT}\n"
    assert command("backup", "receive", "--target", "hosted", "--drop")[1] == f"there is no replication slot {SLOT}\n"
    assert command("backup", "expire", "--target", "hosted")[0] == 0


@pytest.mark.slow
def test_a_slot_without_a_bound_is_refused(hosted: Server) -> None:
    """It could fill the disk of the server; the way out is told."""
    bounded(hosted, "-1")
    try:
        told = refusal()
    finally:
        bounded(hosted, "1GB")
    assert told[:2] == [
        'refused to make a replication slot of target "hosted": it would keep WAL without a bound',
        "Detail: max_slot_wal_keep_size is -1: while nobody receives, the slot could fill the server's disk.",
    ]
    assert "ALTER SYSTEM SET max_slot_wal_keep_size = '10GB'" in told[-1]
    assert ask(hosted, "SELECT count(*) FROM pg_replication_slots") == [(0,)]


@pytest.mark.slow
def test_a_slot_that_was_lost_is_told(hosted: Server) -> None:
    """Its WAL went while nobody received: there is a gap, and a new base backup is needed."""
    ask(hosted, f"SELECT pg_create_physical_replication_slot('{SLOT}', true)")
    bounded(hosted, "16MB")
    try:
        wait_until(lambda: is_lost(hosted))
        told = refusal()
    finally:
        bounded(hosted, "1GB")
        received.stop_for_good(target())
    assert told[:2] == [
        'cannot go on receiving the WAL of target "hosted": its slot was lost',
        f'Detail: Nobody has read "{SLOT}" for longer than max_slot_wal_keep_size (16MB) of WAL.',
    ]
    assert "pgrunbook backup create --target hosted" in told[-1]


@pytest.mark.slow
def test_a_role_without_the_rights_is_told_them(hosted: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is copied; with them it goes on to the next thing."""
    ask(hosted, "CREATE ROLE keeper LOGIN")
    monkeypatch.setenv("HOSTED_URL", f"postgresql://keeper@/postgres?host={hosted.socket_dir}")
    with pytest.raises(Refused) as refused:
        backup.take_base_backup(received.home(target()), of=target())
    message, detail, _, hint = refused.value.lines()
    assert message == 'could not back up server "received-hosted": role "keeper" lacks a right'
    assert detail.startswith("Detail: permission denied")
    for statement in hint.removeprefix("Hint: Let a superuser give both: ").rstrip(".").split("; "):
        ask(hosted, statement)
    assert backup.take_base_backup(received.home(target()), of=target()).stop_lsn


@pytest.mark.slow
def test_an_incremental_backup_comes_over_the_connection_too(hosted: Server) -> None:
    """Where the server summarizes its WAL; else the reason is told."""
    kept = received.home(target())
    whole = backup.take_base_backup(kept, of=target())
    if reason := incremental.hindrance(kept, of=target()):
        assert hosted.installation.major < incremental.SINCE, reason
        return
    assert incremental.take(kept, of=target()).onto == whole.id


@pytest.mark.slow
def test_the_notebooks_restore_what_was_received(
    hosted: Server, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The point is chosen, restored and compared, rows come home, and a drill leaves nothing; headless."""
    monkeypatch.setenv("PGRUNBOOK_OUTPUTS", str(tmp_path))
    ask(hosted, "CREATE TABLE ledger (id int PRIMARY KEY, amount int)")
    ask(hosted, "INSERT INTO ledger SELECT n, n FROM generate_series(1, 100) AS n")
    with receiver() as process:
        wait_until(lambda: is_received(hosted) or process.poll() is not None)
        assert command("backup", "create", "--target", "hosted")[0] == 0
        with hosted.connect() as conn, conn.as_target():
            lsn = create_restore_point(conn, "before_loss")
        ask(hosted, "DELETE FROM ledger WHERE id <= 40")
        ask(hosted, "INSERT INTO ledger VALUES (1000, 1)")
        made, code = run("restore", "hosted", to=f"lsn:{lsn}", salvage="ledger")
        assert (code, made.status, completed(made)) == (0, Status.DONE, True), error(made)
        name = events(made, "restored")[0]["name"]
        try:
            assert ask(Server(name), "SELECT count(*), sum(amount) FROM ledger") == [(100, 5050)]
            assert "public.ledger" in outputs(made, "how-does-it-differ")
            assert ask(hosted, "SELECT count(*), sum(amount) FROM ledger") == [(101, 5051)]
            assert "cut over" not in outputs(made, "what-next")
        finally:
            Server(name).destroy()
        drilled, code = run("restore-drill", "hosted", to="newest")
        assert (code, drilled.status) == (0, Status.DONE), error(drilled)
        assert Server(events(drilled, "restored")[0]["name"]).status().state is ServerState.ABSENT
    monkeypatch.setattr(received, "RECEIVE_TIMEOUT_S", 1)
    with pytest.raises(Blocked, match="has not come in 1 s") as late:
        received.wait_received(target(), None)
    assert "pgrunbook backup receive --target hosted" in late.value.hint
    received.stop_for_good(target())


def test_every_name_of_a_target_has_a_folder_and_a_slot_of_its_own() -> None:
    """What is received of one target is never restored as another's, also where names differ by case only."""
    names = ["shop", "Shop", "SHOP", "sp ace/'q%", "sp-ace-q", "\N{PILE OF POO}", "x" * 31, "x" * 32, "x" * 200, "a.b"]
    of = [Target(name=name, url_from="NOWHERE") for name in names]
    assert len({received.kept_of(one).name for one in of}) == len(names)
    assert len({received.slot(one) for one in of}) == len(names)
    assert all(re.fullmatch(r"[a-z0-9_]{1,63}", received.slot(one)) for one in of)
    assert received.kept_of(of[0]).name == "received-shop"
