"""The gates of a plan: what nobody can make safe, and somebody has to accept before migrate executes it."""

from __future__ import annotations

import getpass
from collections.abc import Mapping, Sequence
from typing import Any

from pgrunbook.errors import WrongInput
from pgrunbook.plan import plan as plans
from pgrunbook.plan.plan import OpenGate, Plan
from pgrunbook.record import journal
from pgrunbook.record import run as runs
from pgrunbook.record.run import Run

ACCEPTED = "gates-accepted"


def accept(run_id: str, keys: Sequence[str]) -> tuple[list[str], list[str]]:
    """Accept gates of a run's plan, all that are open where none is named; return what was accepted, and what is open.

    It is written into the run's journal, with who it was, and counts for this very plan only.

    Raises WrongInput for a run that does not exist or has no plan, or for what is no gate of it.
    """
    made = runs.find(run_id)
    path = made.folder / "plan.json"
    if not path.is_file():
        raise WrongInput(f"run {made.run_id} has no plan", hint="prepare makes it: run that first.")
    plan = plans.read(path)
    gates = [gate.key for gate in plan.gates()]
    unknown = sorted(set(keys) - set(gates))
    if unknown:
        raise WrongInput(
            f"the plan of run {made.run_id} has no gate {', '.join(unknown)}",
            detail=f"Its gates: {', '.join(gates) or 'none'}.",
            hint="A gate is named by file and line, as freeze-the-plan shows it.",
        )
    before = accepted(plan, journal.read(made.journal.path))
    chosen = list(keys) or [key for key in gates if key not in before]
    note(made, plan, chosen)
    return chosen, [key for key in gates if key not in {*before, *chosen}]


def note(run: Run, plan: Plan, keys: Sequence[str]) -> None:
    """Write into the journal that somebody accepts gates of this very plan."""
    if keys:
        run.journal.write(ACCEPTED, digest=plan.digest, gates=list(keys), by=getpass.getuser())


def accepted(plan: Plan, events: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the gates of a plan that its run's journal says are accepted."""
    told = [e["gates"] for e in events if e["event"] == ACCEPTED and e["digest"] == plan.digest]
    return {key for keys in told for key in keys}


def left(run: Run, plan: Plan, also: Sequence[str] = ()) -> list[OpenGate]:
    """Return the gates that nobody has accepted; ``also`` are those that a parameter names."""
    there = accepted(plan, journal.read(run.journal.path)) | {*also}
    return [gate for gate in plan.gates() if gate.key not in there]
