"""Partitions and inheritance on the way back: attached is detached, and the other way round."""

from __future__ import annotations

from typing import Any

from pgrunbook.inverse.alteration import Alteration, Phase
from pgrunbook.inverse.reader import Reader, Relation
from pgrunbook.inverse.recreation import fire
from pgrunbook.inverse.way import Way
from pgrunbook.sql.deparse import literal

# What attaching gave to the partition, and detaching leaves to it, under names that the server chose.
_TAKE_AWAY = """DO $undo$
DECLARE
    told text;
BEGIN
    FOR told IN
        SELECT pg_catalog.format('ALTER TABLE %s DROP CONSTRAINT IF EXISTS %I',
                                 k.conrelid::pg_catalog.regclass, k.conname)
        FROM pg_catalog.pg_constraint AS k
        WHERE k.conrelid = {table}::pg_catalog.regclass
          AND k.contype IN ('f', 'p', 'u', 'x', 'c')
          AND k.conname <> ALL ({names}::text[])
        UNION ALL
        SELECT pg_catalog.format('DROP INDEX IF EXISTS %s', i.indexrelid::pg_catalog.regclass)
        FROM pg_catalog.pg_index AS i
        JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
        WHERE i.indrelid = {table}::pg_catalog.regclass
          AND c.relname <> ALL ({names}::text[])
          AND NOT EXISTS (SELECT
                          FROM pg_catalog.pg_constraint AS k
                          WHERE k.conindid = i.indexrelid
                            AND k.conrelid = i.indrelid)
    LOOP
        EXECUTE told;
    END LOOP;
END
$undo$"""


def attach(altered: Alteration, cmd: Any) -> None:
    """ATTACH PARTITION: DETACH, then what the partition was given goes; NOT NULL that it had not goes too."""
    partition = altered.reader.relation(cmd.def_.name)
    if partition is None:
        return
    way = altered.way(Phase.AWAY)
    way.add(f"ALTER TABLE {altered.sql} DETACH PARTITION {partition.sql}", "It is a table of its own again.")
    for oid in altered.reader.family(partition):
        take_away_new(altered.reader, way, altered.reader.relation_at(oid))


def take_away_new(reader: Reader, way: Way, table: Relation) -> None:
    """Add the step that drops the indexes and constraints of a table which it does not have now."""
    names = [row["name"] for row in reader.rows("names_on", oid=table.oid)]
    told = _TAKE_AWAY.replace("{table}", literal(table.sql)).replace("{names}", literal(names))
    way.add(told, f"What attaching gave to {table.sql} goes.")


def detach(altered: Alteration, cmd: Any) -> None:
    """DETACH PARTITION: ATTACH with the same bound; CONCURRENTLY leaves a CHECK that goes again."""
    partition = altered.reader.relation(cmd.def_.name)
    bound = altered.reader.whole(partition).bound if partition is not None else None
    if partition is None or bound is None:
        return
    way = altered.way(Phase.BACK)
    told = f"ATTACH PARTITION {partition.sql} {bound}"
    way.add(f"ALTER TABLE {altered.sql} {told}", "It is a partition again.")
    if cmd.def_.concurrent:
        take_away_new(altered.reader, way, partition)
    fire(altered.reader, way, partition)


def add_inherit(altered: Alteration, cmd: Any) -> None:
    """INHERIT: NO INHERIT."""
    parent = altered.reader.relation(cmd.def_)
    if parent is not None:
        altered.add(Phase.AWAY, f"NO INHERIT {parent.sql}")


def drop_inherit(altered: Alteration, cmd: Any) -> None:
    """NO INHERIT: INHERIT, after the other parents have made room where it stood before them."""
    parent = altered.reader.relation(cmd.def_)
    if parent is None:
        return
    parents = altered.whole.parents
    place = parents.index(parent.sql) if parent.sql in parents else len(parents)
    after = parents[place + 1 :]
    way = altered.way(Phase.BACK)
    for name in after:
        way.add(f"{altered.alter} NO INHERIT {name}")
    for name in [parent.sql, *after]:
        way.add(f"{altered.alter} INHERIT {name}", "It inherits again.")
    way.differs.append(f"columns of {altered.sql} are its own, beside being inherited")
