"""Values that live beside masked ones until contract: they must not leave with a branch either; used by masking."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from psycopg import sql

from pgrunbook.database import shadows
from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import load

# The values by which columns are masked, by table and name.
Masked = Mapping[tuple[str, str], Mapping[str, sql.Composable]]


def beside(conn: Connection, masked: Masked) -> Iterator[tuple[tuple[str, str], str, sql.Composable]]:
    """Yield the columns of masked tables that hold the same values under another name: table, column, and value.

    The other name of a renamed column gets the value of the masked one. A column that a change of type has left, or
    has begun, is NULL.
    """
    given = {table: set(columns) for table, columns in masked.items()}
    for one in shadows.read(conn, is_branch=True):
        table = (one.table_schema, one.table_name)
        for column, other in ((one.column_name, one.shadow_name), (one.shadow_name, one.column_name)):
            value = masked.get(table, {}).get(column)
            if one.kind == "rename" and value is not None and other not in given[table]:
                given[table].add(other)
                yield table, other, value
    for table in masked:
        found = conn.execute(load("masking")["ours"], {"schema": table[0], "table": table[1]}).fetchall()
        for (name,) in found:
            if name not in given[table]:
                yield table, str(name), sql.SQL("NULL")
