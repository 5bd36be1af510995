"""The catalog after a statement, which later statements will find, as far as it can be known without running it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from pglast import ast

from pgrunbook.database.catalog import Catalog, Key, Standing, Table, Weight
from pgrunbook.database.relations import Index, TypeFact
from pgrunbook.effects import cascade
from pgrunbook.effects.new_relation import (
    home,
    new,
    with_child,
    with_created,
    with_part,
    with_sequence,
    with_tables,
    with_view,
    without_child,
)
from pgrunbook.effects.renames import RELATIONS, TYPES, in_use, moved_type, renamed
from pgrunbook.effects.table_after import (
    OF_ALL_BELOW,
    altered,
    altered_below,
)
from pgrunbook.effects.type_change import kind_of
from pgrunbook.sql.default_names import free_name, index_columns, joined_columns
from pgrunbook.sql.settings import SEARCH_PATH, Setting, path_names
from pgrunbook.sql.tree import (
    CASCADE,
    Name,
    columns_in,
    constraint_kind,
    dotted,
    object_kind,
    relation,
    relations_in,
    relations_named,
    strings,
    subcommand,
    type_word,
)


def after(catalog: Catalog, node: Any) -> Catalog:
    """Return the catalog as it will be after a statement."""
    if isinstance(node, ast.CreateFunctionStmt | ast.CreateTrigStmt | ast.PrepareStmt):
        return replace(catalog, routines=catalog.routines.after(node))
    match node:
        case ast.CreateStmt() | ast.CreateForeignTableStmt():
            return with_created(catalog, getattr(node, "base", node))
        case ast.InsertStmt():
            return _inserted(catalog, node)
        case ast.ViewStmt() | ast.CreateTableAsStmt() | ast.SelectStmt(intoClause=ast.IntoClause()):
            return _queried(catalog, node)
        case ast.CreateSeqStmt() | ast.AlterSeqStmt():
            return with_sequence(catalog, node)
        case ast.CreateSchemaStmt():
            return _with_schema(catalog, node)
        case ast.IndexStmt():
            return _indexed(catalog, node)
        case ast.CreateEnumStmt() | ast.CreateRangeStmt() | ast.CreateDomainStmt() | ast.CompositeTypeStmt():
            return _with_type(catalog, node)
        case ast.RenameStmt() | ast.AlterObjectSchemaStmt():
            return renamed(catalog, node)
        case ast.DropStmt() | ast.DropOwnedStmt():
            return _dropped(catalog, node)
        case ast.AlterTableStmt() if object_kind(node.objtype) in ("TABLE", "FOREIGN_TABLE"):
            return _altered(catalog, node)
    return catalog


def _inserted(catalog: Catalog, node: Any) -> Catalog:
    table = catalog.find(relation(node.relation))
    if table.standing is not Standing.NEW:
        return catalog
    filled = _filled(catalog, table, node.selectStmt)
    now = in_use(filled) if _copies(catalog, node.selectStmt) else filled
    return catalog if now is table else with_tables(catalog, now)


def _queried(catalog: Catalog, node: Any) -> Catalog:
    """Return the catalog after a view, a materialized view or a table is made by a query."""
    if isinstance(node, ast.ViewStmt):
        there = catalog.find(relation(node.view))
        view = there if there.key in catalog.tables else new(catalog, relation(node.view), "v")
        return with_view(catalog, view, node.query, node.aliases)
    into, query = (node.intoClause, node) if isinstance(node, ast.SelectStmt) else (node.into, node.query)
    is_view = isinstance(node, ast.CreateTableAsStmt) and object_kind(node.objtype) == "MATVIEW"
    made = new(catalog, relation(into.rel), "m" if is_view else "r")
    return with_view(catalog, _filled(catalog, made, query), query, into.colNames)


def _copies(catalog: Catalog, query: Any) -> bool:
    """Whether a query takes all rows and columns of one table, as for a copy that is to take its place."""
    sources: Sequence[Any] = getattr(query, "fromClause", None) or ()
    is_whole = len(sources) == 1 and any(sources[0] is named for named in relations_named(query))
    if not is_whole or any((query.whereClause, query.limitCount, query.groupClause, query.distinctClause)):
        return False
    fields = [getattr(target.val, "fields", (None,))[-1] for target in query.targetList]
    taken = {field.sval for field in fields if isinstance(field, ast.String)}
    known = catalog.find(relation(sources[0])).columns.keys()
    return any(isinstance(field, ast.A_Star) for field in fields) or (bool(known) and known <= taken)


def _filled(catalog: Catalog, table: Table, query: Any) -> Table:
    """Return a new table filled from others: it counts as having the rows of the biggest source."""
    sources = [catalog.find(name) for name in relations_in(query)]
    big = [source for source in sources if catalog.weight(source) is not Weight.NOTHING]
    if not big:
        return table
    counts = [catalog.rows_estimate(source) for source in big]
    rows = None if None in counts else max(count or 0 for count in counts)
    return replace(table, rows_estimate=rows, table_bytes=max(source.table_bytes for source in big))


def _indexed(catalog: Catalog, node: Any) -> Catalog:
    table = catalog.find(relation(node.relation))
    keys = tuple(part.name or "" for part in node.indexParams)
    taken = {index.name for each in catalog.tables.values() for index in each.indexes}
    name = node.idxname or free_name(table.name, joined_columns(index_columns(node)), "idx", taken)
    if any(index.name == name for index in table.indexes) or table.standing is Standing.MISSING:
        return catalog
    included = {part.name for part in node.indexIncludingParams or ()}
    uses = frozenset(keys) - {""} | included | columns_in(node.indexParams) | columns_in(node.whereClause)
    plain = "" not in keys and node.whereClause is None
    index = Index(table.schema, name, keys, uses, node.unique, plain=plain, partial=node.whereClause is not None)
    catalog = with_tables(catalog, replace(table, indexes=(*table.indexes, index)))
    return _with_parts(catalog, table.key, [index]) if node.relation.inh else catalog


def _with_parts(catalog: Catalog, key: Key, indexes: Iterable[Index]) -> Catalog:
    """Return the catalog with the parts that a partitioned table's indexes have on its partitions."""
    table = catalog.at(key)
    for child in table.children if table.kind == "p" else ():
        for index in indexes:
            catalog = with_tables(catalog, with_part(catalog, catalog.at(child), table, index))
        catalog = _with_parts(catalog, child, indexes)
    return catalog


def _with_schema(catalog: Catalog, node: Any) -> Catalog:
    """Return the catalog after CREATE SCHEMA with what is made in it."""
    path, name = catalog.search_path, node.schemaname or ""
    catalog = replace(catalog, search_path=(name, *path))
    for element in node.schemaElts or ():
        catalog = after(catalog, element)
    return replace(catalog, search_path=path)


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
    schema = name.schema or home(catalog)
    named = replace(fact, base_name=fact.base_name or f"{schema}.{name.name}")
    return replace(catalog, types={**catalog.types, (schema, name.name): named})


def path_after(catalog: Catalog, setting: Setting, home: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the search path that a statement sets, None where only running it tells; ``home`` is the session's."""
    if not setting.is_known:
        return None
    if setting.name != SEARCH_PATH or setting.value is None:
        return home
    named = tuple(catalog.role if name == "$user" else name for name in path_names(setting.value))
    return named if "pg_catalog" in named else ("pg_catalog", *named)


def _dropped(catalog: Catalog, node: Any) -> Catalog:
    if isinstance(node, ast.DropOwnedStmt):
        return cascade.without_fallen(catalog, node)
    kind, names = object_kind(node.removeType), [dotted(entry) for entry in node.objects]
    if kind in RELATIONS:
        catalog = cascade.without_relations(catalog, map(catalog.find, names))
    if kind == "INDEX":
        for table, index in filter(None, map(catalog.index, names)):
            catalog = cascade.without_index(catalog, table, index.name)
    catalog = cascade.without_fallen(catalog, node)
    if kind in TYPES:
        for name in names:
            schema, _ = catalog.type_named(*name)
            if node.behavior == CASCADE:
                catalog = cascade.without_type(catalog, schema, name.name)
            catalog = moved_type(catalog, name, None)
    if kind == "SCHEMA":
        schemas = {name.name for name in names}
        tables = [table for key, table in catalog.tables.items() if key[0] in schemas]
        catalog = cascade.without_relations(catalog, tables)
        for key in [key for key in catalog.types if key[0] in schemas]:
            catalog = moved_type(cascade.without_type(catalog, *key), Name(*key), None)
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
            case "AttachPartition":
                catalog = with_child(catalog, table, catalog.find(relation(cmd.def_.name)))
            case "DetachPartition" | "DetachPartitionFinalize":
                catalog = without_child(catalog, table, catalog.find(relation(cmd.def_.name)))
            case "AddInherit":
                catalog = with_child(catalog, catalog.find(relation(cmd.def_)), table)
            case "DropInherit":
                catalog = without_child(catalog, catalog.find(relation(cmd.def_)), table)
            case "AddConstraint":
                catalog = _constrained(catalog, table.key, below, cmd)
            case kind:
                now = altered(catalog, catalog.at(table.key), cmd)
                others = map(catalog.at, below if kind in OF_ALL_BELOW else ())
                catalog = with_tables(catalog, now, *(altered_below(catalog, member, now, cmd) for member in others))
    return catalog


def _constrained(catalog: Catalog, key: Key, below: Iterable[Key], cmd: Any) -> Catalog:
    """Return the catalog after ADD CONSTRAINT: tables below get a CHECK, partitions foreign keys and indexes too."""
    before, now = catalog.at(key), altered(catalog, catalog.at(key), cmd)
    catalog = with_tables(catalog, now)
    names = {each.name for each in before.constraints}
    added = [each for each in now.constraints if each.name not in names]
    kinds = ("c", "f") if now.kind == "p" else ("c",)
    handed = tuple(
        replace(each, is_inherited=True, is_local=False)
        for each in added
        if each.kind in kinds and not cmd.def_.is_no_inherit
    )
    for each in below:
        child = catalog.at(each)
        own = {constraint.name for constraint in child.constraints}
        more = tuple(constraint for constraint in handed if constraint.name not in own)
        not_null = [column for constraint in added if constraint.kind == "p" for column in constraint.columns]
        columns = {name: replace(c, not_null=c.not_null or name in not_null) for name, c in child.columns.items()}
        catalog = with_tables(catalog, replace(child, constraints=(*child.constraints, *more), columns=columns))
    indexes = {index.name for index in before.indexes}
    catalog = _with_parts(catalog, key, [index for index in now.indexes if index.name not in indexes])
    if before.indexes and cmd.def_.indexname:  # an index that becomes a key gets its name
        old, new_name = cmd.def_.indexname, cmd.def_.conname or cmd.def_.indexname
        for other, reference in catalog.references_to(catalog.at(key)):
            if reference.partner_index == old:
                keys = (
                    replace(c, partner_index=new_name) if c.name == reference.name else c for c in other.constraints
                )
                catalog = with_tables(catalog, replace(other, constraints=tuple(keys)))
    return catalog
