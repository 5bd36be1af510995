"""Looking before locking: who would keep us waiting, so that a lock is asked for when nobody would.

Whoever waits for a strong lock stalls everybody who comes after. So:

1. Look who holds a conflicting lock in an old transaction, or has waited long for one: behind it we would queue.
2. Nobody: ask for the lock. Young transactions are over in moments, and ``lock_timeout`` bounds the rest.
3. Somebody: ask for nothing, and look again in 10 ms, until the patience is over.

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

# How long an attempt that is counted looks before it asks anyway.
LAST_PATIENCE_MS = 1_000.0


OLD_MS = 50.0
POLL_S = 0.01
REPORT_S = 0.2


@dataclass(frozen=True)
class LockRequest:
    """A lock that is about to be asked for.

    ``object`` is a quoted name as to_regclass reads it; the modes are spelt as in pg_locks, and
    ``conflicts`` are those that ``mode`` waits for. Partitions and heirs are objects of their own.
    """

    object: str
    mode: str
    conflicts: frozenset[str]


@dataclass(frozen=True)
class Holder:
    """A session that holds a conflicting lock for longer than moments, or itself waits for one.

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
        who = "nobody" if self.pid is None else f"process {self.pid}"
        does = "waits for" if self.waits else "holds"
        return f'{who} ("{self.application}", {self.state}{age}) {does} {self.mode} on {self.object}'


@dataclass(frozen=True)
class LockWait:
    """What came of looking: ``holders`` are the sessions met, the last look at each, oldest transaction first."""

    free: bool
    waited_ms: float
    looks: int
    holders: tuple[Holder, ...]


def holders(conn: Connection, wanted: Sequence[LockRequest], *, older_than_ms: float = OLD_MS) -> list[Holder]:
    """Return who would keep us waiting, by the strongest lock of each; oldest transaction first, [] for nobody.

    Old is a transaction that began longer ago than ``older_than_ms``, a prepared one, and one whose age is
    not to be seen. Objects that are not there count for nothing. The connection must be in autocommit:
    within a transaction the server shows each time what it showed at the first.
    """
    facts = {
        "objects": [one.object for one in wanted],
        "conflicts": [f"{{{','.join(sorted(one.conflicts))}}}" for one in wanted],
        "older_than_ms": older_than_ms,
    }
    with conn.cursor(row_factory=class_row(Holder)) as cur:
        found = cur.execute(queries.load("lock_wait")["holders"], facts).fetchall()
    each: dict[tuple[int | None, str], Holder] = {}
    for holder in found:  # a session is told by its strongest lock, which comes first
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
    """Look until nobody would keep us waiting, for ``patience_ms`` at most; where nobody is there, look once.

    ``on_wait`` is called with those who are there and the patience left, at first, when others are there
    than before, and every 0.2 s.
    """
    watch = _Seen()
    while True:
        old = watch.old(holders(conn, wanted))
        left_ms = patience_ms - watch.waited_ms
        if not old or left_ms <= 0:
            return LockWait(not old, watch.waited_ms, watch.looks, tuple(_oldest_first(watch.met.values())))
        if watch.is_news(old):
            on_wait(old, left_ms)
        time.sleep(min(POLL_S, left_ms / 1000))


class _Seen:
    """What was seen look by look.

    Ages that the server does not show are taken from our own looks: whoever was not there at the first
    one is as old as we have seen it. Otherwise no table with traffic would ever be free.
    """

    def __init__(self) -> None:
        self.looks, self.waited_ms = 0, 0.0
        self.met: dict[int | str, Holder] = {}
        self._began = self._told = 0.0
        self._those: set[int | None] = set()
        self._since: dict[str, float] = {}

    def old(self, found: Sequence[Holder]) -> list[Holder]:
        """Take in one look; return those of whom it is not known that they are young."""
        now = time.monotonic()
        self._began = self._began or now
        self.looks, self.waited_ms = self.looks + 1, (now - self._began) * 1000
        new = now if self.looks > 1 else -math.inf
        self._since = {holder.transaction: self._since.get(holder.transaction, new) for holder in found}
        known_ms = {transaction: (now - since) * 1000 for transaction, since in self._since.items()}
        old = [h for h in found if math.isfinite(h.xact_age_ms) or known_ms[h.transaction] >= OLD_MS]
        self.met.update({holder.pid or holder.transaction: holder for holder in old})
        return old

    def is_news(self, old: Sequence[Holder]) -> bool:
        """Whether this look is to be told: it shows others, or 0.2 s are over."""
        now, those = time.monotonic(), {holder.pid for holder in old}
        if those == self._those and now < self._told + REPORT_S:
            return False
        self._those, self._told = those, now
        return True


def _with_gids(conn: Connection, found: Iterable[Holder]) -> Iterator[Holder]:
    """Yield them, the prepared ones with gid and age, for which a second query asks: there are seldom any."""
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
    """Tell whether a holder is an autovacuum that the server cancels for others; it does that work again later."""
    return holder.application == "autovacuum worker" and "to prevent wraparound" not in holder.query
