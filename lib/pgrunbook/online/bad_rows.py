"""The rows that a loop of batches was refused for: they stop it, or are recorded and passed over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import psycopg

from pgrunbook.database import own_schema, step_log
from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import load
from pgrunbook.database.sqlstate import said
from pgrunbook.errors import Refused

Policy = Literal["stop", "skip"]
# What a value of a row causes: data exceptions, constraints, and what a trigger of the application raises.
OF_A_ROW = (psycopg.errors.DataError, psycopg.errors.IntegrityError, psycopg.errors.RaiseException)
MOST = 1_000


@dataclass(frozen=True)
class RefusedRow:
    """A row by its key, as text, and what the server said of it."""

    key: tuple[str, ...]
    sqlstate: str
    said: str


@dataclass(frozen=True)
class BadRows:
    """What to do with rows that the server refuses, and how many of them are passed over at the most."""

    policy: Policy = "stop"
    most: int = MOST


STOP = BadRows()


def record(conn: Connection, loop: str, key: Sequence[str], exc: psycopg.Error, bad_rows: BadRows) -> None:
    """Record a row in the transaction that passes it over.

    Raises Refused where as many as may be are recorded already.
    """
    if len({row.key for row in read(conn, loop)} - {tuple(key)}) >= bad_rows.most:
        raise Refused(
            f"more than {bad_rows.most:,} rows were refused by the server",
            detail=f"The last one, {', '.join(key)}: {said(exc)}.",
            state="The batches before it are committed; what was refused is recorded in pgrunbook.refused_row.",
            hint="Correct the expression or the rows, or allow more of them (most_bad_rows); then go on with this run.",
        ) from exc
    values = {"loop": loop, "key": list(key), "sqlstate": exc.sqlstate or "", "said": said(exc)}
    conn.execute(load("relations")["refuse_row"].encode(), values)


def read(conn: Connection, loop: str) -> list[RefusedRow]:
    """Return the rows that a loop has passed over, in their order; [] where there are none."""
    own_schema.refuse_foreign(conn)
    if conn.execute(load("relations")["has_refused_rows"].encode()).fetchone() != (True,):
        return []
    found = conn.execute(load("relations")["refused_rows"].encode(), {"loop": loop}).fetchall()
    return [RefusedRow(tuple(map(str, key)), str(state), str(text)) for key, state, text in found]  # type: ignore[call-overload]


def create(conn: Connection) -> None:
    """Create the table in which they are recorded, where it is missing."""
    if conn.execute(load("relations")["has_refused_rows"].encode()).fetchone() == (True,):
        return
    step_log.create(conn)
    with conn.transaction():
        conn.execute(load("relations")["create_refused_row"].encode())
        own_schema.hide(conn, "refused_row")
