"""Catalog queries for inverses: the objects behind names, and their definitions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import psycopg
from pglast import ast
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from pgrunbook.database import routines_reader
from pgrunbook.database.connection import READ_LOCK_TIMEOUT_MS, READ_STATEMENT_TIMEOUT_MS, Connection
from pgrunbook.database.queries import SETTINGS, blocked_on_lock_timeout, load
from pgrunbook.database.relations import (
    CatalogConstraint,
    Column,
    Index,
    Relation,
    column,
    constraint,
    index,
    unique_key,
)
from pgrunbook.database.routines import RoutinePart
from pgrunbook.database.sqlstate import Meaning, meaning
from pgrunbook.sql.catalog_names import CatalogNames
from pgrunbook.sql.deparse import literal
from pgrunbook.sql.do_values import cast
from pgrunbook.sql.tree import quoted, text

_OWN = "BEGIN ISOLATION LEVEL REPEATABLE READ", "COMMIT"
# ROLLBACK TO the savepoint also resets the settings.
_INSIDE = "SAVEPOINT pgrunbook_reading", "ROLLBACK TO SAVEPOINT pgrunbook_reading; RELEASE SAVEPOINT pgrunbook_reading"


Address = tuple[int, int, int]
# A named query and its parameters.
Question = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class RelationOptions:
    """The other properties of a relation that ALTER can change; see :class:`Relation`."""

    options: list[str]
    toast_options: list[str]
    tablespace: str
    access_method: str | None
    replica_identity: str
    clustered: str | None
    bound: str | None
    of_type: str | None
    parents: list[str]
    foreign_options: list[str]


@dataclass(frozen=True)
class CatalogObject:
    """Any object, as pg_identify_object names it; ``quoted`` are the parts of its name."""

    catalog: str
    address: Address
    type: str
    identity: str
    names: list[str]
    quoted: list[str]
    args: list[str]
    owner: str

    @property
    def word(self) -> str:
        """The word for it in DROP, COMMENT ON and ALTER."""
        words = {
            "foreign-data wrapper": "FOREIGN DATA WRAPPER", "statistics object": "STATISTICS",
            "table constraint": "CONSTRAINT", "domain constraint": "CONSTRAINT", "composite type": "TYPE",
        }  # fmt: skip
        return "COLUMN" if self.type.endswith(" column") else words.get(self.type, self.type.upper())

    @property
    def sql(self) -> str:
        """Its name in DROP, COMMENT ON and ALTER."""
        if self.type == "domain constraint":
            return self.identity.replace(" on ", " ON DOMAIN ", 1)
        if self.type == "aggregate":
            return self.identity.replace("()", "(*)")
        return self.identity

    def renamed(self, new: str) -> str:
        """Return the name with another last part."""
        if " on " in self.sql.lower() and self.sql.startswith(self.quoted[-1]):
            return quoted(new) + self.sql[len(self.quoted[-1]) :]
        return self._with([*self.quoted[:-1], quoted(new)])

    def moved(self, schema: str) -> str:
        """Return the name in another schema."""
        return self._with([*self.quoted[:-2], quoted(schema), self.quoted[-1]])

    def _with(self, parts: list[str]) -> str:
        for skipped in (0, 1):  # the first part of an operator class's name is its access method
            before = ".".join(self.quoted[skipped:])
            if self.sql.startswith(before):
                return ".".join(parts[skipped:]) + self.sql[len(before) :]
        return ".".join(parts)


class Reader:
    """The catalog during one statement: names are resolved with the session's search path, answers have none."""

    def __init__(self, conn: Connection, cursor: psycopg.Cursor[dict[str, Any]], session: dict[str, Any]) -> None:
        self.conn, self._cursor = conn, cursor
        self._queries = {**load("relations"), **load("inverse", self.version)}
        self.path: list[str] = session["path"]
        self.home: str = session["home"] or "public"
        self.me: str = session["me"]
        self._search_path: str = session["search_path"]
        self.has_default_acls: bool = session["has_default_acls"]
        self._relations: dict[int, Relation] = {}
        self._answers: dict[str, list[dict[str, Any]]] = {}

    @property
    def version(self) -> int:
        """The server's major version."""
        return self._cursor.connection.info.server_version // 10_000

    def rows(self, query: str, **parameters: object) -> list[dict[str, Any]]:
        """Return the rows of a named query."""
        known = self._answers.pop(_key(query, parameters), None) if self._answers else None
        return (
            known if known is not None else self._cursor.execute(self._queries[query].encode(), parameters).fetchall()
        )

    def row(self, query: str, **parameters: object) -> dict[str, Any] | None:
        """Return the first row of a named query, None when there is none."""
        found = self.rows(query, **parameters)
        return found[0] if found else None

    def sequence(self, oid: int) -> dict[str, Any] | None:
        """Return a sequence; ``first`` is what it gives next while ``last_value`` is None, also after a restart."""
        row = self.row("sequence", oid=oid)
        if row and row["last_value"] is None and row["is_readable"]:
            query = sql.SQL("SELECT last_value AS first FROM {}").format(sql.SQL(row["sql"]))
            return {**row, **self._cursor.execute(query).fetchall()[0]}
        return row and {**row, "first": row["start"]}

    def ahead(self, questions: Iterable[Question]) -> None:
        """Execute queries that will be needed in one round trip; ``rows`` then returns the stored answers."""
        asked = {_key(*question): self._told(*question) for question in questions}
        if asked:
            self._answers |= zip(asked, self._at_once(list(asked.values())), strict=True)

    def parts(self, node: Any) -> list[RoutinePart]:
        """Return what runs within a statement, as deep as it calls."""
        return routines_reader.read(self.conn, [node]).parts(node, self.path)

    def not_of_catalog(self, taken: CatalogNames) -> str:
        """Return why what has one of these names may not be PostgreSQL's own, "" where it is."""
        for name in sorted(taken.relations):
            found = self.named(None, name)
            if found is not None and found.schema not in ("pg_catalog", "information_schema"):
                return f"{name} is {found.label}"
        for name in sorted(taken.types):
            fact = self.row("type_facts", oid=self.type(name) or 0)
            # No code of somebody's runs where a value of an enum is read.
            if fact is not None and fact["oid"] >= _FIRST_OWN_OID and fact["type"] != "e":
                return f"type {name} is not PostgreSQL's own"
        return routines_reader.not_of_catalog(self.conn, taken, self.path)

    def relation(self, node: ast.RangeVar) -> Relation | None:
        """Return the relation that a name refers to."""
        return self.named(node.schemaname, node.relname)

    def named(self, schema: str | None, name: str) -> Relation | None:
        """Return the relation of a name; without schema, the session's search path finds it."""
        row = self.row("relation", oid=None, name=name, path=[schema] if schema else self.path)
        return self._relations.setdefault(row["oid"], Relation(**row)) if row else None

    def relation_at(self, oid: int) -> Relation:
        """Return the relation with an OID."""
        if oid not in self._relations:
            self._relations[oid] = Relation(**self.rows("relation", **_at(oid))[0])
        return self._relations[oid]

    def whole(self, relation: Relation) -> RelationOptions:
        """Return the properties of a relation as a whole."""
        return RelationOptions(**self.rows("relation_options", oid=relation.oid)[0])

    def wholes(self, oids: Iterable[int]) -> list[Question]:
        """Return the queries that ``relation_at`` and ``whole`` will execute."""
        relations: list[Question] = [("relation", _at(oid)) for oid in oids if oid not in self._relations]
        return relations + [("relation_options", {"oid": oid}) for oid in oids]

    def relation_named(self, name: str) -> int:
        """Return the OID of the relation that a text names, 0 when there is none."""
        row = self._in_session("regclass", name=name)
        return int(row["oid"]) if row else 0

    def sequence_of(self, table: str, column: str) -> str | None:
        """Return the sequence of a column, both as a text names them, None when there is none."""
        try:
            with self._cursor.connection.transaction():
                row = self._in_session("serial_sequence", table=table, column=column)
        except psycopg.Error as exc:
            if meaning(exc) is Meaning.REFUSED:
                return None
            raise
        return row["name"] if row else None

    def family(self, table: Relation, *, only: bool = False) -> list[int]:
        """Return a table and all its children, parents first."""
        if only or not table.has_children:
            return [table.oid]
        return [row["oid"] for row in self.rows("family", oid=table.oid)]

    def columns(self, oids: Iterable[int]) -> list[Column]:
        """Return the columns of relations, in order of relation and number."""
        order = list(oids)
        query, parameters = columns_asked(order)
        found = [column(row) for row in self.rows(query, **parameters)]
        return sorted(found, key=lambda each: order.index(each.relation))

    def constraints(self, oids: Iterable[int] = (), *, types: Iterable[int] = ()) -> list[CatalogConstraint]:
        """Return the constraints of tables and domains."""
        return [constraint(row) for row in self.rows("constraints", oids=list(oids), types=list(types), locks=True)]

    def indexes(self, oid: int) -> list[Index]:
        """Return the indexes of a table."""
        return [index(row) for row in self.rows("indexes", oids=[oid], indexes=[], locks=True)]

    def keys(self, oids: Iterable[int], *, without: str = "") -> dict[int, tuple[str, ...]]:
        """Return the columns that identify the rows of each table, () where none do; ``without`` is left out."""
        found: dict[int, tuple[str, ...]] = dict.fromkeys(oids, ())
        for key in map(unique_key, self.rows("keys", oids=list(found)) if found else []):
            if not found[key.relation] and not key.is_deferrable and without not in key.columns:
                found[key.relation] = key.columns
        return found

    def things(self, addresses: Sequence[Address]) -> list[CatalogObject]:
        """Return these objects with their names, in the same order."""
        found = []
        for query, parameters in things(addresses):
            for row in self.rows(query, **parameters):
                address = (row.pop("class"), row.pop("oid"), row.pop("part"))
                found.append(CatalogObject(address=address, **row))
        return found

    def thing(self, address: Address | None) -> CatalogObject | None:
        """Return an object with its name."""
        return self.things([address])[0] if address else None

    def address(self, kind: str, names: Sequence[str], args: Sequence[str] = ()) -> Address | None:
        """Return the object that a name refers to in this session, None when there is none."""
        try:
            with self._cursor.connection.transaction():
                row = self._in_session("address", kind=kind, names=list(names), args=list(args))
        except psycopg.Error as exc:
            if meaning(exc) is Meaning.REFUSED:
                return None
            raise
        return (row["class"], row["oid"], row["part"]) if row and row["oid"] else None

    def routine(self, names: Sequence[str], args: str | None) -> Address | None:
        """Return the function, procedure or aggregate of a signature; without one, the only one of that name."""
        row = self._in_session("routine", name=".".join(quoted(name) for name in names), args=args)
        return (CLASSES["pg_proc"], row["oid"], 0) if row and row["oid"] else None

    def type(self, node: Any) -> int | None:
        """Return the type that a statement names, None when there is none."""
        row = self._in_session("type", name=node if isinstance(node, str) else text(node))
        return int(row["oid"]) if row and row["oid"] else None

    def describe(self, query: str) -> list[str] | None:
        """Return the names of a query's columns, None when the server refuses it."""
        try:
            with self._cursor.connection.transaction():
                self._cursor.execute(_path(self._search_path).encode())
                self._cursor.execute(f"SELECT * FROM ({query}) AS pgrunbook LIMIT 0".encode())  # noqa: S608
                names = [column.name for column in self._cursor.description or ()]
                self._cursor.execute(_path("").encode())
        except psycopg.Error as exc:
            if meaning(exc) in (Meaning.REFUSED, Meaning.NO_RIGHT):
                return None
            raise
        return names

    def is_true(self, query: str) -> bool:
        """Tell whether a query of the application has this answer; it reads catalogs, with the session's search path.

        It must have no parameters, and a refusal of the server is an error.
        """
        _, found, _ = self._at_once([_path(self._search_path), query, _path("")])
        return bool(found) and next(iter(found[0].values())) is True

    def catalog_rows(self, query: Any) -> list[dict[str, Any]]:
        """Return the rows of a query of the application that reads catalogs, with its values as constants in SQL.

        A column whose values another database has otherwise (an OID) or that is NULL is left out.
        """
        self._cursor.execute(_path(self._search_path).encode())
        self._cursor.execute(text(query).encode())
        types = [_CONSTANT_TYPES.get(column.type_code, "") for column in self._cursor.description or ()]
        found = [
            {name: cast(value, type_) for (name, value), type_ in zip(row.items(), types, strict=True)
             if type_ and value is not None}
            for row in self._cursor.fetchall()
        ]  # fmt: skip
        self._cursor.execute(_path("").encode())
        return found

    def _in_session(self, query: str, **parameters: object) -> dict[str, Any] | None:
        """Return the first row of a query that resolves a name with the session's search path."""
        asked = self._told(query, parameters)
        _, found, _ = self._at_once([_path(self._search_path), asked, _path("")])
        return found[0] if found else None

    def _told(self, query: str, parameters: dict[str, Any]) -> str:
        return psycopg.ClientCursor(self._cursor.connection).mogrify(self._queries[query], parameters).rstrip(";")

    def _at_once(self, statements: Sequence[str]) -> list[list[dict[str, Any]]]:
        """Return the rows of several statements sent in one round trip; they must not have parameters."""
        self._cursor.execute(";\n".join(statements).encode())
        return [cursor.fetchall() for cursor in self._cursor.results()]


def columns_asked(oids: Sequence[int]) -> Question:
    """Return the query for the columns of relations."""
    return "columns", {"oids": list(oids), "locks": True}


def things(addresses: Sequence[Address]) -> list[Question]:
    """Return the query for the names of these objects, [] when there are none."""
    if not addresses:
        return []
    classes, objects, parts = (list(part) for part in zip(*addresses, strict=True))
    return [("things", {"classes": classes, "objects": objects, "parts": parts})]


def _path(path: str) -> str:
    return f"SELECT pg_catalog.set_config('search_path', {literal(path)}, true)"


def _at(oid: int) -> dict[str, Any]:
    return {"oid": oid, "name": None, "path": []}


def _key(query: str, parameters: dict[str, Any]) -> str:
    return f"{query} {sorted(parameters.items())}"


_FIRST_OWN_OID = 16_384
# Types of the server's answers whose values are the same in another database.
_CONSTANT_TYPES = {19: "name", 20: "int8", 23: "int4", 25: "text", 1043: "text"}
# The OIDs of these catalogs are part of the server's source and never change.
CLASSES = {
    "pg_class": 1259, "pg_proc": 1255, "pg_type": 1247, "pg_namespace": 2615, "pg_constraint": 2606,
    "pg_trigger": 2620, "pg_rewrite": 2618, "pg_policy": 3256, "pg_attrdef": 2604, "pg_statistic_ext": 3381,
    "pg_publication": 6104, "pg_publication_rel": 6106, "pg_extension": 3079, "pg_language": 2612,
    "pg_foreign_data_wrapper": 2328, "pg_foreign_server": 1417, "pg_database": 1262, "pg_tablespace": 1213,
    "pg_authid": 1260, "pg_cast": 2605, "pg_user_mapping": 1418, "pg_event_trigger": 3466,
}  # fmt: skip


@contextmanager
def reading(conn: Connection) -> Iterator[Reader]:
    """Provide a reader of the connection's database.

    After any error inside, the caller's transaction can continue, and the session's settings are as before.

    Raises Blocked when a lock could not be acquired.
    """
    begin, end = _OWN if conn.info.transaction_status == TransactionStatus.IDLE else _INSIDE
    cursor = psycopg.Cursor(conn, row_factory=dict_row)
    try:
        with blocked_on_lock_timeout(READ_LOCK_TIMEOUT_MS):
            cursor.execute(_opening(begin, conn.search_path))
            while cursor.description is None or cursor.description[0].name != "path":
                cursor.nextset()
            (session,) = cursor.fetchall()
            yield Reader(conn, cursor, session)
    finally:
        if not conn.closed:
            cursor.execute(end.encode())


@cache
def _opening(begin: str, search_path: str | None) -> bytes:
    """Return the batch that begins, reads what a session of the target is set to, and sets ours."""
    settings = {
        **SETTINGS,
        "lock_timeout": str(READ_LOCK_TIMEOUT_MS),
        "statement_timeout": str(READ_STATEMENT_TIMEOUT_MS),
    }
    assignments = "; ".join(f"SET LOCAL {name} = {literal(value)}" for name, value in settings.items())
    path = "" if search_path is None else f"{_path(search_path)}; "
    return f"{begin}; {path}{load('inverse')['session']} {assignments}".encode()
