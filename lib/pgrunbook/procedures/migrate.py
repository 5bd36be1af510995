"""Migrate: execute exactly the frozen plan. The steps of notebooks/migrate.ipynb, in order."""

from __future__ import annotations

from pgrunbook import history as histories
from pgrunbook.branches.server import Server
from pgrunbook.database import readiness
from pgrunbook.database.readiness import Level, Limits
from pgrunbook.database.schema import Snapshot, snapshot
from pgrunbook.display.prose import counted
from pgrunbook.display.show import GOOD, WARN, Banner, Card, Cell, Stack, Table
from pgrunbook.draft import plan_sql, release
from pgrunbook.draft.build import base
from pgrunbook.errors import Refused
from pgrunbook.execute import permit, preconditions
from pgrunbook.execute.results import StepResult, StepState
from pgrunbook.history import History, places
from pgrunbook.history.state import leave_out
from pgrunbook.plan import plan as plans
from pgrunbook.plan.hidden import hidden
from pgrunbook.plan.plan import Plan
from pgrunbook.procedures import monitor_views, shared_steps
from pgrunbook.session import acceptance, checks, once
from pgrunbook.session import session as heres
from pgrunbook.session.parameters import Migrate
from pgrunbook.session.session import Session
from pgrunbook.session.watch import kept_samples

UNPREPARED = "not rehearsed: migrate was run without prepare"


def begin(**given: object) -> Session:
    """Check the parameters and find or make the run. Raises WrongInput, Blocked."""
    return heres.begin("migrate", Migrate, given)


@heres.step
def meet_the_target(here: Session) -> Card:
    """Show the server and database of the target. Raises Unreachable, Refused for a replica."""
    return here.meet_the_target()


@checks.check
def is_it_still_so(here: Session) -> Card:
    """Check that the database is still the one that the plan was made for; without a plan, make one now.

    Raises Refused when the base of the plan has changed, or a pre-check says stop.
    """
    history = histories.read(here.conn, here.target)
    now = snapshot(here.conn, leave_out=leave_out(history))
    plan = shared_steps.frozen_plan(here, "plan.json", "plan-frozen") or _plan_now(here, history, now)
    prepared = plan.rehearsed != UNPREPARED
    here.facts.update(history=history, plan=plan, version_before=history.version())
    here.subject = permit.subject(here, plan)
    preconditions.check_approved(plan, here.parameters.approved)
    accepted = places.resolved(history, here.parameters.accept)
    here.journal("gates", open=[gate.key for gate in acceptance.left(here.run, plan, accepted)],
                 approved=here.parameters.approved)  # fmt: skip
    preconditions.check_gates(here.run, plan, accepted)
    resumed = preconditions.check_base(here.run, plan, here.conn, history, now)
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


@checks.check
def take_restore_point(here: Session) -> Card:
    """Create a named restore point and wait until it is archived, so that a restore to this moment is possible.

    Raises Blocked when the WAL is not archived in time.
    """
    return shared_steps.take_restore_point(here, "up")


@heres.live_step
@once.once(lambda here: shared_steps.recall_results(here, "up"))
def execute_plan(here: Session) -> Table:
    """Execute the plan, step by step, with a table that is redrawn as it goes.

    Raises Blocked, StatementFailed, Interrupted and Unreachable, each with what is applied now.
    """
    return shared_steps.execute(here, "up")


@heres.step
def what_it_took(here: Session) -> Stack:
    """Draw when each step ran, waited and was tried again; below it how the server stood, where the run is observed."""
    samples = kept_samples(here.run.folder)
    drawn = shared_steps.timeline(here.facts["results"])
    return Stack([drawn, *([monitor_views.over_time(samples)] if samples else [])])


@heres.step
def where_are_we(here: Session) -> Table:
    """Show the history before and after."""
    history = histories.read(here.conn, here.target)
    here.facts["version_after"] = history.version()
    left = history.pending()
    before = here.facts.get("before") or shared_steps.standing(here.facts["history"])
    now = shared_steps.standing(history)
    rows = [(name, before[name], now[name]) for name in ("applied", "pending")]
    rows.insert(0, ("version", before["version"] or "(none)", now["version"] or "(none)"))
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
    then = here.following() or f"pgrunbook run validate --target {here.target.name} -p of_run={here.run.run_id}"
    return here.verdict(f"The database is at version {version}.", facts, then=then)


def _plan_now(here: Session, history: History, now: Snapshot) -> Plan:
    problems = history.problems(out_of_order=here.parameters.out_of_order)
    if problems:
        raise Refused(
            f"the migrations folder and {history.qualified_table} do not fit together",
            detail=" ".join(f"{e.name} is {e.state.replace('_', ' ')}: {e.note}" for e in problems),
            hint="Open prepare.ipynb: it shows every migration and its way out.",
            section="history",
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
        restore_point=here.target.restore_points,
        changes=release.unproven(here.target, here.conn, pending, off),
    )  # fmt: skip
    plan = hidden(plan)
    here.run.keep_masked("schema-before.json", now.to_json())
    here.run.keep_masked("plan.json", plan.parts())
    here.run.keep_masked("plan.sql", plan_sql.parts(plan))
    here.journal("plan-frozen", digest=plan.digest, steps=len(plan.steps()))
    acceptance.note(here.run, plan, [plans.REHEARSAL])  # whoever runs migrate alone does without a rehearsal
    return plan


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
