"""The results of an execution, step by step: migrate and rollback show them live, and keep them at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from pgrunbook.plan.plan import Change, Plan, Step


class StepState(StrEnum):
    """The state of a step in this execution."""

    WAITING = "waiting"
    LOOKING = "waiting for blockers to end"
    RUNNING = "running"
    RAN = "ran, commit not seen"
    DONE = "done"
    DONE_BEFORE = "done before"
    FAILED = "failed"
    STOPPED = "stopped"
    UNDONE = "done and undone"


@dataclass(frozen=True)
class Stretch:
    """A stretch of time that a step spent, in seconds of ``time.monotonic``."""

    kind: str  # running, waiting, looking
    start: float
    end: float


@dataclass(frozen=True)
class StepResult:
    """The result of a step: attempts, time, rows touched, blockers.

    ``waited_ms`` is the time in the lock queue, ``looked_ms`` the time before it, while nobody queued behind us.
    ``batches`` of a loop are committed, as the server has confirmed. ``progress`` says how far the server has come,
    "" where it does not report it, and once the step ended.
    """

    migration: str
    step: Step
    state: StepState = StepState.WAITING
    attempt: int = 0
    ran_ms: float = 0.0
    waited_ms: float = 0.0
    looked_ms: float = 0.0
    rows: int | None = None
    batches: int = 0
    blockers: str = ""
    progress: str = ""
    notices: tuple[str, ...] = ()
    stretches: tuple[Stretch, ...] = ()


class Results:
    """The results of a plan's steps, in order; each change of them calls ``on_change``."""

    def __init__(self, plan: Plan, on_change: Callable[[list[StepResult]], None]) -> None:
        self.all = [StepResult(change.migration, step) for change, step in plan.steps()]
        self._places = {(r.migration, r.step.number): place for place, r in enumerate(self.all)}
        self._on_change = on_change

    def of(self, change: Change, step: Step) -> StepResult:
        """Return the result of a step."""
        return self.all[self._places[change.migration, step.number]]

    def set(self, change: Change, step: Step, **facts: object) -> None:
        """Change what is known of a step."""
        place = self._places[change.migration, step.number]
        self.all[place] = replace(self.all[place], **facts)  # type: ignore[arg-type]
        self._on_change(self.all)

    def mark(self, change: Change, group: Sequence[Step], state: StepState) -> None:
        """Set the state of several steps of a migration."""
        for step in group:
            self.set(change, step, state=state)

    def running(self, change: Change, group: Sequence[Step]) -> Step | None:
        """Return the step that is being sent, None where none is."""
        return next((step for step in group if self.of(change, step).state is StepState.RUNNING), None)
