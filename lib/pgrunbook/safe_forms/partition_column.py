"""One column of a partitioned table, or of one of its partitions, that takes the place of another one.

What the partitioned table has, its partitions have too: NOT NULL and the identity are put on once, above. A default is
each table's own, and is put on ONLY there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from psycopg import sql

from pgrunbook.database import column_dependents
from pgrunbook.database.column_dependents import ColumnDependents, IndexOn, SequenceOn
from pgrunbook.database.facts import Facts
from pgrunbook.database.relations import Column, Partition, Relation
from pgrunbook.safe_forms.moved_column import MovedColumn
from pgrunbook.sql import default_names
from pgrunbook.sql.deparse import alter_table, literal, name, parsed

_POSITION = ("pgrunbook.last_value", "pgrunbook.is_called")


@dataclass(frozen=True)
class PartitionColumn(MovedColumn):
    """A column as :class:`MovedColumn`; with ``is_bound`` its NOT NULL is that of the table above."""

    is_bound: bool = False

    @property
    def not_null(self) -> str | None:
        """The constraint by which the column that comes is NOT NULL, None where the table above sees to it."""
        return None if self.is_bound else super().not_null

    def taken_off(self) -> list[str]:
        """Return the statements that take default, identity and NOT NULL off the column that leaves."""
        column, quoted, found = self.on.column, name(self.column), []
        for sequence in self.on.sequences:
            found += self._identity_off(sequence) if sequence.is_identity else []
        if column.identity is None:
            found.append(self._only(f"ALTER COLUMN {quoted} DROP DEFAULT"))
        if column.not_null:  # with a primary key it is the partition's own, beside that of the table above
            found.append(self._alter(f"ALTER COLUMN {quoted} DROP NOT NULL"))
        return found

    def put_on(self) -> list[str]:
        """Return the statements that give the column that has come what the other one had."""
        found = []
        if self.not_null is not None and self._has_named_not_null:
            named = name(self.on.column.not_null_name or "")
            found.append(self._alter(f"RENAME CONSTRAINT {name(self.proves_not_null)} TO {named}"))
        elif self.not_null is not None:
            found.append(self._alter(f"ALTER COLUMN {name(self.column)} SET NOT NULL"))
            found.append(self._alter(f"DROP CONSTRAINT {name(self.proves_not_null)}"))
        if self.default is not None:
            found.append(self._only(f"ALTER COLUMN {name(self.column)} SET DEFAULT {self.default}"))
        for sequence in self.on.sequences:
            found += self._identity_on(sequence) if sequence.is_identity else self._sequence(sequence)
        return found

    def _identity_off(self, sequence: SequenceOn) -> list[str]:
        """Return the statements that drop an identity, and keep the position of its sequence for this transaction."""
        there = name(sequence.schema, sequence.name)
        last, called = (literal(setting) for setting in _POSITION)
        kept = f"pg_catalog.set_config({last}, s.last_value::pg_catalog.text, true)"
        kept += f", pg_catalog.set_config({called}, s.is_called::pg_catalog.text, true)"
        return [
            f"ALTER SEQUENCE {there} INCREMENT BY {sequence.increment}",  # its lock keeps the position as it is
            f"SELECT {kept} FROM {there} AS s",  # noqa: S608 - of quoted names
            self._alter(f"ALTER COLUMN {name(self.column)} DROP IDENTITY"),
        ]

    def _identity_on(self, sequence: SequenceOn) -> list[str]:
        position = sql.SQL(
            "SELECT pg_catalog.setval({}::pg_catalog.regclass, pg_catalog.current_setting({})::pg_catalog.int8,"
            " pg_catalog.current_setting({})::pg_catalog.bool)"
        ).format(sql.Literal(name(sequence.schema, sequence.name)), *map(sql.Literal, _POSITION))
        return [self._added_identity(sequence, sequence.name), position.as_string(None)]

    def _only(self, clause: str) -> str:
        return alter_table(self.table.identifier, clause, only=True)


@dataclass(frozen=True)
class Below:
    """A column in a partition, with what hangs on it there; ``is_bound``: its NOT NULL is that of the table above."""

    table: Partition
    on: ColumnDependents
    is_bound: bool


def below(facts: Facts, table: Relation, column: Column) -> list[Below]:
    """Return a column of a partitioned table as each table below has it, parents first; [] for any other table."""
    not_null, found = {table.oid: column.not_null}, []
    for one in facts.partitions(table):
        theirs = facts.columns(one)[column.name]
        not_null[one.oid] = theirs.not_null
        on = column_dependents.read(facts.conn, one, theirs)
        on = replace(on, indexes=tuple(_plainly_named(facts, one, on.indexes)))
        found.append(Below(one, on, not_null[one.parent]))
    return found


def _plainly_named(facts: Facts, table: Relation, on: Sequence[IndexOn]) -> Iterator[IndexOn]:
    """Yield the indexes of a partition; those that are part of another one with the name that the server chooses."""
    taken = facts.taken_names(table.schema) - {index.name for index in on if index.parent}
    for index in on:
        if index.parent:
            columns = default_names.joined_columns(default_names.index_columns(parsed(index.definition)))
            label = {"p": "pkey", "u": "key", None: "idx"}[index.constraint_kind]
            plain = default_names.free_name(table.name, "" if label == "pkey" else columns, label, taken)
            taken.add(plain)
            yield replace(index, plain_name=plain)
        else:
            yield index
