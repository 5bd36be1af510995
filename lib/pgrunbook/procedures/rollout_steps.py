"""How notebook rollout leads a rollout on: one move after the other, each under the run lock; holds are watched."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from pgrunbook.config import paths
from pgrunbook.database import locks
from pgrunbook.database.connection import Connection, connect
from pgrunbook.display import progress
from pgrunbook.display.prose import counted
from pgrunbook.errors import Interrupted, Refused, RunbookError, WrongInput
from pgrunbook.execute import permit
from pgrunbook.execute import rollout as execution
from pgrunbook.execute.permit import Permit
from pgrunbook.online import rollout, rollout_course, rollout_metric, rollout_state
from pgrunbook.online.rollout_course import Move
from pgrunbook.online.rollout_metric import Measure
from pgrunbook.online.rollout_state import BegunStage, RolloutStanding, RolloutState, StageStanding
from pgrunbook.online.rollout_table import RolloutTable
from pgrunbook.plan import rollout as plan
from pgrunbook.plan.rollout import DeclaredRollout, RolloutMetric
from pgrunbook.record import run as runs
from pgrunbook.session import checks
from pgrunbook.session.session import Session

FOLDER = "rollouts"
LOOK_S = 1.0  # how often a pause from another terminal is looked for
PATIENCE_S = 300.0  # for the run lock: a stage whose metric has fallen waits for a release to end


def declared(name: str) -> DeclaredRollout:
    """Return the rollout of a name. Raises WrongInput, with the names that there are."""
    folder = paths.project_dir() / FOLDER
    path = folder / f"{name}.yaml"
    if not name or path.parent != folder or not path.is_file():
        there = ", ".join(sorted(one.stem for one in folder.glob("*.yaml"))) or "none"
        raise WrongInput(
            f'there is no rollout "{name}"' if name else "no rollout is named",
            detail=f"Folder {FOLDER} of the project has: {there}.",
            hint="Name one: -p name=<name>; docs/guide.md, Staged rollout, says how to declare it.",
        )
    return plan.read(path)


def state(here: Session, table: RolloutTable, conn: Connection | None = None) -> RolloutState:
    """Return what the rollout is at, as the database has it now."""
    return rollout_state.read(conn or here.conn, table.rollout)


def subject(here: Session) -> str:
    """Return what the check of this run was about."""
    (found,) = checks.passed(here, "rollout", "roll-out")
    return found


@contextmanager
def at_work(here: Session, *, wait_s: float = 10.0) -> Iterator[Connection]:
    """Give a connection that may change something, under the run lock. Raises TargetBusy."""
    with (
        locks.one_runner(here.target, here.run.run_id, wait_s=wait_s),
        connect(here.target, purpose=f"{here.procedure} {here.run.run_id}") as conn,
        locks.one_executor(conn),
    ):
        yield conn


@contextmanager
def alone(here: Session) -> Iterator[None]:
    """Hold the lock of this rollout: one run leads it, also while it only watches. Raises TargetBusy."""
    name = here.facts["table"].rollout.name
    key = int.from_bytes(hashlib.sha256(f"pgrunbook rollout {name}".encode()).digest()[:8], signed=True)
    with (
        connect(here.target, purpose=f"leads rollout {name}") as conn,
        locks.held(conn, [key], of=f'rollout "{name}"', wait_s=1.0),
    ):
        try:
            yield
        except KeyboardInterrupt as exc:
            raise _stopped(here) from exc


def _stopped(here: Session) -> Interrupted:
    """Return the error for a rollout that somebody stopped, with what the database holds of it now."""
    name = here.facts["table"].rollout.name
    try:
        with connect(here.target, purpose=f"asks how far rollout {name} is") as conn:
            now = state(here, here.facts["table"], conn)
        stages = [f'stage "{one.name}" is {one.state}' for one in now.stages] or ["no stage has begun"]
        told = f"rollout {name} is {now.standing}: {', '.join(stages)}. Batches that were committed stay."
    except (psycopg.Error, RunbookError):
        told = f"Not known, the server does not answer: pgrunbook run rollout -p name={name} says it."
    return Interrupted(
        "stopped while a rollout was led on",
        state=told,
        hint=f"To go on: {runs.again()}. To take the stage back: pgrunbook run rollout --target {here.target.name}"
        f" -p name={name} -p do=step-back",
    )


def lead(here: Session) -> None:
    """Do what ``do`` says; see ``procedures.rollout.roll_out``."""
    match here.parameters.do:
        case "pause" | "resume":
            _stand(here, RolloutStanding.PAUSED if here.parameters.do == "pause" else RolloutStanding.OPEN)
            if here.parameters.do == "pause":
                return
        case "step-back" | "abandon":
            with alone(here):
                _back_by_person(here)
            return
    with alone(here):
        _go_on(here)


def _go_on(here: Session) -> None:
    ends_at = time.monotonic() + here.parameters.watch_s
    _catch_up(here)
    while True:
        now = state(here, here.facts["table"])
        if now.standing is RolloutStanding.NEW:
            return
        next_ = rollout_course.next_move(
            here.facts["table"].rollout, now, here.parameters.accept, here.run.run_id
        )  # fmt: skip
        begun = now.stage(next_.stage)
        match next_.move:
            case Move.BEGIN:
                _begin(here, next_.stage)
            case Move.WRITE:
                _write(here, next_.stage)
            case Move.TAKE_BACK if begun is not None:
                raise _taken_back(here, begun, begun.why)
            case Move.WATCH if begun is not None:
                if not _watch(here, begun, ends_at):
                    return
            case _:
                return


def _begin(here: Session, number: int) -> None:
    table: RolloutTable = here.facts["table"]
    stage = table.rollout.stages[number - 1]
    unknown = rollout.unknown_keys(here.conn, table, stage)
    if unknown:
        raise execution.unexpected(table, stage.name, f"no row has these keys of its list: {'; '.join(unknown)}")
    metric, value = table.rollout.metric_of(stage), None
    if metric is not None:
        before = _measure(here, number, metric)
        value = before.value
        if not before.is_ok:
            raise Refused(
                f'stage "{stage.name}" does not begin: the metric is {value:g} before it',
                detail=f"It has to be {metric.bounds}.",
                state="This stage changed nothing; the stages before it are as they were.",
                hint="Find out why, then run it again.",
            )
    here.at_work()
    here.journal("stage-meant", name=table.rollout.name, stage=stage.name, metric=value)
    with at_work(here) as conn:
        execution.begin_stage(conn, table, number, value, *_permitted(here, conn))


def _write(here: Session, number: int) -> None:
    table: RolloutTable = here.facts["table"]
    stage = table.rollout.stages[number - 1]
    here.at_work()
    here.journal("stage-writing", name=table.rollout.name, stage=stage.name)
    with at_work(here) as conn:
        left = execution.write(conn, here.target, table, number, *_permitted(here, conn), on_batch=lambda _: None)
    rows = state(here, table).rows(number, "on")
    here.journal("stage-written", name=table.rollout.name, stage=stage.name, rows=rows, left=left)


def _watch(here: Session, begun: BegunStage, ends_at: float) -> bool:
    """Look at the metric of a held stage; return whether its hold is over, False where this run ends before.

    Raises Refused where the metric has fallen, with the stage taken back.
    """
    table: RolloutTable = here.facts["table"]
    stage = table.rollout.stages[begun.number - 1]
    metric, bad, ask_at, value = table.rollout.metric_of(stage), 0, 0.0, ""
    with progress.doing(f"watching stage {stage.name}") as told:
        while True:
            if metric is not None and time.monotonic() >= ask_at:
                measured, ask_at = _measure(here, begun.number, metric), time.monotonic() + metric.every_s
                bad, value = 0 if measured.is_ok else bad + 1, f"metric {measured.value:g}, "
                if bad >= metric.bad_in_a_row:
                    raise _taken_back(here, begun, f"the metric fell to {measured.value:g}, {metric.bounds} was wanted")
            now = rollout_state.read(here.conn, table.rollout, counted=False)
            held = now.stage(begun.number)
            if now.standing is not RolloutStanding.OPEN or held is None or held.state is not StageStanding.HELD:
                return now.standing is RolloutStanding.OPEN
            left_s = stage.hold_s - (held.held_s or 0.0)
            if left_s <= 0 and not bad:
                _end(here, begun.number)
                return True
            wait_s = min(LOOK_S, max(left_s, 0.1), max(ask_at - time.monotonic(), 0.1) if metric else LOOK_S)
            if time.monotonic() + wait_s > ends_at:
                return False
            told.how_far(f"{value}{left_s:,.0f} s left")
            time.sleep(wait_s)


def _end(here: Session, number: int) -> None:
    table: RolloutTable = here.facts["table"]
    here.at_work()
    with at_work(here) as conn:
        came = execution.end_stage(conn, here.target, table, number, *_permitted(here, conn))
    here.journal("stage-done", name=table.rollout.name, stage=table.rollout.stages[number - 1].name, came=came)


def _catch_up(here: Session) -> None:
    """Give the flag to rows that came into the newest share since a run was here last."""
    table: RolloutTable = here.facts["table"]
    now = state(here, table)
    if now.standing is not RolloutStanding.OPEN or any(one.state is StageStanding.GOING_BACK for one in now.stages):
        return
    number = rollout_course.newest_share(table.rollout, now)
    if not number or not rollout.count(here.conn, table, table.rollout.stages[number - 1]).due:
        return
    here.at_work()
    with at_work(here) as conn:
        came = execution.follow(conn, here.target, table, number, *_permitted(here, conn))
    here.journal("stage-followed", name=table.rollout.name, stage=table.rollout.stages[number - 1].name, came=came)


def _taken_back(here: Session, begun: BegunStage, why: str) -> Refused:
    """Take a stage back; return the error that says so."""
    table: RolloutTable = here.facts["table"]
    _back(here, begun.number, why)
    now = state(here, table)
    back, changed, gone = (now.rows(begun.number, kind) for kind in ("back", "changed", "gone"))
    others = f"; {counted(changed, 'row')} changed by somebody meanwhile stay as they are" if changed else ""
    others += f"; {counted(gone, 'row')} were deleted meanwhile" if gone else ""
    return Refused(
        f'stage "{begun.name}" was taken back: {why}',
        detail=f"{counted(back, 'row')} lost the flag again{others}.",
        state="The stages before it have their flag still.",
        hint=f"Mend what made it fall; then let the stage begin again: "
        f"pgrunbook run rollout --target {here.target.name} -p name={table.rollout.name} -p accept={begun.name}",
    )


def _back(here: Session, number: int, why: str) -> None:
    table: RolloutTable = here.facts["table"]
    stage = table.rollout.stages[number - 1]
    here.at_work()
    here.journal("stage-back-meant", name=table.rollout.name, stage=stage.name, why=why)
    with at_work(here, wait_s=PATIENCE_S) as conn:
        execution.take_back(conn, here.target, table, number, why, *_permitted(here, conn), on_batch=lambda _: None)
    here.journal("stage-back", name=table.rollout.name, stage=stage.name,
                 rows=state(here, table).rows(number, "back"))  # fmt: skip


def _back_by_person(here: Session) -> None:
    table: RolloutTable = here.facts["table"]
    now = state(here, table)
    begun = [one for one in reversed(now.stages) if one.state is not StageStanding.BACK]
    is_back = any(one.state is StageStanding.BACK and one.run_id == here.run.run_id for one in now.stages)
    if now.standing in (RolloutStanding.NEW, RolloutStanding.REMOVED) or (
        here.parameters.do == "step-back" and not begun and not is_back
    ):
        raise Refused(
            f'rollout "{table.rollout.name}" has no stage to take back',
            detail=f"It is {now.standing}.",
            hint="See what it is at: cell plan-the-stages shows each stage.",
        )
    if here.parameters.do == "step-back" and is_back:
        return  # a cell that is run again takes no second stage back
    for one in begun if here.parameters.do == "abandon" else begun[:1]:
        _back(here, one.number, f"{here.parameters.do} by a person")
    if here.parameters.do == "abandon":
        _stand(here, RolloutStanding.ABANDONED)


def _stand(here: Session, standing: RolloutStanding) -> None:
    table: RolloutTable = here.facts["table"]
    now = state(here, table).standing
    wrong = now in (RolloutStanding.NEW, RolloutStanding.REMOVED) or (
        now is RolloutStanding.ABANDONED and standing is not RolloutStanding.ABANDONED
    )
    if wrong:
        raise Refused(
            f'rollout "{table.rollout.name}" is {now}: there is nothing to {here.parameters.do}',
            hint="Declare a new one under another name." if now is not RolloutStanding.NEW else "Begin it first.",
        )
    here.at_work()
    execution.set_standing(here.conn, table, standing, *_permitted(here, here.conn))
    here.journal("rollout-stands", name=table.rollout.name, standing=standing)


def _measure(here: Session, number: int, metric: RolloutMetric) -> Measure:
    """Ask the metric of a stage, and note the answer."""
    table: RolloutTable = here.facts["table"]
    stage = table.rollout.stages[number - 1]
    found = rollout_metric.measure(here.conn, metric, what=f'the metric of stage "{stage.name}"')
    if rollout_state.is_there(here.conn):
        rollout_state.looked(here.conn, table.rollout, number, found.value)
    if not found.is_ok:
        here.journal("metric-fell", stage=stage.name, value=found.value, wanted=metric.bounds)
    return found


def _permitted(here: Session, conn: Connection) -> tuple[Permit, str]:
    about = subject(here)
    return permit.of_rollout(here, about, "roll-out", conn), about
