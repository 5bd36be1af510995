"""Filling the kept values of a column back, which is there again, or has its old type again.

A row is given its old value where it has none that somebody wrote: NULL, or the constant that is the column's
default. Where a default is computed, or the column is an identity, that cannot be told, and the old value counts.
After a change of type, :func:`settle` takes out the rows that somebody has written to since; all of that way
back is one transaction.
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
    as_kept,
    hash_of_new,
    is_large,
    keys_with_operators,
    place,
    record,
)
from pgrunbook.undo_data.cascades import CannotKeepError
from pgrunbook.undo_data.entries import refuse_purged
from pgrunbook.undo_data.tables import SCHEMA, Column, Table, key_name, rows

_NOT_CONSTANT = (ast.ColumnRef, ast.FuncCall, ast.SQLValueFunction, ast.SubLink, ast.ParamRef)


def fill(conn: Connection, keep: Keep, *, rows_conn: Connection | None, batch_rows: int) -> tuple[SafeStep, ...]:
    """Return the step that fills the kept values of a column back, which is there again.

    Raises CannotKeepError where nothing tells the rows apart by the columns by which they were kept, Refused when
    what was kept is purged.
    """
    refuse_purged(conn, keep)
    found, name = place(conn, keep)
    column, has_new = found.columns[name], _has_new(conn, keep)
    condition = sql.SQL("true") if has_new else _untouched(conn, found, column)
    statement, key = filling(conn, found, keep, column, condition)
    says = f"The kept values of {keep.table}.{keep.column} come back."
    # Between the change of type and a later batch somebody could write what would be overwritten.
    if has_new or not is_large(conn, found, rows_conn, batch_rows):
        plain = statement.replace(RANGE, "true", 1)
        return (SafeStep(plain, says, own_transaction=False, quick=False, gives_back=(keep.kept_as,)),)
    types = tuple(each.type for each in found.named(key))
    loop = Batches(
        schema=found.name.schema, table=found.name.name, alias="t", statement=statement, key=key,
        key_types=types, rows=batch_rows,
    )  # fmt: skip
    return (SafeStep(loop.statement, says, quick=False, batches=loop, gives_back=(keep.kept_as,)),)


def filling(
    conn: Connection, found: Table, keep: Keep, column: Column, condition: sql.Composable
) -> tuple[str, tuple[str, ...]]:
    """Return the UPDATE that gives rows their kept values, with the word for a range in it, and the key to walk by.

    A row that has its value already is not written again. Raises CannotKeepError as :func:`fill`.
    """
    key, operators = keys_with_operators(conn, found.oid, keep.key)
    if not key:
        raise CannotKeepError(f"{keep.table} has no unique index on {', '.join(keep.key)} now")
    # The columns of the side table are in the order in which it was made, by their number.
    number = {name: key_name(n) for n, name in enumerate(keep.key)}
    pairs = [
        sql.SQL("{} {} {}").format(
            sql.Identifier("t", each.name), sql.SQL(operator), each.given_back(sql.Identifier("k", number[each.name]))
        )
        for each, operator in zip(found.named(key), operators, strict=True)
    ]
    value = column.given_back(sql.Identifier("k", VALUE))
    statement = sql.SQL(
        "UPDATE {table} AS t SET {name} = {value} FROM {side} AS k WHERE {range} AND {pairs}"
        " AND {now} OPERATOR(pg_catalog.*<>) {then} AND {condition}"
    ).format(
        table=found.source, name=sql.Identifier(column.name), value=value, side=sql.Identifier(SCHEMA, keep.kept_as),
        range=sql.SQL(RANGE), pairs=sql.SQL(" AND ").join(pairs), condition=condition,
        now=record(sql.Identifier("t", column.name)), then=record(value),
    )  # fmt: skip
    return text(statement), key


def settle(conn: Connection, keep: Keep) -> tuple[SafeStep, ...]:
    """Return the step that forgets the old values of rows that somebody has changed since the type was changed.

    It belongs into the transaction that changes the type back; () where the column itself had gone.
    Locks: AccessExclusiveLock on the table, as the change of type takes it.
    """
    if not _has_new(conn, keep):
        return ()
    found, name = place(conn, keep)
    found = as_kept(conn, found, keep)
    locked = sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(found.source)
    forgotten = sql.SQL("DELETE FROM {} AS k USING {} AS t WHERE {} AND {} IS DISTINCT FROM k.{}").format(
        sql.Identifier(SCHEMA, keep.kept_as), found.source, found.matches("t", "k"), hash_of_new("t", name),
        sql.Identifier(NEW),
    )  # fmt: skip
    says = "Rows that somebody has changed since keep what they have."
    return (SafeStep(f"{text(locked)};\n{text(forgotten)}", says, own_transaction=False, quick=False),)


def missing(conn: Connection, keep: Keep) -> int:
    """Return how many rows of a table have no kept value for a column: they were made since.

    Raises Refused when what was kept is purged.
    """
    refuse_purged(conn, keep)
    found, _ = place(conn, keep, must_be_there=False)
    found = as_kept(conn, found, keep)
    query = sql.SQL("SELECT count(*) FROM {} AS t WHERE NOT EXISTS (SELECT FROM {} AS k WHERE {})").format(
        found.source, sql.Identifier(SCHEMA, keep.kept_as), found.matches("t", "k")
    )
    row = conn.execute(query).fetchone()
    return int(str(row[0])) if row else 0


def _has_new(conn: Connection, keep: Keep) -> bool:
    side = sql.Identifier(SCHEMA, keep.kept_as).as_string(None)
    return any(one["name"] == NEW for one in rows(conn, "side_columns", kept_as=side))


def _untouched(conn: Connection, found: Table, column: Column) -> sql.Composable:
    """Whether a row has what the column was added with, as far as that can be told."""
    (told,) = rows(conn, "default_of", oid=found.oid, column=column.name)
    if told["default_value"] is None:
        return sql.SQL("true" if told["is_identity"] else "t.{} IS NULL").format(sql.Identifier(column.name))
    if not _is_constant(parsed(f"SELECT {told['default_value']}")):
        return sql.SQL("true")
    default = sql.SQL("CAST({} AS {})").format(sql.SQL(told["default_value"]), sql.SQL(column.type))
    return sql.SQL("{} OPERATOR(pg_catalog.*=) {}").format(record(sql.Identifier("t", column.name)), record(default))


def _is_constant(node: Any) -> bool:
    return not any(isinstance(part, _NOT_CONSTANT) for part in walk(node))
