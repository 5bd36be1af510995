"""The catalog without what a statement drops, and without what falls with that by CASCADE; for ``catalog_after``.

Without CASCADE the server refuses a statement with which anything else would fall.

Source: https://www.postgresql.org/docs/current/ddl-depend.html
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from pgrunbook.database.catalog import VIEW_BY_KEY, Catalog, Dependent, Fallen, Key, Table
from pgrunbook.database.relations import CatalogConstraint, Index
from pgrunbook.effects.table_after import GENERATED, dropped_column, with_default
from pgrunbook.sql.dropped import ROUTINES, dropped
from pgrunbook.sql.tree import CASCADE

_RELATIONS = ("view", "materialized view", "sequence")


def without_relations(catalog: Catalog, tables: Iterable[Table]) -> Catalog:
    """Return the catalog without relations, the tables below them, views of them and foreign keys to them."""
    gone: dict[Key, Table] = {}
    waiting = list(tables)
    while waiting:
        table = waiting.pop()
        if table.key not in gone:
            gone[table.key] = table
            waiting += [*catalog.below(table)[1:], *_relations(catalog, table.of_kind(*_RELATIONS))]
    labels = {table.label for table in gone.values()}
    kept = {key: _freed(table, gone, labels) for key, table in catalog.tables.items() if key not in gone}
    return replace(catalog, tables=MappingProxyType(kept))


def without_column(catalog: Catalog, table: Table, name: str) -> Catalog:
    """Return the catalog without a column, and without views of it and foreign keys to it."""
    for other, key in catalog.references_to(table):
        if name in key.partner_columns:
            catalog = without_foreign_key(catalog, other, key)
    there = catalog.at(table.key)
    used = (dependent for dependent in there.of_kind(*_RELATIONS) if name in dependent.columns)
    catalog = without_relations(catalog, _relations(catalog, used))
    catalog = _with(catalog, dropped_column(catalog.at(table.key), name))
    for generated in [each.name for each in there.of_kind(GENERATED) if name in each.columns]:
        catalog = without_column(catalog, catalog.at(table.key), generated)
    return catalog


def without_constraint(catalog: Catalog, table: Table, name: str) -> Catalog:
    """Return the catalog without a constraint: its index, those that tables below inherit, foreign keys to it."""
    constraint = next((each for each in table.constraints if each.name == name), None)
    if constraint is None:
        return catalog
    if constraint.kind == "f":
        return without_foreign_key(catalog, table, constraint)
    by_key = (each for each in table.of_kind(VIEW_BY_KEY) if each.type == name)
    catalog = without_relations(catalog, _relations(catalog, by_key))
    if constraint.index is not None:
        return without_index(catalog, table, constraint.index)
    return _edited(catalog, table, lambda one, each: each.name == name and (one.key == table.key or not each.is_local))


def without_index(catalog: Catalog, table: Table, name: str) -> Catalog:
    """Return the catalog without an index, those of partitions, and the constraints and foreign keys of these."""
    for other, key in catalog.references_to(table):
        if key.partner_index == name:
            catalog = without_foreign_key(catalog, other, key)
    whole = next((index for index in table.indexes if index.name == name), None)
    freed = []
    for one in catalog.below(catalog.at(table.key)):
        gone = {
            index.name
            for index in one.indexes
            if (index == whole if one.key == table.key else whole is not None and _is_part(index, whole))
        }
        indexes = tuple(index for index in one.indexes if index.name not in gone)
        constraints = tuple(each for each in one.constraints if each.index not in gone)
        freed.append(replace(one, indexes=indexes, constraints=constraints))
    return _with(catalog, *freed)


def _is_part(index: Index, whole: Index) -> bool:
    return index.is_partition and (index.keys, index.uses, index.unique) == (whole.keys, whole.uses, whole.unique)


def without_foreign_key(catalog: Catalog, table: Table, key: CatalogConstraint) -> Catalog:
    """Return the catalog without a foreign key, and without those that partitions on either side have of it."""
    partners = {each.key for each in catalog.below(catalog.at(key.partner))} if key.partner is not None else set()

    def is_gone(one: Table, each: CatalogConstraint) -> bool:
        if one.key == table.key and each.name == key.name:
            return True
        return each.kind == "f" and each.is_inherited and each.columns == key.columns and each.partner in partners

    return _edited(catalog, table, is_gone)


def fallen(catalog: Catalog, node: Any) -> list[Fallen]:
    """Return what the database told that it falls with the objects that a statement drops, and still hangs on them."""
    return [
        each for word in dropped(node) for each in catalog.fallen.get(word.word, ()) if _hangs(catalog, each, word.name)
    ]


def _hangs(catalog: Catalog, one: Fallen, on: str) -> bool:
    """Whether earlier statements have left in place what falls with an object of that name."""
    if one.relation is None:
        return True
    table = catalog.by_oid(one.relation)
    if table is None:
        return False
    new_types = {column.name for column in table.columns.values() if not column.type_oid}
    match one.part:
        case "column":
            return one.name in table.columns and one.name not in new_types
        case "constraint":
            there = [each for each in table.constraints if each.name == one.name]
            return any(new_types.isdisjoint(each.columns) for each in there)
        case "index":
            return any(each.name == one.name and new_types.isdisjoint(each.uses) for each in table.indexes)
        case "default":
            column = table.columns.get(one.name)
            if column is None or column.expression is None:
                return False
            is_as_it_was = column.type_oid and not column.expression_is_new
            return bool(is_as_it_was) or re.search(rf"\b{re.escape(on)}\b", column.expression) is not None
    return True


def without_fallen(catalog: Catalog, node: Any) -> Catalog:
    """Return the catalog without what falls with the objects that a statement drops."""
    for one in fallen(catalog, node):
        table = catalog.by_oid(one.relation) if one.relation is not None else None
        if table is None or (one.hinders and node.behavior != CASCADE):
            continue
        match one.part:
            case "relation":
                catalog = without_relations(catalog, [table])
            case "column":
                catalog = without_column(catalog, table, one.name)
            case "constraint":
                catalog = without_constraint(catalog, table, one.name)
            case "index":
                catalog = without_index(catalog, table, one.name)
            case "default":
                catalog = _with(catalog, with_default(table, one.name, None))
    return _without_new_defaults(catalog, node) if node.behavior == CASCADE else catalog


def _without_new_defaults(catalog: Catalog, node: Any) -> Catalog:
    """Return the catalog without the defaults that statements have given, and that call what is dropped."""
    names = [re.escape(word.name) for word in dropped(node) if word.kind in (*ROUTINES, "SEQUENCE")]
    if not names:
        return catalog
    called = re.compile(rf"\b(?:{'|'.join(names)})\b")
    for table in catalog.tables.values():
        for column in table.columns.values():
            is_new = column.expression_is_new or column.number < 0
            if is_new and column.default is not None and called.search(column.default):
                catalog = _with(catalog, with_default(catalog.at(table.key), column.name, None))
    return catalog


def without_type(catalog: Catalog, schema: str, name: str) -> Catalog:
    """Return the catalog without the columns of a type, and of arrays of it."""
    names = {f"{schema}.{name}", f"{schema}._{name}"}
    found = [
        (table, column.name)
        for table in catalog.tables.values()
        for column in table.columns.values()
        if column.type_name in names
    ]
    for table, column in found:
        catalog = without_column(catalog, table, column)
    return catalog


def _relations(catalog: Catalog, dependents: Iterable[Dependent]) -> list[Table]:
    return list(filter(None, (catalog.labelled(dependent.name) for dependent in dependents)))


def _freed(table: Table, gone: Collection[Key], labels: Collection[str]) -> Table:
    """Return a table without what ties it to relations that are gone."""
    return replace(
        table,
        constraints=tuple(each for each in table.constraints if each.partner not in gone),
        dependents=tuple(
            d for d in table.dependents if d.kind not in (*_RELATIONS, VIEW_BY_KEY) or d.name not in labels
        ),
        parents=tuple(key for key in table.parents if key not in gone),
        children=tuple(key for key in table.children if key not in gone),
    )


def _edited(catalog: Catalog, table: Table, is_gone: Callable[[Table, CatalogConstraint], bool]) -> Catalog:
    """Return the catalog without some constraints of a table and of those below it."""
    return _with(
        catalog,
        *(
            replace(one, constraints=tuple(each for each in one.constraints if not is_gone(one, each)))
            for one in catalog.below(catalog.at(table.key))
        ),
    )


def _with(catalog: Catalog, *tables: Table) -> Catalog:
    known = {table.key: table for table in tables if table.key in catalog.tables}
    return replace(catalog, tables=MappingProxyType({**catalog.tables, **known}))
