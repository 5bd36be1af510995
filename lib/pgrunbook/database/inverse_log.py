"""Inverses of the statements of applied migrations, recorded in the database itself; rollback reads them.

The rows are written in the first transaction of the migration, and deleted in the last one of its rollback.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.rows import class_row

from pgrunbook.database import own_schema, queries
from pgrunbook.database.connection import Connection
from pgrunbook.sql.places import Place


@dataclass(frozen=True)
class RecordedInverse:
    """The inverse of one statement, and what was executed for it.

    ``steps`` are the numbers of its steps in the plan, ``cleanup`` the queries for the statements that drop its helper
    objects. ``back`` is the model of ``plan.way_back``, None where none was computed. ``taken_back_by`` is the
    run that has taken back this statement alone, "" for none.
    """

    migration: str
    statement: int
    run_id: str
    file_sha256: str
    file: str
    line: int
    sql: str
    steps: list[int]
    cleanup: list[str]
    back: dict[str, Any] | None
    schema_before: str | None
    taken_back_by: str
    nth: int

    @property
    def place(self) -> Place:
        """The place of the statement in its migration; ``nth`` tells it from others on its line."""
        return Place(self.migration, self.line, self.nth)


def write(conn: Connection, key: Mapping[str, object], ways: Sequence[Mapping[str, object]]) -> None:
    """Record the inverses of a migration's statements; those that the same plan has recorded before stay.

    ``key`` has migration, run_id, file_sha256 and plan_digest; a way has statement, file, line, sql, steps, cleanup,
    back and schema_before.
    """
    conn.execute(_sql("write"), {**key, "ways": json.dumps(ways)})


def correct(conn: Connection, migration: str, statement: int, back: Mapping[str, object]) -> None:
    """Replace the inverse of a statement by the one that was computed right before it was executed."""
    conn.execute(_sql("correct"), {"migration": migration, "statement": statement, "back": json.dumps(back)})


def read(conn: Connection, migration: str) -> list[RecordedInverse]:
    """Return the inverses of a migration's statements, in the order of the file; [] where no run has applied it.

    Raises Refused when schema pgrunbook is somebody else's.
    """
    own_schema.refuse_foreign(conn)
    if conn.execute(_sql("exists")).fetchone() != (True,):
        return []
    with conn.cursor(row_factory=class_row(RecordedInverse)) as cursor:
        return cursor.execute(_sql("read"), {"migration": migration}).fetchall()


def forget(conn: Connection, migration: str) -> None:
    """Delete the inverses of a migration that was taken back."""
    conn.execute(_sql("forget"), {"migration": migration})


def mark(conn: Connection, migration: str, statements: Sequence[int], run_id: str) -> None:
    """Record that single statements of a migration were taken back."""
    values = {"migration": migration, "statements": list(statements), "run_id": run_id}
    conn.execute(_sql("mark"), values)


def _sql(name: str) -> str:
    return queries.load("inverse_log")[name]
