"""What an ALTER TABLE does beside its changes of type, in the order in which PostgreSQL does it.

PostgreSQL goes through one ALTER TABLE in passes: what it drops, the types, the columns that it adds, NOT NULL, then
constraints and defaults, whatever order they are written in. So:

1. What reads rows of other columns (NOT NULL, a column whose values differ by row) comes before the columns are moved.
2. Keys, CHECKs and foreign keys that are dropped are taken off in the cut-over, and those that are added are made for
   the columns that come, and proven before it.
3. What only writes the catalog is the last part of the cut-over.

Source: https://www.postgresql.org/docs/current/sql-altertable.html; ATPrepCmd in tablecmds.c
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pglast import enums

from pgrunbook.database import column_dependents
from pgrunbook.database.column_dependents import ConstraintOn, IndexOn
from pgrunbook.database.relations import CatalogConstraint, Column, Relation, constraints_of
from pgrunbook.plan.declared import Declared
from pgrunbook.plan.step import SafeStep
from pgrunbook.safe_forms import add_column, alter_table, probes
from pgrunbook.safe_forms.constraints import NOT_NULL_IS_A_CONSTRAINT, Naming
from pgrunbook.safe_forms.form import Case, Memory
from pgrunbook.safe_forms.hung import Hung
from pgrunbook.sql import deparse
from pgrunbook.sql.deparse import changed, command, helper, name, parsed
from pgrunbook.sql.tree import column_names, strings, subcommand

A, K = enums.AlterTableType, enums.ConstrType


@dataclass
class SideChanges:
    """``not_null`` is what changed columns become; ``gone`` is taken off the table, ``added`` is put on it.

    ``columns`` are those that it gets. ``first`` are steps before the columns are moved, ``last`` subcommands at the
    end of the cut-over. ``back_first`` and ``back_last`` are the same for the way back, ``back_then`` statements behind
    these.
    """

    not_null: dict[str, bool] = field(default_factory=dict)
    gone: Hung = field(default_factory=Hung)
    added: Hung = field(default_factory=Hung)
    columns: list[str] = field(default_factory=list)
    first: list[SafeStep] = field(default_factory=list)
    last: list[str] = field(default_factory=list)
    back_first: list[SafeStep] = field(default_factory=list)
    back_last: list[str] = field(default_factory=list)
    back_then: list[str] = field(default_factory=list)
    cleanup: list[str] = field(default_factory=list)
    back_cleanup: list[str] = field(default_factory=list)
    differs: list[Declared] = field(default_factory=list)


def read(case: Case, table: Relation, changes: Mapping[str, Any], cmds: Sequence[Any]) -> SideChanges | str:
    """Return what these subcommands do beside changes of type (by column), or why they cannot stand beside them."""
    apart = Memory({schema: set(taken) for schema, taken in case.memory.names.items()}, set(case.memory.not_null))
    reader = _Reader(replace(case, memory=apart), table, changes, cmds)  # it is read more than once
    for cmd in cmds:
        if because := reader.take(cmd):
            return because
    return reader.ended()


class _Reader:
    """Takes one subcommand after the other."""

    def __init__(self, case: Case, table: Relation, changes: Mapping[str, Any], cmds: Sequence[Any]) -> None:
        self.case, self.table, self.changes = case, table, changes
        self.columns: Mapping[str, Column] = case.facts.columns(table)
        self.constraints = {
            each.name: each for each in constraints_of(case.facts.conn, [table.oid], locks=False)[table.oid]
        }
        self.dropped = {cmd.name for cmd in cmds if cmd.subtype == A.AT_DropConstraint}
        self.naming = Naming(case, table, self.dropped)
        self.made, self.slow = SideChanges(), list[Any]()

    def take(self, cmd: Any) -> str:
        """Take a subcommand; return why it cannot stand beside a change of type, "" where it can."""
        look = {
            A.AT_SetNotNull: self._set_not_null, A.AT_DropNotNull: self._drop_not_null,
            A.AT_ColumnDefault: self._default, A.AT_SetStatistics: self._statistics,
            A.AT_DropIdentity: self._not_there, A.AT_DropExpression: self._not_there,
            A.AT_AddColumn: self._add_column, A.AT_DropConstraint: self._drop_constraint,
            A.AT_AddConstraint: self._add_constraint,
        }.get(cmd.subtype)  # fmt: skip
        return _other(cmd) if look is None else look(cmd)

    def ended(self) -> SideChanges:
        """Return all of it, with the steps for what reads rows of other columns."""
        made = self.made
        if self.slow:
            node = changed(self.case.node, cmds=tuple(self.slow))
            form = alter_table.in_parts(replace(self.case, node=node))
            if form is None:
                raise AssertionError("what reads rows has a form")
            made.first += form.steps
            made.cleanup += form.cleanup
            made.differs += form.differs
        return made

    def _set_not_null(self, cmd: Any) -> str:
        column = self.columns.get(cmd.name)
        if column is None:
            return _other(cmd)
        if cmd.name in self.changes:
            if column.identity is None:
                self.made.not_null[cmd.name] = True  # PostgreSQL sets it behind what drops it
        elif not column.not_null:
            self.slow.append(cmd)
            self.made.cleanup.append(probes.drop_not_null(self.table, cmd.name))
            self.made.back_last.append(f"ALTER COLUMN {name(cmd.name)} DROP NOT NULL")
        return ""

    def _drop_not_null(self, cmd: Any) -> str:
        column = self.columns.get(cmd.name)
        if column is None or column.identity is not None:
            return _other(cmd)
        if cmd.name in self.changes:
            self.made.not_null.setdefault(cmd.name, False)
        elif column.not_null:
            self.made.last.append(command(cmd))
            self._not_null_again(column)
        return ""

    def _not_null_again(self, column: Column) -> None:
        """Plan NOT NULL for the way back: proven before the cut-over."""
        made, is_named = self.made, self.case.facts.version >= NOT_NULL_IS_A_CONSTRAINT and column.not_null_name
        conname = str(column.not_null_name) if is_named else self._helper(column.name, "not null")
        what = f"NOT NULL {name(column.name)}" if is_named else f"CHECK ({name(column.name)} IS DISTINCT FROM NULL)"
        added = f"ADD CONSTRAINT {name(conname)} {what} NOT VALID"
        made.back_first += [
            SafeStep(self._alter(added), f"New rows have a value in {column.name} again; no row is read."),
            SafeStep(
                self._alter(f"VALIDATE CONSTRAINT {name(conname)}"),
                f"Prove that each row has a value in {column.name}; reads and writes go on.",
                quick=False,
            ),
        ]
        made.back_cleanup.append(probes.drop_constraint(self.table, conname))
        if not is_named:
            made.back_last.append(f"ALTER COLUMN {name(column.name)} SET NOT NULL")
            made.back_then.append(self._alter(f"DROP CONSTRAINT {name(conname)}"))

    def _default(self, cmd: Any) -> str:
        column = self.columns.get(cmd.name)
        if column is None or column.generated:
            return _other(cmd)
        self.made.last.append(command(cmd))
        was = f"SET DEFAULT {column.default}" if column.default is not None else "DROP DEFAULT"
        self.made.back_last.append(f"ALTER COLUMN {name(cmd.name)} {was}")
        return ""

    def _statistics(self, cmd: Any) -> str:
        column = self.columns.get(cmd.name or "")
        if column is None:
            return _other(cmd)
        self.made.last.append(command(cmd))
        if cmd.name not in self.changes:  # the old column of those has kept its own
            self.made.back_last.append(f"ALTER COLUMN {name(cmd.name)} SET STATISTICS {column.statistics}")
        return ""

    def _not_there(self, cmd: Any) -> str:
        """DROP IDENTITY IF EXISTS and DROP EXPRESSION IF EXISTS of a column that has none, as Laravel writes it."""
        column = self.columns.get(cmd.name)
        is_none = column is not None and column.identity is None and not column.generated
        return "" if is_none and cmd.missing_ok else _other(cmd)

    def _add_column(self, cmd: Any) -> str:
        column = add_column.taken_apart(cmd)
        if column.name in self.columns:
            return "" if cmd.missing_ok else _other(cmd)
        if column.generated is not None or column.of_table:
            return _other(cmd, " with a constraint or GENERATED")
        if add_column.reads_rows(self.case, column):
            self.slow.append(cmd)
        else:
            self.made.last.append(command(cmd))
        self.made.columns.append(column.name)
        self.made.back_last.append(f"DROP COLUMN {name(column.name)}")
        return ""

    def _drop_constraint(self, cmd: Any) -> str:
        one = self.constraints.get(cmd.name)
        if one is None:
            return "" if cmd.missing_ok else _other(cmd)
        found = self._hung(one)
        if found is None or cmd.behavior == enums.DropBehavior.DROP_CASCADE:
            return _other(cmd)
        self.made.gone = self.made.gone.beside(found)
        return ""

    def _hung(self, one: CatalogConstraint) -> Hung | None:
        """Return a constraint of the table as it hangs on its columns, None for one that is not carried over."""
        if one.kind not in "cfpu" or not one.columns or not one.enforced or (one.kind in "pu" and one.deferrable):
            return None
        on = column_dependents.read(self.case.facts.conn, self.table, self.columns[one.columns[0]])
        ours = (self.table.schema, self.table.name, one.name)
        constraints = tuple(each for each in on.constraints if (each.schema, each.table, each.name) == ours)
        indexes = tuple(each for each in on.indexes if each.constraint_kind and each.name == one.name)
        return Hung(indexes, constraints) if indexes or constraints else None

    def _add_constraint(self, cmd: Any) -> str:
        constraint = cmd.def_
        made: Hung | None = None
        if constraint.contype == K.CONSTR_CHECK and constraint.is_enforced is not False:
            made = self._check(constraint)
        elif constraint.contype == K.CONSTR_FOREIGN and constraint.is_enforced is not False:
            made = self._foreign_key(constraint)
        elif constraint.contype in (K.CONSTR_UNIQUE, K.CONSTR_PRIMARY):
            made = self._key(constraint)
        if made is None:
            return _other(cmd)
        self.made.added = self.made.added.beside(made)
        return ""

    def _check(self, constraint: Any) -> Hung | None:
        columns = column_names(constraint.raw_expr)
        if not set(columns) <= self.columns.keys():
            return None  # of a column that is added, or of the whole row
        conname = constraint.conname or self.naming.constraint(columns if len(columns) == 1 else [], "check")
        return Hung(constraints=(self._constraint(constraint, conname, "c", None),))

    def _foreign_key(self, constraint: Any) -> Hung | None:
        columns, partner = strings(constraint.fk_attrs), self.case.facts.relation(constraint.pktable)
        if partner is None or partner.kind != "r" or not set(columns) <= self.columns.keys():
            return None
        there = changed(constraint.pktable, schemaname=partner.schema, relname=partner.name)
        conname = constraint.conname or self.naming.constraint(columns, "fkey")
        return Hung(constraints=(self._constraint(changed(constraint, pktable=there), conname, "f", partner),))

    def _constraint(self, constraint: Any, conname: str, kind: str, partner: Relation | None) -> ConstraintOn:
        node = changed(constraint, conname=None)
        definition = command(changed(_ADD, def_=node)).removeprefix("ADD ")
        schema, table = (partner.schema, partner.name) if partner is not None else (None, None)
        is_valid, own = not constraint.skip_validation, self.table
        return ConstraintOn(conname, kind, definition, is_valid, own.schema, own.name, schema, table, None)

    def _key(self, constraint: Any) -> Hung | None:
        keys, included = strings(constraint.keys), strings(constraint.including)
        is_plain = not (
            constraint.deferrable or constraint.indexname or constraint.options or constraint.indexspace
            or constraint.without_overlaps
        )  # fmt: skip
        if not is_plain or not {*keys, *included} <= self.columns.keys():
            return None
        is_primary = constraint.contype == K.CONSTR_PRIMARY
        if is_primary and not all(self.columns[key].not_null for key in keys):
            return None
        conname = constraint.conname or self.naming.relation(
            *(((), "pkey") if is_primary else (keys + included, "key"))
        )
        text = f"CREATE UNIQUE INDEX {name(conname)} ON {self.table.sql} ({', '.join(map(name, keys))})"
        text += f" INCLUDE ({', '.join(map(name, included))})" if included else ""
        text += " NULLS NOT DISTINCT" if constraint.nulls_not_distinct else ""
        kind = "p" if is_primary else "u"
        return Hung((IndexOn(self.table.schema, conname, text, None, kind, False, False, None, None),))

    def _helper(self, *about: str) -> str:
        return helper(self.table.schema, self.table.name, *about)

    def _alter(self, clause: str) -> str:
        return deparse.alter_table(self.table.identifier, clause)


def _other(cmd: Any, more: str = "") -> str:
    """Return why a subcommand cannot stand beside a change of type."""
    words = re.sub(r"(?<!^)(?=[A-Z])", " ", subcommand(cmd)).upper()
    return f"{words}{more} stands beside it: give each change of type a statement of its own"


_ADD = parsed("ALTER TABLE t ADD CHECK (true)").cmds[0]
