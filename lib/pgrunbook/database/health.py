"""Leftovers of a change, row counts, and the time that a query takes; validate reads them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import psycopg
from psycopg import sql

from pgrunbook.database import foreign_code, queries
from pgrunbook.database.connection import Connection
from pgrunbook.database.sequences import next_number
from pgrunbook.database.sqlstate import Meaning, meaning, said
from pgrunbook.display import progress
from pgrunbook.display.progress import Stage

COUNT_EXACTLY_BELOW_ROWS = 2_000_000
TIMES = 5


@dataclass(frozen=True)
class Leftover:
    """Something that is not as it should be: what it is, where, and what to do about it."""

    kind: str
    name: str
    where: str
    advice: str


@dataclass(frozen=True)
class Timing:
    """A query's median of a few runs, or why it could not be run."""

    median_ms: float | None
    error: str = ""


def leftovers(conn: Connection) -> list[Leftover]:
    """Return invalid indexes, constraints NOT VALID and sequences behind their column; [] when all is well."""
    found = [
        Leftover(
            "invalid index",
            r["name"],
            r["table_name"],
            f"DROP INDEX CONCURRENTLY {r['name']}; then build it again.",
        )
        for r in queries.rows(conn, "health", "invalid_indexes")
    ]
    found += [
        Leftover("constraint not validated", r["name"], r["table_name"], r["advice"])
        for r in queries.rows(conn, "health", "unvalidated_constraints")
    ]
    foreign = foreign_code.reached(conn)
    for row in queries.rows(conn, "health", "owned_sequences"):
        where = f"{row['table_name']}.{row['column_name']}"
        if row["oid"] in foreign:
            found.append(_not_checked(row["name"], where, foreign_code.WHY))
            continue
        try:
            furthest, last_value = _furthest(conn, row)
            following = next_number(conn, row["name"], last_value, row["increment"])
        except psycopg.Error as exc:
            if meaning(exc) is Meaning.LOST:
                raise
            found.append(_not_checked(row["name"], where, said(exc)))
            continue
        if furthest is not None and (furthest - following) * row["increment"] >= 0:
            advice = f"SELECT setval({sql.quote(row['name'])}, {furthest}); the next insert would fail or repeat a key."
            found.append(Leftover("sequence behind its column", row["name"], where, advice))
    return found


def row_counts(
    conn: Connection, *, leave_out: str = "", known: Mapping[str, int] = MappingProxyType({})
) -> dict[str, tuple[int, bool]]:
    """Return for each table its number of rows, without its children's, and whether that was counted.

    Large tables, those that are locked or that we may not read, and those whose queries run code of other roles, are
    estimated.

    ``leave_out`` is a table by its qualified name: the history table, which every migration changes. ``known`` are
    rows that were counted a moment ago.
    """
    counts: dict[str, tuple[int, bool]] = {}
    with progress.doing("counting rows") as stage:
        _count(conn, leave_out, counts, stage, known)
    return counts


def _count(
    conn: Connection, leave_out: str, counts: dict[str, tuple[int, bool]], stage: Stage, known: Mapping[str, int]
) -> None:
    foreign, tables = foreign_code.reached(conn), queries.rows(conn, "health", "tables")
    for place, row in enumerate(tables, 1):
        stage.how_far(f"{row['name']}, table {place} of {len(tables)}")
        if f"{row['schema_name']}.{row['relation']}" == leave_out:
            continue
        if row["name"] in known:
            counts[row["name"]] = (known[row["name"]], True)
            continue
        if row["rows_estimate"] >= COUNT_EXACTLY_BELOW_ROWS or row["oid"] in foreign:
            counts[row["name"]] = (row["rows_estimate"], False)
            continue
        table = sql.Identifier(row["schema_name"], row["relation"])
        query = sql.SQL("/* pgrunbook */ SELECT count(*) FROM ONLY {}").format(table)
        try:
            number = conn.execute(query).fetchone()
            counts[row["name"]] = (int(str(number[0])) if number else 0, True)
        except psycopg.Error as exc:
            if meaning(exc) is Meaning.LOST:
                raise
            counts[row["name"]] = (row["rows_estimate"], False)


def time_query(conn: Connection, query: str) -> Timing:
    """Return the median time of a few runs of a query, in a transaction that is read only and aborted.

    A statement that writes is refused by the server, and so is more than one, which could end the
    transaction: measuring changes nothing.
    """
    taken = []
    try:
        for _ in range(TIMES):
            with conn.transaction(force_rollback=True):
                conn.execute("SET TRANSACTION READ ONLY")
                start = time.perf_counter()
                with conn.as_target():
                    conn.execute(query.encode(), binary=True).fetchall()  # binary: the protocol of one statement
                taken.append((time.perf_counter() - start) * 1000)
    except psycopg.Error as exc:
        return Timing(None, exc.diag.message_primary or str(exc))
    return Timing(round(statistics.median(taken), 3))


def _not_checked(name: str, where: str, why: str) -> Leftover:
    return Leftover("sequence not checked", name, where, f"It could not be compared with its column: {why}.")


def _furthest(conn: Connection, row: dict[str, Any]) -> tuple[int | None, int | None]:
    """The last value in the column in the sequence's direction, and that of the sequence; None where there is none.

    One sequence at a time: to ask for the last value locks it, and the server has no room for locks on all of many.
    Raises as the server does.
    """
    last = sql.SQL(
        "CASE WHEN pg_catalog.has_sequence_privilege({0}::oid, 'USAGE, SELECT')"
        " THEN pg_catalog.pg_sequence_last_value({0}::oid) END"
    ).format(sql.Literal(row["sequence"]))
    query = sql.SQL("/* pgrunbook */ SELECT {}({})::bigint, {} FROM {}").format(
        sql.SQL("max" if row["increment"] > 0 else "min"),
        sql.Identifier(row["column_name"]), last, sql.Identifier(row["schema_name"], row["relation"]),
    )  # fmt: skip
    ((furthest, last_value),) = conn.execute(query).fetchall()
    return (None if furthest is None else int(str(furthest))), (None if last_value is None else int(str(last_value)))
