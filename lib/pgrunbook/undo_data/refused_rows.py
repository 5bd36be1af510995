"""Rows that the server refuses to revert all at once: single ones, in an order that works, or by two steps.

1. What it refuses together is halved, until it refuses single rows: those stay as they are, and the others go back.
2. A row may wait for one behind it: the refused ones are tried again, until none of them goes any more.
3. Rows that have each other's unique values go in two steps: these values are set aside, then reverted.

What is refused then is in conflict: another row has its unique value, or the row that it refers to is gone. It is
left as it is where somebody has chosen how to decide conflicts, and else an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import psycopg
from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.undo_data.tables import CapturedColumn, CapturedTable, rows

# Reverts the captured rows at these places of the side table (ctid); returns how many rows that were.
Revert = Callable[[Sequence[str]], int]
_NUMBERS = ("int2", "int4", "int8", "numeric")


def revert_in_turn(conn: Connection, revert: Revert, places: Sequence[str]) -> tuple[int, list[str]]:
    """Revert what can be in the open transaction; return the number of rows, and the places of those refused."""
    given, left = 0, list(places)
    while left:
        more, again = _halved(conn, revert, left)
        given += more
        if len(again) == len(left):
            break
        left = again
    return given, left


def revert_aside(conn: Connection, aside: Revert, revert: Revert, places: Sequence[str]) -> tuple[int, list[str]]:
    """Set the unique values of rows aside, then revert them: all of them, or else those that are not refused.

    Returns the number of rows, and the places of those refused.
    """
    left = list(places)
    while len(left) > 1:
        refused: list[str] = []
        given = 0
        try:
            with conn.transaction() as both:
                aside(left)
                given, refused = revert_in_turn(conn, revert, left)
                if refused:
                    raise psycopg.Rollback(both)
        except (psycopg.IntegrityError, psycopg.DataError):
            break
        if not refused:
            return given, [place for place in places if place not in set(left)]
        left = [place for place in left if place not in set(refused)]
    return 0, list(places)


def put_aside(
    conn: Connection, table: CapturedTable, columns: Sequence[CapturedColumn], key: Sequence[str]
) -> list[sql.Composed]:
    """Return the assignments that set unique values aside; [] where a column has a type without spare values."""
    found = []
    nullable = {one["name"]: one["is_nullable"] for one in rows(conn, "unique_columns_of", oid=table.oid)}
    for column in columns:
        if column.name not in nullable or column.name in key:
            continue
        value = "NULL" if nullable[column.name] else _spare(column)
        if not value:
            return []
        name = sql.Identifier(column.name)
        found.append(sql.SQL("{} = " + value).format(name, name=sql.Identifier("o", column.name), table=table.source))
    return found


def _spare(column: CapturedColumn) -> str:
    if column.is_word:
        return f"CAST(pg_catalog.md5(pg_catalog.random()::pg_catalog.text) AS {column.type})"
    if column.is_one_of("uuid"):
        return "pg_catalog.gen_random_uuid()"
    below = "(SELECT least(pg_catalog.min({name}), 0) OPERATOR(pg_catalog.-) 1 FROM {table} AS o)"
    return below if column.is_one_of(*_NUMBERS) else ""


def _halved(conn: Connection, revert: Revert, places: Sequence[str]) -> tuple[int, list[str]]:
    try:
        with conn.transaction():
            return revert(places), []
    except psycopg.IntegrityError:
        if len(places) == 1:
            return 0, list(places)
    middle = len(places) // 2
    (first, left), (second, right) = (_halved(conn, revert, part) for part in (places[:middle], places[middle:]))
    return first + second, [*left, *right]
