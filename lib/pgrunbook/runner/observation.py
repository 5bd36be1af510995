"""The observation of a run: monitor runs beside its notebooks, in a thread of the runner (``observe: true``).

It has a connection of its own. Whatever becomes of it, the run goes on: a server that is away is looked for again,
and what ends the observation is in the journal.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pgrunbook.errors import RecordFailed, RunbookError, Unreachable
from pgrunbook.record.run import Run
from pgrunbook.session import naming

if TYPE_CHECKING:
    from pgrunbook.database.connection import Connection
    from pgrunbook.session.watch import ServerWatch

INTERVAL_S = 1.0
END_S = 10.0
PROCEDURE = "observe"

log = logging.getLogger(__name__)


@contextmanager
def observed(made: Run, *, observe: bool) -> Iterator[None]:
    """Watch the target of a run while the body runs, where it is asked for; the samples are part of its record."""
    if not observe:
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_observe, args=(made, over), name=PROCEDURE, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(END_S)


def _observe(made: Run, over: threading.Event) -> None:
    try:
        _watch(made, over)
    except RecordFailed:
        log.warning("the record cannot be written: the observation of this run ends")
    except RunbookError as exc:
        _ended(made, " ".join(exc.lines()))
    except Exception as exc:  # the run must not fail for it
        log.exception("the observation of this run failed")
        _ended(made, f"{type(exc).__name__}: {exc}")


def _watch(made: Run, over: threading.Event) -> None:
    import psycopg  # imported only here: the runner of a run that is not observed does not need it

    from pgrunbook.database.connection import connect
    from pgrunbook.session.watch import ServerWatch

    def note(event: str, **facts: object) -> None:
        made.journal.write(event, procedure=PROCEDURE, **facts)

    target, is_away = naming.target(made.target), False
    watch = ServerWatch(target, note, made.folder)
    try:
        while not over.is_set():
            try:
                with connect(target, purpose=f"observes {made.run_id}") as conn:
                    if (needed := _needed(conn)) is not None:
                        return note("observe-ended", detail=needed)
                    is_away = False
                    _look_on(watch, conn, over)
            except (psycopg.Error, Unreachable) as exc:
                if not is_away:
                    note("observe-away", detail=" ".join(str(exc).split()))
                is_away = True
            over.wait(INTERVAL_S)
    finally:
        watch.close()
    return None


def _look_on(watch: ServerWatch, conn: Connection, over: threading.Event) -> None:
    while True:
        watch.look(conn)
        if over.wait(INTERVAL_S):
            return


def _needed(conn: Connection) -> str | None:
    """Return why this connection is one too many, None where it is not: beside it a run needs all that it asks for."""
    from pgrunbook.database import activity
    from pgrunbook.database.readiness import CONNECTIONS

    for found in activity.rows(conn, "connection_limits"):
        if found["most"] - found["others"] <= CONNECTIONS:
            told = f"CONNECTION LIMIT {found['most']} of {found['of']}, of which others use {found['others']}"
            return f"{told}: a run needs {CONNECTIONS}, and leaves none for it"
    return None


def _ended(made: Run, why: str) -> None:
    try:
        made.journal.write("observe-ended", procedure=PROCEDURE, detail=why)
    except RecordFailed:
        log.warning("the observation of this run ended, and the journal cannot be written: %s", why)
