"""Revert of a column's captured values, when the column exists again or has its old type again.

A row gets its old value unless somebody has written another one: it still has NULL, or the column's constant
default. Where the default is computed, or the column is an identity, nobody can tell, and the old value wins.
After a change of type, :func:`note_written` first notes the values of rows that somebody has changed since: they stay
captured, and go to nobody. All of that rollback is one transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from pglast import ast
from psycopg import sql

from pgrunbook.database.checksums import TableName
from pgrunbook.database.connection import Connection
from pgrunbook.database.facts import Facts
from pgrunbook.database.row_tracker import RowTracker, tracker_name
from pgrunbook.plan.step import RANGE, Batches, Keep, SafeStep
from pgrunbook.sql.deparse import parsed, text
from pgrunbook.sql.tree import dotted_name, walk
from pgrunbook.undo_data.capture_columns import (
    VALUE,
    is_large,
    is_written,
    place,
    record,
)
from pgrunbook.undo_data.cascades import CannotCaptureError
from pgrunbook.undo_data.entries import refuse_purged_keep
from pgrunbook.undo_data.followers import Followers, note_returned
from pgrunbook.undo_data.former_keys import see_apart
from pgrunbook.undo_data.key_values import conversion_end, converted, noted_as_written, same_row
from pgrunbook.undo_data.row_notes import GONE, NEW, WRITTEN, are_at_work, function_name, is_there
from pgrunbook.undo_data.tables import SCHEMA, CapturedColumn, CapturedTable, keyed_without_index, rows

CHANGED_STAYS = "Rows that somebody has changed since keep their values."
_PART, _VERSION = sql.Identifier("t", "tableoid"), sql.Identifier("t", "xmin")
_NOT_CONSTANT = (ast.ColumnRef, ast.FuncCall, ast.SQLValueFunction, ast.SubLink, ast.ParamRef)


def revert_column(
    conn: Connection, keep: Keep, *, rows_conn: Connection | None, batch_rows: int, had_key: bool = False
) -> tuple[SafeStep, ...]:
    """Return the step that writes the captured values of a column back.

    With ``had_key``, the same way back has dropped the index of the captured key right before.
    Raises CannotCaptureError when the table has no unique index on the captured key any more, Refused when the
    values were purged.
    """
    refuse_purged_keep(conn, keep)
    found, name = place(conn, keep)
    column, has_new = found.columns[name], _has_new(conn, keep)
    condition = sql.SQL("true") if has_new else _untouched(conn, found, column)
    says = f"The captured values of {keep.table}.{keep.column} are reverted."
    # In batches, a row written after the change of type would be overwritten.
    loops = not has_new and is_large(conn, found, rows_conn, batch_rows)
    if GONE in _side_columns(conn, keep) and not are_at_work(conn, keep.kept_as, found.oid, keep.key):
        raise CannotCaptureError(
            f"nobody knows which rows of {keep.table} are those of then: somebody has made the table or its key anew,"
            " or switched triggers of pgrunbook off"
        )
    if keep.is_own_key:
        return (conversion_end(keep),)
    again = returned(conn, found.oid, found.name, name)
    size = batch_rows if loops else None
    if had_key and found.keyed(keep.key) is None:
        steps = _watching(conn, conn, found, keep, column, condition, says)
    else:
        steps = filling(conn, conn, found, keep, column, condition, says=says, batch_rows=size)
    return (*again, *(step if step.quick else replace(step, gives_back=(keep.kept_as,)) for step in steps))


def returned(conn: Connection, oid: int, table: TableName, name: str) -> tuple[SafeStep, ...]:
    """Return the step that notes that a column is there again by which captured rows follow; () where none do."""
    if not any(name in one["key"] for one in rows(conn, "followers", oid=oid)):
        return ()
    says = f"What follows rows of {dotted_name(*table)} by {name} finds it again."
    return (SafeStep(note_returned(table.identifier(), name), says, own_transaction=False),)


def filling(
    conn: Connection, undo_conn: Connection, found: CapturedTable, keep: Keep, column: CapturedColumn,
    condition: sql.Composable, *, says: str, batch_rows: int | None,
) -> tuple[SafeStep, ...]:  # fmt: skip
    """Return the steps that write captured values back, in batches or in one statement where ``batch_rows`` is None.

    ``undo_conn`` leads to the database that holds the undo data. Of a loop the first step belongs to the transaction
    that has made the column: what somebody writes into it from then on stays. Rows whose key changes while it runs
    are tracked.
    Raises CannotCaptureError as :func:`revert_column`.
    """
    if found.keyed(keep.key) is None and are_inserts_watched(undo_conn, keep):
        return _watching(conn, undo_conn, found, keep, column, condition, says)
    keyed_ = keyed_as_captured(conn, found, keep)
    statement = _update(keyed_, keep, column, condition, _side_columns(undo_conn, keep))
    relation, facts = Facts(conn).named(found.name), Facts(conn)
    key = None if relation is None or batch_rows is None else facts.loop_key(relation)
    if key is None or batch_rows is None:
        return (SafeStep(statement.replace(RANGE, "true", 1), says, own_transaction=False, quick=False),)
    tracker = RowTracker(tracker_name(found.name.identifier(), statement), found.name.identifier(), key.columns)
    loop = Batches(
        schema=found.name.schema, table=found.name.name, alias="t", statement=statement, key=key.columns,
        key_types=key.types, rows=batch_rows, tracker=tracker.name,
    )  # fmt: skip
    watched = Followers(keep.kept_as, keyed_, is_old_seen=True, watched=column).creation()
    installed = tracker.installation(key.types, key.collations, is_partitioned=found.is_partitioned)
    return (
        SafeStep(";\n".join(watched), f"What is written into {keep.table}.{column.name} from now on stays.",
                 own_transaction=False),
        SafeStep(installed, f"Triggers note which rows of {keep.table} change their key until the loop is done."),
        SafeStep(loop.statement, says, quick=False, batches=loop),
        SafeStep(tracker.removal(is_partitioned=found.is_partitioned),
                 f"The loop is done: its triggers on {keep.table}, and their notes, are dropped."),
    )  # fmt: skip


def _watching(
    conn: Connection, undo_conn: Connection, found: CapturedTable, keep: Keep, column: CapturedColumn,
    condition: sql.Composable, says: str,
) -> tuple[SafeStep, ...]:  # fmt: skip
    """Return the step that writes captured values back by a key whose index has just been dropped, or was before.

    Nobody writes meanwhile, and it is seen first that each row has a key of its own.
    """
    there = keyed_without_index(conn, found, keep.key)
    if there is None:
        raise CannotCaptureError(f"{keep.table} has no unique index on {', '.join(keep.key)} now")
    locked = sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(found.source)
    update = _update(there, keep, column, condition, _side_columns(undo_conn, keep)).replace(RANGE, "true", 1)
    whole = [text(locked), see_apart(there), update]
    return (SafeStep(";\n".join(whole), says, own_transaction=False, quick=False),)


def writes(steps: Sequence[SafeStep]) -> SafeStep:
    """Return the step that writes captured rows or values back, among those around it."""
    return next((step for step in steps if not step.quick), steps[0])


def tracker_cleanup(steps: Sequence[SafeStep]) -> tuple[str, ...]:
    """Return the queries that find what drops the trackers of loops, for when they are abandoned."""
    loops = [step.batches for step in steps if step.batches is not None and step.batches.tracker]
    return tuple(
        RowTracker(loop.tracker, sql.Identifier(loop.schema, loop.table), loop.key).cleanup() for loop in loops
    )


def keyed_as_captured(conn: Connection, found: CapturedTable, keep: Keep) -> CapturedTable:
    """Return a table with the key by which a column was captured, in that order."""
    there = found.keyed(keep.key)
    if there is None and are_inserts_watched(conn, keep):
        there = keyed_without_index(conn, found, keep.key)
    if there is None:
        raise CannotCaptureError(f"{keep.table} has no unique index on {', '.join(keep.key)} now")
    return there


def _update(
    found: CapturedTable, keep: Keep, column: CapturedColumn, condition: sql.Composable, side_columns: Collection[str]
) -> str:  # fmt: skip
    """Return the UPDATE that writes captured values back, with a placeholder for the range.

    A row that has its value already is not written again.
    """
    value = column.reverted(sql.Identifier("k", VALUE))
    statement = sql.SQL(
        "UPDATE {table} AS t SET {name} = {value} FROM {side} AS k WHERE {range} AND {pairs} AND {is_there}"
        " AND {now} OPERATOR(pg_catalog.*<>) {then} AND {condition}"
    ).format(
        table=found.source, name=sql.Identifier(column.name), value=value, side=sql.Identifier(SCHEMA, keep.kept_as),
        range=sql.SQL(RANGE), pairs=found.matches("t", "k"),
        is_there=is_there(keep.kept_as, "k", side_columns, part=_PART, version=_VERSION),
        now=record(sql.Identifier("t", column.name)), then=record(column.in_own_type(value)), condition=condition,
    )  # fmt: skip
    return text(statement)


def note_written(conn: Connection, keep: Keep) -> tuple[SafeStep, ...]:
    """Return the step that notes captured values of rows that somebody has changed since the change of type.

    Run it in the transaction that changes the type back; () when the column had been dropped.
    Locks: AccessExclusiveLock on the table, as the change of type takes it.
    """
    if not _has_new(conn, keep):
        return ()
    found, name = place(conn, keep)
    found = keyed_as_captured(conn, found, keep)
    locked = sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(found.source)
    if keep.is_own_key:
        noted = _written_keys(conn, found, keep, name)
    else:
        noted = text(
            sql.SQL("UPDATE {} AS k SET {} = {} FROM {} AS t WHERE {} AND {} AND {}").format(
                sql.Identifier(SCHEMA, keep.kept_as), sql.Identifier(GONE), sql.Literal(WRITTEN), found.source,
                found.matches("t", "k"),
                is_there(keep.kept_as, "k", _side_columns(conn, keep), part=_PART, version=_VERSION),
                is_written("t", name, "k"),
            )
        )  # fmt: skip
    return (SafeStep(f"{text(locked)};\n{noted}", CHANGED_STAYS, own_transaction=False, quick=False),)


def converting(conn: Connection, keep: Keep, statement: str) -> tuple[tuple[SafeStep, ...], str]:
    """Return the steps before the statement that changes a column's type back, and that statement.

    Where the column is the key by which its values are found, the statement itself gives each row its old one.
    Raises CannotCaptureError when the table has no unique index on the captured key any more.
    """
    if not keep.is_own_key:
        return (), statement
    now = keyed_as_captured(conn, place(conn, keep)[0], keep)
    made, asking = converted(now, keep, statement)
    return (made,), asking


def _written_keys(conn: Connection, found: CapturedTable, keep: Keep, name: str) -> str:
    is_its = sql.SQL("{} AND NOT {}").format(
        is_there(keep.kept_as, "k", _side_columns(conn, keep), part=_PART, version=_VERSION),
        is_written("t", name, "k"),
    )
    return noted_as_written(found, keep, is_its)


def discard_reverted(
    conn: Connection, keep: Keep, reverted: Keep, *, with_it: Sequence[Keep] = ()
) -> tuple[SafeStep, ...]:
    """Return the step that leaves of a column's values in ``keep`` those that somebody has written since the release.

    The others are computed again when the migration goes up again: their rows get what ``reverted`` holds. Run it in
    the transaction that changes the type back. The columns ``with_it`` change their types in the same statement.
    """
    says = f"Of {keep.table}.{keep.column}, what nobody has written is computed again when the migration goes up again."
    if keep.is_own_key:
        known = sql.SQL("DELETE FROM {} AS n USING {} AS k WHERE {}").format(
            sql.Identifier(SCHEMA, keep.kept_as),
            sql.Identifier(SCHEMA, reverted.kept_as),
            same_row(keep, reverted, {one.column for one in with_it}),
        )
        return (SafeStep(text(known), says, own_transaction=False, quick=False),)
    found, _ = place(conn, keep)
    was = keyed_as_captured(conn, found, reverted)
    is_ = was if keep.key == reverted.key else keyed_as_captured(conn, found, keep)
    unwritten = sql.SQL("DELETE FROM {} AS n USING {} AS t, {} AS k WHERE {} AND {} AND {}").format(
        sql.Identifier(SCHEMA, keep.kept_as), found.source, sql.Identifier(SCHEMA, reverted.kept_as),
        is_.matches("t", "n"), was.matches("t", "k"),
        is_there(reverted.kept_as, "k", _side_columns(conn, reverted), part=_PART, version=_VERSION),
    )  # fmt: skip
    return (SafeStep(text(unwritten), says, own_transaction=False, quick=False),)


def has_key(conn: Connection, keep: Keep) -> bool:
    """Tell whether an index watches the key by which a column was captured."""
    return place(conn, keep, must_be_there=False)[0].keyed(keep.key) is not None


def uncaptured(conn: Connection, keep: Keep) -> str:
    """Return the condition that a row of a table (alias t) has no captured value that it would get back.

    It was inserted since, or somebody has changed it since the change of type. Raises Refused when the values were
    purged.
    """
    refuse_purged_keep(conn, keep)
    found, name = place(conn, keep, must_be_there=False)
    found = keyed_as_captured(conn, found, keep)
    changed = sql.SQL("NOT {}").format(is_written("t", name, "k"))
    return text(
        sql.SQL("NOT EXISTS (SELECT FROM {} AS k WHERE {} AND {} AND {})").format(
            sql.Identifier(SCHEMA, keep.kept_as),
            found.matches("t", "k"),
            is_there(keep.kept_as, "k", _side_columns(conn, keep), part=_PART, version=_VERSION),
            changed if _has_new(conn, keep) else sql.SQL("true"),
        )
    )


def are_inserts_watched(conn: Connection, keep: Keep) -> bool:
    """Tell whether a column was captured by a key that no index watched even then, and triggers see who takes it."""
    return bool(rows(conn, "are_inserts_watched", function=function_name(keep.kept_as))[0]["are_watched"])


def _has_new(conn: Connection, keep: Keep) -> bool:
    return NEW in _side_columns(conn, keep)


def _side_columns(conn: Connection, keep: Keep) -> set[str]:
    side = sql.Identifier(SCHEMA, keep.kept_as).as_string(None)
    return {one["name"] for one in rows(conn, "side_columns", kept_as=side)}


def _untouched(conn: Connection, found: CapturedTable, column: CapturedColumn) -> sql.Composable:
    """The condition that a row still has the value with which the column was added, as far as that is known."""
    (found_default,) = rows(conn, "default_of", oid=found.oid, column=column.name)
    if found_default["default_value"] is None:
        is_due = "true" if found_default["is_identity"] else "t.{} IS NOT DISTINCT FROM NULL"
        return sql.SQL(is_due).format(sql.Identifier(column.name))
    if not _is_constant(parsed(f"SELECT {found_default['default_value']}")):
        return sql.SQL("true")
    default = sql.SQL("CAST({} AS {})").format(sql.SQL(found_default["default_value"]), sql.SQL(column.type))
    return sql.SQL("{} OPERATOR(pg_catalog.*=) {}").format(record(sql.Identifier("t", column.name)), record(default))


def _is_constant(node: Any) -> bool:
    return not any(isinstance(part, _NOT_CONSTANT) for part in walk(node))
