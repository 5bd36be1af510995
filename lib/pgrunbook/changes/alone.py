"""Statements that run alone: did one that a crash cut off take effect, and what did it leave behind."""

from __future__ import annotations

import pglast
from pglast import ast
from psycopg import sql

from pgrunbook.changes.plan import Step
from pgrunbook.database.connection import Connection


def really_done(conn: Connection, step: Step) -> bool:
    """Tell from the catalog whether a step that was meant to be done took effect before the crash.

    True for an index that is there and valid, an index or partition that is gone, an enum label that
    is there. False for what may be run again as it is (VACUUM, REINDEX).
    """
    node = pglast.parse_sql(step.sql)[0].stmt
    match node:
        case ast.IndexStmt() if node.idxname:
            return _index(conn, node.relation.schemaname, node.idxname) is True
        case ast.DropStmt() if node.concurrent:
            names = [part.sval for part in node.objects[0]]
            return _index(conn, names[-2] if len(names) > 1 else None, names[-1]) is None
        case ast.AlterEnumStmt() if node.newVal:
            return _has_label(conn, [part.sval for part in node.typeName], node.newVal)
        case ast.AlterTableStmt():
            partition = node.cmds[0].def_.name
            return not _is_partition(conn, partition.schemaname, partition.relname)
    return False


def leftover_of(conn: Connection, step: Step) -> sql.Composed | None:
    """Return the statement that drops the invalid index which an attempt of this step left, None where none is.

    A failed CREATE INDEX CONCURRENTLY leaves its index behind, marked invalid
    (https://www.postgresql.org/docs/current/sql-createindex.html#SQL-CREATEINDEX-CONCURRENTLY).
    Locks of the statement: ShareUpdateExclusiveLock on the table.
    """
    node = pglast.parse_sql(step.sql)[0].stmt
    if not (isinstance(node, ast.IndexStmt) and node.concurrent and node.idxname):
        return None
    if _index(conn, node.relation.schemaname, node.idxname) is not False:
        return None
    names = [node.relation.schemaname, node.idxname] if node.relation.schemaname else [node.idxname]
    return sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(sql.Identifier(*names))


def _index(conn: Connection, schema: str | None, name: str) -> bool | None:
    """Return whether an index is valid, None where there is no index of that name."""
    row = conn.execute(
        """
        SELECT i.indisvalid AND i.indisready
        FROM pg_catalog.pg_index i
        WHERE i.indexrelid = pg_catalog.to_regclass(%s)
        """,
        [_regclass(schema, name)],
    ).fetchone()
    return None if row is None else row[0] is True


def _has_label(conn: Connection, type_name: list[str], label: str) -> bool:
    found = conn.execute(
        "SELECT FROM pg_catalog.pg_enum e WHERE e.enumtypid = pg_catalog.to_regtype(%s) AND e.enumlabel = %s",
        [".".join(_quoted(part) for part in type_name), label],
    ).fetchone()
    return found is not None


def _is_partition(conn: Connection, schema: str | None, name: str) -> bool:
    found = conn.execute(
        "SELECT c.relispartition FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass(%s)",
        [_regclass(schema, name)],
    ).fetchone()
    return found == (True,)


def _regclass(schema: str | None, name: str) -> str:
    return f"{_quoted(schema)}.{_quoted(name)}" if schema else _quoted(name)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
