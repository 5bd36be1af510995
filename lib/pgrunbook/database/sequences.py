"""The next number of a sequence, also of one that was restarted and has given no number since."""

from __future__ import annotations

from psycopg import sql

from pgrunbook.database.connection import Connection


def next_number(conn: Connection, sequence: str, last: int | None, increment: int) -> int:
    """Return the number that a sequence gives next; ``sequence`` is its name as in SQL.

    ``last`` is what pg_sequence_last_value says. It says NULL where a sequence has given no number since its start or
    its last restart, and only the sequence itself tells where that was.

    Raises psycopg's errors, also where the sequence may not be read.
    Locks: AccessShareLock on the sequence, where it is read.
    """
    if last is None:
        query = sql.SQL("SELECT last_value, is_called FROM {}").format(sql.SQL(sequence))
        ((position, called),) = conn.execute(query).fetchall()
        last = int(str(position)) - (0 if called else increment)
    return last + increment
