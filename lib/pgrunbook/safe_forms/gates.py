"""Gates: statements without a safe form, each with its reason and the procedure that reaches the same end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pglast import ast, enums

from pgrunbook.database.relations import Relation
from pgrunbook.display.prose import counted
from pgrunbook.plan.step import Gate
from pgrunbook.safe_forms import (
    add_column,
    code,
    dependents,
    merges,
    name_uses,
    refresh,
    rename_column,
    swap_command,
    type_gate,
    update_delete,
)
from pgrunbook.safe_forms.form import Case
from pgrunbook.sql.deparse import name
from pgrunbook.sql.tree import is_on

CASCADE = enums.DropBehavior.DROP_CASCADE
A, K, Kind = enums.AlterTableType, enums.ConstrType, enums.ObjectType

_REWRITES = {
    A.AT_SetLogged: "SET LOGGED",
    A.AT_SetUnLogged: "SET UNLOGGED",
    A.AT_SetTableSpace: "SET TABLESPACE",
    A.AT_SetAccessMethod: "SET ACCESS METHOD",
    A.AT_SetExpression: "SET EXPRESSION",
}
_BESIDE = {
    Kind.OBJECT_COLUMN: "a column that a trigger keeps equal",
    Kind.OBJECT_FUNCTION: "a function that calls it",
    Kind.OBJECT_SCHEMA: "a schema of views",
    Kind.OBJECT_VIEW: "a view",
    Kind.OBJECT_MATVIEW: "a view",
}


def find(case: Case) -> Gate | None:
    """Return the gate that a statement itself meets on this database, None where it meets none."""
    look = _LOOKS.get(type(case.node))
    found = look(case) if look is not None else None
    return dependents.find(case) if found is None else found


def _vacuum(case: Case) -> Gate | None:
    node = case.node
    full = node.is_vacuumcmd and is_on(node.options, "full")
    tables = [one.relation for one in node.rels or () if one.relation is not None]
    return _rewrite("vacuum-full", "VACUUM FULL", swap_command.of_tables(case, tables)) if full else None


def _cluster(case: Case) -> Gate:
    node = case.node
    table = case.facts.relation(node.relation) if node.relation is not None else None
    indexes = case.facts.indexes(table.oid) if table is not None else []
    order = next((one.keys for one in indexes if one.name == node.indexname and all(one.keys)), ())
    tables = [node.relation] if node.relation is not None else []
    return _rewrite("cluster", "CLUSTER", swap_command.of_tables(case, tables, order=order))


def _rename(case: Case) -> Gate | None:
    node = case.node
    seen = (Kind.OBJECT_TABLE, Kind.OBJECT_COLUMN, *_BESIDE)
    if node.renameType not in seen or (node.relation is not None and case.facts.relation(node.relation) is None):
        return None
    old = node.subname or (node.relation.relname if node.relation else _object_name(node.object))
    relation = case.facts.relation(node.relation) if node.relation is not None else None
    column = old if node.renameType == Kind.OBJECT_COLUMN else ""
    uses = name_uses.told(case, old.rpartition(".")[2], relation, column)
    beside = _BESIDE.get(node.renameType, "a view")
    found = rename_column.of_rename(case)
    because = rename_column.obstacle(case, *found) if found else ""
    has_form = not (because or case.is_off or case.is_back) or rename_column.taken_back(case) is not None
    if found and has_form:
        return None
    kept = f"; both names cannot live side by side: {because}" if because else ""
    return Gate(
        id="rename",
        says=f'running code still uses the name "{old}" and fails as soon as the rename commits{uses}{kept}',
        procedure="expand and contract",
        how=f"Add the new name beside the old one ({beside}), move the code, then drop the old name.",
    )


def _object_name(entry: Any) -> str:
    return _dotted(entry.objname if isinstance(entry, ast.ObjectWithArgs) else entry)


def _drop(case: Case) -> Gate | None:
    node = case.node
    kinds = (Kind.OBJECT_TABLE, Kind.OBJECT_VIEW, Kind.OBJECT_MATVIEW, Kind.OBJECT_FOREIGN_TABLE, Kind.OBJECT_SCHEMA)
    if node.removeType not in kinds:
        return None
    there = [entry for entry in node.objects if _is_there(case, entry)]
    computed = "queries" if node.removeType in (Kind.OBJECT_VIEW, Kind.OBJECT_MATVIEW) else ""
    return _loses(", ".join(_dotted(entry) for entry in there), computed=computed) if there else None


def _is_there(case: Case, entry: Any) -> bool:
    if case.node.removeType == Kind.OBJECT_SCHEMA:
        return bool(case.facts.rows("schema_of_name", name=entry.sval))
    return case.facts.named(_parts(entry)) is not None


def _truncate(case: Case) -> Gate | None:
    there = [table for table in map(case.facts.relation, case.node.relations) if table is not None]
    if case.node.behavior == CASCADE:
        named = {table.oid for table in there}
        along = case.facts.rows("reached_relations", oids=sorted(named), along=True, is_dml=False)
        there += filter(None, (case.facts.relation_of(row["oid"]) for row in along if row["oid"] not in named))
    lost = [table.sql for table in there if case.facts.has_rows_beyond(table, 0)]
    if not lost:
        return None
    return Gate(
        id="truncate",
        says=f"all rows of {', '.join(lost)} are deleted at once, while readers wait",
        procedure="backfill",
        how="Delete the rows in batches, with a condition; or copy them to another table first.",
    )


def _alter(case: Case) -> Gate | None:
    table = case.facts.relation(case.node.relation)
    if table is None:
        return None
    found = (_alter_command(case, table, cmd) for cmd in case.node.cmds)
    own = next((gate for gate in found if gate is not None), None)
    if all(cmd.subtype != A.AT_AlterColumnType for cmd in case.node.cmds):
        return own
    of_type = type_gate.find(case, table)
    return of_type if own is None else code.joined(own, [of_type] if of_type is not None else [])


def _alter_command(case: Case, table: Relation, cmd: Any) -> Gate | None:
    if cmd.subtype in _REWRITES:
        return _rewrite("rewrite", _REWRITES[cmd.subtype], swap_command.of_alteration(case))
    if cmd.subtype == A.AT_DropColumn:
        column = case.facts.columns(table).get(cmd.name)
        if column is None:
            return None
        return _loses(f"{table.name}.{cmd.name}", computed="other columns" if column.generated else "")
    if cmd.subtype == A.AT_AddConstraint and cmd.def_.contype == K.CONSTR_EXCLUSION:
        return _no_index_beside(case, "exclusion-constraint", "The index of an exclusion constraint")
    if cmd.subtype == A.AT_AddConstraint and cmd.def_.without_overlaps:
        return _no_index_beside(case, "without-overlaps", "The index of a key WITHOUT OVERLAPS")
    if cmd.subtype == A.AT_AddColumn and cmd.def_.colname not in case.facts.columns(table):
        return _column(case, table, cmd)
    return None


def _column(case: Case, table: Relation, cmd: Any) -> Gate | None:
    column = add_column.taken_apart(cmd)
    if column.generated is not None and column.generated.generated_kind in ("s", "\x00"):
        return Gate(
            id="stored-generated",
            says="a stored generated column is written for all rows under the lock, and no column can become one",
            procedure="swap",
            how=f"Swap in a table that has it: {swap_command.of_alteration(case)}; or keep a plain column current with "
            "a trigger and fill it in batches; or, from PostgreSQL 18 on, make it VIRTUAL.",
        )
    type_ = _type_name(cmd.def_.typeName)
    fact = case.facts.type(type_) if not column.serial else None
    if fact is not None and fact.kind == "d" and fact.checked:
        return Gate(
            id="constrained-domain",
            says=f"adding a column of domain {type_}, which has constraints, rewrites the table under the lock",
            procedure="expand and contract",
            how="Add the column with the domain's base type and a CHECK with the same condition.",
        )
    if add_column.differs_by_row(case, column) and case.facts.loop_key(table) is None:
        return Gate(
            id="no-key",
            says=f"{column.name} has to be filled in batches, and {table.sql} has no key to cut batches by",
            procedure="backfill",
            how="Add a primary key first, or a unique index on columns that are NOT NULL.",
        )
    return None


def _refresh(case: Case) -> Gate | None:
    view = case.facts.relation(case.node.relation)
    if view is None or case.node.concurrent or case.node.skipData or not view.is_populated:
        return None
    if refresh.can_be_concurrent(case, view.oid):
        return None
    return Gate(
        id="refresh-without-key",
        says="without a unique index on its columns it can only be refreshed while all readers wait",
        procedure="expand and contract",
        how=f"First create a unique index on the columns that identify a row of {view.sql}.",
    )


def _whole(case: Case) -> Gate | None:
    if not update_delete.is_unbounded(case):
        return merges.find(case)
    because = update_delete.whole_because(case)
    if because is None:
        return None
    return Gate(
        id="cannot-be-split",
        says=f"it changes more than {counted(case.batch_rows, 'row')} in one transaction and cannot be split: "
        f"{because}",
        procedure="backfill",
        how="Write it so that each row's new value depends on that row alone, and run it with the backfill procedure.",
    )


_LOOKS: dict[type, Callable[[Case], Gate | None]] = {
    ast.VacuumStmt: _vacuum,
    ast.ClusterStmt: _cluster,
    ast.RenameStmt: _rename,
    ast.DropStmt: _drop,
    ast.TruncateStmt: _truncate,
    ast.AlterTableStmt: _alter,
    ast.RefreshMatViewStmt: _refresh,
    ast.UpdateStmt: _whole,
    ast.DeleteStmt: _whole,
    ast.MergeStmt: merges.find,
    ast.InsertStmt: merges.find,
}


def _rewrite(id_: str, what: str, command: str) -> Gate:
    return Gate(
        id=id_,
        says=f"{what} rewrites the whole table while readers wait",
        procedure="swap",
        how=f"A copy of the table is built beside it, kept equal, and swapped in: {command}",
    )


def _no_index_beside(case: Case, id_: str, what: str) -> Gate:
    return Gate(
        id=id_,
        says=f"{what} cannot be built CONCURRENTLY: writers wait until it is built",
        procedure="swap",
        how=f"Swap in a table that was created with the constraint: {swap_command.of_alteration(case)}",
    )


def as_written(says: str, how: str) -> Gate:
    """Return the gate of a statement that has a safe form and yet runs as it is written."""
    return Gate(id="runs-as-written", says=says, procedure="expand and contract", how=how)


def _loses(what: str, *, computed: str = "") -> Gate:
    """Return the gate of what is dropped; ``computed`` is what its values are made of, where they are."""
    fails = "code that still uses it fails"
    return Gate(
        id="drop",
        says=f"{what} is computed from {computed}, and {fails}"
        if computed
        else f"the data of {what} is lost, and {fails}",
        procedure="expand and contract",
        how="First release code that no longer uses it; drop it one release later, in a migration of its own.",
        loses=what,
    )


def captured(gate: Gate, days: int) -> Gate:
    """Return the gate of a statement whose data is captured, and kept for so many days: it is not lost."""
    if not gate.loses:
        return gate
    lost, kept = f"the data of {gate.loses} is lost", f"the data of {gate.loses} is captured and kept for {days} days"
    return replace(gate, says=gate.says.replace(lost, kept), loses="")


def _type_name(type_: Any) -> str:
    return name(*(part.sval for part in type_.names)) + ("[]" if type_.arrayBounds else "")


def _dotted(entry: Any) -> str:
    return ".".join(_parts(entry))


def _parts(entry: Any) -> list[str]:
    parts = entry if isinstance(entry, tuple) else (entry,)
    return [part.sval for part in parts if isinstance(part, ast.String)]
