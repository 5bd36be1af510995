"""Code of other roles that a query of ours would run with our rights; what reads tables and constraints asks first.

A superuser who only counts the rows of a table runs what its owner has planted: the server folds the constants of the
expressions of its indexes, statistics and keys of partitions when it plans a query, and calls their functions. The
text of a constraint or an index calls functions, also by operators, casts, and the constraints of domains.

Trusted are superusers, ourselves, and, where we are no superuser, the roles that we are members of.
Source: https://www.postgresql.org/docs/current/xfunc-volatility.html
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pglast.parser import ParseError
from psycopg import sql

from pgrunbook.database import queries
from pgrunbook.database.connection import Connection
from pgrunbook.errors import Refused
from pgrunbook.sql.outside import relations_read
from pgrunbook.sql.tree import Name, trees

MOST_NAMED = 5
WHY = "it calls functions of another role, which would run with our rights"


def reached(conn: Connection) -> frozenset[int]:
    """Return the OIDs of the tables, indexes and constraints whose use would run such code. Locks: none."""
    return frozenset(int(row["oid"]) for row in _found(conn) if not row["is_by_column"])


def tables(conn: Connection) -> frozenset[tuple[str, str]]:
    """Return schema and name of the tables that no query can read without it. Locks: none."""
    return frozenset((row["schema"], row["name"]) for row in _found(conn) if row["schema"])


def written(conn: Connection, oids: Collection[int], *, fires: bool) -> frozenset[int]:
    """Return which of these tables run such code when a row is written into them.

    By a check, a default, a rule, the type of a column (its casts, what its domain asks), or a trigger: those that are
    always enabled, and with ``fires`` all that are. What no query can read without such code is named by
    :func:`tables`. Locks: none.
    """
    with queries.snapshot_cursor(conn):
        roles = [row["oid"] for row in queries.rows(conn, "foreign_code", "roles", any=False)]
        if not roles:
            return frozenset()
        reached_ = [row["oid"] for row in queries.rows(conn, "foreign_code", "reached", roles=roles)]
        found = queries.rows(
            conn, "foreign_code", "written", roles=roles, oids=list(oids), reached=reached_, fires=fires
        )
    return frozenset(int(row["oid"]) for row in found)


def called(conn: Connection, names: Collection[str]) -> list[str]:
    """Return which of these functions of schema pgrunbook have such code in their text.

    Whoever executes one with our rights (SECURITY DEFINER) would run it: a function, an operator, or a domain, which
    its owner may give a check at any time. Locks: none.
    """
    roles = [row["oid"] for row in queries.rows(conn, "foreign_code", "roles", any=True)]
    found = queries.rows(conn, "foreign_code", "called", roles=roles, names=list(names)) if roles else []
    return [row["name"] for row in found]


def refuse(tables_: Collection[tuple[str, str]], doing: str, instead: str) -> None:
    """Raise Refused where tables run such code: what would be done with them, and what to do instead."""
    if tables_:
        raise Refused(
            f"refused to {doing} {', '.join(sorted('.'.join(one) for one in tables_)[:MOST_NAMED])}",
            detail=f"Whoever does it runs code of their owners: {WHY}.",
            hint=f"Give those functions to a role that is trusted (ALTER FUNCTION ... OWNER TO), or {instead}.",
        )


def hinders(conn: Connection, query: str) -> str:
    """Return why a query is not to be planned, "" where none of the tables that it names runs such code.

    What a view reads is not followed: where there is such code at all, a query of one is not planned. Locks: none.
    """
    found = reached(conn)
    if not found:
        return ""
    try:
        names = {Name(part.schemaname or "", part.relname) for node in trees(query) for part in relations_read(node)}
    except ParseError:
        return WHY  # nobody knows what it reads
    oids = [conn.oid_of("regclass", str(sql.Identifier(*filter(None, name)).as_string(None))) for name in names]
    rows = queries.rows(conn, "foreign_code", "read_by", oids=[oid for oid in oids if oid is not None])
    return WHY if any(row["is_unknown"] or row["oid"] in found for row in rows) else ""


def _found(conn: Connection) -> list[dict[str, Any]]:
    with queries.snapshot_cursor(conn):  # without JIT: the server expects far too many rows, and compiled for 4 s
        roles = [row["oid"] for row in queries.rows(conn, "foreign_code", "roles", any=False)]
        return queries.rows(conn, "foreign_code", "reached", roles=roles) if roles else []
