"""The ledger: ``outputs/ledger.jsonl``, a chain of signed lines, two or more for each run.

1. A line is an envelope of DSSE around an in-toto statement, whose predicate has the number of the line and the sha256
   of the line before it. A run opens with one and ends with one; a run that goes on after that opens again.
2. A lock on the file keeps two runs apart that are sealed at once; a line is flushed to disk before anybody goes on.
3. What a crash left of a line stays, closed with a newline, and the line after it says so.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from pgrunbook.config import regular_file
from pgrunbook.errors import Broken, RecordFailed
from pgrunbook.record.files import sync_folder
from pgrunbook.seal import envelope
from pgrunbook.seal.envelope import Envelope
from pgrunbook.seal.signing_key import SigningKey

LEDGER_FILE = "ledger.jsonl"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:pgrunbook:run:v1"
OPENED, CLOSED = "opened", "closed"
ARCHIVED = "archived"  # a line of no run: the folders of those that it names were removed, and lie in an archive
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Line:
    """A line of the ledger that stands in it: its sha256, and what its statement says."""

    sha256: str
    predicate: Mapping[str, Any]

    @property
    def seq(self) -> int:
        """The number of the line."""
        return int(self.predicate["seq"])

    @property
    def ledger(self) -> str:
        """The name of the ledger, which its first line gave it."""
        return str(self.predicate["ledger"])

    @property
    def is_open(self) -> bool:
        """Whether it opens an attempt."""
        return bool(self.predicate["kind"] == OPENED)


def path(outputs: Path) -> Path:
    """Return where the ledger of a folder of runs lies: beside them."""
    return outputs / LEDGER_FILE


def read(chosen: Path) -> bytes:
    """Return the whole ledger, at no moment in the middle of a line that is being written.

    Raises WrongInput where it is not there, or cannot be read.
    """
    regular_file.refuse_irregular(chosen)
    with chosen.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        return file.read()


def append(
    chosen: Path,
    kind: str,
    run_id: str,
    subjects: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
    key: SigningKey | None,
) -> Line:
    """Append a line, signed where there is a key, and return it; it is on disk then.

    Raises RecordFailed when it cannot be written or signed: then nothing was appended.
    """
    try:
        is_new = not chosen.exists()
        with _locked(chosen) as handle:
            size, last, torn, is_cut = _end(handle)
            before = predicate_of(last) if last else {}
            predicate = {
                **facts,
                "kind": kind,
                "run_id": run_id,
                "at": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
                "ledger": before.get("ledger") or secrets.token_hex(8),
                "seq": int(before.get("seq", 0)) + 1,
                "prev": sha256(last).hexdigest() if last else "",
                "signer": {"fingerprint": key.public.fingerprint, "key": key.public.text} if key else None,
                **({"after_torn": {"bytes": len(torn), "sha256": sha256(torn).hexdigest()}} if torn else {}),
            }
            statement = {
                "_type": STATEMENT_TYPE,
                "subject": list(subjects),
                "predicateType": PREDICATE_TYPE,
                "predicate": predicate,
            }
            payload = envelope.encoded(statement)
            signatures = (key.sign(envelope.signed_bytes(payload)),) if key else ()
            line = Envelope(payload, signatures).line()
            _write(handle, size, (b"\n" if size and is_cut else b"") + line + b"\n")
        if is_new:
            sync_folder(chosen.parent)
    except OSError as exc:
        raise RecordFailed(
            "could not write the ledger",
            detail=f"{chosen}: {exc.strerror or exc}; run {run_id} was to be {kind}.",
            state="The database is as its own record (schema pgrunbook) says; the ledger is as it was.",
            hint=f"Make room, or repair the folder; then seal it: pgrunbook seal {run_id}"
            if kind == CLOSED
            else "Make room, or repair the folder; then run the same command again.",
        ) from exc
    return Line(sha256(line).hexdigest(), json.loads(payload)["predicate"])


def last_of(chosen: Path, run_id: str) -> Line | None:
    """Return the last line of a run, None where it has none."""
    found = (line_of(raw) for raw in lines_backwards(chosen))
    return next((line for line in found if line is not None and line.predicate["run_id"] == run_id), None)


def line_of(raw: bytes) -> Line | None:
    """Return a line as it stands in the file, None for a piece that a crash left: verify tells of it."""
    try:
        return Line(sha256(raw).hexdigest(), predicate_of(raw))
    except Broken:
        return None


def lines_backwards(file: Path) -> Iterator[bytes]:
    """Yield the lines of a file from its end on, without those that are empty; none where there is no file."""
    if not regular_file.is_there(file):
        return
    with file.open("rb") as opened:
        at, rest = opened.seek(0, os.SEEK_END), b""
        while at:
            size = min(_BLOCK, at)
            at -= size
            opened.seek(at)
            first, *lines = (opened.read(size) + rest).split(b"\n")
            yield from filter(None, reversed(lines))
            rest = first
        if rest:
            yield rest


@contextmanager
def _locked(chosen: Path) -> Iterator[int]:
    handle = os.open(chosen, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)


def _end(handle: int) -> tuple[int, bytes, bytes, bool]:
    """Return the size of the file, its last line, what a crash left behind that, and whether a newline is lacking."""
    size = os.fstat(handle).st_size
    tail, at = b"", size
    while True:
        lines = [line for line in tail.split(b"\n")[(1 if at else 0) :] if line]
        found = next((n for n in range(len(lines) - 1, -1, -1) if is_line(lines[n])), None)
        if found is not None or not at:
            kept = -1 if found is None else found
            return size, lines[kept] if kept >= 0 else b"", b"\n".join(lines[kept + 1 :]), not tail.endswith(b"\n")
        step = min(max(_BLOCK, len(tail)), at)
        at -= step
        tail = os.pread(handle, step, at) + tail


def is_line(raw: bytes) -> bool:
    """Tell whether this is a line as we write it, whatever it is worth."""
    try:
        predicate_of(raw)
    except Broken:
        return False
    return True


def predicate_of(line: bytes) -> dict[str, Any]:
    """Return what the statement of a line says of its run. Raises Broken where it is none as we write it."""
    return checked(envelope.read(line).statement())


def checked(statement: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a statement says of its run. Raises Broken where it is none as we write it."""
    try:
        predicate = statement["predicate"]
        texts = (predicate["run_id"], predicate["kind"], predicate["ledger"], predicate["prev"], predicate["at"])
        if type(predicate["seq"]) is not int or not all(isinstance(text, str) for text in texts):
            raise TypeError("it has another form")
    except (KeyError, TypeError) as exc:
        raise Broken("a line of the ledger is none that we wrote", detail=str(exc)[:200], state="") from exc
    return dict(predicate)


def _write(handle: int, size: int, content: bytes) -> None:
    """Write at the end and flush; where that fails, the file is as it was."""
    try:
        written = os.pwrite(handle, content, size)
        if written != len(content):
            raise OSError(28, "No space left on device")
        os.fsync(handle)
    except OSError:
        os.ftruncate(handle, size)
        raise
