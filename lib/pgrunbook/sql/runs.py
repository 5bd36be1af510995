"""Runs of statements that differ only in their literals: they are judged once, and sent to the server together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from pglast import ast

from pgrunbook.sql.statements import Statement
from pgrunbook.sql.tree import text, tree, walk

# A run is no longer than this: an error names the lines of its run.
MOST_STATEMENTS = 250
MOST_CHARACTERS = 250_000
_OF_LITERALS = (
    ast.A_Const, ast.Integer, ast.Float, ast.Boolean, ast.String, ast.BitString, ast.SetToDefault, ast.TypeCast,
    ast.TypeName, ast.A_ArrayExpr,
)  # fmt: skip
_CALLS_OR_READS = (ast.FuncCall, ast.SubLink, ast.SQLValueFunction)
_Shape = tuple[str | None, ...]


def runs(found: Sequence[Statement]) -> list[tuple[Statement, ...]]:
    """Return the statements in order, those of one run together; any other statement is a run of its own.

    A run is of INSERTs into one table with the same columns and ON CONFLICT, whose values are literals: nothing but
    these differs, so that what is known of the first one holds for all.
    """
    grouped: list[list[Statement]] = []
    last: _Shape | None = None
    characters = 0
    for statement in found:
        is_one = statement.kind == "INSERT" and len(statement.sql) <= MOST_CHARACTERS
        shape = _shape(statement.sql) if is_one else None
        characters += len(statement.sql)
        is_room = len(grouped) > 0 and len(grouped[-1]) < MOST_STATEMENTS and characters <= MOST_CHARACTERS
        if is_room and shape is not None and shape == last:
            grouped[-1].append(statement)
        else:
            grouped.append([statement])
            characters = len(statement.sql)
        last = shape
    return [tuple(group) for group in grouped]


def joined(run: Sequence[Statement]) -> str:
    """Return the text that sends the statements of a run together, each as it is written."""
    return ";\n".join(statement.sql for statement in run)


def numbers(first: int, count: int) -> str:
    """Return how the statements of a run are named where they are shown as one, by their numbers."""
    return f"{first} to {first + count - 1}" if count > 1 else str(first)


@lru_cache(maxsize=65_536)
def _shape(sql: str) -> _Shape | None:
    """Return what all statements of a run have in common, None for a statement that joins none."""
    node = tree(sql)
    if not isinstance(node, ast.InsertStmt) or node.withClause or node.returningClause:
        return None
    values = node.selectStmt
    if not isinstance(values, ast.SelectStmt) or not values.valuesLists:
        return None
    parts = list(walk(values.valuesLists))
    if not all(isinstance(part, _OF_LITERALS) for part in parts):
        return None
    if any(isinstance(part, _CALLS_OR_READS) for part in walk(node.onConflictClause)):
        return None
    table = node.relation
    names = (table.catalogname, table.schemaname, table.relname, table.alias and table.alias.aliasname)
    columns = [text(column) for column in node.cols or ()]
    casts = [text(part) for part in parts if isinstance(part, ast.TypeName)]
    conflict = text(node.onConflictClause) if node.onConflictClause else ""
    return (*names, str(node.override), *columns, conflict, *dict.fromkeys(casts))
