"""What a rollback drops: tables and columns, how much they hold now, and whether that is captured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pglast
import psycopg
from pglast import ast, enums
from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.database.facts import Facts
from pgrunbook.database.queries import load
from pgrunbook.database.sqlstate import Meaning, meaning
from pgrunbook.plan.plan import Change
from pgrunbook.plan.step import Keep
from pgrunbook.sql.deparse import parsed
from pgrunbook.sql.tree import dotted_name


@dataclass(frozen=True)
class Loss:
    """A table or column that is dropped, and how many rows or values it holds now (None: could not be counted).

    ``statement`` is the number of the statement that drops it; ``kept_as`` is where it is captured, "" when lost.
    """

    migration: str
    what: str
    holds: int | None
    unit: str
    kept_as: str = ""
    statement: int = 0


def losses(conn: Connection, changes: Sequence[Change]) -> list[Loss]:
    """Return the tables and columns that the changes drop or empty, with what they hold now; [] when there is none.

    What DELETE, UPDATE and code will remove is not counted: that is known only afterwards. A table or column that
    does not exist holds nothing, nor does a generated column. What is captured before its schema goes is no loss.
    """
    found = []
    parked: set[str] = set()
    for change in changes:
        for written in change.statements:
            keeps = [keep for step in change.of_statement(written.number) for keep in step.keeps]
            for keep in keeps:
                parked |= {keep.table} if keep.kind == "table" else set()
                if keep.kind != "rows":
                    found.append(_kept(conn, change.migration, written.number, keep))
            node = next(iter(pglast.parse_sql(written.sql)), ast.RawStmt(stmt=None)).stmt
            if keeps or node is None:
                continue
            in_schemas = (one for one in _in_schemas(conn, node) if dotted_name(*one[:2]) not in parked)
            for schema, table, column in (*_dropped(node), *in_schemas):
                what = ".".join(filter(None, [schema, table, column]))
                holds = _count(conn, schema, table, column)
                found.append(Loss(change.migration, what, holds, "values" if column else "rows", "", written.number))
    return found


def _kept(conn: Connection, migration: str, number: int, keep: Keep) -> Loss:
    column = f".{keep.column}" if keep.column else ""
    where = f" WHERE {keep.column} IS DISTINCT FROM NULL" if keep.column else ""
    relation = Facts(conn).relation(parsed(f"TABLE {keep.table}").fromClause[0])
    only = "ONLY " if relation is not None and relation.inherits_down else ""
    query = sql.SQL("SELECT pg_catalog.count(*) FROM {}{}{}")
    holds = _counted(conn, query.format(sql.SQL(only), sql.SQL(keep.table), sql.SQL(where)))
    return Loss(migration, f"{keep.table}{column}", holds, "values" if column else "rows", keep.kept_as, number)


def _dropped(node: object) -> Iterator[tuple[str | None, str, str | None]]:
    if isinstance(node, ast.DropStmt) and node.removeType == enums.ObjectType.OBJECT_TABLE:
        for entry in node.objects:
            names = [part.sval for part in entry]
            yield (names[-2] if len(names) > 1 else None), names[-1], None
    if isinstance(node, ast.TruncateStmt):
        for relation in node.relations:
            yield relation.schemaname, relation.relname, None
    if isinstance(node, ast.AlterTableStmt):
        for cmd in node.cmds:
            if enums.AlterTableType(cmd.subtype).name == "AT_DropColumn":
                yield node.relation.schemaname, node.relation.relname, cmd.name


def _in_schemas(conn: Connection, node: object) -> Iterator[tuple[str, str, None]]:
    """The tables in the schemas that a DROP SCHEMA drops."""
    if not (isinstance(node, ast.DropStmt) and node.removeType == enums.ObjectType.OBJECT_SCHEMA):
        return
    query = """
        SELECT n.nspname, c.relname
        FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = ANY(%s) AND c.relkind = 'r'
        ORDER BY 1, 2
    """
    for schema, table in conn.execute(query, [[entry.sval for entry in node.objects]]):
        yield str(schema), str(table), None


def _count(conn: Connection, schema: str | None, table: str, column: str | None) -> int | None:
    name = sql.Identifier(schema, table) if schema else sql.Identifier(table)
    if column and _is_generated(conn, name, column):
        return 0
    where = sql.SQL(" WHERE {} IS DISTINCT FROM NULL").format(sql.Identifier(column)) if column else sql.SQL("")
    return _counted(conn, sql.SQL("SELECT pg_catalog.count(*) FROM {}{}").format(name, where))


def _is_generated(conn: Connection, table: sql.Identifier, column: str) -> bool:
    with conn.as_target():
        found = conn.execute(load("undo_data")["is_generated"].encode(), [table.as_string(None), column]).fetchone()
    return found == (True,)


def _counted(conn: Connection, query: sql.Composed) -> int | None:
    try:
        with conn.as_target():
            row = conn.execute(query).fetchone()
    except (
        psycopg.errors.UndefinedTable,
        psycopg.errors.UndefinedColumn,
        psycopg.errors.InvalidSchemaName,
    ):
        return 0
    except psycopg.Error as exc:
        if meaning(exc) is Meaning.LOST:
            raise
        return None
    return int(str(row[0])) if row else 0
