"""Whether the records are as they were sealed: the chain, the signatures, the folders and files, line by line.

It needs neither a private key nor a network. What a line is worth is never taken from the line itself: its number and
the hash of the line before come from the file, the key from ``signers``.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from pgrunbook.config import regular_file
from pgrunbook.errors import Broken, WrongInput
from pgrunbook.record.run import RUN_FILE, RUN_ID
from pgrunbook.seal import envelope, ledger
from pgrunbook.seal.envelope import Envelope
from pgrunbook.seal.signers import Signer

Word = Literal[
    "altered", "missing", "truncated", "reordered", "replayed", "forged", "added", "revoked", "not approved",
    "not checked",
]  # fmt: skip
Part = Literal["chain", "signature", "files", "anchor", "approval"]
_PART = 500
THREADS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class Problem:
    """What is wrong with which part, in one word and a sentence; ``run_id`` is "" for what belongs to no run."""

    part: Part
    word: Word
    says: str
    run_id: str = ""
    seq: int = 0


@dataclass
class SealedLine:
    """A line of the ledger as it lies in the file: what it says, and what its signature is worth.

    ``subjects`` are the files that it is over, each with its sha256; ``sizes`` are their bytes.
    """

    number: int
    envelope: Envelope
    predicate: dict[str, Any]
    subjects: dict[str, str]
    sizes: dict[str, int]
    signer: str = ""
    sha256: str = ""

    @property
    def seq(self) -> int:
        """The number that the line gives itself."""
        return int(self.predicate["seq"])

    @property
    def run_id(self) -> str:
        """The run that it is about."""
        return str(self.predicate["run_id"])

    @property
    def is_open(self) -> bool:
        """Whether it opens an attempt."""
        return bool(self.predicate["kind"] == ledger.OPENED)


@dataclass
class Verification:
    """What the ledger holds, and what is wrong with it and with the runs beside it.

    ``archives`` are its lines of no run, ``archived`` says of runs in which archive they lie.
    """

    lines: list[SealedLine] = field(default_factory=list)
    archives: list[SealedLine] = field(default_factory=list)
    archived: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, part: Part, word: Word, says: str, run_id: str = "", seq: int = 0) -> None:
        """Add a problem."""
        self.problems.append(Problem(part, word, says, run_id, seq))

    def is_archived(self, outputs: Path, run_id: str) -> bool:
        """Tell whether the folder of a run was removed, and lies in an archive."""
        return run_id in self.archived and not (outputs / run_id).is_dir()

    def attempts(self) -> dict[str, list[SealedLine]]:
        """The lines of each run, in the order of the ledger."""
        found: dict[str, list[SealedLine]] = {}
        for line in self.lines:
            found.setdefault(line.run_id, []).append(line)
        return found


def chain(outputs: Path, team: Mapping[str, Signer] | None) -> Verification:
    """Return what the ledger of a folder says, with the chain and each signature verified.

    Raises WrongInput when there is no ledger, or it cannot be read.
    """
    return of_lines(ledger.read(ledger.path(outputs)), team)


def of_lines(raw: bytes, team: Mapping[str, Signer] | None, *, is_whole: bool = True) -> Verification:
    """Return what lines of a ledger say; where they are not the whole ledger, lines between them may lack."""
    found = Verification()
    _read(found, raw)
    _check_places(found, is_whole=is_whole)
    _check_signatures(found, team)
    found.archives = [line for line in found.lines if line.predicate["kind"] == ledger.ARCHIVED]
    found.lines = [line for line in found.lines if line.predicate["kind"] != ledger.ARCHIVED]
    _check_attempts(found)
    return found


def _read(found: Verification, raw: bytes) -> None:
    """Add the lines; what they hold stays to the end, and is no garbage, so that nobody looks for any meanwhile."""
    collects = gc.isenabled()
    gc.disable()
    try:
        _read_lines(found, raw)
    finally:
        if collects:
            gc.enable()


def _read_lines(found: Verification, raw: bytes) -> None:
    pieces: list[bytes] = []
    for number, text in enumerate(raw.split(b"\n"), 1):
        line = sealed_line(number, text) if text else None
        if line is not None:
            _check_pieces(found, line, pieces)
            found.lines.append(line)
        pieces = [] if line is not None else [*pieces, text] if text else pieces
    if pieces:
        says = f"the last line is cut off ({sum(map(len, pieces))} bytes): a crash did that, or somebody"
        found.note("chain", "truncated", says)


def folders(found: Verification, outputs: Path) -> None:
    """Look whether each run of the ledger has its folder, and each folder its run."""
    known = {line.run_id for line in found.lines}
    there = {entry.name for entry in os.scandir(outputs) if entry.is_dir() and RUN_ID.fullmatch(entry.name)}
    for run_id in sorted(known - there - found.archived.keys()):
        found.note("files", "missing", f"the folder of run {run_id} is not there", run_id)
    for run_id in sorted(there - known):
        if not (outputs / run_id / RUN_FILE).is_file():
            continue
        if _was_opened(outputs / run_id):
            found.note("chain", "truncated", "its journal names a line of the ledger, which has none of it", run_id)
        else:
            found.notes.append(f"run {run_id} is not in the ledger: it is of before 0.3.0, or was put there")


def _was_opened(folder: Path) -> bool:
    try:
        return b'"event":"ledger-opened"' in regular_file.read_bytes(folder / "journal.jsonl")
    except WrongInput:
        return False


def sealed_line(number: int, text: bytes) -> SealedLine | None:
    """Return what a line of the ledger holds, None where it is none of ours."""
    try:
        wrapped = envelope.read(text)
        statement = wrapped.statement()
        predicate = ledger.checked(statement)
        subjects = {str(one["name"]): str(one["digest"]["sha256"]) for one in statement["subject"]}
        sizes = {str(one["name"]): int(one.get("annotations", {}).get("bytes", 0)) for one in statement["subject"]}
    except (Broken, KeyError, TypeError, ValueError, AttributeError):
        return None
    return SealedLine(number, wrapped, predicate, subjects, sizes, sha256=sha256(text).hexdigest())


def _check_pieces(found: Verification, line: SealedLine, pieces: Sequence[bytes]) -> None:
    """A piece that a crash left is told by the line after it; everything else that is no line was put there."""
    told = line.predicate.get("after_torn")
    left = b"\n".join(pieces)
    fits = isinstance(told, dict) and told.get("sha256") == sha256(left).hexdigest()
    if pieces and not fits:
        found.note(
            "chain", "altered", f"what stands before line {line.number} is no line of ours: one was changed, or put in"
        )
    elif told is not None and not pieces:
        found.note(
            "chain",
            "missing",
            f"line {line.number} tells of a piece before it that is not there",
            line.run_id,
            line.seq,
        )
    elif pieces:
        found.notes.append(f"line {line.number} follows a line that was cut off by a crash ({len(left)} bytes)")


def _check_places(found: Verification, *, is_whole: bool) -> None:
    """See that each line has the number that is its turn, and follows the line that it names."""
    by_seq = {line.seq: line for line in reversed(found.lines)}
    seen: set[str] = set()
    expected = 1
    for line in found.lines:
        before = by_seq.get(line.seq - 1)
        if line.sha256 in seen:
            found.note("chain", "replayed", f"line {line.number} stands in the ledger twice", line.run_id, line.seq)
        elif line.seq != expected and (line.seq < expected or expected in by_seq):
            says = f"line {line.number} has number {line.seq}, and it is the turn of {expected}"
            found.note("chain", "reordered", says, line.run_id, line.seq)
        elif line.seq > expected and is_whole:
            lost = f"line {expected} is" if line.seq == expected + 1 else f"lines {expected} to {line.seq - 1} are"
            found.note("chain", "missing", f"{lost} not there: {line.seq} comes next", line.run_id, line.seq)
        elif line.predicate["prev"] != (before.sha256 if before else "") and (before or is_whole):
            of = before or line
            says = f"line {of.seq} is not the one that line {line.seq} was written after"
            found.note("chain", "altered", says, of.run_id, of.seq)
        if line.predicate["ledger"] != found.lines[0].predicate["ledger"]:
            says = f"line {line.number} is of another ledger ({line.predicate['ledger']})"
            found.note("chain", "forged", says, line.run_id, line.seq)
        seen.add(line.sha256)
        expected = max(expected, line.seq + 1)


def _check_signatures(found: Verification, team: Mapping[str, Signer] | None) -> None:
    parts = [found.lines[at : at + _PART] for at in range(0, len(found.lines), _PART)]
    with ThreadPoolExecutor(THREADS) as pool:
        worth = [one for part in pool.map(lambda part: [_signature(x, team) for x in part], parts) for one in part]
    latest = None
    for line, (signer, problem) in zip(found.lines, worth, strict=True):
        line.signer = signer
        if problem is not None:
            found.problems.append(problem)
        try:
            moment = datetime.fromisoformat(str(line.predicate["at"]))
            is_back = latest is not None and moment < latest
        except (ValueError, TypeError):
            found.note("signature", "forged", f"line {line.seq} has no time", line.run_id, line.seq)
            continue
        if is_back:
            found.notes.append(f"the clock went back before line {line.seq} ({line.run_id})")
        latest = moment if latest is None else max(latest, moment)
        _check_key(found, line, team, moment, latest)


def _check_key(
    found: Verification, line: SealedLine, team: Mapping[str, Signer] | None, moment: datetime, latest: datetime
) -> None:
    """See that the key was good when it signed; a line cannot be older than one that stands before it."""
    signer = (team or {}).get(line.envelope.signatures[0].keyid) if line.envelope.signatures else None
    if signer is None:
        return
    if lacks := signer.lacks(moment):
        found.note(
            "signature",
            "revoked",
            f"line {line.seq} was signed at {moment:%Y-%m-%d %H:%M}Z, and {lacks}",
            line.run_id,
            line.seq,
        )
    elif lacks := signer.lacks(latest):
        says = f"line {line.seq} says that it is older than a line before it, and {lacks}"
        found.note("signature", "revoked", says, line.run_id, line.seq)


def _signature(line: SealedLine, team: Mapping[str, Signer] | None) -> tuple[str, Problem | None]:
    """Return whose signature a line has, "unsigned" where it has none, and what is wrong with it."""
    told = line.predicate.get("signer")
    claimed = str(told.get("fingerprint")) if isinstance(told, dict) else ""
    signatures = line.envelope.signatures

    def problem(word: Word, says: str) -> tuple[str, Problem]:
        return "", Problem("signature", word, f"line {line.seq}: {says}", line.run_id, line.seq)

    if not signatures:
        if claimed:
            return problem("forged", f"it says that {claimed} signed it, and has no signature")
        target = line.predicate.get("target")
        if isinstance(target, dict) and target.get("protected"):
            return problem("forged", "it is unsigned, and its target is protected")
        return "unsigned", None
    keyid = signatures[0].keyid
    if keyid != claimed or len(signatures) > 1:
        return problem("forged", f"it says that {claimed or 'nobody'} signed it, and the signature is of {keyid}")
    if team is None:
        return problem("not checked", f"it is signed by {keyid}, and there is no file signers to say whose key that is")
    signer = team.get(keyid)
    if signer is None:
        return problem("forged", f"it is signed by {keyid}, which signers does not name")
    if not signer.key.signed(signatures[0].value, line.envelope.signed_bytes):
        return problem("forged", f"the signature is not the one of {signer.name} over what it says")
    return signer.name, None


def _check_attempts(found: Verification) -> None:
    """See that the lines of each run fit together: each end to its beginning, each new attempt to the one before."""
    for run_id, lines in found.attempts().items():
        before: SealedLine | None = None
        for line in lines:
            if line.is_open:
                told = line.predicate.get("continues")
                if told != (before.seq if before else None):
                    says = (
                        f"line {line.seq} goes on after line {told}, and {before.seq if before else 'none'} is the last"
                    )
                    found.note("chain", "missing", says, run_id, line.seq)
            elif before is None or not before.is_open or line.predicate.get("opened") != before.seq:
                found.note(
                    "chain", "missing", f"line {line.seq} ends an attempt that no line has opened", run_id, line.seq
                )
            before = line
