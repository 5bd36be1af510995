"""prepare of 100 pending migrations on 500 tables, and the locks of the example's migrations, plain beside plan."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

import rounds
import schema_500
from ground import ROOT, Ground, state, temporary

from pgrunbook.app import demo
from pgrunbook.procedures.plan_views import longest_ms
from pgrunbook.record import run as runs
from pgrunbook.rehearse.trial import StatementRun, TrafficLatency, Trial
from pgrunbook.runner import runbook

MIGRATIONS, PREPARE_GOAL_S = 100, 5.0
TARGET = "wide"
LOAD, DEMO_ROWS = 200, 200_000
STATEMENTS = (
    "ALTER TABLE t{n} ADD COLUMN added_{n} text",
    "CREATE INDEX t{n}_c5 ON t{n} (c5)",
    "ALTER TABLE t{n} ADD CONSTRAINT t{n}_c3_is CHECK (c3 > 0)",
    "ALTER TABLE t{n} ALTER COLUMN parent_id SET NOT NULL",
    "CREATE TABLE made_{n} (id bigint PRIMARY KEY, t_id bigint REFERENCES t{n});\nCREATE INDEX ON made_{n} (t_id)",
)

Lines = list[str]


def section(folder: Path) -> str:
    """Write the folder of migrations; return the section of targets.toml for them."""
    migrations = folder / "wide"
    migrations.mkdir()
    for number in range(MIGRATIONS):
        text = STATEMENTS[number % len(STATEMENTS)].format(n=number * 4)
        (migrations / f"{number:04}_step.sql").write_text(f"{text};\n", encoding="utf-8")
    return f'[{TARGET}]\nserver = "main"\ndatabase = "bench"\nmigrations = "{migrations}"\n'


def prepare(site: Ground, count: int) -> Lines:
    """Measure prepare without a rehearsal, as a whole process."""
    site.new_database()
    what = schema_500.make(site)
    site.settle()
    command = [str(ROOT / ".venv/bin/pgrunbook"), "run", "prepare", "--target", TARGET, "-p", "rehearse=false"]
    samples = [rounds.process(command) for _ in range(count)]
    steps = len(_plan_of_last()["steps"])
    middle, least, most = rounds.took(samples)
    return [
        "## prepare of many migrations",
        "",
        f"{MIGRATIONS} pending migrations ({steps} steps) on {what}; no rehearsal, a whole process, {count} times.",
        "",
        *rounds.table(["", "median s", "range s"], [("prepare", f"{middle:.2f}", f"{least:.2f} to {most:.2f}")]),
        "",
        rounds.goal(f"under {PREPARE_GOAL_S:g} s", most < PREPARE_GOAL_S, f"{most:.2f} s at most"),
    ]


def locks(count: int) -> Lines:
    """Rehearse the example under traffic; show for each statement how long it locked out readers and writers."""
    seen: list[Trial] = []
    for _ in range(count):
        with temporary() as folder, state(folder, ROOT / "targets.toml"):
            demo.set_up(DEMO_ROWS)
            made, code = runbook.run("prepare", demo.TARGET, {"load": str(LOAD)})
            if code:
                raise RuntimeError(f"prepare ended with {code}: {made.parts[0].says}")
            seen.append(Trial.model_validate_json((made.folder / "rehearsal.json").read_text(encoding="utf-8")))
    rows = [
        (
            f"{statement.migration} {statement.statement}: {' '.join(statement.sql.split())[:50]}",
            *(_locked(seen, number, who, way) for who in ("readers", "writers") for way in ("plain", "safe")),
        )
        for number, statement in enumerate(seen[0].statements)
    ]
    felt = [
        (
            way,
            f"{median(_felt(t, way).worst_ms for t in seen):.0f}",
            f"{median(_felt(t, way).p99_ms for t in seen):.0f}",
        )
        for way in ("plain", "safe")
    ]
    on = f"prepare's rehearsal on a branch with {DEMO_ROWS:,} rows in the largest table, under {LOAD} transactions"
    return [
        "## Locks of the example's migrations",
        "",
        f"{on} a second; {count} times, medians in ms.",
        "The last two statements have no safe form: they are gates.",
        "",
        *rounds.table(
            ["statement", "readers out, plain", "readers out, plan", "writers out, plain", "writers out, plan"], rows
        ),
        "",
        *rounds.table(["traffic", "slowest transaction ms", "p99 ms"], felt),
    ]


def _locked(seen: list[Trial], number: int, who: str, way: str) -> str:
    found: list[StatementRun | None] = [getattr(trial.statements[number], way) for trial in seen]
    return f"{median(longest_ms(run, who) for run in found):.0f}"


def _felt(trial: Trial, way: str) -> TrafficLatency:
    told = trial.plain_traffic if way == "plain" else trial.safe_traffic
    assert told is not None
    return told


def _plan_of_last() -> dict[str, list[object]]:
    plan = json.loads((runs.folders()[-1] / "plan.json").read_text(encoding="utf-8"))["plan"]
    return {"steps": [step for change in plan["changes"] for step in change["steps"]]}
