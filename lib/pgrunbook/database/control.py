"""The control rows of schema pgrunbook: batches pause or end while a command in one holds, and have a pace.

Monitor gives commands to all batches, and a person to those of one run (``pgrunbook throttle``). A command to all
holds for a lease, which its giver renews: one that dies stops nobody for longer than that. A person's pause holds until
it is withdrawn. An abort ends the sessions that are at work when it is given: the run that resumes begins one, and
goes on at once. Where the reason is still there, a renewed abort ends that too.
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

ALL = "batches"  # the name of the command to all batches; one to a run has the run's id
LEASE_S = 30.0
LOOK_S = 0.5
SLOWEST, FASTEST = 1 / 64, 64.0
PAUSE_AT_MOST_S = 1_800.0

log = logging.getLogger(__name__)


class Command(StrEnum):
    """What those who are at work do while it holds."""

    PAUSE = "pause"
    ABORT = "abort"


@dataclass(frozen=True)
class Order:
    """A command that holds: why, and who gave it; ``is_lasting`` where it is a person's, to one run."""

    command: Command
    reason: str
    asked_by: str
    is_lasting: bool = False


def ask(conn: Connection, command: Command, reason: str, *, run_id: str = ALL, lease_s: float | None = LEASE_S) -> None:
    """Give a command to all batches in this database, or to those of a run, or renew it.

    Without a lease it holds until it is withdrawn.

    Raises Refused where schema pgrunbook is somebody else's, and psycopg's errors: a replica, no right to write.
    Locks: RowExclusiveLock on pgrunbook.control, for a moment.
    """
    if not _is_there(conn):
        step_log.create(conn)
        with conn.transaction():
            conn.execute(_sql("create"))
            own_schema.hide(conn, "control")
    conn.execute(_sql("ask"), {"name": run_id, "command": command.value, "reason": reason, "lease_s": lease_s})
    log.info("asked %s to %s: %s", run_id, command, reason)


def withdraw(conn: Connection, *, run_id: str = ALL) -> None:
    """End a pause that holds; batches go on. An abort ends with its lease. Raises as :func:`ask`."""
    if _is_there(conn):
        conn.execute(_sql("withdraw"), {"name": run_id})
        log.info("asked %s to go on", run_id)


def standing(conn: Connection, *, run_id: str = ALL) -> Order | None:
    """Return the command that holds now for this session, None where none does: that to all, or that to the run.

    Raises Refused as :func:`ask`.
    """
    if not _is_there(conn):
        return None
    with conn.cursor(row_factory=tuple_row) as cursor:
        found = cursor.execute(_sql("standing"), {"name": run_id}).fetchone()
    return None if found is None else Order(Command(str(found[0])), str(found[1]), str(found[2]), found[3] is True)


def change_pace(conn: Connection, run_id: str, times: float) -> float:
    """Let the batches of a run work so many times as fast as now; return the pace that holds, 1.0 at first.

    Raises as :func:`ask`. Locks: RowExclusiveLock on pgrunbook.pace, for a moment.
    """
    if not _has_paces(conn):
        step_log.create(conn)
        with conn.transaction():
            conn.execute(_sql("create_pace"))
            own_schema.hide(conn, "pace")
    values = {"run_id": run_id, "times": times, "slowest": SLOWEST, "fastest": FASTEST}
    (found,) = conn.execute(_sql("change_pace"), values).fetchone() or (1.0,)
    log.info("asked %s to work at %s times its own pace", run_id, found)
    return float(str(found))


def pace(conn: Connection, run_id: str) -> float:
    """Return the pace at which a person lets the batches of a run work, 1.0 where nobody has changed it."""
    if not _has_paces(conn):
        return 1.0
    (found,) = conn.execute(_sql("pace"), {"run_id": run_id}).fetchone() or (1.0,)
    return float(str(found))


@dataclass
class Obedience:
    """One loop that obeys: ``now`` is called between two of its transactions, and looks twice a second at most."""

    conn: Connection
    on_pause: Callable[[Order], None] = lambda _: None
    at_most_s: float = PAUSE_AT_MOST_S
    run_id: str = ALL
    _looked_at: float = field(default=-LOOK_S, init=False)

    def now(self) -> None:
        """Return where nothing holds; wait while a pause does, outside of any transaction.

        Raises Interrupted for an abort, Blocked for a pause that lasts longer than ``at_most_s`` and is not a person's.
        """
        if time.monotonic() - self._looked_at < LOOK_S:
            return
        began, order = time.monotonic(), self._look()
        if order is None:
            return
        with progress.doing(f"paused by {order.asked_by}: {order.reason}"):
            self.on_pause(order)
            while order is not None:
                if time.monotonic() - began > self.at_most_s and not order.is_lasting:
                    raise Blocked(
                        f"batches were paused for {self.at_most_s:,.0f} s, and {order.asked_by} still asks for it",
                        detail=f"{order.reason}.",
                        hint="Mend what that names, then go on with this run.",
                    )
                time.sleep(LOOK_S)
                order = self._look()

    def _look(self) -> Order | None:
        order = standing(self.conn, run_id=self.run_id)
        self._looked_at = time.monotonic()
        if order is not None and order.command is Command.ABORT:
            mend = "Mend what that names, then go on with this run: a monitor that still sees it aborts again."
            raise Interrupted(
                f"the run was aborted by {order.asked_by}, between two batches",
                detail=f"{order.reason}.",
                hint="Go on with this run when it may work again." if order.is_lasting else mend,
            )
        return order


def _is_there(conn: Connection) -> bool:
    own_schema.refuse_foreign(conn)
    return conn.execute(_sql("is_there")).fetchone() == (True,)


def _has_paces(conn: Connection) -> bool:
    own_schema.refuse_foreign(conn)
    return conn.execute(_sql("has_paces")).fetchone() == (True,)


def _sql(name: str) -> bytes:
    return load("control")[name].encode()
