"""The catalog of a database, read one fact at a time; safe forms and undo data are chosen by it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TypeVar

import psycopg
from pglast import ast
from psycopg import sql

from pgrunbook.database import routines_reader
from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import load, rows
from pgrunbook.database.relations import (
    Column,
    Index,
    Partition,
    Relation,
    TypeFact,
    UniqueKey,
    columns_of,
    indexes_of,
    keys_of,
    types_of,
)
from pgrunbook.database.routines import Routines
from pgrunbook.database.sqlstate import Meaning, meaning
from pgrunbook.sql.outside import relations_read
from pgrunbook.sql.tree import functions_in

T = TypeVar("T")


class Facts:
    """The catalog of the database for which safe forms are chosen, read one fact at a time."""

    def __init__(self, conn: Connection, rows_conn: Connection | None = None) -> None:
        self.conn = conn
        self._rows_conn = rows_conn
        self._path: str | None = None
        self._remembers = False
        self._known: dict[Hashable, Any] = {}

    @contextmanager
    def remembered(self) -> Iterator[None]:
        """Ask each question once meanwhile, and not again in the next block, until :meth:`forget`."""
        self._remembers = True
        try:
            yield
        finally:
            self._remembers = False

    def forget(self) -> None:
        """Ask anew: a statement may have changed the catalog."""
        self._known = {}

    def _once(self, ask: Callable[[], T], *question: Hashable) -> T:
        if not self._remembers:
            return ask()
        key = (self._path, *question)
        if key not in self._known:
            self._known[key] = ask()
        found: T = self._known[key]
        return found

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
        found = self.rows("relation", oid=oid, name=None, path=[])
        return Relation(**found[0]) if found else None

    def index(self, parts: Iterable[str]) -> Index | None:
        """Return the index of a name, None where there is none."""
        found = indexes_of(self.conn, indexes=[self.relation_oid(parts)], locks=False)
        return next((index for each in found.values() for index in each), None)

    def indexes(self, oid: int) -> list[Index]:
        """Return the indexes of a table."""
        return indexes_of(self.conn, [oid])[oid]

    def partitions(self, table: Relation) -> list[Partition]:
        """Return all tables below a partitioned table, parents first; [] for any other table."""
        if not table.is_partitioned:
            return []
        rows = self.rows("partitions", oid=table.oid)
        return [Partition(kind="r" if row["is_leaf"] else "p", is_partition=True, **row) for row in rows]

    def columns(self, table: Relation) -> dict[str, Column]:
        """Return the columns of a table by name, in their order."""
        found = self._once(lambda: columns_of(self.conn, [table.oid], locks=False), "columns", table.oid)
        return found[table.oid]

    def keys(self, oid: int) -> list[UniqueKey]:
        """Return the keys of a table that are checked at once, the best first, [] where it has none."""
        found = self._once(lambda: keys_of(self.conn, [oid]), "keys", oid)
        return [key for key in found[oid] if not key.is_deferrable]

    def loop_key(self, table: Relation) -> UniqueKey | None:
        """Return the best key by which a loop can go through a table, None where it has none.

        A deferrable key does not tell rows apart: until COMMIT one may come to a key that another has not left yet.
        """
        return next((key for key in self.keys(table.oid) if key.is_ordered and not key.is_deferrable), None)

    def taken_names(self, schema: str) -> set[str]:
        """Return the names of the relations and constraints in a schema."""
        return {row["name"] for row in self.rows("taken", schema=schema, like="%")}

    def constraint_names(self, schema: str) -> set[str]:
        """Return the names of the constraints in a schema."""
        return {row["name"] for row in self.rows("taken", schema=schema, like="%") if not row["is_relation"]}

    def has_rows_beyond(self, table: Relation, limit: int) -> bool:
        """Tell whether a table holds more rows than that; counts no further.

        Where rows are counted on another database, a table that has another name there (renamed by the release)
        counts as large; so does one whose rows this role may not see, or not all, and one that cannot be read now
        (a materialized view without data, a foreign table whose server is away).
        """
        return self._once(lambda: self._has_rows_beyond(table, limit), "rows", table.oid, limit)

    def _has_rows_beyond(self, table: Relation, limit: int) -> bool:
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
        called = set(functions_in(node))
        # Never remembered: a release makes functions again.
        asked = rows(self.conn, "relations", "functions", names=sorted(called))
        known = {row["name"]: row["is_volatile"] for row in asked}
        return any(known.get(name, True) for name in called)

    @contextmanager
    def under(self, search_path: str | None) -> Iterator[None]:
        """Resolve names by another search_path than the session's meanwhile; None leaves it as it is."""
        if search_path is None:
            yield
            return
        outer, self._path = self._path, search_path
        try:
            with self._under(search_path):
                yield
        finally:
            self._path = outer

    @contextmanager
    def _under(self, search_path: str) -> Iterator[None]:
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

    def time_zone(self) -> str:
        """Return the TimeZone of a session of the target now."""
        return str(self.rows("time_zone")[0]["zone"])

    def routines(self, node: Any, known: Routines) -> Routines:
        """Return the routines that a statement may run, with those that are known already."""
        return routines_reader.read(self.conn, [node], known)

    def rows(self, query: str, **parameters: object) -> list[dict[str, Any]]:
        """Return the rows of a named query."""
        return self._once(
            lambda: rows(self.conn, "relations", query, **parameters), query, repr(sorted(parameters.items()))
        )

    def type(self, name: str) -> TypeFact | None:
        """Return the type that a text names, None where there is none."""
        return next(iter(types_of(self.conn, oids=[self.type_oid(name)]).values()), None)

    def type_oid(self, name: str) -> int | None:
        """Return the OID of the type that a text names, None where there is none."""
        return self._once(lambda: self.conn.oid_of("regtype", name), "type", name)

    def relation_oid(self, parts: Iterable[str]) -> int | None:
        """Return the OID of the relation of a name in parts, None where there is none."""
        name = sql.Identifier(*parts).as_string(None)
        return self._once(lambda: self.conn.oid_of("regclass", name), "relation", name)
