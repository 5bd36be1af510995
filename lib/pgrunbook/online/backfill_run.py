"""The batches of a backfill at work: the order is chosen, rows are filled under a throttle, and all of it is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pgrunbook.database import queries
from pgrunbook.database.connection import Connection
from pgrunbook.online import bad_rows, batch_order
from pgrunbook.online.backfill import ColumnBackfill
from pgrunbook.online.bad_rows import BadRows, RefusedRow
from pgrunbook.online.batch_order import Asked, BatchOrder
from pgrunbook.online.batch_progress import BatchProgress
from pgrunbook.online.batches import run_batches
from pgrunbook.online.throttle import Throttle
from pgrunbook.plan.step import Batches

STATEMENT_TIMEOUT_MS = 30_000
FORMS = ("trial", "pages", "key")


@dataclass(frozen=True)
class Filled:
    """What a backfill did: rows really written, batches, the rows that it passed over, the share of HOT updates.

    ``hot`` is what the server has counted on the table meanwhile, also of others; None where it counts nothing.
    """

    rows: int
    batches: int
    order: BatchOrder
    refused: tuple[RefusedRow, ...]
    took_s: float
    hot: float | None


@dataclass
class BackfillRun:
    """A backfill at work on a connection; ``batches_of`` makes the loop of a form, with undo data where that is asked.

    ``on_batch`` is called after each batch with the rows written so far, and ``on_order`` when the order is chosen.
    """

    conn: Connection
    made: ColumnBackfill
    run_id: str
    throttle: Throttle
    bad: BadRows
    in_sync: bool
    batches_of: Callable[[bool], Batches]
    lock_timeout_ms: int = 2_000
    on_batch: Callable[[int, int], None] = lambda _rows, _batches: None
    on_order: Callable[[BatchOrder], None] = lambda _: None
    _of_forms: dict[str, BatchProgress] = field(default_factory=dict, init=False)

    def run(self, asked: Asked, *, chosen: BatchOrder | None = None) -> Filled:
        """Fill all rows; ``chosen`` is the order of an attempt before, that this one goes on with.

        Raises as :func:`run_batches`.
        """
        began, counted = time.monotonic(), self._counted()
        order = chosen or batch_order.decided(self.made, batch_order.facts(self.conn, self.made), asked)
        if order is None:
            order = batch_order.tried(self._try)
        if chosen is None:
            self.on_order(order)
        self._loop("pages" if order.by_pages else "key", None, lambda _took, _rows: None)
        took_s, now = time.monotonic() - began, self._counted()
        updated = now[0] - counted[0]
        refused = [row for form in FORMS for row in bad_rows.read(self.conn, self.made.loop(self.run_id, form))]
        return Filled(
            self.rows, sum(one.batches for one in self._of_forms.values()), order, tuple(refused), took_s,
            (now[1] - counted[1]) / updated if updated > 0 else None,
        )  # fmt: skip

    def _try(self, by_pages: bool, most: int, at: Callable[[float, int], None]) -> None:
        """Try a form; by pages from the middle on, for where the key follows the pages the other has done the first."""
        if not by_pages:
            return self._loop("key", most, at)
        pages = int(queries.rows(self.conn, "relations", "pages", table=self.made.table.sql)[0]["pages"])
        return self._loop("trial", most, at, first_page=pages // 2)

    def _loop(self, form: str, most: int | None, at: Callable[[float, int], None], first_page: int = 0) -> None:
        worked_s = [self.throttle.worked_s]

        def on_batch(progress: BatchProgress) -> None:
            before = self._of_forms.get(form)
            self._of_forms[form] = progress
            rows = progress.rows - (before.rows if before else 0)
            at(self.throttle.worked_s - worked_s[0], rows)
            worked_s[0] = self.throttle.worked_s
            self.on_batch(self.rows, sum(one.batches for one in self._of_forms.values()))

        self._of_forms[form] = run_batches(
            self.conn, self.batches_of(form != "key"), resume_from=self.made.loop(self.run_id, form),
            on_batch=on_batch, lock_timeout_ms=self.lock_timeout_ms, statement_timeout_ms=STATEMENT_TIMEOUT_MS,
            throttle=self.throttle, bad_rows=self.bad, most_batches=most, one_pass=self.in_sync, first_page=first_page,
            late=True,
        )  # fmt: skip

    @property
    def rows(self) -> int:
        """The rows that this run has written, also in attempts before."""
        return sum(one.rows for one in self._of_forms.values())

    def _counted(self) -> tuple[int, int]:
        row = queries.rows(self.conn, "backfill", "counted", table=self.made.table.oid)[0]
        return int(row["updated"]), int(row["hot"])
