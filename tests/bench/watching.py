"""What a look of the monitor costs: a server with 500 tables and 200 connections, looked at as once a second."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import psycopg
import rounds
import schema_500
from ground import DATABASE, Ground, ground, socket_dir, temporary

from pgrunbook.config import targets
from pgrunbook.database import step_log
from pgrunbook.database.connection import Connection, connect
from pgrunbook.session.watch import ServerWatch

CONNECTIONS, OPEN, LOOKS = 200, 40, 100
GOAL_MS, GOAL_PART = 50.0, 0.01
TICKS = os.sysconf("SC_CLK_TCK")

Lines = list[str]


def section(_: Path) -> str:
    """Return the section of targets.toml."""
    return '[watched]\nserver = "main"\ndatabase = "bench"\n'


def watching(site: Ground) -> Lines:
    """Measure looks at a server at rest and at work, with what the server itself spends on them."""
    site.new_database()
    what = schema_500.make(site)
    site.settle()
    with site.server.connect(purpose="bench") as conn:
        conn.execute(f"ALTER SYSTEM SET max_connections = {CONNECTIONS + 50}".encode())
    site.server.stop()
    site.server.start()
    try:
        with ExitStack() as stack:
            for number in range(CONNECTIONS):
                _open(stack, number)
            found = _looks(site)
    finally:
        with site.server.connect(purpose="bench") as conn:
            conn.execute("ALTER SYSTEM RESET max_connections")
        site.server.stop()
        site.server.start()
    return _told(what, *found)


def _open(stack: ExitStack, number: int) -> None:
    """Open a session; some have a transaction open, and hold locks in it."""
    session: psycopg.Connection[Any] = stack.enter_context(
        psycopg.connect(host=socket_dir(), user="postgres", dbname=DATABASE, autocommit=True)
    )
    if number < OPEN:
        session.execute(f"BEGIN; LOCK t{number}; SELECT count(*) FROM t{number + 100}".encode())


def _looks(site: Ground) -> tuple[list[rounds.Sample], float]:
    watch = ServerWatch(targets.load("watched"), lambda *_, **__: None, site.folder)
    with connect(targets.load("watched"), purpose="bench") as conn:
        step_log.create(conn)  # as where a release was: there is a record to read
        watch.look(conn)
        before = _spent_s(conn)
        samples = [rounds.call(lambda: watch.look(conn)) for _ in range(LOOKS)]
        spent_s = (_spent_s(conn) - before) / LOOKS
    return samples, spent_s


def _spent_s(conn: Connection) -> float:
    """Return the processor time of this connection's process in the server, which runs on this machine."""
    fields = Path(f"/proc/{conn.info.backend_pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _told(what: str, samples: list[rounds.Sample], server_s: float) -> Lines:
    middle, least, most = (value * 1000 for value in rounds.took(samples))
    ours = median(sample.cpu_s for sample in samples)
    part = ours + server_s
    return [
        "## A look of the monitor",
        "",
        f"{what}; {CONNECTIONS} connections, {OPEN} of them in a transaction that holds locks; {LOOKS} looks.",
        "",
        *rounds.table(
            ["", "median ms", "range ms", "processor ms, ours", "processor ms, the server's"],
            [("look, kept and judged", f"{middle:.1f}", f"{least:.1f} to {most:.1f}", f"{ours * 1000:.1f}",
              f"{server_s * 1000:.1f}")],
        ),
        "",
        rounds.goal(f"under {GOAL_MS:g} ms", middle < GOAL_MS, f"{middle:.1f} ms"),
        rounds.goal("under 1 % of a core, once a second", part < GOAL_PART, f"{part * 100:.2f} %"),
    ]  # fmt: skip


if __name__ == "__main__":
    with temporary() as folder:
        (folder / "targets.toml").write_text(section(folder))
        with ground(folder, folder / "targets.toml") as site:
            print("\n".join(watching(site)))  # noqa: T201
