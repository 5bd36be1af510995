"""What the terminal shows while a run is at work."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest
from nbformat import NotebookNode

from pgrunbook.record.journal import Journal
from pgrunbook.record.run import Part, Status
from pgrunbook.runner import progress
from pgrunbook.runner.progress import ProgressDisplay, Telling, telling

SAYS = ('could not apply "0001_[/red]"', "Detail: array [1:2] of [bold]", "Hint: Mend it.")

SHOW = f"""
from pathlib import Path
from nbformat import NotebookNode
from pgrunbook.runner.progress import ProgressDisplay, Telling, telling
from pgrunbook.record.run import Part, Status
with ProgressDisplay("release on demo", Path("journal.jsonl")) as progress:
    progress.procedure("migrate")
    progress.cell(NotebookNode(id="execute-plan", metadata={{}}))
    progress.ended(Part("migrate", "01-migrate.ipynb", Status.FAILED, says={SAYS[0]!r}), {SAYS!r})
"""


def test_a_log_gets_plain_lines(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """One for each cell, one for each procedure, then its error; no colours, no bars."""
    with ProgressDisplay("release on demo", tmp_path / "journal.jsonl") as shown:
        shown.procedure("migrate")
        shown.cell(NotebookNode(id="is-it-still-so", metadata={}))
        shown.cell(NotebookNode(id="execute-plan", metadata={}))
        shown.ended(Part("migrate", "01-migrate.ipynb", Status.FAILED, says=SAYS[0]), SAYS)
    one, two, last, *rest = capsys.readouterr().err.splitlines()
    assert [line.split()[:2] for line in (one, two)] == [["migrate", "is-it-still-so"], ["migrate", "execute-plan"]]
    assert last.split()[:2] == ["migrate", "failed"]
    assert SAYS[0] not in last, "an error's first line is told once, with the rest of it"
    assert rest == list(SAYS)


def test_a_verdict_that_quotes_a_name_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What somebody has called an index moves no cursor, and passes for no line of ours."""
    with ProgressDisplay("troubleshoot on demo", tmp_path / "journal.jsonl") as shown:
        shown.procedure("troubleshoot")
        says = 'Done: removed invalid index: public."i\x1b]0;title\x07\nmigrate done"'
        shown.ended(Part("troubleshoot", "01-troubleshoot.ipynb", Status.DONE, says=says), ())
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(r'removed invalid index: public."i\x1b]0;title\x07 migrate done"')


def test_a_log_gets_a_line_of_a_long_cell_now_and_then(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what is done now, as the kernel has noted it in the journal; what was noted before is not told again."""
    monkeypatch.setattr(progress, "POLL_S", 0.01)
    monkeypatch.setattr(progress, "LINE_S", 0.0)
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write("progress", procedure="prepare", says="of an earlier attempt")
    told = ""
    with ProgressDisplay("release on demo", journal.path) as shown:
        shown.procedure("prepare")
        shown.cell(NotebookNode(id="rehearse", metadata={}))
        journal.note("progress", procedure="prepare", says="copying the data: 120 MB of 800 MB")
        ends_at = time.monotonic() + 20
        while "120 MB of" not in told and time.monotonic() < ends_at:
            told += capsys.readouterr().err
    assert told.split()[:2] == ["prepare", "rehearse"]
    assert "copying the data: 120 MB of 800 MB" in told
    assert "earlier" not in told


@pytest.mark.slow
def test_a_terminal_shows_errors_as_they_are(tmp_path: Path) -> None:
    """An error quotes names from the database; brackets in them are no markup."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen([sys.executable, "-c", SHOW], stderr=theirs, cwd=tmp_path, env=environment) as shown:
        os.close(theirs)
        text = b"".join(_read(ours)).decode()
    os.close(ours)
    assert shown.returncode == 0, text
    for line in SAYS:
        assert line in text
    assert "failed" in text


def _read(handle: int) -> list[bytes]:
    parts = []
    try:
        while part := os.read(handle, 4096):
            parts.append(part)
    except OSError:  # how Linux says that the other end of a terminal is closed
        pass
    return parts


@pytest.mark.parametrize("much", Telling)
def test_a_run_tells_as_much_as_it_is_asked_for(
    much: Telling, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Only errors, a line for each cell, or each event; the error is told in any case."""
    journal = Journal(tmp_path / "journal.jsonl")
    with telling(much), ProgressDisplay("release on demo", journal.path) as shown:
        shown.procedure("migrate")
        shown.cell(NotebookNode(id="execute-plan", metadata={}))
        journal.write("step-started", procedure="migrate", step=3)
        shown.ended(Part("migrate", "01-migrate.ipynb", Status.FAILED, says=SAYS[0]), SAYS)
    told = capsys.readouterr().err
    assert told.rstrip().endswith("\n".join(SAYS)) or much is Telling.EVENTS
    assert "\n".join(SAYS) in told
    assert ("execute-plan" in told) is (much is not Telling.ERRORS)
    assert ("step-started  step 3" in told) is (much is Telling.EVENTS)
