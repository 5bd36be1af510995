"""The execution of a plan on a branch, with a journal of its own."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg

from pgrunbook import undo_data
from pgrunbook.branches import installations, isolation
from pgrunbook.config.targets import Target
from pgrunbook.database import activity, connection
from pgrunbook.database.connection import Connection
from pgrunbook.database.schema import Snapshot
from pgrunbook.draft import build
from pgrunbook.draft.missing_rows import is_for_missing_rows
from pgrunbook.errors import RunbookError, StatementFailed
from pgrunbook.execute import permit
from pgrunbook.execute.events import StepObserver
from pgrunbook.execute.execution import Execution
from pgrunbook.history import History
from pgrunbook.online.batches import Haste
from pgrunbook.plan.plan import Change, Direction, Plan
from pgrunbook.record.journal import Journal
from pgrunbook.undo_data import OnConflict
from pgrunbook.undo_data.parked_names import PARKED
from pgrunbook.undo_data.tables import SCHEMA

RUN_ID = "rehearsal"


def execute(
    branch: Target,
    conn: Connection,
    history: History,
    change: Change,
    journal: Journal,
    observer: StepObserver | None = None,
    *,
    direction: Direction = "up",
    as_written: bool = False,
    again: bool = False,
    haste: Haste | None = None,
    on_conflict: OnConflict = "stop",
    is_empty: bool = False,
) -> float:
    """Execute one change on a branch, exactly as migrate and rollback do; return how long it took, in ms.

    ``as_written`` says that its statements are those of the file, without safe forms. With ``again`` it is another
    run, whose undo data is captured beside that of the first one. With ``haste`` later batches of a loop are large.
    Of a branch that ``is_empty``, statements are passed over that need rows.

    Raises Refused where ``conn`` does not lead to a branch, StatementFailed with the target's state.
    """
    base = build.base(activity.identity(conn), Snapshot(0, ()), history)
    plan = Plan(
        direction=direction, target=branch.name, base=base, attempts=3, rehearsed="on a branch",
        changes=(change.rehearsed(),),
    )  # fmt: skip
    run_id = f"{RUN_ID}-again" if again else RUN_ID
    permitted = permit.of_branch(plan, run_id, conn, on_conflict)
    began = time.monotonic()
    try:
        Execution(
            plan,
            branch,
            run_id,
            conn,
            history,
            journal,
            permitted,
            observer=observer,
            haste=haste,
            passes_over=is_for_missing_rows if is_empty else None,
        ).run()
    except RunbookError as exc:
        raise _failed(conn, change, exc, direction, as_written=as_written) from exc
    connection.reset(conn)
    return (time.monotonic() - began) * 1000


def _failed(
    conn: Connection, change: Change, exc: RunbookError, direction: Direction, *, as_written: bool
) -> StatementFailed:
    """Return the error for what failed on a branch."""
    places = _captured(conn, change, exc) if direction == "up" else []
    told = [exc.detail, *(f"It may be a row in {one}." for one in places if f"{one}" not in exc.detail)]
    return StatementFailed(
        f"the {'migration' if as_written else 'safe plan'} would fail: {exc.message}",
        detail=" ".join(told).strip(),
        state="Nothing changed in the target: it failed in a rehearsal.",
        hint=(undo_data.way_on(places, "prepare again") if places else "")
        or branch_hint(conn, f"{exc.message} {exc.detail}", _left_out(change))
        or (
            "Correct the migration, or the rows that it fails on."
            if as_written
            else "Switch the safe form off for the statement (safe_forms_off), or write the statement differently."
        ),
    )


def _captured(conn: Connection, change: Change, exc: RunbookError) -> list[undo_data.CapturedPlace]:
    """Return where captured rows lie that the server may have refused when they were reapplied; [] for none."""
    if not isinstance(exc.__cause__, psycopg.IntegrityError):
        return []
    refused = exc.__cause__.diag.message_detail or ""
    return undo_data.captured_places(conn, change.migration, refused, is_branch=True)


def branch_hint(conn: Connection, told: str, left_out: Sequence[str]) -> str:
    """Return the hint for a statement that fails because of what a branch is not, "" where that is not seen.

    ``told`` is what the server said, ``left_out`` are the statements before it that were not rehearsed.
    """
    if f"{SCHEMA}.{PARKED}" in told:
        return (
            "The key of a parked table's partitions needs it. Purge the parked table (pgrunbook undo-data purge);"
            " where this release drops it, prepare with keep = False, and then it has no way back."
        )
    lacking = installations.explained(told, conn)
    if lacking:
        return lacking
    because = isolation.explained(told)
    if because:
        return f"{because} Run it by hand, or prepare without the rehearsal that it fails in (with_data, rehearse)."
    if left_out:
        return f"If it needs what {', '.join(left_out)} does, which no branch executes, release that one before it."
    return ""


def _left_out(change: Change) -> list[str]:
    return [written.key for written in change.statements if not written.is_rehearsed]


def why(exc: StatementFailed) -> str:
    """Return the error of a branch with the server's detail, in one line."""
    return f"{exc.message} ({exc.detail})" if exc.detail else exc.message


@contextmanager
def journal() -> Iterator[Journal]:
    """Yield a journal for a branch; it is no part of the run's journal."""
    with tempfile.TemporaryDirectory(prefix="pgrunbook-") as folder:
        yield Journal(Path(folder) / "journal.jsonl")


def _limit(conn: Connection) -> None:
    connection.limit(conn, lock_timeout_ms=10_000, statement_timeout_ms=600_000)
