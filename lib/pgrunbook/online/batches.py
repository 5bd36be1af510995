"""The batch loop: one statement executed in many transactions, by ranges of a key; it resumes after a crash.

1. The loop reads the largest key and records it in ``pgrunbook.batch`` as its end.
2. Each batch is a transaction: it finds the end of its range, executes the statement on that range, and updates
   the progress row. Progress is the key, never a changed value: a row that the statement leaves unchanged cannot
   stop the loop, and no row is changed twice.
3. At the end, rows inserted meanwhile with larger keys get one more pass; then the loop is done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from psycopg import sql
from psycopg.rows import dict_row

from pgrunbook.database import step_log
from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import load
from pgrunbook.plan.step import RANGE, Batches

LOCK_TIMEOUT_MS = 2_000
STATEMENT_TIMEOUT_MS = 30_000

_ROWS_PER_PAGE = 50
_PASSES = 2


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


def run_batches(
    conn: Connection,
    batches: Batches,
    *,
    resume_from: str,
    on_batch: Callable[[BatchProgress], None] = lambda _: None,
    lock_timeout_ms: int = LOCK_TIMEOUT_MS,
    statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
) -> BatchProgress:
    """Execute the statement batch by batch, from the progress row ``resume_from`` on; return the final progress.

    ``on_batch`` is called after each commit. The connection must be in autocommit mode, outside a transaction.

    Raises psycopg's errors unchanged (a lock timeout, a row that the server refuses): committed batches stay, the
    failed batch is aborted, and the same call continues after the last committed batch.
    Locks: RowExclusiveLock on the table, and the rows of one batch.
    """
    step_log.create(conn)
    while True:
        with conn.transaction():
            _set_locally(conn, lock_timeout_ms, statement_timeout_ms)
            before = _read(conn, resume_from)
            if before is None:
                after = _begin(conn, batches, resume_from)
            elif before.is_done:
                return before
            else:
                after = _batch(conn, batches, before)
                _write(conn, after)
        if before is not None:
            on_batch(after)


def _batch(conn: Connection, batches: Batches, before: BatchProgress) -> BatchProgress:
    """Execute one batch, or begin the next pass when this one is finished."""
    if before.end_key is None or before.last_key == before.end_key:
        return _next_pass(conn, batches, before)
    upper = _upper(conn, batches, before)
    conn.execute("SELECT pg_catalog.set_config('pgrunbook.started_at', %s, true)", [before.started_at])
    if not batches.fires_triggers:
        conn.execute("SET LOCAL session_replication_role = replica")
    condition = _range(batches, before.last_key, upper).as_string(conn)
    statement = batches.statement.replace(RANGE, condition, 1)
    with conn.as_target():
        rows = conn.execute(statement.encode()).rowcount
    return replace(before, last_key=upper, batches=before.batches + 1, rows=before.rows + rows)


def _next_pass(conn: Connection, batches: Batches, before: BatchProgress) -> BatchProgress:
    end = _end(conn, batches)
    if before.number == _PASSES or end is None or (batches.key and end == before.end_key):
        return replace(before, is_done=True)
    # New rows may land on any page, so pages start again at 0; keys go on after the last end.
    return replace(before, number=before.number + 1, last_key=before.end_key if batches.key else None, end_key=end)


def _end(conn: Connection, batches: Batches) -> tuple[str, ...] | None:
    """Return the largest key of now, or the number of pages; None for an empty table."""
    if not batches.key:
        found = conn.execute(
            "SELECT (pg_catalog.pg_relation_size(%s::pg_catalog.regclass)"
            " / pg_catalog.current_setting('block_size')::int)::text",
            [_table(batches).as_string(conn)],
        ).fetchone()
        return None if found in (None, ("0",)) else _texts(found)
    query = sql.SQL("SELECT {} FROM {} AS {} ORDER BY {} LIMIT 1").format(
        _as_text(batches), _table(batches), sql.Identifier(batches.alias), _keys(batches, " DESC")
    )
    return _texts(conn.execute(query).fetchone())


def _upper(conn: Connection, batches: Batches, before: BatchProgress) -> tuple[str, ...]:
    """Return where the next batch ends: one batch of rows further, but not after the end of the pass."""
    end = before.end_key or ()
    if not batches.key:
        pages = max(1, batches.rows // _ROWS_PER_PAGE)
        return (str(min(int(end[0]), int(before.last_key[0] if before.last_key else 0) + pages)),)
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
    if not batches.key:
        start, end = (f"({after[0] if after else 0},0)", f"({upto[0]},0)")
        return sql.SQL("({0}.ctid >= {1}::tid AND {0}.ctid < {2}::tid)").format(
            sql.Identifier(batches.alias), sql.Literal(start), sql.Literal(end)
        )
    above = sql.SQL("({}) > ({}) AND ").format(_keys(batches, ""), _values(batches, after)) if after else sql.SQL("")
    return sql.SQL("({}({}) <= ({}))").format(above, _keys(batches, ""), _values(batches, upto))


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
    """Set the timeouts, and ISO dates, which every session reads alike."""
    conn.execute(
        sql.SQL("SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = {}; SET LOCAL DateStyle = ISO").format(
            sql.Literal(lock_timeout_ms), sql.Literal(statement_timeout_ms)
        )
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
