"""What the tests of kills share: writers of a twin, kills of the runner, its kernel and the server, the record then."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat
import psycopg

from acting import events, pgrunbook, wait_until
from conftest import connect, do, rows
from forks import ForkedProcess
from pgrunbook.branches.server import Server
from pgrunbook.config.targets import Target
from pgrunbook.database import anchors
from pgrunbook.errors import RunbookError
from pgrunbook.record import journal
from pgrunbook.record import run as runs
from pgrunbook.record.run import Run, Status
from pgrunbook.seal import attempt, standing
from pgrunbook.seal.anchor_check import Anchors

# The events of a run that nobody disturbs, each with the seconds until the next.
Course = Sequence[tuple[str, float]]
VICTIMS = ("runner", "kernel", "all", "server")
ENDS_S = 240
# What a client may see of a server that was killed, is recovering, or is not up yet.
CRASHES = (
    "server closed the connection",
    "terminating connection because of crash",
    "unexpected postmaster exit",
    "is starting up",
    "recovery mode",
    "not yet accepting connections",
    "No such file or directory",
    "Connection refused",
    "connection is closed",
    "connection is lost",
    "consuming input failed",
    "Connection reset by peer",
)
# Each is executed on both tables, in one transaction; {a} is the first of many numbers that nobody has used.
WRITES = (
    "INSERT INTO {t} (id, amount, note) SELECT g, g % 1000, 'new' || g FROM generate_series({a}, {a} + {size}) AS g",
    "DELETE FROM {t} WHERE id = ANY ('{some}')",
    "UPDATE {t} SET amount = NULL WHERE id = ANY ('{some}')",
    "UPDATE {t} SET note = NULL WHERE id = ANY ('{some}')",
    "UPDATE {t} SET amount = abs(id % 1000), note = 'n' || id WHERE id = ANY ('{some}')",
    "UPDATE {t} SET id = -id WHERE id = ANY ('{some}')",
    "UPDATE {t} SET id = {a} + 9000, amount = abs(id % 1000), note = NULL WHERE id = ANY ('{one}')",
)
SOME = "SELECT coalesce(array_agg(x.id), '{{}}') FROM (SELECT id FROM twin ORDER BY random() LIMIT {}) AS x"


class TwinWriters:
    """Sessions that change tables ``orders`` and ``twin`` in one transaction each, and connect again after a crash."""

    def __init__(self, target: Target, seed: int) -> None:
        self.target, self.errors = target, list[str]()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(f"{seed} {n}",)) for n in range(2)]

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
                _write(conn, chance)
            except (psycopg.Error, RunbookError) as exc:
                if not any(word in str(exc) for word in CRASHES):
                    self.errors.append(f"{type(exc).__name__}: {exc}")
                elif conn is not None:
                    conn.close()
                time.sleep(0.05)
            time.sleep(chance.random() / 100)
        if conn is not None:
            conn.close()


def _write(conn: psycopg.Connection[tuple[object, ...]], chance: random.Random) -> None:
    with conn.transaction():
        conn.execute("SELECT pg_advisory_xact_lock(1)")
        kind, both = chance.random(), ("orders", "twin")
        if kind < 0.01:
            for table in both:
                conn.execute(f"TRUNCATE {table}".encode())
        (first,) = conn.execute("SELECT nextval('numbers') * 10000").fetchone() or (0,)
        some, one = (
            f"{{{','.join(map(str, numbers))}}}"  # type: ignore[arg-type]
            for (numbers,) in (conn.execute(SOME.format(n).encode()).fetchone() or ([],) for n in (5, 1))
        )
        text, size = (chance.choice(WRITES), 10) if kind >= 0.03 else (WRITES[0], 2_000)
        for table in both:
            conn.execute(text.format(t=table, a=first, size=size, some=some, one=one).encode())


def differing(target: Target, columns: str, twins: str) -> list[tuple[object, ...]]:
    """Return rows in which table orders and its twin differ, both ways."""
    one, other = f"SELECT {columns} FROM orders", f"SELECT {twins} FROM twin"
    return rows(target, f"(({one}) EXCEPT ALL ({other})) UNION ALL (({other}) EXCEPT ALL ({one})) LIMIT 5")


# -- code in a process of its own


def survive(
    target: Target, server: Server, code: str, seed: str, *arguments: str, most: int = 12, span_s: float = 2.5
) -> int:
    """Run code beside us until it ends by itself; ``most`` times kill it, or the server, within ``span_s`` seconds.

    Returns how many times it was killed.
    """
    chance, kills = random.Random(seed), 0  # noqa: S311 - it keeps no secret
    told = Path(tempfile.mkdtemp()) / "told"
    while True:
        victim = chance.choice(["runner", "server"]) if kills < most else ""
        with told.open("a") as file:
            process = ForkedProcess(code, *arguments, told=file.fileno())
            try:
                _look_on(process, lambda: sessions(target), ENDS_S)
                _look_on(process, lambda: False, chance.random() * span_s if victim else ENDS_S)
                if process.poll() == 0:
                    return kills
                assert victim, f"it did not end by itself: {told.read_text()[-3000:]}"
                assert process.poll() is None, f"it failed by itself: {told.read_text()[-3000:]}"
                kills += 1
                if victim == "server":
                    os.kill(server.status().pid or 0, signal.SIGKILL)
                    process.wait()
            finally:
                process.kill()
                process.wait()
        wait_until(lambda: server.start().pid)
        wait_until(lambda: not sessions(target))


def _look_on(process: ForkedProcess, is_so: Callable[[], object], most_s: float) -> None:
    ends = time.monotonic() + most_s
    while process.poll() is None and time.monotonic() < ends and not is_so():
        time.sleep(0.002)


def sessions(target: Target) -> list[tuple[object, ...]]:
    """Return the sessions of ours but for those of the test; not empty where the server does not answer."""
    query = (
        "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'pgrunbook %' AND datname = current_database()"
        " AND application_name !~ 'test|writer'"
    )
    with suppress(psycopg.Error, RunbookError):
        return rows(target, query)
    return [(0,)]


# -- a run, with its record


@dataclass
class KillScene:
    """A run that is killed again and again, and goes on; after each kill its record is looked at.

    ``after_kill`` is called with the run as it stands then, None where there is none yet. ``told`` is what the last
    process wrote.
    """

    target: Target
    command: Sequence[str]
    server: Server | None = None
    chance: random.Random = field(default_factory=random.Random)
    after_kill: Callable[[Run | None], None] = lambda _: None
    kills: list[str] = field(default_factory=list)
    told: tuple[str, str] = ("", "")
    known: set[Path] = field(default_factory=lambda: set(runs.folders()))

    def undisturbed(self) -> Course:
        """Run it once, alone; return its course."""
        with pgrunbook(*self.command) as process:
            out, err = process.communicate(timeout=ENDS_S)
        made = self._run()
        assert process.returncode == 0, out + err
        assert made is not None
        at = events(made)
        times = [datetime.fromisoformat(e["at"]).timestamp() for e in at]
        return [(e["event"], after - t) for e, t, after in zip(at, times, [*times[1:], times[-1] + 0.3], strict=True)]

    def survive(self, course: Course, most: int) -> Run:
        """Kill it ``most`` times at most, at moments of that course, and let it go on to its end, sealed."""
        while True:
            victim = self.chance.choice(VICTIMS) if len(self.kills) < most else ""
            made = self._run()
            words = ["run", "--resume", made.run_id] if made is not None else list(self.command)
            before = len(self._events())
            with pgrunbook(*words) as process:
                if victim:
                    self._kill(process, victim, before, course)
                self.told = told = process.communicate(timeout=ENDS_S)
            if self.server is not None:
                wait_until(lambda: self.server is None or self.server.start().pid)
            made = self._run()
            record_is_true(made)
            self.after_kill(made)
            if made is not None and made.status is Status.DONE:
                self._seal(made)
                return runs.load(made.folder)
            assert victim, f"it failed by itself, after {self.kills}: {told}"

    def _seal(self, made: Run) -> None:
        """Seal it, where it was killed before that, and anchor its end, where it was killed before this."""
        with pgrunbook("seal", made.run_id) as process:
            _, told = process.communicate(timeout=ENDS_S)
        assert process.returncode == 0 or "has no open attempt to seal" in told, told
        assert not attempt.is_open(made)

    def _kill(self, process: subprocess.Popen[str], victim: str, before: int, course: Course) -> None:
        # Most often behind the first event with which something is written into the database.
        first = next((n for n, (name, _) in enumerate(course) if name == "anchored"), 0)
        number = self.chance.randrange(first if self.chance.random() < 0.75 else 0, len(course))
        ends = time.monotonic() + ENDS_S
        while process.poll() is None and len(self._events()) - before <= number and time.monotonic() < ends:
            time.sleep(0.002)
        time.sleep(self.chance.random() * min(course[number][1], 3.0))
        if process.poll() is not None:
            return
        now, kernels = self._events(), children(process.pid)
        if victim == "server" and self.server is not None:
            os.kill(self.server.status().pid or 0, signal.SIGKILL)
        if victim in ("runner", "all") or (victim == "kernel" and not kernels):
            process.kill()
        for pid in kernels if victim in ("kernel", "all") else ():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.kills.append(f"{victim} behind {now[-1]['event'] if now else 'nothing'}")

    def _events(self) -> list[dict[str, Any]]:
        folder = self._folder()
        return list(journal.read(folder / "journal.jsonl")) if folder is not None else []

    def _folder(self) -> Path | None:
        return next((folder for folder in runs.folders() if folder not in self.known), None)

    def _run(self) -> Run | None:
        folder = self._folder()
        return runs.load(folder) if folder is not None else None


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
    assert (found.exit_code, found.problems) == (0, ()), found.problems
    mine = next(one for one in found.runs if one.run == made.run_id)
    if mine.outcome in ("open", "at work"):
        has_ended = any(e["event"] == "run-ended" for e in events(made)[-3:])
        assert has_ended or made.actual_status() in (Status.BROKEN_OFF, Status.RUNNING, Status.DONE)
    else:
        assert (mine.outcome, mine.faithful) == (str(made.actual_status()), "yes"), mine
    told = Counter(e["cell"] for e in events(made, "cell-ended") if e["ok"])
    shown = Counter[str]()
    for part in made.parts:
        if (made.folder / part.notebook).is_file():
            notebook = nbformat.read(made.folder / part.notebook, as_version=4)
            shown.update(
                cell.id
                for cell in notebook.cells
                if cell.cell_type == "code" and cell.metadata.papermill.status == "completed" and not cell.metadata.tags
            )
    del shown["set-up"]
    assert not shown.keys() - told.keys(), f"called done, and not done: {shown - told}"
