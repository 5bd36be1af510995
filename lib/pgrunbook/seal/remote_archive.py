"""Archives and copies of runs at a URL: an archive is packed here and read back from there; both are verified."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pgrunbook.errors import Broken, WrongInput
from pgrunbook.record.run import RUN_FILE, RUN_ID, Run
from pgrunbook.seal import (
    archive,
    archive_check,
    archived,
    copies,
    sealed_files,
    standing,
    subjects,
    verification,
)
from pgrunbook.seal.approval import APPROVALS_FILE
from pgrunbook.seal.archive import STATE, Archive
from pgrunbook.seal.archive_file import SUFFIX
from pgrunbook.seal.remote import Remote
from pgrunbook.seal.standing import VerificationReport
from pgrunbook.seal.verification import Verification


def write(chosen: Sequence[Run], url: str) -> Archive:
    """Pack runs into a file at a URL: of that name, or of one made for them below it. Read it back, and compare.

    Raises as archive.write, Unreachable, and Broken where what is read back is another file.
    """
    there, name = _place(url, archive.name_of(chosen))
    with tempfile.TemporaryDirectory(prefix="pgrunbook-archive-") as folder:
        made = archive.write(chosen, Path(folder) / name)
        if not there.is_there(name):
            there.put(name, Path(made.place))
        back = Path(folder) / f"back-{name}"
        there.get(name, back)
        if subjects.digest(back) != made.sha256:
            raise Broken(
                f"what lies at {there.url}/{name} is not the archive that was packed",
                detail=f"Its sha256 is {subjects.digest(back)}, and not {made.sha256}.",
                state=STATE,
                hint="An archive is never overwritten: name another place with --out.",
            )
    return replace(made, place=f"{there.url}/{name}")


def report(url: str, *, files: bool = False) -> VerificationReport:
    """Verify an archive at a URL, or the copies below it; of these with ``files`` every file, which are all read then.

    Raises Unreachable, and WrongInput where there is nothing of ours.
    """
    if url.endswith(SUFFIX):
        there, name = _place(url, "")
        with tempfile.TemporaryDirectory(prefix="pgrunbook-archive-") as folder:
            file = Path(folder) / name
            there.get(name, file)
            return archive_check.report(file, named=url)
    with tempfile.TemporaryDirectory(prefix="pgrunbook-copies-") as folder:
        return _copies(Remote(url), Path(folder), files=files)


def _place(url: str, made_up: str) -> tuple[Remote, str]:
    """Return where a file goes, and its name there."""
    parent, _, name = url.rstrip("/").rpartition("/")
    return (Remote(parent), name) if url.endswith(SUFFIX) else (Remote(url), made_up)


def _copies(there: Remote, room: Path, *, files: bool) -> VerificationReport:
    names = there.names()
    parts = [name for name in names if name.startswith(f"{copies.LEDGER}/")]
    if not parts:
        raise WrongInput(
            f"there is no copy of a ledger below {there.url}",
            hint="Name the place that PGRUNBOOK_COPIES names, or the archive itself (.tar.gz).",
        )
    for name in parts:
        there.get(name, room / name)
    raw, wrong = copies.joined([(name, (room / name).read_bytes()) for name in parts])
    keys = archive_check.team()
    found = verification.of_lines(raw, keys)
    for says in wrong:
        found.note("chain", "altered", says)
    archived.check(found, room, files=False)
    sealed = {line.run_id for line in found.lines if not line.is_open}
    _fetch(found, there, names, room, files=files)
    for run_id in {line.run_id for line in found.lines} - sealed:
        (room / run_id).mkdir(exist_ok=True)
        found.notes.append(f"run {run_id} is open: it is copied when it is sealed")
    verification.folders(found, room)
    if files:
        sealed_files.check(found, room, sealed)
    return standing.told(found, room, keys, files=files, named=there.url)


def _fetch(found: Verification, there: Remote, names: Sequence[str], room: Path, *, files: bool) -> None:
    """Read the files of the runs; what only an earlier seal of a run names is left from then, and is passed over."""
    attempts = found.attempts()
    for name in names:
        run_id, _, below = name.partition("/")
        if not RUN_ID.fullmatch(run_id) or not below:
            continue
        closed = [line for line in attempts.get(run_id, ()) if not line.is_open]
        is_left = closed and below not in closed[-1].subjects and any(below in line.subjects for line in closed)
        if (files and not is_left) or below == APPROVALS_FILE:
            there.get(name, room / name)
        elif below == RUN_FILE:
            (room / run_id).mkdir(exist_ok=True)
