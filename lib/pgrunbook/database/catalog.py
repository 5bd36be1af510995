"""Catalog facts for the review of statements: sizes, uses and dependencies of the relations that they touch.

``catalog_reader.read`` reads them once for all statements. ``UNKNOWN`` stands for a database that cannot be asked:
every table counts as large and busy. ``effects.catalog_after`` gives the catalog after a statement has run.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any

from pgrunbook.database.relations import CatalogConstraint, Column, Index, Relation, TypeFact
from pgrunbook.database.routines import RoutinePart, Routines
from pgrunbook.sql.tree import Name, Same

SMALL_ROWS = 10_000
SMALL_BYTES = 8 * 1024 * 1024
VIEW_BY_KEY = "view by key"

Key = tuple[str, str]


class Standing(Enum):
    """Whether a relation is in the database, created by an earlier statement, missing, or not known."""

    THERE = "there"
    NEW = "new"
    MISSING = "missing"
    UNKNOWN = "unknown"


class Weight(Enum):
    """What holding a lock on a table, or reading it, costs others."""

    NOTHING = "new or empty"
    SMALL = "small"
    BIG = "big, or of unknown size"


@dataclass(frozen=True)
class Dependent:
    """A view, trigger, policy, publication ...; () in ``columns`` means the relation as a whole.

    ``type`` is that of a sequence. A "view by key" stands only as long as the primary key, whose name ``type`` is: it
    groups by that.
    """

    kind: str
    name: str
    columns: tuple[str, ...] = ()
    type: str = ""


@dataclass(frozen=True)
class Source:
    """A relation that a view's query names: with the tables below it, in FROM of the query itself."""

    relation: Key
    with_children: bool
    in_from: bool


@dataclass(frozen=True)
class Table(Relation):
    """A relation (table, partition, view, materialized view, sequence ...) and what depends on it.

    ``rows_estimate`` is None where it is not known; ``reads`` and ``writes`` count since the statistics were reset.
    ``sources`` are what a view's query names; ``of_type`` is the composite type of a typed table. ``oid`` is 0 for one
    that a statement makes.
    """

    standing: Standing = Standing.THERE
    rows_estimate: int | None = None
    table_bytes: int = 0
    columns: Mapping[str, Column] = field(default_factory=dict)
    indexes: tuple[Index, ...] = ()
    constraints: tuple[CatalogConstraint, ...] = ()
    dependents: tuple[Dependent, ...] = ()
    parents: tuple[Key, ...] = ()
    children: tuple[Key, ...] = ()
    bound: str | None = None
    partition_key: str = ""
    of_type: str | None = None
    method: str | None = None
    tablespace: str | None = None
    sources: tuple[Source, ...] = ()
    reads: int = 0
    writes: int = 0
    vacuumed_at: datetime | None = None

    @property
    def key(self) -> Key:
        """Schema and name."""
        return (self.schema, self.name)

    @property
    def index_bytes(self) -> int:
        """The size of all indexes."""
        return sum(index.bytes for index in self.indexes)

    @property
    def holds_rows_itself(self) -> bool:
        """Whether it has a heap: a table, partition or materialized view."""
        return self.kind in ("r", "m")

    @property
    def weight(self) -> Weight:
        """What a lock or a scan costs others, for this relation alone (:meth:`Catalog.weight` adds partitions)."""
        if self.standing in (Standing.NEW, Standing.MISSING) or self.rows_estimate == 0:
            return Weight.NOTHING
        if self.standing is Standing.UNKNOWN or self.rows_estimate is None:
            return Weight.BIG
        small = self.rows_estimate <= SMALL_ROWS and self.table_bytes <= SMALL_BYTES
        return Weight.SMALL if small else Weight.BIG

    def foreign_keys(self) -> Iterator[CatalogConstraint]:
        """Yield the foreign keys of the table itself."""
        return (constraint for constraint in self.constraints if constraint.kind == "f")

    def of_kind(self, *kinds: str) -> Iterator[Dependent]:
        """Yield the dependents of these kinds."""
        return (dependent for dependent in self.dependents if dependent.kind in kinds)


@dataclass(frozen=True)
class Fallen:
    """What falls with an object that is dropped, in the server's words, and the OID of the relation locked for it.

    ``hinders`` says that it falls with CASCADE only, and that the server refuses the DROP without. ``part`` is
    "relation", "column", "default", "constraint" or "index", "" for anything else; ``name`` is that of the part.
    """

    says: str
    relation: int | None
    mode: str
    hinders: bool
    part: str = ""
    name: str = ""


@dataclass(frozen=True)
class Use:
    """A statement that the server has counted, as pg_stat_statements words it."""

    query: str
    calls: int


@dataclass(frozen=True)
class Catalog:
    """What is known of a database; ``connected`` is false where no database was read."""

    connected: bool = False
    major: int | None = None
    role: str = ""
    time_zone: str | None = None
    search_path: tuple[str, ...] = ("public",)
    tables: Mapping[Key, Table] = field(default_factory=lambda: MappingProxyType({}))
    types: Mapping[Key, TypeFact] = field(default_factory=dict)
    binary_casts: Set[tuple[str, str]] = frozenset()
    ordered_as: Mapping[str, str] = field(default_factory=dict)
    fallen: Mapping[str, tuple[Fallen, ...]] = field(default_factory=dict)
    volatile_functions: Mapping[str, bool] = field(default_factory=dict)
    routines: Routines = field(default_factory=Routines)
    uses: tuple[Use, ...] = ()
    uses_known: bool = False

    def find(self, name: Name) -> Table:
        """Return the relation with that name, found by the search path; its ``standing`` says whether it exists."""
        # Where nobody was asked, a name without schema lies in "", which stands for the default one.
        schemas = [name.schema] if name.schema else ["", *self.search_path]
        if not self.connected and name.schema in self.search_path:
            schemas.append("")
        for schema in schemas:
            if (schema, name.name) in self.tables:
                return self.tables[schema, name.name]
        if not self.connected:
            return Table(0, name.schema or "", name.name, standing=Standing.UNKNOWN)
        schema = name.schema or next((s for s in self.search_path if s != "pg_catalog"), "public")
        return Table(0, schema, name.name, standing=Standing.MISSING)

    def type_named(self, schema: str | None, name: str) -> tuple[str, TypeFact | None]:
        """Return the schema of the type that a name means, and what is known of it; None where nothing is."""
        for one in [schema] if schema else self.search_path:
            if (one, name) in self.types:
                return one, self.types[one, name]
        return schema or "pg_catalog", None

    def of_type(self, name: Name) -> list[Table]:
        """Return the tables that are made of a composite type."""
        labels = [str(name), *(f"{schema}.{name}" for schema in self.search_path)]
        return [table for table in self.tables.values() if table.of_type in labels]

    def parts(self, node: Any) -> list[RoutinePart]:
        """Return what runs within a statement: in DO, in the functions that it calls, in triggers."""
        return self.routines.parts(node, self.search_path if self.connected else None)

    def at(self, key: Key) -> Table:
        """Return the relation with that schema and name."""
        return self.find(Name(key[0] or None, key[1]))

    def index(self, name: Name) -> tuple[Table, Index] | None:
        """Return the index of that name with its table, None where it is not known."""
        for table in self.tables.values():
            for index in table.indexes:
                if index.name == name.name and (name.schema is None or name.schema == index.schema):
                    return table, index
        return None

    def below(self, table: Table) -> list[Table]:
        """Return a table with its partitions and inheritance children, itself first."""
        found = {table.key: table}
        waiting = list(table.children)
        while waiting:
            child = self.at(waiting.pop())
            if child.key not in found:
                found[child.key] = child
                waiting.extend(child.children)
        return list(found.values())

    def with_partitions(self, table: Table) -> list[Table]:
        """Return a table with its partitions, but not with what inherits from it, which keys and indexes stop at."""
        return self.below(table) if table.kind == "p" else [table]

    def family(self, table: Table) -> list[Table]:
        """Return a table with all below and above it, itself first."""
        found = {member.key: member for member in self.below(table)}
        waiting = list(table.parents)
        while waiting:
            parent = self.at(waiting.pop())
            found[parent.key] = parent
            waiting.extend(parent.parents)
        return list(found.values())

    def by_oid(self, oid: int) -> Table | None:
        """Return the relation with that OID, whatever its name is by now; None once it is dropped."""
        return next((table for table in self.tables.values() if table.oid == oid), None)

    def read_by(self, view: Table) -> list[tuple[Table, Source]]:
        """Return what a view's query names, each relation with how it is named."""
        return [(self.at(source.relation), source) for source in view.sources]

    def siblings(self, table: Table) -> Iterator[Table]:
        """Yield the default partitions beside a partition, which are locked when it comes or goes."""
        for parent in (self.at(key) for key in table.parents):
            yield from (self.at(key) for key in parent.children if key != table.key and self.at(key).bound == "DEFAULT")

    def weight(self, table: Table) -> Weight:
        """Return what a lock on a table costs others, its partitions counted."""
        family = self.below(table)
        if any(member.weight is Weight.BIG for member in family):
            return Weight.BIG
        rows = sum(member.rows_estimate or 0 for member in family if member.weight is not Weight.NOTHING)
        if rows > SMALL_ROWS:
            return Weight.BIG
        return Weight.NOTHING if all(member.weight is Weight.NOTHING for member in family) else Weight.SMALL

    def rows_estimate(self, table: Table) -> int | None:
        """Return how many rows a table holds with its partitions, None where that is not known."""
        counts = [t.rows_estimate for t in self.below(table) if t.holds_rows_itself]
        return None if any(count is None for count in counts) else sum(count or 0 for count in counts)

    def bytes(self, table: Table) -> int:
        """Return the size of a table with its partitions and all their indexes."""
        return sum(member.table_bytes + member.index_bytes for member in self.below(table))

    def references_to(self, table: Table) -> list[tuple[Table, CatalogConstraint]]:
        """Return the foreign keys of other tables (and its own) that refer to a table."""
        return self._links.incoming.get(table.key, [])

    def labelled(self, label: str) -> Table | None:
        """Return the relation with that label, as effects name it; None where it is not known."""
        return self._links.by_label.get(label)

    def indexed_by(self, label: str) -> Table | None:
        """Return the table of the index with that label; None where it is not known."""
        return self._links.by_index.get(label)

    def state(self, names: Iterable[Name]) -> Hashable:
        """Return what is equal as long as reading and writing the rows of these relations does and costs the same."""
        links = self._links
        return tuple(map(links.state, map(self.find, names)))

    @property
    def _links(self) -> _Links:
        return _links(Same(self.tables))


class _Links:
    """What leads from one relation to another, and from labels to relations; for one state of the tables."""

    def __init__(self, tables: Mapping[Key, Table]) -> None:
        self._tables = tables
        self._states: dict[Key, Hashable] = {}

    @cached_property
    def by_index(self) -> dict[str, Table]:
        return {index.label: table for table in self._tables.values() for index in table.indexes}

    @cached_property
    def incoming(self) -> dict[Key, list[tuple[Table, CatalogConstraint]]]:
        found: dict[Key, list[tuple[Table, CatalogConstraint]]] = {}
        for other in self._tables.values():
            for constraint in other.foreign_keys():
                if constraint.partner is not None:
                    found.setdefault(constraint.partner, []).append((other, constraint))
        return found

    @cached_property
    def by_label(self) -> dict[str, Table]:
        return {table.label: table for table in self._tables.values()}

    def state(self, table: Table) -> Hashable:
        """Return a table with what is above and below it, what refers to it, however far, and to what it refers."""
        if table.key not in self._tables:
            return table.key
        if table.key not in self._states:
            reached: dict[Key, Same] = {}
            waiting, partners = [table.key], set[Key]()
            while waiting:
                key = waiting.pop()
                if key in self._tables and key not in reached:
                    one = self._tables[key]
                    reached[key] = Same(one)
                    waiting += (*one.parents, *one.children, *(source.relation for source in one.sources))
                    waiting += (other.key for other, _ in self.incoming.get(key, ()))
                    partners |= {constraint.partner for constraint in one.foreign_keys() if constraint.partner}
            named = (Same(self._tables[key]) for key in self._below(partners - reached.keys()))
            self._states[table.key] = frozenset((*reached.values(), *named))
        return self._states[table.key]

    def _below(self, keys: set[Key]) -> set[Key]:
        waiting, found = list(keys), set[Key]()
        while waiting:
            key = waiting.pop()
            if key in self._tables and key not in found:
                found.add(key)
                waiting += self._tables[key].children
        return found


@lru_cache(maxsize=16)
def _links(tables: Same) -> _Links:
    return _Links(tables.node)


UNKNOWN = Catalog()
