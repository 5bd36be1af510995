"""The effect of each statement of a way back on names, columns and rows, for the statements after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from pglast import ast

from pgrunbook.database.catalog import Table
from pgrunbook.effects.catalog_after import after, path_after
from pgrunbook.sql.serial import SERIAL
from pgrunbook.sql.settings import settings
from pgrunbook.sql.tree import constraint_kind, dotted, object_kind, quoted, strings, subcommand, walk
from pgrunbook.violations.world import ColumnValue, JudgedTable, UnclearError, World

NULL = ast.A_Const(isnull=True)
_TABLES = ("TABLE", "MATVIEW", "FOREIGN_TABLE")
_CHANGES = (ast.InsertStmt, ast.DeleteStmt, ast.MergeStmt)
_MOVES = {"AttachPartition": "has another partition", "DetachPartition": "has lost a partition"}
# The order in which ALTER TABLE does its work (AT_PASS_DROP ... in src/backend/commands/tablecmds.c).
_PASSES = {"DropColumn": 0, "DropConstraint": 0, "AlterColumnType": 1, "AddColumn": 2}

# A table and the name of a column in it, with what that will hold.
_Held = tuple[Table, str, ColumnValue]


def follow(world: World, node: Any) -> None:
    """Apply a statement of the way back: to names and columns as ``catalog_after`` tells, and to what they hold.

    1. What its columns will hold is told in the names that it finds itself.
    2. Tables whose rows it changes are marked.
    3. The catalog becomes that after the statement, which gives new columns their numbers.
    """
    held = [*_altered(world, node), *_updated(world, node)]
    for table, because in _other_rows(world, node):
        for each in world.now.family(table):
            world.changed.setdefault(each.oid, f"unknown until {because}")
    world.now = after(world.now, node)
    for setting in settings(node):
        if setting.may_be_search_path:
            path = path_after(world.now, setting, world.today.search_path)
            world.now = replace(world.now, search_path=path or ())
    for table, name, value in held:
        now = world.now.by_oid(table.oid) if table.oid else None
        if now is not None and name in now.columns:
            world.values[now.oid, now.columns[name].number] = value


def one_pass(cmd: Any) -> int:
    """Return the pass in which ALTER TABLE runs a subcommand: those of one pass find the same columns."""
    return _PASSES.get(subcommand(cmd), 3)


def added(world: World, table: JudgedTable, definition: Any) -> ColumnValue:
    """Return what the column that ADD COLUMN creates holds, before captured values are reverted."""
    because = f"unknown until column {quoted(definition.colname)} of {table.label} is restored"
    given = {constraint_kind(part): part for part in definition.constraints or ()}
    numbered = strings(definition.typeName.names)[-1] in SERIAL or "IDENTITY" in given
    if numbered or ("DEFAULT" in given and world.facts.volatile(given["DEFAULT"].raw_expr)):
        return ColumnValue(None, because, never_null=True)
    made = given.get("GENERATED") or given.get("DEFAULT")
    value = made.raw_expr if made else NULL
    try:
        cast = ast.TypeCast(arg=value, typeName=definition.typeName, location=-1)
        return ColumnValue(world.meant(table, cast), never_null="DEFAULT" in given and not _is_null(value))
    except UnclearError as reason:
        return ColumnValue(None, str(reason))


def kept_of(world: World, table: JudgedTable, name: str) -> Callable[[], str] | None:
    """Return what gives the condition that a row has no captured value; None if no values are reverted."""
    return next(
        (world.kept[t, quoted(name)] for t in (table.label, table.sql) if (t, quoted(name)) in world.kept), None
    )


def _is_null(node: Any) -> bool:
    return (isinstance(node, ast.A_Const) and bool(node.isnull)) or (
        isinstance(node, ast.TypeCast) and _is_null(node.arg)
    )


def _altered(world: World, node: Any) -> Iterator[_Held]:
    """Yield what the columns hold that ALTER TABLE adds, or gives another type, also in the tables below."""
    table = world.find(node.relation) if isinstance(node, ast.AlterTableStmt) else None
    if table is None:
        return
    found, below = world.rows_of(table), world.now.below(table) if node.relation.inh else [table]
    for cmd in node.cmds:
        name = cmd.def_.colname if subcommand(cmd) == "AddColumn" else cmd.name
        if subcommand(cmd) == "AddColumn" and name not in found.columns:
            value = _filled(world, found, name, added(world, found, cmd.def_))
        elif subcommand(cmd) == "AlterColumnType" and name in found.columns:
            value = _retyped(world, found, cmd)
        else:
            continue
        yield from ((each, name, value) for each in below)


def _filled(world: World, table: JudgedTable, name: str, column: ColumnValue) -> ColumnValue:
    """Return what a column holds after captured values are reverted, if there are any."""
    missing = kept_of(world, table, name)
    if missing is None:
        return column
    because = f"unknown until column {quoted(name)} of {table.label} is restored"
    return ColumnValue(None, because, never_null=column.never_null, missing=missing)


def _retyped(world: World, table: JudgedTable, cmd: Any) -> ColumnValue:
    if kept_of(world, table, cmd.name) is not None:
        because = f"unknown until column {quoted(cmd.name)} of {table.label} has its old type again"
        return _unknown(table.columns[cmd.name], because)
    using = cmd.def_.raw_default or ast.ColumnRef(fields=(ast.String(sval=cmd.name),), location=-1)
    try:
        return ColumnValue(world.meant(table, ast.TypeCast(arg=using, typeName=cmd.def_.typeName, location=-1)))
    except UnclearError as reason:
        return _unknown(table.columns[cmd.name], str(reason))


def _updated(world: World, node: Any) -> Iterator[_Held]:
    """Yield the columns that UPDATE changes: nobody knows what they hold then."""
    for part in walk(node):
        table = world.find(part.relation) if isinstance(part, ast.UpdateStmt) else None
        if table is None:
            continue
        for each in world.now.below(table):
            columns = world.rows_of(each).columns
            for name in (target.name for target in part.targetList if target.name in columns):
                because = f"unknown until {table.label}.{quoted(name)} is changed by UPDATE"
                yield each, name, _unknown(columns[name], because)


def _unknown(column: ColumnValue, because: str) -> ColumnValue:
    return replace(column, node=None, because=because)


def _other_rows(world: World, node: Any) -> Iterator[tuple[Table, str]]:
    """Yield the tables that have other rows after a statement, as have those above and below them, and why."""
    for name, why in [*_other_partitions(node), *_changed(node)]:
        table = world.find(name)
        if table is not None and (why != "UPDATE" or table.parents):
            yield table, f"{table.label} {'is changed by ' * why.isupper()}{why}"
    if isinstance(node, ast.DropStmt):
        names = [dotted(entry) for entry in node.objects]
        dropped = [world.now.find(name) for name in names] if object_kind(node.removeType) in _TABLES else []
        if object_kind(node.removeType) == "SCHEMA":
            dropped = [table for table in world.now.tables.values() if table.schema in {name.name for name in names}]
        yield from ((table, f"table {table.label} is dropped") for table in dropped)


def _other_partitions(node: Any) -> Iterator[tuple[Any, str]]:
    if isinstance(node, ast.AlterTableStmt):
        yield from ((node.relation, _MOVES[word]) for word in map(subcommand, node.cmds) if word in _MOVES)
    made = getattr(node, "base", node)
    if isinstance(made, ast.CreateStmt):
        yield from ((parent, _MOVES["AttachPartition"]) for parent in made.inhRelations or ())


def _changed(node: Any) -> Iterator[tuple[Any, str]]:
    for part in walk(node):
        word = type(part).__name__.removesuffix("Stmt").upper()
        if isinstance(part, ast.TruncateStmt):
            yield from ((each, word) for each in part.relations)
        elif isinstance(part, (*_CHANGES, ast.UpdateStmt)) or (isinstance(part, ast.CopyStmt) and part.is_from):
            yield part.relation, word
