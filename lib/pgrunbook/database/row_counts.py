"""The rows of tables in a target and on its branch, side by side: a branch that holds fewer measures little."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from psycopg import sql

from pgrunbook.database import connection
from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import load, snapshot_cursor

COUNT_EXACTLY_BELOW_BYTES = 256 * 1024 * 1024
FALLS_SHORT_BELOW = 0.9
STATEMENT_TIMEOUT_MS = 3_600_000


class RowCounts(NamedTuple):
    """The rows of a table in the target and on the branch, counted, or estimated where it is big."""

    table: str
    target_rows: int
    branch_rows: int

    @property
    def falls_short(self) -> bool:
        """Whether the branch holds clearly fewer rows, so that its measurements say little about the target."""
        return self.branch_rows < FALLS_SHORT_BELOW * self.target_rows


def compared(target_conn: Connection, branch_conn: Connection, tables: Sequence[str]) -> list[RowCounts]:
    """Return the rows of tables in the target and on the branch; tables that the target lacks are left out.

    Tables are named as in SQL: ``public.orders``. Up to 256 MB their rows are counted; beyond, they are
    estimated from the size, unless the table was never analysed.

    Raises Blocked when another session's lock keeps a table from being counted.
    Locks: AccessShareLock on each table that is counted.
    """
    there, here = connection.at_once((target_conn, branch_conn), lambda conn: [_rows(conn, table) for table in tables])
    counts = zip(tables, there, here, strict=True)
    return [RowCounts(table, rows, copied or 0) for table, rows, copied in counts if rows is not None]


def _rows(conn: Connection, table: str) -> int | None:
    """Return the rows of a table, None where it is not there."""
    with snapshot_cursor(conn, statement_timeout_ms=STATEMENT_TIMEOUT_MS) as cursor:
        found = cursor.execute(load("row_counts")["size"], {"name": table}).fetchone()
        if found is None:
            return None
        schema, relation, size_bytes, rows_estimate = found
        if rows_estimate is not None and size_bytes > COUNT_EXACTLY_BELOW_BYTES:
            return int(rows_estimate)
        count = sql.SQL("SELECT pg_catalog.count(*) FROM {}").format(sql.Identifier(schema, relation))
        return int((cursor.execute(count).fetchone() or (0,))[0])
