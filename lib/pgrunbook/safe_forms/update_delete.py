"""Safe form of an UPDATE or DELETE of many rows: batches, if they come to the same end as the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pglast import ast, enums

from pgrunbook.database.relations import Relation
from pgrunbook.display.prose import counted
from pgrunbook.plan.step import RANGE, Expansion
from pgrunbook.safe_forms.form import Case
from pgrunbook.safe_forms.tracked_loop import TrackedLoop
from pgrunbook.sql.deparse import changed, expression, mapped, parsed, printed
from pgrunbook.sql.tree import column_names, functions_in, walk

V = enums.SQLValueFunctionOp
# Each is the start of the transaction, which differs between batches: the start of the loop replaces it.
_TIMES = {V.SVFOP_CURRENT_TIMESTAMP: "", V.SVFOP_LOCALTIMESTAMP: "::timestamp", V.SVFOP_CURRENT_DATE: "::date"}
_TIME_FUNCTIONS = ("now", "transaction_timestamp")
BATCHES = "batches"
_SYSTEM_COLUMNS = {"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"}


def in_batches(case: Case) -> Expansion | None:
    """UPDATE or DELETE -> a loop of short transactions, each over a range of the table's key.

    For a table of more rows than one batch, and a statement that can be split. A step before the loop begins to track
    the rows, and one behind it ends that. Committed batches are data: only rollback reverts them, from undo data.
    """
    table = case.facts.relation(case.node.relation) if is_unbounded(case) else None
    if table is None or whole_because(case) is not None:
        return None
    node = mapped(case.node, _pinned)
    node = changed(node, relation=changed(node.relation, schemaname=table.schema, relname=table.name))
    statement = printed(changed(node, whereClause=_with_range(node.whereClause)))
    left = ""
    if isinstance(node, ast.DeleteStmt):
        left = expression(node.whereClause) if node.whereClause is not None else "true"
    loop = TrackedLoop.over(case, table, statement, alias=_alias(case.node), left=left)
    size, by = counted(case.batch_rows, "row"), ", ".join(loop.batches.key)
    says = f"{case.statement.kind} {size} at a time, by ranges of {by}; each batch is committed."
    if left:
        says += " Where the table is large, and the key random in it, they are ranges of its pages."
    return Expansion(
        case.statement,
        BATCHES,
        "One statement for all rows keeps every row locked until the last row is done, and leaves as many dead "
        "rows behind; the loop locks few rows at a time, and after a stop it goes on where it was.",
        loop.steps(printed(node), says),
        cleanup=(loop.tracker.cleanup(),),
    )


def is_unbounded(case: Case) -> bool:
    """Tell whether a statement may change more rows than one batch."""
    if not isinstance(case.node, ast.UpdateStmt | ast.DeleteStmt):
        return False
    table = case.facts.relation(case.node.relation)
    if table is None or table.kind not in "rp" or table.is_temporary:
        return False
    if _names_single_rows(case, table):
        return False
    return case.facts.has_rows_beyond(table, case.batch_rows)


def whole_because(case: Case) -> str | None:
    """Return why batches would come to another end than the whole statement, None if they would not."""
    table = case.facts.relation(case.node.relation)
    if table is None:
        return "its table does not exist yet"
    return next(_reasons(case, table), None)


def _reasons(case: Case, table: Relation) -> Iterator[str]:
    node = case.node
    if node.withClause:
        yield "its WITH would be evaluated again for each batch"
    if node.returningClause if hasattr(node, "returningClause") else getattr(node, "returningList", None):
        yield "RETURNING returns all rows at once"
    if getattr(node, "fromClause", None) or getattr(node, "usingClause", None):
        yield "it joins another table, whose rows may change between batches"
    yield from _reasons_in_expressions(case, table)
    yield from _reasons_in_table(case, table)


def _reasons_in_expressions(case: Case, table: Relation) -> Iterable[str]:
    node, facts = case.node, case.facts
    for part in walk((node.whereClause, getattr(node, "targetList", None))):
        if isinstance(part, ast.RangeVar):
            other = facts.relation(part)
            if other is None or other.kind not in "rp":
                yield f'it reads "{part.relname}", and which rows that reads is unknown'
            elif other.oid == table.oid or other.is_partition or table.is_partition or table.is_partitioned:
                yield f'it reads rows of "{part.relname}", which earlier batches may have changed'
        if isinstance(part, ast.SQLValueFunction) and part.op in _OTHER_TIMES:
            yield "it uses its transaction's start time, which differs between batches"
    if _SYSTEM_COLUMNS & set(column_names((node.whereClause, getattr(node, "targetList", None)))):
        yield "it uses a system column, which changes between batches"
    called = set(functions_in((node.whereClause, getattr(node, "targetList", None)))) - set(_TIME_FUNCTIONS)
    in_where = set(functions_in(node.whereClause))
    known = {row["name"]: row for row in facts.rows("functions", names=sorted(called))}
    for name in sorted(called):
        row = known.get(name)
        if row is None or (not row["is_immutable"] and not row["is_builtin"]):
            yield f'it calls "{name}", which may read rows that earlier batches have changed'
        elif row["is_volatile"] and name in in_where:
            yield f'it selects rows by "{name}", which returns another value each time'


def _reasons_in_table(case: Case, table: Relation) -> Iterable[str]:
    node, facts = case.node, case.facts
    is_update = isinstance(node, ast.UpdateStmt)
    if table.inherits_down and node.relation.inh:
        yield "the table has child tables, and no key orders the rows of all of them"
    if table.has_rules:
        yield "the table has rules"
    for trigger in facts.rows("triggers", oid=table.oid):
        if trigger["on_update" if is_update else "on_delete"] and not trigger["for_each_row"]:
            yield f'trigger "{trigger["name"]}" would fire once for each batch'
    for key in facts.rows("entangled", oid=table.oid):
        if not is_update or key["is_deferrable"]:
            kind = "between rows of the table" if key["is_self"] else "checked only at the end"
            yield f'foreign key "{key["name"]}" is {kind}'
    if is_update:
        assigned = {target.name for target in node.targetList}
        unique = assigned & {row["name"] for row in facts.rows("unique_columns", oid=table.oid)}
        if unique:
            yield f"it changes {', '.join(sorted(unique))}, which must be unique only at the end, not after each batch"
    if facts.loop_key(table) is None:
        yield "the table has no key by which to cut batches"
    if not table.is_own:
        yield "the table is not this role's own, which is needed to see the rows that others move meanwhile"


_OTHER_TIMES = {
    V.SVFOP_CURRENT_TIME, V.SVFOP_CURRENT_TIME_N, V.SVFOP_LOCALTIME, V.SVFOP_LOCALTIME_N,
    V.SVFOP_CURRENT_TIMESTAMP_N, V.SVFOP_LOCALTIMESTAMP_N,
}  # fmt: skip


def _names_single_rows(case: Case, table: Relation) -> bool:
    """Tell whether the condition gives every column of a key its value, or a list of values."""
    columns = set(case.facts.columns(table))
    joined = getattr(case.node, "fromClause", None) or getattr(case.node, "usingClause", None)

    def varies(part: Any) -> bool:
        """A name that is no column of the one table is a variable of the code that the statement stands in."""
        if not isinstance(part, ast.ColumnRef) or joined:
            return isinstance(part, ast.ColumnRef | ast.SubLink)
        words = [getattr(field, "sval", "*") for field in part.fields]
        return words[-1] in columns and (len(words) == 1 or words[-2] == _alias(case.node))

    given = set(_given_columns(case.node.whereClause, varies))
    return any(set(key.columns) <= given for key in case.facts.keys(table.oid))


def _given_columns(where: Any, varies: Callable[[Any], bool]) -> Iterable[str]:
    if isinstance(where, ast.BoolExpr) and where.boolop == enums.BoolExprType.AND_EXPR:
        for part in where.args:
            yield from _given_columns(part, varies)
    if not isinstance(where, ast.A_Expr) or not isinstance(where.lexpr, ast.ColumnRef):
        return
    kinds = (enums.A_Expr_Kind.AEXPR_OP, enums.A_Expr_Kind.AEXPR_IN)
    if where.kind in kinds and where.name[-1].sval == "=" and not any(map(varies, walk(where.rexpr))):
        yield where.lexpr.fields[-1].sval


def _alias(node: Any) -> str:
    return str(node.relation.alias.aliasname if node.relation.alias else node.relation.relname)


def _with_range(where: Any) -> Any:
    marker = ast.ColumnRef(fields=(ast.String(sval=RANGE),))
    if where is None:
        return marker
    is_and = isinstance(where, ast.BoolExpr) and where.boolop == enums.BoolExprType.AND_EXPR
    return ast.BoolExpr(boolop=enums.BoolExprType.AND_EXPR, args=(marker, *(where.args if is_and else (where,))))


def _pinned(node: Any) -> Any:
    """Replace the transaction's start time by the loop's."""
    cast: str | None = None
    if isinstance(node, ast.SQLValueFunction):
        cast = _TIMES.get(node.op)
    elif isinstance(node, ast.FuncCall) and node.funcname[-1].sval in _TIME_FUNCTIONS and not node.args:
        cast = ""
    if cast is None:
        return node
    text = f"SELECT pg_catalog.current_setting('pgrunbook.started_at')::timestamptz{cast}"
    return parsed(text).targetList[0].val
