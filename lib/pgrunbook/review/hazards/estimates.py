"""Estimates of how long a statement holds its lock, each with its basis.

The speeds are those of an ordinary server with cold cache, rounded down; a rehearsal measures the real ones.
"""

from __future__ import annotations

from pgrunbook.database.catalog import Catalog, Table
from pgrunbook.display.prose import counted
from pgrunbook.display.units import human

READ_BYTES_PER_S = 200_000_000
REWRITE_BYTES_PER_S = 50_000_000
INDEXED_ROWS_PER_S = 400_000
CHANGED_ROWS_PER_S = 20_000


def read_time(catalog: Catalog, table: Table) -> str:
    """Return how long it takes to read a table from end to end."""
    size = sum(member.table_bytes for member in catalog.below(table))
    return _duration(catalog, table, size / READ_BYTES_PER_S, f"{human(size)} read at 200 MB/s", "read")


def rewrite_time(catalog: Catalog, table: Table) -> str:
    """Return how long it takes to rewrite a table and its indexes."""
    size = catalog.bytes(table)
    basis = f"{human(size)} with indexes at 50 MB/s"
    return _duration(catalog, table, size / REWRITE_BYTES_PER_S, basis, "rewrite")


def index_time(catalog: Catalog, table: Table) -> str:
    """Return how long it takes to build an index over a table."""
    rows = catalog.rows_estimate(table) or 0
    return _duration(
        catalog, table, rows / INDEXED_ROWS_PER_S, f"{counted(rows, 'row')} at 400,000 a second", "build an index on"
    )


def change_time(catalog: Catalog, table: Table) -> str:
    """Return how long it takes to change every row of a table."""
    rows = catalog.rows_estimate(table) or 0
    return _duration(
        catalog, table, rows / CHANGED_ROWS_PER_S, f"{counted(rows, 'row')} at 20,000 a second", "change every row of"
    )


def _duration(catalog: Catalog, table: Table, seconds: float, basis: str, verb: str) -> str:
    if catalog.rows_estimate(table) is None:
        return f"for as long as it takes to {verb} {table.label}, whose size is unknown"
    if seconds < 1:
        return f"for less than a second ({basis})"
    amount = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    return f"for about {amount} ({basis})"
