"""The purge of undo data: what each item is needed for, which items go, and the drop of one of them.

Used by notebooks/purge.ipynb. ``undo_data`` has the registry of items, and the statements of a drop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from psycopg import errors as pg
from psycopg import sql

from pgrunbook import undo_data
from pgrunbook.config.targets import Target
from pgrunbook.database import lock_wait, step_log
from pgrunbook.database.connection import Connection
from pgrunbook.database.lock_wait import LAST_PATIENCE_MS, Holder, LockRequest, is_cancellable_autovacuum
from pgrunbook.display.prose import counted
from pgrunbook.errors import Blocked
from pgrunbook.history import History
from pgrunbook.record.run import again
from pgrunbook.sql.lock_modes import CONFLICTS
from pgrunbook.undo_data import UndoEntry, registry

if TYPE_CHECKING:
    from pgrunbook.execute.permit import Permit

MODE = "AccessExclusiveLock"
OPEN = ("kept", "giving back")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PurgeItem:
    """The undo data of one statement, with that of the rows that its DELETE cascaded into.

    ``is_needed`` says whether a way back needs it: it is not reverted or reapplied yet, the migration is where this
    step left it, and its retention is not over. ``loss`` says what is lost once it is purged, ``way`` which way back
    is left then, "" where no way back is lost.
    """

    members: tuple[UndoEntry, ...]
    is_needed: bool
    loss: str
    way: str

    @property
    def id(self) -> int:
        """Its number in the registry."""
        return self.members[0].id

    @property
    def bytes(self) -> int:
        """The disk space of all its members."""
        return sum(kept.bytes for kept in self.members)

    @property
    def is_open(self) -> bool:
        """Whether something of it could still be reverted or reapplied."""
        return any(kept.state in OPEN for kept in self.members)

    @property
    def is_over(self) -> bool:
        """Whether its retention is over; never while a rollback that uses it has begun and not finished."""
        if {kept.state for kept in self.members} != {"kept"}:
            return not self.is_open
        now = datetime.now(UTC)
        return all(kept.keep_until is not None and kept.keep_until < now for kept in self.members)


def items(conn: Connection, history: History) -> list[PurgeItem]:
    """Return the items of undo data, newest first, each with all its members; [] where there are none."""
    families: dict[int, list[UndoEntry]] = {}
    for kept in undo_data.list_entries(conn):
        own = kept.part_of if kept.part_of in families else kept.id
        families.setdefault(own or kept.id, []).append(kept)
    if not families:
        return []
    standings = _Standings(conn, history)
    return [standings.item(tuple(members)) for members in families.values()]


def choose(
    found: Sequence[PurgeItem], *, ids: Collection[int], older_than_days: int, everything: bool
) -> dict[int, str]:
    """Return the numbers of the items to purge, each with the reason.

    Where none is named by number, age or as a whole, these are the items that nobody needs any more: reverted,
    reapplied or past their retention.
    """
    reasons = {item.id: _reason(item, ids, older_than_days, everything) for item in found}
    return {number: reason for number, reason in reasons.items() if reason}


def states(conn: Connection, ids: Collection[int]) -> dict[int, UndoEntry]:
    """Return the registry's entries of these numbers, also those that are purged."""
    found = registry.find(conn, states=registry.STATES, ids=ids) if ids else []
    return {kept.id: kept for kept in found if kept.id in ids}


def subject(item: PurgeItem) -> str:
    """Return what a check of an item is about: its members, and what is lost with them."""
    return f"undo data {', '.join(str(kept.id) for kept in item.members)}: {item.loss}"


def drop(
    conn: Connection,
    target: Target,
    item: PurgeItem,
    permit: Permit,
    *,
    on_wait: Callable[[Sequence[Holder], float], None] = lambda _holders, _left_ms: None,
) -> list[str]:
    """Drop the tables of an item, all or none; return the names of what was dropped.

    1. Wait until no old transaction (a dump) reads them, as long as the target's patience lasts.
    2. Drop them under the lock_timeout of ``undo_data.purge``; when that fails, check for blockers again.
    3. An autovacuum among the blockers is no reason to give up: PostgreSQL cancels it for us.

    The connection must be in autocommit mode.

    Raises Refused without a permit for the item, Blocked when there are still blockers in the end; psycopg's errors
    as they come.
    Locks: AccessExclusiveLock on the side tables, which only pgrunbook and dumps read; and on the table of a captured
    column, for its triggers.
    """
    permit.check(subject(item), conn)
    patience_ms = float(target.lock_patience_ms)
    blockers = ""
    for attempt in range(1, target.attempts + 1):
        blockers = _until_free(conn, item, patience_ms, on_wait) or blockers
        try:
            with conn.transaction():
                return undo_data.purge(conn, [kept.id for kept in item.members])
        except (pg.LockNotAvailable, pg.DeadlockDetected) as exc:
            log.info("attempt %s of %s to drop undo data %s: %s", attempt, target.attempts, item.id, exc)
            blockers = blockers or str(exc).partition("\n")[0]
            patience_ms = min(patience_ms, LAST_PATIENCE_MS)
    raise _blocked(item, f"lock_timeout {registry.LOCK_TIMEOUT_MS} ms, {counted(target.attempts, 'attempt')}", blockers)


def _until_free(
    conn: Connection, item: PurgeItem, patience_ms: float, on_wait: Callable[[Sequence[Holder], float], None]
) -> str:
    """Wait until nobody reads an item; return the blockers that were met. Raises Blocked where some remain."""
    seen = lock_wait.until_free(conn, _wanted(conn, item), patience_ms=patience_ms, on_wait=on_wait)
    blockers = "; ".join(map(str, seen.holders[:3]))
    if not seen.free and not all(map(is_cancellable_autovacuum, seen.holders)):
        raise _blocked(item, f"waited for {seen.waited_ms / 1000:.1f} s", blockers)
    return blockers


def _reason(item: PurgeItem, ids: Collection[int], older_than_days: int, everything: bool) -> str:
    if ids:
        return "named" if item.id in ids else ""
    if everything:
        return "everything was asked for"
    if older_than_days:
        is_older = item.members[0].made_at < datetime.now(UTC) - timedelta(days=older_than_days)
        return f"older than {counted(older_than_days, 'day')}" if is_older else ""
    if not item.is_open:
        return "reverted or reapplied"
    return "its retention is over" if item.is_over else ""


class _Standings:
    """The state of each migration, in the history and in schema pgrunbook, and the restore points of its runs."""

    def __init__(self, conn: Connection, history: History) -> None:
        self._conn = conn
        self._applied = {entry.name for entry in history.applied()}
        self._partly = {way: {one.migration for one in step_log.unfinished(conn, way)} for way in ("up", "down")}
        self._points = step_log.restore_points(conn)

    def item(self, members: tuple[UndoEntry, ...]) -> PurgeItem:
        """Return an item with what it is needed for."""
        item = PurgeItem(members, is_needed=False, loss="", way="")
        kept = members[0]
        if not item.is_open:
            done = sum(one.rows_given_back for one in members)
            loss = f"no rollback needs it: {counted(done, 'row is', 'rows are')} reverted or reapplied"
            return PurgeItem(members, is_needed=False, loss=loss, way="")
        stands, loss = self._loss(kept)
        way = self._way(kept) if stands else ""
        return PurgeItem(members, is_needed=stands and not item.is_over, loss=loss + way, way=way)

    def _loss(self, kept: UndoEntry) -> tuple[bool, str]:
        """Return whether the migration is where the step left it, and what is lost once the item is purged."""
        if undo_data.is_of_fill(kept):
            return True, f"what {kept.migration} has filled can only be taken back by "
        name, partly = kept.migration, kept.migration in self._partly[kept.direction]
        if kept.direction == "up":
            if partly:
                return True, f"what is applied of {name} can only be taken back by "
            if self._is_applied(name):
                return True, f"{name} can only be taken back by "
            return False, f"no rollback needs it: {name} is not applied"
        if partly or name not in self._applied:
            return True, f"what the rollback of {name} destroyed can only come back by "
        return False, f"no migration reapplies it: {name} is applied again"

    def _is_applied(self, name: str) -> bool:
        """The history table may not know the name of a migration whose file is gone; our own record does."""
        return name in self._applied or step_log.history_step(self._conn, name) is not None

    def _way(self, kept: UndoEntry) -> str:
        """Return the restore point that its run made before it, or else a restore to a time before it."""
        begins = "before_" if kept.direction == "up" else "rollback_"
        of_run = (point for point in self._points if point.run_id == kept.run_id and point.name.startswith(begins))
        point = next(of_run, None)
        if point is not None:
            return f"restore point {point.name}"
        return f"a restore to a time before {kept.made_at:%Y-%m-%dT%H:%M:%SZ}"


def _wanted(conn: Connection, item: PurgeItem) -> list[LockRequest]:
    """Return the locks that the drop takes: on what is captured, and on tables with triggers that follow their rows."""
    found = [kept.side for kept in item.members]
    found += [sql.Identifier(*kept.table) for kept in item.members if registry.is_followed(conn, kept.kept_as)]
    return [LockRequest(name.as_string(), MODE, CONFLICTS[MODE]) for name in found]


def _blocked(item: PurgeItem, why: str, blockers: str) -> Blocked:
    return Blocked(
        f"could not purge undo data number {item.id} ({why})",
        detail=f"{blockers}.",
        hint=f"Wait until these sessions have ended, or end them; then {again()}.",
    )
