"""The errors: PostgreSQL's form with the state of the database, and the exit code of each."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pgrunbook import errors
from pgrunbook.errors import Refused, RunbookError
from pgrunbook.history.state import unfinished

EXIT_CODES = {
    errors.WrongInput: 2,
    errors.Refused: 3,
    errors.Unreachable: 1,
    errors.Blocked: 1,
    errors.StatementFailed: 1,
    errors.Broken: 1,
    errors.Interrupted: 1,
    errors.RecordFailed: 1,
}


def test_every_error_has_its_exit_code() -> None:
    """0 done, 1 failed, 2 wrong use, 3 refused by a gate; fewer than ten kinds, one for each decision."""
    kinds = set(RunbookError.__subclasses__())
    assert kinds >= set(EXIT_CODES)
    assert len(kinds) < 10
    assert {kind: kind.exit_code for kind in kinds if kind in EXIT_CODES} == EXIT_CODES
    assert RunbookError.exit_code == 1


@pytest.mark.parametrize("kind", [RunbookError, *EXIT_CODES])
def test_an_error_tells_message_detail_state_and_hint(kind: type[RunbookError]) -> None:
    """In this order, each on a line of its own."""
    error = kind("could not do it", detail="Because.", state="It is as it was.", hint="Do that.")
    assert str(error) == "could not do it\nDetail: Because.\nState: It is as it was.\nHint: Do that."
    assert error.lines() == str(error).split("\n")
    assert (error.message, error.detail, error.state, error.hint) == (
        "could not do it", "Because.", "It is as it was.", "Do that.",
    )  # fmt: skip


def test_an_error_names_the_section_of_troubleshoot_that_helps() -> None:
    """By its kind, or its own; each is a cell of that notebook. The record has the error itself."""
    cells = {
        cell["id"]
        for cell in json.loads((Path(__file__).parents[1] / "notebooks" / "troubleshoot.ipynb").read_text())["cells"]
    }
    house = Path(errors.__file__).parent
    named = {
        name
        for path in house.rglob("*.py")
        for name in re.findall(r'\bsection(?:: str)? ?= ?"([\w-]+)"', path.read_text())
    }
    assert {"stuck", "history", "left-behind"} <= named <= cells
    see = "See: section stuck of notebook troubleshoot, or pgrunbook doctor."
    for kind in (errors.Blocked, errors.TargetBusy):
        assert kind("it waits").shown()[-1] == kind("it waits")._render_traceback_()[-1] == see
        assert see not in str(kind("it waits"))
    assert errors.StatementFailed("refused").section == "left-behind"
    assert Refused("unfit", section="history").shown()[-1].startswith("See: section history of")
    assert Refused("unfit").shown() == Refused("unfit").lines()
    assert unfinished("flyway_schema_history", "V1", "Flyway", "repair").section == "history"


def test_what_there_is_nothing_to_say_about_is_left_out() -> None:
    """But for the state, which is said always."""
    assert str(RunbookError("cannot")) == "cannot\nState: Nothing changed in the database."
    assert str(RunbookError("cannot", state="")) == "cannot"


def test_a_notebook_shows_the_same_lines_without_a_traceback() -> None:
    """The message in red, and no frame of ours."""
    error = RunbookError("cannot", hint="Do that.")
    assert error._render_traceback_() == [
        "\x1b[31mcannot\x1b[0m",
        "State: Nothing changed in the database.",
        "Hint: Do that.",
    ]


@pytest.mark.parametrize("code", [*range(9), *range(11, 32), *range(127, 160), 0x202E, 0x2066])
def test_no_control_character_of_somebody_else_reaches_a_terminal(code: int) -> None:
    """In the message, the detail and the hint, in text and in a notebook."""
    evil = f"a{chr(code)}[2Jb"
    error = RunbookError(evil, detail=evil, hint=evil)
    told = str(error) + str(error.args) + error._render_traceback_()[0].removeprefix("\x1b[31m").removesuffix("\x1b[0m")
    assert chr(code) not in told
    assert f"{code:02x}[2Jb" in told


def test_no_line_of_somebody_else_passes_for_one_of_ours() -> None:
    """A trigger may raise an error of several lines."""
    error = RunbookError("it failed\nState: All is well.", detail="x\nHint: Run it.", state="It was aborted.")
    told = "it failed\n  State: All is well.\nDetail: x\n  Hint: Run it.\nState: It was aborted."
    assert str(error) == told
    assert "\n".join(error._render_traceback_()) == told.replace(
        "it failed\n  State: All is well.", "\x1b[31mit failed\n  State: All is well.\x1b[0m"
    )


def test_a_message_of_somebody_else_is_bounded() -> None:
    """A trigger may raise an error of a gigabyte, and a journal holds several copies."""
    told = str(RunbookError("x" * 3_000_000, detail="y" * 8_000))
    assert "... (3,000,000 characters)\nDetail: yyy" in told
    assert len(told) < 17_000
