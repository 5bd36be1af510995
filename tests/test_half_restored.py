"""Restores that are killed, meet each other, or run out of disk: nothing half made passes for a server."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from acting import wait_until
from own_state import own_source
from pgrunbook.branches import archive_compression, recovery
from pgrunbook.branches import backup as backups
from pgrunbook.branches.archive import create_restore_point, wait_archived
from pgrunbook.branches.backup import take_base_backup
from pgrunbook.branches.recovery import restore
from pgrunbook.branches.recovery_target import Point
from pgrunbook.branches.server import Server
from pgrunbook.branches.server_name import server_names
from pgrunbook.branches.server_status import ServerState
from pgrunbook.errors import Blocked, Refused, RunbookError, WrongInput
from servers import PROGRAMS

RESTORE = """
from pgrunbook.branches.recovery import restore
from pgrunbook.branches.recovery_target import Point
from pgrunbook.branches.server import Server
restore(Server("source"), Point(name="here"), name="new")
"""
KILLED_BEFORE_IT_IS_NOTED = RESTORE.replace(
    'name="new"', 'name="new", told=lambda _: __import__("os").kill(__import__("os").getpid(), 9)'
)
pytestmark = pytest.mark.newest
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small disk")


@dataclass(frozen=True)
class Ground:
    """A server with a base backup and a restore point ``here`` behind some seconds of replay."""

    source: Server
    rows: int


@pytest.fixture(scope="module")
def ground(version: int) -> Iterator[Ground]:
    with own_source(version) as source:
        with source.connect() as conn, conn.as_target():
            conn.execute("CREATE TABLE t (n int)")
            take_base_backup(source)
            conn.execute("INSERT INTO t SELECT generate_series(1, 400000)")
            wait_archived(conn, create_restore_point(conn, "here"))
            conn.execute("INSERT INTO t VALUES (0)")
        assert archive_compression.compress(source)
        yield Ground(source, 400_000)


@pytest.fixture
def new(ground: Ground) -> Iterator[Server]:
    assert ground
    server = Server("new")
    yield server
    server.destroy()


def count(server: Server) -> object:
    with server.connect() as conn, conn.as_target():
        row = conn.execute("SELECT count(*) FROM t").fetchone()
    assert row
    return row[0]


def killed_when(ready: Callable[[], bool]) -> None:
    """Restore in a process of its own, and kill that as soon as something is so."""
    child = subprocess.Popen([sys.executable, "-c", RESTORE], env=os.environ)
    wait_until(lambda: ready() or child.poll() is not None)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL


# What make test-all adds.
MORE_MOMENTS: dict[str, Callable[[Server], bool]] = {
    "begun": lambda new: (new.dir / "half-restored").is_file(),
    "the last of the copy": lambda new: (new.dir / "data" / "backup_label").is_file(),
    "the WAL folder": lambda new: (new.dir / "wal").is_dir(),
    "consistent": lambda new: "consistent recovery state reached" in logged(new),
    "archive recovery complete": lambda new: "archive recovery complete" in logged(new),
}
MOMENTS: dict[str, Callable[[Server], bool]] = {
    "copy": lambda new: (new.dir / "data" / "base").is_dir(),
    "copied": lambda new: (new.dir / "data" / "recovery.signal").is_file(),
    "replay": lambda new: "starting point-in-time recovery" in logged(new),
    "at the point": lambda new: "pausing at the end of recovery" in logged(new),
    "promotion": lambda new: "selected new timeline" in logged(new),
}


def logged(new: Server) -> str:
    return new.log_file.read_text() if new.log_file.is_file() else ""


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize("moment", [*MOMENTS, *(pytest.param(one, marks=pytest.mark.slow) for one in MORE_MOMENTS)])
def test_a_killed_restore_says_what_it_is_and_is_made_anew(ground: Ground, new: Server, moment: str) -> None:
    """The name is shown as half restored, is not started, and the next restore to it goes through."""
    killed_when(lambda: (MOMENTS | MORE_MOMENTS)[moment](new))
    status = new.status()
    assert status.state is ServerState.HALF_RESTORED
    assert status.says.startswith('To restore point "here" of server source, begun 2')
    assert "new" in server_names()
    with pytest.raises(Refused, match='server "new" is half restored') as refused:
        new.start()
    assert refused.value.detail == status.says
    done = restore(ground.source, Point(name="here"), name="new")
    assert done.server.status().state is ServerState.RUNNING
    assert count(new) == ground.rows
    assert not list(new.dir.parent.glob("*.gone"))


@pytest.mark.slow
def test_a_server_that_nobody_has_noted_is_made_anew(ground: Ground, new: Server) -> None:
    """Killed behind the promotion, before the journal had its line: nobody would know of it."""
    child = subprocess.run([sys.executable, "-c", KILLED_BEFORE_IT_IS_NOTED], env=os.environ, check=False)
    assert child.returncode == -signal.SIGKILL
    assert "archive recovery complete" in logged(new)
    assert new.status().state is ServerState.HALF_RESTORED
    noted: list[str] = []
    restore(ground.source, Point(name="here"), name="new", told=lambda done: noted.append(done.server.status().state))
    assert (noted, new.status().state) == ([ServerState.HALF_RESTORED], ServerState.RUNNING)
    assert count(new) == ground.rows


@pytest.mark.slow
def test_a_half_restored_server_can_be_destroyed(ground: Ground, new: Server) -> None:
    """With its processes."""
    killed_when(lambda: MOMENTS["replay"](new))
    assert ground.source.status().state is ServerState.RUNNING
    assert new.destroy().state is ServerState.ABSENT
    assert not list(new.dir.parent.glob("new*"))


@pytest.mark.slow
def test_of_two_restores_to_one_name_the_second_is_told(
    ground: Ground, new: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends at once, and does the first no harm."""
    monkeypatch.setattr(recovery, "LOCK_TIMEOUT_S", 0.1)
    failed: list[BaseException] = []
    first = threading.Thread(target=lambda: restore(ground.source, Point(name="here"), name="new"))
    first.start()
    wait_until((new.dir / "data").is_dir)
    try:
        restore(ground.source, Point(name="here"), name="new")
    except Blocked as exc:
        failed.append(exc)
    first.join()
    assert [exc.message for exc in failed] == ['could not lock server "new" in 0 s']  # type: ignore[attr-defined]
    assert count(new) == ground.rows
    with pytest.raises(Refused, match='refused to restore over server "new"') as refused:
        restore(ground.source, Point(name="here"), name="new")
    assert refused.value.hint == "Choose another name, or first: pgrunbook server destroy --name new."


@pytest.mark.slow
@pytest.mark.parametrize("name", ["branch-1-abcdef", "branch-77-000000"])
def test_a_restored_server_has_no_name_of_our_branches(ground: Ground, name: str) -> None:
    """prepare would remove it; a name that only looks alike is a person's."""
    with pytest.raises(WrongInput) as failed:
        restore(ground.source, Point(name="here"), name=name)
    assert failed.value.lines() == [
        f'"{name}" cannot be the name of a server that stays',
        "Detail: Names like branch-1-0a1b2c are those of branches, which prepare removes.",
        "State: Nothing changed in the database.",
        "Hint: Choose another name, as restored-1.",
    ]
    with pytest.raises(WrongInput, match="cannot be the name of a server that stays"):
        Server(name).start()
    assert not list(ground.source.dir.parent.glob("branch-*"))


@pytest.mark.slow
def test_room_on_the_disk_is_looked_at_before_the_copy(ground: Ground) -> None:
    """A backup that is larger than the disk is refused with both numbers, and nothing is made."""
    (taken,) = backups.list_base_backups(ground.source)
    huge = backups.BaseBackup(**{**taken.__dict__, "bytes": 10**15})
    with pytest.raises(Refused) as refused:
        restore(ground.source, Point(name="here"), name="large", backup=huge)
    message, detail, _, hint = refused.value.lines()
    assert message == "refused to begin: there is too little space on the disk for the restored server"
    assert detail.endswith(" left; 1000.0 TB are needed.")
    assert hint.startswith("Hint: Make 1000.0 TB of space in ")
    assert not list(ground.source.dir.parent.glob("large*"))


@pytest.fixture
def small_disk(version: int) -> Iterator[Path]:
    """A state directory on a disk of 700 MB."""
    place = Path(tempfile.mkdtemp(prefix="pgd-"))
    place.chmod(0o755)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700m,mode=0755", "tmpfs", place], check=True)
    with pytest.MonkeyPatch.context() as env:
        env.setenv("PGRUNBOOK_STATE", str(place / "state"))
        env.setenv("PGRUNBOOK_SERVER_FSYNC", "off")
        env.setenv("PGRUNBOOK_PG_BINDIR", str(PROGRAMS[version]))
        yield place
        (place / "ballast").unlink(missing_ok=True)
        for name in server_names():
            Server(name).destroy()
    subprocess.run(["umount", place], check=True)
    place.rmdir()


def fill(place: Path, when: Callable[[], bool]) -> None:
    """Fill the disk up to the last 2 MB as soon as something is so."""
    wait_until(when)
    with contextlib.suppress(OSError), (place / "ballast").open("wb", buffering=0) as ballast:
        while shutil.disk_usage(place).free > 2_000_000:
            ballast.write(bytes(1_000_000))


@ROOT_ONLY
@pytest.mark.slow
@pytest.mark.parametrize("moment", ["copy", "replay"])
def test_a_disk_that_runs_full_is_told_and_nothing_stays(small_disk: Path, moment: str) -> None:
    """In the copy as in the replay: what to do, and the room that it took is free again."""
    source, new = Server("source"), Server("new")
    source.start()
    with source.connect() as conn, conn.as_target():
        conn.execute("CREATE TABLE t (n int)")
        take_base_backup(source)
        conn.execute("INSERT INTO t SELECT generate_series(1, 1000000)")
        wait_archived(conn, create_restore_point(conn, "here"))
    begun = {"copy": (new.dir / "half-restored").is_file, "replay": lambda: MOMENTS["replay"](new)}
    filler = threading.Thread(target=fill, args=(small_disk, begun[moment]))
    filler.start()
    with pytest.raises(RunbookError) as failed:
        restore(source, Point(name="here"), name="new")
    filler.join()
    message, detail, state, hint = failed.value.lines()
    assert message == 'could not restore to restore point "here": the disk is full'
    assert re.search(r"No space left on device|/state has [0-9]+ [kM]?B left\.", detail)
    assert state == "State: The new server was removed; its source was only read."
    assert hint.startswith("Hint: Make 1")
    with pytest.raises(Refused, match="refused to begin: there is too little space on the disk for a base backup"):
        take_base_backup(source)
    assert not list(source.dir.parent.glob("new*"))


@pytest.mark.slow
def test_a_source_whose_data_are_gone_is_restored_from_what_is_left(ground: Ground) -> None:
    """The archive and the backups are enough; a name that the archive lacks is told with those that it has."""
    ground.source.stop()
    aside = ground.source.dir / "aside"
    ground.source.data_dir.rename(aside)
    try:
        done = restore(ground.source, Point(name="here"), name="saved")
        assert count(done.server) == ground.rows
        with pytest.raises(WrongInput, match='could not find restore point "her" in the WAL') as failed:
            restore(ground.source, Point(name="her"), name="other")
        assert failed.value.detail.startswith("The nearest are: here (2")
        assert ground.source.status().state is ServerState.ABSENT
        with pytest.raises(Refused, match='server "source" has lost its data') as refused:
            ground.source.start()
        assert refused.value.detail == f"{ground.source.data_dir} is gone, while its backups and archive are there."
    finally:
        Server("saved").destroy()
        aside.rename(ground.source.data_dir)
        ground.source.start()


@pytest.mark.slow
def test_half_made_backups_of_killed_processes_are_removed_by_the_next(ground: Ground) -> None:
    """They are no backups; while somebody may be at work on one, they stay."""
    left = ground.source.backups_dir / "20260101T000000000Z.new"
    left.mkdir()
    with backups.lock(ground.source, shared=True):
        backups._remove_leftovers(ground.source)
        assert left.is_dir()
    backups._remove_leftovers(ground.source)
    assert not left.exists()


@pytest.mark.slow
def test_backups_in_use_are_not_removed(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """Removal waits for restores, and says whom it waited for."""
    monkeypatch.setattr(backups, "LOCK_TIMEOUT_S", 0)
    with (
        backups.lock(ground.source, shared=True),
        pytest.raises(Blocked, match='could not lock the base backups of server "source" in 0 s'),
        backups.lock(ground.source),
    ):
        raise RunbookError("never reached")
