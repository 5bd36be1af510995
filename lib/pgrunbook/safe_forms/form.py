"""The interface of safe forms: the case that one judges, its memory of earlier statements, and its verbs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from pgrunbook.database.facts import Facts
from pgrunbook.plan.declared import Declared
from pgrunbook.plan.step import SafeStep
from pgrunbook.sql.statements import Statement


@dataclass
class Memory:
    """What earlier statements will have changed: taken names, by schema, and columns made NOT NULL."""

    names: dict[str, set[str]] = field(default_factory=dict)
    not_null: set[tuple[str, str]] = field(default_factory=set)

    def taken(self, schema: str) -> set[str]:
        """The names in a schema, to be read and added to."""
        return self.names.setdefault(schema, set())


@dataclass(frozen=True)
class Case:
    """A statement, its parse tree, and the database on which it is judged.

    ``is_branch`` says that this database is a branch, where the statement is executed next: it may be tried.
    """

    statement: Statement
    node: Any
    facts: Facts
    memory: Memory = field(default_factory=Memory)
    batch_rows: int = 1_000
    is_branch: bool = False


class Form(Protocol):
    """The verbs of a safe form; a form holds one case and changes nothing in the database."""

    name: str

    @classmethod
    def applies(cls, case: Case) -> bool:
        """Tell whether the form is for this statement, on this database."""

    def __init__(self, case: Case) -> None: ...

    def expand(self) -> tuple[SafeStep, ...]:
        """Return the steps, in order."""

    def cleanup(self) -> tuple[str, ...]:
        """Return queries that yield the statements which drop helper objects."""

    def explain(self) -> str:
        """Say in a sentence or two what is executed and why."""

    @property
    def differs(self) -> tuple[Declared, ...]:
        """Name the differences from the plain SQL that the form always makes."""
