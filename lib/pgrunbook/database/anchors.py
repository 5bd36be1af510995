"""The anchors of the ledger in a target: pgrunbook.ledger, with the hash of each line of a run that writes there.

Rows can only be added: a trigger and the table's rights refuse the rest. Who owns the table can take that away; then
:func:`is_guarded` says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg.rows import class_row

from pgrunbook.database import connection, own_schema, queries, step_log
from pgrunbook.database.connection import READ_LOCK_TIMEOUT_MS, READ_STATEMENT_TIMEOUT_MS, Connection

TABLE, GUARD = "ledger", "refuse_ledger_change"


@dataclass(frozen=True)
class AnchorRow:
    """A line of a ledger, as the database holds it."""

    ledger: str
    seq: int
    kind: str
    run_id: str
    line_sha256: str
    timeline: int
    session_user_name: str
    written_at: datetime


@dataclass(frozen=True)
class ServerPlace:
    """Which server this is, and where it stands in its WAL; ``timeline`` is 0 on a replica."""

    system_identifier: str
    timeline: int
    lsn: str
    session_user_name: str


def write(conn: Connection, ledger: str, seq: int, kind: str, run_id: str, line_sha256: str) -> ServerPlace:
    """Anchor a line, in a transaction of its own, in a table that is made where it is missing; return the place.

    Raises Refused when schema pgrunbook is somebody else's, StatementFailed as step_log.create, and psycopg's errors.
    Locks: RowExclusiveLock on pgrunbook.ledger, for a moment.
    """
    step_log.create(conn)
    if not _is_there(conn):
        _create(conn)
    facts = {"ledger": ledger, "seq": seq, "kind": kind, "run_id": run_id, "line_sha256": line_sha256}
    limits = {"lock_timeout_ms": READ_LOCK_TIMEOUT_MS, "statement_timeout_ms": READ_STATEMENT_TIMEOUT_MS}
    with connection.transaction(conn, **limits), conn.cursor(row_factory=class_row(ServerPlace)) as cur:
        found = cur.execute(_sql("write"), facts).fetchone()
    assert found is not None  # noqa: S101 - the query has no table: it returns one row
    return found


def rows(conn: Connection) -> list[AnchorRow]:
    """Return the anchored lines, [] where there is no table. Raises Refused when the schema is somebody else's."""
    own_schema.refuse_foreign(conn)
    if not _is_there(conn):
        return []
    with conn.cursor(row_factory=class_row(AnchorRow)) as cur:
        return cur.execute(_sql("rows")).fetchall()


def place(conn: Connection) -> ServerPlace:
    """Return where the server stands."""
    with conn.cursor(row_factory=class_row(ServerPlace)) as cur:
        found = cur.execute(_sql("place")).fetchone()
    assert found is not None  # noqa: S101 - the query has no FROM: it returns one row
    return found


def is_guarded(conn: Connection) -> bool:
    """Tell whether the table refuses changes, or nothing is anchored yet."""
    return not _is_there(conn) or conn.execute(_sql("guarded")).fetchone() == (True,)


def _is_there(conn: Connection) -> bool:
    return conn.execute(_sql("exists")).fetchone() == (True,)


def _create(conn: Connection) -> None:
    try:
        with conn.transaction():
            conn.execute(_sql("create"))
            own_schema.hide(conn, TABLE, GUARD)
    except (psycopg.errors.DuplicateTable, psycopg.errors.UniqueViolation):
        if conn.closed or not _is_there(conn):
            raise  # else another run has created it meanwhile


def _sql(name: str) -> bytes:
    return queries.load("anchors")[name].encode()
