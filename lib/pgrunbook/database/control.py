"""The control row of schema pgrunbook: batches pause or end while a command in it holds; monitor gives commands.

A command holds for a lease, which its giver renews: one that dies stops nobody for longer than that. An abort ends
the sessions that are at work when it is given: the run that resumes begins one, and goes on at once. Where the reason
is still there, a renewed abort ends that too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from psycopg.rows import tuple_row

from pgrunbook.database import own_schema, step_log
from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import load
from pgrunbook.display import progress
from pgrunbook.errors import Blocked, Interrupted

LEASE_S = 30.0
LOOK_S = 0.5
PAUSE_AT_MOST_S = 1_800.0

log = logging.getLogger(__name__)


class Command(StrEnum):
    """What those who are at work do while it holds."""

    PAUSE = "pause"
    ABORT = "abort"


@dataclass(frozen=True)
class Order:
    """A command that holds: why, and who gave it."""

    command: Command
    reason: str
    asked_by: str


def ask(conn: Connection, command: Command, reason: str, *, lease_s: float = LEASE_S) -> None:
    """Give a command to all batches in this database, or renew it.

    Raises Refused where schema pgrunbook is somebody else's, and psycopg's errors: a replica, no right to write.
    Locks: RowExclusiveLock on pgrunbook.control, for a moment.
    """
    if not _is_there(conn):
        step_log.create(conn)
        with conn.transaction():
            conn.execute(_sql("create"))
            own_schema.hide(conn, "control")
    conn.execute(_sql("ask"), {"command": command.value, "reason": reason, "lease_s": lease_s})
    log.info("asked batches to %s: %s", command, reason)


def withdraw(conn: Connection) -> None:
    """End a pause that holds; batches go on. An abort ends with its lease. Raises as :func:`ask`."""
    if _is_there(conn):
        conn.execute(_sql("withdraw"))
        log.info("asked batches to go on")


def standing(conn: Connection) -> Order | None:
    """Return the command that holds now for this session, None where none does. Raises Refused as :func:`ask`."""
    if not _is_there(conn):
        return None
    with conn.cursor(row_factory=tuple_row) as cursor:
        found = cursor.execute(_sql("standing")).fetchone()
    return None if found is None else Order(Command(str(found[0])), str(found[1]), str(found[2]))


@dataclass
class Obedience:
    """One loop that obeys: ``now`` is called between two of its transactions, and looks twice a second at most."""

    conn: Connection
    on_pause: Callable[[Order], None] = lambda _: None
    at_most_s: float = PAUSE_AT_MOST_S
    _looked_at: float = field(default=-LOOK_S, init=False)

    def now(self) -> None:
        """Return where nothing holds; wait while a pause does, outside of any transaction.

        Raises Interrupted for an abort, Blocked for a pause that lasts longer than ``at_most_s``.
        """
        if time.monotonic() - self._looked_at < LOOK_S:
            return
        began, order = time.monotonic(), self._look()
        if order is None:
            return
        with progress.doing(f"paused by {order.asked_by}: {order.reason}"):
            self.on_pause(order)
            while order is not None:
                if time.monotonic() - began > self.at_most_s:
                    raise Blocked(
                        f"batches were paused for {self.at_most_s:,.0f} s, and {order.asked_by} still asks for it",
                        detail=f"{order.reason}.",
                        hint="Mend what that names, then go on with this run.",
                    )
                time.sleep(LOOK_S)
                order = self._look()

    def _look(self) -> Order | None:
        order = standing(self.conn)
        self._looked_at = time.monotonic()
        if order is not None and order.command is Command.ABORT:
            raise Interrupted(
                f"the run was aborted by {order.asked_by}, between two batches",
                detail=f"{order.reason}.",
                hint="Mend what that names, then go on with this run: a monitor that still sees it aborts again.",
            )
        return order


def _is_there(conn: Connection) -> bool:
    own_schema.refuse_foreign(conn)
    return conn.execute(_sql("is_there")).fetchone() == (True,)


def _sql(name: str) -> bytes:
    return load("control")[name].encode()
