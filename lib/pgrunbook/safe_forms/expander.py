"""The choice of safe forms: steps that replace a dangerous statement without blocking others; for prepare.

The file is never edited: the plan holds the steps in the statement's place. A statement without a safe form is a gate,
which names the procedure that reaches the same end.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pglast import ast, enums

from pgrunbook.database.connection import Connection
from pgrunbook.database.relations import Facts
from pgrunbook.plan.step import Expansion, SafeStep
from pgrunbook.safe_forms import gates, outside
from pgrunbook.safe_forms.alter_table import AlterTable
from pgrunbook.safe_forms.do_guard import guarded, is_there
from pgrunbook.safe_forms.form import Case, Form, Memory
from pgrunbook.safe_forms.indexes import CreateIndex, DropIndex, Reindex
from pgrunbook.safe_forms.partitions import AttachPartition, DetachPartition
from pgrunbook.safe_forms.refresh import Refresh
from pgrunbook.safe_forms.update_delete import UpdateDelete
from pgrunbook.sql.classify import Policy
from pgrunbook.sql.deparse import parsed
from pgrunbook.sql.statements import Statement, key
from pgrunbook.sql.tree import sets_search_path, walk

BATCH_ROWS = 1_000
_HARMLESS = (
    "lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout", "transaction_timeout",
    "deadlock_timeout", "work_mem", "maintenance_work_mem", "max_parallel_maintenance_workers",
)  # fmt: skip
_FOR_TRANSACTION = ("set_config", "pg_advisory_xact_lock", "pg_try_advisory_xact_lock")
_DROPPED = (enums.ObjectType.OBJECT_TABLE, enums.ObjectType.OBJECT_VIEW, enums.ObjectType.OBJECT_MATVIEW)
FORMS: tuple[type[Form], ...] = (
    CreateIndex, DropIndex, Reindex, Refresh, AttachPartition, DetachPartition, AlterTable, UpdateDelete,
)  # fmt: skip


class Expander:
    """Chooses what is executed in place of each statement of a release, one statement after the other.

    Each statement is judged on the connection's database as it is at that moment. With ``applied`` the caller
    executes every statement there before it asks about the next one; then tables that did not exist at the start
    are the release's own. Without it they are known by name, and a missing table needs no safe form.
    ``rows_conn`` leads to the database with the real rows, if the first one is empty.
    """

    def __init__(
        self,
        conn: Connection,
        *,
        off: Mapping[str, str] | None = None,
        fresh: Collection[str] = (),
        batch_rows: int = BATCH_ROWS,
        rows_conn: Connection | None = None,
        applied: bool = False,
    ) -> None:
        self._facts = Facts(conn, rows_conn)
        self._off, self._made, self._batch_rows = off or {}, set(fresh), batch_rows
        self._memory = Memory()
        self._moved = self._bound = False
        self._seen: list[tuple[Expansion, str]] = []
        self._before = self._facts.relation_oids() if applied else None

    def expand(self, statement: Statement) -> Expansion:
        """Return what is executed in place of the next statement; :meth:`end_file` joins those of a file.

        Raises WrongInput when a safe form cannot be written down faithfully.
        Locks: AccessShareLock on tables whose rows are counted, up to ``batch_rows`` rows.
        """
        node = parsed(statement.sql)
        inner = guarded(node)
        if inner is not None:
            node = inner
        case = Case(statement, node, self._facts, frozenset(self._made), self._memory, self._batch_rows)
        beyond = outside.find(self._facts, parsed(statement.sql))
        if beyond is not None:
            off = self._off.get(key(statement), "")
            found = replace(_as_written(statement, f"It {beyond.says}.", off=off), gate=beyond)
        elif key(statement) in self._off:
            reason = self._off[key(statement)]
            found = _as_written(statement, f"Its safe form is switched off: {reason}", off=reason)
        elif self._moved:
            found = _as_written(statement, "The file sets search_path before it: its names may mean other objects.")
        elif self._bound:
            found = _as_written(
                statement,
                "It needs the settings or locks of the file's earlier statements, so it stays in their transaction.",
            )
        elif self._is_fresh(case) and not _is_nameless(node):
            found = _as_written(statement, "This release creates its table: nobody else uses it yet.")
        elif inner is not None and is_there(self._facts, inner):
            found = Expansion(statement, "guarded", "What it would add exists already: nothing is executed.", ())
        else:
            found = _expansion(case)
        kept_together = self._bound or self._is_fresh(case)
        self._seen.append((found, "" if kept_together else _locked_table(found, self._facts)))
        self._bound = self._bound or _binds(node)
        self._moved = self._moved or sets_search_path(node)
        self._made |= _makes(node)
        if self._before is not None:
            self._memory = Memory()  # the database shows what earlier statements did
        return found

    def put(self, expansion: Expansion, *, new: bool = False) -> None:
        """Replace the expansion that was returned last, or with ``new`` append another one."""
        if not new:
            last, table = self._seen.pop()
            if last.steps == expansion.steps:
                expansion = replace(last, differs=expansion.differs, cleanup=expansion.cleanup)
                self._seen.append((expansion, table))
                return
        self._seen.append((expansion, ""))

    def end_file(self) -> list[Expansion]:
        """Return the expansions of the finished file, with one transaction for each table's short statements."""
        found, self._seen = _apart(self._seen), []
        self._moved = self._bound = False
        return found

    def _is_fresh(self, case: Case) -> bool:
        """Tell whether the statement concerns only tables that this release has created."""
        names = _about(case.node)
        if self._before is None:
            return bool(names) and all(_is_named(name, case.fresh) for name in names)
        there = [self._facts.relation(name) for name in names]
        return bool(names) and all(table is not None and table.oid not in self._before for table in there)


def _expansion(case: Case) -> Expansion:
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
                cleanup=chosen.cleanup(),
                differs=chosen.differs,
            )
    return _as_written(
        case.statement, "It reads no rows under a lock that blocks others, or PostgreSQL has no other form of it."
    )


def _as_written(statement: Statement, explains: str, *, off: str = "") -> Expansion:
    alone = statement.policy is Policy.ALONE
    step = SafeStep(statement.sql, "Execute it as written.", statement.policy, own_transaction=alone, quick=False)
    return Expansion(statement, "", explains, (step,), off=off)


def _apart(seen: Sequence[tuple[Expansion, str]]) -> list[Expansion]:
    """Give ALTER TABLEs of several tables, and renames, a transaction for each table.

    A lock is held to the end of its transaction. In one transaction the first table would stay locked while the
    next table's lock is acquired, and while that table is rewritten. Statements of one table stay together, so
    that its lock is acquired once.
    """
    found, tables = [expansion for expansion, _ in seen], [table for _, table in seen]
    if len({table for table in tables if table}) < 2:
        return found
    apart: list[Expansion] = []
    for expansion, table in zip(found, tables, strict=True):
        if table and apart and tables[len(apart) - 1] == table:
            first = next(e for e in reversed(apart) if e.steps)
            place = apart.index(first)
            joined = replace(first.steps[0], sql=f"{first.steps[0].sql};\n{expansion.statement.sql}")
            apart[place] = replace(first, steps=(joined,))
            says = f"Joined with {key(first.statement)}, to acquire the same table's lock only once."
            apart.append(replace(expansion, explains=_also(expansion, says), steps=()))
            continue
        if table:
            own = replace(expansion.steps[0], own_transaction=True)
            says = "In a transaction of its own: its lock is not held while the next table's lock is acquired."
            expansion = replace(expansion, steps=(own,), explains=_also(expansion, says))  # noqa: PLW2901
        apart.append(expansion)
    return apart


def _also(expansion: Expansion, says: str) -> str:
    return f"{expansion.explains} {says}" if expansion.gate else says


def _locked_table(expansion: Expansion, facts: Facts) -> str:
    """Return the table that an ALTER TABLE locks when it is executed as written, "" for anything else."""
    node = parsed(expansion.statement.sql)
    if expansion.form or expansion.off or not isinstance(node, ast.AlterTableStmt | ast.RenameStmt):
        return ""
    table = facts.relation(node.relation) if node.relation is not None else None
    return "" if table is None else table.sql


def _about(node: Any) -> list[ast.RangeVar]:
    """Return the relations that a statement changes, empties or drops; [] for other statements."""
    if isinstance(node, ast.DropStmt) and node.removeType in _DROPPED:
        names = [[part.sval for part in entry] for entry in node.objects]
        return [ast.RangeVar(relname=parts[-1], schemaname=parts[-2] if parts[1:] else None) for parts in names]
    if isinstance(node, ast.TruncateStmt):
        return list(node.relations)
    relation = getattr(node, "relation", None)
    return [relation] if isinstance(relation, ast.RangeVar) else []


def _binds(node: Any) -> bool:
    """Tell whether a statement holds for its transaction only, so that later statements must stay in it.

    Timeouts and memory settings do not change the result of later statements: each step has its own.
    """
    match node:
        case ast.VariableSetStmt():
            return bool(node.is_local) and str(node.name) not in _HARMLESS
        case ast.LockStmt() | ast.ConstraintsSetStmt():
            return True
        case ast.SelectStmt():
            calls = [part for part in walk(node) if isinstance(part, ast.FuncCall) and part.args]
            return any(c.funcname[-1].sval in _FOR_TRANSACTION and not _is_harmless(c) for c in calls)
    return False


def _is_harmless(call: Any) -> bool:
    if call.funcname[-1].sval != "set_config":
        return False
    local = getattr(getattr(call.args[-1], "val", None), "boolval", True)
    return not local or any(name in str(call.args[0]) for name in _HARMLESS)


def _is_nameless(node: object) -> bool:
    """Tell whether an interrupted build would leave an index behind whose name nobody knows."""
    return isinstance(node, ast.IndexStmt) and node.concurrent and not node.idxname


def _is_named(relation: ast.RangeVar, names: Collection[str]) -> bool:
    return (f"{relation.schemaname}.{relation.relname}" if relation.schemaname else relation.relname) in names


def _makes(node: object) -> set[str]:
    """Return the names of the tables that a statement creates."""
    if isinstance(node, ast.CreateStmt):
        relation = node.relation
    elif isinstance(node, ast.CreateTableAsStmt):
        relation = node.into.rel
    else:
        return set()
    return {f"{relation.schemaname}.{relation.relname}" if relation.schemaname else relation.relname}
