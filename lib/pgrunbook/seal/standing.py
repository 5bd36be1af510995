"""How each run stands in the ledger: what ``pgrunbook verify`` shows, and prints as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pgrunbook.display.prose import counted
from pgrunbook.display.show import BAD, GOOD, QUIET, WARN, Cell, Table
from pgrunbook.errors import WrongInput
from pgrunbook.record import run as runs
from pgrunbook.seal import anchor_check, approval_check, archived, git_trailer, sealed_files, signers, verification
from pgrunbook.seal.anchor_check import Anchors
from pgrunbook.seal.signers import Signer
from pgrunbook.seal.verification import Part, Problem, SealedLine, Verification

NOT_CHECKED, TRUE, ALTERED = 1, 0, 3


class SealFinding(BaseModel):
    """What is wrong: with which part of which line, in one word, and a sentence."""

    model_config = ConfigDict(frozen=True)

    part: str
    word: str
    says: str
    run: str
    line: int


class RunStanding(BaseModel):
    """How one run stands. ``files`` and ``anchor`` are "not looked at" where that was not asked for.

    ``approval`` says whose approval what it changed rests on, "-" where it changed nothing or nobody has to approve.
    """

    model_config = ConfigDict(frozen=True)

    run: str
    runbook: str
    target: str
    outcome: str
    attempts: int
    first_line: int
    last_line: int
    chain: str
    signature: str
    files: str
    anchor: str
    approval: str
    faithful: str


class VerificationReport(BaseModel):
    """What was verified, and what was found."""

    model_config = ConfigDict(frozen=True)

    outputs: str
    lines: int
    files_looked_at: bool
    database_asked: str
    is_true: bool
    exit_code: int
    runs: tuple[RunStanding, ...]
    problems: tuple[SealFinding, ...]
    notes: tuple[str, ...]

    def table(self) -> Table:
        """The runs as a table, oldest first."""
        columns = ("chain", "signature", "files", "anchor", "approval", "faithful")
        rows = [
            (one.run, one.outcome, *(Cell(getattr(one, name), _tone(getattr(one, name))) for name in columns))
            for one in self.runs
        ]
        return Table(["run", "outcome", *columns], rows, empty="The ledger holds no run.", most=len(rows) or 1)


def report(
    outputs: Path, *, files: bool = False, target: str = "", anchors: Anchors | None = None, git: bool = False
) -> VerificationReport:
    """Verify the records of a folder; with ``files`` every file, with ``anchors`` what the target's database holds.

    With ``git`` what commits of the project say.

    Raises WrongInput where there is no ledger, or ``signers`` cannot be read.
    """
    team = signers.load()
    found = verification.chain(outputs, team)
    archived.check(found, outputs, files=files)
    verification.folders(found, outputs)
    if files:
        sealed_files.check(found, outputs)
    if git:
        git_trailer.check(found, outputs)
    return told(found, outputs, team, files=files, target=target, anchors=anchors)


def told(
    found: Verification,
    outputs: Path,
    team: Mapping[str, Signer] | None,
    *,
    files: bool,
    target: str = "",
    anchors: Anchors | None = None,
    named: str = "",
) -> VerificationReport:
    """Return the report of what was verified; ``named`` is what it calls the folder, where that is a temporary one."""
    approved = approval_check.check(found, outputs, team)
    anchored = anchor_check.check(found, target, anchors) if anchors is not None else {}
    runs = tuple(_standings(found, outputs, approved, files=files, anchored=anchored, target=target if anchors else ""))
    code = _exit_code(found.problems)
    return VerificationReport(
        outputs=named or str(outputs), lines=len(found.lines) + len(found.archives), files_looked_at=files,
        database_asked=target if anchors is not None else "", is_true=code == TRUE, exit_code=code, runs=runs,
        problems=tuple(map(_finding, found.problems)),
        notes=tuple(found.notes),
    )  # fmt: skip


def _finding(problem: Problem) -> SealFinding:
    return SealFinding(part=problem.part, word=problem.word, says=problem.says, run=problem.run_id, line=problem.seq)


def _exit_code(problems: Sequence[Problem]) -> int:
    words = {one.word for one in problems}
    if words - {"not checked"}:
        return ALTERED
    return NOT_CHECKED if words else TRUE


def _standings(
    found: Verification,
    outputs: Path,
    approved: Mapping[str, str],
    *,
    files: bool,
    anchored: Mapping[str, str],
    target: str,
) -> Iterable[RunStanding]:
    wrong: dict[tuple[str, Part], str] = {}
    for problem in found.problems:
        wrong.setdefault((problem.run_id, problem.part), problem.word)
    for run_id, lines in found.attempts().items():
        last = lines[-1].predicate
        runbook = last.get("runbook", "")
        of = str(last.get("target", {}).get("name", "")) if isinstance(last.get("target"), dict) else ""
        unasked = "not looked at" if of != target or not target else "none: it wrote nothing there"
        yield RunStanding(
            run=run_id,
            runbook=str(runbook.get("name", "") if isinstance(runbook, dict) else runbook),
            target=of,
            outcome=_open(outputs / run_id) if lines[-1].is_open else str(last.get("outcome", "")),
            attempts=sum(line.is_open for line in lines),
            first_line=lines[0].seq,
            last_line=lines[-1].seq,
            chain=wrong.get((run_id, "chain"), "holds"),
            signature=wrong.get((run_id, "signature")) or _signed_by(lines),
            files=wrong.get((run_id, "files"))
            or (found.archived[run_id] if found.is_archived(outputs, run_id) else "")
            or ("as sealed" if files else "not looked at"),
            anchor=wrong.get((run_id, "anchor")) or anchored.get(run_id, unasked),
            approval=approved[run_id],
            faithful=_faithful(lines[-1]),
        )


def _open(folder: Path) -> str:
    """Return how a run stands whose last attempt was not sealed: somebody is at work in it, or was."""
    try:
        return "at work" if runs.load(folder).is_held() else "open"
    except WrongInput:
        return "open"


def _signed_by(lines: Sequence[SealedLine]) -> str:
    return ", ".join(dict.fromkeys(line.signer for line in lines if line.signer))


def _faithful(line: SealedLine) -> str:
    told = line.predicate.get("faithful")
    if line.is_open or not isinstance(told, dict):
        return "-"
    differences = told.get("differences") or []
    count = len(differences) if isinstance(differences, list) else 1
    return "yes" if told.get("holds") is True and not count else f"no: {counted(count, 'difference')}"


def _tone(text: str) -> str:
    if text in ("holds", "as sealed", "yes") or text.startswith(("in the database", "archived in", "by ")):
        return GOOD
    if text in ("-", "not looked at") or text.startswith("none"):
        return QUIET
    return (
        WARN
        if text in ("unsigned", "open", "at work", "not checked") or text.startswith(("no:", "the database was"))
        else BAD
    )
