"""A check by the server's own parser that it knows each statement; nothing is executed; for prepare.

Our parser, and perhaps the branch, is PostgreSQL 18; an older target refuses newer syntax.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pglast import ast
from psycopg import errors as pg

from pgrunbook.database.connection import Connection
from pgrunbook.errors import WrongInput
from pgrunbook.sql.statements import Statement
from pgrunbook.sql.tree import tree, walk

# PL/pgSQL has the server parse SQL when it reads a block, before anything is executed. Statements that PL/pgSQL
# reads in its own way (SELECT INTO, CALL, SET, and those of its own language) prove nothing.
OTHERWISE = ("CALL", "SET", "RESET", "EXECUTE", "DO", "CLOSE", "DECLARE", "FETCH", "MOVE")
# Before, PL/pgSQL takes the table behind MERGE INTO for a variable, and says that there is none.
MERGE_SINCE = 15


def refuse_unknown(conn: Connection, statements: Sequence[Statement]) -> None:
    """Check that the server can parse each statement. Raises WrongInput for the first that it cannot.

    Nothing is executed: the statement stands in a branch of a DO block that is never taken.
    Source: https://www.postgresql.org/docs/current/plpgsql-development-tips.html
    """
    for statement in statements:
        node = tree(statement.sql)
        if statement.kind.split()[0] in OTHERWISE or _has_into(node):
            continue
        # PL/pgSQL itself has no statement that begins with TABLE, VALUES or a parenthesis.
        sql = f"CREATE VIEW asked AS {statement.sql}" if isinstance(node, ast.SelectStmt) else statement.sql
        tag = "$pgrunbook_asks$"
        block = f"DO LANGUAGE plpgsql {tag} BEGIN IF false THEN {sql}; END IF; END {tag}"
        try:
            with conn.as_target():
                conn.execute(block.encode())
        except pg.SyntaxError as exc:
            version = conn.info.server_version // 10_000
            is_of_merge = version < MERGE_SINCE and any(isinstance(part, ast.MergeStmt) for part in walk(node))
            told = 'syntax error at or near "MERGE"' if is_of_merge else exc.diag.message_primary
            raise WrongInput(
                f"{statement.place}: PostgreSQL {version} does not know this statement",
                detail=f"{told}; newer versions know it.",
                hint="Write it for this version, or upgrade the server first.",
            ) from exc


def _has_into(node: Any) -> bool:
    """Tell whether a query makes a table, which PL/pgSQL would take for a variable."""
    query = node.query if isinstance(node, ast.ExplainStmt) else node
    return isinstance(query, ast.SelectStmt) and any(isinstance(part, ast.IntoClause) for part in walk(query))
