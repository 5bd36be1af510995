"""A condition that an operator gives, for the rows of one table: judged by its parse tree before it is executed."""

from __future__ import annotations

from typing import Any

from pglast import ast
from pglast.parser import ParseError

from pgrunbook.errors import WrongInput
from pgrunbook.sql import tree

WHERE = "SELECT FROM t WHERE"
CLAUSES = {"fromClause", "whereClause"}
HINT = "Write what could stand behind WHERE, on the columns of this table alone: status = 'paid' AND id < 100."


def checked(condition: str, table: str) -> list[str]:
    """See that a text is one condition on the rows of one table; return the functions that it calls.

    They are all without a schema, or of pg_catalog: whether they only read is for the server to say.

    Raises WrongInput for what is no condition, reads another table, or names a function or operator of somebody's own.
    """
    node = _condition(condition, table, f"{WHERE} (\n{condition}\n)")
    _condition(condition, table, f"{WHERE}\n{condition}")  # its brackets are its own, too
    parts = list(tree.walk(node))
    for part in parts:
        if isinstance(part, ast.SubLink | ast.SelectStmt):
            raise _wrong(condition, table, "It reads with a query of its own.")
        if isinstance(part, ast.ParamRef | ast.CurrentOfExpr):
            raise _wrong(condition, table, "It has a parameter, which nobody gives it.")
        names = part.name if isinstance(part, ast.A_Expr) else part.funcname if isinstance(part, ast.FuncCall) else ()
        words = tree.strings(names)
        if len(words) > 1 and words[0] != "pg_catalog":
            raise _wrong(condition, table, f"It uses {'.'.join(words)}, which is not PostgreSQL's own.")
    return sorted({tree.strings(part.funcname)[-1] for part in parts if isinstance(part, ast.FuncCall)})


def _condition(condition: str, table: str, text: str) -> Any:
    """Return the node of the condition in a statement, which has no other clause."""
    try:
        (node,) = tree.trees(text)
    except ParseError as exc:
        raise _wrong(condition, table, f"{str(exc).partition(', at index')[0]}.") from exc
    except ValueError as exc:
        raise _wrong(condition, table, "It holds more than one statement.") from exc
    if not isinstance(node, ast.SelectStmt) or {name for name in node if getattr(node, name)} != CLAUSES:
        raise _wrong(condition, table, "It holds more than a condition.")
    return node.whereClause


def _wrong(condition: str, table: str, why: str) -> WrongInput:
    return WrongInput(f"cannot take this condition on table {table}: {condition}", detail=why, hint=HINT)
