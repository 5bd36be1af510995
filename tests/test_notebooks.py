"""The notebooks as a person executes them: opened from notebooks/, by stock papermill, and compared by nbval."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbclient
import nbformat
import pytest

from acting import events, newest_run, open_folder
from conftest import ROOT, rows
from pgrunbook.config.targets import Target
from pgrunbook.record import run as runs
from pgrunbook.record.run import Status
from pgrunbook.session import acceptance
from refresh_notebooks import ORDER, TAG, fresh_demo

WARNING = "--engine pgrunbook"


@pytest.mark.slow
@pytest.mark.usefixtures("session_env")
def test_stored_outputs_are_what_a_fresh_demo_shows() -> None:
    """nbval executes all five in order and finds no difference; it does find one that we make."""
    with open_folder() as state, fresh_demo(state) as folder:
        copies = [Path(shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", folder)) for name in ORDER]
        done = nbval(copies[:1])
        assert done.returncode == 0, done.stdout
        acceptance.accept(folder.name, [])  # as the operator does who has looked at them
        done = nbval(copies[1:])
        assert done.returncode == 0, done.stdout
        made = runs.load(folder)
        assert [(p.procedure, p.status) for p in made.parts] == [(name, Status.DONE) for name in ORDER]
        assert made.actual_status() is Status.DONE

        spoilt = folder / "validate.ipynb"
        notebook = nbformat.read(spoilt, as_version=4)
        cell = next(c for c in notebook.cells if c.id == "nothing-left-behind")
        assert TAG in cell.metadata.tags
        cell.outputs[0].data["text/plain"] += "!"
        nbformat.write(notebook, spoilt)
        done = nbval([spoilt])
        assert done.returncode == 1
        assert "nothing_left_behind" in done.stdout


@pytest.mark.slow
def test_a_notebook_opened_straight_from_its_folder_makes_a_run_of_its_own(
    project: Callable[..., Target],
) -> None:
    """A kernel in notebooks/ finds the project above it, and the source stays as it is."""
    project(folder={"0001_a.sql": "CREATE TABLE a (id int)"})
    path = ROOT / "notebooks" / "prepare.ipynb"
    source = path.read_bytes()
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=100, resources={"metadata": {"path": str(path.parent)}}).execute()
    made = newest_run()
    assert made is not None
    assert (made.runbook, made.status, made.parts[0].notebook) == ("prepare", Status.DONE, "01-prepare.ipynb")
    assert {e["cell"] for e in events(made, "cell-ended")} >= {"set-up", "freeze-the-plan", "verdict"}
    assert (made.folder / "plan.json").is_file()
    assert path.read_bytes() == source
    kept = nbformat.read(made.folder / "01-prepare.ipynb", as_version=4)
    assert {c.metadata.papermill.status for c in kept.cells if c.cell_type == "code"} == {"completed"}


@pytest.mark.slow
def test_stock_papermill_works_and_is_told_what_would_be_truthful(
    project: Callable[..., Target], tmp_path: Path
) -> None:
    """A run folder of its own, the same work; only our engine gets no warning."""
    target = project(folder={"0001_a.sql": "CREATE TABLE a (id int)"})
    out = papermill("migrate", tmp_path)
    made = newest_run()
    assert made is not None
    assert (made.runbook, made.how, made.status) == ("migrate", "papermill", Status.DONE)
    assert WARNING in shown(out, "set-up")
    assert WARNING in shown(made.folder / "01-migrate.ipynb", "set-up")
    assert "target = " in next(c.source for c in nbformat.read(made.folder / "01-migrate.ipynb", as_version=4).cells
                               if c.id == "injected-parameters")  # fmt: skip
    assert rows(target, "SELECT version FROM schema_migrations") == [("0001_a",)]
    assert "plan-frozen" in {e["event"] for e in events(made)}

    out = papermill("migrate", tmp_path, "--engine", "pgrunbook")
    again = newest_run()
    assert again is not None
    assert again.run_id != made.run_id
    assert again.status is Status.DONE
    assert WARNING not in shown(out, "set-up")
    assert made.run_id in shown(out, "set-up")  # how the last run of this procedure ended


def papermill(name: str, folder: Path, *more: str) -> Path:
    """Execute a notebook by the command papermill, far from the project; return the executed copy."""
    out = folder / "out.ipynb"
    command = [sys.executable, "-m", "papermill", str(ROOT / "notebooks" / f"{name}.ipynb"), str(out)]
    done = subprocess.run(
        [*command, "-p", "target", "demo", "--no-progress-bar", *more],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


def shown(path: Path, cell: str) -> str:
    """Return what a cell of an executed notebook shows."""
    return str(next(c for c in nbformat.read(path, as_version=4).cells if c.id == cell).outputs)


def nbval(notebooks: list[Path]) -> subprocess.CompletedProcess[str]:
    """Let nbval execute notebooks and compare the outputs that are tagged."""
    folder = notebooks[0].parent
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += ["-c", os.devnull, f"--rootdir={folder}", *map(str, notebooks)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
