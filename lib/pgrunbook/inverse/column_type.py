"""Inverse of a change of type: the conversion back, and which values may not survive."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from pglast import ast

from pgrunbook.database.relations import Column
from pgrunbook.inverse.reader import Reader
from pgrunbook.sql.deparse import literal

_WIDER = (
    ("int2", "int4", "int8", "numeric"),
    ("varchar", "text"),
    ("cidr", "inet"),
    ("date", "timestamp"),
    ("float4", "float8"),
)
# A value of these types can be converted to text and back without loss.
_AS_TEXT = {"int2", "int4", "int8", "numeric", "uuid", "bool", "date", "inet", "cidr", "jsonb", "json", "bytea", "oid",
            "macaddr", "float4", "float8"}  # fmt: skip
_TIMES = {"timestamp", "timestamptz", "time", "timetz", "interval"}
_MOST_DIGITS = [6]
_TELLS_VALID_INPUT = 16  # pg_input_is_valid
# What these types take as input, for servers before pg_input_is_valid; of numbers, what is surely in their range.
_WORDS = {"boolean": "{t,tr,tru,true,y,ye,yes,on,1,f,fa,fal,fals,false,n,no,of,off,0}"}
_PATTERNS = {
    "smallint": r"^\s*[-+]?\d{1,4}\s*$",
    "integer": r"^\s*[-+]?\d{1,9}\s*$",
    "bigint": r"^\s*[-+]?\d{1,18}\s*$",
    "numeric": r"^\s*[-+]?(\d+\.?\d*|\.\d+)\s*$",
    "double precision": r"^\s*[-+]?(\d{1,99}\.?\d*|\.\d{1,99})\s*$",
    "date": r"^\s*\d{4}-(0[1-9]|1[0-2])-(0[1-9]|1\d|2[0-8])\s*$",
    "uuid": r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
}
_LENGTH = re.compile(r"character(?: varying)?\((\d+)\)")
# Tried by assignment, which refuses a text that is too long. A variable of a domain may not be NULL before.
_TRIED = """
BEGIN
    DECLARE
        made {type} := $1;
    BEGIN
        RETURN true;
    END;
EXCEPTION WHEN OTHERS THEN
    RETURN false;
END
"""
_NUMBERS = re.compile(r"\(([\d, ]+)\)")


def using(reader: Reader, how: str, column: Column, new: str, *, becomes_null: bool) -> str:
    """Return the USING clause for the old type, "" when PostgreSQL converts the values itself.

    An explicit cast would cut a text that is too long; the implicit one refuses it. With ``becomes_null`` a value that
    the old type does not allow is NULL until the captured one is written back.
    """
    if not refuses(how, column) or column.generated or (how == "by itself" and not becomes_null):
        return ""
    valid = is_valid(reader, column, new) if becomes_null else ""
    if valid:
        return f" USING CASE WHEN {valid} THEN {column.sql}::text::{column.type} END"
    middle = "::text" if how == "as text" else ""
    return f" USING {column.sql}{middle}::{column.type}"


def refuses(how: str, column: Column) -> bool:
    """Tell whether values may not become the old type: of a text, one that is too long."""
    return how != "by itself" or _LENGTH.fullmatch(column.type) is not None


def is_valid(reader: Reader, column: Column, new: str) -> str:
    """Return the condition that a value of the type ``new`` is one of the old, as text; see :func:`trial`."""
    value = f"{column.sql}::text"
    if reader.version >= _TELLS_VALID_INPUT:
        return f"pg_catalog.pg_input_is_valid({value}, {literal(column.type)})"
    labels = [str(row["label"]) for row in reader.rows("labels_of_enum", oid=column.type_oid)]
    if labels and column.type.endswith("[]"):
        known = f"pg_catalog.array_replace({column.sql}::text[], NULL, {literal(labels[0])})"
        if new.endswith("[]"):
            return f"{known} OPERATOR(pg_catalog.<@) {literal(labels)}::text[]"
    elif labels:
        return f"{value} = ANY ({literal(labels)}::text[])"
    if column.type in _WORDS:
        return f"pg_catalog.lower(pg_catalog.btrim({value})) = ANY ({literal(_WORDS[column.type])}::text[])"
    if column.type in _PATTERNS:
        return f"{value} ~* {literal(_PATTERNS[column.type])}"
    return f"{_function(column)}({value})"


def trial(column: Column, using: str) -> str:
    """Return the statement that creates the function which a USING clause asks, "" where it asks none of ours.

    It is the session's own. No expression tells for every type, with its domains and arrays, whether a text is one of
    its values, before PostgreSQL 16.
    """
    function = _function(column)
    if f"{function}(" not in using:
        return ""
    body = literal(_TRIED.format(type=column.type))  # somebody may have given the type any name
    return (
        f"CREATE OR REPLACE FUNCTION {function}(text) RETURNS boolean LANGUAGE plpgsql STABLE"
        f" SET search_path = '' AS {body}"
    )


def _function(column: Column) -> str:
    about = "\0".join((column.table, column.name, column.type))
    return f"pg_temp.pgrunbook_is_valid_{hashlib.sha256(about.encode()).hexdigest()[:16]}"


def losses(column: Column, cmd: Any, facts: dict[str, Any], new: str) -> tuple[str, str]:
    """Return what a change of type may lose, and what its inverse may lose; "" for nothing."""
    old, other = (facts["target"], column.type), (facts["source"], new)
    is_same = facts["is_same_value"]
    there = _plain_using(cmd) and (_keeps_all(old, other, facts["target_kind"]) or (is_same and not _widths(new)))
    back = _keeps_all(other, old, facts["source_kind"]) or (is_same and not _widths(column.type))
    place = f"{column.table}.{column.sql}"
    loss_there = "" if there else f"{place}: {column.type} values may not survive as {new}"
    loss_back = "" if back else f"{place}: {new} values may be invalid as {column.type}, or be rounded"
    return loss_there, loss_back


def new_type(reader: Reader, cmd: Any) -> int | None:
    """Return the type that ALTER COLUMN ... TYPE names."""
    return reader.type(cmd.def_.typeName)


def _plain_using(cmd: Any) -> bool:
    """Tell whether the statement has no USING but a plain cast of the column itself."""
    node = cmd.def_.raw_default
    while isinstance(node, ast.TypeCast):
        node = node.arg
    return node is None or (isinstance(node, ast.ColumnRef) and getattr(node.fields[-1], "sval", None) == cmd.name)


def _keeps_all(old: tuple[str, str], new: tuple[str, str], kind: str) -> bool:
    (before, type_before), (after, type_after) = old, new
    widths, wider = _widths(type_before), _widths(type_after)
    if before == after and before in _TIMES:
        return (wider or _MOST_DIGITS) >= (widths or _MOST_DIGITS)
    if before == after:
        return not wider or (bool(widths) and _fits(before, widths, wider))
    if after == "text" or (after == "varchar" and not wider):
        return before in _AS_TEXT or before in ("varchar", "text") or kind == "e"
    for group in _WIDER:
        if before in group and after in group:
            return group.index(before) < group.index(after) and not wider
    return False


def _fits(name: str, before: Sequence[int], after: Sequence[int]) -> bool:
    if name != "numeric":
        return before[0] <= after[0]
    scales = [numbers[1] if len(numbers) > 1 else 0 for numbers in (before, after)]
    return scales[0] <= scales[1] and before[0] - scales[0] <= after[0] - scales[1]


def _widths(type_: str) -> list[int]:
    found = _NUMBERS.search(type_)
    return [int(number) for number in found[1].split(",")] if found else []


def collation(column: Column) -> str:
    """Return the COLLATE clause of the old type."""
    return f" COLLATE {column.own_collation}" if column.own_collation else ""
