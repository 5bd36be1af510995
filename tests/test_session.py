"""procedures/here.py: a notebook at work, by hand: its run, its record, and how it lets go of both."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import psycopg
import pytest

from acting import events, in_transaction, run
from conftest import connect, do, rows
from pgrunbook.config.targets import Target
from pgrunbook.display.show import Cell, Table
from pgrunbook.errors import Blocked, Refused, RunbookError, WrongInput
from pgrunbook.procedures import migrate, prepare, validate
from pgrunbook.record import run as runs
from pgrunbook.record.run import WORK, Run, Status
from pgrunbook.runner import runbook
from pgrunbook.session import session as heres
from pgrunbook.session.session import Session

Project = Callable[..., Target]
FOLDER = {"0001_a.sql": "CREATE TABLE a (id int);", "0002_b.sql": "CREATE TABLE b (id int);"}


@pytest.fixture(autouse=True)
def left() -> Iterator[None]:
    """What a test began is let go of, as when its kernel ends."""
    yield
    heres._end_earlier()


@pytest.mark.slow
def test_working_copies_do_what_the_runner_does_and_keep_the_run_true(project: Project) -> None:
    """One after the other, each in a kernel of its own: run.json says how each stands, to the end."""
    target = project(folder=FOLDER)
    made = runbook.start("release", "demo", {"max_transaction_age_s": "123"})
    assert (made.how, made.actual_status()) == ("by hand", Status.WAITING)
    assert sorted(path.name for path in made.folder.glob("*.ipynb")) == [
        "01-prepare.ipynb", "02-migrate.ipynb", "03-validate.ipynb"
    ]  # fmt: skip
    for number, part in enumerate(made.parts):
        execute(made, part.notebook)
        now = runs.load(made.folder)
        assert [p.status for p in now.parts[: number + 1]] == [Status.DONE] * (number + 1)
        assert now.actual_status() is (Status.DONE if number == 2 else Status.WAITING)
    assert rows(target, "SELECT count(*) FROM schema_migrations") == [(2,)]
    assert [e["parameters"].get("max_transaction_age_s") for e in events(made, "procedure-started")] == [123, 123, None]
    assert [e["procedure"] for e in events(made, "verdict")] == ["prepare", "migrate", "validate"]
    assert {e["cell"] for e in events(made, "cell-started")} >= {"take-restore-point", "execute-plan"}
    assert runs.load(made.folder).versions["server"]
    with pytest.raises(Refused, match="is done"):
        runbook.resume(made.run_id)


@pytest.mark.slow
def test_a_cell_that_fails_by_hand_is_in_the_run_and_the_next_try_goes_on(project: Project) -> None:
    """Failed while it is failed, with what it said; done when the notebook was run again."""
    target = project(folder=FOLDER, lock_timeout_ms=200, attempts=1)
    made = runbook.start("migrate", "demo", {})
    do(target, "CREATE TABLE schema_migrations (version text PRIMARY KEY, applied_at timestamptz DEFAULT now())")
    locked = in_transaction(target, "LOCK TABLE schema_migrations IN SHARE MODE")
    with locked, pytest.raises(nbclient.exceptions.CellExecutionError):
        execute(made, "01-migrate.ipynb")
    failed = runs.load(made.folder)
    assert (failed.status, failed.parts[0].status) == (Status.FAILED, Status.FAILED)
    assert failed.parts[0].says.startswith("could not lock")
    assert not failed.is_held()
    execute(made, "01-migrate.ipynb")
    assert runs.load(made.folder).actual_status() is Status.DONE
    assert rows(target, "SELECT count(*) FROM schema_migrations") == [(2,)]


@pytest.mark.slow
def test_a_procedure_opened_anywhere_makes_a_run_of_its_own(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Running the set-up cell again ends what it began before; the steps are plain functions."""
    project(folder=FOLDER)
    monkeypatch.chdir(tmp_path)
    first = migrate.begin(target="demo")
    assert first.run.actual_status() is Status.RUNNING
    assert "migrate was not run on this target before" in first._repr_html_()
    second = prepare.begin(target="demo")
    assert runs.load(first.run.folder).status is Status.INTERRUPTED
    assert runs.load(first.run.folder).parts[0].says == "the set-up cell was run again"
    for step in steps_of(prepare):
        shown = step(second)
        assert repr(shown)
    assert runs.load(second.run.folder).actual_status() is Status.DONE
    assert not second.run.is_held()
    third = prepare.begin(target="demo")
    assert second.run.run_id in third._repr_html_()
    assert "<b>done</b>" in third._repr_html_()


@pytest.mark.slow
def test_another_kernel_is_kept_out_until_the_verdict(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two notebooks of one run do not work at the same time; and a run is for one target."""
    project(folder=FOLDER)
    project(folder=FOLDER, name="other")
    made = runbook.start("release", "demo", {})
    with in_kernel(made) as kernel:
        kernel("from pgrunbook.procedures import prepare; here = prepare.begin(target='demo')")
        monkeypatch.chdir(made.folder)
        with pytest.raises(Blocked, match="is already in use"):
            validate.begin(target="demo")
    with pytest.raises(WrongInput) as wrong:
        migrate.begin(target="other")
    assert str(wrong.value).splitlines()[0] == 'this run is for target "demo", not for "other"'


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"target": "nowhere"}, 'target "nowhere" is not declared'),
        ({}, "target is missing"),
        ({"target": "demo", "rehearse": 1}, "rehearse is 1: input should be a valid boolean"),
        ({"target": "demo", "generat": True}, "generat is not known"),
        ({"target": "demo", "max_transaction_age_s": 0}, "max_transaction_age_s is 0: input should be greater"),
        ({"target": "demo", "max_transaction_age_s": 5.0}, "max_transaction_age_s is 5.0: input should be a valid int"),
        ({"target": "demo", "api_key": "x"}, 'parameter "api_key" looks like a secret'),
    ],
)
def test_parameters_of_a_notebook_are_checked_as_they_stand(project: Project, given: dict[str, Any], told: str) -> None:
    """Nothing is converted, and a run folder is made only when all is right."""
    project(folder=FOLDER)
    with pytest.raises(WrongInput) as wrong:
        prepare.begin(**given)
    assert told in str(wrong.value)
    assert not runs.folders()


def test_what_the_server_says_unexpectedly_is_told_in_our_form(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No step ends in a bare error of the driver."""
    target = project(folder=FOLDER)
    monkeypatch.chdir(tmp_path)
    here = prepare.begin(target="demo")
    do(target, "CREATE ROLE nobody_of_tests")
    try:
        here.conn.execute("SET ROLE nobody_of_tests")
        assert explained(here, "SELECT * FROM pg_authid").startswith(
            'the role of target "demo" lacks a privilege: permission denied for table pg_authid\nState: Nothing changed'
        )
    finally:
        here.conn.execute("RESET ROLE; DROP ROLE nobody_of_tests")
    assert explained(here, "SELECT nonsense").startswith('target "demo" refused a statement of ours: column')
    here.conn.execute("SET statement_timeout = '20ms'")
    assert 'could not read target "demo" in time: ' in explained(here, "SELECT pg_sleep(9)")
    with connect(target, purpose="ends it") as other:
        other.execute("SELECT pg_terminate_backend(%s)", [here.conn.info.backend_pid])
        assert 'lost the connection to target "demo"' in explained(here, "SELECT 1")
    assert rows_of(here) == [(1,)]  # the next step opens another one


@pytest.mark.slow
def test_the_last_run_is_told_also_where_a_folder_cannot_be_read(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One broken folder in outputs/ keeps nobody from working."""
    project(folder=FOLDER)
    made, code = run("prepare", rehearse="false")
    assert code == 0
    broken = made.folder.with_name("29991231T235959Z-prepare-demo-0000")
    broken.mkdir()
    (broken / "run.json").write_text("{")
    (broken / "plan.json").write_text("{")
    monkeypatch.chdir(tmp_path)
    here = validate.begin(target="demo")
    assert "validate was not run on this target before" in here._repr_html_()
    assert made.run_id in repr(validate.meet_the_target(here))


def explained(here: Session, statement: str) -> str:
    """Return what a step says whose statement goes wrong."""

    @heres.step
    def step(here: Session) -> object:
        return here.conn.execute(statement.encode()).fetchall()

    with pytest.raises(RunbookError) as error:
        step(here)
    assert isinstance(error.value.__cause__, psycopg.Error)
    return str(error.value)


def rows_of(here: Session) -> list[tuple[object, ...]]:
    """Ask the server something simple."""
    return here.conn.execute("SELECT 1").fetchall()


def steps_of(module: Any) -> list[Callable[[Session], object]]:
    """Return the steps of a procedure, in the order of its notebook."""
    path = Path(__file__).parents[1] / "notebooks" / f"{module.__name__.rpartition('.')[2]}.ipynb"
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    return [getattr(module, cell.id.replace("-", "_")) for cell in cells[2:]]


def execute(made: Run, name: str) -> None:
    """Execute a working copy as JupyterLab would: in a kernel of its own, in the run's folder."""
    notebook = nbformat.read(made.folder / WORK / name, as_version=4)
    place = {"metadata": {"path": str(made.folder / WORK)}}
    nbclient.NotebookClient(notebook, timeout=100, resources=place).execute()


class in_kernel:  # noqa: N801 - it reads as what it does
    """A kernel in a run's folder that lives for the scene; call it to run code in it."""

    def __init__(self, made: Run) -> None:
        notebook = nbformat.v4.new_notebook()
        self._client = nbclient.NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(made.folder)}})

    def __enter__(self) -> Callable[[str], None]:
        self._kernel = self._client.setup_kernel()
        self._kernel.__enter__()
        return self._run

    def __exit__(self, *_: object) -> None:
        self._kernel.__exit__(None, None, None)

    def _run(self, code: str) -> None:
        cell = nbformat.v4.new_code_cell(code)
        self._client.nb.cells.append(cell)
        self._client.execute_cell(cell, len(self._client.nb.cells) - 1)


def test_a_csv_file_holds_nothing_that_is_executed(project: Project) -> None:
    """By a terminal or a spreadsheet: names and values of the database; numbers stay as they are."""
    project(folder=FOLDER)
    here = prepare.begin(target="demo")
    evil = ["a\x1b[2Jb", "=1+1", "@x", "+cmd|x", "-x", "-5", "+1.5", "--", "x=1"]
    here.keep_table("evil", Table(["a", "b"], [[each, Cell(each)] for each in evil]))
    with (here.run.folder / "evil.csv").open(newline="") as file:
        rows_ = list(csv.reader(file))[1:]
    shown = ["a\\x1b[2Jb", "'=1+1", "'@x", "'+cmd|x", "'-x", "-5", "+1.5", "--", "x=1"]
    assert rows_ == [[each, each] for each in shown]
