"""Asking for locks without a queue behind us: which to look for before a transaction, and how long to wait then.

1. Look who is in the way, in old transactions, and wait until nobody is; the target's ``lock_patience_ms`` is
   shared out over the attempts.
2. Ask under a short lock_timeout, as a net for whoever came in between: 50 ms, and twice as long each time.
3. On a table that is never free, the last attempt asks under the target's own lock_timeout.

Used by migrate and rollback, through ``changes.execute``. Measured: BENCHMARKS.md, "Behind a reader".
"""

from __future__ import annotations

from collections.abc import Sequence

from pgrunbook.changes.effects import CONFLICTS, blocks
from pgrunbook.changes.plan import LockOn, Step
from pgrunbook.database.look import Wanted

SHORTEST_LOCK_TIMEOUT_MS = 50


def wanted(steps: Sequence[Step]) -> list[Wanted]:
    """Return the locks of steps that keep readers or writers waiting, and what each waits for; [] for none."""
    found = dict.fromkeys((lock.object, lock.mode) for step in steps for lock in step.locks if keeps_out(lock))
    return [Wanted(name, mode, CONFLICTS[mode]) for name, mode in found]


def lock_timeout_ms(step: Step, attempt: int, attempts: int) -> int:
    """Return how long a step may wait for its locks in this attempt."""
    if attempt >= attempts or not any(keeps_out(lock) for lock in step.locks):
        return step.lock_timeout_ms
    return int(min(step.lock_timeout_ms, SHORTEST_LOCK_TIMEOUT_MS * 2 ** (attempt - 1)))


def keeps_out(lock: LockOn) -> bool:
    """Tell whether readers or writers wait while a lock is held, or asked for."""
    return bool({"readers", "row locks", "writers"} & set(blocks(lock.mode)))
