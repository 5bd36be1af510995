"""Statements that drop what DROP TABLE would drop from other tables, before a table is parked instead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pgrunbook.database.relations import Column
from pgrunbook.inverse.dependents import DependentSet
from pgrunbook.inverse.reader import Address, CatalogObject, Reader


def link(table: str, parent: str, *, is_partition: bool) -> str:
    """Return the statement that detaches a table from a parent that stays."""
    if is_partition:
        return f"ALTER TABLE {parent} DETACH PARTITION {table}"
    return f"ALTER TABLE {table} NO INHERIT {parent}"


def drops(
    reader: Reader,
    gone: DependentSet,
    made: Iterable[Address],
    things: Mapping[Address, CatalogObject],
    columns: Mapping[Address, Column],
) -> Iterator[str]:
    """Yield the statements that drop the objects that will be recreated, dependents first.

    ``made`` is in the order of recreation; ``columns`` are dropped columns. What a parked table cannot take along is
    dropped last, that of parents first: with it goes that of their children.
    """
    found = list(made)
    apart = sorted(gone.apart.intersection(found), key=lambda a: gone.kept.index(gone.of_table(a)))
    others = [address for address in reversed(found) if address not in gone.apart]
    for address in [*others, *(a for a in apart if not gone.is_below(a, gone.apart))]:
        catalog = gone.catalogs[address]
        if address in columns:
            yield f"ALTER TABLE {columns[address].table} DROP COLUMN IF EXISTS {columns[address].sql}"
        elif catalog == "pg_attrdef":
            place = gone.places[address]
            for column in reader.columns([place.relation]):
                if column.number == place.number:
                    yield f"ALTER TABLE ONLY {column.table} ALTER COLUMN {column.sql} DROP DEFAULT"
        elif address in things:
            yield _drop(things[address], catalog)


def _drop(thing: CatalogObject, catalog: str) -> str:
    if catalog == "pg_constraint" and thing.type == "table constraint":
        name = thing.quoted[-1]
        return f"ALTER TABLE {thing.identity[len(name) + len(' on ') :]} DROP CONSTRAINT IF EXISTS {name}"
    if catalog == "pg_publication_rel":
        table, _, publication = thing.identity.rpartition(" in publication ")
        return f"ALTER PUBLICATION {publication} DROP TABLE ONLY {table}"
    return f"DROP {thing.word} IF EXISTS {thing.sql}"
