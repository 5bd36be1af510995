"""The model of a table: relations with their columns, keys and indexes, as the catalog has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import rows
from pgrunbook.sql.tree import quoted


@dataclass(frozen=True)
class Relation:
    """A relation; ``kind`` is pg_class.relkind, ``persistence`` pg_class.relpersistence."""

    oid: int
    schema: str
    name: str
    kind: str = "r"
    persistence: str = "p"
    owner: str = ""
    row_security: bool = False
    forces_row_security: bool = False
    is_partition: bool = False
    is_populated: bool = True
    has_children: bool = False
    has_rules: bool = False
    is_own: bool = True

    @property
    def is_partitioned(self) -> bool:
        """Whether it is a partitioned table."""
        return self.kind == "p"

    @property
    def is_temporary(self) -> bool:
        """Whether it is a temporary table."""
        return self.persistence == "t"

    @property
    def inherits_down(self) -> bool:
        """Whether tables inherit from it without being its partitions."""
        return self.has_children and not self.is_partitioned

    @property
    def label(self) -> str:
        """The name as SQL needs it, in quotes only where they are needed."""
        return f"{quoted(self.schema)}.{quoted(self.name)}" if self.schema else quoted(self.name)

    @property
    def word(self) -> str:
        """The word for it in ALTER and DROP."""
        words = {"v": "VIEW", "m": "MATERIALIZED VIEW", "S": "SEQUENCE", "f": "FOREIGN TABLE", "c": "TYPE"}
        return "INDEX" if self.kind in "iI" else words.get(self.kind, "TABLE")

    @property
    def identifier(self) -> sql.Identifier:
        """The name for composed SQL."""
        return sql.Identifier(self.schema, self.name)

    @property
    def sql(self) -> str:
        """The quoted, qualified name."""
        return self.identifier.as_string(None)


@dataclass(frozen=True)
class Partition(Relation):
    """A table somewhere below a partitioned table."""

    parent: int = 0
    is_leaf: bool = True


@dataclass(frozen=True)
class Column:
    """A column; ``table`` is its relation's name as SQL needs it, ``kind`` the relation's.

    ``base`` is the internal name of its type below domains, ``modifiers`` the parameters of that (see ``modifiers``);
    ``type_name`` and ``base_name`` are the internal names, with their schemas, of the type and of that below domains.
    ``base_kind``, ``base_category`` and ``base_bytes`` are typtype, typcategory and typlen of that, ``send`` is the
    function that gives its binary form; with ``has_own_form`` that may hold OIDs, which change when the type is made
    anew.
    ``type_oid`` is 0 for one that a statement gives.
    ``own_collation`` is None where it is the type's. ``not_null_name`` is that of the NOT NULL constraint, None before
    PostgreSQL 18; ``proven_not_null`` is whether a CHECK holds for a column without a valid one. ``expression`` is the
    default, or generates it; ``expression_is_new`` says that a statement has set it. ``sequence`` is the OID of an
    identity's. ``number`` is the server's, and stays when the column is renamed; below 0 for one that a statement adds.
    """

    name: str
    type: str
    base: str = ""
    modifiers: tuple[int, ...] = ()
    checked: bool = False
    type_oid: int = 0
    type_name: str = ""
    base_name: str = ""
    base_kind: str = "b"
    base_category: str = ""
    base_bytes: int = -1
    has_own_form: bool = False
    send: str | None = None
    relation: int = 0
    table: str = ""
    kind: str = "r"
    number: int = 0
    is_last: bool = True
    collation: str | None = None
    own_collation: str | None = None
    not_null: bool = False
    not_null_name: str | None = None
    not_null_valid: bool = False
    proven_not_null: bool = False
    expression: str | None = None
    expression_is_new: bool = False
    generated: str = ""
    identity: str | None = None
    storage: str = ""
    storage_is_default: bool = True
    compression: str = "default"
    statistics: int = -1
    options: tuple[str, ...] = ()
    foreign_options: tuple[str, ...] = ()
    is_inherited: bool = False
    parents: int = 0
    is_local: bool = True
    sequence: int | None = None

    @property
    def sql(self) -> str:
        """The name as SQL needs it."""
        return quoted(self.name)

    @property
    def compared_type(self) -> str:
        """The type by which its values are compared, as SQL needs it: that below a domain."""
        if self.type_name == self.base_name:
            return self.type
        base = ".".join(map(quoted, self.base_name.split(".", 1)))
        return f"{base}({', '.join(map(str, self.modifiers))})" if self.modifiers else base

    @property
    def default(self) -> str | None:
        """The default, None when it has none or is generated."""
        return None if self.generated else self.expression


@dataclass(frozen=True)
class CatalogConstraint:
    """A constraint; ``kind`` as in pg_constraint (c, f, n, p, u, x), ``partner`` is what a foreign key refers to.

    ``partner_index`` is the unique index there on which a foreign key depends.
    ``oid`` is 0 for one that a statement adds; ``numbers`` are those of its columns.
    """

    name: str
    kind: str
    columns: tuple[str, ...] = ()
    valid: bool = True
    definition: str = ""
    partner: tuple[str, str] | None = None
    partner_columns: tuple[str, ...] = ()
    partner_index: str | None = None
    on_delete: str = "a"
    index: str | None = None
    oid: int = 0
    relation: int = 0
    numbers: tuple[int, ...] = ()
    deferrable: bool = False
    deferred: bool = False
    enforced: bool = True
    is_local: bool = True
    is_inherited: bool = False
    no_inherit: bool = False

    @property
    def sql(self) -> str:
        """The name as SQL needs it."""
        return quoted(self.name)


@dataclass(frozen=True)
class TypeFact:
    """A type that statements name; ``base`` is the type below a domain, ``checked`` whether it has conditions.

    ``oid`` is 0 for one that a statement makes; then ``labels`` are those of an enum. ``domains`` are the OIDs of a
    domain and of those over it.
    """

    kind: str
    base: str
    modifiers: tuple[int, ...]
    checked: bool
    base_name: str = ""
    collation: str | None = None
    oid: int = 0
    labels: tuple[str, ...] | None = None
    domains: tuple[int, ...] = ()


@dataclass(frozen=True)
class UniqueKey:
    """A unique index by which rows are told apart; types are those below domains, "" stands for no collation.

    A loop can go through the rows by one that ``is_ordered``; ``operators`` are those for equality.
    """

    relation: int
    columns: tuple[str, ...]
    types: tuple[str, ...]
    collations: tuple[str, ...]
    operators: tuple[str, ...]
    is_ordered: bool
    is_deferrable: bool


@dataclass(frozen=True)
class Index:
    """An index; "" in ``keys`` is an expression, ``uses`` are all columns that it depends on.

    ``constraint_name`` is that of a key or an exclusion; ``plain`` is an index of all rows by columns alone.
    """

    schema: str
    name: str
    keys: tuple[str, ...]
    uses: frozenset[str]
    unique: bool = False
    primary: bool = False
    valid: bool = True
    plain: bool = True
    partial: bool = False
    is_exclusion: bool = False
    is_partitioned: bool = False
    is_partition: bool = False
    constraint_name: str | None = None
    method: str = "btree"
    definition: str = ""
    bytes: int = 0
    scans: int = 0
    oid: int = 0
    relation: int = 0

    @property
    def label(self) -> str:
        """The name as SQL needs it."""
        return f"{quoted(self.schema)}.{quoted(self.name)}" if self.schema else quoted(self.name)


# How much of a type's modifier is the length of a value's header, where the modifier counts it.
_HEADER = 4


def modifiers(base: str, modifier: int) -> tuple[int, ...]:
    """Return the parameters of a type, as (50,) for varchar(50); () where it has none."""
    if modifier < 0:
        return ()
    match base:
        case "varchar" | "bpchar" | "_varchar" | "_bpchar":
            return (modifier - _HEADER,)
        case "numeric" | "_numeric":
            packed = modifier - _HEADER
            return (packed >> 16 & 0xFFFF, ((packed & 0x7FF) ^ 1024) - 1024)
        case "interval":
            precision = modifier & 0xFFFF
            return (modifier >> 16, *(() if precision == 0xFFFF else (precision,)))
        case _:
            return (modifier,)


def column(row: Mapping[str, Any]) -> Column:
    """Return the column of a row of the query ``columns``."""
    given = _frozen(row)
    return Column(modifiers=modifiers(row["base"], given.pop("modifier")), **given)


def types_of(
    conn: Connection, names: Iterable[str] = (), oids: Iterable[int | None] = ()
) -> dict[tuple[str, str], TypeFact]:
    """Return the types of these names, in whatever schema, and OIDs, by schema and name."""
    found = {}
    for row in map(_frozen, rows(conn, "relations", "types", names=list(names), oids=list(oids))):
        key = (row.pop("schema"), row.pop("name"))
        parameters = modifiers(row["base"], row.pop("modifier"))
        found[key] = TypeFact(modifiers=parameters, **row)
    return found


def relation_of(conn: Connection, oid: int) -> Relation:
    """Return the relation with an OID."""
    return Relation(**rows(conn, "relations", "relation", oid=oid, name=None, path=[])[0])


def columns_of(conn: Connection, oids: Iterable[int], *, locks: bool = True) -> dict[int, dict[str, Column]]:
    """Return the columns of relations by OID and name, in their order.

    Without ``locks`` the expressions of generated columns are left out, and no table is locked.

    Locks: AccessShareLock on tables with generated columns.
    """
    found: dict[int, dict[str, Column]] = {oid: {} for oid in oids}
    for row in rows(conn, "relations", "columns", oids=list(found), locks=locks):
        found[row["relation"]][row["name"]] = column(row)
    return found


def index(row: Mapping[str, Any]) -> Index:
    """Return the index of a row of the query ``indexes``."""
    return Index(**{**_frozen(row), "uses": frozenset(row["uses"])})


def indexes_of(
    conn: Connection, oids: Iterable[int] = (), indexes: Iterable[int | None] = (), *, locks: bool = True
) -> dict[int, list[Index]]:
    """Return the indexes of relations by the OID of these, and others by their own OIDs.

    Without ``locks`` their definitions and sizes are left out, and no table is locked.

    Locks: AccessShareLock on the tables and indexes.
    """
    found: dict[int, list[Index]] = {oid: [] for oid in oids}
    for row in rows(conn, "relations", "indexes", oids=list(found), indexes=list(indexes), locks=locks):
        found.setdefault(row["relation"], []).append(index(row))
    return found


def constraint(row: Mapping[str, Any]) -> CatalogConstraint:
    """Return the constraint of a row of the query ``constraints``."""
    given = _frozen(row)
    partner = (given.pop("partner_schema"), given.pop("partner_name"))
    return CatalogConstraint(partner=partner if partner[1] else None, **given)


def constraints_of(conn: Connection, oids: Iterable[int], *, locks: bool = True) -> dict[int, list[CatalogConstraint]]:
    """Return the constraints of tables by the OID of these.

    Without ``locks`` their definitions are left out, and no table is locked.

    Locks: AccessShareLock on tables with a CHECK.
    """
    found: dict[int, list[CatalogConstraint]] = {oid: [] for oid in oids}
    for row in rows(conn, "relations", "constraints", oids=list(found), types=[], locks=locks):
        found[row["relation"]].append(constraint(row))
    return found


def keys_of(conn: Connection, oids: Iterable[int]) -> dict[int, list[UniqueKey]]:
    """Return the keys of tables by the OID of these, the best first, [] where a table has none."""
    found: dict[int, list[UniqueKey]] = {oid: [] for oid in oids}
    for row in rows(conn, "relations", "keys", oids=list(found)):
        found[row["relation"]].append(unique_key(row))
    return found


def foreign_partition_keys(conn: Connection, oids: Iterable[int]) -> dict[int, str]:
    """Return, by OID, the partition keys as SQL of partitioned tables whose key needs objects of the application."""
    return {row["relation"]: row["sql"] for row in rows(conn, "relations", "foreign_partition_keys", oids=list(oids))}


def unique_key(row: Mapping[str, Any]) -> UniqueKey:
    """Return the key of a row of the query ``keys``."""
    return UniqueKey(**_frozen(row))


def _frozen(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
