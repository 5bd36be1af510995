"""A rehearsal on empty branches: the schema of the target, without its rows, taken up and down again.

It chooses the safe forms on the way, and says before the fact which schema the plan ends in, which
statements the server would refuse, whether the safe plan ends where the plain SQL does, and whether each
down script leads back. What depends on rows (times, locks, values) it cannot say.

1. On one branch the plain statements are executed, one by one; before each one its safe form is chosen.
2. Each migration with a down script is taken down and up again there.
3. Where a safe form was chosen, the plan is executed on a second branch, as migrate would; after each
   migration the schemas must be equal, but for what the form declares.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import psycopg
from psycopg.pq import TransactionStatus

from pgrunbook import history as histories
from pgrunbook.changes import draft, statements
from pgrunbook.changes import plan as plans
from pgrunbook.changes.empty_branch import SchemaCopy, copy_schema
from pgrunbook.changes.execute import Execution, Observer
from pgrunbook.changes.plan import Change, Plan, Step
from pgrunbook.changes.safe_forms import Planner
from pgrunbook.changes.safe_forms.constraints import NOT_NULL_OF_PARTITIONS
from pgrunbook.changes.statements import Policy
from pgrunbook.database import activity, connection
from pgrunbook.database.connection import Connection, connect
from pgrunbook.database.schema import Snapshot, snapshot
from pgrunbook.database.schema_diff import Difference, diff
from pgrunbook.errors import Refused, RunbookError, StatementFailed
from pgrunbook.history import History, Migration
from pgrunbook.record.journal import Journal
from pgrunbook.target import Target

RUN_ID = "rehearsal"


@dataclass(frozen=True)
class Way:
    """What came of taking one migration back by its down script, right after it was taken up."""

    migration: str
    proven: bool
    says: str


@dataclass(frozen=True)
class Rehearsal:
    """The schemas on the way: ``before``, and one after each change, in order.

    ``changes`` is what was rehearsed, with safe forms where they were asked for; ``declared`` are the
    differences that these make by nature. ``unlike`` names the objects that the branch could not copy exactly
    (another server version words them otherwise); they are left out of every comparison with the target.
    """

    before: Snapshot
    after: tuple[Snapshot, ...]
    ways: tuple[Way, ...]
    unlike: tuple[tuple[str, str], ...]
    changes: tuple[Change, ...] = ()
    declared: tuple[Difference, ...] = ()

    @property
    def end(self) -> Snapshot:
        """The schema after the last change."""
        return self.after[-1] if self.after else self.before

    def schema_changes(self) -> list[list[Difference]]:
        """Return for each change what becomes of the schema by it."""
        return [diff(one, other) for one, other in pairwise([self.before, *self.after])]


def leave_out(history: History) -> list[str]:
    """Return what a comparison of schemas passes over: our own schema, and the history table."""
    return ["pgrunbook", history.qualified_table]


def rehearse(
    target: Target, history: History, changes: Sequence[Change], backs: Sequence[Change], here: Snapshot
) -> Rehearsal:
    """Take changes as they are written up on an empty branch, each that has a way back also down and up again.

    ``backs`` are the changes of the same migrations in the other direction, where there are any; ``here`` is
    the target's schema now.

    Raises StatementFailed for a statement that the server refuses even without rows, Unreachable when
    no empty branch is to be had.
    Locks: pg_dump takes AccessShareLock on every table of the target, with a lock timeout of 2 s.
    """
    schema = copy_schema(target, [s.sql for c in changes for s in c.statements])
    return _plain(schema, history, changes, backs, here, lambda *_: None)


def rehearse_safely(
    target: Target,
    history: History,
    migrations: Sequence[Migration],
    here: Snapshot,
    conn: Connection,
    *,
    off: Mapping[str, str],
) -> Rehearsal:
    """Choose the safe form of each statement, and prove on a second empty branch that all end in the same schema.

    ``conn`` leads to the target, whose rows tell what is large; ``off`` maps a statement's file and line to the
    reason for which its safe form is switched off.

    Raises as :func:`rehearse` does, and Refused when the safe plan ends in another schema.
    """
    parsed = {m.name: statements.parse(m.sql, m.path.name) for m in migrations}
    schema = copy_schema(target, [s.sql for written in parsed.values() for s in written])
    backs = plans.down(target, [m for m in migrations if m.down_sql is not None])
    planner: Planner | None = None
    drafted: dict[str, Change] = {}

    def choose(branch: Connection, change: Change, step: Step | None) -> None:
        nonlocal planner
        if planner is None:
            planner = Planner(branch, off=off, batch_rows=target.batch_rows, rows_conn=conn, applied=True)
        if step is not None:
            planner.expand(parsed[change.migration][step.number - 1])
        else:
            migration = next(m for m in migrations if m.name == change.migration)
            drafted[change.migration] = draft.change(target, migration, planner.end_file())

    plain = _plain(schema, history, plans.up(target, migrations), backs, here, choose)
    changes = draft.with_locks([drafted[m.name] for m in migrations], conn)
    if not any(step.form for change in changes for step in change.steps):
        return replace(plain, changes=changes)
    after, declared = _safe(schema, history, changes, plain)
    return replace(plain, after=after, changes=changes, declared=declared)


def unexpected(promised: Snapshot, found: Snapshot, unlike: Sequence[tuple[str, str]]) -> list[Difference]:
    """Return where a schema differs from the promised one, without what could not be compared."""
    passed_over = {tuple(pair) for pair in unlike}
    return [d for d in diff(promised, found) if (d.kind, d.name) not in passed_over]


def as_declared(difference: Difference, changes: Sequence[Change]) -> bool:
    """Tell whether a safe form of the changes, which were all executed, has declared that it makes this difference."""
    declared = {text for change in changes for statement in change.statements for text in statement.differs}
    as_inherited = difference.after.replace(" (LOCAL)", "").replace(" LOCAL)", ")")
    own = "INHERITED" in difference.before and as_inherited == difference.before
    return NOT_NULL_OF_PARTITIONS in declared and difference.change == "changed" and own


# What is called before each step of a change, and at its end with no step.
_Hook = Callable[[Connection, Change, Step | None], None]


def _plain(
    schema: SchemaCopy,
    history: History,
    changes: Sequence[Change],
    backs: Sequence[Change],
    here: Snapshot,
    hook: _Hook,
) -> Rehearsal:
    left = leave_out(history)
    with schema.branch() as branch, connect(branch, purpose="rehearses") as conn:
        _limit(conn)
        before = snapshot(conn, leave_out=left)
        unlike = tuple((d.kind, d.name) for d in diff(here, before))
        for statement in histories.prepare_table(history):
            conn.execute(statement)
        before = snapshot(conn, leave_out=left)
        after: list[Snapshot] = []
        ways: list[Way] = []
        scripts = {back.migration: back for back in backs}
        for change in changes:
            _apply(conn, change, hook)
            after.append(snapshot(conn, leave_out=left))
            earlier = after[-2] if len(after) > 1 else before
            ways.append(_way_back(conn, change, scripts.get(change.migration), earlier, after[-1], left))
    return Rehearsal(before, tuple(after), tuple(ways), unlike, tuple(changes))


def _safe(
    schema: SchemaCopy, history: History, changes: Sequence[Change], plain: Rehearsal
) -> tuple[tuple[Snapshot, ...], tuple[Difference, ...]]:
    """Execute the plan as migrate would; return the schema after each change, and the declared differences.

    Raises Refused where a schema is another one than that of the plain statements.
    """
    left = leave_out(history)
    after: list[Snapshot] = []
    declared: dict[Difference, None] = {}
    with schema.branch() as branch, connect(branch, purpose="rehearses") as conn, journal() as told:
        own = histories.read(conn, branch)
        for number, (change, wanted) in enumerate(zip(changes, plain.after, strict=True), 1):
            execute(branch, conn, own, change, told)
            own = replace(own, exists=True, schema_exists=True)
            after.append(snapshot(conn, leave_out=left))
            found = diff(wanted, after[-1])
            other = [d for d in found if not as_declared(d, changes[:number])]
            if other:
                raise Refused(
                    f"the safe plan of {change.migration} ends in another schema than its SQL",
                    detail="; ".join(d.line() for d in other[:8]),
                    state="Nothing changed in the target: this was seen on a branch.",
                    hint="Switch the safe form off for the statement (safe_forms_off), and report this.",
                )
            declared.update(dict.fromkeys(found))
    return tuple(after), tuple(declared)


def execute(
    branch: Target,
    conn: Connection,
    history: History,
    change: Change,
    journal: Journal,
    observer: Observer | None = None,
    *,
    as_written: bool = False,
) -> None:
    """Execute one change on a branch, exactly as migrate does. Raises StatementFailed with the target's state.

    ``as_written`` says that its statements are those of the file, and no safe form is to blame.
    """
    base = plans.base(activity.identity(conn), Snapshot(0, ()), history)
    plan = Plan(direction="up", target=branch.name, base=base, attempts=3, rehearsed="on a branch", changes=(change,))
    try:
        Execution(plan, branch, RUN_ID, conn, history, journal, observer=observer).run()
    except RunbookError as exc:
        raise StatementFailed(
            f"the {'migration' if as_written else 'safe plan'} would fail: {exc.message}",
            detail=exc.detail,
            state="Nothing changed in the target: it failed in a rehearsal.",
            hint="Correct the migration, or the rows that it fails on."
            if as_written
            else "Switch the safe form off for the statement (safe_forms_off), or write it otherwise.",
        ) from exc
    connection.reset(conn)


@contextmanager
def journal() -> Iterator[Journal]:
    """Give a journal for what is done on a branch; it is no part of the run's."""
    with tempfile.TemporaryDirectory(prefix="pgrunbook-") as folder:
        yield Journal(Path(folder) / "journal.jsonl")


def _limit(conn: Connection) -> None:
    connection.limit(conn, lock_timeout_ms=10_000, statement_timeout_ms=600_000)


def _apply(conn: Connection, change: Change, hook: _Hook = lambda *_: None) -> None:
    for segment in change.segments():
        with conn.transaction() if segment.kind == "together" else nullcontext():
            for step in segment.steps:
                hook(conn, change, step)
                _run(conn, change, step)
    hook(conn, change, None)
    if conn.info.transaction_status == TransactionStatus.IDLE:
        connection.reset(conn)
        _limit(conn)
    else:  # what it set goes with the transaction that the caller aborts, but not into the way back
        for statement in connection.RESET_SESSION:
            conn.execute(statement.encode())


def _run(conn: Connection, change: Change, step: Step) -> None:
    try:
        conn.execute(step.sql.encode())
    except psycopg.Error as exc:
        raise StatementFailed(
            f"step {step.number} of {change.migration} ({step.kind}; {step.file}, line {step.line}) would fail: "
            f"{exc.diag.message_primary or ' '.join(str(exc).split())}",
            detail=exc.diag.message_detail or "It failed on an empty branch that has the target's schema.",
            state="Nothing changed in the target: it failed in a rehearsal.",
            hint=exc.diag.message_hint
            or "Correct the migration. Where it needs rows to succeed, prepare with rehearse = False.",
        ) from exc


def _way_back(
    conn: Connection, change: Change, back: Change | None, before: Snapshot, after: Snapshot, left: list[str]
) -> Way:
    """Go down and up again from right behind the change, and compare the schema at both ends."""
    if back is None:
        return Way(change.migration, False, "no down script: after this, only the restore point")
    splits = any(step.policy is Policy.ALONE for step in (*change.steps, *back.steps))
    try:
        if splits:
            return _there_and_back(conn, change, back, before, after, left)
        with conn.transaction(force_rollback=True):  # whatever comes of it, the branch stays as it was
            return _there_and_back(conn, change, back, before, after, left)
    except StatementFailed as exc:
        if splits:
            raise  # what it did until then is committed on the branch: the rest would prove nothing
        return Way(change.migration, False, f"the down script fails: {exc.message}")


def _there_and_back(
    conn: Connection, change: Change, back: Change, before: Snapshot, after: Snapshot, left: list[str]
) -> Way:
    _apply(conn, back)
    found = diff(before, snapshot(conn, leave_out=left))
    if found:
        lines = "; ".join(d.line() for d in found[:5])
        return Way(change.migration, False, f"the down script leaves another schema: {lines}")
    _apply(conn, change)
    found = diff(after, snapshot(conn, leave_out=left))
    if found:
        lines = "; ".join(d.line() for d in found[:5])
        return Way(change.migration, False, f"going up again leads to another schema: {lines}")
    return Way(change.migration, True, "down and up again: the schema is equal both times")
