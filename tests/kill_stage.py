"""What the tests of kills share: writers of a twin, kills of the runner, its kernel and the server, the record then."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import psycopg

from acting import events, pgrunbook, wait_until
from conftest import connect, do, rows
from pgrunbook.branches.server import Server
from pgrunbook.config.targets import Target
from pgrunbook.database import anchors
from pgrunbook.record import journal
from pgrunbook.record import run as runs
from pgrunbook.record.run import Run, Status
from pgrunbook.seal import attempt, standing
from pgrunbook.seal.anchor_check import Anchors

VICTIMS = ("runner", "kernel", "all", "server")
ENDS_S = 120
# What a client may see of a server that was killed, is recovering, or is not up yet.
CRASHES = (
    "server closed the connection",
    "terminating connection because of crash",
    "is starting up",
    "recovery mode",
    "not yet accepting connections",
    "No such file or directory",
    "Connection refused",
    "connection is closed",
    "connection is lost",
    "consuming input failed",
    "Connection reset by peer",
    "the connection is closed",
)
WRITES = (
    "INSERT INTO {t} (id, {old}, note) SELECT g, {value}, 'new' || g FROM generate_series({a}, {a} + {size}) AS g",
    "DELETE FROM {t} WHERE id = ANY ('{some}')",
    "UPDATE {t} SET {old} = NULL WHERE id = ANY ('{some}')",
    "UPDATE {t} SET note = NULL WHERE id = ANY ('{some}')",
    "UPDATE {t} SET {old} = {changed}, note = 'n' || id WHERE id = ANY ('{some}')",
    "UPDATE {t} SET id = -id WHERE id = ANY ('{some}')",
    "UPDATE {t} SET id = {a} + 9000, {old} = {changed}, note = NULL WHERE id = ANY ('{one}')",
)


@dataclass(frozen=True)
class Written:
    """What writers write: the table, the column at stake, and expressions for its values."""

    table: str
    column: str
    value: str = "g"
    changed: str = "abs(id % 1000)"
    truncates: bool = True


class TwinWriters:
    """Sessions that change a table and table ``twin`` in one transaction each, and connect again after a crash."""

    def __init__(self, target: Target, written: Written, seed: int, sessions: int = 2) -> None:
        self.target, self.written = target, written
        self.done, self.errors, self.crashes = 0, list[str](), 0
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(f"{seed} {n}",)) for n in range(sessions)]

    def __enter__(self) -> TwinWriters:
        do(self.target, "CREATE SEQUENCE IF NOT EXISTS numbers START 100")
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(timeout=60)

    def _work(self, seed: str) -> None:
        chance = random.Random(seed)  # noqa: S311 - it keeps no secret
        conn: Any = None
        while not self._over.is_set():
            try:
                if conn is None or conn.closed:
                    conn = connect(self.target, purpose="writer")
                    conn.execute("SET lock_timeout = 0; SET statement_timeout = '60s'")
                self._write(conn, chance)
                self.done += 1
            except Exception as exc:  # noqa: BLE001 - whatever it is, it is told
                if any(word in str(exc) for word in CRASHES):
                    self.crashes += 1
                    with suppress(Exception):
                        conn.close()
                else:
                    self.errors.append(f"{type(exc).__name__}: {exc}")
                time.sleep(0.05)
            time.sleep(chance.random() / 100)
        if conn is not None:
            with suppress(Exception):
                conn.close()

    def _write(self, conn: psycopg.Connection[tuple[object, ...]], chance: random.Random) -> None:
        given = self.written
        with conn.transaction():
            conn.execute("SELECT pg_advisory_xact_lock(1)")
            kind = chance.random()
            both = (given.table, "twin")
            if kind < 0.01 and given.truncates:
                for table in both:
                    conn.execute(f"TRUNCATE {table}".encode())
            (first,) = conn.execute("SELECT nextval('numbers') * 10000").fetchone() or (0,)
            query = "SELECT coalesce(array_agg(x.id), '{{}}') FROM (SELECT id FROM twin ORDER BY random() LIMIT {n}) AS x"
            some, one = (
                f"{{{','.join(map(str, numbers))}}}"
                for (numbers,) in (conn.execute(query.format(n=n).encode()).fetchone() for n in (5, 1))  # type: ignore[misc]
            )
            text = chance.choice(WRITES) if kind >= 0.03 else WRITES[0]
            size = 2_000 if kind < 0.03 else 10
            for table in both:
                conn.execute(
                    text.format(
                        t=table, old=given.column, a=first, size=size, some=some, one=one,
                        value=given.value, changed=given.changed,
                    ).encode()
                )  # fmt: skip


@dataclass
class Killed:
    """A kill: whom, behind which event of the attempt, and which cell was at work."""

    victim: str
    event: str
    cell: str

    def __str__(self) -> str:
        return f"{self.victim} behind {self.event} in {self.cell}"


@dataclass
class KillScene:
    """A run that is killed again and again, and goes on; what it says after each kill is compared with what is so."""

    target: Target
    command: Sequence[str]
    chance: random.Random
    server: Server | None = None
    after_kill: Callable[[Run | None], None] = lambda _: None
    kills: list[Killed] = field(default_factory=list)
    run_id: str = ""
    known: set[Path] = field(default_factory=lambda: set(runs.folders()))

    def undisturbed(self) -> list[tuple[str, float]]:
        """Run it once, alone; return its events, each with the seconds until the next."""
        with pgrunbook(*self.command) as process:
            out, err = process.communicate(timeout=ENDS_S)
        made = self._run()
        assert process.returncode == 0, out + err
        assert made is not None
        at = [e for e in events(made)]
        times = [_seconds(e["at"]) for e in at]
        return [(e["event"], after - t) for e, t, after in zip(at, times, [*times[1:], times[-1] + 0.3], strict=True)]

    def survive(self, course: Sequence[tuple[str, float]], most: int, victims: Sequence[str] = VICTIMS) -> Run:
        """Kill it ``most`` times at most, at moments of that course, and let it go on to its end."""
        while True:
            left = most - len(self.kills)
            victim = self.chance.choice(victims) if left > 0 else ""
            words = ["run", "--resume", self.run_id] if self.run_id else list(self.command)
            before = len(self._events())
            with pgrunbook(*words) as process:
                if victim:
                    self._kill(process, victim, before, course)
                try:
                    out, err = process.communicate(timeout=ENDS_S)
                except subprocess.TimeoutExpired:
                    raise AssertionError(f"it did not end: {self.kills}") from None
            if self.server is not None:
                self._start_again()
            made = self._run()
            self.run_id = made.run_id if made is not None else ""
            record_is_true(made)
            self.after_kill(made)
            if made is not None and made.status is Status.DONE:
                if attempt.is_open(made):
                    with pgrunbook("seal", made.run_id) as process:
                        told = process.communicate(timeout=ENDS_S)
                    assert process.returncode == 0, told
                return runs.load(made.folder)
            assert victim, f"it failed by itself, after {self.kills}: {out}{err}"

    def _kill(self, process: Any, victim: str, before: int, course: Sequence[tuple[str, float]]) -> None:
        # Most often behind the first event with which something is written into the database.
        first = next((n for n, (name, _) in enumerate(course) if name == "anchored"), 0)
        number = self.chance.randrange(first if self.chance.random() < 0.75 else 0, len(course))
        rest_s = self.chance.random() * min(course[number][1], 3.0)
        deadline = time.monotonic() + ENDS_S
        while process.poll() is None and len(self._events()) - before <= number and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(rest_s)
        if process.poll() is not None:
            return
        now = self._events()
        kernels = children(process.pid)
        if victim == "kernel" and not kernels:
            victim = "runner"
        if victim == "server" and self.server is not None:
            os.kill(self.server.status().pid or 0, signal.SIGKILL)
        if victim in ("runner", "all"):
            process.kill()
        if victim in ("kernel", "all"):
            for pid in kernels:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        cells = [e["cell"] for e in now if e["event"] == "cell-started"]
        self.kills.append(Killed(victim, now[-1]["event"] if now else "nothing", cells[-1] if cells else "-"))

    def _events(self) -> list[dict[str, Any]]:
        folder = self._folder()
        return list(journal.read(folder / "journal.jsonl")) if folder is not None else []

    def _folder(self) -> Path | None:
        return next((folder for folder in runs.folders() if folder not in self.known), None)

    def _run(self) -> Run | None:
        folder = self._folder()
        return runs.load(folder) if folder is not None else None

    def _start_again(self) -> None:
        assert self.server is not None
        wait_until(lambda: self.server and self.server.start().pid)


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                    found.append(int(entry.name))
    return found


def record_is_true(made: Run | None, target: Target | None = None) -> None:
    """See that what a run has left agrees: ledger, journal, run.json and executed copies; with ``target`` its anchors.

    A run that was killed stands as open and as broken off; a cell that its copy calls done has ended well.
    """
    if made is None or not events(made, "ledger-opened"):
        return
    if target is None:
        found = standing.report(made.folder.parent, files=True)
    else:
        with connect(target) as conn:
            there = Anchors(anchors.rows(conn), anchors.place(conn), anchors.is_guarded(conn))
        found = standing.report(made.folder.parent, files=True, target=target.name, anchors=there)
    assert (found.exit_code, [*found.problems]) == (0, []), found.problems
    mine = next(one for one in found.runs if one.run == made.run_id)
    if mine.outcome in ("open", "at work"):
        ended = bool([e for e in events(made)[-3:] if e["event"] == "run-ended"])
        assert ended or made.actual_status() in (Status.BROKEN_OFF, Status.RUNNING), made.actual_status()
    else:
        assert (mine.outcome, mine.faithful) == (str(made.actual_status()), "yes"), mine
    told = Counter(e["cell"] for e in events(made, "cell-ended") if e["ok"])
    shown = Counter[str]()
    for part in made.parts:
        path = made.folder / part.notebook
        if path.is_file():
            notebook = nbformat.read(path, as_version=4)
            shown.update(
                c.id
                for c in notebook.cells
                if c.cell_type == "code" and c.metadata.papermill.status == "completed" and not c.metadata.tags
            )
    del shown["set-up"]
    assert not shown.keys() - told.keys(), f"called done, and not done: {shown - told}"


def differing(target: Target, table: str, columns: str, twins: str) -> list[tuple[object, ...]]:
    """Return rows in which a table and its twin differ, both ways."""
    one, other = f"SELECT {columns} FROM {table}", f"SELECT {twins} FROM twin"
    return rows(target, f"(({one}) EXCEPT ALL ({other})) UNION ALL (({other}) EXCEPT ALL ({one})) LIMIT 5")


def _seconds(stamp: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(stamp).timestamp()
