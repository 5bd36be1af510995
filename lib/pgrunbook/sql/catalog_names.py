"""Names that a reading of code takes for PostgreSQL's own: only the server knows what they mean."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pglast import ast, enums

from pgrunbook.sql.tree import dotted_name, relations_named, strings, walk

_RANGES = {enums.A_Expr_Kind.AEXPR_BETWEEN, enums.A_Expr_Kind.AEXPR_NOT_BETWEEN,
           enums.A_Expr_Kind.AEXPR_BETWEEN_SYM, enums.A_Expr_Kind.AEXPR_NOT_BETWEEN_SYM}  # fmt: skip
_BOUNDS = ("<", "<=", ">", ">=")


@dataclass(frozen=True)
class CatalogNames:
    """What was called, compared and read by names without a schema; and types, as in SQL, but those of pg_catalog.

    ``variables`` are those of PL/pgSQL whose value was put in their place.
    """

    functions: frozenset[str] = frozenset()
    operators: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    relations: frozenset[str] = frozenset()
    variables: frozenset[str] = frozenset()


def catalog_names(nodes: Iterable[Any]) -> CatalogNames:
    """Return the names in trees, also those that the server supplies, as the = of CASE, IN and USING."""
    every = list(nodes)
    functions, operators, types = set(), set(), set()
    for part in (part for node in every for part in walk(node)):
        match part:
            case ast.FuncCall(funcname=(ast.String(sval=name),)):
                functions.add(name)
            case ast.TypeName(names=names) if names and names[0].sval != "pg_catalog":
                types.add(dotted_name(*strings(names)))
            case ast.SQLValueFunction() | ast.A_Const():
                pass
            case _:
                operators |= _operators(part)
    relations = {one.relname for node in every for one in relations_named(node) if not one.schemaname}
    return CatalogNames(*map(frozenset, (functions, operators, types, relations)))


def _operators(part: Any) -> set[str]:
    match part:
        case ast.A_Expr(kind=kind) if kind in _RANGES:
            return {*_BOUNDS}
        case ast.A_Expr(name=(ast.String(sval=name),)):
            return {name}
        case ast.SubLink(subLinkType=enums.SubLinkType.ANY_SUBLINK, operName=None):
            return {"="}
        case ast.SubLink(operName=(ast.String(sval=name),)):
            return {name}
        case ast.CaseExpr(arg=arg) if arg is not None:
            return {"="}
        case ast.JoinExpr() if part.isNatural or part.usingClause:
            return {"="}
    return set()
