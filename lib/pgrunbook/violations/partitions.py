"""The demands of a partition's bounds on its rows, and on those in the default partition."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pglast import ast

from pgrunbook.database.catalog import Table
from pgrunbook.sql.deparse import changed, expression, literal, parsed
from pgrunbook.sql.deparse import name as identifier
from pgrunbook.sql.tree import column_names, relation
from pgrunbook.violations.constraints import demand, from_today, index, row_demand
from pgrunbook.violations.rows import RowDemand
from pgrunbook.violations.world import JudgedTable, UnclearError, World, restored

_MISPLACED = ("row does not belong to it", "rows do not belong to it")
_BELONGS = ("row in the default partition belongs to it", "rows in the default partition belong to it")
_ENDS = ("minvalue", "maxvalue")


def attached(world: World, parent: JudgedTable, node: Any, bound: Any) -> Iterator[RowDemand]:
    """Yield the demands of ATTACH PARTITION: on the partition's rows, on the default partition's, by constraints."""
    what = f"partition {relation(node)} of {parent.label}"
    try:
        child = world.table(node)
    except UnclearError as reason:
        yield RowDemand(what, parent.sql, unclear=str(reason))
        return
    if bound.is_default:
        yield demand(what, child, lambda: _in_default(world, parent, child, what))
    else:
        yield demand(what, child, lambda: _within(world, parent, child, bound, what))
        yield from made(world, parent, bound, what)
    for row in world.rows("handed_down", oid=parent.now.oid):
        if row["constraint"]:
            yield from from_today(world, child, row["constraint"], row["name"])
        else:
            yield from index(world, child, _on(child, parsed(row["index"])))


def made(world: World, parent: JudgedTable, bound: Any, what: str) -> Iterator[RowDemand]:
    """Yield the demands of a new partition on the default partition, if there is one."""
    children = [world.today.at(key) for key in parent.was.children] if parent.was and not bound.is_default else []
    found = next((child.oid for child in children if child.bound == "DEFAULT"), 0)
    default = world.table_of(found) if found else None
    if default is None:
        return

    def wanted() -> RowDemand:
        condition = _condition(parent, bound)
        where = f"{world.sql(default, condition)} IS TRUE"
        return row_demand(default, what, where, column_names(condition), words=_BELONGS)

    yield demand(what, default, wanted)


def _on(child: JudgedTable, node: Any) -> Any:
    there = changed(node.relation, schemaname=child.now.schema, relname=child.now.name, inh=True)
    return changed(node, relation=there)


def _within(world: World, parent: JudgedTable, child: JudgedTable, bound: Any, what: str) -> RowDemand:
    if parent.was is None or not parent.was.partition_key:
        raise UnclearError(f"unknown: {parent.label} is not a partitioned table today")
    condition = _condition(parent, bound)
    where = [f"{world.sql(child, condition)} IS NOT TRUE"]
    names = column_names(condition)
    if parent.was.bound is not None:
        above = _bound(world, parent.was)
        where.append(f"{world.sql(child, _parsed(above))} IS NOT TRUE")
        names += [name for name in column_names(_parsed(above)) if name not in names]
    return row_demand(child, what, " OR ".join(where), names, words=_MISPLACED)


def _in_default(world: World, parent: JudgedTable, child: JudgedTable, what: str) -> RowDemand:
    if parent.was is None:
        raise UnclearError(restored(parent.now))
    others = [_bound(world, world.today.at(key)) for key in parent.was.children]
    if not others:
        return row_demand(child, what, "false", [])
    nodes = [_parsed(condition) for condition in others if condition]
    where = " OR ".join(f"{world.sql(child, node)} IS TRUE" for node in nodes)
    names = list(dict.fromkeys(name for node in nodes for name in column_names(node)))
    return row_demand(child, what, where, names, words=_MISPLACED)


def _bound(world: World, partition: Table) -> str:
    """Return the condition that a partition's bound puts on its rows, and those above it."""
    return str(world.facts.rows("partition_constraint", oid=partition.oid)[0]["condition"] or "")


def _parsed(condition: str) -> Any:
    return parsed(f"SELECT {condition}").targetList[0].val


def _condition(parent: JudgedTable, bound: Any) -> Any:
    """Return the condition that rows of a partition meet, in the parent's columns."""
    spec = parsed(f"CREATE TABLE t (a int) PARTITION BY {parent.now.partition_key}").partspec
    parts = [identifier(part.name) if part.name else f"({expression(part.expr)})" for part in spec.partParams]
    casts = [parent.types.get(part.name or "", "") for part in spec.partParams]
    if bound.strategy == "h":
        table = f"{literal(parent.sql)}::pg_catalog.regclass::pg_catalog.oid"
        text = f"pg_catalog.satisfies_hash_partition({table}, {bound.modulus}, {bound.remainder}, {', '.join(parts)})"
    elif bound.strategy == "l":
        text = _in_list(parts[0], casts[0], bound.listdatums)
    else:
        given = [f"{part} IS NOT NULL" for part in parts]
        text = " AND ".join([*given, *_from(parts, casts, bound.lowerdatums), *_to(parts, casts, bound.upperdatums)])
    return _parsed(text)


def _in_list(part: str, cast: str, datums: Sequence[Any]) -> str:
    known = [_constant(datum, cast) for datum in datums if not (isinstance(datum, ast.A_Const) and datum.isnull)]
    arms = [f"{part} IN ({', '.join(known)})"] if known else []
    return " OR ".join([*arms, *([f"{part} IS NULL"] if len(known) < len(datums) else [])])


def _from(parts: Sequence[str], casts: Sequence[str], datums: Sequence[Any]) -> list[str]:
    """A lower bound includes its value: columns after MINVALUE do not count, and MAXVALUE excludes the value."""
    finite, end = _finite(datums)
    return _row(parts, casts, datums[:finite], ">" if end == "maxvalue" else ">=")


def _to(parts: Sequence[str], casts: Sequence[str], datums: Sequence[Any]) -> list[str]:
    """An upper bound excludes its value, unless MAXVALUE follows."""
    finite, end = _finite(datums)
    return _row(parts, casts, datums[:finite], "<=" if end == "maxvalue" else "<")


def _row(parts: Sequence[str], casts: Sequence[str], datums: Sequence[Any], operator: str) -> list[str]:
    if not datums:
        return []
    values = [_constant(datum, cast) for datum, cast in zip(datums, casts, strict=False)]
    return [f"({', '.join(parts[: len(values)])}) {operator} ({', '.join(values)})"]


def _finite(datums: Sequence[Any]) -> tuple[int, str]:
    for place, datum in enumerate(datums):
        if isinstance(datum, ast.ColumnRef) and datum.fields[-1].sval in _ENDS:
            return place, datum.fields[-1].sval
    return len(datums), ""


def _constant(datum: Any, cast: str) -> str:
    text = expression(datum)
    return f"CAST({text} AS {cast})" if cast else text
