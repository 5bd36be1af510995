"""Whether what runs have changed was approved: each permit that a seal tells of, against the approval that it names.

1. An attempt that has changed a target which asks for approvals has a permit, of its own or of an earlier attempt that
   it finishes. A permit rests on an approval, whose sha256 it names, or on an emergency.
2. The approval lies in the folder of the run; who signed it ``signers`` says. It had to count when it was used.
3. An emergency is true, and loud. So is a protected target for which nobody is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pgrunbook.config import regular_file
from pgrunbook.errors import Broken, WrongInput
from pgrunbook.record import journal
from pgrunbook.record.run import JOURNAL_FILE, Run
from pgrunbook.seal import approval, changes, ledger, signers, verification
from pgrunbook.seal.approval import APPROVALS_FILE, CLOCKS_DIFFER, Approval, ChangeSubject
from pgrunbook.seal.signers import Signer
from pgrunbook.seal.verification import SealedLine, Verification, Word

NOT_APPROVED: Final = "not approved"
NOT_KNOWN: Final = "not checked"  # there is no file signers
EMERGENCY, NOBODY_ASKED, NO_CHANGE = "EMERGENCY", "nobody was asked", "-"
IN_ARCHIVE = "not looked at"  # the approvals lie in the archive, and are verified with it
LOUD = (NOT_APPROVED, EMERGENCY)
Team = Mapping[str, Signer] | None


@dataclass(frozen=True)
class _Attempt:
    """What an attempt is known to have done; ``ended`` is None where it was not sealed."""

    opened: SealedLine
    ended: SealedLine | None
    has_changed: bool
    permits: Sequence[Mapping[str, Any]]

    @property
    def asked(self) -> Mapping[str, Any]:
        target = self.opened.predicate.get("target")
        return target if isinstance(target, dict) else {}

    @property
    def needs_approval(self) -> bool:
        return bool(self.asked.get("needs_approval", self.asked.get("protected")))


def check(found: Verification, outputs: Path, team: Team) -> dict[str, str]:
    """See that each change was approved; add the problems, and return how each run stands."""
    return {
        run_id: IN_ARCHIVE if found.is_archived(outputs, run_id) else _of_run(found, outputs, run_id, lines, team)
        for run_id, lines in found.attempts().items()
    }


def of_runs(chosen: Sequence[Run]) -> dict[str, str]:
    """Return how runs of one folder stand, those whose target asks for something; of the ledger no more is read.

    Raises WrongInput where ``signers`` cannot be read.
    """
    asked = {run.run_id: run for run in chosen if _asks(run)}
    if not asked:
        return {}
    outputs, left, lines = next(iter(asked.values())).folder.parent, {*asked}, []
    for raw in ledger.lines_backwards(ledger.path(outputs)):
        line = verification.sealed_line(0, raw)
        if line is not None and line.run_id in left:
            lines.append(line)
            if line.is_open and line.predicate.get("continues") is None:
                left.discard(line.run_id)
        if not left:
            break
    return check(Verification(lines[::-1]), outputs, signers.load())


def _asks(run: Run) -> bool:
    try:
        raw = regular_file.read_bytes(run.journal.path)
    except WrongInput:
        return False
    return b'"needs_approval":true' in raw or b'"protected":true' in raw


def _of_run(found: Verification, outputs: Path, run_id: str, lines: Sequence[SealedLine], team: Team) -> str:
    approvals: dict[str, Approval] | None = None
    told: list[str] = []
    for one in _attempts(outputs / run_id, lines):
        if not one.has_changed:
            continue
        if not one.needs_approval:
            told.append(NOBODY_ASKED if one.asked.get("protected") else NO_CHANGE)
            continue
        if approvals is None:
            approvals = _approvals(outputs / run_id)
        for word, says in _of_attempt(one, lines, approvals, team):
            told.append(word)
            wrong: Word | None = NOT_APPROVED if word == NOT_APPROVED else NOT_KNOWN if word == NOT_KNOWN else None
            if wrong is not None:
                line = one.ended or one.opened
                found.note("approval", wrong, f"line {line.seq}: {says}", run_id, line.seq)
    worst = [word for word in (NOT_APPROVED, NOT_KNOWN, EMERGENCY, NOBODY_ASKED) if word in told]
    return worst[0] if worst else ", ".join(dict.fromkeys(word for word in told if word != NO_CHANGE)) or NO_CHANGE


def _attempts(folder: Path, lines: Sequence[SealedLine]) -> Iterator[_Attempt]:
    """Yield the attempts of a run; what one did that was not sealed, its journal says."""
    for n, line in enumerate(lines):
        if not line.is_open:
            continue
        ended = lines[n + 1] if n + 1 < len(lines) and not lines[n + 1].is_open else None
        if ended is not None:
            said = ended.predicate
            told = said.get("permitted")
            permits = [one for one in told if isinstance(one, dict)] if isinstance(told, list) else []
            yield _Attempt(line, ended, said.get("changed") is True, permits)
        elif n + 1 == len(lines) and _is_asked(line):
            try:
                events = journal.read(folder / JOURNAL_FILE)
            except WrongInput:
                events = []
            yield _Attempt(line, None, changes.has_changed(events), changes.permitted(events))


def _is_asked(line: SealedLine) -> bool:
    target = line.predicate.get("target")
    return isinstance(target, dict) and bool(target.get("needs_approval") or target.get("protected"))


def _of_attempt(
    one: _Attempt, lines: Sequence[SealedLine], approvals: Mapping[str, Approval], team: Team
) -> Iterator[tuple[str, str]]:
    """Yield of each permit of an attempt what it rests on, or why on nothing; of one that has none, the last before."""
    own = [n for n, permit in enumerate(one.permits) if permit.get("line") == one.opened.seq]
    if not one.permits:
        yield NOT_APPROVED, f"it changed {one.asked.get('name')}, and was not permitted to"
    for n in own or ([len(one.permits) - 1] if one.permits else []):
        permit = one.permits[n]
        if permit.get("emergency"):
            yield EMERGENCY, str(permit["emergency"])
        elif team is None:
            yield NOT_KNOWN, "there is no file signers to say who has approved it"
        else:
            earlier = [p for p in one.permits[:n] if {*permit["of"]} <= {*p["of"]} and p.get("approval")]
            is_begun = any(not _wrong(p, one, lines, approvals, team, is_begun=False) for p in earlier)
            why = _wrong(permit, one, lines, approvals, team, is_begun=is_begun)
            yield (NOT_APPROVED, why) if why else (f"by {team[approvals[permit['approval']].fingerprint].name}", "")


def _wrong(
    permit: Mapping[str, Any],
    one: _Attempt,
    lines: Sequence[SealedLine],
    approvals: Mapping[str, Approval],
    team: Mapping[str, Signer],
    *,
    is_begun: bool,
) -> str:
    """Return why a permit had no approval that counted when it was given, "" where it had."""
    given = approvals.get(str(permit.get("approval")))
    if not permit.get("approval"):
        return "it was permitted without an approval"
    if given is None:
        return f"the approval that it was permitted by ({str(permit['approval'])[:16]}) is not in {APPROVALS_FILE}"
    moment = _moment(str(permit.get("at")), permit, lines)
    if moment is None:
        return f"it was permitted at {permit.get('at')}, which is not within its attempt"
    why = approval.forged(given, _subject(permit, given, one), team) or approval.lapsed(
        given, team, moment, is_begun=is_begun
    )
    if why or not one.asked.get("protected"):
        return why
    operators = {s.keyid for line in _beginnings(permit, lines) for s in line.envelope.signatures}
    about = one.ended.predicate.get("why") if one.ended is not None else None
    requested_by = str(about.get("requested_by", "")) if isinstance(about, dict) else ""
    return approval.is_own(given.fingerprint, team, operators, requested_by)


def _subject(permit: Mapping[str, Any], given: Approval, one: _Attempt) -> ChangeSubject:
    """Return what was permitted; which database that was, the seal says, where that was known at all."""
    said = one.ended.predicate.get("target") if one.ended is not None else None
    target = said if isinstance(said, dict) else {}
    found = ChangeSubject(
        one.opened.run_id, str(one.asked.get("name")), given.subject.system_identifier, given.subject.database,
        tuple(sorted(map(str, permit["of"]))),
    )  # fmt: skip
    if given.subject.system_identifier and target.get("system_identifier"):
        found = replace(
            found, system_identifier=str(target["system_identifier"]), database=str(target.get("database", ""))
        )
    return found


def _beginnings(permit: Mapping[str, Any], lines: Sequence[SealedLine]) -> list[SealedLine]:
    """Return the lines whose keys are those of who makes the change: that of the run, and of the permit's attempt."""
    return [line for line in lines if line.is_open and (line is lines[0] or line.seq == permit.get("line"))]


def _moment(text: str, permit: Mapping[str, Any], lines: Sequence[SealedLine]) -> datetime | None:
    """Return when a permit was given, None where it cannot have been: it is of within its attempt."""
    of = next((n for n, line in enumerate(lines) if line.seq == permit.get("line") and line.is_open), None)
    try:
        moment = datetime.fromisoformat(text)
        if of is None or moment < datetime.fromisoformat(lines[of].predicate["at"]) - CLOCKS_DIFFER:
            return None
        after = lines[of + 1].predicate["at"] if of + 1 < len(lines) else ""
        return None if after and moment > datetime.fromisoformat(after) + CLOCKS_DIFFER else moment
    except (TypeError, ValueError):
        return None


def _approvals(folder: Path) -> dict[str, Approval]:
    """Return the approvals of a run by the sha256 of their line; those that cannot be read are none."""
    found = {}
    try:
        lines = regular_file.read_bytes(folder / APPROVALS_FILE).split(b"\n")
    except WrongInput:
        return {}
    for line in filter(None, lines):
        try:
            one = approval.parsed(line)
        except Broken:
            continue
        found[one.sha256] = one
    return found
