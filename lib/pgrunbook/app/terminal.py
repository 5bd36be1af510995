"""What several commands share: the target that they name, the errors of their looks, the last lines of a run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pgrunbook.errors import RunbookError, WrongInput

if TYPE_CHECKING:
    from pgrunbook.config.targets import Target
    from pgrunbook.record.run import Run


def chosen(target: str, command: str) -> Target:
    """Return the target of that name. Raises WrongInput where none is named, or it is not declared."""
    from pgrunbook.session import naming

    if not target:
        raise WrongInput(
            "a target must be named",
            detail="targets.toml declares the targets.",
            hint=f"For example: pgrunbook {command} --target demo",
        )
    return naming.target(target)


@contextmanager
def looking(target: Target, *, again: str = "run this again", code: int | None = None) -> Iterator[None]:
    """Make the driver's errors in the body ours; nothing but looks happens there.

    With ``code`` the command ends with it, where an error's own code would say that something was found.
    """
    import psycopg

    from pgrunbook.database import sqlstate
    from pgrunbook.record import door

    try:
        try:
            yield
        except psycopg.Error as exc:
            raise sqlstate.explained(exc, target.name, state="It was only looked at.", again=again) from exc
    except RunbookError as exc:
        if code is None:
            raise
        sys.stderr.write(door.masked("\n".join(exc.shown())) + "\n")
        sys.exit(code)


@contextmanager
def working() -> Iterator[None]:
    """Show what is done and for how long while the body runs, where somebody looks at a terminal."""
    from pgrunbook.display import progress

    with progress.watched() as work:
        if not sys.stderr.isatty():
            yield
            return
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        def line() -> Text:
            return Text(f"{work.took_s:.0f} s  {work.now()}")

        with Live(get_renderable=line, console=Console(stderr=True), transient=True):
            yield


def end(made: Run, code: int, *, quiet: bool = False, as_json: bool = False) -> None:
    """Write how a headless run ended, where its record is, and what to do next; exit with its code unless that is 0.

    ``quiet`` tells nothing of one that is done; with ``as_json`` it is told on stdout, as JSON.
    """
    from pgrunbook.runner import headless

    following = headless.next_step(made) if code else ""
    if as_json:
        from pgrunbook.app import run_report
        from pgrunbook.session import acceptance

        ended = run_report.ended(made, code, following, acceptance.open_gates(made))
        sys.stdout.write(ended.model_dump_json(indent=1) + "\n")
    elif code or not quiet:
        from pgrunbook.seal import git_trailer

        sys.stderr.write(f"{made.status}: {made.folder}\n" + (f"{following}\n" if following else ""))
        sys.stderr.write(git_trailer.asked_for(made))
    if code:
        sys.exit(code)
