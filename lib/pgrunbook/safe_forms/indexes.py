"""Safe forms of CREATE INDEX, DROP INDEX and REINDEX: CONCURRENTLY, if PostgreSQL allows it."""

from __future__ import annotations

from typing import Any

from pglast import ast, enums

from pgrunbook.database.facts import Facts
from pgrunbook.database.relations import Index, Partition, Relation
from pgrunbook.plan.step import Expansion, SafeStep
from pgrunbook.safe_forms import probes
from pgrunbook.safe_forms.form import Case
from pgrunbook.sql import default_names
from pgrunbook.sql.classify import Policy
from pgrunbook.sql.deparse import changed, name, option, parsed, printed
from pgrunbook.sql.tree import is_on


def create(case: Case) -> Expansion | None:
    """CREATE INDEX -> CONCURRENTLY; a partitioned table's index is declared, then built and attached by partition.

    An index without a name gets its name here, so that the remains of a failed build are known by it. Not for an index
    that exists and is valid: IF NOT EXISTS skips that one, and so do we.
    """
    node = case.node
    if not isinstance(node, ast.IndexStmt) or (node.concurrent and node.idxname):
        return None
    table = case.facts.relation(node.relation)
    if table is None or table.kind not in "rmp" or table.is_temporary:
        return None
    if table.is_partitioned and not node.relation.inh:
        return None  # ON ONLY builds nothing
    there = case.facts.index((table.schema, node.idxname)) if node.idxname else None
    if there is not None and not _is_leftover(there, table):
        return None
    taken = case.facts.taken_names(table.schema) | case.memory.taken(table.schema)
    columns = default_names.index_columns(node)
    index = node.idxname or default_names.free_name(table.name, default_names.joined_columns(columns), "idx", taken)
    taken.add(index)
    case.memory.taken(table.schema).add(index)
    says = "CREATE INDEX blocks writers until the index is built; CONCURRENTLY does not."
    if not table.is_partitioned:
        steps, made = [build(table, index, node)], [(table, index)]
    else:
        says += " A partitioned table does not support it: each partition's index is built, then attached."
        steps, made = _of_partitions(case, table, index, family(case.facts, table, columns, "idx", taken))
    # Parents first: they take their partitions' indexes along.
    cleanup = tuple(probes.drop_index(each.schema, name_) for each, name_ in made)
    return Expansion(case.statement, "create-index", says, tuple(steps), cleanup=cleanup)


def _of_partitions(
    case: Case, table: Relation, index: str, named: list[tuple[Partition, str]]
) -> tuple[list[SafeStep], list[tuple[Relation, str]]]:
    """Return the steps to declare, build and attach each index, and what they make."""
    there = _there_already(case.facts, table, case.node)
    below = [(partition, there.get(partition.oid, own)) for partition, own in named]
    for partition, own in below:
        case.memory.taken(partition.schema).add(own)
    steps, made = [declared(table, index, case.node)], [(table, index)]
    indexes = {table.oid: name(table.schema, index)}
    for partition, own in below:
        indexes[partition.oid] = name(partition.schema, own)
        if partition.oid not in there:
            make = build if partition.is_leaf else declared
            steps.append(make(partition, own, case.node))
            made.append((partition, own))
    return [*steps, *(attach(indexes[p.parent], p, own) for p, own in reversed(below))], made


def build(table: Relation, index: str, node: Any, what: str = "") -> SafeStep:
    """Return the step that builds an index on a table without children while writers go on."""
    relation = changed(node.relation, schemaname=table.schema, relname=table.name, inh=True)
    made = changed(node, relation=relation, idxname=index, concurrent=True, if_not_exists=False)
    return SafeStep(
        sql=printed(made),
        says=f"Build {what or index} on {table.sql} while reads and writes go on.",
        policy=Policy.ALONE,
        quick=False,
        done=probes.is_index_valid(table.schema, index),
        leftovers=probes.drop_invalid_index(table.schema, index),
    )


def declared(table: Relation, index: str, node: Any) -> SafeStep:
    """Return the step that declares an index on a partitioned table, and builds nothing."""
    relation = changed(node.relation, schemaname=table.schema, relname=table.name, inh=False)
    return SafeStep(
        sql=printed(changed(node, relation=relation, idxname=index, if_not_exists=False)),
        says=f"Declare {index} on {table.sql}: nothing is built, and new partitions will get the index.",
    )


def drop(case: Case) -> Expansion | None:
    """DROP INDEX -> CONCURRENTLY, one index at a time.

    Not for CASCADE, nor for an index that is partitioned or belongs to a constraint. An index whose DROP was
    interrupted is rebuilt; only rollback restores an index that is dropped.
    """
    node = case.node
    if not isinstance(node, ast.DropStmt) or node.removeType != enums.ObjectType.OBJECT_INDEX:
        return None
    if node.concurrent or node.behavior == enums.DropBehavior.DROP_CASCADE:
        return None
    found = _named_indexes(case)
    if not found or any(index.is_partitioned or index.is_partition or index.constraint_name for index in found):
        return None
    steps = tuple(
        SafeStep(
            sql=f"DROP INDEX CONCURRENTLY {name(index.schema, index.name)}",
            says=f"Drop {index.name}; readers and writers do not queue behind it.",
            policy=Policy.ALONE,
            quick=False,
            done=probes.none_of(probes.is_there(name(index.schema, index.name))),
        )
        for index in found
    )
    cleanup = tuple(probes.rebuild_if_invalid(index.schema, index.name) for index in found)
    says = "DROP INDEX locks the whole table, for readers too; CONCURRENTLY waits for them instead."
    return Expansion(case.statement, "drop-index", says, steps, cleanup=cleanup)


def reindex(case: Case) -> Expansion | None:
    """REINDEX of an index or a table -> CONCURRENTLY; the remains of an interrupted rebuild are dropped first.

    Not for catalogs, nor for the index of an exclusion constraint. REINDEX TABLE CONCURRENTLY skips invalid indexes:
    each gets a step of its own.
    """
    node = case.node
    if not isinstance(node, ast.ReindexStmt) or is_on(node.params, "concurrently"):
        return None
    if node.kind not in (enums.ReindexObjectType.REINDEX_OBJECT_INDEX, _REINDEX_TABLE):
        return None
    table, indexes = _reindexed(case)
    if table is None or table.schema in ("pg_catalog", "pg_toast") or any(index.is_exclusion for index in indexes):
        return None
    left = probes.drop_reindex_leftovers(table)
    concurrent = changed(node, params=(*(node.params or ()), option("REINDEX (CONCURRENTLY) TABLE t")))
    texts = [(printed(concurrent), f"Rebuild the indexes of {table.sql} beside the old ones.")]
    texts += [
        (f"REINDEX INDEX CONCURRENTLY {name(index.schema, index.name)}", f"Make {index.name} valid.")
        for index in indexes
        if node.kind == _REINDEX_TABLE and not index.valid
    ]
    steps = tuple(
        SafeStep(sql=text, says=says, policy=Policy.ALONE, quick=False, leftovers=left) for text, says in texts
    )
    says = "REINDEX blocks writers, and readers that would use the index; CONCURRENTLY does not."
    return Expansion(case.statement, "reindex", says, steps, cleanup=(left,))


_REINDEX_TABLE = enums.ReindexObjectType.REINDEX_OBJECT_TABLE


def attach(parent_index: str, partition: Relation, index: str) -> SafeStep:
    """Return the step that makes a partition's index part of its parent's."""
    return SafeStep(
        sql=f"ALTER INDEX {parent_index} ATTACH PARTITION {name(partition.schema, index)}",
        says=f"Make {index} part of {parent_index}.",
    )


def family(
    facts: Facts, table: Relation, columns: list[str], label: str, taken: set[str]
) -> list[tuple[Partition, str]]:
    """Return the tables below a partitioned one, parents first, each with the name that its index will get."""
    found: list[tuple[Partition, str]] = []
    by_schema = {table.schema: taken}
    named = "" if label == "pkey" else default_names.joined_columns(columns)
    for partition in facts.partitions(table):
        used = by_schema.setdefault(partition.schema, facts.taken_names(partition.schema))
        index = default_names.free_name(partition.name, named, label, used)
        used.add(index)
        found.append((partition, index))
    return found


def _there_already(facts: Facts, table: Relation, node: Any) -> dict[int, str]:
    """Return matching indexes that partitions have already, by table: PostgreSQL attaches such an index too."""
    wanted, found = _likeness(node), {}
    for partition in facts.partitions(table):
        for index in facts.indexes(partition.oid):
            if index.valid and not index.is_partition and wanted == _likeness(parsed(index.definition)):
                found[partition.oid] = index.name
                break
    return found


def _likeness(node: Any) -> Any:
    method = node.accessMethod or "btree"
    return changed(node, idxname=None, relation=None, tableSpace=None, accessMethod=method, if_not_exists=False)


def _is_leftover(index: Index, table: Relation) -> bool:
    return not index.valid and index.relation == table.oid


def _named_indexes(case: Case) -> list[Index]:
    found = [case.facts.index(part.sval for part in parts) for parts in case.node.objects]
    missing = [index for index in found if index is None]
    return [] if missing and not case.node.missing_ok else [index for index in found if index is not None]


def _reindexed(case: Case) -> tuple[Relation | None, list[Index]]:
    """Return the table whose indexes are rebuilt, and those indexes."""
    relation = case.node.relation
    if case.node.kind == _REINDEX_TABLE:
        table = case.facts.relation(relation)
        return (table, case.facts.indexes(table.oid)) if table else (None, [])
    parts = [relation.schemaname, relation.relname] if relation.schemaname else [relation.relname]
    index = case.facts.index(parts)
    return (None, []) if index is None else (case.facts.relation_of(index.relation), [index])
