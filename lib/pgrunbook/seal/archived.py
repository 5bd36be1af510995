"""The lines of the ledger which say that folders of runs were removed, and in which archive they lie."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from pgrunbook.record.files import sync_folder
from pgrunbook.record.run import Run
from pgrunbook.seal import ledger, signing_key, subjects
from pgrunbook.seal.verification import SealedLine, Verification

_GONE = ".archived-"  # a folder on its way out: no run's name begins like that


def write(outputs: Path, place: str, sha256: str, size: int, runs: Mapping[str, str]) -> None:
    """Write the line which says that runs lie in an archive; ``runs`` has the sha256 of the last line of each.

    Raises as ledger.append.
    """
    subject = {"name": place, "digest": {"sha256": sha256}, "annotations": {"bytes": size}}
    ledger.append(ledger.path(outputs), ledger.ARCHIVED, "", [subject], {"runs": dict(runs)}, signing_key.load())


def remove(run: Run) -> None:
    """Remove the folder of an archived run: it is there as a whole, or not at all, whenever a crash comes."""
    gone = run.folder.with_name(f"{_GONE}{run.run_id}")
    run.folder.rename(gone)
    sync_folder(gone.parent)
    shutil.rmtree(gone)


def clear(outputs: Path) -> None:
    """Remove what a crash has left of :func:`remove`."""
    for folder in outputs.glob(f"{_GONE}*"):
        shutil.rmtree(folder)


def check(found: Verification, outputs: Path, *, files: bool) -> None:
    """Note of each run whether it is archived, and where; with ``files`` compare the archives that lie here.

    A line counts when its signature is good, and when it names the line with which the run has ended. What is signed is
    not removed by a line that is not: that problem is added.
    """
    wrong = {problem.seq for problem in found.problems if problem.part == "signature"}
    attempts = found.attempts()
    for line in found.archives:
        place, digest = next(iter(line.subjects.items()), ("", ""))
        runs = line.predicate.get("runs")
        if line.seq in wrong or not place or not isinstance(runs, dict):
            continue
        for run_id, last in runs.items():
            _check_run(found, line, run_id, attempts.get(run_id, ()), str(last))
        counted = f"{len(runs)} run{'s' if len(runs) != 1 else ''}"
        found.notes.append(f"line {line.seq}: {counted} archived in {place} (sha256 {digest})")
        if files:
            _check_file(found, line, outputs, place, digest)


def _check_run(found: Verification, line: SealedLine, run_id: str, lines: Sequence[SealedLine], last: str) -> None:
    place = next(iter(line.subjects))
    if not lines or last not in {one.sha256 for one in lines}:
        says = f"line {line.seq} says that run {run_id} lies in {place}, with a line that the ledger does not have"
        found.note("chain", "altered", says, run_id, line.seq)
    elif line.signer == "unsigned" and any(one.envelope.signatures for one in lines):
        says = f"line {line.seq}, which is unsigned, says that run {run_id}, which is signed, was archived"
        found.note("signature", "forged", says, run_id, line.seq)
    elif last == lines[-1].sha256:
        found.archived[run_id] = f"archived in {place} (sha256 {next(iter(line.subjects.values()))[:12]})"


def _check_file(found: Verification, line: SealedLine, outputs: Path, place: str, digest: str) -> None:
    file = outputs / place
    if "://" in place or not file.is_file():
        found.notes.append(f"{place} is not here, and was not looked at: pgrunbook verify ARCHIVE, where it lies")
    elif subjects.digest(file) != digest:
        says = f"{place} is not the archive that line {line.seq} names"
        found.note("files", "altered", says, seq=line.seq)
