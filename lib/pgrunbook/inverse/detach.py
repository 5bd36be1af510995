"""Statements that drop what DROP TABLE would drop from other tables, before a table is parked instead."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from pgrunbook.database.relations import Column
from pgrunbook.inverse.dependents import DependentSet
from pgrunbook.inverse.reader import Address, CatalogObject, Reader


def link(table: str, parent: str, *, is_partition: bool) -> str:
    """Return the statement that detaches a table from a parent that stays."""
    if is_partition:
        return f"ALTER TABLE {parent} DETACH PARTITION {table}"
    return f"ALTER TABLE {table} NO INHERIT {parent}"


def alone(reader: Reader, kept: Collection[int], replaced: Collection[int]) -> set[int]:
    """Return the partitions among parked tables that cannot stay with their parent: one of both is made anew."""
    labels = {reader.relation_at(oid).label: oid for oid in kept}
    found = set()
    for oid in kept:
        whole = reader.whole(reader.relation_at(oid))
        parents = {labels[parent] for parent in whole.parents if parent in labels}
        if whole.bound and parents and {oid, *parents} & {*replaced}:
            found.add(oid)
    return found


def below(reader: Reader, kept: Collection[int], parts: Collection[int]) -> set[int]:
    """Return these parked tables with the partitions below them."""
    found = {reader.relation_at(oid).label: oid for oid in parts}
    left = [oid for oid in kept if oid not in parts]
    while more := [oid for oid in left if {*reader.whole(reader.relation_at(oid)).parents} & {*found}]:
        found |= {reader.relation_at(oid).label: oid for oid in more}
        left = [oid for oid in left if oid not in more]
    return {*found.values()}


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


def keys_of_partitions(reader: Reader, gone: DependentSet) -> Iterator[str]:
    """Yield the statements that drop the foreign keys that partitions which are parked alone had of their parents."""
    found = [
        address
        for address, place in gone.places.items()
        if gone.catalogs[address] == "pg_constraint" and place.kind == "f" and place.relation in gone.detached
        and place.comes_along
    ]  # fmt: skip
    yield from (_drop(thing, "pg_constraint") for thing in reader.things(found))


def _drop(thing: CatalogObject, catalog: str) -> str:
    if catalog == "pg_constraint" and thing.type == "table constraint":
        name = thing.quoted[-1]
        return f"ALTER TABLE {thing.identity[len(name) + len(' on ') :]} DROP CONSTRAINT IF EXISTS {name}"
    if catalog == "pg_publication_rel":
        table, _, publication = thing.identity.rpartition(" in publication ")
        return f"ALTER PUBLICATION {publication} DROP TABLE ONLY {table}"
    return f"DROP {thing.word} IF EXISTS {thing.sql}"
