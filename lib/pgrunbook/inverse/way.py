"""An inverse while it is written: its steps, what to capture for it, and what it cannot bring back."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from pgrunbook.display.prose import listed
from pgrunbook.plan.declared import Declared
from pgrunbook.plan.step import Keep, SafeStep
from pgrunbook.plan.way_back import Undo, column_label
from pgrunbook.sql.classify import Policy
from pgrunbook.sql.statements import Statement


class NoInverseError(Exception):
    """A statement has no inverse; the text says why, and follows "It"."""


@dataclass
class Way:
    """The parts of an inverse; see :class:`Undo`."""

    steps: list[SafeStep] = field(default_factory=list)
    differs: list[Declared] = field(default_factory=list)
    keeps: list[Keep] = field(default_factory=list)
    lossy: list[str] = field(default_factory=list)
    of_rows: bool = False
    of_position: bool = False
    detaches: list[str] = field(default_factory=list)
    position: int = 0

    def add(self, sql: str, says: str = "") -> bool:
        """Add a statement that can run in a transaction, unless it repeats the last one; say whether it was."""
        is_new = all(step.sql != sql or step.policy is Policy.ALONE for step in self.steps[-1:])
        if is_new:
            self.steps.append(SafeStep(sql, says or "The old state is set again.", own_transaction=False, quick=False))
        return is_new

    def alone(self, sql: str, says: str, done: str | None = None) -> None:
        """Add a statement that cannot run in a transaction."""
        self.steps.append(SafeStep(sql, says, Policy.ALONE, own_transaction=True, quick=False, done=done))

    def filled(self, sql: str, says: str, *keeps: Keep) -> None:
        """Add a statement after which captured values are written back, of a table and of its children."""
        labels = listed([column_label(keep) for keep in keeps])
        says = f"{says} The captured values of {labels} are reverted after this step."
        if self.add(sql, says):
            self.steps[-1] = replace(self.steps[-1], fills=keeps)
        self.keeps += keeps

    def follow(self, other: Way) -> None:
        """Append another inverse."""
        for name in ("steps", "differs", "keeps", "lossy", "detaches"):
            mine, theirs = getattr(self, name), getattr(other, name)
            mine.extend(part for part in theirs if name == "steps" or part not in mine)
        self.of_rows = self.of_rows or other.of_rows
        self.of_position = self.of_position or other.of_position
        self.position = self.position or other.position

    def undo(self, statement: Statement) -> Undo:
        """Return the inverse of a statement."""
        return Undo(
            statement,
            tuple(self.steps),
            differs=tuple(dict.fromkeys(self.differs)),
            keeps=tuple(dict.fromkeys(self.keeps)),
            of_rows=self.of_rows,
            lossy="; ".join(dict.fromkeys(self.lossy)),
            of_position=self.of_position,
            detaches=tuple(dict.fromkeys(self.detaches)),
            position=self.position,
        )


def own_beside_inherited(what: str, relation: str) -> Declared:
    """Return the difference of a child table's columns or constraints that become its own."""
    return Declared("locality", relation, f"{what} of {relation} are its own, beside being inherited")
