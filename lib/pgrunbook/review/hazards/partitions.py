"""Hazards of partitions that come and go: rows that are read for their bounds, and locks on the whole table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pglast import ast

from pgrunbook.database.catalog import Table
from pgrunbook.review.hazards import estimates
from pgrunbook.review.hazards.rule import Note, Scene, Severity, rule
from pgrunbook.sql.deparse import parsed
from pgrunbook.sql.partition_bound import proof
from pgrunbook.sql.tree import quoted, relation, subcommand

_SETUP = (
    "CREATE TABLE log (id integer, at date NOT NULL) PARTITION BY RANGE (at);"
    "CREATE TABLE log_25 PARTITION OF log FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');"
    "CREATE TABLE log_27 (id integer, at date NOT NULL); CREATE INDEX log_at ON log (at);"
)


@rule(
    "partition-is-read",
    Severity.ERROR,
    on=(ast.AlterTableStmt, ast.CreateStmt),
    setup=_SETUP,
    bad="ALTER TABLE log ATTACH PARTITION log_27 FOR VALUES FROM ('2027-01-01') TO ('2028-01-01');",
    good="ALTER TABLE log DETACH PARTITION log_25 CONCURRENTLY;",
)
def partition_is_read(scene: Scene) -> Iterator[Note]:
    """A new partition is read for its bounds, or the default one beside it, under the strongest lock."""
    for parent, bound, child in _new(scene):
        read = [table for label in scene.effects.scans if (table := scene.catalog.labelled(label)) is not None]
        for table in read if scene.catalog.connected else [child or parent]:
            yield Note(
                f"Readers and writers of {table.label} wait {estimates.read_time(scene.catalog, table)}"
                " (AccessExclusiveLock).",
                _way_out(scene, parent, bound, child),
                table,
            )


def _new(scene: Scene) -> Iterator[tuple[Table, Any, Table | None]]:
    """Yield the parent, the bounds and the table of a new partition, None for one that the statement makes."""
    for parent, cmd in scene.altered():
        if subcommand(cmd) == "AttachPartition" and scene.effects.scans and cmd.def_.bound is not None:
            yield parent, cmd.def_.bound, scene.table(cmd.def_.name)
    if isinstance(scene.node, ast.CreateStmt) and scene.node.partbound is not None and scene.effects.scans:
        yield scene.table(scene.node.inhRelations[0]), scene.node.partbound, None


def _way_out(scene: Scene, parent: Table, bound: Any, child: Table | None) -> str:
    """Return the statements that prove the bounds before, so that no row is read under the lock."""
    condition, above = _condition(parent, bound), _conditions_above(scene, parent) if child is not None else []
    if condition is None or None in above:
        return "-- no CHECK is known that proves these bounds: attach it while it is small, or when readers can wait"
    steps, last = [], []
    if child is not None:
        steps += _proof(child, "fits", " AND ".join([*map(str, above), f"({condition})"]) if above else condition)
        last.append(f"ALTER TABLE {child.label} DROP CONSTRAINT {quoted(f'{child.name}_fits')};")
        have = {index.keys for index in child.indexes}
        missing = [index.keys for index in parent.indexes if index.plain and index.keys not in have]
        steps += [f"CREATE INDEX CONCURRENTLY ON {child.label} ({', '.join(map(quoted, keys))});" for keys in missing]
    for sibling in (scene.catalog.at(key) for key in parent.children):
        if sibling.bound == "DEFAULT":
            steps += _proof(sibling, "others", f"NOT ({condition})")
            last.append(f"ALTER TABLE {sibling.label} DROP CONSTRAINT {quoted(f'{sibling.name}_others')};")
    return "\n".join([*steps, f"{scene.sql};", *last])


def _condition(parent: Table, bound: Any) -> str | None:
    types = {column.name: column.compared_type for column in parent.columns.values()}
    return proof(parent.label, parent.partition_key, types, bound) if parent.partition_key else None


def _conditions_above(scene: Scene, table: Table) -> list[str | None]:
    """Return what the bounds of a table and of those above it demand of rows, outermost first."""
    if not table.bound:
        return []
    (parent,) = (scene.catalog.at(key) for key in table.parents)
    condition = _condition(parent, parsed(f"CREATE TABLE t PARTITION OF p {table.bound}").partbound)
    return [*_conditions_above(scene, parent), condition and f"({condition})"]


def _proof(table: Table, word: str, condition: str) -> list[str]:
    name = quoted(f"{table.name}_{word}")
    return [
        f"ALTER TABLE {table.label} ADD CONSTRAINT {name} CHECK ({condition}) NOT VALID;",
        f"ALTER TABLE {table.label} VALIDATE CONSTRAINT {name};  -- in a transaction of its own",
    ]


@rule(
    "partition-detached",
    Severity.ERROR,
    on=(ast.AlterTableStmt,),
    setup=_SETUP,
    bad="ALTER TABLE log DETACH PARTITION log_25;",
    good="ALTER TABLE log DETACH PARTITION log_25 CONCURRENTLY;",
)
def partition_detached(scene: Scene) -> Iterator[Note]:
    """A partition is detached under the strongest lock on the whole table."""
    for table, cmd in scene.altered():
        if subcommand(cmd) != "DetachPartition" or cmd.def_.concurrent:
            continue
        if any(scene.catalog.at(key).bound == "DEFAULT" for key in table.children):
            why = "-- CONCURRENTLY is refused beside a default partition"
            way = f"{why}\nSET lock_timeout = '2s';\n{scene.sql};"
        else:
            way = f"ALTER TABLE {table.label} DETACH PARTITION {relation(cmd.def_.name)} CONCURRENTLY;"
        yield Note(f"Readers and writers of {table.label} wait (AccessExclusiveLock).", way, table)
