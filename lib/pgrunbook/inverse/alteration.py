"""One ALTER TABLE: its table with children and columns, and the inverse of its subcommands in phases."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from functools import cached_property
from typing import Any

from pgrunbook.database.relations import CatalogConstraint, Column, Relation
from pgrunbook.inverse.reader import Reader, RelationOptions
from pgrunbook.inverse.way import Way


class Phase(IntEnum):
    """The order of the inverse; within a phase the last subcommand is taken back first."""

    AWAY = 0
    TYPES = 1
    COLUMNS_AWAY = 2
    NOT_NULL = 3
    BACK = 4
    PROPERTIES = 5


class Alteration:
    """The relation of an ALTER TABLE (or INDEX, VIEW ...), and the inverses of its subcommands."""

    def __init__(self, reader: Reader, relation: Relation, node: Any) -> None:
        self.reader, self.relation, self.node = reader, relation, node
        self.only = not node.relation.inh
        self._ways: list[tuple[Phase, Way]] = []
        self.names_taken: set[str] = set()

    @property
    def sql(self) -> str:
        """The relation's name."""
        return self.relation.label

    @property
    def alter(self) -> str:
        """The start of the statement, before a subcommand."""
        return f"ALTER {self.relation.word} {self.relation.label}"

    @cached_property
    def family(self) -> list[int]:
        """The table and the child tables that the statement reaches."""
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
        """The properties of the relation as a whole."""
        return self.reader.whole(self.relation)

    @cached_property
    def constraints(self) -> list[CatalogConstraint]:
        """The constraints of the family's tables."""
        return self.reader.constraints(self.family)

    def column(self, name: str) -> Column | None:
        """Return a column of the table itself."""
        return self.columns[self.relation.oid].get(name)

    def below(self, name: str) -> list[Column]:
        """Return the columns of that name in the child tables."""
        return [self.columns[oid][name] for oid in self.family[1:] if name in self.columns[oid]]

    def way(self, phase: Phase) -> Way:
        """Return a new, empty part of the inverse."""
        piece = Way()
        self._ways.append((phase, piece))
        return piece

    def add(self, phase: Phase, clause: str) -> None:
        """Take one subcommand back by another."""
        self.way(phase).add(f"{self.alter} {clause}")

    def everywhere(self, phase: Phase, name: str, statement: Callable[[Column], str]) -> None:
        """Set a property of a column to its value of today, also in child tables, where it may differ."""
        column, way = self.column(name), self.way(phase)
        if column is None:
            return
        own = statement(column)
        way.add(own if self.only or len(self.family) == 1 else own.replace("ALTER TABLE ONLY ", "ALTER TABLE ", 1))
        for other in self.below(name):
            if statement(other).partition(" ALTER COLUMN ")[2] != own.partition(" ALTER COLUMN ")[2]:
                way.add(statement(other))

    def follow(self, way: Way) -> None:
        """Write all parts, in the order of the inverse."""
        places = sorted(range(len(self._ways)), key=lambda place: (self._ways[place][0], -place))
        for place in places:
            way.follow(self._ways[place][1])
