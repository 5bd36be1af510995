"""Safe forms: steps that reach the end of a dangerous statement without locking others out; prepare plans them.

The file is never edited: the plan holds the steps in the statement's place. What has no safe form meets a gate,
which names the procedure that does it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from pglast import ast, enums

from pgrunbook.changes.safe_forms import gates
from pgrunbook.changes.safe_forms.alter_table import AlterTable
from pgrunbook.changes.safe_forms.batches import Progress, run_batches
from pgrunbook.changes.safe_forms.indexes import CreateIndex, DropIndex, Reindex
from pgrunbook.changes.safe_forms.partitions import AttachPartition, DetachPartition
from pgrunbook.changes.safe_forms.refresh import Refresh
from pgrunbook.changes.safe_forms.rows import Rows
from pgrunbook.changes.safe_forms.sql_text import parsed
from pgrunbook.changes.safe_forms.step import Batches, Case, Expansion, Form, Gate, Memory, SafeStep
from pgrunbook.changes.safe_forms.table import Facts, Relation, walk
from pgrunbook.changes.statements import Policy, Statement
from pgrunbook.database.connection import Connection

BATCH_ROWS = 1_000
FORMS: tuple[type[Form], ...] = (
    CreateIndex, DropIndex, Reindex, Refresh, AttachPartition, DetachPartition, AlterTable, Rows,
)  # fmt: skip


def plan_forms(
    statements: Sequence[Statement],
    conn: Connection,
    *,
    off: Mapping[str, str] | None = None,
    fresh: Collection[str] = (),
    batch_rows: int = BATCH_ROWS,
) -> list[Expansion]:
    """Return what is executed in place of each statement of a migration, in order.

    Each is judged on the connection's database as it is now. A table in ``fresh``, or one that an earlier
    statement makes, is seen by nobody else and needs no safe form; neither does one that is not there. ``off`` maps
    the :func:`key` of a statement to the reason for which the operator wants it executed as it is written.

    Raises WrongInput when a safe form could not be written down truly.
    Locks: AccessShareLock on tables of which it is asked whether they hold more than ``batch_rows`` rows.
    """
    made, wanted, facts = set(fresh), off or {}, Facts(conn)
    memory = Memory()
    found: list[Expansion] = []
    moved = False
    for statement in statements:
        case = Case(statement, parsed(statement.sql), facts, frozenset(made), memory, batch_rows)
        if key(statement) in wanted:
            reason = wanted[key(statement)]
            found.append(_as_written(statement, f"Its safe form is switched off: {reason}", off=reason))
        elif moved:
            found.append(_as_written(statement, "The file sets search_path before it: its names may mean others."))
        else:
            found.append(_expansion(case))
        moved = moved or _sets_search_path(case.node)
        made |= _makes(case.node)
    return _apart(found, facts, frozenset(made))


def gate(statement: Statement, conn: Connection, *, batch_rows: int = BATCH_ROWS) -> Gate | None:
    """Return the gate that a statement meets on this database, None where it meets none."""
    return gates.find(Case(statement, parsed(statement.sql), Facts(conn), batch_rows=batch_rows))


def key(statement: Statement) -> str:
    """Return what an operator names a statement by: file and line."""
    return f"{statement.file}:{statement.line}"


def _expansion(case: Case) -> Expansion:
    if _is_fresh(case):
        return _as_written(case.statement, "Its table is made by this release: nobody else uses it yet.")
    barrier = gates.find(case)
    if barrier is not None:
        return replace(_as_written(case.statement, f"No safe form: {barrier.says}."), gate=barrier)
    for form in FORMS:
        if form.applies(case):
            chosen = form(case)
            return Expansion(
                statement=case.statement,
                form=chosen.name,
                explains=chosen.explain(),
                steps=chosen.expand(),
                undo=chosen.undo(),
                differs=chosen.differs,
            )
    return _as_written(case.statement, "It reads no rows under a lock that others wait for, or has no other form.")


def _as_written(statement: Statement, explains: str, *, off: str = "") -> Expansion:
    alone = statement.policy is Policy.ALONE
    step = SafeStep(statement.sql, "As it is written.", statement.policy, own_transaction=alone, quick=False)
    return Expansion(statement, "", explains, (step,), off=off)


def _apart(found: list[Expansion], facts: Facts, fresh: frozenset[str]) -> list[Expansion]:
    """Give short ALTER TABLEs of several tables a transaction for each table.

    A lock is held to the end of its transaction: joined with the wait for the next table's, the first table
    would stand still for both. Statements of one table stay together: the lock is waited for once.
    """
    tables = [_locked_table(expansion, facts, fresh) for expansion in found]
    if len({table for table in tables if table}) < 2:
        return found
    apart: list[Expansion] = []
    for expansion, table in zip(found, tables, strict=True):
        before = apart[-1] if apart else None
        if table and before is not None and tables[len(apart) - 1] == table:
            first = next(e for e in reversed(apart) if e.steps)
            place = apart.index(first)
            joined = replace(first.steps[0], sql=f"{first.steps[0].sql};\n{expansion.statement.sql}")
            apart[place] = replace(first, steps=(joined,))
            says = f"Joined with {key(first.statement)}: the same table's lock is waited for once."
            apart.append(replace(expansion, explains=says, steps=()))
            continue
        if table:
            own = replace(expansion.steps[0], own_transaction=True)
            says = "In a transaction of its own: its lock is not held while another table's is waited for."
            expansion = replace(expansion, steps=(own,), explains=says)  # noqa: PLW2901
        apart.append(expansion)
    return apart


def _locked_table(expansion: Expansion, facts: Facts, fresh: frozenset[str]) -> str:
    """Return the table that an ALTER TABLE executed as written locks, "" for anything else."""
    node = parsed(expansion.statement.sql)
    if expansion.form or expansion.gate or expansion.off or not isinstance(node, ast.AlterTableStmt):
        return ""
    table = facts.relation(node.relation)
    return "" if table is None or _is_named(node.relation, fresh) else table.sql


def _is_fresh(case: Case) -> bool:
    relation = getattr(case.node, "relation", None)
    return isinstance(relation, ast.RangeVar) and _is_named(relation, case.fresh)


def _is_named(relation: ast.RangeVar, names: Collection[str]) -> bool:
    return (f"{relation.schemaname}.{relation.relname}" if relation.schemaname else relation.relname) in names


def _makes(node: object) -> set[str]:
    """Return the names of the tables that a statement makes, or gives to one that was made."""
    if isinstance(node, ast.CreateStmt):
        relation = node.relation
    elif isinstance(node, ast.CreateTableAsStmt):
        relation = node.into.rel
    else:
        return set()
    return {f"{relation.schemaname}.{relation.relname}" if relation.schemaname else relation.relname}


def _sets_search_path(node: object) -> bool:
    if isinstance(node, ast.VariableSetStmt):
        return str(node.name) in ("search_path", "None") or node.kind == enums.VariableSetKind.VAR_RESET_ALL
    calls = [part for part in walk(node) if isinstance(part, ast.FuncCall)]
    return isinstance(node, ast.SelectStmt) and any(
        call.funcname[-1].sval == "set_config" and "search_path" in str(call.args) for call in calls
    )


__all__ = [
    "FORMS", "Batches", "Case", "Expansion", "Facts", "Form", "Gate", "Progress", "Relation", "SafeStep",
    "gate", "key", "plan_forms", "run_batches",
]  # fmt: skip
