"""The progress of a loop of batches, in ``pgrunbook.batch``: read and written in the transaction of each batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from pgrunbook.database.connection import Connection
from pgrunbook.database.locks import OF_DEADLOCK_TIMEOUT
from pgrunbook.database.queries import load, rows

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


@dataclass
class BatchSession:
    """What the transactions of a loop set for themselves; a batch is too short to be compiled.

    A lock is waited for ``wait_ms`` while others are held: the server looks for no deadlock meanwhile. Who waits for a
    row of ours while we wait for one of theirs would be the victim: each waits deadlock_timeout first. A batch that
    takes less than the rest of it is over before that, or is given back.
    With ``compress`` images of pages, most of what batches log, are compressed with LZ4: it costs next to nothing.
    Where ``may_be_late``, a COMMIT need not wait for the disk: after a crash of the server the last batches of such a
    loop are as if they had never been, each whole with its progress, and the loop does them again. ``is_late`` while
    there may be such batches: `catch_up` waits until the disk has them.
    Source: https://www.postgresql.org/docs/current/runtime-config-locks.html,
    https://www.postgresql.org/docs/current/runtime-config-wal.html,
    https://www.postgresql.org/docs/current/wal-async-commit.html
    """

    wait_ms: int
    statement_timeout_ms: int
    compress: bool
    may_be_late: bool
    is_late: bool = False

    def limit(self, conn: Connection, *, late: bool = False) -> None:
        """Set the timeouts, ISO dates, which every session reads alike, and the isolation level of the tracker.

        With ``late`` this transaction's COMMIT does not wait for the disk, where it may be so.
        """
        late = late and self.may_be_late
        self.is_late = self.is_late or late
        also = "; SET LOCAL wal_compression = lz4" * self.compress + "; SET LOCAL synchronous_commit = off" * late
        conn.execute(
            sql.SQL(
                "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {};"
                " SET LOCAL statement_timeout = {}; SET LOCAL DateStyle = ISO; SET LOCAL jit = off" + also
            ).format(sql.Literal(self.wait_ms), sql.Literal(self.statement_timeout_ms))
        )

    def catch_up(self, conn: Connection, name: str) -> None:
        """Wait until the disk has all that the loop of that name has committed, unless the connection is lost."""
        if not self.is_late or conn.closed or conn.info.transaction_status != TransactionStatus.IDLE:
            return
        with conn.transaction():
            self.limit(conn)
            read(conn, name)  # the lock of its row is logged behind what the batches did, and this COMMIT waits for it
        self.is_late = False


def session_of(conn: Connection, lock_timeout_ms: int, statement_timeout_ms: int, *, late: bool) -> BatchSession:
    """Return what the batches of a loop set on this server, and may with this role."""
    (row,) = rows(conn, "relations", "batch_session")
    wait_ms = min(lock_timeout_ms, max(1, round(row["deadlock_timeout_ms"] * OF_DEADLOCK_TIMEOUT)))
    knows_lz4 = conn.info.server_version >= _LZ4_SINCE
    compress = knows_lz4 and bool(rows(conn, "relations", "may_compress_wal")[0]["may"])
    return BatchSession(wait_ms, statement_timeout_ms, compress, late and not row["has_synchronous_standbys"])


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
