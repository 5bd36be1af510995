"""What hangs on columns that are moved together: taken off those that leave, put on those that come."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pgrunbook.database.column_dependents import ColumnDependents, ConstraintOn, IndexOn


@dataclass(frozen=True)
class Hung:
    """Indexes and constraints that hang on columns of a table."""

    indexes: tuple[IndexOn, ...] = ()
    constraints: tuple[ConstraintOn, ...] = ()

    @classmethod
    def on(cls, columns: Iterable[ColumnDependents]) -> Hung:
        """Return what hangs on one of the columns."""
        found = list(columns)
        indexes_ = {index.name: index for one in found for index in one.indexes}
        return cls(tuple(indexes_.values()), tuple(dict.fromkeys(each for one in found for each in one.constraints)))

    def beside(self, other: Hung) -> Hung:
        """Return these and others, each once."""
        indexes_ = tuple(dict.fromkeys((*self.indexes, *other.indexes)))
        return Hung(indexes_, tuple(dict.fromkeys((*self.constraints, *other.constraints))))

    def without(self, other: Hung) -> Hung:
        """Return these without others."""
        indexes_ = tuple(each for each in self.indexes if each not in other.indexes)
        return Hung(indexes_, tuple(each for each in self.constraints if each not in other.constraints))

    @property
    def ordered_indexes(self) -> list[IndexOn]:
        """The indexes, the primary key first."""
        return sorted(self.indexes, key=lambda index: (index.constraint_kind != "p", index.name))

    @property
    def ordered_constraints(self) -> list[ConstraintOn]:
        """The constraints, the CHECKs first."""
        return sorted(self.constraints, key=lambda each: (each.kind, each.schema, each.table, each.name))
