"""Triggers of the application that do not fire while captured rows come back; keys are checked afterwards.

A change of the schema fires no trigger, so its way back need not; a statement that changes rows does. prepare tries on
the branch which of both ends equal. Triggers that are ENABLE ALWAYS, such as our own, fire in any case.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import psycopg
from psycopg import sql

from pgrunbook.database.checksums import TableName
from pgrunbook.database.connection import Connection
from pgrunbook.undo_data.tables import rows


def may_silence(conn: Connection) -> bool:
    """Tell whether this session may silence triggers: a superuser, or whoever is granted SET on the parameter.

    Not where a foreign key has a PERIOD: it cannot be checked afterwards.
    """
    if rows(conn, "has_period_keys")[0]["has"]:
        return False
    try:
        with conn.transaction(force_rollback=True):
            conn.execute("SET LOCAL session_replication_role = replica")
    except psycopg.errors.InsufficientPrivilege:
        return False
    return True


def fires(conn: Connection, tables: Collection[TableName]) -> bool:
    """Tell whether a trigger or rule of the application fires when rows of these tables are written."""
    names = [table.identifier().as_string(None) for table in tables]
    return bool(rows(conn, "fires", names=names)[0]["fires"])


@contextmanager
def silenced(conn: Connection) -> Iterator[None]:
    """Silence triggers while the body writes rows in the open transaction; :func:`check_keys` afterwards."""
    (was,) = conn.execute("SELECT pg_catalog.current_setting('session_replication_role')").fetchone() or ("origin",)
    conn.execute("SET LOCAL session_replication_role = replica")
    yield
    conn.execute("SELECT pg_catalog.set_config('session_replication_role', %s, true)", [was])


def check_keys(conn: Connection, tables: Sequence[TableName]) -> None:
    """Check all rows of the foreign keys of tables, and of those that refer to them; and of deferrable keys.

    Triggers of PostgreSQL's own watch these, which were silent, too.
    Raises psycopg's ForeignKeyViolation or UniqueViolation where one does not hold.
    Locks: AccessShareLock on the tables of the keys.
    """
    names = [table.identifier().as_string(None) for table in tables]
    for key in rows(conn, "keys_to_check", names=names):
        body = "BEGIN IF EXISTS ({}) THEN RAISE {} USING MESSAGE = {}; END IF; END"
        error = "foreign_key_violation" if key["kind"] == "foreign key" else "unique_violation"
        says = f"rows of {key['child']} violate {key['kind']} {key['name']}: triggers were silent while rows came back"
        block = sql.SQL(body).format(sql.SQL(key["query"]), sql.SQL(error), sql.Literal(says))
        conn.execute(sql.SQL("DO {}").format(sql.Literal(block.as_string(None))))
