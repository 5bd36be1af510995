"""Safe forms of ATTACH PARTITION (proven by a CHECK) and DETACH PARTITION (CONCURRENTLY)."""

from __future__ import annotations

from typing import Any

import pglast
from pglast import ast, enums

from pgrunbook.database.relations import Relation
from pgrunbook.plan.declared import Declared
from pgrunbook.plan.step import SafeStep
from pgrunbook.safe_forms import probes
from pgrunbook.safe_forms.form import Case
from pgrunbook.sql import default_names
from pgrunbook.sql.classify import Policy
from pgrunbook.sql.deparse import alter_table, changed, command, expression, helper, literal, name, parsed
from pgrunbook.sql.tree import column_names

_INFINITE = ("minvalue", "maxvalue")


class AttachPartition:
    """ATTACH PARTITION -> first a validated CHECK that implies the bounds; also on the default partition."""

    name = "attach-partition"
    differs: tuple[Declared, ...] = ()

    @classmethod
    def applies(cls, case: Case) -> bool:
        """For two existing tables; not for a default partition, whose condition is not known in advance."""
        cmd = _only_command(case, enums.AlterTableType.AT_AttachPartition)
        if cmd is None or cmd.def_.bound is None or cmd.def_.bound.is_default:
            return False
        parent, child = case.facts.relation(case.node.relation), case.facts.relation(cmd.def_.name)
        return parent is not None and parent.is_partitioned and child is not None and child.kind in "rp"

    def __init__(self, case: Case) -> None:
        self.cmd = _only_command(case, enums.AlterTableType.AT_AttachPartition)
        parent, child = case.facts.relation(case.node.relation), case.facts.relation(self.cmd.def_.name)
        if parent is None or child is None:
            raise AssertionError("the form does not apply")
        self.parent, self.child = parent, child
        row = case.facts.rows("partitioning", oid=parent.oid)[0]
        types = {column.name: column.type for column in case.facts.columns(parent).values()}
        condition = bound_condition(parent.sql, row["key"], types, self.cmd.def_.bound)
        self.helper = helper(child.schema, child.name, "attach")
        self.checks = [(child, condition)]
        if row["default_oid"] is not None:
            default = Relation(row["default_oid"], row["default_schema"], row["default_name"], "r")
            self.checks.append((default, f"NOT ({condition})"))

    def expand(self) -> tuple[SafeStep, ...]:
        """Return the steps: prove by a CHECK, attach, drop the CHECK."""
        steps: list[SafeStep] = []
        for table, condition in self.checks:
            steps += [
                SafeStep(
                    sql=alter_table(
                        table.identifier, f"ADD CONSTRAINT {name(self.helper)} CHECK ({condition}) NOT VALID"
                    ),
                    says=f"Refuse rows in {table.sql} that would belong to another partition.",
                ),
                SafeStep(
                    sql=alter_table(table.identifier, f"VALIDATE CONSTRAINT {name(self.helper)}"),
                    says=f"Prove this for the existing rows of {table.sql}; reads and writes go on.",
                    quick=False,
                ),
            ]
        there = changed(self.cmd.def_.name, schemaname=self.child.schema, relname=self.child.name)
        attach = command(changed(self.cmd, def_=changed(self.cmd.def_, name=there)))
        drops = [alter_table(t.identifier, f"DROP CONSTRAINT {name(self.helper)}") for t, _ in self.checks]
        steps.append(
            SafeStep(
                sql=";\n".join([alter_table(self.parent.identifier, attach), *drops]),
                says="Attach the partition; its rows are proven, so no row is read.",
            )
        )
        return tuple(steps)

    def cleanup(self) -> tuple[str, ...]:
        """Drop the CHECKs."""
        return tuple(probes.drop_constraint(table, self.helper) for table, _ in self.checks)

    def explain(self) -> str:
        """Say why."""
        return "ATTACH PARTITION reads all rows, also of the default partition, under a lock; a valid CHECK avoids it."


class DetachPartition:
    """DETACH PARTITION -> CONCURRENTLY; the CHECK that PostgreSQL leaves behind is dropped."""

    name = "detach-partition"
    differs: tuple[Declared, ...] = ()

    @classmethod
    def applies(cls, case: Case) -> bool:
        """Not with a default partition: PostgreSQL refuses CONCURRENTLY, and the plain form reads no rows."""
        cmd = _only_command(case, enums.AlterTableType.AT_DetachPartition)
        if cmd is None or cmd.def_.concurrent:
            return False
        parent, child = case.facts.relation(case.node.relation), case.facts.relation(cmd.def_.name)
        if parent is None or child is None or not parent.is_partitioned or not child.is_partition:
            return False
        return case.facts.rows("partitioning", oid=parent.oid)[0]["default_oid"] is None

    def __init__(self, case: Case) -> None:
        cmd = _only_command(case, enums.AlterTableType.AT_DetachPartition)
        parent, child = case.facts.relation(case.node.relation), case.facts.relation(cmd.def_.name)
        if parent is None or child is None:
            raise AssertionError("the form does not apply")
        self.parent, self.child = parent, child
        text = case.facts.rows("partition_constraint", oid=child.oid)[0]["condition"] or "true"
        columns = column_names(pglast.parse_sql(f"SELECT {text}")[0].stmt.targetList)
        taken = case.facts.constraint_names(child.schema)
        self.left = default_names.free_name(child.name, columns[0] if len(columns) == 1 else "", "check", taken)

    def expand(self) -> tuple[SafeStep, ...]:
        """Return two steps."""
        child = self.child
        return (
            SafeStep(
                sql=alter_table(self.parent.identifier, f"DETACH PARTITION {child.sql} CONCURRENTLY"),
                says="Detach the partition without blocking readers and writers of the table.",
                policy=Policy.ALONE,
                quick=False,
                done=probes.none_of(probes.is_partition(child)),
                leftovers=probes.finalize_detach(self.parent, child),
            ),
            SafeStep(
                sql=alter_table(child.identifier, f"DROP CONSTRAINT IF EXISTS {name(self.left)}"),
                says="Drop the CHECK that CONCURRENTLY leaves behind and the plain form does not.",
            ),
        )

    def cleanup(self) -> tuple[str, ...]:
        """Finish an interrupted detach: until then the partition cannot be attached again."""
        return (probes.finalize_detach(self.parent, self.child),)

    def explain(self) -> str:
        """Say why."""
        return "DETACH PARTITION locks the whole table, for readers too; CONCURRENTLY waits for them instead."


def _only_command(case: Case, subtype: Any) -> Any:
    node = case.node
    if not isinstance(node, ast.AlterTableStmt) or len(node.cmds) != 1 or node.cmds[0].subtype != subtype:
        return None
    return node.cmds[0]


def bound_condition(parent: str, key: str, types: dict[str, str], bound: Any) -> str:
    """Return the condition that PostgreSQL derives from a partition's bounds, in its own words.

    Equal in structure, or the server would not see that the CHECK proves it and would read the rows again.
    """
    spec = parsed(f"CREATE TABLE t (a int) PARTITION BY {key}").partspec
    parts = [name(param.name) if param.name else f"({expression(param.expr)})" for param in spec.partParams]
    casts = [types.get(param.name, "") if param.name else "" for param in spec.partParams]
    if bound.strategy == "h":
        # By name: the plan is made on a branch, where the parent has another OID.
        whose = f"{literal(parent)}::pg_catalog.regclass::pg_catalog.oid"
        of = ", ".join(parts)
        return f"pg_catalog.satisfies_hash_partition({whose}, {bound.modulus}, {bound.remainder}, {of})"
    if bound.strategy == "l":
        return _list_condition(parts[0], casts[0], bound.listdatums)
    lower = [_value(datum, cast) for datum, cast in zip(bound.lowerdatums, casts, strict=True)]
    upper = [_value(datum, cast) for datum, cast in zip(bound.upperdatums, casts, strict=True)]
    return _range_condition(parts, lower, upper)


def _list_condition(part: str, cast: str, datums: Any) -> str:
    values = [_value(datum, cast) for datum in datums]
    known = [value for value in values if value is not None]
    if not known:
        return f"{part} IS NULL"
    test = f"{part} = {known[0]}" if len(known) == 1 else f"{part} = ANY (ARRAY[{', '.join(known)}])"
    return f"{part} IS NULL OR {test}" if len(known) < len(values) else f"{part} IS NOT NULL AND {test}"


def _range_condition(parts: list[str], lower: list[str | None], upper: list[str | None]) -> str:
    conditions = [f"{part} IS NOT NULL" for part in parts]
    same = 0
    while same < len(parts) and lower[same] == upper[same] and lower[same] not in (None, *_INFINITE):
        conditions.append(f"{parts[same]} = {lower[same]}")
        same += 1
    for bound, strict, loose, stop in ((lower, ">", ">=", "minvalue"), (upper, "<", "<=", "maxvalue")):
        arms = _arms(parts[same:], bound[same:], strict, loose, stop)
        if arms:
            conditions.append("(" + " OR ".join(arms) + ")")
    return " AND ".join(conditions)


def _arms(parts: list[str], bound: list[str | None], strict: str, loose: str, stop: str) -> list[str]:
    """Return the alternatives that put a key on the right side of a bound: equal so far, then beyond."""
    arms: list[str] = []
    for place, value in enumerate(bound):
        if value in _INFINITE:
            break
        following = bound[place + 1] if place + 1 < len(bound) else None
        # A lower bound includes its value, an upper bound does not, unless the next column is unbounded.
        is_last = place + 1 == len(bound)
        operator = loose if (is_last and stop == "minvalue") or following == stop else strict
        equal = [f"{parts[i]} = {bound[i]}" for i in range(place)]
        arms.append("(" + " AND ".join([*equal, f"{parts[place]} {operator} {value}"]) + ")")
        if following in _INFINITE:
            break
    return arms


def _value(datum: Any, cast: str) -> str | None:
    """Return a bound as SQL, "minvalue" or "maxvalue", or None for NULL."""
    if isinstance(datum, ast.PartitionRangeDatum):
        datum = datum.value
    if isinstance(datum, ast.ColumnRef) and datum.fields[-1].sval in _INFINITE:
        return str(datum.fields[-1].sval)
    if isinstance(datum, ast.A_Const) and datum.isnull:
        return None
    text = expression(datum)
    return f"CAST({text} AS {cast})" if cast else text
