"""Remove one leftover that a person has chosen; used by troubleshoot.

It is looked for again right before: what is gone, or what somebody works on by now, is left as it is. Each statement
runs by itself under a lock timeout, so that nobody waits long behind it.
"""

from __future__ import annotations

import psycopg

from pgrunbook.database import connection, leftovers
from pgrunbook.database.connection import Connection
from pgrunbook.database.leftovers import Remnant
from pgrunbook.database.sqlstate import said
from pgrunbook.errors import Refused, StatementFailed, WrongInput

LOCK_TIMEOUT_MS, STATEMENT_TIMEOUT_MS = 2_000, 3_600_000


def chosen(conn: Connection, key: str) -> Remnant:
    """Return the leftover of that key. Raises WrongInput where there is none, Refused for what is not to be removed."""
    found = next((one for one in leftovers.remnants(conn) if one.key == key), None)
    if found is None:
        raise WrongInput(
            f'there is no leftover "{key}"',
            detail="It is gone, or the name is not as the table of leftovers spells it.",
            hint="Look again: pgrunbook doctor, or the cell left-behind.",
        )
    if found.busy:
        raise Refused(f"refused to remove {key}", detail=f"{found.busy}.", hint="Wait until it has ended.")
    if not found.statement:
        raise Refused(f"refused to remove {key}", detail=f"{found.why}.", hint="Do that first; it is not ours to do.")
    return found


def remove(conn: Connection, remnant: Remnant) -> None:
    """Execute the statement that removes it, outside of a transaction.

    Raises StatementFailed where the server refuses it, or a lock is not to be had in 2 s.
    """
    connection.limit(conn, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=STATEMENT_TIMEOUT_MS)
    try:
        conn.execute(remnant.statement.encode())
    except psycopg.Error as exc:
        raise StatementFailed(
            f"could not remove {remnant.key}",
            detail=f"{remnant.statement}: {said(exc)}",
            state="It is there as before, or as an invalid index: look again.",
            hint="See who blocks it in the cell stuck, then run this again.",
        ) from exc
