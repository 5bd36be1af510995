"""The approval of a change: what somebody has approved, signed with their key, in the folder of its run.

1. ``approvals.jsonl`` of a run holds one DSSE envelope a line, as the ledger does: an in-toto statement over the digest
   of what is approved, whose predicate names the run, the target, the approver and the expiry.
2. What one is worth is never taken from the line itself: the key comes from ``signers``, the target from the database.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from pgrunbook.config import regular_file
from pgrunbook.errors import Broken, RecordFailed
from pgrunbook.record.files import sync_folder
from pgrunbook.record.run import Run, operator, stamp
from pgrunbook.seal import envelope, ledger, signers, subjects
from pgrunbook.seal.envelope import Envelope
from pgrunbook.seal.signers import Signer
from pgrunbook.seal.signing_key import SigningKey

APPROVALS_FILE = "approvals.jsonl"
PREDICATE_TYPE = "urn:pgrunbook:approval:v1"
EVIDENCE = (
    "is-it-safe-to-start.csv", "what-is-pending.csv", "what-will-it-do.csv", "rehearsed.csv", "rehearsal.json",
    "plan.sql", "rollback-plan.sql",
)  # fmt: skip
CLOCKS_DIFFER = timedelta(minutes=5)


@dataclass(frozen=True)
class ChangeSubject:
    """What is approved: what a run's checks are about (``of``, as its permit), and which database it is for."""

    run_id: str
    target: str
    system_identifier: str
    database: str
    of: tuple[str, ...]

    @property
    def digest(self) -> str:
        """The sha256 over what the change is about; of a plan alone it is the digest of that."""
        one = self.of[0] if len(self.of) == 1 else ""
        return (
            one
            if len(one) == 64 and set(one) <= set("0123456789abcdef")
            else sha256(envelope.encoded(self.of)).hexdigest()
        )


@dataclass(frozen=True)
class Approval:
    """An approval as it lies in the folder of a run, whatever it is worth; ``sha256`` is that of its line."""

    envelope: Envelope
    sha256: str
    subject: ChangeSubject
    digest: str
    fingerprint: str
    approver: str
    signed_at: datetime
    expires_at: datetime
    reason: str


@dataclass(frozen=True)
class Unreadable:
    """A line that holds no approval as we write it, and why."""

    why: str


def sign(
    run: Run, subject: ChangeSubject, key: SigningKey, approver: str, *, expires_at: datetime, reason: str = ""
) -> Approval:
    """Sign what is approved, append that to the run's approvals, and return it; it is on disk then.

    Raises RecordFailed when it cannot be signed or written.
    """
    evidence = [(name, subjects.digest(run.folder / name)) for name in EVIDENCE]
    predicate = {
        "run_id": subject.run_id,
        "runbook": run.runbook,
        "target": {
            "name": subject.target, "system_identifier": subject.system_identifier, "database": subject.database
        },
        "of": list(subject.of),
        "approver": {"name": approver, "fingerprint": key.public.fingerprint, "os_uid": os.getuid(),
                     "environment_says": operator()},
        "signed_at": stamp(),
        "expires_at": stamp(expires_at.astimezone(UTC)),
        "reason": reason,
    }  # fmt: skip
    statement = {
        "_type": ledger.STATEMENT_TYPE,
        "subject": [
            {"name": "change", "digest": {"sha256": subject.digest}},
            *({"name": name, "digest": {"sha256": found}} for name, found in evidence if found),
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    }
    payload = envelope.encoded(statement)
    line = Envelope(payload, (key.sign(envelope.signed_bytes(payload)),)).line()
    try:
        _append(run, line)
    except OSError as exc:
        raise RecordFailed(
            "could not write the approval",
            detail=f"{run.folder / APPROVALS_FILE}: {exc.strerror or exc}.",
            state="Nothing changed in the database; nothing is approved.",
            hint="Make room, or make the folder of the run writable; then approve it again.",
        ) from exc
    return parsed(line)


def parsed(line: bytes) -> Approval:
    """Return the approval that a line holds. Raises Broken where it holds none as we write it."""
    wrapped = envelope.read(line)
    statement = wrapped.statement()
    try:
        if statement["predicateType"] != PREDICATE_TYPE:
            raise ValueError("it is a statement about something else")
        said = statement["predicate"]
        target, approver = said["target"], said["approver"]
        subject = ChangeSubject(
            str(said["run_id"]), str(target["name"]), str(target["system_identifier"]), str(target["database"]),
            tuple(map(str, said["of"])),
        )  # fmt: skip
        moments = [datetime.fromisoformat(str(said[name])) for name in ("signed_at", "expires_at")]
        if any(moment.tzinfo is None for moment in moments):
            raise ValueError("its times have no zone")
        digest = str(statement["subject"][0]["digest"]["sha256"])
        return Approval(
            wrapped, sha256(line).hexdigest(), subject, digest, str(approver["fingerprint"]), str(approver["name"]),
            moments[0], moments[1], str(said["reason"]),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as exc:
        detail = f"{type(exc).__name__}: {str(exc)[:200]}."
        raise Broken("a line holds no approval as we write it", detail=detail, state="") from exc


def read(run: Run) -> list[Approval | Unreadable]:
    """Return the approvals of a run, oldest first. Raises WrongInput where their file cannot be read."""
    path = run.folder / APPROVALS_FILE
    if not regular_file.is_there(path):
        return []
    found: list[Approval | Unreadable] = []
    for line in filter(None, regular_file.read_bytes(path).split(b"\n")):
        try:
            found.append(parsed(line))
        except Broken as exc:
            found.append(Unreadable(exc.detail))
    return found


def forged(one: Approval, subject: ChangeSubject, team: Mapping[str, Signer]) -> str:
    """Return why an approval does not say what it has to, or was not signed by somebody known; "" where it is good.

    Who has approved several things has approved each: of what a purge drops, some may be gone when it goes on.
    """
    signatures = one.envelope.signatures
    signer = team.get(signatures[0].keyid) if len(signatures) == 1 else None
    if len(signatures) != 1 or signatures[0].keyid != one.fingerprint:
        return f"it says that {one.fingerprint} signed it, and its signature is of somebody else"
    if signer is None:
        return f"it is signed by {one.fingerprint}, which signers does not name"
    if not signer.key.signed(signatures[0].value, one.envelope.signed_bytes):
        return f"its signature is not the one of {signer.name} over what it says: it was edited"
    of = one.subject
    if of.run_id != subject.run_id:
        return f"it is for run {of.run_id}"
    if (of.target, of.system_identifier, of.database) != (subject.target, subject.system_identifier, subject.database):
        return (
            f"it is for database {of.database} of system {of.system_identifier} (target {of.target}), and this is "
            f"{subject.database} of system {subject.system_identifier} (target {subject.target})"
        )
    if not {*subject.of} <= {*of.of} or one.digest != of.digest:
        return f"it is for digest {one.digest[:16]}, and this has {subject.digest[:16]}"
    return ""


def lapsed(one: Approval, team: Mapping[str, Signer], moment: datetime, *, is_begun: bool) -> str:
    """Return why an approval that was good does not count at a moment, "" where it does.

    What has begun while it counted may be finished later: only the key has to have been good when it signed.
    """
    signer = team[one.fingerprint]
    if lacks := signer.lacks(one.signed_at):
        return lacks
    if one.signed_at > moment + CLOCKS_DIFFER:
        return f"it says that it was signed at {stamp(one.signed_at)}, which is to come"
    if is_begun:
        return ""
    if lacks := signer.lacks(moment):
        return lacks
    return f"it expired at {stamp(one.expires_at)}" if moment >= one.expires_at else ""


def is_own(fingerprint: str, team: Mapping[str, Signer], operators: Collection[str], requested_by: str) -> str:
    """Return why an approver is who makes the change as well, "" where these are two people.

    ``operators`` are the fingerprints of the keys of who has begun the run and of who is at work.
    """
    approver = team[fingerprint].name
    if fingerprint in operators:
        return f"{approver} approves with the key of who makes the change"
    if approver in {team[key].name for key in operators if key in team}:
        return f"{approver} makes the change"
    return f"{approver} has requested the change" if approver == requested_by else ""


@dataclass(frozen=True)
class Approvals:
    """Whether a change is approved: the newest approval that counts, or None and why the last one does not."""

    counts: Approval | None
    why: str


def of(
    run: Run, subject: ChangeSubject, operators: Collection[str], *, protected: bool, is_begun: bool = False
) -> Approvals:
    """Return whether a change of a run is approved now, by this machine's clock.

    A ``protected`` target asks for two people. Raises WrongInput where ``signers`` or the approvals cannot be read.
    """
    team, now = signers.load() or {}, datetime.now(UTC)
    whys = []
    for one in reversed(read(run)):
        if isinstance(one, Unreadable):
            whys.append(f"it cannot be read: {one.why}")
            continue
        why = forged(one, subject, team) or lapsed(one, team, now, is_begun=is_begun)
        if not why and protected:
            why = is_own(one.fingerprint, team, operators, run.about.get("requested_by", ""))
        if not why:
            return Approvals(one, "")
        whys.append(why)
    return Approvals(None, whys[0] if whys else "")


def began_with(run: Run, events: Collection[Mapping[str, Any]]) -> str:
    """Return the fingerprint of the key of who began a run, as the ledger's line says that opened it; "" for none."""
    opened = next((e for e in events if e["event"] == "ledger-opened"), None)
    if opened is None:
        return ""
    for line in ledger.lines_backwards(ledger.path(run.folder.parent)):
        if sha256(line).hexdigest() == opened.get("sha256"):
            signer = ledger.predicate_of(line).get("signer")
            return str(signer["fingerprint"]) if isinstance(signer, dict) else ""
    return ""


def _append(run: Run, line: bytes) -> None:
    path = run.folder / APPROVALS_FILE
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    try:
        size = os.fstat(handle).st_size
        is_cut = size > 0 and os.pread(handle, 1, size - 1) != b"\n"  # a crash cut the last line off
        content = (b"\n" if is_cut else b"") + line + b"\n"
        if os.write(handle, content) != len(content):
            os.ftruncate(handle, size)
            raise OSError(28, "No space left on device")
        os.fsync(handle)
    finally:
        os.close(handle)
    sync_folder(path.parent)
