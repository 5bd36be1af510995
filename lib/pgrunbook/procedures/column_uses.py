"""Who uses a column that is about to be dropped; rollout and contract show it."""

from __future__ import annotations

import re

from psycopg import sql

from pgrunbook.database import catalog_reader
from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import load
from pgrunbook.display.prose import counted
from pgrunbook.display.show import BAD, QUIET, WARN, Cell
from pgrunbook.review import column_usage
from pgrunbook.sql import statements

MOST_SHOWN = 20
_OURS = re.compile(r"pgrunbook|OPERATOR\(pg_catalog\.")  # what we have asked and written ourselves


def uses(conn: Connection, table: sql.Identifier, column: str) -> list[tuple[object, ...]]:
    """Return the statements that pg_stat_statements has counted and that use a column, and what depends on it.

    Each is its kind, what it is, and its calls. ``SELECT *`` uses every column. What was forgotten for want of room,
    and what is not said here, may use it too.
    """
    text = sql.SQL("ALTER TABLE {} DROP COLUMN {}").format(table, sql.Identifier(column))
    catalog = catalog_reader.read(conn, statements.parse(text.as_string(conn), "remove"))
    oid = conn.oid_of("regclass", table.as_string(conn))
    there = next((one for one in catalog.tables.values() if one.oid == oid), None)
    rows: list[tuple[object, ...]] = []
    if there is not None:
        rows += [(one.kind, one.name, "") for one in there.dependents if column in one.columns]
        rows += [("index", index.name, "") for index in there.indexes if column in index.uses]
        found = [use for use in column_usage.uses_of(catalog, there, column) if not _OURS.search(use.query)]
        rows += [("statement", Cell(use.query[:200], WARN), f"{use.calls:,}") for use in found[:MOST_SHOWN]]
        rows += [("statement", f"{len(found) - MOST_SHOWN:,} more", "")] if len(found) > MOST_SHOWN else []
    return [*rows, ("evidence", _evidence(conn, known=catalog.uses_known), "")]


def _evidence(conn: Connection, *, known: bool) -> Cell:
    schema = conn.execute(load("query_plans")["extension"]).fetchone() if known else None
    if schema is None:
        return Cell("none: pg_stat_statements is not installed, or its statements may not be seen", BAD)
    query = sql.SQL(load("rollout")["counted_since"]).format(sql.Identifier(str(schema[0])))
    since, forgotten = conn.execute(query).fetchone() or ("", 0)
    text = f"pg_stat_statements counts since {since:%Y-%m-%d %H:%M}" if since else "pg_stat_statements counts"
    gaps = f", and had to forget statements {counted(int(str(forgotten)), 'time')}" if forgotten else ""
    return Cell(f"{text}{gaps}; SELECT * uses every column", WARN if forgotten else QUIET)
