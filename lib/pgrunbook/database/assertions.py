"""Assertions of the operator: queries that must return no row; validate checks them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from pglast import ast

from pgrunbook.database.connection import READ_LOCK_TIMEOUT_MS, Connection, limit_locally
from pgrunbook.database.sqlstate import Meaning, meaning, said
from pgrunbook.errors import WrongInput
from pgrunbook.sql import outside, statements
from pgrunbook.sql.tree import tree, walk

FIRST_ROWS = 20
_READ_ONLY = "25006"
_WRITES = (ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt)
_ASKED_ROWS = b"FETCH FORWARD %d FROM pgrunbook_assertion" % FIRST_ROWS
_COUNTED = b"MOVE FORWARD ALL IN pgrunbook_assertion"


@dataclass(frozen=True)
class Assertion:
    """A query that finds what must not be, and the name of its file."""

    name: str
    sql: str


@dataclass(frozen=True)
class AssertionResult:
    """What an assertion found. ``rows`` is how many at least, and all of them where it ``is_counted``.

    ``first`` are the first of them, as the server writes them. ``why`` says what went wrong, "" where nothing did.
    """

    name: str
    rows: int = 0
    is_counted: bool = False
    columns: tuple[str, ...] = ()
    first: tuple[tuple[str, ...], ...] = ()
    why: str = ""

    @property
    def holds(self) -> bool:
        """Whether the query ran to its end and found nothing."""
        return self.is_counted and not self.rows


def check(conn: Connection, assertion: Assertion, *, timeout_ms: int) -> AssertionResult:
    """Run an assertion as the target's role, in a transaction that is read only and aborted.

    1. Its text must be one query, and reach nothing outside of the database; it is not sent otherwise.
    2. The first rows are fetched from a cursor, the others only counted: a million rows never come over.

    Each of both gets ``timeout_ms``. What the server refuses, also of what a function writes, is in ``why``.

    Raises psycopg's error when the session is lost.
    Locks: AccessShareLock on what it reads, to its end.
    """
    try:
        text = _query(assertion)
    except WrongInput as exc:
        return AssertionResult(assertion.name, why=f"refused: {exc.message}")
    found: dict[str, Any] = {}
    try:
        with conn.transaction(force_rollback=True):
            conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            conn.execute("SET LOCAL cursor_tuple_fraction = 1")  # all of its rows are wanted
            limit_locally(conn, lock_timeout_ms=READ_LOCK_TIMEOUT_MS, statement_timeout_ms=timeout_ms)
            with conn.as_target():
                declared = b"DECLARE pgrunbook_assertion NO SCROLL CURSOR FOR " + text.encode()
                conn.execute(declared, binary=True)  # binary: the protocol of one statement
                found |= _fetched(conn)
                # Its own text may have set other ones.
                limit_locally(conn, lock_timeout_ms=READ_LOCK_TIMEOUT_MS, statement_timeout_ms=timeout_ms)
                others = conn.execute(_COUNTED).statusmessage or ""
                found |= {"rows": found["rows"] + int(others.removeprefix("MOVE ")), "is_counted": True}
    except psycopg.Error as exc:
        if meaning(exc) is Meaning.LOST:
            raise
        found["why"] = _refused(exc, timeout_ms)
    return AssertionResult(assertion.name, **found)


def _query(assertion: Assertion) -> str:
    """Return the text of the one query. Raises WrongInput for any other text."""
    found = statements.parse(assertion.sql, assertion.name)
    if len(found) != 1:
        raise WrongInput(f"it holds {len(found)} statements, and an assertion is one query")
    node = tree(found[0].sql)
    is_query = isinstance(node, ast.SelectStmt) and node.intoClause is None
    if not is_query or any(isinstance(part, _WRITES) for part in walk(node)):
        raise WrongInput("it is no query that only reads: SELECT, VALUES, TABLE, or WITH and one of these")
    outward = outside.reach(node)
    if outward:
        raise WrongInput(f"it {outward}")
    return found[0].sql.rstrip().removesuffix(";")


def _fetched(conn: Connection) -> dict[str, Any]:
    cursor = conn.execute(_ASKED_ROWS)
    result, columns = cursor.pgresult, tuple(column.name for column in cursor.description or ())
    if result is None:
        return {"rows": 0}
    first = tuple(
        tuple(_text(result.get_value(row, column)) for column in range(len(columns))) for row in range(result.ntuples)
    )
    return {"rows": len(first), "columns": columns, "first": first}


def _text(value: bytes | None) -> str:
    return "NULL" if value is None else value.decode("utf-8", "replace")


def _refused(exc: psycopg.Error, timeout_ms: int) -> str:
    if exc.sqlstate == _READ_ONLY:
        return f"refused: {said(exc)}; an assertion only reads"
    if isinstance(exc, psycopg.errors.QueryCanceled):
        return f"could not be checked within {timeout_ms / 1000:g} s: {said(exc)}"
    return f"could not be checked: {said(exc)}"
