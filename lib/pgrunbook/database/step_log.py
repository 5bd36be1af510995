"""Record of what runs did, kept in the database itself, in schema pgrunbook; migrate and rollback write it.

The row of a step is written in the step's transaction, so that neither is there without the other.
A statement that cannot run in a transaction has a row before it (intended) and after it (done).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row, dict_row

from pgrunbook.database import own_publications, own_schema, queries
from pgrunbook.database.connection import Connection
from pgrunbook.errors import StatementFailed

SCHEMA = "pgrunbook"
TABLES = ("step", "restore_point", "batch", "way_back", "shadow", "published")


@dataclass(frozen=True)
class RestorePoint:
    """A restore point that a run created: its name and LSN, and the version of the schema at that time."""

    name: str
    run_id: str
    lsn: str
    version: str | None
    created_at: datetime


@dataclass(frozen=True)
class MigrationProgress:
    """How far a migration has come: its steps that have a row, and whether each is done.

    ``sha256s`` are the texts that were executed; ``whole`` is whether it is complete, ``run_id`` the last run.
    """

    steps: Mapping[int, bool]
    sha256s: Mapping[int, str]
    whole: bool
    run_id: str


def create(conn: Connection) -> None:
    """Create schema pgrunbook and its tables where they are missing; two runs may do it at once.

    Raises StatementFailed when the server refuses it, Refused when somebody else has created the schema, or when a
    subscriber would stop at what is written there.
    """
    own_publications.refuse(conn)
    if _is_complete(conn):
        return
    (me,) = conn.execute("SELECT pg_catalog.quote_ident(current_user)").fetchone() or ("",)
    try:
        with conn.transaction():
            create_schema(conn)
            conn.execute(_sql("create"))
            own_schema.hide(conn, *TABLES)
            own_schema.refuse_foreign(conn)  # somebody else may have created it meanwhile
    except psycopg.Error as exc:
        if not conn.closed and _is_complete(conn):
            return  # another run has created it meanwhile
        raise StatementFailed(
            "could not create schema pgrunbook, in which the database records what runs did",
            detail=exc.diag.message_primary or " ".join(str(exc).split()),
            hint=f"An administrator of the database can make it for you: CREATE SCHEMA pgrunbook AUTHORIZATION {me};"
            " docs/rights.md has all rights.",
        ) from exc


def create_schema(conn: Connection) -> None:
    """Create schema pgrunbook where it is missing: only that takes CREATE on the database."""
    conn.execute(_sql("create_schema"))


def exists(conn: Connection) -> bool:
    """Tell whether this database records what runs did. Raises Refused when the schema is somebody else's."""
    own_schema.refuse_foreign(conn)
    return conn.execute(_sql("exists")).fetchone() == (True,)


def write(conn: Connection, key: Mapping[str, object], state: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Write the rows of steps in one statement; ``state`` is ``intended`` or ``done``.

    ``key`` is what they share: run_id, migration, direction, file_sha256, plan_digest. A row has
    step, kind and sha256, and schema_before and schema_after where they are known.
    Locks: RowExclusiveLock on pgrunbook.step, held until the transaction ends.
    """
    conn.execute(_sql("write"), {**key, "state": state, "steps": json.dumps(rows)})


def of_plan(conn: Connection, migrations: Mapping[str, str], direction: str) -> dict[str, MigrationProgress]:
    """Return how far migrations (name to sha256 of the file) have come that were begun in a direction.

    A step that has a row and is not done was about to be executed when the run was interrupted.
    """
    found: dict[str, MigrationProgress] = {}
    if not exists(conn):
        return found
    names = {"migrations": list(migrations), "file_sha256s": list(migrations.values()), "direction": direction}
    for row in conn.execute(_sql("of_plan"), names):
        migration, step, done, is_whole, run_id, sha256 = row
        name = str(migration)
        before = found.get(name, MigrationProgress({}, {}, False, ""))
        number = int(str(step))
        is_done = done is True or before.steps.get(number, False)
        whole = before.whole or (is_whole is True and done is True)
        texts = {**before.sha256s, number: str(sha256)}
        found[name] = MigrationProgress({**before.steps, number: is_done}, texts, whole, str(run_id))
    return found


def of_run(conn: Connection, run_id: str) -> list[dict[str, Any]]:
    """Return the steps of a run as the database has them: migration, direction, step, state and kind."""
    if not exists(conn):
        return []
    with conn.cursor(row_factory=dict_row) as cur:
        return cur.execute(_sql("of_run"), {"run_id": run_id}).fetchall()


@dataclass(frozen=True)
class UnfinishedMigration:
    """A migration that was begun and not completed: by which run, and from which file."""

    migration: str
    run_id: str
    file_sha256: str


def unfinished(conn: Connection, direction: str) -> list[UnfinishedMigration]:
    """Return the migrations that were begun in a direction and not completed, newest first."""
    if not _is_complete(conn):
        return []
    with conn.cursor(row_factory=class_row(UnfinishedMigration)) as cur:
        return cur.execute(_sql("unfinished"), {"direction": direction}).fetchall()


def withdraw(conn: Connection, key: Mapping[str, object], numbers: Sequence[int]) -> None:
    """Mark steps as not done: the server refused them, or they were taken back."""
    conn.execute(_sql("withdraw"), {**key, "steps": list(numbers)})


def take_back(conn: Connection, migration: str, direction: str) -> None:
    """Mark a migration's steps in one direction as taken back, and forget its batches: it went the other way now."""
    conn.execute(_sql("take_back"), {"migration": migration, "direction": direction})


def has_batches(conn: Connection, names: Sequence[str]) -> bool:
    """Tell whether a batch of one of these loops is committed."""
    return conn.execute(_sql("has_batches"), {"names": list(names)}).fetchone() == (True,)


def forget_unbegun(conn: Connection, names: Sequence[str]) -> None:
    """Forget those of these loops of which no batch is committed: they begin anew."""
    conn.execute(_sql("forget_unbegun"), {"names": list(names)})


def applied_by_run(conn: Connection, run_id: str) -> list[str]:
    """Return the migrations that a run has applied and nobody has taken back, newest first."""
    if not exists(conn):
        return []
    return [str(row[0]) for row in conn.execute(_sql("applied_by_run"), {"run_id": run_id})]


def last_history_step(conn: Connection) -> dict[str, Any] | None:
    """Return the last migration that a run applied or took back, None where no run has."""
    return _one(conn, "last_history_step")


def history_step(conn: Connection, migration: str) -> dict[str, Any] | None:
    """Return the schema fingerprints before and after a migration, None where no run applied it."""
    return _one(conn, "history_step", migration=migration)


def write_restore_point(conn: Connection, name: str, run_id: str, lsn: str, version: str | None) -> None:
    """Record a restore point that was just created."""
    conn.execute(_sql("write_restore_point"), {"name": name, "run_id": run_id, "lsn": lsn, "version": version})


def restore_points(conn: Connection) -> list[RestorePoint]:
    """Return the restore points that runs created here, newest first."""
    if not exists(conn):
        return []
    with conn.cursor(row_factory=class_row(RestorePoint)) as cur:
        return cur.execute(_sql("restore_points")).fetchall()


def _is_complete(conn: Connection) -> bool:
    own_schema.refuse_foreign(conn)
    return conn.execute(_sql("complete")).fetchone() == (True,)


def _one(conn: Connection, name: str, **keys: object) -> dict[str, Any] | None:
    if not exists(conn):
        return None
    with conn.cursor(row_factory=dict_row) as cur:
        return cur.execute(_sql(name), keys or None).fetchone()


def _sql(name: str) -> str:
    return queries.load("step_log")[name]
