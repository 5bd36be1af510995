"""Identity of the server, its sessions, blockers and progress; every procedure reads them before it begins."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row

from pgrunbook.database import queries
from pgrunbook.database.connection import Connection


@dataclass(frozen=True)
class Identity:
    """The server and database at the other end of a connection."""

    server_version: str
    server_version_num: int
    database: str
    size_bytes: int
    in_recovery: bool
    session_user: str
    superuser: bool
    system_identifier: str
    backend_pid: int
    archive_mode: str
    started_at: datetime

    @property
    def role(self) -> str:
        """Primary or replica."""
        return "replica" if self.in_recovery else "primary"


@dataclass(frozen=True)
class Sessions:
    """The client sessions of one application and user."""

    application: str
    username: str
    sessions: int
    active: int
    idle_in_transaction: int
    oldest_s: float


@dataclass(frozen=True)
class Blocker:
    """A session that another one waits for; the head of a lock queue waits for nobody.

    ``pid`` is 0 for a prepared transaction, which has no process.
    """

    pid: int
    application: str
    username: str
    state: str
    xact_age_s: float
    query: str
    waits_too: bool
    waits_for: str
    waited_ms: float

    def __str__(self) -> str:
        role = "stands in" if self.waits_too else "heads"
        who = f'Process {self.pid} ("{self.application}", {self.state}'
        if not self.pid:
            who = f'A transaction without a process ("{self.application}", {self.state}'
        does = f"{role} the lock queue for {self.waits_for}"
        if self.waits_for in ("transactionid", "virtualxid"):
            does = "has to end its transaction first"
        return f"{who} for {self.xact_age_s:.0f} s) {does}."


@dataclass(frozen=True)
class CommandProgress:
    """Progress of a command, and the session that it waits for.

    ``total`` is 0 where the phase has no measure. ``locker_pid`` is None where it waits for nobody; else that
    session is described as in :class:`Blocker`.
    """

    phase: str
    unit: str
    done: int
    total: int
    lockers_done: int
    lockers_total: int
    locker_pid: int | None
    application: str
    state: str
    xact_age_s: float

    def __str__(self) -> str:
        text = self.phase[:1].upper() + self.phase[1:]
        if self.total:
            percent = 100 * self.done / self.total
            text += f", {self.done:,} of {self.total:,} {self.unit} ({percent:.0f} %)"
        if self.locker_pid is None:
            return text
        if self.lockers_total > 1:
            text += f", {self.lockers_done + 1} of {self.lockers_total}"
        why = "whose snapshot is older" if self.phase.endswith("snapshots") else "which has used the table"
        who = f'process {self.locker_pid} ("{self.application}", {self.state} for {self.xact_age_s:.0f} s)'
        return f"{text}: waits for {who}, {why}"


def identity(conn: Connection) -> Identity:
    """Return the identity of the server and database."""
    with conn.cursor(row_factory=class_row(Identity)) as cur:
        row = cur.execute(queries.load("activity")["identity"]).fetchone()
    assert row is not None  # noqa: S101 - the query has no FROM: it returns one row
    return row


def sessions(conn: Connection) -> list[Sessions]:
    """Return who else is connected to this database, most sessions first; [] when nobody is."""
    with conn.cursor(row_factory=class_row(Sessions)) as cur:
        return cur.execute(queries.load("activity")["sessions"]).fetchall()


def blockers(conn: Connection, pid: int) -> list[Blocker]:
    """Return the sessions that the given one waits for, the head of the queue first; [] when it does not wait.

    The session that asks is left out: CREATE INDEX CONCURRENTLY waits for each snapshot, and ours is gone at once.

    pg_blocking_pids locks the lock manager for a moment: poll it ten times a second at most
    (https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-INFO-SESSION).
    """
    with conn.cursor(row_factory=class_row(Blocker)) as cur:
        return cur.execute(queries.load("activity")["blockers"], {"pid": pid}).fetchall()


def progress(conn: Connection, pid: int) -> CommandProgress | None:
    """Return how far a session's command has come, None for a command whose progress the server does not report.

    The session that asks is left out, as in :func:`blockers`.
    Source: https://www.postgresql.org/docs/current/progress-reporting.html
    """
    with conn.cursor(row_factory=class_row(CommandProgress)) as cur:
        return cur.execute(queries.load("activity")["progress"], {"pid": pid}).fetchone()


def row(conn: Connection, name: str) -> dict[str, Any]:
    """Return the first row of a named query of ``activity.sql`` as a dict; {} when it has none."""
    return next(iter(rows(conn, name)), {})


def rows(conn: Connection, name: str) -> list[dict[str, Any]]:
    """Return the rows of a named query of ``activity.sql`` as dicts."""
    return queries.rows(conn, "activity", name)
