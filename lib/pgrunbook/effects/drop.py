"""The effects of DROP and TRUNCATE, with all that CASCADE reaches; for ``effects.statements``."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from pgrunbook.database.catalog import Catalog, Key, Standing, Table
from pgrunbook.effects import result as fx
from pgrunbook.effects.alter_table import lock_owned
from pgrunbook.effects.cascade import fallen
from pgrunbook.sql.lock_modes import ACCESS_EXCLUSIVE, SHARE_UPDATE_EXCLUSIVE
from pgrunbook.sql.tree import CASCADE, Name, dotted, object_kind, relation

_RELATIONS = ("TABLE", "VIEW", "MATVIEW", "SEQUENCE", "FOREIGN_TABLE")


def collect(found: fx.Found, node: Any) -> None:
    """Collect the effects of DROP on each object that it names."""
    kind = object_kind(node.removeType)
    cascade = node.behavior == CASCADE
    together = [found.catalog.find(dotted(entry)) for entry in node.objects] if kind in _RELATIONS else []
    gone = {member.key for table in together for member in found.catalog.below(table)}
    for entry in node.objects:
        if kind in ("TRIGGER", "POLICY", "RULE"):
            found.lock_family(found.catalog.find(dotted(entry[:-1])), ACCESS_EXCLUSIVE)
            found.lose(f"{kind.lower()} {entry[-1].sval} on {dotted(entry[:-1])}")
        elif kind in _RELATIONS:
            drop_relation(found, found.catalog.find(dotted(entry)), cascade=cascade, gone=gone)
        elif kind == "INDEX":
            _drop_index(found, dotted(entry), node)
        else:
            _drop_named(found, kind, dotted(entry), cascade=cascade)
    fall(found, node, cascade=cascade)


def fall(found: fx.Found, node: Any, *, cascade: bool) -> None:
    """Collect what falls with objects that are dropped, as the database tells, and what is locked for it.

    What an earlier statement has dropped is not there any more.
    """
    for one in fallen(found.catalog, node):
        table = None if one.relation is None else found.catalog.by_oid(one.relation)
        if one.hinders and not cascade:
            found.fails[f"{one.says} depends on it"] = None
            continue
        if table is not None:
            found.locks.add((table.label, one.mode))
        if one.says:
            found.lose(f"the values of column {table.label}.{one.name}" if table and one.part == "column" else one.says)


def _drop_named(found: fx.Found, kind: str, name: Name, *, cascade: bool) -> None:
    if kind in ("TYPE", "DOMAIN"):
        if not found.catalog.connected:
            found.cannot_know(f"which columns are of type {name}")
    elif kind == "SCHEMA":
        _drop_schema(found, name.name, cascade=cascade)
    elif kind != "SEQUENCE":
        _drop_other(found, kind, name, cascade=cascade)


def drop_relation(found: fx.Found, table: Table, *, cascade: bool, gone: Set[Key] = frozenset()) -> None:
    """Collect the effects of dropping a table, view, materialized view or sequence, together with others."""
    if table.standing is Standing.MISSING:
        return
    family = found.catalog.below(table)
    gone = gone | {member.key for member in family}
    for member in family:
        found.lock(member, ACCESS_EXCLUSIVE)
        lock_owned(found, member)
        if member.kind in ("r", "p"):
            found.lose(f"table {member.label} with its rows")
        for key in member.foreign_keys():
            if key.partner is not None and not key.is_inherited:  # a partition's triggers are on its side alone
                found.lock_referenced(found.catalog.at(key.partner), ACCESS_EXCLUSIVE)
        for other, key in found.catalog.references_to(member):
            if other.key not in gone:
                _drop_incoming(found, member, other, key.name, cascade=cascade)
        _drop_dependents(found, member, {found.catalog.at(key).label for key in gone}, cascade=cascade)
    for parent in map(found.catalog.at, table.parents):
        if parent.kind == "p":
            found.lock(parent, ACCESS_EXCLUSIVE)
    _drop_incoming_of_whole(found, table, gone, cascade=cascade)
    for sibling in found.catalog.siblings(table):
        found.lock(sibling, ACCESS_EXCLUSIVE)
    if table.kind in ("v", "m", "S"):
        found.lose(f"{ {'v': 'view', 'm': 'materialized view', 'S': 'sequence'}[table.kind] } {table.label}")


def _drop_dependents(found: fx.Found, table: Table, gone: Set[str], *, cascade: bool) -> None:
    for dependent in table.of_kind("view", "materialized view", "function"):
        if dependent.name in gone:
            continue
        if cascade:
            found.lose(f"{dependent.kind} {dependent.name}")
            if dependent.kind != "function":
                found.locks.add((dependent.name, ACCESS_EXCLUSIVE))
        else:
            found.fails[f"{dependent.kind} {dependent.name} depends on {table.label}"] = None


def _drop_incoming_of_whole(found: fx.Found, table: Table, gone: Set[Key], *, cascade: bool) -> None:
    """With a partition the foreign keys go that refer to the whole table, of which none is for a part alone."""
    for whole in found.catalog.family(table)[len(found.catalog.below(table)) :]:
        for other, key in found.catalog.references_to(whole) if whole.kind == "p" else ():
            if other.key not in gone:
                _drop_incoming(found, table, other, key.name, cascade=cascade)
                found.lock_referenced(whole, ACCESS_EXCLUSIVE)


def _drop_incoming(found: fx.Found, table: Table, other: Table, name: str, *, cascade: bool) -> None:
    if cascade:
        found.lose(f"foreign key {name} on {other.label}")
        found.lock_family(other, ACCESS_EXCLUSIVE)
    else:
        found.fails[f"foreign key {name} of {other.label} depends on {table.label}"] = None


def _drop_index(found: fx.Found, name: Name, node: Any) -> None:
    known = found.catalog.index(name)
    if known is None and found.catalog.connected:
        return
    mode = SHARE_UPDATE_EXCLUSIVE if node.concurrent else ACCESS_EXCLUSIVE
    found.locks.add((known[1].label if known else str(name), mode))
    found.lose(f"index {known[1].label if known else name}")
    if known is None:
        found.cannot_know("the table of the index; it is locked in the same mode")
    else:
        found.lock_family(known[0], mode)


def _drop_schema(found: fx.Found, schema: str, *, cascade: bool) -> None:
    for table in list(found.catalog.tables.values()):
        if table.schema == schema and cascade:
            drop_relation(found, table, cascade=True)
        elif table.schema == schema:
            found.fails[f"{table.label} is in schema {schema}"] = None
    if not found.catalog.connected:
        found.cannot_know(f"what is in schema {schema}")


def _drop_other(found: fx.Found, kind: str, name: Name, *, cascade: bool) -> None:
    found.lose(f"{kind.lower().replace('_', ' ')} {name}")
    if kind == "STATISTIC_EXT":
        for table in found.catalog.tables.values():
            if any(dependent.name == name.name for dependent in table.of_kind("statistics")):
                found.lock(table, SHARE_UPDATE_EXCLUSIVE)
    elif cascade and not found.catalog.connected:
        found.cannot_know(f"what depends on {kind.lower()} {name} and is dropped with it")


def collect_owned(found: fx.Found, node: Any) -> None:
    """Collect the effects of DROP OWNED and REASSIGN OWNED."""
    if not found.catalog.connected:
        found.cannot_know("what the role owns")
    fall(found, node, cascade=getattr(node, "behavior", None) == CASCADE)


def collect_truncate(found: fx.Found, node: Any) -> None:
    """Collect the effects of TRUNCATE; CASCADE follows foreign keys to referencing tables."""
    tables = emptied(found.catalog, node)
    together = {table.key for table in tables}
    for table in tables:
        found.lock(table, ACCESS_EXCLUSIVE)
        found.lose(f"the rows of {table.label}")
        if node.restart_seqs:
            lock_owned(found, table)
        if table.holds_rows_itself:
            found.empties[table.label] = None
        for other, key in found.catalog.references_to(table):
            if other.key not in together:
                found.fails[f"foreign key {key.name} of {other.label} depends on {table.label}"] = None


def emptied(catalog: Catalog, node: Any) -> list[Table]:
    """Return the tables that TRUNCATE empties: those that it names, and with CASCADE all that reference them.

    A named table is emptied with all tables that inherit from it; one that CASCADE reaches, only with its partitions.

    Source: https://www.postgresql.org/docs/current/sql-truncate.html
    """
    named = [(catalog.find(relation(part)), part.inh) for part in node.relations]
    found = {member.key: member for table, inh in named for member in (catalog.below(table) if inh else [table])}
    waiting = list(found.values()) if node.behavior == CASCADE else []
    while waiting:
        for other, _ in catalog.references_to(waiting.pop()):
            new = {member.key: member for member in catalog.with_partitions(other) if member.key not in found}
            found |= new
            waiting += new.values()
    return list(found.values())
