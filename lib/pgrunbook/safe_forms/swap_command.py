"""The command that reaches the end of a statement by a swap of its table, as the gate of the statement names it."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Sequence
from typing import Any

from pglast import ast

from pgrunbook.database.relations import Relation
from pgrunbook.safe_forms.form import Case
from pgrunbook.sql.deparse import parsed, printed
from pgrunbook.sql.tree import quoted

# A name that no shape has, in whose place the placeholder is put.
_STANDS_FOR = "pgrunbook_new_table"


def of_tables(case: Case, relations: Sequence[ast.RangeVar], *, order: Sequence[str] = ()) -> str:
    """Return the commands that write tables anew, laid out by columns where some are given."""
    found = [case.facts.relation(relation) for relation in relations]
    named = [_name(table) for table in found if table is not None] or ["TABLE"]
    return "; ".join(_command(table, order=order) for table in named)


def of_alteration(case: Case) -> str:
    """Return the command for an ALTER TABLE, which is the shape, word for word."""
    table = case.facts.relation(case.node.relation)
    node: Any = copy.deepcopy(case.node)
    node.relation = parsed(f"TABLE {_STANDS_FOR}").fromClause[0]
    shape = printed(node).replace(_STANDS_FOR, "{table}", 1)
    return _command(_name(table) if table is not None else "TABLE", shape)


def _name(table: Relation) -> str:
    return f"{quoted(table.schema)}.{quoted(table.name)}"


def _command(table: str, shape: str = "", order: Sequence[str] = ()) -> str:
    words = ["-p", f"table={table}"]
    words += ["-p", f"shape={shape}"] if shape else []
    words += ["-p", f"order_by={','.join(map(quoted, order))}"] if order else []
    return f"pgrunbook run swap --target TARGET {shlex.join(words)}"
