"""The words for a column that is numbered by a sequence of its own, and the types that it gets."""

from __future__ import annotations

from typing import Any

from pglast import ast, enums

from pgrunbook.sql.tree import functions_in

SERIAL = {
    **dict.fromkeys(("serial", "serial4"), "integer"),
    **dict.fromkeys(("bigserial", "serial8"), "bigint"),
    **dict.fromkeys(("smallserial", "serial2"), "smallint"),
}
_INTERNAL = {"integer": "int4", "bigint": "int8", "smallint": "int2"}


def plain_type(node: Any) -> Any:
    """Return a TypeName, that of the column where it says serial."""
    known = SERIAL.get(node.names[-1].sval)
    return (
        node
        if known is None
        else ast.TypeName(names=(ast.String(sval="pg_catalog"), ast.String(sval=_INTERNAL[known])))
    )


def is_numbered(column: Any) -> bool:
    """Tell whether the definition of a column gives numbers of a sequence to rows as they lie."""
    constraints = column.constraints or ()
    is_identity = any(one.contype == enums.ConstrType.CONSTR_IDENTITY for one in constraints)
    return is_identity or column.typeName.names[-1].sval in SERIAL or "nextval" in functions_in(constraints)
