"""Two databases of 500 tables that differ in three objects: our snapshots and their diff, beside migra."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import rounds
import schema_500
from ground import DATABASE, Ground, socket_dir
from psycopg import sql

from pgrunbook.config.targets import Target
from pgrunbook.database.connection import connect
from pgrunbook.database.schema import Snapshot, snapshot
from pgrunbook.database.schema_diff import diff

OTHER, GOAL = "bench_other", 0.1
PACKAGES = ("migra==3.0.1663481299", "psycopg2-binary==2.9.13", "setuptools==80.9.0", "SQLAlchemy==2.0.44")
CHANGED = (
    "ALTER TABLE t7 ADD COLUMN z int; DROP INDEX t9_parent_id_idx; ALTER TABLE t11 DROP CONSTRAINT t11_parent_id_fkey"
)
OURS, ALONE = "two snapshots and their diff", "the diff alone"
PEER, PEER_ALONE = "migra: both inspected, and the diff", "migra: the diff alone"
# Its own clock, without the start of Python: it reads both databases, as we do.
IN_PROCESS = """
import sys, time
from migra import Migration
from sqlbag import S
with S(sys.argv[1]) as a, S(sys.argv[2]) as b:
    began = time.perf_counter()
    made = Migration(a, b)
    inspected = time.perf_counter()
    made.set_safety(False)
    made.add_all_changes()
    ended = time.perf_counter()
    print(ended - began, ended - inspected, len(made.statements))
"""

Lines = list[str]


def diffs(site: Ground, count: int) -> Lines:
    """Measure them; return the section."""
    site.new_database()
    what = schema_500.make(site)
    site.settle()
    python, why = _installed(site.folder)
    with site.server.connect(purpose="bench") as conn:
        conn.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(OTHER)))
        names = map(sql.Identifier, (OTHER, DATABASE))
        conn.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*names))
    with connect(_target(OTHER), purpose="bench") as conn, conn.as_target():
        conn.execute(CHANGED.encode())
    before, now = _taken(DATABASE), _taken(OTHER)
    if len(diff(before, now)) != 3:
        raise RuntimeError(f"{len(diff(before, now))} differences instead of 3")
    things: dict[str, Callable[[], rounds.Sample]] = {
        OURS: lambda: rounds.call(lambda: diff(_taken(DATABASE), _taken(OTHER))),
        ALONE: lambda: rounds.call(lambda: diff(before, now)),
    }
    alone: list[rounds.Sample] = []
    if python:
        things[PEER] = lambda: _migra(python, alone)
    samples = rounds.interleaved(things, count)
    if python:
        samples[PEER_ALONE] = alone
    return _told(what, samples, why)


def _installed(folder: Path) -> tuple[Path | None, str]:
    """Return the Python of an installation of migra, or why there is none."""
    home = folder / "migra"
    python = home / "bin" / "python"
    for command in ([sys.executable, "-m", "venv", str(home)], [str(python), "-m", "pip", "-q", "install", *PACKAGES]):
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            return None, f"migra is missing: {(made.stderr.strip().splitlines() or ['it could not be installed'])[-1]}"
    return python, ""


def _migra(python: Path, alone: list[rounds.Sample]) -> rounds.Sample:
    urls = [f"postgresql+psycopg2:///{name}?host={socket_dir()}&user=postgres" for name in (DATABASE, OTHER)]
    began = datetime.now(UTC)
    found = subprocess.run([str(python), "-c", IN_PROCESS, *urls], capture_output=True, text=True, check=False)
    if found.returncode:
        raise RuntimeError(f"migra failed:\n{found.stderr[-3000:]}")
    seconds, diff_s, statements = found.stdout.split()
    alone.append(rounds.Sample(began, float(diff_s)))
    if int(statements) != 3:
        raise RuntimeError(f"migra: {statements} statements instead of 3")
    return rounds.Sample(began, float(seconds))


def _taken(name: str) -> Snapshot:
    with connect(_target(name), purpose="bench") as conn:
        return snapshot(conn)


def _target(name: str) -> Target:
    return Target(name="bench", server="main", database=name)


def _told(what: str, samples: rounds.Samples, why: str) -> Lines:
    rows, peers = [], {OURS: PEER, ALONE: PEER_ALONE}
    for name, some in samples.items():
        middle, least, most = rounds.took(some)
        peer = samples.get(peers.get(name, name))
        rows.append(
            (name, f"{middle:.3f}", f"{least:.3f} to {most:.3f}", f"{rounds.ratio(some, peer):.3f}" if peer else "-")
        )
    lines = [
        "## Diff of two large schemas",
        "",
        f"{what}; one column, one index and one foreign key differ. All within a running Python.",
        "",
        *rounds.table(["", "median s", "range s", "ratio to migra's"], rows),
        "",
    ]
    if PEER_ALONE not in samples:
        return [*lines, why]
    found = rounds.ratio(samples[ALONE], samples[PEER_ALONE])
    return [*lines, rounds.goal(f"the diff at most {GOAL} of migra's", found <= GOAL, f"{found:.2f}")]


if __name__ == "__main__":
    from ground import ground, temporary

    with temporary() as folder:
        (folder / "targets.toml").write_text('[bench]\nserver = "main"\ndatabase = "bench"\n')
        with ground(folder, folder / "targets.toml") as site:
            print("\n".join(diffs(site, 7)))  # noqa: T201
