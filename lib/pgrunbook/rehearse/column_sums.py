"""Sums of single columns, which show where two states of a table differ; used by ``up_down_up``."""

from __future__ import annotations

from collections.abc import Iterable

from pgrunbook.database import checksums
from pgrunbook.database.checksums import TableName, TableSum
from pgrunbook.database.connection import Connection
from pgrunbook.database.facts import Facts
from pgrunbook.database.queries import load


def column_sums(conn: Connection, tables: Iterable[TableName]) -> dict[TableName, dict[str, TableSum]]:
    """Return the sum of each column of tables: which of them differ between two states, whatever the others hold.

    Locks: AccessShareLock on each table.
    """
    facts, found = Facts(conn), {}
    for table in tables:
        relation = facts.named(table)
        names = list(facts.columns(relation)) if relation is not None else []
        found[table] = {
            name: checksums.checksums(conn, [table], without={table: {*names} - {name}})[table] for name in names
        }
    return found


def take_numbers(conn: Connection) -> None:
    """Take a number from each sequence: what is numbered differs then."""
    conn.execute(load("row_equality")["take_numbers"].encode())
