"""The papermill engine, on real kernels; stock papermill stands beside it where the two differ."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import papermill
import psycopg
import pytest
from nbclient.client import NotebookClient
from nbclient.exceptions import CellTimeoutError
from papermill.exceptions import PapermillExecutionError

from conftest import rows
from pgrunbook.config.targets import Target
from pgrunbook.errors import RecordFailed, Unreachable
from pgrunbook.record import run as runs
from pgrunbook.record.run import Status
from pgrunbook.runner.kernel import EarlyKernel
from scenes import until

SLEEP = "import time\ntime.sleep(60)"
DEAF = """import pathlib, time
for _ in range(60):
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        pathlib.Path('interrupted').touch()"""
SQL = "import os, psycopg\npsycopg.connect(os.environ['TEST_DB']).execute('SELECT pg_sleep(60)')"
BETWEEN = ("1", "2", "3")

TRUE = (["completed", "failed", "pending"], True)
ROSY = (["completed", "completed", "completed"], None)

RUNNER = """
import sys
sys.modules["rfc3987_syntax"] = None  # a second of import that has nothing to do with this
import papermill
papermill.execute_notebook(*sys.argv[1:3], engine_name=sys.argv[3] or None, progress_bar=False,
                           **({"grace_s": float(sys.argv[4])} if sys.argv[3] else {}))
"""


def notebook(path: Path, *sources: str) -> Path:
    """Write a notebook of these cells; one that begins with "# " is text."""
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    made = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    made.cells = [
        nbformat.v4.new_markdown_cell(s) if s.startswith("# ") else nbformat.v4.new_code_cell(s) for s in sources
    ]
    nbformat.write(made, path)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where papermill writes."""
    return tmp_path / "out.ipynb"


@pytest.fixture
def asleep(project: Callable[..., Target], monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    """Tells whether the statement of the cell SQL is at work in the server."""
    target = project(folder={})
    monkeypatch.setenv("TEST_DB", psycopg.conninfo.make_conninfo(**target.conninfo()))
    query = (
        "SELECT FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' AND query ~ '^SELECT pg_'"
    )
    return lambda: rows(target, query)


def run(out: Path, *sources: str, engine: str | None = "pgrunbook", **options: Any) -> BaseException | None:
    """Execute a notebook; return what papermill raises."""
    try:
        papermill.execute_notebook(
            notebook(out.with_name("in.ipynb"), *sources), out, engine_name=engine, progress_bar=False, **options
        )
    except Exception as exc:
        return exc
    return None


def started(out: Path, source: str, engine: str = "pgrunbook", grace_s: float = 15) -> subprocess.Popen[str]:
    """Start papermill on a notebook in a process of its own, and return when its second cell of three runs."""
    cells = notebook(out.with_name("in.ipynb"), "1", f"open('begun', 'w').close()\n{source}", "3")
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(cells), str(out), engine, str(grace_s)],
        stderr=subprocess.PIPE, text=True, cwd=out.parent,
    )  # fmt: skip
    until(out.with_name("begun").exists)
    return runner


def record(out: Path) -> tuple[list[str], object]:
    """Return the status of each code cell in a record, and whether it says that the whole failed."""
    made = nbformat.read(out, as_version=4)
    states = [cell.metadata.papermill["status"] for cell in made.cells if cell.cell_type == "code"]
    return states, made.metadata.papermill["exception"]


def errors(out: Path) -> list[tuple[str, str]]:
    """Return the errors in a record: name and text."""
    cells = [cell for cell in nbformat.read(out, as_version=4).cells if cell.cell_type == "code"]
    return [(o.ename, o.evalue) for cell in cells for o in cell.outputs if o.output_type == "error"]


@pytest.mark.first_case
@pytest.mark.parametrize("engine", ["pgrunbook", None])
def test_a_cell_that_raises_fails_and_the_rest_is_pending(out: Path, engine: str | None) -> None:
    """The common failure is recorded as papermill itself does it."""
    raised = run(out, "1", "1 / 0", "3", engine=engine)
    assert isinstance(raised, PapermillExecutionError)
    assert record(out) == TRUE
    assert errors(out) == [("ZeroDivisionError", "division by zero")]


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize(("engine", "says"), [("pgrunbook", TRUE), (None, ROSY)])
def test_a_cell_that_takes_too_long_failed(out: Path, engine: str | None, says: object) -> None:
    """Stock papermill records it, and all after it, as completed."""
    assert run(out, "1", SLEEP, "3", engine=engine, execution_timeout=1)
    assert record(out) == says
    if engine:
        assert errors(out) == [("CellTimeout", "the cell did not end within 1 s"), ("KeyboardInterrupt", "")]


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize(("engine", "says"), [("pgrunbook", TRUE), (None, ROSY)])
def test_a_cell_that_loses_its_kernel_failed(out: Path, engine: str | None, says: object) -> None:
    """Stock papermill records it, and all after it, as completed."""
    assert run(out, "1", "import os\nos._exit(0)", "3", engine=engine)
    assert record(out) == says
    if engine:
        assert errors(out) == [("KernelDied", "the kernel died in this cell")]


@pytest.mark.slow
def test_a_cell_that_leaves_by_sys_exit_failed(out: Path) -> None:
    """A step that ends its own kernel did not do what it was there for."""
    raised = run(out, "1", "import sys\nsys.exit()", "3")
    assert isinstance(raised, PapermillExecutionError)
    assert "(a cell ended the kernel: this counts as failed)" in raised.evalue
    assert record(out) == TRUE


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize(("engine", "code"), [("pgrunbook", 1), ("nbclient", 0)])
def test_the_papermill_command_tells_sys_exit_by_its_exit_code(out: Path, engine: str, code: int) -> None:
    """Stock papermill ends with 0, and automation goes on."""
    source = notebook(out.with_name("in.ipynb"), "1", "import sys\nsys.exit(0)", "3")
    command = [sys.executable, "-m", "papermill", "--engine", engine, "--no-progress-bar", str(source), str(out)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == code
    assert record(out) == TRUE


@pytest.mark.slow
def test_the_papermill_command_tells_nothing_but_the_run(out: Path) -> None:
    """No warning of a kernel that listens on TCP: its sockets lie in a private folder, which is gone afterwards."""
    source = notebook(
        out.with_name("in.ipynb"), "import ipykernel.kernelapp as k", "k.IPKernelApp.instance().transport"
    )
    own = out.parent / "t"
    own.mkdir()
    command = [sys.executable, "-m", "papermill", "--engine", "pgrunbook", "--no-progress-bar", str(source), str(out)]
    env = {**os.environ, "TMPDIR": str(own)}
    ended = subprocess.run(command, capture_output=True, check=True, text=True, env=env)
    assert "WARNING" not in ended.stderr, ended.stderr
    (shown,) = nbformat.read(out, as_version=4).cells[1].outputs
    assert shown.data["text/plain"] == "'ipc'"
    assert [*own.iterdir()] == []


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_statement_in_the_server(
    out: Path, number: signal.Signals, asleep: Callable[[], object]
) -> None:
    """psycopg gets the time to cancel it, the record is truthful, and no kernel stays."""
    runner = started(out, SQL)
    until(asleep)
    runner.send_signal(number)
    until(lambda: not asleep())
    assert runner.wait(30) == 1
    assert "PapermillExecutionError" in runner.communicate()[1]
    assert record(out) == TRUE
    assert [name for name, _ in errors(out)] == ["KeyboardInterrupt"]


@pytest.mark.slow
def test_stock_papermill_at_sigterm_leaves_its_record_running(out: Path, asleep: Callable[[], object]) -> None:
    """What the engine is there for: the record never says that anything ended, and the statement goes on."""
    runner = started(out, SQL, engine="")
    until(asleep)
    runner.terminate()
    assert runner.wait(30) == -signal.SIGTERM
    runner.communicate()
    assert asleep()
    assert record(out) == (["completed", "running", "pending"], None)


@pytest.mark.slow
def test_stock_papermill_at_sigint_calls_everything_completed(out: Path) -> None:
    """What the engine is there for: the cell was interrupted, and the one after it never ran."""
    runner = started(out, SLEEP, engine="")
    runner.send_signal(signal.SIGINT)
    runner.communicate(timeout=30)
    assert record(out) == ROSY


@pytest.mark.slow
def test_a_cell_that_ignores_the_interrupt_is_killed(out: Path) -> None:
    """It gets its time to end, and no more."""
    runner = started(out, DEAF, grace_s=1)
    runner.terminate()
    runner.communicate(timeout=30)
    assert runner.returncode == 1
    assert record(out) == TRUE
    says = "the run was stopped (SIGTERM) in this cell, which did not end in time and was killed"
    assert errors(out) == [("Stopped", says)]


@pytest.mark.slow
def test_a_second_signal_kills_at_once(out: Path) -> None:
    """Whoever presses Ctrl-C twice does not want to wait; the record is truthful all the same."""
    runner = started(out, DEAF, grace_s=3600)
    runner.terminate()
    until(out.with_name("interrupted").exists)
    runner.terminate()
    runner.communicate(timeout=30)
    assert record(out) == TRUE


@pytest.mark.slow
def test_a_timeout_holds_for_a_cell_that_ignores_the_interrupt(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nbclient would go on to interrupt it for ever."""
    monkeypatch.chdir(out.parent)  # where the cell leaves its file
    assert run(out, "1", DEAF, "3", execution_timeout=1, grace_s=1)
    assert record(out) == TRUE
    says = "the cell did not end within 1 s, nor within 1 s of being interrupted"
    assert errors(out) == [("CellTimeout", says)]


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "fails"), [("pgrunbook", False), (None, True)])
def test_outputs_may_come_late_on_a_busy_machine(
    out: Path, monkeypatch: pytest.MonkeyPatch, engine: str | None, fails: bool
) -> None:
    """The cell has ended, its outputs come 5 s later; to stock papermill that is a cell that took too long."""
    takes = NotebookClient._async_poll_output_msg

    async def late(*given: Any) -> None:
        await asyncio.sleep(5)
        await takes(*given)

    monkeypatch.setattr(NotebookClient, "_async_poll_output_msg", late)
    raised = run(out, "print('done')", engine=engine)
    assert isinstance(raised, CellTimeoutError) is fails
    if not fails:
        (cell,) = (cell for cell in nbformat.read(out, as_version=4).cells if cell.cell_type == "code")
        assert (raised, cell.outputs[0].text, cell.metadata.papermill["status"]) == (None, "done\n", "completed")


@pytest.mark.slow
def test_a_cell_that_swallows_the_interrupt_took_too_long_all_the_same(out: Path) -> None:
    """Nobody knows how much of it was done."""
    swallows = "import time\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    pass"
    assert run(out, "1", swallows, "3", execution_timeout=1)
    assert record(out) == TRUE
    assert errors(out) == [("CellTimeout", "the cell did not end within 1 s")]
    assert "start a new one where it was taken back" in out.read_text()


@pytest.mark.slow
def test_a_cell_that_answers_an_interrupt_with_another_error_was_stopped(out: Path) -> None:
    """The record says that somebody stopped it, and then what the cell made of it."""
    wraps = "import time\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    raise ValueError('half') from None"
    raised = run(
        out, "1", wraps, "3", on_cell=lambda cell: cell.source == wraps and signal.raise_signal(signal.SIGTERM)
    )
    assert isinstance(raised, PapermillExecutionError)
    assert (raised.ename, raised.traceback) == (
        "Stopped",
        [
            "the run was stopped (SIGTERM) in this cell",
            "State: as the database says (schema pgrunbook, history table); an open transaction was aborted.",
            "Hint: go on at the first step that is not done: pgrunbook run --resume, or run this notebook again.",
        ],
    )
    assert record(out) == TRUE
    assert errors(out)[1] == ("ValueError", "half")


@pytest.mark.slow
def test_a_signal_before_the_kernel_has_begun_the_cell_is_not_lost(out: Path) -> None:
    """A kernel ignores an interrupt while it is idle; the cell must not run on until it is killed."""
    run(out, "1", SLEEP, "3", on_cell=lambda cell: cell.source == SLEEP and signal.raise_signal(signal.SIGINT))
    assert record(out) == TRUE
    assert errors(out) == [("KeyboardInterrupt", "")]


@pytest.mark.slow
def test_a_signal_between_two_cells_starts_no_other(out: Path) -> None:
    """The cell that is not run says why, and papermill fails."""
    raised = run(out, *BETWEEN, on_cell_executed=lambda cell, **_: cell.source == "2" and signal.raise_signal(15))
    assert isinstance(raised, PapermillExecutionError)
    assert record(out) == (["completed", "completed", "pending"], True)
    assert errors(out) == [("Stopped", "the run was stopped (SIGTERM) before this cell")]


@pytest.mark.slow
def test_a_signal_at_the_end_of_the_last_cell_changes_nothing(out: Path) -> None:
    """All that was to be done is done."""
    assert not run(out, *BETWEEN, on_cell_executed=lambda cell, **_: cell.source == "3" and signal.raise_signal(15))
    assert record(out) == (["completed"] * 3, False)


@pytest.fixture
def kernel() -> Iterator[EarlyKernel]:
    """A kernel that boots."""
    made = EarlyKernel()
    yield made
    made.end()


@pytest.mark.slow
def test_a_signal_while_the_kernel_starts_runs_no_cell(out: Path, kernel: EarlyKernel) -> None:
    """The kernel has nothing to lose, so nobody waits for it."""
    kernel.process.send_signal(signal.SIGSTOP)
    heeds = threading.Thread(target=_signal_once_heeded)
    heeds.start()
    raised = run(out, "1", "2", km=kernel.manager())
    heeds.join()
    assert isinstance(raised, PapermillExecutionError)
    assert record(out) == (["pending", "pending"], True)
    assert errors(out) == [("Stopped", "the run was stopped (SIGTERM) before this cell")]


def _signal_once_heeded() -> None:
    until(lambda: signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_kernel_that_does_not_start_is_told_in_our_form(out: Path, kernel: EarlyKernel) -> None:
    """And no cell is said to have run."""
    kernel.process.kill()
    raised = run(out, "1", "2", km=kernel.manager())
    assert isinstance(raised, Unreachable)
    assert raised.lines() == [
        "could not start the kernel that runs the notebook",
        "Detail: the kernel died as it started.",
        "State: Nothing changed in the database.",
        "Hint: Start one by hand and read its error: python -m ipykernel_launcher.",
    ]
    assert record(out) == (["pending", "pending"], True)


@pytest.mark.slow
def test_handlers_of_signals_are_given_back(out: Path) -> None:
    """A signal that is ignored (nohup) stays ignored, and afterwards all is as before."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert not run(out, "1", "2", on_cell=lambda _: signal.raise_signal(signal.SIGHUP))
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.slow
def test_a_reader_never_sees_a_part_of_the_record(out: Path) -> None:
    """Also off the main thread, where no signals come: whoever reads gets all of it, and the cells one by one."""
    thread = threading.Thread(target=run, args=(out, *["print('x' * 20000)"] * 8))
    thread.start()
    done = []
    while thread.is_alive():
        if out.exists():
            done.append(json.loads(out.read_text())["cells"])
    assert len(done) > 8
    states = [[cell["metadata"]["papermill"]["status"] for cell in cells].count("completed") for cells in done]
    assert states == sorted(states)
    assert record(out) == (["completed"] * 8, False)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["1", "1 / 0"])
def test_no_write_is_in_place(out: Path, source: str) -> None:
    """Not even papermill's own last one: a file that was there before stays whole for whoever has it open."""
    out.write_text("what was there")
    kept = out.with_name("kept")
    kept.hardlink_to(out)
    run(out, source)
    assert kept.read_text() == "what was there"
    assert record(out)[1] is (source != "1")
    assert not list(out.parent.glob(".*"))


@pytest.mark.slow
def test_the_record_lies_where_papermill_was_called(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the notebook runs in another folder."""
    notebook(out.with_name("in.ipynb"), "import os\nprint(os.path.basename(os.getcwd()))")
    (elsewhere := out.with_name("elsewhere")).mkdir()
    monkeypatch.chdir(out.parent)
    papermill.execute_notebook("in.ipynb", "out.ipynb", engine_name="pgrunbook", progress_bar=False, cwd=str(elsewhere))
    assert json.loads(out.read_text())["cells"][0]["outputs"][0]["text"] == ["elsewhere\n"]
    assert not list(elsewhere.iterdir())


@pytest.mark.slow
def test_what_is_no_file_is_written_to_and_not_replaced(out: Path) -> None:
    """A pipe or a terminal stays what it is."""
    os.mkfifo(out)
    pipe = os.open(out, os.O_RDWR)
    run(out, "1")
    assert stat.S_ISFIFO(out.stat().st_mode)
    assert b'"status": "completed"' in os.read(pipe, 65536)
    os.close(pipe)


def test_a_record_that_cannot_be_written_runs_no_cell(out: Path) -> None:
    """Nothing is done that is not recorded."""
    raised = run(out, f"open({str(out.with_name('ran'))!r}, 'w')", record_path=str(out.with_name("gone") / "out.ipynb"))
    assert isinstance(raised, RecordFailed)
    assert not out.with_name("ran").exists()


def test_text_cells_are_completed_and_a_stream_is_one_output(out: Path) -> None:
    """A progress line that is written a hundred times stands in the record once, as it ended."""
    again = (
        "import sys, time\nfor n in range(5):\n    print(n, end='\\r', flush=True)\n    time.sleep(0.01)\nprint('done')"
    )
    assert not run(out, "# Text", again, "# More")
    made = nbformat.read(out, as_version=4)
    assert [cell.metadata.papermill["status"] for cell in made.cells] == ["completed"] * 3
    assert [o.text for o in made.cells[1].outputs] == ["done\n"]


@pytest.mark.slow
def test_a_run_that_is_told_to_stop_ends_all_that_it_began(
    out: Path, project: Callable[..., Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole command: the statement, the kernel, its sockets; the record says interrupted."""
    target = project(folder={"0001_a.sql": "SELECT pg_sleep(60);"})
    query = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND query ~ '^SELECT pg_sleep'"
    (sockets := out.with_name("sockets")).mkdir()
    monkeypatch.setenv("TMPDIR", str(sockets))
    runner = subprocess.Popen(
        [sys.executable, "-m", "pgrunbook", "run", "migrate", "--target", "demo"], stderr=subprocess.PIPE, text=True
    )
    until(lambda: rows(target, query))
    runner.terminate()
    until(lambda: not rows(target, query))
    assert "Traceback" not in runner.communicate(timeout=30)[1]
    assert runner.returncode == 1
    made = runs.load(runs.folders()[-1])
    assert (made.actual_status(), made.parts[0].status) == (Status.INTERRUPTED, Status.INTERRUPTED)
    states = record(made.folder / made.parts[0].notebook)[0]
    assert (states.count("failed"), states[-1]) == (1, "pending")
    assert not list(sockets.iterdir())


@pytest.mark.slow
def test_a_run_whose_cell_leaves_by_sys_exit_failed(
    out: Path, project: Callable[..., Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 0 is for what was done."""
    project(folder={})
    (out.with_name("notebooks")).mkdir()
    notebook(out.with_name("notebooks") / "migrate.ipynb", "1", "import sys\nsys.exit(0)", "3")
    monkeypatch.setenv("PGRUNBOOK_HOME", str(out.parent))
    command = [sys.executable, "-m", "pgrunbook", "run", "migrate", "--target", "demo"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, "Traceback" in ended.stderr) == (1, False)
    made = runs.load(runs.folders()[-1])
    assert made.actual_status() is Status.FAILED
    assert record(made.folder / made.parts[0].notebook)[0][-2:] == ["failed", "pending"]
