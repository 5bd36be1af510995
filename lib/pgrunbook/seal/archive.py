"""An archive of sealed runs: one file that can be verified where nothing else is; then their folders may go.

1. Each run is locked, its last attempt is sealed, and its files are as they were sealed; else it is refused.
2. The file is written under another name, flushed, read back and verified, and gets its name only then.
3. Where the folders are to go, a line of the ledger says so first, with the sha256 of the file; each folder is renamed
   before it is removed, so that it is there as a whole or not at all.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from pgrunbook.config import regular_file
from pgrunbook.errors import RecordFailed, Refused, RunbookError, WrongInput
from pgrunbook.record import run as runs
from pgrunbook.record.files import sync_folder
from pgrunbook.record.run import WORK, Run
from pgrunbook.seal import (
    archive_check,
    archive_file,
    archived,
    envelope,
    ledger,
    sealed_files,
    signers,
    signing_key,
    subjects,
    verification,
)
from pgrunbook.seal.archive_file import ArchiveMember
from pgrunbook.seal.envelope import Envelope
from pgrunbook.seal.verification import SealedLine, Verification

HALF = ".half"
STATE = "No run was archived, and none removed; nothing changed in the database."


@dataclass(frozen=True)
class Archive:
    """An archive that lies under its name: the runs in it, each with the sha256 of its last line."""

    place: str
    sha256: str
    bytes: int
    runs: Mapping[str, str]
    signer: str


@contextmanager
def chosen(names: Sequence[str], before: str = "") -> Iterator[tuple[list[Run], dict[str, str]]]:
    """Yield the runs to archive, locked meanwhile, and why others are not: those named, or all; the earlier ones only.

    Raises WrongInput for a name that is no run.
    """
    every = [runs.find(name).folder for name in names] if names else runs.folders()
    found = verification.chain(every[0].parent, signers.load()) if every else Verification()
    kept: list[Run] = []
    refused: dict[str, str] = {}
    try:
        for folder in dict.fromkeys(every):
            last = found.attempts().get(folder.name, [])[-1:]
            if before and last and str(last[0].predicate["at"])[:10] >= before:
                continue
            try:
                made = runs.load(folder)
                made.hold()
                kept.append(made)
            except RunbookError as exc:
                refused[folder.name] = f"{exc.message}: {exc.detail}"
        if kept:  # as it is now that nobody can go on with one of them
            found = verification.chain(kept[0].folder.parent, signers.load())
            sealed_files.check(found, kept[0].folder.parent, {made.run_id for made in kept})
            refused |= {made.run_id: why for made in kept if (why := _unfit(found, made))}
        yield [made for made in kept if made.run_id not in refused], refused
    finally:
        for made in kept:
            made.release()


def name_of(chosen_runs: Sequence[Run]) -> str:
    """Return the name of a file for runs: when the first and the last of them began, and which they are."""
    ids = sorted(made.run_id for made in chosen_runs)
    which = sha256("\n".join(_last_lines(chosen_runs)).encode()).hexdigest()[:12]
    return f"runs-{ids[0][:16]}-{ids[-1][:16]}-{which}{archive_file.SUFFIX}"


def write(chosen_runs: Sequence[Run], file: Path) -> Archive:
    """Pack runs into a file, verify it, and give it its name; one that is there and holds the same bytes stays.

    Raises WrongInput where another file has that name, Refused where what was written is not as the runs were sealed,
    RecordFailed where it cannot be written or signed.
    """
    lines = _lines(chosen_runs)
    members, signer = _members(chosen_runs, lines)
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _half(file) as (half, handle):
            with os.fdopen(os.dup(handle), "wb") as out:
                archive_file.write(out, members)
            os.fsync(handle)
            _refuse_unlike(half, file)
            digest, size = subjects.digest(half), half.stat().st_size
            if regular_file.is_there(file):
                _refuse_other(file, digest)
            else:
                half.chmod(0o400)
                os.link(half, file)  # other than a rename it takes nobody's place
                sync_folder(file.parent)
    except OSError as exc:
        raise RecordFailed(
            "could not write the archive",
            detail=f"{file}: {exc.strerror or exc}.",
            state=STATE,
            hint="Make room, or name another file with --out; then run this again.",
        ) from exc
    return Archive(str(file), digest, size, _ends(lines), signer)


def remove(chosen_runs: Sequence[Run], made: Archive, outputs: Path) -> None:
    """Write into the ledger that runs lie in an archive, and remove their folders.

    Raises Refused where runs are signed and nobody whom ``signers`` names would sign that line, RecordFailed where it
    cannot be written.
    """
    team = signers.load()
    found = verification.chain(outputs, team)
    signed = next((line.run_id for line in found.lines if line.run_id in made.runs and line.envelope.signatures), "")
    key = signing_key.load()
    if signed and (key is None or key.public.fingerprint not in (team or {})):
        raise Refused(
            f"run {signed} is signed, and nobody would sign that it was removed",
            detail=f"{signers.path()} does not name {key.public.fingerprint}."
            if key
            else "There is no key to sign it.",
            state=f"They are archived in {made.place}; no folder was removed; nothing changed in the database.",
            hint="Name a key in PGRUNBOOK_KEY that signers names (pgrunbook key list), then run this again.",
        )
    archived.check(found, outputs, files=False)
    is_said = any(
        line.subjects == {made.place: made.sha256} and line.predicate.get("runs") == dict(made.runs)
        for line in found.archives
    )
    if not is_said:
        archived.write(outputs, made.place, made.sha256, made.bytes, made.runs)
    for run in chosen_runs:
        archived.remove(run)


def _unfit(found: Verification, made: Run) -> str:
    """Return why a run cannot be archived, "" where it can be."""
    lines = found.attempts().get(made.run_id)
    if not lines:
        return "it is not in the ledger: it was made before records were sealed"
    if lines[-1].is_open:
        return f"its last attempt is open: go on with it, or seal it as it is: pgrunbook seal {made.run_id}"
    wrong = [one for one in found.problems if one.run_id in (made.run_id, "") and one.word != "not checked"]
    return f"it is not as it was sealed ({wrong[0].word}: {wrong[0].says}): pgrunbook verify --files" if wrong else ""


def _lines(chosen_runs: Sequence[Run]) -> list[tuple[SealedLine, bytes]]:
    """Return the lines of runs, in the order of the ledger, each with what a crash left before it."""
    ids = {made.run_id for made in chosen_runs}
    raw = ledger.read(ledger.path(chosen_runs[0].folder.parent))
    found = verification.of_lines(raw, None)
    texts = raw.split(b"\n")
    every = sorted([*found.lines, *found.archives], key=lambda line: line.number)
    done, before = [], 0
    for line in every:
        if line.run_id in ids:
            done.append((line, b"".join(text + b"\n" for text in texts[before : line.number] if text)))
        before = line.number
    return done


def _ends(lines: Sequence[tuple[SealedLine, bytes]]) -> dict[str, str]:
    return {line.run_id: line.sha256 for line, _ in lines}


def _last_lines(chosen_runs: Sequence[Run]) -> list[str]:
    return sorted(_ends(_lines(chosen_runs)).values())


def _members(chosen_runs: Sequence[Run], lines: Sequence[tuple[SealedLine, bytes]]) -> tuple[list[ArchiveMember], str]:
    times = {line.run_id: int(datetime.fromisoformat(str(line.predicate["at"])).timestamp()) for line, _ in lines}
    team = signers.path()
    below = [ArchiveMember(archive_file.SIGNERS, regular_file.read_bytes(team))] if team.is_file() else []
    below.append(ArchiveMember(f"{archive_file.OUTPUTS}/{ledger.LEDGER_FILE}", b"".join(text for _, text in lines)))
    for run in sorted(chosen_runs, key=lambda one: one.run_id):
        place = f"{archive_file.OUTPUTS}/{run.run_id}"
        names = [*subjects.files(run.folder), *_outside(run.folder)]
        below += [ArchiveMember(f"{place}/{name}", run.folder / name, times[run.run_id]) for name in names]
    key = signing_key.load()
    payload = envelope.encoded(
        {
            "_type": ledger.STATEMENT_TYPE,
            "subject": [_subject(member) for member in below],
            "predicateType": archive_file.PREDICATE_TYPE,
            "predicate": {
                "ledger": str(lines[0][0].predicate["ledger"]),
                "runs": _ends(lines),
                "signer": {"fingerprint": key.public.fingerprint, "key": key.public.text} if key else None,
            },
        }
    )
    signatures = (key.sign(envelope.signed_bytes(payload)),) if key else ()
    said = [
        ArchiveMember(archive_file.MANIFEST, payload),
        ArchiveMember(archive_file.ENVELOPE, Envelope(payload, signatures).line() + b"\n"),
    ]
    return [*said, *below], key.public.fingerprint if key else "unsigned"


def _outside(folder: Path) -> Iterator[str]:
    """Yield the files of a run that its seal is not over, but a person would miss: its page, the working copies."""
    yield from sorted(name for name in subjects.MADE_FROM_IT if (folder / name).is_file())
    work = (path for path in sorted((folder / WORK).rglob("*")) if path.is_file() and not path.is_symlink())
    names = (path.relative_to(folder) for path in work)
    yield from (name.as_posix() for name in names if subjects.CHECKPOINTS not in name.parts)


def _subject(member: ArchiveMember) -> dict[str, object]:
    digest = sha256(member.source).hexdigest() if isinstance(member.source, bytes) else subjects.digest(member.source)
    if not digest:
        raise OSError(5, "cannot be read, or is no file", str(member.source))
    return {"name": member.name, "digest": {"sha256": digest}, "annotations": {"bytes": member.size}}


@contextmanager
def _half(file: Path) -> Iterator[tuple[Path, int]]:
    """Give a file beside that one, locked, to be written; it goes at the end, and what a crash has left goes before."""
    for left in file.parent.glob(f".{file.name}.*{HALF}"):
        handle = os.open(left, os.O_RDWR)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()
        except BlockingIOError:
            continue  # somebody writes it now
        finally:
            os.close(handle)
    half = file.with_name(f".{file.name}.{secrets.token_hex(4)}{HALF}")
    handle = os.open(half, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield half, handle
    finally:
        half.unlink(missing_ok=True)
        os.close(handle)


def _refuse_unlike(half: Path, file: Path) -> None:
    found = archive_check.report(half, named=str(file))
    wrong = [one for one in found.problems if one.word != "not checked"]
    if wrong:
        raise Refused(
            "the archive just written is not as the runs were sealed",
            detail=f"{wrong[0].word}: {wrong[0].says}.",
            state=STATE,
            hint="See what is wrong with the runs: pgrunbook verify --files; the disk may lose what is written to it.",
        )


def _refuse_other(file: Path, digest: str) -> None:
    if subjects.digest(file) != digest:
        raise WrongInput(
            f"there is a file {file.name} already, which holds something else",
            detail=f"{file}; an archive is never overwritten.",
            state=STATE,
            hint="Name another file with --out.",
        )
