"""What each cell of a notebook showed, as its kernel wrote it: an append-only file, from which the record is made.

Each line is one thing that happened: a kernel began, a cell began, showed something, ended. A cell that was run twice
is there twice. What a crash leaves is whole lines, and at most one that is cut off.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import secrets
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from pgrunbook.config.regular_file import is_there, read_bytes
from pgrunbook.errors import RecordFailed
from pgrunbook.record.files import RECORD_FAILED_HINT, append_line
from pgrunbook.record.run import stamp

SUFFIX = ".cells.jsonl"
CELL_MAX_BYTES = 4_000_000  # of what one run of a cell shows; errors are kept beyond it
TEXT_MAX_CHARS = 100_000  # of an error's text
# A display that is redrawn for hours is written less and less often; its last value is written when the cell ends.
REDRAWN_AFTER_S, REDRAWN_EVERY = 2.0, 0.02

Line = dict[str, Any]


class CellLog:
    """Append what the cells of one notebook show, in this kernel.

    The file stays locked (shared) as long as the kernel lives: :func:`is_open` tells whether one does.
    What it cannot write is in ``broken``: whoever is about to change something raises it.
    """

    def __init__(self, path: Path, **facts: object) -> None:
        self.path = path
        self.broken: RecordFailed | None = None
        self.kernel = f"{os.getpid()}-{stamp()}-{secrets.token_hex(2)}"
        self._lock = threading.RLock()
        self._number, self._torn = 0, False
        self._left_bytes: dict[int, int] = {}
        self._dropped: dict[int, int] = {}
        self._displays: dict[str, int] = {}  # the run of a cell to which each display belongs
        self._redrawn: dict[str, tuple[float, float, Line | None]] = {}  # first and last written, and what is not yet
        try:
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_SH)
            size = os.fstat(self._file).st_size
            self._torn = bool(size) and os.pread(self._file, 1, size - 1) != b"\n"  # a crash has cut the last line off
        except OSError as exc:
            raise self._failed(exc) from exc
        self._write({"is": "kernel", "at": stamp(), "kernel": self.kernel, **facts})

    def begun(self, source: str, **facts: object) -> int:
        """Write that a cell begins; return the number of this run of it."""
        with self._lock:
            self._number += 1
            self._left_bytes[self._number] = CELL_MAX_BYTES
            self._write({"is": "cell", "at": stamp(), "kernel": self.kernel, "n": self._number,
                         "source": source, **facts})  # fmt: skip
            return self._number

    def showed(self, number: int, output: Line, display: str = "") -> None:
        """Write an output of a cell; one beyond what a cell may show is counted only."""
        with self._lock:
            if display:
                self._displays[display] = number
                self._redrawn[display] = (monotonic(), monotonic(), None)
            self._put(number, {"is": "output", "output": output, **({"display": display} if display else {})})

    def redrew(self, display: str, output: Line) -> None:
        """Write the new value of a display, now and then; at the latest when its cell ends."""
        with self._lock:
            if display not in self._displays:
                return
            first, last, _ = self._redrawn[display]
            now = monotonic()
            line = {"is": "update", "display": display, "output": output}
            if now - last < max(REDRAWN_AFTER_S, REDRAWN_EVERY * (now - first)):
                self._redrawn[display] = (first, last, line)
                return
            self._redrawn[display] = (first, now, None)
            self._put(self._displays[display], line)

    def cleared(self, number: int, *, waits: bool) -> None:
        """Write that a cell's outputs were taken away, or will be with the next one."""
        with self._lock:
            self._put(number, {"is": "clear", "waits": waits})

    def ended(self, number: int, *, ok: bool, took_ms: float) -> None:
        """Write that a cell has ended, with the last value of each display, and flush it to disk."""
        with self._lock:
            for display, (first, _, line) in list(self._redrawn.items()):
                if line is not None:
                    self._put(self._displays[display], line)
                    self._redrawn[display] = (first, monotonic(), None)
            dropped = self._dropped.get(number, 0)
            self._write({"is": "end", "at": stamp(), "kernel": self.kernel, "n": number, "ok": ok, "ms": took_ms,
                         **({"dropped_bytes": dropped} if dropped else {})}, flush=True)  # fmt: skip

    def note(self, what: str, **facts: object) -> None:
        """Write something else that belongs to the record, and flush it to disk."""
        with self._lock:
            self._write({"is": what, "at": stamp(), "kernel": self.kernel, **facts}, flush=True)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            os.close(self._file)
            self._file = -1

    def _put(self, number: int, line: Line) -> None:
        output = line.get("output", {})
        if output.get("output_type") == "error":
            line = {**line, "output": _bounded(output)}
        size = len(_encoded(line))
        if output.get("output_type") != "error" and size > self._left_bytes[number]:
            self._dropped[number] = self._dropped.get(number, 0) + size
            return
        self._left_bytes[number] -= size
        self._write({**line, "kernel": self.kernel, "n": number})

    def _write(self, line: Line, *, flush: bool = False) -> None:
        raw = _encoded(line)
        raw = b"\n" + raw if self._torn else raw
        if self._file < 0:
            return
        try:
            self._torn = True
            if os.write(self._file, raw) != len(raw):
                raise OSError(28, "No space left on device (a part of the line was written)")
            self._torn = False
            if flush:
                os.fsync(self._file)
        except OSError as exc:
            self.broken = self._failed(exc)

    def _failed(self, exc: OSError) -> RecordFailed:
        return RecordFailed(
            "could not write what the cells of this notebook show",
            detail=f"{self.path}: {exc.strerror or exc}.",
            state="The database is as its own record (schema pgrunbook) says; no step is run unrecorded.",
            hint=RECORD_FAILED_HINT,
        )


def give(path: Path, notebook: Mapping[str, Any]) -> None:
    """Begin a log with the notebook whose cells it will tell of, as it is given. Raises RecordFailed."""
    append_line(path, _encoded({"is": "notebook", "at": stamp(), "notebook": notebook}).decode().rstrip())


def read(path: Path) -> list[Line]:
    """Return the lines of a log, oldest first; one that a crash cut off is left out. Raises WrongInput."""
    if not is_there(path):
        return []
    found = []
    for raw in read_bytes(path).split(b"\n"):
        try:
            line = json.loads(raw) if raw else None
        except (ValueError, RecursionError):
            continue  # cut off; what it belonged to is shown as not ended
        if isinstance(line, dict) and "is" in line:
            found.append(line)
    return found


def ended_kernels(lines: Sequence[Line]) -> set[str]:
    """Return the kernels before the last one whose process has ended: its id begins their name."""
    kernels = [str(line["kernel"]) for line in lines if line["is"] == "kernel"]
    return {kernel for kernel in kernels[:-1] if not _is_alive(kernel.partition("-")[0])}


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError):
        return True
    return True


def is_open(path: Path) -> bool:
    """Tell whether a kernel that writes the log is alive."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _encoded(line: Line) -> bytes:
    return json.dumps(line, ensure_ascii=False, separators=(",", ":"), default=_plain).encode() + b"\n"


def _plain(value: object) -> str:
    """Return a value as the message of a kernel has it: the bytes of a picture in base64."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _bounded(error: Mapping[str, Any]) -> Line:
    lines, left = [], TEXT_MAX_CHARS
    for line in error.get("traceback", ()):
        lines.append(line[:left])
        left -= len(lines[-1])
    return {**error, "evalue": str(error.get("evalue", ""))[:TEXT_MAX_CHARS], "traceback": lines}
