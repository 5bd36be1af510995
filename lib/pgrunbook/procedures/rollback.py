"""Rollback: take migrations back by their down scripts. The steps of notebooks/rollback.ipynb, in order."""

from __future__ import annotations

from pgrunbook import history as histories
from pgrunbook.changes import draft, rehearsal
from pgrunbook.changes import plan as plans
from pgrunbook.changes.losses import losses
from pgrunbook.changes.plan import Plan
from pgrunbook.database import steps
from pgrunbook.database.schema import Snapshot, snapshot
from pgrunbook.database.schema_diff import diff
from pgrunbook.errors import Broken, Refused, WrongInput
from pgrunbook.history import Entry, History, Migration
from pgrunbook.procedures import at_work
from pgrunbook.procedures import here as heres
from pgrunbook.procedures.here import Here
from pgrunbook.procedures.parameters import Rollback
from pgrunbook.record import run as runs
from pgrunbook.record.show import BAD, GOOD, Banner, Card, Cell, Table


def begin(**given: object) -> Here:
    """Check the parameters and find or make the run. Raises WrongInput, Blocked."""
    return heres.begin("rollback", Rollback, given)


@heres.step
def meet_the_target(here: Here) -> Card:
    """Show who is at the other end. Raises Unreachable, Refused for a replica."""
    return here.meet_the_target()


@heres.step
def what_goes_back(here: Here) -> Table:
    """Show the migrations and their inverse steps, newest first, proven on an empty branch.

    Raises Refused when a migration has no down script, or its down script does not lead back.
    """
    history = histories.read(here.conn, here.target)
    here.facts.update(history=history, version_before=history.version())
    path = here.run.folder / "rollback-plan.json"
    if path.is_file() and _begun(here):
        plan = plans.read(path)  # this run was broken off and goes on: what it meant to do stands
        here.facts["plan"] = plan
        here.journal("rollback-goes-on", digest=plan.digest)
    else:
        _make_plan(here, history, _chosen(here, history))
    plan = here.facts["plan"]
    rows = [
        (
            change.migration,
            step.number,
            Cell(step.kind, under=step.sql),
            ", ".join(step.objects),
            plan.rehearsed,
        )
        for change in plan.changes
        for step in change.steps
    ]
    headings = ["migration", "step", "statement", "touches", "proven"]
    empty = "Nothing to take back: the run applied nothing that still stands."
    return here.keep_table("what-goes-back", Table(headings, rows, empty=empty))


@heres.step
def what_about_new_rows(here: Here) -> Table:
    """Show what the down scripts drop and what it holds now; refuse to lose rows unless told to.

    Raises Refused when rows would be lost and ``lose_rows`` is not set.
    """
    found = losses(here.conn, here.facts["plan"].changes)
    rows = [
        (loss.migration, loss.what, Cell("not known" if loss.holds is None else f"{loss.holds:,} {loss.unit}",
                                         GOOD if loss.holds == 0 else BAD))
        for loss in found
    ]  # fmt: skip
    here.journal("losses", found={loss.what: loss.holds for loss in found})
    table = Table(["migration", "drops", "which holds"], rows, empty="Nothing is dropped: no row is lost.")
    lost = [loss for loss in found if loss.holds != 0]
    if lost and not here.parameters.lose_rows:
        here.show(table)
        raise Refused(
            f"the rollback would lose what {lost[0].what} holds",
            detail="; ".join(
                f"{loss.what}: {loss.holds if loss.holds is not None else 'unknown'} {loss.unit}" for loss in lost
            ),
            hint="Keep a copy of it first; then: "
            f"pgrunbook run rollback --target {here.target.name} {_told(here)}-p lose_rows=true",
        )
    return table


@heres.step
def take_restore_point(here: Here) -> Card:
    """Make a named restore point of its own and see it archived. Raises Blocked."""
    return at_work.take_restore_point(here, here.facts["plan"], "rollback")


@heres.step
def take_back(here: Here) -> Table:
    """Run the down scripts, newest first, each with the removal of its history row in one transaction.

    Raises Blocked, StatementFailed, Interrupted and Unreachable, each with what is taken back now.
    """
    return at_work.execute(here, here.facts["plan"], here.facts["history"])


@heres.step
def schema_as_before(here: Here) -> Table:
    """Compare the schema with the one before the migrations. Raises Broken when it is another one."""
    history = histories.read(here.conn, here.target)
    here.facts["version_after"] = history.version()
    plan: Plan = here.facts["plan"]
    headings = ["compared with", "schema", "verdict"]
    if not plan.changes:
        return Table(headings, [], empty="Nothing was taken back.")
    now = snapshot(here.conn, leave_out=rehearsal.leave_out(history))
    here.run.keep("schema-after-rollback.json", now.to_json())
    path = here.run.folder / "schema-promised-rollback.json"
    expected = [
        ("the rehearsal's end", plan.changes[-1].schema_after),
        ("recorded before the migration", here.facts.get("recorded")),
    ]
    equal, different = Cell("equal", GOOD), Cell("different", BAD)
    rows = [(name, f[:16], equal if f == now.fingerprint else different) for name, f in expected if f]
    here.journal("schema-compared", fingerprint=now.fingerprint, expected=dict(expected))
    table = Table(headings, rows, empty="Nothing to compare with: not rehearsed, and no run recorded it.")
    if any(fingerprint not in (None, now.fingerprint) for _, fingerprint in expected):
        here.show(table)
        lines = ["see schema-after-rollback.json"]
        if path.is_file():
            lines = [d.line() for d in diff(Snapshot.from_json(path.read_text(encoding="utf-8")), now)]
        raise Broken(
            "the schema is not as it was before the migrations",
            detail="; ".join(lines[:12])
            or "It equals the rehearsal's end, and not what was recorded before the migration.",
            state=f"The down scripts ran and are committed; the history is at {history.version() or '(none)'}.",
            hint="Restore beside it and compare: "
            f"pgrunbook run restore --target {here.target.name} -p to={here.facts['restore_point']}",
        )
    return table


@heres.step
def verdict(here: Here) -> Banner:
    """Say what is taken back, and what to open next."""
    plan: Plan = here.facts["plan"]
    back = [change.migration for change in plan.changes]
    version = here.facts["version_after"] or "(none)"
    facts = [
        ("taken back", ", ".join(back) or "nothing"),
        ("version before", here.facts["version_before"] or "(none)"),
        ("restore point", here.facts["restore_point"]),
    ]
    state = f"The database is at version {version}."
    return here.verdict(
        state, facts, then=f"pgrunbook run release --target {here.target.name}, when the migration is mended"
    )


def _told(here: Here) -> str:
    """Return the choice that this rollback was told, as parameters of the command line."""
    if here.parameters.of_run:
        return f"-p of_run={here.parameters.of_run} "
    return f"-p migrations={here.parameters.migrations} " if here.parameters.migrations != 1 else ""


def _begun(here: Here) -> bool:
    return any(e["event"] == "migration-started" and e["direction"] == "down" for e in at_work.events(here, "rollback"))


def _chosen(here: Here, history: History) -> list[Entry]:
    """Return the entries to take back, newest first. Raises Refused, WrongInput."""
    stops = history.problems(out_of_order=True)
    if stops:
        raise Refused(
            f"the migrations folder and {history.qualified_table} do not fit together",
            detail=" ".join(f"{e.name} is {e.state.replace('_', ' ')}: {e.note}" for e in stops),
            hint="A down script belongs to the text that was applied: settle this first.",
        )
    half = [
        one for one in steps.unfinished(here.conn, "up") if one.migration not in {e.name for e in history.applied()}
    ]
    if half:
        raise Refused(
            f"cannot take back anything: {half[0].migration} is partly applied, by run {half[0].run_id}",
            detail="Its first steps are in the database and not in the history: what lies below it cannot be proven.",
            hint=f"Mend what it met, and bring it to its end first: pgrunbook run --resume {half[0].run_id}.",
        )
    applied = list(reversed(history.applied()))
    if here.parameters.of_run:
        return _of_run(here, applied)
    if here.parameters.migrations > len(applied):
        raise WrongInput(
            f"cannot take back {here.parameters.migrations} migrations",
            detail=f"Only {len(applied)} are applied.",
            hint="Name fewer; to go back further, restore to a point in time.",
        )
    return applied[: here.parameters.migrations]


def _of_run(here: Here, applied: list[Entry]) -> list[Entry]:
    run = runs.find(here.parameters.of_run)
    names = set(steps.applied_by_run(here.conn, run.run_id))
    chosen = [entry for entry in applied if entry.name in names]
    if chosen != applied[: len(chosen)]:
        newer = [e.name for e in applied[: applied.index(chosen[-1])] if e.name not in names]
        raise Refused(
            f"cannot take back run {run.run_id}: newer migrations are applied",
            detail=f"Applied since: {', '.join(newer)}.",
            hint="Take those back first, newest first.",
        )
    return chosen


def _make_plan(here: Here, history: History, entries: list[Entry]) -> None:
    migrations = [entry.migration for entry in entries if entry.migration is not None]
    _refuse_without_script(here, migrations)
    changes = draft.with_locks(plans.down(here.target, migrations), here.conn)
    now = snapshot(here.conn, leave_out=rehearsal.leave_out(history))
    rehearsed = "nothing to do"
    if changes:
        done = rehearsal.rehearse(here.target, history, changes, plans.up(here.target, migrations), now)
        _refuse_one_way(done)
        schemas = [done.before, *done.after]
        changes = tuple(
            # A branch on another version words some objects otherwise: its fingerprint says nothing then.
            c if done.unlike else c.model_copy(update={"schema_before": a.fingerprint, "schema_after": b.fingerprint})
            for c, a, b in zip(changes, schemas[:-1], schemas[1:], strict=True)
        )
        here.run.keep("schema-promised-rollback.json", done.end.to_json())
        rehearsed = "down and up again on an empty branch"
        recorded = steps.history_step(here.conn, migrations[-1].name)
        here.facts["recorded"] = recorded["schema_before"] if recorded else None
    plan = Plan(
        direction="down", target=here.target.name, base=plans.base(here.identity, now, history),
        attempts=here.target.attempts, rehearsed=rehearsed, changes=changes,
    )  # fmt: skip
    here.facts["plan"] = plan
    here.run.keep("rollback-plan.json", plan.text())
    here.run.keep("rollback-plan.sql", plan.sql())
    here.journal("rollback-plan-frozen", digest=plan.digest, migrations=[c.migration for c in changes])


def _refuse_without_script(here: Here, migrations: list[Migration]) -> None:
    without = [m for m in migrations if m.down_sql is None]
    if not without:
        return
    oldest = without[-1].name
    applied_by = steps.history_step(here.conn, oldest)
    points = steps.restore_points(here.conn)
    point = next((p for p in points if applied_by and p.run_id == applied_by["run_id"]), None)
    way = "no restore point of a run is known before it: restore to a time before it"
    if point is not None:
        way = f"restore point {point.name} (LSN {point.lsn}) lies before it"
    raise Refused(
        f"cannot take back {oldest}: it has no down script",
        detail=f"{way[0].upper()}{way[1:]}. A restore goes to a new cluster, and what was written since is not in it.",
        hint=f"pgrunbook run restore --target {here.target.name} -p to={point.name if point else '<time with zone>'}",
    )


def _refuse_one_way(done: rehearsal.Rehearsal) -> None:
    bad = [way for way in done.ways if not way.proven]
    if bad:
        raise Refused(
            f"the down script of {bad[0].migration} does not lead back",
            detail=bad[0].says,
            hint="Correct the down script; nothing is run on the target that failed on a branch.",
        )
