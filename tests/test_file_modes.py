"""The modes of a run's files: read-only when it is sealed, writable where it goes on, for root and for anybody."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from acting import open_folder
from pgrunbook.record import cell_log
from pgrunbook.record import run as runs
from pgrunbook.record.run import Run
from pgrunbook.seal import attempt, file_modes, standing, subjects
from test_verification import begun, ended, led_to

NOBODY = 65534


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """A run that has begun."""
    with open_folder() as folder:
        led_to(folder, monkeypatch)
        yield begun("one")


def modes(made: Run) -> set[str]:
    return {f"{stat.S_IMODE((made.folder / name).stat().st_mode):04o}" for name in subjects.files(made.folder)}


def test_the_files_of_a_sealed_run_are_read_only(made: Run) -> None:
    """All that the seal is over, also below; who could read a file still can; other files and folders stay."""
    (made.folder / "below").mkdir()
    made.keep("below/table.csv", "a\n")
    (made.folder / "below" / "table.csv").chmod(0o664)
    outside = made.folder.parent / "outside"
    outside.write_text("x")
    (made.folder / "link").symlink_to(outside)
    made.keep("report.html", "made from it")
    ended(made)
    assert modes(made) == {"0400", "0444", f"{stat.S_IMODE(outside.stat().st_mode):04o}"}
    assert outside.stat().st_mode & stat.S_IWUSR
    assert (made.folder / "report.html").stat().st_mode & stat.S_IWUSR
    assert made.folder.stat().st_mode & stat.S_IWUSR
    assert standing.report(made.folder.parent, files=True).exit_code == 0


def goes_on(folder: Path) -> None:
    """A run that was sealed is opened, gets an event, a cell and a file that takes the place of one, and is sealed."""
    made = runs.load(folder)
    attempt.begin(made)
    cell_log.give(made.folder / f"01-prepare{cell_log.SUFFIX}", {"cells": []})
    made.journal.write("note", says="it goes on")
    ended(made)
    attempt.write_late(made, "note", says="and later")


@pytest.mark.parametrize("user", [0, NOBODY], ids=["root", "ordinary"])
def test_a_run_that_goes_on_appends_to_what_was_read_only(made: Run, user: int) -> None:
    """Twice, with the journal and the log of the cells; verify stays true, and all of it is read-only again."""
    cell_log.give(made.folder / f"01-prepare{cell_log.SUFFIX}", {"cells": []})
    ended(made)
    assert modes(made) == {"0400"}
    if os.geteuid() != 0 and user == 0:
        pytest.skip("only root can be root")
    as_user(user, made.folder)
    assert modes(made) == {"0400"}
    found = standing.report(made.folder.parent, files=True)
    assert (found.exit_code, found.problems, found.runs[0].attempts) == (0, (), 3)


def as_user(user: int, folder: Path) -> None:
    """Let a run go on in a process of that user, to whom all of it belongs."""
    if os.geteuid() == 0:
        for place, folders, files in os.walk(folder.parents[1]):
            for name in [".", *folders, *files]:
                os.chown(Path(place) / name, user, user, follow_symlinks=False)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if os.geteuid() == 0 and user:
                os.setgroups([])
                os.setgid(user)
                os.setuid(user)
            goes_on(folder)
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_run_is_sealed_where_its_files_belong_to_somebody_else(
    made: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The seal counts; that the files stay writable is told, and so is a journal that stays read-only."""

    def refuse(self: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted", f"{self} {mode}")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "chmod", refuse)
        ended(made)
        assert f"run {made.run_id} is sealed, but 01-prepare.ipynb stays writable" in caplog.text
        assert standing.report(made.folder.parent, files=True).exit_code == 0
        made.journal.path.unlink()
        os.close(os.open(made.journal.path, os.O_CREAT | os.O_WRONLY, 0o400))
        file_modes.release(made)
    assert "journal.jsonl stays read-only: Operation not permitted" in caplog.text
    assert json.loads((made.folder / attempt.MARK_FILE).read_text())["kind"] == "closed"
