"""Constraints that let PostgreSQL skip reading a table; for ``effects.statements``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from decimal import Decimal
from typing import Any, NamedTuple

import pglast
from pglast import ast, enums
from pglast.parser import ParseError

from pgrunbook.database.catalog import Table
from pgrunbook.sql.tree import strings, walk

_BOTH = 2
_EQUALS_ANY = (enums.A_Expr_Kind.AEXPR_IN, enums.A_Expr_Kind.AEXPR_OP_ANY)
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
# A day or an instant; the server prints it in the zone of the session, in which a bound without one is read as well.
_DAY = re.compile(r"(\d{4}-\d\d-\d\d)(?: (\d\d:\d\d:\d\d(?:\.\d+)?))?(?:[+-]\d\d(?::\d\d)*)?")


def proves_not_null(table: Table, column: str, *, without: Set[str] = frozenset()) -> bool:
    """Whether a validated CHECK proves that a column is NOT NULL (or a NOT NULL constraint, from PostgreSQL 18 on).

    The constraints ``without`` which the table is left count for nothing.
    """
    for constraint in table.constraints:
        if not constraint.valid or constraint.name in without:
            continue
        if constraint.kind == "n" and column in constraint.columns:
            return True
        if constraint.kind == "c" and any(_is_not_null(part, column) for part in _conjuncts(constraint.definition)):
            return True
    return False


def fits_partition(table: Table, bound: Any, parent: Table) -> bool:
    """Whether the validated CHECKs of a table to attach imply the bounds of its partition.

    Over one column the limits are compared; over several, and of hashes, the same constants count as a proof.
    """
    if bound is None or bound.is_default or parent.kind != "p":
        return False
    column = _only_column(parent.partition_key)
    if bound.strategy == "h" or column is None:
        return any(_names_all(definition, bound, parent) for definition in _checks(table))
    parts = [part for definition in _checks(table) for part in _conjuncts(definition)]
    known = column in table.columns and table.columns[column].not_null
    if not (known or _holds_nulls(bound) or any(_is_not_null(part, column) for part in parts)):
        return False
    limits = [limit for part in parts for limit in _limits(part, column, nulls=_holds_nulls(bound))]
    return any(_is_within(limit, bound) for limit in limits) or _is_between(limits, bound)


def excludes_bound(table: Table, bound: Any) -> bool:
    """Whether a validated CHECK of a default partition says that none of its rows is within another one's bounds."""
    wanted = _bound_constants(bound)
    for part in (part for definition in _checks(table) for part in _conjuncts(definition)):
        if not isinstance(part, ast.BoolExpr) or part.boolop != enums.BoolExprType.NOT_EXPR:
            continue
        inner = list(_parts(part.args[0]))
        if wanted and wanted <= {value for each in inner for value in _constants(each)}:
            return True
        limits = [limit for each in inner for limit in _limits(each, None)]
        is_range = bound.strategy == "r" and len(bound.lowerdatums) == 1
        if is_range and limits and all(_holds_range(limit, bound) for limit in limits):
            return True
    return False


class _Limit(NamedTuple):
    """What a part of a CHECK says of a column: an operator and a constant, or "=" and all that it may be."""

    operator: str
    values: tuple[str, ...]


def _checks(table: Table) -> list[str]:
    return [each.definition for each in table.constraints if each.kind == "c" and each.valid and each.definition]


def _only_column(key: str) -> str | None:
    """Return the column of a partition key that is one column, in its own collation and operator class."""
    if not key:
        return None
    params = pglast.parse_sql(f"CREATE TABLE t (a int) PARTITION BY {key}")[0].stmt.partspec.partParams
    return params[0].name if len(params) == 1 and not params[0].opclass else None


def _names_all(definition: str, bound: Any, parent: Table) -> bool:
    """Whether a CHECK has all constants of the bounds, and all columns of the key of several."""
    parts = list(_conjuncts(definition))
    wanted, constants = _bound_constants(bound), {value for part in parts for value in _constants(part)}
    columns = {strings(node.fields)[-1] for part in parts for node in walk(part) if isinstance(node, ast.ColumnRef)}
    key = pglast.parse_sql(f"CREATE TABLE t (a int) PARTITION BY {parent.partition_key}")[0].stmt.partspec.partParams
    return bool(wanted) and wanted <= constants and {param.name for param in key if param.name} <= columns


def _limits(part: Any, column: str | None, *, nulls: bool = False) -> Iterator[_Limit]:
    """Yield what a part of a CHECK says of a column, of any where it is None; nothing where it says something else.

    With ``nulls`` it may also be NULL.
    """
    if isinstance(part, ast.BoolExpr) and part.boolop == enums.BoolExprType.OR_EXPR:
        wanted = [arm for arm in part.args if not (nulls and isinstance(arm, ast.NullTest))]
        arms = [limit for arm in wanted for limit in _limits(arm, column)]
        if len(arms) == len(wanted) and all(arm.operator == "=" for arm in arms):
            yield _Limit("=", tuple(value for arm in arms for value in arm.values))
    elif isinstance(part, ast.A_Expr) and _names(part.lexpr, column):
        values = tuple(_constants(part.rexpr))
        if part.kind == enums.A_Expr_Kind.AEXPR_BETWEEN and len(values) == _BOTH:
            yield from (_Limit(">=", values[:1]), _Limit("<=", values[1:]))
        elif part.kind in _EQUALS_ANY and strings(part.name)[-1] == "=" and values:
            yield _Limit("=", values)
        elif part.kind == enums.A_Expr_Kind.AEXPR_OP and len(values) == 1:
            yield _Limit(strings(part.name)[-1], values)


def _names(node: Any, column: str | None) -> bool:
    """Whether a node is the column, also under a cast or a collation, as the server prints them."""
    while isinstance(node, ast.TypeCast | ast.CollateClause):
        node = node.arg
    return isinstance(node, ast.ColumnRef) and (column is None or strings(node.fields)[-1] == column)


def _is_within(limit: _Limit, bound: Any) -> bool:
    """Whether each value that the column may have is within the bounds."""
    if limit.operator != "=":
        return False
    if bound.strategy == "l":
        return set(limit.values) <= _bound_constants(bound)
    return all(_is_between([_Limit(">=", (value,)), _Limit("<=", (value,))], bound) for value in limit.values)


def _is_between(limits: list[_Limit], bound: Any) -> bool:
    if bound.strategy != "r":
        return False
    lower, upper = _end(bound.lowerdatums[0]), _end(bound.upperdatums[0])
    above = lower is None or any(
        limit.operator in (">", ">=") and _precedes(lower, limit.values[0]) for limit in limits
    )
    below = upper is None or any(
        (limit.operator == "<" and _precedes(limit.values[0], upper))
        or (limit.operator == "<=" and _precedes(limit.values[0], upper, strictly=True))
        for limit in limits
    )
    return above and below


def _holds_range(limit: _Limit, bound: Any) -> bool:
    """Whether a limit within a NOT lets all values of a range through, so that none of them is left outside it."""
    lower, upper = _end(bound.lowerdatums[0]), _end(bound.upperdatums[0])
    if limit.operator in (">", ">="):
        return lower is not None and _precedes(limit.values[0], lower, strictly=limit.operator == ">")
    return limit.operator in ("<", "<=") and upper is not None and _precedes(upper, limit.values[0])


def _end(datum: Any) -> str | None:
    """Return one end of a range, None for MINVALUE and MAXVALUE."""
    return next(iter(_constants(datum)), None)


def _precedes(one: str, other: str, *, strictly: bool = False) -> bool:
    """Whether a constant is less than another one or equal to it; False where the texts do not tell."""
    if _NUMBER.fullmatch(one) and _NUMBER.fullmatch(other):
        least, most = Decimal(one), Decimal(other)
        return least < most or (least == most and not strictly)
    days = [_DAY.fullmatch(text) for text in (one, other)]
    if days[0] and days[1]:
        first, second = (f"{day[1]} {day[2] or '00:00:00'}" for day in days if day)
        return first < second or (first == second and not strictly)
    return one == other and not strictly


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
        yield from _parts(pglast.parse_sql(f"SELECT {condition}")[0].stmt.targetList[0].val)
    except ParseError:
        return


def _parts(expression: Any) -> Iterator[Any]:
    waiting = [expression]
    while waiting:
        part = waiting.pop()
        if isinstance(part, ast.BoolExpr) and part.boolop == enums.BoolExprType.AND_EXPR:
            waiting.extend(part.args)
        else:
            yield part


def _is_not_null(part: Any, column: str) -> bool:
    wanted = enums.NullTestType.IS_NOT_NULL
    if isinstance(part, ast.BoolExpr) and part.boolop == enums.BoolExprType.NOT_EXPR:
        part, wanted = part.args[0], enums.NullTestType.IS_NULL
    return isinstance(part, ast.NullTest) and part.nulltesttype == wanted and _names(part.arg, column)


def _constants(part: Any) -> Iterator[str]:
    """Yield the texts of the constants below a node: numbers, texts, booleans, bits; not a type's, as in char(9)."""
    of_types = {id(each) for node in walk(part) if isinstance(node, ast.TypeName) for each in walk(node)}
    for node in walk(part):
        if isinstance(node, ast.A_Const) and not node.isnull and id(node) not in of_types:
            yield str(getattr(node.val, next(iter(node.val))))
