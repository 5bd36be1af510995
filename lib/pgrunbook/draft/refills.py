"""Where in a release comes back what an earlier rollback captured: before what asks for it; for prepare.

1. A column or table that is there again waits until a statement asks for its rows: one that checks them (NOT NULL,
   CHECK, keys), reads them (a materialized view), or would fire for them (a trigger). Right before that they come back.
2. ADD COLUMN with constraints is split: the column, its values, then the constraints.
3. What a statement writes itself into the column comes before. What it wrote into a new table is among the captured
   rows, if its text is still the same: then it is not executed.
4. At the end the rest comes back; what cannot, is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pglast import ast, enums

from pgrunbook import undo_data
from pgrunbook.config.targets import Target
from pgrunbook.database.connection import Connection
from pgrunbook.database.facts import Facts
from pgrunbook.database.relations import Relation
from pgrunbook.history import Migration
from pgrunbook.plan.plan import Change
from pgrunbook.plan.step import RANGE, Expansion, SafeStep
from pgrunbook.safe_forms import add_column
from pgrunbook.safe_forms.expander import Expander
from pgrunbook.sql.classify import Policy, Type
from pgrunbook.sql.deparse import add_constraint, alter_table, changed, command, name, parsed, printed
from pgrunbook.sql.places import Place
from pgrunbook.sql.statements import Statement
from pgrunbook.sql.tree import relation, subcommand, text, tree, walk
from pgrunbook.undo_data import Reapplication, UndoEntry

# The kind of statement that reapplies what was written before the migration was taken back.
REFILL = "REFILL"
CAPTURED = "What it wrote is among the rows that the rollback captured, and comes back with them."
_WRITES = (ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt, ast.CopyStmt)
_ASKS_NOTHING = (ast.CreateStmt, ast.CommentStmt, ast.VariableSetStmt)


def has_refills(change: Change) -> bool:
    """Tell whether a change that goes up reapplies something."""
    refills = {written.number for written in change.statements if written.kind == REFILL}
    return any(step.gives_back or step.statement in refills for step in change.steps)


def as_rehearsed(plain: Sequence[Change], planned: Sequence[Change]) -> tuple[Change, ...]:
    """Return changes as they are written, without what the plan does not rehearse either.

    Where captured rows come back, the statements need them: such a migration is executed by the plan both times.
    """
    return tuple(safe if has_refills(safe) else accepted(c, planned) for c, safe in zip(plain, planned, strict=True))


def accepted(change: Change, planned: Sequence[Change]) -> Change:
    """Return a change as it is written with the steps that a plan rehearses, each as the server accepts it."""
    written = {(c.migration, w.number): w for c in planned for w in c.statements}
    steps = []
    for step in change.steps:
        found = written.get((change.migration, step.statement))
        if found is None or found.is_rehearsed:
            steps.append(step.model_copy(update={"sql": found.same_as}) if found and found.same_as else step)
    return change.model_copy(update={"steps": tuple(steps)})


@dataclass
class _Waiting:
    """An entry, whether the file is the one whose rollback captured it, and whether it has come back.

    A table that is made by a query ``has_rows`` of its own, where the file is another one.
    """

    entry: UndoEntry
    is_of_same_text: bool
    is_back: bool = False
    has_rows: bool = False


class Refills:
    """What waits for the migrations of a release; ``conn`` leads to the target, which holds it."""

    def __init__(self, target: Target, conn: Connection, migrations: Sequence[Migration]) -> None:
        self._target, self._conn = target, conn
        self._waiting: dict[str, list[_Waiting]] = {}
        files = {migration.name: migration for migration in migrations}
        for entry in undo_data.to_reapply(conn, list(files)):
            is_same = files[entry.migration].as_it_was(undo_data.captured_from(conn, entry)) is not None
            self._waiting.setdefault(entry.migration, []).append(_Waiting(entry, is_same))

    def before(self, branch: Connection, migration: Migration, rest: Sequence[Statement]) -> Iterator[Expansion]:
        """Yield what comes back before the first statement of ``rest``, because that asks for it."""
        for one in self._open(migration):
            if self._is_asked(branch, one, rest):
                found = self._reapply(branch, one)
                if found.is_whole and found.steps:
                    one.is_back = True
                    yield _refill(migration, one.entry, found)

    def around(self, branch: Connection, migration: Migration, expansion: Expansion) -> Expansion:
        """Return a statement's expansion with what comes back within it; call it before ``branch`` executes it."""
        node = tree(expansion.statement.sql)
        made = _made_of_query(node) if self._waiting.get(migration.name) else None
        if made is not None:
            return self._made(branch, migration, expansion, made)
        if not self._waiting.get(migration.name) or not isinstance(getattr(node, "relation", None), ast.RangeVar):
            return expansion
        table = Facts(branch).relation(node.relation)
        mine = [
            one
            for one in self._waiting[migration.name]
            if table is not None and one.entry.table == (table.schema, table.name)
        ]
        if table is None or not mine:
            return expansion
        if isinstance(node, _WRITES):
            return self._written(branch, mine, expansion, node)
        if not isinstance(node, ast.AlterTableStmt):
            return expansion
        columns = {one.entry.columns[0]: one for one in mine if one.entry.kind == "column" and not one.is_back}
        added = [cmd.def_.colname for cmd in node.cmds if subcommand(cmd) == "AddColumn"]
        retyped = [cmd.name for cmd in node.cmds if subcommand(cmd) == "AlterColumnType"]
        if columns.keys() & {*added}:
            return self._split(branch, expansion, table, node, [columns[c] for c in added if c in columns])
        return self._retyped(branch, expansion, [columns[c] for c in retyped if c in columns])

    def end(self, branch: Connection, migration: Migration) -> Iterator[Expansion]:
        """Yield what comes back at the end of a migration, and what does not."""
        for one in self._open(migration):
            found = self._reapply(branch, one)
            one.is_back = True
            if found.steps or found.left:
                yield _refill(migration, one.entry, found)

    def _open(self, migration: Migration) -> list[_Waiting]:
        return [one for one in self._waiting.get(migration.name, ()) if not one.is_back]

    def _reapply(self, branch: Connection, one: _Waiting) -> Reapplication:
        return undo_data.reapply(branch, self._conn, one.entry, batch_rows=self._target.batch_rows)

    def _is_asked(self, branch: Connection, one: _Waiting, rest: Sequence[Statement]) -> bool:
        nodes = [tree(statement.sql) for statement in rest]
        if one.has_rows or isinstance(nodes[0], _ASKS_NOTHING) or _only_adds_columns(nodes[0]):
            return False
        facts = Facts(branch)
        for number, node in enumerate(nodes):
            if _partitions(facts, node, one.entry):
                return False  # rows need their partitions
            if _retypes(facts, node, one.entry):
                return False  # the column takes the values before, too, and the change of type would change them
            is_own = isinstance(node, _WRITES) and _is_on(facts, getattr(node, "relation", None), one.entry)
            if is_own and (not number or _comes_behind(node, one)):
                return False
        return True

    def _made(self, branch: Connection, migration: Migration, expansion: Expansion, made: Any) -> Expansion:
        """CREATE TABLE AS: what its query returned is among the captured rows, so that it is made without."""
        facts = Facts(branch)
        for one in self._open(migration):
            if one.entry.kind == "table" and _is_on(facts, made.into.rel, one.entry):
                one.has_rows = not one.is_of_same_text
                if one.is_of_same_text and len(expansion.steps) == 1:
                    into = changed(made.into, skipData=True)
                    step = replace(expansion.steps[0], sql=printed(changed(made, into=into)))
                    return replace(expansion, form="captured", explains=CAPTURED, steps=(step,))
        return expansion

    def _written(self, branch: Connection, mine: Sequence[_Waiting], expansion: Expansion, node: Any) -> Expansion:
        """A statement that writes rows of the table itself: its effect is captured, or is followed by what is."""
        whole = next((one for one in mine if one.entry.kind == "table" and one.is_of_same_text), None)
        writes = [part for part in walk(node) if isinstance(part, _WRITES)]
        if whole is not None and len(writes) == 1 and self._reapply(branch, whole).is_whole:
            return replace(expansion, form="captured", explains=CAPTURED, steps=(), gate=None, cleanup=(), differs=())
        for one in mine:
            one.is_back = one.is_back and one.entry.kind == "table"
        return expansion

    def _split(
        self, branch: Connection, expansion: Expansion, table: Relation, node: Any, mine: Sequence[_Waiting]
    ) -> Expansion:
        """ADD COLUMN: the column, its values, then the constraints, each part in its safe form."""
        first, then = _parts(node)
        if not then:
            return expansion
        only = not node.relation.inh
        texts = [alter_table(table.identifier, *part, only=only) for part in (first, then)]
        with branch.transaction(force_rollback=True):
            planner = Expander(branch, batch_rows=self._target.batch_rows, rows_conn=self._conn, applied=True)
            one = planner.expand(replace(expansion.statement, sql=texts[0]))
            with branch.as_target():
                branch.execute(texts[0].encode())
            found = [self._reapply(branch, waiting) for waiting in mine]
            other = planner.expand(replace(expansion.statement, sql=texts[1]))
        if not all(each.is_whole for each in found):
            return expansion
        for waiting in mine:
            waiting.is_back = True
        filled = tuple(step for each in found for step in each.steps)
        return replace(
            expansion, form="add-column-filled", steps=(*one.steps, *filled, *other.steps), gate=one.gate or other.gate,
            explains=f"{' '.join(step.says for step in filled if step.gives_back)} Its constraints come after.",
            cleanup=(*undo_data.tracker_cleanup(filled), *other.cleanup, *one.cleanup),
            differs=(*one.differs, *other.differs),
        )  # fmt: skip

    def _retyped(self, branch: Connection, expansion: Expansion, mine: Sequence[_Waiting]) -> Expansion:
        """ALTER COLUMN TYPE: rows that nobody has changed since get the value that they had in the new type."""
        mine = [one for one in mine if not undo_data.as_keep(one.entry).is_own_key]
        settles = {id(one): undo_data.note_written(branch, undo_data.as_keep(one.entry)) for one in mine}
        mine = [one for one in mine if settles[id(one)]]
        if not mine or any(step.batches for step in expansion.steps):
            return expansion
        with branch.transaction(force_rollback=True):
            with branch.as_target():
                branch.execute(expansion.statement.sql.encode())
            found = [(one, self._reapply(branch, one)) for one in mine]
        found = [(one, each) for one, each in found if each.is_whole]
        before = [step for one, _ in found for step in settles[id(one)]]
        after = [_together(step) for _, each in found for step in each.steps]
        for one, _ in found:
            one.is_back = True
        steps = tuple(replace(step, own_transaction=False) for step in (*before, *expansion.steps, *after))
        return replace(expansion, steps=steps)


def _comes_behind(write: Any, one: _Waiting) -> bool:
    """Tell whether what was captured comes back behind a statement that writes into its table, and not before it."""
    if one.entry.kind == "table":
        return not one.is_of_same_text
    return isinstance(write, ast.UpdateStmt) and one.entry.columns[0] in {each.name for each in write.targetList}


def _made_of_query(node: Any) -> Any | None:
    """Return the CREATE TABLE AS that a statement is, also where it is written as SELECT INTO; None for any other."""
    if isinstance(node, ast.CreateTableAsStmt) and node.objtype == enums.ObjectType.OBJECT_TABLE:
        return node
    if not isinstance(node, ast.SelectStmt) or node.intoClause is None or node.intoClause.rel.relpersistence != "p":
        return None
    return parsed(f"CREATE TABLE {text(node.intoClause.rel)} AS {printed(changed(node, intoClause=None))}")


def _together(step: SafeStep) -> SafeStep:
    """Return a loop as one statement: rows written between its batches and the change of type would be overwritten."""
    return replace(step, sql=step.sql.replace(RANGE, "true", 1), batches=None) if step.batches else step


def _refill(migration: Migration, entry: UndoEntry, found: Reapplication) -> Expansion:
    says = found.left or undo_data.writes(found.steps).says
    line = migration.sql.count("\n") + 1
    place = Place(migration.name, line)
    again = Statement(
        f"-- {says}", migration.path.name, line, REFILL, Type.DATA, Policy.TOGETHER, (str(entry.table),), place
    )
    return Expansion(again, REFILL.lower(), says, found.steps, cleanup=undo_data.tracker_cleanup(found.steps))


def _parts(node: Any) -> tuple[list[str], list[str]]:
    """Return the subcommands that add columns without constraints, and those that ask for their values."""
    first, constraints, then = [], [], []
    for cmd in node.cmds:
        if subcommand(cmd) != "AddColumn":
            then.append(command(cmd))
            continue
        column = add_column.taken_apart(cmd)
        is_filled = column.default is not None or column.identity is not None or bool(column.serial)
        later = [] if is_filled or column.not_null is None else [column.not_null]
        first.append(add_column.add(column, without=later))
        constraints += [add_constraint(part) for part in column.of_table]
        for part in later:
            named = f"CONSTRAINT {name(part.conname)} " if part.conname else ""
            quoted = name(column.name)
            constraints.append(f"ADD {named}NOT NULL {quoted}" if named else f"ALTER COLUMN {quoted} SET NOT NULL")
    return first, [*constraints, *then]


def _only_adds_columns(node: Any) -> bool:
    """Tell whether a statement adds columns that no row of today can contradict."""
    if not isinstance(node, ast.AlterTableStmt) or any(subcommand(cmd) != "AddColumn" for cmd in node.cmds):
        return False
    return not _parts(node)[1]


def _is_on(facts: Facts, node: Any, entry: UndoEntry) -> bool:
    """Tell whether a name means the entry's table, which may not exist yet."""
    if not isinstance(node, ast.RangeVar):
        return False
    found = facts.relation(node)
    written = relation(node)
    return entry.table == (found.schema, found.name) if found is not None else written.name == entry.table.name


def _retypes(facts: Facts, node: Any, entry: UndoEntry) -> bool:
    """Tell whether a statement gives the entry's column another type."""
    if entry.kind != "column" or not isinstance(node, ast.AlterTableStmt):
        return False
    retyped = {cmd.name for cmd in node.cmds if subcommand(cmd) == "AlterColumnType"}
    return bool(retyped & {*entry.columns}) and _is_on(facts, node.relation, entry)


def _partitions(facts: Facts, node: Any, entry: UndoEntry) -> bool:
    """Tell whether a statement makes a partition of the entry's table."""
    if entry.kind != "table":
        return False
    if isinstance(node, ast.CreateStmt) and node.partbound is not None:
        return any(_is_on(facts, parent, entry) for parent in node.inhRelations or ())
    attaches = isinstance(node, ast.AlterTableStmt) and any(subcommand(c) == "AttachPartition" for c in node.cmds)
    return attaches and _is_on(facts, node.relation, entry)
