"""Notes in a side table on the rows of which it holds something: which are gone, with whom, and who brings them back.

The triggers of :mod:`followers` write them. Used by all that reads side tables.
"""

from __future__ import annotations

from collections.abc import Collection

from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.database.row_tracker import is_ours
from pgrunbook.sql.deparse import text
from pgrunbook.undo_data.tables import SCHEMA, Table, key_name, keyed, rows

# Who took the row away (a transaction, or the label of a step of ours), NULL where it is there; who moved it last.
# Which version of a row will be deleted where it leaves its partition.
GONE, ARRIVED, LEAVING = "pgrunbook_gone", "pgrunbook_arrived", "pgrunbook_leaving"
# The note of a side table whose rows cannot be told any more: the key of its table is gone.
LOST = "lost"


def function_name(kept_as: str) -> str:
    """Return the name of the trigger function of a side table."""
    return f"write_{kept_as}"


def next_name(number: int) -> str:
    """Return the name of the column of a side table for the key to which a row changes its partition."""
    return f"pgrunbook_next_{number + 1}"


def is_there(kept_as: str, alias: str, columns: Collection[str], label: sql.Composable | None = None) -> sql.Composable:
    """Return the condition that a row of a side table (by its alias) is that of the row which has its key.

    ``columns`` are those of the side table; older versions made none of these. ``label`` is that of the step which
    will have inserted the row again.
    """
    if columns and GONE not in columns:
        return sql.SQL("true")
    gone = sql.Identifier(alias, GONE)
    is_known = sql.SQL("NOT EXISTS (SELECT FROM {} AS l WHERE l.{} = {})").format(
        sql.Identifier(SCHEMA, kept_as), sql.Identifier(GONE), sql.Literal(LOST)
    )
    its = (
        sql.SQL("{} IS NULL").format(gone)
        if label is None
        else sql.SQL("{} IS NOT DISTINCT FROM {}").format(gone, label)
    )
    return sql.SQL("({} AND {})").format(its, is_known)


def is_row(alias: str, columns: Collection[str]) -> sql.Composable:
    """Return the condition that a row of a side table is what was captured of a row, and not a note of ours."""
    if columns and GONE not in columns:
        return sql.SQL("true")
    return sql.SQL("{} IS DISTINCT FROM {}").format(sql.Identifier(alias, GONE), sql.Literal(LOST))


def are_at_work(conn: Connection, kept_as: str, oid: int) -> bool:
    """Tell whether all triggers that let captured rows follow are on this table, and nobody has switched one off."""
    (found,) = rows(conn, "at_work", function=function_name(kept_as), oid=oid)
    return bool(found["are_at_work"])


def label_of(migration: str, step: int | None = None) -> str:
    """Return what is noted of rows that a step deletes, and whose return takes the step back.

    Without ``step``: of rows that a rollback deletes, because the migration had inserted them. When it goes up again,
    that step may have another number.
    """
    return f"{migration}:{'inserted' if step is None else step}"


def labelled(conn: Connection, table: Table, label: str) -> list[str]:
    """Return the statements that note which captured rows have gone with the rows that a step has just deleted."""
    return [
        text(
            sql.SQL("UPDATE {} AS k SET {} = {} WHERE k.{} = pg_catalog.pg_current_xact_id()::pg_catalog.text").format(
                sql.Identifier(SCHEMA, one["kept_as"]), sql.Identifier(GONE), sql.Literal(label), sql.Identifier(GONE)
            )
        )
        for one in rows(conn, "followers", oid=table.oid)
    ]


def returned(conn: Connection, table: Table, label: str) -> list[str]:
    """Return the statements that give what has gone with a step's rows to those that it has just inserted again."""
    found = []
    for one in rows(conn, "followers", oid=table.oid):
        there = keyed(conn, table, one["key"])
        if there is None:
            continue
        found.append(
            text(
                sql.SQL(
                    "UPDATE {side} AS k SET {gone} = NULL FROM {table} AS t WHERE k.{gone} = {label} AND {matches}"
                    " AND {ours} AND NOT EXISTS (SELECT FROM {side} AS o WHERE o.{gone} IS NULL AND {same})"
                ).format(
                    side=sql.Identifier(SCHEMA, one["kept_as"]), gone=sql.Identifier(GONE), table=table.source,
                    label=sql.Literal(label), matches=there.matches("t", "k"), ours=is_ours(sql.SQL("t.xmin")),
                    same=sql.SQL(" AND ").join(
                        sql.SQL("o.{0} = k.{0}").format(sql.Identifier(key_name(n))) for n in range(len(there.key))
                    ),
                )
            )
        )  # fmt: skip
    return found
