"""The gate of a change of type: one judge with the review, and where a branch is at hand the server's own word.

1. ``effects`` tells by text and catalog what is written anew: the table, single indexes, or nothing; and what is read.
2. On a branch the change is made and taken back: a table or an index with another file was written anew.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import psycopg
from pglast import enums

from pgrunbook.database import catalog_reader
from pgrunbook.database.relations import Relation
from pgrunbook.effects.statements import effects
from pgrunbook.plan.step import Gate
from pgrunbook.safe_forms.form import Case
from pgrunbook.sql.deparse import alter_table, changed, command
from pgrunbook.sql.tree import text

A = enums.AlterTableType
_READ = "all rows are read for the CHECK or key over it"
_BESIDE_IT = "Add a column of the new type, keep both equal with a trigger, fill it in batches, then swap the names."
_ANEW = (
    "Drop the index, CHECK or key first, and make it again afterwards: an index CONCURRENTLY, a CHECK or a foreign key"
    " NOT VALID, then VALIDATE CONSTRAINT. Or add a column of the new type beside it."
)
# What a change of type may need beside it in the same statement.
_BESIDE = (A.AT_AlterColumnType, A.AT_ColumnDefault, A.AT_DropConstraint, A.AT_DropExpression, A.AT_DropIdentity)


@dataclass(frozen=True)
class _Cost:
    """What a change of type writes anew and reads, of the table and the tables below it."""

    rewrites: bool
    rebuilds: list[str]
    reads: bool


def find(case: Case, table: Relation) -> Gate | None:
    """Return the gate of an ALTER TABLE that changes types, None where only the catalog changes.

    Locks: on a branch AccessExclusiveLock on the table, in a transaction that is rolled back.
    """
    changes = [cmd for cmd in case.node.cmds if cmd.subtype == A.AT_AlterColumnType]
    names = ", ".join(cmd.name for cmd in changes)
    if table.kind == "c":
        return _gate(f"code that reads {names} of type {table.sql} gets another type as soon as it commits", _BESIDE_IT)
    cost = (_tried(case, table) if case.is_branch else None) or _told(case, changes)
    if cost.rewrites:
        return _gate(
            f"the new type of {names} rewrites every row and every index of the table under the lock", _BESIDE_IT
        )
    if not cost.reads or not case.facts.has_rows_beyond(table, case.batch_rows):
        return None
    are = "is" if len(cost.rebuilds) == 1 else "are"
    what = f"{', '.join(cost.rebuilds)} {are} built again" if cost.rebuilds else _READ
    return _gate(f"with the new type of {names} {what} while readers and writers of the table wait", _ANEW)


def _gate(says: str, how: str) -> Gate:
    return Gate(id="type-change", says=says, procedure="expand and contract", how=how)


def _told(case: Case, changes: list[Any]) -> _Cost:
    """Return what the review says of the changes of type alone."""
    node = changed(case.node, cmds=tuple(changes))
    told = effects(node, catalog_reader.read(case.facts.conn, [replace(case.statement, sql=text(node))]))
    return _Cost(bool(told.rewrites), list(told.rebuilds), bool(told.scans))


def _tried(case: Case, table: Relation) -> _Cost | None:
    """Make the change on the branch and take it back.

    None where the branch refuses it: what is wrong comes out when the statement is executed there.
    """
    conn, facts = case.facts.conn, case.facts
    beside = [command(cmd) for cmd in case.node.cmds if cmd.subtype in _BESIDE]
    statement = alter_table(table.identifier, *beside, only=not case.node.relation.inh)
    try:
        with conn.transaction(force_rollback=True):
            before = facts.rows("files", oid=table.oid)
            with conn.as_target():
                conn.execute(statement.encode())
            after = {row["name"]: row for row in facts.rows("files", oid=table.oid)}
    except psycopg.Error:
        return None
    pairs = [(row, after.get(row["name"], row)) for row in before]
    new = [row for row, now in pairs if now["file"] != row["file"]]
    return _Cost(
        any(not row["is_index"] for row in new),
        [row["name"] for row in new if row["is_index"]],
        any(now["scans"] > row["scans"] for row, now in pairs),
    )
