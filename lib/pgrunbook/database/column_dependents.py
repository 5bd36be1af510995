"""What hangs on a column: indexes, constraints, sequences, statistics, rights, comments; for a change of type.

Definitions are texts of the server with all names in full, so that they can be executed for another column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pgrunbook.database import publications
from pgrunbook.database.connection import Connection
from pgrunbook.database.publications import Publication
from pgrunbook.database.queries import rows
from pgrunbook.database.relations import Column, Relation

T = TypeVar("T")
_MODULE = "column_dependents"


@dataclass(frozen=True)
class IndexOn:
    """An index that uses the column; ``constraint_kind`` is p or u where it is a constraint's, None where not.

    ``checked_late`` is what is said of a key that may be checked at the end of a transaction, "" of any other.
    ``parent`` is the OID of the partitioned index that it is part of, 0 where it is part of none; ``plain_name`` is
    then the name that the server gives it when it is built again with that.
    """

    schema: str
    name: str
    definition: str
    tablespace: str | None
    constraint_kind: str | None
    is_replica_identity: bool
    is_clustered: bool
    comment: str | None
    constraint_comment: str | None
    checked_late: str = ""
    constraint_definition: str | None = None
    oid: int = 0
    parent: int = 0
    plain_name: str = ""


@dataclass(frozen=True)
class ConstraintOn:
    """A CHECK (kind c) or foreign key (f), of the table or of one that refers to it.

    ``parent`` is the OID of the foreign key of which PostgreSQL made it a copy, for partitions; 0 where it is none.
    """

    name: str
    kind: str
    definition: str
    is_valid: bool
    schema: str
    table: str
    partner_schema: str | None
    partner_table: str | None
    comment: str | None
    oid: int = 0
    parent: int = 0
    is_inherited: bool = False

    @property
    def is_own(self) -> bool:
        """Whether the table has it by itself, and not from a partitioned table above."""
        return not self.parent and not self.is_inherited


@dataclass(frozen=True)
class StatisticsOn:
    """A statistics object; ``target`` is -1 for the default."""

    schema: str
    name: str
    definition: str
    target: int
    comment: str | None


@dataclass(frozen=True)
class SequenceOn:
    """A sequence that the column owns, as serial does, or that is its identity."""

    schema: str
    name: str
    is_identity: bool
    type: str
    start: int
    increment: int
    least: int
    most: int
    cache: int
    cycles: bool
    comment: str | None


@dataclass(frozen=True)
class GrantOn:
    """A right on the column, or with ``sequence``, on the sequence of its identity."""

    sequence: str
    privilege: str
    grantee: str
    is_grantable: bool
    is_owners: bool


@dataclass(frozen=True)
class ColumnDependents:
    """All that hangs on a column; ``publications`` are those that send its table, whether they send it or not.

    ``is_not_null_proven`` is False where its NOT NULL is NOT VALID.
    """

    column: Column
    indexes: tuple[IndexOn, ...]
    constraints: tuple[ConstraintOn, ...]
    statistics: tuple[StatisticsOn, ...]
    sequences: tuple[SequenceOn, ...]
    grants: tuple[GrantOn, ...]
    comment: str | None
    publications: tuple[Publication, ...] = ()
    is_not_null_proven: bool = True

    @property
    def is_published(self) -> bool:
        """Whether a publication sends the column, or looks at it."""
        return any(one.sends(self.column.name) for one in self.publications)


def refused(conn: Connection, table: Relation, column: str, *, last: str, below: Sequence[Relation] = ()) -> list[str]:
    """Return why a column or what hangs on it cannot be carried over, [] where all of it can.

    ``below`` are the partitions of the table. ``last`` is the name of the trigger behind which no trigger BEFORE of the
    application may fire.
    """
    family, found = [one.oid for one in (table, *below)], []
    for one in (table, *below):
        where = "" if one is table else f"partition {one.label}: "
        found += [where + row["why"] for row in _rows(conn, "refused", one, column, last=last, family=family)]
        if table.is_partitioned:
            sent = publications.of_table(conn, one)
            found += [f"{where}publication {each.sql} would send the other column, too" for each in sent]
    return found if table.is_partitioned else [*found, *publications.obstacles(conn, table, column)]


def read(conn: Connection, table: Relation, column: Column) -> ColumnDependents:
    """Return what hangs on a column. Locks: AccessShareLock on the table."""

    def all_of(made: type[T], query: str) -> tuple[T, ...]:
        return tuple(made(**row) for row in _rows(conn, query, table, column.name))

    (told,) = _rows(conn, "told", table, column.name)
    return ColumnDependents(
        column, all_of(IndexOn, "indexes"), all_of(ConstraintOn, "constraints"), all_of(StatisticsOn, "statistics"),
        all_of(SequenceOn, "sequences"), all_of(GrantOn, "grants"), told["comment"],
        tuple(publications.of_table(conn, table)), told["is_not_null_proven"],
    )  # fmt: skip


def is_steady(conn: Connection, source: int, made: int) -> bool:
    """Tell whether the cast of one type to another (OIDs) is known to depend on no setting."""
    found = rows(conn, _MODULE, "conversion", source=source, made=made)
    return bool(found and found[0]["is_steady"])


def _rows(conn: Connection, query: str, table: Relation, column: str, **more: object) -> list[dict[str, Any]]:
    return rows(conn, _MODULE, query, table=table.oid, column=column, **more)
