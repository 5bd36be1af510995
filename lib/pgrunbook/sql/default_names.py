"""The names that PostgreSQL would choose for an index or a constraint that is given none.

Source: https://www.postgresql.org/docs/current/sql-createindex.html (name) and the behaviour of the server,
which the tests check.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from pglast import ast, enums

LONGEST_BYTES = 63


def free_name(table: str, columns: str, label: str, taken: Collection[str]) -> str:
    """Return table_columns_label, shortened to fit, with the first number that makes it free."""
    for number in _numbers():
        name = _fitted(table, columns, label + number)
        if name not in taken:
            return name
    raise AssertionError("numbers do not end")


def index_columns(node: Any) -> list[str]:
    """Return the names of an index's columns: an expression gets the server's name for it, and none comes twice."""
    found: list[str] = []
    for element in (*(node.indexParams or ()), *(node.indexIncludingParams or ())):
        base = element.name or _figured(element.expr) or "expr"
        for number in _numbers():
            name = _clipped(base, LONGEST_BYTES - len(number)) + number
            if name not in found:
                found.append(name)
                break
    return found


def joined_columns(columns: Sequence[str]) -> str:
    """Return the part of an object's name that lists its columns; columns beyond the longest name are left out."""
    listed = ""
    for column in columns:
        listed += ("_" if listed else "") + column
        if len(listed.encode()) > LONGEST_BYTES:
            break
    return listed


def _numbers() -> Iterator[str]:
    yield ""
    number = 0
    while True:
        number += 1
        yield str(number)


def _fitted(table: str, columns: str, label: str) -> str:
    """Take bytes off the longer of the two names until all fits; never off the label."""
    room = LONGEST_BYTES - len(label.encode()) - 1 - (1 if columns else 0)
    first, second = len(table.encode()), len(columns.encode())
    while first + second > room:
        if first > second:
            first -= 1
        else:
            second -= 1
    parts = [_clipped(table, first), *([_clipped(columns, second)] if columns else []), label]
    return "_".join(parts)


def _clipped(text: str, size: int) -> str:
    """Cut to a number of bytes, never inside a character."""
    return text.encode()[:size].decode(errors="ignore")


def _figured(node: Any) -> str | None:
    """Return the name that PostgreSQL derives from an expression, None where it derives none."""
    strong = _named(node)
    if strong is not None:
        return strong
    match node:
        case ast.TypeCast():
            return str(node.typeName.names[-1].sval)
        case ast.CollateClause():
            return _figured(node.arg)
        case ast.CaseExpr():
            return "case"
    return None


def _named(node: Any) -> str | None:
    """Return the name of an expression that is a column, a call, or either of them under a cast."""
    match node:
        case ast.ColumnRef():
            named = [part.sval for part in node.fields if isinstance(part, ast.String)]
            return named[-1] if named else None
        case ast.A_Indirection():
            named = [part.sval for part in node.indirection if isinstance(part, ast.String)]
            return named[-1] if named else _named(node.arg)
        case ast.FuncCall():
            return str(node.funcname[-1].sval)
        case ast.TypeCast() | ast.CollateClause():
            return _named(node.arg)
        case ast.CaseExpr():
            return _named(node.defresult)
        case ast.MinMaxExpr():
            return "greatest" if node.op == enums.MinMaxOp.IS_GREATEST else "least"
        case ast.A_Expr() if node.kind == enums.A_Expr_Kind.AEXPR_NULLIF:
            return "nullif"
    return {"CoalesceExpr": "coalesce", "A_ArrayExpr": "array", "RowExpr": "row"}.get(type(node).__name__)
