"""Reapplication: when a migration goes forward again, the rows and values that its rollback captured come back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.database.relations import Facts
from pgrunbook.plan.step import RANGE, Batches, SafeStep
from pgrunbook.sql.deparse import text
from pgrunbook.undo_data.capture_columns import VALUE, keys_with_operators
from pgrunbook.undo_data.entries import as_keep
from pgrunbook.undo_data.registry import UndoEntry, find
from pgrunbook.undo_data.revert_columns import column_update
from pgrunbook.undo_data.tables import SCHEMA, Column, Table, rows, table

SAYS = "What {} held before the rollback is reapplied."


def to_reapply(conn: Connection, migrations: Sequence[str]) -> list[UndoEntry]:
    """Return the entries of columns and tables that the rollback of these migrations dropped, oldest first."""
    found = [
        one
        for one in find(conn, states=["kept"])
        if one.direction == "down" and one.kind in ("column", "table") and one.migration in migrations
    ]
    return sorted(found, key=lambda one: one.id)


def reapply(branch: Connection, conn: Connection, entry: UndoEntry, *, batch_rows: int) -> tuple[SafeStep, ...]:
    """Return the steps that reapply an entry to its column or table, which exists again on ``branch``.

    ``conn`` leads to the database that holds the undo data. () when the column or table does not exist again, or
    has another type: then the entry stays.
    """
    there = rows(branch, "oid_of", schema=entry.table.schema, name=entry.table.name)
    if not there:
        return ()
    found = table(branch, there[0]["oid"])
    return (
        _column(branch, conn, found, entry, batch_rows)
        if entry.kind == "column"
        else _rows(conn, found, entry, batch_rows)
    )


def _column(
    branch: Connection, conn: Connection, found: Table, entry: UndoEntry, batch_rows: int
) -> tuple[SafeStep, ...]:
    (name,) = entry.columns
    key, _ = keys_with_operators(branch, found.oid, entry.key)
    side = _types(conn, SCHEMA, entry.kept_as)
    column = found.columns.get(name)
    if column is None or not key or side.get(VALUE) != text(column.side_type).removeprefix("pg_catalog."):
        return ()
    statement, key = column_update(branch, found, as_keep(entry), column, sql.SQL("true"))
    types = tuple(each.type for each in found.named(key))
    loop = Batches(
        schema=found.name.schema, table=found.name.name, alias="t", statement=statement, key=key,
        key_types=types, rows=batch_rows,
    )  # fmt: skip
    says = SAYS.format(f"{entry.table}.{name}")
    return (SafeStep(loop.statement, says, quick=False, batches=loop, gives_back=(entry.kept_as,)),)


def _rows(conn: Connection, found: Table, entry: UndoEntry, batch_rows: int) -> tuple[SafeStep, ...]:
    """The parked table is read in batches by its own key, if it has one; rows of its partitions are included."""
    relation = Facts(conn).named(entry.there)
    if relation is None or relation.is_partition:
        return ()
    old = table(conn, relation.oid)
    parts = [one.kept_as for one in find(conn, states=["kept"], ids=[entry.id]) if _is_partition(conn, one)]
    shared = [c for c in found.plain if c.name in old.columns and _is_taken(old.columns[c.name], c)]
    names = sql.SQL(", ").join(sql.Identifier(column.name) for column in shared)
    values = sql.SQL(", ").join(column.reverted(sql.Identifier("t", column.name)) for column in shared)
    statement = sql.SQL(
        "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} AS t WHERE {} ON CONFLICT DO NOTHING"
    ).format(found.name.identifier(), names, values, old.name.identifier(), sql.SQL(RANGE))
    says = SAYS.format(entry.table)
    types = tuple(each.type for each in old.named(old.key))
    if old.key:
        loop = Batches(
            schema=old.name.schema, table=old.name.name, alias="t", statement=text(statement), key=old.key,
            key_types=types, rows=batch_rows,
        )  # fmt: skip
        steps = [SafeStep(loop.statement, says, quick=False, batches=loop)]
    else:
        steps = [SafeStep(text(statement).replace(RANGE, "true", 1), says, own_transaction=False, quick=False)]
    query = rows(conn, "advancing", table=found.name.identifier().as_string(None))[0]["sql"]
    steps.append(
        SafeStep(
            query, "Its sequences continue after these rows.", own_transaction=False, gives_back=(entry.kept_as, *parts)
        )
    )
    return tuple(steps)


def _is_taken(old: Column, new: Column) -> bool:
    """Tell whether values have the same type, or are text because their type is the application's."""
    return old.type == new.type or (new.is_of_application and old.base_type == "text" and not old.is_of_application)


def _is_partition(conn: Connection, entry: UndoEntry) -> bool:
    relation = Facts(conn).named(entry.there)
    return relation is not None and relation.is_partition


def _types(conn: Connection, schema: str, name: str) -> Mapping[str, str]:
    found = rows(conn, "oid_of", schema=schema, name=name)
    return {one["name"]: one["type"] for one in rows(conn, "columns", oid=found[0]["oid"])} if found else {}
