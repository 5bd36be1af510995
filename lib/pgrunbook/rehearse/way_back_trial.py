"""The result of taking a migration back with rows, and the proof that a change gets from it."""

from __future__ import annotations

from collections.abc import Sequence

from pgrunbook.plan.declared import Declared
from pgrunbook.plan.plan import Change, WayBack
from pgrunbook.plan.way_back import Frozen, Proof
from pgrunbook.rehearse.schema_only import equal_schema, not_led_back


class WayBackTrial(Frozen):
    """The result of taking a migration back with rows; ``tables`` were compared before and after; times in ms.

    ``leaves`` are the tables that differ after the way back; ``fires_triggers`` says whether those of the application
    fire while rows are reverted.
    """

    migration: str
    how: WayBack
    proven: bool
    says: str
    up_ms: float = 0
    down_ms: float = 0
    tables: tuple[str, ...] = ()
    differs: tuple[Declared, ...] = ()
    leaves: tuple[str, ...] = ()
    fires_triggers: bool = True


def with_proofs(changes: Sequence[Change], backs: Sequence[WayBackTrial]) -> tuple[Change, ...]:
    """Return the changes with the results of taking each back with rows; a change without a way back stays as it is."""
    found = []
    for change in changes:
        trials = [trial for trial in backs if trial.migration == change.migration]
        found.append(_with_proof(change, trials) if trials and change.proof.proven else change)
    return tuple(found)


def _with_proof(change: Change, trials: Sequence[WayBackTrial]) -> Change:
    """Return a change with the first of its ways back that leads back with rows, else with what each ends in."""
    best = next((trial for trial in trials if trial.proven), None)
    if best is None:
        says = "; ".join(f"{trial.how}: {trial.says}" if len(trials) > 1 else trial.says for trial in trials)
        taken = next((trial for trial in trials if trial.how == change.way_back), trials[0])
        found = {"proven": False, "says": says, "leaves": taken.leaves}
        return _silent(taken, change).to_go_back(change.way_back, change.proof.model_copy(update=found))
    others = tuple(not_led_back(trial.how, trial.says) for trial in trials if trial is not best)
    says = f"{equal_schema(best.how)}; {best.says}"
    proof = Proof(proven=True, says=says, differs=best.differs, others=(*change.proof.others, *others))
    return _silent(best, change).to_go_back(best.how, proof)


def _silent(trial: WayBackTrial, change: Change) -> Change:
    """Return a change whose way back silences triggers of the application, where the trial has done so."""
    if trial.fires_triggers:
        return change
    written = [
        one.model_copy(update={"back": one.back.model_copy(update={"fires_triggers": False})})
        if one.back is not None and (one.back.of_rows or any(step.fills for step in one.back.steps))
        else one
        for one in change.statements
    ]
    return change.model_copy(update={"statements": tuple(written)})
