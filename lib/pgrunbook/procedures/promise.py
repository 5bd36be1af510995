"""What a run has promised and left: its plan, its rehearsal and what it measured; validate compares with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pgrunbook.config import regular_file
from pgrunbook.database.measurements import Measurements
from pgrunbook.errors import RunbookError, WrongInput
from pgrunbook.plan import plan as plans
from pgrunbook.plan.plan import Plan
from pgrunbook.record import journal
from pgrunbook.record import run as runs
from pgrunbook.record.run import Run
from pgrunbook.rehearse.trial import Trial
from pgrunbook.session.session import Session


def promising_run(here: Session) -> Run | None:
    """Return the named run, else this one when it has a plan, else the last run on this target that has a plan."""
    if here.parameters.of_run:
        run = runs.find(here.parameters.of_run)
        if run.target != here.target.name:
            raise WrongInput(f"run {run.run_id} is of target {run.target}, not of {here.target.name}")
        return run
    for folder in (here.run.folder, *reversed(runs.folders())):
        if regular_file.is_there(folder / "plan.json"):
            try:
                run = runs.load(folder)
            except WrongInput:
                continue  # a folder that cannot be read holds no promise; `pgrunbook runs` reports it
            if run.target == here.target.name:
                return run
    return None


def plan_of(run: Run) -> Plan | None:
    """Return the plan that the run froze, None where it froze none."""
    path = run.folder / "plan.json"
    return plans.read(path) if regular_file.is_there(path) else None


def events(run: Run, *names: str) -> list[dict[str, Any]]:
    """Return the events of the run's journal, all or those of these names."""
    return [e for e in journal.read(run.journal.path) if not names or e["event"] in names]


def measured(here: Session) -> Measurements:
    """Return what was measured before the change; nothing where nobody did."""
    path = promised(here, "measured-before.json")
    return regular_file.read_model(path, Measurements) if path else Measurements(rows={}, queries_ms={})


def promised(here: Session, name: str) -> Path | None:
    """Return a file of the run that is validated, None where it wrote none."""
    promise = here.facts["promise"]
    path = promise.folder / name if promise else None
    return path if path and regular_file.is_there(path) else None


def trial(here: Session) -> Trial | None:
    """Return what the rehearsal with the target's rows saw, None where there was none."""
    path = promised(here, "rehearsal.json")
    return regular_file.read_model(path, Trial) if path else None


def written_on_the_branch(here: Session) -> set[str]:
    """Return the names of tables whose rows the plan wrote in the rehearsal, also by cascades and triggers."""
    seen = trial(here)
    found = set()
    for statement in seen.statements if seen else ():
        wrote = "AccessExclusiveLock" if statement.sql.upper().startswith("TRUNCATE") else "RowExclusiveLock"
        locks = statement.safe.locks if statement.safe else ()
        found |= {lock.object.rpartition(".")[2].strip('"') for lock in locks if lock.mode == wrote}
    return found


def known_before(here: Session) -> set[str]:
    """Return the names of indexes and constraints that were invalid before the run already."""
    path = promised(here, "leftovers-before.json")
    return set(regular_file.read_model(path, list[str])) if path else set()


def left_on_purpose(here: Session) -> set[tuple[str, ...]]:
    """Return what the plain SQL left behind in the rehearsal: kind, name and table of each."""
    promise = here.facts["promise"]
    proven = events(promise, "proven-equal") if promise else []
    return {tuple(left) for event in proven[:1] for left in event.get("leaves", [])}


def measured_last(target: str) -> tuple[str, Measurements] | None:
    """Return what was measured before the last change of a target, and by which run; None where nobody did."""
    for folder in reversed(runs.folders()):
        path = folder / "measured-before.json"
        if not regular_file.is_there(path):
            continue
        try:
            run, found = runs.load(folder), regular_file.read_model(path, Measurements)
        except RunbookError:
            continue  # a folder that cannot be read is told by `pgrunbook runs`
        if run.target == target:
            return run.run_id, found
    return None
