"""The gate of statements whose rows a policy chooses: what the target's role does not see, it silently leaves out.

A row that may not be written is an error of the server, and needs no gate; so is COPY FROM. The check of a foreign key
passes over the rows that the owner does not see, where its table forces row level security; other constraints, and
indexes, see all rows.
Source: https://www.postgresql.org/docs/current/ddl-rowsecurity.html
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pglast import ast, enums

from pgrunbook.database import visible_rows
from pgrunbook.database.facts import Facts
from pgrunbook.database.visible_rows import VisibleRows
from pgrunbook.display.prose import counted
from pgrunbook.plan.step import Expansion, Gate
from pgrunbook.safe_forms.form import Case
from pgrunbook.sql.outside import relations_read
from pgrunbook.sql.tree import is_on

A, K = enums.AlterTableType, enums.ConstrType
ID = "row-security"
_VALUES = (K.CONSTR_DEFAULT, K.CONSTR_GENERATED, K.CONSTR_IDENTITY)
_HOW = (
    "Let a role run it that the policies do not filter (BYPASSRLS; the owner, unless row level security is forced), "
    "or accept it, and read in validate how many rows it changed."
)
# They read no row, or not yet.
_READ_NONE = (ast.TruncateStmt, ast.VacuumStmt, ast.PrepareStmt)
# Policies of these commands choose the rows of the table that a statement changes, beside those of SELECT.
_COMMANDS: dict[type, tuple[str, ...]] = {ast.UpdateStmt: ("w",), ast.DeleteStmt: ("d",), ast.MergeStmt: ()}


def find(case: Case) -> Gate | None:
    """Return the gate of a statement that reads or changes rows which a policy chooses for this role."""
    facts, node = case.facts, case.node
    oids = list(_checked(facts, node) if isinstance(node, ast.AlterTableStmt) else _read(facts, node))
    if not oids:
        return None
    changed = _oid(facts, node.relation) if type(node) in _COMMANDS else None
    refresh = isinstance(node, ast.RefreshMatViewStmt)
    found = visible_rows.filtered(facts, oids, changed, _COMMANDS.get(type(node), ()), refresh=refresh)
    if not found:
        return None
    does = "checks" if isinstance(node, ast.AlterTableStmt) else "reads or changes"
    told = "; ".join(map(_told, found))
    return Gate(ID, f"row level security chooses the rows that it {does}: {told}", "by hand", _HOW)


def hidden(facts: Facts, steps: Expansion) -> str:
    """Return the table whose every row the steps would change in batches, and which hides some, "" for none."""
    for step in steps.steps:
        if step.batches is not None:
            oid = facts.relation_oid([step.batches.schema, step.batches.table])
            found = visible_rows.filtered(facts, [oid], None, ()) if oid is not None else []
            if found:
                return found[0].table
    return ""


def _read(facts: Facts, node: Any) -> Iterator[int]:
    """Yield the relations whose rows a statement reads now; not the table that an INSERT fills."""
    if isinstance(node, _READ_NONE) or (isinstance(node, ast.CopyStmt) and node.is_from):
        return
    if isinstance(node, ast.ExplainStmt) and not is_on(node.options, "analyze"):
        return
    filled = node.relation if isinstance(node, ast.InsertStmt) else None
    made = node.into.rel if isinstance(node, ast.CreateTableAsStmt) else None
    for name in relations_read(node):
        oid = None if name is filled or name is made else _oid(facts, name)
        if oid is not None:
            yield oid


def _checked(facts: Facts, node: Any) -> Iterator[int]:
    """Yield the tables whose rows an ALTER TABLE reads to check a foreign key."""
    table = _oid(facts, node.relation)
    if table is None:
        return
    for cmd in node.cmds:
        there = {row["name"]: row["referenced"] for row in facts.rows("foreign_keys_of", oid=table)}
        if cmd.subtype == A.AT_ValidateConstraint and cmd.name in there:
            yield from (table, there[cmd.name])
        if cmd.subtype == A.AT_AttachPartition and there:
            yield from filter(None, [_oid(facts, cmd.def_.name), *there.values()])
        for key in _keys(cmd):
            yield from filter(None, [table, _oid(facts, key.pktable)])


def _keys(cmd: Any) -> list[Any]:
    """Return the foreign keys that a subcommand of ALTER TABLE adds, and checks at once."""
    added = [cmd.def_] if cmd.subtype == A.AT_AddConstraint else []
    if cmd.subtype == A.AT_AddColumn:
        given = list(cmd.def_.constraints or ())
        # Without a value every row holds NULL, which needs no key.
        added = given if any(one.contype in _VALUES for one in given) else []
    return [one for one in added if one.contype == K.CONSTR_FOREIGN and not one.skip_validation]


def _oid(facts: Facts, name: ast.RangeVar) -> int | None:
    return facts.relation_oid([part for part in (name.schemaname, name.relname) if part])


def _told(one: VisibleRows) -> str:
    if one.role:
        return f"of {one.table} it sees what the policies show {one.role}, as whom a view reads it"
    of = f"about {counted(one.rows_estimate, 'row')}" if one.rows_estimate is not None else "an unknown number of rows"
    if one.visible is None:
        return f"of {of} of {one.table} this role sees those that the policies show"
    return f"this role sees {one.visible:,} of {of} of {one.table}"
