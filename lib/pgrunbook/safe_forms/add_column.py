"""Safe form of ADD COLUMN whose default differs from row to row, or whose constraints read the whole table."""

# ruff: noqa: S608 - the statements are made of quoted names

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from pglast import ast, enums

from pgrunbook.database.relations import Relation
from pgrunbook.plan.declared import Declared
from pgrunbook.plan.step import RANGE, SafeStep
from pgrunbook.safe_forms import probes
from pgrunbook.safe_forms.constraints import Naming, Piece, set_not_null
from pgrunbook.safe_forms.form import Case
from pgrunbook.safe_forms.tracked_loop import TrackedLoop
from pgrunbook.sql.deparse import (
    alter_table,
    changed,
    command,
    expression,
    helper,
    literal,
    name,
    option,
    parsed,
    printed,
)
from pgrunbook.sql.serial import SERIAL

K = enums.ConstrType
_ON_THE_TABLE = (K.CONSTR_CHECK, K.CONSTR_UNIQUE, K.CONSTR_PRIMARY, K.CONSTR_FOREIGN)
_ATTRIBUTES = {
    K.CONSTR_ATTR_DEFERRABLE: {"deferrable": True},
    K.CONSTR_ATTR_DEFERRED: {"deferrable": True, "initdeferred": True},
    K.CONSTR_ATTR_NOT_DEFERRABLE: {},
    K.CONSTR_ATTR_IMMEDIATE: {},
    K.CONSTR_ATTR_ENFORCED: {},
    K.CONSTR_ATTR_NOT_ENFORCED: {"is_enforced": False, "skip_validation": True},
}


@dataclass
class ColumnDefinition:
    """A column definition in parts: those that stay with the column, and those that become the table's."""

    cmd: Any
    default: Any = None
    not_null: Any = None
    identity: Any = None
    generated: Any = None
    kept: list[Any] = field(default_factory=list)
    of_table: list[Any] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The column's name."""
        return str(self.cmd.def_.colname)

    @property
    def serial(self) -> str:
        """The type behind serial, "" for any other."""
        names = self.cmd.def_.typeName.names
        return SERIAL.get(names[-1].sval, "") if len(names) == 1 else ""


def taken_apart(cmd: Any) -> ColumnDefinition:
    """Return a column definition in parts."""
    column = ColumnDefinition(cmd)
    for constraint in cmd.def_.constraints or ():
        kind = constraint.contype
        if kind in _ATTRIBUTES and column.of_table:
            column.of_table[-1] = changed(column.of_table[-1], **_ATTRIBUTES[kind])
        elif kind in _ON_THE_TABLE:
            column.of_table.append(_of_table(constraint, column.name))
        elif kind == K.CONSTR_DEFAULT:
            column.default = constraint.raw_expr
        elif kind == K.CONSTR_NOTNULL:
            column.not_null = constraint
        elif kind == K.CONSTR_IDENTITY:
            column.identity = constraint
        elif kind == K.CONSTR_GENERATED:
            column.generated = constraint
        else:
            column.kept.append(constraint)
    return column


def differs_by_row(case: Case, column: ColumnDefinition) -> bool:
    """Tell whether each row gets a value of its own, so that plain ADD COLUMN rewrites the table."""
    if column.serial or column.identity is not None:
        return True
    return column.default is not None and case.facts.volatile(column.default)


def reads_rows(case: Case, column: ColumnDefinition) -> bool:
    """Tell whether adding the column reads or rewrites the whole table."""
    if differs_by_row(case, column):
        return True
    # A foreign key of a column that is NULL everywhere is not checked, nor what is NOT ENFORCED; everything else is.
    checked = (part for part in column.of_table if not part.skip_validation)
    return any(part.contype != K.CONSTR_FOREIGN or column.default is not None for part in checked)


def add(column: ColumnDefinition, without: Collection[Any] = ()) -> str:
    """Return ADD COLUMN without the constraints that the table gets afterwards, nor those named."""
    gone = {*_ON_THE_TABLE, *_ATTRIBUTES, *(part.contype for part in without)}
    kept = tuple(part for part in column.cmd.def_.constraints or () if part.contype not in gone)
    return command(changed(column.cmd, def_=changed(column.cmd.def_, constraints=kept or None)))


def fill(case: Case, table: Relation, column: ColumnDefinition, naming: Naming) -> Piece:
    """Split a column with a volatile default: add it without, set the default for new rows, fill it in batches."""
    bare = changed(column.cmd.def_, constraints=tuple(column.kept) or None)
    if column.serial:
        bare = changed(bare, typeName=_type(column.serial))
    quoted = name(column.name)
    default, made, swap = _default(table, column, naming)
    piece = Piece(says=f"{column.name} is added empty, gets its default for new rows, and is filled in batches.")
    piece.short = [command(changed(column.cmd, def_=bare, missing_ok=False))]
    piece.then = [*made, alter_table(table.identifier, f"ALTER COLUMN {quoted} SET DEFAULT {default}")]
    piece.cleanup = [probes.drop_column(table, column.name)]
    piece.last = _backfill(case, table, column, piece)
    if column.not_null is not None or column.serial or column.identity is not None:
        proof = set_not_null(case, table, [column.name], naming, named=column.not_null and column.not_null.conname)
        piece.last += proof.first
        if proof.short:
            piece.last.append(
                SafeStep(
                    sql=";\n".join([alter_table(table.identifier, *proof.short), *proof.then]),
                    says=f"Make {column.name} NOT NULL under a short lock; no row is read.",
                )
            )
        piece.cleanup += proof.cleanup
    piece.last += swap
    why = f'values of "{column.name}": each row gets one of its own, given in the order of the key'
    piece.differs.append(Declared("values", column.name, why))
    return piece


def _backfill(case: Case, table: Relation, column: ColumnDefinition, piece: Piece) -> list[SafeStep]:
    quoted = name(column.name)
    triggers = [row["name"] for row in case.facts.rows("triggers", oid=table.oid) if row["on_update"]]
    silenced = bool(triggers) and case.facts.rows("may_silence_triggers")[0]["may"]
    if triggers and not silenced:
        why = f"triggers fire for each row that is filled: {', '.join(triggers)}"
        piece.differs.append(Declared("elsewhere", table.sql, why))
    statement = f"UPDATE {table.sql} AS t SET {quoted} = DEFAULT WHERE {{}}t.{quoted} IS NOT DISTINCT FROM NULL"
    loop = TrackedLoop.over(case, table, statement.format(f"{RANGE} AND "), alias="t", fires_triggers=not silenced)
    piece.cleanup.append(loop.tracker.cleanup())
    says = f"Fill {column.name} in the existing rows, {case.batch_rows} at a time."
    return list(loop.steps(statement.format(""), says))


def _default(table: Relation, column: ColumnDefinition, naming: Naming) -> tuple[str, list[str], list[SafeStep]]:
    """Return the default, the statements that create its sequence, and the steps that give it its final form."""
    if column.identity is not None:
        return _identity(table, column)
    if not column.serial:
        return expression(column.default), [], []
    sequence = name(table.schema, naming.relation([column.name], "seq"))
    owner = f"{table.sql}.{name(column.name)}"
    made = f"CREATE SEQUENCE {sequence} AS {column.serial} OWNED BY {owner}"
    return f"pg_catalog.nextval({literal(sequence)}::pg_catalog.regclass)", [made], []


def _identity(table: Relation, column: ColumnDefinition) -> tuple[str, list[str], list[SafeStep]]:
    """Return the same for an identity column: until it is NOT NULL, our own sequence numbers the rows."""
    ours = name(table.schema, helper(table.schema, table.name, column.name, "identity"))
    owner, quoted = f"{table.sql}.{name(column.name)}", name(column.name)
    sequence = parsed(f"CREATE SEQUENCE {ours} AS bigint")
    kind = option("CREATE SEQUENCE s AS bigint", column.cmd.def_.typeName)
    sequence = changed(sequence, options=(kind, *(column.identity.options or ())))
    when = {"a": "ALWAYS", "d": "BY DEFAULT"}[column.identity.generated_when]
    options = printed(sequence).split(" AS ", 1)[1].split(" ", 1)[1:]
    identity = f"GENERATED {when} AS IDENTITY" + (f" ({options[0]})" if options else "")
    there = f"pg_catalog.pg_get_serial_sequence({literal(table.sql)}, {literal(column.name)})"
    swap = [
        f"ALTER SEQUENCE {ours} OWNED BY NONE",  # else pg_get_serial_sequence would return ours
        alter_table(table.identifier, f"ALTER COLUMN {quoted} DROP DEFAULT"),
        alter_table(table.identifier, f"ALTER COLUMN {quoted} ADD {identity}"),
        f"SELECT pg_catalog.setval({there}, s.last_value, s.is_called) FROM {ours} AS s",
        f"DROP SEQUENCE {ours}",
    ]
    step = SafeStep(
        sql=";\n".join(swap), says=f"Make {column.name} an identity column that continues from the last value."
    )
    # An identity may be given its sequence's name, which is that of the final one; a sequence of its own may not.
    plain = changed(sequence, options=tuple(each for each in sequence.options if each.defname != "sequence_name"))
    made = [printed(plain), f"ALTER SEQUENCE {ours} OWNED BY {owner}"]
    return f"pg_catalog.nextval({literal(ours)}::pg_catalog.regclass)", made, [step]


def _of_table(constraint: Any, column: str) -> Any:
    """Turn a column's constraint into the table's."""
    own = (ast.String(sval=column),)
    if constraint.contype == K.CONSTR_FOREIGN:
        return changed(constraint, fk_attrs=own)
    return constraint if constraint.contype == K.CONSTR_CHECK else changed(constraint, keys=own)


def _type(text: str) -> Any:
    return parsed(f"CREATE TABLE t (a {text})").tableElts[0].typeName
