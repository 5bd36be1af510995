"""Safe form of REFRESH MATERIALIZED VIEW: CONCURRENTLY, if a unique index identifies the rows."""

from __future__ import annotations

from pglast import ast

from pgrunbook.plan.step import Expansion, SafeStep
from pgrunbook.safe_forms.form import Case
from pgrunbook.sql.deparse import changed, printed


def concurrently(case: Case) -> Expansion | None:
    """REFRESH MATERIALIZED VIEW -> CONCURRENTLY, in a transaction of its own.

    Only for a populated view, WITH DATA, and with a unique index on plain columns. An interrupted refresh leaves
    nothing behind.
    """
    node = case.node
    if not isinstance(node, ast.RefreshMatViewStmt) or node.concurrent or node.skipData:
        return None
    view = case.facts.relation(node.relation)
    if view is None or not view.is_populated or not can_be_concurrent(case, view.oid):
        return None
    step = SafeStep(
        sql=printed(changed(node, concurrent=True)), says="Refresh the view while reads go on.", quick=False
    )
    says = "REFRESH blocks readers until its query has finished; CONCURRENTLY does not, and writes only changed rows."
    return Expansion(case.statement, "refresh", says, (step,))


def can_be_concurrent(case: Case, oid: int) -> bool:
    """Tell whether a materialized view has a unique index that CONCURRENTLY can use."""
    return any(index.plain and index.unique and index.valid for index in case.facts.indexes(oid))
