"""Measure pgrunbook beside its peers and write BENCHMARKS.md; run by ``make bench``.

With ``--only NAME`` one section is measured again: it takes its place in the file, with its own date.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import backfills
import branching
import breakdown
import diffs
import inverses
import keeping
import peers as all_peers
import planning
import records
import restoring
import rounds
import schema_500
import sums
import swapping
import traffic
import waiting
import watching
from ground import ROOT, Ground, ground, state, temporary, version

from pgrunbook.record import journal
from pgrunbook.record import run as runs

WRITTEN = ROOT / "BENCHMARKS.md"
DEMO_GOAL_S = 60
DEMO_ROWS = 200_000
KEPT_ROWS = 100_000
WAYS_BACK_ROUNDS = BACKFILL_ROUNDS = 5
SNAPSHOT_GOAL = 0.6
ALEMBIC_GOAL = 1.5

Lines = list[str]


def main() -> None:
    """Measure everything, then write the file whole; or some sections, and write these."""
    told = argparse.ArgumentParser(description=__doc__)
    told.add_argument(
        "--rounds", type=int, default=7, help="rounds of the 50 migrations; the snapshot gets twice as many"
    )
    told.add_argument("--demos", type=int, default=3, help="how often the demo is run")
    told.add_argument(
        "--keeps", type=int, default=2, help="rounds of keeping what an UPDATE of a million rows destroys"
    )
    told.add_argument("--restore-mb", type=int, default=2000, help="the database that is restored, and the WAL")
    told.add_argument("--restores", type=int, default=5, help="rounds of backups and of restores")
    told.add_argument("--only", action="append", default=[], metavar="NAME", help="a section to measure again")
    asked = told.parse_args()
    began = datetime.now(UTC)
    load = os.getloadavg()[0]
    with temporary() as folder:
        plain = all_peers.write_plain(folder / "migrations")
        targets = folder / "targets.toml"
        targets.write_text(
            f'[bench]\nserver = "main"\ndatabase = "bench"\nmigrations = "{plain}"\n'
            + planning.section(folder)
            + waiting.section(folder)
            + watching.section(folder)
            + swapping.section(folder)
        )
        with ground(folder, targets) as site:
            parts = on_one_server(site, plain, asked)
            server = site.server.installation.version
    if asked.only:
        again = [f"Measured again: {began:%Y-%m-%d %H:%M} UTC, PostgreSQL {server}, load at the start {load:.1f}.", ""]
        WRITTEN.write_text(replaced(WRITTEN.read_text("utf-8"), parts, again), encoding="utf-8")
        say(f"\n{len(parts)} sections of {WRITTEN.name} are written.")
        return
    parts.append(planning.locks(asked.demos))
    say("locks: measured")
    parts.append(restoring.restoring(asked.restore_mb, asked.restore_mb, asked.restores))
    say("backup and restore: measured")
    parts.append(branching.branching(asked.restore_mb, asked.restores))
    say("branches: measured")
    parts.append(demo(asked.demos))
    lines = [*head(began, load, server), *(line for part in parts for line in ["", *part])]
    WRITTEN.write_text("\n".join(lines) + "\n", encoding="utf-8")
    say(f"\n{WRITTEN.name} is written.")


def on_one_server(site: Ground, plain: Path, asked: argparse.Namespace) -> list[Lines]:
    """Measure what runs on one server, section by section."""
    sections: dict[str, Callable[[], Lines]] = {
        "50 migrations": lambda: fifty_migrations(site, plain, asked.rounds),
        "snapshot": lambda: schema(site, asked.rounds * 2),
        "diff": lambda: diffs.diffs(site, asked.rounds),
        "checksums": lambda: sums.sums(site, asked.rounds),
        "prepare of many migrations": lambda: planning.prepare(site, asked.demos),
        "ways back of many migrations": lambda: inverses.inverses(site, min(asked.rounds, WAYS_BACK_ROUNDS)),
        "what people wait for": lambda: waiting.waiting(site, asked.keeps),
        "keeping": lambda: keeping.keep(site, asked.keeps, KEPT_ROWS),
        "writing": lambda: keeping.write(site, asked.keeps, KEPT_ROWS),
        "writing inserted rows": lambda: keeping.write_inserted(site, asked.keeps, KEPT_ROWS),
        "a look of the monitor": lambda: watching.watching(site),
        "a swap": lambda: swapping.swapping(site, asked.keeps),
        "traffic": lambda: traffic.traffic(site),
        "a backfill": lambda: backfills.backfills(site, min(asked.rounds, BACKFILL_ROUNDS)),
        "a backfill of more rows": lambda: backfills.as_rows_grow(site, asked.keeps),
        "a backfill beside traffic": lambda: backfills.beside_traffic(site, asked.keeps),
        "records": records.records,
    }
    if unknown := set(asked.only) - set(sections):
        raise SystemExit(f"there is no section {sorted(unknown)}; there are: {', '.join(sections)}")
    parts = []
    for name, section in sections.items():
        if asked.only and name not in asked.only:
            continue
        parts.append(section())
        say(f"{name}: measured")
    return parts


def replaced(text: str, parts: list[Lines], again: Lines) -> str:
    """Return the file with sections that were measured again in their places; a new one comes last."""
    found = text.rstrip("\n").split("\n## ")
    for part in parts:
        title = part[0].removeprefix("## ")
        made = "\n".join([title, "", *again, *part[2:]]) + "\n"
        places = [number for number, one in enumerate(found) if one.partition("\n")[0] == title]
        if places:
            found[places[0]] = made
        else:
            found[-1] += "\n"
            found.append(made)
    return "\n## ".join(found).rstrip("\n") + "\n"


def head(began: datetime, load: float, server: str) -> Lines:
    """Return the head of the file: how it was made, on what."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = ("pgrunbook", "papermill", "nbclient", "ipykernel", "psycopg", "alembic")
    return [
        "# Benchmarks",
        "",
        "Written by `make bench`, in one run but for sections that say when they were measured again; do not edit.",
        "The 50 migrations and the snapshot run on one embedded server, each demo on a new one; all have fsync on.",
        "The rounds are interleaved, and every round begins with another program.",
        "A ratio is the median of the ratios within each round; below 1 means that pgrunbook is the faster one.",
        "Processor time is that of the client's processes, without the server's.",
        "",
        f"- Date: {began:%Y-%m-%d %H:%M} UTC",
        f"- Machine: {os.cpu_count()} cores ({platform.machine()}), {memory_gib:.0f} GiB; load at the start {load:.1f}",
        f"- PostgreSQL {server}, Python {platform.python_version()}",
        f"- {', '.join(f'{package} {version(package)}' for package in packages)}",
    ]


def fifty_migrations(site: Ground, plain: Path, count: int) -> Lines:
    """Measure 50 small migrations as whole processes."""
    found, missing = all_peers.peers(site, plain)
    stages: list[dict[str, float]] = []

    def measured(peer: all_peers.Peer) -> Callable[[], rounds.Sample]:
        def once() -> rounds.Sample:
            site.new_database()
            sample = peer.run()
            expect(f"{peer.name}: migrations applied", site.count(peer.applied), all_peers.MIGRATIONS)
            expect(f"{peer.name}: tables and indexes", site.count(all_peers.TABLES), all_peers.TABLES_AND_INDEXES)
            say(f"50 migrations, {peer.name}: {sample.took_s:.2f} s")
            if peer.name == "pgrunbook":
                stages.append(breakdown.stages(runs.folders()[-1], sample))
            return sample

        return once

    things = {peer.name: measured(peer) for peer in found}
    rounds.interleaved(things, 1)  # fills the caches; not counted
    stages.clear()
    samples = rounds.interleaved(things, count)
    return [*_migrations_table(found, samples, count), *missing, "", *_stages_table(stages)]


def schema(site: Ground, count: int) -> Lines:
    """Measure the snapshot of a large schema: just made, and once the server has statistics of its catalog."""
    site.new_database()
    with site.autovacuum_off():
        what = schema_500.make(site)
        just_made = schema_500.measure(site, count)
        site.settle()
        settled = schema_500.measure(site, count)
    say(f"snapshot of {what}: measured")
    found = max(rounds.ratio(some[schema_500.OURS], some[schema_500.PEER]) for some in (just_made, settled))
    return [
        "## Snapshot of a large schema",
        "",
        f"{what}; {count} rounds.",
        "The snapshot is taken within a running Python, as notebooks do, and includes its connection.",
        "Just made means that autovacuum has not come yet, as after a large migration.",
        "",
        "Just made:",
        "",
        *_snapshot_table(just_made),
        "",
        "After VACUUM ANALYZE:",
        "",
        *_snapshot_table(settled),
        "",
        rounds.goal(
            f"at most {SNAPSHOT_GOAL} of pg_dump, in both", found <= SNAPSHOT_GOAL, f"{found:.2f} in the worse"
        ),
    ]


def demo(count: int) -> Lines:
    """Measure the demo as a whole, each time in a new state directory, and the restore within it."""
    command = [str(all_peers.BIN / "pgrunbook"), "demo", "--rows", str(DEMO_ROWS)]
    whole: list[rounds.Sample] = []
    made: list[list[runs.Run]] = []
    restores: list[dict[str, Any]] = []
    for _ in range(count):
        with temporary() as folder, state(folder, ROOT / "targets.toml"):
            whole.append(rounds.process(command, may_fail=True))
            made.append([runs.load(one) for one in runs.folders()])
            events = [event for run in made[-1] for event in journal.read(run.journal.path)]
            restores += [event for event in events if event["event"] == "restored"]
        say(f"demo: {whole[-1].took_s:.1f} s")
    return [*_demo_table(whole, made), "", *_restore_table(restores)]


def expect(what: str, found: int, expected: int) -> None:
    """Stop when a program did not do what it is measured for."""
    if found != expected:
        raise RuntimeError(f"{what}: {found} instead of {expected}")


def say(text: str) -> None:
    """Tell the person who waits how far it is."""
    sys.stderr.write(f"{text}\n")


def _migrations_table(found: list[all_peers.Peer], samples: rounds.Samples, count: int) -> Lines:
    ours = samples["pgrunbook"]
    rows = []
    for peer in found:
        some = samples[peer.name]
        cpu_s = median(sample.cpu_s for sample in some)
        rows.append(
            (
                f"{peer.name} {peer.version}: {peer.how}",
                *_seconds(some, 2),
                f"{cpu_s:.2f}",
                f"{rounds.ratio(ours, some):.2f}",
            )
        )
    to_alembic = rounds.ratio(ours, samples["alembic"])
    return [
        "## 50 small migrations, as a whole process",
        "",
        f"{count} rounds after one that is not counted, each on a fresh clone of an empty database.",
        "",
        *rounds.table(["", "median s", "range s", "processor s", "pgrunbook is to it"], rows),
        "",
        rounds.goal(
            f"at most {ALEMBIC_GOAL:g} times alembic, with the full record",
            to_alembic <= ALEMBIC_GOAL,
            f"ratio {to_alembic:.2f}",
        ),
    ]


def _stages_table(stages: list[dict[str, float]]) -> Lines:
    found = breakdown.medians(stages)
    rows = [(name, f"{middle:.0f}", f"{least:.0f} to {most:.0f}") for name, (middle, least, most) in found.items()]
    return [
        "### Where pgrunbook's time goes",
        "",
        "From the journal and the executed notebook; a cell's time includes the saves of the record around it.",
        "The kernel starts first of all, and boots beside the two first stages.",
        "",
        *rounds.table(["stage", "median ms", "range ms"], rows),
    ]


def _demo_table(whole: list[rounds.Sample], made: list[list[runs.Run]]) -> Lines:
    middle, least, most = rounds.took(whole)
    parts = [{run.runbook: _took_s(run.started_at, run.ended_at) for run in some} for some in made]
    rows = [(name, f"{median(part[name] for part in parts if name in part):.1f}") for name in parts[0]]
    wrong = {f"{run.runbook}: {p.says}" for some in made for run in some for p in run.parts if p.status != "done"}
    found = f"{most:.1f} s at most" + (f", and it failed: {'; '.join(sorted(wrong))}" if wrong else "")
    reached = most < DEMO_GOAL_S and not any(sample.exit_code for sample in whole)
    return [
        "## The demo",
        "",
        f"`pgrunbook demo` from nothing, with {DEMO_ROWS:,} rows in the largest table; {len(whole)} times.",
        "",
        *rounds.table(["part", "median s"], [*rows, ("whole process", f"{middle:.1f} ({least:.1f} to {most:.1f})")]),
        "",
        rounds.goal(f"under {DEMO_GOAL_S} s", reached, found),
    ]


def _snapshot_table(samples: rounds.Samples) -> Lines:
    peer = samples[schema_500.PEER]
    rows = [(name, *_seconds(some, 3), f"{rounds.ratio(some, peer):.2f}") for name, some in samples.items()]
    return rounds.table(["", "median s", "range s", "ratio to pg_dump"], rows)


def _restore_table(restores: list[dict[str, Any]]) -> Lines:
    if not restores:
        return ["## Restore beside the living", "", "No restore was made."]
    shown = {
        "copy of the base backup": [one["copy_s"] for one in restores],
        "replay": [one["replay_s"] for one in restores],
        "opening, and the rest": [one["recovery_time_s"] - one["copy_s"] - one["replay_s"] for one in restores],
        "whole": [one["recovery_time_s"] for one in restores],
    }
    rows = [(name, f"{median(some):.2f}", f"{min(some):.2f} to {max(some):.2f}") for name, some in shown.items()]
    replayed_mib = median(one["replayed_bytes"] for one in restores) / 2**20
    return [
        "## Restore beside the living",
        "",
        f"The restore of the demo above, from its journal; {replayed_mib:.1f} MiB of WAL replayed.",
        "",
        *rounds.table(["", "median s", "range s"], rows),
    ]


def _seconds(samples: list[rounds.Sample], digits: int) -> tuple[str, str]:
    middle, least, most = rounds.took(samples)
    return f"{middle:.{digits}f}", f"{least:.{digits}f} to {most:.{digits}f}"


def _took_s(started_at: str, ended_at: str) -> float:
    return (datetime.fromisoformat(ended_at) - datetime.fromisoformat(started_at)).total_seconds()


if __name__ == "__main__":
    main()
