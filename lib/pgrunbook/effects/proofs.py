"""Constraints that let PostgreSQL skip reading a table; for ``effects.statements``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pglast
from pglast import ast, enums
from pglast.parser import ParseError

from pgrunbook.database.catalog import Table
from pgrunbook.sql.tree import walk


def proves_not_null(table: Table, column: str) -> bool:
    """Whether a validated CHECK proves that a column is NOT NULL (or a NOT NULL constraint, from PostgreSQL 18 on)."""
    for constraint in table.constraints:
        if constraint.valid and constraint.kind == "n" and column in constraint.columns:
            return True
        is_check = constraint.valid and constraint.kind == "c"
        if is_check and any(_is_not_null(part, column) for part in _conjuncts(constraint.definition)):
            return True
    return False


def fits_partition(table: Table, bound: Any, parent: Table) -> bool:
    """Whether a validated CHECK of a table to attach implies the bounds of its partition.

    PostgreSQL proves this logically; here only the same constants with IS NOT NULL count as a proof.
    """
    if bound is None or bound.is_default:
        return False
    wanted = _bound_constants(bound)
    for constraint in table.constraints:
        if constraint.kind == "c" and constraint.valid and constraint.definition:
            constants = {value for part in _conjuncts(constraint.definition) for value in _constants(part)}
            nulls = _holds_nulls(bound) or any(_is_not_null(part, None) for part in _conjuncts(constraint.definition))
            known_not_null = all(table.columns[c].not_null for c in constraint.columns if c in table.columns)
            if wanted and wanted <= constants and (nulls or known_not_null) and parent.kind == "p":
                return True
    return False


def excludes_bound(table: Table, bound: Any) -> bool:
    """Whether a validated CHECK of a default partition says that none of its rows is within another one's bounds.

    As in :func:`fits_partition` the same constants count as a proof, here within a NOT.
    """
    wanted = _bound_constants(bound)
    for constraint in table.constraints:
        if constraint.kind == "c" and constraint.valid and constraint.definition:
            parts = list(_conjuncts(constraint.definition))
            is_not = any(
                isinstance(part, ast.BoolExpr) and part.boolop == enums.BoolExprType.NOT_EXPR for part in parts
            )
            if is_not and wanted and wanted <= {value for part in parts for value in _constants(part)}:
                return True
    return False


def _holds_nulls(bound: Any) -> bool:
    """Whether a row with NULL in the key may be within the bounds."""
    is_null = (getattr(part, "isnull", None) for part in bound.listdatums or ())
    return bound.strategy == "h" or any(is_null)


def _bound_constants(bound: Any) -> set[str]:
    if bound.strategy == "h":
        return {str(bound.modulus), str(bound.remainder)}
    datums = (*(bound.lowerdatums or ()), *(bound.upperdatums or ()), *(bound.listdatums or ()))
    return {value for part in datums for value in _constants(part)}


def _conjuncts(definition: str) -> Iterator[Any]:
    """Yield the parts of CHECK (a AND b AND ...), printed by pg_get_constraintdef or as written."""
    condition = definition.strip().removeprefix("CHECK").removesuffix("NOT VALID").strip()
    try:
        expression = pglast.parse_sql(f"SELECT {condition}")[0].stmt.targetList[0].val
    except ParseError:
        return
    waiting = [expression]
    while waiting:
        part = waiting.pop()
        if isinstance(part, ast.BoolExpr) and part.boolop == enums.BoolExprType.AND_EXPR:
            waiting.extend(part.args)
        else:
            yield part


def _is_not_null(part: Any, column: str | None) -> bool:
    if not isinstance(part, ast.NullTest) or part.nulltesttype != enums.NullTestType.IS_NOT_NULL:
        return False
    named = isinstance(part.arg, ast.ColumnRef) and getattr(part.arg.fields[-1], "sval", None)
    return column is None or named == column


def _constants(part: Any) -> Iterator[str]:
    """Yield the texts of the constants below a node: numbers, texts, booleans, bits."""
    for node in walk(part):
        if isinstance(node, ast.A_Const) and not node.isnull:
            yield str(getattr(node.val, next(iter(node.val))))
