"""Faithful or not: notebook, journal and database rows are compared, and what differs is said."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import nbformat
import pytest

from conftest import connect, do
from pgrunbook.config.targets import Target
from pgrunbook.record import cell_log, executed_copy, journal
from pgrunbook.record import run as runs
from pgrunbook.record.cell_log import CellLog
from pgrunbook.record.run import Part, Run, Status
from pgrunbook.seal import anchor, attempt, envelope, faithfulness, ledger, standing

Project = Callable[..., Target]
Command = Callable[..., tuple[int, str, str]]
NAME = "01-migrate.ipynb"
CELLS = {"meet-the-target": True, "execute-plan": True, "verdict": False}  # and whether each ended well


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run whose three cells ran, of which the last failed; all of it agrees."""
    monkeypatch.setenv("PGRUNBOOK_OUTPUTS", str(tmp_path / "outputs"))
    made = runs.create("migrate", "demo", {}, how="headless")
    made.parts = [Part("migrate", NAME, Status.FAILED, runs.stamp(), runs.stamp())]
    made.journal.write("notebook-started", procedure="migrate")
    for name, is_good in CELLS.items():
        ran(made, name, is_good=is_good)
    write(made, [executed(name, is_good=is_good) for name, is_good in CELLS.items()])
    made.journal.write("committed", migration="m", direction="up", steps=[1, 2])
    return made


def ran(made: Run, name: str, *, is_good: bool = True, own: bool = True) -> None:
    """The kernel's own account of a cell."""
    digest = sha256(source(name).encode()).hexdigest()
    made.journal.write("cell-started", procedure="migrate", cell=name, source_sha256=digest, as_in_source=own)
    made.journal.write("cell-ended", procedure="migrate", cell=name, ok=is_good, ms=1)


def source(name: str) -> str:
    return f"migrate.{name.replace('-', '_')}(here)"


def executed(name: str, *, is_good: bool = True) -> Any:
    """A cell of the executed notebook."""
    error = nbformat.v4.new_output("error", ename="Refused", evalue="no", traceback=["no"])
    cell = nbformat.v4.new_code_cell(source(name), execution_count=1, outputs=[] if is_good else [error])
    cell.id, cell.metadata["papermill"] = name, {"status": "completed" if is_good else "failed"}
    return cell


def write(made: Run, cells: list[Any]) -> None:
    set_up = nbformat.v4.new_code_cell("here = migrate.begin()", execution_count=1)
    set_up.id, set_up.metadata["papermill"] = "set-up", {"status": "completed"}
    pending = nbformat.v4.new_code_cell("never(here)", execution_count=None)
    pending.metadata["papermill"] = {"status": "pending"}
    (made.folder / NAME).write_text(nbformat.writes(nbformat.v4.new_notebook(cells=[set_up, *cells, pending])))


def row(step: int, state: str = "done", kind: str = "CREATE TABLE") -> dict[str, Any]:
    return {"migration": "m", "direction": "up", "step": step, "state": state, "kind": kind}


AGREE = [row(1), row(2), row(3, kind="history row")]


def told(made: Run, rows: list[dict[str, Any]] | None = None) -> list[str]:
    return faithfulness.differences(made, journal.read(made.journal.path), AGREE if rows is None else rows)


def test_what_agrees_is_faithful(run: Run) -> None:
    """Also where a step was taken back later, or the database was not asked."""
    assert told(run) == []
    assert told(run, [row(1, "taken back"), row(2)]) == []
    assert faithfulness.differences(run, journal.read(run.journal.path), None) == []


def cells(*names: str) -> list[Any]:
    return [executed(name, is_good=CELLS.get(name, True)) for name in names]


def edited() -> list[Any]:
    changed = executed("execute-plan")
    changed.source = "print('all is well')"
    return [executed("meet-the-target"), changed, executed("verdict", is_good=False)]


NOTEBOOKS: dict[str, tuple[Callable[[], list[Any]], str]] = {
    "a cell is gone": (lambda: cells("meet-the-target", "verdict"), 'a cell that ran is not in it ("execute-plan")'),
    "a cell is edited": (edited, "cell execute-plan was not executed as it stands there"),
    "a cell is put in": (lambda: cells(*CELLS, "made-up"), "cell made-up was not executed as it stands there"),
    "cells are swapped": (
        lambda: cells("execute-plan", "meet-the-target", "verdict"), "its cells stand in another order than they ran in"
    ),
    "an error is hidden": (
        lambda: [executed(name) for name in CELLS], "cell verdict failed, and shows no error"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", NOTEBOOKS)
def test_a_notebook_that_is_not_what_ran_is_told(run: Run, what: str) -> None:
    """With the cell, by its id."""
    made, expected = NOTEBOOKS[what]
    write(run, made())
    assert f"{NAME}: {expected}" in told(run)


def test_a_cell_that_is_none_of_the_procedure_is_told(run: Run) -> None:
    """It ran, and stands in the notebook as it ran."""
    ran(run, "helper", own=False)
    write(run, cells(*CELLS, "helper"))
    assert told(run) == [f"{NAME}: cell helper is none of the procedure's own"]


def test_a_notebook_that_cannot_be_read_is_told(run: Run) -> None:
    """It is no JSON, no notebook, or not there."""
    for text in ("{", "[]", '{"cells": [{}]}'):
        (run.folder / NAME).write_text(text)
        assert told(run)[0].startswith(f"{NAME} cannot be read: ")
    (run.folder / NAME).unlink()
    assert told(run)[0].startswith(f"{NAME} cannot be read: ")


def test_only_the_last_attempt_of_a_notebook_counts(run: Run) -> None:
    """What ran before it stands in the notebook of the earlier attempt."""
    run.journal.write("notebook-started", procedure="migrate")
    ran(run, "verdict")
    write(run, [executed("verdict")])
    assert told(run) == []


def test_rows_of_the_database_that_are_not_as_the_journal_says_are_told(run: Run) -> None:
    """Missing ones, and those of steps that nobody wrote down."""
    assert told(run, [row(1)]) == ["m up, step 2: committed as the journal says, and the database has no row"]
    assert told(run, [*AGREE, row(7)]) == ["m up, step 7: done as the database says, and the journal does not"]
    assert told(run, [*AGREE, row(7, "intended")]) == []
    many = told(run, [row(n) for n in range(100, 150)])
    assert (len(many), many[-1]) == (21, "and 32 more")


def test_what_somebody_stepped_through_is_compared_with_the_log_of_its_cells(run: Run) -> None:
    """The copy is made from it: a cell that is cut out of the log did run, as the journal says."""
    log = executed_copy.log_of(run, NAME)
    cell_log.give(log, {"cells": [{"id": name, "cell_type": "code", "source": source(name)} for name in CELLS]})
    kernel = CellLog(log)
    for name in CELLS:
        kernel.ended(kernel.begun(source(name), cell=name, count=1), ok=True, took_ms=1.0)
    kernel.close()
    assert told(run) == []
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(line for line in lines if b'"cell":"execute-plan"' not in line))
    assert told(run) == [f'{log.name}: a cell that ran is not in it ("execute-plan")']
    log.write_bytes(b"".join(lines))
    again = CellLog(log)
    again.ended(again.begun("made_up()", cell="verdict", count=9), ok=True, took_ms=1.0)
    again.close()
    assert told(run) == [f"{log.name}: 1 cell of it did not run, as the journal says"]


@pytest.mark.slow
def test_what_differs_is_in_the_seal(project: Project, command: Command, tmp_path: Path) -> None:
    """A row that somebody deletes: the run is sealed all the same, and its record says so."""
    target = project(folder={"0001_t.sql": "CREATE TABLE t (a int);"}, restore_points=False)
    assert command("run", "migrate", "--target", "demo")[0] == 0
    made = runs.load(runs.folders()[0])
    do(target, "DELETE FROM pgrunbook.step WHERE kind <> 'history row'")
    attempt.begin(made)
    with connect(target) as conn:
        anchor.opening(conn, made)
    assert command("seal", made.run_id)[0] == 0
    lines = ledger.path(tmp_path / "outputs").read_bytes().splitlines()
    _, first, _, last = (envelope.read(line).statement()["predicate"].get("faithful") for line in lines)
    assert first == {"holds": True, "differences": [], "database_asked": True}
    missing = "0001_t up, step 1: committed as the journal says, and the database has no row"
    assert last == {"holds": False, "differences": [missing], "database_asked": True}
    (told_of,) = standing.report(tmp_path / "outputs").runs
    assert told_of.faithful == "no: 1 difference"
