"""The interface of safe forms: the case that one judges, and its memory of earlier statements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pgrunbook.database.facts import Facts
from pgrunbook.database.open_swaps import OpenSwap
from pgrunbook.database.shadows import Shadow
from pgrunbook.plan.step import Expansion
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
    ``shadows`` are the columns that live beside another until contract, also by earlier statements of the release;
    ``swaps`` are those that are not ended.
    With ``is_off`` the statement's safe form is switched off; ``is_back`` says that a migration is taken back.
    """

    statement: Statement
    node: Any
    facts: Facts
    memory: Memory = field(default_factory=Memory)
    batch_rows: int = 1_000
    is_branch: bool = False
    shadows: tuple[Shadow, ...] = ()
    swaps: tuple[OpenSwap, ...] = ()
    is_off: bool = False
    is_back: bool = False


# A safe form: what is executed in place of a statement on this database, None where the form is not for that. It
# changes nothing in the database.
Form = Callable[[Case], Expansion | None]
