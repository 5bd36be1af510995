"""Both ways with real tools that npm has: what either of us applies, the other finds applied."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
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
SHAPE = (
    "SELECT attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid)"
    " FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum"
    " WHERE attrelid = '{0}'::regclass AND attnum > 0"
    " UNION ALL SELECT conname, pg_get_constraintdef(oid), true, '' FROM pg_constraint"
    " WHERE conrelid = '{0}'::regclass AND contype = 'p'"
)
# What test_folders asks of the rows, asked of the tools themselves.
pytestmark = pytest.mark.slow


def installed(site: Site, folder: Path) -> Path:
    """The packages of a folder, installed for this session."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed: the real tools are not asked")
    packages = site.state / f"peers-{folder.name}"
    packages.mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(folder / name, packages)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=packages, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"npm could not install {folder.name}: {' '.join(done.stderr.split())[-200:]}")
    return packages


@pytest.fixture(scope="session")
def packages(site: Site) -> Path:
    """node-pg-migrate and Prisma's engine."""
    return installed(site, PEERS)


@pytest.fixture(scope="session")
def supabase(site: Site) -> Path:
    """The program of Supabase's CLI."""
    return installed(site, PEERS / "supabase") / "node_modules" / ".bin" / "supabase"


def url(target: Target) -> str:
    at = target.conninfo()
    return f"postgres://postgres@/{at['dbname']}?host={quote(at['host'])}"


def environment(target: Target) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "DATABASE_URL": url(target)}


def in_one_query(tool: str) -> dict[str, str]:
    """The five of the folder, as tools that run a file as one query need them."""
    return {name: text.replace(" CONCURRENTLY", "") for name, text in FOLDERS[tool].files().items()}


# -- node-pg-migrate


def node_pg_migrate(packages: Path, target: Target, *words: str) -> list[str]:
    program = packages / "node_modules" / "node-pg-migrate" / "bin" / "node-pg-migrate.js"
    return ["node", str(program), *words, "-m", str(target.migrations), "--no-single-transaction", "--verbose", "false"]


def test_after_us_node_pg_migrate_finds_nothing_to_do(project: Project, packages: Path) -> None:
    """And takes back what we applied as if it had done it; our table is its own."""
    folder, files = FOLDERS["node-pg-migrate"], in_one_query("node-pg-migrate")
    ours, theirs = project(folder=files), project(folder=files, name="theirs")

    def ask(target: Target, word: str) -> str:
        command = node_pg_migrate(packages, target, word)
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(target))
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    execute(ours)
    assert "No migrations to run!" in ask(ours, "up")
    ask(ours, "down")
    assert [m.name for m in read(ours).pending()] == folder.names[4:]
    ask(theirs, "up")
    assert rows(theirs, folder.query) == folder.rows(5)
    execute(ours)
    assert rows(ours, folder.query) == folder.rows(5)
    assert rows(ours, SHAPE.format("pgmigrations")) == rows(theirs, SHAPE.format("pgmigrations"))
    found = read(theirs)
    assert (found.pending(), found.problems()) == ([], [])
    back(theirs, 2)
    assert "No migrations to run!" not in ask(theirs, "up")
    assert read(theirs).pending() == []


def test_while_node_pg_migrate_is_at_work_we_are_not(project: Project, packages: Path) -> None:
    """By its own advisory lock, whoever comes first."""
    target = project(folder={"1_slow.sql": "-- Up Migration\nSELECT pg_sleep(3);\n"})
    command = node_pg_migrate(packages, target, "up")
    quiet = {"env": environment(target), "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with connect(target, purpose="test") as conn:
        found = histories.read(conn, target)
        with histories.tool_lock(conn, found, wait_s=0.1):
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(target))
        assert done.returncode != 0
        assert "Another migration is already running" in done.stdout + done.stderr
        with subprocess.Popen(command, **quiet) as other:
            held = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted"
            until(lambda: other.poll() is not None or bool(rows(target, held)))
            with pytest.raises(TargetBusy), histories.tool_lock(conn, found, wait_s=0.1):
                pass
            assert other.wait(timeout=60) == 0


# -- Prisma


def test_after_us_prisma_finds_nothing_to_do(project: Project, packages: Path) -> None:
    """And nothing edited or failed; what we take back it finds to be applied. Our table is its own."""
    folder, files = FOLDERS["prisma"], in_one_query("prisma")
    ours, theirs = project(folder=files), project(folder=files, name="theirs")
    in_sync = {"editedMigrationNames": [], "failedMigrationNames": [], "hasMigrationsTable": True, "history": None}

    def ask(target: Target, word: str) -> dict[str, object]:
        command = ["node", str(PEERS / "prisma_engine.mjs"), word, str(target.migrations)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment(target), cwd=packages
        )
        assert done.returncode == 0, done.stdout + done.stderr
        answer: dict[str, object] = json.loads(done.stdout)
        return answer

    execute(ours)
    assert ask(ours, "diagnose") == in_sync
    assert ask(ours, "apply") == {"appliedMigrationNames": []}
    assert ask(theirs, "apply") == {"appliedMigrationNames": folder.names}
    found = read(theirs)
    assert (found.pending(), found.problems()) == ([], [])
    checksums = "SELECT migration_name, checksum, applied_steps_count FROM _prisma_migrations ORDER BY 1"
    assert rows(ours, checksums) == rows(theirs, checksums)
    assert rows(ours, SHAPE.format("_prisma_migrations")) == rows(theirs, SHAPE.format("_prisma_migrations"))
    back(theirs, 2)
    assert ask(theirs, "apply") == {"appliedMigrationNames": folder.names[3:]}
    assert read(theirs).pending() == []


# -- Supabase


@pytest.fixture
def port(site: Site) -> Iterator[int]:
    """A port of this machine that leads to the site's socket: Supabase's CLI knows no sockets."""
    sockets = (site.state / "sockets" / "main").iterdir()
    path = next(file for file in sockets if file.name.startswith(".s.PGSQL") and file.suffix != ".lock")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_serve, args=(listening, path), daemon=True).start()
        yield listening.getsockname()[1]


def _serve(listening: socket.socket, path: Path) -> None:
    while True:
        try:
            client, _ = listening.accept()
        except OSError:  # the test is over
            return
        threading.Thread(target=_lead, args=(client, path), daemon=True).start()


def _lead(client: socket.socket, path: Path) -> None:
    with client, socket.socket(socket.AF_UNIX) as server:
        server.connect(str(path))
        back = threading.Thread(target=_pass_on, args=(server, client), daemon=True)
        back.start()
        _pass_on(client, server)
        back.join()


def _pass_on(one: socket.socket, other: socket.socket) -> None:
    try:
        while data := one.recv(65_536):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)
    except OSError:  # one of them has gone
        return


def test_after_us_supabase_finds_nothing_to_do(project: Project, supabase: Path, port: int, tmp_path: Path) -> None:
    """Its rows are ours, with every statement as it cuts them."""
    folder = FOLDERS["supabase"]
    files = in_one_query("supabase") | {"20260101000009_odd.sql": "/* a; b */\nSELECT $$;$$; -- c\n\n-- d;\nSELECT 2;"}
    ours = project(folder=files, history="supabase")
    theirs = project(folder=files, name="theirs", history="supabase")

    def push(target: Target) -> str:
        place = tmp_path / target.name
        shutil.copytree(target.migrations, place / "supabase" / "migrations")
        (place / "supabase" / "config.toml").write_text('project_id = "x"\n')
        at = f"postgresql://postgres:x@127.0.0.1:{port}/{target.conninfo()['dbname']}?sslmode=disable"
        command = [str(supabase), "--workdir", str(place), "db", "push", "--db-url", at, "--yes"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(target))
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    execute(ours)
    assert "Remote database is up to date." in push(ours)
    push(theirs)
    assert rows(ours, folder.query) == rows(theirs, folder.query)
    found = read(theirs)
    assert (found.pending(), found.problems()) == ([], [])
