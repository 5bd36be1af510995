"""Signals in the first seconds of a run: the runner ends with a word, and the record says so."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable

import pytest

from acting import pgrunbook, run
from pgrunbook.config.targets import Target
from pgrunbook.record import journal
from pgrunbook.record import run as runs
from pgrunbook.record.run import Status
from pgrunbook.runner import stops

Project = Callable[..., Target]
FIRST_S = 3.0
STEP_S = 0.05
ENDS_WITHIN_S = 60


def stopped_at(target: Target, after_s: float, number: signal.Signals) -> str:
    """Stop a run in a process of its own so long after its start; check its record, return how it stands."""
    before = set(runs.folders())
    with pgrunbook("run", "migrate", "--target", target.name, start_new_session=True) as process:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(after_s)
        process.send_signal(number)
        _, told = process.communicate(timeout=ENDS_WITHIN_S)
    made = [runs.load(folder) for folder in set(runs.folders()) - before]
    if not made:
        # Before our first line runs, Python ends by itself.
        assert process.returncode in (1, -number), told
        assert process.returncode != 1 or "KeyboardInterrupt" in told or f"stopped by {number.name}\nDetail: " in told
        return "no run"
    (one,) = made
    assert "Traceback" not in told
    assert one.status in (Status.INTERRUPTED, Status.DONE), told
    assert not one.is_held()
    assert all(part.status is not Status.RUNNING for part in one.parts)
    events = journal.read(one.journal.path)
    assert [e["seq"] for e in events] == [*range(1, len(events) + 1)]
    assert (events[-1]["event"], events[-1]["status"]) == ("run-ended", one.status)
    assert sorted(f.name for f in one.folder.iterdir() if f.name.startswith(".")) == [".held"]
    if one.status is Status.DONE:
        assert process.returncode == 0
    else:
        assert process.returncode == 1
        assert f"interrupted: {one.folder}\nGo on with it: pgrunbook run --resume {one.run_id}" in told
    return one.status


@pytest.mark.first_case
@pytest.mark.parametrize(
    ("after_s", "number"), [(0.7, signal.SIGTERM), (1.2, signal.SIGINT), (1.7, signal.SIGTERM), (0.3, signal.SIGHUP)]
)
def test_a_signal_in_the_first_seconds_ends_the_run_with_a_word(
    project: Project, after_s: float, number: signal.Signals
) -> None:
    """Whether it comes while we import, while the kernel starts, or in a cell."""
    stopped_at(project(folder={"0001_a.sql": "CREATE TABLE a (id int);"}), after_s, number)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_any_moment_ends_the_run_with_a_word(project: Project, number: signal.Signals) -> None:
    """Every 50 ms of the first three seconds, with the record checked after each."""
    target = project(folder={"0001_a.sql": "CREATE TABLE IF NOT EXISTS a (id int);"})
    found = {stopped_at(target, at * STEP_S, number) for at in range(int(FIRST_S / STEP_S) + 1)}
    assert Status.INTERRUPTED in found


@pytest.mark.first_case
@pytest.mark.parametrize("number", stops.STOPS)
def test_a_signal_behind_the_last_word_does_not_change_how_a_command_ended(number: signal.Signals) -> None:
    """It comes while Python takes itself down; what the command said is what its exit code says."""
    code = "import atexit, os; from pgrunbook.app.main import command\n"
    code += f"atexit.register(os.kill, os.getpid(), {int(number)}); command()"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: " in done.stdout


def test_a_stop_that_is_turned_into_another_error_is_one(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python raises RuntimeError for what comes up while a class takes its attributes in."""

    class Stopping:
        def __set_name__(self, *_: object) -> None:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("papermill.execute_notebook", lambda *_, **__: type("Made", (), {"one": Stopping()}))
    project(folder={"0001_a.sql": "CREATE TABLE a (id int);"})
    with stops.listening(), stops.let_through():
        made, code = run("migrate")
    assert (code, made.status, made.parts[0].status) == (1, Status.INTERRUPTED, Status.INTERRUPTED)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.001)  # the handler runs between two steps of Python


class _Dying:
    def __del__(self) -> None:
        _die()


class _Finalized:
    def __init__(self) -> None:
        weakref.finalize(self, _die)


def _let_one_die(kind: Callable[[], object]) -> None:
    dying = kind()
    del dying
    time.sleep(5)


@pytest.mark.parametrize("kind", [_Dying, _Finalized])
def test_a_signal_that_python_would_swallow_stops_all_the_same(kind: Callable[[], object]) -> None:
    """An exception in a finalizer is ignored: the signal comes again, behind it."""
    with stops.listening(), stops.let_through(), pytest.raises(KeyboardInterrupt):
        _let_one_die(kind)
