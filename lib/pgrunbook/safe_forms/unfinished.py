"""Statements that would break an expand that waits for contract: they change a column beside which another lives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from pglast import ast, enums

from pgrunbook.database import publications, shadows
from pgrunbook.database.relations import Relation
from pgrunbook.database.shadows import Shadow
from pgrunbook.errors import NOTHING_CHANGED, Refused
from pgrunbook.safe_forms.form import Case
from pgrunbook.sql.deparse import name, parsed
from pgrunbook.sql.statements import Statement
from pgrunbook.sql.tree import strings, tree, walk

A, Kind = enums.AlterTableType, enums.ObjectType
_BY_NAME = (A.AT_DropColumn, A.AT_AlterColumnType, A.AT_SetExpression, A.AT_DropExpression)
_WHOLE = (Kind.OBJECT_TABLE, Kind.OBJECT_SCHEMA)
_TYPES = (Kind.OBJECT_TYPE, Kind.OBJECT_DOMAIN)
_OF_TABLE = (Kind.OBJECT_TABCONSTRAINT, Kind.OBJECT_TRIGGER, Kind.OBJECT_POLICY, Kind.OBJECT_RULE)  # their names only


def refuse(case: Case, *, is_taken_back: bool = False) -> None:
    """Refuse a statement that changes one of two columns of which a trigger keeps the other equal, or their table.

    What it would do to the pair is not what it says, and what it leaves would break each write to the table. So would
    what changes the key of a table whose swap is not ended. ``is_taken_back`` says that the statement ends the pair.
    So is one that adds or drops a column of a table that a publication has with a list until contract.
    Raises Refused.
    """
    _refuse_swapped(case)
    if is_taken_back:
        return
    found = touched(case)
    if found is None:
        _refuse_unsent(case)
        return
    statement = case.statement
    raise Refused(
        f"could not plan {statement.place} ({statement.kind}): {found.label} lives beside {found.beside}",
        detail=f"{found.migration} ({found.kind}) leaves both until contract, and a trigger keeps them equal: no other"
        " change of these columns, or of the name or schema of their table, may come before."
        + (
            " A value that one of their types calls otherwise, the other column cannot hold."
            if _is_renamed(case)
            else ""
        ),
        state=NOTHING_CHANGED,
        hint="pgrunbook run contract --target TARGET, then begin again."
        if found.made_at
        else f"Release {found.migration} and its contract before it; or switch the safe form of the {found.kind} off"
        " (safe_forms_off).",
    )


def _refuse_swapped(case: Case) -> None:
    node = case.node
    cmds = node.cmds if isinstance(node, ast.AlterTableStmt) else ()
    is_added = any(cmd.subtype == A.AT_AddColumn for cmd in cmds)
    if not case.swaps or is_added or isinstance(node, ast.DropStmt):  # who drops the table takes its trigger away
        return
    for one in case.swaps:
        # Each column of the key as if another lived beside it, under a name that no statement has.
        key = tuple(Shadow(one.schema, one.table, name, "", "rename", "", "") for name in one.key)
        for found in _touched(replace(case, shadows=key)):
            is_of_key = bool(cmds) or (isinstance(node, ast.RenameStmt) and node.renameType == Kind.OBJECT_COLUMN)
            place = f"could not plan {case.statement.place} ({case.statement.kind})"
            raise one.refused(place, found.column_name if is_of_key else "")


def touched(case: Case) -> Shadow | None:
    """Return a column that waits for contract and that a statement would break, None where there is none."""
    return next(_touched(case), None)


def breaking(
    case: Case, later: Iterable[Statement], old_types: Iterable[tuple[str, ...]] | None = None
) -> Statement | None:
    """Return the first of later statements that would break one of the case's shadows, None where none does.

    Where a publication sends all columns of their table, that is also one which adds or drops a column there.
    ``old_types`` are those that the old columns have then, None for those of now.
    """
    if not case.shadows:
        return None
    types = _old_types(case) if old_types is None else list(old_types)
    pairs = {(one.table_schema, one.table_name) for one in case.shadows}
    there = [table for name in sorted(pairs) if (table := case.facts.named(name)) is not None]
    unlisted = {
        table.oid for table in there if any(not p.is_listed for p in publications.of_table(case.facts.conn, table))
    }
    for one in later:
        after = replace(case, node=tree(one.sql))
        table = _with_other_columns(after)
        breaks = any(_touched(after)) or (table is not None and table.oid in unlisted)
        if breaks or _drops(after.node, types) or any(_copies_columns(after.node, pair) for pair in pairs):
            return one
        types = [_renamed(after.node, type_) for type_ in types]
    return None


def _refuse_unsent(case: Case) -> None:
    table = _with_other_columns(case)
    if table is None or not case.shadows:
        return
    found = [
        name for name in publications.listed_until_contract(case.facts.rows_conn) if name.endswith(f" {table.label}")
    ]
    if not found:
        return
    publication = found[0].removesuffix(f" {table.label}")
    statement = case.statement
    raise Refused(
        f"could not plan {statement.place} ({statement.kind}): publication {publication} has a list of columns of"
        f" {table.label} until contract",
        detail="It would not send a column that is added, and a column that is dropped is still in it.",
        state=NOTHING_CHANGED,
        hint="pgrunbook run contract --target TARGET, then begin again.",
    )


def _with_other_columns(case: Case) -> Relation | None:
    """Return the table to which a statement adds a column, or from which it drops one; None for any other."""
    node = case.node
    if not isinstance(node, ast.AlterTableStmt):
        return None
    changes = any(cmd.subtype in (A.AT_AddColumn, A.AT_DropColumn) for cmd in node.cmds)
    return case.facts.relation(node.relation) if changes else None


def _copies_columns(node: Any, table: tuple[str, ...]) -> bool:
    """Tell whether a statement keeps all columns of a table, and would keep the one that goes with contract, too."""
    match node:
        case ast.ViewStmt() | ast.CreateTableAsStmt():
            parts = list(walk(node.query))
        case ast.InsertStmt():
            parts = list(walk(node.selectStmt))
        case ast.CreateStmt():
            parts = list(walk(node))
        case _:
            return False
    likes = [part.relation for part in parts if isinstance(part, ast.TableLikeClause)]
    has_star = any(isinstance(part, ast.A_Star) for part in parts)
    named = likes + [part for part in parts if has_star and isinstance(part, ast.RangeVar)]
    return any(_is_same(tuple(filter(None, (one.schemaname, one.relname))), table) for one in named)


def _old_types(case: Case) -> list[tuple[str, ...]]:
    """Return the names of the types that the old columns of a change of type have, and keep until contract."""
    table = case.facts.relation(case.node.relation)
    columns = case.facts.columns(table) if table is not None else {}
    changed = [one.column_name for one in case.shadows if one.kind == "type change"]
    types = (parsed(f"SELECT NULL::{columns[each].type}").targetList[0].val.typeName for each in changed)
    return [strings(type_.names) for type_ in types]


def _drops(node: Any, types: Iterable[tuple[str, ...]]) -> bool:
    if not isinstance(node, ast.DropStmt) or node.removeType not in _TYPES:
        return False
    return any(_is_same(strings(entry.names), type_) for entry in node.objects for type_ in types)


def _renamed(node: Any, type_: tuple[str, ...]) -> tuple[str, ...]:
    """Return the name of a type behind a statement."""
    is_rename = isinstance(node, ast.RenameStmt) and node.renameType in _TYPES
    return (*type_[:-1], node.newname) if is_rename and _is_same(strings(node.object), type_) else type_


def _is_same(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Tell whether two names may be one: of one of them the schema may be left out."""
    parts = min(len(one), len(other))
    return one[-parts:] == other[-parts:]


def _touched(case: Case) -> Iterator[Shadow]:
    if case.shadows:
        yield from _of_value(case)
        yield from _of_statement(case)


def _of_statement(case: Case) -> Iterator[Shadow]:
    node = case.node
    match node:
        case ast.RenameStmt() if node.renameType == Kind.OBJECT_COLUMN and node.relation is not None:
            yield from _of(case, node.relation, node.subname, node.newname)
        case ast.RenameStmt() if node.renameType == Kind.OBJECT_SCHEMA:
            yield from (one for one in case.shadows if one.table_schema == node.subname)
        case ast.RenameStmt() if node.renameType in _OF_TABLE:
            pass
        case ast.RenameStmt() | ast.AlterObjectSchemaStmt() if node.relation is not None:
            yield from _of(case, node.relation)
        case ast.DropStmt() if node.removeType in _WHOLE:
            yield from _dropped(case, node)
        case ast.DropStmt() if node.removeType in _TYPES:
            dropped = {case.facts.type_oid(name(*strings(entry.names))) for entry in node.objects} - {None}
            yield from (one for one in case.shadows if _type_of(case, one) in dropped)
        case ast.AlterTableStmt():
            for cmd in node.cmds:
                if cmd.subtype in _BY_NAME:
                    yield from _of(case, node.relation, cmd.name)
                elif cmd.subtype == A.AT_AddColumn:
                    yield from _of(case, node.relation, cmd.def_.colname)


def renames_value(node: Any, type_: tuple[str, ...]) -> bool:
    """Tell whether a statement gives a value of an enum another name: the column beside keeps it by the old one."""
    is_renamed = isinstance(node, ast.AlterEnumStmt) and node.oldVal is not None
    return is_renamed and _is_same(strings(node.typeName), type_)


def _is_renamed(case: Case) -> bool:
    return isinstance(case.node, ast.AlterEnumStmt) and case.node.oldVal is not None


def _of_value(case: Case) -> Iterator[Shadow]:
    """Yield the shadows of which one of both columns has the enum whose value is renamed; not on a way back."""
    if _is_renamed(case) and not case.is_back:
        renamed = case.facts.type_oid(name(*strings(case.node.typeName)))
        yield from (one for one in case.shadows if one.kind == "type change" and renamed in _enums_of(case, one))


def _enums_of(case: Case, one: Shadow) -> set[int | None]:
    """Return the types of both columns, or of the elements of their arrays."""
    table = case.facts.named((one.table_schema, one.table_name))
    columns = case.facts.columns(table) if table is not None else {}
    there = [columns[each] for each in (one.column_name, one.shadow_name) if each in columns]
    return {case.facts.type_oid(column.type.removesuffix("[]")) for column in there} - {None}


def _type_of(case: Case, one: Shadow) -> int | None:
    """Return the type of a column that goes with contract, None where it is not there yet."""
    table = case.facts.named((one.table_schema, one.table_name))
    column = case.facts.columns(table).get(one.shadow_name) if table is not None else None
    return column.type_oid if column is not None else None


def _dropped(case: Case, node: Any) -> Iterator[Shadow]:
    for entry in node.objects:
        if node.removeType == Kind.OBJECT_SCHEMA:
            yield from (one for one in case.shadows if one.table_schema == entry.sval)
        else:
            parts = strings(entry)
            yield from _of(case, ast.RangeVar(relname=parts[-1], schemaname=parts[-2] if parts[1:] else None))


def _of(case: Case, named: ast.RangeVar, *columns: str) -> Iterator[Shadow]:
    """Yield the shadows of a table, or those in which one of these columns is."""
    table = case.facts.relation(named)
    schema, relname = (table.schema, table.name) if table else (named.schemaname or "", str(named.relname))
    if not columns:
        yield from (one for one in case.shadows if (one.table_schema, one.table_name) == (schema, relname))
    for column in columns:
        found = shadows.of_column(case.shadows, schema, relname, column)
        if found is not None:
            yield found
