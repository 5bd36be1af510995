"""The progress of a step that takes longer than two seconds: in the notebook one display, in the journal notes.

The terminal and the log read the notes (``runner.progress``). A thread of its own looks once a second at what is told
(``display.progress``), so that the work never waits for a browser; where none is open, nothing else differs.
"""

from __future__ import annotations

import contextvars
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pgrunbook.display import progress
from pgrunbook.display.progress import Work
from pgrunbook.display.show import Table
from pgrunbook.errors import Interrupted, RecordFailed
from pgrunbook.record.journal import Journal

SHOWN_AFTER_S = 2.0
LOOK_S = 1.0
EVENT = "progress"


@contextmanager
def shown(journal: Journal, procedure: str, *, draws: bool = True) -> Iterator[None]:
    """Show what the body does as long as it lasts; at the end how long it took, or where it broke off.

    Without ``draws`` the step has a display of its own, and only the journal is written.
    """
    with progress.watched() as work:
        over = threading.Event()
        display = _Display(draws)
        # The display belongs to the cell whose context this is.
        look = contextvars.copy_context().run
        thread = threading.Thread(target=look, args=(_follow, work, over, display, journal, procedure), daemon=True)
        thread.start()
        try:
            yield
        except BaseException as exc:
            _end(over, thread)
            stopped = isinstance(exc, KeyboardInterrupt | Interrupted)
            where = work.broke_off(exc)
            end = f"{'Stopped' if stopped else 'Failed'} after {work.took_s:.1f} s"
            display.close(f"{end} while {where}." if where else f"{end}.")
            raise
        _end(over, thread)
        display.close(f"It took {work.account()}.")


def _end(over: threading.Event, thread: threading.Thread) -> None:
    over.set()
    thread.join()


def _follow(work: Work, over: threading.Event, display: _Display, journal: Journal, procedure: str) -> None:
    noted, wait_s = "", SHOWN_AFTER_S
    while not over.wait(wait_s):
        wait_s = LOOK_S
        now = work.now()
        if not now:
            continue
        display.draw(f"{now[:1].upper()}{now[1:]}, for {work.took_s:.0f} s now.")
        if now != noted:
            noted = now
            try:
                journal.note(EVENT, procedure=procedure, says=now)
            except RecordFailed:
                return  # the step's own next event raises it, where it can be told


class _Display:
    """One display, which is redrawn."""

    def __init__(self, draws: bool) -> None:
        self._draws = draws
        self._handle: Any = None

    def draw(self, says: str) -> None:
        if not self._draws or "IPython" not in sys.modules:
            return
        from IPython import get_ipython
        from IPython.display import display

        if get_ipython() is None:
            return
        table = Table([], [], empty=says)
        if self._handle is None:
            self._handle = display(table, display_id=True)
        else:
            self._handle.update(table)

    def close(self, says: str) -> None:
        """Put a last sentence in the place of what was drawn, if anything was."""
        if self._handle is not None:
            self.draw(says)
