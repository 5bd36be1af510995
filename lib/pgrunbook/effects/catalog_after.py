"""The catalog after a statement, which later statements will find, as far as it can be known without running it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from pglast import ast

from pgrunbook.database.catalog import (
    Catalog,
    CatalogConstraint,
    Column,
    Dependent,
    Index,
    Key,
    Standing,
    Table,
    Weight,
)
from pgrunbook.effects.alter_table import SERIAL
from pgrunbook.effects.type_change import kind_of
from pgrunbook.sql.tree import (
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
    text,
    type_word,
)

_SUFFIX = {"PRIMARY": "pkey", "UNIQUE": "key", "FOREIGN": "fkey", "CHECK": "check", "EXCLUSION": "excl"}
_KIND = {"PRIMARY": "p", "UNIQUE": "u", "FOREIGN": "f", "CHECK": "c", "EXCLUSION": "x", "NOTNULL": "n"}
_SERIAL_TYPES = {"bigserial": "bigint", "serial8": "bigint", "serial": "integer", "serial4": "integer",
                 "smallserial": "smallint", "serial2": "smallint"}  # fmt: skip
_SERIAL_BASES = {"bigserial": "int8", "serial8": "int8", "serial": "int4", "serial4": "int4",
                 "smallserial": "int2", "serial2": "int2"}  # fmt: skip
_RELATIONS = {"TABLE", "VIEW", "MATVIEW", "SEQUENCE", "FOREIGN_TABLE"}
_NAMED_BY_LABEL = ("view", "materialized view", "sequence")


def after(catalog: Catalog, node: Any) -> Catalog:
    """Return the catalog as it will be after a statement."""
    if isinstance(node, ast.CreateFunctionStmt | ast.CreateTrigStmt | ast.PrepareStmt):
        return replace(catalog, routines=catalog.routines.after(node))
    match node:
        case ast.CreateStmt():
            return _with(catalog, _created(catalog, node))
        case ast.CreateTableAsStmt():
            kind = "m" if object_kind(node.objtype) == "MATVIEW" else "r"
            return _with(catalog, _filled(catalog, _new(catalog, relation(node.into.rel), kind), node.query))
        case ast.InsertStmt():
            table = catalog.find(relation(node.relation))
            if table.standing is Standing.NEW:
                return _with(catalog, _filled(catalog, table, node.selectStmt))
            return catalog
        case ast.ViewStmt():
            return _with(catalog, _new(catalog, relation(node.view), "v"))
        case ast.IndexStmt():
            return _indexed(catalog, node)
        case ast.RenameStmt() if object_kind(node.renameType) == "COLUMN" and node.relation is not None:
            return _renamed_column(catalog, node)
        case ast.RenameStmt() | ast.AlterObjectSchemaStmt():
            moved = moves(catalog, node)
            return _moved(catalog, moved, _labels(catalog, node, moved))
        case ast.DropStmt():
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
        tables[schema, name] = replace(table, schema=schema, name=name, indexes=indexes)
    return replace(catalog, tables=MappingProxyType(tables))


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


def _with(catalog: Catalog, *tables: Table, gone: tuple[Key, ...] = ()) -> Catalog:
    kept = {key: table for key, table in catalog.tables.items() if key not in gone}
    return replace(catalog, tables=MappingProxyType({**kept, **{table.key: table for table in tables}}))


def _new(catalog: Catalog, name: Name, kind: str) -> Table:
    schema = name.schema
    if schema is None:
        schema = next((s for s in catalog.search_path if s != "pg_catalog"), "public") if catalog.connected else ""
    return Table(schema, name.name, Standing.NEW, kind=kind, rows_estimate=0)


def _filled(catalog: Catalog, table: Table, query: Any) -> Table:
    """Return a new table filled from others: it counts as having the rows of the biggest source, and not as new."""
    sources = [catalog.find(name) for name in relations_in(query)]
    big = [source for source in sources if catalog.weight(source) is not Weight.NOTHING]
    if not big:
        return table
    counts = [catalog.rows_estimate(source) for source in big]
    known = Standing.UNKNOWN if None in counts else Standing.THERE
    rows = None if known is Standing.UNKNOWN else max(count or 0 for count in counts)
    return replace(table, standing=known, rows_estimate=rows, table_bytes=max(source.table_bytes for source in big))


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
                table = _with_column(catalog, table, part)
            case ast.Constraint():
                table = _with_constraint(catalog, table, part, ())
            case ast.TableLikeClause():
                source = catalog.find(relation(part.relation))
                table = replace(table, columns={**table.columns, **source.columns})
    return replace(table, parents=tuple(catalog.find(relation(p)).key for p in node.inhRelations or ()))


def _with_column(catalog: Catalog, table: Table, definition: Any) -> Table:
    if definition.typeName is None or definition.colname in table.columns:
        return table
    word = type_word(definition.typeName)
    kind = kind_of(type_word(_plain_type(definition.typeName)), catalog)
    kinds = {constraint_kind(c): c for c in definition.constraints or ()}
    column = Column(
        name=definition.colname,
        type=word.text,
        base=kind.base,
        modifiers=kind.modifiers,
        checked=kind.checked,
        type_name=kind.name,
        base_name=kind.base_name,
        not_null=bool({"NOTNULL", "PRIMARY", "IDENTITY"} & kinds.keys()) or word.name in SERIAL,
        default=text(kinds["DEFAULT"].raw_expr) if "DEFAULT" in kinds else None,
        identity="IDENTITY" in kinds,
        generated="GENERATED" in kinds,
    )
    table = replace(table, columns={**table.columns, column.name: column})
    if word.name in SERIAL or column.identity:
        name = Name(table.schema or None, f"{table.name}_{column.name}_seq")
        own = Dependent("sequence", str(name), (column.name,), _SERIAL_TYPES.get(word.name, word.text))
        table = replace(table, dependents=(*table.dependents, own))
    for constraint in kinds.values():
        if constraint_kind(constraint) in _KIND and constraint_kind(constraint) != "NOTNULL":
            table = _with_constraint(catalog, table, constraint, (definition.colname,))
    return table


def _plain_type(name: Any) -> Any:
    """Return the type that a column of serial gets."""
    known = _SERIAL_BASES.get(name.names[-1].sval)
    return name if known is None else ast.TypeName(names=(ast.String(sval="pg_catalog"), ast.String(sval=known)))


def _with_constraint(catalog: Catalog, table: Table, node: Any, of_column: tuple[str, ...]) -> Table:
    kind = constraint_kind(node)
    if kind not in _KIND:
        return table
    columns = strings(node.fk_attrs) or strings(node.keys) or of_column
    if kind == "CHECK":
        columns = columns or tuple(sorted(columns_in(node.raw_expr)))
    partner = None
    if kind == "FOREIGN":
        itself = relation(node.pktable).name == table.name and table.standing is Standing.NEW
        partner = table if itself else catalog.find(relation(node.pktable))
    middle = "_".join(columns) + "_" if kind != "PRIMARY" and columns else ""
    name = node.conname or f"{table.name}_{middle}{_SUFFIX.get(kind, 'not_null')}"
    if node.conname and any(constraint.name == name for constraint in table.constraints):
        return table
    constraint = CatalogConstraint(
        name=name,
        kind=_KIND[kind],
        columns=columns,
        valid=not node.skip_validation,
        definition=f"CHECK ({text(node.raw_expr)})" if kind == "CHECK" else "",
        partner=partner.key if partner else None,
        partner_columns=strings(node.pk_attrs) or (_primary_key(partner) if partner else ()),
        on_delete=node.fk_del_action if kind == "FOREIGN" else "a",
        index=name if kind in ("PRIMARY", "UNIQUE", "EXCLUSION") else None,
    )
    table = replace(table, constraints=(*table.constraints, constraint))
    if kind in ("PRIMARY", "UNIQUE") and node.indexname is None:
        index = Index(table.schema, name, columns, frozenset(columns), unique=True, primary=kind == "PRIMARY")
        table = replace(table, indexes=(*table.indexes, index))
    if kind == "NOTNULL" and constraint.valid:
        table = _changed_column(table, columns[0], not_null=True)
    return table


def _primary_key(table: Table) -> tuple[str, ...]:
    return next((index.keys for index in table.indexes if index.primary), ())


def _changed_column(table: Table, name: str, **changes: Any) -> Table:
    column = table.columns.get(name)
    if column is None:
        return table
    return replace(table, columns={**table.columns, name: replace(column, **changes)})


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
    if node.subname in table.columns:
        columns = {node.newname if name == node.subname else name: column for name, column in table.columns.items()}
        columns[node.newname] = replace(columns[node.newname], name=node.newname)
        return _with(catalog, replace(table, columns=columns))
    return catalog


def _dropped(catalog: Catalog, node: Any) -> Catalog:
    if object_kind(node.removeType) in ("TABLE", "VIEW", "MATVIEW"):
        return _with(catalog, gone=tuple(catalog.find(dotted(entry)).key for entry in node.objects))
    if object_kind(node.removeType) == "SCHEMA":
        schemas = {dotted(entry).name for entry in node.objects}
        return _with(catalog, gone=tuple(key for key in catalog.tables if key[0] in schemas))
    if object_kind(node.removeType) == "INDEX":
        for entry in node.objects:
            known = catalog.index(dotted(entry))
            if known:
                table, index = known
                catalog = _with(catalog, replace(table, indexes=tuple(i for i in table.indexes if i is not index)))
    return catalog


def _altered(catalog: Catalog, node: Any) -> Catalog:
    table = catalog.find(relation(node.relation))
    if table.standing is Standing.MISSING:
        return catalog
    for cmd in node.cmds:
        change = _CHANGES.get(subcommand(cmd))
        if change is not None:
            table = change(catalog, table, cmd)
    return _with(catalog, table)


def _drop_column(_catalog: Catalog, table: Table, cmd: Any) -> Table:
    return replace(
        table,
        columns={name: column for name, column in table.columns.items() if name != cmd.name},
        indexes=tuple(index for index in table.indexes if cmd.name not in index.uses),
        constraints=tuple(c for c in table.constraints if cmd.name not in c.columns),
    )


def _alter_type(catalog: Catalog, table: Table, cmd: Any) -> Table:
    word = type_word(cmd.def_.typeName)
    kind = kind_of(word, catalog)
    changes = {"type": word.text, "base": kind.base, "modifiers": kind.modifiers, "checked": kind.checked}
    return _changed_column(table, cmd.name, **changes, type_name=kind.name, base_name=kind.base_name)


def _validated(_catalog: Catalog, table: Table, cmd: Any) -> Table:
    constraints = tuple(replace(c, valid=True) if c.name == cmd.name else c for c in table.constraints)
    return replace(table, constraints=constraints)


def _without_constraint(_catalog: Catalog, table: Table, cmd: Any) -> Table:
    return replace(table, constraints=tuple(c for c in table.constraints if c.name != cmd.name))


def _default(_catalog: Catalog, table: Table, cmd: Any) -> Table:
    return _changed_column(table, cmd.name, default=text(cmd.def_) if cmd.def_ is not None else None)


def _attached(catalog: Catalog, table: Table, cmd: Any) -> Table:
    return replace(table, children=(*table.children, catalog.find(relation(cmd.def_.name)).key))


def _detached(catalog: Catalog, table: Table, cmd: Any) -> Table:
    gone = catalog.find(relation(cmd.def_.name)).key
    return replace(table, children=tuple(key for key in table.children if key != gone))


_CHANGES: dict[str, Callable[[Catalog, Table, Any], Table]] = {
    "AddColumn": lambda catalog, table, cmd: _with_column(catalog, table, cmd.def_),
    "DropColumn": _drop_column,
    "AlterColumnType": _alter_type,
    "SetNotNull": lambda _, table, cmd: _changed_column(table, cmd.name, not_null=True),
    "DropNotNull": lambda _, table, cmd: _changed_column(table, cmd.name, not_null=False),
    "AddConstraint": lambda catalog, table, cmd: _with_constraint(catalog, table, cmd.def_, ()),
    "ValidateConstraint": _validated,
    "DropConstraint": _without_constraint,
    "ColumnDefault": _default,
    "AttachPartition": _attached,
    "DetachPartition": _detached,
}
