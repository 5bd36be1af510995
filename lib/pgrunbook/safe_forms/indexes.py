"""Safe forms of CREATE INDEX, DROP INDEX and REINDEX: CONCURRENTLY, if PostgreSQL allows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pglast import ast, enums

from pgrunbook.database.facts import Facts
from pgrunbook.database.relations import Index, Partition, Relation
from pgrunbook.plan.declared import Declared
from pgrunbook.plan.step import SafeStep
from pgrunbook.safe_forms import probes
from pgrunbook.safe_forms.form import Case
from pgrunbook.sql import default_names
from pgrunbook.sql.classify import Policy
from pgrunbook.sql.deparse import changed, name, option, parsed, printed
from pgrunbook.sql.tree import is_on


@dataclass(frozen=True)
class IndexBuild:
    """An index to be built on a table without children."""

    table: Relation
    index: str
    node: Any

    def step(self) -> SafeStep:
        """Return the step that builds it while writers go on."""
        relation = changed(self.node.relation, schemaname=self.table.schema, relname=self.table.name, inh=True)
        node = changed(self.node, relation=relation, idxname=self.index, concurrent=True, if_not_exists=False)
        return SafeStep(
            sql=printed(node),
            says=f"Build {self.index} on {self.table.sql} while reads and writes go on.",
            policy=Policy.ALONE,
            quick=False,
            done=probes.is_index_valid(self.table.schema, self.index),
            leftovers=probes.drop_invalid_index(self.table.schema, self.index),
        )

    def cleanup(self) -> str:
        """Return the query that drops it."""
        return probes.drop_index(self.table.schema, self.index)


class CreateIndex:
    """CREATE INDEX -> CONCURRENTLY; a partitioned table's index is declared, then built and attached by partition.

    An index without a name gets its name here, so that the remains of a failed build are known by it.
    """

    name = "create-index"
    differs: tuple[Declared, ...] = ()

    @classmethod
    def applies(cls, case: Case) -> bool:
        """Not for an index that exists and is valid: IF NOT EXISTS skips that one, and so do we."""
        node = case.node
        if not isinstance(node, ast.IndexStmt) or (node.concurrent and node.idxname):
            return False
        table = case.facts.relation(node.relation)
        if table is None or table.kind not in "rmp" or table.is_temporary:
            return False
        if table.is_partitioned and not node.relation.inh:
            return False  # ON ONLY builds nothing
        found = case.facts.index((table.schema, node.idxname)) if node.idxname else None
        return found is None or _is_leftover(found, table)

    def __init__(self, case: Case) -> None:
        self.node = case.node
        table = case.facts.relation(case.node.relation)
        if table is None:
            raise AssertionError("the form does not apply")
        self.table = table
        taken = case.facts.taken_names(table.schema) | case.memory.taken(table.schema)
        self.columns = default_names.index_columns(case.node)
        self.index = case.node.idxname or default_names.free_name(
            table.name, default_names.joined_columns(self.columns), "idx", taken
        )
        taken.add(self.index)
        case.memory.taken(table.schema).add(self.index)
        self.there = _there_already(case.facts, table, case.node)
        self.family = [
            (partition, self.there.get(partition.oid, index))
            for partition, index in family(case.facts, table, self.columns, "idx", taken)
        ]
        for partition, index in self.family:
            case.memory.taken(partition.schema).add(index)

    def expand(self) -> tuple[SafeStep, ...]:
        """Return one step; for a partitioned table the steps to declare, build and attach each index."""
        if not self.table.is_partitioned:
            return (IndexBuild(self.table, self.index, self.node).step(),)
        steps = [self._on_parent(self.table, self.index)]
        indexes = {self.table.oid: name(self.table.schema, self.index)}
        for partition, index in self.family:
            indexes[partition.oid] = name(partition.schema, index)
            if partition.oid not in self.there:
                built = IndexBuild(partition, index, self.node).step()
                steps.append(built if partition.is_leaf else self._on_parent(partition, index))
        steps += [attach(indexes[p.parent], p, index) for p, index in reversed(self.family)]
        return tuple(steps)

    def cleanup(self) -> tuple[str, ...]:
        """Drop the indexes that exist: parents first, for they take their partitions' indexes along."""
        tables = [(self.table, self.index), *(pair for pair in self.family if pair[0].oid not in self.there)]
        return tuple(probes.drop_index(table.schema, index) for table, index in tables)

    def explain(self) -> str:
        """Say why."""
        said = "CREATE INDEX blocks writers until the index is built; CONCURRENTLY does not."
        if self.table.is_partitioned:
            said += " A partitioned table does not support it: each partition's index is built, then attached."
        return said

    def _on_parent(self, table: Relation, index: str) -> SafeStep:
        relation = changed(self.node.relation, schemaname=table.schema, relname=table.name, inh=False)
        return SafeStep(
            sql=printed(changed(self.node, relation=relation, idxname=index, if_not_exists=False)),
            says=f"Declare {index} on {table.sql}: nothing is built, and new partitions will get the index.",
        )


class DropIndex:
    """DROP INDEX -> CONCURRENTLY, one index at a time."""

    name = "drop-index"
    differs: tuple[Declared, ...] = ()

    @classmethod
    def applies(cls, case: Case) -> bool:
        """Not for CASCADE, nor for an index that is partitioned or belongs to a constraint."""
        node = case.node
        if not isinstance(node, ast.DropStmt) or node.removeType != enums.ObjectType.OBJECT_INDEX:
            return False
        if node.concurrent or node.behavior == enums.DropBehavior.DROP_CASCADE:
            return False
        found = _named_indexes(case)
        return bool(found) and not any(
            index.is_partitioned or index.is_partition or index.constraint_name for index in found
        )

    def __init__(self, case: Case) -> None:
        self.indexes = _named_indexes(case)

    def expand(self) -> tuple[SafeStep, ...]:
        """Return one step for each index that is there."""
        return tuple(
            SafeStep(
                sql=f"DROP INDEX CONCURRENTLY {name(index.schema, index.name)}",
                says=f"Drop {index.name}; readers and writers do not queue behind it.",
                policy=Policy.ALONE,
                quick=False,
                done=probes.none_of(probes.is_index_there(index.schema, index.name)),
            )
            for index in self.indexes
        )

    def cleanup(self) -> tuple[str, ...]:
        """Rebuild an index whose DROP was interrupted; only rollback restores an index that is dropped."""
        return tuple(probes.rebuild_if_invalid(index.schema, index.name) for index in self.indexes)

    def explain(self) -> str:
        """Say why."""
        return "DROP INDEX locks the whole table, for readers too; CONCURRENTLY waits for them instead."


class Reindex:
    """REINDEX -> CONCURRENTLY; the remains of an interrupted rebuild are dropped first."""

    name = "reindex"
    differs: tuple[Declared, ...] = ()

    @classmethod
    def applies(cls, case: Case) -> bool:
        """For an index or a table; not for catalogs, nor for the index of an exclusion constraint."""
        node = case.node
        if not isinstance(node, ast.ReindexStmt) or is_on(node.params, "concurrently"):
            return False
        if node.kind not in (enums.ReindexObjectType.REINDEX_OBJECT_INDEX, _REINDEX_TABLE):
            return False
        table, indexes = _reindexed(case)
        if table is None or table.schema in ("pg_catalog", "pg_toast"):
            return False
        return not any(index.is_exclusion for index in indexes)

    def __init__(self, case: Case) -> None:
        self.node = case.node
        table, self.indexes = _reindexed(case)
        if table is None:
            raise AssertionError("the form does not apply")
        self.table = table

    def expand(self) -> tuple[SafeStep, ...]:
        """Return one step, and one for each invalid index, which REINDEX TABLE CONCURRENTLY skips."""
        node = changed(self.node, params=(*(self.node.params or ()), option("REINDEX (CONCURRENTLY) TABLE t")))
        steps = [self._step(printed(node), f"Rebuild the indexes of {self.table.sql} beside the old ones.")]
        if self.node.kind == _REINDEX_TABLE:
            for index in self.indexes:
                if not index.valid:
                    full = name(index.schema, index.name)
                    steps.append(self._step(f"REINDEX INDEX CONCURRENTLY {full}", f"Make {index.name} valid."))
        return tuple(steps)

    def cleanup(self) -> tuple[str, ...]:
        """Drop the remains of the rebuild."""
        return (probes.drop_reindex_leftovers(self.table),)

    def explain(self) -> str:
        """Say why."""
        return "REINDEX blocks writers, and readers that would use the index; CONCURRENTLY does not."

    def _step(self, text: str, says: str) -> SafeStep:
        left = probes.drop_reindex_leftovers(self.table)
        return SafeStep(sql=text, says=says, policy=Policy.ALONE, quick=False, leftovers=left)


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
