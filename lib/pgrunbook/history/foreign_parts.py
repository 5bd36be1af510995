"""What hangs on a history table and would run somebody else's code with our rights: triggers, rules, checks, defaults.

Whoever may create a schema may create the history table before the first release, and waits for our INSERT.
"""

from __future__ import annotations

from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import load
from pgrunbook.errors import Refused


def refuse(conn: Connection, schema: str, table: str) -> None:
    """Look at what hangs on a history table, and on its partitions and child tables.

    The parts of a table are trusted when we trust its owner (our role, one that we may SET ROLE to, a superuser) and
    the owner of a trigger's function; of other tables only plain columns, keys, indexes and defaults are.

    Raises Refused, with the names of the parts.
    """
    queries, named = load("history_table"), {"schema": schema, "name": table}
    if conn.execute(queries["is_bare"].encode(), named).fetchone() == (True,):
        return  # it is asked before each migration ends, and the whole look takes ten times as long
    found = conn.execute(queries["foreign_parts"].encode(), named).fetchall()
    if found:
        raise Refused(
            f"cannot use the history table {schema}.{table}: it would run code of somebody else",
            detail=f"On it: {'; '.join(str(part) for (part,) in found)}.",
            state="Nothing of it was executed.",
            hint="Ask its owner to drop them, or run as a role that owns it; where the migration tool did not create"
            " the table, drop it.",
        )


def hold(conn: Connection, schema: str, table: str) -> None:
    """Lock a history table before it is written to, so that nothing is put on it any more, and look at it.

    Raises Refused as :func:`refuse` does.
    Locks: RowExclusiveLock on the history table, as the INSERT after it.
    """
    conn.execute(sql.SQL("LOCK TABLE {} IN ROW EXCLUSIVE MODE").format(sql.Identifier(schema, table)))
    refuse(conn, schema, table)
