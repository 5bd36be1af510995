"""The preconditions of executing a plan, over a run's journal and the database as it is now.

The cells of notebooks/migrate.ipynb and notebooks/rollback.ipynb check them, and every permit does again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pgrunbook import history as histories
from pgrunbook.config import regular_file
from pgrunbook.database import activity, inverse_log, own_publications, step_log
from pgrunbook.database.connection import Connection
from pgrunbook.database.schema import Snapshot
from pgrunbook.database.schema_diff import diff
from pgrunbook.display.prose import counted, listed
from pgrunbook.errors import Broken, Refused
from pgrunbook.execute import failures
from pgrunbook.history import History
from pgrunbook.plan.plan import Change, Direction, Plan
from pgrunbook.record.run import Run
from pgrunbook.session import acceptance, checks

FROZEN: dict[Direction, str] = {"up": "plan-frozen", "down": "rollback-plan-frozen"}
POINTS: dict[Direction, str] = {"up": "before", "down": "rollback"}
_FILES: dict[Direction, str] = {"up": "plan.json", "down": "rollback-plan.json"}


def check_frozen(run: Run, plan: Plan) -> None:
    """Check that a plan is the one that was frozen last in its run. Raises Refused."""
    frozen = [e["digest"] for e in checks.told(run) if e["event"] == FROZEN[plan.direction]]
    if not frozen or plan.digest != frozen[-1]:
        file = _FILES[plan.direction]
        raise Refused(
            f"{file} is not the plan that was frozen in this run",
            detail=f"The journal names {frozen[-1] if frozen else 'no plan'}; the file has {plan.digest} now.",
            hint="Somebody has written another plan into the run's folder: find out who, and start a new run.",
        )


def check_approved(plan: Plan, approved: str) -> None:
    """Check that a plan is the approved one, where the first digits of one are given. Raises Refused."""
    if not plan.digest.startswith(approved):
        raise Refused(
            "the plan is not the one that was approved",
            detail=f"Approved was {approved}; the plan of this run has digest {plan.digest}.",
            hint="Have this plan approved: the step freeze-the-plan of prepare shows it.",
        )


def check_gates(run: Run, plan: Plan, also: Sequence[str] = ()) -> None:
    """Check that each gate of a plan is accepted, in the journal or by a parameter (``also``). Raises Refused."""
    left = acceptance.left(run, plan, also)
    if left:
        raise Refused(
            f"the plan has {counted(len(left), 'gate')} that nobody has accepted",
            detail=" ".join(f"{gate.key}: {gate.gate.says}. {gate.gate.how}" for gate in left),
            hint="Write other migrations as each gate says; or accept the gates, where that may be: "
            f"pgrunbook accept {run.run_id} {' '.join(gate.key for gate in left)}; then {run.next_try}",
        )


def check_base(run: Run, plan: Plan, conn: Connection, history: History, now: Snapshot) -> bool:
    """Return whether a plan is partly executed already; ``history`` and ``now`` are what the database shows.

    Raises Refused when the plan does not fit the database, Broken when it was executed in another order.
    """
    _check_database(plan, conn)
    failures.check_folder(plan, history)
    done = _over(plan, conn, history)
    if done != list(plan.changes[: len(done)]):
        verb = "applied" if plan.direction == "up" else "taken back"
        raise Broken(
            f"the plan was {verb} in another order, or by somebody else",
            detail=f"{verb.capitalize()} of it: {', '.join(c.migration for c in done)}.",
            hint="Check the history, then start a new run.",
        )
    _refuse_again(run, plan, done)
    begun = _begun(run, plan, conn)
    if not done and not begun and plan.base.history_fingerprint != history.fingerprint():
        raise Refused(
            "the history table changed since the plan was made",
            detail=f"The plan was made at version {plan.base.version or '(none)'}; "
            f"the history is at {history.version() or '(none)'}.",
            hint="Start a new run: its plan will fit.",
        )
    left = {change.migration for change in plan.changes[len(done) :]}
    expected = done[-1].schema_after if done else plan.base.schema_fingerprint
    # Between two transactions of a migration the schema is one that no rehearsal has recorded.
    if left and not left & begun and expected not in (now.fingerprint, None):
        raise _drift(run, plan, now, is_begun=bool(done))
    return bool(done or begun)


def check_restore_point(run: Run, plan: Plan, conn: Connection) -> None:
    """Check that the database has the restore point that a run made before its plan. Raises Refused."""
    points = [point.name for point in step_log.restore_points(conn) if point.run_id == run.run_id]
    if not any(name.startswith(f"{POINTS[plan.direction]}_") for name in points):
        raise Refused(
            f"run {run.run_id} has no restore point in this database",
            detail="Target and journal have to agree on it: restore_points is on for this target.",
            hint='Run cell "take-restore-point" first, then this cell again.',
        )


def check_history_table(conn: Connection, history: History) -> None:
    """Check that no subscriber stops at the first row of a history table that is made now. Raises Refused."""
    if history.exists or not (found := own_publications.stopped_by(conn, history.schema)):
        return
    made = "; ".join(statement.as_string(conn) for statement in histories.prepare_table(history))
    raise Refused(
        f"cannot make the history table {history.qualified_table}: {listed(found)} would send it",
        detail="A subscriber that does not have it stops at its first row, and applies nothing that comes behind it.",
        hint=f"Make it on each subscriber, then here, and begin again: {made}. Or name another schema for it"
        " (history_schema in targets.toml).",
    )


def is_over(plan: Plan, change: Change, conn: Connection, applied: Collection[str]) -> bool:
    """Tell whether the database shows that a whole change was executed; ``applied`` is what the history shows."""
    if change.ends == "begun":
        return not step_log.of_plan(conn, {change.migration: change.file_sha256}, "up")
    if change.ends == "part":
        ways = inverse_log.read(conn, change.migration)
        return all(way.taken_back_by for way in ways if way.statement in change.takes_back)
    return (change.migration in applied) == (plan.direction == "up")


def executed(run: Run, plan: Plan, conn: Connection) -> set[str]:
    """Return the migrations of which the run has executed steps, as the database alone says."""
    texts = {change.migration: change.file_sha256 for change in plan.changes}
    rows = step_log.of_plan(conn, texts, plan.direction)
    return {name for name, row in rows.items() if row.run_id == run.run_id}


def _check_database(plan: Plan, conn: Connection) -> None:
    found = activity.identity(conn)
    if (plan.base.system_identifier, plan.base.database) != (found.system_identifier, found.database):
        raise Refused(
            "the plan was made for another database",
            detail=f"It names {plan.base.database} of system {plan.base.system_identifier}; "
            f"this is {found.database} of system {found.system_identifier}.",
            hint="Make a new plan: start a new run.",
        )


def refuse_undone(run: Run, plan: Plan, conn: Connection, history: History) -> None:
    """Raise Refused where somebody has undone what the run has executed: its outcome is not shown as if it stood."""
    _refuse_again(run, plan, _over(plan, conn, history))


def _over(plan: Plan, conn: Connection, history: History) -> list[Change]:
    applied = {entry.name for entry in history.applied()}
    return [change for change in plan.changes if is_over(plan, change, conn, applied)]


def _refuse_again(run: Run, plan: Plan, over: Collection[Change]) -> None:
    """Raise Refused where the run has executed what the database does not show any more: it never does so twice."""
    done = {change.migration for change in over}
    ended = (e for e in checks.told(run) if e["event"] == "committed" and e["direction"] == plan.direction)
    gone = [e["migration"] for e in ended if e["whole_migration"] and e["migration"] not in done]
    if gone:
        up = plan.direction == "up"
        raise Refused(
            f"run {run.run_id} has {'applied' if up else 'taken back'} {gone[0]} before",
            detail=f"Somebody has {'taken it back' if up else 'applied it again'} since.",
            hint="Start a new run, whose plan is made for the database of today.",
        )


def _begun(run: Run, plan: Plan, conn: Connection) -> set[str]:
    """Return the migrations of which the run has executed steps, as its journal or the database says."""
    ran = [e for e in checks.told(run) if e["event"] in ("committed", "step-ran") and e["direction"] == plan.direction]
    return executed(run, plan, conn) | {e["migration"] for e in ran}


def _drift(run: Run, plan: Plan, now: Snapshot, *, is_begun: bool) -> Refused:
    path = run.folder / "schema-before.json"
    lines = [f"it has fingerprint {now.fingerprint[:16]} now, which the plan does not know"]
    if plan.direction == "up" and regular_file.is_there(path) and not is_begun:
        lines = [d.line() for d in diff(Snapshot.from_json(regular_file.read(path)), now)]
    return Refused(
        "the schema changed since the plan was made",
        detail="; ".join(lines[:12]) + (f"; and {len(lines) - 12} more" if len(lines) > 12 else ""),
        hint="Find out who changed it; then start a new run, whose plan is made for the schema of today.",
    )
