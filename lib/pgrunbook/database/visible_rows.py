"""Tables whose rows a policy hides from the target's role, and how many it sees; safe forms ask.

Source: https://www.postgresql.org/docs/current/ddl-rowsecurity.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.database.facts import Facts
from pgrunbook.database.queries import rows
from pgrunbook.database.sqlstate import Meaning, meaning

COUNT_BELOW_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class VisibleRows:
    """A table whose rows are filtered, as SQL names it.

    ``visible`` is the number of rows that the role sees, None where it was not counted; ``rows_estimate`` that of
    all, which only the statistics tell. ``role`` is the owner of the view through which it is read, "" for none.
    """

    table: str
    visible: int | None = None
    rows_estimate: int | None = None
    role: str = ""


def filtered(
    facts: Facts, oids: Sequence[int], changed: int | None, commands: Sequence[str], *, refresh: bool = False
) -> list[VisibleRows]:
    """Return the tables, of those and of the views among them, whose rows policies choose for the session's role.

    ``commands`` are those of pg_policy whose policies choose the rows of table ``changed`` as well.

    Locks: AccessShareLock on tables of up to 256 MB, whose visible rows are counted.
    """
    there = facts.rows_conn
    found = []
    for row in facts.rows("filtered_tables", oids=list(oids), refresh=refresh):
        if row["role"]:
            found.append(VisibleRows(row["name"], role=row["role"]))
            continue
        number = there.oid_of("regclass", row["name"])
        own = commands if row["oid"] == changed else ()
        estimate = _estimate(there, number) if number is not None else None
        seen = _visible(there, row["name"], number, own) if number is not None else None
        found.append(VisibleRows(row["name"], seen, estimate))
    return found


def _estimate(conn: Connection, oid: int) -> int | None:
    (row,) = rows(conn, "relations", "rows_estimate", oid=oid)
    return None if row["rows"] is None else int(row["rows"])


def _visible(conn: Connection, table: str, oid: int, commands: Sequence[str]) -> int | None:
    """Count the rows as a session of the role sees them; None where the table is large or the server refuses."""
    try:
        with conn.transaction(force_rollback=True):
            (facts,) = rows(conn, "relations", "policies", oid=oid, commands=list(commands))
            if facts["bytes"] > COUNT_BELOW_BYTES or not facts["is_filtered"]:
                return None
            conn.execute("SET LOCAL row_security = on")
            condition = " AND ".join(facts["conditions"]) or "true"
            query = sql.SQL("SELECT pg_catalog.count(*) AS rows FROM {} WHERE {}")
            counted = conn.execute(query.format(sql.SQL(table), sql.SQL(condition))).fetchone()
            return None if counted is None else int(str(counted[0]))
    except psycopg.Error as exc:
        if meaning(exc) is Meaning.LOST:
            raise
        return None  # a policy may need a setting that the migration makes, or take too long
