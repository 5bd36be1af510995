"""session/once.py: a step that is done is not done twice, and says how to repeat it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import pytest

from acting import events
from conftest import rows
from front_end import opened, record, shown, states
from pgrunbook.config.targets import Target
from pgrunbook.procedures import migrate
from pgrunbook.record import run as runs
from pgrunbook.record.run import Run, Status
from pgrunbook.runner import runbook
from pgrunbook.session import session as heres
from test_names import NOTEBOOKS, code_cells, tags

Project = Callable[..., Target]
FOLDER = {"0001_a.sql": "CREATE TABLE a (id int);", "0002_b.sql": "CREATE TABLE b (id int);"}
MIGRATE = "01-migrate.ipynb"
# The cells that ask the database each time, by procedure, and why they may be run again.
ASKS = {
    ("migrate", "take-restore-point"): "the point that this run made before is used again",
    ("rollback", "take-restore-point"): "the point that this run made before is used again",
    ("restore", "restore-to-branch"): "what this run has restored to the point before is shown",
    ("restore", "fence"): "it has to be up now, whatever was before",
    ("validate", "statistics-at-hand"): "what has statistics by now is left alone",
    ("backfill", "keep-in-sync"): "the trigger is installed where it is not there",
    ("backfill", "fill-the-rows"): "it fills what is not filled yet, and shows all",
    ("backfill", "let-go"): "the trigger is removed where it is there",
    ("rollout", "add-the-flag"): "a rollout that has begun is shown",
    ("rollout", "roll-out"): "it leads on as far as it may go now: that is how stages are gone through",
    ("rollout", "remove-the-flag"): "what is removed is shown",
    ("swap", "make-and-fill"): "it goes on with what is not copied yet",
    ("swap", "cut-over"): "what is live is shown",
    ("swap", "settle"): "what is validated is left alone",
    ("swap", "end-it"): "a swap that is over is shown",
}


def test_each_cell_that_changes_something_is_done_once_or_asks_the_database() -> None:
    """Whoever adds one decides which."""
    left = set(ASKS)
    for path in NOTEBOOKS:
        module = import_module(f"pgrunbook.procedures.{path.stem}")
        for cell in code_cells(path):
            if "changes-state" in tags(cell):
                is_once = is_done_once(getattr(module, cell.id.replace("-", "_")))
                assert is_once != ((path.stem, cell.id) in ASKS), f"{path.stem}: {cell.id}"
                left.discard((path.stem, cell.id))
    assert not left


def is_done_once(step: object) -> bool:
    """Tell whether a step, or a function that its decorators hold, is one that is done once."""
    while step is not None:
        if getattr(step, "is_done_once", False):
            return True
        step = getattr(step, "__wrapped__", None)
    return False


@pytest.fixture
def done(project: Project, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of migrate by hand that is done, without a kernel."""
    project(folder=FOLDER)
    made = runbook.start("migrate", "demo", {})
    monkeypatch.chdir(made.folder)
    here = migrate.begin(target="demo")
    for step in STEPS:
        getattr(migrate, step)(here)
    heres._end_earlier()
    return made


STEPS = ("meet_the_target", "is_it_still_so", "take_restore_point", "execute_plan", "what_it_took", "where_are_we",
         "verdict")  # fmt: skip


@pytest.mark.slow
def test_a_plan_that_is_executed_is_shown_and_not_executed_again(done: Run) -> None:
    """In another kernel, before its checks and behind them: files, verdict and run.json stay; what follows works."""
    here = migrate.begin(target="demo")
    heres._note_part(here.run, "migrate", Status.DONE, "as it was")
    before = kept(done)
    again = migrate.execute_plan(here)
    assert kept(done) == before
    assert repr(again).startswith("This step is done: ")
    assert 'here.repeat("execute-plan")' in repr(again)
    assert "0002_b" in again._repr_html_()
    assert "CREATE TABLE" in repr(migrate.what_it_took(here))
    assert "(none)" in repr(migrate.where_are_we(here))  # the version before the run, not before this kernel
    migrate.is_it_still_so(here)
    migrate.take_restore_point(here)
    assert repr(migrate.execute_plan(here)).startswith("This step is done: ")
    assert "2 run, 0 done before" in repr(migrate.verdict(here))
    assert {**kept(done), "run.json": b""} == {**before, "run.json": b""}
    assert len(events(done, "migration-started")) == 2


def kept(made: Run) -> dict[str, bytes]:
    """Return the files of evidence, and run.json."""
    return {path.name: path.read_bytes() for path in made.folder.iterdir() if path.suffix in (".csv", ".json")}


@pytest.mark.slow
def test_who_wants_a_step_repeated_says_so(done: Run) -> None:
    """Then the database says what of it is to be done: here nothing; and it counts for one time."""
    here = migrate.begin(target="demo")
    for step in STEPS[:3]:
        getattr(migrate, step)(here)
    assert here.repeat("execute-plan").startswith('Run cell "execute-plan" now')
    assert "done before" in repr(migrate.execute_plan(here))
    assert repr(migrate.execute_plan(here)).startswith("This step is done: ")
    assert [e["cell"] for e in events(done, "repeat-meant")] == ["execute-plan"]
    assert (done.folder / "migrate-steps.attempt-1.csv").is_file()  # of the first time
    assert "done before" in (done.folder / "migrate-steps.csv").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("done")
def test_another_plan_is_another_step() -> None:
    """What was executed is the plan of then: one that is frozen later in the same run is executed."""
    here = migrate.begin(target="demo")
    here.subject = frozenset({"another plan"})
    with pytest.raises(Exception, match='before cell "is-it-still-so" has passed'):
        migrate.execute_plan(here)


@pytest.mark.slow
def test_a_restart_of_the_kernel_in_the_middle_loses_nothing(project: Project) -> None:
    """Set-up, then straight on: what needs a cell that was done shows it, and the record has both."""
    target = project(folder=FOLDER)
    made = runbook.start("migrate", "demo", {})
    with opened(made, MIGRATE) as front:
        front.begin()
        front.run("meet-the-target", "is-it-still-so", "take-restore-point", "execute-plan")
        front.restart()
        front.begin()
        front.run("what-it-took")
        front.run("execute-plan", "what-it-took", "where-are-we", "verdict")
    found = record(made, MIGRATE)
    assert set(states(found).values()) == {"completed"}
    assert "This step is done: " in shown(found, "execute-plan")
    assert "has to be run before this one" in shown(found, "what-it-took")  # its first run, folded
    assert runs.load(made.folder).actual_status() is Status.DONE
    assert rows(target, "SELECT count(*) FROM schema_migrations") == [(2,)]
