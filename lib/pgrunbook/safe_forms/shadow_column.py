"""Safe form of ALTER COLUMN TYPE where it rewrites the table: a column of the new type beside the old one.

1. All rows are tried: where a value cannot be converted, nothing has been written yet.
2. The new column is added, and a trigger keeps it equal to the old one (``database.column_sync``).
3. The rows that are there are filled in batches.
4. The new column takes the place of the old one (``safe_forms.column_move``). From then on the old column follows the
   new one, until contract drops it: so the way back is the same move in the other direction, and no write is lost.

What reads the columns of the table by their order (SELECT *, INSERT without names) sees the new one behind the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from pglast import ast, enums

from pgrunbook.database import column_dependents
from pgrunbook.database.column_dependents import ColumnDependents
from pgrunbook.database.column_sync import ColumnPair, ColumnSync, Leads, sync_name
from pgrunbook.database.relations import Column, Relation
from pgrunbook.database.row_tracker import LAST
from pgrunbook.database.shadows import Shadow
from pgrunbook.plan.declared import Declared
from pgrunbook.plan.step import RANGE, Batches, Expansion, SafeStep
from pgrunbook.safe_forms import probes, type_cost
from pgrunbook.safe_forms.column_move import ColumnMove, grows
from pgrunbook.safe_forms.form import Case
from pgrunbook.sql.deparse import alter_table, changed, command, expression, helper, mapped, name, parsed
from pgrunbook.sql.tree import column_names, dotted_name, quoted

A = enums.AlterTableType
FORM, BACK = "shadow-column", "shadow-column-back"
_LONGEST = 63


@dataclass(frozen=True)
class TypeChangeParts:
    """An ALTER COLUMN TYPE taken apart: the column, its new type in full, the conversions, and the default behind it.

    ``parked`` is the name of the old column after the cut-over.
    """

    table: Relation
    column: Column
    definition: Any
    pair: ColumnPair
    sync: ColumnSync
    parked: str
    default: str | None


def change(case: Case) -> Expansion | None:
    """ALTER COLUMN ... TYPE -> a column beside it, batches, and a short cut-over.

    The default of the column may be dropped and set in the same statement.
    """
    found = parts(case)
    if found is None or isinstance(found, str) or not type_cost.of(case, found.table).rewrites:
        return None
    form = _Form.of(case, found)
    return Expansion(
        case.statement,
        FORM,
        f"The new type of {found.column.name} rewrites the table. A column of the new type is added, kept equal by a"
        " trigger, filled in batches, and takes its place; the old one follows it until contract drops it.",
        tuple(form.steps()),
        cleanup=tuple(form.cleanup()),
        differs=tuple(form.differs()),
        back=tuple(form.way_back()),
        back_cleanup=tuple(form.back.cleanup()),
    )


def back(case: Case) -> Expansion | None:
    """ALTER COLUMN ... TYPE to the type that lives beside it -> that column takes its place again; for a way back."""
    gone = taken_back(case)
    table = case.facts.relation(case.node.relation) if gone is not None else None
    if gone is None or table is None:
        return None
    columns, sync = case.facts.columns(table), ColumnSync(gone.sync_name, gone.table)
    column, old = columns[gone.column_name], columns[gone.shadow_name]
    comes, loop_key = shadow_names(table, column.name)[0], case.facts.loop_key(table)
    pair = ColumnPair(old.name, column.name, old.type, column.type)
    move = ColumnMove(
        table, column_dependents.read(case.facts.conn, table, column), old.name, comes, sync, pair, case.facts.version,
        loop_key.columns if loop_key is not None else (), column.default,
    )  # fmt: skip
    says = f"{old.name} holds what {column.name} has, also what was written since."
    steps = tuple(_returned(move, sync, gone))
    return Expansion(case.statement, BACK, says, steps, cleanup=tuple(move.cleanup()))


def taken_back(case: Case) -> Shadow | None:
    """Return the shadow that a change of type takes back, on the way back of a migration; None for any other one."""
    found = _changed(case)
    if found is None or not case.is_back:
        return None
    table, columns, cmd = found
    for one in case.shadows:
        there = (one.table_schema, one.table_name, one.column_name)
        if one.kind == "type change" and there == (table.schema, table.name, cmd.name) and one.shadow_name in columns:
            made = _type(case, cmd.def_)
            return one if made is not None and made[1] == columns[one.shadow_name].type else None
    return None


def _changed(case: Case) -> tuple[Relation, Mapping[str, Column], Any] | None:
    """Return the table, its columns and the command of a statement that changes one type, and only that."""
    node = case.node
    if not isinstance(node, ast.AlterTableStmt) or node.objtype != enums.ObjectType.OBJECT_TABLE:
        return None
    table = case.facts.relation(node.relation)
    if table is None or len(node.cmds) != 1 or node.cmds[0].subtype != A.AT_AlterColumnType:
        return None
    return table, case.facts.columns(table), node.cmds[0]


def _returned(move: ColumnMove, sync: ColumnSync, gone: Shadow) -> list[SafeStep]:
    """Return the steps by which the old column takes its place again, and the new one is dropped."""
    tried = SafeStep(
        sync.proof(move.pair, move.key),
        f"Try whether each row has a value that can be {move.pair.old_type} again; reads and writes go on.",
        quick=False,
    )
    drop = alter_table(move.table.identifier, f"DROP COLUMN {name(move.leaves_as)}")
    says = f"{move.comes} becomes {move.column} again, with all that hangs on it; the new column is dropped."
    return [tried, *move.steps(ends=[sync.removal(), drop, gone.removal()], says=says)]


def shadow(case: Case) -> Shadow | None:
    """Return the column that a change of type in this form leaves beside the new one, None for any other statement."""
    found = parts(case)
    return None if found is None or isinstance(found, str) else _registered(case, found)


def parts(case: Case) -> TypeChangeParts | str | None:
    """Return a change of type in parts, why it has no such form, or None for any other statement.

    Of several columns each needs a statement of its own: where such a one stops half way, one of them would be changed.
    """
    node = case.node
    if not isinstance(node, ast.AlterTableStmt) or node.objtype != enums.ObjectType.OBJECT_TABLE:
        return None
    table = case.facts.relation(node.relation)
    changes = [cmd for cmd in node.cmds if cmd.subtype == A.AT_AlterColumnType]
    if table is None or table.is_temporary or not changes:
        return None
    cmd, column = changes[0], case.facts.columns(table).get(changes[0].name)
    defaults = [each for each in node.cmds if each.subtype == A.AT_ColumnDefault and each.name == cmd.name]
    if len(changes) + len(defaults) < len(node.cmds) or len(changes) > 1:
        return "the statement does more than that: give each change of type one of its own"
    if column is None:
        return None
    if case.is_off or case.is_back:
        return "its safe form is switched off" if case.is_off else "it takes back one that ran as it is written"
    because = column_dependents.refused(case.facts.conn, table, column.name, last=LAST)
    return "; ".join(because) if because else _taken_apart(case, table, column, cmd, defaults)


def _taken_apart(
    case: Case, table: Relation, column: Column, cmd: Any, defaults: Sequence[Any]
) -> TypeChangeParts | str | None:
    definition = cmd.def_
    made = _type(case, definition)
    if made is None:
        return None  # the server refuses it as written, too
    using = definition.raw_default
    if using is not None and set(column_names(using)) - {column.name}:
        return "USING reads other columns"
    if using is not None and case.facts.volatile(using):
        return "USING gives another value each time"
    forward = "was" if using is None else expression(mapped(using, lambda part: _argument(part, column.name)))
    oid, type_ = made
    if not all(_is_accepted(case, f"CAST(NULL AS {each})") for each in (column.type, type_)):
        return "one of the types refuses NULL"
    conn = case.facts.conn
    steady = using is None and all(
        column_dependents.is_steady(conn, *both) for both in ((column.type_oid, oid), (oid, column.type_oid))
    )
    casts = _is_accepted(case, f"CAST(CAST(NULL AS {type_}) AS {column.type})")
    backward = f"becomes{'' if casts else '::pg_catalog.text'}::{column.type}"
    comes, parked = shadow_names(table, column.name)
    if {comes, parked} & set(case.facts.columns(table)):
        return "the column of an earlier change waits for contract"
    pair = ColumnPair(column.name, comes, column.type, type_, forward, backward, steady)
    sync = ColumnSync(sync_name(table.identifier, column.name, comes), table.identifier)
    given = [expression(each.def_) for each in defaults if each.def_ is not None]
    default = given[-1] if given else None if defaults else column.default
    return TypeChangeParts(table, column, definition, pair, sync, parked, default)


def shadow_names(table: Relation, column: str) -> tuple[str, str]:
    """Return the names of the column that comes before, and of the one that has left after the cut-over."""
    both = (f"pgrunbook_new_{column}", f"pgrunbook_old_{column}")
    if all(len(one.encode()) <= _LONGEST for one in both):
        return both
    return helper(table.schema, table.name, column, "new"), helper(table.schema, table.name, column, "old")


def _argument(part: Any, column: str) -> Any:
    is_column = isinstance(part, ast.ColumnRef) and getattr(part.fields[-1], "sval", None) == column
    return ast.ColumnRef(fields=(ast.String(sval="was"),)) if is_column else part


def _type(case: Case, definition: Any) -> tuple[int, str] | None:
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


@dataclass(frozen=True)
class _Form:
    """The form of one column's change of type: there, and back."""

    case: Case
    found: TypeChangeParts
    on: ColumnDependents
    there: ColumnMove
    back: ColumnMove

    @classmethod
    def of(cls, case: Case, found: TypeChangeParts) -> _Form:
        """Read what hangs on the column."""
        table, pair, sync, version = found.table, found.pair, found.sync, case.facts.version
        on, loop_key = column_dependents.read(case.facts.conn, table, found.column), case.facts.loop_key(table)
        key = loop_key.columns if loop_key is not None else ()
        after, default = pair.renamed(found.parked, found.column.name), found.column.default
        there = ColumnMove(
            table, on, pair.new, found.parked, sync, pair, version, key, found.default, is_new_type=True
        )  # fmt: skip
        back = ColumnMove(table, on, found.parked, pair.new, sync, after, version, key, default)
        return cls(case, found, on, there, back)

    def steps(self) -> list[SafeStep]:
        """Return the steps of the change."""
        found, pair = self.found, self.found.pair
        ends = [found.sync.turn(self.back.pair, Leads.NEW), _registered(self.case, found).entry()]
        old = found.column.name
        says = f"{pair.new} becomes {old} with all that hangs on it; {old} goes on as {found.parked}."
        return [*_beside(self.case, found, self.there.key), *self.there.steps(ends=ends, says=says)]

    def cleanup(self) -> list[str]:
        """Return the queries for what drops all that was made before the cut-over."""
        drop = probes.drop_column(self.found.table, self.found.pair.new)
        return [self.found.sync.cleanup(), *self.there.cleanup(), drop]

    def way_back(self) -> list[SafeStep]:
        """Return the steps of the way back."""
        return _returned(self.back, self.found.sync, _registered(self.case, self.found))

    def differs(self) -> list[Declared]:
        """Return what differs from the plain change: until contract, and the order of columns, which stays so."""
        table, column, parked = self.found.table, self.found.column, self.found.parked
        label = f"{table.label}.{quoted(parked)}"
        moved = {table.label: f"column order of {table.label}: what has a new type comes last"}
        for statistics in self.on.statistics:
            moved[dotted_name(statistics.schema, statistics.name)] = "the columns come in their new order"
        beside = f"{parked} follows {column.name} until contract drops it"
        rights = dict.fromkeys(f"column {label} to {grant.grantee}" for grant in self.on.grants if not grant.sequence)
        told = [Declared("column order", what, why) for what, why in moved.items()]
        told += [Declared("until contract", what, beside) for what in (label, *rights)]
        for sequence in self.on.sequences:
            if grows(sequence, self.found.pair.new_type):
                why = f"it grows with {column.name}: as {sequence.type} it would end before the column's values do"
                told.append(Declared("sequence type", dotted_name(sequence.schema, sequence.name), why))
        triggers, silenced = _fired(self.case, table)
        if triggers and not silenced:
            why = f"triggers fire for each row that is filled: {', '.join(triggers)}"
            told.append(Declared("elsewhere", table.sql, why))
        return told


def _fired(case: Case, table: Relation) -> tuple[list[str], bool]:
    """Return the triggers of the application on UPDATE, and whether the loop may silence them."""
    triggers = [row["name"] for row in case.facts.rows("triggers", oid=table.oid) if row["on_update"]]
    return triggers, bool(triggers) and case.facts.rows("may_silence_triggers")[0]["may"]


def _beside(case: Case, found: TypeChangeParts, key: tuple[str, ...]) -> list[SafeStep]:
    """Return the steps that try all rows, add the column, and fill it."""
    table, column, pair, sync = found.table, found.column, found.pair, found.sync
    tried = SafeStep(
        sync.trial(pair, key, not_null=column.not_null),
        f"Try whether each value of {column.name} can be converted; reads and writes go on.",
        quick=False,
    )
    add = parsed("ALTER TABLE t ADD COLUMN a int").cmds[0]
    typed = {"typeName": found.definition.typeName, "collClause": found.definition.collClause}
    add = changed(add, def_=changed(add.def_, colname=pair.new, **typed))
    clauses = [command(add)]
    if column.statistics >= 0:
        clauses.append(f"ALTER COLUMN {name(pair.new)} SET STATISTICS {column.statistics}")
    if column.options:
        clauses.append(f"ALTER COLUMN {name(pair.new)} SET ({', '.join(column.options)})")
    added = SafeStep(
        ";\n".join([*(alter_table(table.identifier, each) for each in clauses), sync.installation(pair, Leads.OLD)]),
        f"Add {pair.new}, and a trigger that keeps it equal to {column.name}; no row is read.",
    )
    _, silenced = _fired(case, table)
    batches = Batches(
        schema=table.schema, table=table.name, alias="t", statement=sync.filled(pair, RANGE), key=(), key_types=(),
        rows=case.batch_rows, fires_triggers=not silenced, by_pages=True,
    )  # fmt: skip
    filled = SafeStep(
        sync.filled(pair, ""),
        f"Fill {pair.new} in the existing rows, {case.batch_rows} at a time.",
        quick=False,
        batches=batches,
    )
    return [tried, added, filled]


def _registered(case: Case, found: TypeChangeParts) -> Shadow:
    table, migration = found.table, case.statement.place.migration
    return Shadow(table.schema, table.name, found.column.name, found.parked, "type change", migration, found.sync.name)
