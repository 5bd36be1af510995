"""What the subcommands of one ALTER TABLE share: the table, its family, its columns, and the way back in phases."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from functools import cached_property
from typing import Any

from pgrunbook.inverse.reader import Column, Reader, Relation, RelationOptions
from pgrunbook.inverse.way import Way


class Phase(IntEnum):
    """The order on the way back; within a phase the last subcommand is taken back first."""

    AWAY = 0
    TYPES = 1
    COLUMNS_AWAY = 2
    NOT_NULL = 3
    BACK = 4
    PROPERTIES = 5


class Alteration:
    """A relation that ALTER TABLE (or INDEX, VIEW ...) is about, and what is written for its subcommands."""

    def __init__(self, reader: Reader, relation: Relation, node: Any) -> None:
        self.reader, self.relation, self.node = reader, relation, node
        self.only = not node.relation.inh
        self._ways: list[tuple[Phase, Way]] = []
        self.names_taken: set[str] = set()

    @property
    def sql(self) -> str:
        """The relation's name."""
        return self.relation.sql

    @property
    def alter(self) -> str:
        """The words before a subcommand."""
        return f"ALTER {self.relation.word} {self.relation.sql}"

    @cached_property
    def family(self) -> list[int]:
        """The table and those below that the statement reaches."""
        return self.reader.family(self.relation, only=self.only)

    @cached_property
    def columns(self) -> dict[int, dict[str, Column]]:
        """The columns of the family's tables by name."""
        found: dict[int, dict[str, Column]] = {oid: {} for oid in self.family}
        for column in self.reader.columns(self.family):
            found[column.relation][column.name] = column
        return found

    @cached_property
    def whole(self) -> RelationOptions:
        """What ALTER can say of the relation as a whole."""
        return self.reader.whole(self.relation)

    @cached_property
    def constraints(self) -> list[dict[str, Any]]:
        """The constraints of the family's tables."""
        return self.reader.rows("constraints", oids=self.family, types=[])

    def column(self, name: str) -> Column | None:
        """Return a column of the table itself."""
        return self.columns[self.relation.oid].get(name)

    def below(self, name: str) -> list[Column]:
        """Return the columns of that name in the tables below."""
        return [self.columns[oid][name] for oid in self.family[1:] if name in self.columns[oid]]

    def way(self, phase: Phase) -> Way:
        """Return a new piece of the way back."""
        piece = Way()
        self._ways.append((phase, piece))
        return piece

    def add(self, phase: Phase, told: str) -> None:
        """Take one subcommand back by another."""
        self.way(phase).add(f"{self.alter} {told}")

    def everywhere(self, phase: Phase, name: str, statement: Callable[[Column], str]) -> None:
        """Set a property of a column to what it is now, also below, where it may be another."""
        column, way = self.column(name), self.way(phase)
        if column is None:
            return
        told = statement(column)
        way.add(told if self.only or len(self.family) == 1 else told.replace("ALTER TABLE ONLY ", "ALTER TABLE ", 1))
        for other in self.below(name):
            if statement(other).partition(" ALTER COLUMN ")[2] != told.partition(" ALTER COLUMN ")[2]:
                way.add(statement(other))

    def follow(self, way: Way) -> None:
        """Write everything, in the order of the way back."""
        places = sorted(range(len(self._ways)), key=lambda place: (self._ways[place][0], -place))
        for place in places:
            way.follow(self._ways[place][1])
