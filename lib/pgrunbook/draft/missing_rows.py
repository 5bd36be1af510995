"""Statements that need rows which an empty branch has not: these prove nothing there, and are executed without them.

A row that a new one refers to, one that a query reads its value from, one without which code raises an error.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import psycopg
from pglast import ast
from pglast.parser import split

from pgrunbook.database.connection import Connection
from pgrunbook.database.sqlstate import said
from pgrunbook.sql.classify import Policy
from pgrunbook.sql.deparse import parsed
from pgrunbook.sql.tree import walk

_CHANGES_ROWS = (
    ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt, ast.SelectStmt, ast.DoStmt, ast.CallStmt,
)  # fmt: skip
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_FOREIGN_KEY, _RAISED = "23503", ("P0001", "P0002", "P0004")
_VALUE = ("23502", "23514", "22012", "22004")


def execute(conn: Connection, sql: str, policy: Policy) -> str:
    """Execute a statement; return what the server says of one that needs rows, "" where it was executed."""
    is_apart = policy is Policy.TOGETHER and isinstance(parsed(split(sql)[-1]), _CHANGES_ROWS)
    try:
        with conn.transaction() if is_apart else nullcontext(), conn.as_target():
            conn.execute(sql.encode())
    except psycopg.Error as exc:
        if not is_apart or conn.closed or not is_for_missing_rows(sql, exc):
            raise
        return said(exc)
    return ""


def is_for_missing_rows(sql: str, exc: psycopg.Error) -> bool:
    """Tell whether a statement may have failed only because the database has no rows."""
    node = parsed(split(sql)[-1])
    if not isinstance(node, _CHANGES_ROWS):
        return False
    code = exc.sqlstate or ""
    return code == _FOREIGN_KEY or code in _RAISED or (code in _VALUE and _reads(node))


def _reads(node: Any) -> bool:
    """Tell whether what a statement writes depends on rows that are there, or on code."""
    if not isinstance(node, ast.InsertStmt):
        return True
    return any(isinstance(part, ast.RangeVar | ast.RangeFunction | ast.FuncCall) for part in walk(node.selectStmt))
