"""record/executed_copy.py: who steps through a notebook by hand leaves a record that says what happened."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from acting import in_transaction, run, wait_until
from conftest import do, rows
from front_end import opened, record, shown, states, top
from pgrunbook.config.targets import Target
from pgrunbook.errors import RecordFailed
from pgrunbook.procedures import migrate
from pgrunbook.record import cell_log, executed_copy
from pgrunbook.record import run as runs
from pgrunbook.record.cell_attempts import Ended, attempts
from pgrunbook.record.cell_log import CellLog
from pgrunbook.record.run import Status
from pgrunbook.runner import runbook
from pgrunbook.session import session as heres

Project = Callable[..., Target]
FOLDER = {"0001_a.sql": "CREATE TABLE a (id int);", "0002_b.sql": "CREATE TABLE b (id int);"}
MIGRATE = "01-migrate.ipynb"


@pytest.mark.slow
def test_by_hand_leaves_the_record_that_automation_leaves(project: Project) -> None:
    """The kernel writes it: the same cells, each with outputs of the same kinds; nobody has saved a notebook."""
    target = project(folder=FOLDER)
    made = runbook.start("migrate", "demo", {})
    copy = (made.folder / "work" / MIGRATE).read_bytes()
    assert set(states(record(made, MIGRATE)).values()) == {"pending"}
    with opened(made, MIGRATE) as front:
        front.run(*front.cells())
        by_hand = record(made, MIGRATE)
    assert "Every cell ran once, in order, unchanged." in top(by_hand)
    assert "0002_b" in shown(by_hand, "verdict")
    assert rows(target, "SELECT count(*) FROM schema_migrations") == [(2,)]
    assert (made.folder / "work" / MIGRATE).read_bytes() == copy
    do(target, "DROP SCHEMA pgrunbook CASCADE; DROP TABLE a, b, schema_migrations")
    headless, code = run("migrate")
    assert code == 0
    assert kinds(by_hand) == kinds(record(headless, MIGRATE))


@pytest.mark.slow
def test_what_is_odd_is_told_at_the_top_and_at_the_cell(project: Project) -> None:
    """Twice, out of order, edited, from a console, failed: each in plain words, and every run of a cell is kept."""
    project(folder=FOLDER)
    made = runbook.start("migrate", "demo", {})
    with opened(made, MIGRATE) as front:
        front.begin()
        front.run("where-are-we")  # it needs what is-it-still-so finds out
        front.run_text(front.source("meet-the-target") + "  # looked at", "meet-the-target")
        front.run("is-it-still-so")
        front.run_text("print('from a console')")
        front.run("meet-the-target")
        found = record(made, MIGRATE)
    told = top(found)
    assert "Cell `meet-the-target` was run 2 times: " in told
    assert "Cell `meet-the-target`: Edited" in told
    assert "Cell `where-are-we`: Out of order: before it, meet-the-target, is-it-still-so, take-restore" in told
    assert "1 of the cells below are not of this notebook" in told
    assert "Not run: `take-restore-point`, `execute-plan`, `what-it-took`, `verdict`." in told
    assert "from a console" in shown(found, next(cell for cell in states(found) if cell.startswith("beside-")))
    assert states(found)["where-are-we"] == "failed"
    assert 'cell "is-it-still-so" has to be run before this one' in shown(found, "where-are-we")
    again = shown(found, "meet-the-target")
    assert "Run 2 times; this is the last." in again
    assert "<details><summary>Run 1, " in again
    assert "# looked at" in again  # the first run had another text


@pytest.mark.slow
def test_a_kernel_that_is_killed_leaves_a_cell_that_is_broken_off(project: Project) -> None:
    """The next command of ours that meets the run makes the record; nothing says running, or done."""
    target = project(folder=FOLDER)
    made = runbook.start("migrate", "demo", {})
    with opened(made, MIGRATE) as front, in_transaction(target, "CREATE TABLE in_the_way ()"):
        front.begin()
        front.run("meet-the-target", "is-it-still-so", "take-restore-point")
        front.ask("import time; print('still here', flush=True); time.sleep(100)", "execute-plan")
        wait_until(lambda: "still here" in (made.folder / "01-migrate.cells.jsonl").read_text())
        executed_copy.refresh(made)
        assert states(record(made, MIGRATE))["execute-plan"] == "running"
        front.kill()
    assert executed_copy.refresh_broken_off("another") == executed_copy.refresh_broken_off("demo") == []
    found = record(made, MIGRATE)
    assert states(found)["execute-plan"] == "failed"
    assert "Broken off: its kernel ended before the cell did." in top(found)
    assert "still here" in shown(found, "execute-plan")
    assert "KernelDied" in shown(found, "execute-plan")
    assert runs.load(made.folder).actual_status() is Status.BROKEN_OFF


def test_what_a_killed_kernel_began_is_not_at_work_when_the_next_one_is(tmp_path: Path) -> None:
    """Whoever looks from outside sees that some kernel lives, and tells which by its process."""
    path = tmp_path / "x.cells.jsonl"
    dead, alive = (f"{pid}-2026-11-30T05:39:27.665Z-c4b9" for pid in (2**22 + 1, os.getpid()))
    lines = [
        line
        for kernel in (dead, alive)
        for line in ({"is": "kernel", "kernel": kernel},
                     {"is": "cell", "kernel": kernel, "n": 1, "cell": "a", "at": "2026-11-30T05:39:27Z", "source": ""})
    ]  # fmt: skip
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    ended = [one.ended for one in attempts(cell_log.read(path), ["a"], living="")]
    assert ended == [Ended.BROKEN_OFF, Ended.AT_WORK]


@pytest.mark.slow
def test_a_tab_that_is_closed_loses_nothing(project: Project) -> None:
    """The kernel goes on without anybody who listens, and writes what its cells show."""
    project(folder=FOLDER)
    made = runbook.start("migrate", "demo", {})
    with opened(made, MIGRATE) as front:
        front.begin()
        front.run("meet-the-target", "is-it-still-so", "take-restore-point")
        front.ask(f"import time; time.sleep(0.5); {front.source('execute-plan')}", "execute-plan")
        front.leave()
        wait_until(lambda: states(record(made, MIGRATE))["execute-plan"] == "completed")
        front.return_()
        front.run("what-it-took", "where-are-we", "verdict")
    found = record(made, MIGRATE)
    assert set(states(found).values()) == {"completed"}
    assert "done" in shown(found, "execute-plan")
    assert runs.load(made.folder).actual_status() is Status.DONE


@pytest.mark.slow
def test_a_cell_that_is_interrupted_is_told_as_it_ended(project: Project) -> None:
    """Kernel > Interrupt: the error stands in the cell, the run is interrupted, and the next try counts."""
    project(folder=FOLDER)
    made = runbook.start("migrate", "demo", {})
    with opened(made, MIGRATE) as front:
        front.begin()
        request = front.ask("import time; print('on', flush=True); time.sleep(100)", "meet-the-target")
        wait_until(lambda: "on\\n" in (made.folder / "01-migrate.cells.jsonl").read_text())
        front.interrupt()
        assert front.wait(request)["ename"] == "KeyboardInterrupt"
        wait_until(lambda: states(record(made, MIGRATE))["meet-the-target"] == "failed")
        assert runs.load(made.folder).status is Status.INTERRUPTED
        assert "KeyboardInterrupt" in shown(record(made, MIGRATE), "meet-the-target")
        front.run("meet-the-target")
        assert states(record(made, MIGRATE))["meet-the-target"] == "completed"


def test_a_display_is_kept_as_it_was_at_last_and_what_was_cleared_is_gone(tmp_path: Path) -> None:
    """As a front end shows it: printed lines are joined, a redrawn table is one table, clear_output clears."""
    log = CellLog(tmp_path / "x.cells.jsonl", by="somebody")
    number = log.begun("work()", cell="work", count=1)
    log.showed(number, printed("gone"))
    log.cleared(number, waits=True)
    log.showed(number, drawn("0 %"), "bar")
    log.showed(number, printed("a"))
    log.showed(number, printed("b\n"))
    picture = {"output_type": "execute_result", "data": {"image/png": b"\x89PNG"}, "metadata": {}}
    log.showed(number, picture)
    for percent in range(1, 1001):
        log.redrew("bar", drawn(f"{percent} %"))
    log.ended(number, ok=True, took_ms=1.0)
    lines = cell_log.read(log.path)
    assert sum(line["is"] == "update" for line in lines) == 1  # not each of a thousand, but the last
    (run_,) = attempts(lines, ["work"], living=None)
    assert [o.get("text") or o["data"]["text/plain"] for o in run_.outputs[:2]] == ["1000 %", "ab\n"]
    assert run_.outputs[2]["data"] == {"image/png": "iVBORw=="}


def test_an_output_of_any_size_leaves_a_record_that_can_be_opened(tmp_path: Path) -> None:
    """What is beyond the limit of a cell is counted and told; its error is kept, and the next cell has its own."""
    log = CellLog(tmp_path / "x.cells.jsonl")
    number = log.begun("work()", cell="work", count=1)
    for _ in range(60):
        log.showed(number, printed("x" * 1_000_000))
    log.showed(number, {"output_type": "error", "ename": "E", "evalue": "e" * 10**7, "traceback": ["t" * 10**7] * 3})
    log.ended(number, ok=False, took_ms=1.0)
    log.showed(log.begun("next()", cell="next", count=2), printed("well"))
    assert log.path.stat().st_size < cell_log.CELL_MAX_BYTES + 1_000_000
    first, second = attempts(cell_log.read(log.path), ["work", "next"], living=log.kernel)
    assert first.outputs[-1]["ename"] == "E"
    assert "more than a record keeps of one cell" in " ".join(first.remarks)
    assert second.outputs == [printed("well")]


def test_a_line_that_a_crash_cut_off_costs_that_line_only(tmp_path: Path) -> None:
    """The next kernel begins on a line of its own."""
    path = tmp_path / "x.cells.jsonl"
    first = CellLog(path)
    first.showed(first.begun("a", cell="a", count=1), printed("seen"))
    first.close()
    with path.open("a") as file:
        file.write('{"is":"end","n":')
    assert not cell_log.is_open(path)
    second = CellLog(path)
    assert cell_log.is_open(path)
    second.ended(second.begun("a", cell="a", count=1), ok=True, took_ms=1.0)
    before, after = attempts(cell_log.read(path), ["a"], living=second.kernel)
    assert (before.ended, before.outputs) == (Ended.BROKEN_OFF, [printed("seen")])
    assert after.ended is Ended.DONE


def test_nothing_is_changed_that_cannot_be_recorded(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full: the cell that would change something says so, and changes nothing."""
    project(folder=FOLDER)
    monkeypatch.chdir(tmp_path)
    here = migrate.begin(target="demo")
    (tmp_path / "full.cells.jsonl").symlink_to("/dev/full")
    log = CellLog(tmp_path / "full.cells.jsonl")
    here.recorder = SimpleNamespace(log=log)  # type: ignore[assignment]  # the kernel's, without one
    with pytest.raises(RecordFailed) as failed:
        here.at_work()
    heres._end_earlier()
    assert "No space left on device" in failed.value.detail
    assert failed.value.message == "could not write what the cells of this notebook show"


def test_another_person_and_another_kernel_are_told(project: Project) -> None:
    """Who did not begin the run is named, with the cells; of many runs of a cell the last ten are unfolded."""
    project(folder=FOLDER)
    made = runbook.start("migrate", "demo", {})
    path = executed_copy.log_of(made, MIGRATE)
    for who in (made.operator, "somebody-else"):
        log = CellLog(path, by=who)
        for _ in range(7):
            number = log.begun("migrate.meet_the_target(here)", cell="meet-the-target", count=1)
            log.showed(number, printed(f"<script>{who}</script>"))
            log.ended(number, ok=True, took_ms=1.0)
        log.close()
    executed_copy.refresh(made)
    found = record(made, MIGRATE)
    assert "The kernel was started 2 times." in top(found)
    assert "Run by somebody-else, who did not begin this run: `meet-the-target`." in top(found)
    folded = shown(found, "meet-the-target")
    assert (folded.count("<details>"), folded.count("What it showed is in the log")) == (13, 3)
    assert "&lt;script&gt;" in folded
    assert "<pre><script>" not in folded


def printed(text: str) -> dict[str, Any]:
    """Return what a cell prints, as an output."""
    return {"output_type": "stream", "name": "stdout", "text": text}


def drawn(text: str) -> dict[str, Any]:
    """Return what a cell displays, as an output."""
    return {"output_type": "display_data", "data": {"text/plain": text}, "metadata": {}}


def kinds(notebook: Any) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """Return each code cell with the kinds of its outputs, but for progress, which is shown where it takes long."""
    return [
        (cell.id if "injected" not in str(cell.metadata.tags) else "injected",
         [(output.output_type, sorted(output.get("data", {}))) for output in cell.outputs
          if output.output_type != "display_data"])
        for cell in notebook.cells if cell.cell_type == "code"
    ]  # fmt: skip
