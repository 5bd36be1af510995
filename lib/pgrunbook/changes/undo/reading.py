"""The view of the database in which one statement is looked at: opened in one round trip, closed in another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from pgrunbook.changes.undo.reader import Reader
from pgrunbook.database.connection import READ_LOCK_TIMEOUT_MS, READ_STATEMENT_TIMEOUT_MS, Connection
from pgrunbook.database.queries import SETTINGS, load, told_blocked
from pgrunbook.sql.deparse import literal

_OWN = "BEGIN ISOLATION LEVEL REPEATABLE READ", "COMMIT"
# What is set after a savepoint is taken back with it.
_INSIDE = "SAVEPOINT pgrunbook_reading", "ROLLBACK TO SAVEPOINT pgrunbook_reading; RELEASE SAVEPOINT pgrunbook_reading"


@contextmanager
def reading(conn: Connection) -> Iterator[Reader]:
    """Give a reader of the connection's database.

    Whatever goes wrong inside, the caller's transaction lives on, and the session's settings are what they were.

    Raises Blocked when a lock could not be had.
    """
    begin, end = _OWN if conn.info.transaction_status == TransactionStatus.IDLE else _INSIDE
    cursor = psycopg.Cursor(conn, row_factory=dict_row)
    try:
        with told_blocked(READ_LOCK_TIMEOUT_MS):
            cursor.execute(_opening(begin))
            cursor.nextset()
            (session,) = cursor.fetchall()
            yield Reader(cursor, session)
    finally:
        if not conn.closed:
            cursor.execute(end.encode())


@cache
def _opening(begin: str) -> bytes:
    """Return the batch that begins, asks what the session is set to, and sets it."""
    settings = {
        **SETTINGS,
        "lock_timeout": str(READ_LOCK_TIMEOUT_MS),
        "statement_timeout": str(READ_STATEMENT_TIMEOUT_MS),
    }
    told = "; ".join(f"SET LOCAL {name} = {literal(value)}" for name, value in settings.items())
    return f"{begin}; {load('undo')['session']} {told}".encode()
