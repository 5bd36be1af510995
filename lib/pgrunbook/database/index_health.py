"""Indexes that make queries slow after a change: without statistics of their expressions, or bloated.

Used by notebooks/troubleshoot.ipynb and ``pgrunbook doctor``. By the catalog and the statistics only: nothing is
measured, and nothing is locked above AccessShareLock.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from pgrunbook.database import connection, queries
from pgrunbook.database.connection import Connection
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
