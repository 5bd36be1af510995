"""What runs of pgrunbook are at, by their record in the database itself: loops of batches, and the last migrations."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal, InvalidOperation
from uuid import UUID

from psycopg.rows import class_row

from pgrunbook.database import control, step_log
from pgrunbook.database.connection import Connection
from pgrunbook.database.control import Order
from pgrunbook.database.queries import load

LOOKS = 10  # over so many a rate is taken
STALE_S = 10.0
MIGRATIONS = 5


@dataclass(frozen=True)
class Loop:
    """A loop of batches that is not at its end; ``quiet_s`` is how long ago its last batch was committed.

    ``rows_per_s`` is its rate over the last looks, since its start at the first; ``left_s`` is how long it will take
    at this rate, None where the keys do not tell, or at the first look.
    """

    name: str
    direction: str
    migration: str
    step: int
    run_id: str
    rows: int
    batches: int
    last_key: list[str] | None
    end_key: list[str] | None
    age_s: float
    quiet_s: float
    rows_per_s: float = 0.0
    left_s: float | None = None

    @property
    def is_quiet(self) -> bool:
        """Whether its last batch was long ago, as that of a run that was killed, or is paused."""
        return self.quiet_s > max(STALE_S, 5 * (self.age_s - self.quiet_s) / max(self.batches, 1))


@dataclass(frozen=True)
class EndedMigration:
    """A migration that a run has applied or taken back."""

    migration: str
    direction: str
    run_id: str
    ended_at: datetime


@dataclass(frozen=True)
class OwnWork:
    """What the record tells; ``order`` is the command that holds for batches now."""

    loops: tuple[Loop, ...] = ()
    migrations: tuple[EndedMigration, ...] = ()
    order: Order | None = None


def read(conn: Connection) -> OwnWork:
    """Return what the record tells, nothing where there is none.

    Raises Refused where schema pgrunbook is somebody else's, and psycopg's errors: no right to read it.
    Locks: none beyond AccessShareLock on its tables.
    """
    if not step_log.exists(conn):
        return OwnWork()
    with conn.cursor(row_factory=class_row(Loop)) as cursor:
        loops = cursor.execute(load("step_log")["loops"]).fetchall()
    with conn.cursor(row_factory=class_row(EndedMigration)) as cursor:
        migrations = cursor.execute(load("step_log")["last_migrations"], {"most": MIGRATIONS}).fetchall()
    return OwnWork(tuple(loops), tuple(migrations), control.standing(conn))


@dataclass
class Paces:
    """The rates of loops, from look to look."""

    _seen: dict[str, deque[tuple[float, int, Decimal | None]]] = field(default_factory=dict)

    def of(self, loops: Sequence[Loop]) -> tuple[Loop, ...]:
        """Return the loops with their rates; those that have ended are forgotten."""
        now = time.monotonic()
        self._seen = {one.name: self._seen.get(one.name, deque(maxlen=LOOKS)) for one in loops}
        return tuple(self._paced(one, now) for one in loops)

    def _paced(self, loop: Loop, now: float) -> Loop:
        seen, place = self._seen[loop.name], _place(loop.last_key)
        seen.append((now, loop.rows, place))
        then, rows, before = seen[0]
        if len(seen) == 1 or loop.rows < rows:  # the first look, or a loop that began anew
            ran_s = loop.age_s - loop.quiet_s
            return replace(loop, rows_per_s=loop.rows / ran_s if ran_s > 0 else 0.0)
        passed_s, end = now - then, _place(loop.end_key)
        left_s = None
        if place is not None and before is not None and end is not None and place > before:
            left_s = max(0.0, float((end - place) / (place - before)) * passed_s)
        return replace(loop, rows_per_s=(loop.rows - rows) / passed_s if passed_s > 0 else 0.0, left_s=left_s)


def _place(key: Sequence[str] | None) -> Decimal | None:
    """Return where a key is among others of its kind, by its first column; None where its text does not tell."""
    if not key:
        return None
    with suppress(InvalidOperation):
        found = Decimal(key[0])
        return found if found.is_finite() else None
    with suppress(ValueError):
        return Decimal(UUID(key[0]).int)
    with suppress(ValueError):
        return Decimal(datetime.fromisoformat(key[0]).timestamp())
    return None
