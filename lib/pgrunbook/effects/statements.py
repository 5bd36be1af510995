"""The effects of each kind of statement on a database that others use: locks, reads, rewrites, losses.

The answer comes from the text and the catalog, before the statement runs; ``tests/test_effects.py`` compares it
with what real servers do. ``unsure`` names what stays unknown.

Source: https://www.postgresql.org/docs/current/explicit-locking.html and the page of each command
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from pglast import ast

from pgrunbook.database.catalog import Catalog, Standing, Table
from pgrunbook.database.relations import Index
from pgrunbook.database.routines import RoutinePart
from pgrunbook.effects import alter_table, beside, dml, drop
from pgrunbook.effects import result as fx
from pgrunbook.effects.proofs import excludes_bound
from pgrunbook.effects.result import Effects, Found
from pgrunbook.sql.lock_modes import (
    ACCESS_EXCLUSIVE,
    ACCESS_SHARE,
    EXCLUSIVE,
    MODES,
    ROW_EXCLUSIVE,
    SHARE,
    SHARE_ROW_EXCLUSIVE,
    SHARE_UPDATE_EXCLUSIVE,
)
from pgrunbook.sql.settings import path_names
from pgrunbook.sql.tree import (
    Name,
    constraint_kind,
    dotted,
    is_on,
    object_kind,
    options,
    relation,
    tree,
    walk,
)

_OF_INDEX = ("p", "u", "x")  # constraints that are named as their indexes
VACUUM_FOLLOWS_HEIRS_FROM = 18  # VACUUM and ANALYZE of a table process those that inherit from it, too


def effects(node: Any, catalog: Catalog) -> Effects:
    """Return the effects of a statement's node on this database, and of what runs inside it."""
    parts = catalog.parts(node)
    inner = [alone(part.node, under(catalog, part.path)) for part in parts if part.node is not None]
    return together(node, catalog, parts, inner)


def under(catalog: Catalog, path: str | None) -> Catalog:
    """Return the catalog as a routine sees it that sets a search_path for itself, or None."""
    return catalog if path is None else replace(catalog, search_path=tuple(path_names(path)))


def alone(node: Any, catalog: Catalog) -> Effects:
    """Return the effects of a statement's node itself."""
    found = Found(catalog)
    _collect(found, node)
    return found.effects()


def together(node: Any, catalog: Catalog, parts: Iterable[RoutinePart], inner: Iterable[Effects]) -> Effects:
    """Return the effects of a statement with its parts, ``inner`` those of each that is a statement."""
    found = Found(catalog)
    _collect(found, node)
    if isinstance(node, ast.RuleStmt):
        return found.effects()
    for one in inner:
        found.add(one)
    for part in parts:
        if part.because:
            where = f" inside {part.within}" if part.within else ""
            found.cannot_know(f"what runs{where}: {part.because}")
    return found.effects()


def _collect(found: fx.Found, node: Any) -> None:
    handler = _HANDLERS.get(type(node).__name__)
    if handler is not None:
        handler(found, node)


def _table(found: fx.Found, node: Any) -> Table:
    return found.catalog.find(relation(node))


def _alter_table(found: fx.Found, node: Any) -> None:
    if object_kind(node.objtype) == "INDEX":
        alter_table.collect_index(found, node)
    elif object_kind(node.objtype) == "TYPE":
        _alter_type(found, node)
    else:
        alter_table.collect(found, node)


def _has_like(table: Table, node: Any) -> bool:
    """Whether a partition has an index already that becomes part of the parent's new one."""
    keys = tuple(part.name or "" for part in node.indexParams)
    plain = "" not in keys and node.whereClause is None
    return plain and any(
        (index.keys, index.method, index.unique) == (keys, node.accessMethod, bool(node.unique))
        and index.plain
        and index.valid
        and not index.is_partition
        for index in table.indexes
    )


def _create_index(found: fx.Found, node: Any) -> None:
    table = _table(found, node.relation)
    mode = SHARE_UPDATE_EXCLUSIVE if node.concurrent else SHARE
    members = found.catalog.with_partitions(table) if node.relation.inh else [table]
    for member in members:
        found.lock(member, mode)
    if node.if_not_exists and node.idxname and found.catalog.index(Name(table.schema or None, node.idxname)):
        return
    for member in members:
        if member is table or not _has_like(member, node):
            found.scan_alone(member)


def _reindex(found: fx.Found, node: Any) -> None:
    if node.relation is None:
        found.cannot_know("which tables REINDEX of a whole schema or database locks, one after the other")
        return
    concurrent = is_on(node.params, "concurrently")
    known = found.catalog.index(relation(node.relation))
    is_index = node.kind == 0
    if is_index and known is None:
        found.locks.add((str(relation(node.relation)), _index_mode(concurrent=concurrent)))
        found.cannot_know("the table of the index; it is locked too")
        return
    table = known[0] if known and is_index else _table(found, node.relation)
    chosen = (known[1],) if known and is_index else None
    for member in found.catalog.with_partitions(table) if chosen is None else [table]:
        found.lock(member, SHARE_UPDATE_EXCLUSIVE if concurrent else SHARE)
        _rebuild(found, member, chosen or member.indexes, _index_mode(concurrent=concurrent))


def _index_mode(*, concurrent: bool) -> str:
    return SHARE_UPDATE_EXCLUSIVE if concurrent else ACCESS_EXCLUSIVE


def _rebuild(found: fx.Found, table: Table, indexes: tuple[Index, ...], mode: str) -> None:
    for index in indexes:
        found.locks.add((index.label, mode))
        found.rebuilds[index.label] = None
        found.scan_alone(table)


def _cluster(found: fx.Found, node: Any) -> None:
    if node.relation is None:
        found.cannot_know("which tables CLUSTER without a name rewrites")
        return
    table = _table(found, node.relation)
    found.lock(table, ACCESS_EXCLUSIVE)
    found.rewrite(table)


def _vacuum(found: fx.Found, node: Any) -> None:
    full = node.is_vacuumcmd and is_on(node.options, "full")
    for target in node.rels or ():
        table = _table(found, target.relation)
        mode = ACCESS_EXCLUSIVE if full else SHARE_UPDATE_EXCLUSIVE
        is_newer = found.is_from(VACUUM_FOLLOWS_HEIRS_FROM)
        if table.kind == "p" or (is_newer and target.relation.inh):
            found.lock_family(table, mode)
        else:
            found.lock(table, mode)
            for member in found.catalog.below(table)[1:] if not node.is_vacuumcmd else ():
                found.lock(member, ACCESS_SHARE)
        if full:
            found.rewrite(table)
    if not node.rels:
        found.cannot_know("which tables VACUUM or ANALYZE without a name processes: all that its role may")


def _rename(found: fx.Found, node: Any) -> None:
    kind = object_kind(node.renameType)
    if kind == "ATTRIBUTE":
        _alter_type(found, node)
    elif kind == "INDEX" or (node.relation is not None and found.catalog.index(relation(node.relation))):
        known = found.catalog.index(relation(node.relation))
        if known is None and found.catalog.connected and node.missing_ok:
            return
        found.locks.add((known[1].label if known else str(relation(node.relation)), SHARE_UPDATE_EXCLUSIVE))
    elif node.relation is not None:
        table = _table(found, node.relation)
        is_key = any(each.name == node.subname and each.kind in _OF_INDEX for each in table.constraints)
        recurses = kind in ("COLUMN", "TABCONSTRAINT", "TRIGGER") and node.relation.inh and not is_key
        (found.lock_family if recurses else found.lock)(table, ACCESS_EXCLUSIVE)


def _set_schema(found: fx.Found, node: Any) -> None:
    if node.relation is not None:
        table = _table(found, node.relation)
        found.lock(table, ACCESS_EXCLUSIVE)
        alter_table.lock_owned(found, table)


def _create_table(found: fx.Found, node: Any) -> None:
    for parent in node.inhRelations or ():
        table = _table(found, parent)
        found.lock(table, ACCESS_EXCLUSIVE if node.partbound else SHARE_UPDATE_EXCLUSIVE)
        if node.partbound:
            _new_partition(found, table, node.partbound)
    if node.if_not_exists and _table(found, node.relation).standing is Standing.THERE:
        return
    own = relation(node.relation)
    for part in walk(node):
        if isinstance(part, ast.TableLikeClause):
            found.lock(_table(found, part.relation), ACCESS_SHARE)
        elif isinstance(part, ast.Constraint) and constraint_kind(part) == "FOREIGN" and relation(part.pktable) != own:
            found.lock_family(_table(found, part.pktable), SHARE_ROW_EXCLUSIVE)


def _new_partition(found: fx.Found, table: Table, bound: Any) -> None:
    """Collect the locks on what foreign keys connect with a table that gets a partition, and on its default one."""
    for key in table.foreign_keys():
        if key.partner is not None:
            found.lock_family(found.catalog.at(key.partner), SHARE_ROW_EXCLUSIVE)
    for other, _ in found.catalog.references_to(table):
        found.lock(other, SHARE_ROW_EXCLUSIVE if found.is_from(15) else ACCESS_SHARE)
    for sibling in (found.catalog.at(key) for key in table.children):
        if sibling.bound == "DEFAULT":
            found.lock(sibling, ACCESS_EXCLUSIVE)
            if not excludes_bound(sibling, bound):
                found.scan(sibling)


def _create_trigger(found: fx.Found, node: Any) -> None:
    table = _table(found, node.relation)
    for member in found.catalog.with_partitions(table) if node.row else [table]:
        found.lock(member, SHARE_ROW_EXCLUSIVE)
    if node.constrrel is not None:
        found.lock(_table(found, node.constrrel), ACCESS_SHARE)


def _create_rule(found: fx.Found, node: Any) -> None:
    """Collect the locks on what a rule's condition and actions name, which are parsed and not run."""
    found.lock(_table(found, node.relation), ACCESS_EXCLUSIVE)
    scans = dict(found.scans)
    dml.parse(found, node.whereClause)
    for action in node.actions or ():
        _collect(found, action)
    found.scans = scans


def _create_foreign_table(found: fx.Found, node: Any) -> None:
    _create_table(found, node.base)


def _create_view(found: fx.Found, node: Any) -> None:
    dml.parse(found, node.query)
    view = _table(found, node.view)
    if node.replace and view.standing is not Standing.UNKNOWN:
        found.lock(view, ACCESS_EXCLUSIVE)
    elif node.replace:
        found.locks.add((view.label, ACCESS_EXCLUSIVE))


def _create_as(found: fx.Found, node: Any) -> None:
    (dml.parse if node.into.skipData else dml.read)(found, node.query)


def _create_schema(found: fx.Found, node: Any) -> None:
    """Collect what the tables and views in CREATE SCHEMA need of what is there; the rest is about them."""
    for part in node.schemaElts or ():
        if isinstance(part, ast.CreateStmt):
            _create_table(found, part)
        elif isinstance(part, ast.ViewStmt):
            dml.parse(found, part.query)


def _policy(found: fx.Found, node: Any) -> None:
    found.lock(_table(found, node.table), ACCESS_EXCLUSIVE)
    dml.parse(found, (node.qual, node.with_check))


def _cursor(found: fx.Found, node: Any) -> None:
    """Collect the locks of a cursor's query; its rows are read when they are fetched."""
    scans = dict(found.scans)
    dml.read(found, node.query)
    found.scans = scans


def _prepare(found: fx.Found, node: Any) -> None:
    dml.parse(found, node.query)


def _alter_type(found: fx.Found, node: Any) -> None:
    """Collect what CASCADE changes in the tables of a composite type."""
    for table in found.catalog.of_type(relation(node.relation)):
        found.lock_family(table, ACCESS_EXCLUSIVE)
        alter_table.collect_commands(found, table, getattr(node, "cmds", None) or ())


def _refresh(found: fx.Found, node: Any) -> None:
    view = _table(found, node.relation)
    found.lock(view, EXCLUSIVE if node.concurrent else ACCESS_EXCLUSIVE)
    if not node.concurrent:
        found.rewrite(view)
    for table, source in () if node.skipData else found.catalog.read_by(view):
        found.lock_read(table, ACCESS_SHARE, inh=source.with_children)
    if not view.sources:
        found.cannot_know("which tables the materialized view reads")


def _create_statistics(found: fx.Found, node: Any) -> None:
    for source in node.relations or ():
        found.lock(_table(found, source), SHARE_UPDATE_EXCLUSIVE)


def _sequence(found: fx.Found, node: Any) -> None:
    if isinstance(node, ast.AlterSeqStmt):
        found.lock(_table(found, node.sequence), SHARE_ROW_EXCLUSIVE)
    owner = options(node.options).get("owned_by")
    if isinstance(owner, tuple) and len(owner) > 1:
        found.lock(found.catalog.find(dotted(owner[:-1])), ACCESS_SHARE)


def _create_function(found: fx.Found, node: Any) -> None:
    """PostgreSQL parses an SQL body when it creates the function, and locks the relations in it for that."""
    if node.sql_body is not None:
        dml.plan(found, node.sql_body)
        return
    chosen = options(node.options)
    if getattr(chosen.get("language"), "sval", "") == "sql" and isinstance(chosen.get("as"), tuple):
        try:
            dml.plan(found, tree(chosen["as"][0].sval))
        except (ValueError, IndexError):
            found.cannot_know("what the function's body reads")


def _explain(found: fx.Found, node: Any) -> None:
    if not is_on(node.options, "analyze"):
        dml.plan(found, node.query)


def _copy(found: fx.Found, node: Any) -> None:
    if node.relation is not None:
        found.lock(_table(found, node.relation), ROW_EXCLUSIVE if node.is_from else ACCESS_SHARE)
        if not node.is_from:
            found.scan_alone(_table(found, node.relation))
    else:
        dml.read(found, node.query)


def _lock(found: fx.Found, node: Any) -> None:
    for target in node.relations:
        _lock_whole(found, _table(found, target), MODES[node.mode - 1], inh=bool(target.inh))


def _lock_whole(found: fx.Found, table: Table, mode: str, *, inh: bool) -> None:
    """LOCK TABLE of a view locks all that its query names, in the same mode."""
    (found.lock_family if inh else found.lock)(table, mode)
    for other, source in found.catalog.read_by(table) if table.kind == "v" else ():
        _lock_whole(found, other, mode, inh=source.with_children)


def _call(found: fx.Found, _node: Any) -> None:
    found.cannot_know("what the procedure does")


_HANDLERS: dict[str, Callable[[fx.Found, Any], None]] = {
    "AlterTableStmt": _alter_table, "IndexStmt": _create_index, "ReindexStmt": _reindex, "ClusterStmt": _cluster,
    "VacuumStmt": _vacuum, "RenameStmt": _rename, "AlterObjectSchemaStmt": _set_schema, "CreateStmt": _create_table,
    "CreateTrigStmt": _create_trigger, "CreatePolicyStmt": _policy, "AlterPolicyStmt": _policy,
    "RuleStmt": _create_rule, "CreateForeignTableStmt": _create_foreign_table,
    "AlterObjectDependsStmt": beside.depend, "AlterExtensionContentsStmt": beside.extension_contents,
    "AlterTableMoveAllStmt": beside.move_all, "ViewStmt": _create_view,
    "CreateTableAsStmt": _create_as, "RefreshMatViewStmt": _refresh, "CreateStatsStmt": _create_statistics,
    "CreatePublicationStmt": beside.publication, "AlterPublicationStmt": beside.publication,
    "CommentStmt": beside.comment,
    "GrantStmt": beside.grant, "AlterDomainStmt": beside.alter_domain,
    "CreateSeqStmt": _sequence, "AlterSeqStmt": _sequence,
    "CreateFunctionStmt": _create_function, "ExplainStmt": _explain, "CopyStmt": _copy,
    "LockStmt": _lock, "CallStmt": _call, "CreateSchemaStmt": _create_schema, "DeclareCursorStmt": _cursor,
    "PrepareStmt": _prepare, "DropOwnedStmt": drop.collect_owned, "ReassignOwnedStmt": drop.collect_owned,
 "DropStmt": drop.collect, "TruncateStmt": drop.collect_truncate,
    "SelectStmt": dml.read, "InsertStmt": dml.collect, "UpdateStmt": dml.collect,
    "DeleteStmt": dml.collect, "MergeStmt": dml.collect,
}  # fmt: skip
