"""The acceptance of gates: a person accepts the statements of a plan that have no safe form, before migrate runs."""

from __future__ import annotations

import getpass
from collections.abc import Mapping, Sequence
from typing import Any

from pgrunbook.errors import Refused, WrongInput
from pgrunbook.plan import plan as plans
from pgrunbook.plan.plan import OpenGate, Plan
from pgrunbook.record import journal
from pgrunbook.record import run as runs
from pgrunbook.record.run import Run

ACCEPTED = "gates-accepted"


def accept(run_id: str, keys: Sequence[str]) -> tuple[list[str], list[str]]:
    """Accept gates of a run's plan, all open ones where none is named; return those accepted, and those still open.

    The run's journal records the gates and who accepted them. An acceptance counts for this very plan only.

    Raises WrongInput for a run that does not exist or has no plan, or for a key that is no gate of it, Refused once
    the run has begun to execute its plan: nobody can accept afterwards what has run.
    """
    made = runs.find(run_id)
    path = made.folder / "plan.json"
    if not path.is_file():
        raise WrongInput(f"run {made.run_id} has no plan", hint="Run prepare first: it makes the plan.")
    plan = plans.read(path)
    gates = [gate.key for gate in plan.gates()]
    unknown = sorted(set(keys) - set(gates))
    if unknown:
        raise WrongInput(
            f"the plan of run {made.run_id} has no gate {', '.join(unknown)}",
            detail=f"Its gates: {', '.join(gates) or 'none'}.",
            hint="Name a gate by file and line, as freeze-the-plan shows it.",
        )
    events = journal.read(made.journal.path)
    if any(e["event"] == "migration-started" and e["direction"] == "up" for e in events):
        raise Refused(
            f"cannot accept gates of run {made.run_id}: its plan was executed, or begun",
            detail="An acceptance counts before the first statement runs.",
            state="Nothing changed in the database or in the record.",
            hint=f"See what was accepted and done: pgrunbook show {made.run_id}",
        )
    before = accepted(plan, events)
    chosen = list(keys) or [key for key in gates if key not in before]
    note(made, plan, chosen)
    return chosen, [key for key in gates if key not in {*before, *chosen}]


def note(run: Run, plan: Plan, keys: Sequence[str]) -> None:
    """Write into the journal that somebody accepts gates of this very plan."""
    if keys:
        run.journal.write(ACCEPTED, digest=plan.digest, gates=list(keys), by=getpass.getuser())


def accepted(plan: Plan, events: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the gates of a plan that are accepted, as its run's journal says."""
    found = [e["gates"] for e in events if e["event"] == ACCEPTED and e["digest"] == plan.digest]
    return {key for keys in found for key in keys}


def left(run: Run, plan: Plan, also: Sequence[str] = ()) -> list[OpenGate]:
    """Return the gates that nobody has accepted; ``also`` are those that a parameter names."""
    there = accepted(plan, journal.read(run.journal.path)) | {*also}
    return [gate for gate in plan.gates() if gate.key not in there]
