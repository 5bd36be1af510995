"""The inverse of a statement and of a migration, as the plan and the database store it; for prepare to rollback."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from pgrunbook.plan.declared import Declared
from pgrunbook.plan.step import Gate, Keep, SafeStep
from pgrunbook.sql.classify import Policy
from pgrunbook.sql.deparse import changed, parsed, printed
from pgrunbook.sql.statements import Statement

IRREVERSIBLE_HOW = (
    "Write a down script beside the migration, or rewrite the statement so that it has an inverse. Or accept that "
)
LEAVES_HOW = "Accept that these tables differ after a rollback, or write a down script beside the migration."
LOST_AFTER_POINT = "a restore loses whatever was written after the restore point."
LOST_AFTER_BACKUP = "only a backup of yours or your provider's leads back, without what was written after it."


# The text of a statement: one object wherever it is read, for it may have many megabytes.
SqlText = Annotated[str, AfterValidator(sys.intern)]


class Frozen(BaseModel):
    """A part of the plan: it refuses unknown fields, and never changes once it is made."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class BackStep(Frozen):
    """A plain statement of an inverse, and which captured columns (by index in ``keeps``) are reverted after it."""

    sql: SqlText
    says: str
    policy: Policy
    done: str | None = None
    fills: tuple[int, ...] = ()


class Back(Frozen):
    """The inverse of one statement, valid right after the statement has run: see :class:`Undo`.

    Where ``look_again`` is set, it is computed again on the target right before the statement is executed:
    it depends on the value of a sequence, or the branch words it differently. With ``by_script`` the whole migration is
    taken back by its own down script, and this inverse is for a migration that stops half way. ``position`` is that of
    the first column that it adds to a table again, 0 where it adds none. Without ``fires_triggers``, those of the
    application are silent while captured rows and values are reverted: prepare has found that so all is equal.
    ``own`` are the steps of the safe form's own way back, executed as they are, in place of ``steps``; ``own_cleanup``
    is the cleanup of these.
    """

    steps: tuple[BackStep, ...] = ()
    because: str = ""
    differs: tuple[Declared, ...] = ()
    keeps: tuple[Keep, ...] = ()
    of_rows: bool = False
    lossy: str = ""
    look_again: bool = False
    by_script: bool = False
    position: int = 0
    fires_triggers: bool = True
    own: tuple[SafeStep, ...] = ()
    own_cleanup: tuple[str, ...] = ()

    @property
    def is_nothing(self) -> bool:
        """Whether there is nothing to take back."""
        return not (self.steps or self.because or self.of_rows or self.own)


class Proof(Frozen):
    """Whether a rehearsal took a migration up, down and up again, and how; ``differs`` lists what cannot be equal.

    ``others`` says of each other way back why it is not taken.
    ``leaves`` are the tables that hold other rows after a way back that is executed to its end.
    """

    proven: bool = False
    says: str = ""
    differs: tuple[Declared, ...] = ()
    others: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """All that is said of it, as one sentence."""
        return "; ".join([self.says, *self.others])

    def gate(self, *, restore_point: bool) -> Gate:
        """Return the gate of a migration that is not proven; a run may make no ``restore_point`` before it."""
        if not self.leaves:
            return irreversible(self.told, restore_point=restore_point)
        says = f"its way back leaves other rows than there were before: {'; '.join([*self.leaves, *self.others])}"
        return Gate("way-back-differs", says, "rollback", LEAVES_HOW)


def of_undo(undo: Undo, keeps: Sequence[Keep]) -> Back:
    """Return an inverse as the plan stores it; ``keeps`` are those of ``undo``, with the names of their side tables."""
    steps = []
    for step in undo.steps:
        fills = tuple(undo.keeps.index(keep) for keep in step.fills)
        steps.append(BackStep(sql=step.sql, says=step.says, policy=step.policy, done=step.done, fills=fills))
    return Back(
        steps=tuple(_keys_last(steps, keeps)), because=undo.because, differs=undo.differs, keeps=tuple(keeps),
        of_rows=undo.of_rows, lossy=undo.lossy, look_again=undo.of_position, position=undo.position,
    )  # fmt: skip


def _keys_last(steps: Sequence[BackStep], keeps: Sequence[Keep]) -> list[BackStep]:
    """Return steps of which those that give a key its old type follow the columns that are found by the new one.

    Of a key, all columns get their old types in one statement: each is found by all of the new ones.
    """
    mine = [step for step in steps if step.fills and keeps[step.fills[0]].is_own_key]
    tables = {keeps[step.fills[0]].table for step in mine}
    others = [step for step in steps if step.fills and step not in mine and keeps[step.fills[0]].table in tables]
    if len(mine) == 1 and not others:
        return list(steps)
    found = [step for step in steps if step not in mine[1:] and step not in others]
    if mine:
        place = found.index(mine[0])
        found[place : place + 1] = [*others, _merged(mine)]
    return found


def _merged(steps: Sequence[BackStep]) -> BackStep:
    nodes = [parsed(step.sql) for step in steps]
    whole = printed(changed(nodes[0], cmds=tuple(cmd for node in nodes for cmd in node.cmds)))
    return steps[0].model_copy(update={"sql": whole, "fills": tuple(place for step in steps for place in step.fills)})


def irreversible(reason: str, *, restore_point: bool) -> Gate:
    """Return the gate of a migration without a proven way back; a run may make no ``restore_point`` before it."""
    only = "only the restore point leads back" if restore_point else "no restore point leads back"
    says = f"irreversible: after this, {only} ({reason.rstrip('.')})"
    how = IRREVERSIBLE_HOW + (LOST_AFTER_POINT if restore_point else LOST_AFTER_BACKUP)
    return Gate("irreversible", says, "restore", how)


@dataclass(frozen=True)
class Undo:
    """The inverse of one statement, valid right after the statement has run.

    ``steps`` are plain statements, in order; without steps, ``because`` and rows there is nothing to take back.
    ``because`` is the sentence that says why there is no inverse, "" where there is one. ``differs`` lists what
    cannot be equal afterwards. ``lossy`` says which values may be lost on the way up and down, "" where none are:
    rollback checks them first. ``of_position`` says that the steps depend on the value of a sequence (or on its
    never having been used), which is different on every copy of the database. ``detaches`` are the statements after
    which nothing depends on the tables that would be dropped, so that they can be parked. ``position`` is as in
    :class:`Back`.
    """

    statement: Statement
    steps: tuple[SafeStep, ...]
    because: str = ""
    differs: tuple[Declared, ...] = ()
    keeps: tuple[Keep, ...] = ()
    of_rows: bool = False
    lossy: str = ""
    of_position: bool = False
    detaches: tuple[str, ...] = ()
    position: int = 0


def column_label(keep: Keep) -> str:
    """Return the name of a captured column: table.column."""
    return f"{keep.table}.{keep.column}"
