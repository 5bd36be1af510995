"""The effect of each statement of a way back on names, columns and rows, for the statements after it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pglast import ast

from pgrunbook.sql.default_names import index_columns
from pgrunbook.sql.settings import settings
from pgrunbook.sql.tree import (
    Name,
    constraint_kind,
    dotted,
    object_kind,
    quoted,
    relation,
    strings,
    subcommand,
    walk,
)
from pgrunbook.violations.world import Column, Table, UnclearError, World, name_of, unknown

_SERIALS = {"serial", "bigserial", "smallserial", "serial2", "serial4", "serial8"}
_TABLES = ("TABLE", "MATVIEW", "FOREIGN_TABLE")
_TYPES = ("TYPE", "DOMAIN")
_CHANGES = (ast.InsertStmt, ast.DeleteStmt, ast.MergeStmt)
NULL = ast.A_Const(isnull=True)
# The order in which ALTER TABLE does its work (AT_PASS_DROP ... in src/backend/commands/tablecmds.c).
_PASSES = {"DropColumn": 0, "DropConstraint": 0, "AlterColumnType": 1, "AddColumn": 2}


def follow(world: World, node: Any) -> None:
    """Apply a statement of the way back to the names; most kinds change nothing."""
    match node:
        case ast.RenameStmt():
            _rename(world, node)
        case ast.AlterObjectSchemaStmt():
            _set_schema(world, node)
        case ast.AlterTableStmt():
            _alter(world, node)
        case ast.CreateStmt() | ast.CreateForeignTableStmt():
            _create(world, node.base if isinstance(node, ast.CreateForeignTableStmt) else node)
        case ast.CreateTableAsStmt():
            name = relation(node.into.rel)
            world.put(_new(world, name, ()), name.schema or world.home, name.name)
        case ast.DropStmt():
            _drop(world, node)
        case ast.IndexStmt() if node.idxname:
            world.indexes[node.idxname] = tuple(index_columns(node))
        case ast.CreateEnumStmt() | ast.CreateRangeStmt():
            world.types[name_of(strings(node.typeName))] = node
        case ast.CreateDomainStmt():
            world.types[name_of(strings(node.domainname))] = node
        case ast.CompositeTypeStmt():
            world.types[relation(node.typevar)] = node
    _set_path(world, node)
    _rows(world, node)


def _set_path(world: World, node: Any) -> None:
    for setting in settings(node):
        if setting.may_be_search_path:
            world.set_path(setting)


def one_pass(cmd: Any) -> int:
    """Return the pass in which ALTER TABLE runs a subcommand: those of one pass find the same columns."""
    return _PASSES.get(subcommand(cmd), 3)


def added(world: World, table: Table, definition: Any) -> Column:
    """Return the column that ADD COLUMN creates, before captured values are reverted."""
    because = f"unknown until column {quoted(definition.colname)} of {table.label} is restored"
    given = {constraint_kind(part): part for part in definition.constraints or ()}
    numbered = strings(definition.typeName.names)[-1] in _SERIALS or "IDENTITY" in given
    if numbered or ("DEFAULT" in given and world.facts.volatile(given["DEFAULT"].raw_expr)):
        return Column(None, because, never_null=True)
    made = given.get("GENERATED") or given.get("DEFAULT")
    value = made.raw_expr if made else NULL
    try:
        cast = ast.TypeCast(arg=value, typeName=definition.typeName, location=-1)
        return Column(world.meant(table, cast), never_null="DEFAULT" in given and not _is_null(value))
    except UnclearError as reason:
        return Column(None, str(reason))


def _is_null(node: Any) -> bool:
    return (isinstance(node, ast.A_Const) and bool(node.isnull)) or (
        isinstance(node, ast.TypeCast) and _is_null(node.arg)
    )


def _rename(world: World, node: Any) -> None:
    kind = object_kind(node.renameType)
    if kind in _TYPES:
        old = name_of(strings(node.object))
        _move_type(world, old, Name(old.schema, node.newname))
        return
    if kind not in (*_TABLES, "COLUMN", "TABCONSTRAINT"):
        return
    table = world.find(node.relation.schemaname, node.relation.relname)
    if table is None:
        return
    if kind == "COLUMN":
        world.everywhere(table, lambda each: _rename_column(each, node.subname, node.newname))
    elif kind == "TABCONSTRAINT":
        table.constraint_names[node.newname] = table.constraint_names.pop(node.subname, node.subname)
        if node.subname in table.not_valid:
            table.not_valid[node.newname] = table.not_valid.pop(node.subname)
    else:
        world.put(table, table.schema, node.newname)


def _rename_column(table: Table, old: str, new: str) -> None:
    table.columns = {new if name == old else name: column for name, column in table.columns.items()}
    table.primary = tuple(new if name == old else name for name in table.primary)


def _set_schema(world: World, node: Any) -> None:
    kind = object_kind(node.objectType)
    if kind in _TYPES:
        old = name_of(strings(node.object))
        _move_type(world, old, Name(node.newschema, old.name))
    elif kind in _TABLES:
        table = world.find(node.relation.schemaname, node.relation.relname)
        if table is not None:
            world.put(table, node.newschema, table.name)


def _move_type(world: World, old: Name, new: Name) -> None:
    now, made = world.type_of(tuple(ast.String(sval=part) for part in old if part))
    for known in [known for known in world.types if known.name == old.name]:
        del world.types[known]
    world.types[new] = now if made is None else made


def _create(world: World, node: Any) -> None:
    name = relation(node.relation)
    if node.if_not_exists and world.find(name.schema, name.name) is not None:
        return
    names = [part.colname for part in node.tableElts or () if isinstance(part, ast.ColumnDef)]
    world.put(_new(world, name, names), name.schema or world.home, name.name)
    for parent in node.inhRelations or ():
        _other_rows(world, world.find(parent.schemaname, parent.relname), "has another partition")


def _new(world: World, name: Name, columns: Iterable[str]) -> Table:
    schema = name.schema or world.home
    because = f"unknown until table {quoted(schema)}.{quoted(name.name)} is restored"
    return Table(schema, name.name, None, {each: Column(None, because) for each in columns}, unsure=because)


def _drop(world: World, node: Any) -> None:
    kind = object_kind(node.removeType)
    for entry in node.objects:
        if kind in _TABLES:
            name = dotted(entry)
            table = world.find(name.schema, name.name)
            if table is not None:
                _gone(world, table)
        elif kind == "SCHEMA":
            world.dropped.add(entry.sval)
            for table in world.tables_in(entry.sval):
                _gone(world, table)
        elif kind in _TYPES:
            world.types[dotted(entry)] = node


def _gone(world: World, table: Table) -> None:
    world.mark_changed(table, f"unknown until table {table.label} is dropped")
    world.take(table)


def _alter(world: World, node: Any) -> None:
    table = world.find(node.relation.schemaname, node.relation.relname)
    if table is None or object_kind(node.objtype) not in (*_TABLES, "PARTITIONED_TABLE"):
        return
    before = dict(table.columns)
    for cmd in node.cmds:
        _alter_one(world, table, cmd, before, only=not node.relation.inh)


def _alter_one(world: World, table: Table, cmd: Any, before: dict[str, Column], *, only: bool) -> None:
    match subcommand(cmd):
        case "DropColumn":
            world.everywhere(table, lambda each: _without(each, cmd.name), only=only)
        case "AddColumn" if cmd.def_.colname not in table.columns:
            column = _filled(world, table, cmd.def_.colname, added(world, table, cmd.def_))
            world.everywhere(table, lambda each: each.columns.__setitem__(cmd.def_.colname, column), only=only)
        case "AlterColumnType" if cmd.name in before:
            column = _retyped(world, table, cmd, before)
            world.everywhere(table, lambda each: each.columns.__setitem__(cmd.name, column), only=only)
        case "AddConstraint":
            _constraint(world, table, cmd.def_)
        case "DropConstraint":
            table.not_valid.pop(cmd.name, None)
        case "AttachPartition" | "DetachPartition":
            why = "has another partition" if subcommand(cmd) == "AttachPartition" else "has lost a partition"
            _other_rows(world, table, why)


def _without(table: Table, name: str) -> None:
    table.columns.pop(name, None)


def _filled(world: World, table: Table, name: str, column: Column) -> Column:
    """Return a column as it is after captured values are reverted, if there are any."""
    missing = kept_of(world, table, name)
    if missing is None:
        return column
    because = f"unknown until column {quoted(name)} of {table.label} is restored"
    return Column(None, because, never_null=column.never_null, missing=missing)


def kept_of(world: World, table: Table, name: str) -> Callable[[], str] | None:
    """Return what gives the condition that a row has no captured value; None if no values are reverted."""
    return next(
        (world.kept[t, quoted(name)] for t in (table.label, table.sql) if (t, quoted(name)) in world.kept), None
    )


def _retyped(world: World, table: Table, cmd: Any, before: dict[str, Column]) -> Column:
    if kept_of(world, table, cmd.name) is not None:
        because = f"unknown until column {quoted(cmd.name)} of {table.label} has its old type again"
        return unknown(before[cmd.name], because)
    as_before = Table(table.schema, table.name, table.relation, before)
    using = cmd.def_.raw_default or ast.ColumnRef(fields=(ast.String(sval=cmd.name),), location=-1)
    try:
        return Column(world.meant(as_before, ast.TypeCast(arg=using, typeName=cmd.def_.typeName, location=-1)))
    except UnclearError as reason:
        return unknown(before[cmd.name], str(reason))


def _constraint(world: World, table: Table, node: Any) -> None:
    if constraint_kind(node) == "PRIMARY":
        table.primary = strings(node.keys) or world.indexes.get(node.indexname or "", ())
    if node.skip_validation and node.conname:
        table.not_valid[node.conname] = node


def _rows(world: World, node: Any) -> None:
    """Mark the rows that a statement changes: later statements will not find today's."""
    for part in walk(node):
        if isinstance(part, ast.UpdateStmt):
            _updated(world, part)
        elif isinstance(part, (*_CHANGES, ast.TruncateStmt)) or (isinstance(part, ast.CopyStmt) and part.is_from):
            word = type(part).__name__.removesuffix("Stmt").upper()
            for each in part.relations if isinstance(part, ast.TruncateStmt) else [part.relation]:
                _other_rows(world, world.find(each.schemaname, each.relname), f"is changed by {word}")


def _updated(world: World, node: Any) -> None:
    table = world.find(node.relation.schemaname, node.relation.relname)
    if table is None:
        return

    def update(each: Table) -> None:
        for name in (target.name for target in node.targetList):
            if name in each.columns:
                because = f"unknown until {table.label}.{quoted(name)} is changed by UPDATE"
                each.columns[name] = unknown(each.columns[name], because)

    world.everywhere(table, update)
    if len(table.lineage) > 1:
        _other_rows(world, table, "is changed by UPDATE")


def _other_rows(world: World, table: Table | None, why: str) -> None:
    """Mark a table, and those above and below it, as having other rows than today."""
    if table is not None:
        world.mark_changed(table, f"unknown until {table.label} {why}")
