"""The steps that capture what a statement destroys, put around it when a migration or a rollback is planned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pglast import ast

from pgrunbook.database.connection import Connection
from pgrunbook.database.facts import Facts
from pgrunbook.database.relations import Relation
from pgrunbook.plan.step import Expansion, Keep, SafeStep
from pgrunbook.plan.way_back import Undo
from pgrunbook.sql.classify import Policy
from pgrunbook.sql.deparse import parsed
from pgrunbook.sql.tree import dotted_name, tree
from pgrunbook.undo_data.capture_columns import ColumnCapture, column_capture, column_name, is_changed_type, is_large
from pgrunbook.undo_data.capture_rows import ANYWHERE, CHANGING, rewrite
from pgrunbook.undo_data.capture_tables import locking
from pgrunbook.undo_data.cascades import CannotCaptureError, RowsNotShownError
from pgrunbook.undo_data.entries import Site
from pgrunbook.undo_data.parked_tables import park
from pgrunbook.undo_data.tables import CapturedTable, table

_ROWS = (*CHANGING, ast.TruncateStmt, ast.MergeStmt, ast.CopyStmt)


@dataclass(frozen=True)
class CaptureExpansion:
    """An expansion with capture; where ``because`` says why nothing can be captured, the expansion is unchanged."""

    expansion: Expansion
    keeps: tuple[Keep, ...]
    because: str = ""


def with_capture(
    conn: Connection,
    expansion: Expansion,
    undo: Undo,
    site: Site,
    *,
    rows_conn: Connection | None,
    batch_rows: int,
    began_with: Mapping[int, Relation] | None = None,
) -> CaptureExpansion:
    """Return a statement's expansion with the steps that capture what its inverse needs.

    Call it right before the statement is executed on ``conn``, often an empty branch; ``rows_conn`` leads to the
    database whose rows count. Where ``began_with`` are the relations of ``conn`` as the release has found them, their
    rows count by the name of that time, and a table that is not there is the release's own, and small. Nothing is
    created.

    Locks: AccessShareLock on what is read.
    """
    if undo.because or not undo.keeps or not expansion.steps:
        return CaptureExpansion(expansion, undo.keeps, undo.because)
    keeps = tuple(k if k.kind == "rows" else replace(k, kept_as=site.name(k)) for k in undo.keeps)
    try:
        if undo.of_rows:
            is_beyond = _counter(conn, rows_conn, began_with)
            return CaptureExpansion(_capturing_rows(conn, expansion, keeps, is_beyond), keeps)
        if any(keep.kind == "table" for keep in keeps):
            return CaptureExpansion(park(conn, expansion, undo.detaches, keeps), keeps)
        return _capturing_columns(conn, expansion, keeps, site, rows_conn, batch_rows)
    except CannotCaptureError as reason:
        return CaptureExpansion(expansion, undo.keeps, f"It cannot be undone, because {reason}.")


def _counter(
    conn: Connection, rows_conn: Connection | None, began_with: Mapping[int, Relation] | None
) -> Callable[[Relation, int], bool]:
    """Return a function that tells whether a table holds more rows than a limit."""

    def is_beyond(relation: Relation, limit: int) -> bool:
        there = relation if began_with is None else began_with.get(relation.oid)
        return there is not None and Facts(conn, rows_conn).has_rows_beyond(there, limit)

    return is_beyond


def _capturing_rows(
    conn: Connection, expansion: Expansion, keeps: tuple[Keep, ...], is_beyond: Callable[[Relation, int], bool]
) -> Expansion:
    steps, tables = [], ""
    foreign: tuple[str, ...] = ()
    for step in expansion.steps:
        statement = step.batches.statement if step.batches else step.sql
        node = tree(statement)
        if isinstance(node, _ROWS) or (step.sql == expansion.statement.sql and len(expansion.steps) == 1):
            whole, written = _whole(conn, step, statement, keeps, is_beyond)
            tables = ", ".join(keep.table for keep in keeps) if whole != step.sql else tables
            follows = () if whole != step.sql else _names(one for one in written if one.is_own)
            foreign += _names(one for one in written if not one.is_own)
            step = replace(step, sql=whole, keeps=keeps, follows=follows)  # noqa: PLW2901
        steps.append(step)
    followed = " and ".join(sorted({name for step in steps for name in step.follows}))
    if followed:
        explains = f"Until what it changes is reverted or purged, triggers on {followed} let it follow its rows."
        expansion = replace(expansion, explains=f"{expansion.explains} {explains}".strip())
    if foreign:
        says = f"No trigger can follow the rows of {' and '.join(foreign)}, which belong to another role: one that is"
        says += " deleted, and inserted again with its key and what was written, gets its old values at rollback, too."
        expansion = replace(expansion, explains=f"{expansion.explains} {says}".strip())
    if not tables:
        return replace(expansion, steps=tuple(steps))
    explains = f"{expansion.explains} It does not show which rows it changes: all rows of {tables} are captured before"
    return replace(
        expansion,
        form=expansion.form or "keep-rows",
        explains=f"{explains} it, and those that it leaves as they were are let go again.".strip(),
        steps=tuple(steps),
    )


def _whole(
    conn: Connection, step: SafeStep, statement: str, keeps: Sequence[Keep], is_beyond: Callable[[Relation, int], bool]
) -> tuple[str, list[CapturedTable]]:
    """Return the SQL of a step, with the lock of its tables where only these can be captured, as a whole.

    And the tables of which rows are captured that stay.
    """
    try:
        sides = rewrite(conn, statement, ANYWHERE, keeps).sides
    except RowsNotShownError as reason:
        if step.batches or step.policy is not Policy.TOGETHER:
            raise
        try:
            whole = locking(conn, step.sql, keeps, is_beyond)
            found = [Facts(conn).relation(parsed(f"TABLE {keep.table}").fromClause[0]) for keep in keeps]
            return whole, [table(conn, one.oid) for one in found if one is not None]
        except CannotCaptureError as other:
            raise CannotCaptureError(f"{reason}, and {other}") from None
    return step.sql, [side.table for side in sides if side.kind == "update"]


def _names(tables: Iterable[CapturedTable]) -> tuple[str, ...]:
    return tuple(sorted({dotted_name(*one.name) for one in tables}))


def _capturing_columns(
    conn: Connection,
    expansion: Expansion,
    keeps: tuple[Keep, ...],
    site: Site,
    rows_conn: Connection | None,
    batch_rows: int,
) -> CaptureExpansion:
    """Capture columns: of large tables before the statement, of small ones in its transaction.

    A rollback changes the type, discards changed rows before and writes values back after in one transaction.
    """
    found: list[tuple[ColumnCapture, bool]] = []
    goes = {keep: column_name(conn, keep) for keep in keeps}
    for keep in keeps:
        changes = is_changed_type(expansion.statement.sql, keep)
        others = [name for other, name in goes.items() if other.table == keep.table]
        capture = column_capture(
            conn, keep, changes_type=changes, statement=expansion.statement.sql, without=others, rows_conn=rows_conn
        )
        is_unwatched = capture.is_key_new or capture.table.is_key_former
        is_one = is_unwatched or bool(capture.made) or (changes and site.direction == "down")
        found.append((capture, not is_one and is_large(conn, capture.table, rows_conn, batch_rows)))
    before = [step for capture, large in found if large for step in capture.before(batch_rows)]
    place = next((n for n, step in enumerate(expansion.steps) if _destroys(step, expansion)), None)
    if place is None:
        raise CannotCaptureError("none of its steps is known to destroy what would be captured")
    own = expansion.steps[place]
    whole = [
        *(statement for capture, large in found for statement in capture.prologue(is_large=large)),
        own.sql,
        *(statement for capture, _ in found for statement in capture.epilogue()),
    ]
    small = tuple(capture.keep for capture, large in found if not large)
    is_one = site.direction == "down" or any(step.gives_back for step in expansion.steps)
    is_apart = own.own_transaction or not (is_one and any(capture.changes_type for capture, _ in found))
    step = replace(own, sql=";\n".join(whole), own_transaction=is_apart, keeps=(*own.keeps, *small))
    steps = (*before, *expansion.steps[:place], step, *expansion.steps[place + 1 :])
    expansion = replace(
        expansion,
        form=expansion.form or "keep-column",
        explains=f"{expansion.explains} What it destroys is captured before; until it is reverted or purged, triggers"
        f" on {' and '.join(sorted({keep.table for keep in keeps}))} let captured values follow their rows.".strip(),
        steps=steps,
        cleanup=(*expansion.cleanup, *(query for capture, large in found if large for query in capture.cleanup())),
    )
    return CaptureExpansion(expansion, tuple(capture.keep for capture, _ in found))


def _destroys(step: SafeStep, expansion: Expansion) -> bool:
    """Tell whether a step drops a column or changes a type: the column is captured around this step."""
    if step.sql == expansion.statement.sql:
        return True
    cmds = getattr(tree(step.sql), "cmds", None) or () if step.batches is None else ()
    return any(cmd.subtype.name in ("AT_DropColumn", "AT_AlterColumnType") for cmd in cmds)
