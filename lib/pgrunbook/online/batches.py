"""The batch loop: one statement executed in many transactions, by ranges of a key; it resumes after a crash.

1. The loop records the largest key of its start in ``pgrunbook.batch`` as its end.
2. Each batch is a transaction: it finds the end of its range, executes the statement on that range, and updates
   the progress row. Progress is the key, never a changed value: a row that the statement leaves unchanged cannot
   stop the loop.
3. Where others write to the table, a tracker notes rows that are new, and rows whose key has changed
   (``database.row_tracker``). Batches leave the new ones out, and behind the last range come those that were moved:
   each row that was there at the start is changed once, and no other.
4. A row that moved to another partition while a batch waited for it makes the batch fail (SQLSTATE 40001): it is
   aborted and executed again.
5. Between two batches the loop obeys the control row (``database.control``): it pauses, or ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from pgrunbook.database import own_schema, step_log
from pgrunbook.database.connection import Connection
from pgrunbook.database.control import Obedience, Order
from pgrunbook.database.queries import load
from pgrunbook.database.row_tracker import RowTracker
from pgrunbook.errors import Broken
from pgrunbook.plan.step import RANGE, Batches

LOCK_TIMEOUT_MS = 2_000
STATEMENT_TIMEOUT_MS = 30_000

# The pass behind the ranges: the rows that were moved.
_MOVED = 2
_MOVED_ATTEMPTS = 50

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchProgress:
    """The progress of a loop: keys as text, ``last_key`` None before the first batch."""

    name: str
    number: int
    last_key: tuple[str, ...] | None
    end_key: tuple[str, ...] | None
    batches: int
    rows: int
    is_done: bool
    started_at: str


@dataclass(frozen=True)
class Haste:
    """On a branch, where nobody waits: after so many batches of a loop, the later ones are so many times as large."""

    times: int
    after: int


def run_batches(
    conn: Connection,
    batches: Batches,
    *,
    resume_from: str,
    on_batch: Callable[[BatchProgress], None] = lambda _: None,
    lock_timeout_ms: int = LOCK_TIMEOUT_MS,
    statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
    haste: Haste | None = None,
    on_pause: Callable[[Order], None] = lambda _: None,
) -> BatchProgress:
    """Execute the statement batch by batch, from the progress row ``resume_from`` on; return the final progress.

    ``on_batch`` is called after each commit, ``on_pause`` when somebody asks the loop to pause. The connection must be
    in autocommit mode, outside a transaction.

    Raises psycopg's errors unchanged (a lock timeout, a row that the server refuses): committed batches stay, the
    failed batch is aborted, and the same call continues after the last committed batch. Raises Broken where somebody
    has switched the tracker's triggers off, Interrupted and Blocked as ``database.control``.
    Locks: RowExclusiveLock on the table, and the rows of one batch.
    """
    step_log.create(conn)
    attempt, obedience = 1, Obedience(conn, on_pause)
    while True:
        obedience.now()
        try:
            with conn.transaction():
                _set_locally(conn, lock_timeout_ms, statement_timeout_ms)
                before = _read(conn, resume_from)
                if before is None:
                    after = _begin(conn, batches, resume_from)
                elif before.is_done:
                    return before
                else:
                    times = haste.times if haste is not None and before.batches >= haste.after else 1
                    rows = batches.rows * times
                    after = _batch(conn, replace(batches, rows=rows), before)
                    _write(conn, after)
        except psycopg.errors.SerializationFailure as exc:
            if attempt == _MOVED_ATTEMPTS:
                raise
            log.info("attempt %s of %s at a batch: %s", attempt, _MOVED_ATTEMPTS, exc.diag.message_primary)
            attempt += 1
            continue
        attempt = 1
        if before is not None:
            on_batch(after)


def _batch(conn: Connection, batches: Batches, before: BatchProgress) -> BatchProgress:
    """Execute one batch: the next range, or behind the last one what is left of the rows that were moved."""
    if before.number == _MOVED or before.end_key is None or before.last_key == before.end_key:
        return _moved(conn, batches, before)
    upper = _upper(conn, batches, before)
    due = reached = _range(batches, before.last_key, upper)
    tracker = _tracker(batches)
    if tracker is not None:
        due = sql.SQL("({} AND {})").format(reached, tracker.is_due(batches.alias))
    rows = _execute(conn, batches, before, due)
    if tracker is not None:
        conn.execute(tracker.settle(batches.alias, reached))
        conn.execute(tracker.progress(_values(batches, upper)))
    return replace(before, last_key=upper, batches=before.batches + 1, rows=before.rows + rows)


def _moved(conn: Connection, batches: Batches, before: BatchProgress) -> BatchProgress:
    """Execute the statement on rows whose key has changed before a batch reached them; at the end there are none."""
    tracker = _tracker(batches)
    if tracker is None:
        return replace(before, is_done=True)
    ids = [int(str(row[0])) for row in conn.execute(tracker.left(batches.rows))]
    if not ids:
        _refuse_switched_off(conn, batches, tracker)
        return replace(before, is_done=True)
    rows = _execute(conn, batches, before, tracker.is_left(batches.alias, ids))
    conn.execute(tracker.settle(batches.alias, tracker.is_noted(batches.alias, ids), ids))
    return replace(before, number=_MOVED, batches=before.batches + 1, rows=before.rows + rows)


def _execute(conn: Connection, batches: Batches, before: BatchProgress, condition: sql.Composable) -> int:
    conn.execute("SELECT pg_catalog.set_config('pgrunbook.started_at', %s, true)", [before.started_at])
    if not batches.fires_triggers:
        conn.execute("SET LOCAL session_replication_role = replica")
    statement = batches.statement.replace(RANGE, condition.as_string(conn), 1)
    with conn.as_target():
        return conn.execute(statement.encode()).rowcount


def _refuse_switched_off(conn: Connection, batches: Batches, tracker: RowTracker) -> None:
    found = conn.execute(_query("switched_off"), {"function": tracker.function_name}).fetchall()
    if found:
        raise Broken(
            f"cannot tell which rows of {batches.schema}.{batches.table} were changed meanwhile",
            detail=f'Somebody has switched trigger "{found[0][0]}" off, and on again perhaps: rows that were inserted,'
            " or whose key changed meanwhile, may have been changed twice or not at all.",
            state="Nothing changed in the last transaction; the batches before it are committed.",
            hint="Compare the rows with what you expect, or roll the migration back; then begin it again.",
        )


def _tracker(batches: Batches) -> RowTracker | None:
    return RowTracker(batches.tracker, _table(batches), batches.key) if batches.tracker else None


def _end(conn: Connection, batches: Batches) -> tuple[str, ...] | None:
    """Return the largest key of the start; None for an empty table."""
    tracker = _tracker(batches)
    if tracker is not None:
        own_schema.hide(conn, tracker.name, tracker.function_name, f"{tracker.name}_id_seq")
        return _texts(conn.execute(tracker.end()).fetchone())
    query = sql.SQL("SELECT {} FROM {} AS {} ORDER BY {} LIMIT 1").format(
        _as_text(batches), _table(batches), sql.Identifier(batches.alias), _keys(batches, " DESC")
    )
    return _texts(conn.execute(query).fetchone())


def _upper(conn: Connection, batches: Batches, before: BatchProgress) -> tuple[str, ...]:
    """Return where the next batch ends: one batch of rows further, but not after the end of the loop."""
    end = before.end_key or ()
    query = sql.SQL("SELECT {} FROM {} AS {} WHERE {} ORDER BY {} LIMIT 1 OFFSET {}").format(
        _as_text(batches),
        _table(batches),
        sql.Identifier(batches.alias),
        _range(batches, before.last_key, end),
        _keys(batches, ""),
        sql.Literal(batches.rows - 1),
    )
    return _texts(conn.execute(query).fetchone()) or end


def _range(batches: Batches, after: Sequence[str] | None, upto: Sequence[str]) -> sql.Composable:
    """Compose the condition for keys after one key and up to another."""
    key = _keys(batches, "")
    above = sql.SQL("ROW({}) OPERATOR(pg_catalog.>) ROW({}) AND ").format(key, _values(batches, after)) if after else ""
    upto_ = sql.SQL("ROW({}) OPERATOR(pg_catalog.<=) ROW({})").format(key, _values(batches, upto))
    return sql.SQL("({}{})").format(sql.SQL(above) if isinstance(above, str) else above, upto_)


def _table(batches: Batches) -> sql.Identifier:
    return sql.Identifier(batches.schema, batches.table)


def _keys(batches: Batches, order: str) -> sql.Composable:
    parts = [sql.SQL("{}" + order).format(sql.Identifier(batches.alias, column)) for column in batches.key]
    return sql.SQL(", ").join(parts)


def _as_text(batches: Batches) -> sql.Composable:
    parts = [sql.SQL("{}::text").format(sql.Identifier(batches.alias, column)) for column in batches.key]
    return sql.SQL(", ").join(parts)


def _values(batches: Batches, key: Sequence[str]) -> sql.Composable:
    pairs = zip(key, batches.key_types, strict=True)
    return sql.SQL(", ").join(
        sql.SQL("CAST({} AS {})").format(sql.Literal(value), sql.SQL(type_)) for value, type_ in pairs
    )


def _texts(row: tuple[object, ...] | None) -> tuple[str, ...] | None:
    return None if row is None else tuple(str(value) for value in row)


def _set_locally(conn: Connection, lock_timeout_ms: int, statement_timeout_ms: int) -> None:
    """Set the timeouts, ISO dates, which every session reads alike, and the isolation level of the tracker.

    A batch is too short to be compiled.
    """
    conn.execute(
        sql.SQL(
            "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {};"
            " SET LOCAL statement_timeout = {}; SET LOCAL DateStyle = ISO; SET LOCAL jit = off"
        ).format(sql.Literal(lock_timeout_ms), sql.Literal(statement_timeout_ms))
    )


def _begin(conn: Connection, batches: Batches, name: str) -> BatchProgress:
    end = _end(conn, batches)
    values = {"name": name, "end_key": list(end) if end else None, "is_done": end is None}
    return _progress(name, _one(conn, "begin_batch", values) or {})


def _read(conn: Connection, name: str) -> BatchProgress | None:
    """Read the progress row and lock it until this batch is committed."""
    found = _one(conn, "read_batch", {"name": name})
    return None if found is None else _progress(name, found)


def _write(conn: Connection, progress: BatchProgress) -> None:
    values = {
        "name": progress.name,
        "pass": progress.number,
        "last_key": list(progress.last_key) if progress.last_key else None,
        "end_key": list(progress.end_key) if progress.end_key else None,
        "batches": progress.batches,
        "rows": progress.rows,
        "is_done": progress.is_done,
    }
    conn.execute(_query("write_batch"), values)


def _progress(name: str, row: dict[str, Any]) -> BatchProgress:
    row = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    return BatchProgress(name=name, number=row.pop("pass"), **row)


def _one(conn: Connection, query: str, values: dict[str, Any]) -> dict[str, Any] | None:
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(_query(query), values).fetchone()


def _query(name: str) -> bytes:
    return load("relations")[name].encode()
