"""Columns and tables in the list of what is kept: noted in the transaction that keeps them, and marked given back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import load
from pgrunbook.database.schema import KEPT_SCHEMA
from pgrunbook.plan.step import Keep
from pgrunbook.sql.deparse import parsed
from pgrunbook.sql.tree import quoted
from pgrunbook.undo_data.registry import UndoEntry, create, find_named, refuse
from pgrunbook.undo_data.tables import SCHEMA, rows


@dataclass(frozen=True)
class Site:
    """A written statement in one direction: the names of what keeps for it are made of that."""

    migration: str
    file_sha256: str
    direction: str
    statement: int

    def name(self, keep: Keep) -> str:
        """Return the name of what keeps something: the same in every plan of the same text."""
        about = "\0".join([*map(str, vars(self).values()), keep.kind, keep.table, keep.column])
        prefix = KEPT_SCHEMA if keep.kind == "table" else "kept_"
        return prefix + hashlib.sha256(about.encode()).hexdigest()[:16]


def note(conn: Connection, run_id: str, site: Site, step: int, keep: Keep, *, keep_until: datetime | None) -> None:
    """Note in the list, in the transaction that is open, that a column or a table is kept from now on.

    Tables that belong to each other (a partition, a child) are one thing of the list, under the uppermost.
    """
    create(conn)
    name = parsed(f"TABLE {keep.table}").fromClause[0]
    columns = [parsed(f"SELECT {keep.column}").targetList[0].val.fields[-1].sval] if keep.column else []
    values: Mapping[str, object] = {
        "run_id": run_id, "migration": site.migration, "direction": site.direction, "step": step,
        "kind": keep.kind, "schema": name.schemaname, "name": name.relname, "key": list(keep.key),
        "columns": columns, "kept_as": keep.kept_as, "keep_until": keep_until,
    }  # fmt: skip
    conn.execute(load("undo_data")["note"].encode(), values)
    if keep.kind == "table":
        conn.execute(load("undo_data")["join_families"].encode())


def make_way(conn: Connection, kept_as: str) -> None:
    """Give what was kept under a name another one, and make schema pgrunbook where it is not there yet.

    It is called in the transaction of the step that keeps, which is done once: what is there is of an earlier time,
    when the same statement was executed and taken back.
    Locks: AccessExclusiveLock on an older side table.
    """
    create(conn)
    (place,) = rows(conn, "at_name", kept_as=kept_as)
    number = place["id"] or place["schema_oid"] or place["table_oid"]
    if number is None:
        return
    other = f"{kept_as}_{number}"
    if place["schema_oid"]:
        conn.execute(sql.SQL("ALTER SCHEMA {} RENAME TO {}").format(sql.Identifier(kept_as), sql.Identifier(other)))
    elif place["table_oid"]:
        conn.execute(
            sql.SQL("ALTER TABLE {} RENAME TO {}").format(sql.Identifier(SCHEMA, kept_as), sql.Identifier(other))
        )
    if place["id"]:
        conn.execute(load("undo_data")["renamed"].encode(), {"id": place["id"], "kept_as": other})


def mark_given_back(conn: Connection, names: Sequence[str]) -> None:
    """Note, in the transaction that is open, that columns or tables were given back.

    Raises Refused for one that was purged.
    """
    for kept in find_named(conn, names):
        refuse(kept)
        given = kept.rows_estimate
        if kept.kind == "column":
            (count,) = conn.execute(sql.SQL("SELECT pg_catalog.count(*) FROM {}").format(kept.side)).fetchone() or (0,)
            given = int(str(count))
        conn.execute(load("undo_data")["reverted"].encode(), {"id": kept.id, "rows": max(given, 0)})


def as_keep(kept: UndoEntry) -> Keep:
    """Return a thing of the list as a way back names it; the type of a column is not told."""
    column = quoted(kept.columns[0]) if kept.kind == "column" else ""
    return Keep("column" if column else "table", _name(kept), column, kept.key, kept_as=kept.kept_as)


def refuse_purged(conn: Connection, keep: Keep) -> None:
    """Raise Refused for something that was purged: there is nothing to give back."""
    for kept in find_named(conn, [keep.kept_as]):
        refuse(kept)


def _name(kept: UndoEntry) -> str:
    """The name as ``regclass`` tells it with an empty search path."""
    return f"{quoted(kept.table.schema)}.{quoted(kept.table.name)}"
