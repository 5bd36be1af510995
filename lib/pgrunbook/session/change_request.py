"""What a run asks somebody to approve, and the approval of it: ``pgrunbook approve``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pgrunbook.config import targets
from pgrunbook.config.targets import OF_BRANCH, Target
from pgrunbook.errors import Refused, WrongInput
from pgrunbook.plan import plan as plans
from pgrunbook.plan.plan import Plan
from pgrunbook.record import journal
from pgrunbook.record import run as runs
from pgrunbook.record.run import Run, Status
from pgrunbook.seal import approval, attempt, signers, signing_key
from pgrunbook.seal.approval import Approval, Approvals, ChangeSubject
from pgrunbook.seal.changes import PERMITTED
from pgrunbook.seal.signing_key import SigningKey

NEEDED, APPROVED = "approval-needed", "approved"
FROZEN = {"plan-frozen": "plan.json", "rollback-plan-frozen": "rollback-plan.json"}
_NOTHING = "Nothing changed in the database or in the record."


@dataclass(frozen=True)
class ChangeRequest:
    """What a run asks to be approved: by which cell of which procedure, about what; its plan where it has one."""

    run: Run
    procedure: str
    cell: str
    subject: ChangeSubject
    plan: Plan | None


def decided(on_conflict: str) -> str:
    """Return what a rollback is about beside its plan: what was decided on rows in conflict."""
    return f"rows in conflict: {on_conflict}"


def asked(made: Run) -> ChangeRequest | None:
    """Return what a run asks to be approved, by the last that it has frozen or been refused for; None for nothing.

    Raises Refused where its plan is not the one that it has frozen, WrongInput where that cannot be read.
    """
    events = journal.read(made.journal.path)
    last = next((e for e in reversed(events) if e["event"] in (*FROZEN, NEEDED)), None)
    if last is None:
        return None
    frozen = next((e for e in reversed(events) if e["event"] in FROZEN), None)
    if last["event"] == NEEDED:
        of, procedure, cell = tuple(last["of"]), str(last["procedure"]), str(last["cell"])
    else:
        of, procedure, cell = _of_plan(made, last)
    if frozen is None or frozen["digest"] not in of:
        subject = _subject(made, of, str(last["system_identifier"]), str(last["database"]))
        return ChangeRequest(made, procedure, cell, subject, None)
    plan = plans.read(made.folder / FROZEN[frozen["event"]])
    if plan.digest != frozen["digest"]:
        raise Refused(
            f"{FROZEN[frozen['event']]} of run {made.run_id} is not the plan that was frozen in it",
            detail=f"The journal says {frozen['digest']}; the file has {plan.digest}.",
            state=_NOTHING,
            hint="Somebody has written another plan into the run's folder: find out who, and start a new run.",
        )
    subject = _subject(made, of, plan.base.system_identifier, plan.base.database)
    return ChangeRequest(made, procedure, cell, subject, plan)


def to_approve(run_id: str) -> ChangeRequest:
    """Return what a run asks to be approved, for who is about to.

    Raises WrongInput for a run that does not exist or asks for nothing, Refused for one that is done or is executing
    what would be approved, and as :func:`asked`.
    """
    made = runs.find(run_id)
    made.refuse_changed()
    if not target_of(made).needs_approval:
        raise WrongInput(
            f'target "{made.target}" asks for no approval',
            detail="Neither protected nor approval is true for it.",
            hint="Write approval = true into its section of targets.toml.",
        )
    found = asked(made)
    if found is None:
        raise WrongInput(
            f"run {made.run_id} has nothing to approve",
            detail="It has frozen no plan, and nothing of it was refused for want of an approval.",
            hint="Run prepare first: it makes the plan.",
        )
    if made.status is Status.DONE:
        raise Refused(
            f"run {made.run_id} is done",
            detail="An approval counts before something is executed.",
            state=_NOTHING,
            hint=f"See what was approved and done: pgrunbook show {made.run_id}",
        )
    if made.is_held() and _is_permitted(found):
        raise Refused(
            f"run {made.run_id} is executing what would be approved",
            detail="An approval counts before the first statement runs.",
            state=_NOTHING,
            hint=f"Wait until it has ended: pgrunbook show {made.run_id}",
        )
    return found


def approver(request: ChangeRequest) -> tuple[SigningKey, str]:
    """Return the key that would sign an approval now, and whose it is.

    Raises Refused where there is none, where ``signers`` does not name it, or where it is that of who makes the change
    in a protected target; and as ``signing_key.load``.
    """
    made, key, team = request.run, signing_key.load(), signers.load() or {}
    if key is None or key.public.fingerprint not in team:
        detail = (
            f"{signers.path()} does not name {key.public.fingerprint}." if key else "There is no key to sign it with."
        )
        hint = "Have your line of pgrunbook key show added to it." if key else "Make one: pgrunbook key new NAME."
        raise Refused("an approval is signed by somebody who is known", detail=detail, state=_NOTHING, hint=hint)
    if target_of(made).protected:
        requested_by = made.about.get("requested_by", "")
        own = approval.is_own(key.public.fingerprint, team, operators(made), requested_by)
        if own:
            raise Refused(
                f'target "{made.target}" is protected: somebody else approves a change than who makes it',
                detail=f"{own}.",
                state=_NOTHING,
                hint=f"Have somebody else type: pgrunbook approve {made.run_id}",
            )
    return key, team[key.public.fingerprint].name


def approve(request: ChangeRequest, *, lasts: timedelta, reason: str = "") -> Approval:
    """Sign what a run asks to be approved, and note it in its journal.

    Raises as :func:`approver`, RecordFailed where it cannot be written.
    """
    key, name = approver(request)
    made = request.run
    with attempt.addition(made):
        signed = approval.sign(
            made, request.subject, key, name, expires_at=datetime.now(UTC) + lasts, reason=reason
        )  # fmt: skip
        made.journal.write(
            APPROVED, digest=request.subject.digest, of=list(request.subject.of), by=name,
            fingerprint=signed.fingerprint, signed_at=runs.stamp(signed.signed_at),
            expires_at=runs.stamp(signed.expires_at), reason=reason, sha256=signed.sha256,
        )  # fmt: skip
    return signed


def standing(request: ChangeRequest) -> Approvals:
    """Return whether what a run asks for is approved now. Raises WrongInput as ``approval.of``."""
    made = request.run
    return approval.of(made, request.subject, operators(made), protected=target_of(made).protected)


def operators(made: Run) -> set[str]:
    """Return the fingerprint of the key with which a run was begun, as a set that is empty for none."""
    return {approval.began_with(made, journal.read(made.journal.path))} - {""}


def target_of(made: Run) -> Target:
    """Return the target of a run as targets.toml has it; a branch of one asks for nothing. Raises WrongInput."""
    of, is_branch, _ = made.target.partition(OF_BRANCH)
    found = targets.load(of)
    return found.model_copy(update={"approval": False, "window": None, "protected": False}) if is_branch else found


def is_refused_for_it(made: Run) -> bool:
    """Tell whether the last cell of a run that has ended was refused for want of an approval."""
    events = journal.read(made.journal.path)
    last = next((n for n, e in reversed([*enumerate(events)]) if e["event"] == "cell-ended"), 0)
    begun = next((n for n, e in reversed([*enumerate(events[:last])]) if e["event"] == "cell-started"), 0)
    return any(e["event"] == NEEDED for e in events[begun:last])


def was_permitted(events: Collection[Mapping[str, Any]], procedure: str, of: Collection[str]) -> bool:
    """Tell whether a run was permitted to change this, as its journal says."""
    return rested_on(events, procedure, of) is not None


def rested_on(events: Collection[Mapping[str, Any]], procedure: str, of: Collection[str]) -> dict[str, str] | None:
    """Return what the last permit of a run for this rested on: approval, by, emergency; None where it has none."""
    found = [e for e in events if e["event"] == PERMITTED and e["procedure"] == procedure and {*of} <= {*e["of"]}]
    return {name: str(found[-1][name]) for name in ("approval", "by", "emergency")} if found else None


def _is_permitted(request: ChangeRequest) -> bool:
    """Tell whether it was permitted since its procedure was begun for the last time."""
    events: Sequence[Mapping[str, Any]] = journal.read(request.run.journal.path)
    begun = [
        n for n, e in enumerate(events) if e["event"] == "procedure-started" and e.get("procedure") == request.procedure
    ]
    return was_permitted(events[begun[-1] :] if begun else (), request.procedure, request.subject.of)


def _of_plan(made: Run, frozen: Mapping[str, Any]) -> tuple[tuple[str, ...], str, str]:
    if frozen["event"] == "plan-frozen":
        return (str(frozen["digest"]),), "migrate", "execute-plan"
    given = made.parameters.get("rollback") or {}
    return (str(frozen["digest"]), decided(str(given.get("on_conflict", "stop")))), "rollback", "take-back"


def _subject(made: Run, of: Collection[str], system_identifier: str, database: str) -> ChangeSubject:
    return ChangeSubject(made.run_id, made.target, system_identifier, database, tuple(sorted(of)))
