"""Cells out of order: whichever is run first, and whichever is left out, an error of ours says what is missing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import nbformat
import pytest

import acting
from conftest import ROOT, rows
from pgrunbook.config.targets import Target
from pgrunbook.errors import RunbookError
from pgrunbook.session import session as heres
from test_names import LIBRARY, NOTEBOOKS, code_cells

Project = Callable[..., Target]
FOLDER = {"0001_a.sql": "CREATE TABLE a (id int);"}
GIVEN: dict[str, dict[str, Any]] = {"monitor": {"watch_s": 0.4, "interval_s": 0.2}, "swap": {"table": "public.a"}}
SKIPPED = ("migrate", "monitor", "purge", "rollback", "troubleshoot")  # the others rehearse or restore in each round


@pytest.fixture(autouse=True)
def run_of_tests(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    """A target, and a folder in which each session makes a run of its own."""
    target = project(folder=FOLDER)
    monkeypatch.chdir(tmp_path)
    yield target
    heres._end_earlier()


def begun(procedure: str) -> Any:
    """Begin a session as the set-up cell does."""
    return import_module(f"pgrunbook.procedures.{procedure}").begin(target="demo", **GIVEN.get(procedure, {}))


def steps_of(procedure: str) -> list[str]:
    """Return the steps of a notebook, as functions are named."""
    path = ROOT / "notebooks" / f"{procedure}.ipynb"
    return [cell.id.replace("-", "_") for cell in code_cells(path)[2:]]


def tried(here: Any, procedure: str, step: str) -> RunbookError | None:
    """Run a step; return the error of ours that it ends in, None where it does not. Another error is the test's."""
    try:
        getattr(import_module(f"pgrunbook.procedures.{procedure}"), step)(here)
    except RunbookError as error:
        return error
    return None


@pytest.mark.slow
@pytest.mark.parametrize("procedure", [path.stem for path in NOTEBOOKS])
def test_whichever_cell_is_run_first_after_set_up(procedure: str) -> None:
    """It works, or says in our form what has to be run before it; nothing else comes up."""
    for step in steps_of(procedure):
        here = begun(procedure)
        error = tried(here, procedure, step)
        if error is not None:
            assert error.hint, step
            assert error.state, step


@pytest.mark.slow
@pytest.mark.parametrize("procedure", SKIPPED)
def test_whichever_cell_is_left_out(procedure: str, run_of_tests: Target) -> None:
    """The first cell that needs it names it, or one that was left out for its sake; what does not need it works."""
    steps = steps_of(procedure)
    for left_out in steps[:-1]:
        if procedure == "rollback" and rows(run_of_tests, "SELECT pg_catalog.to_regclass('a')") == [(None,)]:
            assert acting.run("release")[1] == 0  # for there to be something to take back
        here = begun(procedure)
        for step in steps:
            error = tried(here, procedure, step) if step != left_out else None
            if error is not None:
                named = set(re.findall(r'cell "([a-z-]+)"', f"{error.message} {error.hint}"))
                assert left_out.replace("_", "-") in named, f"{step} without {left_out}: {error}"
                break


def test_progress_and_tables_are_displays_and_no_widgets() -> None:
    """A widget's value is in the browser; a record would keep how it looked at first."""
    for path in LIBRARY:
        assert not re.search(r"^\s*(import|from) (ipywidgets|anywidget|bqplot)\b", path.read_text(), re.M), path
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        assert "widgets" not in notebook.metadata
        for cell in code_cells(path):
            assert "widget" not in cell.source
            assert not [mime for output in cell.outputs for mime in output.get("data", {}) if "widget" in mime]
