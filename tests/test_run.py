"""Runs: one folder, one process at a time, and a standing that is true whatever happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pgrunbook.errors import Blocked, RecordFailed, WrongInput
from pgrunbook.record import run as runs
from pgrunbook.record.run import Part, Run, Status

HOLDER = """
import signal, sys
from pathlib import Path
from pgrunbook.record import run as runs
run = runs.load(Path(sys.argv[1]))
run.hold()
print("held", flush=True)
signal.pause()
"""


@pytest.fixture(autouse=True)
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of all runs."""
    monkeypatch.setenv("PGRUNBOOK_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "outputs"


@pytest.fixture
def run() -> Run:
    """A run that has begun."""
    made = runs.create("release", "demo", {"migrate": {"target": "demo"}}, how="headless")
    made.parts.append(Part("migrate", "01-migrate.ipynb", Status.RUNNING))
    made.save()
    return made


def hold_elsewhere(run: Run) -> subprocess.Popen[str]:
    """Let another process take a run's folder."""
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(run.folder)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_run_comes_back_as_it_was_saved(run: Run) -> None:
    """run.json holds all of it; its id says when, what and where, and is a name that every file system takes."""
    again = runs.load(run.folder)
    assert again == run
    assert runs.RUN_ID.fullmatch(run.run_id)
    assert "-release-demo-" in run.run_id
    assert (again.parts[0].status, again.started_at[-1], bool(again.operator)) == (Status.RUNNING, "Z", True)


def test_a_run_has_all_that_it_is_to_do_from_the_first_moment_on(outputs: Path) -> None:
    """Killed right behind it, it does not go on with nothing, and call that done."""
    runs.create("release", "demo", {}, how="headless", procedures=["prepare", "migrate"], about={"reason": "x"})
    (folder,) = outputs.iterdir()
    made = runs.load(folder)
    assert [(part.notebook, part.status) for part in made.parts] == [
        ("01-prepare.ipynb", Status.WAITING), ("02-migrate.ipynb", Status.WAITING)
    ]  # fmt: skip
    assert (made.status, made.about) == (Status.RUNNING, {"reason": "x"})


def test_a_target_with_an_odd_name_gives_a_plain_folder(outputs: Path) -> None:
    """No name leaves the folder of runs."""
    made = runs.create("migrate", "../Prod (EU) ✓", {}, how="headless")
    assert made.folder.parent == outputs
    assert runs.RUN_ID.fullmatch(made.folder.name)
    assert made.target == "../Prod (EU) ✓"


def test_a_folder_in_use_is_refused_with_the_process_that_has_it(run: Run) -> None:
    """Two runners in one folder would write one record of two things."""
    holder = hold_elsewhere(run)
    try:
        with pytest.raises(Blocked) as caught:
            run.hold()
        assert str(caught.value) == (
            f"run {run.run_id} is already in use\n"
            f"Detail: Process {holder.pid} works in {run.folder}.\n"
            "State: Nothing changed in the database.\n"
            "Hint: Wait until it has ended (pgrunbook runs), or stop that process."
        )
        assert (run.is_held(), run.actual_status()) == (True, Status.RUNNING)
    finally:
        holder.kill()
        holder.communicate()
    run.hold()
    run.release()


def test_a_run_whose_process_was_killed_is_broken_off(run: Run) -> None:
    """run.json says running for ever; nobody holds it, so the standing tells."""
    holder = hold_elsewhere(run)
    holder.kill()
    holder.communicate()
    again = runs.load(run.folder)
    assert (again.status, again.actual_status()) == (Status.RUNNING, Status.BROKEN_OFF)
    run.status = Status.FAILED
    assert run.actual_status() is Status.FAILED


def test_a_process_may_take_what_it_has_already(run: Run) -> None:
    """The set-up cell that is run a second time loads the run anew."""
    run.hold()
    again = runs.load(run.folder)
    again.hold()
    assert again.is_held()
    again.release()
    assert not run.is_held()
    run.release()


def test_a_run_is_found_by_its_id_or_an_end_of_it(run: Run) -> None:
    """The four last letters are enough to type."""
    for name in (run.run_id, run.run_id[-4:], run.run_id[:16]):
        assert runs.find(name).folder == run.folder


@pytest.mark.parametrize(("name", "count"), [("nothing", 0), ("", 0), ("2", 2)])
def test_a_run_that_is_not_one_is_told(run: Run, name: str, count: int) -> None:
    """None, or more than one: nobody guesses which was meant."""
    runs.create("release", "demo", {}, how="headless")
    with pytest.raises(WrongInput) as caught:
        runs.find(name)
    assert str(caught.value) == (
        f'could not find the run "{name}"\n'
        f"Detail: {run.folder.parent} holds {count} runs whose id begins or ends with it.\n"
        "State: Nothing changed in the database.\n"
        "Hint: See the ids with: pgrunbook runs"
    )


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"parts": [], "status": "lost"}', '{"parts": [{"status": "done"}]}', "\x00"]
)
def test_a_run_json_that_cannot_be_read_is_told(run: Run, text: str) -> None:
    """In our form, with the folder's name."""
    (run.folder / "run.json").write_text(text)
    with pytest.raises(WrongInput, match=f"could not read the run in {run.folder}"):
        runs.load(run.folder)
    (run.folder / "run.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(WrongInput, match="could not read the run"):
        runs.load(run.folder)


def test_folders_that_are_no_runs_are_passed_over(run: Run, outputs: Path) -> None:
    """People put other things into outputs."""
    (outputs / "notes").mkdir()
    (outputs / "readme.txt").touch()
    assert runs.folders() == [run.folder]


def test_an_outputs_folder_that_takes_no_run_is_told(outputs: Path) -> None:
    """Before anything is started."""
    outputs.write_text("a file in its place")
    with pytest.raises(RecordFailed) as caught:
        runs.create("release", "demo", {}, how="headless")
    first, detail, *rest = caught.value.lines()
    assert first == "could not create the folder of this run"
    assert detail.startswith(f"Detail: {outputs}")
    assert detail.endswith(": Not a directory.")
    assert rest == [
        "State: Nothing changed in the database.",
        "Hint: Make the outputs folder writable, or name another one in PGRUNBOOK_OUTPUTS.",
    ]
    assert runs.folders() == []


def test_no_environment_gets_into_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords come by libpq's own ways, and the record holds none of them."""
    monkeypatch.setenv("PGPASSWORD", "hunter2-secret")
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:hunter2-secret@db/prod")
    made = runs.create("release", "demo", {"migrate": {"target": "demo"}}, how="headless")
    made.journal.write("run-started", run_id=made.run_id)
    made.keep("plan.sql", "SELECT 1;\n")
    assert len(list(made.folder.iterdir())) == 3
    assert not [path for path in made.folder.iterdir() if b"hunter2" in path.read_bytes()]
    assert set(json.loads((made.folder / "run.json").read_text())["parameters"]) == {"migrate"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_a_user_id_without_a_name_is_an_operator_too() -> None:
    names = ("LOGNAME", "USER", "LNAME", "USERNAME")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    code = "import os, pwd; from pgrunbook.record import run; os.setuid(4294001); print(run.operator())"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "user id 4294001\n"
