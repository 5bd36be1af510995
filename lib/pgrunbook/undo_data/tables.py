"""Tables for capture and revert: their keys, and how each column's values are captured, hashed and shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from psycopg import sql
from psycopg.rows import dict_row

from pgrunbook.database.checksums import TableName
from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import load
from pgrunbook.errors import Broken

# Returns a column of a row by its name.
Row = Callable[[str], sql.Composable]

SCHEMA = "pgrunbook"
# Of a new value that is a text, only the first characters are captured, to show them; old values are whole.
SHOWN_CHARS = 100

# How a value is hashed. Types not named here are hashed in binary form: their own hash function may take different
# values for equal, or use 32 of 64 bits only (see ``database.checksums``), and the text of some depends on settings
# (TimeZone, extra_float_digits).
_AS_IT_IS = {"boolean", "bytea", "date", "integer", "smallint", "uuid"}
_BY_CODE_POINT = {"character varying", "name", "text"}
_BY_OUTPUT = {"json", "jsonb", "xml"}


@dataclass(frozen=True)
class Column:
    """A column; ``base_type`` is the type below its domains, ``send`` the function that gives the binary form.

    With ``has_own_form`` that type is the application's: its binary form may hold OIDs, which change when the type is
    dropped and created again.
    """

    name: str
    type: str
    is_of_application: bool
    catalog_type: str
    base_type: str
    is_small: bool
    is_word: bool
    has_own_form: bool
    send: str | None
    is_generated: bool
    is_identity_always: bool

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
        if self.base_type in _AS_IT_IS:
            return value
        if self.base_type in _BY_CODE_POINT:
            return sql.SQL('{} COLLATE "C"').format(value)
        if self.has_own_form or self.base_type in _BY_OUTPUT or self.send is None:
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
class Table:
    """A table with what decides how its rows are captured; ``key`` is () when it has no unique key."""

    oid: int
    name: TableName
    is_partitioned: bool
    columns: dict[str, Column]
    key: tuple[str, ...]
    operators: tuple[str, ...]
    is_key_deferrable: bool
    has_before_update: bool
    references_itself: bool
    has_deferrable_key: bool
    is_filtered: bool
    is_own: bool
    rows_estimate: float

    @property
    def source(self) -> sql.Composable:
        """The name for FROM: a partitioned table stands for its partitions, any other for its own rows."""
        return sql.SQL("{}" if self.is_partitioned else "ONLY {}").format(self.name.identifier())

    def named(self, names: Iterable[str]) -> tuple[Column, ...]:
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

    @property
    def plain(self) -> tuple[Column, ...]:
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


def table(conn: Connection, oid: int) -> Table:
    """Return a table by its oid, as the catalog has it now."""
    (about,), (traits,) = rows(conn, "relation_of", oid=oid), rows(conn, "traits", oid=oid)
    best = next(iter(_keys(conn, oid)), _NO_KEY)
    return Table(
        oid=oid,
        name=TableName(about["schema"], about["name"]),
        is_partitioned=about["is_partitioned"],
        rows_estimate=about["rows_estimate"],
        columns={one["name"]: Column(**one) for one in rows(conn, "columns", oid=oid)},
        key=best.columns,
        operators=best.operators,
        is_key_deferrable=best.is_deferrable,
        **traits,
    )


def keys_of(conn: Connection, oid: int) -> list[tuple[str, ...]]:
    """Return the keys of a table, the best first."""
    return [one.columns for one in _keys(conn, oid)]


def keyed(conn: Connection, found: Table, key: Sequence[str], *, in_index_order: bool = False) -> Table | None:
    """Return a table with another key of its own, in this order or in that of its index; None when it has none."""
    for one in _keys(conn, found.oid):
        if sorted(one.columns) == sorted(key):
            by = dict(zip(one.columns, one.operators, strict=True))
            names = one.columns if in_index_order else tuple(key)
            operators = tuple(by[name] for name in names)
            return replace(found, key=names, operators=operators, is_key_deferrable=one.is_deferrable)
    return None


def table_named(conn: Connection, name: TableName, key: Sequence[str]) -> Table:
    """Return a table by its name, with the key by which its rows were captured.

    Raises Broken when it does not exist, or has no unique index on these columns now.
    """
    found = rows(conn, "oid_of", schema=name.schema, name=name.name)
    there = keyed(conn, table(conn, found[0]["oid"]), key) if found else None
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


def hash_of(columns: Sequence[Column], values: Sequence[sql.Composable]) -> sql.Composable:
    """Return the expression for the hash of values as one record (64 bits)."""
    forms = [column.hashed(value) for column, value in zip(columns, values, strict=True)]
    return sql.SQL("pg_catalog.hash_record_extended(ROW({}), 0)").format(sql.SQL(", ").join(forms))


def as_text(value: sql.Composable) -> sql.Composable:
    """Return the output of the type's output function; a cast to text may call a function of the application."""
    return sql.SQL("CASE WHEN {0} IS DISTINCT FROM NULL THEN pg_catalog.concat({0}) END").format(value)


@dataclass(frozen=True)
class _UniqueKey:
    columns: tuple[str, ...]
    operators: tuple[str, ...]
    is_deferrable: bool


_NO_KEY = _UniqueKey((), (), is_deferrable=False)


def _keys(conn: Connection, oid: int) -> list[_UniqueKey]:
    found = rows(conn, "keys", oid=oid)
    return [_UniqueKey(tuple(one["columns"]), tuple(one["operators"]), one["is_deferrable"]) for one in found]


def rows(conn: Connection, query: str, **parameters: object) -> list[dict[str, Any]]:
    """Return the rows of a named query."""
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(load("undo_data")[query].encode(), parameters or None).fetchall()
