"""Executing a plan: step by step, under lock timeouts, recorded, and able to go on after a crash.

1. The database says what is done: its history table for whole migrations, schema pgrunbook for the
   steps of one that cannot run in a single transaction.
2. The steps of a migration that run together are sent in one transaction, which ends with the row of
   the history table and the rows of our own record: all of it is there, or nothing.
3. A statement that must run alone has a row before it (intended) and one after it (done). After a
   crash between the two, the catalog says which it was.
4. A transaction that could not get a lock, or that was the victim of a deadlock, is aborted and tried
   again, a bounded number of times, and the journal says who stood in the way.
5. What a migration SETs holds for that migration: it neither reaches our own rows nor the next one.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import psycopg
from psycopg import errors as pg
from psycopg.errors import Diagnostic

from pgrunbook import history as histories
from pgrunbook.changes import trouble
from pgrunbook.changes.alone import leftover_of, really_done
from pgrunbook.changes.plan import Change, Plan, Step
from pgrunbook.changes.results import Results, StepResult, StepState, Stretch
from pgrunbook.changes.statements import Policy
from pgrunbook.changes.trouble import Scene
from pgrunbook.database import connection, locks, steps
from pgrunbook.database.connection import READ_LOCK_TIMEOUT_MS, READ_STATEMENT_TIMEOUT_MS, RESET_SESSION, Connection
from pgrunbook.errors import RecordFailed, RunbookError, StatementFailed
from pgrunbook.history import History
from pgrunbook.record.journal import Journal
from pgrunbook.target import Target

__all__ = ["Execution", "StepResult", "StepState", "Stretch"]

log = logging.getLogger(__name__)

RETRIED = (pg.LockNotAvailable, pg.DeadlockDetected)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
MOST_NOTICES = 50
RECORD_LIMITS = {"lock_timeout_ms": READ_LOCK_TIMEOUT_MS, "statement_timeout_ms": READ_STATEMENT_TIMEOUT_MS}
# For this transaction only: what the migration has set comes back with the next one.
OURSELVES = ("SET LOCAL SESSION AUTHORIZATION DEFAULT", "SET LOCAL ROLE TO DEFAULT")


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
    committed: list[str] = field(default_factory=list)
    _notices: list[str] = field(default_factory=list)
    _doing: str = ""

    def __post_init__(self) -> None:
        self._results = Results(self.plan, self.on_change)
        self._digest = self.plan.digest
        self._pid = self.conn.info.backend_pid
        self.conn.add_notice_handler(self._notice)

    @property
    def results(self) -> list[StepResult]:
        """What became of each step so far, in the plan's order."""
        return self._results.all

    def run(self) -> list[StepResult]:
        """Execute every step that the database does not show as done; return what became of each.

        Raises Blocked when a lock was not to be had in the plan's attempts, StatementFailed when the server
        refused a statement, Interrupted when we were told to stop, Unreachable when the connection
        was lost, Refused when the folder changed since the plan was made. Each says what is applied now.
        Locks: those of the statements, each under its lock_timeout.
        """
        trouble.check_folder(self.plan, self.history)
        self._prepare()
        applied = {entry.name for entry in self.history.applied()}
        texts = {change.migration: change.file_sha256 for change in self.plan.changes}
        begun = steps.of_plan(self.conn, texts, self.plan.direction)
        for change in self.plan.changes:
            if (change.migration in applied) == (self.plan.direction == "up"):
                self._results.mark(change, change.steps, StepState.DONE_BEFORE)
                self.journal.write("migration-done-before", migration=change.migration)
                continue
            try:
                self._execute(change, begun.get(change.migration, {}))
            except KeyboardInterrupt as exc:  # between two attempts at something
                raise trouble.explain(exc, self._scene(change, ()), self.conn) from None
            self.committed.append(change.migration)
        return self.results

    def _prepare(self) -> None:
        steps.create(self.conn)
        if self.history.exists:
            return
        try:
            for statement in histories.prepare_table(self.history):
                self.conn.execute(statement)
        except psycopg.Error as exc:
            raise StatementFailed(
                f"could not make the history table {self.history.qualified_table}",
                detail=exc.diag.message_primary or trouble.one_line(exc),
                hint="GRANT what is missing to the user of this target.",
            ) from exc
        self.history = replace(self.history, exists=True, schema_exists=True)

    # -- one migration

    def _execute(self, change: Change, begun: dict[int, bool]) -> None:
        """Execute a migration; ``begun`` are its steps that have a row, and whether they are done."""
        # The event of the first step, which is written before anything is sent, flushes this one with it.
        self.journal.note("migration-started", migration=change.migration, direction=self.plan.direction)
        if begun.get(len(change.steps) + 1):
            # It was done wholly, and somebody else changed its history row: the history counts.
            steps.take_back(self.conn, change.migration, self.plan.direction)
            begun = {}
        groups = [(policy, list(some)) for policy, some in groupby(change.steps, key=lambda s: s.policy)]
        if not groups or groups[-1][0] is Policy.ALONE:
            groups.append((Policy.TOGETHER, []))  # the history row has a transaction of its own then
        for number, (policy, group) in enumerate(groups, 1):
            done = [step for step in group if begun.get(step.number)]
            self._go_past(change, done)
            left = [step for step in group if step not in done]
            if policy is Policy.ALONE:
                for step in left:
                    self._alone(change, step, meant_before=step.number in begun)
            elif left or number == len(groups):
                self._together(change, left, last=number == len(groups))
        log.info("%s: %s committed", self.plan.direction, change.migration)

    def _go_past(self, change: Change, done: Sequence[Step]) -> None:
        """Steps that an earlier run committed are not done again, but for what they set for this session."""
        for step in done:
            if step.kind == "SET" or "set_config" in step.sql:
                with self._telling(change, [step]):
                    self.conn.execute(step.sql.encode())
                self.journal.write("setting-restored", migration=change.migration, step=step.number)
        self._results.mark(change, done, StepState.DONE_BEFORE)

    def _together(self, change: Change, group: Sequence[Step], *, last: bool) -> None:
        """Send the steps, and with the last of them the history row, in one transaction."""

        def attempt(number: int) -> None:
            with connection.transaction(self.conn, **(_limits(group[0]) if group else RECORD_LIMITS)):
                for place, step in enumerate(group):
                    if place:
                        connection.limit_locally(self.conn, **_limits(step))
                    self._send(change, step, number)
                self._doing = "record"
                self._note_in_database(change, group, last=last)
                self._doing = "commit"
            self._results.mark(change, group, StepState.DONE)

        self._with_attempts(change, group, attempt)
        self._journal_commit(change, group, whole_migration=last)

    def _alone(self, change: Change, step: Step, *, meant_before: bool) -> None:
        """Run a step outside a transaction, once the catalog shows that it is not done already."""
        if not meant_before:
            self._note_alone(change, step, "intended")

        def attempt(number: int) -> None:
            connection.limit(self.conn, **_limits(step))
            self._clear_leftover(change, step)
            if (meant_before or number > 1) and really_done(self.conn, step):
                self.journal.write("step-found-done", migration=change.migration, step=step.number)
                self._results.set(change, step, state=StepState.DONE_BEFORE)
                return
            self._send(change, step, number)
            self._results.set(change, step, state=StepState.DONE)

        try:
            self._with_attempts(change, [step], attempt)
        except RunbookError as exc:
            if isinstance(exc.__cause__, psycopg.Error) and not self.conn.closed:
                with contextlib.suppress(psycopg.Error):
                    connection.reset(self.conn)
                    steps.withdraw(self.conn, self._key(change), step.number)
            raise
        self._note_alone(change, step, "done")
        if self._results.of(change, step).state is StepState.DONE:
            self._journal_commit(change, [step], whole_migration=False)

    def _clear_leftover(self, change: Change, step: Step) -> None:
        """What a cut-off attempt left (an invalid index) is cleared away before the next one."""
        statement = leftover_of(self.conn, step)
        if statement is None:
            return
        told = statement.as_string(self.conn)
        self.journal.write("leftover-dropped", migration=change.migration, step=step.number, sql=told)
        self.conn.execute(statement)

    # -- one step

    def _send(self, change: Change, step: Step, attempt: int) -> None:
        self._doing = "send"
        self._results.set(change, step, state=StepState.RUNNING, attempt=attempt)
        facts = {"migration": change.migration, "direction": self.plan.direction, "step": step.number}
        self.journal.write(
            "step-started", **facts, kind=step.kind, sha256=step.sha256, attempt=attempt, policy=step.policy
        )
        self._notices.clear()
        start = time.monotonic()
        watch = locks.Watch(self.target, self._pid)
        try:
            with watch:
                cursor = self.conn.execute(step.sql.encode())
        finally:
            end = time.monotonic()
            self._note_time(change, step, watch, start, end)
        rows = cursor.rowcount if cursor.rowcount >= 0 else None
        self._results.set(change, step, state=StepState.RAN, rows=rows)
        notices = self._results.of(change, step).notices
        self.journal.note(
            "step-ran", **facts, attempt=attempt, ms=round((end - start) * 1000, 1),
            waited_ms=round(watch.waited_ms, 1), rows=rows,
            **({"blockers": watch.told()} if watch.blockers else {}), **({"notices": notices} if notices else {}),
        )  # fmt: skip
        log.info("%s step %s: %s in %.0f ms", change.migration, step.number, step.kind, (end - start) * 1000)

    def _with_attempts(self, change: Change, group: Sequence[Step], attempt: Callable[[int], None]) -> None:
        """Call ``attempt`` until it succeeds; again only after a lock timeout or a deadlock."""
        for number in range(1, self.plan.attempts + 1):
            with self._telling(change, group):
                try:
                    return attempt(number)
                except RETRIED as exc:
                    self._note_attempt(change, group, number, exc)
                    if number == self.plan.attempts or self.conn.closed:
                        raise
                    self._results.mark(change, group, StepState.WAITING)
                    time.sleep(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (number - 1)))
        return None

    @contextlib.contextmanager
    def _telling(self, change: Change, group: Sequence[Step]) -> Iterator[None]:
        """Turn whatever ends an attempt into an error of ours that says what is applied now."""
        try:
            yield
        except (psycopg.Error, RunbookError, KeyboardInterrupt) as exc:
            scene = self._scene(change, group)
            if isinstance(exc, RETRIED):
                error: RunbookError = trouble.gave_up(exc, scene, self.conn)
            else:
                error = trouble.explain(exc, scene, self.conn)
            if scene.step is not None:
                self._results.set(change, scene.step, state=StepState.FAILED)
            if not isinstance(exc, RecordFailed):
                self.journal.write(
                    "step-failed", migration=change.migration, direction=self.plan.direction,
                    step=scene.step.number if scene.step else None, error=error.lines(), kind=type(error).__name__,
                )  # fmt: skip
            if error is exc:
                raise
            raise error from (None if isinstance(exc, KeyboardInterrupt) else exc)

    def _scene(self, change: Change, group: Sequence[Step]) -> Scene:
        step = self._results.running(change, group)
        result = self._results.of(change, step) if step else None
        return Scene(
            self.target, self.plan, change, step, self._doing, self.history.qualified_table,
            blockers=result.blockers if result else "", ran_ms=result.ran_ms if result else 0.0,
            committed=self.committed, backend_pid=self._pid,
        )  # fmt: skip

    # -- the database's record

    def _note_in_database(self, change: Change, group: Sequence[Step], *, last: bool) -> None:
        """Write our rows at the end of the transaction, as ourselves, in one round trip."""
        rows = [_row(step) for step in group]
        written = None
        with self.conn.pipeline():
            for statement in RESET_SESSION if last else OURSELVES:
                self.conn.execute(statement.encode())
            if not last:
                self.conn.execute(b"SET LOCAL lock_timeout = %d" % READ_LOCK_TIMEOUT_MS)
                self.conn.execute(b"SET LOCAL statement_timeout = %d" % READ_STATEMENT_TIMEOUT_MS)
            if last:
                written = self.conn.execute(*self._history_command(change))
                steps.take_back(self.conn, change.migration, "down" if self.plan.direction == "up" else "up")
                rows.append(_history_row(change))
            steps.write(self.conn, self._key(change), "done", rows)
        if written is not None and written.rowcount != 1:
            raise trouble.history_moved(self.history.qualified_table, change)

    def _history_command(self, change: Change) -> histories.Command:
        entry = next(e for e in self.history.entries if e.name == change.migration)
        if self.plan.direction == "down":
            return histories.unrecord(self.history, entry)
        assert entry.migration is not None  # noqa: S101 - check_folder saw it
        return histories.record(self.history, entry.migration)

    def _note_alone(self, change: Change, step: Step, state: str) -> None:
        self._doing = "record"
        with self._telling(change, []), connection.transaction(self.conn, **RECORD_LIMITS):
            self.conn.execute("; ".join(OURSELVES).encode())
            steps.write(self.conn, self._key(change), state, [_row(step)])

    def _key(self, change: Change) -> dict[str, object]:
        return {
            "run_id": self.run_id,
            "migration": change.migration,
            "direction": self.plan.direction,
            "file_sha256": change.file_sha256,
            "plan_digest": self._digest,
        }

    # -- the journal, and the results

    def _journal_commit(self, change: Change, group: Sequence[Step], *, whole_migration: bool) -> None:
        self.journal.write(
            "committed", migration=change.migration, direction=self.plan.direction,
            steps=[step.number for step in group], whole_migration=whole_migration,
        )  # fmt: skip

    def _notice(self, diagnostic: Diagnostic) -> None:
        severity = "" if diagnostic.severity == "NOTICE" else f"{diagnostic.severity}: "
        if len(self._notices) < MOST_NOTICES:
            self._notices.append(f"{severity}{diagnostic.message_primary}")
        elif len(self._notices) == MOST_NOTICES:
            self._notices.append(f"(only the first {MOST_NOTICES} notices are kept)")

    def _note_time(self, change: Change, step: Step, watch: locks.Watch, start: float, end: float) -> None:
        before = self._results.of(change, step)
        waits = [Stretch("waiting", max(start, a), min(end, b)) for a, b in watch.waits]
        self._results.set(
            change, step,
            ran_ms=(end - start) * 1000,
            waited_ms=before.waited_ms + watch.waited_ms,
            blockers=watch.told() or before.blockers,
            notices=tuple(self._notices),
            stretches=(*before.stretches, Stretch("running", start, end), *waits),
        )  # fmt: skip

    def _note_attempt(self, change: Change, group: Sequence[Step], number: int, exc: psycopg.Error) -> None:
        step = self._results.running(change, group)
        self.journal.write(
            "attempt-failed", migration=change.migration, direction=self.plan.direction, attempt=number,
            of=self.plan.attempts, sqlstate=exc.sqlstate, message=str(exc).splitlines()[0],
            step=step.number if step else None, blockers=self._results.of(change, step).blockers if step else "",
        )  # fmt: skip
        log.info("%s attempt %s of %s failed: %s", change.migration, number, self.plan.attempts, exc.sqlstate)


def _limits(step: Step) -> dict[str, int]:
    return {"lock_timeout_ms": step.lock_timeout_ms, "statement_timeout_ms": step.statement_timeout_ms}


def _row(step: Step) -> dict[str, object]:
    return {"step": step.number, "kind": step.kind, "sha256": step.sha256}


def _history_row(change: Change) -> dict[str, object]:
    return {
        "step": len(change.steps) + 1, "kind": "history row", "sha256": change.file_sha256,
        "schema_before": change.schema_before, "schema_after": change.schema_after,
    }  # fmt: skip
