"""What is kept, as things that can be let go: what each is needed for, which go, and dropping one of them.

Used by notebooks/purge.ipynb. The list itself, and what a drop does, is ``undo_data``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from psycopg import errors as pg
from psycopg import sql

from pgrunbook import undo_data
from pgrunbook.config.targets import Target
from pgrunbook.database import lock_wait, step_log
from pgrunbook.database.connection import Connection
from pgrunbook.database.lock_wait import LAST_PATIENCE_MS, Holder, LockRequest, is_cancellable_autovacuum
from pgrunbook.errors import Blocked
from pgrunbook.history import History
from pgrunbook.sql.lock_modes import CONFLICTS
from pgrunbook.undo_data import UndoEntry, registry

MODE = "AccessExclusiveLock"
OPEN = ("kept", "giving back")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PurgeItem:
    """What one statement destroyed: what is kept of it, and what its DELETE cascaded into.

    ``is_needed`` is whether a way back leads through it: it is not given back, the migration is where this step
    left it, and its time is not over. ``loss`` says how things stand once it is gone, ``way`` which way back is left
    then, "" where no way back is lost.
    """

    members: tuple[UndoEntry, ...]
    is_needed: bool
    loss: str
    way: str

    @property
    def id(self) -> int:
        """Its number in the list."""
        return self.members[0].id

    @property
    def bytes(self) -> int:
        """How much space it takes in all."""
        return sum(kept.bytes for kept in self.members)

    @property
    def is_open(self) -> bool:
        """Whether something of it could still be given back."""
        return any(kept.state in OPEN for kept in self.members)

    @property
    def is_over(self) -> bool:
        """Whether the time is over for which it was to be kept; not while a rollback is half through with it."""
        if {kept.state for kept in self.members} != {"kept"}:
            return not self.is_open
        now = datetime.now(UTC)
        return all(kept.keep_until is not None and kept.keep_until < now for kept in self.members)


def things(conn: Connection, history: History) -> list[PurgeItem]:
    """Return what is kept, newest first, each thing with all that belongs to it, [] where nothing is kept."""
    families: dict[int, list[UndoEntry]] = {}
    for kept in undo_data.kept_list(conn):
        own = kept.part_of if kept.part_of in families else kept.id
        families.setdefault(own or kept.id, []).append(kept)
    if not families:
        return []
    standings = _Standings(conn, history)
    return [standings.thing(tuple(members)) for members in families.values()]


def choose(
    found: Sequence[PurgeItem], *, ids: Collection[int], older_than_days: int, everything: bool
) -> dict[int, str]:
    """Return the numbers of the things that go, each with the reason.

    Where nothing is asked for by number, age or as a whole, it is what nobody needs any more: given back, let go,
    or over its time.
    """
    reasons = {thing.id: _reason(thing, ids, older_than_days, everything) for thing in found}
    return {number: reason for number, reason in reasons.items() if reason}


def states(conn: Connection, ids: Collection[int]) -> dict[int, UndoEntry]:
    """Return what the list has under these numbers, also where it is purged."""
    found = registry.find(conn, states=registry.STATES, ids=ids) if ids else []
    return {kept.id: kept for kept in found if kept.id in ids}


def drop(
    conn: Connection,
    target: Target,
    thing: PurgeItem,
    *,
    on_wait: Callable[[Sequence[Holder], float], None] = lambda _holders, _left_ms: None,
) -> list[str]:
    """Drop what is kept of a thing, as a whole or not at all; return the names of what was dropped.

    1. Look until nobody reads it in an old transaction (a dump does), as long as the target's patience lasts.
    2. Drop it under the lock_timeout of ``keeping.purge``; whoever came in between is looked for again.
    3. An autovacuum in the way is no reason to give up: PostgreSQL cancels it for us.

    The connection must be in autocommit mode.

    Raises Blocked when somebody is still there in the end; psycopg's errors as they come.
    Locks: AccessExclusiveLock on the side tables, which nobody but pgrunbook, and whoever dumps, reads.
    """
    patience_ms = float(target.lock_patience_ms)
    told = ""
    for attempt in range(1, target.attempts + 1):
        told = _look(conn, thing, patience_ms, on_wait) or told
        try:
            with conn.transaction():
                return undo_data.purge(conn, [kept.id for kept in thing.members])
        except (pg.LockNotAvailable, pg.DeadlockDetected) as exc:
            log.info("attempt %s of %s to drop what is kept as %s: %s", attempt, target.attempts, thing.id, exc)
            told = told or str(exc).partition("\n")[0]
            patience_ms = min(patience_ms, LAST_PATIENCE_MS)
    raise _blocked(thing, f"lock_timeout {registry.LOCK_TIMEOUT_MS} ms, {target.attempts} attempts", told)


def _look(
    conn: Connection, thing: PurgeItem, patience_ms: float, on_wait: Callable[[Sequence[Holder], float], None]
) -> str:
    """Wait until nobody reads a thing; return who was met. Raises Blocked where somebody still does."""
    seen = lock_wait.until_free(conn, _wanted(thing), patience_ms=patience_ms, on_wait=on_wait)
    told = "; ".join(map(str, seen.holders[:3]))
    if not seen.free and not all(map(is_cancellable_autovacuum, seen.holders)):
        raise _blocked(thing, f"looked for {seen.waited_ms / 1000:.1f} s", told)
    return told


def _reason(thing: PurgeItem, ids: Collection[int], older_than_days: int, everything: bool) -> str:
    if ids:
        return "named" if thing.id in ids else ""
    if everything:
        return "everything was asked for"
    if older_than_days:
        is_older = thing.members[0].made_at < datetime.now(UTC) - timedelta(days=older_than_days)
        return f"older than {older_than_days} days" if is_older else ""
    if not thing.is_open:
        return "given back"
    return "its time is over" if thing.is_over else ""


class _Standings:
    """Where each migration stands, in the history and in schema pgrunbook, and the restore points of its runs."""

    def __init__(self, conn: Connection, history: History) -> None:
        self._conn = conn
        self._applied = {entry.name for entry in history.applied()}
        self._partly = {way: {one.migration for one in step_log.unfinished(conn, way)} for way in ("up", "down")}
        self._points = step_log.restore_points(conn)

    def thing(self, members: tuple[UndoEntry, ...]) -> PurgeItem:
        """Return a thing with what it is needed for."""
        thing = PurgeItem(members, is_needed=False, loss="", way="")
        kept = members[0]
        if not thing.is_open:
            done = sum(one.rows_given_back for one in members)
            loss = f"no rollback needs it: {done:,} rows are given back"
            return PurgeItem(members, is_needed=False, loss=loss, way="")
        stands, loss = self._loss(kept)
        way = self._way(kept) if stands else ""
        return PurgeItem(members, is_needed=stands and not thing.is_over, loss=loss + way, way=way)

    def _loss(self, kept: UndoEntry) -> tuple[bool, str]:
        """Return whether the migration is where the step left it, and how things stand once it is gone."""
        name, partly = kept.migration, kept.migration in self._partly[kept.direction]
        if kept.direction == "up":
            if partly:
                return True, f"what is applied of {name} can only be taken back by "
            if self._is_applied(name):
                return True, f"{name} can only be taken back by "
            return False, f"no rollback needs it: {name} is not applied"
        if partly or name not in self._applied:
            return True, f"what taking back {name} destroyed can only be had by "
        return False, f"nothing gives it back: {name} is applied again"

    def _is_applied(self, name: str) -> bool:
        """A history table may not know the name of what has lost its file; our own record does."""
        return name in self._applied or step_log.history_step(self._conn, name) is not None

    def _way(self, kept: UndoEntry) -> str:
        """Return the restore point that its run made before it, or else the time before which it lies."""
        begins = "before_" if kept.direction == "up" else "rollback_"
        of_run = (point for point in self._points if point.run_id == kept.run_id and point.name.startswith(begins))
        point = next(of_run, None)
        if point is not None:
            return f"restore point {point.name}"
        return f"a restore to a time before {kept.made_at:%Y-%m-%dT%H:%M:%SZ}"


def _wanted(thing: PurgeItem) -> list[LockRequest]:
    """Return the locks that dropping takes; a table that is kept as a whole lies in a schema of its own."""
    names = [
        sql.Identifier(kept.kept_as, kept.table.name) if kept.kind == "table" else kept.side for kept in thing.members
    ]
    return [LockRequest(name.as_string(), MODE, CONFLICTS[MODE]) for name in names]


def _blocked(thing: PurgeItem, why: str, told: str) -> Blocked:
    return Blocked(
        f"could not drop what is kept as number {thing.id} ({why})",
        detail=f"{told}.",
        hint="Wait until that is over, or end it; then run the same run again with --resume.",
    )
