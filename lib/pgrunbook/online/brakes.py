"""What makes a loop of transactions stand still for a while: each reason has a name, a limit and what was seen.

Any one reason is enough, and the first is told, as in gh-ost. What a role may not see is told once, and brakes nothing.
Beside that it tells whether anybody else is at work on the server: a loop that is alone has nobody to spare.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import psycopg

from pgrunbook.database import connection, queries
from pgrunbook.database.connection import Connection
from pgrunbook.database.sqlstate import Meaning, meaning, said
from pgrunbook.database.vitals import LOCK_TIMEOUT_MS, MB, TIMEOUT_MS
from pgrunbook.display.prose import counted
from pgrunbook.display.units import human

LEAST_DEAD_ROWS = 10_000
QUIET_S = 5.0  # so long a session has been idle that is not at work


class BrakeName(StrEnum):
    """What made a loop wait."""

    STANDBY = "a standby lags"
    SLOT = "a slot keeps WAL"
    ARCHIVE = "WAL waits to be archived"
    VACUUM = "vacuum is at work on the table"
    DEAD_ROWS = "dead rows wait for vacuum"
    OLD_TRANSACTION = "an old transaction keeps dead rows"
    WAITERS = "others wait for a lock on the table"
    QUERY = "the threshold query says so"


@dataclass(frozen=True)
class BrakeLimits:
    """Beyond which a loop waits; 0 or "" looks at that not at all.

    ``dead`` is the share of dead rows among those that live; it brakes only where autovacuum removes them. ``query``
    is the operator's: while its first value is true, or above 0, the loop waits.
    """

    lag_bytes: int = 256 * MB
    lag_s: float = 30.0
    kept_bytes: int = 4096 * MB
    archive_segments: int = 42
    vacuum: bool = True
    dead: float = 0.5
    transaction_s: float = 600.0
    waiters: bool = True
    query: str = ""


@dataclass(frozen=True)
class Brake:
    """A reason to wait, and what was seen."""

    name: BrakeName
    told: str

    def __str__(self) -> str:
        return f"{self.name}: {self.told}" if self.told else str(self.name)


@dataclass
class Brakes:
    """Looks for reasons to wait, on the connection of a loop, between two of its transactions.

    ``table`` is the OID of the loop's table. ``unseen`` tells what could not be seen, once for each part.
    """

    conn: Connection
    table: int
    limits: BrakeLimits = field(default_factory=BrakeLimits)
    unseen: dict[str, str] = field(default_factory=dict)
    _tree: list[int] = field(default_factory=list, init=False)
    _ours: set[str] = field(default_factory=set, init=False)
    _sessions_of_others: int | None = field(default=None, init=False)
    _came_at: float = field(default=float("-inf"), init=False)

    def look(self) -> Brake | None:
        """Return the first reason to wait now, None where there is none.

        Raises psycopg's errors where the connection is lost.
        """
        rows = self._part("tree", lambda: queries.rows(self.conn, "throttle", "tree", table=self.table))
        self._tree = [row["oid"] for row in rows]
        return next(self._found(), None)

    def is_alone(self) -> bool:
        """Tell whether nobody else has been at work on the server for some seconds, in any database.

        Others are all sessions but ours: those of this role whose application_name is of pgrunbook. Whoever hides what
        it does, as those of other roles do from one without pg_read_all_stats, is at work; so is one that has begun
        since the last time, and may have ended again. Processes that send WAL are none: their lag is a brake.
        """
        ours = {"ours": f"{connection.APPLICATION} %", "traffic": connection.TRAFFIC, "quiet_s": QUIET_S}
        for row in self._part("others", lambda: queries.rows(self.conn, "throttle", "others", **ours)):
            self._ours.update(row["ours"])
            others, before = row["sessions"] - len(self._ours), self._sessions_of_others
            if before is not None and others > before:
                self._came_at = time.monotonic()
            # One of ours is counted a moment after it is there, and is nobody then: so the most there have been.
            self._sessions_of_others = others if before is None else max(others, before)
            return not row["are_at_work"] and time.monotonic() - self._came_at > QUIET_S
        return False

    def _found(self) -> Iterator[Brake]:
        if self.limits.query:
            yield from self._part("the threshold query", self._query)
        if self.limits.waiters:
            for row in self._rows("throttle", "waiters"):
                yield Brake(BrakeName.WAITERS, f"{counted(row['waiting'], 'session')}, for {row['mode']}")
        yield from self._replication()
        yield from self._vacuum()
        if self.limits.transaction_s:
            for row in self._rows("throttle", "oldest"):
                if row["age_s"] is not None and row["age_s"] > self.limits.transaction_s:
                    yield Brake(BrakeName.OLD_TRANSACTION, f"{row['who']}, for {row['age_s']:,.0f} s")

    def _vacuum(self) -> Iterator[Brake]:
        limits = self.limits
        for row in self._rows("throttle", "vacuums") if limits.vacuum else ():
            yield Brake(BrakeName.VACUUM, f"{row['phase']}, {row['percent']} % scanned")
        for row in self._rows("throttle", "table") if limits.dead else ():
            if row["is_vacuumed"] and row["dead"] > max(LEAST_DEAD_ROWS, limits.dead * row["live"]):
                yield Brake(BrakeName.DEAD_ROWS, f"{row['dead']:,} beside {row['live']:,} that live")

    def _replication(self) -> Iterator[Brake]:
        limits = self.limits
        for row in self._rows("vitals", "standbys") if limits.lag_bytes or limits.lag_s else ():
            behind, seconds = row["lag_bytes"], row["lag_s"] or 0.0
            if behind is None:
                self.unseen.setdefault("standbys", "the lag of standbys is hidden: GRANT pg_monitor shows it")
            elif 0 < limits.lag_bytes < behind or 0 < limits.lag_s < seconds:
                yield Brake(BrakeName.STANDBY, f"{row['name']} is {human(behind)} and {seconds:.0f} s behind")
        for row in self._rows("vitals", "slots") if limits.kept_bytes else ():
            if (row["kept_bytes"] or 0) > limits.kept_bytes:
                yield Brake(BrakeName.SLOT, f"{row['name']} keeps {human(row['kept_bytes'])}")
        for row in self._rows("throttle", "archive") if limits.archive_segments else ():
            if row["segments"] > limits.archive_segments:
                yield Brake(BrakeName.ARCHIVE, counted(row["segments"], "segment"))

    def _query(self) -> Sequence[Brake]:
        with self.conn.as_target():
            found = self.conn.execute(self.limits.query.encode()).fetchone()
        value = found[0] if found else None
        is_above = value is True or (not isinstance(value, bool) and value is not None and _number(value) > 0)
        return [Brake(BrakeName.QUERY, f"it returns {value}")] if is_above else []

    def _rows(self, module: str, name: str) -> list[dict[str, Any]]:
        parameters = {"tables": self._tree} if name in ("waiters", "vacuums", "table") else {}
        return self._part(name, lambda: queries.rows(self.conn, module, name, **parameters))

    def _part(self, name: str, read: Callable[[], Sequence[Any]]) -> list[Any]:
        try:
            with connection.transaction(self.conn, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=TIMEOUT_MS):
                self.conn.execute("SET TRANSACTION READ ONLY")
                return list(read())
        except psycopg.Error as exc:
            if meaning(exc) is Meaning.LOST or self.conn.closed:
                raise
            self.unseen[name] = f"{name}: {said(exc)}"
            return []


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return 1.0  # a text: there is something to tell
