"""The effects of statements about what belongs to tables: publications, comments, extensions, domains, tablespaces."""

from __future__ import annotations

from typing import Any

from pglast import ast, enums

from pgrunbook.effects import result as fx
from pgrunbook.sql.lock_modes import ACCESS_EXCLUSIVE, ACCESS_SHARE, SHARE, SHARE_UPDATE_EXCLUSIVE
from pgrunbook.sql.tree import Name, dotted, object_kind, relation, relations_named

GRANT_LOCKS_FROM = 18


def depend(found: fx.Found, node: Any) -> None:
    """Collect the lock of ALTER ... DEPENDS ON EXTENSION."""
    if object_kind(node.objectType) in ("MATVIEW", "TRIGGER"):
        found.lock(
            found.catalog.find(relation(node.relation)), ACCESS_EXCLUSIVE if node.object is None else ACCESS_SHARE
        )
    elif known := found.catalog.index(relation(node.relation)) if node.relation is not None else None:
        found.locks.add((known[1].label, ACCESS_EXCLUSIVE))


def extension_contents(found: fx.Found, node: Any) -> None:
    """Collect the lock on a relation that becomes part of an extension, or is one no more."""
    if object_kind(node.objtype) in ("TABLE", "VIEW", "MATVIEW", "SEQUENCE", "FOREIGN_TABLE"):
        found.lock(found.catalog.find(dotted(node.object)), SHARE_UPDATE_EXCLUSIVE)


def move_all(found: fx.Found, node: Any) -> None:
    """Tell that ALTER TABLE ALL IN TABLESPACE locks all that it moves, and then writes one after the other anew."""
    found.cannot_know(
        f"which relations lie in tablespace {node.orig_tablespacename}: each is locked (AccessExclusiveLock)"
        " and written anew, until all of them are"
    )


def publication(found: fx.Found, node: Any) -> None:
    """Collect the locks on the tables that are published; partitions are published with the whole."""
    for named in relations_named(node):
        table = found.catalog.find(relation(named))
        (found.lock_family if named.inh and table.kind != "p" else found.lock)(table, SHARE_UPDATE_EXCLUSIVE)
    if isinstance(node, ast.AlterPublicationStmt) and node.action == enums.AlterPublicationAction.AP_SetObjects:
        for table in found.catalog.tables.values():
            if any(dependent.name == node.pubname for dependent in table.of_kind("publication")):
                found.lock_family(table, SHARE_UPDATE_EXCLUSIVE)


def comment(found: fx.Found, node: Any) -> None:
    """Collect the lock on what a comment is about."""
    kind = object_kind(node.objtype)
    if kind in ("TABLE", "VIEW", "MATVIEW", "SEQUENCE", "FOREIGN_TABLE"):
        found.lock(found.catalog.find(dotted(node.object)), SHARE_UPDATE_EXCLUSIVE)
    elif kind == "COLUMN":
        found.lock(found.catalog.find(dotted(node.object[:-1])), SHARE_UPDATE_EXCLUSIVE)
    elif kind == "INDEX":
        known = found.catalog.index(dotted(node.object))
        if known is not None:
            found.locks.add((known[1].label, SHARE_UPDATE_EXCLUSIVE))
    elif kind in ("TABCONSTRAINT", "TRIGGER", "POLICY", "RULE"):
        found.lock(found.catalog.find(dotted(node.object[:-1])), ACCESS_SHARE)


def grant(found: fx.Found, node: Any) -> None:
    """Collect the locks of GRANT: PostgreSQL 18 takes AccessShareLock on the relations; older versions take no lock."""
    if found.is_from(GRANT_LOCKS_FROM):
        for part in node.objects or ():
            if isinstance(part, ast.RangeVar):
                found.lock(found.catalog.find(relation(part)), ACCESS_SHARE)


def alter_domain(found: fx.Found, node: Any) -> None:
    """Collect what a new or validated constraint of a domain reads: every table that uses it."""
    checks = node.subtype in ("C", "O") and not (node.def_ is not None and node.def_.skip_validation)
    if not (checks or node.subtype == "V"):
        return
    name = dotted(node.typeName)
    if not found.catalog.connected:
        found.cannot_know(f"which tables use domain {name}; they are locked and read")
    _, fact = found.catalog.type_named(name.schema, name.name)
    domains = fact.domains if fact is not None else ()
    for table in found.catalog.tables.values():
        columns = table.columns.values() if table.holds_rows_itself else ()
        if any(c.type_oid in domains if c.type_oid else _of_domain(c.type, name) for c in columns):
            found.lock(table, SHARE)
            found.scan(table)


def _of_domain(type_text: str, domain: Name) -> bool:
    return type_text.rpartition(".")[2].strip('"') == domain.name
