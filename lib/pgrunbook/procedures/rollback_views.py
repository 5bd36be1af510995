"""The tables of a way back: its statements, the fate of rows written since, what is captured; prepare and rollback."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pglast
from pglast import ast, enums

from pgrunbook import undo_data
from pgrunbook.database.connection import Connection
from pgrunbook.display.prose import counted, listed
from pgrunbook.display.show import BAD, GOOD, QUIET, WARN, Cell, Table
from pgrunbook.display.units import human
from pgrunbook.draft.down import GIVES_ROWS, CaptureGap
from pgrunbook.errors import Broken, Refused
from pgrunbook.plan.plan import Change, Plan, WrittenStatement
from pgrunbook.plan.step import Keep
from pgrunbook.procedures import undo_data_views
from pgrunbook.procedures.plan_views import executed_as
from pgrunbook.record import door
from pgrunbook.session.session import Session
from pgrunbook.sql import secrets
from pgrunbook.sql.tree import subcommand
from pgrunbook.undo_data import MOST_LINES, Conflicts, OnConflict, UnclaimedValues, UndoEntry, losses
from pgrunbook.undo_data.losses import Loss
from pgrunbook.undo_data.tables import table_named
from pgrunbook.violations import violations
from pgrunbook.violations.violations import Violation


@dataclass(frozen=True)
class RowConflicts:
    """Rows that a step has changed and that would be reverted, and those of them that somebody changed since."""

    migration: str
    kept: UndoEntry
    rows: str
    found: Conflicts | None


@dataclass(frozen=True)
class RollbackRowEffects:
    """The effects of a rollback on the rows of today."""

    goes: tuple[Loss, ...]
    loses: tuple[CaptureGap, ...]
    rows: tuple[RowConflicts, ...]
    violations: tuple[Violation, ...]
    unclaimed: tuple[tuple[str, UnclaimedValues], ...] = ()

    def facts(self) -> dict[str, object]:
        """Return the effects for the journal: names and numbers, no values."""
        return {
            "kept": {loss.what: [loss.holds, loss.kept_as] for loss in self.goes if loss.kept_as},
            "lost": {loss.what: loss.holds for loss in self.goes if not loss.kept_as},
            "not_kept": [f"{one.migration}: statement {one.statement}" for one in self.loses],
            "conflicts": {str(one.kept.table): one.found.rows if one.found else None for one in self.rows},
            "unclaimed": {one.entry.kept_as: one.values for _, one in self.unclaimed},
            "against": {one.what: one.rows for one in self.violations},
        }

    def table(self, on_conflict: OnConflict) -> Table:
        """Return one row per effect: violations, rows to revert, what is dropped, what cannot be captured."""
        rows: list[tuple[object, ...]] = [
            (one.migration, one.what, _stands(one), _count(one.rows, "rows"),
             Cell(one.says, BAD if one.at_least else QUIET, under="\n".join(one.samples))) for one in self.violations
        ]  # fmt: skip
        for one in self.rows:
            rows.append((one.migration, undo_data_views.plain(one.kept), *_reverted(one, on_conflict)))
        for migration, values in self.unclaimed:
            rows.append((migration, values.what, "reverted, except these", _count(values.values, "values"),
                         Cell(values.says, WARN, under="\n".join(values.samples), fold="which")))  # fmt: skip
        for loss in self.goes:
            if loss.kept_as:
                says = Cell(f"kept: pgrunbook.{loss.kept_as}", GOOD)
            else:
                says = Cell("lost" if loss.holds != 0 else "nothing to lose", BAD if loss.holds != 0 else QUIET)
            rows.append((loss.migration, loss.what, "dropped", _count(loss.holds, loss.unit), says))
        for one_ in self.loses:
            if not one_.is_counted:
                what = Cell("cannot be captured", BAD)
                rows.append((one_.migration, _short(one_.sql), what, "not known", one_.because))
        headings = ["migration", "what", "becomes", "holds", "where"]
        return Table(headings, rows, empty="Nothing is dropped, and no row is changed.")

    def refuse(self, here: Session, options: str) -> None:
        """Raise Refused where the rollback must not begin; ``options`` repeat its choice on the command line."""
        again = f"pgrunbook run rollback --target {here.target.name} {options}"
        violations.refuse(list(self.violations))
        if here.parameters.on_conflict == "stop":
            self._refuse_conflicts(again)
        lost = [loss for loss in self.goes if not loss.kept_as and loss.holds != 0]
        unknown = [one for one in self.loses if not one.is_counted]
        if (lost or unknown) and not here.parameters.lose_rows:
            why = {(one.migration, one.statement): one.because for one in self.loses}
            losses_ = [
                f"{one.what}: {_count(one.holds, one.unit)}"
                + (f" ({because})" if (because := why.get((one.migration, one.statement))) else "")
                for one in lost
            ]
            raise Refused(
                f"the rollback would lose what {lost[0].what} holds" if lost else "the rollback would lose rows",
                detail="; ".join([*losses_, *(f"{_short(one.sql)}: {one.because}" for one in unknown)]),
                hint=f"Keep a copy of it first; then: {again}-p lose_rows=true",
            )

    def _refuse_conflicts(self, again: str) -> None:
        found = [one for one in self.rows if one.found]
        if not found:
            return
        rows = sum(one.found.rows for one in found if one.found)
        whole = sum((one.found for one in found if one.found), Conflicts(0, ()))
        elsewhere = f"\n  Each of them is in {undo_data.FILE}, with its values now and before."
        changed = f"{'was' if rows == 1 else 'were'} changed by somebody since"
        if {one.way for one in whole.samples} == {"displaced"}:
            changed = "cannot be as before: another row has its values now, or the row that it refers to is gone"
        raise Refused(
            f"{counted(rows, 'row')} that {listed([*dict.fromkeys(one.migration for one in found)])} changed {changed}",
            detail=whole.lines() + (elsewhere if rows > MOST_LINES else ""),
            hint=f"Decide for all of them: {again}-p on_conflict=keep leaves these rows as they are, "
            "-p on_conflict=restore overwrites them with what was there before.",
        )


def rows_since(
    conn: Connection, plan: Plan, loses: Sequence[CaptureGap], *, into: undo_data.Conflicting | None = None
) -> RollbackRowEffects:
    """Check the rows of today: which are dropped, which somebody has changed since, which violate the old schema.

    ``into`` returns, for an entry, what takes each of its conflicts.
    Locks: AccessShareLock on the tables.
    """
    written_statements = [
        (change.migration, sql)
        for change in plan.changes
        for written in change.statements
        for sql in _judged(change, written)
    ]
    kept = {
        (keep.table, keep.column): (lambda keep=keep: undo_data.uncaptured(conn, keep))
        for change in plan.changes
        for keep in _filled(conn, change)
    }
    # What rows become when they are reverted is not known before: they are named, and the try with rows decides.
    reverted = {name for change in plan.changes for step in change.steps if step.gives_rows for name in step.objects}
    found = violations.find(conn, written_statements, kept=kept)
    in_the_way = [_today_only(one) if one.table in reverted else one for one in found
                  if (one.at_least if one.table in reverted else one.rows != 0)]  # fmt: skip
    return RollbackRowEffects(
        tuple(losses.losses(conn, plan.changes)),
        tuple(loses),
        tuple(_conflicts(conn, plan.changes, into)),
        tuple(in_the_way),
        tuple(_unclaimed(conn, plan.changes)),
    )


def statements(plan: Plan) -> Table:
    """Return one row per statement of the way back, newest migration first."""
    rows = [
        (
            change.migration,
            written.number,
            Cell(written.kind, under=secrets.beginning(written.sql)),
            f"{written.file}, line {written.line}",
            ", ".join(dict.fromkeys(name for step in change.of_statement(written.number) for name in step.objects)),
            Cell(written.form or "as it is written", QUIET if not written.form else GOOD,
                 under=executed_as(change.of_statement(written.number))),
            _locks(change, written.number),
        )
        for change in plan.changes
        for written in change.statements
    ]  # fmt: skip
    headings = ["migration", "step", "statement", "from", "touches", "is executed as", "locks"]
    empty = "Nothing to take back: nothing that the run applied is still applied."
    return Table(headings, rows, title=f"Proven: {plan.rehearsed}", empty=empty)


def ways_back(changes: Sequence[Change]) -> Table:
    """Return one row per migration: whether its way back is proven, how, what is captured for it, what differs."""
    rows = [
        (
            change.migration,
            Cell("yes" if change.proof.proven else "no", GOOD if change.proof.proven else WARN),
            change.proof.told,
            _way(change),
            _keeps(change),
            "; ".join(one.why for one in change.proof.differs) or "nothing",
        )
        for change in changes
    ]
    headings = ["migration", "way back proven", "how", "statements of the way back", "is captured", "differs by nature"]
    return Table(headings, rows)


def _way(change: Change) -> Cell:
    if change.way_back == "down script":
        return Cell("down script", QUIET)
    texts = []
    for written in reversed(change.statements):
        if written.back is not None and not written.back.is_nothing:
            lines = [f"{step.sql};" for step in written.back.steps]
            lines += ["-- the rows that it has changed are reverted"] if written.back.of_rows else []
            lines += [f"-- {written.back.because}"] if written.back.because else []
            texts.append("\n".join([f"-- {written.key}", *lines]))
    return Cell(f"{len(texts)}, computed", QUIET, under=secrets.beginning("\n\n".join(texts)))


def _keeps(change: Change) -> str:
    found = [keep for written in change.statements if written.back for keep in written.back.keeps]
    words = {"rows": "rows of {}", "column": "{}.{}", "table": "table {}"}
    if not found:
        return "nothing"
    names = ", ".join(dict.fromkeys(words[k.kind].format(k.table, k.column) for k in found))
    size = change.kept_bytes_estimate
    return f"{names}: {'size not known' if size < 0 else f'about {human(size)}'}"


def _locks(change: Change, number: int) -> Cell:
    found = [lock for step in change.of_statement(number) for lock in step.locks]
    strong = [lock for lock in found if lock.mode not in ("AccessShareLock", "RowShareLock", "RowExclusiveLock")]
    under = "\n".join(dict.fromkeys(f"{lock.object} {lock.mode}" for lock in found))
    return Cell(f"{strong[0].mode}" if strong else "nobody waits", WARN if strong else GOOD, under=under, fold="locks")


def _conflicts(
    conn: Connection, changes: Sequence[Change], into: undo_data.Conflicting | None
) -> Iterator[RowConflicts]:
    """Yield the rows that the changes revert, each as it will be when its turn comes."""
    before: list[UndoEntry] = []
    reshaped: set[str] = set()
    retyped: set[str] = set()
    for change in changes:
        kept = undo_data.entries_of_migration(conn, change.migration, "up")
        reshaped |= _reshaped(change, kept)
        retyped |= _retyped(change)
        numbers = {number for step in change.steps for number in step.gives_rows}
        for one in kept:
            if one.kind in undo_data.ROWS and one.step in numbers and one.part_of is None:
                is_other = one.table.name in reshaped or (retyped & {"", one.table.name} and _has_own_types(conn, one))
                found = None if is_other else _compared(conn, one, before, into)
                yield RowConflicts(change.migration, one, undo_data_views.rows_of(conn, one), found)
        before += kept


def _reshaped(change: Change, kept: Sequence[UndoEntry]) -> set[str]:
    """Return the tables of which it gives a column another type or name, so that rows cannot be compared before."""
    captured = {(one.table.name, *one.columns) for one in kept if one.kind == "column"}
    found: set[str] = set()
    for node in _nodes(change):
        if isinstance(node, ast.RenameStmt) and node.relation is not None:
            found |= {node.relation.relname, *([] if node.subname else [node.newname])}
        if isinstance(node, ast.AlterTableStmt):
            retyped = {cmd.name for cmd in node.cmds if subcommand(cmd) == "AlterColumnType"}
            if any((node.relation.relname, name) not in captured for name in retyped):
                found.add(node.relation.relname)
    return found


def _retyped(change: Change) -> set[str]:
    """Return the tables of which it gives a column another type, with "" where it changes a type itself."""
    found: set[str] = set()
    for node in _nodes(change):
        match node:
            case ast.AlterEnumStmt() | ast.AlterDomainStmt() | ast.AlterTableStmt(objtype=enums.ObjectType.OBJECT_TYPE):
                found.add("")
            case ast.AlterTableStmt() if any(subcommand(cmd) == "AlterColumnType" for cmd in node.cmds):
                found.add(node.relation.relname)
    return found


def _nodes(change: Change) -> list[Any]:
    texts = [written.sql for written in change.statements if written.sql[:2] != "--"]
    return [raw.stmt for text in texts for raw in pglast.parse_sql(text)]


def _has_own_types(conn: Connection, one: UndoEntry) -> bool:
    """Tell whether a column of an entry has a type of the application: its text may mean another value by then."""
    try:
        columns = table_named(conn, one.table, one.key).columns
    except Broken:
        return True
    return any(columns[name].is_of_application for name in (*one.key, *one.columns) if name in columns)


def _compared(
    conn: Connection, one: UndoEntry, before: Sequence[UndoEntry], into: undo_data.Conflicting | None
) -> Conflicts | None:
    """Compare; None where the table or its columns do not exist now."""
    try:
        return undo_data.conflicts(conn, one, before=before, each=into(one) if into else None)
    except Broken:
        return None


def _judged(change: Change, written: WrittenStatement) -> list[str]:
    """Return the texts by which the rows of a statement are judged: those of all steps where a table comes back."""
    steps = change.of_statement(written.number)
    if any(name.startswith(undo_data.PARKED) for step in steps for name in step.gives_back):
        return [step.sql for step in steps]
    return [] if written.kind == GIVES_ROWS or written.sql.startswith("--") else [written.sql]


def _filled(conn: Connection, change: Change) -> list[Keep]:
    """Return the columns whose captured values a change reverts."""
    return [undo_data.as_keep(one) for one in _filled_entries(conn, change)]


def _filled_entries(conn: Connection, change: Change) -> list[UndoEntry]:
    """Return the entries of columns whose captured values a change reverts, in this order."""
    names = [name for step in change.steps for name in step.gives_back]
    found = [one for one in undo_data.list_entries(conn) if one.kept_as in names and one.kind == "column"]
    return sorted(found, key=lambda one: names.index(one.kept_as))


def _unclaimed(conn: Connection, changes: Sequence[Change]) -> Iterator[tuple[str, UnclaimedValues]]:
    """Yield the captured values that go to nobody, with their migration."""
    names = [change.migration for change in changes]
    for change in changes:
        for entry in _filled_entries(conn, change):
            is_of_same_type = _is_of_same_type(entry, changes)
            values = undo_data.unclaimed(conn, entry, taken_back=names, has_new_type=is_of_same_type)
            if values:
                yield change.migration, values


def _is_of_same_type(entry: UndoEntry, changes: Sequence[Change]) -> bool:
    """Tell whether no change before that which reverts a column's values alters its type."""
    altered, keep = 0, undo_data.as_keep(entry)
    for change in changes:
        for written in change.statements:
            if any(entry.kept_as in step.gives_back for step in change.of_statement(written.number)):
                return altered <= 1
            altered += written.kind.startswith("ALTER TABLE") and undo_data.is_changed_type(written.sql, keep)
    return False


def _reverted(one: RowConflicts, on_conflict: OnConflict) -> tuple[object, ...]:
    held = f"{one.rows} {'row' if one.rows.rpartition(' ')[2] == '1' else 'rows'}"
    if one.found is None:
        says = "their table, column or type is another now: compared on the branch, and again when they are reverted"
        return ("reverted", held, Cell(says, WARN))
    if not one.found:
        return ("reverted", held, Cell("nobody has changed them since", GOOD))
    decided = {"stop": "somebody has to decide", "keep": "these stay as they are", "restore": "these are overwritten"}
    changed = Cell(
        f"{one.found.rows:,} changed since: {decided[on_conflict]}", BAD if on_conflict == "stop" else WARN,
        under="\n".join([*(conflict.line() for conflict in one.found.samples), f"Each is in {undo_data.FILE}."]),
        fold="which",
    )  # fmt: skip
    return ("reverted, except those changed since", held, changed)


def _today_only(one: Violation) -> Violation:
    """Return a violation of today's rows of a table of which rows are reverted: that may still change them."""
    says = f"today {one.says}; what is reverted of {one.table} may change that"
    return replace(one, rows=None, at_least=0, says=says)


def _short(text: str) -> str:
    return " ".join(door.masked(text).split())[:120]


def _stands(one: Violation) -> Cell:
    return Cell("violation", BAD) if one.at_least else Cell("not known beforehand", QUIET)


def _count(number: int | None, unit: str) -> str:
    return "not known" if number is None else counted(number, unit.removesuffix("s"))
