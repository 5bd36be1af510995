"""The catalog after a statement, which later statements will find, as far as it can be known without running it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from pglast import ast

from pgrunbook.database.catalog import Catalog, Key, Standing, Table, Weight
from pgrunbook.database.relations import Index, TypeFact
from pgrunbook.effects import cascade
from pgrunbook.effects.table_after import (
    OF_ALL_BELOW,
    altered,
    altered_below,
    renamed_column,
    with_column,
    with_constraint,
)
from pgrunbook.effects.type_change import kind_of
from pgrunbook.sql.settings import SEARCH_PATH, Setting, path_names
from pgrunbook.sql.tree import (
    CASCADE,
    Name,
    columns_in,
    constraint_kind,
    dotted,
    object_kind,
    quoted,
    relation,
    relations_in,
    strings,
    subcommand,
    type_word,
)

_RELATIONS = {"TABLE", "VIEW", "MATVIEW", "SEQUENCE", "FOREIGN_TABLE"}
_TYPES = {"TYPE", "DOMAIN"}
_NAMED_BY_LABEL = ("view", "materialized view", "sequence")


def after(catalog: Catalog, node: Any) -> Catalog:
    """Return the catalog as it will be after a statement."""
    if isinstance(node, ast.CreateFunctionStmt | ast.CreateTrigStmt | ast.PrepareStmt):
        return replace(catalog, routines=catalog.routines.after(node))
    match node:
        case ast.CreateStmt() | ast.CreateForeignTableStmt():
            return _with(catalog, _created(catalog, getattr(node, "base", node)))
        case ast.CreateTableAsStmt():
            kind = "m" if object_kind(node.objtype) == "MATVIEW" else "r"
            return _with(catalog, _filled(catalog, _new(catalog, relation(node.into.rel), kind), node.query))
        case ast.InsertStmt():
            table = catalog.find(relation(node.relation))
            if table.standing is Standing.NEW:
                filled = _filled(catalog, table, node.selectStmt)
                return _with(catalog, _in_use(filled) if _copies(node.selectStmt) else filled)
            return catalog
        case ast.ViewStmt():
            return _with(catalog, _new(catalog, relation(node.view), "v"))
        case ast.IndexStmt():
            return _indexed(catalog, node)
        case ast.CreateEnumStmt() | ast.CreateRangeStmt() | ast.CreateDomainStmt() | ast.CompositeTypeStmt():
            return _with_type(catalog, node)
        case ast.RenameStmt() | ast.AlterObjectSchemaStmt():
            return _renamed(catalog, node)
        case ast.DropStmt() | ast.DropOwnedStmt():
            return _dropped(catalog, node)
        case ast.AlterTableStmt() if object_kind(node.objtype) in ("TABLE", "FOREIGN_TABLE"):
            return _altered(catalog, node)
    return catalog


def moves(catalog: Catalog, node: Any) -> dict[Key, Key]:
    """Return the relations that a statement renames or moves to another schema, old key to new; {} for none.

    SET SCHEMA moves a table with its own sequences, but without its partitions.

    Source: https://www.postgresql.org/docs/current/sql-altertable.html, SET SCHEMA
    """
    match node:
        case ast.RenameStmt() if object_kind(node.renameType) == "SCHEMA":
            return {key: (node.newname, key[1]) for key in catalog.tables if _is_in(catalog, key, node.subname)}
        case ast.RenameStmt() if object_kind(node.renameType) in _RELATIONS:
            table = catalog.find(relation(node.relation))
            return {} if table.standing is Standing.MISSING else {table.key: (table.schema, node.newname)}
        case ast.AlterObjectSchemaStmt() if object_kind(node.objectType) in _RELATIONS:
            table = catalog.find(relation(node.relation))
            known = (catalog.labelled(dependent.name) for dependent in table.of_kind("sequence"))
            together = [] if table.standing is Standing.MISSING else [table, *filter(None, known)]
            return {member.key: (node.newschema, member.name) for member in together}
    return {}


def _renamed(catalog: Catalog, node: Any) -> Catalog:
    """Return the catalog after ALTER ... RENAME TO or SET SCHEMA."""
    kind = object_kind(node.renameType if isinstance(node, ast.RenameStmt) else node.objectType)
    if kind in _TYPES:
        old = dotted(node.object)
        to = Name(old.schema, node.newname) if isinstance(node, ast.RenameStmt) else Name(node.newschema, old.name)
        return _moved_type(catalog, old, to)
    if kind == "COLUMN" and node.relation is not None:
        return _renamed_column(catalog, node)
    if kind == "TABCONSTRAINT" or (kind == "INDEX" and catalog.index(relation(node.relation))):
        return _renamed_part(catalog, node)
    moved = moves(catalog, node)
    return _moved(catalog, moved, _labels(catalog, node, moved))


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
        tables[schema, name] = _in_use(moved_to)
    return replace(catalog, tables=MappingProxyType(tables))


def _copies(query: Any) -> bool:
    """Whether a query takes whole rows of a table, as for a copy that is to take its place."""
    star = (part for target in getattr(query, "targetList", None) or () for part in getattr(target.val, "fields", ()))
    return any(isinstance(part, ast.A_Star) for part in star)


def _in_use(table: Table) -> Table:
    """Return a filled new table as one that others use: a stand-in, or one that has got the name that they know."""
    if table.standing is not Standing.NEW or table.rows_estimate == 0:
        return table
    return replace(table, standing=Standing.UNKNOWN if table.rows_estimate is None else Standing.THERE)


def _following(table: Table, moved: Mapping[Key, Key], labels: Mapping[str, str]) -> Table:
    def new(keys: tuple[Key, ...]) -> tuple[Key, ...]:
        return tuple(moved.get(key, key) for key in keys)

    return replace(
        table,
        constraints=tuple(
            replace(c, partner=moved[c.partner]) if c.partner is not None and c.partner in moved else c
            for c in table.constraints
        ),
        dependents=tuple(
            replace(d, name=labels[d.name]) if d.kind in _NAMED_BY_LABEL and d.name in labels else d
            for d in table.dependents
        ),
        sources=tuple(replace(s, relation=moved.get(s.relation, s.relation)) for s in table.sources),
        parents=new(table.parents),
        children=new(table.children),
    )


def _with(catalog: Catalog, *tables: Table) -> Catalog:
    return replace(catalog, tables=MappingProxyType({**catalog.tables, **{table.key: table for table in tables}}))


def _new(catalog: Catalog, name: Name, kind: str) -> Table:
    schema = name.schema
    if schema is None:
        schema = _home(catalog) if catalog.connected else ""
    return Table(0, schema, name.name, kind, standing=Standing.NEW, rows_estimate=0)


def _filled(catalog: Catalog, table: Table, query: Any) -> Table:
    """Return a new table filled from others: it counts as having the rows of the biggest source."""
    sources = [catalog.find(name) for name in relations_in(query)]
    big = [source for source in sources if catalog.weight(source) is not Weight.NOTHING]
    if not big:
        return table
    counts = [catalog.rows_estimate(source) for source in big]
    rows = None if None in counts else max(count or 0 for count in counts)
    return replace(table, rows_estimate=rows, table_bytes=max(source.table_bytes for source in big))


def _created(catalog: Catalog, node: Any) -> Table:
    name = relation(node.relation)
    table = _new(catalog, name, "p" if node.partspec else "r")
    there = catalog.find(Name(table.schema or None, table.name))
    if there.standing is Standing.THERE or (node.if_not_exists and there.standing is Standing.NEW):
        return there  # what the database has is not made anew: the migration was applied, or fails
    if node.if_not_exists and not catalog.connected:
        table = replace(table, standing=Standing.UNKNOWN, rows_estimate=None)  # it may be there, with all its rows
    for part in node.tableElts or ():
        match part:
            case ast.ColumnDef():
                table = with_column(catalog, table, part)
            case ast.Constraint():
                table = with_constraint(catalog, table, part)
            case ast.TableLikeClause():
                source = catalog.find(relation(part.relation))
                table = replace(table, columns={**table.columns, **source.columns})
    return replace(table, parents=tuple(catalog.find(relation(p)).key for p in node.inhRelations or ()))


def _indexed(catalog: Catalog, node: Any) -> Catalog:
    table = catalog.find(relation(node.relation))
    keys = tuple(part.name or "" for part in node.indexParams)
    name = node.idxname or f"{table.name}_{'_'.join(key or 'expr' for key in keys)}_idx"
    if any(index.name == name for index in table.indexes) or table.standing is Standing.MISSING:
        return catalog
    uses = frozenset(keys) - {""} | columns_in(node.indexParams) | columns_in(node.whereClause)
    plain = "" not in keys and node.whereClause is None
    index = Index(table.schema, name, keys, uses, node.unique, plain=plain, partial=node.whereClause is not None)
    return _with(catalog, replace(table, indexes=(*table.indexes, index)))


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
    return _with(catalog, *below.values())


def _renamed_part(catalog: Catalog, node: Any) -> Catalog:
    """Return the catalog after a constraint or an index is renamed: one that belongs to the other follows."""
    name = relation(node.relation)
    of_index = catalog.index(name) if object_kind(node.renameType) == "INDEX" else None
    table, old = (of_index[0], name.name) if of_index else (catalog.find(name), node.subname)
    for other, key in catalog.references_to(table):
        here = catalog.at(other.key)
        keys = (replace(c, partner_index=node.newname) if c.name == key.name else c for c in here.constraints)
        catalog = _with(catalog, replace(here, constraints=tuple(keys))) if key.partner_index == old else catalog
    table = catalog.at(table.key)
    indexes = tuple(replace(i, name=node.newname) if i.name == old else i for i in table.indexes)
    constraints = tuple(
        replace(c, name=node.newname, index=c.index and node.newname) if c.name == old else c for c in table.constraints
    )
    return _with(catalog, replace(table, indexes=indexes, constraints=constraints))


def _home(catalog: Catalog) -> str:
    return next((schema for schema in catalog.search_path if not schema.startswith("pg_")), "public")


def _with_type(catalog: Catalog, node: Any) -> Catalog:
    """Return the catalog with a type that a statement makes."""
    match node:
        case ast.CompositeTypeStmt():
            name, fact = relation(node.typevar), TypeFact("c", node.typevar.relname, (), checked=False)
        case ast.CreateDomainStmt():
            name, below = dotted(node.domainname), kind_of(type_word(node.typeName), catalog)
            checks = {constraint_kind(each) for each in node.constraints or ()} & {"CHECK", "NOTNULL"}
            fact = TypeFact("d", below.base, below.modifiers, below.checked or bool(checks), base_name=below.base_name)
        case _:
            name = dotted(node.typeName)
            labels = strings(node.vals) if isinstance(node, ast.CreateEnumStmt) else None
            fact = TypeFact("r" if labels is None else "e", name.name, (), checked=False, labels=labels)
    schema = name.schema or _home(catalog)
    named = replace(fact, base_name=fact.base_name or f"{schema}.{name.name}")
    return replace(catalog, types={**catalog.types, (schema, name.name): named})


def _moved_type(catalog: Catalog, old: Name, new: Name | None) -> Catalog:
    """Return the catalog after a type gets another name; None when it is dropped."""
    schema, fact = catalog.type_named(*old)
    if fact is None:
        return catalog
    kept = {key: each for key, each in catalog.types.items() if key != (schema, old.name)}
    added = {} if new is None else {(new.schema or schema, new.name): fact}
    return replace(catalog, types={**kept, **added})


def path_after(catalog: Catalog, setting: Setting, home: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the search path that a statement sets, None where only running it tells; ``home`` is the session's."""
    if not setting.is_known:
        return None
    if setting.name != SEARCH_PATH or setting.value is None:
        return home
    return ("pg_catalog", *(catalog.role if name == "$user" else name for name in path_names(setting.value)))


def _dropped(catalog: Catalog, node: Any) -> Catalog:
    if isinstance(node, ast.DropOwnedStmt):
        return cascade.without_fallen(catalog, node)
    kind, names = object_kind(node.removeType), [dotted(entry) for entry in node.objects]
    if kind in _RELATIONS:
        catalog = cascade.without_relations(catalog, map(catalog.find, names))
    if kind == "INDEX":
        for table, index in filter(None, map(catalog.index, names)):
            catalog = cascade.without_index(catalog, table, index.name)
    catalog = cascade.without_fallen(catalog, node)
    if kind in _TYPES:
        for name in names:
            schema, _ = catalog.type_named(*name)
            if node.behavior == CASCADE:
                catalog = cascade.without_type(catalog, schema, name.name)
            catalog = _moved_type(catalog, name, None)
    if kind == "SCHEMA":
        schemas = {name.name for name in names}
        tables = [table for key, table in catalog.tables.items() if key[0] in schemas]
        catalog = cascade.without_relations(catalog, tables)
        for key in [key for key in catalog.types if key[0] in schemas]:
            catalog = _moved_type(cascade.without_type(catalog, *key), Name(*key), None)
    return catalog


def _altered(catalog: Catalog, node: Any) -> Catalog:
    table = catalog.find(relation(node.relation))
    if table.standing is Standing.MISSING:
        return catalog
    below = [each.key for each in catalog.below(table)[1:]] if node.relation.inh else []
    for cmd in node.cmds:
        match subcommand(cmd):
            case "DropColumn":
                for key in (table.key, *below):
                    catalog = cascade.without_column(catalog, catalog.at(key), cmd.name)
            case "DropConstraint":
                catalog = cascade.without_constraint(catalog, catalog.at(table.key), cmd.name)
            case kind:
                now = altered(catalog, catalog.at(table.key), cmd)
                others = map(catalog.at, below if kind in OF_ALL_BELOW else ())
                catalog = _with(catalog, now, *(altered_below(catalog, member, now, cmd) for member in others))
    return catalog
