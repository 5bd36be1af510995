"""The database's own record of what runs did: rows in schema pgrunbook, beside the work itself.

A row of a step is written in the transaction of the step, so that neither is there without the other;
a statement that cannot run in a transaction has a row before it (intended) and after it (done).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row, dict_row

from pgrunbook.database import queries
from pgrunbook.database.connection import Connection

SCHEMA = "pgrunbook"


@dataclass(frozen=True)
class RestorePoint:
    """A restore point that a run made: its name and place in the WAL, and the version it was made at."""

    name: str
    run_id: str
    lsn: str
    version: str | None
    created_at: datetime


def create(conn: Connection) -> None:
    """Make schema pgrunbook and its tables where they are not there yet."""
    conn.execute(_sql("create"))


def exist(conn: Connection) -> bool:
    """Tell whether this database has a record of its own."""
    return conn.execute(_sql("exists")).fetchone() == (True,)


def write(conn: Connection, **row: object) -> None:
    """Write the row of a step; ``state`` is ``intended`` or ``done``.

    Locks: RowExclusiveLock on pgrunbook.step, held until the transaction ends.
    """
    conn.execute(_sql("write"), row)


def of_migration(conn: Connection, migration: str, file_sha256: str, direction: str) -> dict[int, str]:
    """Return the state (intended, done) of each step of a migration that has one, by its number."""
    if not exist(conn):
        return {}
    found: dict[int, str] = {}
    keys = {"migration": migration, "file_sha256": file_sha256, "direction": direction}
    for step, state in conn.execute(_sql("of_migration"), keys):
        found[int(str(step))] = "done" if "done" in (state, found.get(int(str(step)))) else str(state)
    return found


def take_back(conn: Connection, migration: str, direction: str) -> None:
    """Mark the steps of a migration in one direction as taken back: it went the other way now."""
    conn.execute(_sql("take_back"), {"migration": migration, "direction": direction})


def applied_by_run(conn: Connection, run_id: str) -> list[str]:
    """Return the migrations that a run has applied and that are not taken back, newest first."""
    if not exist(conn):
        return []
    return [str(row[0]) for row in conn.execute(_sql("applied_by_run"), {"run_id": run_id})]


def last_history_step(conn: Connection) -> dict[str, Any] | None:
    """Return the last migration that a run applied or took back, None where no run has."""
    return _one(conn, "last_history_step")


def history_step(conn: Connection, migration: str) -> dict[str, Any] | None:
    """Return the schema fingerprints before and after a migration, None where no run applied it."""
    return _one(conn, "history_step", migration=migration)


def write_restore_point(conn: Connection, name: str, run_id: str, lsn: str, version: str | None) -> None:
    """Remember a restore point that was just made."""
    conn.execute(_sql("write_restore_point"), {"name": name, "run_id": run_id, "lsn": lsn, "version": version})


def restore_points(conn: Connection) -> list[RestorePoint]:
    """Return the restore points that runs made here, newest first."""
    if not exist(conn):
        return []
    with conn.cursor(row_factory=class_row(RestorePoint)) as cur:
        return cur.execute(_sql("restore_points")).fetchall()


def _one(conn: Connection, name: str, **keys: object) -> dict[str, Any] | None:
    if not exist(conn):
        return None
    with conn.cursor(row_factory=dict_row) as cur:
        return cur.execute(_sql(name), keys or None).fetchone()


def _sql(name: str) -> str:
    return queries.load("steps")[name]
