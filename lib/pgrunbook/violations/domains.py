"""The demands of a domain's constraints on every column of that domain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pglast import ast

from pgrunbook.sql.deparse import mapped, parsed
from pgrunbook.sql.deparse import name as identifier
from pgrunbook.sql.tree import constraint_kind, dotted, quoted
from pgrunbook.violations.constraints import demand, row_demand
from pgrunbook.violations.rows import RowDemand
from pgrunbook.violations.world import JudgedTable, World


def domain(world: World, node: Any) -> Iterator[RowDemand]:
    """Yield the demands of ALTER DOMAIN on the rows of each column: ADD and VALIDATE CONSTRAINT, SET NOT NULL."""
    fact, said = world.type_of(node.typeName)[1], str(dotted(node.typeName))
    subtype = str(getattr(node.subtype, "value", node.subtype))
    if fact is None or not fact.oid:
        if subtype in "COV":
            yield RowDemand(f"constraint of domain {said}", said, unclear=f"unknown until domain {said} is restored")
        return
    given = _given(world, fact.oid, node, subtype)
    if given is None:
        return
    name = "NOT NULL" if constraint_kind(given) == "NOTNULL" else "CHECK constraint"
    if given.conname:
        name = f"constraint {identifier(given.conname)}"
    for row in world.rows("columns_of_domain", oid=fact.oid):
        table = world.table_of(row["oid"])
        if table is not None:
            yield from _of_column(world, table, row["column"], f"{name} of domain {said}", given)


def _given(world: World, oid: int, node: Any, subtype: str) -> Any:
    """Return the constraint that a statement demands; None if it demands nothing of rows."""
    if subtype == "O":
        return parsed("ALTER DOMAIN d ADD NOT NULL").def_
    if subtype == "C":
        return None if node.def_.skip_validation else node.def_
    if subtype != "V":
        return None
    found = world.rows("constraint_of_domain", oid=oid, name=node.name)
    if not found or found[0]["is_valid"]:
        return None
    definition = found[0]["definition"].removesuffix(" NOT VALID")
    return parsed(f"ALTER DOMAIN d ADD CONSTRAINT {quoted(node.name)} {definition}").def_


def _of_column(world: World, table: JudgedTable, column: str, what: str, given: Any) -> Iterator[RowDemand]:
    """Yield the demand on a column, by its name of today, unless it is dropped or gets another type before."""
    names = [name for name, each in table.columns.items() if each.today == column]
    if not names:
        return
    here = f"{what} in {table.label}.{quoted(names[0])}"

    def value(part: Any) -> Any:
        if isinstance(part, ast.ColumnRef) and part.fields[-1].sval == "value":
            return ast.ColumnRef(fields=(ast.String(sval=names[0]),), location=-1)
        return part

    def wanted() -> RowDemand:
        where = f"t.{quoted(column)} IS NOT DISTINCT FROM NULL"
        if constraint_kind(given) != "NOTNULL":
            where = f"{world.sql(table, mapped(given.raw_expr, value))} IS FALSE"
        return row_demand(table, here, where, names, only=True)

    yield demand(here, table, wanted)
