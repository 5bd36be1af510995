"""Columns that live beside another until contract: the registry of unfinished expands, in the database itself.

A rename leaves the old name as a column that a trigger keeps equal to the new one; a change of type leaves the old
column. Its row is written in the cut-over's transaction, and deleted in that of contract, or of the way back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from psycopg import sql
from psycopg.rows import class_row

from pgrunbook.database import own_schema, queries
from pgrunbook.database.checksums import TableName
from pgrunbook.database.connection import Connection
from pgrunbook.sql.tree import dotted_name, quoted

ShadowKind = Literal["rename", "type change"]
TABLE = sql.Identifier("pgrunbook", "shadow")
# With this begin the names of enums that were replaced, and live on with the old columns.
OLD_TYPE = "pgrunbook_old_"
_KEY = ("table_schema", "table_name", "shadow_name")
_FIELDS = (*_KEY, "column_name", "kind", "migration", "sync_name")


@dataclass(frozen=True)
class Shadow:
    """A column that lives beside another: ``column_name`` stays, ``shadow_name`` goes with contract.

    ``migration`` is the one whose statement has made it, ``sync_name`` names the :class:`ColumnSync` that keeps both
    equal. ``made_at`` is None until the database has written it.
    """

    table_schema: str
    table_name: str
    column_name: str
    shadow_name: str
    kind: ShadowKind
    migration: str
    sync_name: str
    made_at: datetime | None = None

    @property
    def table(self) -> sql.Identifier:
        """The table."""
        return sql.Identifier(self.table_schema, self.table_name)

    @property
    def table_sql(self) -> str:
        """The table as SQL needs it."""
        return dotted_name(self.table_schema, self.table_name)

    @property
    def label(self) -> str:
        """The column that goes, by its table."""
        return f"{self.table_sql}.{quoted(self.shadow_name)}"

    @property
    def beside(self) -> str:
        """The column that stays, by its table."""
        return f"{self.table_sql}.{quoted(self.column_name)}"

    def entry(self) -> str:
        """Return the statement that writes its row. Execute it in the transaction that makes it a shadow."""
        values = [sql.Literal(getattr(self, field)) for field in _FIELDS]
        statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(TABLE, _list(_FIELDS), _joined(values))
        return statement.as_string(None)

    def removal(self) -> str:
        """Return the statement that deletes its row. Execute it in the transaction that drops the column."""
        given = sql.SQL(", ").join(sql.Literal(getattr(self, field)) for field in _KEY)
        return sql.SQL("DELETE FROM {} WHERE ({}) = ({})").format(TABLE, _list(_KEY), given).as_string(None)


def read(conn: Connection, *, is_branch: bool = False) -> list[Shadow]:
    """Return the columns that wait for contract and are there, the oldest first; [] where there is no registry.

    A branch is a copy of what was looked at, and may lack the entries of undo data.
    Raises Refused when schema pgrunbook is somebody else's.
    """
    if not is_branch:
        own_schema.refuse_foreign(conn)
    if conn.execute(_sql("exists")).fetchone() != (True,):
        return []
    with conn.cursor(row_factory=class_row(Shadow)) as cursor:
        return cursor.execute(_sql("read")).fetchall()


def there(conn: Connection, other: Connection | None = None, *, is_branch: bool = False) -> list[Shadow]:
    """Return the shadows of a database, and those that another one has registered and whose columns are here, too.

    A branch without rows has the columns of the target, and not its registry. Raises as :func:`read`.
    """
    found = read(conn, is_branch=is_branch)
    keys = {(one.table_schema, one.table_name, one.shadow_name) for one in found}
    for one in read(other) if other is not None else ():
        if (one.table_schema, one.table_name, one.shadow_name) not in keys and _is_there(conn, one):
            found.append(one)
    return found


def _is_there(conn: Connection, shadow: Shadow) -> bool:
    named = {"table": shadow.table_sql, "columns": [shadow.column_name, shadow.shadow_name]}
    return conn.execute(_sql("has_both"), named).fetchone() == (True,)


@dataclass(frozen=True)
class ShadowObject:
    """An object that a shadow has made, or made other: named as a snapshot of the schema names it."""

    name: str
    shadow: Shadow


def objects(conn: Connection, shadows: Iterable[Shadow]) -> list[ShadowObject]:
    """Return the shadows' columns, and the indexes, constraints, statistics and rights that hang on them."""
    found = []
    for shadow in shadows:
        named = {"table": shadow.table_sql, "column": shadow.shadow_name}
        found += [ShadowObject(str(name), shadow) for (name,) in conn.execute(_sql("objects"), named).fetchall()]
        if shadow.kind == "type change":
            types = _types_of(conn, shadow)
            found += [ShadowObject(name, shadow) for one in types for name in type_objects(one.name, one.grantees)]
    return found


def old_type(conn: Connection, shadow: Shadow) -> str:
    """Return the enum, as SQL needs it, that was replaced and goes with a column; "" where others have it still."""
    others = [one for one in read(conn) if (one.table, one.shadow_name) != (shadow.table, shadow.shadow_name)]
    shared = {each.name for one in others for each in _types_of(conn, one)}
    return next((one.name for one in _types_of(conn, shadow) if one.name not in shared), "")


@dataclass(frozen=True)
class OldType:
    """An enum that goes with a column, and the roles that have rights to it."""

    name: str
    grantees: list[str]


def type_objects(type_: str, grantees: Iterable[str]) -> list[str]:
    """Return a type, its comment and the rights to it, as a snapshot of the schema names them."""
    return [type_, f"type {type_}", *(f"type {type_} to {one}" for one in dict.fromkeys(["PUBLIC", *grantees]))]


def _types_of(conn: Connection, shadow: Shadow) -> list[OldType]:
    named = {"table": shadow.table_sql, "column": shadow.shadow_name, "prefix": OLD_TYPE}
    with conn.cursor(row_factory=class_row(OldType)) as cursor:
        return cursor.execute(_sql("old_types"), named).fetchall()


def sequences(conn: Connection, shadows: Iterable[Shadow]) -> list[ShadowObject]:
    """Return the sequences of the columns whose type has changed: they grow with the type, and shrink with it."""
    found = []
    for shadow in shadows:
        named = {"table": shadow.table_sql, "column": shadow.column_name}
        rows = conn.execute(_sql("sequences"), named).fetchall() if shadow.kind == "type change" else []
        found += [ShadowObject(str(name), shadow) for (name,) in rows]
    return found


def columns(branch: Connection) -> dict[TableName, set[str]]:
    """Return the columns of a branch that go with contract, by table, also by partition."""
    found: dict[TableName, set[str]] = {}
    for shadow in read(branch, is_branch=True):
        for schema, name in branch.execute(_sql("tables"), {"table": shadow.table_sql}).fetchall():
            found.setdefault(TableName(str(schema), str(name)), set()).add(shadow.shadow_name)
    return found


def of_column(shadows: Iterable[Shadow], schema: str, table: str, column: str) -> Shadow | None:
    """Return the pair in which a column is either one, None where it is in none."""
    there = (one for one in shadows if (one.table_schema, one.table_name) == (schema, table))
    return next((one for one in there if column in (one.column_name, one.shadow_name)), None)


def _list(names: Sequence[str]) -> sql.Composable:
    return sql.SQL(", ").join(map(sql.Identifier, names))


def _joined(parts: Sequence[sql.Composable]) -> sql.Composable:
    return sql.SQL(", ").join(parts)


def _sql(name: str) -> str:
    return queries.load("shadows")[name]
