"""Cancel or terminate one session that a person has chosen; used by troubleshoot.

A session is chosen by process id and start: another one that has got the number since is not it. The server checks both
in the statement that ends it. Whatever must go on is refused: walsenders, background processes, an autovacuum that
prevents wraparound, and runs of ours.
"""

from __future__ import annotations

import time
from typing import Literal

import psycopg
from psycopg import sql
from psycopg.errors import InsufficientPrivilege, UndefinedObject

from pgrunbook.database import lock_tree
from pgrunbook.database.connection import Connection
from pgrunbook.database.lock_tree import ServerSession
from pgrunbook.database.queries import load
from pgrunbook.database.sqlstate import said
from pgrunbook.errors import Refused, StatementFailed, WrongInput

How = Literal["cancel", "terminate", "rollback prepared", "commit prepared"]
WAIT_S, POLL_S = 10.0, 0.1


def chosen(conn: Connection, key: str) -> ServerSession:
    """Return the session of that key, as ``ServerSession.key`` spells it. Raises WrongInput where there is none."""
    found = next((one for one in lock_tree.sessions(conn) if one.key == key), None)
    if found is None:
        raise WrongInput(
            f"there is no session {key}",
            detail="It has ended meanwhile, or the name is not as the table of sessions spells it.",
            hint="Look again: pgrunbook doctor, or the cell stuck.",
        )
    return found


def is_there(conn: Connection, key: str) -> bool:
    """Tell whether there is a session of that key."""
    return any(one.key == key for one in lock_tree.sessions(conn))


def refuse(session: ServerSession, how: How) -> None:
    """Raise Refused for what nobody should end by hand, or not in this way."""
    because = _because(session, how)
    if because:
        raise Refused(f"refused to {how} {session}", detail=because[0], hint=because[1])


def end(conn: Connection, session: ServerSession, how: How) -> str:
    """End the statement or the session, or the prepared transaction; return what became of it.

    Raises Refused as :func:`refuse` does, StatementFailed where the server refuses it.
    """
    refuse(session, how)
    try:
        if session.gid:
            verb = sql.SQL("ROLLBACK" if how == "rollback prepared" else "COMMIT")
            conn.execute(sql.SQL("{} PREPARED {}").format(verb, sql.Literal(session.gid)))
            return f"{'rolled back' if how == 'rollback prepared' else 'committed'}"
        given = {"pid": session.pid, "backend_start": session.backend_start}
        taken = conn.execute(load("lock_tree")["cancel" if how == "cancel" else "terminate"], given).fetchone()
    except InsufficientPrivilege as exc:
        raise StatementFailed(
            f"may not {how} {session}",
            detail=said(exc),
            hint="GRANT pg_signal_backend, or connect as its own role; a superuser's session takes a superuser.",
        ) from exc
    except UndefinedObject:
        return "ended before"
    except psycopg.Error as exc:
        raise StatementFailed(f"could not {how} {session}", detail=said(exc)) from exc
    return _watched(conn, session, how) if taken else "ended before"


def _because(session: ServerSession, how: How) -> tuple[str, str] | None:
    if session.gid:
        wanted = how in ("rollback prepared", "commit prepared")
        return None if wanted else ("It has no process.", "Name rollback prepared or commit prepared for it.")
    if how in ("rollback prepared", "commit prepared"):
        return "It is no prepared transaction.", "Name cancel or terminate for it."
    if session.is_ours:
        return "It is a session of a run.", "Stop the run itself: it says then what is applied (pgrunbook runs)."
    if session.backend_start is None:
        return "Its start is hidden, so that nobody can tell it from a later one.", "GRANT pg_monitor."
    if session.kind == "parallel worker":
        return f"It works for process {session.leader_pid}.", "Choose that session instead."
    if session.kind == "walsender":
        return "A standby or a reader of changes hangs on it.", "See to its reader."
    if session.kind == "background":
        return "It is a process of the server.", "See the server's log; nobody should cancel it."
    if session.prevents_wraparound:
        return "It prevents wraparound, and begins again at once.", "Let it end: it is the quickest way."
    if how == "cancel" and session.state.startswith("idle"):
        return "It executes nothing that could be cancelled.", "Ask its owner to end its transaction, or terminate it."
    return None


def _watched(conn: Connection, session: ServerSession, how: How) -> str:
    """Return what became of it within some seconds: a rollback of much takes its time."""
    ends_at = time.monotonic() + WAIT_S
    while time.monotonic() < ends_at:
        now = next((one for one in lock_tree.sessions(conn) if one.key == session.key), None)
        if now is None:
            return "ended"
        if how == "cancel" and (now.state != "active" or (now.query_age_s or 0.0) < (session.query_age_s or 0.0)):
            return f"cancelled; the session is {now.state}"
        time.sleep(POLL_S)
    return f"asked to, and still there after {WAIT_S:.0f} s: it takes back what it has done"
