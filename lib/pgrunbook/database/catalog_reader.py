"""Reader of the facts in ``database.catalog``: one snapshot, eleven queries."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import psycopg
from pglast import ast
from psycopg import sql
from psycopg.rows import namedtuple_row

from pgrunbook.database import routines_reader
from pgrunbook.database.catalog import (
    Catalog,
    Dependent,
    Fallen,
    Source,
    Table,
    Use,
)
from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import load, snapshot_cursor
from pgrunbook.database.queries import rows as queried
from pgrunbook.database.relations import Relation, columns_of, constraints_of, indexes_of, types_of
from pgrunbook.database.routines import Routines
from pgrunbook.database.sqlstate import Meaning, meaning
from pgrunbook.sql.dropped import Dropped, dropped
from pgrunbook.sql.routines import routine
from pgrunbook.sql.settings import SEARCH_PATH, path_names, settings
from pgrunbook.sql.statements import Statement
from pgrunbook.sql.tree import (
    CASCADE,
    Name,
    dotted,
    functions_in,
    object_kind,
    options,
    relation,
    relations_named,
    strings,
    text,
    tree,
    type_word,
    walk,
)

PAGE_BYTES = 8_192
GUESSED_ROW_BYTES = 100
MOST_USES = 5_000

# The actions of foreign keys, as in pg_constraint.confdeltype, along which a statement reaches further tables:
# TRUNCATE ... CASCADE follows them all, DELETE only ON DELETE CASCADE.
_TRUNCATE_FOLLOWS = "arcnd"
_DELETE_FOLLOWS = "c"


def read(conn: Connection, statements: Sequence[Statement]) -> Catalog:
    """Return what a review of the statements has to know of this database.

    Raises Blocked when a session holds AccessExclusiveLock on a table for longer than the lock_timeout of reading.

    Locks: AccessShareLock on the touched tables, while their sizes are read.
    """
    return read_for(conn, [tree(statement.sql) for statement in statements])


def read_for(conn: Connection, nodes: Sequence[Any], *, sized: bool = True) -> Catalog:
    """Return the same for the nodes of statements; without sizes and statistics no table is locked.

    Raises Blocked as :func:`read` does.
    """
    queries = load("catalog")
    with conn.as_target():
        session: Any = psycopg.Cursor(conn, row_factory=namedtuple_row).execute(queries["session"].encode()).fetchone()
    with snapshot_cursor(conn) as plain:
        routines = routines_reader.read(conn, [*nodes, *_created(nodes)])
        wanted = _Wanted(nodes, routines)
        cursor = psycopg.Cursor(plain.connection, row_factory=namedtuple_row)

        def rows(query: str, **arguments: object) -> list[Any]:
            return cursor.execute(queries[query].encode(), arguments or None).fetchall()

        path = [*session.search_path, *wanted.schemas_set]
        if wanted.path_is_computed:
            path = [row.schema for row in rows("schemas")]
        dropped = json.dumps([one._asdict() for one in wanted.dropped])
        fallen = rows("fallen", dropped=dropped, path=path) if wanted.dropped else []
        asked = {"names": json.dumps(wanted.names()), "path": path, **wanted.lists()}
        locked = [row.relation for row in fallen if row.relation is not None]
        relations = rows("relations", fallen=locked, sized=sized, **asked)
        touched = [relation.oid for relation in relations]
        dependents: dict[int, list[Dependent]] = {oid: [] for oid in touched}
        for each in rows("dependents", oids=touched):
            dependents[each.oid].append(Dependent(each.kind, each.name, tuple(each.columns), each.type))
        parts: dict[str, Mapping[int, Any]] = {
            "columns": columns_of(conn, touched, locks=sized),
            "indexes": indexes_of(conn, touched, locks=sized),
            "constraints": constraints_of(conn, touched, locks=sized),
            "dependents": dependents,
        }
        named = queried(conn, "relations", "functions", names=asked["functions"])
        catalog = Catalog(
            connected=True,
            major=session.major,
            role=session.role,
            time_zone=session.time_zone,
            search_path=tuple(session.search_path),
            tables=_tables(relations, parts),
            types=types_of(conn, asked["types"]),
            binary_casts=frozenset((row.source, row.target) for row in rows("binary_casts")),
            fallen=_fallen(fallen),
            ordered_as={row.type: row.ordered_as for row in rows("orders")},
            routines=routines,
            volatile_functions={row["name"]: row["is_volatile"] for row in named},
        )
    uses = _uses(conn, queries["statement_statistics"]) if sized else None
    return catalog if uses is None else replace(catalog, uses=tuple(uses), uses_known=True)


class _Wanted:
    """The names in the statements: of relations, of schemas dropped or renamed, of types and of functions.

    ``cascades`` are the actions of the foreign keys that the statements follow from table to table. ``schemas_set``
    are those of the search_paths that they set.
    """

    def __init__(self, nodes: Iterable[Any], routines: Routines) -> None:
        self.relations: dict[Name, None] = {}
        self.schemas: set[str] = set()
        self.types: set[str] = set()
        self.functions: set[str] = set()
        self.cascades: set[str] = set()
        self.publications: set[str] = set()
        self.dropped: list[Dropped] = []
        self.schemas_set: list[str] = []
        self.path_is_computed = False
        for node in nodes:
            inner = [part.node for part in routines.parts(node) if part.node is not None]
            for each in (node, *inner, *_created([node])):
                self._add(each)
            if isinstance(node, ast.CreateSeqStmt | ast.AlterSeqStmt):
                self._add_owner(node)
            routines = routines.after(node).beside(inner)

    def names(self) -> list[dict[str, str | None]]:
        return [{"schema": name.schema, "name": name.name} for name in self.relations]

    def lists(self) -> dict[str, list[str]]:
        found = {"schemas": self.schemas, "types": self.types, "functions": self.functions, "cascades": self.cascades,
                 "publications": self.publications}  # fmt: skip
        return {name: sorted(words) for name, words in found.items()}

    def _add(self, node: Any) -> None:
        for setting in settings(node):
            self.schemas_set += path_names(setting.value) if setting.name == SEARCH_PATH and setting.value else []
            self.path_is_computed = self.path_is_computed or (setting.may_be_search_path and not setting.is_known)
        for part in walk(node):
            match part:
                case ast.RangeVar():
                    self.relations[relation(part)] = None
                case ast.TypeName() if part.names:
                    self.types.add(type_word(part).name)
                case ast.TruncateStmt() if part.behavior == CASCADE:
                    self.cascades.update(_TRUNCATE_FOLLOWS)
                case ast.DeleteStmt():
                    self.cascades.update(_DELETE_FOLLOWS)
        self.functions.update(functions_in(node))
        self.dropped += dropped(node)
        self.publications.update([node.pubname] if isinstance(node, ast.AlterPublicationStmt) else ())
        match node:
            case ast.DropStmt():
                self._add_dropped(object_kind(node.removeType), node.objects)
            case ast.AlterDomainStmt():
                self.types.add(dotted(node.typeName).name)
            case ast.CommentStmt() | ast.AlterExtensionContentsStmt() if isinstance(node.object, tuple):
                self._add_commented(object_kind(node.objtype), node.object)
            case ast.RenameStmt() if object_kind(node.renameType) == "SCHEMA":
                self.schemas.add(node.subname)
            case ast.RenameStmt() | ast.AlterObjectSchemaStmt() if isinstance(node.object, tuple):
                self.types.add(dotted(node.object).name)

    def _add_owner(self, node: Any) -> None:
        """Add the table to which a sequence will belong."""
        owner = strings(node.options and options(node.options).get("owned_by"))
        if len(owner) > 1:
            self.relations[Name(owner[-3] if len(owner) > 2 else None, owner[-2])] = None

    def _add_dropped(self, kind: str, objects: Sequence[Any]) -> None:
        for entry in objects:
            if kind == "SCHEMA":
                self.schemas.add(dotted(entry).name)
            elif kind in ("TRIGGER", "POLICY", "RULE"):
                self.relations[dotted(entry[:-1])] = None
            elif kind in ("TYPE", "DOMAIN"):
                self.types.add(dotted(entry).name)
            else:
                self.relations[dotted(entry)] = None

    def _add_commented(self, kind: str, names: Sequence[Any]) -> None:
        inner = kind in ("COLUMN", "TABCONSTRAINT", "TRIGGER", "POLICY", "RULE")
        self.relations[dotted(names[:-1] if inner and len(names) > 1 else names)] = None


def _fallen(rows: Sequence[Any]) -> dict[str, tuple[Fallen, ...]]:
    found: dict[str, list[Fallen]] = defaultdict(list)
    for row in rows:
        says = row.says if row.hinders or row.word.startswith("OWNED") else ""
        found[row.word].append(Fallen(says, row.relation, row.mode, row.hinders, row.part, row.part_name))
    return {word: tuple(each) for word, each in found.items()}


def _created(nodes: Iterable[Any]) -> Iterator[Any]:
    """Yield the statements in the functions that the statements make: they may be called behind them."""
    for node in nodes:
        if isinstance(node, ast.CreateFunctionStmt):
            yield from (inner for inner, _ in routine(text(node)).nodes)


def _tables(relations: Sequence[Any], parts: Mapping[str, Mapping[int, Any]]) -> dict[tuple[str, str], Table]:
    keys = {row.oid: (row.schema, row.name) for row in relations}
    return {
        (row.schema, row.name): Table(
            **{each.name: getattr(row, each.name) for each in fields(Relation)},
            rows_estimate=_rows_estimate(row),
            table_bytes=row.table_bytes,
            columns=parts["columns"][row.oid],
            indexes=tuple(parts["indexes"][row.oid]),
            constraints=tuple(parts["constraints"][row.oid]),
            dependents=tuple(parts["dependents"][row.oid]),
            parents=tuple(keys[oid] for oid in row.parents if oid in keys),
            children=tuple(keys[oid] for oid in row.children if oid in keys),
            bound=row.bound,
            partition_key=row.partition_key,
            of_type=row.of_type,
            method=row.method,
            tablespace=row.tablespace,
            sources=_sources(row.query),
            reads=row.scans,
            writes=row.writes,
            vacuumed_at=row.vacuumed_at,
        )
        for row in relations
    }


def _sources(query: str) -> tuple[Source, ...]:
    if not query:
        return ()
    node = tree(query)
    main = {id(part) for part in walk(node.fromClause or ()) if isinstance(part, ast.RangeVar)}
    return tuple(
        Source((part.schemaname or "", part.relname), bool(part.inh), id(part) in main)
        for part in relations_named(node)
    )


def _rows_estimate(row: Any) -> int | None:
    """Rows as the planner counts them: density at the last ANALYZE, times the pages of today.

    Source: https://www.postgresql.org/docs/current/row-estimation-examples.html
    """
    if row.kind in ("v", "f", "S"):
        return None
    if row.heap_bytes == 0:
        return 0
    live, pages = int(row.live_rows_estimate or 0), int(row.heap_bytes) // PAGE_BYTES
    if row.reltuples >= 0 and row.pages > 0:
        # At least one: only a table without a page is sure to be empty.
        density = float(row.reltuples) / int(row.pages)
        return max(round(density * pages), live, 1)
    return live or max(1, pages * PAGE_BYTES // GUESSED_ROW_BYTES)


def _uses(conn: Connection, where: str) -> Iterator[Use] | None:
    """Return the statements that the server has counted, None where it does not count or does not show them.

    The extension can be installed without being loaded, or hide others' statements from us.
    """
    try:
        with conn.transaction():
            found = conn.execute(where.encode()).fetchone()
            if found is None:
                return None
            counted = conn.execute(
                sql.SQL(
                    "SELECT s.query, s.calls FROM {} AS s JOIN pg_catalog.pg_database AS d ON d.oid = s.dbid"
                    " WHERE d.datname = pg_catalog.current_database() AND s.query IS NOT NULL"
                    " ORDER BY s.calls DESC LIMIT {}"
                ).format(sql.Identifier(str(found[0]), "pg_stat_statements"), sql.Literal(MOST_USES))
            ).fetchall()
    except psycopg.Error as exc:
        if meaning(exc) in (Meaning.NO_RIGHT, Meaning.REFUSED):
            return None
        raise
    return iter([Use(str(query), int(str(calls))) for query, calls in counted])
