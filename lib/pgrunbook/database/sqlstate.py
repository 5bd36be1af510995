"""The meaning of an error, by its SQLSTATE; the driver's classes put a lost connection and a refusal into one.

Source: https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

from enum import StrEnum

import psycopg

from pgrunbook.errors import Blocked, Refused, RunbookError, StatementFailed, Unreachable


class Meaning(StrEnum):
    """What an error says of the statement that was sent."""

    LOST = "the session is over"
    CUT_OFF = "the server did not get to its end: a lock, a time limit, somebody who cancelled it"
    EXHAUSTED = "the server had no room, no memory or no free connection, or failed itself"
    NO_RIGHT = "the role may not"
    REFUSED = "the server refused it"


# The session ends with these: by an administrator, in a crash, at start, by a limit of idle or transaction time.
_ENDS_SESSION = frozenset({"57P01", "57P02", "57P03", "57P04", "57P05", "25P03", "25P04"})
_CUT_OFF = frozenset({"55P03", "57014", "40001", "40P01"})
_CLASSES = {"08": Meaning.LOST, "53": Meaning.EXHAUSTED, "57": Meaning.EXHAUSTED, "58": Meaning.EXHAUSTED}
# Of a refusal: the statement's own fault, whatever the rows are (also names that do not exist).
_OF_STATEMENT = frozenset({"0A", "26", "34", "3D", "3F", "42"})


def meaning(exc: psycopg.Error) -> Meaning:
    """Return what an error says; one without an SQLSTATE is the driver's, which lost the server."""
    code = exc.sqlstate
    if code is None:
        driver = isinstance(exc, psycopg.OperationalError | psycopg.InterfaceError)
        return Meaning.LOST if driver else Meaning.REFUSED
    if code in _ENDS_SESSION:
        return Meaning.LOST
    if code in _CUT_OFF:
        return Meaning.CUT_OFF
    if code == "42501":
        return Meaning.NO_RIGHT
    return _CLASSES.get(code[:2], Meaning.REFUSED)


def is_of_statement(exc: psycopg.Error) -> bool:
    """Tell whether a refusal is the statement's own fault, and not that of a row."""
    return (exc.sqlstate or "")[:2] in _OF_STATEMENT


def said(exc: psycopg.Error) -> str:
    """Return what the server said, or the driver, in one line."""
    return exc.diag.message_primary or " ".join(str(exc).split())


def explained(exc: psycopg.Error, target: str, *, state: str, again: str, mended: str = "") -> RunbookError:
    """Return the error of ours for a statement of ours; ``again`` is how the operator goes on, as a clause.

    ``mended`` is how after an error that somebody corrects, where that is another way.
    """
    facts = {"detail": exc.diag.message_detail or "", "state": state}
    match meaning(exc):
        case Meaning.LOST:
            hint = f"When the server answers again, {again}."
            return Unreachable(f'lost the connection to target "{target}": {said(exc)}', **facts, hint=hint)
        case Meaning.CUT_OFF:
            hint = f"Wait, or find who holds the lock (pg_blocking_pids); then {again}."
            return Blocked(f'could not read target "{target}" in time: {said(exc)}', **facts, hint=hint)
        case Meaning.NO_RIGHT:
            hint = "Let the owner GRANT it to the role of this target, or name another role."
            return Refused(f'the role of target "{target}" lacks a privilege: {said(exc)}', **facts, hint=hint)
        case Meaning.EXHAUSTED:
            hint = f"Give the server what it lacks; then {mended or again}."
            return StatementFailed(f'the server of target "{target}" could not go on: {said(exc)}', **facts, hint=hint)
        case Meaning.REFUSED:
            hint = exc.diag.message_hint or f"Read the server's log; then {mended or again}."
            return StatementFailed(f'target "{target}" refused a statement of ours: {said(exc)}', **facts, hint=hint)
