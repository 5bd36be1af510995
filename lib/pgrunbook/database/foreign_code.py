"""Code of other roles that a query of ours would run with our rights; what reads tables and constraints asks first.

A superuser who only counts the rows of a table runs what its owner has planted: the server folds the constants of the
expressions of its indexes, statistics and keys of partitions when it plans a query, and calls their functions. The
text of a constraint or an index calls functions, also by operators, casts, and the constraints of domains.

Trusted are superusers, ourselves, and, where we are no superuser, the roles that we are members of.
Source: https://www.postgresql.org/docs/current/xfunc-volatility.html
"""

from __future__ import annotations

from typing import Any

from pgrunbook.database import queries
from pgrunbook.database.connection import Connection

WHY = "it calls functions of another role, which would run with our rights"


def reached(conn: Connection) -> frozenset[int]:
    """Return the OIDs of the tables, indexes and constraints whose use would run such code. Locks: none."""
    return frozenset(int(row["oid"]) for row in _found(conn))


def tables(conn: Connection) -> frozenset[tuple[str, str]]:
    """Return schema and name of the tables that no query can read without it. Locks: none."""
    return frozenset((row["schema"], row["name"]) for row in _found(conn) if row["schema"])


def _found(conn: Connection) -> list[dict[str, Any]]:
    with queries.snapshot_cursor(conn):  # without JIT: the server expects far too many rows, and compiled for 4 s
        roles = [row["oid"] for row in queries.rows(conn, "foreign_code", "roles")]
        return queries.rows(conn, "foreign_code", "reached", roles=roles) if roles else []
