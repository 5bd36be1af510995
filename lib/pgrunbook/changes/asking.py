"""Asking for locks without a queue behind us: which to look for before a transaction, and how long to wait then.

1. Look who is in the way, in old transactions, and wait until nobody is, as long as the target's patience lasts.
2. Ask under a lock_timeout of 10 ms, as a net for whoever came in between. Where that is too short, look again
   after a moment: nobody has waited behind us for longer.
3. When the patience is over (a table that is never free), ask anyway: 50 ms, twice as long each time, the last
   attempt under the target's own lock_timeout. These attempts are counted.

Used by migrate and rollback, through ``changes.execute``. Measured: BENCHMARKS.md, "A schema change among traffic".
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from pgrunbook.changes.effects import CONFLICTS, blocks
from pgrunbook.changes.plan import LockOn, Step
from pgrunbook.database.look import Wanted

NET_MS = 10
SHORTEST_LOCK_TIMEOUT_MS = 50
GENTLE_PAUSE_S, LONGEST_GENTLE_PAUSE_S = 0.02, 0.25
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
# How long an attempt that is counted looks before it asks anyway.
LAST_LOOK_MS = 1_000.0


def wanted(steps: Sequence[Step]) -> list[Wanted]:
    """Return the locks of steps that keep readers or writers waiting, and what each waits for; [] for none."""
    found = dict.fromkeys((lock.object, lock.mode) for step in steps for lock in step.locks if keeps_out(lock))
    return [Wanted(name, mode, CONFLICTS[mode]) for name, mode in found]


def keeps_out(lock: LockOn) -> bool:
    """Tell whether readers or writers wait while a lock is held, or asked for."""
    return bool({"readers", "row locks", "writers"} & set(blocks(lock.mode)))


class Patience:
    """How a transaction asks for its locks: gently while the patience lasts, then by counted attempts."""

    def __init__(self, steps: Sequence[Step], patience_ms: float, attempts: int) -> None:
        self.wanted = wanted(steps)
        self.attempts = attempts
        self.attempt = 1
        self._ends_at = time.monotonic() + patience_ms / 1000
        self._pause_s = GENTLE_PAUSE_S
        self._gentle = False

    @property
    def left_ms(self) -> float:
        """How long to look now; every attempt that is counted looks for a moment."""
        return max((self._ends_at - time.monotonic()) * 1000, LAST_LOOK_MS)

    def looked(self, *, free: bool) -> None:
        """Take in what came of looking: the next question is gentle where nobody was in the way."""
        self._gentle = free and time.monotonic() < self._ends_at

    def lock_timeout_ms(self, step: Step) -> int:
        """Return how long a step may wait for its locks now."""
        if not any(keeps_out(lock) for lock in step.locks):
            return step.lock_timeout_ms
        if self._gentle:
            return min(step.lock_timeout_ms, NET_MS)
        if self.attempt >= self.attempts:
            return step.lock_timeout_ms
        return int(min(step.lock_timeout_ms, SHORTEST_LOCK_TIMEOUT_MS * 2 ** (self.attempt - 1)))

    def again_in_s(self, *, counts: bool) -> float | None:
        """Return after what pause to try again, None where no attempt is left.

        A gentle question that got no lock is not counted, unless it ``counts`` for another reason (a deadlock).
        """
        if self._gentle and not counts:
            self._pause_s = min(LONGEST_GENTLE_PAUSE_S, self._pause_s * 1.5)
            return self._pause_s
        if self.attempt >= self.attempts:
            return None
        self.attempt += 1
        return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * float(2 ** (self.attempt - 2)))

    def begin_again(self) -> None:
        """Count from the beginning: the last attempt got further."""
        self.attempt = 1
