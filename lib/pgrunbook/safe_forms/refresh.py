"""Safe form of REFRESH MATERIALIZED VIEW: CONCURRENTLY, if a unique index identifies the rows."""

from __future__ import annotations

from pglast import ast

from pgrunbook.plan.declared import Declared
from pgrunbook.plan.step import SafeStep
from pgrunbook.safe_forms.form import Case
from pgrunbook.sql.deparse import changed, printed


class Refresh:
    """REFRESH MATERIALIZED VIEW -> CONCURRENTLY, in a transaction of its own."""

    name = "refresh"
    differs: tuple[Declared, ...] = ()

    @classmethod
    def applies(cls, case: Case) -> bool:
        """Only for a populated view, WITH DATA, and with a unique index on plain columns."""
        node = case.node
        if not isinstance(node, ast.RefreshMatViewStmt) or node.concurrent or node.skipData:
            return False
        view = case.facts.relation(node.relation)
        return view is not None and view.is_populated and can_be_concurrent(case, view.oid)

    def __init__(self, case: Case) -> None:
        self.case = case

    def expand(self) -> tuple[SafeStep, ...]:
        """Return one step."""
        node = changed(self.case.node, concurrent=True)
        return (SafeStep(sql=printed(node), says="Refresh the view while reads go on.", quick=False),)

    def cleanup(self) -> tuple[str, ...]:
        """Return nothing: an interrupted refresh leaves nothing behind."""
        return ()

    def explain(self) -> str:
        """Say why."""
        return (
            "REFRESH blocks readers until its query has finished; CONCURRENTLY does not, and writes only changed rows."
        )


def can_be_concurrent(case: Case, oid: int) -> bool:
    """Tell whether a materialized view has a unique index that CONCURRENTLY can use."""
    return any(index.plain and index.unique and index.valid for index in case.facts.indexes(oid))
