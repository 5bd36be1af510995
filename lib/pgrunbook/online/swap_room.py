"""The room that a swap may take while it fills the new table, watched by a session of its own.

A change is noted in the writer's own transaction: where the disk is full, the writer's statement fails. So the log of
changes is measured every second, also while an index is built, and where the server is ours the disk as well. What is
beyond its limit ends the work, before the disk is full: whoever called takes the swap away then.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psycopg

from pgrunbook.branches import free_space
from pgrunbook.config.targets import Target
from pgrunbook.database.connection import Connection, connect
from pgrunbook.database.queries import rows
from pgrunbook.database.vitals import MB
from pgrunbook.display.units import human
from pgrunbook.online.swap_store import TableSwap

LOG_SHARE = 0.2  # of the table: what was asked for when the swap was begun
LEAST_LOG_BYTES = 256 * MB
LEAST_FREE_BYTES = 160 * MB
LOOK_S = 1.0

log = logging.getLogger(__name__)


class NoRoomError(Exception):
    """The swap has taken the room that it may take."""


@dataclass
class SwapRoom:
    """The room of one swap; ``refuse`` is called between two parts of the work, and asks nobody."""

    why: str = ""
    _over: threading.Event = field(default_factory=threading.Event)

    def refuse(self) -> None:
        """Raise NoRoomError where the room is used up."""
        if self.why:
            raise NoRoomError(self.why)


@contextmanager
def watched(conn: Connection, target: Target, swap: TableSwap, most_log_bytes: int = 0) -> Iterator[SwapRoom]:
    """Watch the room of a swap; where it is used up, cancel what runs on the connection, and raise NoRoomError.

    ``most_log_bytes`` is the limit of the log of changes, 0 for a fifth of the table (256 MB at least).
    """
    room = SwapRoom()
    with connect(target, purpose=f"watches the room of {swap.table.label}") as other:
        table_bytes = sum(int(row["bytes"]) for row in rows(other, "swap", "facts", oid=swap.relation))
        most = most_log_bytes or max(LEAST_LOG_BYTES, int(LOG_SHARE * table_bytes))
        watch = threading.Thread(target=_watch, args=(room, conn, other, target, swap, most), daemon=True)
        watch.start()
        try:
            yield room
        except psycopg.errors.QueryCanceled as exc:
            if room.why:
                raise NoRoomError(room.why) from exc
            raise
        finally:
            room._over.set()
            watch.join()
            if room.why and not conn.closed:
                with suppress(psycopg.errors.QueryCanceled):
                    conn.execute("SELECT pg_catalog.pg_sleep(0.1)")  # a cancellation may be on its way yet


def log_bytes(conn: Connection, swap: TableSwap) -> int:
    """Return how much the log of changes takes. Locks: AccessShareLock on it."""
    (seen,) = rows(conn, "swap", "room", log=swap.changes)
    return int(seen["bytes"])


def _watch(room: SwapRoom, conn: Connection, other: Connection, target: Target, swap: TableSwap, most: int) -> None:
    while not room._over.wait(LOOK_S):
        try:
            room.why = room.why or _found(other, target, swap, most)
            if room.why:
                conn.cancel_safe(timeout=LOOK_S)
        except psycopg.Error as exc:
            log.warning("could not see what room the swap of %s takes: %s", swap.table, exc)
            if other.closed:
                return


def _found(conn: Connection, target: Target, swap: TableSwap, most: int) -> str:
    """Return what is beyond its limit, as a clause; "" for nothing."""
    taken = log_bytes(conn, swap)
    if taken > most:
        return f"its log of changes takes {human(taken)}, and may take {human(most)}"
    if target.server is not None and (free := free_space.left()) < LEAST_FREE_BYTES:
        return f"the disk of server {target.server} has {human(free)} left, and {human(LEAST_FREE_BYTES)} are kept free"
    return ""
