"""Single rows of a batch, by their places in the table: where a batch that the server refuses is taken apart."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.online.ranges import Key, texts
from pgrunbook.plan.step import Batches


def rows_of(conn: Connection, batches: Batches, condition: sql.Composable) -> list[str]:
    """Return the places (ctid) of the rows of a range."""
    rows = sql.SQL("SELECT {}::text FROM {} AS {} WHERE {}").format(
        sql.Identifier(batches.alias, "ctid"), sql.Identifier(batches.schema, batches.table),
        sql.Identifier(batches.alias), condition,
    )  # fmt: skip
    return [str(row[0]) for row in conn.execute(rows)]


def are_at(batches: Batches, rows: Sequence[str]) -> sql.Composable:
    """Return the condition that a row is at one of these places."""
    listed = sql.Literal(f"{{{','.join(chr(34) + row + chr(34) for row in rows)}}}")
    ctid = sql.Identifier(batches.alias, "ctid")
    return sql.SQL("({} OPERATOR(pg_catalog.=) ANY ({}::pg_catalog.tid[]))").format(ctid, listed)


def key_at(conn: Connection, batches: Batches, ctid: str) -> Key:
    """Return the key of a row, or its place where it has none or is gone."""
    if batches.key:
        names = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in batches.key)
        query = sql.SQL("SELECT {} FROM {} WHERE ctid OPERATOR(pg_catalog.=) {}::pg_catalog.tid LIMIT 1").format(
            names, sql.Identifier(batches.schema, batches.table), sql.Literal(ctid)
        )
        found = texts(conn.execute(query).fetchone())
        if found is not None:
            return found
    return (ctid,)


def told(batches: Batches, key: Key) -> str:
    """Return a key as a sentence says it."""
    return ", ".join(f"{name} = {value}" for name, value in zip(batches.key or ("ctid",), key, strict=False))
