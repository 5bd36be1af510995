"""The command line: what it shows, and what it says of input that is not right, with which exit code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import nbformat
import pytest

from acting import has_begun, newest_run, pgrunbook, wait_until
from conftest import ROOT, connect, do
from pgrunbook import __version__, undo_data
from pgrunbook.config.targets import Target
from pgrunbook.record import run as runs
from pgrunbook.record.run import WORK, Status
from scenes import meanwhile

Project = Callable[..., Target]
FOLDER = {"0001_a.sql": "CREATE TABLE a (id int);"}
FORM = ("Detail: ", "State: ", "Hint: ")


Command = Callable[..., tuple[int, str, str]]


def error_of_run(log: str) -> str:
    """Return the error that the log of a run tells, behind the lines of its cells and its procedure."""
    lines = log.partition("\nfailed: ")[0].splitlines()
    return "\n".join(line for line in lines if not line.startswith(("prepare ", "migrate ")))


def in_form(text: str) -> list[str]:
    """Return the lines of an error: one message, then Detail, State, Hint and See as far as they are there."""
    lines = text.strip().splitlines()
    assert not lines[0].startswith(FORM)
    labels = [line.partition(" ")[0] for line in lines[1:]]
    assert labels == [label for label in ("Detail:", "State:", "Hint:", "See:") if label in labels], text
    assert "State:" in labels
    return lines


@pytest.mark.first_case
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "a runbook and a target must be named"),
        (["run", "release"], "a target must be named"),
        (["run", "--target", "demo"], "a runbook must be named"),
        (["start"], "a runbook and a target must be named"),
        (["run", "deploy", "--target", "demo"], 'there is no runbook "deploy"'),
        (["run", "release", "--target", "nowhere"], 'target "nowhere" is not declared'),
        (["start", "release", "--target", "nowhere", "--no-lab"], 'target "nowhere" is not declared'),
        (["run", "release", "--target", "demo", "-p", "x"], 'parameter "x" has no value'),
        (["run", "release", "--target", "demo", "-p", "x=1"], 'parameter "x" is not known'),
        (["run", "rollback", "--target", "demo", "-p", "migrations=1e5"], "the parameters of rollback are wrong"),
        (["run", "rollback", "--target", "demo", "-p", "migrations=1", "-p", "migrations=2"],
         'parameter "migrations" is given twice'),
        (["run", "release", "--target", "demo", "-p", "accept=a.sql"], "the parameters of prepare are wrong"),
        (["run", "migrate", "--target", "demo", "-p", "approved=yes"], "the parameters of migrate are wrong"),
        (["run", "release", "--target", "demo", "-p", "password=hunter2"], 'parameter "password" looks like a secret'),
        (["run", "release", "--resume", "x"], "--resume goes on with a run as it was started"),
        (["run", "--resume", "x", "-p", "a=b"], "--resume goes on with a run as it was started"),
        (["run", "--resume", "20990101"], 'could not find the run "20990101"'),
        (["show", "20990101"], 'could not find the run "20990101"'),
        (["start", "--resume", "20990101"], 'could not find the run "20990101"'),
        (["status", "--target", "nowhere"], 'target "nowhere" is not declared'),
        (["undo-data", "list"], "a target must be named"),
        (["undo-data", "list", "--target", "nowhere"], 'target "nowhere" is not declared'),
        (["undo-data", "purge"], "a target must be named"),
        (["undo-data", "purge", "--target", "nowhere"], 'target "nowhere" is not declared'),
        (["undo-data", "purge", "--target", "demo", "--id", "3", "--all"], "the parameters of purge are wrong"),
        (["undo-data", "purge", "--target", "demo", "--older-than", "3", "--all"],
         "the parameters of purge are wrong"),
        (["run", "purge", "--target", "demo", "-p", "ids=x"], "the parameters of purge are wrong"),
        (["server", "start", "--name", "../x"], '"../x" cannot be the name of a server'),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_wrong_use_is_told_before_anything_starts(
    arguments: list[str], message: str, project: Project, command: Command
) -> None:
    """Exit code 2, one error in our form, no run folder, and no secret repeated."""
    project(folder=FOLDER, database="never-asked")
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert in_form(err)[0] == message
    assert "hunter2" not in err
    assert not runs.folders()


def test_an_option_that_is_not_known_is_wrong_use(command: Command) -> None:
    """What typer refuses ends with 2 as well."""
    assert command("run", "--nonsense")[0] == 2
    assert command("nonsense")[0] == 2
    assert command("undo-data", "purge", "--target", "demo", "--older-than", "0")[0] == 2
    assert command("undo-data", "purge", "--target", "demo", "--id", "x")[0] == 2


@pytest.mark.first_case
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "could not read "),
        ("[demo", "could not read "),
        ("demo = 1", '"demo" in '),
        ("[demo]\nserver = 'main'\nservice = 'x'", 'target "demo" must name exactly one of'),
        ("[demo]\nserver = 'main'\npassword = 'hunter2'", 'option "password" of target "demo" looks like a secret'),
        ("[demo]\nserver = 'main'\nattempts = 0", 'target "demo" in '),
        ("[demo]\nurl_from = 'NOT_SET_ANYWHERE'\nmigrations = '.'", 'could not find the address of target "demo"'),
    ],
)
def test_a_targets_file_that_is_not_right_is_told(
    text: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    """Missing, broken, or with an option that cannot be: the file and the option are named."""
    file = tmp_path / "targets.toml"
    if text is not None:
        file.write_text(text)
    monkeypatch.setenv("PGRUNBOOK_TARGETS", str(file))
    monkeypatch.setenv("PGRUNBOOK_HOME", str(ROOT))
    monkeypatch.setenv("PGRUNBOOK_OUTPUTS", str(tmp_path / "outputs"))
    code, _, err = command("run", "restore" if "url_from" not in (text or "") else "prepare", "--target", "demo")
    assert code == 2
    lines = err.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(message))
    in_form("\n".join(lines[start : start + 4]).partition("\nfailed:")[0])
    assert "hunter2" not in err


def test_without_a_project_the_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    """Run in the wrong folder, every command says where it looked."""
    monkeypatch.chdir(tmp_path)
    for name in ("PGRUNBOOK_HOME", "PGRUNBOOK_OUTPUTS", "PGRUNBOOK_TARGETS"):
        monkeypatch.delenv(name, raising=False)
    for arguments in (["runs"], ["status"], ["show", "x"], ["run", "release", "--target", "demo"]):
        code, _, err = command(*arguments)
        assert code == 2
        assert in_form(err)[0] == "could not find targets.toml"


def test_an_outputs_folder_that_cannot_be_is_told(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    """A file where the folder should be: nothing is run that could not be recorded."""
    project(folder=FOLDER)
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("PGRUNBOOK_OUTPUTS", str(tmp_path / "file"))
    code, _, err = command("run", "release", "--target", "demo")
    assert code == 1
    assert in_form(err)[0] == "could not create the folder of this run"
    assert "PGRUNBOOK_OUTPUTS" in err


BROKEN_JOURNAL = {"meta/_journal.json": "{", "0000_a.sql": "SELECT 1"}


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize(
    ("files", "code", "message"),
    [
        (None, 2, "migrations"),
        ({}, 2, "migrations"),
        (BROKEN_JOURNAL, 2, "_journal.json"),
        ({"0001_a.sql": b"SELECT '\xff';"}, 2, "0001_a.sql"),
        ({"0001_a.sql": b"CREATE TABEL a (id int);"}, 2, "0001_a.sql"),
    ],
    ids=["missing", "empty", "broken journal", "not UTF-8", "does not parse"],
)
def test_a_folder_that_cannot_be_used_is_told(
    files: dict[str, str | bytes] | None, code: int, message: str, project: Project, tmp_path: Path, command: Command
) -> None:
    """The folder, or the file and line in it, is named; the target is not touched."""
    project(folder=FOLDER)
    folder = tmp_path / "migrations-demo"
    (folder / "0001_a.sql").unlink()
    if files is None:
        folder.rmdir()
    for name, content in (files or {}).items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found, _, err = command("run", "prepare", "--target", "demo")
    assert found == code
    lines = in_form(error_of_run(err))
    assert message in lines[0]
    assert "State: Nothing changed in the database." in lines


@pytest.mark.slow
def test_a_history_table_that_nobody_knows_is_told(project: Project, command: Command) -> None:
    """Its columns are named, and it is not written to."""
    target = project()
    do(target, "ALTER TABLE drizzle.__drizzle_migrations ADD COLUMN surprise int")
    code, _, err = command("run", "migrate", "--target", "demo")
    assert code == 2
    assert "surprise" in err
    in_form(error_of_run(err))


def test_a_target_that_does_not_answer_is_told(project: Project, command: Command) -> None:
    """Exit code 1, which server, and how to start it; status shows it beside the others."""
    project(folder=FOLDER, server="nothere")
    code, _, err = command("run", "prepare", "--target", "demo")
    assert code == 1
    lines = in_form(error_of_run(err))
    assert lines[0] == 'could not connect to target "demo"'
    assert "pgrunbook server start --name nothere" in lines[-1]
    assert "Go on with it: pgrunbook run --resume " in err
    code, out, _ = command("status")
    assert code == 1
    assert 'could not connect to target "demo"' in out


@pytest.mark.first_case
@pytest.mark.parametrize(("words", "catalog"), [("doctor", "pg_inherits"), ("drift --against other", "pg_policy")])
def test_a_session_that_is_ended_while_it_looks_is_told(
    project: Project, command: Command, words: str, catalog: str
) -> None:
    """Exit code 1, in our own form: 3 would say that something was found."""
    target = project(folder=FOLDER)
    project(folder=FOLDER, name="other")

    def end() -> None:
        ours = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'pgrunbook %' AND"
        wait_until(lambda: bool(admin.execute(f"{ours} wait_event_type = 'Lock'".encode()).fetchone()))

    with connect(target) as holder, connect(target) as admin:
        holder.execute(f"BEGIN; LOCK pg_catalog.{catalog}".encode())
        with meanwhile(end):
            code, out, err = command(*words.split(), "--target", "demo")
    assert (code, out) == (1, "")
    first, *rest = in_form(err)
    assert "terminating connection due to administrator command" in first
    assert rest


@pytest.mark.slow
def test_runs_show_and_status_tell_how_things_stand(project: Project, command: Command) -> None:
    """A table of runs, one run with its last events, the targets with what is pending; each for eyes at 3 a.m."""
    target = project(folder={**FOLDER, "0002_b.sql": "SELECT pg_sleep(60);"})
    assert command("runs") == (0, "No run yet.\n", "")
    code, out, _ = command("status")
    assert code == 0
    assert out.splitlines()[1].split("  ")[0] == "demo"
    assert "(none)" in out
    assert out.rstrip().endswith("no run")
    with pgrunbook("run", "migrate", "--target", "demo") as process:
        wait_until(lambda: has_begun("migrate", "0002_b"))
        _, out, _ = command("runs")
        assert " running " in out
        _, out, _ = command("status")
        assert "0001_a" in out
        assert "process " in out
        assert "holds the run lock for " in out
        code, _, err = command("run", "--resume", str(newest_run() and newest_run().run_id))  # type: ignore[union-attr]
        assert code == 4
        assert in_form(err)[0].endswith("is already in use")
        process.kill()
    made = newest_run()
    assert made is not None
    _, out, _ = command("runs")
    assert " broken off " in out
    assert "migrate:broken off" in out
    code, out, _ = command("show", made.run_id[-4:])
    assert code == 0
    assert out.startswith(f"{made.run_id}: broken off, migrate on demo by ")
    assert "step-started" in out
    assert "broken off" in out.splitlines()[4]
    (made.folder.parent / "20990101T000000Z-migrate-demo-0000").mkdir()
    (made.folder.parent / "20990101T000000Z-migrate-demo-0000" / "run.json").write_text("{")
    code, out, err = command("runs")
    assert code == 0
    assert made.run_id in out
    assert "could not read the run in" in err
    assert command("runs", "--target", "other")[1] == "No run yet.\n"
    assert target.name == "demo"


@pytest.mark.slow
def test_a_run_by_hand_is_opened_again_and_not_resumed(project: Project, command: Command) -> None:
    """start makes working copies; --resume leads back to them; run --resume says so."""
    project(folder=FOLDER)
    code, out, err = command("start", "release", "--target", "demo", "--no-lab", "-p", "rehearse=no")
    assert (code, err) == (0, "")
    made = runs.load(Path(out.strip()))
    assert (made.status, [p.notebook for p in made.parts]) == (
        Status.WAITING, ["01-prepare.ipynb", "02-migrate.ipynb", "03-validate.ipynb"]
    )  # fmt: skip
    copies = [nbformat.read(made.folder / WORK / part.notebook, as_version=4) for part in made.parts]
    shown = [(c.outputs, c.execution_count) for copy in copies for c in copy.cells if c.cell_type == "code"]
    assert shown == [([], None)] * len(shown)  # nothing of another database
    assert command("start", "--resume", made.run_id, "--no-lab") == (0, out, "")
    code, _, err = command("run", "--resume", made.run_id)
    assert code == 2
    assert in_form(err)[-1] == f"Hint: Open its notebooks again: pgrunbook start --resume {made.run_id}"


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize("how", ["run", "start"])
def test_a_run_of_another_version_is_not_resumed(project: Project, command: Command, how: str) -> None:
    """Both commands say which version made it, and what to do; neither the run nor the database changes."""
    project(folder={"0001_a.sql": "SELECT 1 / 0;"})
    options = ["--no-lab"] if how == "start" else []
    assert command(how, "migrate", "--target", "demo", *options)[0] == (0 if how == "start" else 1)
    made = newest_run()
    assert made is not None
    assert made.versions["pgrunbook"] == __version__
    again = f"pgrunbook {how} migrate --target demo"
    for version in ("0.1.0", "9.0.0", ""):  # older, newer, not recorded
        made.versions = {"pgrunbook": version} if version else {}
        made.save()
        before = {path.name: path.read_bytes() for path in made.folder.iterdir() if path.is_file()}
        name = f"pgrunbook {version}" if version else "that version"
        code, out, err = command(how, "--resume", made.run_id, *options)
        assert (code, out) == (2, "")
        assert in_form(err) == [
            f"run {made.run_id} was made by pgrunbook {version or 'before 0.2.0'}, and this is {__version__}",
            "Detail: The plan and the record of a run are for the version that made it.",
            "State: Nothing changed in the database.",
            f"Hint: Install {name} to go on with the run; where nothing of it was applied, start a new one: {again}",
        ]
        assert {path.name: path.read_bytes() for path in made.folder.iterdir() if path.is_file()} == before
        assert not made.is_held()


@pytest.mark.slow
def test_undo_data_lists_what_is_kept_and_lets_go_of_it(project: Project, command: Command) -> None:
    """A table or JSON, nothing where nothing is kept; purge is a run, with the last lines and exit codes of one."""
    target = project(folder=FOLDER)
    assert command("undo-data", "list", "--target", "demo") == (0, "No undo data is kept in this database.\n", "")
    assert command("undo-data", "list", "--target", "demo", "--json") == (0, "[]\n", "")
    do(target, "CREATE TABLE t (id int PRIMARY KEY, b text); INSERT INTO t SELECT i, 'b' FROM generate_series(1, 9) i")
    made_at = datetime(2026, 1, 22, 16, 54, tzinfo=UTC)
    with connect(target, purpose="test") as conn:
        for step in (1, 2):
            place = undo_data.StepKey("some-run", "0001_a", "up", step)
            text = undo_data.capture_statement(conn, "UPDATE t SET b = 'x'", place, keep_until=made_at)
            conn.execute(text)
        conn.execute("UPDATE pgrunbook.kept SET made_at = %s", [made_at])
        conn.execute("UPDATE pgrunbook.kept SET keep_until = NULL, state = 'giving back' WHERE id = 2")
    code, out, err = command("undo-data", "list", "--target", "demo")
    assert (code, err) == (0, "")
    heading, second, first = (re.split("  +", line) for line in out.splitlines())
    assert heading == [
        "id", "of", "run", "step", "what", "table", "rows", "size", "made at", "kept until", "state"
    ]  # fmt: skip
    assert first == [
        "1", "0001_a (up)", "some-run", "1", "rows updated (b)", "public.t", "9", "41 kB", "2026-01-22 16:54Z",
        "2026-01-22 16:54Z, over", "kept",
    ]  # fmt: skip
    assert second[9:] == ["no end", "reverting (0 rows so far)"]
    code, out, err = command("undo-data", "list", "--target", "demo", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)[1]
    assert found.pop("kept_as").startswith("kept_")
    assert found == {
        "id": 1, "part_of": None, "migration": "0001_a", "direction": "up", "run_id": "some-run", "step": 1,
        "kind": "update", "schema": "public", "table": "t", "columns": ["b"], "rows_estimate": None,
        "rows_given_back": 0, "bytes": 40960, "made_at": "2026-01-22T16:54:00+00:00",
        "keep_until": "2026-01-22T16:54:00+00:00", "state": "kept",
    }  # fmt: skip

    do(target, "CREATE TABLE schema_migrations (version text PRIMARY KEY, applied_at timestamptz)")
    do(target, "INSERT INTO schema_migrations VALUES ('0001_a', now())")
    code, out, err = command("undo-data", "purge", "--target", "demo", "--all")
    assert (code, out) == (3, "")
    assert err.rstrip().splitlines()[-1].startswith("refused: ")
    assert "cannot purge undo data that is still needed: 1 item" in err
    code, out, err = command("undo-data", "purge", "--target", "demo", "--older-than", "1", "--force")
    assert (code, out) == (0, "")
    made = newest_run()
    assert made is not None
    assert err.endswith(f"done: {made.folder}\n")
    assert made.runbook == "purge"
    assert made.parts[0].says == "2 items are purged, 82 kB freed; no undo data is left."


def test_undo_data_that_cannot_be_read_is_told(project: Project, command: Command) -> None:
    """A server that does not answer."""
    project(folder=FOLDER, server="nothere")
    code, out, err = command("undo-data", "list", "--target", "demo")
    assert (code, out, in_form(err)[0]) == (1, "", 'could not connect to target "demo"')


def test_review_judges_files_for_a_pull_request(command: Command, tmp_path: Path) -> None:
    """Exit 1 at or above --fail-on; JSON has the documented form."""
    file = tmp_path / "0001_a.sql"
    file.write_text("CREATE INDEX i ON big (a);\n")
    code, out, _ = command("review", str(file))
    assert code == 1
    assert "index-not-concurrent" in out
    assert "CREATE INDEX CONCURRENTLY i ON big (a);" in out
    assert command("review", str(file), "--fail-on", "never")[0] == 0
    code, out, _ = command("review", str(file), "--json")
    (found,) = json.loads(out)
    assert (code, found["line"], found["locks"]) == (1, 1, [{"object": "big", "mode": "ShareLock"}])
    assert set(found) == {"place", "file", "line", "statement", "type", "locks", "hazards"}
    code, out, _ = command("review", str(file), "--sarif")
    assert json.loads(out)["version"] == "2.1.0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fail-on", "note"], '--fail-on "note" is not known'),
        (["--json", "--sarif"], "--json and --sarif exclude each other"),
        (["--target", "nowhere"], 'target "nowhere" is not declared'),
    ],
)
def test_review_refuses_wrong_use(
    command: Command, project: Project, tmp_path: Path, arguments: list[str], message: str
) -> None:
    """One clear error, exit 2."""
    project(folder=FOLDER)
    file = tmp_path / "0001_a.sql"
    file.write_text("SELECT 1;\n")
    code, _, err = command("review", str(file), *arguments)
    assert (code, in_form(err)[0]) == (2, message)


def test_review_names_file_and_line_of_what_does_not_parse(command: Command, tmp_path: Path) -> None:
    """The parser's own words, and no traceback."""
    file = tmp_path / "0001_a.sql"
    file.write_text("SELECT 1;\nSELCT 2;\n")
    code, _, err = command("review", str(file))
    assert code == 2
    assert in_form(err)[0].endswith('0001_a.sql, line 2: syntax error at or near "SELCT"')


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "encoding", "code", "told"),
    [
        pytest.param(">&-", "utf-8", 0, "", marks=pytest.mark.slow),
        pytest.param(">&- 2>&-", "utf-8", 0, "", marks=pytest.mark.slow),
        ("> /dev/full", "utf-8", 1, "could not write what was asked for\nDetail: No space left on device."),
        pytest.param("", "ascii", 0, r"\U0001f418", marks=pytest.mark.slow),
    ],
)
def test_an_output_that_takes_nothing_is_no_traceback(
    words: str, encoding: str, code: int, told: str, tmp_path: Path
) -> None:
    """A stream that the shell has closed, a full disk, an encoding without the letters of a name."""
    (tmp_path / "0001_🐘.sql").write_text("CREATE INDEX ON t (id);")
    script = f'exec "{sys.executable}" -m pgrunbook review --fail-on never --no-squawk 0001_*.sql {words}'
    done = subprocess.run(
        ["sh", "-c", script], check=False, cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )  # fmt: skip
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert told in done.stdout + done.stderr
