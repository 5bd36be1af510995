"""Going forward again: what was written into columns and tables before they were taken back comes back."""

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
from pgrunbook.undo_data.revert_columns import filling
from pgrunbook.undo_data.tables import SCHEMA, Column, Table, rows, table

SAYS = "What was written into {} before it was taken back comes back."


def waiting(conn: Connection, migrations: Sequence[str]) -> list[UndoEntry]:
    """Return what is kept of columns and tables that went when these migrations were taken back, oldest first."""
    found = [
        one
        for one in find(conn, states=["kept"])
        if one.direction == "down" and one.kind in ("column", "table") and one.migration in migrations
    ]
    return sorted(found, key=lambda one: one.id)


def refill(branch: Connection, conn: Connection, kept: UndoEntry, *, batch_rows: int) -> tuple[SafeStep, ...]:
    """Return the steps that fill what is kept into the column or table that is there again on ``branch``.

    ``conn`` leads to the database that keeps it. () where it is not there again, or is of another type: then it
    stays kept.
    """
    there = rows(branch, "oid_of", schema=kept.table.schema, name=kept.table.name)
    if not there:
        return ()
    found = table(branch, there[0]["oid"])
    return (
        _column(branch, conn, found, kept, batch_rows)
        if kept.kind == "column"
        else _rows(conn, found, kept, batch_rows)
    )


def _column(
    branch: Connection, conn: Connection, found: Table, kept: UndoEntry, batch_rows: int
) -> tuple[SafeStep, ...]:
    (name,) = kept.columns
    key, _ = keys_with_operators(branch, found.oid, kept.key)
    side = _types(conn, SCHEMA, kept.kept_as)
    column = found.columns.get(name)
    if column is None or not key or side.get(VALUE) != text(column.side_type).removeprefix("pg_catalog."):
        return ()
    statement, key = filling(branch, found, as_keep(kept), column, sql.SQL("true"))
    types = tuple(each.type for each in found.named(key))
    loop = Batches(
        schema=found.name.schema, table=found.name.name, alias="t", statement=statement, key=key,
        key_types=types, rows=batch_rows,
    )  # fmt: skip
    says = SAYS.format(f"{kept.table}.{name}")
    return (SafeStep(loop.statement, says, quick=False, batches=loop, gives_back=(kept.kept_as,)),)


def _rows(conn: Connection, found: Table, kept: UndoEntry, batch_rows: int) -> tuple[SafeStep, ...]:
    """The kept table is walked through by its own key, where it has one; the rows of partitions come with it."""
    relation = Facts(conn).named((kept.kept_as, kept.table.name))
    if relation is None or relation.is_partition:
        return ()
    old = table(conn, relation.oid)
    parts = [one.kept_as for one in find(conn, states=["kept"], ids=[kept.id]) if _is_partition(conn, one)]
    shared = [c for c in found.plain if c.name in old.columns and _is_taken(old.columns[c.name], c)]
    names = sql.SQL(", ").join(sql.Identifier(column.name) for column in shared)
    values = sql.SQL(", ").join(column.given_back(sql.Identifier("t", column.name)) for column in shared)
    statement = sql.SQL(
        "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} AS t WHERE {} ON CONFLICT DO NOTHING"
    ).format(found.name.identifier(), names, values, old.name.identifier(), sql.SQL(RANGE))
    says = SAYS.format(kept.table)
    types = tuple(each.type for each in old.named(old.key))
    if old.key:
        loop = Batches(
            schema=kept.kept_as, table=old.name.name, alias="t", statement=text(statement), key=old.key,
            key_types=types, rows=batch_rows,
        )  # fmt: skip
        steps = [SafeStep(loop.statement, says, quick=False, batches=loop)]
    else:
        steps = [SafeStep(text(statement).replace(RANGE, "true", 1), says, own_transaction=False, quick=False)]
    query = rows(conn, "advancing", table=found.name.identifier().as_string(None))[0]["sql"]
    steps.append(
        SafeStep(query, "Its sequences go on behind them.", own_transaction=False, gives_back=(kept.kept_as, *parts))
    )
    return tuple(steps)


def _is_taken(old: Column, new: Column) -> bool:
    """Tell whether values are of the same type, or are kept as text because theirs is of the application."""
    return old.type == new.type or (new.is_of_application and old.base_type == "text" and not old.is_of_application)


def _is_partition(conn: Connection, kept: UndoEntry) -> bool:
    relation = Facts(conn).named((kept.kept_as, kept.table.name))
    return relation is not None and relation.is_partition


def _types(conn: Connection, schema: str, name: str) -> Mapping[str, str]:
    found = rows(conn, "oid_of", schema=schema, name=name)
    return {one["name"]: one["type"] for one in rows(conn, "columns", oid=found[0]["oid"])} if found else {}
