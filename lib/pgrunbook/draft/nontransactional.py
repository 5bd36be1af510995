"""Queries for statements that run outside a transaction: did an interrupted one take effect, what did it leave.

The plan holds them beside the statement, like those of safe forms.
"""

from __future__ import annotations

from typing import Any

import pglast
from pglast import ast
from psycopg import sql

from pgrunbook.database.queries import load
from pgrunbook.safe_forms import probes


def done(statement: str) -> str | None:
    """Return the query for whether a statement took effect; None for one that can simply run again (VACUUM).

    It checks that an index exists and is valid, that an index or partition is gone, or that an enum label,
    database, tablespace or subscription exists or is gone.
    """
    node = pglast.parse_sql(statement)[0].stmt
    match node:
        case ast.IndexStmt() if node.idxname:
            return _filled("index_is_valid", table=_regclass(node.relation), index=node.idxname)
        case ast.DropStmt() if node.concurrent:
            return probes.none_of(probes.is_there(_dotted(*(part.sval for part in node.objects[0]))))
        case ast.AlterEnumStmt() if node.newVal:
            return _filled("label_is_there", type=_dotted(*(n.sval for n in node.typeName)), label=node.newVal)
        case ast.AlterTableStmt():
            return probes.none_of(probes.is_partition(_regclass(node.cmds[0].def_.name)))
        case ast.CreatedbStmt():
            return _filled("database_is_there", name=node.dbname)
        case ast.DropdbStmt():
            return probes.none_of(_filled("database_is_there", name=node.dbname))
        case ast.CreateTableSpaceStmt():
            return _filled("tablespace_is_there", name=node.tablespacename)
        case ast.DropTableSpaceStmt():
            return probes.none_of(_filled("tablespace_is_there", name=node.tablespacename))
        case ast.CreateSubscriptionStmt():
            return _filled("subscription_is_there", name=node.subname)
        case ast.DropSubscriptionStmt():
            return probes.none_of(_filled("subscription_is_there", name=node.subname))
    return None


def leftovers(statement: str) -> str | None:
    """Return the query for the statements that drop what an attempt left behind, None if nothing is ever left.

    A failed CREATE INDEX CONCURRENTLY leaves its index behind, marked invalid
    (https://www.postgresql.org/docs/current/sql-createindex.html#SQL-CREATEINDEX-CONCURRENTLY); a DETACH
    PARTITION CONCURRENTLY that was interrupted has to be finalized
    (https://www.postgresql.org/docs/current/sql-altertable.html#SQL-ALTERTABLE-DETACH-PARTITION).
    Locks of the statements: ShareUpdateExclusiveLock on the table.
    """
    node = pglast.parse_sql(statement)[0].stmt
    match node:
        case ast.IndexStmt() if node.concurrent and node.idxname:
            return _filled("invalid_index", table=_regclass(node.relation), index=node.idxname)
        case ast.AlterTableStmt():
            return probes.finalize_detach(_regclass(node.relation), _regclass(node.cmds[0].def_.name))
    return None


def _filled(query: str, **values: str) -> str:
    template = sql.SQL(load("nontransactional")[query])
    return template.format(**{key: sql.Literal(value) for key, value in values.items()}).as_string(None)


def _regclass(name: Any) -> str:
    return _dotted(*filter(None, [name.schemaname, name.relname]))


def _dotted(*names: str) -> str:
    return sql.Identifier(*names).as_string(None)
