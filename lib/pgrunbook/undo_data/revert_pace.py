"""The pace of a revert: how many pages of the side table a batch has, and when the next one may begin."""

from __future__ import annotations

import logging
import time
from typing import Protocol

from psycopg import errors as pg
from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.database.control import Obedience
from pgrunbook.undo_data.registry import UndoEntry

TIMEOUTS = (pg.LockNotAvailable, pg.QueryCanceled, pg.DeadlockDetected)
_PAGES_LOOKED_AT = 10
_ATTEMPTS = 10

log = logging.getLogger(__name__)


class RevertThrottle(Protocol):
    """What lets batches begin, and learns from them; that of ``online.throttle`` does."""

    rows: int

    def turn(self) -> None:
        """Return when the next transaction may begin."""

    def worked(self, took_s: float, rows: int, *, asked: int = 0) -> None:
        """Learn from a batch."""

    @property
    def can_halve(self) -> bool:
        """Whether a batch that timed out may be tried again with fewer rows."""

    def failed(self) -> None:
        """Halve the next batch."""


class RevertPace:
    """The pace of one loop over a side table: batches of ``rows``, behind the first ``later_times`` as many.

    With a ``throttle`` that one says how many, and when. Where rows refer to each other, one batch has all pages.
    """

    def __init__(
        self, conn: Connection, entry: UndoEntry, rows: int, later_times: int, throttle: RevertThrottle | None,
        *, is_whole: bool,
    ) -> None:  # fmt: skip
        self._conn, self._entry, self._rows, self._throttle = conn, entry, rows, throttle
        self._later_times, self._is_whole, self._obedience = later_times, is_whole, Obedience(conn)
        self._given, self._attempts, self._began = entry.rows_given_back, 0, 0.0
        self._on_a_page = self._rows_on_a_page()

    @property
    def pages(self) -> int:
        """How many pages the next batch has."""
        if self._is_whole:
            return max(1, side_pages(self._conn, self._entry))
        return max(1, (self._throttle.rows if self._throttle is not None else self._rows) // self._on_a_page)

    def turn(self) -> None:
        """Return when the next batch may begin. Raises Interrupted, Blocked as ``database.control``."""
        if self._throttle is not None:
            self._throttle.turn()
        else:
            self._obedience.now()
        self._began = time.monotonic()

    def worked(self, given: int) -> None:
        """Learn from a batch, behind which so many rows are reverted."""
        self._attempts = 0
        if self._throttle is not None:
            asked = self.pages * self._on_a_page
            self._throttle.worked(time.monotonic() - self._began, given - self._given, asked=asked)
        else:
            self._rows, self._later_times = self._rows * self._later_times, 1
        self._given = given

    def may_retry(self, exc: Exception) -> bool:
        """Tell whether a batch that timed out is tried again, with half of its rows."""
        self._attempts += 1
        if self._throttle is None or not self._throttle.can_halve or self._attempts == _ATTEMPTS or self._conn.closed:
            return False
        log.info("attempt %s of %s at a batch of a revert: %s", self._attempts, _ATTEMPTS, exc)
        self._throttle.failed()
        return True

    def _rows_on_a_page(self) -> int:
        query = sql.SQL("SELECT pg_catalog.count(*) FROM {} AS k WHERE k.ctid < {}::pg_catalog.tid")
        last = sql.Literal(f"({_PAGES_LOOKED_AT},0)")
        found = self._conn.execute(query.format(self._entry.side, last)).fetchone()
        pages = min(_PAGES_LOOKED_AT, max(1, side_pages(self._conn, self._entry)))
        return max(1, int(str(found[0])) // pages) if found else 1


def side_pages(conn: Connection, entry: UndoEntry) -> int:
    """Return how many pages a side table has."""
    found = conn.execute(
        "SELECT pg_catalog.pg_relation_size(%s::pg_catalog.regclass)"
        " / pg_catalog.current_setting('block_size')::pg_catalog.int8",
        [entry.side.as_string(None)],
    ).fetchone()
    return int(str(found[0])) if found else 0
