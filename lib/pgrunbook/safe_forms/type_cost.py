"""What a change of type writes anew and reads: one judge with the review, and on a branch the server's own word.

1. ``effects`` tells by text and catalog what is written anew: the table, single indexes, or nothing; and what is read.
2. On a branch the change is made and taken back: a table or an index with another file was written anew.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import psycopg
from pglast import enums

from pgrunbook.database import catalog_reader, publications
from pgrunbook.database.publications import LISTS_SINCE
from pgrunbook.database.relations import Relation
from pgrunbook.effects.statements import effects
from pgrunbook.safe_forms.form import Case
from pgrunbook.sql.deparse import alter_table, changed, command
from pgrunbook.sql.tree import text

A = enums.AlterTableType
# What a change of type may need beside it in the same statement.
_BESIDE = (A.AT_AlterColumnType, A.AT_ColumnDefault, A.AT_DropConstraint, A.AT_DropExpression, A.AT_DropIdentity)


@dataclass(frozen=True)
class TypeCost:
    """What a change of type writes anew and reads, of the table and the tables below it."""

    rewrites: bool
    rebuilds: list[str]
    reads: bool


def of(case: Case, table: Relation) -> TypeCost:
    """Return what the changes of type of an ALTER TABLE cost.

    Locks: on a branch AccessExclusiveLock on the table, in a transaction that is rolled back.
    """
    return (_tried(case, table) if case.is_branch else None) or _told(case)


def _told(case: Case) -> TypeCost:
    """Return what the review says of the changes of type alone."""
    changes = tuple(cmd for cmd in case.node.cmds if cmd.subtype == A.AT_AlterColumnType)
    node = changed(case.node, cmds=changes)
    told = effects(node, catalog_reader.read(case.facts.conn, [replace(case.statement, sql=text(node))]))
    return TypeCost(bool(told.rewrites), list(told.rebuilds), bool(told.scans))


def _tried(case: Case, table: Relation) -> TypeCost | None:
    """Make the change on the branch and take it back.

    None where the branch refuses it: what is wrong comes out when the statement is executed there.
    """
    conn, facts = case.facts.conn, case.facts
    beside = [command(cmd) for cmd in case.node.cmds if cmd.subtype in _BESIDE]
    statement = alter_table(table.identifier, *beside, only=not case.node.relation.inh)
    try:
        with conn.transaction(force_rollback=True):
            before = facts.rows("files", oid=table.oid)
            if facts.version >= LISTS_SINCE:
                conn.execute(publications.taken_out(table, [cmd.name for cmd in case.node.cmds if cmd.name]).encode())
            with conn.as_target():
                conn.execute(statement.encode())
            after = {row["name"]: row for row in facts.rows("files", oid=table.oid)}
    except psycopg.Error:
        return None
    pairs = [(row, after.get(row["name"], row)) for row in before]
    new = [row for row, now in pairs if now["file"] != row["file"]]
    return TypeCost(
        any(not row["is_index"] for row in new),
        [row["name"] for row in new if row["is_index"]],
        any(now["scans"] > row["scans"] for row, now in pairs),
    )
