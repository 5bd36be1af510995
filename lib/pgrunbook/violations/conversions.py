"""What a change of type demands of values: that each becomes one of the old type, and is the same when it is back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pglast import ast

from pgrunbook.sql.deparse import expression, literal, mapped
from pgrunbook.sql.deparse import name as identifier
from pgrunbook.sql.tree import quoted, strings, text, walk
from pgrunbook.violations.constraints import asked, told
from pgrunbook.violations.rows import RowDemand
from pgrunbook.violations.simulation import NULL, kept_of
from pgrunbook.violations.world import Column, Table, World, columns_below

_FUNCTION = "pgrunbook_against"
# Types of which a cast cuts what is too long, which a change of the column refuses.
_CUT = {"varchar", "bpchar", "bit", "varbit"}
# Types of which values that are written otherwise (1.5, 1.50) are the same.
_NUMBERS = ("numeric", "real", "double precision")


def new_type(world: World, table: Table, cmd: Any) -> RowDemand:
    """Return what ALTER COLUMN ... TYPE demands.

    A value that is only cast has to come back from the cast as what it is; of one that USING computes nothing
    but success is asked, and where the old values are filled back, all that is lost is those that were not kept.
    """
    word = text(cmd.def_.typeName)
    what = f"type {word} of {table.said}.{quoted(cmd.name)}"
    if world.labels(cmd.def_.typeName) is not None:
        return told(what, table, lambda: _new_enum(world, table, cmd, what, word))
    return told(what, table, lambda: _converted(world, table, cmd, what, word))


def value_of_new_column(world: World, table: Table, definition: Any, column: Column) -> RowDemand | None:
    """Return what a domain demands of the value that all rows are given; None for other types."""
    names = definition.typeName.names
    today, made = world.type_of(names)
    if made is not None or column.node is None or table.relation is None:
        return None
    found = world.facts.rows("constrained_domain", type=str(today))
    if not found or not found[0]["is_constrained"]:
        return None
    word = text(definition.typeName)
    what = f"type {word} of {table.said}.{quoted(definition.colname)}"
    function = _function("", f"PERFORM {_in_function(column.node, {})}; RETURN false;")
    told_ = _told(word, "would have no value of", "")
    return told(
        what, table,
        lambda: asked(table, what, "", [], told=told_, function=function, caught=f"pg_temp.{_FUNCTION}()"),
    )  # fmt: skip


def _new_enum(world: World, table: Table, cmd: Any, what: str, word: str) -> RowDemand:
    """The type is made anew by the way back, so that its labels are all that can be compared."""
    value = world.sql(table, _using(cmd))
    labels = literal(list(world.labels(cmd.def_.typeName) or ()))
    where = f"CAST({value} AS text) <> ALL (CAST({labels} AS text[]))"
    if cmd.def_.typeName.arrayBounds:
        where = (f"EXISTS (SELECT FROM pg_catalog.unnest(CAST({value} AS text[])) AS e (label)"
                 f" WHERE e.label <> ALL (CAST({labels} AS text[])))")  # fmt: skip
    return asked(
        table, what, where, [cmd.name], told=_told(word, "cannot become"), missing=kept_of(world, table, cmd.name)
    )


def _converted(world: World, table: Table, cmd: Any, what: str, word: str) -> RowDemand:
    using, type_name = _using(cmd), cmd.def_.typeName
    value = world.meant(table, using)
    today, missing = table.column(cmd.name).today, kept_of(world, table, cmd.name)
    cast = expression(world.meant(table, ast.TypeCast(arg=NULL, typeName=type_name, location=-1)))
    old = cast.removeprefix("CAST(NULL AS ").removesuffix(")")
    made = f"CAST({expression(value)} AS {old})"
    read = dict.fromkeys([*columns_below(value), *([today] if today else [])])
    params = {each: f"pgrunbook_{number}" for number, each in enumerate(read)}
    if today and _only_casts(using, cmd.name) and (missing is None or isinstance(using, ast.CaseExpr)):
        is_other = _compared(world, table.types[today], old, via_text=_via_text(using))
        where, caught = is_other(made, f"t.{identifier(today)}"), is_other("made", params[today])
        words = _told(word, "cannot stay what it is as", "cannot stay what they are as")
    else:  # it is computed for each row, and true for none; a cast that cuts would hide what the change refuses
        cuts = strings(type_name.names)[-1] in _CUT and bool(type_name.typmods)
        where, caught = "" if cuts else f"({made} IS NULL AND {made} IS NOT NULL)", "false"
        words, missing = _told(word, "cannot become"), None
    declared = ", ".join(f"{name} {table.types[each]}" for each, name in params.items())
    # The value is made where the variable is declared: that of a domain may not be NULL before.
    body = f"DECLARE made {old} := {_in_function(value, params)}; BEGIN RETURN {caught}; END;"
    function = _function(declared, body)
    call = f"pg_temp.{_FUNCTION}({', '.join(f't.{identifier(each)}' for each in params)})"
    return asked(table, what, where, [cmd.name], told=words, missing=missing, function=function, caught=call)


def _using(cmd: Any) -> Any:
    """Return the expression that makes the old value: what USING says, or the column itself."""
    return cmd.def_.raw_default or ast.ColumnRef(fields=(ast.String(sval=cmd.name),), location=-1)


def _only_casts(node: Any, name: str) -> bool:
    """Tell whether an expression is the column, at most cast, or as the way back writes it for kept values."""
    if isinstance(node, ast.CaseExpr) and len(node.args) == 1 and node.arg is None and node.defresult is None:
        return "pg_input_is_valid" in text(node.args[0].expr) and _only_casts(node.args[0].result, name)
    while isinstance(node, ast.TypeCast):
        node = node.arg
    return isinstance(node, ast.ColumnRef) and getattr(node.fields[-1], "sval", None) == name


def _via_text(node: Any) -> bool:
    casts = [part for part in walk(node) if isinstance(part, ast.TypeCast)]
    return any(strings(cast.typeName.names)[-1] in ("text", "varchar") for cast in casts)


def _compared(world: World, new: str, old: str, *, via_text: bool) -> Callable[[str, str], str]:
    """Return what says of a value of the old type and one of the new that they are not the same."""
    direct = not via_text and bool(world.rows("is_castable", source=old, target=new))

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
    """Return the statement that makes a function which is true where its body raises an error."""
    code = f"BEGIN {body} EXCEPTION WHEN OTHERS THEN RETURN true; END"
    return f"CREATE FUNCTION pg_temp.{_FUNCTION}({parameters}) RETURNS boolean LANGUAGE plpgsql AS {literal(code)}"


def _told(word: str, one: str, many: str = "") -> tuple[str, str]:
    return f"row {one} {word}", f"rows {many or one} {word}"
