"""Branches of now beside a synced ``cp -r`` with a start, and beside pg_dump and pg_restore; with and without reflinks.

Run by ``make bench``, or alone: ``python tests/bench/branching.py --mb 2000 --rounds 5``. The file system with reflinks
is XFS in an image that is mounted through a loop device, which takes root and mkfs.xfs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import rounds
from ground import state, temporary

from pgrunbook.branches.provider import Wanted
from pgrunbook.branches.server import Server
from pgrunbook.branches.server_branches import ServerBranches
from pgrunbook.config.targets import Target

REFLINK_GOAL_S, COPY_GOAL, DUMP_GOAL = 0.5, 1.5, 5.0
SCALE_MB = 15  # what pgbench makes per unit of its scale
IMAGE_TIMES = 6  # the size of the image, in databases

Lines = list[str]


def branching(mb: int, count: int) -> Lines:
    """Measure all on a database of so many MB."""
    lines = [
        "## A branch of now",
        "",
        f"A database of pgbench of {mb:,} MB on a running server; {count} rounds.",
        "A branch is ready when it lets a session of the target's role in.",
        "cp -r is synced, and a server started on the copy; pg_dump and pg_restore have 2 processes and no fsync.",
    ]
    lines += ["", "Without reflinks:", "", *_measured(None, mb, count)]
    if os.geteuid() or not shutil.which("mkfs.xfs"):
        return [*lines, "", "With reflinks: not measured, it takes root and mkfs.xfs."]
    with temporary() as folder, _xfs(folder, mb) as place:
        lines += ["", "With reflinks (XFS):", "", *_measured(place, mb, count)]
    return lines


def _measured(place: Path | None, mb: int, count: int) -> Lines:
    with nullcontext(place) if place else temporary() as folder, state(folder, folder / "targets.toml"):
        server = Server("main")
        server.start()
        where = ("-h", str(server.socket_dir), "-U", "postgres")
        server.run("pgbench", *where, "-i", "-q", "-s", str(max(1, mb // SCALE_MB)), "postgres")
        with server.connect() as conn:
            conn.execute("CHECKPOINT")
        target = Target(name="bench", server="main", database="postgres")
        ways = {
            "pgrunbook branch create": lambda: _branch(target),
            "cp -r, sync and start": lambda: _copy(server),
            "pg_dump -j2, pg_restore -j2": lambda: _dump(server),
        }
        samples = rounds.interleaved(ways, count)
    table = []
    for name, some in samples.items():
        middle, least, most = rounds.took(some)
        table.append((name, f"{middle:.2f}", f"{least:.2f} to {most:.2f}"))
    ours, copied, dumped = samples.values()
    of_copy, of_dump, middle = rounds.ratio(ours, copied), rounds.ratio(dumped, ours), rounds.took(ours)[0]
    goals = [rounds.goal(f"{DUMP_GOAL:.0f} times faster than a dump", of_dump >= DUMP_GOAL, f"{of_dump:.1f} times")]
    if place:
        reached = middle <= REFLINK_GOAL_S
        goals.append(rounds.goal(f"at most {REFLINK_GOAL_S} s with reflinks", reached, f"{middle:.2f} s"))
    else:
        reached = of_copy <= COPY_GOAL
        goals.append(rounds.goal(f"at most {COPY_GOAL} times cp -r, sync and start", reached, f"ratio {of_copy:.2f}"))
    return [*rounds.table(["", "median s", "range s"], table), "", *goals]


def _branch(target: Target) -> rounds.Sample:
    provider = ServerBranches("cluster")
    sample = rounds.call(lambda: provider.create(target, Wanted(name="one", owner="bench")))
    (made,) = provider.branches(target)
    provider.delete(target, made)
    return sample


def _copy(server: Server) -> rounds.Sample:
    """Copy the files as they are; nobody writes, so a server starts on them."""
    run = (
        "cp -r --reflink=never data copy && rm -f copy/postmaster.pid && sync -f copy && "
        f"{server.program('pg_ctl')} start -w -D copy -l copy.log "
        f"-o \"-c archive_mode=off -c port=5433 -c unix_socket_directories='{server.socket_dir}'\""
    )
    sample = rounds.call(lambda: server.do("sh", "-c", run))
    server.run("pg_ctl", "stop", "-w", "-D", "copy", "-m", "immediate")
    server.do("rm", "-rf", "copy")
    return sample


def _dump(server: Server) -> rounds.Sample:
    other = Server("other")
    other.start()
    with other.connect() as conn:
        conn.execute("ALTER SYSTEM SET fsync = off")
        conn.execute("SELECT pg_reload_conf()")

    def load() -> None:
        server.run("pg_dump", "-h", str(server.socket_dir), "-U", "postgres", "-Fd", "-j2", "-f", "dumped", "postgres")
        there = str(server.dir / "dumped")
        server.run("pg_restore", "-h", str(other.socket_dir), "-U", "postgres", "-j2", "-d", "postgres", there)

    sample = rounds.call(load)
    server.do("rm", "-rf", "dumped")
    other.destroy()
    return sample


@contextmanager
def _xfs(folder: Path, mb: int) -> Iterator[Path]:
    """Give a folder on a file system with reflinks."""
    image, place = folder / "image", folder / "xfs"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(max(4096, mb * IMAGE_TIMES) * 2**20)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    try:
        place.chmod(0o755)
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


if __name__ == "__main__":
    told = argparse.ArgumentParser(description=__doc__)
    told.add_argument("--mb", type=int, default=2000)
    told.add_argument("--rounds", type=int, default=5)
    asked = told.parse_args()
    sys.stdout.write("\n".join(branching(asked.mb, asked.rounds)) + "\n")
