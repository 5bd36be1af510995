"""The rehearsal of a rollback on an empty branch: each migration is taken back there, and goes up again.

1. The branch has the target's schema, and the rows of the history and of schema pgrunbook; it has the tables of
   undo data, without their rows.
2. The newest migration first, each way back is planned there and executed; the schema after it is the one that
   rollback promises.
3. The migrations go up again as they are written: then the schema must be the one of the beginning.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from psycopg import sql

from pgrunbook import history as histories
from pgrunbook.branches import data_branch, in_memory
from pgrunbook.branches.schema_branch import copy_schema
from pgrunbook.config.targets import Target
from pgrunbook.database import inverse_log, schema_versions, step_log
from pgrunbook.database.connection import Connection, connect
from pgrunbook.database.facts import Facts
from pgrunbook.database.schema import Snapshot, snapshot
from pgrunbook.database.schema_diff import Difference, diff
from pgrunbook.display.prose import counted
from pgrunbook.draft import down
from pgrunbook.draft.build import up
from pgrunbook.draft.down import CaptureGap, DownDraft, DownStatement, NoWayError
from pgrunbook.draft.expected_differences import DeclaredOf, followed, grown, is_declared, named, until_contract
from pgrunbook.errors import Refused, StatementFailed
from pgrunbook.execute.events import ROWS_LEFT
from pgrunbook.history import History, Migration
from pgrunbook.history.state import leave_out
from pgrunbook.plan.hidden import check_key
from pgrunbook.plan.plan import Change
from pgrunbook.plan.step import SafeStep
from pgrunbook.record.journal import Event, Journal, read
from pgrunbook.rehearse import branch_run, copy_records
from pgrunbook.rehearse.branch_run import journal, why
from pgrunbook.rehearse.volatile_texts import VolatileTexts
from pgrunbook.safe_forms import small_table
from pgrunbook.safe_forms.constraints import NOT_NULL_OF_PARTITIONS
from pgrunbook.safe_forms.form import Case
from pgrunbook.sql import statements
from pgrunbook.sql.classify import Policy
from pgrunbook.sql.tree import tree
from pgrunbook.undo_data import LEAVE_REFUSED, LEFT_FILES, OnConflict


@dataclass(frozen=True)
class RollbackItem:
    """A migration to be taken back: by its down script, or by the computed inverses of these statements.

    ``helpers`` are steps that drop what an unfinished statement has left. ``is_rest`` says that some statements were
    taken back before. ``because`` says why there is no way back, "" where there is one.
    """

    migration: Migration
    takes: tuple[DownStatement, ...] = ()
    ends: Literal["history row", "begun", "part"] = "history row"
    helpers: tuple[SafeStep, ...] = ()
    is_rest: bool = False
    because: str = ""

    @property
    def is_scripted(self) -> bool:
        """Whether it is taken back by its down script."""
        return self.migration.down_sql is not None and self.ends == "history row" and not self.takes


@dataclass(frozen=True)
class RollbackDraft:
    """The changes of a rollback, newest first, with the schemas that they lead to.

    ``loses`` is what cannot be captured; ``unlike`` and ``is_exact`` are as in a rehearsal.
    """

    changes: tuple[Change, ...]
    loses: tuple[CaptureGap, ...]
    end: Snapshot
    unlike: tuple[tuple[str, str], ...]
    is_exact: bool


def wanted(
    conn: Connection, migration: Migration, only: Sequence[int] = (), *, prefer_down_scripts: bool = False
) -> RollbackItem:
    """Return how an applied migration is taken back, or only some of its statements: as its plan has proven it.

    A down script is also taken where it is preferred, or where statements have no inverse.
    """
    ways = inverse_log.read(conn, migration.name)
    left = [way for way in ways if not way.taken_back_by]
    if migration.down_sql is not None and not only and len(left) == len(ways):
        is_computed = bool(ways) and all(way.back and not way.back["because"] for way in ways)
        if prefer_down_scripts or not is_computed or any(way.back and way.back.get("by_script") for way in ways):
            return RollbackItem(migration)
    if not ways:
        return RollbackItem(migration, because="it has no down script, and no run has recorded its inverse")
    check_key(migration.name, [ways[0].file_sha256])
    applied = migration.as_it_was(ways[0].file_sha256)
    if applied is None:
        return RollbackItem(migration, because="the file was edited after it was applied")
    migration = applied
    chosen = [way for way in left if not only or way.statement in only]
    missing = sorted(set(only) - {way.statement for way in left})
    if missing:
        there = ", ".join(f"{way.statement} ({way.place})" for way in left)
        return RollbackItem(
            migration, because=f"it has no statement {missing[0]} to take back; there are {there or 'none'}"
        )
    try:
        takes = tuple(down.recorded(chosen))
    except NoWayError as reason:
        return RollbackItem(migration, because=str(reason))
    ends: Literal["history row", "part"] = "history row" if len(chosen) == len(left) else "part"
    return RollbackItem(migration, takes, ends, is_rest=len(left) < len(ways))


def half_done(conn: Connection, migration: Migration) -> RollbackItem:
    """Return how an unfinished migration is taken back: the statements that were done, and only those."""
    begun = step_log.of_plan(conn, {migration.name: migration.fingerprint}, "up").get(migration.name)
    ways = inverse_log.read(conn, migration.name)
    if begun is None or not ways:
        return RollbackItem(migration, ends="begun", because="no run has recorded the inverses of its statements")
    takes: list[inverse_log.RecordedInverse] = []
    helpers: list[SafeStep] = []
    is_done = False
    for way in ways:
        if way.steps:
            is_done = all(begun.steps.get(number) for number in way.steps)
            if not is_done and any(number in begun.steps for number in way.steps):
                helpers = _helpers(conn, way.cleanup)
                if way.back and way.back["of_rows"]:
                    takes.append(way)  # the batches that were committed are reverted
        if is_done:
            takes.append(way)
    try:
        return RollbackItem(migration, tuple(down.recorded(takes)), "begun", tuple(helpers))
    except NoWayError as reason:
        return RollbackItem(migration, ends="begun", because=str(reason))


@in_memory.else_on_disk
def rehearse(
    target: Target, history: History, wanted: Sequence[RollbackItem], here: Snapshot, conn: Connection
) -> RollbackDraft:
    """Plan and try the way back of migrations, newest first; ``conn`` leads to the target, ``here`` is its schema.

    Raises Refused where a way back fails, ends in another schema, or the migrations cannot go up again after it;
    Unreachable when no empty branch can be made.
    Locks: pg_dump takes AccessShareLock on every table of the target, with a lock timeout of 2 s.
    """
    left, records = leave_out(history), [sql.Identifier(history.schema, history.table), *copy_records.OURS]
    found: list[DownDraft] = []
    differs: list[DeclaredOf] = []
    with copy_schema(target, ours=True) as schema:
        with schema.branch() as branch, connect(branch, purpose="rehearses") as there, journal() as log:
            copy_records.copy(conn, there, records)
            before, beside = snapshot(there, leave_out=left), [*until_contract(there), *grown(there)]
            after = [before]
            for one in wanted:
                planned = _planned(there, target, one, conn)
                own = histories.read(there, branch)
                _try(one, lambda own=own, planned=planned: branch_run.execute(  # type: ignore[misc]
                    branch, there, own, planned.change, log, direction="down", is_empty=True))  # fmt: skip
                after.append(snapshot(there, leave_out=left))
                found.append(planned)
                differs += followed(there, planned.differs)
            is_whole = all(one.ends == "history row" and not one.is_rest for one in wanted)
            end = _up_again(branch, there, target, wanted, log, left) if is_whole else before
            # The target went up by safe forms, the branch as it is written: what forms declare differs there.
            told = [*named(there, differs), *beside, NOT_NULL_OF_PARTITIONS]
        unlike = tuple((d.kind, d.name) for d in diff(*schema_versions.comparable(here, before)))
        # A dump gives columns and a dropped replica identity in another way than the statements that made them.
        found_other = [d for d in diff(before, end) if d.change != "moved" and (d.kind, d.name) not in unlike]
        other = [d for d in found_other if not is_declared(d, told)]
        if other:  # what goes up once more differs from that in what differs each time
            with schema.branch() as branch, connect(branch, purpose="rehearses") as there, journal() as log:
                copy_records.copy(conn, there, records)
                for planned in found:
                    own = histories.read(there, branch)
                    branch_run.execute(branch, there, own, planned.change, log, direction="down", is_empty=True)
                once_more = _up_again(branch, there, target, wanted, log, left)
            _refuse_other_end(wanted[-1], VolatileTexts(end, once_more).without(other))
    is_exact = not unlike and schema_versions.are_of_one(here, before)
    changes = tuple(
        # A branch on another version writes some definitions differently: then its fingerprint does not count.
        _with_schemas(p.change, a, b) if is_exact else p.change
        for p, a, b in zip(found, after[:-1], after[1:], strict=True)
    )
    loses = tuple(one for p in found for one in p.loses)
    return RollbackDraft(changes, loses, after[-1], unlike, is_exact)


@in_memory.else_on_disk
def with_rows(
    target: Target, changes: Sequence[Change], *, most_bytes: int, on_conflict: OnConflict, folder: Path
) -> tuple[str, float]:
    """Execute the changes on a branch with the target's rows; return which branch, and how long it took, in ms.

    Rows about which somebody has to decide are listed in files of ``folder``, one for each side table.

    Raises Refused where no such branch may be made, a change fails with the target's rows, or somebody has changed
    rows that it would revert and nobody has decided about them: here each is compared when its turn comes.
    """
    with data_branch.with_data(target, most_bytes=most_bytes, plain=False) as copy, journal() as log:
        with connect(copy.safe, purpose="rehearses") as conn:
            took_ms = 0.0
            for change in changes:
                own = histories.read(conn, copy.safe)
                try:
                    took_ms += branch_run.execute(
                        copy.safe, conn, own, change, log, direction="down", on_conflict=on_conflict
                    )
                except StatementFailed as exc:
                    refuses = on_conflict == "stop" and any(step.gives_rows for step in change.steps)
                    leaves = f"; or {LEAVE_REFUSED}" if refuses else ""
                    raise Refused(
                        f"cannot take back {change.migration}: it fails with the target's rows",
                        detail=why(exc),
                        state="Nothing changed in the database: it was tried on a branch.",
                        hint="Correct the rows or objects that the Detail line and what-about-new-rows.csv name,"
                        f" then run this again{leaves}.",
                    ) from exc
        if on_conflict == "stop":
            _refuse_left([event for event in read(log.path) if event["event"] == ROWS_LEFT], log.path.parent, folder)
        return copy.how, took_ms


def _refuse_left(events: Sequence[Event], branch: Path, folder: Path) -> None:
    if events:
        for file in branch.glob(LEFT_FILES):
            shutil.move(file, folder / file.name.replace("left", "on-branch"))
        rows = sum(event["rows"] for event in events)
        raise Refused(
            f"somebody has changed {counted(rows, 'row')} that would be reverted",
            detail="; ".join(f"{event['migration']}: {counted(event['rows'], 'row')}" for event in events)
            + f". Each of them is in {LEFT_FILES.replace('left', 'on-branch')}, with its values now and before.",
            state="Nothing changed in the database: it was tried on a branch.",
            hint="Choose on_conflict: keep leaves these rows unchanged, restore overwrites them.",
        )


def _planned(there: Connection, target: Target, one: RollbackItem, rows_conn: Connection) -> DownDraft:
    try:
        if one.is_scripted:
            return down.scripted(there, target, one.migration, rows_conn=rows_conn)
        return down.computed(
            there, target, one.migration.name, one.migration.fingerprint, one.takes,
            rows_conn=rows_conn, ends=one.ends, helpers=one.helpers,
        )  # fmt: skip
    except NoWayError as reason:
        raise _does_not_lead_back(one, str(reason)) from reason


def _try(one: RollbackItem, execute: Callable[[], object]) -> None:
    try:
        execute()
    except StatementFailed as exc:
        raise _does_not_lead_back(one, why(exc)) from exc


def _up_again(
    branch: Target, there: Connection, target: Target, wanted: Sequence[RollbackItem], log: Journal, left: list[str]
) -> Snapshot:
    """Apply the migrations as they are written; return the schema that they end in."""
    try:
        for change in up(target, [one.migration for one in reversed(wanted)]):
            own = histories.read(there, branch)
            branch_run.execute(branch, there, own, _accepted(there, change), log, as_written=True, is_empty=True)
    except StatementFailed as exc:
        raise _does_not_lead_back(wanted[-1], f"going up again fails: {why(exc)}") from exc
    return snapshot(there, leave_out=left)


def _accepted(conn: Connection, change: Change) -> Change:
    """Return a change with its changes of type as the server accepts them while publications name the columns."""
    facts, steps = Facts(conn), []
    for step in change.steps:
        first = statements.parse(step.sql, change.migration)[0]
        same_as = small_table.accepted(Case(first, tree(first.sql), facts)) if step.statements == 1 else ""
        steps.append(step.model_copy(update={"sql": same_as}) if same_as else step)
    return change.model_copy(update={"steps": tuple(steps)})


def _refuse_other_end(one: RollbackItem, other: Sequence[Difference]) -> None:
    if other:
        lines = "; ".join(d.line() for d in other[:5])
        raise _does_not_lead_back(one, f"going up again ends in another schema: {lines}")


def _does_not_lead_back(one: RollbackItem, reason: str) -> Refused:
    how = "the down script" if one.is_scripted else "the way back"
    return Refused(
        f"{how} of {one.migration.name} does not lead back",
        detail=reason,
        state="Nothing changed in the database: it was tried on a branch.",
        hint="Correct the down script; what failed on a branch is not executed on the target."
        if one.is_scripted
        else "Write a down script for it: what failed on a branch is not executed on the target.",
    )


def _with_schemas(change: Change, before: Snapshot, after: Snapshot) -> Change:
    return change.model_copy(update={"schema_before": before.fingerprint, "schema_after": after.fingerprint})


def _helpers(conn: Connection, queries: Sequence[str]) -> list[SafeStep]:
    """Return the steps that drop what an unfinished statement has left, as the target has it now."""
    with conn.as_target():
        found = [str(row[0]) for query in queries for row in conn.execute(query.encode())]
    made = []
    for text in found:
        policy = statements.parse(text, "helpers")[0].policy
        made.append(
            SafeStep(text, "Drops a helper object of its safe form.", policy, own_transaction=policy is Policy.ALONE)
        )
    return made
