"""Lock requests that build no lock queue: a lock is requested when nobody old holds a conflicting one.

A session that waits for a strong lock blocks every session that comes after it. So:

1. Read who holds a conflicting lock in an old transaction, or has waited long for one: we would queue behind it.
2. Nobody: request the lock. Young transactions end in moments, and ``lock_timeout`` bounds the rest.
3. Somebody: request nothing, and read again in 10 ms, until the patience is over.

Source: https://www.postgresql.org/docs/current/view-pg-locks.html
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from psycopg.rows import class_row

from pgrunbook.database import queries
from pgrunbook.database.connection import Connection

# How long a counted attempt waits for old transactions to end before it requests its lock anyway.
LAST_PATIENCE_MS = 1_000.0


OLD_MS = 50.0
POLL_S = 0.01
REPORT_S = 0.2


@dataclass(frozen=True)
class LockRequest:
    """A lock that is about to be requested.

    ``object`` is a quoted name as to_regclass reads it; the modes are spelt as in pg_locks, and
    ``conflicts`` are those that ``mode`` waits for. Partitions and inheritance children are objects of their own.
    """

    object: str
    mode: str
    conflicts: frozenset[str]


@dataclass(frozen=True)
class Holder:
    """A session that holds a conflicting lock in an old transaction, or itself waits for one.

    ``pid`` is None for a prepared transaction, whose gid is the application. ``xact_age_ms`` is infinite
    where the server does not show it: without pg_read_all_stats, or with track_activities off.
    ``transaction`` is its virtual transaction id.
    """

    pid: int | None
    application: str
    state: str
    xact_age_ms: float
    query: str
    object: str
    mode: str
    waits: bool
    transaction: str

    def __str__(self) -> str:
        age = "" if math.isinf(self.xact_age_ms) else f" for {self.xact_age_ms / 1000:.0f} s"
        if self.xact_age_ms < 1000:
            age = f" for {self.xact_age_ms:.0f} ms"
        who = "a transaction without a process" if self.pid is None else f"process {self.pid}"
        does = "waits for" if self.waits else "holds"
        return f'{who} ("{self.application}", {self.state}{age}) {does} {self.mode} on {self.object}'


@dataclass(frozen=True)
class LockWait:
    """The result of a wait: ``holders`` are all sessions seen, each as last seen, oldest transaction first."""

    free: bool
    waited_ms: float
    polls: int
    holders: tuple[Holder, ...]


def holders(conn: Connection, wanted: Sequence[LockRequest], *, older_than_ms: float = OLD_MS) -> list[Holder]:
    """Return who would block us, each with its strongest lock; oldest transaction first, [] for nobody.

    A transaction is old when it began longer ago than ``older_than_ms``, when it is prepared, and when the server
    does not show its age. Objects that do not exist are ignored. The connection must be in autocommit: within a
    transaction the server repeats its first answer.
    """
    facts = {
        "objects": [one.object for one in wanted],
        "conflicts": [f"{{{','.join(sorted(one.conflicts))}}}" for one in wanted],
        "older_than_ms": older_than_ms,
    }
    with conn.cursor(row_factory=class_row(Holder)) as cur:
        found = cur.execute(queries.load("lock_wait")["holders"], facts).fetchall()
    each: dict[tuple[int | None, str], Holder] = {}
    for holder in found:  # the strongest lock of a session comes first
        each.setdefault((holder.pid, holder.transaction), holder)
    if any(holder.pid is None for holder in found):
        return _oldest_first(_with_gids(conn, each.values()))
    return _oldest_first(each.values())


def until_free(
    conn: Connection,
    wanted: Sequence[LockRequest],
    *,
    patience_ms: float,
    on_wait: Callable[[Sequence[Holder], float], None] = lambda _holders, _left_ms: None,
) -> LockWait:
    """Poll until nobody would block us, for ``patience_ms`` at most; where nobody does, poll once.

    ``on_wait`` is called with the holders and the patience left: at first, when the holders are others than
    before, and every 0.2 s.
    """
    watch = _Seen()
    while True:
        old = watch.old(holders(conn, wanted))
        left_ms = patience_ms - watch.waited_ms
        if not old or left_ms <= 0:
            return LockWait(not old, watch.waited_ms, watch.polls, tuple(_oldest_first(watch.met.values())))
        if watch.is_worth_reporting(old):
            on_wait(old, left_ms)
        time.sleep(min(POLL_S, left_ms / 1000))


class _Seen:
    """The holders seen so far, poll by poll.

    Where the server does not show an age, our own polls measure it: a holder that the first poll did not see
    is as old as the time since we first saw it. Otherwise no table with traffic would ever be free.
    """

    def __init__(self) -> None:
        self.polls, self.waited_ms = 0, 0.0
        self.met: dict[int | str, Holder] = {}
        self._began = self._reported_at = 0.0
        self._reported: set[int | None] = set()
        self._since: dict[str, float] = {}

    def old(self, found: Sequence[Holder]) -> list[Holder]:
        """Add the holders of one poll; return those that are not known to be young."""
        now = time.monotonic()
        self._began = self._began or now
        self.polls, self.waited_ms = self.polls + 1, (now - self._began) * 1000
        new = now if self.polls > 1 else -math.inf
        self._since = {holder.transaction: self._since.get(holder.transaction, new) for holder in found}
        known_ms = {transaction: (now - since) * 1000 for transaction, since in self._since.items()}
        old = [h for h in found if math.isfinite(h.xact_age_ms) or known_ms[h.transaction] >= OLD_MS]
        self.met.update({holder.pid or holder.transaction: holder for holder in old})
        return old

    def is_worth_reporting(self, old: Sequence[Holder]) -> bool:
        """Whether to report this poll: its holders are others than at the last report, or 0.2 s have passed."""
        now, pids = time.monotonic(), {holder.pid for holder in old}
        if pids == self._reported and now < self._reported_at + REPORT_S:
            return False
        self._reported, self._reported_at = pids, now
        return True


def _with_gids(conn: Connection, found: Iterable[Holder]) -> Iterator[Holder]:
    """Yield the holders, prepared transactions with gid and age; a second query reads those, for they are rare."""
    known = {str(transaction): facts for transaction, *facts in conn.execute(queries.load("lock_wait")["prepared"])}
    for holder in found:
        gid, age_ms = known.get(holder.transaction, ("(no name)", math.inf))
        if holder.pid is not None:
            yield holder
        else:
            yield replace(holder, application=str(gid), state="prepared transaction", xact_age_ms=float(str(age_ms)))


def _oldest_first(found: Iterable[Holder]) -> list[Holder]:
    return sorted(found, key=lambda holder: -holder.xact_age_ms)


def is_cancellable_autovacuum(holder: Holder) -> bool:
    """Tell whether a holder is an autovacuum that the server cancels for a waiting session; it is redone later."""
    return holder.application == "autovacuum worker" and "to prevent wraparound" not in holder.query
