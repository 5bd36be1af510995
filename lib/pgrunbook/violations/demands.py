"""The demands of a way back's statement on the rows that it will find."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any

from pglast import ast

from pgrunbook.sql.deparse import changed
from pgrunbook.sql.deparse import name as identifier
from pgrunbook.sql.tree import Name, constraint_kind, object_kind, quoted, relation, subcommand
from pgrunbook.violations import constraints, conversions, domains, partitions
from pgrunbook.violations.rows import RowDemand
from pgrunbook.violations.succession import added, one_pass
from pgrunbook.violations.world import JudgedTable, UnclearError, World

_OF_COLUMN = ("NOTNULL", "CHECK", "UNIQUE", "PRIMARY", "FOREIGN")
# The subcommands of ALTER TABLE that demand something of rows.
_DEMANDING = ("AddColumn", "AlterColumnType", "AddConstraint", "SetNotNull", "ValidateConstraint", "AttachPartition")


def parts(node: Any) -> Iterator[Any]:
    """Yield a statement in the order of its passes: ALTER TABLE drops, changes types, adds columns, constrains."""
    if not isinstance(node, ast.AlterTableStmt):
        yield node
        return
    for _, cmds in groupby(sorted(node.cmds, key=one_pass), one_pass):
        yield changed(node, cmds=tuple(cmds))


def demands(world: World, node: Any) -> Iterator[RowDemand]:
    """Yield the demands of a statement on rows."""
    match node:
        case ast.AlterTableStmt() if object_kind(node.objtype) in ("TABLE", "FOREIGN_TABLE"):
            yield from _altered(world, node)
        case ast.IndexStmt() if node.unique:
            what = f"unique index{' ' + identifier(node.idxname) if node.idxname else ''}"
            yield from _of(world, node.relation, what, lambda table: constraints.index(world, table, node))
        case ast.CreateStmt() if node.partbound is not None:
            parent = world.find(node.inhRelations[0])
            if parent is not None:
                what = f"partition {relation(node.relation)} of {parent.label}"
                yield from partitions.made(world, world.rows_of(parent), node.partbound, what)
        case ast.AlterDomainStmt():
            yield from domains.domain(world, node)


def _of(world: World, node: Any, what: str, build: Any) -> Iterator[RowDemand]:
    """Yield the demands that ``build`` makes for a table, or one unclear demand if there is no such table."""
    try:
        table = world.table(node)
    except UnclearError as reason:
        name = str(Name(node.schemaname, node.relname))
        yield RowDemand(f"{what} of {name}", name, unclear=str(reason))
        return
    yield from build(table)


def _altered(world: World, node: Any) -> Iterator[RowDemand]:
    for cmd in node.cmds:
        if subcommand(cmd) in _DEMANDING:
            yield from _of(
                world,
                node.relation,
                _what(cmd),
                lambda table, cmd=cmd: _by(world, table, cmd, only=not node.relation.inh),
            )


def _what(cmd: Any) -> str:
    match subcommand(cmd):
        case "AddConstraint":
            named = cmd.def_.conname
            return f"constraint {identifier(named)}" if named else f"{constraint_kind(cmd.def_)} constraint"
        case "ValidateConstraint":
            return f"constraint {identifier(cmd.name)}"
        case "AttachPartition":
            return f"partition {relation(cmd.def_.name)}"
        case "AddColumn":
            return f"column {quoted(cmd.def_.colname)}"
    return f"column {quoted(cmd.name)}"


def _by(world: World, table: JudgedTable, cmd: Any, *, only: bool) -> Iterator[RowDemand]:
    if table.now.kind not in "rp":
        return  # rows of a foreign table are not read
    match subcommand(cmd):
        case "AddConstraint":
            yield from constraints.constraint(world, table, cmd.def_, only=only)
        case "SetNotNull":
            yield constraints.not_null(world, table, cmd.name, only=only)
        case "AlterColumnType":
            yield conversions.new_type(world, table, cmd)
        case "ValidateConstraint":
            yield from _validated(world, table, cmd.name)
        case "AttachPartition":
            yield from partitions.attached(world, table, cmd.def_.name, cmd.def_.bound)
        case "AddColumn" if cmd.def_.colname not in table.columns:
            yield from _with_column(world, table, cmd.def_, only=only)


def _with_column(world: World, table: JudgedTable, definition: Any, *, only: bool) -> Iterator[RowDemand]:
    """Yield the demands on a new column: until captured values are reverted, all rows hold its default, or NULL."""
    column = added(world, table, definition)
    there = replace(table, columns={**table.columns, definition.colname: column})
    refused = conversions.value_of_new_column(world, there, definition, column)
    if refused is not None:
        yield refused
    name = (ast.String(sval=definition.colname),)
    for node in definition.constraints or ():
        kind = constraint_kind(node)
        if kind in _OF_COLUMN:
            slot = {"FOREIGN": "fk_attrs", "CHECK": ""}.get(kind, "keys")
            whole = changed(node, **{slot: name}) if slot else node
            yield from constraints.constraint(world, there, whole, only=only)


def _validated(world: World, table: JudgedTable, name: str) -> Iterator[RowDemand]:
    """Yield the demands of VALIDATE CONSTRAINT, for a constraint that the way back adds or one of today."""
    found = next((each for each in table.now.constraints if each.name == name), None)
    if found is None:
        what = f"constraint {identifier(name)} of {table.label}"
        yield RowDemand(what, table.sql, unclear=f"unknown: {table.label} has no constraint {identifier(name)} today")
    elif not found.valid:
        if found.oid:
            yield from constraints.from_today(world, table, world.definition_of(found), name)
        else:
            yield from constraints.defined(world, table, found.definition, name)
