"""Safe forms of partitions that come (proven by a CHECK) and of DETACH PARTITION (CONCURRENTLY)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pglast
from pglast import ast, enums

from pgrunbook.database.relations import Relation
from pgrunbook.plan.step import Expansion, SafeStep
from pgrunbook.safe_forms import probes
from pgrunbook.safe_forms.constraints import not_valid, proof
from pgrunbook.safe_forms.form import Case
from pgrunbook.sql import default_names, partition_bound
from pgrunbook.sql.classify import Policy
from pgrunbook.sql.deparse import alter_table, changed, command, helper, literal, name
from pgrunbook.sql.tree import column_names


@dataclass(frozen=True)
class BoundCheck:
    """A CHECK that proves the rows of a table before a partition comes, so that none is read under its lock."""

    table: Relation
    condition: str
    helper: str

    def steps(self) -> tuple[SafeStep, SafeStep]:
        """Return the steps that add it and validate it."""
        refuses = f"Refuse rows in {self.table.sql} that would belong to another partition."
        return (
            not_valid(self.table, self.helper, f"CHECK ({self.condition})", refuses),
            proof(self.table, self.helper, f"Prove this for the existing rows of {self.table.sql}"),
        )

    def drop(self) -> str:
        """Return the statement that drops it."""
        return alter_table(self.table.identifier, f"DROP CONSTRAINT {name(self.helper)}")


def attach(case: Case) -> Expansion | None:
    """ATTACH PARTITION -> first a validated CHECK that implies the bounds; also on the default partition.

    For two existing tables; not for bounds whose condition cannot be told, as those of a default partition.
    """
    cmd = _only_command(case, enums.AlterTableType.AT_AttachPartition)
    if cmd is None or cmd.def_.bound is None:
        return None
    parent, child = case.facts.relation(case.node.relation), case.facts.relation(cmd.def_.name)
    if parent is None or not parent.is_partitioned or child is None or child.kind not in "rp":
        return None
    above, condition = _condition_above(case, parent), _condition(case, parent, cmd.def_.bound)
    # A collation in the bounds above does not survive as text: the server would not see the proof.
    if " COLLATE " in above or condition is None:
        return None
    name_ = helper(child.schema, child.name, "attach")
    proofs = [BoundCheck(child, f"{above} AND ({condition})" if above else condition, name_)]
    default = _default(case, parent)
    if default is not None:
        proofs.append(BoundCheck(default, f"NOT ({condition})", name_))
    there = changed(cmd.def_.name, schemaname=child.schema, relname=child.name)
    statement = alter_table(parent.identifier, command(changed(cmd, def_=changed(cmd.def_, name=there))))
    return _proven(
        case,
        "attach-partition",
        "ATTACH PARTITION reads all rows, also of the default partition, under a lock; a valid CHECK avoids it.",
        proofs,
        statement,
        "Attach the partition; its rows are proven, so no row is read.",
    )


def create(case: Case) -> Expansion | None:
    """CREATE TABLE ... PARTITION OF beside a default partition -> first a validated CHECK on the default partition.

    Where that has many rows, and the condition of the bounds can be told.
    """
    node = _new_partition(case)
    parent = case.facts.relation(node.inhRelations[0]) if node is not None else None
    if parent is None or not parent.is_partitioned or case.facts.relation(node.relation) is not None:
        return None
    default, condition = _default(case, parent), _condition(case, parent, node.partbound)
    if default is None or condition is None or not case.facts.has_rows_beyond(default, case.batch_rows):
        return None
    name_ = helper(default.schema, default.name, node.relation.relname)
    return _proven(
        case,
        "create-partition",
        "A new partition reads all rows of the default partition under a lock; a valid CHECK there avoids it.",
        [BoundCheck(default, f"NOT ({condition})", name_)],
        case.statement.sql,
        f"Create the partition; no row of {default.sql} belongs to it, so none is read.",
    )


def _proven(case: Case, form: str, explains: str, proofs: Sequence[BoundCheck], statement: str, says: str) -> Expansion:
    """Return the steps: prove by CHECKs, execute the statement and drop the CHECKs."""
    last = SafeStep(sql=";\n".join([statement, *(proof.drop() for proof in proofs)]), says=says)
    steps = (*(step for proof in proofs for step in proof.steps()), last)
    cleanup = tuple(probes.drop_constraint(proof.table, proof.helper) for proof in proofs)
    return Expansion(case.statement, form, explains, steps, cleanup=cleanup)


def detach(case: Case) -> Expansion | None:
    """DETACH PARTITION -> CONCURRENTLY; the CHECK that PostgreSQL leaves behind is dropped.

    Not with a default partition: PostgreSQL refuses CONCURRENTLY, and the plain form reads no rows. Until an
    interrupted detach is finished, the partition cannot be attached again.
    """
    cmd = _only_command(case, enums.AlterTableType.AT_DetachPartition)
    if cmd is None or cmd.def_.concurrent:
        return None
    parent, child = case.facts.relation(case.node.relation), case.facts.relation(cmd.def_.name)
    if parent is None or child is None or not parent.is_partitioned or not child.is_partition:
        return None
    if _default(case, parent) is not None:
        return None
    text = case.facts.rows("partition_constraint", oid=child.oid)[0]["condition"] or "true"
    columns = column_names(pglast.parse_sql(f"SELECT {text}")[0].stmt.targetList)
    taken = case.facts.constraint_names(child.schema)
    left = default_names.free_name(child.name, columns[0] if len(columns) == 1 else "", "check", taken)
    finish = probes.finalize_detach(parent.sql, child.sql)
    steps = (
        SafeStep(
            sql=alter_table(parent.identifier, f"DETACH PARTITION {child.sql} CONCURRENTLY"),
            says="Detach the partition without blocking readers and writers of the table.",
            policy=Policy.ALONE,
            quick=False,
            done=probes.none_of(probes.is_partition(child.sql)),
            leftovers=finish,
        ),
        SafeStep(
            sql=alter_table(child.identifier, f"DROP CONSTRAINT IF EXISTS {name(left)}"),
            says="Drop the CHECK that CONCURRENTLY leaves behind and the plain form does not.",
        ),
    )
    says = "DETACH PARTITION locks the whole table, for readers too; CONCURRENTLY waits for them instead."
    return Expansion(case.statement, "detach-partition", says, steps, cleanup=(finish,))


def _only_command(case: Case, subtype: Any) -> Any:
    node = case.node
    if not isinstance(node, ast.AlterTableStmt) or len(node.cmds) != 1 or node.cmds[0].subtype != subtype:
        return None
    return node.cmds[0]


def _new_partition(case: Case) -> Any:
    """Return what a statement creates, where it is a partition, else None."""
    node = getattr(case.node, "base", case.node)
    return node if isinstance(node, ast.CreateStmt) and node.partbound is not None else None


def _condition(case: Case, parent: Relation, bound: Any) -> str | None:
    """Return the condition of the bounds of a partition, None where it cannot be told."""
    key = case.facts.rows("partitioning", oid=parent.oid)[0]["key"]
    types = {column.name: column.compared_type for column in case.facts.columns(parent).values()}
    return partition_bound.proof(parent.sql, key, types, bound)


def _condition_above(case: Case, parent: Relation) -> str:
    """Return the condition that the bounds of a table and of those above it put on its partitions, "" for none."""
    text = case.facts.rows("partition_constraint", oid=parent.oid)[0]["condition"] or ""
    for row in case.facts.rows("partition_ancestors", oid=parent.oid):
        # By name: the plan is made on a branch, where a table above has another OID.
        text = text.replace(f"'{row['oid']}'::oid", f"{literal(row['name'])}::pg_catalog.regclass::pg_catalog.oid")
    return str(text)


def _default(case: Case, parent: Relation) -> Relation | None:
    """Return the default partition of a table, None where it has none."""
    row = case.facts.rows("partitioning", oid=parent.oid)[0]
    if row["default_oid"] is None:
        return None
    return Relation(row["default_oid"], row["default_schema"], row["default_name"], "r")
