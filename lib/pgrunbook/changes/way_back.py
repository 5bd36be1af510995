"""The way back of a statement and of a migration, as the plan and the database hold it; prepare, migrate, rollback."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from pgrunbook.changes.safe_forms.step import Gate, Keep
from pgrunbook.changes.statements import Policy
from pgrunbook.changes.undo import Undo

IRREVERSIBLE_HOW = (
    "Write a down script that leads back and lay it beside the migration, write the statement so that it can be "
    "undone, or know that what is written after it is lost when it has to be taken back."
)


class Frozen(BaseModel):
    """A part of the plan: unknown fields are refused, and nothing changes once it is made."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class BackStep(Frozen):
    """A plain statement of a way back, and which of the kept columns (by their place) are filled after it."""

    sql: str
    says: str
    policy: Policy
    done: str | None = None
    fills: tuple[int, ...] = ()


class Back(Frozen):
    """How one statement is taken back from the state behind it: see :class:`pgrunbook.changes.undo.Undo`.

    Where ``look_again`` is set it is computed again on the target right before the statement is executed:
    it says where a sequence stands, or the branch words it otherwise.
    """

    steps: tuple[BackStep, ...] = ()
    because: str = ""
    differs: tuple[str, ...] = ()
    keeps: tuple[Keep, ...] = ()
    of_rows: bool = False
    lossy: str = ""
    look_again: bool = False

    @property
    def is_nothing(self) -> bool:
        """Whether nothing is left to be taken back."""
        return not (self.steps or self.because or self.of_rows)


class Proof(Frozen):
    """Whether a migration was seen to lead up, down and up again, and how; ``differs`` is what differs by nature."""

    proven: bool = False
    says: str = ""
    differs: tuple[str, ...] = ()


def of_undo(undo: Undo, keeps: Sequence[Keep]) -> Back:
    """Return a way back as the plan holds it; ``keeps`` are those of ``undo``, with the names of what keeps them."""
    steps = []
    for step in undo.steps:
        fills = tuple(undo.keeps.index(keep) for keep in undo.filled_after(step))
        steps.append(BackStep(sql=step.sql, says=step.says, policy=step.policy, done=step.done, fills=fills))
    return Back(
        steps=tuple(steps), because=undo.because, differs=undo.differs, keeps=tuple(keeps), of_rows=undo.of_rows,
        lossy=undo.lossy, look_again=undo.of_position,
    )  # fmt: skip


def irreversible(reason: str) -> Gate:
    """Return the gate of a migration that has no proven way back."""
    says = f"irreversible: after this, only the restore point leads back ({reason.rstrip('.')})"
    return Gate("irreversible", says, "restore", IRREVERSIBLE_HOW)
