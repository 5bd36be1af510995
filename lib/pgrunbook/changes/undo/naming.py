"""The name that the server will choose, where a statement gives none to what it makes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pgrunbook.changes.safe_forms import names
from pgrunbook.changes.undo.reader import Reader, Relation


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
    """Return the first free name; ``more`` are taken beside those in the catalog, ``free`` will be dropped before."""
    taken: set[str] = set()
    # Every name that may be chosen ends with the label and a number.
    likes = [f"%{label}%"]
    for row in reader.rows("taken", schema=schema, likes=likes):
        if row["is_relation"] == is_index or is_index:
            taken.add(row["name"])
    return names.chosen(table, columns, label, (taken - set(free)) | set(more))


def of_index(reader: Reader, table: Relation, node: Any) -> str:
    """Return the name of the index that a CREATE INDEX without one makes."""
    columns = names.joined(names.index_columns(node))
    return choose(reader, table.schema, table.name, columns, "idx", is_index=True)


def of_statistics(reader: Reader, table: Relation, node: Any) -> str:
    """Return the name of the statistics that a CREATE STATISTICS without one makes."""
    parts = [part.name or "expr" for part in node.exprs]
    taken = {row["name"] for row in reader.rows("taken_statistics", schema=table.schema)}
    return names.chosen(table.name, names.joined(parts), "stat", taken)
