"""What the commands about runs and targets print with ``--json``, for the automation of operators."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from pgrunbook.display.prose import counted
from pgrunbook.record import journal
from pgrunbook.record.run import Run, Status

HINT = "Hint: "


class _Printed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PartReport(_Printed):
    """One procedure of a run; times are ISO 8601 in UTC, null where it has not begun or not ended."""

    procedure: str
    notebook: str
    status: Status
    started_at: str | None
    ended_at: str | None
    says: str


class RunReport(_Printed):
    """A run; ``took_s`` in seconds, null where it has not ended."""

    run_id: str
    runbook: str
    target: str
    status: Status
    how: str
    operator: str
    machine: str
    started_at: str
    ended_at: str | None
    took_s: float | None
    folder: str
    procedures: tuple[PartReport, ...]


class RunsReport(_Printed):
    """What ``pgrunbook runs --json`` prints; ``unreadable`` says of each folder that holds no run why."""

    runs: tuple[RunReport, ...]
    unreadable: tuple[str, ...]


class ShownRun(_Printed):
    """What ``pgrunbook show --json`` prints: a run, its parameters, and every event of its journal."""

    run: RunReport
    parameters: dict[str, Any]
    versions: dict[str, str]
    events: tuple[dict[str, Any], ...]


class EndedRun(_Printed):
    """What ``pgrunbook run --json`` prints: how the run ended; ``error`` has the lines of what stopped it.

    ``open_gates`` are those of the plan that was frozen last, as ``pgrunbook accept`` takes them.
    """

    run: RunReport
    exit_code: int
    error: tuple[str, ...]
    open_gates: tuple[str, ...]
    next: str


class AcceptedGates(_Printed):
    """What ``pgrunbook accept --json`` prints."""

    run_id: str
    accepted: tuple[str, ...]
    still_open: tuple[str, ...]
    next: str


class ApprovedChange(_Printed):
    """What ``pgrunbook approve --json`` prints: what was approved, by whose key and until when.

    ``digest`` is that of the plan, or of what the run's checks are about; ``next`` is how its operator goes on.
    """

    run_id: str
    target: str
    procedure: str
    digest: str
    approver: str
    fingerprint: str
    signed_at: str
    expires_at: str
    reason: str
    next: str


class WaitingRequest(_Printed):
    """Something that waits for a person: in which run, for what and for whom, since when, and what is typed then.

    ``what`` are the gates, columns, tables or names it is about.
    """

    run_id: str
    target: str
    runbook: str
    waits_for: Literal["approval", "gates", "contract", "cut-over", "rollout"]
    whom: str
    what: tuple[str, ...]
    since: str
    next: str


class LoudChange(_Printed):
    """A change of a protected target that nobody else has approved: in an emergency, or not at all."""

    run_id: str
    target: str
    runbook: str
    approval: str
    started_at: str


class RequestsReport(_Printed):
    """What ``pgrunbook requests --json`` prints; ``unreadable`` says of each run that could not be read why.

    ``loud`` are the changes of the last 30 days that nobody else has approved.
    """

    requests: tuple[WaitingRequest, ...]
    loud: tuple[LoudChange, ...]
    unreadable: tuple[str, ...]


class TargetStanding(_Printed):
    """How a target stands; what was not found out is null, and ``error`` says why.

    ``for_contract`` names the columns that live beside others until contract drops them, ``unfinished`` the changes
    that somebody has begun and no run is at work on; ``pgrunbook doctor`` says how each is ended.
    """

    target: str
    server: str | None = None
    version: str | None = None
    pending: int | None = None
    problems: int | None = None
    for_contract: tuple[str, ...] | None = None
    unfinished: tuple[str, ...] | None = None
    at_work: str | None = None
    error: str | None = None

    def row(self) -> tuple[str, ...]:
        """Return it as a row of the table that people read."""
        if self.error is not None:
            return (self.target, "-", "-", "-", self.error)
        left = f"; {'; '.join(self.unfinished)}: pgrunbook doctor --target {self.target}" if self.unfinished else ""
        now = f"{self.at_work or 'no run'}{left}"
        if self.pending is None:
            return (self.target, self.server or "-", "-", "-", now)
        problems = f", {counted(self.problems, 'problem')}" if self.problems else ""
        columns = counted(len(self.for_contract or ()), "column waits", "columns wait")
        waiting = f", {columns} for contract" if self.for_contract else ""
        return (self.target, self.server or "-", self.version or "(none)", f"{self.pending}{problems}{waiting}", now)


class StatusReport(_Printed):
    """What ``pgrunbook status --json`` prints."""

    targets: tuple[TargetStanding, ...]


def of(made: Run) -> RunReport:
    """Return what is told of a run."""
    parts = tuple(
        PartReport(
            procedure=part.procedure, notebook=part.notebook, status=status, started_at=part.started_at or None,
            ended_at=part.ended_at or None, says=part.says,
        )
        for part, status in made.standing()
    )  # fmt: skip
    return RunReport(
        run_id=made.run_id, runbook=made.runbook, target=made.target, status=made.actual_status(), how=made.how,
        operator=made.operator, machine=made.machine, started_at=made.started_at, ended_at=made.ended_at or None,
        took_s=made.took_s, folder=str(made.folder), procedures=parts,
    )  # fmt: skip


def shown(made: Run) -> ShownRun:
    """Return a run with its journal. Raises as :func:`journal.read`."""
    events = tuple(dict(event) for event in journal.read(made.journal.path))
    return ShownRun(run=of(made), parameters=made.parameters, versions=made.versions, events=events)


def ended(made: Run, code: int, following: str, open_gates: Iterable[str]) -> EndedRun:
    """Return how a run ended that has just done so."""
    failed = [e for e in journal.read(made.journal.path) if e["event"] == "cell-ended" and not e["ok"]]
    error = tuple(failed[-1]["error"]) if failed and code else ()
    hints = [line.removeprefix(HINT) for line in error if line.startswith(HINT)]
    then = following or " ".join(hints)
    return EndedRun(run=of(made), exit_code=code, error=error, open_gates=tuple(open_gates), next=then)
