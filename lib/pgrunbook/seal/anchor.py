"""The anchors of a run in its target: what the ledger said when the run began to write there, and when it ended.

A run that only reads has none; its runner does not even import the driver.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pgrunbook.errors import RunbookError
from pgrunbook.record import journal
from pgrunbook.record.journal import Event
from pgrunbook.record.run import Run
from pgrunbook.seal import attempt
from pgrunbook.seal.changes import ANCHORED
from pgrunbook.seal.ledger import Line

NOT_ASKED = "the database was not asked before run %s was sealed: %s"

if TYPE_CHECKING:
    from pgrunbook.config.targets import Target
    from pgrunbook.database.connection import Connection

ANCHORED_BESIDE = "anchored-beside"

log = logging.getLogger(__name__)


def opening(conn: Connection, run: Run, *, for_restore_point: bool = False) -> None:
    """Anchor the line that opened this attempt, once, before the run writes anything else into the database.

    A run that the ledger does not know has nothing to anchor. A restore point alone changes nothing
    (``for_restore_point``). The end of an attempt before it is anchored too where that is not so yet: its runner was
    killed then, or the server.

    Raises as anchors.write, RecordFailed when the journal cannot be written.
    """
    from pgrunbook.database import anchors

    line = attempt.standing(run)
    if not line or _anchored(journal.read(run.journal.path), int(line["seq"])) is not None:
        return
    _close_earlier(conn, run)
    at = anchors.write(conn, line["ledger"], line["seq"], line["kind"], run.run_id, line["sha256"])
    run.journal.write(
        ANCHORED, ledger=line["ledger"], line=line["seq"], target=run.target, system_identifier=at.system_identifier,
        timeline=at.timeline, lsn=at.lsn, session_user=at.session_user_name,
        for_restore_point=for_restore_point,
    )  # fmt: skip


def opening_beside(conn: Connection, run: Run, server: str) -> None:
    """Anchor the line that opened this attempt in a database that was restored beside the target, once for each server.

    That database is needed, whatever becomes of its anchor: where it cannot be written the log says so.

    Raises RecordFailed when the journal cannot be written.
    """
    import psycopg

    from pgrunbook.database import anchors

    line, events = attempt.standing(run), journal.read(run.journal.path)
    if not line or any(one["server"] == server for one in _beside(events, int(line["seq"]))):
        return
    try:
        at = anchors.write(conn, line["ledger"], line["seq"], line["kind"], run.run_id, line["sha256"])
    except (RunbookError, psycopg.Error) as exc:
        log.warning("the beginning of run %s could not be anchored on server %s: %s", run.run_id, server, _first(exc))
        return
    run.journal.write(
        ANCHORED_BESIDE, server=server, database=conn.info.dbname, ledger=line["ledger"], line=line["seq"],
        system_identifier=at.system_identifier, timeline=at.timeline, lsn=at.lsn,
    )  # fmt: skip


def seal(run: Run, target: Callable[[], Target]) -> Line:
    """Seal a run that has ended; where its beginning is anchored, ask the database and anchor the end as well.

    A database that cannot be reached now keeps nothing from being sealed: the seal says that it was not asked, and
    verify that the end is not anchored.

    Raises as attempt.end.
    """
    line = attempt.standing(run)
    events = journal.read(run.journal.path) if line else []
    begun = _anchored(events, int(line["seq"])) if line else None
    beside = _beside(events, int(line["seq"])) if line else []
    sealed = attempt.end(run) if begun is None else _seal_begun(run, target, begun)
    for one in beside:
        _close_beside(run, target, one, sealed)
    return sealed


def _seal_begun(run: Run, target: Callable[[], Target], begun: Event) -> Line:
    with _connected(run, target) as conn:
        rows = _steps(conn, run) if conn is not None else None
        sealed = attempt.end(run, rows, anchored=_place(begun))
        if conn is not None and rows is not None:
            _close(conn, run, sealed)
    return sealed


def close_late(run: Run, target: Callable[[], Target]) -> list[int]:
    """Anchor the ends of the attempts of a sealed run whose rows are missing; return the numbers of their lines.

    Its runner was killed, or the server, between the line and the row. Raises Unreachable, and as anchors.write.
    """
    from pgrunbook.database.connection import connect

    if not any(_is_anchored_here(line, run) for line in attempt.closings(run)):
        return []
    with connect(target(), purpose=f"seals {run.run_id}") as conn:
        return _close_earlier(conn, run)


def _close_beside(run: Run, target: Callable[[], Target], one: Event, line: Line) -> None:
    """Anchor the end on a restored server as well; one that was destroyed meanwhile has nothing to tell."""
    there = {"server": one["server"], "database": one["database"], "service": None, "url_from": None}
    with _connected(run, lambda: target().model_copy(update=there)) as conn:
        if conn is not None:
            _close(conn, run, line)


def seal_if_over(run: Run, target: Callable[[], Target]) -> Line | None:
    """Seal the open attempt of a run that has ended as a whole; None where it goes on. Raises as :func:`seal`."""
    return seal(run, target) if attempt.is_over(run) else None


@contextmanager
def _connected(run: Run, target: Callable[[], Target]) -> Iterator[Connection | None]:
    import psycopg

    from pgrunbook.database.connection import connect

    try:
        conn = connect(target(), purpose=f"seals {run.run_id}")
    except (RunbookError, psycopg.Error) as exc:
        log.warning(NOT_ASKED, run.run_id, _first(exc))
        yield None
        return
    try:
        yield conn
    finally:
        conn.close()


def _steps(conn: Connection, run: Run) -> Sequence[Mapping[str, Any]] | None:
    import psycopg

    from pgrunbook.database import step_log

    try:
        return step_log.of_run(conn, run.run_id)
    except (RunbookError, psycopg.Error) as exc:
        log.warning(NOT_ASKED, run.run_id, _first(exc))
        return None


def _close(conn: Connection, run: Run, line: Line) -> None:
    import psycopg

    from pgrunbook.database import anchors

    try:
        anchors.write(conn, line.ledger, line.seq, str(line.predicate["kind"]), run.run_id, line.sha256)
    except (RunbookError, psycopg.Error) as exc:
        log.warning("the end of run %s could not be anchored in its database: %s", run.run_id, _first(exc))


def _close_earlier(conn: Connection, run: Run) -> list[int]:
    from pgrunbook.database import anchors

    said = [line for line in attempt.closings(run) if _is_anchored_here(line, run)]
    there = {(row.ledger, row.seq) for row in anchors.rows(conn)} if said else set()
    missing = [
        line
        for line in reversed(said)
        # Where its beginning is not there either, the database was restored to before it.
        if (line.ledger, line.seq) not in there and (line.ledger, line.predicate["anchor"].get("line")) in there
    ]
    for line in missing:
        anchors.write(conn, line.ledger, line.seq, str(line.predicate["kind"]), run.run_id, line.sha256)
        log.info("line %s of the ledger, which ended an attempt of run %s, is anchored late", line.seq, run.run_id)
    return [line.seq for line in missing]


def _is_anchored_here(line: Line, run: Run) -> bool:
    """Tell whether the seal of an attempt says that its beginning is anchored in the target of its run."""
    anchor = line.predicate.get("anchor")
    return isinstance(anchor, Mapping) and anchor.get("target") == run.target


def _anchored(events: Sequence[Event], seq: int) -> Event | None:
    return next((e for e in reversed(events) if e["event"] == ANCHORED and e.get("line") == seq), None)


def _beside(events: Sequence[Event], seq: int) -> list[Event]:
    """Return where else an attempt is anchored: on servers that it has restored."""
    return [e for e in events if e["event"] == ANCHORED_BESIDE and e.get("line") == seq]


def _place(event: Event) -> dict[str, Any]:
    names = ("target", "ledger", "line", "system_identifier", "timeline", "lsn", "session_user")
    return {name: event[name] for name in names}


def _first(exc: Exception) -> str:
    return str(exc).partition("\n")[0]
