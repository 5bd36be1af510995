"""What waits for whom, as the folders of the runs know it: what ``pgrunbook requests`` shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pgrunbook.app.run_report import LoudChange, RequestsReport, WaitingRequest
from pgrunbook.errors import RunbookError
from pgrunbook.record import journal
from pgrunbook.record import run as runs
from pgrunbook.record.run import Run, Status, stamp
from pgrunbook.seal import approval_check
from pgrunbook.session import acceptance, change_request
from pgrunbook.session.change_request import NEEDED

For = Literal["approval", "gates", "contract", "cut-over", "rollout"]
LOUD_FOR = timedelta(days=30)
_Events = Sequence[Mapping[str, Any]]


def report(target: str = "") -> RequestsReport:
    """Return what waits for somebody, oldest first: of each runbook on each target the newest run that has not ended.

    What a run left in the database for another one to end (a column, a table, a rollout) is told of the newest that
    says something of it.
    """
    newest: dict[tuple[str, str], list[WaitingRequest]] = {}
    left: dict[tuple[str, str, str], WaitingRequest | None] = {}
    unreadable, begun = [], []
    since = stamp(datetime.now(UTC) - LOUD_FOR)
    for folder in runs.folders():
        try:
            made = runs.load(folder)
            if target and made.target != target:
                continue
            begun += [made] if made.started_at >= since else []
            events = journal.read(made.journal.path)
            newest[made.runbook, made.target] = list(_of_run(made, events))
            left.update(_left_behind(made, events))
        except RunbookError as exc:
            unreadable.append(f"{folder.name}: {exc.message}")
    found = [one for several in newest.values() for one in several] + [one for one in left.values() if one]
    return RequestsReport(
        requests=tuple(sorted(found, key=lambda one: one.since)), loud=tuple(_loud(begun)), unreadable=tuple(unreadable)
    )


def _loud(begun: Sequence[Run]) -> Iterator[LoudChange]:
    standing = approval_check.of_runs(begun)
    for made in begun:
        word = standing.get(made.run_id, "")
        if word in approval_check.LOUD:
            yield LoudChange(run_id=made.run_id, target=made.target, runbook=made.runbook, approval=word,
                             started_at=made.started_at)  # fmt: skip


def _of_run(made: Run, events: _Events) -> Iterator[WaitingRequest]:
    """Yield what a run that has not ended waits for: its gates, and its approval."""
    if made.actual_status() not in (Status.WAITING, Status.REFUSED, Status.RUNNING, Status.BROKEN_OFF):
        return
    is_begun = any(e["event"] == "migration-started" for e in events)
    gates = [] if is_begun else acceptance.open_gates(made)
    if gates:
        following = f"pgrunbook accept {made.run_id}"
        yield _waiting(made, "gates", made.operator, gates, _since(made, events, "plan-frozen"), following)
    if not change_request.target_of(made).needs_approval:
        return
    request = change_request.asked(made)
    if request is None or change_request.was_permitted(events, request.procedure, request.subject.of):
        return
    if change_request.standing(request).counts is not None:
        return
    since = _since(made, events, NEEDED if any(e["event"] == NEEDED for e in events) else "plan-frozen")
    whom = "somebody else than the operator" if change_request.target_of(made).protected else "an approver"
    what = [f"{request.procedure}: {request.subject.digest[:16]}"]
    yield _waiting(made, "approval", whom, what, since, f"pgrunbook approve {made.run_id}")


def _left_behind(made: Run, events: _Events) -> dict[tuple[str, str, str], WaitingRequest | None]:
    """Return what a run has left for another one, by what it is; None for what it has ended."""
    found: dict[tuple[str, str, str], WaitingRequest | None] = {}
    columns = [e for e in events if e["event"] == acceptance.COLUMNS_SHOWN]
    accepted = {e["digest"] for e in events if e["event"] == acceptance.ACCEPTED}
    if columns:
        gone = {e["column"] for e in events if e["event"] == "contracted"}
        open_ = [name for name, digest in columns[-1]["digests"].items() if digest not in accepted and name not in gone]
        following = f"pgrunbook run contract --target {made.target} -p accept={','.join(open_)}"
        since = str(columns[-1]["at"])
        found["contract", made.target, ""] = (
            _waiting(made, "contract", made.operator, open_, since, following) if open_ else None
        )
    for event in events:
        given = made.parameters.get("swap") or {}
        table = str(given.get("table", ""))
        if event["event"] == "cut-over-postponed":
            following = f"pgrunbook run swap --target {made.target} -p table={table}"
            found["swap", made.target, table] = _waiting(
                made, "cut-over", made.operator, [table], str(event["at"]), following
            )
        elif event["event"] in ("cut-over", "swap-ended") and event.get("procedure") == "swap":
            found["swap", made.target, table] = None
        elif event["event"] in ("rollout-stands", "rollout-begun", "stage-meant", "flag-removed"):
            name = str(event.get("name", ""))
            paused = event.get("standing") == "paused"
            following = f"pgrunbook run rollout --target {made.target} -p name={name} -p do=resume"
            found["rollout", made.target, name] = (
                _waiting(made, "rollout", made.operator, [name], str(event["at"]), following) if paused else None
            )
    return found


def _waiting(made: Run, what_for: For, whom: str, what: Sequence[str], since: str, following: str) -> WaitingRequest:
    return WaitingRequest(
        run_id=made.run_id, target=made.target, runbook=made.runbook, waits_for=what_for, whom=whom, what=tuple(what),
        since=since, next=following,
    )  # fmt: skip


def _since(made: Run, events: _Events, name: str) -> str:
    return next((str(e["at"]) for e in reversed(events) if e["event"] == name), made.started_at)
