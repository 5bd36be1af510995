"""What is executed around a statement, so that what it destroys is kept; planned in prepare, and on the way back."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pglast import ast

from pgrunbook.database.connection import Connection
from pgrunbook.plan.step import Expansion, Keep, SafeStep
from pgrunbook.plan.way_back import Undo
from pgrunbook.sql.deparse import parsed
from pgrunbook.undo_data.capture_columns import ColumnCapture, column_name, is_changed_type, is_large, kept_column
from pgrunbook.undo_data.capture_rows import CHANGING, cannot_because
from pgrunbook.undo_data.cascades import CannotKeepError
from pgrunbook.undo_data.entries import Site
from pgrunbook.undo_data.parked_tables import keeping_tables

_ROWS = (*CHANGING, ast.TruncateStmt, ast.MergeStmt, ast.CopyStmt)


@dataclass(frozen=True)
class CaptureExpansion:
    """An expansion that keeps; ``because`` says why nothing can be kept, and the expansion is as it was then."""

    expansion: Expansion
    keeps: tuple[Keep, ...]
    because: str = ""


def around(
    conn: Connection, expansion: Expansion, undo: Undo, site: Site, *, rows_conn: Connection | None, batch_rows: int
) -> CaptureExpansion:
    """Return what is executed for a statement, with the steps that keep what its way back needs.

    It is asked right before the statement is executed on ``conn``, often an empty branch; ``rows_conn`` leads to
    the database whose rows count. Nothing is made.

    Locks: AccessShareLock on what is read.
    """
    if undo.because or not undo.keeps or not expansion.steps:
        return CaptureExpansion(expansion, undo.keeps, undo.because)
    keeps = tuple(k if k.kind == "rows" else replace(k, kept_as=site.name(k)) for k in undo.keeps)
    try:
        if undo.of_rows:
            return CaptureExpansion(_keeping_rows(conn, expansion, keeps), keeps)
        if any(keep.kind == "table" for keep in keeps):
            return CaptureExpansion(keeping_tables(conn, expansion, undo.detaches, keeps), keeps)
        return _keeping_columns(conn, expansion, keeps, site, rows_conn, batch_rows)
    except CannotKeepError as reason:
        return CaptureExpansion(expansion, undo.keeps, f"It cannot be undone, because {reason}.")


def _keeping_rows(conn: Connection, expansion: Expansion, keeps: tuple[Keep, ...]) -> Expansion:
    steps = []
    for step in expansion.steps:
        statement = step.batches.statement if step.batches else step.sql
        node = parsed(statement)
        if isinstance(node, _ROWS) or (step.sql == expansion.statement.sql and len(expansion.steps) == 1):
            because = cannot_because(conn, statement)
            if because:
                raise CannotKeepError(because)
            step = replace(step, keeps=keeps)  # noqa: PLW2901
        steps.append(step)
    return replace(expansion, steps=tuple(steps))


def _keeping_columns(
    conn: Connection,
    expansion: Expansion,
    keeps: tuple[Keep, ...],
    site: Site,
    rows_conn: Connection | None,
    batch_rows: int,
) -> CaptureExpansion:
    """Keep columns: of large tables before the statement, of small ones in its transaction.

    What changes a type on the way back is one transaction with what is settled before it and filled after it.
    """
    found: list[tuple[ColumnCapture, bool]] = []
    goes = {keep: column_name(conn, keep) for keep in keeps}
    for keep in keeps:
        changes = is_changed_type(expansion.statement.sql, goes[keep])
        others = [name for other, name in goes.items() if other.table == keep.table]
        kept = kept_column(conn, keep, changes_type=changes, without=others, rows_conn=rows_conn)
        is_one = changes and site.direction == "down"
        found.append((kept, not is_one and is_large(conn, kept.table, rows_conn, batch_rows)))
    before = [step for kept, large in found if large for step in kept.before(batch_rows)]
    place = next((n for n, step in enumerate(expansion.steps) if _destroys(step, expansion)), None)
    if place is None:
        raise CannotKeepError("none of its steps is known to destroy what would be kept")
    own = expansion.steps[place]
    whole = [
        *(statement for kept, large in found for statement in kept.prologue(is_large=large)),
        own.sql,
        *(statement for kept, _ in found for statement in kept.epilogue()),
    ]
    small = tuple(kept.keep for kept, large in found if not large)
    is_apart = own.own_transaction or not (site.direction == "down" and any(kept.changes_type for kept, _ in found))
    step = replace(own, sql=";\n".join(whole), own_transaction=is_apart, keeps=(*own.keeps, *small))
    steps = (*before, *expansion.steps[:place], step, *expansion.steps[place + 1 :])
    expansion = replace(
        expansion,
        form=expansion.form or "keep-column",
        explains=f"{expansion.explains} What it destroys is kept before.".strip(),
        steps=steps,
        cleanup=(*expansion.cleanup, *(query for kept, large in found if large for query in kept.cleanup())),
    )
    return CaptureExpansion(expansion, tuple(kept.keep for kept, _ in found))


def _destroys(step: SafeStep, expansion: Expansion) -> bool:
    """Tell whether a step drops a column or changes a type: the one around which it is kept."""
    if step.sql == expansion.statement.sql:
        return True
    cmds = getattr(parsed(step.sql), "cmds", None) or () if step.batches is None else ()
    return any(cmd.subtype.name in ("AT_DropColumn", "AT_AlterColumnType") for cmd in cmds)
