"""The space that a plan's undo data will take, from the planner's statistics; notebook prepare shows it."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from pgrunbook.database.connection import Connection
from pgrunbook.errors import RunbookError
from pgrunbook.plan.plan import Change, WrittenStatement
from pgrunbook.undo_data.cascades import CannotCaptureError
from pgrunbook.undo_data.size_estimate import estimate_of, size_estimate


def with_sizes(changes: Sequence[Change], conn: Connection) -> tuple[Change, ...]:
    """Return the changes, each with the bytes that it is expected to capture; -1 when they are unknown.

    The estimate reads the database of today: what an earlier migration of the release creates is unknown.
    Locks: AccessShareLock on what is read.
    """
    found = []
    for change in changes:
        sizes = [_size(conn, written) for written in change.statements if written.back and written.back.keeps]
        size = -1 if -1 in sizes else sum(sizes)
        found.append(change.model_copy(update={"kept_bytes_estimate": size}))
    return tuple(found)


def _size(conn: Connection, written: WrittenStatement) -> int:
    assert written.back is not None  # noqa: S101 - the caller saw it
    try:
        with conn.transaction():
            if written.back.of_rows:
                return size_estimate(conn, written.sql).bytes_estimate
            return sum(estimate_of(conn, keep).bytes_estimate for keep in written.back.keeps)
    except (psycopg.Error, RunbookError, CannotCaptureError):
        return -1
