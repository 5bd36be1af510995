"""Branches in memory: used where there is room, left at once, and never the reason for which a rehearsal fails."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import do, rows
from pgrunbook.branches import branch_server, data_branch, in_memory
from pgrunbook.branches.server import Server
from pgrunbook.config import paths
from pgrunbook.config.targets import Target
from pgrunbook.errors import StatementFailed, WrongInput

Project = Callable[..., Target]
MB = 1024 * 1024

pytestmark = pytest.mark.skipif(in_memory.room_bytes() < 400 * MB, reason="this machine has no room in memory")


def place_of(server: Server) -> Path:
    return server.data_dir.resolve().parent


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A real file system of memory with room for one server, and for little beside it."""
    folder = paths.state_dir() / "memory"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m,mode=1777", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may make a file system")
    monkeypatch.setattr(in_memory, "PLACE", folder)
    monkeypatch.setattr(in_memory, "SHARE", 1)
    monkeypatch.setattr(in_memory, "WAL_BYTES", 0)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_small_branch_lies_in_memory_and_nothing_is_left_of_it() -> None:
    with branch_server.new_server(data_bytes=MB) as server:
        branch_server.start_empty(server)
        place = place_of(server)
        assert place.parent == in_memory.PLACE
        assert place.stat().st_mode & 0o777 == 0o700
        with server.connect() as conn:
            assert conn.execute("SELECT 1").fetchall() == [(1,)]
    assert not place.exists()
    assert not server.dir.exists()


@pytest.mark.first_case
@pytest.mark.parametrize("size", [None, 2**50])
def test_a_branch_of_unknown_size_or_a_large_one_lies_on_the_disk(size: int | None) -> None:
    with branch_server.new_server(data_bytes=size) as server:
        branch_server.start_empty(server)
        assert not server.data_dir.is_symlink()


def test_memory_can_be_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(in_memory.SETTING, "0")
    with branch_server.new_server(data_bytes=1) as server:
        branch_server.start_empty(server)
        assert not server.data_dir.is_symlink()
    monkeypatch.setenv(in_memory.SETTING, "much")
    with pytest.raises(WrongInput, match=in_memory.SETTING):
        in_memory.room_bytes()


def test_what_lies_there_without_its_server_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_memory, "ABANDONED_S", -1.0)
    with branch_server.new_server(data_bytes=1) as lost:
        branch_server.start_empty(lost)
        lost.stop_at_once()
        place = place_of(lost)
        with branch_server.new_server(data_bytes=1):
            assert place.is_dir()
        lost.data_dir.unlink()  # as where somebody has deleted the folder of the server
        with branch_server.new_server(data_bytes=1) as other:
            assert place_of(other).is_dir()
            assert not place.exists()


def test_what_another_process_removes_meanwhile_is_in_nobodys_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """While what is abandoned is looked for, the servers of others come and go."""
    with branch_server.new_server(data_bytes=1) as theirs:
        owner_of = in_memory._owner

        def removed_behind(folder: Path, uid: int) -> str | None:
            owner = owner_of(folder, uid)
            if folder == place_of(theirs):
                (folder / in_memory.OWNER).unlink()
            return owner

        monkeypatch.setattr(in_memory, "_owner", removed_behind)
        with branch_server.new_server(data_bytes=1) as ours:
            monkeypatch.undo()
            (place_of(theirs) / in_memory.OWNER).write_text(str(theirs.dir))
            assert place_of(ours).is_dir()


@pytest.mark.usefixtures("site")
def test_a_link_that_somebody_has_put_there_is_not_followed() -> None:
    """Neither where code on a branch has changed it, nor where somebody moved a server's data: nothing of it goes."""
    elsewhere = paths.state_dir() / "elsewhere"
    (elsewhere / "data").mkdir(parents=True)
    (elsewhere / in_memory.OWNER).write_text("no server of ours")
    with branch_server.new_server(data_bytes=1) as server, branch_server.new_server(data_bytes=1) as other:
        for target in (elsewhere / "data", other.data_dir.readlink()):
            server.data_dir.unlink()
            server.data_dir.symlink_to(target)
            assert in_memory.place_of(server.data_dir) is None
        server.destroy()
        assert not server.dir.exists()
        assert other.data_dir.is_dir()
    assert (elsewhere / "data").is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may act as another user")
def test_what_another_user_has_planted_is_neither_read_nor_removed() -> None:
    planted = in_memory.PLACE / "pgrunbook-00000000000000aa"
    planted.mkdir(mode=0o700)
    os.mkfifo(planted / in_memory.OWNER)
    os.chown(planted, 4294001, 4294001)
    try:
        with branch_server.new_server(data_bytes=1) as server:
            assert in_memory.place_of(server.data_dir) is not None
        assert planted.is_dir()
    finally:
        (planted / in_memory.OWNER).unlink()
        planted.rmdir()


@pytest.mark.slow
@pytest.mark.usefixtures("site")
def test_a_rehearsal_that_fills_the_memory_begins_again_on_the_disk(small_memory: Path) -> None:
    lay: list[bool] = []

    @in_memory.else_on_disk
    def rehearse(wanted: int) -> int:
        with branch_server.new_server(data_bytes=MB) as server:
            branch_server.start_empty(server)
            lay.append(server.data_dir.is_symlink())
            with server.connect() as conn:
                conn.execute(
                    "CREATE TABLE public.a AS SELECT n, repeat(n::text, 100) FROM generate_series(1, %s) AS n", [wanted]
                )
                return len(conn.execute("SELECT n FROM public.a").fetchall())

    assert rehearse(10) == 10
    assert rehearse(400_000) == 400_000
    assert lay == [True, True, False]
    assert list(small_memory.iterdir()) == []


def test_another_failure_is_not_tried_again() -> None:
    calls: list[int] = []

    @in_memory.else_on_disk
    def rehearse() -> None:
        calls.append(1)
        with branch_server.new_server(data_bytes=1):
            raise StatementFailed("no")

    with pytest.raises(StatementFailed):
        rehearse()
    assert calls == [1]


@pytest.mark.slow
def test_a_branch_with_data_lies_in_memory_twin_and_all(project: Project) -> None:
    target = project()
    do(target, "CREATE TABLE a AS SELECT 1 AS n")
    with data_branch.with_data(target, most_bytes=2**40, twin=True) as copy:
        assert copy.twin is not None
        places = [place_of(copy.server), place_of(copy.twin.server)]
        assert {place.parent for place in places} == {in_memory.PLACE}
        assert rows(copy.twin.safe, "SELECT n FROM public.a") == [(1,)]
    assert not any(place.exists() for place in places)
