"""The errors of pgrunbook, in PostgreSQL's own form with one line more: the state of the database."""

from __future__ import annotations

import re

NOTHING_CHANGED = "Nothing changed in the database."
MOST_CHARS = 8_000
# What a server or a user of the database says may move a terminal's cursor, set its title or turn its text around.
_UNSEEN = {
    code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    for code in (*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}


class RunbookError(Exception):
    """An error that says what happened, the state of the database now, and what to do next.

    Its texts may hold what somebody else wrote (a server's message, a name): control characters are shown as
    escapes, a line after the first is indented, for none of it may pass for a line of ours, and length is bounded.

    ``str()`` gives all lines, as STYLE.md shows them; ``exit_code`` is what the command line ends with. ``section`` is
    the cell of notebook troubleshoot that helps, "" where none does; a kind has its own, unless one is given.
    """

    exit_code = 1
    section: str = ""

    def __init__(
        self, message: str, *, detail: str = "", state: str = NOTHING_CHANGED, hint: str = "", section: str = ""
    ) -> None:
        super().__init__(_bounded(message))
        self.section = section or self.section
        self.message = _bounded(message)
        self.detail = _bounded(detail)
        self.state = state
        self.hint = _bounded(hint)

    def lines(self) -> list[str]:
        """The message, then one line each for Detail, State and Hint, where there is something to say."""
        parts = [("Detail", self.detail), ("State", self.state), ("Hint", self.hint)]
        found = [self.message, *(f"{label}: {text}" for label, text in parts if text)]
        return [re.sub(r"\n(?=\S)", "\n  ", line) for line in found]

    def shown(self) -> list[str]:
        """The lines, and the section of troubleshoot that helps: for who has the error before them."""
        if not self.section:
            return self.lines()
        return [*self.lines(), f"See: section {self.section} of notebook troubleshoot, or pgrunbook doctor."]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in a notebook instead of a traceback."""
        first, *others = self.shown()
        return [f"\x1b[31m{first}\x1b[0m", *others]


def _bounded(text: str) -> str:
    shown = text[:MOST_CHARS].translate(_UNSEEN)
    return shown if len(text) <= MOST_CHARS else f"{shown} ... ({len(text):,} characters)"


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

    section: str = "stuck"


class TargetBusy(Blocked):
    """Somebody else is at work on this target, or in this run: wait until that has ended."""

    exit_code = 4


class StatementFailed(RunbookError):
    """The server refused a statement: the operator has to correct the migration."""

    section: str = "left-behind"


class Broken(RunbookError):
    """The database or a file is not as it was promised: the operator has to check it before going on."""


class Interrupted(RunbookError):
    """The run was stopped: the same command continues it."""


class RecordFailed(RunbookError):
    """The record could not be written: a step that cannot be recorded is not run."""
