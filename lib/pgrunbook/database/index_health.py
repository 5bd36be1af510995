"""Indexes that make queries slow after a change: lost, without statistics of their expressions, or bloated.

Used by notebooks/troubleshoot.ipynb and ``pgrunbook doctor``. By the catalog and the statistics only: nothing is
measured, and nothing is locked above AccessShareLock.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from psycopg import sql

from pgrunbook.database import connection, queries, schema
from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import snapshot_cursor
from pgrunbook.database.schema import Snapshot
from pgrunbook.database.sqlstate import said
from pgrunbook.errors import StatementFailed, WrongInput

LEAST_BYTES = 10 * 1024 * 1024
TIMES = 3.0
LIMITS = {"lock_timeout_ms": 60_000, "statement_timeout_ms": 6 * 3_600_000}


@dataclass(frozen=True)
class BloatedIndex:
    """An index that takes ``bytes``, where its keys need some ``needed_estimate``."""

    name: str
    table: str
    bytes: int
    needed_estimate: int


def bloated(conn: Connection, *, least_bytes: int = LEAST_BYTES) -> list[BloatedIndex]:
    """Return the B-tree indexes that take three times what they need or more, the most bytes to gain first.

    An index on expressions, or without statistics of each column, is not judged.
    """
    found = queries.rows(conn, "index_health", "bloated", least=least_bytes, times=TIMES)
    return [BloatedIndex(row["name"], row["table_name"], row["bytes"], row["needed"]) for row in found]


def lost(conn: Connection, before: Snapshot) -> list[schema.Index]:
    """Return the indexes of an earlier snapshot that are gone, or on something else, where their table is still there.

    One that has another name now is not lost, nor one of a partition: it goes with its parent. Those of constraints
    are left to drift, which compares the constraints.
    """
    known = [one for one in before.of(schema.Index) if one.definition and not one.parent]
    asked = {"tables": sorted({one.relation for one in known})}
    with snapshot_cursor(conn) as cursor:
        found = cursor.execute(queries.load("index_health")["by_table"], asked).fetchall()
    tables = {str(table) for table, _, _ in found}
    there = {_nameless(str(definition), str(name)) for _, name, definition in found}
    return [
        one for one in known
        if one.relation in tables and _nameless(one.definition or "", one.index_name) not in there
    ]  # fmt: skip


def _nameless(definition: str, name: str) -> str:
    """Return what CREATE INDEX says without the name, which the server quotes where it has to."""
    head, _, rest = (
        definition.partition(f" {name} ON ")
        if f" {name} ON " in definition
        else (definition.partition(f" {sql.Identifier(name).as_string(None)} ON "))
    )
    return f"{head} ON {rest}"


def without_statistics(conn: Connection) -> dict[str, list[str]]:
    """Return the tables with indexes on expressions that were never analyzed, each with these indexes."""
    return {str(row["name"]): list(row["indexes"]) for row in queries.rows(conn, "index_health", "expressions")}


def chosen(conn: Connection, name: str) -> str:
    """Return the name of an index as statements spell it. Raises WrongInput where it is none."""
    query = "SELECT c.oid::regclass::text FROM pg_catalog.pg_class AS c WHERE c.oid = pg_catalog.to_regclass(%s)"
    found = conn.execute(f"{query} AND c.relkind = 'i'".encode(), [name]).fetchone()
    if found is None:
        raise WrongInput(f"there is no index {name}", hint="Spell it as cell slow does, with its schema.")
    return str(found[0])


def rebuild(conn: Connection, name: str) -> None:
    """Build an index anew beside the old one, which serves meanwhile, and take its place.

    Raises StatementFailed where the server refuses it; what is left of it then is a leftover.
    Locks: ShareUpdateExclusiveLock on the table. It waits for every transaction that is older, or uses the table.
    Source: https://www.postgresql.org/docs/current/sql-reindex.html#SQL-REINDEX-CONCURRENTLY
    """
    connection.limit(conn, **LIMITS)
    try:
        conn.execute(f"REINDEX INDEX CONCURRENTLY {name}".encode())
    except psycopg.Error as exc:
        raise StatementFailed(
            f"could not build {name} anew",
            detail=said(exc),
            state="The index serves as before; an invalid one beside it, named ..._ccnew, may be left behind.",
            hint="Remove what is left behind, wait for the old transactions, then choose it again.",
        ) from exc
