"""The plan that takes one migration back: its steps, their safe forms, and what they capture; for rollback.

It is made on a branch on which the migration is applied: each statement is judged and executed there, one after
the other, in a transaction that is aborted. A hand-written down script is planned in the same way.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import psycopg
from pglast import ast

from pgrunbook import undo_data
from pgrunbook.config.targets import Target
from pgrunbook.database.connection import Connection
from pgrunbook.database.facts import Facts
from pgrunbook.database.inverse_log import RecordedInverse
from pgrunbook.draft import missing_rows
from pgrunbook.draft.build import expanded
from pgrunbook.draft.expected_differences import DeclaredOf, followed, named
from pgrunbook.errors import Refused
from pgrunbook.history import Migration
from pgrunbook.inverse.inverter import Inverter
from pgrunbook.plan.declared import Declared
from pgrunbook.plan.plan import Change, WrittenStatement
from pgrunbook.plan.step import RANGE, Expansion, Keep, SafeStep
from pgrunbook.plan.way_back import Back, Undo
from pgrunbook.safe_forms import rename_column, shadow_column
from pgrunbook.safe_forms.expander import Expander
from pgrunbook.sql import runs, statements
from pgrunbook.sql.classify import Policy, Type
from pgrunbook.sql.deparse import changed, parsed, printed
from pgrunbook.sql.places import Place
from pgrunbook.sql.statements import Statement
from pgrunbook.sql.tree import subcommand, text, tree, trees
from pgrunbook.undo_data import Site
from pgrunbook.undo_data.row_notes import told_apart

GIVES_ROWS = "GIVE ROWS BACK"
OWN_WAY = "own-way-back"
SHOWN_LINES, SHOWN_WIDTH = 20, 200  # of a statement whose rows are reverted


class NoWayError(Exception):
    """A migration cannot be taken back; the text is the sentence that says why."""


@dataclass(frozen=True)
class DownStatement:
    """A statement to be taken back; ``steps`` are the steps that executed it when the migration was applied."""

    number: int
    file: str
    line: int
    sql: str
    back: Back
    steps: tuple[int, ...]


@dataclass(frozen=True)
class CaptureGap:
    """A statement of a way back that destroys what cannot be captured; ``is_counted`` for whole columns and tables.

    The number of single rows that it will change is unknown beforehand.
    """

    migration: str
    statement: int
    sql: str
    because: str
    is_counted: bool


@dataclass(frozen=True)
class DownDraft:
    """The change that takes a migration back, what it may lose, and what will differ afterwards.

    ``loses`` are the statements that destroy what cannot be captured, by their number, and why.
    """

    change: Change
    loses: tuple[CaptureGap, ...] = ()
    differs: tuple[Declared, ...] = ()


def taken(written: Iterable[WrittenStatement], steps_of: Change) -> list[DownStatement]:
    """Return the statements of an applied change, the last one first.

    Raises NoWayError if one has no way back.
    """
    found = []
    for one in written:
        if one.back is None:
            raise NoWayError(f"{one.key}: its way back was not computed")
        if one.back.because:
            raise NoWayError(f"{one.key}: {one.back.because}")
        numbers = tuple(step.number for step in steps_of.of_statement(one.number))
        found.append(DownStatement(one.number, one.file, one.line, one.sql, one.back, numbers))
    return found[::-1]


def recorded(ways: Iterable[RecordedInverse]) -> list[DownStatement]:
    """Return statements as the database has recorded them, the last one first. Raises NoWayError as :func:`taken`."""
    found = []
    for way in ways:
        if way.back is None or way.back["because"]:
            reason = way.back["because"] if way.back else "its way back was not computed"
            raise NoWayError(f"{way.place}: {reason}")
        back = Back.model_validate(way.back)
        found.append(DownStatement(way.statement, way.file, way.line, way.sql, back, tuple(way.steps)))
    return found[::-1]


def computed(
    conn: Connection,
    target: Target,
    name: str,
    file_sha256: str,
    takes: Sequence[DownStatement],
    *,
    rows_conn: Connection | None,
    ends: Literal["history row", "begun", "part"] = "history row",
    helpers: Sequence[SafeStep] = (),
) -> DownDraft:
    """Plan the computed way back, on a branch on which the migration is applied.

    ``rows_conn`` leads to the database with the real rows; ``helpers`` drop what an interrupted statement has left
    behind.

    Raises NoWayError if a statement of it fails there.
    """

    def planned(ordered: Sequence[DownStatement]) -> DownDraft:
        with _writing(conn, target, name, file_sha256, rows_conn) as writer:
            if helpers:
                writer.also(_pseudo(name, 1, "DROP", "-- what an interrupted statement has left behind"), helpers)
            writer.tell_apart(takes)
            for run in _runs(ordered):
                writer.take(*run)
        found = writer.planned(ends, tuple(sorted(one.number for one in takes)))
        is_silent = any(not one.back.fires_triggers for one in takes)
        return replace(found, change=silent(found.change)) if is_silent else found

    by_position = _by_position(takes)
    if by_position == list(takes):
        return planned(takes)
    try:
        return planned(by_position)
    except NoWayError:  # what depends on one of the columns needs another one
        return planned(takes)


def scripted(conn: Connection, target: Target, migration: Migration, *, rows_conn: Connection | None) -> DownDraft:
    """Plan a hand-written down script. Raises as :func:`computed`, and WrongInput for what cannot be parsed."""
    file = migration.down_path.name if migration.down_path else migration.name
    with _writing(conn, target, migration.name, migration.fingerprint, rows_conn) as writer:
        for statement in statements.parse(migration.down_sql or "", file, migration.name):
            writer.write(statement)
    return writer.planned("history row", ())


def _by_position(takes: Sequence[DownStatement]) -> list[DownStatement]:
    """Return the statements, those that add columns to a table one after the other in the old order of these."""
    found: list[DownStatement] = []
    for table, group in itertools.groupby(takes, key=_table_with_columns):
        members = list(group)
        found += sorted(members, key=lambda one: one.back.position) if table else members
    return found


def _table_with_columns(one: DownStatement) -> str:
    """Return the table to which an inverse adds columns, as it is written, "" where it adds none."""
    node = tree(one.back.steps[0].sql) if one.back.position and one.back.steps else None
    return text(node.relation) if isinstance(node, ast.AlterTableStmt) else ""


def silent(change: Change) -> Change:
    """Return a way back that reverts captured rows and values while triggers of the application are silent."""
    steps = []
    for step in change.steps:
        if step.gives_rows or (step.gives_back and step.kind == "UPDATE"):
            batches = replace(step.batches, fires_triggers=False) if step.batches else None
            step = step.model_copy(update={"fires_triggers": False, "batches": batches})  # noqa: PLW2901
        steps.append(step)
    return change.model_copy(update={"steps": tuple(steps)})


@contextmanager
def _writing(
    conn: Connection, target: Target, name: str, file_sha256: str, rows_conn: Connection | None
) -> Iterator[_Writer]:
    writer = _Writer(conn, target, name, file_sha256, rows_conn)
    try:
        with conn.transaction(force_rollback=True):
            yield writer
            writer.end()
    except undo_data.CannotCaptureError as reason:
        raise NoWayError(str(reason)) from reason
    except psycopg.Error as exc:
        raise NoWayError(f"it fails: {exc.diag.message_primary or ' '.join(str(exc).split())}") from exc


def _runs(takes: Sequence[DownStatement]) -> Iterator[tuple[DownStatement, ...]]:
    """Yield statements together of which nothing but rows is to be reverted, any other one alone."""
    some = [one for one in takes if one.back.differs or not one.back.is_nothing or _parked(one.back)]
    for only_rows, found in itertools.groupby(
        some, lambda one: not (one.back.steps or one.back.own or _parked(one.back))
    ):
        group = tuple(found)
        size = runs.MOST_STATEMENTS if only_rows else 1
        yield from (group[start : start + size] for start in range(0, len(group), size))


def _parked(back: Back) -> list[Keep]:
    return [keep for keep in back.keeps if keep.kind == "table"]


def _attaches(back: Back) -> bool:
    """Tell whether a partition is attached again."""
    nodes = (node for step in back.steps for node in trees(step.sql) if isinstance(node, ast.AlterTableStmt))
    return any(subcommand(cmd) == "AttachPartition" for node in nodes for cmd in node.cmds)


def _capturing(undo: Undo, also: Sequence[Keep]) -> Undo:
    """Return an inverse that needs these columns captured too, if its statement changes their type."""
    there = {(keep.table, keep.column) for keep in undo.keeps}
    more = [replace(keep, kept_as="") for keep in also if undo_data.is_changed_type(undo.statement.sql, keep)]
    return replace(undo, keeps=(*undo.keeps, *(keep for keep in more if (keep.table, keep.column) not in there)))


class _Writer:
    def __init__(
        self, conn: Connection, target: Target, name: str, file_sha256: str, rows_conn: Connection | None
    ) -> None:
        self.conn, self.target, self.name, self.file_sha256, self.rows_conn = conn, target, name, file_sha256, rows_conn
        self.planner = Expander(conn, batch_rows=target.batch_rows, rows_conn=rows_conn, applied=True, is_back=True)
        self.inverter = Inverter(conn)
        self.expansions: list[Expansion] = []
        self.loses: list[CaptureGap] = []
        self.differs: list[DeclaredOf] = []
        self.declared: tuple[Declared, ...] = ()
        self.number = 0

    def tell_apart(self, takes: Sequence[DownStatement]) -> None:
        """Plan what notes the rows of then behind partitions that were detached, before any of them is written."""
        names = dict.fromkeys(keep.table for one in takes for keep in one.back.keeps if keep.kind != "table")
        for name in names:
            relation = Facts(self.conn).relation(parsed(f"TABLE {name}").fromClause[0])
            if relation is None or not relation.is_partitioned:
                continue
            says = f"It is noted which rows of {name} are those of the capture, before any of them is written."
            steps = [SafeStep(each, says, quick=False) for each in told_apart(self.conn, relation.oid)]
            if steps:
                about = _pseudo(f"way back of {takes[0].file}", takes[0].line, "UPDATE", steps[0].sql)
                self.also(about, steps, execute=True)

    def take(self, one: DownStatement, *before: DownStatement) -> None:
        """Plan the way back of one statement: parked tables, then its steps with their refilled values, then rows.

        The rows of the statements ``before`` it, of which only rows are to be reverted, follow in the same loop.
        """
        back, file = one.back, f"way back of {one.file}"
        self._take_own(back, file, one.line)
        for keep in _parked(back):
            steps = undo_data.unpark(self.conn, keep)
            self.also(_pseudo(file, one.line, "ALTER TABLE", steps[0].sql), steps, execute=True)
        had_key = {keep for keep in back.keeps if keep.kind == "column" and undo_data.has_key(self.conn, keep)}
        for step in back.steps:
            kept: list[Keep] = []
            for place in step.fills:
                settled = undo_data.note_written(self.conn, back.keeps[place])
                if settled:
                    self.also(_pseudo(file, one.line, "UPDATE", settled[0].sql), settled, execute=True)
            written = step.sql
            for place in step.fills:
                before_it, written = undo_data.converting(self.conn, back.keeps[place], written)
                if before_it:
                    self.also(_pseudo(file, one.line, "CREATE FUNCTION", before_it[0].sql), before_it, execute=True)
            for statement in statements.parse(written, file):
                there = Place(self.name, one.line)
                also = [back.keeps[place] for place in step.fills]
                kept += self.write(replace(statement, line=one.line, policy=step.policy, place=there), also)
            for place in step.fills:
                keep = back.keeps[place]
                found = undo_data.revert_column(
                    self.conn, keep, rows_conn=self.rows_conn, batch_rows=self.target.batch_rows,
                    had_key=keep in had_key,
                )  # fmt: skip
                self.also(_pseudo(file, one.line, "UPDATE", undo_data.writes(found).sql), found, execute=True)
            for keep, place in itertools.product(kept, step.fills):
                was = back.keeps[place]
                if (keep.table, keep.column) == (was.table, was.column):
                    with_it = [back.keeps[other] for other in step.fills]
                    left = undo_data.discard_reverted(self.conn, keep, was, with_it=with_it)
                    self.also(_pseudo(file, one.line, "DELETE", left[0].sql), left)
        for keep in _parked(back) if _attaches(back) else ():
            watched = undo_data.watch_again(keep)
            self.also(_pseudo(file, one.line, "DO", watched[0].sql), watched, execute=True)
        self._revert_rows((one, *before), file)
        self.differs += [each for taken in (one, *before) for each in followed(self.conn, taken.back.differs)]

    def _take_own(self, back: Back, file: str, line: int) -> None:
        """Plan the own way back of a safe form; here an index is built within the transaction."""
        if not back.own:
            return
        says = back.own[-1].says
        self.number += 1
        written = _pseudo(file, line, "ALTER TABLE", back.own[-1].sql)
        self.planner.put(Expansion(written, OWN_WAY, says, back.own, cleanup=back.own_cleanup), new=True)
        self._execute(back.own)
        self.planner.taken_away()

    def _execute(self, steps: Sequence[SafeStep]) -> None:
        with self.conn.as_target():
            for step in steps:
                self.conn.execute(
                    printed(changed(parsed(step.sql), concurrent=False)) if step.policy is Policy.ALONE else step.sql
                )

    def _revert_rows(self, taken: Sequence[DownStatement], file: str) -> None:
        both = [each for each in taken if each.back.of_rows and each.steps]
        if both:
            what = "this statement has" if len(both) == 1 else "these statements have"
            texts = (line for each in both for line in _beginning(each.sql))
            comment = "-- " + "\n-- ".join([f"the rows that {what} changed are reverted:", *texts])
            tables = tuple(dict.fromkeys(keep.table for each in both for keep in each.back.keeps))
            numbers = tuple(number for each in both for number in each.steps)
            gives = SafeStep(comment, "Revert the rows that nobody has changed since.", quick=False, gives_rows=numbers)
            keeps = dict.fromkeys(keep for each in both for keep in each.back.keeps)
            indexes = [found for keep in keeps if (found := undo_data.helper_index(self.conn, keep)) is not None]
            self._write_each([made for made, _ in indexes], file, taken[0].line)
            self.also(_pseudo(file, taken[0].line, GIVES_ROWS, comment, tables), [gives])
            self._write_each([dropped for _, dropped in indexes], file, taken[0].line)

    def _write_each(self, texts: Iterable[str], file: str, line: int) -> None:
        for statement in statements.parse(";\n".join(texts), file):
            self.write(replace(statement, line=line, place=Place(self.name, line)))

    def write(self, statement: Statement, also: Sequence[Keep] = ()) -> list[Keep]:
        """Plan a statement in its safe form, capturing what it destroys; then execute it.

        Return the columns whose type it changes, and that are captured; ``also`` are columns whose values came from
        those of another type: nobody knows how, so those of today are captured too, even where a cast would do.
        """
        self.number += 1
        undo = _capturing(self.inverter.inverse(statement), also)
        try:
            expansion = self.planner.expand(statement)
        except Refused as exc:  # a column that it changes waits for contract
            raise NoWayError(f"{exc.message}. {exc.detail}") from exc
        site = Site(self.name, self.file_sha256, "down", self.number)
        kept = undo_data.with_capture(
            self.conn, expansion, undo, site, rows_conn=self.rows_conn, batch_rows=self.target.batch_rows
        )
        if kept.because and undo.keeps:
            counted = not undo.of_rows or statement.kind == "TRUNCATE"
            self.loses.append(CaptureGap(self.name, self.number, statement.sql, kept.because, counted))
        self.planner.put(kept.expansion if not kept.because else expansion)
        is_rehearsed = expansion.gate is None or expansion.gate.is_rehearsed
        if expansion.form in (rename_column.BACK, shadow_column.BACK):  # what it gives back is there already
            self._execute(expansion.steps)
        elif statement.policy is not Policy.ALONE and is_rehearsed:
            missing_rows.execute(self.conn, statement.sql, statement.policy)
        return [] if kept.because else [k for k in kept.keeps if undo_data.is_changed_type(statement.sql, k)]

    def also(self, statement: Statement, steps: Sequence[SafeStep], *, execute: bool = False) -> None:
        """Plan steps of our own; with ``execute`` they are executed here, too: rows of the branch meet what follows."""
        self.number += 1
        cleanup = undo_data.tracker_cleanup(steps)
        says = undo_data.writes(steps).says
        self.planner.put(Expansion(statement, "", says, tuple(steps), cleanup=cleanup), new=True)
        with self.conn.as_target():
            for step in steps if execute else ():
                self.conn.execute(step.sql.replace(RANGE, "true", 1).encode())

    def end(self) -> None:
        self.expansions = self.planner.end_file()
        self.declared = named(self.conn, self.differs)

    def planned(self, ends: Literal["history row", "begun", "part"], takes: tuple[int, ...]) -> DownDraft:
        change = expanded(self.name, self.file_sha256, "the migration itself", self.expansions, self.target)
        change = change.model_copy(update={"ends": ends, "takes_back": takes})
        return DownDraft(change, tuple(self.loses), self.declared)


def _beginning(sql: str) -> list[str]:
    """Return the first lines of a statement, each cut: it may have many megabytes, and nobody executes them here."""
    lines = sql[: SHOWN_LINES * SHOWN_WIDTH].splitlines()
    shown = [line if len(line) <= SHOWN_WIDTH else f"{line[:SHOWN_WIDTH]} ..." for line in lines[:SHOWN_LINES]]
    return shown if len(sql) <= SHOWN_LINES * SHOWN_WIDTH and len(lines) <= SHOWN_LINES else [*shown, "..."]


def _pseudo(file: str, line: int, kind: str, sql: str, objects: tuple[str, ...] = ()) -> Statement:
    """Return the statement under which the plan lists steps of our own."""
    return Statement(sql, file, line, kind, Type.DATA, Policy.TOGETHER, objects, Place(file, line))
