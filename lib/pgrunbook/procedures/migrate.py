"""Migrate: execute exactly the frozen plan. The steps of notebooks/migrate.ipynb, in order."""

from __future__ import annotations

from pgrunbook import history as histories
from pgrunbook.branches.server import Server
from pgrunbook.config import regular_file
from pgrunbook.database import readiness, step_log
from pgrunbook.database.readiness import Level, Limits
from pgrunbook.database.schema import Snapshot, snapshot
from pgrunbook.database.schema_diff import diff
from pgrunbook.display.prose import counted
from pgrunbook.display.show import GOOD, WARN, Banner, Card, Cell, Table, Timeline
from pgrunbook.draft import plan_sql, release
from pgrunbook.draft.build import base
from pgrunbook.errors import Broken, Refused
from pgrunbook.execute.results import StepResult, StepState
from pgrunbook.history import History, places
from pgrunbook.history.state import leave_out
from pgrunbook.plan import plan as plans
from pgrunbook.plan.hidden import check_key, hidden
from pgrunbook.plan.plan import Plan
from pgrunbook.procedures import shared_steps
from pgrunbook.session import acceptance
from pgrunbook.session import session as heres
from pgrunbook.session.parameters import Migrate
from pgrunbook.session.session import Session

UNPREPARED = "not rehearsed: migrate was run without prepare"


def begin(**given: object) -> Session:
    """Check the parameters and find or make the run. Raises WrongInput, Blocked."""
    return heres.begin("migrate", Migrate, given)


@heres.step
def meet_the_target(here: Session) -> Card:
    """Show the server and database of the target. Raises Unreachable, Refused for a replica."""
    return here.meet_the_target()


@heres.step
def is_it_still_so(here: Session) -> Card:
    """Check that the database is still the one that the plan was made for; without a plan, make one now.

    Raises Refused when the base of the plan has changed, or a pre-check says stop.
    """
    history = histories.read(here.conn, here.target)
    now = snapshot(here.conn, leave_out=leave_out(history))
    plan = shared_steps.frozen_plan(here, "plan.json", "plan-frozen") or _plan_now(here, history, now)
    prepared = plan.rehearsed != UNPREPARED
    here.facts.update(history=history, plan=plan, version_before=history.version())
    _check_approval(here, plan, history)
    resumed = _check_base(here, plan, history, now)
    _check_readiness(here)
    origin = "frozen by prepare in this run" if prepared else "made by migrate: nothing was rehearsed or promised"
    here.journal("base-checked", digest=plan.digest, prepared=prepared, resumed=resumed)
    return Card(
        "The plan fits the database",
        [
            ("plan", plan.digest),
            ("origin", Cell(origin, GOOD if prepared else WARN)),
            (
                "schema",
                "goes on after what this plan has applied already" if resumed else "unchanged since the plan",
            ),
            ("to do", f"{counted(len(plan.changes), 'migration')}, {counted(len(plan.steps()), 'step')}"),
        ],
    )


@heres.step
def take_restore_point(here: Session) -> Card:
    """Create a named restore point and wait until it is archived, so that a restore to this moment is possible.

    Raises Blocked when the WAL is not archived in time.
    """
    return shared_steps.take_restore_point(here, here.facts["plan"], "before")


@heres.step
def execute_plan(here: Session) -> Table:
    """Execute the plan, step by step, with a table that is redrawn as it goes.

    Raises Blocked, StatementFailed, Interrupted and Unreachable, each with what is applied now.
    """
    return shared_steps.execute(here, here.facts["plan"], here.facts["history"])


@heres.step
def what_it_took(here: Session) -> Timeline:
    """Draw when each step ran, waited and was tried again."""
    return shared_steps.timeline(here.facts["results"])


@heres.step
def where_are_we(here: Session) -> Table:
    """Show the history before and after."""
    history = histories.read(here.conn, here.target)
    here.facts["version_after"] = history.version()
    left = history.pending()
    rows = [
        ("version", here.facts["version_before"] or "(none)", history.version() or "(none)"),
        ("applied", len(here.facts["history"].applied()), len(history.applied())),
        ("pending", len(here.facts["history"].pending()), len(left)),
    ]
    here.journal("history-after", version=history.version(), pending=[m.name for m in left])
    return Table(["", "before", "after"], rows)


@heres.step
def verdict(here: Session) -> Banner:
    """Say what is applied now, and what to open next."""
    results: list[StepResult] = here.facts["results"]
    ran = [r for r in results if r.state is StepState.DONE]
    version = here.facts["version_after"] or "(none)"
    facts = [
        ("steps", f"{len(ran)} run, {len(results) - len(ran)} done before"),
        (
            "time",
            f"{sum(r.ran_ms for r in ran):,.0f} ms, of it {sum(r.waited_ms for r in ran):,.0f} ms waiting for locks",
        ),
        ("restore point", here.facts["restore_point"]),
    ]
    return here.verdict(f"The database is at version {version}.", facts, then="validate.ipynb in this run's folder")


def _plan_now(here: Session, history: History, now: Snapshot) -> Plan:
    problems = history.problems(out_of_order=here.parameters.out_of_order)
    if problems:
        raise Refused(
            f"the migrations folder and {history.qualified_table} do not fit together",
            detail=" ".join(f"{e.name} is {e.state.replace('_', ' ')}: {e.note}" for e in problems),
            hint="Open prepare.ipynb: it shows every migration and its way out.",
        )
    pending = history.pending(out_of_order=here.parameters.out_of_order)
    if here.target.safe_migrations:
        raise Refused(
            f'target "{here.target.name}" is in safe-migrations mode, and nothing was prepared',
            detail="prepare checks what a plan loses, and only there you can allow a loss (allow_loss).",
            hint=f"pgrunbook run release --target {here.target.name}",
        )
    off = places.reasons(history, here.parameters.safe_forms_off)
    plan = Plan(
        direction="up", target=here.target.name, base=base(here.identity, now, history),
        attempts=here.target.attempts, rehearsed=UNPREPARED, unproven=UNPREPARED,
        changes=release.unproven(here.target, here.conn, pending, off),
    )  # fmt: skip
    plan = hidden(plan)
    here.run.keep("schema-before.json", now.to_json(), is_masked=True)
    here.run.keep("plan.json", plan.text(), is_masked=True)
    here.run.keep("plan.sql", plan_sql.text(plan))
    here.journal("plan-frozen", digest=plan.digest, steps=len(plan.steps()))
    acceptance.note(here.run, plan, [plans.REHEARSAL])  # whoever runs migrate alone does without a rehearsal
    return plan


def _check_approval(here: Session, plan: Plan, history: History) -> None:
    """Check that the plan is the approved one, where one was named, and that each of its gates is accepted."""
    if not plan.digest.startswith(here.parameters.approved):
        raise Refused(
            "the plan is not the one that was approved",
            detail=f"Approved was {here.parameters.approved}; the plan of this run has digest {plan.digest}.",
            hint="Have this plan approved: the step freeze-the-plan of prepare shows it.",
        )
    left = acceptance.left(here.run, plan, places.resolved(history, here.parameters.accept))
    here.journal("gates", open=[gate.key for gate in left], approved=here.parameters.approved)
    if left:
        raise Refused(
            f"the plan has {counted(len(left), 'gate')} that nobody has accepted",
            detail=" ".join(f"{gate.key}: {gate.gate.says}. {gate.gate.how}" for gate in left),
            hint="Write other migrations as each gate says; or accept the gates, where that may be: "
            f"pgrunbook accept {here.run.run_id} {' '.join(gate.key for gate in left)}; then run this cell again, "
            f"or headless: pgrunbook run --resume {here.run.run_id}",
        )


def _check_base(here: Session, plan: Plan, history: History, now: Snapshot) -> bool:
    """Return whether the plan is partly applied already. Raises Refused when it does not fit the database."""
    if (plan.base.system_identifier, plan.base.database) != (
        here.identity.system_identifier,
        here.identity.database,
    ):
        raise Refused(
            "the plan was made for another database",
            detail=f"It names {plan.base.database} of system {plan.base.system_identifier}; "
            f"this is {here.identity.database} of system {here.identity.system_identifier}.",
            hint="Make a new plan: start a new run.",
        )
    _refuse_edited(plan, history)
    applied = {entry.name for entry in history.applied()}
    done = [change for change in plan.changes if change.migration in applied]
    texts = {change.migration: change.file_sha256 for change in plan.changes}
    there = step_log.of_plan(here.conn, texts, "up").values()
    begun = any(e["event"] in ("committed", "step-ran") for e in shared_steps.events(here, "migrate")) or any(
        one.run_id == here.run.run_id for one in there
    )
    if done != list(plan.changes[: len(done)]):
        raise Broken(
            "the plan was applied in another order, or by somebody else",
            detail=f"Applied of it: {', '.join(c.migration for c in done)}.",
            hint="Check the history, then start a new run.",
        )
    if not done and not begun and plan.base.history_fingerprint != history.fingerprint():
        raise Refused(
            "the history table changed since the plan was made",
            detail=f"The plan was made at version {plan.base.version or '(none)'}; "
            f"the history is at {history.version() or '(none)'}.",
            hint="Start a new run: its plan will fit.",
        )
    expected = done[-1].schema_after if done else plan.base.schema_fingerprint
    # Between two transactions of a migration the schema is one that no rehearsal has recorded.
    if expected is not None and expected != now.fingerprint and not (begun or done):
        _refuse_drift(here, now)
    return bool(done or begun)


def _refuse_edited(plan: Plan, history: History) -> None:
    """Raise Refused where a file is not the one that the plan was made of: its hash goes into the history table."""
    files = {entry.name: entry.migration for entry in history.entries}
    for change in plan.changes:
        check_key(change.migration, [change.file_sha256])
        file = files.get(change.migration)
        if file is None or file.fingerprint != change.file_sha256:
            raise Refused(
                f"{change.migration} was {'edited' if file else 'removed'} since the plan was made",
                detail=f"The plan holds the text with sha256 {change.file_sha256[:16]}; "
                + (f"the file has {file.fingerprint[:16]} now." if file else "the file is gone."),
                hint="Put the file back as it was and go on, or start a new run, whose plan is made of today's files.",
            )


def _refuse_drift(here: Session, now: Snapshot) -> None:
    path = here.run.folder / "schema-before.json"
    before = Snapshot.from_json(regular_file.read(path)) if regular_file.is_there(path) else None
    lines = [d.line() for d in diff(before, now)] if before else ["the snapshot of prepare is gone"]
    raise Refused(
        "the schema changed since the plan was made",
        detail="; ".join(lines[:12]) + (f"; and {len(lines) - 12} more" if len(lines) > 12 else ""),
        hint="Find out who changed it; then start a new run, whose plan is made for the schema of today.",
    )


def _check_readiness(here: Session) -> None:
    server = Server(here.target.server) if here.target.server else None
    found = readiness.checks(
        here.conn, here.identity, Limits(transaction_age_s=here.parameters.max_transaction_age_s),
        data_dir=server.data_dir if server else None, needs_restore_point=here.target.restore_points,
    )  # fmt: skip
    here.journal("checked", checks={c.name: c.level for c in found})
    # Another run is no reason to refuse here: execute-plan waits for the run lock, and names its holder.
    stops = [c for c in found if c.level is Level.STOP and c.name != "other runs"]
    if stops:
        raise Refused(
            f"it is not safe to start: {', '.join(c.name for c in stops)}",
            detail="; ".join(f"{c.name}: {c.found} (limit {c.limit})" for c in stops),
            hint=" ".join(c.advice for c in stops),
        )
