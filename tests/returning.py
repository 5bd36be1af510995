"""What the tests of ways back share: a release that is rehearsed and executed, and its rollback, without notebooks."""

from __future__ import annotations

from collections.abc import Sequence

from conftest import connect
from permits import permitted
from pgrunbook import history as histories
from pgrunbook.config.targets import Target
from pgrunbook.database import activity, checksums, locks
from pgrunbook.database.checksums import TableName, TableSum
from pgrunbook.database.connection import Connection
from pgrunbook.database.schema import Snapshot, snapshot
from pgrunbook.draft import build
from pgrunbook.draft import release as draft
from pgrunbook.execute.execution import Execution
from pgrunbook.execute.results import StepResult
from pgrunbook.history.state import leave_out
from pgrunbook.plan.plan import Plan
from pgrunbook.procedures.rollback_views import RollbackRowEffects, rows_since
from pgrunbook.record.journal import Journal
from pgrunbook.rehearse import rollback, schema_only
from pgrunbook.rehearse.rollback import RollbackDraft
from pgrunbook.rehearse.schema_only import Rehearsal
from pgrunbook.undo_data import OnConflict
from scenes import journal_of

RELEASE = "20261122T165431Z-release-demo-7f3a"
ROLLBACK = "20261122T170000Z-rollback-demo-1b2c"
Everything = tuple[Snapshot, dict[TableName, TableSum]]
WayBack = tuple[Plan, RollbackDraft]


def rehearsed(target: Target, *, keep: bool = True) -> Rehearsal:
    """Rehearse what is pending on empty branches."""
    with connect(target, purpose="plans") as conn:
        history = histories.read(conn, target)
        here = snapshot(conn, leave_out=leave_out(history))
        return schema_only.rehearse(target, history, history.pending(), lambda: here, conn, off={}, keep=keep)


def plan_of(target: Target, done: Rehearsal) -> Plan:
    """Return the plan that came of a rehearsal."""
    with connect(target, purpose="plans") as conn:
        history = histories.read(conn, target)
        base = build.base(activity.identity(conn), done.before, history)
    return Plan(
        direction="up", target=target.name, base=base, attempts=3, rehearsed="on a branch", changes=done.changes
    )


def release(target: Target, *, run_id: str = RELEASE, keep: bool = True) -> Plan:
    """Rehearse what is pending, and execute it."""
    plan = plan_of(target, rehearsed(target, keep=keep))
    execute(target, plan, run_id)
    return plan


def execute(target: Target, plan: Plan, run_id: str, on_conflict: OnConflict = "stop") -> list[StepResult]:
    """Execute a plan on a session of its own."""
    with connect(target, purpose=f"migrate {run_id}") as conn, locks.one_executor(conn):
        history = histories.read(conn, target)
        journal, permit = Journal(journal_of(target)), permitted(plan, run_id, conn, on_conflict)
        return Execution(plan, target, run_id, conn, history, journal, permit).run()


def prepared(target: Target, names: Sequence[str] = (), *, only: Sequence[int] = ()) -> WayBack:
    """Plan and try on a branch the way back of migrations, newest first: of all that are applied, or of those named."""
    with connect(target, purpose="plans") as conn:
        history = histories.read(conn, target)
        applied = [e.migration for e in reversed(history.applied()) if e.migration is not None]
        wanted = [rollback.wanted(conn, m, only) for m in applied if not names or m.name in names]
        assert not [one.because for one in wanted if one.because]
        here = snapshot(conn, leave_out=leave_out(history))
        done = rollback.rehearse(target, history, wanted, here, conn)
        base = build.base(activity.identity(conn), here, history)
        changes = draft.with_locks(done.changes, conn)
    plan = Plan(direction="down", target=target.name, base=base, attempts=3, rehearsed="on a branch", changes=changes)
    return plan, done


def take_back(
    target: Target, *names: str, on_conflict: OnConflict = "stop", way: WayBack | None = None
) -> RollbackDraft:
    """Take migrations back: all that are applied, or those named; by the way that was prepared, or one prepared now."""
    plan, done = way or prepared(target, names)
    execute(target, plan, ROLLBACK, on_conflict)
    return done


def since(target: Target, *names: str, way: WayBack | None = None) -> RollbackRowEffects:
    """Return what a rollback would do to the rows of today; by the way that was prepared, or one prepared now."""
    plan, done = way or prepared(target, names)
    with connect(target, purpose="looks") as conn:
        return rows_since(conn, plan, done.loses)


def everything(target: Target) -> Everything:
    """Return the schema and the checksums of all tables, without the history and what is ours."""
    with connect(target, purpose="looks") as conn:
        left = leave_out(histories.read(conn, target))
        return snapshot(conn, leave_out=left), checksums.checksums(conn, leave_out=left)


def rows_of(conn: Connection, query: str) -> list[tuple[object, ...]]:
    """Return the rows of a query."""
    return conn.execute(query.encode()).fetchall()
