"""The progress of a step that takes longer than two seconds: in the notebook one display, in the journal notes.

The terminal and the log read the notes (``runner.progress``). A thread of its own looks once a second at what is told
(``display.progress``), so that the work never waits for a browser; where none is open, nothing else differs.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbook.display import progress
from pgrunbook.display.progress import Work
from pgrunbook.display.show import Table
from pgrunbook.errors import Interrupted, RecordFailed
from pgrunbook.record.journal import Journal
from pgrunbook.session.live_display import LiveDisplay

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
        display = LiveDisplay()
        # The display belongs to the cell whose context this is.
        look = contextvars.copy_context().run
        thread = threading.Thread(
            target=look, args=(_follow, work, over, display if draws else None, journal, procedure), daemon=True
        )
        thread.start()
        try:
            yield
        except BaseException as exc:
            _end(over, thread)
            stopped = isinstance(exc, KeyboardInterrupt | Interrupted)
            where = work.broke_off(exc)
            end = f"{'Stopped' if stopped else 'Failed'} after {work.took_s:.1f} s"
            _close(display, f"{end} while {where}." if where else f"{end}.")
            raise
        _end(over, thread)
        _close(display, f"It took {work.account()}.")


def _end(over: threading.Event, thread: threading.Thread) -> None:
    over.set()
    thread.join()


def _close(display: LiveDisplay, says: str) -> None:
    """Put a last sentence in the place of what was drawn, if anything was."""
    if display.is_drawn:
        display.draw(Table([], [], empty=says))


def _follow(work: Work, over: threading.Event, display: LiveDisplay | None, journal: Journal, procedure: str) -> None:
    noted, wait_s = "", SHOWN_AFTER_S
    while not over.wait(wait_s):
        wait_s = LOOK_S
        now = work.now()
        if not now:
            continue
        if display is not None:
            display.draw(Table([], [], empty=f"{now[:1].upper()}{now[1:]}, for {work.took_s:.0f} s now."))
        if now != noted:
            noted = now
            try:
                journal.note(EVENT, procedure=procedure, says=now)
            except RecordFailed:
                return  # the step's own next event raises it, where it can be told
