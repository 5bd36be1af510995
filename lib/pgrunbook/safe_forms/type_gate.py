"""The gate of a change of type that has no safe form."""

from __future__ import annotations

from pglast import enums

from pgrunbook.database.relations import Relation
from pgrunbook.plan.step import Gate
from pgrunbook.safe_forms import shadow_column, small_table, type_cost, type_parts
from pgrunbook.safe_forms.form import Case

A = enums.AlterTableType
_READ = "all rows are read for the CHECK or key over it"
_BESIDE_IT = "Add a column of the new type, keep both equal with a trigger, fill it in batches, then swap the names."
_ANEW = (
    "Drop the index, CHECK or key first, and make it again afterwards: an index CONCURRENTLY, a CHECK or a foreign key"
    " NOT VALID, then VALIDATE CONSTRAINT. Or add a column of the new type beside it."
)


def find(case: Case, table: Relation) -> Gate | None:
    """Return the gate of an ALTER TABLE that changes types, None where only the catalog changes.

    Locks: on a branch AccessExclusiveLock on the table, in a transaction that is rolled back.
    """
    changes = [cmd for cmd in case.node.cmds if cmd.subtype == A.AT_AlterColumnType]
    names = ", ".join(cmd.name for cmd in changes)
    if table.kind == "c":
        return _gate(f"code that reads {names} of type {table.sql} gets another type as soon as it commits", _BESIDE_IT)
    cost = type_cost.of(case, table)
    if cost.rewrites:
        if shadow_column.taken_back(case) or (
            small_table.changed_table(case) is not None and small_table.is_small(case, table)
        ):
            return None
        form = type_parts.parts(case)
        if isinstance(form, list):
            return None
        because = f" ({form})" if form else ""
        return _gate(
            f"the new type of {names} rewrites every row and every index of the table under the lock{because}",
            _BESIDE_IT,
        )
    if not cost.reads or not case.facts.has_rows_beyond(table, case.batch_rows):
        return None
    are = "is" if len(cost.rebuilds) == 1 else "are"
    what = f"{', '.join(cost.rebuilds)} {are} built again" if cost.rebuilds else _READ
    return _gate(f"with the new type of {names} {what} while readers and writers of the table wait", _ANEW)


def _gate(says: str, how: str) -> Gate:
    return Gate(id="type-change", says=says, procedure="expand and contract", how=how)
