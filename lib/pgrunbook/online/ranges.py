"""The ranges of a loop of batches: by a table's key, or by its pages; each gives the condition of the next batch.

By pages, one batch is one residue of ``hashtid(ctid)`` in a window of pages: its rows lie scattered over it, so that
the new version of a row finds room that the batch before has left on the same page (HOT, and no index is touched). An
UPDATE of ours gives a row another ctid: pages serve only where the statement's own condition tells which
rows are done. ``docs/guide.md`` has what was measured.

Source: https://www.postgresql.org/docs/current/storage-hot.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from psycopg import sql

from pgrunbook.database import own_schema
from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import load
from pgrunbook.database.row_tracker import RowTracker
from pgrunbook.plan.step import Batches

RESIDUES = 16
# Of a window. The first batch of one writes a full image of each of its pages into the WAL, so that a window is small;
# not smaller than the least, over which residues scatter.
LEAST_PAGES, MOST_PAGES = 8, 640
Key = tuple[str, ...]


class Ranges(Protocol):
    """The ranges of a loop, in their order."""

    def end(self, conn: Connection) -> Key | None:
        """Return where the loop ends, as it begins now; None where there is nothing to do."""

    def upper(self, conn: Connection, last: Key | None, end: Key, rows: int) -> Key:
        """Return where the range ends that begins behind ``last``, and holds so many rows or fewer."""

    def condition(self, last: Key | None, upper: Key) -> sql.Composable:
        """Return the condition of a range."""


class KeyRanges:
    """Ranges of the key of a table: each row once, also where the statement does not tell which rows are done."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._table = sql.Identifier(batches.schema, batches.table)
        self.tracker = RowTracker(batches.tracker, self._table, batches.key) if batches.tracker else None

    def end(self, conn: Connection) -> Key | None:
        """Return the largest key of the start; None for an empty table."""
        if self.tracker is not None:
            own_schema.hide(conn, self.tracker.name, self.tracker.function_name, f"{self.tracker.name}_id_seq")
            return texts(conn.execute(self.tracker.end()).fetchone())
        query = sql.SQL("SELECT {} FROM {} AS {} ORDER BY {} LIMIT 1").format(
            self._as_text(), self._table, sql.Identifier(self._batches.alias), self._keys(" DESC")
        )
        return texts(conn.execute(query).fetchone())

    def upper(self, conn: Connection, last: Key | None, end: Key, rows: int) -> Key:
        """Return where the next batch ends: one batch of rows further, but not after the end of the loop."""
        query = sql.SQL("SELECT {} FROM {} AS {} WHERE {} ORDER BY {} LIMIT 1 OFFSET {}").format(
            self._as_text(),
            self._table,
            sql.Identifier(self._batches.alias),
            self.condition(last, end),
            self._keys(""),
            sql.Literal(rows - 1),
        )
        return texts(conn.execute(query).fetchone()) or end

    def condition(self, last: Key | None, upper: Key) -> sql.Composable:
        """Compose the condition for keys after one key and up to another."""
        key = self._keys("")
        upto = sql.SQL("ROW({}) OPERATOR(pg_catalog.<=) ROW({})").format(key, self.values(upper))
        if last is None:
            return sql.SQL("({})").format(upto)
        above = sql.SQL("ROW({}) OPERATOR(pg_catalog.>) ROW({})").format(key, self.values(last))
        return sql.SQL("({} AND {})").format(above, upto)

    def values(self, key: Sequence[str]) -> sql.Composable:
        """Compose the values of a key."""
        pairs = zip(key, self._batches.key_types, strict=True)
        return sql.SQL(", ").join(
            sql.SQL("CAST({} AS {})").format(sql.Literal(value), sql.SQL(type_)) for value, type_ in pairs
        )

    def _keys(self, order: str) -> sql.Composable:
        parts = [sql.SQL("{}" + order).format(sql.Identifier(self._batches.alias, c)) for c in self._batches.key]
        return sql.SQL(", ").join(parts)

    def _as_text(self) -> sql.Composable:
        parts = [sql.SQL("{}::text").format(sql.Identifier(self._batches.alias, c)) for c in self._batches.key]
        return sql.SQL(", ").join(parts)


class PageRanges:
    """Ranges of pages: a key is the first page of a window, how many it has, the residue that is done, and of how many.

    Of a partitioned table a window is of the same pages of each partition. Rows that others move behind us are met by
    the next pass over all pages; its batches are whole windows.
    """

    def __init__(self, batches: Batches, number: int) -> None:
        self._batches = batches
        self._residues = RESIDUES if number == 1 else 1
        self._rows_of_page, self._parts = 1.0, 1

    @staticmethod
    def before(page: int) -> Key:
        """Return the key of a loop that begins at a page."""
        return str(page), "0", str(RESIDUES - 1), str(RESIDUES)

    def end(self, conn: Connection) -> Key | None:
        """Return how many pages the table has, the largest of its partitions where it has some."""
        pages = self._size(conn)
        return (str(pages),) if pages else None

    def upper(self, conn: Connection, last: Key | None, end: Key, rows: int) -> Key:
        """Return the next residue of the window, or the first one of the next window."""
        if last is not None:
            first, pages, residue, residues = _window(last)
            if residue + 1 < residues:
                return str(first), str(pages), str(residue + 1), str(residues)
            first += pages
        else:
            first = 0
        if last is None or self._rows_of_page == 1.0:
            self._size(conn)
        least = max(1, LEAST_PAGES // self._parts) if self._residues > 1 else 1
        wanted = min(MOST_PAGES, max(least, round(rows * self._residues / self._rows_of_page)))
        return str(first), str(min(wanted, int(end[0]) - first)), "0", str(self._residues)

    def condition(self, last: Key | None, upper: Key) -> sql.Composable:  # noqa: ARG002 - a window says it all
        """Compose the condition for the rows of a window with this residue."""
        first, pages, residue, residues = _window(upper)
        ctid = sql.Identifier(self._batches.alias, "ctid")
        window = sql.SQL("{0} OPERATOR(pg_catalog.>=) {1} AND {0} OPERATOR(pg_catalog.<) {2}").format(
            ctid, _tid(first), _tid(first + pages)
        )
        if residues == 1:
            return sql.SQL("({})").format(window)
        return sql.SQL(
            "({} AND pg_catalog.hashtid({}) OPERATOR(pg_catalog.&) {} OPERATOR(pg_catalog.=) {})"
        ).format(window, ctid, sql.Literal(residues - 1), sql.Literal(residue))  # fmt: skip

    def is_at_end(self, last: Key | None, end: Key) -> bool:
        """Tell whether this pass has met all pages."""
        if last is None:
            return False
        first, pages, residue, residues = _window(last)
        return first + pages >= int(end[0]) and residue + 1 >= residues

    def _size(self, conn: Connection) -> int:
        """Note how many rows are on a page, or the same page of all partitions; return the pages of the largest."""
        named = sql.Identifier(self._batches.schema, self._batches.table).as_string(conn)
        found = conn.execute(load("relations")["pages"].encode(), {"table": named}).fetchone()
        pages, parts, rows_of_page = found or (0, 1, 1.0)
        self._rows_of_page, self._parts = max(1.0, float(str(rows_of_page))), max(1, int(str(parts)))
        return int(str(pages))


def ranges_of(batches: Batches, number: int) -> KeyRanges | PageRanges:
    """Return the ranges of a loop, in its pass of that number."""
    return PageRanges(batches, number) if batches.by_pages else KeyRanges(batches)


def texts(row: tuple[object, ...] | None) -> Key | None:
    """Return a row as texts."""
    return None if row is None else tuple(str(value) for value in row)


def _window(key: Key) -> tuple[int, int, int, int]:
    first, pages, residue, residues = map(int, key)
    return first, pages, residue, residues


def _tid(page: int) -> sql.Composable:
    return sql.SQL("{}::pg_catalog.tid").format(sql.Literal(f"({page},0)"))
