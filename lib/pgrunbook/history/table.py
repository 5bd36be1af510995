"""The history table in the database: how it is found, and its rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from pgrunbook.config.targets import Target
from pgrunbook.database.connection import Connection
from pgrunbook.database.sqlstate import Meaning, meaning
from pgrunbook.errors import Blocked, RunbookError, Unreachable, WrongInput

# A row is a table of that name outside the system schemas, with its columns and their types.
TABLES = """
SELECT n.nspname::text AS schema,
       c.relname::text AS name,
       array_agg(a.attname::text ORDER BY a.attnum) AS columns,
       array_agg(pg_catalog.format_type(a.atttypid, NULL) ORDER BY a.attnum) AS types,
       array_agg(a.attname::text) FILTER (
           WHERE a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AND a.attgenerated = ''
       ) AS required
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE c.relname = ANY (%s)
   AND c.relkind IN ('r', 'p')
   AND n.nspname NOT LIKE 'pg\\_%%'
   AND n.nspname <> 'information_schema'
 GROUP BY n.nspname, c.relname
 ORDER BY n.nspname, c.relname
"""


@dataclass(frozen=True)
class Table:
    """A history table: ``columns`` maps each name to its type, {} when the table does not exist yet.

    ``required`` are the columns that every new row has to name.
    """

    schema: str
    name: str
    columns: dict[str, str]
    how_found: str = ""
    required: frozenset[str] = frozenset()

    @property
    def exists(self) -> bool:
        """Whether the table is in the database."""
        return bool(self.columns)

    @property
    def qualified(self) -> str:
        """The name for people."""
        return f"{self.schema}.{self.name}"

    @property
    def identifier(self) -> sql.Identifier:
        """The name for statements."""
        return sql.Identifier(self.schema, self.name)


@dataclass(frozen=True)
class Shape:
    """How the history table of a tool looks: its name, and columns that it has at least (its only one, where one).

    ``schema`` is the only schema where it lies, ``beside`` a table that lies beside it.
    """

    name: str
    columns: str
    schema: str | None = None
    beside: str | None = None

    @property
    def needed(self) -> frozenset[str]:
        """The names of the columns."""
        return frozenset(self.columns.split())

    def has_columns_of(self, table: Table) -> bool:
        """Tell whether a table has these columns."""
        columns = frozenset(table.columns)
        return columns == self.needed if len(self.needed) == 1 else self.needed <= columns

    def fits(self, table: Table, there: frozenset[tuple[str, str]]) -> bool:
        """Tell whether a table is the tool's; ``there`` are the tables with a known name, by schema."""
        return (
            table.name == self.name
            and self.schema in (None, table.schema)
            and self.has_columns_of(table)
            and (self.beside is None or (table.schema, self.beside) in there)
        )


def tables_named(conn: Connection, names: set[str], *, schema: str | None) -> list[Table]:
    """Return the tables with one of the names, in the schema or (None) in any, [] when there is none."""
    rows = _fetch(conn, sql.SQL(TABLES), (sorted(names),), what="the catalog")
    found = [
        Table(str(row["schema"]), str(row["name"]), _columns(row), required=frozenset(_names(row["required"])))
        for row in rows
    ]
    return [table for table in found if schema in (None, table.schema)]


def the_one(tables: list[Table], is_ours: Callable[[Table], bool], *, known: str, preferred: str = "") -> Table | None:
    """Return the table whose columns are the tool's, None when there is no table at all.

    ``preferred`` is the qualified name of the one to take when there are several.
    Raises WrongInput when several have these columns, or tables exist but none has them.
    """
    ours = [table for table in tables if is_ours(table)]
    if len(ours) > 1:
        named = [table for table in ours if table.qualified == preferred]
        if not named:
            raise _several(ours)
        ours = named
    if ours:
        return replace(ours[0], how_found="found in the database")
    if tables:
        raise unknown_columns(tables[0], known=known)
    return None


def table_to_be(target: Target, schema: str, name: str, *, default: str) -> Table:
    """Return the table that does not exist yet; ``default`` says where its name comes from, if not from the target."""
    how = "named in targets.toml" if target.history_schema or target.history_table else default
    return Table(schema, name, {}, f"{how}; it does not exist yet")


def near_table(conn: Connection, target: Target, shape: Shape, *, known: str, tool: str, types: str = "") -> Table:
    """Return the table that the target names, else the one of the shape where the tool looks for it.

    That is the shape's schema, or the first of the search_path. One in another schema may be the right one, too, when
    the tool's URL has a search_path; but products have such tables, so the operator must name it. ``types`` are
    those that the table's columns may have ("" for any).

    Raises WrongInput for that, and when the columns are not the tool's.
    """
    name = target.history_table or shape.name
    schema = target.history_schema or shape.schema or current_schema(conn)
    found = tables_named(conn, {name}, schema=target.history_schema)

    def is_ours(table: Table) -> bool:
        return shape.has_columns_of(table) and (not types or set(table.columns.values()) <= set(types.split(", ")))

    table = the_one([table for table in found if table.schema == schema], is_ours, known=known)
    if table is not None:
        return table
    others = [table.qualified for table in found if is_ours(table)]
    if others:
        raise WrongInput(
            f"cannot tell which history table to use: {schema}.{name} does not exist, but {' and '.join(others)} does",
            detail=f"{tool} uses the search_path of its URL, which pgrunbook does not know; "
            "with the wrong table every migration would run again.",
            hint="Name the schema in targets.toml: "
            f'history_schema = "{schema}" starts a new history if the other table is not {tool}\'s.',
        )
    return table_to_be(target, schema, name, default=f"{tool}'s default")


def unknown_columns(table: Table, *, known: str) -> WrongInput:
    """Return the error for a history table with unknown columns."""
    columns = ", ".join(f"{name} {kind}" for name, kind in table.columns.items())
    return WrongInput(
        f"cannot read the history table {table.qualified}: its columns are unknown",
        detail=f"It has ({columns}); expected are {known}.",
        hint="Name the right table in targets.toml: history_schema and history_table.",
    )


def _several(tables: list[Table]) -> WrongInput:
    return WrongInput(
        f"found {len(tables)} history tables: {', '.join(table.qualified for table in tables)}",
        detail="With the wrong one, migrations would run again.",
        hint="Name the right one in targets.toml: history_schema and history_table.",
    )


def schema_exists(conn: Connection, schema: str) -> bool:
    """Tell whether the database has the schema."""
    query = sql.SQL("SELECT 1 AS one FROM pg_catalog.pg_namespace WHERE nspname = %s")
    return bool(_fetch(conn, query, (schema,), what="the catalog"))


def current_schema(conn: Connection) -> str:
    """Return the schema in which an unqualified name is created; "public" when the search_path has none."""
    query = sql.SQL("SELECT coalesce(pg_catalog.current_schema()::text, 'public') AS schema")
    with conn.as_target():
        return str(_fetch(conn, query, None, what="the search_path")[0]["schema"])


def fetch_rows(conn: Connection, table: Table, columns: sql.SQL, order: sql.SQL) -> list[dict[str, object]]:
    """Return the table's rows in the given order. Locks: AccessShareLock on the history table."""
    query = sql.SQL("SELECT {} FROM {} ORDER BY {}").format(columns, table.identifier, order)
    return _fetch(conn, query, None, what=f"the history table {table.qualified}")


def fetch_versions(
    conn: Connection, table: Table, columns: sql.SQL, order: sql.SQL, *, known: str
) -> list[dict[str, object]]:
    """Return the same of a table with a column version. Raises WrongInput when a row has none."""
    rows = fetch_rows(conn, table, columns, order)
    if any(row["version"] is None for row in rows):
        raise unknown_columns(table, known=f"{known} with a version in every row")
    return rows


def _fetch(
    conn: Connection, query: sql.SQL | sql.Composed, params: tuple[object, ...] | None, *, what: str
) -> list[dict[str, object]]:
    try:
        with conn.cursor(row_factory=dict_row) as cursor:
            return list(cursor.execute(query, params))
    except psycopg.Error as exc:
        raise _could_not_read(what, exc) from exc


def _could_not_read(what: str, exc: psycopg.Error) -> RunbookError:
    detail = exc.diag.message_primary or str(exc)
    if meaning(exc) is Meaning.LOST:
        hint = "Check that the server runs; then run this again."
        return Unreachable(f"lost the connection while {what} was read", detail=detail, hint=hint)
    if meaning(exc) is Meaning.CUT_OFF:
        return Blocked(
            f"could not read {what}",
            detail=detail,
            hint="A session holds AccessExclusiveLock on it, perhaps another migration; wait for it, then run again.",
        )
    return WrongInput(
        f"could not read {what}",
        detail=detail,
        hint="Connect as a role with USAGE on the schema and SELECT on the table.",
    )


def _names(found: object) -> list[str]:
    return [str(name) for name in found] if isinstance(found, list) else []


def _columns(row: dict[str, Any]) -> dict[str, str]:
    return dict(zip(row["columns"], row["types"], strict=True))
