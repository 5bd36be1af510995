"""The errors: PostgreSQL's form with the state of the database, and the exit code of each."""

from __future__ import annotations

import pytest

from pgrunbook import errors
from pgrunbook.errors import RunbookError

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
