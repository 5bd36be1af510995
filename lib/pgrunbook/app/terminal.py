"""What several commands share: the target that they name, the errors of their looks, the last lines of a run."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pgrunbook.errors import RunbookError, WrongInput

if TYPE_CHECKING:
    from pgrunbook.config.targets import Target
    from pgrunbook.record.run import Run


MOST_RUNS = 500  # the page of so many costs half a second of processor time

log = logging.getLogger(__name__)


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
    told = pages(made)
    if told and (code or not quiet) and not as_json:
        sys.stderr.write(f"{told}\n")
    if code:
        sys.exit(code)


def pages(made: Run) -> str:
    """Write the page of a run that has ended, and that of all runs; return where it is, or why it could not be made.

    All that matters is done by then: the ledger is closed, the lock is released. So nothing that happens here changes
    how the run ended. The page of all runs verifies the whole ledger, and is left to ``pgrunbook report`` where that
    would take more than a moment. Nothing is written, and "" returned, where PGRUNBOOK_REPORTS says no.
    """
    if os.environ.get("PGRUNBOOK_REPORTS", "").lower() in ("no", "0", "false", "off"):
        return ""
    from pgrunbook.record import run as runs
    from pgrunbook.seal import report, run_index

    try:
        path = report.write(made)
        if len(runs.folders()) <= MOST_RUNS:
            run_index.write(made.folder.parent)
    except (Exception, KeyboardInterrupt) as exc:  # a page is made from the record, and can be made again
        log.debug("no page of run %s", made.run_id, exc_info=exc)
        why = " ".join(str(exc).split()) or type(exc).__name__
        return f"no page was made of it ({why}); make it with: pgrunbook report {made.run_id}"
    return f"page: {path}"
