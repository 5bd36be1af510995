"""A check by the server's own parser that it knows each statement; nothing is executed; for prepare and the review.

Our parser, and perhaps the branch, is PostgreSQL 18; an older target refuses newer syntax.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pglast
from pglast import ast
from psycopg import errors as pg

from pgrunbook.database.connection import Connection
from pgrunbook.errors import WrongInput
from pgrunbook.sql.classify import kind
from pgrunbook.sql.routines import UNREADABLE, Block, block, routine
from pgrunbook.sql.statements import Statement
from pgrunbook.sql.tree import text as text_of
from pgrunbook.sql.tree import tree, walk

# PL/pgSQL has the server parse SQL when it reads a block, before anything is executed. Statements that PL/pgSQL
# reads in its own way (SELECT INTO, CALL, SET, and those of its own language) prove nothing.
OTHERWISE = ("CALL", "SET", "RESET", "EXECUTE", "DO", "CLOSE", "DECLARE", "FETCH", "MOVE")
# Before, PL/pgSQL takes the table behind MERGE INTO for a variable, and says that there is none.
MERGE_SINCE = 15
SHOWN = 80


def refuse_unknown(conn: Connection, statements: Sequence[Statement]) -> None:
    """Check that the server can parse each statement, and what stands in it as the body of a function or of DO.

    Nothing is executed: the statement stands in a branch of a DO block that is never taken.
    Source: https://www.postgresql.org/docs/current/plpgsql-development-tips.html

    Raises WrongInput for the first that it cannot.
    """
    version = conn.info.server_version // 10_000
    if version >= pglast.get_postgresql_version()[0]:
        return  # our parser has read them all
    for statement in statements:
        refused = _refused(conn, [statement.sql])
        if refused:
            told = f"PostgreSQL {version} does not know this statement"
            raise _wrong(statement, told, refused)
        texts = _body(tree(statement.sql)).texts
        if texts and _refused(conn, texts):
            for text in texts:
                if refused := _refused(conn, [text]):
                    line = _line(statement, text)
                    told = f"PostgreSQL {version} does not know a statement in its body, line {line}"
                    raise _wrong(statement, told, f"{' '.join(text.split())[:SHOWN]}: {refused}")


def _body(node: Any) -> Block:
    """Return what a statement holds as a text that the server does not parse with it."""
    match node:
        case ast.CreateFunctionStmt(sql_body=None):
            return routine(text_of(node))
        case ast.DoStmt():
            return block(text_of(node))
    return UNREADABLE


def _refused(conn: Connection, texts: Sequence[str]) -> str:
    """Return what the server's parser says of the first text that it does not know, "" where it knows all."""
    asked = [sql for text in texts if (sql := _to_ask(text))]
    if not asked:
        return ""
    tag = "$pgrunbook_asks$"
    lines = "\n;".join(asked)
    block_ = f"DO LANGUAGE plpgsql {tag} BEGIN IF false THEN {lines}\n; END IF; END {tag}"
    try:
        with conn.transaction(), conn.as_target():
            conn.execute(block_.encode())
    except pg.SyntaxError as exc:
        knows_merge = conn.info.server_version // 10_000 >= MERGE_SINCE
        if not knows_merge and any(isinstance(part, ast.MergeStmt) for text in texts for part in walk(tree(text))):
            return 'syntax error at or near "MERGE"'
        return str(exc.diag.message_primary)
    return ""


def _to_ask(sql: str) -> str:
    """Return a statement as PL/pgSQL passes it on to the server's parser, "" where it reads it in its own way."""
    node = tree(sql)
    if kind(node).split()[0] in OTHERWISE or _has_into(node):
        return ""
    # PL/pgSQL itself has no statement that begins with TABLE, VALUES or a parenthesis.
    return f"CREATE VIEW asked AS {sql}" if isinstance(node, ast.SelectStmt) else sql


def _line(statement: Statement, text: str) -> int:
    """Return the line of the file where a text of a statement stands, that of the statement where it is not found."""
    written = text.removeprefix("SELECT ")
    at = max(statement.sql.find(text), statement.sql.find(written))
    return statement.line + statement.sql.count("\n", 0, max(at, 0))


def _wrong(statement: Statement, told: str, refused: str) -> WrongInput:
    hint = "Write it for this version, or upgrade the server first."
    return WrongInput(f"{statement.place}: {told}", detail=f"{refused}; newer versions know it.", hint=hint)


def _has_into(node: Any) -> bool:
    """Tell whether a query makes a table, which PL/pgSQL would take for a variable."""
    query = node.query if isinstance(node, ast.ExplainStmt) else node
    return isinstance(query, ast.SelectStmt) and any(isinstance(part, ast.IntoClause) for part in walk(query))
