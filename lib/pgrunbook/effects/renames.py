"""The catalog after something gets another name or schema; for ``catalog_after``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from pglast import ast

from pgrunbook.database.catalog import VIEW_BY_KEY, Catalog, Key, Standing, Table
from pgrunbook.database.relations import Column
from pgrunbook.effects.new_relation import with_tables
from pgrunbook.effects.table_after import renamed_column
from pgrunbook.sql.tree import Name, dotted, object_kind, quoted, relation

RELATIONS = {"TABLE", "VIEW", "MATVIEW", "SEQUENCE", "FOREIGN_TABLE"}
TYPES = {"TYPE", "DOMAIN"}
_NAMED_BY_LABEL = ("view", "materialized view", "sequence")


def moves(catalog: Catalog, node: Any) -> dict[Key, Key]:
    """Return the relations that a statement renames or moves to another schema, old key to new; {} for none.

    SET SCHEMA moves a table with its own sequences, but without its partitions.

    Source: https://www.postgresql.org/docs/current/sql-altertable.html, SET SCHEMA
    """
    match node:
        case ast.RenameStmt() if object_kind(node.renameType) == "SCHEMA":
            return {key: (node.newname, key[1]) for key in catalog.tables if _is_in(catalog, key, node.subname)}
        case ast.RenameStmt() if object_kind(node.renameType) in RELATIONS:
            table = catalog.find(relation(node.relation))
            return {} if table.standing is Standing.MISSING else {table.key: (table.schema, node.newname)}
        case ast.AlterObjectSchemaStmt() if object_kind(node.objectType) in RELATIONS:
            table = catalog.find(relation(node.relation))
            known = (catalog.labelled(dependent.name) for dependent in table.of_kind("sequence"))
            together = [] if table.standing is Standing.MISSING else [table, *filter(None, known)]
            return {member.key: (node.newschema, member.name) for member in together}
    return {}


def renamed(catalog: Catalog, node: Any) -> Catalog:
    """Return the catalog after ALTER ... RENAME TO or SET SCHEMA."""
    kind = object_kind(node.renameType if isinstance(node, ast.RenameStmt) else node.objectType)
    if kind in TYPES:
        old = dotted(node.object)
        to = Name(old.schema, node.newname) if isinstance(node, ast.RenameStmt) else Name(node.newschema, old.name)
        return moved_type(catalog, old, to)
    if kind == "COLUMN" and node.relation is not None:
        return _renamed_column(catalog, node)
    if kind == "TABCONSTRAINT" or (kind in ("INDEX", "TABLE") and catalog.index(relation(node.relation))):
        return _renamed_part(catalog, node)
    moved = moves(catalog, node)
    catalog = _moved(catalog, moved, _labels(catalog, node, moved))
    if kind != "SCHEMA":
        return catalog
    types = {(node.newname if at == node.subname else at, name): fact for (at, name), fact in catalog.types.items()}
    return _retyped(replace(catalog, types=types), node.subname, None, Name(node.newname, ""))


def _is_in(catalog: Catalog, key: Key, schema: str) -> bool:
    # In a catalog without a connection "" stands for the default schema.
    return key[0] == schema or (key[0] == "" and schema in catalog.search_path)


def _labels(catalog: Catalog, node: Any, moved: Mapping[Key, Key]) -> dict[str, str]:
    """Return the new labels of moved tables and of objects that belong to them, by old label."""
    found = {str(Name(*old)): str(Name(*new)) for old, new in moved.items()}
    match node:
        case ast.AlterObjectSchemaStmt() if moved:
            table = catalog.find(relation(node.relation))
            owned, old, new = table.of_kind("sequence"), table.schema, node.newschema
        case ast.RenameStmt() if object_kind(node.renameType) == "SCHEMA":
            everything = (d for table in catalog.tables.values() for d in table.of_kind(*_NAMED_BY_LABEL))
            owned, old, new = everything, node.subname, node.newname
        case _:
            return found
    prefix = quoted(old) + "."
    names = {dependent.name for dependent in owned if dependent.name.startswith(prefix)}
    return found | {name: f"{quoted(new)}.{name.removeprefix(prefix)}" for name in names}


def _moved(catalog: Catalog, moved: Mapping[Key, Key], labels: Mapping[str, str]) -> Catalog:
    """Return the catalog with new names, also in the references of other tables."""
    if not moved and not labels:
        return catalog
    there = {key: _following(table, moved, labels) for key, table in catalog.tables.items()}
    tables = {key: table for key, table in there.items() if key not in moved}
    for key, (schema, name) in moved.items():
        table = there.get(key) or catalog.at(key)
        indexes = tuple(replace(index, schema=schema) for index in table.indexes)
        columns = {each: replace(column, table=str(Name(schema, name))) for each, column in table.columns.items()}
        moved_to = replace(table, schema=schema, name=name, indexes=indexes, columns=columns)
        tables[schema, name] = in_use(moved_to)
    return replace(catalog, tables=MappingProxyType(tables))


def in_use(table: Table) -> Table:
    """Return a filled new table as one that others use: a stand-in, or one that has got the name that they know."""
    if table.standing is not Standing.NEW or table.rows_estimate == 0:
        return table
    return replace(table, standing=Standing.UNKNOWN if table.rows_estimate is None else Standing.THERE)


def _following(table: Table, moved: Mapping[Key, Key], labels: Mapping[str, str]) -> Table:
    def new(keys: tuple[Key, ...]) -> tuple[Key, ...]:
        return tuple(moved.get(key, key) for key in keys)

    def text_of(expression: str | None) -> str | None:
        for old_label, label in labels.items() if expression and "nextval(" in expression else ():
            expression = (expression or "").replace(f"nextval('{old_label}'", f"nextval('{label}'")
        return expression

    return replace(
        table,
        columns={name: replace(c, expression=text_of(c.expression)) for name, c in table.columns.items()},
        constraints=tuple(
            replace(c, partner=moved[c.partner]) if c.partner is not None and c.partner in moved else c
            for c in table.constraints
        ),
        dependents=tuple(
            replace(d, name=labels[d.name]) if d.kind in (*_NAMED_BY_LABEL, VIEW_BY_KEY) and d.name in labels else d
            for d in table.dependents
        ),
        sources=tuple(replace(s, relation=moved.get(s.relation, s.relation)) for s in table.sources),
        parents=new(table.parents),
        children=new(table.children),
    )


def _renamed_column(catalog: Catalog, node: Any) -> Catalog:
    table = catalog.find(relation(node.relation))
    if node.subname not in table.columns:
        return catalog
    below = {each.key: renamed_column(each, node.subname, node.newname) for each in catalog.below(table)}
    for other, key in catalog.references_to(table):
        names = tuple(node.newname if name == node.subname else name for name in key.partner_columns)
        here = below.get(other.key, other)
        keys = tuple(replace(c, partner_columns=names) if c.name == key.name else c for c in here.constraints)
        below[other.key] = replace(here, constraints=keys)
    return with_tables(catalog, *below.values())


def _renamed_part(catalog: Catalog, node: Any) -> Catalog:
    """Return the catalog after a constraint or an index is renamed: one that belongs to the other follows."""
    name = relation(node.relation)
    of_index = catalog.index(name) if object_kind(node.renameType) in ("INDEX", "TABLE") else None
    table, old = (of_index[0], name.name) if of_index else (catalog.find(name), node.subname)
    for other, key in catalog.references_to(table):
        here = catalog.at(other.key)
        keys = (replace(c, partner_index=node.newname) if c.name == key.name else c for c in here.constraints)
        catalog = with_tables(catalog, replace(here, constraints=tuple(keys))) if key.partner_index == old else catalog
    table = catalog.at(table.key)
    indexes = tuple(replace(i, name=node.newname) if i.name == old else i for i in table.indexes)
    constraints = tuple(
        replace(c, name=node.newname, index=c.index and node.newname) if c.name == old else c for c in table.constraints
    )
    below = []
    for each in catalog.below(table)[1:]:
        new = (replace(c, name=node.newname) if c.is_inherited and c.name == old else c for c in each.constraints)
        below.append(replace(each, constraints=tuple(new)))
    return with_tables(catalog, replace(table, indexes=indexes, constraints=constraints), *below)


def moved_type(catalog: Catalog, old: Name, new: Name | None) -> Catalog:
    """Return the catalog after a type gets another name; None when it is dropped."""
    schema, fact = catalog.type_named(*old)
    if fact is None:
        return catalog
    kept = {key: each for key, each in catalog.types.items() if key != (schema, old.name)}
    if new is None:
        return replace(catalog, types=kept)
    there = Name(new.schema or schema, new.name)
    types = {**kept, (there.schema or schema, there.name): fact}
    return _retyped(replace(catalog, types=types), schema, old.name, there)


def _retyped(catalog: Catalog, schema: str, name: str | None, new: Name) -> Catalog:
    """Return the catalog in which the columns of a type know its new name; all types of a schema without a name."""

    def of(column: Column) -> Column:
        there, _, called = column.type_name.partition(".")
        is_array = column.type.endswith("[]")
        own = called.removeprefix("_") if is_array else called
        if there != schema or name not in (None, own):
            return column
        to = new.name or own
        type_name = f"{new.schema}.{'_' if is_array else ''}{to}"
        base_name = type_name if column.base_name == column.type_name else column.base_name
        written = f"{Name(new.schema, to)}{'[]' if is_array else ''}"
        return replace(column, type=written, type_name=type_name, base_name=base_name)

    found = [
        replace(table, columns={each: of(column) for each, column in table.columns.items()})
        for table in catalog.tables.values()
        if any(column.type_name.startswith(f"{schema}.") for column in table.columns.values())
    ]
    return with_tables(catalog, *found)
