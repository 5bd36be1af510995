"""The choice of safe forms: steps that replace a dangerous statement without blocking others; for prepare.

The file is never edited: the plan holds the steps in the statement's place. A statement without a safe form is a gate,
which names the procedure that reaches the same end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pglast import ast

from pgrunbook.database import open_swaps, shadows
from pgrunbook.database.connection import Connection
from pgrunbook.database.facts import Facts
from pgrunbook.database.relations import constraints_of
from pgrunbook.database.routines import RoutinePart, Routines
from pgrunbook.errors import WrongInput
from pgrunbook.plan.step import Expansion, Gate, SafeStep
from pgrunbook.safe_forms import (
    alter_table,
    code,
    gates,
    indexes,
    left_fill,
    outside,
    partitions,
    refresh,
    rename_column,
    row_security,
    shadow_column,
    small_table,
    transaction_bond,
    unfinished,
    update_delete,
    zoned_type,
)
from pgrunbook.safe_forms.form import Case, Form, Memory
from pgrunbook.safe_forms.joined_changes import JoinedChanges
from pgrunbook.safe_forms.names import Names
from pgrunbook.sql import runs
from pgrunbook.sql.calls import DML
from pgrunbook.sql.classify import Policy, kind
from pgrunbook.sql.do_guard import guarded_constraint
from pgrunbook.sql.settings import settings
from pgrunbook.sql.statements import Statement
from pgrunbook.sql.tree import Same, functions_in, strings, tree

BATCH_ROWS = 1_000
APART = "Set it for the session (SET without LOCAL), or move this statement into a migration of its own."
IN_CODE = "Write the statement itself into the migration: there it has a safe form."
LATER = "Release that statement later, behind contract; or accept that running code fails or waits meanwhile."
SEES_ALL = "Let a role run it that the policies do not filter."
_OF_ROWS = (ast.SelectStmt, *DML)
FORMS: tuple[Form, ...] = (
    indexes.create, indexes.drop, indexes.reindex, refresh.concurrently, partitions.attach, partitions.create,
    partitions.detach, shadow_column.back, shadow_column.change, alter_table.in_parts, update_delete.in_batches,
    rename_column.back, rename_column.beside,
)  # fmt: skip


class Expander:
    """Chooses what is executed in place of each statement of a release, one statement after the other.

    Each is judged on the connection's database as it is then. Where the caller executes every statement there
    before the next one is asked about (``applied``), what the release made itself is seen by its age, and names
    mean what the session's search_path makes of them. Where it does not, an earlier statement's table is known by
    its name, a search_path that the file sets is followed as far as its text tells, and what is not there needs no
    safe form. ``rows_conn`` leads to the database whose rows count, where the first one is empty. ``is_back`` says
    that a migration is taken back: then a rename to a name that lives beside it drops that column. ``release`` are all
    statements of the release, in order.
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
        is_back: bool = False,
        release: Sequence[Statement] = (),
    ) -> None:
        self._is_back, self._release, self._joined = is_back, release, JoinedChanges(release)
        self._shadows = shadows.there(conn, rows_conn, is_branch=applied)
        self._swaps = tuple(open_swaps.read(rows_conn or conn, is_branch=applied and rows_conn is None))
        self._facts = Facts(conn, rows_conn)
        self._off, self._batch_rows = off or {}, batch_rows
        self._memory = Memory()
        self._bonds: dict[str, str] = {}
        self._names = Names(self._facts, applied=applied, made=fresh)
        self._routines = Routines()
        self._seen: list[tuple[Expansion, str]] = []
        self._applied = applied
        self._names_zone = False
        self._of_code: dict[Hashable, Gate | None] = {}  # what stands in code, judged on the tables as they are
        self._made: Counter[str] = Counter()  # functions, by how often this release has made them
        self._rows_stay = rows_conn is not None

    def expand(self, statement: Statement) -> Expansion:
        """Return what is executed in place of the next statement; :meth:`end_file` joins those of a file.

        Raises WrongInput when a safe form cannot be written down faithfully.
        Locks: AccessShareLock on tables whose rows are counted, up to ``batch_rows`` rows.
        """
        with self._facts.under(self._names.path):
            return self._expand(statement)

    def _expand(self, statement: Statement) -> Expansion:
        node = tree(statement.sql)
        inner = guarded_constraint(node)
        if inner is not None:
            node = inner
        is_off = str(statement.place) in self._off
        case = Case(
            statement, node, self._facts, self._memory, self._batch_rows, self._applied, tuple(self._shadows),
            self._swaps, is_off, self._is_back,
        )  # fmt: skip
        parts = self._parts(node)
        joined = None if self._bonds else self._joined.expansion(case, self._off, self._names)
        if joined is not None:
            self._shadows += self._joined.shadows
            self._seen.append((joined, ""))
            self._pass(statement, node, parts)
            return joined
        is_fresh = self._names.are_fresh(node)
        if not is_fresh:
            is_taken_back = bool(_taken_back(case))
            unfinished.refuse(case, is_taken_back=is_taken_back)
            if not is_taken_back:
                left_fill.refuse(case)
        beyond = outside.find(self._facts, tree(statement.sql))
        if beyond is not None:
            off = self._off.get(str(statement.place), "")
            found = _as_written(statement, f"It {beyond.says}.", off=off, gate=beyond)
        elif self._names.unclear(node):
            found = _as_written(statement, "Which table it means cannot be told before.", gate=self._names.gate(node))
        elif is_off:
            reason = self._off[str(statement.place)]
            gate = None if is_fresh else gates.find(case)
            found = _as_written(statement, f"Its safe form is switched off: {reason}", off=reason, gate=gate)
        elif is_fresh and not _is_nameless(node):
            found = _as_written(statement, "This release creates its table: nobody else uses it yet.")
        elif inner is not None and _is_there(self._facts, inner):
            found = Expansion(statement, "guarded", "What it would add exists already: nothing is executed.", ())
        else:
            found = self._joined.settled(self._with_shadow(case, self._bound(self._seeing_all(_expansion(case)))))
        if beyond is None:
            inner = code.find(case, parts, self._judged)
            found = replace(found, gate=code.joined(found.gate, [*self._of_session(case, is_fresh=is_fresh), *inner]))
        kept_together = bool(self._bonds) or is_fresh or self._joined.is_together(statement)
        self._seen.append((found, "" if kept_together else _locked_table(found, self._facts)))
        self._pass(statement, node, parts)
        return found

    def _with_shadow(self, case: Case, found: Expansion) -> Expansion:
        """Note the columns that a form leaves beside others, or takes away.

        Give up a form whose pair would not outlive the release: a later statement of it changes one of the two.
        """
        gone = _taken_back(case)
        if found.form in (rename_column.BACK, shadow_column.BACK):
            self._shadows = [one for one in self._shadows if one not in gone]
        made = shadow_column.shadow(case) if found.form == shadow_column.FORM else []
        if found.form == rename_column.FORM and (one := rename_column.shadow(case)) is not None:
            made = [one]
        places = [str(each.place) for each in self._release]
        key = str(case.statement.place)
        later = self._release[places.index(key) + 1 :] if made and key in places else ()
        breaks = unfinished.breaking(replace(case, shadows=tuple(made)), later)
        if breaks is not None:
            says = f"it runs as written, because {breaks.place} changes what would live on beside it until contract"
            return _as_written(found.statement, f"No safe form: {says}.", gate=gates.as_written(says, LATER))
        self._shadows += made
        return found

    def _parts(self, node: Any) -> list[RoutinePart]:
        """Return what runs within a statement, as the database and the statements before it tell."""
        return self._facts.routines(node, self._routines).parts(node, self._facts.conn.schemas())

    def _judged(self, case: Case, path: str | None) -> Gate | None:
        """Return the gate of a statement within code, which many statements may run: there is no safe form for it."""
        with self._facts.remembered():
            if self._names.unclear(case.node):
                return self._names.gate(case.node)
            if self._names.are_fresh(case.node):
                return None
            if not isinstance(case.node, _OF_ROWS):
                return self._judged_now(case)
            made = tuple(self._made[name] for name in functions_in(case.node)) if self._made else ()
            key = (Same(case.node), path, self._names.path, made)
            if key not in self._of_code:
                self._of_code[key] = self._judged_now(case)
            return self._of_code[key]

    def _judged_now(self, case: Case) -> Gate | None:
        case = replace(case, memory=Memory(), is_branch=False)
        barrier = code.joined(gates.find(case), self._of_session(case, is_fresh=False))
        if barrier is None and _has_form(case):
            return gates.as_written(f"{kind(case.node)} runs as written, because it stands in code", IN_CODE)
        return barrier

    def _of_session(self, case: Case, *, is_fresh: bool) -> list[Gate]:
        """Return the gates of what depends on the session: on its role, and on its TimeZone where no file names it."""
        zoned = None if is_fresh or self._names_zone else zoned_type.find(case)
        return [gate for gate in (row_security.find(case), zoned) if gate is not None]

    def _seeing_all(self, found: Expansion) -> Expansion:
        """Give up batches over a table that hides rows from this role: the whole changes other rows, or every row."""
        table = row_security.hidden(self._facts, found)
        if not table:
            return found
        says = f"it runs as written, because row level security hides rows of {table} from this role, and batches"
        says += " would leave them out"
        # Batches have one of their own.
        gate = None if found.form == update_delete.BATCHES else gates.as_written(says, SEES_ALL)
        return _as_written(found.statement, f"No safe form: {says}.", gate=gate)

    def _bound(self, found: Expansion) -> Expansion:
        """Give up a safe form that would leave the transaction to which what is set or locked before belongs."""
        if not self._bonds or not found.steps or not found.form or found.statement.policy is Policy.ALONE:
            return found
        bond, line = next(iter(self._bonds.items()))
        says = f"it runs as written, because {bond} ({line}) holds for one transaction, and a safe form needs several"
        return _as_written(found.statement, f"No safe form: {says}.", gate=gates.as_written(says, APART))

    def _pass(self, statement: Statement, node: Any, parts: Sequence[RoutinePart]) -> None:
        """Take note of what a statement leaves behind for those after it."""
        inner = [part.node for part in parts if part.node is not None]
        self._names_zone = zoned_type.is_set_behind([node, *inner], self._names_zone)
        if statement.policy is Policy.ALONE:
            self._bonds = {}
        if transaction_bond.ends_constraints(node):
            self._bonds.pop(transaction_bond.CONSTRAINTS, None)
        for each in (node, *inner):
            for bond in transaction_bond.bonds(each, self._facts):
                self._bonds.setdefault(bond, str(statement.place))
        self._names.follow(node, inner, str(statement.place))
        functions = (one for one in (node, *inner) if isinstance(one, ast.CreateFunctionStmt))
        self._made.update(strings(one.funcname)[-1] for one in functions)
        if self._applied and not all(map(self._leaves_tables, (node, *inner))):
            self._of_code = {}
            self._facts.forget()
        if self._applied:
            self._memory = Memory()  # what an earlier statement did is there to be seen
        else:
            self._routines = self._routines.after(node).beside(inner)

    def _leaves_tables(self, node: Any) -> bool:
        """Tell whether what stands in code does the same after a statement, on tables that are the same."""
        if isinstance(node, _OF_ROWS):
            return self._rows_stay and not settings(node) and getattr(node, "intoClause", None) is None
        return isinstance(node, ast.CreateFunctionStmt | ast.CommentStmt)

    def taken_away(self) -> None:
        """Forget the columns beside others that the own way back of a form has just dropped on the branch."""
        columns = {one: self._facts.named((one.table_schema, one.table_name)) for one in self._shadows}
        self._facts.forget()
        self._shadows = [one for one, table in columns.items() if table is not None
                         and one.shadow_name in self._facts.columns(table)]  # fmt: skip

    def put(self, expansion: Expansion, *, new: bool = False) -> None:
        """Replace the expansion that was returned last, or with ``new`` append another one."""
        if not new:
            expansion = self._joined.joined(expansion)
            last, table = self._seen.pop()
            if last.steps == expansion.steps:
                expansion = replace(last, differs=expansion.differs, cleanup=expansion.cleanup)
                self._seen.append((expansion, table))
                return
        self._seen.append((expansion, ""))

    def join(self, run: Sequence[Statement]) -> None:
        """Let the step of the expansion that was returned last send the other statements of its run, too."""
        if len(run) < 2:
            return
        first, table = self._seen.pop()
        if not first.steps:  # what it writes comes back with captured rows
            self._seen += [(first, table), *((replace(first, statement=one), table) for one in run[1:])]
            return
        (step,) = first.steps
        says = f"{len(run)} statements that differ in their values only, lines {run[0].line} to {run[-1].line}: they"
        sql = step.sql.removesuffix(run[0].sql) + runs.joined(run)  # behind the lock of a capture
        step = replace(step, sql=sql, says=f"{says} are sent together.", statements=len(run))
        self._seen.append((replace(first, steps=(step,)), table))
        for one in run[1:]:
            self._seen.append((Expansion(one, "", f"Sent together with {first.statement.place}.", ()), table))

    def end_file(self) -> list[Expansion]:
        """Return the expansions of the finished file, with one transaction for each table's short statements."""
        found, self._seen = _apart(self._seen), []
        self._bonds, self._names_zone = {}, False
        self._names.end_file()
        return found


def _is_there(facts: Facts, inner: Any) -> bool:
    """Tell whether the table has a constraint of that name already."""
    table = facts.relation(inner.relation)
    found = constraints_of(facts.conn, [table.oid], locks=False)[table.oid] if table is not None else []
    return any(constraint.name == inner.cmds[0].def_.conname for constraint in found)


def _expansion(case: Case) -> Expansion:
    barrier = gates.find(case)
    if barrier is not None:
        return _as_written(case.statement, f"No safe form: {barrier.says}.", gate=barrier)
    return (
        small_table.as_written(case)
        or _formed(case)
        or _as_written(
            case.statement, "It reads no rows under a lock that blocks others, or PostgreSQL has no other form of it."
        )
    )


def _formed(case: Case) -> Expansion | None:
    return next((found for form in FORMS if (found := form(case)) is not None), None)


def _has_form(case: Case) -> bool:
    try:
        return (small_table.as_written(case) or _formed(case)) is not None
    except WrongInput:  # it has one, which cannot be written down
        return True


def _as_written(statement: Statement, explains: str, *, off: str = "", gate: Gate | None = None) -> Expansion:
    alone = statement.policy is Policy.ALONE
    step = SafeStep(statement.sql, "As it is written.", statement.policy, own_transaction=alone, quick=False)
    return Expansion(statement, "", explains, (step,), off=off, gate=gate)


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
            joined = replace(first.steps[0], sql=f"{first.steps[0].sql};\n{expansion.steps[0].sql}")
            apart[place] = replace(first, steps=(joined,))
            says = f"Joined with {first.statement.place}, to acquire the same table's lock only once."
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
    node = tree(expansion.statement.sql)
    if expansion.form or expansion.off or not isinstance(node, ast.AlterTableStmt | ast.RenameStmt):
        return ""
    table = facts.relation(node.relation) if node.relation is not None else None
    return "" if table is None else table.sql


def _taken_back(case: Case) -> list[shadows.Shadow]:
    """Return the shadows that a statement takes back, [] where it does not."""
    renamed = rename_column.taken_back(case)
    return [renamed] if renamed is not None else shadow_column.taken_back(case)


def _is_nameless(node: object) -> bool:
    """Tell whether an interrupted build would leave an index behind whose name nobody knows."""
    return isinstance(node, ast.IndexStmt) and node.concurrent and not node.idxname
