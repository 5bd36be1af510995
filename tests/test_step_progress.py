"""The progress of a step: what is told while it works, in the notebook, in the journal, and when it broke off."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from pgrunbook.display import progress
from pgrunbook.record import journal
from pgrunbook.record.journal import Journal
from pgrunbook.session import step_progress

CELL = """
import time
from pathlib import Path
from pgrunbook.display import progress
from pgrunbook.record.journal import Journal
from pgrunbook.session import step_progress

step_progress.SHOWN_AFTER_S, step_progress.LOOK_S = 0.1, 0.05
with step_progress.shown(Journal(Path("journal.jsonl")), "prepare"):
    with progress.doing("copying the data") as stage:
        for number in range(1, 6):
            stage.how_far(f"{number} of 5 MB")
            time.sleep(0.2)
    if fails:
        with progress.doing("executing the plan"):
            raise KeyboardInterrupt
"""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at once, and again and again."""
    monkeypatch.setattr(step_progress, "SHOWN_AFTER_S", 0.0)
    monkeypatch.setattr(step_progress, "LOOK_S", 0.01)


def test_stages_are_told_from_the_outermost_to_the_innermost_and_those_of_other_threads_behind() -> None:
    """Their times are those of the outermost; a thread that tells nothing is not there."""
    begun, over = threading.Event(), threading.Event()

    def beside() -> None:
        with progress.doing("taking it back"):
            begun.set()
            over.wait()

    thread = threading.Thread(target=beside)
    with progress.watched() as work:
        assert work.now() == ""
        with progress.doing("executing the plan") as stage:
            stage.how_far("step 2 of 5")
            with progress.doing("comparing rows") as inner:
                assert progress.current() is inner
                thread.start()
                begun.wait()
                assert work.now() == "executing the plan: step 2 of 5: comparing rows. Meanwhile taking it back"
        over.set()
        thread.join()
        assert work.now() == ""
        assert [what for what, _ in work.ended] == ["executing the plan", "taking it back"]
    with progress.doing("what nobody looks at"):
        pass
    assert len(work.ended) == 2


def test_the_place_where_it_broke_off_is_the_innermost() -> None:
    """Also where the error becomes another on its way; one that was dealt with before is not the one that counts."""

    def fails(what: str) -> None:
        with progress.doing(what) as stage:
            stage.how_far("3 of 4")
            raise KeyError(what)

    def fails_otherwise() -> None:
        with progress.doing("a"):
            try:
                fails("b")
            except KeyError as exc:
                raise ValueError from exc

    with progress.watched() as work:
        with pytest.raises(KeyError):
            fails("first")
        with pytest.raises(ValueError) as error:  # noqa: PT011 - it has no words
            fails_otherwise()
        assert work.broke_off(error.value) == "a: b: 3 of 4"
        assert work.broke_off(OSError()) == ""
    assert progress.current().what == "", "the stages have ended"


def test_an_error_that_is_its_own_cause_ends_no_differently() -> None:
    """Whoever explains an error may raise the same one from itself."""
    with progress.watched() as work:
        with pytest.raises(KeyError), progress.doing("a"):
            raise KeyError
        error = ValueError()
        error.__cause__ = error
        assert work.broke_off(error) == ""


@pytest.mark.usefixtures("quick")
def test_the_journal_gets_what_is_new_only(tmp_path: Path) -> None:
    """A note for each change; a step that tells nothing writes nothing."""
    log = Journal(tmp_path / "journal.jsonl")
    with step_progress.shown(log, "prepare"):
        time.sleep(0.05)
    with step_progress.shown(log, "prepare"), progress.doing("copying"):
        ends_at = time.monotonic() + 20
        while not journal.read(log.path) and time.monotonic() < ends_at:
            time.sleep(0.01)
        time.sleep(0.1)
    assert [(event["event"], event["says"]) for event in journal.read(log.path)] == [("progress", "copying")]


def test_a_tail_gives_whole_lines_once(tmp_path: Path) -> None:
    """What was there before is not told; half a line comes when it is whole."""
    log = Journal(tmp_path / "journal.jsonl")
    log.write("old")
    tail = journal.Tail(log.path)
    assert tail.events() == []
    log.write("one")
    log.write("two")
    assert [event["event"] for event in tail.events()] == ["one", "two"]
    with log.path.open("ab") as file:
        file.write(b'{"seq": 4, "event": "thr')
    assert tail.events() == []
    with log.path.open("ab") as file:
        file.write(b'ee"}\n')
    assert [event["event"] for event in tail.events()] == ["three"]
    assert journal.Tail(tmp_path / "none.jsonl").events() == []


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize("fails", [False, True])
def test_a_notebook_has_one_display_that_ends_with_the_times(tmp_path: Path, fails: bool) -> None:
    """It is drawn by a thread of its own, in the cell of the step; a step that was stopped says where."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(f"fails = {fails}\n{CELL}")])
    client = NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": tmp_path}})
    client.allow_errors = True
    client.execute()
    display, *rest = notebook.cells[0].outputs
    assert [output.output_type for output in rest] == ["error"] * fails
    says = display.data["text/html"]
    assert ("Stopped after" in says and "executing the plan" in says) if fails else "It took" in says
    assert fails or "copying the data 1." in says
    told = [event["says"] for event in journal.read(tmp_path / "journal.jsonl")]
    assert told[0].startswith("copying the data: ")
    assert told[0].endswith(" of 5 MB")
