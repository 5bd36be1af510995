"""Safe form of ALTER TABLE: whatever reads the table runs before or after one short ALTER TABLE.

Subcommands that only write the catalog are joined: each ALTER TABLE has to queue for the lock once more, and their
work takes no time. A subcommand that reads rows is split off: it needs its weaker lock for long.

1. Columns are added first, if the rest needs them, with whatever else only writes the catalog.
2. Columns with a default that differs by row are filled.
3. Indexes are built, NOT NULL is proven.
4. The short ALTER TABLE changes the catalog only, in one statement and one transaction.
5. Constraints that were added NOT VALID are validated.
"""

from __future__ import annotations

from typing import Any

from pglast import ast, enums

from pgrunbook.database.relations import Relation
from pgrunbook.plan.step import Expansion, SafeStep
from pgrunbook.safe_forms import add_column, probes
from pgrunbook.safe_forms.constraints import (
    Naming,
    Piece,
    add_check,
    add_foreign_key,
    add_key,
    adopt_key,
    index_columns,
    set_not_null,
    validate,
)
from pgrunbook.safe_forms.form import Case
from pgrunbook.sql.deparse import alter_table, command

A, K = enums.AlterTableType, enums.ConstrType
# As PostgreSQL itself orders the parts of one ALTER TABLE: a foreign key may need the key before it.
_ORDER = (K.CONSTR_NOTNULL, K.CONSTR_CHECK, K.CONSTR_PRIMARY, K.CONSTR_UNIQUE, K.CONSTR_FOREIGN)


def in_parts(case: Case) -> Expansion | None:
    """ALTER TABLE -> steps of which none reads rows under a lock that blocks others.

    For constraints, NOT NULL, and columns that would rewrite or read the table. Cleanup drops helper objects and
    half-built parts, last first.
    """
    node = case.node
    if not isinstance(node, ast.AlterTableStmt) or node.objtype != enums.ObjectType.OBJECT_TABLE:
        return None
    table = case.facts.relation(node.relation)
    if table is None or table.kind not in "rp" or table.is_temporary:
        return None
    if not any(_needs_form(case, table, cmd) for cmd in node.cmds):
        return None
    parts = _Parts(case, table)
    pieces = [*parts.columns, *parts.pieces]
    return Expansion(
        case.statement,
        "alter-table",
        " ".join(piece.says for piece in pieces if piece.says),
        tuple(parts.steps()),
        cleanup=tuple(query for piece in reversed(pieces) for query in piece.cleanup),
        differs=tuple(declared for piece in pieces for declared in piece.differs),
    )


class _Parts:
    """The parts of an ALTER TABLE."""

    def __init__(self, case: Case, table: Relation) -> None:
        self.case, self.table = case, table
        self.only = not case.node.relation.inh
        dropped = {cmd.name for cmd in case.node.cmds if cmd.subtype == A.AT_DropConstraint}
        self.naming = Naming(case, table, dropped)
        self.quick: list[str] = []
        self.columns: list[Piece] = []
        self.pieces: list[Piece] = []
        self.adds_columns = False
        self._take_apart()

    def steps(self) -> list[SafeStep]:
        """Return the steps in the order that the module's docstring gives."""
        quick, steps = list(self.quick), []
        if self.adds_columns:
            steps += self._short(quick, self.columns, "Add the parts that change only the catalog")
            quick = []
        steps += [step for piece in self.columns for step in piece.last]
        steps += [step for piece in self.pieces for step in piece.first]
        steps += self._short(quick, self.pieces, "Complete the change")
        return [*steps, *(step for piece in self.pieces for step in piece.last)]

    def _take_apart(self) -> None:
        constraints: list[Any] = []
        for cmd in self.case.node.cmds:
            if cmd.subtype == A.AT_AddColumn:
                self.adds_columns = True
                constraints += self._column(cmd)
            elif not _needs_form(self.case, self.table, cmd):
                self.quick.append(command(cmd))
            elif cmd.subtype == A.AT_AddConstraint:
                constraints.append(cmd.def_)
            elif cmd.subtype == A.AT_ValidateConstraint:
                self.pieces.append(validate(self.table, cmd))
            else:
                self.pieces.append(set_not_null(self.case, self.table, [cmd.name], self.naming, only=self.only))
        for constraint in sorted(constraints, key=lambda part: _ORDER.index(part.contype)):
            self.pieces.append(self._constraint(constraint))

    def _column(self, cmd: Any) -> list[Any]:
        """Split a column's definition; return the constraints that the table gets afterwards."""
        column = add_column.taken_apart(cmd)
        if add_column.differs_by_row(self.case, column):
            self.columns.append(add_column.fill(self.case, self.table, column, self.naming))
            return column.of_table
        if add_column.reads_rows(self.case, column):
            self.quick.append(add_column.add(column))
            self.columns.append(Piece(cleanup=[probes.drop_column(self.table, column.name)]))
            return column.of_table
        self.quick.append(command(cmd))
        return []

    def _constraint(self, constraint: Any) -> Piece:
        if constraint.contype == K.CONSTR_CHECK:
            return add_check(self.table, constraint, self.naming, only=self.only)
        if constraint.contype == K.CONSTR_NOTNULL:
            columns = [part.sval for part in constraint.keys]
            return set_not_null(self.case, self.table, columns, self.naming, only=self.only, named=constraint.conname)
        if constraint.contype == K.CONSTR_FOREIGN:
            return add_foreign_key(self.case, self.table, constraint, self.naming, only=self.only)
        if constraint.indexname is not None:
            return adopt_key(self.case, self.table, constraint, self.naming)
        return add_key(self.case, self.table, constraint, self.naming)

    def _short(self, quick: list[str], pieces: list[Piece], says: str) -> list[SafeStep]:
        commands = [*quick, *(text for piece in pieces for text in piece.short)]
        then = [text for piece in pieces for text in piece.then]
        if not commands:
            return []
        statement = alter_table(self.table.identifier, *commands, only=self.only)
        return [SafeStep(sql=";\n".join([statement, *then]), says=f"{says}, under a short lock; no row is read.")]


def _needs_form(case: Case, table: Relation, cmd: Any) -> bool:
    """Tell whether a subcommand reads rows under its lock."""
    match cmd.subtype:
        case A.AT_SetNotNull:
            column = case.facts.columns(table).get(cmd.name)
            settled = column is not None and (column.proven_not_null or (column.not_null and column.not_null_valid))
            return not settled
        case A.AT_ValidateConstraint:
            return True
        case A.AT_AddConstraint if _is_declared_only(case, table, cmd.def_):
            return False
        case A.AT_AddConstraint:
            return _constraint_needs_form(cmd.def_) or _adopts_nullable(case, table, cmd.def_)
        case A.AT_AddColumn:
            if cmd.missing_ok and cmd.def_.colname in case.facts.columns(table):
                return False
            return add_column.reads_rows(case, add_column.taken_apart(cmd))
    return False


def _is_declared_only(case: Case, table: Relation, constraint: Any) -> bool:
    """Tell whether a key is declared on a partitioned table ONLY: nothing is built."""
    is_key = constraint.contype in (K.CONSTR_UNIQUE, K.CONSTR_PRIMARY)
    return is_key and table.is_partitioned and not case.node.relation.inh


def _adopts_nullable(case: Case, table: Relation, constraint: Any) -> bool:
    """Tell whether a primary key adopts an index over a column that rows have to be read for: it becomes NOT NULL."""
    if constraint.contype != K.CONSTR_PRIMARY or constraint.indexname is None or table.is_partitioned:
        return False
    columns = case.facts.columns(table)
    keys = index_columns(case, table, constraint.indexname)
    return any(not (columns[key].not_null and columns[key].not_null_valid) for key in keys if key in columns)


def _constraint_needs_form(constraint: Any) -> bool:
    match constraint.contype:
        case K.CONSTR_CHECK | K.CONSTR_FOREIGN:
            return not constraint.skip_validation and constraint.is_enforced is not False
        case K.CONSTR_NOTNULL:
            return not constraint.skip_validation
        case K.CONSTR_UNIQUE | K.CONSTR_PRIMARY:
            return constraint.indexname is None and not constraint.without_overlaps
    return False
