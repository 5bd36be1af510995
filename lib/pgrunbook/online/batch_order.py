"""The order of a backfill's batches: by the key, or by pages; decided by facts of the table, and a measured trial.

By pages scattered rows are updated together, so that new versions find room on their pages; by a key that is random in
the table they are scattered too, but each row is looked up twice, and by one that follows the pages they are not. A key
that is random takes another page for each row: of a table that is not small beside shared buffers and the WAL between
two checkpoints, each is read again, and its image written again, many times. Where
an index holds a filled column no update is HOT, and both are tried: what the trial does is done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Literal

from pgrunbook.database import queries
from pgrunbook.database.connection import Connection
from pgrunbook.errors import Refused
from pgrunbook.online.backfill import ColumnBackfill
from pgrunbook.online.ranges import RESIDUES

SMALL_ROWS = 20_000
TRIAL_BATCHES = RESIDUES
FASTER = 1.1
OF_ROOM = 2
SCATTERED = 0.5  # the correlation of a key with the pages, below which each batch of it meets most of them
ASKED = ("auto", "key", "pages")
Asked = Literal["auto", "key", "pages"]


@dataclass(frozen=True)
class OrderFacts:
    """What decides the order; ``correlation`` is how far the key follows the pages, None where that is not known.

    Of a partitioned table it is that within its partitions, where a batch by the key meets one or several of them.
    ``room_bytes`` is what the server keeps in memory, and writes between two checkpoints: the lesser of both.
    """

    rows_estimate: int
    bytes: int
    room_bytes: int
    fillfactor: int
    correlation: float | None
    is_indexed: bool
    indexes: int

    @property
    def is_scattered(self) -> bool:
        """Whether rows that follow each other by the key lie on pages that do not."""
        return self.correlation is not None and abs(self.correlation) < SCATTERED

    @property
    def is_large(self) -> bool:
        """Whether pages that are met in a random order leave the memory, and are logged whole, more than once."""
        return self.bytes * OF_ROOM > self.room_bytes

    @property
    def told(self) -> str:
        """The facts in a sentence."""
        key = "unknown" if self.correlation is None else f"{abs(self.correlation):.2f}"
        hot = "an index holds a filled column: no HOT update" if self.is_indexed else "HOT updates are possible"
        return f"the key follows the pages by {key}; fillfactor {self.fillfactor}; {self.indexes} indexes; {hot}"


@dataclass(frozen=True)
class BatchOrder:
    """The order that was chosen, why, and what the trial measured, in rows a second of work by each form."""

    by_pages: bool
    why: str
    measured: tuple[tuple[str, float], ...] = ()


def facts(conn: Connection, made: ColumnBackfill) -> OrderFacts:
    """Return the facts of a table by which the order is chosen."""
    key = made.key[0] if made.key else ""
    row = queries.rows(conn, "backfill", "order_facts", table=made.table.oid, key=key, columns=list(made.values))[0]
    return OrderFacts(**row)


def decided(made: ColumnBackfill, found: OrderFacts, asked: Asked) -> BatchOrder | None:
    """Return the order where nothing has to be tried, None where both forms are possible.

    Raises Refused where neither is.
    """
    if not made.is_immutable:
        if not made.key or asked == "pages":
            raise Refused(
                f"cannot backfill {made.table.label} by its pages",
                detail="Its expressions may give another value at another time, so that they do not tell which rows"
                " are done.",
                hint="Let them be immutable, or give the table a key.",
            )
        return BatchOrder(False, "its expressions are not immutable: each row has its turn once, by its key")
    if not made.key:
        if asked == "key":
            raise Refused(
                f"cannot backfill {made.table.label} by a key: it has none",
                detail="A unique index over columns that are NOT NULL, of a type with an order, would be one.",
                hint="Let order be auto: the ranges are then of pages.",
            )
        return BatchOrder(True, "the table has no key")
    if asked != "auto":
        return BatchOrder(asked == "pages", "it was asked for")
    if found.rows_estimate < SMALL_ROWS:
        return BatchOrder(False, "the table is small")
    if found.is_scattered and found.is_large:
        return BatchOrder(True, "by the key each row would take another page, and the table is too large for that")
    if found.is_indexed:
        return None
    if found.is_scattered:
        return BatchOrder(False, "rows that follow each other by the key lie scattered: their updates are HOT")
    return BatchOrder(True, "updates are HOT where rows that lie scattered are updated together")


def tried(run: Callable[[bool, int, Callable[[float, int], None]], object]) -> BatchOrder:
    """Try both forms, a window or two of pages and as many batches by the key; return the better one.

    By key the table grows less and less WAL is written, so that pages have to be faster by some percent.

    ``run`` executes so many batches of a form, and calls back with the time and rows of each.
    """
    measured = {by_pages: _rate(run, by_pages) for by_pages in (True, False)}
    names = (("by pages", measured[True]), ("by key", measured[False]))
    return BatchOrder(
        measured[True] >= FASTER * measured[False],
        "it was better in the trial",
        tuple((n, round(r, 1)) for n, r in names),
    )


def _rate(run: Callable[[bool, int, Callable[[float, int], None]], object], by_pages: bool) -> float:
    rates: list[float] = []

    def at(took_s: float, rows: int) -> None:
        if rows:
            rates.append(rows / max(took_s, 1e-6))

    run(by_pages, TRIAL_BATCHES, at)
    # The first batches of a window find no room yet: the second half tells what the rest will be like.
    return median(rates[len(rates) // 2 :]) if rates else 0.0
