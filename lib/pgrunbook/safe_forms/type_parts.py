"""Changes of type taken apart: columns, their types and conversions; for the safe form and the gate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from pglast import ast, enums

from pgrunbook.database import column_dependents, publications
from pgrunbook.database.column_dependents import IndexOn
from pgrunbook.database.column_sync import ColumnPair, ColumnSync, sync_name
from pgrunbook.database.relations import Column, Relation, constraints_of
from pgrunbook.database.row_tracker import LAST
from pgrunbook.safe_forms import deferrable_keys, side_changes
from pgrunbook.safe_forms.form import Case
from pgrunbook.safe_forms.side_changes import SideChanges
from pgrunbook.sql.deparse import changed, expression, helper, mapped, parsed
from pgrunbook.sql.tree import column_names

A = enums.AlterTableType
_LONGEST = 63
_TEXT = "::pg_catalog.text"


@dataclass(frozen=True)
class TypeChangeParts:
    """An ALTER COLUMN TYPE taken apart: the column, its new type in full, the conversions, and the default behind it.

    ``parked`` is the name of the old column after the cut-over; ``not_null`` is whether the new one is to be NOT NULL.
    ``gives_default`` says that the statement sets or drops the default, also of partitions. ``is_tried`` says that
    something else tells before it which values cannot be converted.
    """

    table: Relation
    column: Column
    definition: Any
    pair: ColumnPair
    sync: ColumnSync
    parked: str
    default: str | None
    not_null: bool
    gives_default: bool = False
    is_tried: bool = False


def parts(case: Case) -> list[TypeChangeParts] | str | None:
    """Return the changes of type in parts, why they have no such form, or None for any other statement.

    All columns are moved in one cut-over: where the statement stops half way, none of them is changed.
    """
    taken = _commands(case)
    if taken is None:
        return None
    table, changes, defaults, rest = taken
    if case.is_off or case.is_back:
        return "its safe form is switched off" if case.is_off else "it takes back one that ran as it is written"
    if rest and table.is_partitioned:
        return "the table has partitions, and the statement does more: give each change of type one of its own"
    beside = side_changes.read(case, table, changes, rest)
    if isinstance(beside, str):
        return beside
    found = []
    for cmd in changes.values():
        part = _part(case, table, cmd, [each for each in defaults if each.name == cmd.name])
        if isinstance(part, TypeChangeParts):
            part = replace(part, not_null=beside.not_null.get(cmd.name, part.column.not_null))
        found.append(part)
    because = list(dict.fromkeys(one for one in found if isinstance(one, str)))
    if None in found or because:
        return "; ".join(because) or None
    return [one for one in found if isinstance(one, TypeChangeParts)]


def beside(case: Case) -> SideChanges:
    """Return what a statement that has the form does beside its changes of type."""
    taken = _commands(case)
    found = side_changes.read(case, taken[0], taken[1], taken[3]) if taken is not None else ""
    if isinstance(found, str):
        raise AssertionError("a statement without the form")
    return found


def _commands(case: Case) -> tuple[Relation, dict[str, Any], list[Any], list[Any]] | None:
    """Return the table, the changes of type by column, the defaults of these columns, and the other subcommands."""
    node = case.node
    if not isinstance(node, ast.AlterTableStmt) or node.objtype != enums.ObjectType.OBJECT_TABLE:
        return None
    table = case.facts.relation(node.relation)
    changes = {cmd.name: cmd for cmd in node.cmds if cmd.subtype == A.AT_AlterColumnType}
    if table is None or table.is_temporary or not changes:
        return None
    defaults = [each for each in node.cmds if each.subtype == A.AT_ColumnDefault and each.name in changes]
    own = [*changes.values(), *defaults, *_same_keys(case, table, changes, node.cmds)]
    return table, changes, defaults, [cmd for cmd in node.cmds if all(cmd is not one for one in own)]


def _same_keys(case: Case, table: Relation, changes: Iterable[str], cmds: Sequence[Any]) -> list[Any]:
    """Return the commands that drop a key of the columns and add the same one again: the form carries it over.

    Prisma writes so where the type of a key's column changes.
    """
    dropped = {cmd.name: cmd for cmd in cmds if cmd.subtype == A.AT_DropConstraint}
    added = [cmd for cmd in cmds if cmd.subtype == A.AT_AddConstraint and cmd.def_.conname in dropped]
    if not added or table.is_partitioned:  # with the key, its indexes on partitions would get new names
        return []
    columns, definitions = case.facts.columns(table), {}
    for one in constraints_of(case.facts.conn, [table.oid])[table.oid]:
        definitions[one.name] = parsed(f"ALTER TABLE t ADD {one.definition}").cmds[0].def_
    there = [columns[change] for change in changes if change in columns]
    on = {index for column in there for index in column_dependents.read(case.facts.conn, table, column).indexes}
    kept = {index.name for index in on if index.constraint_kind and _is_plain(index)}
    same = [cmd for cmd in added if cmd.def_.conname in kept]
    same = [cmd for cmd in same if changed(cmd.def_, conname=None) == definitions[cmd.def_.conname]]
    return [each for cmd in same for each in (dropped[cmd.def_.conname], cmd)]


def _is_plain(index: IndexOn) -> bool:
    """Tell whether an index has nothing that is lost when its key is dropped and added again."""
    marked = index.is_replica_identity or index.is_clustered or index.tablespace is not None
    has_options = bool(parsed(index.definition).options)
    return not (marked or has_options or index.comment or index.constraint_comment)


def _part(case: Case, table: Relation, cmd: Any, defaults: Sequence[Any]) -> TypeChangeParts | str | None:
    column = case.facts.columns(table).get(cmd.name)
    if column is None:
        return None
    below = case.facts.partitions(table)
    because = column_dependents.refused(case.facts.conn, table, column.name, last=LAST, below=below)
    return "; ".join(because) if because else _taken_apart(case, table, column, cmd, defaults)


def _taken_apart(
    case: Case, table: Relation, column: Column, cmd: Any, defaults: Sequence[Any]
) -> TypeChangeParts | str | None:
    definition = cmd.def_
    made = type_of(case, definition)
    if made is None:
        return None  # the server refuses it as written, too
    using = definition.raw_default
    others = _others(case, table, column, using)
    if isinstance(others, str):
        return others
    if using is not None and case.facts.volatile(using):
        return "USING gives another value each time"
    named = {column.name: "was", **{each.name: ColumnPair.argument(n) for n, each in enumerate(others)}}
    forward = "was" if using is None else expression(mapped(using, lambda part: _argument(part, named)))
    oid, type_ = made
    if not all(_is_accepted(case, f"CAST(NULL AS {each})") for each in (column.type, type_)):
        return "one of the types refuses NULL"
    conn = case.facts.conn
    steady = using is None and all(
        column_dependents.is_steady(conn, *both) for both in ((column.type_oid, oid), (oid, column.type_oid))
    )
    casts = _is_accepted(case, f"CAST(CAST(NULL AS {type_}) AS {column.type})")
    backward = f"becomes{'' if casts else _TEXT}::{column.type}"
    comes, parked = shadow_names(table, column.name)
    if late := deferrable_keys.obstacle(case, table, column, definition, type_):
        return late
    if {comes, parked} & set(case.facts.columns(table)):
        return "the column of an earlier change waits for contract"
    again = f"was{'' if _is_accepted(case, f'CAST(CAST(NULL AS {column.type}) AS {type_})') else _TEXT}::{type_}"
    pair = ColumnPair(
        column.name, comes, column.type, type_, forward, backward, steady,
        tuple((each.name, each.type) for each in others), again if others else "",
    )  # fmt: skip
    sync = ColumnSync(sync_name(table.identifier, column.name, comes), table.identifier)
    given = [expression(each.def_) for each in defaults if each.def_ is not None]
    default = given[-1] if given else None if defaults else column.default
    return TypeChangeParts(table, column, definition, pair, sync, parked, default, column.not_null, bool(defaults))


def accepted(case: Case, table: Relation, columns: Sequence[str]) -> str:
    """Return what comes to the same as a change of type that PostgreSQL refuses because publications name the columns.

    "" where none does, and the statement is accepted as it is written; or where one is not this role's own.
    """
    waits = any((one.table_schema, one.table_name) == (table.schema, table.name) for one in case.shadows)
    found = publications.of_table(case.facts.conn, table)
    # What sends all columns has a list of them once one waits for contract.
    named = [one for one in found if set(columns) & set(one.uses) or (waits and not one.is_listed)]
    can = bool(named) and all(one.is_own for one in named)
    return publications.around(case.statement.sql, table, columns) if can else ""


def shadow_names(table: Relation, column: str) -> tuple[str, str]:
    """Return the names of the column that comes before, and of the one that has left after the cut-over."""
    both = (f"pgrunbook_new_{column}", f"pgrunbook_old_{column}")
    if all(len(one.encode()) <= _LONGEST for one in both):
        return both
    return helper(table.schema, table.name, column, "new"), helper(table.schema, table.name, column, "old")


def _others(case: Case, table: Relation, column: Column, using: Any) -> list[Column] | str:
    """Return the other columns of the row that USING reads, or why the trigger cannot read them as well."""
    columns, found = case.facts.columns(table), []
    changing = {cmd.name for cmd in case.node.cmds if cmd.subtype == A.AT_AlterColumnType}
    for each in dict.fromkeys(column_names(using) if using is not None else ()):
        there = columns.get(each)
        if there is None:
            return f"USING reads {each}, which is not a column of the row"
        if there.generated:
            return f"USING reads {each}, which is generated behind the trigger that would keep the columns equal"
        if each != column.name and each in changing:
            return f"USING reads {each}, which gets another type in the same statement"
        if each != column.name:
            found.append(there)
    return found


def _argument(part: Any, named: Mapping[str, str]) -> Any:
    name = str(getattr(part.fields[-1], "sval", "")) if isinstance(part, ast.ColumnRef) else ""
    return ast.ColumnRef(fields=(ast.String(sval=named[name]),)) if name in named else part


def type_of(case: Case, definition: Any) -> tuple[int, str] | None:
    """Return the OID of the type that a statement names, and its name in full with its modifiers."""
    value = ast.TypeCast(arg=parsed("SELECT NULL").targetList[0].val, typeName=definition.typeName)
    conn = case.facts.conn
    try:
        with conn.transaction(), conn.as_target():
            asked = conn.execute(f"SELECT {expression(value)} AS made, pg_catalog.pg_typeof({expression(value)})::oid")
    except psycopg.Error:
        return None
    row, result = asked.fetchone(), asked.pgresult
    if row is None or result is None:
        raise AssertionError("a query without a result")
    oid = int(str(row[1]))
    modifier = result.fmod(0) if result.ftype(0) == oid else -1
    named = conn.execute("SELECT pg_catalog.format_type(%s::oid, %s::integer)", [oid, modifier]).fetchone()
    return oid, str((named or ("",))[0])


def _is_accepted(case: Case, value: str) -> bool:
    """Tell whether the server can evaluate an expression of types that it has named."""
    try:
        with case.facts.conn.transaction():
            case.facts.conn.execute(f"SELECT {value}".encode())
    except psycopg.Error:
        return False
    return True
