"""Statements that change a column which a backfill has left in sync: its trigger fills or reads it by its name."""

from __future__ import annotations

from collections.abc import Iterator

from pglast import ast, enums

from pgrunbook.database import queries
from pgrunbook.errors import NOTHING_CHANGED, Refused
from pgrunbook.safe_forms.form import Case

A, Kind = enums.AlterTableType, enums.ObjectType
_CHANGES = (A.AT_DropColumn, A.AT_AlterColumnType)


def refuse(case: Case) -> None:
    """Refuse a statement that renames, drops or retypes a column which the trigger of a backfill fills or reads.

    Behind it each write would fail, or the trigger would read the column before that of a rename has filled it.
    Raises Refused. Locks: none.
    """
    for named, column in _changed(case):
        table = case.facts.relation(named)
        if table is None:
            continue
        for row in queries.rows(case.facts.rows_conn, "backfill", "left", table=table.sql, column=column):
            statement, does = case.statement, "fills" if row["fills"] else "reads"
            raise Refused(
                f"could not plan {statement.place} ({statement.kind}): a backfill keeps columns in sync, and {does}"
                f" {table.label}.{column}",
                detail=f'Its trigger "{row["name"]}" knows the columns as they are: behind this statement writes would'
                " fail, or be filled wrongly.",
                state=NOTHING_CHANGED,
                hint="Take the trigger away, then begin again: pgrunbook run backfill --target TARGET -p do=abandon"
                " -p of_run=RUN, the run of the backfill.",
            )


def _changed(case: Case) -> Iterator[tuple[ast.RangeVar, str]]:
    node = case.node
    if isinstance(node, ast.RenameStmt) and node.renameType == Kind.OBJECT_COLUMN and node.relation is not None:
        yield node.relation, node.subname
    elif isinstance(node, ast.AlterTableStmt):
        yield from ((node.relation, cmd.name) for cmd in node.cmds if cmd.subtype in _CHANGES)
