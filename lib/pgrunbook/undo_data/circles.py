"""Deleted rows of tables that refer to each other in a circle: they come back in the order in which they need others.

1. Each table's rows are inserted whose parents are there; the others wait.
2. When all tables of the circle had their turn, round after round inserts the rows whose parents have come since.
3. Rows that need each other are inserted at once: the keys are checked behind them where they can be deferred, or where
   no trigger of the application fires, so that it makes no difference when triggers are silent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import psycopg
from psycopg import sql

from pgrunbook.database.checksums import TableName
from pgrunbook.database.connection import Connection
from pgrunbook.undo_data.registry import STATES, UndoEntry, find
from pgrunbook.undo_data.silence import check_keys, fires, may_silence, silenced
from pgrunbook.undo_data.tables import foreign_keys, rows

# Inserts the rows of one table that are not there: those whose parents are there only, or all. Returns how many.
InsertRest = Callable[[bool], int]

log = logging.getLogger(__name__)


def circle_of(conn: Connection, entry: UndoEntry) -> list[UndoEntry]:
    """Return the entries of the same step whose deleted rows may need each other's, [] where none do."""
    if entry.kind != "delete" or entry.part_of is not None:
        return []
    same = find(conn, states=STATES, migration=entry.migration, direction=entry.direction, steps=[entry.step])
    by_oid: dict[int, UndoEntry] = {}
    for one in same:
        if (one.kind, one.part_of, one.run_id) == ("delete", None, entry.run_id):
            there = rows(conn, "oid_of", schema=one.table.schema, name=one.table.name)
            by_oid |= {there[0]["oid"]: one} if there else {}
    below = {oid: {key.oid for key in foreign_keys(conn, oid)} & by_oid.keys() for oid in by_oid}
    mine = next((oid for oid, one in by_oid.items() if one.id == entry.id), 0)
    found = [oid for oid in by_oid if mine in _reached(below, oid) and oid in _reached(below, mine)]
    return [by_oid[oid] for oid in found] if len(found) > 1 else []


def insert_rest(
    conn: Connection,
    circle: Sequence[UndoEntry],
    inserts: Sequence[InsertRest],
    *,
    is_silent: bool,
    leaves_refused: bool,
) -> int:
    """Insert rows that wait for others in rounds, then those that need each other at once; return how many.

    Raises psycopg's IntegrityError where a row has no parent, unless rows that are refused are left.
    """
    given, most = 0, sum(_captured(conn, one) for one in circle)
    while given < most and (more := sum(insert(True) for insert in inserts)):  # a trigger may take each away again
        given += more
    return given + _at_once(conn, [one.table for one in circle], inserts, is_silent, leaves_refused)


def _at_once(
    conn: Connection, tables: Sequence[TableName], inserts: Sequence[InsertRest], is_silent: bool, leaves_refused: bool
) -> int:
    is_quiet = is_silent or (may_silence(conn) and not fires(conn, tables))
    try:
        with conn.transaction():
            if not is_quiet:
                conn.execute("SET CONSTRAINTS ALL DEFERRED")
                given = sum(insert(False) for insert in inserts)
                conn.execute("SET CONSTRAINTS ALL IMMEDIATE")
                return given
            with silenced(conn):
                given = sum(insert(False) for insert in inserts)
            check_keys(conn, tables)
            return given
    except psycopg.IntegrityError as exc:
        if not leaves_refused:
            raise
        log.info("the server refuses rows that need each other: %s", exc.diag.message_primary)
        return 0


def _captured(conn: Connection, entry: UndoEntry) -> int:
    (found,) = conn.execute(sql.SQL("SELECT pg_catalog.count(*) FROM {}").format(entry.side)).fetchone() or (0,)
    return int(str(found))


def _reached(below: dict[int, set[int]], oid: int) -> set[int]:
    found: set[int] = set()
    left = {oid}
    while left:
        left = {child for one in left for child in below[one]} - found
        found |= left
    return found
