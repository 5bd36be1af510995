"""Checksums of large tables of a living database: by ranges of the key, each in a snapshot of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from pgrunbook.database.checksums import (
    STATEMENT_TIMEOUT_MS,
    SummedTable,
    TableName,
    TableSum,
    described,
    leaving_out,
    row_hash,
)
from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import snapshot_cursor

GROUP_ROWS = 250_000
# Types whose order is that of the operators in pg_catalog, and whose text is read back as the same value.
_ORDERED = frozenset({
    "bigint", "boolean", "bytea", "character varying", "date", "double precision", "integer", "name", "numeric", "real",
    "smallint", "text", "time without time zone", "timestamp with time zone", "timestamp without time zone", "uuid",
})  # fmt: skip

Key = tuple[str, ...]


def bounded_sum(
    conn: Connection, table: TableName, *, without: Collection[str] = (), group_rows: int = GROUP_ROWS
) -> TableSum:
    """Return row count and checksum as ``checksums.checksums`` does, without one snapshot over all of it.

    Raises and locks as :func:`range_sums`.
    """
    rows = total = 0
    for group in range_sums(conn, table, without=without, group_rows=group_rows):
        rows, total = rows + group.rows, total + int(group.checksum)
    return TableSum(rows, str(total))


def range_sums(
    conn: Connection, table: TableName, *, without: Collection[str] = (), group_rows: int = GROUP_ROWS
) -> Iterator[TableSum]:
    """Yield row count and checksum of each range of the primary key, in its order.

    1. Find the key that ends the group, from the end of the one before; the index of the primary key leads there.
    2. Count and sum the rows up to it, in the same transaction.
    3. Go on from there, until nothing ends the group: it was the last.

    No snapshot is older than its group, so that VACUUM cleans behind it. A row that is written meanwhile counts as it
    was when its group was read, and one whose key is changed may count twice or not at all. A table without primary
    key, or with one of a type that others define, is one group.

    Raises WrongInput when the table does not exist.
    Locks: AccessShareLock on the table, for each group.
    """
    last: Key | None = None
    while True:
        with snapshot_cursor(conn, statement_timeout_ms=STATEMENT_TIMEOUT_MS) as cursor:
            (found,) = described(cursor, [table])
            end = _end(cursor, found, last, group_rows) if _has_order(found) else None
            group = _sum(cursor, found, leaving_out(found, without), last, end)
        yield group
        if end is None:
            return
        last = end


def _has_order(table: SummedTable) -> bool:
    return bool(table.key) and all(table.types[column] in _ORDERED for column in table.key)


def _end(cursor: psycopg.Cursor[TupleRow], table: SummedTable, last: Key | None, group_rows: int) -> Key | None:
    """Return the key of the group's last row, None where there are not as many rows."""
    query = sql.SQL("SELECT {} FROM {} AS t WHERE {} ORDER BY {} OFFSET {} LIMIT 1").format(
        sql.SQL(", ").join(sql.SQL("{}::text").format(name) for name in _names(table)),
        table.source(),
        _bound(table, ">", last),
        sql.SQL(", ").join(_names(table)),
        group_rows - 1,
    )
    return cursor.execute(query).fetchone()


def _sum(
    cursor: psycopg.Cursor[TupleRow], table: SummedTable, summed: SummedTable, last: Key | None, end: Key | None
) -> TableSum:
    query = sql.SQL(
        "SELECT pg_catalog.count(*), coalesce(pg_catalog.sum({}), 0)::text FROM {} AS t WHERE {} AND {}"
    ).format(row_hash(summed.types), table.source(), _bound(table, ">", last), _bound(table, "<=", end))
    rows, checksum = cursor.execute(query).fetchone() or (0, "0")
    return TableSum(rows, checksum)


def _bound(table: SummedTable, operator: str, key: Key | None) -> sql.Composable:
    if key is None:
        return sql.SQL("true")
    values = [
        sql.SQL("CAST({} AS {})").format(value, sql.SQL(table.types[column]))
        for column, value in zip(table.key, key, strict=True)
    ]
    return sql.SQL("({}) {} ({})").format(
        sql.SQL(", ").join(_names(table)), sql.SQL(operator), sql.SQL(", ").join(values)
    )


def _names(table: SummedTable) -> list[sql.Identifier]:
    return [sql.Identifier("t", column) for column in table.key]
