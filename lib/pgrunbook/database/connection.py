"""Connections to a target, each with a name, timeouts, and an end when its client is gone."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

from pgrunbook.errors import RunbookError, Unreachable
from pgrunbook.target import Target

CONNECT_TIMEOUT_S = 10
READ_LOCK_TIMEOUT_MS = 2_000
READ_STATEMENT_TIMEOUT_MS = 30_000

Connection = psycopg.Connection[tuple[object, ...]]


def connect(target: Target, *, purpose: str = "read") -> Connection:
    """Open an autocommit connection to the target, under explicit timeouts.

    ``purpose`` ends up in ``application_name``, so that everybody who looks at pg_stat_activity
    sees who we are. The server ends the session's statement within a second when our process is gone
    (client_connection_check_interval, https://www.postgresql.org/docs/current/runtime-config-connection.html).

    Raises Unreachable when the server does not answer or does not let us in.
    """
    options = (
        f"-c lock_timeout={READ_LOCK_TIMEOUT_MS} -c statement_timeout={READ_STATEMENT_TIMEOUT_MS} "
        "-c client_connection_check_interval=1000 -c idle_in_transaction_session_timeout=600000"
    )
    keywords: dict[str, Any] = {**target.conninfo()}
    address = keywords.pop("conninfo", "")
    try:
        return psycopg.connect(
            address,
            **keywords,
            autocommit=True,
            application_name=f"pgrunbook {purpose}"[:63],
            connect_timeout=CONNECT_TIMEOUT_S,
            options=options,
        )
    except psycopg.OperationalError as exc:
        raise _unreachable(target, str(exc)) from None  # libpq's own text may quote the address


def run_locally(conn: Connection, *, lock_timeout_ms: int, statement_timeout_ms: int) -> None:
    """Set both timeouts for the transaction that is open on the connection."""
    conn.execute(
        sql.SQL("SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = {}").format(
            sql.Literal(lock_timeout_ms), sql.Literal(statement_timeout_ms)
        )
    )


def _unreachable(target: Target, reason: str) -> RunbookError:
    hint = "Check that the server runs, the service file, and that this machine is let in."
    if target.server is not None:
        hint = f"Start it: pgrunbook server start --name {target.server}; for the demo database: pgrunbook demo."
    return Unreachable(
        f'could not connect to target "{target.name}"',
        detail=" ".join(reason.split()),
        hint=hint,
    )
