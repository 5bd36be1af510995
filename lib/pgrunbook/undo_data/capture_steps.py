"""The steps that capture what a statement destroys, put around it when a migration or a rollback is planned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pglast import ast

from pgrunbook.database.connection import Connection
from pgrunbook.database.facts import Facts
from pgrunbook.database.relations import Relation
from pgrunbook.plan.step import Expansion, Keep, SafeStep
from pgrunbook.plan.way_back import Undo
from pgrunbook.sql.classify import Policy
from pgrunbook.sql.deparse import parsed
from pgrunbook.sql.do_branches import changes_of_rows
from pgrunbook.sql.tree import dotted_name, strings, tree, trees, walk
from pgrunbook.undo_data.capture_columns import ColumnCapture, column_capture, column_name, is_changed_type, is_large
from pgrunbook.undo_data.capture_rows import ANYWHERE, CHANGING, rewrite
from pgrunbook.undo_data.capture_tables import locking
from pgrunbook.undo_data.cascades import CannotCaptureError, RowsNotShownError
from pgrunbook.undo_data.entries import Site
from pgrunbook.undo_data.parked_tables import park
from pgrunbook.undo_data.registry import Side
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
            sizes = _Sizes(conn, rows_conn, began_with, batch_rows)
            return CaptureExpansion(_capturing_rows(conn, expansion, keeps, sizes), keeps)
        if any(keep.kind == "table" for keep in keeps):
            return CaptureExpansion(park(conn, expansion, undo.detaches, keeps), keeps)
        return _capturing_columns(conn, expansion, keeps, site, rows_conn, batch_rows)
    except CannotCaptureError as reason:
        return CaptureExpansion(expansion, undo.keeps, f"It cannot be undone, because {reason}.")


@dataclass(frozen=True)
class _Sizes:
    """What is known of the size of tables, and of what was there when the release began."""

    conn: Connection
    rows_conn: Connection | None
    began_with: Mapping[int, Relation] | None
    batch_rows: int

    def is_beyond(self, relation: Relation, limit: int) -> bool:
        """Tell whether a table holds more rows than a limit."""
        there = relation if self.began_with is None else self.began_with.get(relation.oid)
        return there is not None and Facts(self.conn, self.rows_conn).has_rows_beyond(there, limit)

    def is_new(self, found: CapturedTable) -> bool:
        """Tell whether nobody can write to a table, for this release makes it."""
        return self.began_with is not None and found.oid not in self.began_with

    def is_short(self, statement: str) -> bool:
        """Tell whether the INSERTs of a step take no longer than a batch: they read small tables, or none."""
        node = tree(statement)
        nodes = map(tree, changes_of_rows(node)) if isinstance(node, ast.DoStmt) else trees(statement)
        inserts = [one for one in nodes if isinstance(one, ast.InsertStmt)]
        queries = [one for one in inserts if one.selectStmt is not None and not one.selectStmt.valuesLists]
        parts = [part for one in queries for part in (*walk(one.selectStmt), *walk(one.withClause))]
        read = [Facts(self.conn).relation(part) for part in parts if isinstance(part, ast.RangeVar)]
        return not any(map(_makes_rows, parts)) and not any(
            one.kind not in "rp" or self.is_beyond(one, self.batch_rows) for one in read if one is not None
        )


def _makes_rows(node: Any) -> bool:
    """Tell whether a part of a query makes rows of no table, nobody knows how many."""
    is_series = isinstance(node, ast.FuncCall) and strings(node.funcname)[-1] == "generate_series"
    return is_series or isinstance(node, ast.RangeFunction)


def _capturing_rows(conn: Connection, expansion: Expansion, keeps: tuple[Keep, ...], sizes: _Sizes) -> Expansion:
    steps, tables = [], ""
    foreign: tuple[str, ...] = ()
    unfollowed: tuple[str, ...] = ()
    for step in expansion.steps:
        statement = step.batches.statement if step.batches else step.sql
        node = tree(statement)
        if isinstance(node, _ROWS) or (step.sql == expansion.statement.sql and len(expansion.steps) == 1):
            whole, written = _whole(conn, step, statement, keeps, sizes)
            tables = ", ".join(keep.table for keep in keeps) if whole != step.sql else tables
            follows = () if whole != step.sql else _names(one.table for one in written if one.followers)
            foreign += _names(one.table for one in written if one.kind == "update" and not one.table.is_own)
            unfollowed += _names(one.table for one in written if one.kind == "insert" and not one.followers)
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
    if unfollowed:
        says = f"No trigger follows what it inserts into {' and '.join(sorted({*unfollowed}))}: a row that is deleted,"
        says += " or gets another key, is listed at rollback as one that cannot be told."
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
    conn: Connection, step: SafeStep, statement: str, keeps: Sequence[Keep], sizes: _Sizes
) -> tuple[str, list[Side]]:
    """Return the SQL of a step, with the lock of its tables where only these can be captured, as a whole.

    And the side tables of rows that stay.
    """
    try:
        sides = rewrite(conn, statement, ANYWHERE, keeps).sides
    except RowsNotShownError as reason:
        if step.batches or step.policy is not Policy.TOGETHER:
            raise
        try:
            whole = locking(conn, step.sql, keeps, sizes.is_beyond)
            found = [Facts(conn).relation(parsed(f"TABLE {keep.table}").fromClause[0]) for keep in keeps]
            there = [table(conn, one.oid) for one in found if one is not None]
            return whole, [Side("", "update", one, ()) for one in there]
        except CannotCaptureError as other:
            raise CannotCaptureError(f"{reason}, and {other}") from None
    is_short = sizes.is_short(statement)
    stay = [side for side in sides if side.kind != "delete"]
    return step.sql, [
        replace(side, follows=side.kind != "insert" or is_short or sizes.is_new(side.table)) for side in stay
    ]


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
    if step.batches is not None:
        return False
    if step.sql.endswith(expansion.statement.sql):
        return True
    cmds = [cmd for part in trees(step.sql) for cmd in getattr(part, "cmds", None) or ()]
    return any(cmd.subtype.name in ("AT_DropColumn", "AT_AlterColumnType") for cmd in cmds)
