"""The demands of a type change on values: each must convert to the old type and back without a change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pglast import ast

from pgrunbook.sql.deparse import expression, literal, mapped
from pgrunbook.sql.deparse import name as identifier
from pgrunbook.sql.tree import quoted, strings, text, walk
from pgrunbook.violations.constraints import demand, row_demand
from pgrunbook.violations.rows import RowDemand
from pgrunbook.violations.succession import NULL, kept_of
from pgrunbook.violations.world import ColumnValue, JudgedTable, World, columns_below

_FUNCTION = "pgrunbook_against"
# Types whose cast cuts a value that is too long; ALTER COLUMN TYPE refuses such a value.
_CUT = {"varchar", "bpchar", "bit", "varbit"}
# Types in which values with different text (1.5, 1.50) are equal.
_NUMBERS = ("numeric", "real", "double precision")


def new_type(world: World, table: JudgedTable, cmd: Any) -> RowDemand:
    """Return the demand of ALTER COLUMN ... TYPE.

    A value that is only cast must survive the cast and the cast back. A value that USING computes only has to be
    computed without an error. If captured values are reverted, only values that were not captured are lost.
    """
    word = text(cmd.def_.typeName)
    what = f"type {word} of {table.label}.{quoted(cmd.name)}"
    if world.labels(cmd.def_.typeName) is not None:
        return demand(what, table, lambda: _new_enum(world, table, cmd, what, word))
    return demand(what, table, lambda: _converted(world, table, cmd, what, word))


def value_of_new_column(world: World, table: JudgedTable, definition: Any, column: ColumnValue) -> RowDemand | None:
    """Return the demand of a domain on the value that all rows get; None for other types."""
    fact = world.type_of(definition.typeName.names)[1]
    if fact is None or not fact.oid or not fact.checked or column.node is None or table.was is None:
        return None
    word = text(definition.typeName)
    what = f"type {word} of {table.label}.{quoted(definition.colname)}"
    function = _function("", f"PERFORM {_in_function(column.node, {})}; RETURN false;")
    words = _words(word, "would get an invalid value of", "")
    return demand(
        what, table,
        lambda: row_demand(table, what, "", [], words=words, function=function, caught=f"pg_temp.{_FUNCTION}()"),
    )  # fmt: skip


def _new_enum(world: World, table: JudgedTable, cmd: Any, what: str, word: str) -> RowDemand:
    """Return the demand of an enum that the way back creates: only its labels can be compared."""
    value = world.sql(table, _using(cmd))
    labels = literal(list(world.labels(cmd.def_.typeName) or ()))
    where = f"CAST({value} AS text) <> ALL (CAST({labels} AS text[]))"
    if cmd.def_.typeName.arrayBounds:
        where = (f"EXISTS (SELECT FROM pg_catalog.unnest(CAST({value} AS text[])) AS e (label)"
                 f" WHERE e.label <> ALL (CAST({labels} AS text[])))")  # fmt: skip
    return row_demand(
        table, what, where, [cmd.name], words=_words(word, "cannot become"), missing=kept_of(world, table, cmd.name)
    )


def _converted(world: World, table: JudgedTable, cmd: Any, what: str, word: str) -> RowDemand:
    using, type_name = _using(cmd), cmd.def_.typeName
    value = world.meant(table, using)
    today, missing = table.column(cmd.name).today, kept_of(world, table, cmd.name)
    cast = expression(world.meant(table, ast.TypeCast(arg=NULL, typeName=type_name, location=-1)))
    old = cast.removeprefix("CAST(NULL AS ").removesuffix(")")
    made = f"CAST({expression(value)} AS {old})"
    read = dict.fromkeys([*columns_below(value), *([today] if today else [])])
    params = {each: f"pgrunbook_{number}" for number, each in enumerate(read)}
    if today and _only_casts(using, cmd.name) and (missing is None or _takes_captured(cmd)):
        is_other = _compared(world, table.types[today], old, via_text=_via_text(using))
        where, caught = is_other(made, f"t.{identifier(today)}"), is_other("made", params[today])
        words = _words(word, "cannot keep its value as", "cannot keep their value as")
    else:  # evaluated for each row, true for none; a cast that cuts would hide what the change refuses
        cuts = strings(type_name.names)[-1] in _CUT and bool(type_name.typmods)
        where, caught = "" if cuts else f"({made} IS NULL AND {made} IS NOT NULL)", "false"
        words, missing = _words(word, "cannot become"), None
    declared = ", ".join(f"{name} {table.types[each]}" for each, name in params.items())
    # The value is computed in the declaration: a variable of a domain may not be NULL before.
    body = f"DECLARE made {old} := {_in_function(value, params)}; BEGIN RETURN {caught}; END;"
    function = _function(declared, body)
    call = f"pg_temp.{_FUNCTION}({', '.join(f't.{identifier(each)}' for each in params)})"
    return row_demand(table, what, where, [cmd.name], words=words, missing=missing, function=function, caught=call)


def _using(cmd: Any) -> Any:
    """Return the expression of the old value: that of USING behind captured values, or the column itself."""
    if isinstance(cmd.def_.raw_default, ast.CoalesceExpr) and _takes_captured(cmd):
        return cmd.def_.raw_default.args[1]
    if isinstance(cmd.def_.raw_default, ast.CaseExpr) and _asks_function(cmd.def_.raw_default.args[0].expr):
        return cmd.def_.raw_default.args[0].result
    return cmd.def_.raw_default or ast.ColumnRef(fields=(ast.String(sval=cmd.name),), location=-1)


def _asks_function(node: Any) -> bool:
    """Tell whether a function of the way back's session is asked for valid values; here an error tells the same."""
    return isinstance(node, ast.FuncCall) and strings(node.funcname)[0] == "pg_temp"


def _takes_captured(cmd: Any) -> bool:
    """Tell whether USING has the form that a way back has for captured values."""
    using = cmd.def_.raw_default
    if isinstance(using, ast.CoalesceExpr) and isinstance(using.args[0], ast.FuncCall):
        return strings(using.args[0].funcname)[0] == "pgrunbook"
    return isinstance(using, ast.CaseExpr)


def _only_casts(node: Any, name: str) -> bool:
    """Tell whether an expression is the column, perhaps cast, or the form that a way back has for captured values."""
    if isinstance(node, ast.CaseExpr) and len(node.args) == 1 and node.arg is None and node.defresult is None:
        return _only_casts(node.args[0].result, name)
    while isinstance(node, ast.TypeCast):
        node = node.arg
    return isinstance(node, ast.ColumnRef) and getattr(node.fields[-1], "sval", None) == name


def _via_text(node: Any) -> bool:
    casts = [part for part in walk(node) if isinstance(part, ast.TypeCast)]
    return any(strings(cast.typeName.names)[-1] in ("text", "varchar") for cast in casts)


def _compared(world: World, new: str, old: str, *, via_text: bool) -> Callable[[str, str], str]:
    """Return a function that writes the condition that a value of the old type and one of the new type differ."""
    direct = not via_text and bool(world.is_castable(old, new))

    def is_other(made: str, value: str) -> str:
        back = f"CAST({made} AS {new})" if direct else f"CAST(CAST({made} AS text) AS {new})"
        if new.startswith(_NUMBERS):
            return f"{back} IS DISTINCT FROM {value}"
        return f"CAST({back} AS text) IS DISTINCT FROM CAST({value} AS text)"

    return is_other


def _in_function(node: Any, params: dict[str, str]) -> str:
    """Return an expression with the parameters of a function in place of the columns."""

    def named(part: Any) -> Any:
        if isinstance(part, ast.ColumnRef):
            return ast.ColumnRef(fields=(ast.String(sval=params[part.fields[-1].sval]),), location=-1)
        return part

    return expression(mapped(node, named))


def _function(parameters: str, body: str) -> str:
    """Return the statement that creates a function which returns true if its body raises an error."""
    code = f"BEGIN {body} EXCEPTION WHEN OTHERS THEN RETURN true; END"
    return f"CREATE FUNCTION pg_temp.{_FUNCTION}({parameters}) RETURNS boolean LANGUAGE plpgsql AS {literal(code)}"


def _words(word: str, one: str, many: str = "") -> tuple[str, str]:
    return f"row {one} {word}", f"rows {many or one} {word}"
