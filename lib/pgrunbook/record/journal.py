"""The journal of a run: an append-only file, written before and after every action."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pgrunbook.errors import RecordFailed
from pgrunbook.record import door
from pgrunbook.record.files import RECORD_FAILED_HINT

Event = dict[str, Any]


class Journal:
    """Append events to ``journal.jsonl``, each flushed to disk before the caller goes on.

    The runner and the kernel write to the same file: a lock on it keeps their lines whole and numbered.
    A line that a crash cut off stays in the file, closed with a newline; :func:`read` reports it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, event: str, **facts: object) -> Event:
        """Append one event, flush it to disk, and return it, with its number and time.

        Raises RecordFailed when it cannot be written and flushed: nothing may be done that is not recorded.
        """
        return self._append(event, facts, flush=True)

    def note(self, event: str, **facts: object) -> Event:
        """Append one event without a flush; the next event has to follow at once, and flushes both.

        It survives a killed process; a crash of the machine only once the next is written. Raises as ``write``.
        """
        return self._append(event, facts, flush=False)

    def _append(self, event: str, facts: Mapping[str, object], *, flush: bool) -> Event:
        try:
            with open(self.path, "a+b", buffering=0, opener=_private) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                torn, seq = _end(file.fileno())
                line: Event = {
                    "seq": seq + 1,
                    "at": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
                    "event": event,
                    "pid": os.getpid(),
                    **door.masked_facts(facts),
                }
                _write_whole(file.fileno(), (b"\n" if torn else b"") + _encoded(line) + b"\n")
                if flush:
                    os.fsync(file.fileno())
                return line
        except OSError as exc:
            raise RecordFailed(
                "could not write the journal of this run",
                detail=f'{self.path}: {exc.strerror or exc}; the event was "{event}".',
                state="The database is as its own record (schema pgrunbook) says; no step is run unrecorded.",
                hint=RECORD_FAILED_HINT,
            ) from exc


def read(path: Path) -> list[Event]:
    """Return the events of a journal, oldest first; [] where there is none.

    A line that a crash cut off is an event ``torn`` with its text.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return []
    return list(_events(raw))


def _events(raw: bytes) -> Iterator[Event]:
    for line in raw.splitlines():
        whole = _event(line)
        yield whole if whole is not None else {"event": "torn", "text": line.decode("utf-8", "replace")}


def _event(line: bytes) -> Event | None:
    """Return the event that a line holds, None where it holds none."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    if isinstance(found, dict) and isinstance(found.get("seq"), int) and isinstance(found.get("event"), str):
        return found
    return None


def _encoded(line: Event) -> bytes:
    return json.dumps(line, ensure_ascii=False, separators=(",", ":"), default=str).encode()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _write_whole(handle: int, line: bytes) -> None:
    written = os.write(handle, line)
    if written != len(line):
        raise OSError(28, "No space left on device (a part of the line was written)")


def _end(handle: int) -> tuple[bool, int]:
    """Return whether the last line is cut off, and the number of the last whole event."""
    if not os.fstat(handle).st_size:
        return False, 0
    size = os.fstat(handle).st_size
    window = 4096
    while True:
        start = max(0, size - window)
        tail = os.pread(handle, size - start, start)
        torn = not tail.endswith(b"\n")
        for line in reversed(tail.splitlines()[(1 if start else 0) :]):
            if (last := _event(line)) is not None:
                return torn, int(last["seq"])
        if not start:
            return torn, 0
        window *= 4
