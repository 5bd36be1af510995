"""The commands approve and requests, and the patience of a run that waits for its approval."""

from __future__ import annotations

import re
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from pgrunbook.errors import Refused, WrongInput

if TYPE_CHECKING:
    from pgrunbook.record.run import Run
    from pgrunbook.session.change_request import ChangeRequest

_DURATION = re.compile(r"^(\d{1,4})(s|m|h|d)$")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
LONGEST = timedelta(days=30)
LOOKS_EVERY_S = 1.0
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def approve(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or its end.")],
    expires: Annotated[str, typer.Option(help="How long it counts: 24h, 30m, 2d; 30 days at most.")] = "24h",
    reason: Annotated[str, typer.Option(help="What the record says of why.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing: you have read it elsewhere.")] = False,
    as_json: AsJson = False,
) -> None:
    """Approve what a run would change: shows it, asks for the run's id, and signs it with your key."""
    from pgrunbook.app import approval_view, run_report
    from pgrunbook.record import door
    from pgrunbook.record.run import stamp
    from pgrunbook.session import change_request

    lasts = duration(expires, "--expires")
    request = change_request.to_approve(run_id)
    _, name = change_request.approver(request)
    out = sys.stderr if as_json else sys.stdout
    out.write(door.masked(approval_view.text(request)) + "\n")
    if not yes:
        _confirm(request, name)
    signed = change_request.approve(request, lasts=lasts, reason=reason)
    made = request.run
    following = made.next_try if made.parts else ""
    if as_json:
        report = run_report.ApprovedChange(
            run_id=made.run_id, target=made.target, procedure=request.procedure, digest=signed.digest,
            approver=signed.approver, fingerprint=signed.fingerprint, signed_at=stamp(signed.signed_at),
            expires_at=stamp(signed.expires_at), reason=signed.reason, next=following,
        )  # fmt: skip
        sys.stdout.write(report.model_dump_json(indent=1) + "\n")
        return
    sys.stdout.write(f"approved by {signed.approver} until {stamp(signed.expires_at)}: {signed.digest}\n")
    sys.stdout.write(f"next: {following}\n")


def requests(
    target: Annotated[str, typer.Option(help="Only what waits for this target.")] = "", as_json: AsJson = False
) -> None:
    """List what waits for whom: approvals, gates, contracts, postponed cut-overs, rollouts that are paused."""
    from pgrunbook.app import requests_report
    from pgrunbook.app.cli_runs import PLAIN, RED
    from pgrunbook.display.show import Table, visible

    found = requests_report.report(target)
    if as_json:
        sys.stdout.write(found.model_dump_json(indent=1) + "\n")
        return
    rows = [
        (one.waits_for, one.whom, one.target, one.run_id, ", ".join(one.what), one.since[:16] + "Z")
        for one in found.requests
    ]
    headings = ["waits for", "of whom", "target", "run", "what", "since"]
    sys.stdout.write(f"{Table(headings, rows, empty='Nothing waits for anybody.')!r}\n")
    sys.stdout.write("".join(f"{visible(f'{one.run_id}: {one.next}')}\n" for one in found.requests))
    red, plain = (RED, PLAIN) if sys.stdout.isatty() else ("", "")
    for change in found.loud:
        where = f"{change.runbook} on {change.target}, run {change.run_id} of {change.started_at[:16]}Z"
        sys.stdout.write(f"{red}{change.approval.upper()}: {visible(where)}{plain}\n")
    sys.stderr.write("".join(f"{visible(text)}\n" for text in found.unreadable))


def duration(text: str, option: str) -> timedelta:
    """Return a length of time: 30s, 45m, 24h, 2d. Raises WrongInput."""
    match = _DURATION.match(text)
    lasts = timedelta(seconds=int(match[1]) * _SECONDS[match[2]]) if match else timedelta(0)
    if not timedelta(0) < lasts <= LONGEST:
        raise WrongInput(
            f'{option} "{text}" is no length of time',
            detail=f"It is a number with s, m, h or d, up to {LONGEST.days} days.",
            hint=f"For example: {option} 24h.",
        )
    return lasts


def wait(made: Run, code: int, patience: timedelta) -> tuple[Run, int]:
    """Let a run that was refused for want of an approval go on when there is one; return how it ended.

    Nothing is held meanwhile: the run is sealed as refused, and goes on as ``--resume`` would. It stays refused where
    the patience ends.
    """
    from pgrunbook.record import run as runs
    from pgrunbook.runner import runbook as books
    from pgrunbook.session import change_request

    end = time.monotonic() + patience.total_seconds()
    while code == Refused.exit_code and change_request.is_refused_for_it(made):
        until = datetime.now(UTC) + timedelta(seconds=max(0.0, end - time.monotonic()))
        sys.stderr.write(f"waits until {until:%H:%M:%S}Z for: pgrunbook approve {made.run_id}\n")
        while not _is_approved(made):
            if time.monotonic() >= end:
                return made, code
            time.sleep(LOOKS_EVERY_S)
            made = runs.load(made.folder)
        made, code = books.resume(made.run_id)
    return made, code


def _is_approved(made: Run) -> bool:
    from pgrunbook.session import change_request

    request = change_request.asked(made)
    return request is not None and change_request.standing(request).counts is not None


def _confirm(request: ChangeRequest, name: str) -> None:
    made = request.run
    if not sys.stdin.isatty():
        raise WrongInput(
            "nobody is there to confirm the approval",
            detail="The command does not run on a terminal.",
            state="Nothing changed in the database or in the record.",
            hint=f"Read what it shows, then: pgrunbook approve {made.run_id} --yes",
        )
    typed = typer.prompt(f"{name} approves this. Type the run's id, or its last four letters", err=True)
    if typed.strip() not in (made.run_id, made.run_id[-4:]):
        raise Refused(
            f"run {made.run_id} is not approved",
            detail=f'"{typed.strip()[:60]}" is not its id.',
            state="Nothing changed in the database or in the record.",
            hint=f"Approve it, where that is the right run: pgrunbook approve {made.run_id}",
        )
