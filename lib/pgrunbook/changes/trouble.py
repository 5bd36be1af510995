"""What to say when a step did not come through: what is applied now, and what to do next."""

from __future__ import annotations

import psycopg
from psycopg import errors as pg

from pgrunbook.changes.plan import Change, Plan, Step
from pgrunbook.changes.statements import Policy
from pgrunbook.database import steps
from pgrunbook.database.connection import Connection, connect
from pgrunbook.errors import Blocked, Broken, Interrupted, RunbookError, StatementFailed, Unreachable
from pgrunbook.target import Target


def explain(
    exc: BaseException,
    target: Target,
    plan: Plan,
    change: Change,
    step: Step | None,
    conn: Connection,
    committed: list[str],
    blockers: str,
) -> RunbookError:
    """Return the error for what ended an attempt at a migration."""
    where = _where(change, step)
    state = state_now(plan, change, step, committed)
    if isinstance(exc, KeyboardInterrupt):
        return Interrupted(
            f"stopped in {where}",
            detail="The statement was cancelled in the server, because this run was told to stop.",
            state=state,
            hint="Run the same run again with --resume: it goes on at the first step not done.",
        )
    if conn.broken or conn.closed:
        return _lost(exc, target, plan, change, where)
    assert isinstance(exc, psycopg.Error)  # noqa: S101 - the caller catches these two only
    if isinstance(exc, pg.QueryCanceled):
        limit = step.statement_timeout_ms if step else 0
        return StatementFailed(
            f"{where} did not end within its statement_timeout ({limit} ms)",
            detail=blockers or _one_line(exc),
            state=state,
            hint="Raise statement_timeout_ms, or make the statement do less at a time; then run it again.",
        )
    return StatementFailed(
        f"could not run {where}: {exc.diag.message_primary or _one_line(exc)}",
        detail=" ".join(filter(None, [exc.diag.message_detail, exc.diag.context])),
        state=state,
        hint=exc.diag.message_hint or "Correct the migration, and start a new run: its plan will have another digest.",
    )


def gave_up(
    exc: psycopg.Error, plan: Plan, change: Change, step: Step | None, committed: list[str], blockers: str
) -> Blocked:
    """Return the error for a lock that was not to be had in the plan's attempts."""
    what = ", ".join(step.objects[:3]) if step and step.objects else change.migration
    why = f"lock_timeout {step.lock_timeout_ms} ms" if step else "lock_timeout"
    if isinstance(exc, pg.DeadlockDetected):
        why = "deadlock"
    return Blocked(
        f'could not lock "{what}" in {plan.attempts} attempts ({why})',
        detail=blockers or exc.diag.message_detail or _one_line(exc),
        state=state_now(plan, change, step, committed),
        hint="End the process that heads the queue or wait for it, then run the same run again with --resume.",
    )


def history_moved(table: str, change: Change, committed: list[str]) -> Broken:
    """Return the error for a history row that was not there, or was there more than once."""
    done = f"Applied by this run before it: {', '.join(committed)}." if committed else "Nothing changed."
    return Broken(
        f"could not write exactly one row of {change.migration} in {table}",
        detail="Somebody else changed the history table while this run was at work.",
        state=f"The migration was aborted. {done}",
        hint="Look at the history table; then start a new run.",
    )


def state_now(plan: Plan, change: Change, step: Step | None, committed: list[str]) -> str:
    """Return one sentence about what of the plan is in the database now."""
    verb = "applied" if plan.direction == "up" else "taken back"
    before = f" {verb.capitalize()} by this run before it: {', '.join(committed)}." if committed else ""
    split = any(s.policy is Policy.ALONE for s in change.steps)
    if not split:
        return f"{change.migration} was aborted as a whole: nothing of it is {verb}.{before}"
    at = step.number if step else len(change.steps)
    return (
        f"{change.migration} runs in several transactions: its steps before step {at} are done and stay so, "
        f"step {at} is not, and the history table does not list it.{before}"
    )


def _where(change: Change, step: Step | None) -> str:
    if step is None:
        return f"{change.migration}"
    return f"step {step.number} of {change.migration} ({step.kind}; {step.file}, line {step.line})"


def _lost(exc: BaseException, target: Target, plan: Plan, change: Change, where: str) -> Unreachable:
    """The connection is gone, and with it the answer to COMMIT: ask the database what it shows."""
    try:
        with connect(target, purpose="asks what is done") as conn:
            done = steps.of_migration(conn, change.migration, change.file_sha256, plan.direction)
        shown = sorted(number for number, state in done.items() if state == "done")
        state = f"The database shows steps {shown} of {change.migration} as done." if shown else (
            f"The database shows nothing of {change.migration} as done."
        )  # fmt: skip
    except (psycopg.Error, RunbookError):
        state = f"Not known, the server does not answer: {change.migration} is either wholly done or not at all."
    return Unreachable(
        f"lost the connection in {where}",
        detail=_one_line(exc),
        state=state,
        hint="When the server answers again, run the same run with --resume: it goes on from what the database shows.",
    )


def _one_line(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:400]
