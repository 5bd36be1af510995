"""Kept tables that need no types of the application: what drops a table often drops its enums right behind it.

1. In the transaction that moves the table away, its schema's comment notes which columns are of such types.
2. Behind it, when nobody sees the table any more, their values become text. Where that cannot be (the key of
   partitions, a CHECK that names the type) the column stays as it is, and its type cannot be dropped meanwhile.
3. Before the table is moved back, they become what they were.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import snapshot_cursor
from pgrunbook.plan.step import Keep, SafeStep
from pgrunbook.sql.deparse import text
from pgrunbook.undo_data.tables import Column, as_text, rows, table

# Column to its type and default, as SQL.
Notes = Mapping[str, tuple[str, str | None]]


def notes_of(conn: Connection, keep: Keep) -> Notes:
    """Return the columns of a table that is to be kept which are of types of the application, {} for none."""
    with snapshot_cursor(conn):  # so that types are named in full
        oid = rows(conn, "column_named", table=keep.table, column="")[0]["oid"]
        found = [column for column in table(conn, oid).columns.values() if _is_freed(column)]
        return {
            column.name: (column.type, rows(conn, "default_of", oid=oid, column=column.name)[0]["default_value"])
            for column in found
        }


def noted(keep: Keep, notes: Notes) -> str:
    """Return the statement that notes them at the schema of the kept table."""
    return text(sql.SQL("COMMENT ON SCHEMA {} IS {}").format(sql.Identifier(keep.kept_as), json.dumps(notes)))


def freeing(keep: Keep, name: str, notes: Notes) -> SafeStep:
    """Return the step that makes the columns of a kept table text, as far as they can be.

    Locks: AccessExclusiveLock on the kept table, which nobody sees.
    """
    where = sql.Identifier(keep.kept_as, name)
    each = sql.SQL(
        " BEGIN ALTER TABLE {table} ALTER COLUMN {column} DROP DEFAULT, ALTER COLUMN {column} TYPE pg_catalog.text"
        " USING {value}; EXCEPTION WHEN OTHERS THEN RAISE NOTICE '%', SQLERRM; END;"
    )
    freed = [
        each.format(table=where, column=sql.Identifier(column), value=as_text(sql.Identifier(column)))
        for column in notes
    ]
    body = sql.SQL(
        "DECLARE style text := pg_catalog.current_setting('DateStyle');"
        " BEGIN PERFORM pg_catalog.set_config('DateStyle', 'ISO, YMD', true);{}"
        " PERFORM pg_catalog.set_config('DateStyle', style, true); END"
    ).format(sql.SQL("").join(freed))
    says = f"The kept table {keep.table} needs no types of the application any more."
    return SafeStep(text(sql.SQL("DO {}").format(sql.Literal(text(body)))), says, quick=False)


def binding(conn: Connection, keep: Keep, name: str) -> list[SafeStep]:
    """Return the step that gives the columns of a kept table their types again, before it is moved; [] for none."""
    (found,) = rows(conn, "schema_comment", schema=keep.kept_as)
    notes: Notes = json.loads(found["comment"] or "{}")
    where = sql.Identifier(keep.kept_as, name).as_string(None)
    there = rows(conn, "column_named", table=where, column="")
    columns = table(conn, there[0]["oid"]).columns if there else {}
    parts: list[sql.Composable] = []
    for column, (type_, default) in notes.items():
        if column not in columns or columns[column].is_of_application:
            continue  # it could not become text
        changed = sql.SQL("ALTER COLUMN {0} TYPE {1} USING CAST(CAST({0} AS pg_catalog.text) AS {1})")
        parts.append(changed.format(sql.Identifier(column), sql.SQL(type_)))
        if default is not None:
            parts.append(sql.SQL("ALTER COLUMN {} SET DEFAULT {}").format(sql.Identifier(column), sql.SQL(default)))
    if not parts:
        return []
    told = sql.SQL("ALTER TABLE {} {}").format(sql.SQL(where), sql.SQL(", ").join(parts))
    return [SafeStep(text(told), f"The kept table {keep.table} has its types again.", quick=False)]


def _is_freed(column: Column) -> bool:
    return column.is_of_application and not column.is_generated
