"""Entries of columns and tables in ``pgrunbook.kept``: added by the transaction that captures them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg import sql

from pgrunbook.database import own_schema
from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import load
from pgrunbook.plan.step import Keep
from pgrunbook.sql.deparse import parsed
from pgrunbook.sql.tree import quoted
from pgrunbook.undo_data.parked_names import PARKED, renames
from pgrunbook.undo_data.registry import UndoEntry, create, find_named, refuse_purged, stop_following
from pgrunbook.undo_data.row_notes import function_name
from pgrunbook.undo_data.tables import SCHEMA, rows
from pgrunbook.undo_data.unclaimed import unclaimed


@dataclass(frozen=True)
class Site:
    """A written statement in one direction; the names of its side tables and parked tables derive from it."""

    migration: str
    file_sha256: str
    direction: str
    statement: int

    def name(self, keep: Keep) -> str:
        """Return the name of the side table or parked table: the same in every plan of the same text."""
        about = "\0".join([*map(str, vars(self).values()), keep.kind, keep.table, keep.column])
        return (PARKED if keep.kind == "table" else "kept_") + hashlib.sha256(about.encode()).hexdigest()[:16]


def add_entry(conn: Connection, run_id: str, site: Site, step: int, keep: Keep, *, keep_until: datetime | None) -> None:
    """Add the entry of a captured column or parked table, in the open transaction.

    Nobody else has rights on what the transaction has created for it.
    Entries of partitions and child tables become part of the entry of their topmost table.
    """
    create(conn)
    name = parsed(f"TABLE {keep.table}").fromClause[0]
    columns = [parsed(f"SELECT {keep.column}").targetList[0].val.fields[-1].sval] if keep.column else []
    values: Mapping[str, object] = {
        "run_id": run_id, "migration": site.migration, "direction": site.direction, "step": step,
        "kind": keep.kind, "schema": name.schemaname, "name": name.relname, "key": list(keep.key),
        "columns": columns, "kept_as": keep.kept_as, "keep_until": keep_until,
    }  # fmt: skip
    conn.execute(load("undo_data")["add_entry"].encode(), values)
    if keep.kind == "table":  # rights on it are its owner's to give
        conn.execute(load("undo_data")["join_families"].encode())
    else:
        own_schema.hide(conn, keep.kept_as, function_name(keep.kept_as))


def free_name(conn: Connection, kept_as: str) -> None:
    """Rename an older side table or parked table of this name; create schema pgrunbook when it is missing.

    Call it in the transaction of the step that captures, which runs once: what has the name was captured when the
    same statement was executed earlier and rolled back.
    Locks: AccessExclusiveLock on an older side table or parked table.
    """
    create(conn)
    (place,) = rows(conn, "at_name", kept_as=kept_as)
    number = place["id"] or place["table_oid"]
    if number is None:
        return
    other = f"{kept_as}_{number}"
    if place["table_oid"] and kept_as.startswith(PARKED):
        for statement in renames(conn, kept_as, other):
            conn.execute(statement.encode())
    elif place["table_oid"]:
        conn.execute(
            sql.SQL("ALTER TABLE {} RENAME TO {}").format(sql.Identifier(SCHEMA, kept_as), sql.Identifier(other))
        )
    stop_following(conn, kept_as)
    if place["id"]:
        conn.execute(load("undo_data")["renamed"].encode(), {"id": place["id"], "kept_as": other})


def mark_reverted(conn: Connection, names: Sequence[str]) -> list[str]:
    """Mark the entries of columns and tables as reverted, in the open transaction; return what is to be told.

    Raises Refused when one was purged.
    Locks: AccessExclusiveLock on the table of a column, for its triggers.
    """
    told = []
    for entry in find_named(conn, names):
        refuse_purged(entry)
        given = entry.rows_estimate
        if entry.kind == "column":
            left = unclaimed(conn, entry, is_over=True)
            told += [left.says] if left else []
            stop_following(conn, entry.kept_as)
            (count,) = conn.execute(sql.SQL("SELECT pg_catalog.count(*) FROM {}").format(entry.side)).fetchone() or (0,)
            given = int(str(count)) - left.values
        conn.execute(load("undo_data")["mark_reverted"].encode(), {"id": entry.id, "rows": max(given, 0)})
    return told


def as_keep(entry: UndoEntry) -> Keep:
    """Return an entry as the Keep of an inverse; a column's type stays empty."""
    column = quoted(entry.columns[0]) if entry.kind == "column" else ""
    return Keep("column" if column else "table", _name(entry), column, entry.key, kept_as=entry.kept_as)


def refuse_purged_keep(conn: Connection, keep: Keep) -> None:
    """Raise Refused when what was captured is purged: nothing is left to revert."""
    for entry in find_named(conn, [keep.kept_as]):
        refuse_purged(entry)


def _name(entry: UndoEntry) -> str:
    """The name as ``regclass`` prints it with an empty search path."""
    return f"{quoted(entry.table.schema)}.{quoted(entry.table.name)}"
