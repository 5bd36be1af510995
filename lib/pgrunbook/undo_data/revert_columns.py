"""Revert of a column's captured values, when the column exists again or has its old type again.

A row gets its old value unless somebody has written another one: it still has NULL, or the column's constant
default. Where the default is computed, or the column is an identity, nobody can tell, and the old value wins.
After a change of type, :func:`discard_changed` first discards the values of rows that somebody has changed since;
all of that rollback is one transaction.
"""

from __future__ import annotations

from typing import Any

from pglast import ast
from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.plan.step import RANGE, Batches, Keep, SafeStep
from pgrunbook.sql.deparse import parsed, text
from pgrunbook.sql.tree import walk
from pgrunbook.undo_data.capture_columns import (
    NEW,
    VALUE,
    hash_of_new,
    is_large,
    keyed_as_captured,
    keys_with_operators,
    place,
    record,
)
from pgrunbook.undo_data.cascades import CannotCaptureError
from pgrunbook.undo_data.entries import refuse_purged_keep
from pgrunbook.undo_data.tables import SCHEMA, Column, Table, key_name, rows

_NOT_CONSTANT = (ast.ColumnRef, ast.FuncCall, ast.SQLValueFunction, ast.SubLink, ast.ParamRef)


def revert_column(
    conn: Connection, keep: Keep, *, rows_conn: Connection | None, batch_rows: int
) -> tuple[SafeStep, ...]:
    """Return the step that writes the captured values of a column back.

    Raises CannotCaptureError when the table has no unique index on the captured key any more, Refused when the
    values were purged.
    """
    refuse_purged_keep(conn, keep)
    found, name = place(conn, keep)
    column, has_new = found.columns[name], _has_new(conn, keep)
    condition = sql.SQL("true") if has_new else _untouched(conn, found, column)
    statement, key = column_update(conn, found, keep, column, condition)
    says = f"The captured values of {keep.table}.{keep.column} are reverted."
    # In batches, a row written after the change of type would be overwritten.
    if has_new or not is_large(conn, found, rows_conn, batch_rows):
        plain = statement.replace(RANGE, "true", 1)
        return (SafeStep(plain, says, own_transaction=False, quick=False, gives_back=(keep.kept_as,)),)
    types = tuple(each.type for each in found.named(key))
    loop = Batches(
        schema=found.name.schema, table=found.name.name, alias="t", statement=statement, key=key,
        key_types=types, rows=batch_rows,
    )  # fmt: skip
    return (SafeStep(loop.statement, says, quick=False, batches=loop, gives_back=(keep.kept_as,)),)


def column_update(
    conn: Connection, found: Table, keep: Keep, column: Column, condition: sql.Composable
) -> tuple[str, tuple[str, ...]]:
    """Return the UPDATE that writes captured values back, with a placeholder for the range, and the key of its batches.

    A row that has its value already is not written again. Raises CannotCaptureError as :func:`revert_column`.
    """
    key, operators = keys_with_operators(conn, found.oid, keep.key)
    if not key:
        raise CannotCaptureError(f"{keep.table} has no unique index on {', '.join(keep.key)} now")
    # The columns of the side table are in the order in which it was made, by their number.
    number = {name: key_name(n) for n, name in enumerate(keep.key)}
    pairs = [
        sql.SQL("{} {} {}").format(
            sql.Identifier("t", each.name), sql.SQL(operator), each.reverted(sql.Identifier("k", number[each.name]))
        )
        for each, operator in zip(found.named(key), operators, strict=True)
    ]
    value = column.reverted(sql.Identifier("k", VALUE))
    statement = sql.SQL(
        "UPDATE {table} AS t SET {name} = {value} FROM {side} AS k WHERE {range} AND {pairs}"
        " AND {now} OPERATOR(pg_catalog.*<>) {then} AND {condition}"
    ).format(
        table=found.source, name=sql.Identifier(column.name), value=value, side=sql.Identifier(SCHEMA, keep.kept_as),
        range=sql.SQL(RANGE), pairs=sql.SQL(" AND ").join(pairs), condition=condition,
        now=record(sql.Identifier("t", column.name)), then=record(column.in_own_type(value)),
    )  # fmt: skip
    return text(statement), key


def discard_changed(conn: Connection, keep: Keep) -> tuple[SafeStep, ...]:
    """Return the step that discards captured values of rows that somebody has changed since the change of type.

    Run it in the transaction that changes the type back; () when the column had been dropped.
    Locks: AccessExclusiveLock on the table, as the change of type takes it.
    """
    if not _has_new(conn, keep):
        return ()
    found, name = place(conn, keep)
    found = keyed_as_captured(conn, found, keep)
    locked = sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(found.source)
    forgotten = sql.SQL("DELETE FROM {} AS k USING {} AS t WHERE {} AND {} IS DISTINCT FROM k.{}").format(
        sql.Identifier(SCHEMA, keep.kept_as), found.source, found.matches("t", "k"), hash_of_new("t", name),
        sql.Identifier(NEW),
    )  # fmt: skip
    says = "Rows that somebody has changed since keep their values."
    return (SafeStep(f"{text(locked)};\n{text(forgotten)}", says, own_transaction=False, quick=False),)


def uncaptured(conn: Connection, keep: Keep) -> str:
    """Return the condition that a row of a table (alias t) has no captured value that it would get back.

    It was inserted since, or somebody has changed it since the change of type. Raises Refused when the values were
    purged.
    """
    refuse_purged_keep(conn, keep)
    found, name = place(conn, keep, must_be_there=False)
    found = keyed_as_captured(conn, found, keep)
    changed = sql.SQL("{} IS NOT DISTINCT FROM k.{}").format(hash_of_new("t", name), sql.Identifier(NEW))
    return text(
        sql.SQL("NOT EXISTS (SELECT FROM {} AS k WHERE {} AND {})").format(
            sql.Identifier(SCHEMA, keep.kept_as),
            found.matches("t", "k"),
            changed if _has_new(conn, keep) else sql.SQL("true"),
        )
    )


def _has_new(conn: Connection, keep: Keep) -> bool:
    side = sql.Identifier(SCHEMA, keep.kept_as).as_string(None)
    return any(one["name"] == NEW for one in rows(conn, "side_columns", kept_as=side))


def _untouched(conn: Connection, found: Table, column: Column) -> sql.Composable:
    """The condition that a row still has the value with which the column was added, as far as that is known."""
    (found_default,) = rows(conn, "default_of", oid=found.oid, column=column.name)
    if found_default["default_value"] is None:
        return sql.SQL("true" if found_default["is_identity"] else "t.{} IS NULL").format(sql.Identifier(column.name))
    if not _is_constant(parsed(f"SELECT {found_default['default_value']}")):
        return sql.SQL("true")
    default = sql.SQL("CAST({} AS {})").format(sql.SQL(found_default["default_value"]), sql.SQL(column.type))
    return sql.SQL("{} OPERATOR(pg_catalog.*=) {}").format(record(sql.Identifier("t", column.name)), record(default))


def _is_constant(node: Any) -> bool:
    return not any(isinstance(part, _NOT_CONSTANT) for part in walk(node))
