"""One short change of a table that others use: it waits for old transactions, and asks for its lock for moments."""

from __future__ import annotations

import logging
from collections.abc import Callable

from psycopg import errors as pg
from psycopg import sql

from pgrunbook.config.targets import Target
from pgrunbook.database import lock_wait
from pgrunbook.database.connection import Connection, transaction
from pgrunbook.database.lock_wait import LockRequest
from pgrunbook.errors import Blocked
from pgrunbook.record.run import again
from pgrunbook.sql.lock_modes import CONFLICTS

MODE = "AccessExclusiveLock"
_RETRIED = (pg.LockNotAvailable, pg.DeadlockDetected)

log = logging.getLogger(__name__)


def alter(conn: Connection, target: Target, table: sql.Identifier, label: str, change: Callable[[], object]) -> None:
    """Change a table in a transaction, as soon as nobody old is in the way, in a bounded number of attempts.

    Raises Blocked where somebody is in the way to the end.
    Locks: AccessExclusiveLock on the table, for a moment.
    """
    wanted = [LockRequest(table.as_string(conn), MODE, CONFLICTS[MODE])]
    patience_ms, met = float(target.lock_patience_ms), ""
    for attempt in range(1, target.attempts + 1):
        seen = lock_wait.until_free(conn, wanted, patience_ms=patience_ms)
        met = "; ".join(map(str, seen.holders[:3])) or met
        try:
            with transaction(conn, lock_timeout_ms=target.lock_timeout_ms,
                             statement_timeout_ms=target.statement_timeout_ms):  # fmt: skip
                change()
            return
        except _RETRIED as exc:
            log.info("attempt %s of %s to change %s: %s", attempt, target.attempts, label, exc)
            met = met or str(exc).partition("\n")[0]
            patience_ms = lock_wait.LAST_PATIENCE_MS
    raise Blocked(
        f"could not lock {label} in {target.attempts} attempts (lock_timeout {target.lock_timeout_ms} ms)",
        detail=f"{met}.",
        hint=f"Wait until these sessions have ended, or end them; then {again()}.",
    )
