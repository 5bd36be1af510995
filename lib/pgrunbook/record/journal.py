"""The journal of a run: an append-only file, written before and after every action.

It is a hash chain: ``prev`` of an event is the sha256 of the line before it, "" in the first. A journal of before
0.3.0 has none: it is read all the same, and :func:`is_chained` tells.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Never

from pgrunbook.config.regular_file import UNREADABLE_HINT, is_there, read_bytes
from pgrunbook.errors import RecordFailed, WrongInput
from pgrunbook.record import door
from pgrunbook.record.files import RECORD_FAILED_HINT

# What these facts of an event are, whatever the event.
_KINDS = {
    "digest": str,
    "direction": str,
    "run_id": str,
    "procedure": str,
    "gates": list,
    "proven": list,
    "unlike": list,
}
PREV = "prev"
# The events that name the run they belong to.
_NAMES_RUN = frozenset({"run-started", "run-resumed", "procedure-started"})


class Event(dict[str, Any]):
    """An event of the journal; reading a fact that it lacks says so."""

    def __missing__(self, name: str) -> Never:
        raise WrongInput(
            f'event {self.get("seq", "?")} of the journal, "{self.get("event")}", has no {name}',
            detail="We write none without it: somebody changed the journal, or another version wrote it.",
            hint=UNREADABLE_HINT,
        )


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
                torn, seq, last = _end(file.fileno())
                line = Event(
                    {
                        "seq": seq + 1,
                        "at": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
                        "event": event,
                        "pid": os.getpid(),
                        PREV: sha256(last).hexdigest() if last else "",
                        **door.masked_facts(facts),
                    }
                )
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

    Raises WrongInput for a file that cannot be read, and for a journal that has a hole, or is that of another run.
    """
    if not is_there(path):
        return []
    raw = read_bytes(path)
    found = list(_events(raw))
    _refuse_unchained(path, raw, found)
    last = 0
    for event in found:
        if event["event"] == "torn":
            continue
        if event["seq"] != last + 1:
            raise _broken(path, f"After event {last} comes event {event['seq']}: lines were removed, or added.")
        last = event["seq"]
        wrong = next((name for name, kind in _KINDS.items() if name in event and not isinstance(event[name], kind)), "")
        if wrong:
            raise _broken(path, f"Event {last} has a {wrong} that we do not write.")
        if event["event"] in _NAMES_RUN and event.get("run_id", path.parent.name) != path.parent.name:
            raise _broken(path, f"Event {last} is of run {event['run_id']}: the journal is that of another run.")
    return found


def is_chained(events: Sequence[Event]) -> bool:
    """Tell whether every event names the one before it; those of before 0.3.0 do not."""
    return all(PREV in event for event in events if event["event"] != "torn")


class Tail:
    """The events that a journal gets from now on, for one who looks on while others write."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = path.stat().st_size if path.exists() else 0

    def events(self) -> list[Event]:
        """Return the events that were written since the last call; a line that is not whole yet comes with the next."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._at)
            whole = file.read().rpartition(b"\n")[0]
        self._at += len(whole) + 1 if whole else 0
        return [event for event in _events(whole) if event["event"] != "torn"]


def _refuse_unchained(path: Path, raw: bytes, found: Sequence[Event]) -> None:
    """Raise WrongInput where an event does not name the line before it, once one of them has."""
    before, chained = b"", False
    for line, event in zip(filter(None, raw.split(b"\n")), found, strict=True):
        if PREV in event:
            chained = True
            if event[PREV] != (sha256(before).hexdigest() if before else ""):
                raise _broken(path, f"What stands before event {event['seq']} was changed, or lines of it removed.")
        elif chained and event["event"] != "torn":
            raise _broken(path, f"Event {event['seq']} does not name the line before it: somebody else wrote it.")
        before = line


def _broken(path: Path, detail: str) -> WrongInput:
    return WrongInput(f"the journal in {path.parent} is not as we wrote it", detail=detail, hint=UNREADABLE_HINT)


def _events(raw: bytes) -> Iterator[Event]:
    for line in raw.split(b"\n") if raw else ():
        whole = _event(line)
        if whole is not None:
            yield whole
        elif line:
            yield Event({"event": "torn", "text": line.decode("utf-8", "replace")})


def _event(line: bytes) -> Event | None:
    """Return the event that a line holds, None where it holds none."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if isinstance(found, dict) and type(found.get("seq")) is int and isinstance(found.get("event"), str):
        return Event(found)
    return None


def _encoded(line: Event) -> bytes:
    return json.dumps(line, ensure_ascii=False, separators=(",", ":"), default=str).encode()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _write_whole(handle: int, line: bytes) -> None:
    written = os.write(handle, line)
    if written != len(line):
        raise OSError(28, "No space left on device (a part of the line was written)")


def _end(handle: int) -> tuple[bool, int, bytes]:
    """Return whether the last line is cut off, the number of the last whole event, and the last line."""
    size = os.fstat(handle).st_size
    window = 4096
    while size:
        start = max(0, size - window)
        tail = os.pread(handle, size - start, start)
        lines = [line for line in tail.split(b"\n")[(1 if start else 0) :] if line]
        last = next((event for line in reversed(lines) if (event := _event(line)) is not None), None)
        if last is not None or not start:
            return not tail.endswith(b"\n"), int(last["seq"]) if last else 0, lines[-1] if lines else b""
        window *= 4
    return False, 0, b""
