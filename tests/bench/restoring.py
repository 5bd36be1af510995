"""Backups and restores beside pgBackRest: on PostgreSQL 15 both with all of the WAL, on 18 with an incremental backup.

Run by ``make bench``, or alone: ``python tests/bench/restoring.py --mb 2000 --rounds 5``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import rounds
from ground import state, temporary

from pgrunbook.branches import archive, archive_compression, backup, incremental, recovery
from pgrunbook.branches.recovery_target import Point, lsn_number
from pgrunbook.branches.server import Server

PROGRAMS_15 = Path("/usr/lib/postgresql/15/bin")
PEER = "pgbackrest"
RATIO_GOAL, BACKUP_GOAL = 1.0, 1.2
SCALE_MB = 15  # what pgbench makes per unit of its scale
POINT = "before-release"
START_S = 600

Lines = list[str]


class PgBackRest:
    """The peer, with a repository in the server's folder; it compresses as fast as it can, with as many processes."""

    def __init__(self, server: Server) -> None:
        self.server, self.repository, self.restored = server, server.dir / "repository", server.dir / "restored"

    def set_up(self) -> None:
        """Make its repository, and let the server archive there as well as where it archived before."""
        said = {
            "repo1-path": self.repository, "lock-path": self.server.dir / "lock", "log-level-file": "off",
            "process-max": os.cpu_count(), "compress-type": "lz4", "log-level-console": "warn",
        }  # fmt: skip
        own = {"pg1-path": self.server.data_dir, "pg1-socket-path": self.server.socket_dir, "pg1-user": "postgres"}
        parts = (
            f"[{part}]\n" + "".join(f"{key}={value}\n" for key, value in words.items())
            for part, words in {"global": said, "bench": own}.items()
        )
        self.server.write(f"{PEER}.conf", "".join(parts))
        self.run("stanza-create")
        ours = 'test -f ../archive/%f || { cp "%p" ../archive/%f.part && mv ../archive/%f.part ../archive/%f; }'
        theirs = f'{self.command("archive-push")} "%p"'
        with self.server.connect() as conn:
            conn.execute("ALTER SYSTEM SET archive_library = ''")
            conn.execute(f"ALTER SYSTEM SET archive_command = '{ours} && {theirs}'".encode())
            conn.execute("SELECT pg_reload_conf()")
            conn.execute("SELECT pg_sleep(1)")

    def command(self, name: str, *options: str) -> str:
        """Return the words of one of its commands."""
        return " ".join([PEER, f"--config={self.server.dir}/{PEER}.conf", "--stanza=bench", *options, name])

    def run(self, name: str, *options: str) -> None:
        """Run one of its commands as the server's account."""
        self.server.do("sh", "-c", self.command(name, *options))

    def backup(self) -> None:
        """Take a full backup."""
        self.run("backup", "--type=full", "--start-fast")

    def restore(self) -> None:
        """Restore to the point, until it is a server that takes writes."""
        target = ("--type=name", f"--target={POINT}", "--target-action=promote")
        self.run("restore", *target, f"--pg1-path={self.restored}")
        options = f"-c archive_mode=off -c port=5433 -c unix_socket_directories='{self.server.socket_dir}'"
        self._pg_ctl("start", "-l", f"{self.restored}.log", "-t", str(START_S), "-o", options)
        asked = ("psql", "-h", str(self.server.socket_dir), "-p", "5433", "-U", "postgres", "-Atc")
        while self.server.run(*asked, "SELECT pg_is_in_recovery()").stdout.strip() != "f":
            time.sleep(0.05)

    def remove(self) -> None:
        """Take away what was restored."""
        self._pg_ctl("stop", "-m", "immediate")
        self.server.do("rm", "-rf", str(self.restored))

    def _pg_ctl(self, verb: str, *options: str) -> None:
        self.server.run("pg_ctl", verb, "-w", "-D", str(self.restored), *options)


def restoring(mb: int, wal_mb: int, count: int) -> Lines:
    """Measure both, on a database and an amount of WAL of so many MB."""
    lines = [
        "## Backup and restore",
        "",
        f"A database of pgbench of {mb:,} MB; {wal_mb:,} MB of WAL from the base backup to the restore point.",
        f"{count} rounds, each begun by the other one.",
        "A restore ends when the new server takes writes; fsync is on.",
    ]
    if not (shutil.which(PEER) and PROGRAMS_15.is_dir()):
        return [*lines, "", "Not measured: pgbackrest and PostgreSQL 15 are not installed."]
    with _server("on15", PROGRAMS_15, mb) as server:
        lines += ["", *_beside_the_peer(server, wal_mb, count)]
    with _server("on18", None, mb) as server:
        lines += ["", *_with_incremental(server, wal_mb, count)]
    return lines


def _beside_the_peer(server: Server, wal_mb: int, count: int) -> Lines:
    peer = PgBackRest(server)
    peer.set_up()
    taking = {"pgrunbook": lambda: rounds.call(lambda: backup.take_base_backup(server)), PEER: _call(peer.backup)}
    took = rounds.interleaved(taking, count)
    ours_mb = backup.list_base_backups(server)[-1].stored_bytes / 1e6
    their_mb = _size_mb(sorted((peer.repository / "backup" / "bench").glob("*F"))[-1])
    point, written_mb = _write(server, wal_mb)
    packed = rounds.call(lambda: archive_compression.compress(server))

    def ours() -> rounds.Sample:
        sample = rounds.call(lambda: recovery.restore(server, point, name="restored"))
        Server("restored").destroy()
        return sample

    def theirs() -> rounds.Sample:
        sample = rounds.call(peer.restore)
        peer.remove()
        return sample

    restored = rounds.interleaved({"pgrunbook": ours, PEER: theirs}, count)
    archived = {"pgrunbook": _size_mb(server.archive_dir), PEER: _size_mb(peer.repository / "archive")}
    ratio, to_restore = (rounds.ratio(some["pgrunbook"], some[PEER]) for some in (took, restored))
    sizes = {"pgrunbook": ours_mb, PEER: their_mb}
    rows = [
        (name, *_seconds(took[name]), f"{sizes[name]:,.0f}", f"{archived[name]:,.0f}", *_seconds(restored[name]))
        for name in taking
    ]
    headings = ["", "backup, median s", "range s", "size MB", "archive MB", "restore, median s", "range s"]
    return [
        f"PostgreSQL {server.installation.version}, full backups; {written_mb:,.0f} MB of WAL were replayed.",
        f"pgBackRest compresses with lz4, in {os.cpu_count()} processes, WAL while it archives it.",
        f"Our archive was compressed behind the WAL, in {packed.took_s:.1f} s, as a backup or a release does.",
        "",
        *rounds.table(headings, rows),
        "",
        rounds.goal("a restore no slower than pgBackRest's", to_restore <= RATIO_GOAL, f"ratio {to_restore:.2f}"),
        rounds.goal(
            f"a backup at most {BACKUP_GOAL} times pgBackRest's time and size",
            max(ratio, ours_mb / their_mb) <= BACKUP_GOAL,
            f"time {ratio:.2f}, size {ours_mb / their_mb:.2f}",
        ),
    ]


def _with_incremental(server: Server, wal_mb: int, count: int) -> Lines:
    backup.take_base_backup(server)
    _, written_mb = _write(server, wal_mb, name="unused")
    taken = rounds.call(lambda: incremental.take(server))
    point, _ = _write(server, 0)
    samples = []
    for _ in range(count):
        samples.append(rounds.call(lambda: recovery.restore(server, point, name="restored")))
        Server("restored").destroy()
    median_s, range_s = _seconds(samples)
    return [
        f"On PostgreSQL {server.installation.version} a release takes an incremental backup before its restore point.",
        f"Here that took {taken.took_s:.1f} s, behind {written_mb:,.0f} MB of WAL.",
        f"A restore with it takes {median_s} s ({range_s}).",
        "That is another version than above, and no comparison with it.",
    ]


@contextmanager
def _server(name: str, programs: Path | None, mb: int) -> Iterator[Server]:
    """Give a server with a database of so many MB; its restored ones are gone afterwards."""
    with temporary() as folder, state(folder, folder / "targets.toml"):
        if programs is not None:
            os.environ["PGRUNBOOK_PG_BINDIR"] = str(programs)
        server = Server(name)
        server.start()
        where = ("-h", str(server.socket_dir), "-U", "postgres")
        server.run("pgbench", *where, "-i", "-q", "-s", str(max(1, mb // SCALE_MB)), "postgres")
        yield server


def _write(server: Server, wal_mb: int, name: str = POINT) -> tuple[Point, float]:
    """Write so much WAL, then a restore point, and wait until it is archived; return it, and the MB."""
    with server.connect() as conn, conn.as_target():
        begin = _lsn(conn)
        rows = conn.execute("SELECT max(aid) FROM pgbench_accounts").fetchone()
        step = max(1, int(rows[0]) // 100) if rows else 1
        conn.execute("SET statement_timeout = 0")
        number = 0
        while _lsn(conn) - begin < wal_mb * 1e6:
            first = number * step % int(rows[0]) if rows else 0
            conn.execute(
                "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid BETWEEN %s AND %s", (first, first + step)
            )
            number += 1
        lsn = archive.create_restore_point(conn, name)
        written_mb = (_lsn(conn) - begin) / 1e6
        archive.wait_archived(conn, lsn, 300)
    return Point(name=name, at_lsn=lsn), written_mb


def _lsn(conn: recovery.Connection) -> int:
    (lsn,) = conn.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone() or ("0/0",)
    return lsn_number(str(lsn))


def _call(work: Callable[[], None]) -> Callable[[], rounds.Sample]:
    return lambda: rounds.call(work)


def _size_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def _seconds(samples: list[rounds.Sample]) -> tuple[str, str]:
    middle, least, most = rounds.took(samples)
    return f"{middle:.1f}", f"{least:.1f} to {most:.1f}"


if __name__ == "__main__":
    told = argparse.ArgumentParser(description=__doc__)
    told.add_argument("--mb", type=int, default=2000)
    told.add_argument("--wal-mb", type=int, default=2000)
    told.add_argument("--rounds", type=int, default=5)
    asked = told.parse_args()
    sys.stdout.write("\n".join(restoring(asked.mb, asked.wal_mb, asked.rounds)) + "\n")
