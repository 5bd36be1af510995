"""Code inside statements: the statements that a DO block or a function holds, as far as they can be read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pglast
from pglast import ast
from pglast.parser import ParseError

from pgrunbook.sql.tree import strings, text

_LOOPS = ("PLpgSQL_stmt_loop", "PLpgSQL_stmt_while", "PLpgSQL_stmt_fori", "PLpgSQL_stmt_fors", "PLpgSQL_stmt_forc",
          "PLpgSQL_stmt_foreach_a", "PLpgSQL_stmt_dynfors")  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A block of PL/pgSQL: its statements, each with whether it is in a loop, and what cannot be read of it."""

    nodes: tuple[tuple[Any, bool], ...]
    commits: bool
    dynamic: bool
    readable: bool = True


def bodies(node: Any) -> list[Any]:
    """Return the nodes of the statements that a DO block or EXPLAIN would run; [] for other statements."""
    match node:
        case ast.DoStmt():
            return [inner for inner, _ in block(text(node)).nodes]
        case ast.ExplainStmt():
            return [node.query]
    return []


@lru_cache(maxsize=256)
def block(sql: str) -> Block:
    """Read a DO statement written in PL/pgSQL; a block that cannot be read is not ``readable``."""
    node = pglast.parse_sql(sql)[0].stmt
    language = [strings((item.arg,)) for item in node.args if item.defname == "language"]
    if language and language[0] != ("plpgsql",):
        return Block((), commits=False, dynamic=True, readable=False)
    try:
        parsed = pglast.parse_plpgsql(sql)
    except ParseError:
        return Block((), commits=False, dynamic=True, readable=False)
    found = list(_visit(parsed, in_loop=False))
    nodes: list[tuple[Any, bool]] = []
    for kind, query, in_loop in found:
        if kind == "sql":
            nodes.extend((inner, in_loop) for inner in _parsed(query))
    return Block(
        tuple(nodes),
        commits=any(kind == "commit" for kind, _, _ in found),
        dynamic=any(kind == "dynamic" for kind, _, _ in found),
    )


def _visit(part: Any, *, in_loop: bool) -> Iterator[tuple[str, str, bool]]:
    if isinstance(part, list):
        for item in part:
            yield from _visit(item, in_loop=in_loop)
    elif isinstance(part, dict):
        for word, inner in part.items():
            match word:
                case "PLpgSQL_stmt_commit":
                    yield "commit", "", in_loop
                case "PLpgSQL_stmt_dynexecute" | "PLpgSQL_stmt_dynfors":
                    yield "dynamic", "", in_loop
                case "PLpgSQL_expr":
                    yield "sql", str(inner.get("query", "")), in_loop
            yield from _visit(inner, in_loop=in_loop or word in _LOOPS)


def _parsed(query: str) -> Iterator[Any]:
    """Yield a query's nodes; expressions, which are no statements, and what does not parse yield nothing."""
    try:
        raw = pglast.parse_sql(query)
    except ParseError:
        return
    for item in raw:
        yield item.stmt
