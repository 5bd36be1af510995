"""The effects of reading and writing rows; for ``effects.statements``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pglast import ast

from pgrunbook.database.catalog import Table
from pgrunbook.database.relations import CatalogConstraint
from pgrunbook.effects import result as fx
from pgrunbook.sql.lock_modes import ACCESS_SHARE, ROW_EXCLUSIVE, ROW_SHARE
from pgrunbook.sql.tree import functions_in, relation, relations_named, strings, whole

Writing = ast.InsertStmt | ast.UpdateStmt | ast.DeleteStmt | ast.MergeStmt

_SEQUENCES = {"nextval", "setval", "currval", "lastval"}
_QUIET = {"count", "sum", "min", "max", "avg", "now", "coalesce", "set_config", "current_setting", "pg_sleep"}


def plan(found: fx.Found, node: Any) -> None:
    """Collect what PostgreSQL locks to plan a query without running it."""
    _lock_read(found, node, ())
    _writes(found, node, runs=False)


def parse(found: fx.Found, node: Any) -> None:
    """Collect what PostgreSQL locks to understand a query that is stored and not run: what it names itself."""
    for part in relations_named(node):
        found.lock(found.catalog.find(relation(part)), ACCESS_SHARE)


def read(found: fx.Found, node: Any) -> None:
    """Collect what a query locks; a SELECT can also write, in WITH or through a function."""
    _lock_read(found, node, [part for part in whole(node) if isinstance(part, ast.LockingClause)])
    if isinstance(node, ast.SelectStmt) and node.whereClause is None and node.limitCount is None:
        for source in node.fromClause or ():
            if isinstance(source, ast.RangeVar):
                (found.scan if source.inh else found.scan_alone)(found.catalog.find(relation(source)))
    for function in functions_in(node):
        if found.catalog.volatile_functions.get(function, False) and function not in _QUIET | _SEQUENCES:
            found.cannot_know(f"what function {function} does")
    _writes(found, node, runs=True)


def _lock_read(found: fx.Found, node: Any, locking: Sequence[Any]) -> None:
    """Lock what a query reads; FOR UPDATE, SHARE ... of all that it names in FROM, or of those that OF names."""
    every = any(not clause.lockedRels for clause in locking)
    named = {part.relname for clause in locking for part in clause.lockedRels or ()}
    of_clause = {id(part) for clause in locking for part in clause.lockedRels or ()}
    for part in relations_named(node):
        if id(part) not in of_clause:
            alias = part.alias.aliasname if part.alias else part.relname
            found.lock_named(part, ROW_SHARE if every or alias in named else ACCESS_SHARE)


def collect(found: fx.Found, node: Any) -> None:
    """Collect the effects of INSERT, UPDATE, DELETE or MERGE."""
    for part in relations_named(node):
        if part is not node.relation:
            found.lock_named(part, ACCESS_SHARE)
    if isinstance(node, ast.InsertStmt) and isinstance(node.selectStmt, ast.SelectStmt):
        named = [id(part) for part in relations_named(node)]  # not the names of WITH
        for part in node.selectStmt.fromClause or ():
            if id(part) in named and node.selectStmt.whereClause is None:
                found.scan(found.catalog.find(relation(part)))
    _writes(found, node, runs=True)


def _writes(found: fx.Found, node: Any, *, runs: bool) -> None:
    for part in whole(node):
        if isinstance(part, Writing):
            _write(found, part, runs=runs)


def _write(found: fx.Found, node: Any, *, runs: bool) -> None:
    table = found.catalog.find(relation(node.relation))
    while table.kind == "v":
        inserts = isinstance(node, ast.InsertStmt)
        below = _below_view(found, table, inserts=inserts)
        if below is None:
            return
        table = below
    if isinstance(node, ast.InsertStmt):
        found.lock(table, ROW_EXCLUSIVE)
        if table.children:
            found.cannot_know(f"into which partition of {table.label} the rows go")
    elif not node.relation.inh:
        found.lock(table, ROW_EXCLUSIVE)
    else:
        found.lock_family(table, ROW_EXCLUSIVE)
        if getattr(node, "whereClause", None) is None and runs and not isinstance(node, ast.MergeStmt):
            found.scan(table)
    if runs:
        _check_keys(found, table, node)
        if list(table.of_kind("trigger")):
            found.cannot_know(f"what the triggers of {table.label} do")
    if isinstance(node, ast.DeleteStmt):
        found.lose(f"rows of {table.label}")


def _below_view(found: fx.Found, view: Table, *, inserts: bool) -> Table | None:
    """Return the table or view to which a change of a view goes, None where triggers or rules decide."""
    found.lock(view, ROW_EXCLUSIVE)
    named = found.catalog.read_by(view)
    main = [table for table, source in named if source.in_from]
    redirected = list(view.of_kind("trigger", "rule"))
    if redirected or len(main) != 1:
        found.cannot_know(f"what a change of view {view.label} does")
    for table, source in named:
        if not source.in_from or (redirected and not inserts):
            found.lock_read(table, ACCESS_SHARE, inh=source.with_children)
    return None if redirected or len(main) != 1 else main[0]


def _check_keys(found: fx.Found, table: Table, node: Any) -> None:
    """Collect the locks of foreign key checks on changed rows, and the rows that a DELETE cascades to."""
    if isinstance(node, ast.InsertStmt):
        named = set(strings(tuple(ast.String(sval=c.name) for c in node.cols or ())))
        for key in table.foreign_keys():
            if key.partner is not None and (not named or named & set(key.columns)):
                found.lock(found.catalog.at(key.partner), ROW_SHARE)
    elif isinstance(node, ast.UpdateStmt):
        changed = {target.name for target in node.targetList}
        for key in table.foreign_keys():
            if key.partner is not None and changed & set(key.columns):
                found.lock(found.catalog.at(key.partner), ROW_SHARE)
        for other, key in found.catalog.references_to(table):
            if changed & set(key.partner_columns):
                found.lock(other, ROW_EXCLUSIVE)
    elif isinstance(node, ast.DeleteStmt):
        _follow_delete(found, table)


def _follow_delete(found: fx.Found, table: Table) -> None:
    """Follow a DELETE through foreign keys: referencing rows are read or written, and ON DELETE CASCADE goes on."""
    waiting = found.catalog.below(table)
    seen = {member.key for member in waiting}
    while waiting:
        for other, key in found.catalog.references_to(waiting.pop()):
            members = found.catalog.with_partitions(other)
            for member in members:
                found.lock(member, ROW_EXCLUSIVE if _writes_there(key) else ROW_SHARE)
            if key.on_delete == "c":
                found.lose(f"rows of {other.label}, by foreign key {key.name}")
                waiting += [member for member in members if member.key not in seen]
                seen |= {member.key for member in members}


def _writes_there(key: CatalogConstraint) -> bool:
    return key.on_delete in ("c", "n", "d")
