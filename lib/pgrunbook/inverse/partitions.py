"""Inverses for partitions and inheritance: ATTACH by DETACH, INHERIT by NO INHERIT, and the other way round."""

from __future__ import annotations

from typing import Any

from psycopg import sql

from pgrunbook.database.relations import Relation
from pgrunbook.inverse.alteration import Alteration, Phase
from pgrunbook.inverse.reader import Reader
from pgrunbook.inverse.recreation import set_triggers
from pgrunbook.inverse.way import Way, own_beside_inherited
from pgrunbook.sql.deparse import literal
from pgrunbook.sql.own_code import do

# ATTACH creates indexes and constraints on the partition, under names that the server chooses; DETACH leaves them.
_DROP_NEW = """
DECLARE
    statement pg_catalog.text;
BEGIN
    FOR statement IN
        SELECT pg_catalog.format('ALTER TABLE %s DROP CONSTRAINT IF EXISTS %I',
                                 k.conrelid::pg_catalog.regclass, k.conname)
        FROM pg_catalog.pg_constraint AS k
        WHERE k.conrelid = {table}::pg_catalog.regclass
          AND k.contype IN ('f', 'p', 'u', 'x', 'c')
          AND k.conname <> ALL ({names}::pg_catalog.text[])
        UNION ALL
        SELECT pg_catalog.format('DROP INDEX IF EXISTS %s', i.indexrelid::pg_catalog.regclass)
        FROM pg_catalog.pg_index AS i
        JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
        WHERE i.indrelid = {table}::pg_catalog.regclass
          AND c.relname <> ALL ({names}::pg_catalog.text[])
          AND NOT EXISTS (SELECT
                          FROM pg_catalog.pg_constraint AS k
                          WHERE k.conindid = i.indexrelid
                            AND k.conrelid = i.indrelid)
    LOOP
        EXECUTE statement;
    END LOOP;
END
"""


def attach(altered: Alteration, cmd: Any) -> None:
    """ATTACH PARTITION: DETACH, then drop the indexes and constraints that ATTACH created, NOT NULL included."""
    partition = altered.reader.relation(cmd.def_.name)
    if partition is None:
        return
    way = altered.way(Phase.AWAY)
    way.add(f"ALTER TABLE {altered.sql} DETACH PARTITION {partition.label}", "It is a separate table again.")
    for oid in altered.reader.family(partition):
        drop_new(altered.reader, way, altered.reader.relation_at(oid))


def drop_new(reader: Reader, way: Way, table: Relation) -> None:
    """Add the step that drops indexes and constraints which the table does not have today."""
    there = {each.name for each in reader.constraints([table.oid])} | {each.name for each in reader.indexes(table.oid)}
    names = sorted(there)
    block = _DROP_NEW.replace("{table}", literal(table.label)).replace("{names}", literal(names))
    way.add(
        do(sql.SQL(block)).as_string(None), f"Indexes and constraints that ATTACH created on {table.label} are dropped."
    )


def detach(altered: Alteration, cmd: Any) -> None:
    """DETACH PARTITION: ATTACH with the same bound; drop the CHECK that CONCURRENTLY leaves."""
    partition = altered.reader.relation(cmd.def_.name)
    bound = altered.reader.whole(partition).bound if partition is not None else None
    if partition is None or bound is None:
        return
    way = altered.way(Phase.BACK)
    clause = f"ATTACH PARTITION {partition.label} {bound}"
    way.add(f"ALTER TABLE {altered.sql} {clause}", "It is a partition again.")
    if cmd.def_.concurrent:
        drop_new(altered.reader, way, partition)
    set_triggers(altered.reader, way, partition)


def add_inherit(altered: Alteration, cmd: Any) -> None:
    """INHERIT: NO INHERIT."""
    parent = altered.reader.relation(cmd.def_)
    if parent is not None:
        altered.add(Phase.AWAY, f"NO INHERIT {parent.label}")


def drop_inherit(altered: Alteration, cmd: Any) -> None:
    """NO INHERIT: INHERIT; parents that followed it are removed and added again, to keep the order."""
    parent = altered.reader.relation(cmd.def_)
    if parent is None:
        return
    parents = altered.whole.parents
    place = parents.index(parent.label) if parent.label in parents else len(parents)
    after = parents[place + 1 :]
    way = altered.way(Phase.BACK)
    for name in after:
        way.add(f"{altered.alter} NO INHERIT {name}")
    for name in [parent.label, *after]:
        way.add(f"{altered.alter} INHERIT {name}", "It inherits again.")
    way.differs.append(own_beside_inherited("columns", altered.sql))
