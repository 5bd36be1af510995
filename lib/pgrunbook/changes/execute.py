"""Executing a plan: step by step, under lock timeouts, recorded, and able to go on after a crash.

1. The database says what is done: its history table for whole migrations, schema pgrunbook for the
   steps of one that cannot run in a single transaction.
2. The steps of a migration that run together are sent in one transaction, which ends with the row of
   the history table and the rows of our own record: all of it is there, or nothing.
3. A statement that must run alone has a row before it (intended) and one after it (done). After a
   crash between the two, the catalog says which it was.
4. A transaction that could not get a lock, or that was the victim of a deadlock, is aborted and tried
   again, a bounded number of times, and the journal says who stood in the way.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import groupby

import psycopg
from psycopg import errors as pg

from pgrunbook import history as histories
from pgrunbook.changes import trouble
from pgrunbook.changes.alone import leftover_of, really_done
from pgrunbook.changes.plan import Change, Plan, Step
from pgrunbook.changes.statements import Policy
from pgrunbook.database import locks, steps
from pgrunbook.database.connection import Connection, run_locally
from pgrunbook.errors import Blocked, RunbookError
from pgrunbook.history import History
from pgrunbook.record.journal import Journal
from pgrunbook.target import Target

log = logging.getLogger(__name__)

RETRIED = (pg.LockNotAvailable, pg.DeadlockDetected)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0


class StepState(StrEnum):
    """How a step stands in this execution."""

    WAITING = "waiting"
    RUNNING = "running"
    RAN = "ran, not committed"
    DONE = "done"
    DONE_BEFORE = "done before"
    FAILED = "failed"


@dataclass(frozen=True)
class Stretch:
    """A stretch of time that a step spent, in seconds of ``time.monotonic``."""

    kind: str  # running, waiting, pause
    start: float
    end: float


@dataclass(frozen=True)
class StepResult:
    """What became of a step: attempts, time, rows touched, and who stood in its way."""

    migration: str
    step: Step
    state: StepState = StepState.WAITING
    attempt: int = 0
    ran_ms: float = 0.0
    waited_ms: float = 0.0
    rows: int | None = None
    blockers: str = ""
    notices: tuple[str, ...] = ()
    stretches: tuple[Stretch, ...] = ()


@dataclass
class Execution:
    """A plan being executed on a target: its connection, its journal and the results so far."""

    plan: Plan
    target: Target
    run_id: str
    conn: Connection
    history: History
    journal: Journal
    on_change: Callable[[list[StepResult]], None] = lambda _: None
    results: list[StepResult] = field(default_factory=list)
    committed: list[str] = field(default_factory=list)
    _notices: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.results = [StepResult(change.migration, step) for change, step in self.plan.steps()]
        self.conn.add_notice_handler(lambda diagnostic: self._notices.append(diagnostic.message_primary or ""))

    def run(self) -> list[StepResult]:
        """Execute every step that the database does not show as done; return what became of each.

        Raises Blocked when a lock was not to be had in the plan's attempts, StatementFailed when the server
        refused a statement, Interrupted when we were told to stop, Unreachable when the connection
        was lost. Each says what of the plan is applied now.
        Locks: those of the statements, each under its lock_timeout.
        """
        steps.create(self.conn)
        if not self.history.exists:
            for statement in histories.prepare_table(self.history):
                self.conn.execute(statement)
            self.history = replace(self.history, exists=True, schema_exists=True)
        for change in self.plan.changes:
            if self._is_done(change):
                self._mark(change, StepState.DONE_BEFORE)
                self.journal.write("migration-done-before", migration=change.migration)
                continue
            self._execute(change)
            self.committed.append(change.migration)
        return self.results

    # -- one migration

    def _is_done(self, change: Change) -> bool:
        applied = any(entry.name == change.migration for entry in self.history.applied())
        return applied if self.plan.direction == "up" else not applied

    def _execute(self, change: Change) -> None:
        self.journal.write("migration-started", migration=change.migration, direction=self.plan.direction)
        done = steps.of_migration(self.conn, change.migration, change.file_sha256, self.plan.direction)
        if len(change.steps) + 1 in done:
            done = {}  # it was done wholly, and its history row was changed by somebody else: the history counts
        groups = [(policy, list(some)) for policy, some in groupby(change.steps, key=lambda s: s.policy)]
        for number, (policy, group) in enumerate(groups, 1):
            left = [step for step in group if done.get(step.number) != "done"]
            for step in group:
                if step not in left:
                    self._set(change, step, state=StepState.DONE_BEFORE)
            if policy is Policy.ALONE:
                for step in left:
                    self._alone(change, step, meant_before=step.number in done)
            elif left and number < len(groups):
                self._together(change, left, last=False)
        ends_together = bool(groups) and groups[-1][0] is Policy.TOGETHER
        rest = [s for s in groups[-1][1] if done.get(s.number) != "done"] if ends_together else []
        self._together(change, rest, last=True)
        log.info("%s: %s committed", self.plan.direction, change.migration)

    def _together(self, change: Change, group: list[Step], *, last: bool) -> None:
        """Send the steps, and with the last of them the history row, in one transaction."""

        def attempt(number: int) -> None:
            with self.conn.transaction():
                for step in group:
                    run_locally(
                        self.conn,
                        lock_timeout_ms=step.lock_timeout_ms,
                        statement_timeout_ms=step.statement_timeout_ms,
                    )
                    self._send(change, step, number)
                self._note_in_database(change, group, last=last)
            for step in group:
                self._set(change, step, state=StepState.DONE)

        self._with_attempts(change, group, attempt)
        self.journal.write(
            "committed",
            migration=change.migration,
            direction=self.plan.direction,
            steps=[step.number for step in group],
            whole_migration=last,
        )

    def _alone(self, change: Change, step: Step, *, meant_before: bool) -> None:
        """Run a step outside a transaction, once the catalog shows that it is not done already."""
        if meant_before and really_done(self.conn, step):
            self._write_step(change, step, "done")
            self._set(change, step, state=StepState.DONE_BEFORE)
            self.journal.write("step-found-done", migration=change.migration, step=step.number)
            return
        if not meant_before:
            self._write_step(change, step, "intended")

        def attempt(number: int) -> None:
            self._drop_leftover(change, step)
            limits = f"SET lock_timeout = {step.lock_timeout_ms}; SET statement_timeout = {step.statement_timeout_ms}"
            self.conn.execute(limits.encode())
            try:
                self._send(change, step, number)
            finally:
                if not self.conn.broken:
                    self.conn.execute("RESET lock_timeout; RESET statement_timeout")
            self._set(change, step, state=StepState.DONE)

        self._with_attempts(change, [step], attempt)
        self._write_step(change, step, "done")
        self.journal.write(
            "committed", migration=change.migration, direction=self.plan.direction,
            steps=[step.number], whole_migration=False,
        )  # fmt: skip

    def _drop_leftover(self, change: Change, step: Step) -> None:
        """An index that CREATE INDEX CONCURRENTLY left invalid is dropped before the next attempt."""
        statement = leftover_of(self.conn, step)
        if statement is None:
            return
        self.journal.write(
            "leftover-dropped",
            migration=change.migration,
            step=step.number,
            sql=statement.as_string(self.conn),
        )
        self.conn.execute(statement)

    # -- one step

    def _send(self, change: Change, step: Step, attempt: int) -> None:
        self._set(change, step, state=StepState.RUNNING, attempt=attempt)
        self.journal.write(
            "step-started", migration=change.migration, direction=self.plan.direction, step=step.number,
            kind=step.kind, sha256=step.sha256, attempt=attempt, policy=step.policy,
        )  # fmt: skip
        self._notices.clear()
        start = time.monotonic()
        watch = locks.Watch(self.target, self.conn.info.backend_pid)
        try:
            with watch:
                cursor = self.conn.execute(step.sql.encode())
        finally:
            end = time.monotonic()
            self._note_time(change, step, watch, start, end)
        rows = cursor.rowcount if cursor.rowcount >= 0 else None
        self._set(change, step, state=StepState.RAN, rows=rows, notices=tuple(self._notices))
        result = self._result(change, step)
        self.journal.write(
            "step-ran", migration=change.migration, direction=self.plan.direction, step=step.number,
            attempt=attempt, ms=round((end - start) * 1000, 1), waited_ms=round(watch.waited_ms, 1), rows=rows,
            **({"blockers": watch.told()} if watch.blockers else {}),
            **({"notices": result.notices} if result.notices else {}),
        )  # fmt: skip
        log.info("%s step %s: %s in %.0f ms", change.migration, step.number, step.kind, (end - start) * 1000)

    def _with_attempts(self, change: Change, group: list[Step], attempt: Callable[[int], None]) -> None:
        """Call ``attempt`` until it succeeds; again only after a lock timeout or a deadlock."""
        for number in range(1, self.plan.attempts + 1):
            with self._telling(change, group):
                try:
                    return attempt(number)
                except RETRIED as exc:
                    self._note_attempt(change, number, exc)
                    if number == self.plan.attempts:
                        raise self._gave_up(change, exc) from exc
            pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (number - 1))
            with self._telling(change, group):
                time.sleep(pause)
        return None

    @contextlib.contextmanager
    def _telling(self, change: Change, group: list[Step]) -> Iterator[None]:
        """Turn whatever ends an attempt into an error of ours that says what is applied now."""
        try:
            yield
        except (psycopg.Error, KeyboardInterrupt) as exc:
            failed = next((s for s in group if self._result(change, s).state is StepState.RUNNING), None)
            error = trouble.explain(
                exc,
                self.target,
                self.plan,
                change,
                failed,
                self.conn,
                self.committed,
                self._result_text(change, failed),
            )
            self._fail(change, failed, error)
            raise error from (None if isinstance(exc, KeyboardInterrupt) else exc)

    def _gave_up(self, change: Change, exc: psycopg.Error) -> Blocked:
        running = next((r for r in self.results if r.state is StepState.RUNNING), None)
        error = trouble.gave_up(
            exc,
            self.plan,
            change,
            running.step if running else None,
            self.committed,
            running.blockers if running else "",
        )
        self._fail(change, running.step if running else None, error)
        return error

    def _fail(self, change: Change, step: Step | None, error: RunbookError) -> None:
        if step is not None:
            self._set(change, step, state=StepState.FAILED)
        self.journal.write(
            "step-failed", migration=change.migration, direction=self.plan.direction,
            step=step.number if step else None, error=error.lines(), kind=type(error).__name__,
        )  # fmt: skip

    # -- the database's record

    def _note_in_database(self, change: Change, group: list[Step], *, last: bool) -> None:
        for step in group:
            self._write_step(change, step, "done")
        if not last:
            return
        self._write_history_row(change)
        opposite = "down" if self.plan.direction == "up" else "up"
        steps.take_back(self.conn, change.migration, opposite)
        steps.write(
            self.conn, **self._row(change), step=len(change.steps) + 1, state="done", kind="history row",
            sha256=change.file_sha256, schema_before=change.schema_before, schema_after=change.schema_after,
        )  # fmt: skip

    def _write_history_row(self, change: Change) -> None:
        entry = next(e for e in self.history.entries if e.name == change.migration)
        if self.plan.direction == "up":
            if entry.migration is None:
                raise AssertionError(f"{change.migration} has no file, and still came into the plan")
            query, values = histories.record(self.history, entry.migration)
        else:
            query, values = histories.unrecord(self.history, entry)
        if self.conn.execute(query, values).rowcount != 1:
            raise trouble.history_moved(self.history.qualified_table, change, self.committed)

    def _write_step(self, change: Change, step: Step, state: str) -> None:
        steps.write(
            self.conn, **self._row(change), step=step.number, state=state, kind=step.kind, sha256=step.sha256,
            schema_before=None, schema_after=None,
        )  # fmt: skip

    def _row(self, change: Change) -> dict[str, object]:
        return {
            "run_id": self.run_id,
            "migration": change.migration,
            "direction": self.plan.direction,
            "file_sha256": change.file_sha256,
            "plan_digest": self.plan.digest,
        }

    # -- results

    def _result(self, change: Change, step: Step) -> StepResult:
        return self.results[self._index(change, step)]

    def _result_text(self, change: Change, step: Step | None) -> str:
        return self._result(change, step).blockers if step else ""

    def _index(self, change: Change, step: Step) -> int:
        return next(
            i for i, r in enumerate(self.results) if r.migration == change.migration and r.step.number == step.number
        )

    def _set(self, change: Change, step: Step, **facts: object) -> None:
        index = self._index(change, step)
        self.results[index] = replace(self.results[index], **facts)  # type: ignore[arg-type]
        self.on_change(self.results)

    def _mark(self, change: Change, state: StepState) -> None:
        for step in change.steps:
            self._set(change, step, state=state)

    def _note_time(self, change: Change, step: Step, watch: locks.Watch, start: float, end: float) -> None:
        before = self._result(change, step)
        waits = [Stretch("waiting", max(start, a), min(end, b)) for a, b in watch.waits]
        self._set(
            change, step,
            ran_ms=(end - start) * 1000,
            waited_ms=before.waited_ms + watch.waited_ms,
            blockers=watch.told() or before.blockers,
            stretches=(*before.stretches, Stretch("running", start, end), *waits),
        )  # fmt: skip

    def _note_attempt(self, change: Change, number: int, exc: psycopg.Error) -> None:
        running = next((r for r in self.results if r.state is StepState.RUNNING), None)
        self.journal.write(
            "attempt-failed", migration=change.migration, direction=self.plan.direction, attempt=number,
            of=self.plan.attempts, sqlstate=exc.sqlstate, message=str(exc).splitlines()[0],
            step=running.step.number if running else None, blockers=running.blockers if running else "",
        )  # fmt: skip
        log.info("%s attempt %s of %s failed: %s", change.migration, number, self.plan.attempts, exc.sqlstate)
