"""ALTER TABLE on a table with traffic: how long the traffic stands still, and how soon the change is made.

pgbench keeps up a fixed rate of SELECT and UPDATE by primary key. Beside it readers hold transactions on the
same table, after a timetable, and into that comes ALTER TABLE ... ADD COLUMN, asked for in several ways.
Run by ``bench.py``, or by itself.
"""

from __future__ import annotations

import itertools
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psycopg
import rounds
from ground import DATABASE, Ground, ground, socket_dir, temporary

from pgrunbook import history as histories
from pgrunbook.config.targets import Target
from pgrunbook.database import activity
from pgrunbook.database.connection import connect
from pgrunbook.database.schema import snapshot
from pgrunbook.draft import build, release
from pgrunbook.execute import permit
from pgrunbook.execute.execution import Execution
from pgrunbook.plan import plan as plans
from pgrunbook.record import journal
from pgrunbook.record.journal import Journal

ROWS, CLIENTS = 500_000, 8
MOST_PER_S = 1_500  # half of what the server alone can do may be too much for it beside pgbench and us
CAPACITY_S = 3
WARM_UP_S, CALM_S, LONGEST_S = 0.6, 0.1, 60
ASKED_AT_S, LATER_S = 0.2, 0.17  # each round later: how retries and readers coincide is chance
RETRY_TIMEOUT_MS, RETRY_PAUSE_S, RETRIES = 200, 0.3, 100
STALL_GOAL_MS, DONE_GOAL_MS = 20, 100
OURS, NO_CHANGE = "pgrunbook", "no change"

TABLE = f"""
CREATE TABLE traffic (id bigint PRIMARY KEY, name text NOT NULL, amount int NOT NULL, note text NOT NULL);
INSERT INTO traffic SELECT i, 'name ' || i, 0, repeat('x', 60) FROM generate_series(1, {ROWS}) AS i
"""
# Columns are named: a prepared SELECT * fails once the table has another one.
SCRIPT = f"""
\\set id random(1, {ROWS})
SELECT id, name, amount FROM traffic WHERE id = :id;
UPDATE traffic SET amount = amount + 1 WHERE id = :id;
"""

Lines = list[str]
Timetable = list[list[tuple[float, float]]]  # for each reader, from when to when it holds a transaction


@dataclass(frozen=True)
class Scene:
    """Readers beside the traffic, how long we measure at least, and the moment from which the time until done counts.

    ``is_free_at_times`` tells whether the change can be made at all without making others wait.
    ``patience_ms`` is that of pgrunbook, for all its attempts together.
    """

    name: str
    told: str
    readers: Callable[[int], Timetable]
    lasts_s: float
    since_release: bool = False
    is_free_at_times: bool = True
    patience_ms: int = 60_000


@dataclass(frozen=True)
class Window:
    """What one window showed; where no change was made, its time and attempts are 0."""

    longest_ms: float
    p99_ms: float
    done_ms: float = 0.0
    attempts: int = 0


@dataclass(frozen=True)
class Row:
    """The windows of a scene and a way to make the change, one a round, each beside the one without a change."""

    scene: Scene
    mode: str
    windows: tuple[Window, ...]
    without: tuple[Window, ...]

    @property
    def excess_ms(self) -> list[float]:
        """How much longer the longest stall of each round is than without the change."""
        return [a.longest_ms - b.longest_ms for a, b in zip(self.windows, self.without, strict=True)]


# A way to make the change: it prepares a statement, and gives what runs it and returns its attempts.
Mode = Callable[[Ground, Scene, str], Callable[[], int]]


def traffic(site: Ground, count: int = 3) -> Lines:
    """Measure the traffic benchmark, and return it as a part of BENCHMARKS.md."""
    rate, capacity = prepare(site)
    return render(measure(site, rate, count), rate, capacity, count)


def prepare(site: Ground) -> tuple[int, int]:
    """Make the table, and return the rate of transactions per second to keep up, and the most there can be."""
    site.new_database()
    with site.session() as conn:
        conn.execute("SET statement_timeout = '60s'")
        conn.execute(TABLE.encode())
    site.settle()
    (site.folder / "traffic").mkdir()
    (site.folder / "traffic.sql").write_text(SCRIPT)
    told = subprocess.run(_pgbench(site, CAPACITY_S), capture_output=True, text=True, check=True).stdout
    found = re.search(r"tps = (\d+)", told)
    assert found is not None
    capacity = int(found[1])
    return min(MOST_PER_S, capacity // 2), capacity


def measure(site: Ground, rate: int, count: int) -> list[Row]:
    """Measure every scene with every mode, once a round, each round beginning with another mode."""
    modes: dict[str, Mode | None] = {NO_CHANGE: None, "plain": plain, "retries": retries, OURS: ours}
    names, columns = list(modes), itertools.count(1)
    found: dict[tuple[str, str], list[Window]] = {}
    with site.autovacuum_off():
        for number, scene in itertools.product(range(count), SCENES):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                mode, statement = modes[name], f"ALTER TABLE traffic ADD COLUMN c{next(columns)} int"
                act = mode(site, scene, statement) if mode else None
                window = one_window(site, scene, rate, number, act)
                found.setdefault((scene.name, name), []).append(window)
                sys.stderr.write(f"traffic, {scene.name}, {name}: {window}\n")
    return [
        Row(scene, name, tuple(found[scene.name, name]), tuple(found[scene.name, NO_CHANGE]))
        for scene, name in itertools.product(SCENES, names)
    ]


def one_window(site: Ground, scene: Scene, rate: int, seed: int, act: Callable[[], int] | None) -> Window:
    """Let traffic and readers run, make the change among them, and return what the traffic felt."""
    timetable, asked_at_s, over = scene.readers(seed), ASKED_AT_S + LATER_S * seed, threading.Event()
    for old in site.folder.glob("traffic-log.*"):
        old.unlink()
    command = [*_pgbench(site, LONGEST_S), "-R", str(rate), "-l", f"--log-prefix={site.folder / 'traffic-log'}"]
    with (
        ThreadPoolExecutor(len(timetable)) as pool,
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as bench,
    ):
        time.sleep(WARM_UP_S)
        began = time.time()
        reading = [pool.submit(_read, site, began, times, over) for times in timetable]
        try:
            _sleep_until(began + asked_at_s)
            attempts = act() if act else 0
            done = time.time()
            _sleep_until(max(began + scene.lasts_s, done + CALM_S))
        finally:
            over.set()
            ended_early = bench.poll() is not None
            bench.send_signal(signal.SIGALRM)  # as its own timer does: it ends, and writes its log
        released = max(reader.result() for reader in reading)
        told = bench.communicate()[1]
    if ended_early or bench.returncode:
        raise RuntimeError(f"{scene.name}: pgbench ended: {told.decode()[-500:]}")
    latencies = sorted(_latencies_ms(site.folder, began))
    since = released if scene.since_release else began + asked_at_s
    return Window(
        longest_ms=latencies[-1],
        p99_ms=latencies[int(len(latencies) * 0.99)],
        done_ms=(done - since) * 1000 if act else 0.0,
        attempts=attempts,
    )


def plain(site: Ground, _: Scene, statement: str) -> Callable[[], int]:
    """As a person types it into psql: without a timeout."""

    def act() -> int:
        with site.session("plain") as conn:
            conn.execute("SET lock_timeout = 0; SET statement_timeout = 0")
            conn.execute(statement.encode())
        return 1

    return act


def retries(site: Ground, _: Scene, statement: str) -> Callable[[], int]:
    """Under a lock_timeout, again and again."""

    def act() -> int:
        with site.session("retries") as conn:
            conn.execute(f"SET lock_timeout = {RETRY_TIMEOUT_MS}; SET statement_timeout = 0".encode())
            for attempt in range(1, RETRIES + 1):
                try:
                    conn.execute(statement.encode())
                except psycopg.errors.LockNotAvailable:
                    time.sleep(RETRY_PAUSE_S)
                else:
                    return attempt
        raise RuntimeError(f"no lock in {RETRIES} attempts")

    return act


def ours(site: Ground, scene: Scene, statement: str) -> Callable[[], int]:
    """As a migration of one statement, planned before, executed as migrate does."""
    folder = site.folder / "traffic"
    number = len(list(folder.iterdir())) + 1
    (folder / f"{number:04}_add_column.sql").write_text(f"{statement};\n")
    target = Target(
        name="traffic", server="main", database=DATABASE, migrations=folder, lock_patience_ms=scene.patience_ms
    )
    with connect(target, purpose="plans") as conn:
        history = histories.read(conn, target)
        base = build.base(activity.identity(conn), snapshot(conn, leave_out=["pgrunbook"]), history)
        changes = release.unproven(target, conn, history.pending(), {})
    plan = plans.Plan(
        direction="up", target=target.name, base=base, attempts=target.attempts, rehearsed="no", changes=changes
    )
    path = site.folder / f"traffic-{number}.jsonl"

    def act() -> int:
        with connect(target, purpose="migrate traffic") as conn:
            permitted = permit._made("traffic", {plan.digest}, conn)
            Execution(plan, target, "traffic", conn, histories.read(conn, target), Journal(path), permitted).run()
        return sum(event["event"] == "step-started" for event in journal.read(path))

    return act


def render(rows: Sequence[Row], rate: int, capacity: int, count: int) -> Lines:
    """Return the part of BENCHMARKS.md: a table for each scene, and whether the goals were reached."""
    lines = [
        "## A schema change among traffic",
        "",
        f"pgbench with {CLIENTS} clients reads and updates single rows of {ROWS:,}.",
        f"It keeps up {rate:,} transactions a second; without a limit it makes {capacity:,}.",
        "A latency counts from the moment at which the transaction was due, so the longest one is the longest stall.",
        f"Among them comes `ALTER TABLE ... ADD COLUMN`; {count} rounds, each a little later; median and range.",
        f"Plain has no timeout; retries has a lock_timeout of {RETRY_TIMEOUT_MS} ms and pauses of {RETRY_PAUSE_S:g} s.",
    ]
    for scene in SCENES:
        some = [row for row in rows if row.scene == scene]
        counted = "done after the reader let go, ms" if scene.since_release else "done after it was asked for, ms"
        headings = ["", "longest stall ms", "longer than without ms", "p99 ms", counted, "attempts"]
        lines += ["", f"### {scene.name}", "", scene.told, "", *rounds.table(headings, map(_cells, some))]
        lines += ["", _goal(next(row for row in some if row.mode == OURS))]
    return lines


def _cells(row: Row) -> list[str]:
    changed = row.mode != NO_CHANGE
    return [
        row.mode,
        _range([window.longest_ms for window in row.windows]),
        _range(row.excess_ms) if changed else "",
        _range([window.p99_ms for window in row.windows]),
        _range([window.done_ms for window in row.windows]) if changed else "",
        _range([window.attempts for window in row.windows]) if changed else "",
    ]


def _goal(row: Row) -> str:
    if not row.scene.is_free_at_times:
        return "No goal: this lock cannot be had without making others wait; the target's lock_timeout_ms bounds it."
    excess_ms, done_ms = median(row.excess_ms), median(window.done_ms for window in row.windows)
    reached, what = excess_ms <= STALL_GOAL_MS, f"at most {STALL_GOAL_MS} ms longer a stall than without the change"
    found = f"{excess_ms:.0f} ms"
    if row.scene.since_release:
        reached, what = reached and done_ms <= DONE_GOAL_MS, f"{what}, done {DONE_GOAL_MS} ms after the reader at most"
        found += f", {done_ms:.0f} ms"
    return rounds.goal(what, reached, found)


def _range(figures: Sequence[float]) -> str:
    return f"{median(figures):.0f} ({min(figures):.0f} to {max(figures):.0f})"


# -- readers


def _one(_: int) -> Timetable:
    return [[(0.0, 3.0)]]


def _come_and_go(seed: int) -> Timetable:
    chance = random.Random(seed)  # noqa: S311 - the same timetable for every mode of a round
    timetable: Timetable = []
    for _ in range(10):
        times, at = [], chance.uniform(0, 1)
        while at < 4:
            end = at + chance.uniform(0.1, 0.4)
            times.append((at, end))
            at = end + chance.uniform(0.5, 1.5)
        timetable.append(times)
    return timetable


def _never_free(_: int) -> Timetable:
    # Each begins 70 ms before the other one ends: whoever looks finds a transaction older than 50 ms.
    times = [(0.43 * number, 0.43 * number + 0.5) for number in range(40)]
    return [times[0::2], times[1::2]]


SCENES = (
    Scene(
        "One long reader",
        "A transaction that has read the table stays open for 3 s.",
        _one,
        lasts_s=3.3,
        since_release=True,
    ),
    Scene(
        "Readers that come and go",
        "Ten sessions hold a transaction for 0.1 to 0.4 s, and pause for 0.5 to 1.5 s, each at random.",
        _come_and_go,
        lasts_s=2.6,
    ),
    Scene(
        "A table that is never free",
        "Two sessions take turns, each with transactions of 0.5 s that overlap for 70 ms."
        " The target's lock_patience_ms is 1000 here instead of 60000: no patience helps.",
        _never_free,
        lasts_s=2.6,
        is_free_at_times=False,
        patience_ms=1_000,
    ),
)


def _read(site: Ground, began: float, times: Sequence[tuple[float, float]], over: threading.Event) -> float:
    """Hold transactions by the timetable until it is over; return when the last one ended."""
    with site.session("reader") as conn:
        conn.execute("SET lock_timeout = 0; SET statement_timeout = 0")
        ended = began
        for start, end in times:
            if over.wait(max(0.0, began + start - time.time())):
                break
            with conn.transaction():
                conn.execute("SELECT amount FROM traffic WHERE id = 1")
                over.wait(max(0.0, began + end - time.time()))
            ended = time.time()
    return ended


def _sleep_until(at: float) -> None:
    time.sleep(max(0.0, at - time.time()))


# -- pgbench


def _pgbench(site: Ground, lasts_s: int) -> list[str]:
    command = [str(site.server.program("pgbench")), "-n", "-M", "prepared", "-c", str(CLIENTS), "-T", str(lasts_s)]
    return [*command, "-f", str(site.folder / "traffic.sql"), "-h", socket_dir(), "-U", "postgres", DATABASE]


def _latencies_ms(folder: Path, began: float) -> list[float]:
    """Return the latencies of the transactions that were due later than that, counted from when they were due."""
    found = []
    for path in folder.glob("traffic-log.*"):
        for line in path.read_text().splitlines():
            _client, _number, took_us, _script, ended_s, ended_us, *_lag = line.split()
            if int(ended_s) + int(ended_us) / 1e6 - int(took_us) / 1e6 >= began:
                found.append(int(took_us) / 1000)
    return found


def main() -> None:
    """Measure on a server of its own and print the part."""
    with temporary() as folder, ground(folder, folder / "targets.toml") as site:
        sys.stdout.write("\n".join(traffic(site)) + "\n")


if __name__ == "__main__":
    main()
