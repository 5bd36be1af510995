"""A run's folder that is not as its run left it: every command that reads it ends in an error of four lines."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from acting import facts, run
from budget import examples, sample
from conftest import do, rows
from pgrunbook.app import cli_runs
from pgrunbook.config.targets import Target
from pgrunbook.errors import Refused, RunbookError, WrongInput
from pgrunbook.plan import plan as plans
from pgrunbook.procedures import migrate, validate
from pgrunbook.record import journal
from pgrunbook.record import run as runs
from pgrunbook.record.run import Run
from pgrunbook.runner import runbook
from pgrunbook.session import acceptance
from pgrunbook.session import session as heres

Project = Callable[..., Target]
FOLDER = {"0001_a.sql": "ALTER TABLE a RENAME n TO number;", "0002_b.sql": "CREATE TABLE b (id int PRIMARY KEY);"}
FILES = (
    "run.json", "journal.jsonl", "plan.json", "schema-before.json", "measured-before.json", "leftovers-before.json"
)  # fmt: skip
SEED = 20_261_128
CHANGES = examples(3, 12)  # of each file, for each kind of change by chance


@pytest.fixture
def made(project: Project) -> Iterator[Run]:
    """A run by hand in which prepare froze a plan with a gate."""
    target = project(folder=FOLDER)
    do(target, "CREATE TABLE a (id int PRIMARY KEY, n int); ALTER TABLE a REPLICA IDENTITY FULL")
    do(target, "CREATE PUBLICATION sends FOR TABLE a")
    done, _ = run("prepare", rehearse="false")
    yield done
    heres._end_earlier()


def accepts(one: Run) -> object:
    """Accept all open gates."""
    return acceptance.accept(one.run_id, [])


def resumes(one: Run) -> object:
    """What `run --resume` and `start --resume` ask before anything begins."""
    found = runs.find(one.run_id)
    return runbook._refuse_to_go_on(found, runbook.load("prepare"))


def migrates(one: Run) -> object:
    """The first steps of migrate by hand, up to the gates."""
    os.chdir(one.folder)
    here = migrate.begin(target="demo")
    return migrate.is_it_still_so(here)


def validates(one: Run) -> object:
    """Validate by hand against what this run promised."""
    os.chdir(one.folder)
    here = validate.begin(target="demo", of_run=one.run_id)
    validate.meet_the_target(here)
    validate.schema_as_promised(here)
    validate.nothing_left_behind(here)
    validate.data_as_promised(here)
    return validate.checklist(here)


def shows(one: Run) -> object:
    """The list of runs, and this one."""
    cli_runs.runs(target="", most=5)
    return cli_runs.show(one.run_id)


COMMANDS = (shows, accepts, resumes, migrates, validates)


def outcome(command: Callable[[Run], object], one: Run) -> str:
    """Run a command on a damaged record; return the error's text, "" where it had none. Nothing else may be raised."""
    try:
        command(one)
    except RunbookError as exc:
        lines = str(exc).splitlines()
        assert lines[0]
        assert all(any(line.startswith(f"{label}: ") for line in lines) for label in ("Detail", "State", "Hint")), lines
        return str(exc)
    finally:
        heres._end_earlier()
        os.chdir("/")
    return ""


def damaged(raw: bytes, chance: random.Random) -> Iterator[bytes]:
    """Give what may have become of a file: emptied, cut, with bytes, lines or facts changed, or of another kind."""
    yield from (b"", b"\n", b"null", b"[]", b"{}", b"5", b'"text"', b"\xff\xfe\x00", b"\0" * 64, b"[" * 5_000)
    yield from (raw[:-1], raw[: len(raw) // 2], raw + b"\n", raw + raw, b"\xef\xbb\xbf" + raw)
    for _ in range(CHANGES):
        at = chance.randrange(max(1, len(raw)))
        yield raw[:at]
        yield raw[:at] + bytes([chance.randrange(256)]) + raw[at + 1 :]
        lines = raw.split(b"\n")
        number = chance.randrange(len(lines))
        yield b"\n".join(lines[:number] + lines[number + 1 :])
        yield b"\n".join([*lines[:number], *lines[number : number + 1] * 2, *lines[number + 1 :]])
    for changed in structured(raw, chance):
        yield json.dumps(changed).encode()


def structured(raw: bytes, chance: random.Random) -> Iterator[Any]:
    """Give a JSON object with a fact removed, added, or of another kind."""
    try:
        whole = json.loads(raw)
    except ValueError:
        return
    names = list(whole) if isinstance(whole, dict) else []
    for name in names:
        yield {key: value for key, value in whole.items() if key != name}
        yield whole | {name: chance.choice([None, 5, "x", [], {}, [[1]], {"a": 1}, True])}
    if names:
        yield whole | {"more": 1}


def restore(one: Run, kept: Path) -> None:
    """Put the record back as its run left it."""
    shutil.rmtree(one.folder, ignore_errors=True)
    shutil.copytree(kept, one.folder, symlinks=True)


@pytest.fixture
def kept(made: Run, tmp_path: Path) -> Path:
    """A copy of the record."""
    shutil.copytree(made.folder, tmp_path / "kept")
    return tmp_path / "kept"


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize("name", sample(FILES, 3))
def test_a_damaged_file_is_an_error_of_four_lines(made: Run, kept: Path, name: str) -> None:
    """The readers that ask no database, on every change; nobody writes a traceback, and no gate opens."""
    raw = (kept / name).read_bytes()
    chance = random.Random(f"{SEED} {name}")  # noqa: S311 - the same changes every time
    for changed in damaged(raw, chance):
        restore(made, kept)
        (made.folder / name).write_bytes(changed)
        for command in (shows, accepts, resumes):
            outcome(command, made)


KINDS = ("missing", "folder", "fifo", "loop", "dangling", "elsewhere", "empty", "half")


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize("name", sample(FILES, 3))
def test_a_file_of_another_kind_is_an_error_of_four_lines(made: Run, kept: Path, name: str) -> None:
    """Each command that reads it, with the database behind it; nobody waits for a FIFO."""
    path = made.folder / name
    raw = path.read_bytes()
    for kind, command in itertools.product(KINDS, COMMANDS):
        restore(made, kept)
        path.unlink()
        match kind:
            case "folder":
                path.mkdir()
            case "fifo":
                os.mkfifo(path)
            case "loop":
                path.symlink_to(path.name)
            case "dangling":
                path.symlink_to("nowhere")
            case "elsewhere":
                path.symlink_to(kept / name)
            case "empty":
                path.touch()
            case "half":
                path.write_bytes(raw[: len(raw) // 2])
        told = outcome(command, made)
        if name == "plan.json" and command in (accepts, migrates) and kind != "elsewhere":
            assert told, kind
    assert rows_of_a() == 0


def rows_of_a() -> int:
    """Whether the migration was executed: it must not be."""
    from pgrunbook.config import targets

    return int(str(rows(targets.load("demo"), "SELECT count(*) FROM pg_attribute WHERE attname = 'number'")[0][0]))


@pytest.mark.slow
def test_a_journal_with_a_hole_is_refused_and_half_a_last_line_is_not(made: Run) -> None:
    """A crash cuts the last line off, and never takes one out of the middle."""
    lines = made.journal.path.read_bytes().splitlines(keepends=True)
    made.journal.path.write_bytes(b"".join(lines) + b'{"seq": 99, "ev')
    assert journal.read(made.journal.path)[-1]["event"] == "torn"
    resumes_or_done(made)
    for number in range(len(lines) - 1):
        made.journal.path.write_bytes(b"".join(lines[:number] + lines[number + 1 :]))
        with pytest.raises(WrongInput, match="is not as we wrote it"):
            journal.read(made.journal.path)
    for number in range(len(lines)):  # the end may be cut off at a line's end as well: then run.json tells
        made.journal.path.write_bytes(b"".join(lines[:number]))
        if not any(b'"event":"verdict"' in line for line in lines[:number]):
            with pytest.raises(RunbookError):
                accepts(made)


def resumes_or_done(one: Run) -> None:
    """Going on is refused for no other reason than that nothing is left to do."""
    with pytest.raises(Refused, match="is done"):
        resumes(one)


@pytest.mark.slow
def test_the_record_of_another_run_is_refused(made: Run) -> None:
    """Its journal, its run.json, and its plan."""
    other, _ = run("prepare", rehearse="false", keep="false")
    made.status = runs.Status.INTERRUPTED
    made.save()
    for name, says in (("run.json", "is that of another run"), ("journal.jsonl", "is not as we wrote it")):
        mine = (made.folder / name).read_bytes()
        shutil.copy(other.folder / name, made.folder / name)
        for command in (accepts, migrates, validates):
            assert says in outcome(command, made) or command is validates
        assert says in outcome(resumes, made)
        (made.folder / name).write_bytes(mine)
    path = made.folder / "plan.json"
    frozen = plans.read(path)
    path.write_text(frozen.model_copy(update={"attempts": 99}).text(), encoding="utf-8")
    assert "is not the plan that was frozen in" in outcome(accepts, made)
    assert "is not the plan that was frozen in" in outcome(migrates, made)
    path.write_text(frozen.text().replace('"attempts": 5', '"attempts": 6'), encoding="utf-8")
    for command in (accepts, migrates):
        assert outcome(command, made).startswith("plan.json is not the plan that was frozen\n")


@pytest.mark.slow
def test_a_folder_that_was_copied_to_another_machine_is_refused(made: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """By every command that would go on with it; to look at it is allowed."""
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    made_on = facts(made.folder / "run.json")["machine"]
    made.status = runs.Status.INTERRUPTED
    made.save()
    for command in (accepts, resumes, migrates):
        assert outcome(command, made).startswith(f"run {made.run_id} was begun on {made_on}, and this is elsewhere\n")
    assert outcome(shows, made) == ""


@pytest.mark.slow
def test_a_target_that_has_another_name_now_is_refused(made: Run) -> None:
    """Before anything is done: the run stays as it was."""
    file = Path(os.environ["PGRUNBOOK_TARGETS"])
    text = file.read_text()
    made.status = runs.Status.INTERRUPTED
    made.save()
    before = (made.folder / "run.json").read_bytes()
    file.write_text(text.replace("[demo]", "[renamed]"))
    assert outcome(lambda one: runbook.resume(one.run_id), made).startswith(
        f'run {made.run_id} is for target "demo", which targets.toml does not declare now\n'
    )
    assert (made.folder / "run.json").read_bytes() == before
    os.chdir(made.folder)
    try:
        with pytest.raises(WrongInput, match='this run is for target "demo", not for "renamed"'):
            migrate.begin(target="renamed")
    finally:
        os.chdir("/")
