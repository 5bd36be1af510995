"""The record of a run that was killed: at each write of its runner, and at random moments."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from acting import completed, events
from conftest import rows
from forks import ForkedProcess
from kill_stage import record_is_true
from pgrunbook.config.targets import Target
from pgrunbook.errors import Refused
from pgrunbook.record import run as runs
from pgrunbook.record.run import Status
from pgrunbook.runner import runbook

Project = Callable[..., Target]
Command = Callable[..., tuple[int, str, str]]
FOLDER = {"0001_t.sql": "CREATE TABLE t (a int);\nINSERT INTO t VALUES (1);\n"}
# Before each of these calls the record on the disk is another one.
WRITES = """
import os, signal, sys
last, file, seen = int(sys.argv[1]), sys.argv[2], 0
del sys.argv[1:3]
def counted(name):
    real = getattr(os, name)
    def call(*arguments, **options):
        global seen
        seen += 1
        if last:
            if seen == last:
                os.kill(os.getpid(), signal.SIGKILL)
        else:
            with open(file, "w") as told:
                told.write(str(seen))
        return real(*arguments, **options)
    setattr(os, name, call)
for name in ("fsync", "pwrite", "replace", "rename"):
    counted(name)
from pgrunbook.__main__ import command
command()
"""
RUN = ("run", "migrate", "--target", "demo")


def killed(at: int, file: Path, *words: str) -> int:
    """Run the command until its n-th write, 0 for all of it; return its exit code."""
    with (file.with_suffix(".told")).open("a") as told:
        return ForkedProcess(WRITES, str(at), str(file), *words, told=told.fileno()).wait()


AT = [int(n) for n in os.environ.get("PGRUNBOOK_TEST_WRITES", "3,9,-4").split(",")]


@pytest.mark.slow
@pytest.mark.parametrize("at", AT)
def test_killed_at_a_write_of_the_runner(project: Project, command: Command, tmp_path: Path, at: int) -> None:
    """What is left says how the run stands; it goes on, or is sealed, and all of it is true then."""
    target = project(folder=FOLDER, restore_points=False)
    file = tmp_path / "writes"
    if at < 0:
        assert killed(0, file, *RUN) == 0
        at += 1 + int(file.read_text())
        target = project_again(project, tmp_path, target)
    code = killed(at, file, *RUN)
    print("KILLED AT", at, code)
    assert code == -9
    made = newest()
    if made is None:
        return
    print("LEFT", made.status, made.actual_status(), [e["event"] for e in events(made)][-4:])
    record_is_true(made)
    out = command("verify")
    print("VERIFY", out[0], out[1][-300:])
    if made.actual_status() is Status.DONE:
        code, told, err = command("seal", made.run_id)
        print("SEAL", code, told, err)
    else:
        code, told, err = command("run", "--resume", made.run_id)
        assert code == 0, told + err
    made = runs.load(made.folder)
    assert (made.status, completed(made)) == (Status.DONE, True)
    record_is_true(made, target)
    assert rows(target, "SELECT a FROM t") == [(1,)]


def project_again(project: Project, tmp_path: Path, target: Target) -> Target:
    import shutil

    (tmp_path / "targets.toml").unlink()
    shutil.rmtree(tmp_path / "migrations-demo")
    shutil.rmtree(tmp_path / "outputs")
    return project(folder=FOLDER, restore_points=False)


def newest() -> runs.Run | None:
    folders = runs.folders()
    return runs.load(folders[-1]) if folders else None
