"""Whether an archive of runs is as it was packed, and its runs as they were sealed; it needs no folder of runs.

The keys are those of this machine's ``signers``. Where it has none, those of the archive are taken, and the answer is
"not checked": who changes an archive can change these as well.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from pgrunbook.config import regular_file
from pgrunbook.errors import Broken, WrongInput
from pgrunbook.seal import archive_file, envelope, ledger, sealed_files, signers, standing, subjects, verification
from pgrunbook.seal.archive_file import DAMAGED, ENVELOPE, MANIFEST, OUTPUTS, SIGNERS
from pgrunbook.seal.signers import Signer
from pgrunbook.seal.standing import VerificationReport
from pgrunbook.seal.verification import Verification


def report(file: Path, *, named: str = "") -> VerificationReport:
    """Verify an archive: it is unpacked into a temporary folder, which takes as much room as its runs.

    Raises WrongInput where it cannot be read, or is no archive of ours.
    """
    regular_file.refuse_irregular(file)
    problems, members = Verification(), {}
    with tempfile.TemporaryDirectory(prefix="pgrunbook-archive-") as name:
        room = Path(name)
        members = _unpacked(problems, file, room)
        if not {MANIFEST, f"{OUTPUTS}/{ledger.LEDGER_FILE}"} & members.keys():
            raise WrongInput(
                f"{named or file.name} is no archive of runs",
                detail=problems.problems[0].says if problems.problems else f"It holds no {MANIFEST}.",
                hint="Name a file that pgrunbook archive has written, or the folder of the runs.",
            )
        ours = team()
        theirs = _theirs(problems, members.get(SIGNERS)) if ours is None else None
        lines = members.get(f"{OUTPUTS}/{ledger.LEDGER_FILE}")
        raw = lines.read_bytes() if lines else b""
        keys = theirs if ours is None else ours
        found = verification.of_lines(raw, keys, is_whole=False)
        found.problems = [*problems.problems, *found.problems]
        if ours is None and theirs is not None:
            says = "no signers of yours are here; the keys are those that lie in the archive: name yours in "
            found.note("signature", "not checked", f"{says}PGRUNBOOK_SIGNERS")
        (room / OUTPUTS).mkdir(exist_ok=True)
        verification.folders(found, room / OUTPUTS)
        sealed_files.check(found, room / OUTPUTS)
        _check_manifest(found, members, keys)
        return standing.told(found, room / OUTPUTS, keys, files=True, named=named or str(file))


def team() -> Mapping[str, Signer] | None:
    """Return the signers of this machine, None where it has none: an archive is verified outside of a project too."""
    try:
        path = signers.path()
    except WrongInput:
        return None
    return signers.load(path)


def _theirs(found: Verification, file: Path | None) -> Mapping[str, Signer] | None:
    """Return the signers that lie in the archive, None where none do, or what lies there cannot be read."""
    try:
        return signers.load(file) if file else None
    except WrongInput as exc:
        found.note("files", "altered", f"{SIGNERS} cannot be read: {exc.detail}")
        return None


def _unpacked(found: Verification, file: Path, room: Path) -> dict[str, Path]:
    members: dict[str, Path] = {}
    last = "its beginning"
    try:
        for name, place in archive_file.unpack(file, room):
            last = name
            if place is None:
                found.note("files", "added", f"{name} is no file that we pack, or stands in the archive twice")
            else:
                members[name] = place
    except EOFError:
        found.note("files", "truncated", f"the archive is cut off behind {last}")
    except DAMAGED as exc:
        found.note("files", "altered", f"the archive cannot be read behind {last}: {exc}")
    except OSError as exc:
        raise WrongInput(
            f"could not unpack {file.name} to verify it",
            detail=f"{exc.filename or room}: {exc.strerror or exc}; it needs as much room as its runs.",
            hint="Name a folder with room in TMPDIR, then verify it again.",
        ) from exc
    return members


def _check_manifest(found: Verification, members: Mapping[str, Path], team: Mapping[str, Signer] | None) -> None:
    """Compare all files with the manifest, its runs with the lines, and its seal with the keys."""
    raw = members[MANIFEST].read_bytes() if MANIFEST in members else b""
    try:
        statement = envelope.Envelope(raw).statement()
        named = {str(one["name"]): str(one["digest"]["sha256"]) for one in statement["subject"]}
        predicate: Mapping[str, Any] = statement["predicate"]
        runs = {str(run_id): str(last) for run_id, last in predicate["runs"].items()}
        claimed = (predicate.get("signer") or {}).get("fingerprint", "")
    except (Broken, KeyError, TypeError, AttributeError) as exc:
        if MANIFEST in members:
            found.note("files", "altered", f"{MANIFEST} is none that we write: {exc}")
        else:
            found.note("files", "missing", f"{MANIFEST} is not there")
        return
    for name, digest in named.items():
        if name not in members:
            found.note("files", "missing", f"{name} is not in the archive", _run_of(name))
        elif subjects.digest(members[name]) != digest:
            found.note("files", "altered", f"{name} is not as it was packed", _run_of(name))
    for name in members.keys() - named.keys() - {MANIFEST, ENVELOPE}:
        found.note("files", "added", f"{name} was put into the archive", _run_of(name))
    ends = {run_id: lines[-1].sha256 for run_id, lines in found.attempts().items()}
    for run_id in sorted(runs.keys() | ends.keys()):
        if runs.get(run_id) != ends.get(run_id):
            says = f"the last line of run {run_id} is not the one that the manifest names"
            found.note("chain", "altered", says, run_id)
    _check_seal(found, raw, members.get(ENVELOPE), str(claimed), team)


def _check_seal(
    found: Verification, raw: bytes, sealed: Path | None, claimed: str, team: Mapping[str, Signer] | None
) -> None:
    try:
        wrapped = envelope.read(sealed.read_bytes().strip()) if sealed else None
    except Broken:
        wrapped = None
    if wrapped is None or wrapped.payload != raw:
        if sealed:
            found.note("signature", "altered", f"{ENVELOPE} does not hold the manifest")
        else:
            found.note("signature", "missing", f"{ENVELOPE} is not there")
        return
    if not wrapped.signatures and not claimed:
        found.notes.append("nobody has sealed the archive itself; the lines of its runs say whose these are")
        return
    keyid = wrapped.signatures[0].keyid if len(wrapped.signatures) == 1 else ""
    signer = (team or {}).get(keyid)
    if keyid != claimed or (team is not None and signer is None):
        found.note("signature", "forged", f"the archive says that {claimed or 'nobody'} sealed it; signers does not")
    elif signer is None:
        found.note("signature", "not checked", f"the archive is sealed by {keyid}, and there is no signers")
    elif not signer.key.signed(wrapped.signatures[0].value, wrapped.signed_bytes):
        found.note("signature", "forged", f"the seal of the archive is not the one of {signer.name}")
    else:
        found.notes.append(f"sealed by {signer.name}; the sha256 of its manifest is {sha256(raw).hexdigest()}")


def _run_of(name: str) -> str:
    parts = name.split("/")
    return parts[1] if parts[0] == OUTPUTS and len(parts) > 2 else ""
