"""The journal: what was written and returned stands in it, once and in order."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from pgrunbook.errors import RecordFailed, WrongInput
from pgrunbook.record import journal
from pgrunbook.record.journal import Journal

WRITER = """
import sys
from pathlib import Path
from pgrunbook.record.journal import Journal
for n in range(int(sys.argv[2])):
    print(Journal(Path(sys.argv[1])).write("beat", n=n, text="x" * (n % 97))["seq"], flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal lies."""
    return tmp_path / "journal.jsonl"


def writer(path: Path, events: int) -> subprocess.Popen[str]:
    """Start a process that writes events and prints the number of each."""
    return subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(events)], stdout=subprocess.PIPE, text=True)


def test_events_are_numbered_whole_and_timed(path: Path) -> None:
    """Facts come back as they were given, whatever letters are in them."""
    assert journal.read(path) == []
    path.touch()
    assert journal.read(path) == []
    Journal(path).write("begun", what="naïve\n\u2028\x85 ✓", lsn=None)
    written = Journal(path).write("ended", ok=True)
    first, second = journal.read(path)
    assert (first["seq"], first["event"], first["what"], first["lsn"]) == (1, "begun", "naïve\n\u2028\x85 ✓", None)
    assert second == written
    assert (second["seq"], second["at"] > first["at"], second["at"][-1]) == (2, True, "Z")


@pytest.mark.slow
def test_two_writers_at_once_lose_nothing(path: Path) -> None:
    """The runner and the kernel write to the same file."""
    writers = [writer(path, 200), writer(path, 200)]
    given = [int(line) for one in writers for line in one.communicate()[0].splitlines()]
    events = journal.read(path)
    assert [event["seq"] for event in events] == list(range(1, 401)) == sorted(given)
    assert len({event["pid"] for event in events}) == 2


def test_a_line_that_a_crash_cut_off_is_kept_and_told(path: Path) -> None:
    """It was never returned to anybody, but an auditor may want to see it; the next event gets the next number."""
    Journal(path).write("begun")
    with path.open("ab") as file:
        file.write(b'{"seq":2,"at":"2026-11-2')
    Journal(path).write("resumed")
    events = journal.read(path)
    assert [(event["event"], event.get("seq")) for event in events] == [("begun", 1), ("torn", None), ("resumed", 2)]
    assert events[1]["text"] == '{"seq":2,"at":"2026-11-2'


def test_what_is_no_event_does_not_stop_the_numbering(path: Path) -> None:
    """Not even a line longer than what is read of the file's end, or one that is JSON but no event."""
    Journal(path).write("long", text="x" * 100_000)
    with path.open("ab") as file:
        file.write(b"[1]\n7\n\xff\xfe\n{}\n")
    assert Journal(path).write("next")["seq"] == 2
    assert [event["event"] for event in journal.read(path)] == ["long", "torn", "torn", "torn", "torn", "next"]


@pytest.mark.slow
def test_a_writer_that_is_killed_loses_no_event_that_it_was_told_of(path: Path) -> None:
    """Again and again, at any moment; and no number is given twice."""
    told: list[int] = []
    for turn in range(5):
        killed = writer(path, 100_000)
        assert killed.stdout is not None
        seen = [killed.stdout.readline() for _ in range(3 + turn * 7)]
        killed.send_signal(signal.SIGKILL)
        rest = killed.communicate()[0].splitlines(keepends=True)
        told += [int(line) for line in [*seen, *rest] if line.endswith("\n")]
    numbers = [event["seq"] for event in journal.read(path) if event["event"] == "beat"]
    assert numbers == list(range(1, len(numbers) + 1))
    assert set(told) <= set(numbers)


def test_a_full_disk_is_told_with_the_state_of_the_database(path: Path) -> None:
    """Whoever reads it knows that nothing goes on unrecorded, and what to do."""
    path.symlink_to("/dev/full")
    with pytest.raises(RecordFailed) as caught:
        Journal(path).write("step-started", step=3)
    assert str(caught.value) == (
        "could not write the journal of this run\n"
        f'Detail: {path}: No space left on device; the event was "step-started".\n'
        "State: The database is as its own record (schema pgrunbook) says; no step is run unrecorded.\n"
        "Hint: Free space or repair the folder, then run the same command again: it resumes where the database is."
    )


def test_every_line_is_json_for_other_programs(path: Path) -> None:
    """jq and friends read it line by line; what JSON has no word for is written as text."""
    Journal(path).write("odd", folder=path.parent)
    assert json.loads(path.read_text())["folder"] == str(path.parent)


def test_a_note_stands_in_order_with_what_is_written_after_it(tmp_path: Path) -> None:
    """It is numbered like every event, and read like one, before and after the next one flushes it."""
    kept = Journal(tmp_path / "journal.jsonl")
    kept.note("migration-started", migration="0001")
    assert [e["event"] for e in journal.read(kept.path)] == ["migration-started"]
    kept.write("step-started", step=1)
    assert [(e["seq"], e["event"]) for e in journal.read(kept.path)] == [(1, "migration-started"), (2, "step-started")]


def test_each_event_names_the_line_before_it(path: Path) -> None:
    """The first names nothing; a line that was cut off is a line like any other."""
    Journal(path).write("begun")
    with path.open("ab") as file:
        file.write(b'{"seq":2,"at":"20')
    Journal(path).write("resumed", text="x" * 10_000)
    Journal(path).write("ended")
    first, torn, second, third = path.read_bytes().splitlines()
    told = [event["prev"] for event in journal.read(path) if event["event"] != "torn"]
    assert told == ["", sha256(torn).hexdigest(), sha256(second).hexdigest()]
    assert (json.loads(first)["prev"], json.loads(third)["event"]) == ("", "ended")


def as_text(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def renumbered(lines: list[bytes]) -> list[bytes]:
    """What somebody does who deletes a line and knows of the numbers."""
    return [json.dumps({**json.loads(line), "seq": number}).encode() for number, line in enumerate(lines, 1)]


TAMPERED: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "a word is changed": lambda lines: [line.replace(b'"eve"', b'"bob"') for line in lines],
    "a line is deleted, the others numbered anew": lambda lines: renumbered(lines[:1] + lines[2:]),
    "two lines are swapped": lambda lines: renumbered([lines[1], lines[0], *lines[2:]]),
    "a line is put in": lambda lines: renumbered([lines[0], b'{"seq":2,"event":"step-ran"}', *lines[1:]]),
    "a line is written twice": lambda lines: renumbered([lines[0], lines[0], *lines[1:]]),
    "blanks are added": lambda lines: [lines[0].replace(b",", b", "), *lines[1:]],
    "the first is deleted": lambda lines: renumbered(lines[1:]),
    "rubbish is put in": lambda lines: [lines[0], b"rubbish", *lines[1:]],
    "the name of the line before is taken out": lambda lines: [
        *lines[:2], json.dumps({k: v for k, v in json.loads(lines[2]).items() if k != "prev"}).encode(), *lines[3:]
    ],
}  # fmt: skip


@pytest.mark.parametrize("how", TAMPERED)
def test_a_journal_that_was_changed_is_refused(path: Path, how: str) -> None:
    """Also where the numbers of its events are right."""
    for number in range(5):
        Journal(path).write("beat", by="eve" if number == 1 else "adam")
    path.write_bytes(as_text(TAMPERED[how](path.read_bytes().splitlines())))
    with pytest.raises(WrongInput, match="is not as we wrote it"):
        journal.read(path)


def test_a_journal_of_before_the_chain_is_read_and_said_to_be_unchained(path: Path) -> None:
    """What is written to it from now on is chained, and what stands before that is held by the first of these."""
    path.write_bytes(b'{"seq":1,"event":"begun"}\n{"seq":2,"event":"ended"}\n')
    assert not journal.is_chained(journal.read(path))
    Journal(path).write("next")
    assert [event["event"] for event in journal.read(path)] == ["begun", "ended", "next"]
    assert not journal.is_chained(journal.read(path))
    path.write_bytes(path.read_bytes().replace(b"begun", b"began"))
    assert next(e["event"] for e in journal.read(path)) == "began"  # nothing names the first line
    path.write_bytes(path.read_bytes().replace(b"ended", b"END"))
    with pytest.raises(WrongInput, match="was changed"):
        journal.read(path)
