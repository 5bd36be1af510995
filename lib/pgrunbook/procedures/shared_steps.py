"""The steps that migrate and rollback share: the restore point, the execution with its live table, the picture."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pgrunbook import history as histories
from pgrunbook.branches import archive, archive_compression, backup, incremental
from pgrunbook.branches.recovery_target import NAME_MAX_BYTES
from pgrunbook.branches.server import Server
from pgrunbook.config.targets import Target
from pgrunbook.database import locks, step_log
from pgrunbook.database.connection import Connection, connect
from pgrunbook.database.step_log import RestorePoint
from pgrunbook.display import progress
from pgrunbook.display.show import BAD, GOOD, PLAIN, QUIET, WARN, Bar, Card, Cell, Table, Timeline
from pgrunbook.errors import Refused, RunbookError
from pgrunbook.execute import approval, permit, preconditions
from pgrunbook.execute.execution import Execution
from pgrunbook.execute.permit import CELLS
from pgrunbook.execute.preconditions import POINTS
from pgrunbook.execute.results import StepResult, StepState, Stretch
from pgrunbook.history import History
from pgrunbook.plan import plan as plans
from pgrunbook.plan.plan import Direction, Plan, Step
from pgrunbook.record import journal
from pgrunbook.seal import anchor
from pgrunbook.session import checks
from pgrunbook.session.live_display import LiveDisplay
from pgrunbook.session.session import Session, is_headless
from pgrunbook.sql import secrets

TONES = {
    StepState.WAITING: QUIET,
    StepState.LOOKING: WARN,
    StepState.RUNNING: WARN,
    StepState.RAN: WARN,
    StepState.DONE: GOOD,
    StepState.DONE_BEFORE: QUIET,
    StepState.FAILED: BAD,
    StepState.STOPPED: WARN,
    StepState.UNDONE: WARN,
}
COLOURS = {"running": "#2da44e", "waiting": "#cf222e", "looking": "#bf8700"}
EXECUTED = "plan-executed"
PLANS: Mapping[Direction, tuple[str, str]] = {
    "up": ("plan.json", "plan-frozen"), "down": ("rollback-plan.json", "rollback-plan-frozen")
}  # fmt: skip
REDRAW_S = 0.2
ARCHIVED_WITHIN_S = 60.0


def events(here: Session, procedure: str) -> list[dict[str, Any]]:
    """Return the events of a procedure in the journal of this run."""
    return [e for e in journal.read(here.run.journal.path) if e.get("procedure", procedure) == procedure]


def frozen_plan(here: Session, name: str, event: str) -> Plan | None:
    """Return the plan that this run froze, None where it froze none.

    Raises WrongInput when its file is gone or cannot be read, Refused when it is another plan, or one for another
    target.
    """
    path = here.run.folder / name
    frozen = [e["digest"] for e in journal.read(here.run.journal.path) if e["event"] == event]
    if not frozen:  # a plan that a crash kept from being frozen, or that somebody put there, counts for nothing
        return None
    plan = plans.read(path)
    if plan.digest != frozen[-1]:
        raise Refused(
            f"{name} is not the plan that was frozen in this run",
            detail=f"The journal says {frozen[-1]}; the file has {plan.digest} now.",
            hint="Somebody has written another plan into the run's folder: find out who, and start a new run.",
        )
    if plan.target != here.target.name:
        raise Refused(
            f'the plan is for target "{plan.target}", not for "{here.target.name}"',
            detail="A plan is made for one target: another one has other tables, rows and rights.",
            hint=f"Start a new run: pgrunbook run release --target {here.target.name}",
        )
    return plan


def take_restore_point(here: Session, direction: Direction) -> Card:
    """Create a named restore point and wait until the archive holds it; one that this run made before is used again.

    Raises Blocked when the WAL is not archived in time, Refused where archiving is off, a check has not passed, or what
    would be executed is not approved, or not to be executed now.
    """
    about = checks.passed(here, CELLS[direction][0], "take-restore-point")
    plan: Plan = here.facts["plan"]
    is_begun = bool(preconditions.executed(here.run, plan, here.conn))
    approval.check_plan(here, plan, about, CELLS[direction][1], is_begun=is_begun, grants=False)
    here.at_work()
    if here.target.planetscale is not None:
        return _time_before(here)
    if not here.target.restore_points:
        here.facts["restore_point"] = "none: restore_points = false for this target"
        here.journal("restore-point-left-out", reason="restore_points = false")
        facts: list[tuple[str, object]] = [("taken", Cell("no: restore_points = false for this target", WARN))]
        return Card("Restore point", [*facts, ("to go back to now", restoring(here.target, None))], tone=WARN)
    if not plan.changes:
        here.facts["restore_point"] = "none: nothing to do"
        return Card("Restore point", [("taken", Cell("no: there is nothing to do", QUIET))])
    step_log.create(here.conn)
    anchor.opening(here.conn, here.run, for_restore_point=True)
    if _point_of_run(here, POINTS[direction]) is None:
        _check_base_backup(here)
    name, lsn, before = _restore_point(here, POINTS[direction], plan.base.version)
    with progress.doing("waiting for the archive to hold the restore point"):
        waited_s = archive.wait_archived(here.conn, lsn, ARCHIVED_WITHIN_S)
    here.facts["restore_point"] = name
    here.journal("restore-point-archived", name=name, lsn=lsn, waited_s=round(waited_s, 3))
    facts = [
        ("name", name),
        ("LSN", lsn),
        ("in the archive", Cell(f"yes, after {waited_s:.2f} s", GOOD)),
        ("to go back to it", restoring(here.target, name)),
    ]
    return Card("Restore point" + (" (taken before)" if before else ""), facts)


def _time_before(here: Session) -> Card:
    """Record the database's own time before the change: what PlanetScale can restore to."""
    now = "pg_catalog.clock_timestamp() AT TIME ZONE 'UTC'"
    asked = f'SELECT pg_catalog.to_char({now}, \'YYYY-MM-DD"T"HH24:MI:SS.US"Z"\')'
    told = events(here, here.procedure)
    before = [str(e["at"]) for e in told if e["event"] == "restore-point-left-out"]
    if before and any(e["event"] == "migration-started" for e in told):
        at = before[-1]  # the change has begun: now would be too late
    else:
        (at,) = map(str, here.conn.execute(asked.encode()).fetchone() or ("",))
        here.journal("restore-point-left-out", reason="PlanetScale restores to a time", at=at)
    here.facts["restore_point"] = f"none: PlanetScale restores to a time, {at}"
    facts: list[tuple[str, object]] = [
        ("taken", Cell("no: PlanetScale restores to a time", QUIET)),
        ("time before the change", at),
        ("to go back to it", f"pgrunbook run restore --target {here.target.name} -p to={at}"),
    ]
    return Card("Restore point", facts)


def point_of_run(here: Session, direction: Direction) -> str | None:
    """Return the restore point that this run has made before its plan, None where it has made none."""
    found = _point_of_run(here, POINTS[direction])
    return found.name if found else None


def _point_of_run(here: Session, when: str) -> RestorePoint | None:
    points = step_log.restore_points(here.conn)
    return next((p for p in points if p.run_id == here.run.run_id and p.name.startswith(f"{when}_")), None)


def restoring(target: Target, point: str | None) -> str:
    """Return how a person restores a target beside itself, to a restore point where a run has made one.

    pgrunbook restores embedded servers only; elsewhere the archive is somebody else's.
    """
    if target.server is not None or target.planetscale is not None:
        return f"pgrunbook run restore --target {target.name} -p to={point or '<time with zone>'}"
    if point is not None:
        return f"Restore a base backup of the server beside it, with recovery_target_name = '{point}'"
    return "Restore a backup of yours, or by your provider's own way, beside the database."


def _restore_point(here: Session, when: str, version: str | None) -> tuple[str, str, bool]:
    """Return name and LSN of this run's restore point, and whether it was there before: a run has one.

    A name that is in the WAL twice cannot be restored to. So a name that a crash left in doubt is not used again.
    """
    run_id, there = here.run.run_id, _point_of_run(here, when)
    if there is not None:
        return there.name, there.lsn, True
    before = [e for e in events(here, here.procedure) if e["event"].startswith("restore-point-")]
    made = next((e for e in reversed(before) if e["event"] == "restore-point-created"), None)
    if made is None:
        name = _name(when, run_id, attempt=1 + sum(e["event"] == "restore-point-meant" for e in before))
        here.journal("restore-point-meant", name=name)
        lsn = archive.create_restore_point(here.conn, name)
        made = {"name": name, "lsn": lsn}
        here.journal("restore-point-created", **made)
    # The row is written after the point: a database restored to the point does not have it.
    step_log.write_restore_point(here.conn, made["name"], run_id, made["lsn"], version)
    return made["name"], made["lsn"], False


def _name(when: str, run_id: str, attempt: int) -> str:
    end = f"_{attempt}" if attempt > 1 else ""
    whole = f"{when}_{run_id}{end}"
    return whole if len(whole) <= NAME_MAX_BYTES else f"{when}_{run_id[:16]}{run_id[-5:]}{end}"


def _check_base_backup(here: Session) -> None:
    """Take a base backup where a server of ours has none: no restore point can be restored without one before it.

    Where a restore to now would replay much WAL, take an incremental one; the release does not depend on it.
    """
    if here.target.server is None:
        return
    server = Server(here.target.server)
    if not backup.list_base_backups(server):
        with progress.doing("taking a base backup, as there is none yet"):
            taken = backup.take_base_backup(server)
        here.journal("base-backup-taken", id=taken.id, stop_lsn=taken.stop_lsn, bytes=taken.bytes)
    elif incremental.is_worth_it(server):
        try:
            with progress.doing("taking an incremental base backup, for a quick restore"):
                taken = incremental.take(server)
                archive_compression.compress(server)
        except RunbookError as exc:
            here.journal("base-backup-failed", error=exc.lines())
        else:
            here.journal("base-backup-taken", id=taken.id, stop_lsn=taken.stop_lsn, bytes=taken.bytes, onto=taken.onto)


def execute(here: Session, direction: Direction) -> Table:
    """Execute the plan under this database's run lock; return the table of steps at the end.

    Raises Refused when a check has not passed, Blocked when another runner, or a session that it left, is at work, and
    what Execution.run raises.
    """
    checks.passed(here, *CELLS[direction])
    plan, history = here.facts["plan"], here.facts["history"]
    here.at_work()
    live = Live()
    with (
        progress.doing("executing the plan"),
        locks.one_runner(here.target, here.run.run_id),
        connect(here.target, purpose=f"{here.procedure} {here.run.run_id}") as conn,
        locks.one_executor(conn),
        histories.tool_lock(conn, history),
    ):
        now = _history_now(here, conn, history)
        work = Execution(
            plan, here.target, here.run.run_id, conn, now, here.run.journal, permit.of_run(here, plan, conn),
            live.redraw,
        )  # fmt: skip
        try:
            results = work.run()
        except RunbookError:
            here.facts["results"] = work.results
            live.finish(work.results, failed=True)
            raise
    here.facts["results"] = results
    if not is_headless():
        here.journal(EXECUTED, digest=plan.digest, restore_point=here.facts["restore_point"], before=standing(history),
                     results=[_plain(one) for one in results])  # fmt: skip
    table = table_of(results)
    live.finish(results, failed=False)
    return here.keep_table(f"{here.procedure}-steps", table)


def standing(history: History) -> dict[str, Any]:
    """Return how a history stands: its version, and how many migrations are applied and pending."""
    return {"version": history.version(), "applied": len(history.applied()), "pending": len(history.pending())}


def recall_results(here: Session, direction: Direction) -> None:
    """Let the cells behind the execution know again what another kernel of this run has executed, and from where.

    Raises Refused where somebody has undone it since.
    """
    told = [e for e in events(here, here.procedure) if e["event"] == EXECUTED]
    name, frozen = PLANS[direction]
    plan = here.facts.get("plan") or frozen_plan(here, name, frozen)
    if not told or plan is None or plan.digest != told[-1]["digest"]:
        return
    preconditions.refuse_undone(here.run, plan, here.conn, histories.read(here.conn, here.target))
    steps = {(change.migration, step.number): step for change, step in plan.steps()}
    results = [_result(one, steps) for one in told[-1]["results"]]
    first = next(e for e in told if e["digest"] == plan.digest)
    here.facts.update(plan=plan, results=results, restore_point=told[-1]["restore_point"], before=first["before"],
                      version_before=first["before"]["version"])  # fmt: skip


def _plain(result: StepResult) -> dict[str, Any]:
    """Return the result of a step for the journal; its statement stands in the plan."""
    facts = {name: value for name, value in result.__dict__.items() if name != "step"}
    return {**facts, "number": result.step.number, "stretches": [asdict(one) for one in result.stretches]}


def _result(told: dict[str, Any], steps: Mapping[tuple[str, int], Step]) -> StepResult:
    facts = {name: value for name, value in told.items() if name != "number"}
    facts["stretches"] = tuple(Stretch(**one) for one in facts["stretches"])
    facts |= {"state": StepState(facts["state"]), "notices": tuple(facts["notices"])}
    return StepResult(**facts, step=steps[told["migration"], told["number"]])


def _history_now(here: Session, conn: Connection, seen: History) -> History:
    """Read the history again, now that nobody else can write it: what we read before may be old.

    While we waited for the run lock, another runner may have committed; or this very run, when it was
    killed while the server still executed its last statement.
    """
    now = histories.read(conn, here.target)
    if now.fingerprint() == seen.fingerprint():
        return now
    last = step_log.last_history_step(conn)
    if last is None or last["run_id"] != here.run.run_id:
        raise Refused(
            "the history table changed while this run was waiting",
            detail=f"It was at version {seen.version() or '(none)'}, and is at {now.version() or '(none)'} now.",
            hint="See what the other run did (pgrunbook runs); then start a new run, whose plan will fit.",
        )
    here.journal("history-moved-by-this-run", version=now.version())
    return now


def table_of(results: list[StepResult]) -> Table:
    """Return the table of steps: state, attempts, time, waiting, rows and blockers."""
    rows = [
        (
            r.migration,
            r.step.number,
            Cell(f"{r.step.kind}{' in batches' if r.step.batches else ''}", under=secrets.beginning(r.step.sql)),
            Cell(r.state, TONES[r.state]),
            r.attempt or "",
            f"{r.looked_ms:,.0f}" if r.looked_ms else "",
            f"{r.ran_ms:,.0f}" if r.attempt else "",
            Cell(f"{r.waited_ms:,.0f}" if r.attempt else "", WARN if r.waited_ms > 1 else PLAIN),
            "" if r.rows is None else f"{r.rows:,}",
            " ".join(filter(None, [_progress(r), r.blockers, *r.notices])),
        )
        for r in results
    ]
    headings = [
        "migration",
        "step",
        "statement",
        "state",
        "attempt",
        "ms until free",
        "ms",
        "waited ms",
        "rows",
        "notes",
    ]
    return Table(headings, rows, empty="Nothing to do.")


def _progress(result: StepResult) -> str:
    return f"{result.progress}." if result.progress else ""


def timeline(results: list[StepResult]) -> Timeline:
    """Return the picture of what ran and what waited, one lane per step."""
    begun = [s.start for r in results for s in r.stretches]
    zero = min(begun, default=0.0)
    lanes = [
        (
            f"{r.migration} {r.step.number}: {r.step.kind}",
            [
                Bar(
                    (s.start - zero) * 1000, (s.end - zero) * 1000, COLOURS[s.kind],
                    f"{s.kind} {(s.end - s.start) * 1000:.0f} ms",
                )
                for s in sorted(r.stretches, key=lambda s: s.kind)
            ],
        )
        for r in results
        if r.stretches
    ]  # fmt: skip
    title = "What ran, and what waited for a lock" if lanes else "Nothing ran"
    legend = {"running": "running", "waiting": "waiting in a lock queue", "looking": "waiting for blockers to end"}
    return Timeline(title, lanes, [(says, COLOURS[kind]) for kind, says in legend.items()])


class Live:
    """A display that is redrawn a few times a second, and replaced by the final table at the end.

    The table of a long plan takes a while to draw: a twentieth of the time is spent on it.
    """

    def __init__(self) -> None:
        self._display = LiveDisplay()
        self._next_at = time.monotonic() + REDRAW_S

    def redraw(self, results: list[StepResult]) -> None:
        """Show the table of steps as it is now."""
        began = time.monotonic()
        if began < self._next_at:
            return
        self._display.draw(table_of(results))
        drawn = time.monotonic()
        self._next_at = drawn + max(REDRAW_S, 20 * (drawn - began))

    def finish(self, results: list[StepResult], *, failed: bool) -> None:
        """Keep the table where the step failed; else clear it, as the step returns the final one."""
        if failed:
            self._display.draw(table_of(results))
        elif self._display.is_drawn:
            self._display.draw(Table([], [], empty="Every step ended:"))
