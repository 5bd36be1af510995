"""How much space is taken by what a plan keeps, from the planner's statistics; prepare shows it."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from pgrunbook import undo_data
from pgrunbook.database.connection import Connection
from pgrunbook.errors import RunbookError
from pgrunbook.plan.plan import Change, WrittenStatement


def with_sizes(changes: Sequence[Change], conn: Connection) -> tuple[Change, ...]:
    """Return the changes, each with the bytes that it is expected to keep; -1 where that cannot be told.

    It is asked of the database as it is: what an earlier migration of the release makes is not there yet.
    Locks: AccessShareLock on what is asked about.
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
                return undo_data.size_estimate(conn, written.sql).bytes_estimate
            return sum(undo_data.estimate_of(conn, keep).bytes_estimate for keep in written.back.keeps)
    except (psycopg.Error, RunbookError, undo_data.CannotKeepError):
        return -1
