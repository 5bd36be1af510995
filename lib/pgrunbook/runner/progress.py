"""The progress of a run on the terminal: a bar per procedure; elsewhere a line per cell, and one per ten seconds.

It is fed by the cells as they begin, and by what their steps note in the journal (``session.step_progress``).
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any

from pgrunbook.display.show import one_line
from pgrunbook.record.journal import Tail
from pgrunbook.record.run import Part, Status

POLL_S = 0.3
LINE_S = 10.0
NOTED = "progress"
COLOURS = {Status.DONE: "green", Status.REFUSED: "yellow", Status.INTERRUPTED: "yellow"}
_OF_ALL = frozenset({"seq", "at", "event", "pid", "prev", "procedure"})  # the facts of an event that each line has


class Telling(Enum):
    """How much of a run is told while it goes on: errors only, a line per cell, or every event of its journal."""

    ERRORS = "errors"
    CELLS = "cells"
    EVENTS = "events"


_telling = ContextVar("telling", default=Telling.CELLS)


@contextmanager
def telling(much: Telling) -> Iterator[None]:
    """Tell so much of the runs in the body."""
    token = _telling.set(much)
    try:
        yield
    finally:
        _telling.reset(token)


class ProgressDisplay:
    """A live display on a terminal, plain lines elsewhere; all of it on stderr."""

    def __init__(self, title: str, journal_path: Path) -> None:
        self._title, self._journal = title, Tail(journal_path)
        self._tells = _telling.get()
        self._bars: Any = None
        self._task: Any = None
        self._procedure = self._cell = self._says = ""
        self._started_at = self._cell_at = self._line_at = time.monotonic()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> ProgressDisplay:
        if sys.stderr.isatty() and self._tells is Telling.CELLS:
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
        self._thread.join()
        self._tell_events(self._journal.events())
        if self._bars is not None:
            self._bars.stop()

    def procedure(self, name: str) -> None:
        """A procedure begins."""
        self._started_at = time.monotonic()
        with self._lock:
            self._procedure = name
        if self._bars is not None:
            self._task = self._bars.add_task("starting", name=name, total=None, status="", colour="default")

    def cell(self, cell: Any) -> None:
        """A code cell begins."""
        given = "injected-parameters" in cell.metadata.get("tags", ())
        self._cell_ended("parameters" if given else cell.get("id", ""))
        if self._bars is not None:
            self._bars.update(self._task, description=self._cell)

    def ended(self, part: Part, says: tuple[str, ...]) -> None:
        """The procedure ended; ``says`` is its error, line by line."""
        self._cell_ended("")
        took_s, told = time.monotonic() - self._started_at, one_line(part.says)
        if self._bars is not None:
            colour = COLOURS.get(part.status, "red")
            self._bars.update(self._task, total=1, completed=1, status=part.status, colour=colour, description=told)
        elif self._tells is not Telling.ERRORS:
            line = "" if says else told  # the error follows as a whole
            _write(f"{part.procedure:9} {part.status:11} {took_s:6.1f} s  {line}")
        if says:
            text = "\n".join(says) + "\n"
            if self._bars is not None:
                self._bars.console.print(text, markup=False, highlight=False)
            else:
                _write(text)

    def _cell_ended(self, following: str) -> None:
        with self._lock:
            now = time.monotonic()
            if self._cell not in ("", "parameters") and self._bars is None and self._tells is not Telling.ERRORS:
                _write(f"{self._procedure:9} {self._cell:24} {now - self._cell_at:6.1f} s")
            self._cell, self._says = following, ""
            self._cell_at = self._line_at = now

    def _follow(self) -> None:
        while not self._over.wait(POLL_S):
            events = list(self._journal.events())
            self._tell_events(events)
            if self._tells is not Telling.CELLS:
                continue
            noted = [one_line(str(event["says"])) for event in events if event["event"] == NOTED]
            with self._lock:
                self._says = noted[-1] if noted else self._says
                if not self._cell or not self._says:
                    continue
                now = time.monotonic()
                if self._bars is not None:
                    self._bars.update(self._task, description=f"{self._cell}: {self._says}")
                elif now - self._line_at >= LINE_S:
                    self._line_at = now
                    _write(f"{self._procedure:9} {self._cell:24} {now - self._cell_at:6.1f} s  {self._says}")

    def _tell_events(self, events: Iterable[Mapping[str, Any]]) -> None:
        if self._tells is Telling.EVENTS:
            for event in events:
                facts = ", ".join(f"{name} {value}" for name, value in event.items() if name not in _OF_ALL)
                _write(one_line(f"{event.get('at', '')} {event['event']}  {facts}"))


def _write(line: str) -> None:
    sys.stderr.write(line.rstrip() + "\n")
    sys.stderr.flush()
