"""Parked tables without types of the application: a migration often drops a table's enums right after the table.

1. The transaction that parks the table notes the types of such columns in a comment on it. What else of it needs
   objects of the application (defaults, checks, indexes, generated columns) was dropped, and is created again later.
2. The next step, when nobody sees the table any more, converts their values to text. Where that fails (a partition
   key) the column keeps its type, which then cannot be dropped.
3. Before the table is moved back, the columns are converted to their old types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from psycopg import sql

from pgrunbook.database.checksums import TableName
from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import snapshot_cursor
from pgrunbook.plan.step import Keep, SafeStep
from pgrunbook.sql.deparse import text
from pgrunbook.undo_data.tables import as_text, rows, table

# Column to its type, default and collation, as SQL.
Types = Mapping[str, Sequence[str | None]]


def types_of(conn: Connection, keep: Keep) -> Types:
    """Return the columns of a table to park with types or collations of the application, {} when there is none."""
    with snapshot_cursor(conn):  # so that types are named in full
        found = rows(conn, "foreign_columns", table=keep.table)
        return {one["name"]: (one["type"], one["default_value"], one["collation"]) for one in found}


def to_text(keep: Keep, there: TableName, types: Types) -> SafeStep:
    """Return the step that converts the columns of a parked table to text, where that is possible.

    Locks: AccessExclusiveLock on the parked table, which nobody sees.
    """
    each = sql.SQL(
        " BEGIN ALTER TABLE {table} ALTER COLUMN {column} DROP DEFAULT, ALTER COLUMN {column} TYPE pg_catalog.text"
        " USING {value}; EXCEPTION WHEN OTHERS THEN RAISE NOTICE '%', SQLERRM; END;"
    )
    freed = [
        each.format(table=there.identifier(), column=sql.Identifier(column), value=as_text(sql.Identifier(column)))
        for column in types
    ]
    body = sql.SQL(
        "DECLARE style pg_catalog.text := pg_catalog.current_setting('DateStyle');"
        " BEGIN PERFORM pg_catalog.set_config('DateStyle', 'ISO, YMD', true);{}"
        " PERFORM pg_catalog.set_config('DateStyle', style, true); END"
    ).format(sql.SQL("").join(freed))
    says = f"The parked table {keep.table} no longer needs types of the application."
    return SafeStep(text(sql.SQL("DO {}").format(sql.Literal(text(body)))), says, quick=False)


def from_text(conn: Connection, keep: Keep, there: TableName, types: Types) -> list[SafeStep]:
    """Return the step that converts the columns of a parked table to their old types, [] when there is none."""
    where = there.identifier().as_string(None)
    found = rows(conn, "column_named", table=where, column="")
    columns = table(conn, found[0]["oid"]).columns if found else {}
    parts: list[sql.Composable] = []
    for column, (type_, default, collated) in types.items():
        if column not in columns or columns[column].is_of_application:
            continue  # its conversion to text had failed
        changed = sql.SQL("ALTER COLUMN {0} TYPE {1}{2} USING CAST(CAST({0} AS pg_catalog.text) AS {1})")
        collation = sql.SQL(f" COLLATE {collated}" if collated else "")
        parts.append(changed.format(sql.Identifier(column), sql.SQL(type_ or ""), collation))
        if default is not None:
            parts.append(sql.SQL("ALTER COLUMN {} SET DEFAULT {}").format(sql.Identifier(column), sql.SQL(default)))
    if not parts:
        return []
    altered = sql.SQL("ALTER TABLE {} {}").format(sql.SQL(where), sql.SQL(", ").join(parts))
    return [SafeStep(text(altered), f"The parked table {keep.table} has its types again.", quick=False)]
