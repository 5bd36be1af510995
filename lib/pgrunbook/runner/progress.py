"""The progress of a run on the terminal: a bar per procedure, fed by cells and by the journal."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from pgrunbook.record import journal
from pgrunbook.record.run import Part, Status

POLL_S = 0.3
# What is shown of the journal, and in which cells.
_FOLLOWED = ("step-started", "attempt-failed", "restore-progress", "count-progress")
_CELLS = ("execute-plan", "take-back", "restore-to-branch", "what-about-new-rows")
COLOURS = {Status.DONE: "green", Status.REFUSED: "yellow", Status.INTERRUPTED: "yellow"}


class ProgressDisplay:
    """A live display on a terminal, plain lines elsewhere; all of it on stderr."""

    def __init__(self, title: str, journal_path: Path) -> None:
        self._title, self._journal = title, journal_path
        self._bars: Any = None
        self._task: Any = None
        self._cell = ""
        self._started_at = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> ProgressDisplay:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bars

            columns = (
                TextColumn("{task.fields[name]:9}"),
                BarColumn(24),
                TimeElapsedColumn(),
                TextColumn("[{task.fields[colour]}]{task.fields[status]}[/]"),
                TextColumn("{task.description}", markup=False),  # it quotes names and errors, which may hold [brackets]
            )
            self._bars = Bars(*columns, console=Console(stderr=True))
            self._bars.start()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._bars is not None:
            self._thread.join()
            self._bars.stop()

    def procedure(self, name: str) -> None:
        """A procedure begins."""
        self._started_at, self._cell = time.monotonic(), ""
        if self._bars is not None:
            self._task = self._bars.add_task("starting", name=name, total=None, status="", colour="default")

    def cell(self, cell: Any) -> None:
        """A code cell begins."""
        self._cell = cell.get("id", "")
        if self._bars is not None:
            self._bars.update(self._task, description=self._cell)

    def ended(self, part: Part, says: tuple[str, ...]) -> None:
        """The procedure ended; ``says`` is its error, line by line."""
        took_s = time.monotonic() - self._started_at
        if self._bars is not None:
            colour = COLOURS.get(part.status, "red")
            self._bars.update(
                self._task, total=1, completed=1, status=part.status, colour=colour, description=part.says
            )
        else:
            line = "" if says else part.says  # the error follows as a whole
            sys.stderr.write(f"{part.procedure:9} {part.status:11} {took_s:6.1f} s  {line}".rstrip() + "\n")
        if says:
            text = "\n".join(says) + "\n"
            if self._bars is not None:
                self._bars.console.print(text, markup=False, highlight=False)
            else:
                sys.stderr.write(text)
                sys.stderr.flush()

    def _follow(self) -> None:
        while not self._over.wait(POLL_S):
            events = journal.read(self._journal)
            steps = [e for e in events if e["event"] in _FOLLOWED]
            if steps and self._task is not None and self._cell in _CELLS:
                self._bars.update(self._task, description=f"{self._cell}: {_described(steps[-1])}")


def _described(event: dict[str, Any]) -> str:
    if event["event"] == "restore-progress":
        of = f" of {event['of'] / 1024 / 1024:,.0f}" if event.get("of") else ""
        return f"{event['what']} {event['bytes'] / 1024 / 1024:,.0f}{of} MB"
    if event["event"] == "count-progress":
        return f"{event['what']}: {event['count']:,} so far"
    if event["event"] == "attempt-failed":
        return f"attempt {event['attempt']} of {event['of']} failed: {event['blockers'] or event['message']}"
    return f"{event['migration']} step {event['step']}, {event['kind']}, attempt {event['attempt']}"
