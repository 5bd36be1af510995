"""Deferrable keys over a column that changes its type: where both columns may have one, so that no client fails.

Both keys are there from before the fill to contract. What one lets pass, the other has to let pass: so two values are
the same before the conversion exactly where they are after it.
"""

from __future__ import annotations

import re
from typing import Any

from pglast import ast

from pgrunbook.database import column_dependents
from pgrunbook.database.relations import Column, Relation
from pgrunbook.safe_forms.form import Case
from pgrunbook.sql.tree import text

_INTEGERS = ("smallint", "integer", "bigint")
_OF_INTEGERS = re.compile(r"smallint|integer|bigint|numeric(\(\d+(,\d+)?\))?|text|character varying")
_TEXTS = re.compile(r"text|character varying(\(\d+\))?")


def obstacle(case: Case, table: Relation, column: Column, definition: Any, type_: str) -> str:
    """Return why a column with a deferrable key cannot have the new type beside it, "" where it can, or has none."""
    found = column_dependents.read(case.facts.conn, table, column).indexes
    key = next((index.name for index in found if index.checked_late), None)
    if key is None or _keeps_apart(column, definition, type_):
        return ""
    return (
        f"key {key} is deferrable, and two values of {column.type} may become the same in {type_}, or the other way"
        " round: clients would fail"
    )


def _keeps_apart(column: Column, definition: Any, type_: str) -> bool:
    """Tell whether two values are the same before the conversion exactly where they are after it."""
    using = definition.raw_default
    is_plain_cast = isinstance(using, ast.TypeCast) and isinstance(using.arg, ast.ColumnRef)
    if using is not None and not (is_plain_cast and text(using.typeName) == text(definition.typeName)):
        return False
    if column.type in _INTEGERS:
        return _OF_INTEGERS.fullmatch(type_) is not None
    has_collation = bool(column.own_collation or definition.collClause)
    is_text = _TEXTS.fullmatch(column.type) and type_ in ("text", "character varying")
    return bool(is_text) and not has_collation
