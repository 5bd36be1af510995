"""The errors for an execution that failed: each says what is applied now, and what to do next."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import errors as pg
from psycopg.pq import TransactionStatus

from pgrunbook import undo_data
from pgrunbook.config.targets import Target
from pgrunbook.database import step_log
from pgrunbook.database.connection import Connection, connect
from pgrunbook.database.sqlstate import Meaning, meaning
from pgrunbook.database.step_log import MigrationProgress, UnfinishedMigration
from pgrunbook.display.prose import counted
from pgrunbook.errors import Blocked, Broken, Interrupted, Refused, RunbookError, StatementFailed, Unreachable
from pgrunbook.history import History
from pgrunbook.plan.hidden import check_key
from pgrunbook.plan.plan import Change, Plan, Step
from pgrunbook.record.run import after_failure, again, go_on_command
from pgrunbook.sql.classify import Policy

GONE_WITHIN_S = 5.0
POLL_S = 0.1
STAYS = "steps are done and stay so"


@dataclass(frozen=True)
class AttemptEnd:
    """Where an attempt ended: in the step that was being sent, or else in what was done with the migration.

    ``doing`` is "record" while the rows of the history and of schema pgrunbook are written, "commit"
    after that. ``blockers`` names the blockers that were seen, ``ran_ms`` is how long the step ran. ``batches``
    and ``rows`` of a loop are committed for certain. ``left`` is why
    helpers of a refused statement could not be dropped, "" where none is left.
    """

    target: Target
    plan: Plan
    change: Change
    step: Step | None
    doing: str
    history_table: str
    blockers: str
    ran_ms: float
    committed: Sequence[str]
    backend_pid: int
    batches: int = 0
    rows: int = 0
    left: str = ""

    def where(self) -> str:
        """The step with its file and line, as messages name it; the migration where no step was being sent."""
        if self.step is None:
            return self.change.migration
        step = self.step
        return f"step {step.number} of {self.change.migration} ({step.kind}; {self.change.where(step)})"

    def timed_out(self) -> bool:
        """Whether the step ran into its statement_timeout: the same plan would get no further."""
        return self.step is not None and self.ran_ms >= self.step.statement_timeout_ms


def was_refused(exc: psycopg.Error) -> bool:
    """Tell whether the server refused a statement, or only cut it off: no lock, cancelled, no disk, no memory."""
    return meaning(exc) in (Meaning.REFUSED, Meaning.NO_RIGHT)


def explain(exc: BaseException, scene: AttemptEnd, conn: Connection) -> RunbookError:
    """Return the error for what ended an attempt at a migration."""
    if isinstance(exc, KeyboardInterrupt):
        return Interrupted(
            f"stopped in {scene.where()}",
            detail="Somebody stopped this run; what was running in the server was cancelled.",
            state=state_now(scene, conn),
            hint=f"{_sentence(again())}. It goes on at the first step that is not done.",
        )
    if conn.closed:
        return _lost(exc, scene)
    state = state_now(scene, conn)
    if isinstance(exc, RunbookError):
        exc.state = state
        return exc
    assert isinstance(exc, psycopg.Error)  # noqa: S101 - the caller catches these only
    if isinstance(exc, pg.QueryCanceled) and scene.step is not None:
        return _cancelled(exc, scene, scene.step, state)
    verb = {"record": "record", "commit": "commit"}.get(scene.doing, "run") if scene.step is None else "run"
    notes = getattr(exc, "__notes__", [])  # the row that a batch was refused for
    said, places = (
        " ".join(filter(None, [exc.diag.message_detail, *notes, exc.diag.context])),
        _captured(exc, scene, conn),
    )
    return StatementFailed(
        f"could not {verb} {scene.where()}: {exc.diag.message_primary or one_line(exc)}",
        detail=" ".join([said, *(f"It may be a row in {place}." for place in places)]).strip(),
        state=state,
        hint=undo_data.way_on(places, _then(scene, state), target=scene.target.name)
        if places
        else exc.diag.message_hint or _after_refusal(exc, scene, state),
    )


def _captured(exc: psycopg.Error, scene: AttemptEnd, conn: Connection) -> list[undo_data.CapturedPlace]:
    """Return where captured rows lie that the server may have refused when they were reapplied; [] for none."""
    is_up = scene.plan.direction == "up" and isinstance(exc, psycopg.IntegrityError)
    if not is_up or conn.info.transaction_status != TransactionStatus.IDLE:
        return []
    return undo_data.captured_places(conn, scene.change.migration, exc.diag.message_detail or "")


def gave_up(exc: psycopg.Error, scene: AttemptEnd, conn: Connection) -> Blocked:
    """Return the error for a lock that could not be acquired in the plan's attempts."""
    what, why = scene.history_table, "lock_timeout"
    if scene.step is not None:
        what = ", ".join(scene.step.objects[:3]) or scene.change.migration
        why = f"lock_timeout {scene.step.lock_timeout_ms} ms"
    if isinstance(exc, pg.DeadlockDetected):
        why = "deadlock"
    return Blocked(
        f'could not lock "{what}" in {counted(scene.plan.attempts, "attempt")} ({why})',
        detail=scene.blockers or exc.diag.message_detail or one_line(exc),
        state=state_now(scene, conn),
        hint=f"End the first process of the lock queue or wait for it, then {again()}.",
    )


def history_moved(table: str, change: Change) -> Broken:
    """Return the error for a history table that does not hold exactly one row of the migration."""
    return Broken(
        f"could not write exactly one row of {change.migration} in {table}",
        detail="Somebody else changed the history table while this run was at work.",
        hint="Check the history table; then start a new run.",
    )


def begun_elsewhere(migration: str, begun: MigrationProgress) -> Refused:
    """Return the error for a migration that another plan has begun and not finished."""
    return Refused(
        f"{migration} was begun by run {begun.run_id}, and not finished",
        detail="The plan of that run has other steps. Those that are done: "
        f"{', '.join(str(n) for n, done in sorted(begun.steps.items()) if done) or 'none for certain'}.",
        hint=f"Go on with that run: {go_on_command(begun.run_id)}.",
    )


def refuse_unfinished(found: Sequence[UnfinishedMigration], texts: Mapping[str, str]) -> None:
    """Raise Refused where a migration (name to sha256) was begun from another text, and is not finished."""
    for one in found:
        check_key(one.migration, [one.file_sha256])
        if texts.get(one.migration, one.file_sha256) != one.file_sha256:
            raise Refused(
                f"{one.migration} was begun by run {one.run_id} from another text, and not finished",
                detail=f"Steps of that text (sha256 {one.file_sha256[:16]}) are applied; these would be added to them.",
                hint=f"Put the file back as it was, and go on with that run: {go_on_command(one.run_id)}.",
            )


def check_folder(plan: Plan, history: History) -> None:
    """Check that the folder still holds what the plan was made of: its hashes go into the history table.

    Raises Refused when it does not.
    """
    entries = {entry.name: entry for entry in history.entries}
    for change in plan.changes:
        check_key(change.migration, [change.file_sha256])
        entry = entries.get(change.migration)
        file = entry.migration if entry else None
        if plan.direction == "up" and (file is None or file.as_it_was(change.file_sha256) is None):
            is_now = "was removed" if file is None else "was edited"
            raise Refused(
                f"{change.migration} {is_now} since the plan was made",
                detail="The statements come from the plan, but the row in the history table comes from the file.",
                hint="Put the file back as it was, or start a new run, whose plan is made of the new text.",
            )


def state_now(scene: AttemptEnd, conn: Connection) -> str:
    """Return what of the migration is in the database now, as the database itself shows it."""
    try:
        if conn.closed or conn.info.transaction_status != TransactionStatus.IDLE:
            with connect(scene.target, purpose="asks what is done") as asking:
                return _shown(scene, asking)
        return _shown(scene, conn)
    except (psycopg.Error, RunbookError):
        return _not_known(scene)


def one_line(exc: BaseException) -> str:
    """Return a driver's message in one line."""
    return " ".join(str(exc).split())[:400]


def _shown(scene: AttemptEnd, conn: Connection) -> str:
    change, verb = scene.change, "applied" if scene.plan.direction == "up" else "taken back"
    begun = step_log.of_plan(conn, {change.migration: change.file_sha256}, scene.plan.direction).get(change.migration)
    done = sorted(number for number, is_done in begun.steps.items() if is_done) if begun else []
    loops = _loops(conn, scene) if begun else []
    said = f"{change.migration} was aborted as a whole: nothing of it is {verb}."
    if begun and begun.whole:
        said = f"{change.migration} is {verb} as a whole."
    elif done or loops:
        listed = "; ".join(filter(None, [", ".join(map(str, done)), *loops]))
        lists = "does not list it yet" if scene.plan.direction == "up" else "lists it still"
        said = f"Of {change.migration} these {STAYS}: {listed}; the history table {lists}."
    query = scene.step.leftovers if scene.step else None
    with conn.as_target():
        left = [str(row[0]) for row in conn.execute(query.encode())] if query else []
    if left:
        said += f" It left something invalid, which the next attempt drops: {'; '.join(left)}."
    if scene.left:
        said += f" The helper objects of the refused statement could not be dropped ({scene.left}), and are used again."
    if scene.committed:
        said += f" {verb.capitalize()} by this run before it: {', '.join(scene.committed)}."
    return said


def _loops(conn: Connection, scene: AttemptEnd) -> list[str]:
    """Describe the loops that have not finished; the batches that they have committed stay."""
    prefix = f"{scene.plan.direction}:{scene.change.migration}:{scene.change.file_sha256}:"
    found = conn.execute(
        "SELECT name, batches, rows FROM pgrunbook.batch WHERE NOT is_done AND batches > 0 AND starts_with(name, %s)",
        [prefix],
    )
    return [
        f"{_batches(int(str(batches)), int(str(rows)))} of step {str(name).removeprefix(prefix)}"
        for name, batches, rows in found
    ]


def _after_refusal(exc: psycopg.Error, scene: AttemptEnd, state: str) -> str:
    """Return the hint for a refused statement: it depends on the reason, and on what is applied of its migration."""
    if STAYS in state:
        return f"Correct what the server names, leave the file as it is, and {_then(scene, state)}."
    if isinstance(exc, psycopg.IntegrityError) and scene.step is not None and scene.step.gives_rows:
        return f"Correct the rows that the server names, and {_then(scene, state)}; or {undo_data.LEAVE_REFUSED}."
    # The rows were in the table before; they do not come from the migration itself.
    if isinstance(exc, psycopg.IntegrityError) and scene.step is not None and scene.step.policy is Policy.ALONE:
        return _mend(scene, state)
    if isinstance(exc, psycopg.IntegrityError) and scene.step is not None and scene.step.form:
        return _mend(scene, state)
    return "Correct the migration, and start a new run: its plan will have another digest."


def _then(scene: AttemptEnd, state: str) -> str:
    """Return how to go on after a failure that the runner takes back, where something is applied."""
    return after_failure(applied=bool(scene.committed) or STAYS in state)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _mend(scene: AttemptEnd, state: str) -> str:
    return (
        f"Correct the rows that the server names, leave the file as it is, and {_then(scene, state)}; "
        "or correct the migration, and start a new run."
    )


def _cancelled(exc: pg.QueryCanceled, scene: AttemptEnd, step: Step, state: str) -> StatementFailed:
    if not scene.timed_out():
        return StatementFailed(
            f"{scene.where()} was cancelled in the server",
            detail=f"{one_line(exc)}; it had run for {scene.ran_ms:.0f} ms.",
            state=state,
            hint=f"Somebody called pg_cancel_backend: find out who, then {_then(scene, state)}.",
        )
    return StatementFailed(
        f"{scene.where()} did not end within its statement_timeout ({step.statement_timeout_ms} ms)",
        detail=scene.blockers or one_line(exc),
        state=state,
        hint="Raise statement_timeout_ms, or split the statement into smaller ones; then start a new run.",
    )


def _lost(exc: BaseException, scene: AttemptEnd) -> Unreachable:
    """Return the error for a lost connection; what COMMIT answered is unknown, so a new session asks the database."""
    try:
        with connect(scene.target, purpose="asks what is done") as conn:
            still = f"Not known yet: process {scene.backend_pid} is still at work on it in the server."
            state = f"{still} {_certain(scene)}".rstrip()
            if _is_gone(conn, scene.backend_pid):
                state = _shown(scene, conn)
    except (psycopg.Error, RunbookError):
        state = _not_known(scene)
    return Unreachable(
        f"lost the connection in {scene.where()}",
        detail=one_line(exc),
        state=state,
        hint=f"When the server answers again, {again()}. The database shows what is done.",
    )


def _not_known(scene: AttemptEnd) -> str:
    change = scene.change
    if certain := _certain(scene):
        return f"Not known, the server does not answer. {certain}"
    each = "each step of" if len(change.segments()) > 1 else "the whole of"
    return f"Not known, the server does not answer: {each} {change.migration} is either done or not begun."


def _certain(scene: AttemptEnd) -> str:
    """Return what the server has confirmed of the loop that was running, "" where none was."""
    if scene.step is None or not scene.step.is_loop:
        return ""
    done = f"{_batches(scene.batches, scene.rows)} of" if scene.rows else "no batch of"
    return (
        f"Committed for certain: {done} step {scene.step.number} of {scene.change.migration}; "
        "the next batch may be, too. What is committed stays."
    )


def _batches(batches: int, rows: int) -> str:
    done = counted(rows, "row")
    return f"{counted(batches, 'batch', 'batches')} ({done})" if batches else done  # a revert counts its rows only


def _is_gone(conn: Connection, pid: int) -> bool:
    deadline = time.monotonic() + GONE_WITHIN_S
    query = "SELECT FROM pg_catalog.pg_stat_activity a WHERE a.pid = %s"
    while conn.execute(query, [pid]).fetchone() is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
