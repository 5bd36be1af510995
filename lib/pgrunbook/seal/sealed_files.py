"""Whether the files of runs are as they were sealed: each file's sha256, the journal's chain, earlier attempts."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence, Set
from pathlib import Path

from pgrunbook.errors import WrongInput
from pgrunbook.record import journal
from pgrunbook.record import run as runs
from pgrunbook.record.cell_log import SUFFIX
from pgrunbook.record.run import JOURNAL_FILE
from pgrunbook.seal import subjects
from pgrunbook.seal.verification import SealedLine, Verification


def check(found: Verification, outputs: Path, only: Collection[str] | None = None) -> None:
    """Compare the files of every run, or of some, with what its lines say; problems are added."""
    for run_id, lines in found.attempts().items():
        folder = outputs / run_id
        if folder.is_dir() and (only is None or run_id in only):
            _check_run(found, folder, run_id, lines)


def _check_run(found: Verification, folder: Path, run_id: str, lines: Sequence[SealedLine]) -> None:
    _check_journal(found, folder, run_id, lines)
    last = lines[-1]
    if not last.is_open:
        _check_last(found, folder, run_id, last)
    there = {subjects.digest(folder / name) for name in subjects.files(folder) if name.endswith(".ipynb")}
    for line in lines[:-1]:
        if not line.is_open:
            _check_earlier(found, folder, line, there)


def _check_earlier(found: Verification, folder: Path, line: SealedLine, there: Set[str]) -> None:
    """See that what an earlier attempt left is there as it was, under whatever name.

    A notebook that somebody stepped through is made anew from the log of its cells, which only grows.
    """
    for name, digest in line.subjects.items():
        log = f"{name.removesuffix('.ipynb')}{SUFFIX}"
        is_log = name.endswith(SUFFIX) and subjects.digest(folder / name, line.sizes[name]) != digest
        is_notebook = name.endswith(".ipynb") and log not in line.subjects and digest not in there
        if is_log or is_notebook:
            says = f"{name} of the attempt that line {line.seq} seals is not there as it was"
            found.note("files", "altered", says, line.run_id, line.seq)


def _check_last(found: Verification, folder: Path, run_id: str, line: SealedLine) -> None:
    """Compare every file with the last seal, but for the journal, which may have grown by what opens an attempt."""
    there = list(subjects.files(folder))
    for name, digest in line.subjects.items():
        if name == JOURNAL_FILE:
            continue
        if name not in there:
            found.note("files", "missing", f"{name} is not there", run_id, line.seq)
        elif subjects.digest(folder / name) != digest:
            found.note("files", "altered", f"{name} is not as it was sealed", run_id, line.seq)
    for name in there:
        if name not in line.subjects:
            found.note("files", "added", f"{name} was not there when it was sealed", run_id, line.seq)


def _check_journal(found: Verification, folder: Path, run_id: str, lines: Sequence[SealedLine]) -> None:
    """Compare what each line says of the journal with as many bytes of it; then see that its own chain holds."""
    path = folder / JOURNAL_FILE
    if not os.path.lexists(path):
        found.note("files", "missing", f"{JOURNAL_FILE} is not there", run_id, lines[-1].seq)
        return
    size = path.stat().st_size
    for line in lines:
        told = line.predicate.get("journal")
        if not isinstance(told, dict) or type(told.get("bytes")) is not int:
            found.note("files", "forged", f"line {line.seq} says nothing of the journal", run_id, line.seq)
            return
        if size < told["bytes"]:
            says = f"{JOURNAL_FILE} has {size} bytes, and {told['bytes']} when line {line.seq} was written"
            found.note("files", "truncated", says, run_id, line.seq)
            return
        if subjects.digest(path, told["bytes"]) != told.get("sha256"):
            found.note("files", "altered", f"{JOURNAL_FILE} is not as it was at line {line.seq}", run_id, line.seq)
            return
    try:
        journal.read(path)
        runs.load(folder)
    except WrongInput as exc:
        found.note("files", "altered", f"{exc.message}: {exc.detail}", run_id, lines[-1].seq)
    if not lines[-1].is_open and size > lines[-1].predicate["journal"]["bytes"]:
        says = f"{JOURNAL_FILE} has grown by {size - lines[-1].predicate['journal']['bytes']} bytes since it was sealed"
        found.note("files", "added", says, run_id, lines[-1].seq)
