"""Catalog reads of safe forms: the relation behind a name, its columns, partitions, keys and indexes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import psycopg
from pglast import ast
from psycopg import sql
from psycopg.rows import dict_row

from pgrunbook.database import routines_reader
from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import load
from pgrunbook.database.routines import Routines
from pgrunbook.database.sqlstate import Meaning, meaning
from pgrunbook.sql.outside import relations_read
from pgrunbook.sql.tree import function_names


@dataclass(frozen=True)
class Relation:
    """A relation that exists; ``kind`` is pg_class.relkind."""

    oid: int
    schema: str
    name: str
    kind: str
    is_partition: bool = False
    is_populated: bool = True
    has_children: bool = False
    has_rules: bool = False
    is_temporary: bool = False
    is_own: bool = True

    @property
    def is_partitioned(self) -> bool:
        """Whether it is a partitioned table."""
        return self.kind == "p"

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
    """A column; ``not_null_name`` is that of its NOT NULL constraint, None before PostgreSQL 18."""

    name: str
    type: str
    not_null: bool
    not_null_name: str | None
    not_null_valid: bool
    proven_not_null: bool
    is_generated: bool


@dataclass(frozen=True)
class LoopKey:
    """A unique key by whose order a loop goes through a table; types are those below domains, "" for no collation."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    collations: tuple[str, ...]


@dataclass(frozen=True)
class Index:
    """An index by its name."""

    oid: int
    schema: str
    name: str
    is_partitioned: bool
    is_valid: bool
    is_exclusion: bool
    constraint_name: str | None
    table_schema: str
    table_name: str
    is_partition: bool


class Facts:
    """The catalog of the database for which safe forms are chosen, read one fact at a time."""

    def __init__(self, conn: Connection, rows_conn: Connection | None = None) -> None:
        self.conn = conn
        self._rows_conn = rows_conn

    @property
    def rows_conn(self) -> Connection:
        """The connection to the database whose rows count."""
        return self._rows_conn or self.conn

    @cached_property
    def version(self) -> int:
        """The major version of the server on which the plan is executed: a branch may have a newer one."""
        both = (self.conn, self.rows_conn)
        return min(conn.info.server_version // 10_000 for conn in both)

    def relation(self, node: ast.RangeVar) -> Relation | None:
        """Return the relation that a name in a statement means now, None where there is none."""
        return self.named([node.schemaname, node.relname] if node.schemaname else [node.relname])

    def named(self, parts: Iterable[str]) -> Relation | None:
        """Return the relation of a name in parts, None where there is none."""
        oid = self.relation_oid(parts)
        return None if oid is None else self.relation_of(oid)

    def relation_of(self, oid: int) -> Relation | None:
        """Return the relation with an OID, None where there is none."""
        found = self.rows("relation", oid=oid)
        return Relation(**found[0]) if found else None

    def index(self, parts: Iterable[str]) -> Index | None:
        """Return the index of a name, None where there is none."""
        found = self.rows("index", oid=self.relation_oid(parts))
        return Index(**found[0]) if found else None

    def partitions(self, table: Relation) -> list[Partition]:
        """Return all tables below a partitioned table, parents first; [] for any other table."""
        if not table.is_partitioned:
            return []
        rows = self.rows("partitions", oid=table.oid)
        return [Partition(kind="r" if row["is_leaf"] else "p", is_partition=True, **row) for row in rows]

    def columns(self, table: Relation) -> dict[str, Column]:
        """Return the columns of a table by name, in their order."""
        return {row["name"]: Column(**row) for row in self.rows("columns", oid=table.oid)}

    def loop_key(self, table: Relation) -> LoopKey | None:
        """Return the best key by which a loop can go through a table, None where it has none."""
        found = next((row for row in self.rows("keys", oid=table.oid) if row["is_ordered"]), None)
        if found is None:
            return None
        return LoopKey(tuple(found["columns"]), tuple(found["types"]), tuple(found["collations"]))

    def taken_names(self, schema: str) -> set[str]:
        """Return the names of the relations and constraints in a schema."""
        return {row["name"] for row in self.rows("taken_names", schema=sql.Identifier(schema).as_string(None))}

    def constraint_names(self, schema: str) -> set[str]:
        """Return the names of the constraints in a schema."""
        return {row["name"] for row in self.rows("constraint_names", schema=sql.Identifier(schema).as_string(None))}

    def has_rows_beyond(self, table: Relation, limit: int) -> bool:
        """Tell whether a table holds more rows than that; counts no further.

        Where rows are counted on another database, a table that has another name there (renamed by the release)
        counts as large; so does one whose rows this role may not see, or not all, and one that cannot be read now
        (a materialized view without data, a foreign table whose server is away).
        """
        there = self.rows_conn
        if self._rows_conn is not None and there.oid_of("regclass", table.sql) is None:
            return True
        query = sql.SQL(load("relations")["rows_up_to"])
        try:
            with there.transaction():
                counted = there.execute(query.format(table=table.identifier, limit=sql.Literal(limit + 1))).fetchone()
        except psycopg.Error as exc:
            if meaning(exc) in (Meaning.NO_RIGHT, Meaning.REFUSED):
                return True
            raise
        return counted is not None and int(str(counted[0])) > limit

    def foreign_tables(self, node: Any) -> list[str]:
        """Return the foreign tables that a statement reads or writes: by name, by a view's query or as partitions."""
        names = relations_read(node)
        if not names or not self.rows("foreign_table"):
            return []
        oids = [self.relation_oid(filter(None, [name.schemaname, name.relname])) for name in names]
        refresh = isinstance(node, ast.RefreshMatViewStmt)
        return [row["name"] for row in self.rows("foreign_tables", oids=oids, refresh=refresh)]

    def relation_oids(self) -> frozenset[int]:
        """Return the relations that exist now."""
        return frozenset(row["oid"] for row in self.rows("relation_oids"))

    def tables(self) -> dict[int, Relation]:
        """Return the tables that exist now, by OID, each with its name and kind only."""
        return {row["oid"]: Relation(**row) for row in self.rows("tables")}

    def type_oids(self) -> frozenset[int]:
        """Return the types and domains that somebody has made."""
        return frozenset(row["oid"] for row in self.rows("type_oids"))

    def volatile(self, node: Any) -> bool:
        """Tell whether an expression may give another value for each row; True where a function is not known."""
        called = function_names(node)
        known = {row["name"]: row["is_volatile"] for row in self.rows("functions", names=sorted(called))}
        return any(known.get(name, True) for name in called)

    @contextmanager
    def under(self, search_path: str | None) -> Iterator[None]:
        """Resolve names by another search_path than the session's meanwhile; None leaves it as it is."""
        if search_path is None:
            yield
            return
        before = self.conn.search_path
        if before is None:
            with self.conn.transaction(force_rollback=True):
                self.conn.execute("SELECT pg_catalog.set_config('search_path', %s, true)", [search_path])
                yield
            return
        self.conn.search_path = search_path
        try:
            yield
        finally:
            self.conn.search_path = before

    def path(self) -> list[str]:
        """Return the schemas in which names without one are looked for now, in order."""
        with self.conn.as_target():
            return [str(row["schema"]) for row in self.rows("path")]

    def time_zone(self) -> str:
        """Return the TimeZone of a session of the target now."""
        return str(self.rows("time_zone")[0]["zone"])

    def routines(self, node: Any, known: Routines) -> Routines:
        """Return the routines that a statement may run, with those that are known already."""
        return routines_reader.read(self.conn, [node], known)

    def rows(self, query: str, **parameters: object) -> list[dict[str, Any]]:
        """Return the rows of a named query."""
        with self.conn.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(load("relations")[query].encode(), parameters).fetchall()

    def type_oid(self, name: str) -> int | None:
        """Return the OID of the type that a text names, None where there is none."""
        return self.conn.oid_of("regtype", name)

    def relation_oid(self, parts: Iterable[str]) -> int | None:
        """Return the OID of the relation of a name in parts, None where there is none."""
        return self.conn.oid_of("regclass", sql.Identifier(*parts).as_string(None))
