"""How long a statement holds its lock, as an estimate that names its basis.

The speeds are those of an ordinary server with cold cache, rounded down; a rehearsal measures the real ones.
"""

from __future__ import annotations

from pgrunbook.database.catalog import Catalog, Table
from pgrunbook.display.units import human

READ_BYTES_PER_S = 200_000_000
REWRITE_BYTES_PER_S = 50_000_000
INDEXED_ROWS_PER_S = 400_000
CHANGED_ROWS_PER_S = 20_000


def reading(catalog: Catalog, table: Table) -> str:
    """Return how long it takes to read a table from end to end."""
    size = sum(member.table_bytes for member in catalog.below(table))
    return _told(catalog, table, size / READ_BYTES_PER_S, f"{human(size)} read at 200 MB/s", "read")


def rewriting(catalog: Catalog, table: Table) -> str:
    """Return how long it takes to write a table and its indexes anew."""
    size = catalog.bytes(table)
    basis = f"{human(size)} with indexes at 50 MB/s"
    return _told(catalog, table, size / REWRITE_BYTES_PER_S, basis, "write anew with all its indexes")


def indexing(catalog: Catalog, table: Table) -> str:
    """Return how long it takes to build an index over a table."""
    rows = catalog.rows_estimate(table) or 0
    return _told(catalog, table, rows / INDEXED_ROWS_PER_S, f"{rows:,} rows at 400,000 a second", "index")


def changing(catalog: Catalog, table: Table) -> str:
    """Return how long it takes to change every row of a table."""
    rows = catalog.rows_estimate(table) or 0
    return _told(catalog, table, rows / CHANGED_ROWS_PER_S, f"{rows:,} rows at 20,000 a second", "change row by row")


def _told(catalog: Catalog, table: Table, seconds: float, basis: str, verb: str) -> str:
    if catalog.rows_estimate(table) is None:
        return f"for as long as it takes to {verb} {table.label}, whose size is not known here"
    if seconds < 1:
        return f"for less than a second ({basis})"
    amount = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    return f"for about {amount} ({basis})"
