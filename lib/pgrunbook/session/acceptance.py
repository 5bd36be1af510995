"""The acceptance of gates: a person accepts the statements of a plan that have no safe form, before migrate runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pgrunbook.config import regular_file
from pgrunbook.errors import Refused, WrongInput
from pgrunbook.plan import plan as plans
from pgrunbook.plan.plan import OpenGate, Plan
from pgrunbook.record import journal
from pgrunbook.record import run as runs
from pgrunbook.record.run import Run
from pgrunbook.seal import attempt
from pgrunbook.sql import places

ACCEPTED = "gates-accepted"
COLUMNS_SHOWN = "columns-shown"
EVERY_COLUMN = "all"
_ROLLBACK = "rollback-plan-frozen"
_FILES = {"plan-frozen": "plan.json", _ROLLBACK: "rollback-plan.json"}


def accept(run_id: str, keys: Sequence[str]) -> tuple[list[str], list[str]]:
    """Accept gates of a run's plan, all open ones where none is named; return those accepted, and those still open.

    The run's journal records the gates and who accepted them. An acceptance counts for this very plan only.

    Raises WrongInput for a run that does not exist or has no plan, or for a name that is no gate of it or fits two, and
    where its rollback was refused for something else, Refused for a gate that somebody else has accepted, and once the
    run has begun to execute its plan: nobody can accept afterwards what has run.
    """
    made = runs.find(run_id)
    made.refuse_changed()
    events = journal.read(made.journal.path)
    if shown := [e for e in events if e["event"] == COLUMNS_SHOWN]:
        return _accept_columns(made, shown[-1]["digests"], keys, events)
    _refuse_refused(made, events)
    path = _frozen_last(made, events)
    if not regular_file.is_there(path):
        raise WrongInput(
            f"run {made.run_id} has no plan",
            detail=f"{path} is not there.",
            hint="Run prepare first: it makes the plan.",
        )
    plan = plans.read(path)
    _refuse_unfrozen(made, plan, events)
    gates = [gate.key for gate in plan.gates()]
    named = list(dict.fromkeys(places.resolved(keys, plan.named())))
    unknown = [key for key in named if key not in gates]
    if unknown:
        raise WrongInput(
            f"the plan of run {made.run_id} has no gate {', '.join(unknown)}",
            detail=f"Its gates: {', '.join(gates) or 'none'}.",
            hint="Name a gate by its place, as freeze-the-plan shows it.",
        )
    if any(e["event"] == "migration-started" and e["direction"] == plan.direction for e in events):
        raise Refused(
            f"cannot accept gates of run {made.run_id}: its plan was executed, or begun",
            detail="An acceptance counts before the first statement runs.",
            state="Nothing changed in the database or in the record.",
            hint=f"See what was accepted and done: pgrunbook show {made.run_id}",
        )
    before = accepted(plan, events)
    _refuse_again(made, plan, [key for key in named if key in before], events)
    chosen = named or [key for key in gates if key not in before]
    new = [key for key in chosen if key not in before]
    if new:
        with attempt.addition(made):
            note(made, plan, new)
    return chosen, [key for key in gates if key not in {*before, *chosen}]


def _refuse_refused(made: Run, events: Sequence[Mapping[str, Any]]) -> None:
    """Raise WrongInput where the last thing that happened is that a rollback was refused, and it has no open gate."""
    ended = {"procedure-started", "cell-ended", ACCEPTED}
    last = next((e for e in reversed(events) if e["event"] in ended), None)
    if last is None or last.get("procedure") != "rollback" or last.get("kind") != Refused.__name__:
        return
    path = made.folder / _FILES[_ROLLBACK]
    if any(e["event"] == _ROLLBACK for e in events) and regular_file.is_there(path) and left(made, plans.read(path)):
        return
    said = list(last["error"])
    hint = next((line.removeprefix("Hint: ") for line in said[1:] if line.startswith("Hint: ")), "")
    raise WrongInput(
        f"no gate of run {made.run_id} is to be accepted: its rollback was refused for something else",
        detail=f"Cell {last['cell']}: {said[0]}.",
        state="Nothing changed in the database or in the record.",
        hint=hint or f"See what it said: pgrunbook show {made.run_id}",
    )


def _refuse_unfrozen(made: Run, plan: Plan, events: Sequence[Mapping[str, Any]]) -> None:
    """Raise Refused for a plan that the run did not freeze: it was written by somebody else."""
    name = "plan" if plan.direction == "up" else "rollback-plan"
    frozen = [e["digest"] for e in events if e["event"] == f"{name}-frozen"]
    if plan.digest not in frozen[-1:]:
        raise Refused(
            f"{name}.json of run {made.run_id} is not the plan that was frozen in it",
            detail=f"The journal says {frozen[-1] if frozen else 'of none'}; the file has {plan.digest}.",
            state="Nothing changed in the database or in the record.",
            hint="Somebody has written another plan into the run's folder: find out who, and start a new run.",
        )


def _refuse_again(made: Run, plan: Plan, keys: Sequence[str], events: Sequence[Mapping[str, Any]]) -> None:
    """Raise Refused for gates that somebody else has accepted: the record names one person for each."""
    told = [e for e in events if e["event"] == ACCEPTED and e.get("digest") == plan.digest]
    for key in keys:
        first = next(e for e in told if key in e["gates"])
        if first.get("by") != runs.operator():
            raise Refused(
                f"gate {key} of run {made.run_id} is accepted already",
                detail=f"{first.get('by')} accepted it at {first.get('at')}, for this very plan.",
                state="Nothing changed in the database or in the record.",
                hint=f"Nothing is left to do for this gate: pgrunbook show {made.run_id}",
            )


def note(run: Run, plan: Plan, keys: Sequence[str]) -> None:
    """Write into the journal that somebody accepts gates of this very plan."""
    if keys:
        run.journal.write(ACCEPTED, digest=plan.digest, gates=list(keys), by=runs.operator())


def accepted(plan: Plan, events: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the gates of a plan that are accepted, as its run's journal says."""
    found = [e["gates"] for e in events if e["event"] == ACCEPTED and e["digest"] == plan.digest]
    return {key for keys in found for key in keys}


def digest_of(subject: str) -> str:
    """Return the digest of a column that contract has shown: an acceptance counts for this very column only."""
    return hashlib.sha256(subject.encode()).hexdigest()


def accepted_columns(run: Run, subjects: Mapping[str, str], also: Sequence[str]) -> set[str]:
    """Return the columns whose contract is accepted in a run; ``also`` are those that a parameter names, or all.

    ``subjects`` say of each column by name what it is.
    """
    told = {e["digest"] for e in journal.read(run.journal.path) if e["event"] == ACCEPTED}
    return {
        name for name, subject in subjects.items() if digest_of(subject) in told or name in also or EVERY_COLUMN in also
    }


def _accept_columns(
    made: Run, shown: Mapping[str, str], keys: Sequence[str], events: Sequence[Mapping[str, Any]]
) -> tuple[list[str], list[str]]:
    """Accept that contract drops columns, all that it has shown where none is named. Raises as :func:`accept`."""
    unknown = [key for key in keys if key not in shown]
    if unknown:
        raise WrongInput(
            f"run {made.run_id} has shown no column {', '.join(unknown)}",
            detail=f"It has shown: {', '.join(shown) or 'none'}.",
            hint="Name a column as still-double shows it: schema.table.column.",
        )
    told = {e["digest"] for e in events if e["event"] == ACCEPTED}
    chosen = list(keys) or [key for key in shown if shown[key] not in told]
    new = [key for key in chosen if shown[key] not in told]
    if new:
        with attempt.addition(made):
            for key in new:
                made.journal.write(ACCEPTED, digest=shown[key], gates=[key], by=runs.operator())
    return chosen, [key for key in shown if shown[key] not in told and key not in chosen]


def left(run: Run, plan: Plan, also: Sequence[str] = ()) -> list[OpenGate]:
    """Return the gates that nobody has accepted; ``also`` are those that a parameter names."""
    there = accepted(plan, journal.read(run.journal.path)) | {*also}
    return [gate for gate in plan.gates() if gate.key not in there]


def open_gates(run: Run) -> list[str]:
    """Return the gates of the plan that the run has frozen last, and that nobody has accepted; [] where it has none."""
    events = journal.read(run.journal.path)
    if not any(event["event"] in _FILES for event in events):
        return []
    path = _frozen_last(run, events)
    return [gate.key for gate in left(run, plans.read(path))] if regular_file.is_there(path) else []


def _frozen_last(made: Run, events: Sequence[Mapping[str, Any]]) -> Path:
    """Return the file of the plan that a run has frozen last: of its release, or of its rollback."""
    frozen = [_FILES[e["event"]] for e in events if e["event"] in _FILES]
    if not frozen:
        raise WrongInput(
            f"run {made.run_id} has no plan",
            detail="Its journal says that none was frozen in it.",
            hint="Run prepare first: it makes the plan.",
        )
    return made.folder / frozen[-1]
