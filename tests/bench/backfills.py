"""A backfill of a million rows: one UPDATE, the guide's loop, and ours, by the server's processor time, WAL and growth.

And the latency of traffic at half of the capacity beside each. Run by ``bench.py``, or by itself.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import rounds
from ground import DATABASE, Ground, ground, socket_dir, temporary

from pgrunbook import undo_data
from pgrunbook.config.targets import Target
from pgrunbook.database import step_log
from pgrunbook.database.connection import Connection, connect
from pgrunbook.online.backfill import proof, resolve
from pgrunbook.online.backfill_run import BackfillRun
from pgrunbook.online.bad_rows import BadRows
from pgrunbook.online.throttle import ThrottleGoals, throttled
from pgrunbook.plan.step import Batches
from pgrunbook.procedures.backfill import FIRST_ROWS

ROWS, TRAFFIC_ROWS, GUIDE_ROWS = 1_000_000, 500_000, 200_000
GROWN_ROWS, GROWN_GOAL = (1_000_000, 8_000_000), 1.25
CLIENTS, CAPACITY_S, CALM_S = 8, 4, 6
RATE_GOALS = {"random": 1.4, "ordered": 1.0}
WAL_GOAL, GROWTH_GOAL, BATCH_P99_MS, BATCH_MOST_MS, LATENCY_GOAL, SPEED_GOAL = 0.35, 0.05, 100, 200, 2.0, 0.5
UNDO, UNDO_GOAL = "pgrunbook with undo data", 1.6
KEYS = {"random": "gen_random_uuid()", "ordered": "(lpad(to_hex(i), 12, '0') || substr(md5(i::text), 1, 20))::uuid"}
# Rows of about 270 bytes, two secondary indexes.
LAYOUT = """
CREATE TABLE filled (id uuid PRIMARY KEY, status text, cpu int, note text, b bigint, n bigint);
INSERT INTO filled SELECT {key}, (ARRAY['new', 'run', 'done', 'gone'])[1 + i % 4], i % 64, repeat(md5(i::text), 6), i
FROM generate_series(1, {rows}) AS i;
CREATE INDEX ON filled (status);
CREATE INDEX ON filled (cpu)
"""
UPDATE = "UPDATE filled SET n = b * 2"
GUIDE = """
DO $$ DECLARE done int; BEGIN
    LOOP
        UPDATE filled SET n = b * 2 WHERE id IN (SELECT id FROM filled WHERE n IS NULL LIMIT 1000);
        GET DIAGNOSTICS done = ROW_COUNT;
        EXIT WHEN done = 0;
    END LOOP;
END $$
"""
TRAFFIC = """
\\set id random(1, {rows})
SELECT id, status FROM filled WHERE id = {key};
UPDATE filled SET cpu = cpu WHERE id = {key};
"""

Lines = list[str]


@dataclass(frozen=True)
class Cost:
    """What filling cost: seconds, the server's processor time, WAL and growth, and each batch's time."""

    took_s: float
    cpu_s: float
    wal_bytes: int
    grown_bytes: int
    batches_ms: tuple[float, ...] = ()
    says: str = ""


def backfills(site: Ground, count: int, rows: int = ROWS) -> Lines:
    """Measure one UPDATE, the guide's loop on fewer rows, and ours, for random and ordered keys."""
    lines = [
        "## A backfill", "",
        f"{rows:,} rows of about 270 bytes, two secondary indexes; autovacuum off; {count} rounds, interleaved;",
        "all of it fits into shared buffers, WAL is not compressed; processor time is the server's.", "",
    ]  # fmt: skip
    shown, goals = [], []
    with site.with_room(), site.autovacuum_off():
        for kind, key in KEYS.items():
            ways: dict[str, Callable[[Connection], Cost]] = {
                "one UPDATE": _update, "pgrunbook": _ours, UNDO: _ours_with_undo_data,
            }  # fmt: skip
            found: dict[str, list[Cost]] = {name: [] for name in ways}
            for number in range(count):
                for name, way in list(ways.items())[:: 1 if number % 2 == 0 else -1]:
                    _new_table(site, key, rows)
                    with site.session() as conn:
                        found[name].append(way(conn))
                    sys.stderr.write(f"{kind} {name}: {found[name][-1].cpu_s:.1f} s of processor time,"
                                     f" {found[name][-1].says}\n")  # fmt: skip
            shown += [_row(f"{name}, {kind} keys", rows, some) for name, some in found.items()]
            goals += _goals(kind, found["pgrunbook"], found["one UPDATE"])
            goals.append(_undo_goal(kind, found[UNDO], found["one UPDATE"]))
        _new_table(site, KEYS["random"], GUIDE_ROWS)
        with site.session() as conn:
            shown.append(_row(f"the guide's loop, {GUIDE_ROWS:,} rows", GUIDE_ROWS, [_statement(conn, GUIDE)]))
    headings = ["", "s", "rows a second", "rows a CPU second", "WAL MB", "growth MB", "longest transaction ms"]
    return [*lines, *rounds.table(headings, shown), "", *goals]


def as_rows_grow(site: Ground, count: int) -> Lines:
    """Measure ours for one and for eight million rows: what a row costs must not grow with the table."""
    found: dict[int, list[Cost]] = {rows: [] for rows in GROWN_ROWS}
    with site.with_room(), site.autovacuum_off():
        for number in range(count):
            for rows in GROWN_ROWS[:: 1 if number % 2 == 0 else -1]:
                _new_table(site, KEYS["random"], rows)
                with site.session() as conn:
                    found[rows].append(_ours(conn))
                sys.stderr.write(f"{rows:,} rows: {found[rows][-1].cpu_s:.1f} s of processor time\n")
    few, many = found.values()
    by_cpu, by_clock = (
        median((b / GROWN_ROWS[1]) / (a / GROWN_ROWS[0]) for a, b in pairs)
        for pairs in (
            [(a.cpu_s, b.cpu_s) for a, b in zip(few, many, strict=True)],
            [(a.took_s, b.took_s) for a, b in zip(few, many, strict=True)],
        )
    )
    headings = ["rows", "s", "rows a second", "rows a CPU second", "WAL MB", "growth MB", "longest transaction ms"]
    return [
        "## A backfill of more rows", "",
        f"As above, random keys; {count} rounds; the larger table does not fit into shared buffers, and has several",
        "checkpoints.", "",
        *rounds.table(headings, [_row(f"{rows:,}", rows, some) for rows, some in found.items()]), "",
        rounds.goal(f"a row of {GROWN_ROWS[1]:,} takes at most {GROWN_GOAL:g} times one of {GROWN_ROWS[0]:,}",
                    max(by_cpu, by_clock) <= GROWN_GOAL,
                    f"{by_clock:.2f} by the clock, {by_cpu:.2f} by processor time"),
    ]  # fmt: skip


def beside_traffic(site: Ground, count: int) -> Lines:
    """Measure the latency of traffic at half of the capacity, alone, beside one UPDATE, and beside ours."""
    found: dict[str, list[tuple[float, float, float]]] = {"no backfill": [], "one UPDATE": [], "pgrunbook": []}
    script = site.folder / "backfill.sql"
    md5 = "(substr(md5((:id)::text), 1, 32))::uuid"
    script.write_text(TRAFFIC.format(rows=TRAFFIC_ROWS, key=md5))
    ways: dict[str, Callable[[Connection], object]] = {
        "no backfill": lambda _: time.sleep(CALM_S), "one UPDATE": _update, "pgrunbook": _ours,
    }  # fmt: skip
    with site.with_room():
        for number in range(count):
            names = list(ways)
            for name in names[number % 3 :] + names[: number % 3]:
                _new_table(site, "md5(i::text)::uuid", TRAFFIC_ROWS)
                rate = _capacity(script) / 2
                with site.session() as conn:
                    found[name].append(_beside(script, rate, conn, ways[name]))
                sys.stderr.write(f"traffic beside {name}: {found[name][-1]}\n")
    p99 = {name: median(one[1] for one in some) for name, some in found.items()}
    took = {name: median(one[0] for one in some) for name, some in found.items()}
    shown = [(name, f"{took[name]:.1f}", f"{p99[name]:.1f}", f"{median(o[2] for o in some):.1f}")
             for name, some in found.items()]  # fmt: skip
    speed = took["one UPDATE"] / took["pgrunbook"]
    return [
        "## A backfill beside traffic", "",
        f"{TRAFFIC_ROWS:,} rows; pgbench, {CLIENTS} clients, half of the rate that the server can do; latency from the",
        f"scheduled start; {count} rounds.", "",
        *rounds.table(["", "s", "p99 ms", "longest ms"], shown), "",
        rounds.goal(f"a p99 of at most {LATENCY_GOAL:g} times that without",
                    p99["pgrunbook"] <= LATENCY_GOAL * p99["no backfill"],
                    f"{p99['pgrunbook'] / p99['no backfill']:.2f}"),
        rounds.goal(f"at least {SPEED_GOAL:g} of the rate of one UPDATE", speed >= SPEED_GOAL, f"{speed:.2f}"),
    ]  # fmt: skip


def _new_table(site: Ground, key: str, rows: int) -> None:
    site.new_database()
    with site.session() as conn:
        conn.execute("SET statement_timeout = 0")
        conn.execute(LAYOUT.format(key=key, rows=rows).encode())
        conn.execute("VACUUM (FREEZE, ANALYZE) filled")
    site.checkpoint()


def _update(conn: Connection) -> Cost:
    return _statement(conn, UPDATE)


def _statement(conn: Connection, text: str) -> Cost:
    conn.execute("SET statement_timeout = 0")
    with _Meter(conn) as meter:
        conn.execute(text.encode())
    return meter.cost([meter.took_s * 1000])


def _ours_with_undo_data(conn: Connection) -> Cost:
    """Fill as the procedure does with ``undo_data``: the old values are captured with each batch."""
    return _ours(conn, has_undo_data=True)


def _ours(conn: Connection, *, has_undo_data: bool = False) -> Cost:
    """Fill as the procedure does: under a throttle with its probe, kept in sync by a trigger, and proven."""
    target = Target(name="bench", server="main", database=DATABASE)
    with connect(target, purpose="backfill") as own, _Meter(conn) as meter:
        step_log.create(own)
        made = resolve(own, "filled", {"n": "b * 2"})

        def batches(by_pages: bool) -> tuple[Batches, undo_data.FillCapture | None]:
            whole = made.batches(rows=1_000, by_pages=by_pages)
            if not has_undo_data:
                return whole, None
            return undo_data.fill_capture(own, whole, ["n"], "bench", is_silent=True)

        fill, capture = made.fill, batches(by_pages=False)[1]
        if capture is not None:
            undo_data.begin_fill(own, capture, None)
            fill = replace(fill, captures=capture.in_trigger)
        with own.transaction(), own.as_target():
            own.execute(fill.installation().encode())
        took_ms: list[float] = []
        with throttled(target, own, "public", "filled", rows=FIRST_ROWS, run_id="bench",
                       goals=ThrottleGoals()) as throttle:  # fmt: skip
            real = throttle.worked

            def worked(took_s: float, rows: int, **told: Any) -> None:
                took_ms.append(took_s * 1000)
                real(took_s, rows, **told)

            throttle.worked = worked  # type: ignore[method-assign]
            run = BackfillRun(own, made, "bench", throttle, BadRows(), True,
                              lambda by_pages: batches(by_pages=by_pages)[0])  # fmt: skip
            done = run.run("auto")
        own.execute(made.fill.removal().encode())
        assert proof(own, made, statement_timeout_ms=600_000, in_sync=False) == 0
    order = "by pages" if done.order.by_pages else "by key"
    return meter.cost(took_ms, f"{order}, HOT {done.hot or 0:.0%}, {done.order.measured}")


class _Meter:
    """Meters what the server does meanwhile: its processes, WAL, and the table's size."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    def __enter__(self) -> _Meter:
        self._before, self._began, self._cpu = self._now(), time.perf_counter(), _server_cpu_s(self._conn)
        return self

    def __exit__(self, *_: object) -> None:
        self.took_s = time.perf_counter() - self._began
        self._used, self._after = _server_cpu_s(self._conn) - self._cpu, self._now()

    def cost(self, batches_ms: Sequence[float], says: str = "") -> Cost:
        """Return what it cost."""
        wal, grown = (after - before for after, before in zip(self._after, self._before, strict=True))
        return Cost(self.took_s, self._used, wal, grown, tuple(batches_ms), says)

    def _now(self) -> tuple[int, int]:
        query = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::int8, pg_relation_size('filled')"
        wal, size = self._conn.execute(query).fetchone() or (0, 0)
        return int(str(wal)), int(str(size))


def _server_cpu_s(conn: Connection) -> float:
    """Return the processor time of the server's processes so far, also of those that ended."""
    postmaster = int(Path(f"/proc/{conn.info.backend_pid}/stat").read_text().rpartition(")")[2].split()[1])
    fields = [Path(f"/proc/{postmaster}/stat").read_text().rpartition(")")[2].split()[11:15]]
    for child in Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split():
        try:
            fields.append(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[11:13])
        except OSError:
            continue  # it has just ended
    return sum(int(one) for some in fields for one in some) / os.sysconf("SC_CLK_TCK")


def _row(name: str, rows: int, costs: Sequence[Cost]) -> tuple[str, ...]:
    took, cpu = median(one.took_s for one in costs), median(one.cpu_s for one in costs)
    longest = median(max(one.batches_ms) for one in costs)
    return (
        name, f"{took:.1f}", f"{rows / took:,.0f}", f"{rows / cpu:,.0f}",
        f"{median(one.wal_bytes for one in costs) / 1e6:,.0f}",
        f"{median(one.grown_bytes for one in costs) / 1e6:,.0f}",
        f"{longest:,.0f}",
    )  # fmt: skip


def _goals(kind: str, ours: Sequence[Cost], one: Sequence[Cost]) -> Lines:
    pairs = list(zip(ours, one, strict=True))
    rate = median(b.cpu_s / a.cpu_s for a, b in pairs)
    wal = median(a.wal_bytes / b.wal_bytes for a, b in pairs)
    growth = median(a.grown_bytes / b.grown_bytes for a, b in pairs)
    p99 = median(sorted(a.batches_ms)[int(len(a.batches_ms) * 0.99)] for a in ours)
    most = median(max(a.batches_ms) for a in ours)
    return [
        rounds.goal(f"{kind} keys: at least {RATE_GOALS[kind]:g} times the rows a CPU second", rate >= RATE_GOALS[kind],
                    f"{rate:.2f}"),
        rounds.goal(f"{kind} keys: at most {WAL_GOAL:g} of its WAL", wal <= WAL_GOAL, f"{wal:.2f}"),
        rounds.goal(f"{kind} keys: at most {GROWTH_GOAL:g} of its growth", growth <= GROWTH_GOAL, f"{growth:.2f}"),
        rounds.goal(f"{kind} keys: batches with a p99 of {BATCH_P99_MS} ms, none above {BATCH_MOST_MS} ms",
                    p99 <= BATCH_P99_MS and most <= BATCH_MOST_MS, f"{p99:.0f} and {most:.0f} ms"),
    ]  # fmt: skip


def _undo_goal(kind: str, ours: Sequence[Cost], one: Sequence[Cost]) -> str:
    times = median(a.took_s / b.took_s for a, b in zip(ours, one, strict=True))
    return rounds.goal(f"{kind} keys: with undo data at most {UNDO_GOAL:g} times its time", times <= UNDO_GOAL,
                       f"{times:.2f}")  # fmt: skip


def _pgbench(script: Path, *options: str) -> list[str]:
    from pgrunbook.branches.binaries import embedded

    return [str(embedded().bindir / "pgbench"), "-h", socket_dir(), "-U", "postgres", "-n", "-M", "prepared", "-c",
            str(CLIENTS), "-j", "2", "-f", str(script), *options, DATABASE]  # fmt: skip


def _capacity(script: Path) -> float:
    told = subprocess.run(_pgbench(script, "-T", str(CAPACITY_S)), check=True, capture_output=True, text=True).stdout
    found = re.search(r"tps = ([0-9.]+)", told)
    assert found is not None
    return float(found[1])


def _beside(
    script: Path, rate: float, conn: Connection, work: Callable[[Connection], object]
) -> tuple[float, float, float]:
    """Return how long the work took, and p99 and longest latency of the traffic meanwhile, in ms."""
    prefix = script.parent / "latency"
    for old in prefix.parent.glob("latency.*"):
        old.unlink()
    command = _pgbench(script, "-T", "600", "-R", f"{rate:.0f}", "-l", "--log-prefix", str(prefix))
    traffic = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(2)
        began_at, began = time.time(), time.perf_counter()
        work(conn)
        took_s, ended_at = time.perf_counter() - began, time.time()
        threading.Event().wait(0.5)
    finally:
        traffic.terminate()
        traffic.wait()
    latencies: list[float] = []
    for log in prefix.parent.glob("latency.*"):
        for line in log.read_text().splitlines():
            fields = line.split()
            if len(fields) >= 7 and began_at <= int(fields[4]) + int(fields[5]) / 1e6 <= ended_at + 0.5:
                latencies.append((int(fields[2])) / 1000)
    latencies.sort()
    return took_s, latencies[int(len(latencies) * 0.99)], latencies[-1]


def main() -> None:
    """Measure, and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    rows = next((int(one) for one in sys.argv[2:] if one.isdecimal()), ROWS)
    with temporary() as folder:
        targets = folder / "targets.toml"
        targets.write_text(f'[bench]\nserver = "main"\ndatabase = "{DATABASE}"\n')
        with ground(folder, targets) as site:
            if "grown" in sys.argv:
                sys.stdout.write("\n".join(as_rows_grow(site, count)) + "\n")
                return
            if "traffic" not in sys.argv:
                sys.stdout.write("\n".join(backfills(site, count, rows)) + "\n")
            if "rows" not in sys.argv:
                sys.stdout.write("\n".join(beside_traffic(site, count)) + "\n")


if __name__ == "__main__":
    main()
