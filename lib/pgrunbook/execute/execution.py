"""The execution of a plan: step by step, under lock timeouts, recorded, resumable after a crash.

1. The database says what is done: the history table for whole migrations, schema pgrunbook for the
   steps of a migration that cannot run in a single transaction.
2. The steps of a migration that run together are sent in one transaction. It ends with our own rows in schema
   pgrunbook; the last one also writes the row of the history table. All of it is committed, or nothing.
3. A statement that must run alone, and a loop of batches, has a row before it (intended) and one after
   it (done). After a crash between the two, the catalog or the loop's own row shows how far it came.
4. Before a transaction requests a lock that others would wait for, we check for blockers
   (``execute.lock_requests``). A transaction that could not acquire a lock, or was the victim of a deadlock, is
   aborted and tried again, within bounds, and the journal names the blockers.
5. What a migration SETs is in force for that migration only: not for our own rows, not for the next migration.
6. When the server refuses a statement, the helper objects that its safe form made are dropped
   (``execute.cleanup``).
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import psycopg
from psycopg import errors as pg

from pgrunbook import history as histories
from pgrunbook.config.targets import Target
from pgrunbook.database import connection, locks, step_log
from pgrunbook.database.connection import READ_LOCK_TIMEOUT_MS, Connection
from pgrunbook.database.step_log import MigrationProgress
from pgrunbook.errors import Interrupted, RecordFailed, RunbookError, StatementFailed
from pgrunbook.execute import failures, lock_requests, preconditions
from pgrunbook.execute.bookkeeping import RECORD_LIMITS, Bookkeeping
from pgrunbook.execute.capture import Capture
from pgrunbook.execute.cleanup import Cleanup
from pgrunbook.execute.events import EventLog, StepObserver
from pgrunbook.execute.failures import AttemptEnd
from pgrunbook.execute.lock_requests import RETRIED, Patience
from pgrunbook.execute.permit import Permit
from pgrunbook.execute.results import StepResult, StepState
from pgrunbook.execute.step_throttle import of_step
from pgrunbook.history import History
from pgrunbook.online.batch_progress import BatchProgress
from pgrunbook.online.batches import Haste, run_batches
from pgrunbook.plan.hidden import revealed
from pgrunbook.plan.plan import Change, Plan, Step
from pgrunbook.record.journal import Journal
from pgrunbook.sql.settings import is_plain
from pgrunbook.sql.tree import tree


@dataclass
class Execution:
    """A plan being executed on a target: its connection, its journal and the results so far.

    ``haste`` is for branches; where it is observed how long they take, rows are reverted without it.
    ``passes_over`` is for empty branches: it says of a statement's error that only the lack of rows is its cause.
    """

    plan: Plan
    target: Target
    run_id: str
    conn: Connection
    history: History
    journal: Journal
    permit: Permit
    on_change: Callable[[list[StepResult]], None] = lambda _: None
    observer: StepObserver | None = None
    haste: Haste | None = None
    passes_over: Callable[[str, psycopg.Error], bool] | None = None
    committed: list[str] = field(default_factory=list)
    _doing: str = ""

    def __post_init__(self) -> None:
        self._account = EventLog(self.plan, self.journal, self.on_change, self.observer)
        self._results = self._account.results
        self._marks = Bookkeeping(self.conn, self.plan, self.run_id, self.history)
        times = self.haste.times if self.haste and not self.observer else 1
        self._keeper = Capture(
            self.conn, self._marks, self.target.keep_days, self.permit.on_conflict, self.journal.path.parent, times
        )
        self._cleanup = Cleanup(self.conn, self._account, self._marks, self._ask)
        self._pid = self.conn.info.backend_pid
        self.conn.add_notice_handler(self._account.notice)

    @property
    def results(self) -> list[StepResult]:
        """What became of each step so far, in the plan's order."""
        return self._results.all

    def run(self) -> list[StepResult]:
        """Execute every step that the database does not show as done; return what became of each.

        Raises Blocked when a lock could not be acquired in the plan's attempts, StatementFailed when the server
        refused a statement, Interrupted when somebody stopped the run, Unreachable when the connection
        was lost, Refused without a permit for this, when the folder changed since the plan was made, or when another
        plan has begun a migration. Each says what is applied now.
        Locks: those of the statements, each under its lock_timeout.
        """
        self.permit.check(self.plan.digest, self.conn, run_id=self.run_id)
        failures.check_folder(self.plan, self.history)
        self._prepare()
        applied = {entry.name for entry in self.history.applied()}
        texts = {change.migration: change.file_sha256 for change in self.plan.changes}
        failures.refuse_unfinished(step_log.unfinished(self.conn, self.plan.direction), texts)
        begun = step_log.of_plan(self.conn, texts, self.plan.direction)
        for change in self._revealed():
            if preconditions.is_over(self.plan, change, self.conn, applied):
                self._results.mark(change, change.steps, StepState.DONE_BEFORE)
                self._account.event("migration-done-before", change)
                continue
            try:
                self._execute(change, begun.get(change.migration))
            except KeyboardInterrupt as exc:  # between two attempts at something
                raise failures.explain(exc, self._scene(change, ()), self.conn) from None
            self.committed.append(change.migration)
        return self.results

    def _revealed(self) -> list[Change]:
        """Return the changes with their secrets, which the plan does not hold, as the folder has them now."""
        texts = {entry.name: entry.migration.texts() for entry in self.history.entries if entry.migration is not None}
        return [revealed(change, texts.get(change.migration, [])) for change in self.plan.changes]

    def _prepare(self) -> None:
        step_log.create(self.conn)
        if self.history.exists:
            return
        try:
            for statement in histories.prepare_table(self.history):
                self.conn.execute(statement)
        except psycopg.Error as exc:
            raise StatementFailed(
                f"could not create the history table {self.history.qualified_table}",
                detail=exc.diag.message_primary or failures.one_line(exc),
                hint="GRANT the missing privilege to the role of this target.",
            ) from exc
        self.history = self._marks.history = replace(self.history, exists=True, schema_exists=True)

    # -- one migration

    def _execute(self, change: Change, begun: MigrationProgress | None) -> None:
        """Execute a migration; ``begun`` says which of its steps earlier runs have recorded."""
        self._account.begun(change)
        rows = begun.steps if begun else {}
        if begun and begun.whole:
            # All of it was done, and somebody else has changed its history row since: the history counts.
            with self._telling(change, ()):
                step_log.take_back(self.conn, change.migration, self.plan.direction)
            rows = {}
        elif begun and not begun.sha256s.items() <= {s.number: s.sha256 for s in change.steps}.items():
            raise failures.begun_elsewhere(change.migration, begun)
        segments = change.segments()
        for number, segment in enumerate(segments, 1):
            done = [step for step in segment.steps if rows.get(step.number)]
            self._skip(change, done)
            left = [step for step in segment.steps if step not in done]
            last = number == len(segments)
            if segment.kind == "together" and (left or last):
                self._together(change, left, last=last)
            for step in left if segment.kind != "together" else ():
                self._alone(change, step, intended_before=step.number in rows)

    def _skip(self, change: Change, done: Sequence[Step]) -> None:
        """Skip steps that an earlier run committed; repeat only what they set for the session."""
        for step in done:
            if step.kind in ("SET", "SELECT", "DISCARD") and is_plain(tree(step.sql)):
                with self._telling(change, [step]), self.conn.as_target():
                    self.conn.execute(step.sql.encode())
                self._account.event("setting-restored", change, step=step.number)
        self._results.mark(change, done, StepState.DONE_BEFORE)

    def _together(self, change: Change, group: Sequence[Step], *, last: bool) -> None:
        """Send the steps in one transaction; the last transaction of a migration writes its history row."""

        def attempt(number: int, patience: Patience) -> None:
            self._look(change, group, patience)
            limits = [patience.limits(step) for step in group]
            with connection.transaction(self.conn, **(limits[0] if limits else RECORD_LIMITS)):
                for place, step in enumerate(group):
                    if place:
                        connection.limit_locally(self.conn, **limits[place])
                    self._send(change, step, number, lambda step: self._execute_keeping(change, step))
                self._doing = "record"
                self._marks.done(change, group, last=last)
                self._doing = "commit"
            self._account.done(change, group)

        self._with_attempts(change, group, attempt)
        self._account.committed(change, group, whole_migration=last)

    def _look(self, change: Change, group: Sequence[Step], patience: Patience) -> None:
        """Wait until no old transaction blocks the locks that the steps will request, or the patience is over."""
        self._doing = "look"
        if patience.wanted:
            lock_requests.until_free(self.conn, change, group[0], patience, self._account)

    def _alone(self, change: Change, step: Step, *, intended_before: bool) -> None:
        """Run a step, or its batches, outside a transaction, unless the catalog shows that it is done already."""
        if not intended_before:
            self._mark_alone(change, step, "intended")
        progress: list[BatchProgress] = []

        def attempt(number: int, patience: Patience) -> None:
            progress.clear()
            self._look(change, [step], patience)
            with locks.Watch(self.target, self._pid, gives_way="soon"):
                cleared = self._cleanup.clear(change, step, step.lock_timeout_ms)
            connection.limit(self.conn, **patience.limits(step))
            if (intended_before or number > 1 or cleared) and self._cleanup.is_done(step):
                self._account.event("step-found-done", change, step=step.number)
                self._results.set(change, step, state=StepState.DONE_BEFORE)
                return
            self._send(change, step, number, self._loop(change, step, progress) if step.is_loop else self._execute_sql)
            self._account.done(change, [step])

        try:
            self._with_attempts(change, [step], attempt, made_progress=lambda: bool(progress))
        except RunbookError as exc:
            if not step.is_loop and isinstance(exc.__cause__, psycopg.Error) and not self.conn.closed:
                self._withdraw(change, step, exc.__cause__)
            raise
        self._mark_alone(change, step, "done")
        if self._results.of(change, step).state is StepState.DONE:
            self._account.committed(change, [step], whole_migration=False)

    def _withdraw(self, change: Change, step: Step, exc: psycopg.Error) -> None:
        """Withdraw the row that says a step is intended; not where it was cut off and yet took effect."""
        with contextlib.suppress(psycopg.Error):
            connection.reset(self.conn)
            if failures.was_refused(exc) or not self._cleanup.is_done(step):
                with connection.transaction(self.conn, **RECORD_LIMITS):
                    self._marks.withdraw(change, [step])

    def _mark_alone(self, change: Change, step: Step, state: str) -> None:
        self._doing = "record"
        with self._telling(change, []):
            self._marks.alone(change, step, state)

    def _loop(self, change: Change, step: Step, progress: list[BatchProgress]) -> Callable[[Step], int | None]:
        """Return a function that runs a step as a loop of batches; ``progress`` gets this attempt's last batch."""

        def on_batch(now: BatchProgress) -> None:
            progress[:] = [now]
            self._account.batch(change, step, now.batches, now.rows)

        def run(step: Step) -> int:
            if step.gives_rows:
                given, left = self._keeper.revert_rows(
                    change, step, lambda rows: self._account.batch(change, step, 0, rows)
                )
                self._account.left(change, step, left)
                return given
            with of_step(self.target, self.conn, change, step, self.run_id, self._account, self.haste) as throttle:
                done = run_batches(
                    self.conn, self._keeper.batches(change, step), resume_from=self._marks.loop(change, step),
                    on_batch=on_batch, lock_timeout_ms=step.lock_timeout_ms,
                    statement_timeout_ms=step.statement_timeout_ms, haste=self.haste, throttle=throttle,
                )  # fmt: skip
            self._account.told(self._keeper.after(change, step))
            return done.rows

        return run

    # -- one step

    def _execute_sql(self, step: Step) -> int | None:
        """Send a step's SQL; return the rows of its last statement, or of a whole run, None where it has none."""
        counts = self._counts(step.sql.encode())
        rows = sum(counts) if step.statements > 1 else counts[-1]
        return rows if rows >= 0 else None

    def _counts(self, sql: bytes) -> list[int]:
        """Send SQL as the target's session would; return the rows of each statement in it, -1 where it has none."""
        with self.conn.as_target():
            cursor = self.conn.execute(sql)
            counts = [cursor.rowcount]
            while cursor.nextset():
                counts.append(cursor.rowcount)
        return counts

    def _execute_keeping(self, change: Change, step: Step) -> int | None:
        """Send a step's SQL within a transaction, with the undo data that it captures, reverts or reapplies."""
        passes_over = self.passes_over if step.may_need_rows else None
        try:
            with self.conn.transaction() if passes_over else contextlib.nullcontext():
                return self._execute_kept(change, step)
        except psycopg.Error as exc:
            if passes_over is None or self.conn.closed or not passes_over(change.judged(step), exc):
                raise
            return None

    def _execute_kept(self, change: Change, step: Step) -> int | None:
        self._keeper.before(change, step)
        capturing = self._keeper.capturing(change, step)
        if capturing is None:
            with self._keeper.triggers(step):
                rows = self._execute_sql(step)
        else:
            counts = self._counts(capturing)
            # What a DO block changes is not told by the server either, and here by its first statement only.
            rows = None if step.kind == "DO" else sum(counts[: step.statements])
        self._account.told(self._keeper.after(change, step))
        return rows

    def _send(self, change: Change, step: Step, attempt: int, execute: Callable[[Step], int | None]) -> None:
        self._doing = "send"
        self._account.begins(change, step, attempt)
        start = time.monotonic()
        watch = locks.Watch(
            self.target, self._pid, gives_way=lock_requests.gives_way(step),
            on_progress=lambda text: self._account.progress(change, step, text),
        )  # fmt: skip
        try:
            with watch:
                rows = execute(step)
        finally:
            self._account.ended(change, step, watch, start, time.monotonic())
        self._account.ran(change, step, attempt, watch, rows)

    # -- when an attempt fails

    def _with_attempts(
        self,
        change: Change,
        group: Sequence[Step],
        attempt: Callable[[int, Patience], None],
        made_progress: Callable[[], bool] = lambda: False,
    ) -> None:
        """Call ``attempt`` as often as the plan allows; raise an error of ours for what ends the last one."""
        with self._telling(change, group):
            self._retried(change, group, attempt, made_progress)

    def _ask(self, change: Change, group: Sequence[Step], work: Callable[[int], None]) -> None:
        """Call ``work`` with a lock_timeout until it has the locks that the steps had; check for blockers before."""

        def attempt(_: int, patience: Patience) -> None:
            self._look(change, group, patience)
            work(min((patience.lock_timeout_ms(step) for step in group), default=READ_LOCK_TIMEOUT_MS))

        self._retried(change, group, attempt)

    def _retried(
        self,
        change: Change,
        group: Sequence[Step],
        attempt: Callable[[int, Patience], None],
        made_progress: Callable[[], bool] = lambda: False,
    ) -> None:
        """Call ``attempt`` until it succeeds; again only after a lock timeout or a deadlock, within bounds."""
        patience = Patience(group, self.target.lock_patience_ms, self.plan.attempts)
        for number in itertools.count(1):
            try:
                return attempt(number, patience)
            except RETRIED as exc:
                if made_progress():
                    patience.begin_again()
                self._account.attempt_failed(change, group, number, patience.attempt, exc)
                pause_s = patience.again_in_s(counts=isinstance(exc, pg.DeadlockDetected))
                if pause_s is None or self.conn.closed:
                    raise
                self._results.mark(change, group, StepState.WAITING)
                time.sleep(pause_s)
        return None

    @contextlib.contextmanager
    def _telling(self, change: Change, group: Sequence[Step]) -> Iterator[None]:
        """Raise an error of ours, which says what is applied now, for whatever ends an attempt."""
        try:
            yield
        except (psycopg.Error, RunbookError, KeyboardInterrupt) as exc:
            self._account.aborted(change)
            scene = self._scene(change, group)
            if isinstance(exc, RETRIED):
                error: RunbookError = failures.gave_up(exc, scene, self.conn)
            else:
                if isinstance(exc, psycopg.Error) and scene.step is not None and not self.conn.closed:
                    undoes = failures.was_refused(exc) or scene.timed_out()
                    scene = replace(scene, left=self._cleanup.failed(change, scene.step, undoes=undoes))
                error = failures.explain(exc, scene, self.conn)
            state = StepState.STOPPED if isinstance(error, Interrupted) else StepState.FAILED
            self._account.failed(change, group, state)
            if not isinstance(exc, RecordFailed):
                number = scene.step.number if scene.step else None
                self._account.event("step-failed", change, step=number, error=error.lines(), kind=type(error).__name__)
            if error is exc:
                raise
            raise error from (None if isinstance(exc, KeyboardInterrupt) else exc)

    def _scene(self, change: Change, group: Sequence[Step]) -> AttemptEnd:
        step = self._results.running(change, group)
        result = self._results.of(change, step) if step else None
        return AttemptEnd(
            self.target, self.plan, change, step, self._doing, self.history.qualified_table,
            blockers=result.blockers if result else "", ran_ms=result.ran_ms if result else 0.0,
            committed=self.committed, backend_pid=self._pid,
            batches=result.batches if result else 0, rows=(result.rows or 0) if result else 0,
        )  # fmt: skip
