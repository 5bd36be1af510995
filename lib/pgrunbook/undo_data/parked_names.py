"""The names of parked tables: generated ones in schema pgrunbook, and the original ones when they come back.

Names of tables, indexes, sequences, statistics and row types collide within a schema. So the table and all that
moves with it get names that derive from the table's entry; the original ones are noted in a comment on it. Names of
triggers, policies, rules and other constraints are the table's own, and stay.

1. What could have the name of something of ours is renamed, then all is moved, then the rest is renamed: to rename
   takes CREATE on the schema, which the owner of a table may lack in the table's own.
2. On the way back all is moved, then renamed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from psycopg import sql

from pgrunbook.database.checksums import TableName
from pgrunbook.database.connection import Connection
from pgrunbook.sql.deparse import text
from pgrunbook.sql.tree import quoted
from pgrunbook.undo_data.tables import SCHEMA, rows

PARKED = "parked_"
# An array type is named after its table, with underscores before it.
_OURS = re.compile("_*(batch|kept|load|parked|restore_point|shadow|step|way_back)")
_MOVING = ("TABLE", "STATISTICS")  # indexes and sequences move with their table

# The last part of a generated name to the original name.
Names = Mapping[str, str]


def parts_elsewhere(conn: Connection, table: str) -> list[str]:
    """Return the extended statistics of a table that are in another schema than the table."""
    found = rows(conn, "parts_of_table", table=table)
    return [_quoted(one["schema"], one["name"]) for one in found if one["schema"] != found[0]["schema"]]


def names_of(conn: Connection, table: str) -> Names:
    """Return the original names of what moves with a table, by the last part of its generated name."""
    found = rows(conn, "parts_of_table", table=table)
    return {f"part{number}": one["name"] for number, one in enumerate(found[1:], 1)}


def moves_there(conn: Connection, table: str, kept_as: str) -> list[str]:
    """Return the statements that move a table and its parts to schema pgrunbook, under generated names."""
    found = rows(conn, "parts_of_table", table=table)
    others = [kept_as, *(f"{kept_as}_{key}" for key in names_of(conn, table))]
    before, moves, after = [], [], []
    for one, other in zip(found, others, strict=True):
        if _OURS.match(one["name"]):
            before.append(_renamed(one["kind"], one["schema"], one["name"], other))
        else:
            after.append(_renamed(one["kind"], SCHEMA, one["name"], other))
        if one["kind"] in _MOVING:
            name = other if _OURS.match(one["name"]) else one["name"]
            moves.append(_moved(one["kind"], one["schema"], name, SCHEMA))
    return [*before, *moves, *after]


def moves_back(conn: Connection, kept_as: str, home: TableName, names: Names) -> Iterator[str]:
    """Yield the statements that move a parked table to its schema, where it and its parts get their names again."""
    found = rows(conn, "parts_of_table", table=_quoted(SCHEMA, kept_as))
    for one in found:
        if one["kind"] in _MOVING:
            yield _moved(one["kind"], one["schema"], one["name"], home.schema)
    for one in found:
        wanted = home.name if one["kind"] == "TABLE" else names.get(one["name"].removeprefix(f"{kept_as}_"))
        if wanted not in (None, one["name"]):
            yield _renamed(one["kind"], home.schema, one["name"], wanted)


def renames(conn: Connection, kept_as: str, other: str) -> Iterator[str]:
    """Yield the statements that name a parked table and its parts after another entry."""
    for one in rows(conn, "parts_of_table", table=_quoted(SCHEMA, kept_as)):
        yield _renamed(one["kind"], SCHEMA, one["name"], other + one["name"].removeprefix(kept_as))


def _renamed(kind: str, schema: str, name: str, other: str) -> str:
    return text(
        sql.SQL("ALTER {} {} RENAME TO {}").format(sql.SQL(kind), sql.Identifier(schema, name), sql.Identifier(other))
    )


def _moved(kind: str, schema: str, name: str, to: str) -> str:
    return text(
        sql.SQL("ALTER {} {} SET SCHEMA {}").format(sql.SQL(kind), sql.Identifier(schema, name), sql.Identifier(to))
    )


def _quoted(schema: str, name: str) -> str:
    return f"{quoted(schema)}.{quoted(name)}"
