"""Rollback: take migrations back, and revert their data. The steps of notebooks/rollback.ipynb, in order."""

from __future__ import annotations

from pgrunbook import history as histories
from pgrunbook import undo_data
from pgrunbook.config import regular_file
from pgrunbook.database import step_log
from pgrunbook.database.schema import Snapshot, snapshot
from pgrunbook.database.schema_diff import Difference
from pgrunbook.display import progress
from pgrunbook.display.prose import listed
from pgrunbook.display.show import BAD, GOOD, QUIET, WARN, Banner, Card, Cell, Table
from pgrunbook.draft import plan_sql, release
from pgrunbook.draft.build import base
from pgrunbook.draft.down import CaptureGap
from pgrunbook.errors import Broken, Refused
from pgrunbook.execute import permit, preconditions
from pgrunbook.history.state import leave_out
from pgrunbook.plan.hidden import hidden
from pgrunbook.plan.plan import Change, Plan
from pgrunbook.procedures import rollback_choice, rollback_views, shared_steps, undo_data_views
from pgrunbook.rehearse import rollback, schema_only
from pgrunbook.session import checks, once
from pgrunbook.session import session as heres
from pgrunbook.session.parameters import Rollback
from pgrunbook.session.session import Session


def begin(**given: object) -> Session:
    """Check the parameters and find or make the run. Raises WrongInput, Blocked."""
    return heres.begin("rollback", Rollback, given)


@heres.step
def meet_the_target(here: Session) -> Card:
    """Show the server and database of the target. Raises Unreachable, Refused for a replica."""
    return here.meet_the_target()


@checks.check
def what_goes_back(here: Session) -> Table:
    """Show the migrations and their inverse steps, newest first, proven on an empty branch.

    Raises Refused when a migration has no way back, when its way back ends in another schema, or when it holds a
    statement that no branch executes and nobody has accepted.
    """
    history = histories.read(here.conn, here.target)
    here.facts.update(history=history, version_before=history.version())
    plan = shared_steps.frozen_plan(here, "rollback-plan.json", "rollback-plan-frozen") if _begun(here) else None
    if plan is not None:  # this run was interrupted and is resumed: its plan stays
        here.facts.update(plan=plan, loses=(), goes_on=True)
        here.journal("rollback-goes-on", digest=plan.digest)
    else:
        _make_plan(here, rollback_choice.to_take_back(here, history))
    plan = here.facts["plan"]
    here.subject = permit.subject(here, plan)
    table = here.keep_table("what-goes-back", rollback_views.statements(plan))
    try:
        preconditions.check_gates(here.run, plan)
    except Refused:
        here.show(table)
        raise
    return table


@checks.check
def what_about_new_rows(here: Session) -> Table:
    """Show what happens to rows written since the migration: captured, reverted, in conflict, or in violation.

    Raises Refused when rows of today violate the schema before the migration, when somebody has changed rows that
    would be reverted and nobody has decided, or when something would be lost and ``lose_rows`` is not set.
    """
    plan: Plan = here.facts["plan"]
    if here.facts.get("goes_on"):
        return Table(["migration"], [], empty="This rollback is resumed: the rows were checked when it began.")
    with (
        progress.doing("comparing rows with those of then"),
        undo_data.conflict_file(here.run.folder, here.parameters.on_conflict) as into,
    ):
        found = rollback_views.rows_since(here.conn, plan, here.facts["loses"], into=into)
    here.journal("rows-since", **found.facts())
    table = here.keep_table("what-about-new-rows", found.table(here.parameters.on_conflict))
    try:
        found.refuse(here, rollback_choice.options(here))
    except Refused:
        here.show(table)
        raise
    return table


@checks.check
def try_it(here: Session) -> Card:
    """Execute the rollback on a branch with the target's rows, where one may be made.

    Raises Refused when it fails there.
    """
    plan: Plan = here.facts["plan"]
    given = here.parameters
    if not plan.changes or not given.with_data or here.facts.get("goes_on"):
        why = "nothing to try" if not plan.changes else "not with rows: with_data = False"
        why = "this rollback is resumed" if here.facts.get("goes_on") else why
        return Card("With the target's rows", [("tried", Cell(why, WARN if plan.changes else QUIET))])
    how, took_ms = rollback.with_rows(
        here.target, plan.changes, most_bytes=given.most_mb * 1024 * 1024, on_conflict=given.on_conflict,
        folder=here.run.folder,
    )  # fmt: skip
    here.journal("tried-with-rows", branch=how, took_ms=round(took_ms, 1))
    facts: list[tuple[str, object]] = [
        ("branch", how),
        ("result", Cell(f"it succeeded, in {took_ms:,.0f} ms", GOOD)),
    ]
    return Card("With the target's rows", facts)


@checks.check
def take_restore_point(here: Session) -> Card:
    """Create a named restore point and wait until it is archived. Raises Blocked."""
    return shared_steps.take_restore_point(here, "down")


@heres.live_step
@once.once(lambda here: shared_steps.recall_results(here, "down"))
def take_back(here: Session) -> Table:
    """Execute the inverse steps, newest first; the last transaction of each migration removes its history row.

    Raises Blocked, StatementFailed, Interrupted and Unreachable, each with what is taken back now.
    """
    return shared_steps.execute(here, "down")


@heres.step
def schema_as_before(here: Session) -> Table:
    """Compare the schema with the one before the migrations. Raises Broken when they differ."""
    plan, done = here.facts["plan"], here.facts["results"]  # before it is taken back there is nothing to compare
    history = histories.read(here.conn, here.target)
    here.facts["version_after"] = history.version()
    headings = ["compared with", "schema", "verdict"]
    if not plan.changes or not done:
        return Table(headings, [], empty="Nothing was taken back.")
    now = snapshot(here.conn, leave_out=leave_out(history))
    here.run.keep_masked("schema-after-rollback.json", now.to_json())
    promised = here.run.folder / "schema-promised-rollback.json"
    expected, recorded = plan.changes[-1].schema_after, here.facts.get("recorded")
    equal, different = Cell("equal", GOOD), Cell("different", BAD)
    moved = Cell("equal, but for what differs by nature (see what-goes-back)", GOOD)
    rows = []
    found: list[Difference] = []
    if regular_file.is_there(promised):
        end = Snapshot.from_json(regular_file.read(promised))
        found = schema_only.unexpected(end, now, _unlike(here))
    if expected:
        rows.append(("the rehearsal's end", expected[:16], equal if expected == now.fingerprint else different))
    elif regular_file.is_there(promised):
        rows.append(("the rehearsal's end, on another version", end.fingerprint[:16], different if found else equal))
    if recorded:
        # A column that was dropped and added again is the last of its table: then the rehearsal's end counts.
        as_far = equal if recorded == now.fingerprint else moved if expected == now.fingerprint else different
        rows.append(("recorded before the migration", recorded[:16], as_far))
    here.journal("schema-compared", fingerprint=now.fingerprint, promised=expected, recorded=recorded)
    table = Table(headings, rows, empty="Nothing to compare with: not rehearsed, and no run recorded it.")
    if any(verdict is different for *_, verdict in rows):
        here.show(table)
        lines = ["see schema-after-rollback.json"]
        if regular_file.is_there(promised):
            lines = [d.line() for d in found]
        raise Broken(
            "the schema is not as it was before the migrations",
            detail="; ".join(lines[:12])
            or "It equals the rehearsal's end, but not the schema recorded before the migration.",
            state=f"The rollback was executed and is committed; the history is at {history.version() or '(none)'}.",
            hint="Restore and compare. " + shared_steps.restoring(here.target, shared_steps.point_of_run(here, "down")),
        )
    return table


@heres.step
def kept_data(here: Session) -> Table:
    """Show the undo data of the migrations that were taken back, and until when it is kept."""
    names = {change.migration for change in here.facts["plan"].changes}
    kept = [one for one in undo_data.list_entries(here.conn) if one.migration in names]
    here.journal("kept-data", kept=[one.kept_as for one in kept])
    return here.keep_table("kept-data", undo_data_views.table(here.conn, kept))


@heres.step
def verdict(here: Session) -> Banner:
    """Say what is taken back, and what to open next."""
    plan: Plan = here.facts["plan"]
    back = [f"{c.migration}{' (some statements)' if c.ends == 'part' else ''}" for c in plan.changes]
    version = here.facts["version_after"] or "(none)"
    facts = [
        ("taken back", ", ".join(back) or "nothing"),
        ("version before", here.facts["version_before"] or "(none)"),
        ("restore point", here.facts["restore_point"]),
        *_left(here),
        *undo_data_views.left_behind(here.conn, [change.migration for change in plan.changes]),
        *undo_data_views.triggers(here.conn),
    ]
    state = f"The database is at version {version}."
    return here.verdict(
        state, facts, then=f"pgrunbook run release --target {here.target.name}, when the migration is corrected"
    )


def _left(here: Session) -> list[tuple[str, object]]:
    """Return the fact of the verdict that names the files of rows that were left as they are; or none."""
    files = sorted(file.name for file in here.run.folder.glob(undo_data.LEFT_FILES))
    return [("rows left as they are", listed(files))] if files else []


def _begun(here: Session) -> bool:
    return any(
        e["event"] == "migration-started" and e["direction"] == "down" for e in shared_steps.events(here, "rollback")
    )


def _unlike(here: Session) -> list[tuple[str, str]]:
    """Return the objects that the branch of this run's plan could not copy exactly."""
    frozen = [e for e in shared_steps.events(here, here.procedure) if e["event"] == "rollback-plan-frozen"]
    return [(kind, name) for kind, name in frozen[-1].get("unlike", [])] if frozen else []


def _make_plan(here: Session, wanted: list[rollback.RollbackItem]) -> None:
    """Plan and prove the way back, and freeze it."""
    history = here.facts["history"]
    now = snapshot(here.conn, leave_out=leave_out(history))
    changes: tuple[Change, ...] = ()
    loses: tuple[CaptureGap, ...] = ()
    unlike: tuple[tuple[str, str], ...] = ()
    rehearsed = "nothing to do"
    if wanted:
        done = rollback.rehearse(here.target, history, wanted, now, here.conn)
        changes, loses = release.with_locks(done.changes, here.conn), done.loses
        unlike = done.unlike
        here.run.keep_masked("schema-promised-rollback.json", done.end.to_json())
        rehearsed = "down and up again on an empty branch"
        recorded = step_log.history_step(here.conn, wanted[-1].migration.name)
        is_whole = wanted[-1].ends == "history row" and done.is_exact
        here.facts["recorded"] = recorded["schema_before"] if recorded and is_whole else None
    plan = Plan(
        direction="down", target=here.target.name, base=base(here.identity, now, history),
        attempts=here.target.attempts, rehearsed=rehearsed, changes=changes,
    )  # fmt: skip
    plan = hidden(plan)
    here.facts.update(plan=plan, loses=loses)
    here.run.keep_masked("rollback-plan.json", plan.parts())
    here.run.keep_masked("rollback-plan.sql", plan_sql.parts(plan))
    here.journal(
        "rollback-plan-frozen", digest=plan.digest, migrations=[c.migration for c in changes],
        unlike=unlike,
    )  # fmt: skip
