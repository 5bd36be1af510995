"""The record of a run that was killed right before a write of its runner: it is true, and the run goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from acting import completed
from conftest import rows
from forks import ForkedProcess
from kill_stage import record_is_true
from pgrunbook.config.targets import Target
from pgrunbook.record import run as runs
from pgrunbook.record.run import Status

Project = Callable[..., Target]
Command = Callable[..., tuple[int, str, str]]
FOLDER = {"0001_t.sql": "CREATE TABLE t (a int);\nINSERT INTO t VALUES (1);\n"}
# Before each of these calls the record on the disk is another one. The number of the last is that of the undisturbed
# run, which writes it down.
WRITES = """
import os, signal, sys
last, file, seen = int(sys.argv[1]), sys.argv[2], 0
del sys.argv[1:3]
def counted(name):
    real = getattr(os, name)
    def call(*arguments, **options):
        global seen
        seen += 1
        if seen == last:
            os.kill(os.getpid(), signal.SIGKILL)
        if not last:
            with open(file, "w") as told:
                told.write(str(seen))
        return real(*arguments, **options)
    setattr(os, name, call)
for name in ("fsync", "pwrite", "replace", "rename"):
    counted(name)
from pgrunbook.__main__ import command
command()
"""
BEGINNING, MIDDLE, END = range(1, 16), (20, 27, 34, 41), range(-18, 0)


def until_killed(at: int, file: Path, target: str = "demo") -> int:
    """Migrate until the n-th write of the runner, with 0 to the end; return its exit code."""
    with file.with_suffix(".told").open("a") as told:
        words = (str(at), str(file), "run", "migrate", "--target", target)
        return ForkedProcess(WRITES, *words, told=told.fileno()).wait()


@pytest.fixture(scope="session")
def writes() -> list[int]:
    """How many writes an undisturbed run has, once it has been counted."""
    return []


@pytest.mark.slow
@pytest.mark.parametrize("at", [*BEGINNING, *MIDDLE, *END])
def test_record_is_true_whenever_the_runner_was_killed(
    project: Project, command: Command, tmp_path: Path, writes: list[int], at: int
) -> None:
    """What is left says how the run stands; it goes on, or is sealed; then all of it is true, in the database too."""
    target, file = project(folder=FOLDER, restore_points=False), tmp_path / "writes"
    if at < 0 and not writes:
        project(folder=FOLDER, restore_points=False, name="counted")
        assert until_killed(0, file, "counted") == 0
        writes.append(int(file.read_text()))
    assert until_killed(at if at > 0 else writes[0] + 1 + at, file) == -9
    begun = [one for one in map(runs.load, runs.folders()) if one.target == "demo"]
    if not begun:
        assert rows(target, "SELECT to_regclass('t')::text") == [(None,)]
        return
    (made,) = begun
    record_is_true(made)
    assert made.actual_status() in (Status.BROKEN_OFF, Status.DONE)
    if made.actual_status() is Status.DONE:  # killed while it was sealed, or anchored
        refused, _, told = command("run", "--resume", made.run_id)
        assert refused == 3
        assert ("pgrunbook seal" in told) == (command("verify", "--target", "demo")[1].count("open") > 0)
        code, _, told = command("seal", made.run_id)
        assert code == 0 or "has no open attempt to seal" in told
    else:
        code, _, told = command("run", "--resume", made.run_id)
        assert code == 0, told
    made = runs.load(made.folder)
    assert (made.status, completed(made)) == (Status.DONE, True)
    record_is_true(made, target)
    assert rows(target, "SELECT a FROM t") == [(1,)]
