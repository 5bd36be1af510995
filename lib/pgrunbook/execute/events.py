"""The account of an execution at work: the journal's events, the results of its steps, calls of its observer."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import psycopg
from psycopg.errors import Diagnostic

from pgrunbook import undo_data
from pgrunbook.database.control import Order
from pgrunbook.database.lock_wait import Holder, LockWait
from pgrunbook.database.locks import Watch
from pgrunbook.display import progress
from pgrunbook.display.prose import counted
from pgrunbook.execute.results import Results, StepResult, StepState, Stretch
from pgrunbook.plan.plan import Change, Plan, Step
from pgrunbook.record.journal import Journal

log = logging.getLogger(__name__)
MOST_NOTICES = 50
NOTE_PROGRESS_S = 5.0


class StepObserver(Protocol):
    """An observer of the execution of a plan, as a rehearsal has one."""

    def begins(self, change: Change, step: Step, attempt: int) -> None:
        """Called right before a step is sent, inside its transaction where it has one."""

    def batch(self, batches: int) -> None:
        """Called when a batch of a step is committed, with their number so far."""

    def ran(self, change: Change, step: Step, rows: int | None) -> None:
        """Called right after a step ran, before its transaction is committed."""

    def committed(self, change: Change, steps: Sequence[Step]) -> None:
        """Called when steps are committed."""

    def aborted(self, change: Change) -> None:
        """Called when an attempt was aborted: what began in it does not count."""


# The event of rows that a rollback did not revert.
ROWS_LEFT = "rows-left"


class EventLog:
    """Writes the events of one execution, and holds the results of its steps."""

    def __init__(
        self, plan: Plan, journal: Journal, on_change: Callable[[list[StepResult]], None], observer: StepObserver | None
    ) -> None:
        self.results = Results(plan, on_change)
        self._plan, self._journal, self._observer = plan, journal, observer
        self._notices: list[str] = []
        self._noted_at = -math.inf
        self._stage = progress.current()

    def event(self, event: str, change: Change, **facts: object) -> None:
        """Write an event about a migration, flushed to disk."""
        self._journal.write(event, migration=change.migration, direction=self._plan.direction, **facts)

    def begun(self, change: Change) -> None:
        """Note that a migration begins; flushed to disk with the event of its first step, before that is sent."""
        self._journal.note("migration-started", migration=change.migration, direction=self._plan.direction)

    def begins(self, change: Change, step: Step, attempt: int) -> None:
        """Write that a step begins, flushed to disk before the step is sent."""
        self.results.set(change, step, state=StepState.RUNNING, attempt=attempt)
        facts = {"kind": step.kind, "sha256": step.sha256, "attempt": attempt, "policy": step.policy}
        self.event("step-started", change, step=step.number, **facts)
        self._notices.clear()
        self._noted_at = -math.inf
        self._tell(change, step, f"attempt {attempt}" if attempt > 1 else "")
        if self._observer:
            self._observer.begins(change, step, attempt)

    def ended(self, change: Change, step: Step, watch: Watch, start: float, end: float) -> None:
        """Store how long a step took, whether it failed or not, and its blockers; times are monotonic, in s."""
        before = self.results.of(change, step)
        waits = [Stretch("waiting", max(start, a), min(end, b)) for a, b in watch.waits]
        self.results.set(
            change, step,
            ran_ms=(end - start) * 1000,
            waited_ms=before.waited_ms + watch.waited_ms,
            blockers=watch.blocker_text() or before.blockers,
            progress="",
            notices=tuple(self._notices),
            stretches=(*before.stretches, Stretch("running", start, end), *waits),
        )  # fmt: skip

    def progress(self, change: Change, step: Step, says: str) -> None:
        """Show how far the server has come with a step that runs, and note it every 5 s at most.

        Called from the thread of the watch, while the main thread waits for the server's answer.
        """
        self.results.set(change, step, progress=says)
        self._tell(change, step, says)
        now = time.monotonic()
        if now >= self._noted_at + NOTE_PROGRESS_S:
            self._noted_at = now
            self._journal.note("step-progress", migration=change.migration, step=step.number, says=says)

    def ran(self, change: Change, step: Step, attempt: int, watch: Watch, rows: int | None) -> None:
        """Note that a step ran; flushed to disk with the event of its commit."""
        if self._observer:
            self._observer.ran(change, step, rows)
        self.results.set(change, step, state=StepState.RAN, rows=rows)
        result = self.results.of(change, step)
        self._journal.note(
            "step-ran", migration=change.migration, direction=self._plan.direction, step=step.number,
            attempt=attempt, ms=round(result.ran_ms, 1), waited_ms=round(watch.waited_ms, 1), rows=rows,
            **({"blockers": watch.blocker_text()} if watch.blockers else {}),
            **({"notices": result.notices} if result.notices else {}),
        )  # fmt: skip
        log.info("%s step %s: %s in %.0f ms", change.migration, step.number, step.kind, result.ran_ms)

    def batch(self, change: Change, step: Step, batches: int, rows: int) -> None:
        """Note that a batch of a step is committed."""
        self.results.set(change, step, rows=rows, batches=batches)
        self._tell(change, step, f"{counted(rows, 'row')} so far")
        if self._observer:
            self._observer.batch(batches)
        self._journal.note("batch", migration=change.migration, step=step.number, batch=batches, rows=rows)

    def paused(self, change: Change, step: Step, order: Order) -> None:
        """Write that the batches of a step pause, and who asks for it."""
        self.event("batches-paused", change, step=step.number, by=order.asked_by, reason=order.reason)

    def told(self, lines: Sequence[str]) -> None:
        """Note what the operator is to know of the step at work."""
        self._notices.extend(lines)

    def left(self, change: Change, step: Step, rows: int) -> None:
        """Write that rows were not reverted, because somebody has changed them since."""
        if rows:
            self.event(ROWS_LEFT, change, step=step.number, rows=rows)
            they = "row was" if rows == 1 else "rows were"
            self._notices.append(
                f"{rows:,} {they} changed by somebody since, and left unchanged: see {undo_data.LEFT_FILES}."
            )

    def done(self, change: Change, group: Sequence[Step]) -> None:
        """Mark steps as done: the server has confirmed their commit."""
        self.results.mark(change, group, StepState.DONE)
        if self._observer:
            self._observer.committed(change, group)

    def committed(self, change: Change, group: Sequence[Step], *, whole_migration: bool) -> None:
        """Write that steps are committed."""
        self.event("committed", change, steps=[step.number for step in group], whole_migration=whole_migration)

    def looking(self, change: Change, step: Step, holders: Sequence[Holder], left_ms: float) -> None:
        """Show the blockers while no lock is requested yet."""
        names = "; ".join(map(str, holders[:3]))
        said = f"Waiting for blockers to end, {left_ms / 1000:.0f} s left"
        self.results.set(change, step, state=StepState.LOOKING, blockers=f"{names}.", progress=said)
        self._tell(change, step, f"{said}: {names}")

    def looked(self, change: Change, step: Step, look: LockWait, start: float) -> None:
        """Write how the wait before the lock request ended, where there were blockers."""
        end = "" if look.free else f"Not free within {look.waited_ms / 1000:.1f} s: "
        before = self.results.of(change, step)
        self.results.set(
            change, step, state=StepState.WAITING, progress="", looked_ms=before.looked_ms + look.waited_ms,
            blockers=end + "; ".join(map(str, look.holders[:3])) + ".",
            stretches=(*before.stretches, Stretch("looking", start, time.monotonic())),
        )  # fmt: skip
        self.event("looked", change, step=step.number, free=look.free, waited_ms=round(look.waited_ms, 1),
                   holders=[str(holder) for holder in look.holders[:10]])  # fmt: skip

    def attempt_failed(
        self, change: Change, group: Sequence[Step], number: int, counted: int, exc: psycopg.Error
    ) -> None:
        """Write that an attempt could not acquire its locks, and its blockers; some attempts are not counted."""
        self.aborted(change)
        step = self.results.running(change, group)
        self.event(
            "attempt-failed", change, attempt=number, counted=counted, of=self._plan.attempts, sqlstate=exc.sqlstate,
            message=str(exc).splitlines()[0], step=step.number if step else None,
            blockers=self.results.of(change, step).blockers if step else "",
        )  # fmt: skip
        log.info("%s attempt %s (%s of %s) failed: %s", change.migration, number, counted, self._plan.attempts,
                 exc.sqlstate)  # fmt: skip

    def failed(self, change: Change, group: Sequence[Step], state: StepState) -> None:
        """Set the state of what an error has ended: the step that ran, or the one that waited for blockers."""
        for step in group:
            if self.results.of(change, step).state in (StepState.RUNNING, StepState.LOOKING):
                self.results.set(change, step, state=state, progress="")

    def aborted(self, change: Change) -> None:
        """Report to the observer that the attempt does not count."""
        if self._observer:
            self._observer.aborted(change)

    def _tell(self, change: Change, step: Step, says: str) -> None:
        """Tell how far the plan has come to who looks on: see ``display.progress``."""
        of = f"{change.migration}, step {step.number} of {len(change.steps)}, {step.kind}"
        self._stage.how_far(f"{of}: {says}" if says else of)

    def notice(self, diagnostic: Diagnostic) -> None:
        """Store a notice or warning of the server."""
        severity = "" if diagnostic.severity == "NOTICE" else f"{diagnostic.severity}: "
        if len(self._notices) < MOST_NOTICES:
            self._notices.append(f"{severity}{diagnostic.message_primary}")
        elif len(self._notices) == MOST_NOTICES:
            self._notices.append(f"(only the first {MOST_NOTICES} notices are kept)")
