"""The course of a rollout: what comes next, by its declaration, its state and what a person accepts."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from pgrunbook.errors import WrongInput
from pgrunbook.online.rollout_state import RolloutStanding, RolloutState, StageStanding
from pgrunbook.plan.rollout import REMOVE, DeclaredRollout


class Move(StrEnum):
    """What comes next in a rollout."""

    BEGIN = "begin"
    WRITE = "write"
    WATCH = "watch"
    TAKE_BACK = "take back"
    WAIT = "wait for a person"
    REST = "rest"


@dataclass(frozen=True)
class NextMove:
    """The next move and its stage; 0 where it is about no stage."""

    move: Move
    stage: int = 0


def next_move(rollout: DeclaredRollout, state: RolloutState, accepted: Collection[str], run_id: str) -> NextMove:
    """Return what comes next. A stage that went back begins again only when a person accepts it, in another run."""
    for number, stage in enumerate(rollout.stages, 1):
        begun = state.stage(number)
        if begun is not None and begun.state is StageStanding.GOING_BACK:
            return NextMove(Move.TAKE_BACK, number)
        if state.standing in (RolloutStanding.PAUSED, RolloutStanding.ABANDONED, RolloutStanding.REMOVED):
            continue
        if begun is None or begun.state is StageStanding.BACK:
            used_up = begun is not None and begun.run_id == run_id
            goes = (stage.name in accepted and not used_up) or (begun is None and stage.go == "metric")
            return NextMove(Move.BEGIN if goes else Move.WAIT, number)
        if begun.state is StageStanding.WRITING:
            return NextMove(Move.WRITE, number)
        if begun.state is StageStanding.HELD:
            return NextMove(Move.WATCH, number)
    return NextMove(Move.REST)


def newest_share(rollout: DeclaredRollout, state: RolloutState) -> int:
    """Return the newest stage by share or of all that is held or done, 0 where there is none."""
    found = [
        one.number
        for one in state.stages
        if one.state in (StageStanding.HELD, StageStanding.DONE) and rollout.stages[one.number - 1].keys is None
    ]
    return max(found, default=0)


def refuse_unknown(rollout: DeclaredRollout, accepted: Collection[str]) -> None:
    """Raise WrongInput for what is accepted and is no stage."""
    names = [stage.name for stage in rollout.stages]
    unknown = [name for name in accepted if name not in (*names, REMOVE)]
    if unknown:
        raise WrongInput(
            f'rollout "{rollout.name}" has no stage {", ".join(unknown)}',
            detail=f"Its stages: {', '.join(names)}; and {REMOVE}, which lets the flag go.",
            hint="Correct accept.",
        )
