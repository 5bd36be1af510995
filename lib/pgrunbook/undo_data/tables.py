"""Tables for capture and revert: their keys, and how each column's values are captured, hashed and shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from psycopg import sql

from pgrunbook.database import queries
from pgrunbook.database.checksums import TableName
from pgrunbook.database.connection import Connection
from pgrunbook.database.relations import Column, Relation, UniqueKey, columns_of, keys_of, relation_of
from pgrunbook.errors import Broken
from pgrunbook.sql.tree import quoted

# Returns a column of a row by its name.
Row = Callable[[str], sql.Composable]

SCHEMA = "pgrunbook"
_CATALOG = "pg_catalog."
# Of a new value that is a text, only the first characters are captured, to show them; old values are whole.
SHOWN_CHARS = 100

# How a value is hashed. Types not named here are hashed in binary form: their own hash function may take different
# values for equal, or use 32 of 64 bits only (see ``database.checksums``), and the text of some depends on settings
# (TimeZone, extra_float_digits).
_AS_IT_IS = ("bool", "bytea", "date", "int4", "int2", "uuid")
_BY_CODE_POINT = ("varchar", "name", "text")
_BY_OUTPUT = ("json", "jsonb", "xml")


@dataclass(frozen=True)
class CapturedColumn(Column):
    """A column, and how its values are captured, hashed and shown."""

    @property
    def is_of_application(self) -> bool:
        """Whether its type is not one of PostgreSQL's own."""
        return not self.type_name.startswith(_CATALOG)

    @property
    def catalog_type(self) -> str:
        """The name of a type of PostgreSQL's own, whatever search_path is set."""
        return _CATALOG + quoted(self.type_name.removeprefix(_CATALOG))

    @property
    def is_small(self) -> bool:
        """Whether its values take 16 bytes at most, or are numbers."""
        return 1 <= self.base_bytes <= 16 or self.is_one_of("numeric")

    @property
    def is_word(self) -> bool:
        """Whether its values are texts."""
        return self.base_kind == "e" or self.base_category == "S"

    @property
    def is_generated(self) -> bool:
        """Whether it is computed from other columns."""
        return bool(self.generated)

    @property
    def is_identity_always(self) -> bool:
        """Whether only OVERRIDING SYSTEM VALUE gives it another value than that of its sequence."""
        return self.identity == "ALWAYS"

    def is_one_of(self, *types: str) -> bool:
        """Tell whether its type below domains is one of these of PostgreSQL's own, by their internal names."""
        return self.base_name.removeprefix(_CATALOG) in types and self.base_name.startswith(_CATALOG)

    @property
    def side_type(self) -> sql.SQL:
        """The type in a side table: text for types of the application, for side tables may not depend on them."""
        return sql.SQL("pg_catalog.text" if self.is_of_application else self.catalog_type)

    def captured(self, value: sql.Composable) -> sql.Composable:
        """Return the expression that turns a value of the column into one of the side table."""
        return as_text(value) if self.is_of_application else value

    def reverted(self, value: sql.Composable) -> sql.Composable:
        """Return the expression that turns a value of the side table into one of the column."""
        return sql.SQL("CAST({} AS {})").format(value, sql.SQL(self.type)) if self.is_of_application else value

    def in_own_type(self, value: sql.Composable) -> sql.Composable:
        """Return a value that the column takes as one of exactly its type, which a comparison of records needs."""
        return value if self.is_of_application else sql.SQL("CAST({} AS {})").format(value, self.side_type)

    def hashed(self, value: sql.Composable) -> sql.Composable:
        """Return the form in which a value goes into the hash of its row."""
        if self.is_one_of(*_AS_IT_IS):
            return value
        if self.is_one_of(*_BY_CODE_POINT):
            return sql.SQL('{} COLLATE "C"').format(value)
        if self.has_own_form or self.is_one_of(*_BY_OUTPUT) or self.send is None:
            return sql.SQL('{} COLLATE "C"').format(as_text(value))
        return sql.SQL("{}({})").format(sql.SQL(self.send), value)

    @property
    def is_written_captured(self) -> bool:
        """Whether the new value is captured too, and not only its hash: small values, and the start of texts."""
        return self.is_small or self.is_word

    @property
    def written_type(self) -> sql.SQL:
        """The type of the new value in a side table."""
        return self.side_type if self.is_small and not self.is_of_application else sql.SQL("pg_catalog.text")

    def written(self, value: sql.Composable) -> sql.Composable:
        """Return the expression for what is captured of a new value."""
        if self.is_small and not self.is_of_application:
            return value
        text = self.captured(value) if self.is_of_application else sql.SQL("{}::pg_catalog.text").format(value)
        return sql.SQL("pg_catalog.left({}, {})").format(text, sql.Literal(SHOWN_CHARS))


@dataclass(frozen=True)
class CapturedTable:
    """A table with what decides how its rows are captured; ``key`` is () when it has no unique key.

    ``keys`` are all that it has, the best first. Where ``is_key_former``, the table had that key before, and no index
    watches it. ``unsteady`` are the columns with a type of the application whose text depends on settings.
    """

    relation: Relation
    columns: dict[str, CapturedColumn]
    key: tuple[str, ...]
    operators: tuple[str, ...]
    is_key_deferrable: bool
    has_before_update: bool
    references_itself: bool
    has_deferrable_key: bool
    has_deferrable_reference: bool
    is_filtered: bool
    rows_estimate: float
    unsteady: Sequence[str] = ()
    is_key_former: bool = False
    keys: Sequence[UniqueKey] = ()

    @property
    def oid(self) -> int:
        """The table's OID."""
        return self.relation.oid

    @property
    def name(self) -> TableName:
        """The table's name."""
        return TableName(self.relation.schema, self.relation.name)

    @property
    def is_partitioned(self) -> bool:
        """Whether it is a partitioned table."""
        return self.relation.is_partitioned

    @property
    def is_own(self) -> bool:
        """Whether the session's role may do what only the table's owner may."""
        return self.relation.is_own

    @property
    def source(self) -> sql.Composable:
        """The name for FROM: a partitioned table stands for its partitions, any other for its own rows."""
        return sql.SQL("{}" if self.is_partitioned else "ONLY {}").format(self.name.identifier())

    def named(self, names: Iterable[str]) -> tuple[CapturedColumn, ...]:
        """Return columns by their names. Raises Broken when one no longer exists."""
        wanted = list(names)
        missing = [name for name in wanted if name not in self.columns]
        if missing:
            raise Broken(
                f"cannot revert the rows of table {self.name}",
                detail=f"The table no longer has column {', '.join(missing)}.",
                hint="Roll back later changes of the schema first: the last migration goes first.",
            )
        return tuple(self.columns[name] for name in wanted)

    def keyed(self, key: Sequence[str]) -> CapturedTable | None:
        """Return the table with another key of its own, in this order; None when it has none."""
        for one in self.keys:
            if sorted(one.columns) == sorted(key):
                by = dict(zip(one.columns, one.operators, strict=True))
                operators = tuple(by[name] for name in key)
                return replace(self, key=tuple(key), operators=operators, is_key_deferrable=one.is_deferrable)
        return None

    @property
    def plain(self) -> tuple[CapturedColumn, ...]:
        """The columns that a statement may give values: all that are not generated."""
        return tuple(column for column in self.columns.values() if not column.is_generated)

    def matches(self, alias: str, side: str, names: Sequence[str] = ()) -> sql.Composable:
        """Return the condition that a row of the table, and one of its side table, have the same key.

        ``names`` are those of its columns where the row has them under others.
        """
        pairs = [
            sql.SQL("{} {} {}").format(
                sql.Identifier(alias, names[number] if names else column.name),
                sql.SQL(operator),
                column.reverted(sql.Identifier(side, key_name(number))),
            )
            for number, (column, operator) in enumerate(zip(self.named(self.key), self.operators, strict=True))
        ]
        return sql.SQL(" AND ").join(pairs)


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key from another table; ``on_delete`` and ``on_update`` are pg_constraint's letters."""

    name: str
    oid: int
    on_delete: str
    on_update: str
    columns: tuple[str, ...]
    referenced: tuple[str, ...]
    emptied: tuple[str, ...]
    operators: tuple[str, ...]


def table(conn: Connection, oid: int) -> CapturedTable:
    """Return a table by its oid, as the catalog has it now."""
    (traits,), keys = rows(conn, "traits", oid=oid), keys_of(conn, [oid])[oid]
    best = keys[0] if keys else None
    return CapturedTable(
        relation=relation_of(conn, oid),
        columns={
            name: CapturedColumn(**vars(each)) for name, each in columns_of(conn, [oid], locks=False)[oid].items()
        },
        key=best.columns if best else (),
        operators=best.operators if best else (),
        is_key_deferrable=best is not None and best.is_deferrable,
        keys=keys,
        **traits,
    )


def keyed_without_index(
    conn: Connection, found: CapturedTable, key: Sequence[str], *, is_deferrable: bool = False
) -> CapturedTable | None:
    """Return a table with a key that no index watches, None where columns are missing or have no equality.

    Whoever uses it has to see that no two rows have the same key: before, and while it is used.
    """
    by = {one["name"]: one["operator"] for one in rows(conn, "equality", oid=found.oid, columns=list(key))}
    if not key or set(by) != set(key):
        return None
    operators = tuple(by[name] for name in key)
    return replace(found, key=tuple(key), operators=operators, is_key_deferrable=is_deferrable)


def table_named(conn: Connection, name: TableName, key: Sequence[str]) -> CapturedTable:
    """Return a table by its name, with the key by which its rows were captured.

    Raises Broken when it does not exist, or has no unique index on these columns now.
    """
    found = rows(conn, "oid_of", schema=name.schema, name=name.name)
    there = table(conn, found[0]["oid"]).keyed(key) if found else None
    if there is not None:
        return there
    raise Broken(
        f"cannot revert the rows of table {name}",
        detail=f"It has no unique index on {', '.join(key)} now." if found else "The table does not exist.",
        hint="Roll back later changes of the schema first: the last migration goes first.",
    )


def foreign_keys(conn: Connection, oid: int) -> list[ForeignKey]:
    """Return the foreign keys that reference a table, [] when there is none."""
    lists = ("columns", "referenced", "emptied", "operators")
    found = rows(conn, "foreign_keys", oid=oid)
    return [ForeignKey(**{**one, **{name: tuple(one[name]) for name in lists}}) for one in found]


def row(alias: str) -> Row:
    """Return a function from a column's name to that column of the row with an alias."""
    return lambda name: sql.Identifier(alias, name)


def key_name(number: int) -> str:
    """Return the name of a key column in a side table."""
    return f"pgrunbook_key_{number + 1}"


def written_name(number: int) -> str:
    """Return the name of a captured column's new value in a side table."""
    return f"pgrunbook_new_{number + 1}"


def hash_of(columns: Sequence[CapturedColumn], values: Sequence[sql.Composable]) -> sql.Composable:
    """Return the expression for the hash of values as one record (64 bits)."""
    forms = [column.hashed(value) for column, value in zip(columns, values, strict=True)]
    return sql.SQL("pg_catalog.hash_record_extended(ROW({}), 0)").format(sql.SQL(", ").join(forms))


def as_text(value: sql.Composable) -> sql.Composable:
    """Return the output of the type's output function; a cast to text may call a function of the application."""
    return sql.SQL("CASE WHEN {0} IS DISTINCT FROM NULL THEN pg_catalog.concat({0}) END").format(value)


def rows(conn: Connection, query: str, **parameters: object) -> list[dict[str, Any]]:
    """Return the rows of a named query."""
    return queries.rows(conn, "undo_data", query, **parameters)
