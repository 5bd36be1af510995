"""Servers that are removed with all they hold: only what nothing depends on, and only where a person means it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from acting import wait_until
from conftest import Site
from pgrunbook.branches.server import Server
from pgrunbook.branches.server_status import ServerState
from pgrunbook.config.targets import Target
from pgrunbook.display.prose import counted

Command = Callable[..., tuple[int, str, str]]
Project = Callable[..., Target]


@pytest.fixture
def spare(site: Site) -> Iterator[Server]:
    """A server of nobody, without data: folders are enough to be removed."""
    server = Server("spare")
    assert site.server.name != server.name
    server.make_folders(server.dir)
    server.do("mkdir", "data", "data/pg_wal")
    yield server
    server.destroy()


def test_a_server_that_a_target_is_on_is_never_destroyed(project: Project, site: Site, command: Command) -> None:
    """Neither --yes nor --with-backups is stronger; the error says what would have to go first."""
    project(folder={})
    there = counted(len(list(site.server.backups_dir.glob("*.json"))), "base backup")  # those of other tests, too
    held = f" It holds {there}: nothing else has what is in them." if not there.startswith("0 ") else ""
    code, _, err = command("server", "destroy", "--name", "main", "--yes", "--with-backups")
    assert code == 3
    assert err.splitlines() == [
        'refused to destroy server "main"',
        f"Detail: Target demo is on it.{held}",
        "State: Nothing changed in the database.",
        "Hint: Take the target out of targets.toml first, if its database is to be lost.",
    ]
    assert site.server.status().state is ServerState.RUNNING


def test_base_backups_go_only_when_that_is_said(project: Project, spare: Server, command: Command) -> None:
    """The only backups of a database are worth more than its server."""
    project(folder={})
    spare.write("backups/20260101T000000000Z.json", "{}")
    code, _, err = command("server", "destroy", "--name", "spare", "--yes")
    assert code == 3
    assert "It holds 1 base backup" in err
    assert err.splitlines()[-1] == "Hint: To lose its backups as well, say so: --with-backups."
    code, out, _ = command("server", "destroy", "--name", "spare", "--yes", "--with-backups")
    assert (code, out.splitlines()[0]) == (0, "spare: absent")


@pytest.mark.slow
def test_where_targets_cannot_be_read_nothing_is_destroyed(
    project: Project, spare: Server, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a target is on it is unknown, which is not no."""
    project(folder={})
    monkeypatch.setenv("PGRUNBOOK_TARGETS", "/nonexistent/targets.toml")
    code, _, err = command("server", "destroy", "--name", "spare", "--yes")
    assert code == 3
    assert "Whether a target is on it is not known: could not read /nonexistent/targets.toml." in err
    assert spare.dir.is_dir()


def test_nobody_at_a_terminal_is_no_yes(project: Project, spare: Server, command: Command) -> None:
    """A script has to say it."""
    project(folder={})
    code, _, err = command("server", "destroy", "--name", "spare")
    assert (code, spare.dir.is_dir()) == (3, True)
    assert err.splitlines()[0] == 'server "spare" is not destroyed'
    assert command("server", "destroy", "--name", "spare", "--yes")[0] == 0
    assert not list(spare.dir.parent.glob("spare*"))
    assert command("server", "destroy", "--name", "spare")[1].splitlines()[0] == "spare: absent"


@pytest.mark.slow
@pytest.mark.parametrize(("typed", "code"), [("spar", 3), ("spare", 0)])
def test_the_name_is_typed_again(project: Project, spare: Server, typed: str, code: int) -> None:
    """Another name is no yes either."""
    project(folder={})
    ours, theirs = pty.openpty()
    words = [sys.executable, "-m", "pgrunbook", "server", "destroy", "--name", "spare"]
    done = subprocess.Popen(words, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ)
    os.write(ours, f"{typed}\n".encode())
    told, _ = done.communicate(timeout=60)
    assert (done.returncode, spare.dir.is_dir()) == (code, code != 0)
    assert b"All files of server spare will be removed. Type its name to go on: " in told
    for end in (ours, theirs):
        os.close(end)


def test_what_a_killed_destroy_left_is_shown_and_removed(project: Project, spare: Server, command: Command) -> None:
    """It had renamed the folder already: the rest is no server any more, and no secret either."""
    project(folder={})
    spare.dir.rename(spare.dir.with_name("spare.gone"))
    told = command("server", "status")[1]
    assert "spare: half removed\n  pgrunbook server destroy --name spare removes the rest\n" in told
    assert command("server", "destroy", "--name", "spare", "--yes")[1].splitlines()[0] == "spare: absent"
    assert not list(spare.dir.parent.glob("spare*"))


@pytest.mark.slow
def test_a_folder_that_is_still_written_to_is_removed(spare: Server) -> None:
    """A program that outlives a killed restore writes for a moment; its server goes all the same."""
    words = ["sh", "-c", "for i in $(seq 100); do mkdir -p data/d$i; sleep 0.01; done"]
    writer = subprocess.Popen(words, cwd=spare.dir)
    wait_until((spare.dir / "data" / "d2").is_dir)
    assert spare.destroy().state is ServerState.ABSENT
    writer.wait(timeout=30)
    assert not list(spare.dir.parent.glob("spare*"))
