"""The size of the undo data of a statement, a column or a table, from the planner's statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.errors import Refused
from pgrunbook.plan.step import RANGE, Keep
from pgrunbook.sql.deparse import parsed
from pgrunbook.sql.do_branches import changes_of_rows
from pgrunbook.sql.tree import tree
from pgrunbook.undo_data.capture_columns import place
from pgrunbook.undo_data.capture_rows import rewrite
from pgrunbook.undo_data.cascades import CannotCaptureError
from pgrunbook.undo_data.registry import Side, StepKey

# A row's header and line pointer (https://www.postgresql.org/docs/current/storage-page-layout.html), and its hash.
_OVERHEAD_BYTES = 28
_HASH_BYTES = 8
# A line pointer and a header in the index on the side table's key.
_INDEX_BYTES = 12
_NOWHERE = StepKey("", "", "up", 0)


@dataclass(frozen=True)
class SizeEstimate:
    """How many rows will be captured, and how much space that takes."""

    rows_estimate: int
    bytes_estimate: int


def size_estimate(conn: Connection, statement: str) -> SizeEstimate:
    """Return how much a statement will capture, cascades of a DELETE included; nothing is executed.

    Raises Refused when the rows cannot be captured.
    """
    whole = statement.replace(RANGE, "true", 1)
    if parts := changes_of_rows(tree(whole)):
        each = [size_estimate(conn, part) for part in parts]
        return SizeEstimate(sum(one.rows_estimate for one in each), sum(one.bytes_estimate for one in each))
    try:
        sides = rewrite(conn, whole, _NOWHERE).sides
    except CannotCaptureError as exc:
        raise Refused("cannot capture the rows that a statement changes", detail=f"Because {exc}.") from exc
    rows = _plan(conn, whole)["Plans"][0]["Plan Rows"]
    total_rows, total_bytes = 0, 0
    of_origin = max(sides[0].table.rows_estimate, 1)
    for side in sides:
        # Of a table that the cascade reaches, expect the same share of rows as of the first one.
        expected = rows if not side.part_of else round(max(side.table.rows_estimate, 0) * min(1, rows / of_origin))
        total_rows += expected
        total_bytes += expected * (_width(conn, side) + _OVERHEAD_BYTES)
    return SizeEstimate(total_rows, total_bytes)


def estimate_of(conn: Connection, keep: Keep) -> SizeEstimate:
    """Return how much will be captured of a column or a table; a parked table takes no more space than before.

    Raises CannotCaptureError when it does not exist.
    """
    if keep.kind == "table":
        name = parsed(f"TABLE {keep.table}").fromClause[0]
        return SizeEstimate(int(_of_columns(conn, sql.Identifier(name.schemaname, name.relname))["Plan Rows"]), 0)
    found, column = place(conn, keep)
    plan, of_key = _of_columns(conn, found.source, *keep.key, column), _of_columns(conn, found.source, *keep.key)
    row = int(plan["Plan Width"]) + _OVERHEAD_BYTES + int(of_key["Plan Width"]) + _INDEX_BYTES
    return SizeEstimate(int(plan["Plan Rows"]), int(plan["Plan Rows"]) * row)


def _of_columns(conn: Connection, source: sql.Composable, *names: str) -> dict[str, Any]:
    query = sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(map(sql.Identifier, names)), source)
    return _plan(conn, query.as_string(conn))


def _width(conn: Connection, side: Side) -> int:
    """Return the average width of what is captured of a row, by the statistics of its columns."""
    written = [column for column in side.captured if column.is_written_captured and side.kind == "update"]
    indexed = side.table.key if side.followers is not None else ()
    names = [*side.table.key, *indexed, *(column.name for column in (*side.captured, *written))]
    width = _INDEX_BYTES if indexed else 0
    for name in names:
        query = sql.SQL("SELECT {} FROM {}").format(sql.Identifier(name), side.table.source)
        width += int(_plan(conn, query.as_string(conn))["Plan Width"])
    return width + (_HASH_BYTES if side.kind != "delete" else 0)


def _plan(conn: Connection, query: str) -> dict[str, Any]:
    with conn.as_target():
        found = conn.execute(f"EXPLAIN (FORMAT JSON) {query}".encode()).fetchone()
    plan: Any = found[0] if found else []
    return dict(plan[0]["Plan"])
