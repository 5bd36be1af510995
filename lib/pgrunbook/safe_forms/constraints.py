"""Safe forms of constraints: steps before, in and after one short ALTER TABLE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pglast import enums

from pgrunbook.database.relations import Relation
from pgrunbook.plan.declared import Declared
from pgrunbook.plan.step import SafeStep
from pgrunbook.safe_forms import probes
from pgrunbook.safe_forms.form import Case
from pgrunbook.safe_forms.indexes import attach, build, family
from pgrunbook.sql import default_names
from pgrunbook.sql.deparse import add_constraint, alter_table, changed, helper, name, parsed
from pgrunbook.sql.tree import column_names

# From this version on NOT NULL is a constraint that can be NOT VALID, and so can a partitioned table's foreign key.
NOT_NULL_IS_A_CONSTRAINT = 18
# A primary key that takes over an index adds NOT NULL to the partition itself, and that cannot be undone.
NOT_NULL_OF_PARTITIONS = Declared(
    "locality", "", "NOT NULL of the key's columns is each partition's own, not only inherited"
)


@dataclass
class Piece:
    """What one part of ALTER TABLE is split into.

    ``first`` are steps before the short ALTER TABLE; ``short`` its subcommands, ``then`` statements in the same
    transaction; ``last`` steps after it.
    """

    first: list[SafeStep] = field(default_factory=list)
    short: list[str] = field(default_factory=list)
    then: list[str] = field(default_factory=list)
    last: list[SafeStep] = field(default_factory=list)
    cleanup: list[str] = field(default_factory=list)
    not_null: list[str] = field(default_factory=list)
    differs: list[Declared] = field(default_factory=list)
    says: str = ""


class Naming:
    """Chooses free names for a table's new objects; a chosen name is taken from then on."""

    def __init__(self, case: Case, table: Relation, dropped: set[str]) -> None:
        self.table = table
        self.new = case.memory.taken(table.schema)
        self.proven = case.memory.not_null
        self.there = case.facts.taken_names(table.schema)
        # The same statement's DROPs run first, so their names are free.
        self.relations = self.there - dropped
        self.constraints = case.facts.constraint_names(table.schema) - dropped

    def constraint(self, columns: Sequence[str], label: str) -> str:
        """Choose the name of a constraint without an index."""
        return self._chosen(columns, label, self.constraints)

    def relation(self, columns: Sequence[str], label: str) -> str:
        """Choose the name of an index, a constraint with an index, or a sequence."""
        return self._chosen(columns, label, self.relations)

    def _chosen(self, columns: Sequence[str], label: str, there: set[str]) -> str:
        found = default_names.free_name(self.table.name, default_names.joined_columns(columns), label, there | self.new)
        self.new.add(found)
        return found


def add_check(table: Relation, constraint: Any, naming: Naming, *, only: bool = False) -> Piece:
    """CHECK: NOT VALID, which reads no row, then VALIDATE, which blocks nobody."""
    columns = column_names(constraint.raw_expr)
    conname = constraint.conname or naming.constraint(columns if len(columns) == 1 else [], "check")
    return _not_valid_first(table, constraint, conname, only=only)


def add_foreign_key(case: Case, table: Relation, constraint: Any, naming: Naming, *, only: bool = False) -> Piece:
    """FOREIGN KEY: NOT VALID, then VALIDATE; a partitioned table before PostgreSQL 18: each partition first.

    Such a table cannot have a NOT VALID foreign key, but it adopts those of its partitions
    (https://www.postgresql.org/docs/17/sql-altertable.html#SQL-ALTERTABLE-DESC-ADD-TABLE-CONSTRAINT).
    """
    conname = constraint.conname or naming.constraint([part.sval for part in constraint.fk_attrs], "fkey")
    if not table.is_partitioned or case.facts.version >= NOT_NULL_IS_A_CONSTRAINT:
        return _not_valid_first(table, constraint, conname, only=only)
    piece = Piece(says=f"{conname} is added to each partition, NOT VALID and then validated, before the parent table.")
    for leaf in case.facts.partitions(table):
        if leaf.is_leaf:
            part = _not_valid_first(leaf, constraint, conname)
            piece.first += [_short_step(leaf, part), *part.last]
            piece.cleanup += part.cleanup
    piece.short = [_add(constraint, conname=conname)]
    piece.cleanup.insert(0, probes.drop_constraint(table, conname))
    return piece


def set_not_null(
    case: Case, table: Relation, columns: Sequence[str], naming: Naming, *, only: bool = False, named: str | None = None
) -> Piece:
    """SET NOT NULL: proven by a constraint that is validated first; in PostgreSQL 18 NOT NULL is that constraint."""
    known = case.facts.columns(table)
    piece = Piece(says="A constraint that is validated first proves NOT NULL, so that no row is read under the lock.")
    for column in columns:
        there = known.get(column)
        if (table.sql, column) in naming.proven or (there is not None and there.not_null and there.not_null_valid):
            continue
        naming.proven.add((table.sql, column))
        if there is not None and there.proven_not_null:
            piece.short.append(f"ALTER COLUMN {name(column)} SET NOT NULL")
        elif case.facts.version >= NOT_NULL_IS_A_CONSTRAINT:
            conname = there.not_null_name if there else None
            if conname is None:
                conname = named or naming.constraint([column], "not_null")
                _helper(piece, table, conname, f"NOT NULL {name(column)}", only=only)
            piece.first.append(_validate(table, conname, only=only))
        else:
            conname = helper(table.schema, table.name, column, "not null")
            _helper(piece, table, conname, f"CHECK ({name(column)} IS DISTINCT FROM NULL)", only=only)
            piece.first.append(_validate(table, conname, only=only))
            piece.short.append(f"ALTER COLUMN {name(column)} SET NOT NULL")
            piece.not_null.append(column)
            piece.then.append(alter_table(table.identifier, f"DROP CONSTRAINT {name(conname)}", only=only))
    return piece


def add_key(case: Case, table: Relation, constraint: Any, naming: Naming) -> Piece:
    """UNIQUE and PRIMARY KEY: a unique index is built CONCURRENTLY, then the constraint adopts it."""
    keys = tuple(part.sval for part in constraint.keys)
    included = tuple(part.sval for part in constraint.including or ())
    primary = constraint.contype == enums.ConstrType.CONSTR_PRIMARY
    label, named = ("pkey", ()) if primary else ("key", keys + included)
    conname = constraint.conname or naming.relation(named, label)
    piece = set_not_null(case, table, keys, naming) if primary else Piece()
    piece.says = f"{conname} adopts an index that is built CONCURRENTLY; only the adoption needs a short lock."
    if table.is_partitioned:
        return _partitioned_key(case, table, constraint, conname, naming, piece)
    # The name may be that of a constraint which the same statement drops: the index is renamed when taken over.
    index = conname if conname not in naming.there else helper(table.schema, table.name, conname)
    piece.first.append(_build(table, constraint, keys, included, index))
    piece.short.append(_using(constraint, conname, index))
    piece.cleanup += [probes.drop_index(table.schema, index)]
    return piece


def adopt_key(case: Case, table: Relation, constraint: Any, naming: Naming) -> Piece:
    """PRIMARY KEY USING INDEX over nullable columns: NOT NULL is proven first, the rest changes the catalog only."""
    piece = set_not_null(case, table, index_columns(case, table, constraint.indexname), naming)
    piece.says = "NOT NULL of its columns is proven first, so that no row is read when the key adopts its index."
    piece.short.append(_add(constraint))
    return piece


def index_columns(case: Case, table: Relation, index: str) -> list[str]:
    """Return the key columns of a table's index, [] where it has none of that name."""
    return [key for each in case.facts.indexes(table.oid) if each.name == index for key in each.keys if key]


def validate(table: Relation, cmd: Any) -> Piece:
    """VALIDATE CONSTRAINT as written, but in a transaction of its own that holds no other lock."""
    return Piece(last=[_validate(table, cmd.name)], says=f"{cmd.name} is validated in a transaction of its own.")


def _not_valid_first(table: Relation, constraint: Any, conname: str, *, only: bool = False) -> Piece:
    return Piece(
        short=[_add(constraint, conname=conname, skip_validation=True, initially_valid=False)],
        last=[_validate(table, conname, only=only)],
        cleanup=[probes.drop_constraint(table, conname)],
        says=f"{conname} is added NOT VALID, so that no row is read under the lock, and validated afterwards.",
    )


def _add(constraint: Any, **slots: Any) -> str:
    return add_constraint(changed(constraint, **slots))


def _helper(piece: Piece, table: Relation, conname: str, definition: str, *, only: bool) -> None:
    """Add a step that creates a NOT VALID constraint before anything else."""
    says = f"Refuse new rows that violate {definition}."
    piece.first.append(not_valid(table, conname, definition, says, only=only))
    piece.cleanup.append(probes.drop_constraint(table, conname))


def not_valid(table: Relation, conname: str, definition: str, says: str, *, only: bool = False) -> SafeStep:
    """Return the step that adds a constraint without reading a row."""
    added = f"ADD CONSTRAINT {name(conname)} {definition} NOT VALID"
    return SafeStep(sql=alter_table(table.identifier, added, only=only), says=says)


def proof(table: Relation, conname: str, says: str, *, only: bool = False) -> SafeStep:
    """Return the step that validates a constraint while others work."""
    validated = alter_table(table.identifier, f"VALIDATE CONSTRAINT {name(conname)}", only=only)
    return SafeStep(sql=validated, says=f"{says}; reads and writes go on.", quick=False)


def _validate(table: Relation, conname: str, *, only: bool = False) -> SafeStep:
    return proof(table, conname, f"Prove {conname} for existing rows", only=only)


def _short_step(table: Relation, piece: Piece) -> SafeStep:
    return SafeStep(
        sql=alter_table(table.identifier, *piece.short),
        says=f"Change {table.sql} under a short lock; no row is read.",
    )


def _build(table: Relation, constraint: Any, keys: tuple[str, ...], included: tuple[str, ...], index: str) -> SafeStep:
    listed = ", ".join(map(name, keys))
    node = parsed(
        f"CREATE UNIQUE INDEX CONCURRENTLY {name(index)} ON {table.sql} ({listed})"
        + (f" INCLUDE ({', '.join(map(name, included))})" if included else "")
        + (" NULLS NOT DISTINCT" if constraint.nulls_not_distinct else "")
    )
    node = changed(node, options=constraint.options, tableSpace=constraint.indexspace)
    return build(table, index, node, f"the unique index {index}")


def _using(constraint: Any, conname: str, index: str) -> str:
    primary = constraint.contype == enums.ConstrType.CONSTR_PRIMARY
    deferred = (" DEFERRABLE" if constraint.deferrable else "") + (
        " INITIALLY DEFERRED" if constraint.initdeferred else ""
    )
    kind = "PRIMARY KEY" if primary else "UNIQUE"
    return f"ADD CONSTRAINT {name(conname)} {kind} USING INDEX {name(index)}{deferred}"


def _partitioned_key(case: Case, table: Relation, constraint: Any, conname: str, naming: Naming, piece: Piece) -> Piece:
    """A partitioned table's key: declared on the parent, built on each partition, then attached.

    As pg_dump restores it: ALTER TABLE ONLY ... ADD CONSTRAINT, and ALTER INDEX ... ATTACH PARTITION.
    """
    keys = tuple(part.sval for part in constraint.keys)
    included = tuple(part.sval for part in constraint.including or ())
    label = "pkey" if constraint.contype == enums.ConstrType.CONSTR_PRIMARY else "key"
    below = family(case.facts, table, [*keys, *included], label, naming.relations | naming.new | {conname})
    whole = [(table, conname), *((partition, index) for partition, index in below if not partition.is_leaf)]
    first = [
        SafeStep(
            sql=alter_table(part.identifier, _add(constraint, conname=index), only=True),
            says=f"Declare {index} on {part.sql}; nothing is built, it is invalid until all partitions are attached.",
        )
        for part, index in whole
    ]
    for leaf, index in below:
        if leaf.is_leaf:
            first.append(_build(leaf, constraint, keys, included, index))
            taken = Piece(short=[_using(constraint, index, index)])
            first.append(_short_step(leaf, taken))
    indexes = {table.oid: name(table.schema, conname), **{p.oid: name(p.schema, i) for p, i in below}}
    first += [attach(indexes[part.parent], part, index) for part, index in reversed(below)]
    piece.first += [*_finished(table, piece), *first]
    piece.short, piece.then = [], []
    if label == "pkey" and case.facts.version >= NOT_NULL_IS_A_CONSTRAINT:
        piece.differs.append(NOT_NULL_OF_PARTITIONS)
    piece.cleanup += [probes.drop_constraint(part, index) for part, index in whole]
    piece.cleanup += [probes.drop_constraint(leaf, index) for leaf, index in below if leaf.is_leaf]
    piece.cleanup += [probes.drop_index(leaf.schema, index) for leaf, index in below if leaf.is_leaf]
    piece.cleanup += [probes.drop_not_null(table, column) for column in piece.not_null]
    return piece


def _finished(table: Relation, piece: Piece) -> list[SafeStep]:
    """Return the short part of a piece as a step of its own, [] if it has none."""
    if not piece.short:
        return []
    step = _short_step(table, piece)
    return [SafeStep(sql=";\n".join([step.sql, *piece.then]), says=step.says)]
