"""runbook.py and headless.py: procedures in order, what on failure, and going on after a crash."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from acting import (
    GATE,
    OPEN_THE_GATE,
    WAITS,
    cells,
    completed,
    error,
    events,
    has_begun,
    lengthen,
    newest_run,
    pgrunbook,
    run,
    wait_until,
)
from conftest import ROOT, do, rows
from pgrunbook.config import paths
from pgrunbook.config.targets import Target
from pgrunbook.errors import Blocked, Refused, WrongInput
from pgrunbook.record import run as runs
from pgrunbook.record.run import Status
from pgrunbook.runner import headless, runbook

Project = Callable[..., Target]

THREE = {
    "0001_a.sql": "CREATE TABLE a (id int PRIMARY KEY);",
    "0001_a.down.sql": "DROP TABLE a;",
    "0002_b.sql": "CREATE TABLE b (id int PRIMARY KEY); INSERT INTO b VALUES (1);",
    "0002_b.down.sql": "DROP TABLE b;",
    # On the empty branch of the rehearsal there is no row: only the target has one.
    "0003_c.sql": "SELECT 1 / (count(*) - 1) FROM zero;",
    "0003_c.down.sql": "SELECT 1;",
}


@pytest.mark.slow
def test_a_release_prepares_migrates_and_validates(project: Project) -> None:
    """One run, three notebooks, one folder: what was frozen is what was executed and what was proven."""
    target = project()
    made, code = run("release")
    assert (code, made.status) == (0, Status.DONE)
    assert [(p.procedure, p.status, p.notebook) for p in made.parts] == [
        ("prepare", Status.DONE, "01-prepare.ipynb"),
        ("migrate", Status.DONE, "02-migrate.ipynb"),
        ("validate", Status.DONE, "03-validate.ipynb"),
    ]
    assert all(completed(made, part) for part in range(3))
    (frozen,) = events(made, "plan-frozen")
    (checked,) = events(made, "base-checked")
    assert checked["digest"] == frozen["digest"]
    assert checked["prepared"] is True
    digests = rows(target, f"SELECT DISTINCT plan_digest FROM pgrunbook.step WHERE run_id = '{made.run_id}'")
    assert digests == [(frozen["digest"],)]
    assert runs.load(made.folder).status is Status.DONE
    assert not made.is_held()
    with pytest.raises(Refused) as refused:
        runbook.resume(made.run_id)
    assert str(refused.value).splitlines() == [
        f"run {made.run_id} is done",
        "Detail: There is nothing to go on with.",
        "State: Nothing changed in the database.",
        "Hint: Start a new run.",
    ]


@pytest.mark.slow
def test_a_failing_migration_takes_back_only_what_this_run_applied(project: Project) -> None:
    """What an earlier run applied stays; the failed run cannot be gone on with, and says so."""
    target = project(folder={name: text for name, text in THREE.items() if name < "0002"})
    do(target, "CREATE TABLE zero (id int); INSERT INTO zero VALUES (1)")
    assert run("migrate")[1] == 0
    for name, text in THREE.items():
        (Path(str(target.migrations)) / name).write_text(text)
    (Path(str(target.migrations)) / "0002_b.sql").write_text("CREATE TABLE b (id int PRIMARY KEY);")
    made, code = run("release")
    assert (code, made.status) == (1, Status.FAILED)
    assert [(p.procedure, p.status) for p in made.parts] == [
        ("prepare", Status.DONE),
        ("migrate", Status.FAILED),
        ("validate", Status.WAITING),
        ("rollback", Status.DONE),
    ]
    assert "division by zero" in error(made, 1)
    assert "Hint: Correct the migration, and start a new run" in error(made, 1)
    assert rows(target, "SELECT to_regclass('a') IS NOT NULL, to_regclass('b')") == [(True, None)]
    assert rows(target, "SELECT version FROM schema_migrations") == [("0001_a",)]
    assert headless.next_step(made) == (
        "What this run applied was taken back. Correct what failed, then start a new run."
    )
    with pytest.raises(Refused, match="was taken back after it failed"):
        runbook.resume(made.run_id)
    assert not made.is_held()


@pytest.mark.slow
def test_a_way_back_that_fails_says_what_is_in_the_database(project: Project) -> None:
    """Exit code 1, the state named from the database itself, and the same run goes on with taking back."""
    keyless = THREE["0002_b.sql"].replace(" PRIMARY KEY", "")  # no row of it can be captured
    target = project(folder={**THREE, "0002_b.sql": keyless, "0002_b.down.sql": "TRUNCATE b; DROP TABLE b;"})
    do(target, "CREATE TABLE zero (id int); INSERT INTO zero VALUES (1)")
    made, code = run("release")
    assert (code, made.status, made.parts[-1].procedure, made.parts[-1].status) == (
        1, Status.FAILED, "rollback", Status.REFUSED
    )  # fmt: skip
    lines = headless.next_step(made).splitlines()
    assert lines[0].startswith("THE ROLLBACK DID NOT FINISH (refused): the rollback would lose what b holds")
    assert lines[1] == "State: The database is at version 0002_b; of this run still applied: 0002_b, 0001_a."
    assert lines[2].endswith(f"pgrunbook run --resume {made.run_id}")

    do(target, "DELETE FROM b")
    made, code = runbook.resume(made.run_id)
    assert (code, made.status, made.parts[-1].status) == (1, Status.FAILED, Status.DONE)
    assert rows(target, "SELECT to_regclass('a'), to_regclass('b'), count(*) FROM schema_migrations") == [
        (None, None, 0)
    ]
    assert "was taken back" in headless.next_step(made)


@pytest.mark.first_case
@pytest.mark.parametrize("killed", ["runner", "kernel", "both"])
def test_a_run_that_was_killed_in_the_middle_goes_on(project: Project, killed: str) -> None:
    """With kill -9 in the middle of a statement: nothing is applied twice, nothing skipped."""
    target = project(
        folder={
            "0001_a.sql": "CREATE TABLE a (id int GENERATED ALWAYS AS IDENTITY, at text);",
            "0002_b.sql": "INSERT INTO a (at) VALUES ('0002');" + WAITS + "INSERT INTO a (at) VALUES ('0002 end');",
            "0003_c.sql": "CREATE INDEX CONCURRENTLY a_at ON a (at); INSERT INTO a (at) VALUES ('0003');",
        },
    )
    do(target, GATE)
    with pgrunbook("run", "migrate", "--target", "demo") as process:
        wait_until(lambda: has_begun("migrate", "0002_b"))
        broken = newest_run()
        assert broken is not None
        assert broken.actual_status() is Status.RUNNING
        with pytest.raises(Blocked, match="is already in use"):
            runbook.resume(broken.run_id)
        (kernel,) = {e["pid"] for e in events(broken, "step-started")}
        if killed in ("runner", "both"):
            process.kill()
        if killed in ("kernel", "both"):
            os.kill(kernel, signal.SIGKILL)
        _, told = process.communicate()
    broken = runs.load(broken.folder)
    if killed == "kernel":
        assert process.returncode == 1
        assert "the kernel died in this cell" in told
        assert f"Go on with it: pgrunbook run --resume {broken.run_id}" in told
        assert broken.status is Status.INTERRUPTED
    else:
        assert broken.actual_status() is Status.BROKEN_OFF
    assert rows(target, "SELECT version FROM schema_migrations") == [("0001_a",)]

    do(target, OPEN_THE_GATE)
    made, code = runbook.resume(broken.run_id)
    assert (code, made.status, completed(made)) == (0, Status.DONE, True)
    assert rows(target, "SELECT version FROM schema_migrations ORDER BY 1") == [("0001_a",), ("0002_b",), ("0003_c",)]
    assert rows(target, "SELECT at FROM a ORDER BY id") == [("0002",), ("0002 end",), ("0003",)]
    assert rows(target, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'a_at'::regclass") == [(True,)]
    assert len(events(made, "restore-point-created")) == 1
    assert [e["migration"] for e in events(made, "committed") if e["whole_migration"]] == ["0001_a", "0002_b", "0003_c"]
    assert (made.folder / "01-migrate.attempt-1.ipynb").is_file()


@pytest.mark.slow
def test_ctrl_c_cancels_the_statement_and_the_run_goes_on_later(project: Project) -> None:
    """The server's statement ends, the record says interrupted, nothing is taken back, the way on is told."""
    target = project(folder={"0001_a.sql": "CREATE TABLE a (id int);", "0002_b.sql": WAITS})
    do(target, GATE)
    with pgrunbook("run", "migrate", "--target", "demo", start_new_session=True) as process:
        wait_until(lambda: has_begun("migrate", "0002_b"))
        process.send_signal(signal.SIGINT)
        _, told = process.communicate()
    assert process.returncode == 1
    made = newest_run()
    assert made is not None
    assert (made.status, made.parts[0].status) == (Status.INTERRUPTED, Status.INTERRUPTED)
    assert "stopped in step 1 of 0002_b" in told
    assert "0002_b was aborted as a whole" in told
    assert "Traceback" not in told
    assert f"Go on with it: pgrunbook run --resume {made.run_id}" in told
    assert rows(target, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'DO $$%' AND state = 'active'") == [
        (0,)
    ]
    assert rows(target, "SELECT version FROM schema_migrations") == [("0001_a",)]
    assert cells(made)["execute-plan"] == "failed"


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize("room_bytes", [1_000, 8_000])
def test_a_record_that_cannot_be_written_stops_the_run(project: Project, room_bytes: int) -> None:
    """With the disk full no step runs unrecorded; with room again the same run goes on."""
    target = project(folder={f"{n:04}_t{n}.sql": f"CREATE TABLE t{n} (id int)" for n in range(1, 9)})
    made, code = run("prepare", rehearse="false")
    assert code == 0
    limit_bytes = 100 * 1024
    lengthen(made, "migrate").journal.write(
        "filler", text="-" * (limit_bytes - room_bytes - made.journal.path.stat().st_size)
    )
    limited = ["bash", "-c", f'ulimit -f {limit_bytes // 1024}; exec "$@"', "-"]
    with pgrunbook("run", "--resume", made.run_id, before=limited) as process:
        _, told = process.communicate()
    assert process.returncode == 1
    assert "Traceback" not in told
    assert "could not write the journal of this run" in told
    assert f"pgrunbook run --resume {made.run_id}" in told
    assert runs.load(made.folder).actual_status() in (Status.BROKEN_OFF, Status.FAILED)
    made.journal.path.write_text(re.sub('"text":"-+"', '"text":""', made.journal.path.read_text()))

    committed = [e["migration"] for e in events(made, "committed")]
    done = rows(target, "SELECT migration FROM pgrunbook.step WHERE kind = 'history row'") if committed else []
    assert len(done) - len(committed) <= 1  # the one whose commit could not be told any more
    assert bool(committed) == (room_bytes == 8_000)
    made, code = runbook.resume(made.run_id)
    assert (code, made.status) == (0, Status.DONE)
    assert rows(target, "SELECT count(*) FROM schema_migrations") == [(8,)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("title: [", "could not read the runbook mine.yaml"),
        ("procedures: [prepare]", "Detail: title: Field required"),
        ("title: t\nprocedures: []", "procedures: Tuple should have at least 1 item"),
        ("title: t\nprocedures: [prepare]\nretries: 3", "retries: Extra inputs are not permitted"),
        ("title: t\nprocedures: [prepare, deploy]", "mine.yaml names procedures that do not exist: deploy"),
        ("title: t\nprocedures: [prepare]\non_failure: pray", "mine.yaml names procedures that do not exist: pray"),
        ("just words", "could not read the runbook mine.yaml"),
    ],
)
def test_a_runbook_that_is_not_right_says_where(
    text: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each mistake of the YAML file is named; nothing is started."""
    (tmp_path / "runbooks").mkdir()
    (tmp_path / "runbooks" / "mine.yaml").write_text(text)
    monkeypatch.setenv("PGRUNBOOK_HOME", str(tmp_path))
    with pytest.raises(WrongInput) as wrong:
        runbook.load("mine")
    assert told in str(wrong.value)


def test_the_runbooks_of_the_project_are_right() -> None:
    """Each file is read, and is about what its name says."""
    books = {path.stem: runbook.load(path.stem) for path in (ROOT / "runbooks").glob("*.yaml")}
    assert books["release"].procedures == ("prepare", "migrate", "validate")
    assert books["release"].on_failure == "rollback"
    assert books["rollback"].procedures == ("rollback",)
    assert books["restore"].procedures == ("restore",)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"nonsense": "1"}, 'parameter "nonsense" is not known'),
        ({"target": "other"}, "the target is not a parameter"),
        ({"max_transaction_age_s": "1e5"}, "max_transaction_age_s is '1e5': input should be a valid integer"),
        ({"max_transaction_age_s": "0"}, "max_transaction_age_s is '0': input should be greater than or equal to 1"),
        ({"max_slowdown": "nan"}, "max_slowdown is 'nan': input should be a finite number"),
        ({"rehearse": "perhaps"}, "rehearse is 'perhaps': input should be a valid boolean"),
        ({"db_password": "x"}, 'parameter "db_password" looks like a secret'),
        ({"of_run": "postgresql://me:hunter2@db/x"}, 'parameter "of_run" looks like a secret'),
    ],
)
def test_parameters_are_checked_before_anything_starts(given: dict[str, str], told: str) -> None:
    """Unknown, mistyped, out of range, secret-looking: each is named, and no value of a secret is shown."""
    with pytest.raises(WrongInput) as wrong:
        runbook.typed(runbook.load("release"), "demo", given)
    assert told in str(wrong.value)
    assert "hunter2" not in str(wrong.value)


def test_text_stays_text_and_each_procedure_gets_its_own() -> None:
    """ "0123" is not a number where text is meant; a parameter goes to every procedure that knows it."""
    release = runbook.load("release")
    typed = runbook.typed(release, "demo", {"of_run": "0123", "max_transaction_age_s": "7", "rehearse": "no"})
    assert typed == {
        "prepare": {"target": "demo", "max_transaction_age_s": 7, "rehearse": False},
        "migrate": {"target": "demo", "max_transaction_age_s": 7},
        "validate": {"target": "demo", "of_run": "0123"},
    }


def test_a_notebook_that_is_missing_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library and a project without notebooks: it is told so, not in a traceback."""
    shutil.copytree(ROOT / "runbooks", tmp_path / "runbooks")
    monkeypatch.setenv("PGRUNBOOK_HOME", str(tmp_path))
    monkeypatch.setattr(paths, "CHECKOUT", tmp_path / "nothing")
    with pytest.raises(WrongInput, match="could not find the notebook of prepare"):
        headless.source("prepare")


HALF = {
    "0001_a.sql": "CREATE TABLE a (n int)",
    "0001_a.down.sql": "DROP TABLE a",
    "0002_b.sql": "ALTER TABLE b ADD m int;\nCREATE INDEX b_n ON b (n);\nALTER TABLE b ADD CONSTRAINT c CHECK (n > 0)",
}


@pytest.mark.slow
def test_a_release_that_ends_half_way_through_a_migration_is_taken_back(project: Callable[..., Target]) -> None:
    """What was applied, and only that: the statements that were done, and the migrations below."""
    target = project(folder=HALF)
    do(target, "CREATE TABLE b (n int); INSERT INTO b VALUES (0)")
    made, code = run("release")
    assert (code, made.status) == (1, Status.FAILED)
    assert [p.procedure for p in made.parts] == ["prepare", "migrate", "validate", "rollback"]
    assert made.parts[-1].status is Status.DONE
    assert rows(target, "SELECT to_regclass('a'), to_regclass('b_n'), count(*) FROM schema_migrations") == [
        (None, None, 0)
    ]
    assert rows(target, "SELECT * FROM b") == [(0,)]
    assert error(made, 1).splitlines()[-2] == (
        "Hint: Correct what the server names, leave the file as it is, and start a new run, "
        "when this one has taken back what it applied."
    )
    assert "was taken back" in headless.next_step(made)


@pytest.mark.slow
def test_nothing_is_released_over_what_is_half_way_there(project: Callable[..., Target]) -> None:
    """It was not prepared, so no way back is known: it is gone on with, as soon as what it met is mended."""
    target = project(folder=HALF)
    do(target, "CREATE TABLE b (n int); INSERT INTO b VALUES (0)")
    made, code = run("migrate")
    assert (code, made.status) == (1, Status.FAILED)
    assert events(made, "run-ended")[-1]["next"].startswith(
        f"0002_b is partly applied. Correct what failed, and go on: pgrunbook run --resume {made.run_id}"
    )
    back, code = run("rollback")
    assert code == 3
    assert back.parts[0].says.startswith("cannot take back 0002_b: 0002_b:1: its way back was not computed")
    other, code = run("release")
    assert code == 3
    assert other.parts[0].says == f"0002_b was begun by run {made.run_id}, and not finished"
    assert target.migrations is not None
    file = target.migrations / "0002_b.sql"
    text = file.read_text()
    file.write_text(text.replace("n > 0", "n >= 0"))
    other, code = run("release")
    assert code == 3
    assert other.parts[0].says == (f"0002_b was begun by run {made.run_id} from another text, and not finished")
    file.write_text(text)

    do(target, "DELETE FROM b")
    done, code = runbook.resume(made.run_id)
    assert (code, done.status) == (0, Status.DONE)
    assert rows(target, "SELECT version FROM schema_migrations ORDER BY 1") == [("0001_a",), ("0002_b",)]
