"""The progress of a loop of batches, in ``pgrunbook.batch``: read and written in the transaction of each batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg import sql
from psycopg.rows import dict_row

from pgrunbook.database.connection import Connection
from pgrunbook.database.locks import OF_DEADLOCK_TIMEOUT
from pgrunbook.database.queries import load

_LZ4_SINCE = 150_000


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


def wait_ms(conn: Connection, lock_timeout_ms: int) -> int:
    """Return how long a batch waits for a lock while it holds others: the server looks for no deadlock meanwhile.

    Who waits for a row of ours while we wait for one of theirs would be the victim: each waits deadlock_timeout first.
    A batch that takes less than the rest of it is over before that, or is given back.
    Source: https://www.postgresql.org/docs/current/runtime-config-locks.html
    """
    row = conn.execute("SELECT s.setting::int FROM pg_catalog.pg_settings AS s WHERE s.name = 'deadlock_timeout'")
    return min(lock_timeout_ms, max(1, round(int(str((row.fetchone() or (1_000,))[0])) * OF_DEADLOCK_TIMEOUT)))


def compresses(conn: Connection) -> bool:
    """Tell whether batches compress their images of pages, most of what they log, with LZ4: it costs next to nothing.

    Where the server was built with it, does not do so itself, and this role may say so.
    Source: https://www.postgresql.org/docs/current/runtime-config-wal.html
    """
    if conn.info.server_version < _LZ4_SINCE:
        return False
    row = conn.execute(load("relations")["may_compress_wal"].encode()).fetchone()
    return bool(row and row[0])


def limit(conn: Connection, lock_timeout_ms: int, statement_timeout_ms: int, *, compress: bool = False) -> None:
    """Set the timeouts, ISO dates, which every session reads alike, and the isolation level of the tracker.

    A batch is too short to be compiled.
    """
    also = "; SET LOCAL wal_compression = lz4" if compress else ""
    conn.execute(
        sql.SQL(
            "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {};"
            " SET LOCAL statement_timeout = {}; SET LOCAL DateStyle = ISO; SET LOCAL jit = off" + also
        ).format(sql.Literal(lock_timeout_ms), sql.Literal(statement_timeout_ms))
    )


def begin(
    conn: Connection, name: str, end: tuple[str, ...] | None, last: tuple[str, ...] | None = None
) -> BatchProgress:
    """Write the progress row of a loop that begins behind ``last``; one without an end is done."""
    values = {
        "name": name,
        "last_key": list(last) if last else None,
        "end_key": list(end) if end else None,
        "is_done": end is None,
    }
    return _progress(name, _one(conn, "begin_batch", values) or {})


def read(conn: Connection, name: str) -> BatchProgress | None:
    """Read the progress row and lock it until this batch is committed."""
    found = _one(conn, "read_batch", {"name": name})
    return None if found is None else _progress(name, found)


def write(conn: Connection, progress: BatchProgress) -> None:
    """Write the progress in the transaction of the batch."""
    values = {
        "name": progress.name,
        "pass": progress.number,
        "last_key": list(progress.last_key) if progress.last_key else None,
        "end_key": list(progress.end_key) if progress.end_key else None,
        "batches": progress.batches,
        "rows": progress.rows,
        "is_done": progress.is_done,
    }
    conn.execute(load("relations")["write_batch"].encode(), values)


def _progress(name: str, row: dict[str, Any]) -> BatchProgress:
    row = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    return BatchProgress(name=name, number=row.pop("pass"), **row)


def _one(conn: Connection, query: str, values: dict[str, Any]) -> dict[str, Any] | None:
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(load("relations")[query].encode(), values).fetchone()
