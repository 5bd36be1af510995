"""Statements that run alone: did one that a crash cut off take effect, and what did it leave behind."""

from __future__ import annotations

from typing import Any

import pglast
from pglast import ast
from psycopg import sql

from pgrunbook.changes.plan import Step
from pgrunbook.database.connection import Connection


def really_done(conn: Connection, step: Step) -> bool:
    """Tell from the catalog whether a step that was meant to be done took effect before the crash.

    True for an index that is there and valid, an index or partition that is gone, an enum label, database,
    tablespace or subscription that is there or gone. False for what may be run again as it is (VACUUM, REINDEX).
    """
    node = pglast.parse_sql(step.sql)[0].stmt
    match node:
        case ast.IndexStmt() if node.idxname:
            return _index(conn, node) is True
        case ast.DropStmt() if node.concurrent:
            names = [part.sval for part in node.objects[0]]
            return not _exists(conn, "SELECT WHERE pg_catalog.to_regclass(%s) IS NOT NULL", _dotted(*names))
        case ast.AlterEnumStmt() if node.newVal:
            return _has_label(conn, [part.sval for part in node.typeName], node.newVal)
        case ast.AlterTableStmt():
            partition = node.cmds[0].def_.name
            return not _is_partition(conn, partition)
    return _is_there_or_gone(conn, node)


def leftover_of(conn: Connection, step: Step) -> sql.Composed | None:
    """Return the statement that clears away what an attempt of this step left, None where there is nothing.

    A failed CREATE INDEX CONCURRENTLY leaves its index behind, marked invalid
    (https://www.postgresql.org/docs/current/sql-createindex.html#SQL-CREATEINDEX-CONCURRENTLY); a DETACH
    PARTITION CONCURRENTLY that was cut off has to be finalized
    (https://www.postgresql.org/docs/current/sql-altertable.html#SQL-ALTERTABLE-DETACH-PARTITION).
    Locks of the statement: ShareUpdateExclusiveLock on the table.
    """
    node = pglast.parse_sql(step.sql)[0].stmt
    match node:
        case ast.IndexStmt() if node.concurrent and node.idxname and _index(conn, node) is False:
            names = [node.relation.schemaname, node.idxname]
            return sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(sql.Identifier(*filter(None, names)))
        case ast.AlterTableStmt() if _is_pending_detach(conn, node.cmds[0].def_.name):
            parent, partition = node.relation, node.cmds[0].def_.name
            return sql.SQL("ALTER TABLE {} DETACH PARTITION {} FINALIZE").format(
                sql.Identifier(*filter(None, [parent.schemaname, parent.relname])),
                sql.Identifier(*filter(None, [partition.schemaname, partition.relname])),
            )
    return None


def _index(conn: Connection, node: Any) -> bool | None:
    """Return whether the index of a CREATE INDEX is valid, None where its table has none of that name."""
    row = conn.execute(
        """
        SELECT i.indisvalid AND i.indisready
        FROM pg_catalog.pg_index i
        JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
        WHERE i.indrelid = pg_catalog.to_regclass(%s) AND c.relname = %s
        """,
        [_regclass(node.relation), node.idxname],
    ).fetchone()
    return None if row is None else row[0] is True


def _has_label(conn: Connection, type_name: list[str], label: str) -> bool:
    query = "SELECT FROM pg_catalog.pg_enum e WHERE e.enumtypid = pg_catalog.to_regtype(%s) AND e.enumlabel = %s"
    return _exists(conn, query, _dotted(*type_name), label)


def _is_partition(conn: Connection, name: Any) -> bool:
    query = "SELECT FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass(%s) AND c.relispartition"
    return _exists(conn, query, _regclass(name))


def _is_pending_detach(conn: Connection, name: Any) -> bool:
    query = "SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = pg_catalog.to_regclass(%s) AND i.inhdetachpending"
    return _exists(conn, query, _regclass(name))


def _is_there_or_gone(conn: Connection, node: Any) -> bool:
    databases = "SELECT FROM pg_catalog.pg_database d WHERE d.datname = %s"
    tablespaces = "SELECT FROM pg_catalog.pg_tablespace t WHERE t.spcname = %s"
    subscriptions = "SELECT FROM pg_catalog.pg_subscription s WHERE s.subname = %s"
    match node:
        case ast.CreatedbStmt():
            return _exists(conn, databases, node.dbname)
        case ast.DropdbStmt():
            return not _exists(conn, databases, node.dbname)
        case ast.CreateTableSpaceStmt():
            return _exists(conn, tablespaces, node.tablespacename)
        case ast.DropTableSpaceStmt():
            return not _exists(conn, tablespaces, node.tablespacename)
        case ast.CreateSubscriptionStmt():
            return _exists(conn, subscriptions, node.subname)
        case ast.DropSubscriptionStmt():
            return not _exists(conn, subscriptions, node.subname)
    return False


def _exists(conn: Connection, query: str, *values: str) -> bool:
    return conn.execute(query.encode(), values).fetchone() is not None


def _regclass(name: Any) -> str:
    return _dotted(*filter(None, [name.schemaname, name.relname]))


def _dotted(*names: str) -> str:
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)
