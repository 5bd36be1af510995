"""The journal: what was written and returned stands in it, once and in order."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pgrunbook.errors import RecordFailed
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
