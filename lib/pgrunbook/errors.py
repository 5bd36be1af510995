"""The errors of pgrunbook, in PostgreSQL's own form with one line more: the state of the database."""

from __future__ import annotations

NOTHING_CHANGED = "Nothing changed in the database."


class RunbookError(Exception):
    """An error that says what happened, the state of the database now, and what to do next.

    ``str()`` gives all lines, as STYLE.md shows them; ``exit_code`` is what the command line ends with.
    """

    exit_code = 1

    def __init__(self, message: str, *, detail: str = "", state: str = NOTHING_CHANGED, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.state = state
        self.hint = hint

    def lines(self) -> list[str]:
        """The message, then one line each for Detail, State and Hint, where there is something to say."""
        parts = [("Detail", self.detail), ("State", self.state), ("Hint", self.hint)]
        return [self.message, *(f"{label}: {text}" for label, text in parts if text)]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in a notebook instead of a traceback."""
        return [f"\x1b[31m{self.message}\x1b[0m", *self.lines()[1:]]


class WrongInput(RunbookError):
    """The operator has to correct a parameter, a target, a file or a folder."""

    exit_code = 2


class Refused(RunbookError):
    """A gate refused: the operator decides, or does what the gate asks for."""

    exit_code = 3


class Unreachable(RunbookError):
    """A server could not be reached or started: the operator has to check it."""


class Blocked(RunbookError):
    """Another session or process holds what is needed: wait, or talk to its owner, then run it again."""


class StatementFailed(RunbookError):
    """The server refused a statement: the operator has to correct the migration."""


class Broken(RunbookError):
    """The database or a file is not as it was promised: the operator has to check it before going on."""


class Interrupted(RunbookError):
    """The run was stopped: the same command continues it."""


class RecordFailed(RunbookError):
    """The record could not be written: a step that cannot be recorded is not run."""
