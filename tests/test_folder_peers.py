"""Both ways with the real node-pg-migrate: what either of us applies, the other finds applied."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from conftest import ROOT, Site, connect, rows
from pgrunbook import history as histories
from pgrunbook.config.targets import Target
from pgrunbook.errors import TargetBusy
from scenes import execute, until
from test_folders import FOLDERS, back, read

Project = Callable[..., Target]
PEERS = ROOT / "tests" / "folder_peers"
FOLDER = FOLDERS["node-pg-migrate"]
SHAPE = (
    "SELECT attname, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute"
    " WHERE attrelid = 'pgmigrations'::regclass AND attnum > 0"
    " UNION ALL SELECT conname, pg_get_constraintdef(oid), true FROM pg_constraint"
    " WHERE conrelid = 'pgmigrations'::regclass AND contype = 'p'"
)


class NodePgMigrate:
    """The real program, called as its users call it."""

    def __init__(self, packages: Path) -> None:
        self.packages = packages

    def command(self, target: Target, *words: str) -> tuple[list[str], dict[str, str]]:
        """Return its command and environment for the target's database and folder."""
        at = target.conninfo()
        url = f"postgres://postgres@/{at['dbname']}?host={quote(at['host'])}"
        program = self.packages / "node_modules" / "node-pg-migrate" / "bin" / "node-pg-migrate.js"
        # Its single transaction is broken by what cannot run in one.
        options = ["-m", str(target.migrations), "--no-single-transaction", "--verbose", "false"]
        return ["node", str(program), *words, *options], {"PATH": "/usr/bin:/bin:/usr/local/bin", "DATABASE_URL": url}

    def run(self, target: Target, *words: str) -> str:
        """Call it, and return what it says."""
        command, environment = self.command(target, *words)
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=self.packages)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="session")
def peer(site: Site) -> NodePgMigrate:
    """One that npm has installed for this session."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed: the real node-pg-migrate is not asked")
    packages = site.state / "node-pg-migrate"
    packages.mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(PEERS / name, packages)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=packages, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"npm could not install node-pg-migrate: {' '.join(done.stderr.split())[-200:]}")
    return NodePgMigrate(packages)


# node-pg-migrate runs a file as one query, in which no index can be built concurrently.
FILES = {name: text.replace(" CONCURRENTLY", "") for name, text in FOLDER.files().items()}


def test_after_us_it_finds_nothing_to_do(project: Project, peer: NodePgMigrate) -> None:
    """And takes back what we applied as if it had done it; our table is its own."""
    ours, theirs = project(folder=FILES), project(folder=FILES, name="theirs")
    execute(ours)
    assert "No migrations to run!" in peer.run(ours, "up")
    peer.run(ours, "down")
    assert [m.name for m in read(ours).pending()] == FOLDER.names[4:]
    peer.run(theirs, "up")
    assert rows(theirs, FOLDER.query) == FOLDER.rows(5)
    execute(ours)
    assert rows(ours, FOLDER.query) == FOLDER.rows(5)
    assert rows(ours, SHAPE) == rows(theirs, SHAPE)
    found = read(theirs)
    assert (found.pending(), found.problems()) == ([], [])
    back(theirs, 2)
    assert "No migrations to run!" not in peer.run(theirs, "up")
    assert read(theirs).pending() == []


def test_while_one_is_at_work_the_other_is_not(project: Project, peer: NodePgMigrate) -> None:
    """By its own advisory lock, whoever comes first."""
    target = project(folder={"1_slow.sql": "-- Up Migration\nSELECT pg_sleep(3);\n"})
    with connect(target, purpose="test") as conn:
        found = histories.read(conn, target)
        command, environment = peer.command(target, "up")
        with histories.tool_lock(conn, found, wait_s=0.1):
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode != 0
        assert "Another migration is already running" in done.stdout + done.stderr
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as other:
            held = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted"
            until(lambda: other.poll() is not None or bool(rows(target, held)))
            with pytest.raises(TargetBusy), histories.tool_lock(conn, found, wait_s=0.1):
                pass
            assert other.wait(timeout=60) == 0
