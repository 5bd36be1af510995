"""Queries for statements that run alone as they are written: did a cut-off one take effect, what did it leave.

They stand in the plan beside the statement, as those of safe forms do.
"""

from __future__ import annotations

from typing import Any

import pglast
from pglast import ast
from psycopg import sql

from pgrunbook.database.queries import load


def done(statement: str) -> str | None:
    """Return the query for whether a statement took effect; None for what may be run again as it is (VACUUM).

    It looks for an index that is there and valid, an index or partition that is gone, an enum label, database,
    tablespace or subscription that is there or gone.
    """
    node = pglast.parse_sql(statement)[0].stmt
    match node:
        case ast.IndexStmt() if node.idxname:
            return _filled("index_is_valid", table=_regclass(node.relation), index=node.idxname)
        case ast.DropStmt() if node.concurrent:
            return _filled("relation_is_gone", relation=_dotted(*(part.sval for part in node.objects[0])))
        case ast.AlterEnumStmt() if node.newVal:
            return _filled("label_is_there", type=_dotted(*(n.sval for n in node.typeName)), label=node.newVal)
        case ast.AlterTableStmt():
            return _filled("partition_is_gone", partition=_regclass(node.cmds[0].def_.name))
        case ast.CreatedbStmt():
            return _filled("database_is_there", name=node.dbname)
        case ast.DropdbStmt():
            return f"SELECT NOT ({_filled('database_is_there', name=node.dbname)})"
        case ast.CreateTableSpaceStmt():
            return _filled("tablespace_is_there", name=node.tablespacename)
        case ast.DropTableSpaceStmt():
            return f"SELECT NOT ({_filled('tablespace_is_there', name=node.tablespacename)})"
        case ast.CreateSubscriptionStmt():
            return _filled("subscription_is_there", name=node.subname)
        case ast.DropSubscriptionStmt():
            return f"SELECT NOT ({_filled('subscription_is_there', name=node.subname)})"
    return None


def leftovers(statement: str) -> str | None:
    """Return the query for the statements that clear away what an attempt left, None where nothing is ever left.

    A failed CREATE INDEX CONCURRENTLY leaves its index behind, marked invalid
    (https://www.postgresql.org/docs/current/sql-createindex.html#SQL-CREATEINDEX-CONCURRENTLY); a DETACH
    PARTITION CONCURRENTLY that was cut off has to be finalized
    (https://www.postgresql.org/docs/current/sql-altertable.html#SQL-ALTERTABLE-DETACH-PARTITION).
    Locks of the statements: ShareUpdateExclusiveLock on the table.
    """
    node = pglast.parse_sql(statement)[0].stmt
    match node:
        case ast.IndexStmt() if node.concurrent and node.idxname:
            return _filled("invalid_index", table=_regclass(node.relation), index=node.idxname)
        case ast.AlterTableStmt():
            partition = _regclass(node.cmds[0].def_.name)
            return _filled("pending_detach", parent=_regclass(node.relation), partition=partition)
    return None


def _filled(query: str, **values: str) -> str:
    template = sql.SQL(load("nontransactional")[query])
    return template.format(**{key: sql.Literal(value) for key, value in values.items()}).as_string(None)


def _regclass(name: Any) -> str:
    return _dotted(*filter(None, [name.schemaname, name.relname]))


def _dotted(*names: str) -> str:
    return sql.Identifier(*names).as_string(None)
