"""The bounds of a statement that is judged: a larger one takes minutes, or ends the parser and its process."""

from __future__ import annotations

from typing import Any

from pglast import ast

from pgrunbook.errors import WrongInput
from pgrunbook.sql.tree import depth
from pgrunbook.sql.values_lists import ValuesReader

MOST_TOKENS = 300_000
# PostgreSQL's parser, without the server's max_stack_depth, ends its process at a chain of 50,000: a UNION b UNION c.
LONGEST_CHAIN = 25_000
DEEPEST = 2_000
MOST_CODE_CHARS = 1_000_000


def too_many(sql: str) -> tuple[int, str] | None:
    """Return where the first statement begins that is too large for the parser, and why; None where none is."""
    if len(sql) <= LONGEST_CHAIN:
        return None
    start, tokens, chains = -1, 0, [0]
    for place, token in ValuesReader(sql).tokens():
        start = place if start < 0 else start
        tokens += 1
        chains[-1] += 1
        if tokens > MOST_TOKENS:
            return start, f"It has more than {MOST_TOKENS:,} words and signs."
        if chains[-1] > LONGEST_CHAIN:
            return start, f"It has more than {LONGEST_CHAIN:,} words and signs without a comma or parenthesis between."
        match token:
            case "(" | "[":
                chains.append(0)
            case ")" | "]" if len(chains) > 1:
                chains.pop()
            case ",":
                chains[-1] = 0
            case ";":
                start, tokens, chains = -1, 0, [0]
    return None


def too_deep(node: Any) -> str:
    """Return why a statement that the parser has read cannot be judged, "" where it can."""
    if isinstance(node, ast.DoStmt):
        (code,) = [item.arg.sval for item in node.args if item.defname == "as"] or [""]
        return too_much(code)
    levels = depth(node)
    return f"It is nested {levels:,} levels deep; {DEEPEST:,} are read." if levels > DEEPEST else ""


def too_much(code: str) -> str:
    """Return why code cannot be read, "" where it can."""
    if len(code) > MOST_CODE_CHARS:
        return f"Its code has {len(code):,} characters; {MOST_CODE_CHARS:,} are read."
    large = too_many(code)
    return large[1] if large else ""


def refusal_of(file: str, line: int, why: str) -> WrongInput:
    """Return the error for it."""
    return WrongInput(
        f"{file}, line {line}: the statement is too large to be judged",
        detail=why,
        hint="Split it; put many values as INSERT ... VALUES into a table first, and join that.",
    )
