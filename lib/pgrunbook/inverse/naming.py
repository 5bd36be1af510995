"""The name that the server will choose when a statement creates an object without naming it."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from pgrunbook.database.relations import Relation
from pgrunbook.inverse.reader import Reader
from pgrunbook.sql import default_names

# The server shortens the longer one of table and columns until both fit.
_NEVER_CUT_BYTES = 20


def choose(
    reader: Reader,
    schema: str,
    table: str,
    columns: str,
    label: str,
    more: Collection[str] = (),
    free: Collection[str] = (),
    *,
    is_index: bool,
) -> str:
    """Return the first free name; ``more`` are taken too, ``free`` will have been dropped."""
    taken: set[str] = set()
    for row in reader.rows("taken", schema=schema, like=_like(table, label)):
        if row["is_relation"] == is_index or is_index:
            taken.add(row["name"])
    return default_names.free_name(table, columns, label, (taken - set(free)) | set(more))


def _like(table: str, label: str) -> str:
    """The pattern of all names that may be chosen: they begin like the table's, and contain the label."""
    start = table.encode()[:_NEVER_CUT_BYTES].decode(errors="ignore")
    return re.sub(r"([\\%_])", r"\\\1", start) + f"%{label}%"


def of_index(reader: Reader, table: Relation, node: Any) -> str:
    """Return the name of the index that CREATE INDEX without a name creates."""
    columns = default_names.joined_columns(default_names.index_columns(node))
    return choose(reader, table.schema, table.name, columns, "idx", is_index=True)


def of_statistics(reader: Reader, table: Relation, node: Any) -> str:
    """Return the name of the statistics that CREATE STATISTICS without a name create."""
    parts = [part.name or "expr" for part in node.exprs]
    taken = {row["name"] for row in reader.rows("taken_statistics", schema=table.schema)}
    return default_names.free_name(table.name, default_names.joined_columns(parts), "stat", taken)
