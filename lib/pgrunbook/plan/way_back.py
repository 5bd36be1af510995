"""The way back of a statement and of a migration, as the plan and the database hold it; prepare, migrate, rollback."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from pgrunbook.plan.step import Gate, Keep, SafeStep
from pgrunbook.sql.classify import Policy
from pgrunbook.sql.statements import Statement

# What a step says after which the kept values of a column are filled back.
FILLED_AFTER = "The kept values are filled back after this step:"


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
    """How one statement is taken back from the state behind it: see :class:`Undo`.

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


@dataclass(frozen=True)
class Undo:
    """The way back of one statement, to be gone from the state right behind it.

    ``steps`` are plain statements, in order; a statement with no steps, no ``because`` and no rows leaves
    nothing to take back. ``because`` is the sentence that says why there is no way, "" where there is one.
    ``differs`` lists what differs by nature afterwards. ``lossy`` says which values may not survive the
    way there and back, "" where all do: rollback looks at them first. ``of_position`` says that the steps tell
    where a sequence stands (or that it was never asked), which is another place on every copy of the database.
    ``detaches`` are the statements after which tables that would be dropped are alone, and can be moved away.
    """

    statement: Statement
    steps: tuple[SafeStep, ...]
    because: str = ""
    differs: tuple[str, ...] = ()
    keeps: tuple[Keep, ...] = ()
    of_rows: bool = False
    lossy: str = ""
    of_position: bool = False
    detaches: tuple[str, ...] = ()

    def filled_after(self, step: SafeStep) -> tuple[Keep, ...]:
        """Return the kept columns whose values are filled back right after a step."""
        _, _, told = step.says.partition(FILLED_AFTER)
        return tuple(keep for keep in self.keeps if keep.kind == "column" and told == f" {column_label(keep)}.")


def column_label(keep: Keep) -> str:
    """Return what a captured column is named by."""
    return f"{keep.table}.{keep.column}"
