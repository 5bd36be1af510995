"""What a small transaction on a table takes while a loop works on it: probes on a connection of their own.

A probe reads a row of a random page, and writes a message into the WAL that no one reads: so its COMMIT waits for the
disk as that of the application does. No row is locked, and no page of the table is written.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
from psycopg import sql

from pgrunbook.config.targets import Target
from pgrunbook.database import queries
from pgrunbook.database.connection import Connection, connect
from pgrunbook.database.sqlstate import said
from pgrunbook.errors import RunbookError

EVERY_S = 0.025
IDLE_PROBES = 40
SETTLED_S = 0.1  # behind the begin of a rest: until then others still wait for what the loop has done
BEHIND_EVERY_S = 0.25
TIMEOUT_MS = 2_000
ROWS_OF_PAGE = 8  # any of the first ones: what counts is that the page is read

log = logging.getLogger(__name__)


class LatencyProbe:
    """Probes a table from a thread between ``with`` and its end; ``unseen`` says why it does not, where it cannot.

    ``took_ms`` are the last probes, newest last; ``behind`` counts the sessions that wait for the process ``pid`` now.
    """

    def __init__(self, target: Target, schema: str, table: str, pid: int) -> None:
        self.unseen = ""
        self.behind = 0
        self._target, self._table, self._pid = target, sql.Identifier(schema, table), pid
        self._took: deque[tuple[float, float]] = deque(maxlen=2_000)
        self._idle: deque[float] = deque(maxlen=IDLE_PROBES)
        self._rests_since, self._rested = float("inf"), 0  # how often the loop began or ended to rest
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="latency probe", daemon=True)
        self._is_begun = False

    def __enter__(self) -> LatencyProbe:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._is_begun:
            self._thread.join(timeout=10)

    def begin(self) -> None:
        """Begin to probe; again and again is once: a loop that is short needs no second connection."""
        if not self._is_begun:
            self._is_begun = True
            self._thread.start()

    def since(self, at: float) -> list[float]:
        """Return what the probes took that ended since that time (of ``time.monotonic``), in milliseconds."""
        with self._lock:
            return [took_ms for ended_at, took_ms in self._took if ended_at >= at]

    def idle(self) -> list[float]:
        """Return what the last probes took that began and ended in a rest of the loop, in milliseconds.

        Those of its first tenth of a second are none: what others wait for then is the loop's own work.
        """
        with self._lock:
            return list(self._idle)

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Know that the loop rests while the body runs."""
        self._rests_since, self._rested = time.monotonic(), self._rested + 1
        try:
            yield
        finally:
            self._rests_since, self._rested = float("inf"), self._rested + 1

    def _run(self) -> None:
        try:
            with connect(self._target, purpose="probes") as conn:
                conn.execute(f"SET lock_timeout = {TIMEOUT_MS}; SET statement_timeout = {TIMEOUT_MS}".encode())
                conn.prepare_threshold = 1
                self._probe(conn)
        except (psycopg.Error, RunbookError) as exc:
            self.unseen = f"latency: {exc.message if isinstance(exc, RunbookError) else said(exc)}"
            log.warning("no latency is measured: %s", self.unseen)

    def _probe(self, conn: Connection) -> None:
        oid = conn.oid_of("regclass", self._table.as_string(conn))
        tree = [row["oid"] for row in queries.rows(conn, "throttle", "tree", table=oid)]
        found = queries.rows(conn, "throttle", "probed", tables=tree)
        if not found:
            self.unseen = f"latency: {self._table.as_string(conn)} has no rows of its own"
            return
        leaf, pages = sql.Identifier(found[0]["schema"], found[0]["name"]), int(found[0]["pages"])
        text = sql.SQL(queries.load("throttle")["probe"]).format(table=leaf, row=sql.SQL("%s::pg_catalog.tid"))
        query, looked_at = text.as_string(conn).encode(), 0.0
        while not self._ended.is_set():
            row = f"({random.randrange(pages)},{random.randrange(1, ROWS_OF_PAGE)})"  # noqa: S311 - no secret
            began, rested = time.monotonic(), self._rested
            idle = rested if began - self._rests_since >= SETTLED_S else -1
            with suppress(psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled):  # it took that long
                conn.execute(query, [row])
            ended = time.monotonic()
            with self._lock:
                self._took.append((ended, (ended - began) * 1000))
                if idle == self._rested:
                    self._idle.append((ended - began) * 1000)
            if ended - looked_at > BEHIND_EVERY_S:
                self.behind, looked_at = self._behind(conn), ended
            self._ended.wait(max(0.0, EVERY_S - (time.monotonic() - began)))

    def _behind(self, conn: Connection) -> int:
        (found,) = conn.execute(queries.load("throttle")["behind"].encode(), {"pid": self._pid}).fetchone() or (0,)
        return int(str(found))
