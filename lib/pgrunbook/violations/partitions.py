"""The demands of a partition's bounds on its rows, and on those in the default partition."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pgrunbook.database.catalog import Table
from pgrunbook.sql.deparse import changed, parsed
from pgrunbook.sql.partition_bound import bound_condition
from pgrunbook.sql.tree import column_names, relation
from pgrunbook.violations.constraints import demand, from_today, index, row_demand
from pgrunbook.violations.rows import RowDemand
from pgrunbook.violations.world import JudgedTable, UnclearError, World, restored

_MISPLACED = ("row does not belong to it", "rows do not belong to it")
_BELONGS = ("row in the default partition belongs to it", "rows in the default partition belong to it")


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
    types = {name: column.compared_type for name, column in parent.was.columns.items()} if parent.was else {}
    condition = bound_condition(parent.sql, parent.now.partition_key, types, bound)
    if condition is None:
        raise UnclearError(f"unknown: {parent.label} is partitioned by an operator class of its own")
    return _parsed(condition)
