"""The check that a change is approved and that its target may be changed now; every permit makes it."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime

from pgrunbook.display.prose import counted
from pgrunbook.errors import Refused, Unreachable
from pgrunbook.plan.plan import Plan
from pgrunbook.record import journal
from pgrunbook.seal import approval, signing_key
from pgrunbook.seal.approval import ChangeSubject
from pgrunbook.seal.changes import PERMITTED
from pgrunbook.session import change_request, emergency
from pgrunbook.session.change_request import NEEDED
from pgrunbook.session.session import Session

BEGUN = ("step-started", "step-ran", "committed")
ASK_THE_DATABASE = ("migrate", "rollback")  # what has begun of these, the database shows


def check(here: Session, of: Collection[str], cell: str, *, is_begun: bool = False, grants: bool = True) -> None:
    """Check that somebody has approved what a cell would change now, and that its target's window is open.

    1. A target that asks for neither is changed without.
    2. An emergency that was declared for the run does without both, with a banner; gates and rehearsal stay.
    3. What has begun may be finished: neither expiry nor window stops it, for half of a change is worse than all of it.
       That is what the database shows as begun of a plan (``is_begun``), and what was permitted before of others.
    4. The journal says what was permitted by whose approval (``grants``), and what was refused for want of one.

    Raises Refused, WrongInput where ``signers`` or the approvals cannot be read.
    """
    target = here.target
    if not target.needs_approval and target.window is None:
        return
    events = journal.read(here.run.journal.path)
    before = change_request.was_permitted(events, here.procedure, of)
    found = None
    if reason := emergency.reason_of(events):
        here.show(emergency.banner(reason))
    else:
        begun = is_begun or (before and here.procedure not in ASK_THE_DATABASE)
        found = _approved(here, of, cell, is_begun=begun) if target.needs_approval else None
        if not begun:
            _check_window(here)
    rests_on = {"approval": found.sha256 if found else "", "by": found.approver if found else "", "emergency": reason}
    if grants and change_request.rested_on(events, here.procedure, of) != rests_on:
        here.journal(PERMITTED, cell=cell, of=sorted(of), **rests_on)


def check_plan(here: Session, plan: Plan, of: Collection[str], cell: str, *, is_begun: bool, grants: bool) -> None:
    """Check the same for a plan; who approved a run's release has approved that it takes back its own when it fails.

    Raises as :func:`check`.
    """
    released = _released(here, plan) if plan.direction == "down" else None
    if released is None:
        check(here, of, cell, is_begun=is_begun, grants=grants)
    else:
        check(here, {released}, cell, is_begun=True, grants=grants)


def _released(here: Session, plan: Plan) -> str | None:
    """Return the digest of the release whose own work a plan takes back, None where it takes back anything else."""
    given, events = here.parameters, journal.read(here.run.journal.path)
    begun = {e["migration"] for e in events if e["event"] in BEGUN and e["direction"] == "up"}
    frozen = [str(e["digest"]) for e in events if e["event"] == "plan-frozen"]
    is_own = given.of_run == here.run.run_id and {change.migration for change in plan.changes} <= begun
    return frozen[-1] if is_own and frozen and given.on_conflict == "stop" else None


def _approved(here: Session, of: Collection[str], cell: str, *, is_begun: bool) -> approval.Approval:
    run = here.run
    key = signing_key.load()
    operators = change_request.operators(run) | ({key.public.fingerprint} if key else set())
    subject = ChangeSubject(run.run_id, here.target.name, *_database(here), tuple(sorted(of)))
    found = approval.of(run, subject, operators, protected=here.target.protected, is_begun=is_begun)
    if found.counts is not None:
        return found.counts
    here.journal(NEEDED, cell=cell, of=sorted(of), digest=subject.digest, why=found.why,
                 system_identifier=subject.system_identifier, database=subject.database)  # fmt: skip
    there = len(approval.read(run))
    whose = "somebody else's approval" if here.target.protected else "an approval"
    raise Refused(
        "the approval of this change does not count" if there else "this change is not approved",
        detail=f"Of {counted(there, 'approval')} the last: {found.why}."
        if there
        else f'Target "{here.target.name}" asks for {whose} of what is executed (digest {subject.digest[:16]}).',
        hint=f"Have it approved: pgrunbook approve {run.run_id}; then {run.next_try}",
    )


def _database(here: Session) -> tuple[str, str]:
    """Return system identifier and name of the database that would be changed; of one that is dead nothing is known.

    A restore cuts over from a server that may not answer any more.
    """
    try:
        return here.identity.system_identifier, here.identity.database
    except Unreachable:
        return "", ""


def _check_window(here: Session) -> None:
    window, now = here.target.window, datetime.now(UTC)
    closed = window.closed_by(now) if window is not None else ""
    if window is None or not closed:
        return
    opens = window.opens_after(now)
    when = (
        f"It opens at {opens:%Y-%m-%d %H:%M}Z: {here.run.next_try}" if opens else "It does not open within two months"
    )
    command = "run" if here.run.how == "headless" else "start"
    raise Refused(
        f'target "{here.target.name}" is not to be changed now',
        detail=f"By this machine's clock {closed}.",
        hint=f'{when}. In an emergency: pgrunbook {command} --resume {here.run.run_id} --emergency "what happens"',
    )
