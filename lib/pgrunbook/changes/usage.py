"""Who uses a column, as pg_stat_statements counts it."""

from __future__ import annotations

from collections.abc import Iterator

from pglast.parser import ParseError

from pgrunbook.changes.catalog import Catalog, Table, Use
from pgrunbook.changes.syntax import columns_in, relations_in, tree


def uses_of(catalog: Catalog, table: Table, column: str) -> Iterator[Use]:
    """Yield the counted statements that read or write a column; ``SELECT *`` uses every column.

    A column of the same name in another table of the same statement counts too: the text alone does not tell.
    """
    for use in catalog.uses:
        if table.name not in use.query:
            continue
        try:
            node = tree(use.query)
        except (ParseError, IndexError):
            continue
        tables = {catalog.find(name).key for name in relations_in(node)}
        if table.key in tables and ({column, "*"} & columns_in(node) or _writes(node, column)):
            yield use


def _writes(node: object, column: str) -> bool:
    targets = getattr(node, "targetList", None) or getattr(node, "cols", None) or ()
    return any(getattr(target, "name", None) == column for target in targets)
