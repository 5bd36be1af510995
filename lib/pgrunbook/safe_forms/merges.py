"""The gate of MERGE, of INSERT ... ON CONFLICT DO UPDATE, and of changes through a view: many rows, and no batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pglast import ast, enums

from pgrunbook.database.relations import Relation
from pgrunbook.display.prose import counted
from pgrunbook.plan.step import Gate
from pgrunbook.safe_forms.form import Case
from pgrunbook.sql.tree import functions_in, walk

_CHANGES = (enums.CmdType.CMD_UPDATE, enums.CmdType.CMD_DELETE)


def find(case: Case) -> Gate | None:
    """Return the gate of a statement that may change many rows and has no form in batches, None for any other."""
    node = case.node
    match node:
        case ast.MergeStmt() if any(when.commandType in _CHANGES for when in node.mergeWhenClauses):
            return None if _few_are_merged(case) else _gate(case, "MERGE decides on all rows at once")
        case ast.InsertStmt() if _updates(node) and not _is_small(case, node.selectStmt):
            return _gate(case, "ON CONFLICT DO UPDATE changes whatever its query returns")
        case ast.UpdateStmt() | ast.DeleteStmt() if not _names_key(case, node.whereClause):
            return _gate(case, "it goes through a view", only="v")
    return None


def _gate(case: Case, because: str, *, only: str = "rpv") -> Gate | None:
    table = case.facts.relation(case.node.relation)
    if table is None or table.kind not in only or table.is_temporary:
        return None
    if not any(case.facts.has_rows_beyond(each, case.batch_rows) for each in _tables(case, table)):
        return None
    return Gate(
        id="cannot-be-split",
        says=f"it may change more than {counted(case.batch_rows, 'row')} in one transaction and cannot be split: "
        f"{because}",
        procedure="backfill",
        how="Write it as UPDATE, DELETE and INSERT on the table itself, each row's new value by that row alone.",
    )


def _tables(case: Case, table: Relation) -> list[Relation]:
    """Return the tables whose rows are changed: that itself, or those of a view."""
    if table.kind != "v":
        return [table]
    found = (case.facts.relation_of(row["oid"]) for row in case.facts.rows("view_tables", oid=table.oid))
    return [each for each in found if each is not None]


def _updates(node: Any) -> bool:
    clause = node.onConflictClause
    return clause is not None and clause.action == enums.OnConflictAction.ONCONFLICT_UPDATE


def _few_are_merged(case: Case) -> bool:
    """Tell whether the source is small and each row of it is joined to one row at the most, by a whole key."""
    node = case.node
    by_source = enums.MergeMatchKind.MERGE_WHEN_NOT_MATCHED_BY_SOURCE
    if any(when.matchKind == by_source for when in node.mergeWhenClauses):
        return False
    return _is_small(case, node.sourceRelation) and _names_key(case, node.joinCondition)


def _names_key(case: Case, where: Any) -> bool:
    """Tell whether a condition compares each column of a key with something by "="."""
    table = case.facts.relation(case.node.relation)
    if table is None:
        return False
    named = set(_compared(where))
    tables = _tables(case, table)
    keys = [set(key.columns) for each in tables[:1] for key in case.facts.keys(each.oid)]
    return len(tables) == 1 and any(key <= named for key in keys)


def _compared(where: Any) -> Iterator[str]:
    if isinstance(where, ast.BoolExpr) and where.boolop == enums.BoolExprType.AND_EXPR:
        for part in where.args:
            yield from _compared(part)
    if not isinstance(where, ast.A_Expr) or where.name[-1].sval != "=":
        return
    sides = (where.lexpr, where.rexpr)
    for side, other in (sides, sides[::-1]):
        if isinstance(side, ast.ColumnRef) and not _is_same(side, other):
            yield getattr(side.fields[-1], "sval", "*")


def _is_same(one: Any, other: Any) -> bool:
    """Tell whether both sides may be a column of the same table: "id = id" holds for every row."""
    both = isinstance(one, ast.ColumnRef) and isinstance(other, ast.ColumnRef)
    return both and (len(one.fields) < 2 or len(other.fields) < 2 or one.fields[-2].sval == other.fields[-2].sval)


def _is_small(case: Case, source: Any) -> bool:
    """Tell whether a query or table has no more rows than one batch, as the tables in it show."""
    if source is None:  # DEFAULT VALUES
        return True
    parts = list(walk(source))
    called = sorted(set(functions_in(source)))
    if any(isinstance(part, ast.RangeFunction) for part in parts) or case.facts.rows("set_functions", names=called):
        return False
    named = [part for part in parts if isinstance(part, ast.RangeVar)]
    tables = [case.facts.relation(part) for part in named]
    return len(tables) < 2 and all(
        table is not None and table.kind in "rp" and not case.facts.has_rows_beyond(table, case.batch_rows)
        for table in tables
    )
