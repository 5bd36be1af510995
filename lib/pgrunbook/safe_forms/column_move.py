"""A column takes the place of another one, with everything that hung on that; for changes of type and their way back.

1. Each index is built CONCURRENTLY on the column that comes. Each CHECK and foreign key is added to it NOT VALID and
   then validated, as is NOT NULL. Statistics are gathered.
2. All rows are read once more: both columns agree (:meth:`ColumnSync.proof`).
3. In one short transaction everything is taken off the column that leaves, both get their new names, and what was made
   for the column that comes gets the names, comments and rights of what it stands for.

Foreign keys that refer to the column are foreign keys of two columns meanwhile. What hangs on the column otherwise has
no such form: ``column_dependents.refused`` tells.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pglast import ast
from psycopg import sql

from pgrunbook.database.column_dependents import ColumnDependents, ConstraintOn, IndexOn, SequenceOn
from pgrunbook.database.column_sync import ColumnPair, ColumnSync
from pgrunbook.database.relations import Relation
from pgrunbook.plan.step import SafeStep
from pgrunbook.safe_forms import indexes, probes
from pgrunbook.safe_forms.constraints import NOT_NULL_IS_A_CONSTRAINT
from pgrunbook.sql.deparse import alter_table, changed, command, helper, literal, mapped, name, parsed
from pgrunbook.sql.own_code import do

_NOTHING_ELSE = """
DECLARE
    found text;
BEGIN
    SELECT pg_describe_object(d.classid, d.objid, d.objsubid) INTO found
    FROM pg_attribute AS a
    JOIN pg_depend AS d
      ON d.refclassid = 'pg_class'::regclass
     AND d.refobjid = a.attrelid
     AND d.refobjsubid = a.attnum
    LEFT JOIN pg_constraint AS k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid
    WHERE a.attrelid = {table}::regclass
      AND a.attname = {column}
      AND NOT (a.attidentity <> '' AND k.oid IS NOT NULL AND k.contype = 'n')
      AND (d.classid <> 'pg_class'::regclass OR (SELECT c.relkind <> 'S' FROM pg_class AS c WHERE c.oid = d.objid))
    LIMIT 1;
    IF found IS NOT NULL THEN
        RAISE dependent_objects_still_exist
            USING MESSAGE = format('%s hangs on column %I of %s, and did not when this was planned',
                                   found, {column}, {table});
    END IF;
END
"""


@dataclass(frozen=True)
class ColumnMove:
    """``comes`` takes the place of the column of ``on``, which is named ``leaves_as`` afterwards.

    ``pair`` are the two as ``sync`` knows them before. ``version`` is that of the server, ``key`` names
    rows, ``default`` is that of the column that comes. ``is_new_type`` says that it
    stands for a change of type, which resets the targets of statistics objects.
    """

    table: Relation
    on: ColumnDependents
    comes: str
    leaves_as: str
    sync: ColumnSync
    pair: ColumnPair
    version: int
    key: tuple[str, ...] = ()
    default: str | None = None
    is_new_type: bool = False

    def steps(self, *, ends: Iterable[str], says: str) -> list[SafeStep]:
        """Return the steps; ``ends`` are the last statements of the cut-over."""
        built = [self._built(index) for index in self.on.indexes]
        proof = SafeStep(
            self.sync.proof(self.pair, self.key),
            f"Prove that {self.comes} has the value of {self.column} in every row; reads and writes go on.",
            quick=False,
        )
        analyzed = SafeStep(
            f"ANALYZE {self.table.sql} ({name(self.comes)})",
            f"Gather statistics on {self.comes}, so that queries are planned as well as before.",
            quick=False,
        )
        cut = SafeStep(";\n".join([*self._cutover(), *ends]), says)
        return [*built, *self._not_null(), *self._constraints(), analyzed, proof, cut]

    def cleanup(self) -> list[str]:
        """Return the queries for the statements that drop what was made for the column that comes."""
        own = [probes.drop_constraint(self._of(one), self._temporary(one.name)) for one in self.on.constraints]
        if self.on.column.not_null:
            own.append(probes.drop_constraint(self.table, self._proves_not_null))
        return [*own, *(probes.drop_index(self.table.schema, self._temporary(one.name)) for one in self.on.indexes)]

    @property
    def column(self) -> str:
        """The name of the column that leaves, and then of the one that comes."""
        return self.on.column.name

    # -- before the cut-over

    def _built(self, index: IndexOn) -> SafeStep:
        node = self._moved(parsed(index.definition))
        node = changed(node, tableSpace=index.tablespace)
        return indexes.build(self.table, self._temporary(index.name), node, f"{index.name} for {self.comes}")

    def _not_null(self) -> list[SafeStep]:
        if not self.on.column.not_null:
            return []
        of = f"NOT NULL {name(self.comes)}" if self._has_named_not_null else f"CHECK ({name(self.comes)} IS NOT NULL)"
        return self._added(self.table, self._proves_not_null, f"{of} NOT VALID")

    def _constraints(self) -> list[SafeStep]:
        found = []
        for one in self.on.constraints:
            found += self._added(self._of(one), self._temporary(one.name), self._definition(one), valid=one.is_valid)
        return found

    def _added(self, table: Relation, conname: str, definition: str, *, valid: bool = True) -> list[SafeStep]:
        added = SafeStep(
            alter_table(table.identifier, f"ADD CONSTRAINT {name(conname)} {definition}"),
            f"New rows of {table.sql} are checked for {self.comes}, too; no row is read.",
        )
        proven = SafeStep(
            alter_table(table.identifier, f"VALIDATE CONSTRAINT {name(conname)}"),
            f"Prove it for the rows of {table.sql} that are there; reads and writes go on.",
            quick=False,
        )
        return [added, proven] if valid else [added]

    def _definition(self, one: ConstraintOn) -> str:
        """Return a CHECK or foreign key for the column that comes, NOT VALID."""
        node = self._constraint(one)
        if one.kind == "c":
            node = changed(node, raw_expr=self._moved(node.raw_expr))
        else:
            own = self._renamed(node.fk_attrs) if one.is_own else node.fk_attrs
            partner = self._renamed(node.pk_attrs) if one.is_referenced else node.pk_attrs
            node = changed(node, fk_attrs=own, pk_attrs=partner)
            if one.is_own and node.fk_del_set_cols:
                node = changed(node, fk_del_set_cols=self._renamed(node.fk_del_set_cols))
        text = command(changed(_ADD, def_=changed(node, skip_validation=True, initially_valid=False)))
        return text.removeprefix("ADD ")

    def _constraint(self, one: ConstraintOn) -> Any:
        return parsed(f"ALTER TABLE t ADD {one.definition}").cmds[0].def_

    def _moved(self, node: Any) -> Any:
        """Return a copy of an index, a statistics object or an expression over the column that comes instead."""

        def change(part: Any) -> Any:
            if isinstance(part, ast.IndexElem | ast.StatsElem) and part.name == self.column:
                return changed(part, name=self.comes)
            if isinstance(part, ast.ColumnRef) and getattr(part.fields[-1], "sval", None) == self.column:
                return changed(part, fields=(*part.fields[:-1], ast.String(sval=self.comes)))
            return part

        return mapped(node, change)

    def _renamed(self, names: Iterable[Any]) -> tuple[Any, ...]:
        return tuple(ast.String(sval=self.comes) if part.sval == self.column else part for part in names)

    def _temporary(self, of: str) -> str:
        return helper(self.table.schema, self.table.name, self.comes, of)

    def _of(self, one: ConstraintOn) -> Relation:
        return Relation(0, one.schema, one.table)

    @property
    def _proves_not_null(self) -> str:
        return helper(self.table.schema, self.table.name, self.comes, "not null")

    @property
    def _has_named_not_null(self) -> bool:
        return self.version >= NOT_NULL_IS_A_CONSTRAINT and self.on.column.not_null_name is not None

    # -- the cut-over

    def _cutover(self) -> list[str]:
        """Return the statements of the cut-over, but for what the caller adds."""
        both = [(one.schema, one.table) for one in self.on.constraints]
        both += [(one.partner_schema or "", one.partner_table or "") for one in self.on.constraints if one.kind == "f"]
        tables = sorted({(self.table.schema, self.table.name), *both})
        lock = f"LOCK TABLE {', '.join(name(*one) for one in tables)} IN ACCESS EXCLUSIVE MODE"
        return [
            lock,
            self.sync.guard(self.pair, self.key),
            *self._taken_off(),
            self._nothing_else(),
            self._alter(f"RENAME COLUMN {name(self.column)} TO {name(self.leaves_as)}"),
            self._alter(f"RENAME COLUMN {name(self.comes)} TO {name(self.column)}"),
            *self._put_on(),
            *self._told(),
        ]

    def _taken_off(self) -> list[str]:
        """Take off the column that leaves what the other one has already: what refers to a key before the key."""
        column, quoted = self.on.column, name(self.column)
        dropped = [f"DROP STATISTICS {name(one.schema, one.name)}" for one in self.on.statistics]
        for one in sorted(self.on.constraints, key=lambda one: one.kind != "f"):
            dropped.append(alter_table(self._of(one).identifier, f"DROP CONSTRAINT {name(one.name)}"))
        for index in self.on.indexes:
            is_key = index.constraint_kind is not None
            drop = self._alter(f"DROP CONSTRAINT {name(index.name)}") if is_key else None
            dropped.append(drop or f"DROP INDEX {name(index.schema, index.name)}")
        if column.identity is None:  # it may have had none, or another one
            dropped.append(self._alter(f"ALTER COLUMN {quoted} DROP DEFAULT"))
        if column.not_null and column.identity is None:
            dropped.append(self._alter(f"ALTER COLUMN {quoted} DROP NOT NULL"))
        return dropped

    def _nothing_else(self) -> str:
        """Return the statement that fails where something hangs on the column that was not there when it was planned.

        A sequence is taken off later.
        """
        block = sql.SQL(_NOTHING_ELSE).format(table=sql.Literal(self.table.sql), column=sql.Literal(self.column))
        return do(block).as_string(None)

    def _put_on(self) -> list[str]:
        column, quoted, found = self.on.column, name(self.column), []
        if column.not_null and self._has_named_not_null:
            not_null = column.not_null_name or ""
            if column.identity is not None:  # an identity's column cannot be nullable: its own is still there
                found.append(self._alter(f"RENAME CONSTRAINT {name(not_null)} TO {name(self._leaving_not_null)}"))
            found.append(self._alter(f"RENAME CONSTRAINT {name(self._proves_not_null)} TO {name(not_null)}"))
        elif column.not_null:
            found.append(self._alter(f"ALTER COLUMN {quoted} SET NOT NULL"))
            found.append(self._alter(f"DROP CONSTRAINT {name(self._proves_not_null)}"))
        if self.default is not None:
            found.append(self._alter(f"ALTER COLUMN {quoted} SET DEFAULT {self.default}"))
        for sequence in self.on.sequences:
            found += self._sequence(sequence)
        for index in self.on.indexes:
            found += self._index(index)
        for one in self.on.constraints:
            renamed = f"RENAME CONSTRAINT {name(self._temporary(one.name))} TO {name(one.name)}"
            found.append(alter_table(self._of(one).identifier, renamed))
        for statistics in self.on.statistics:
            found.append(statistics.definition)
            if statistics.target >= 0 and not self.is_new_type:
                label = name(statistics.schema, statistics.name)
                found.append(f"ALTER STATISTICS {label} SET STATISTICS {statistics.target}")
        return found

    @property
    def _leaving_not_null(self) -> str:
        return helper(self.table.schema, self.table.name, self.leaves_as, "not null")

    def _index(self, index: IndexOn) -> list[str]:
        temporary, quoted = name(self._temporary(index.name)), name(index.name)
        if index.constraint_kind is not None:
            kind = {"p": "PRIMARY KEY", "u": "UNIQUE"}[index.constraint_kind]
            found = [self._alter(f"ADD CONSTRAINT {quoted} {kind} USING INDEX {temporary}")]
        else:
            found = [f"ALTER INDEX {name(index.schema, self._temporary(index.name))} RENAME TO {quoted}"]
        if index.is_replica_identity:
            found.append(self._alter(f"REPLICA IDENTITY USING INDEX {quoted}"))
        if index.is_clustered:
            found.append(self._alter(f"CLUSTER ON {quoted}"))
        return found

    def _sequence(self, sequence: SequenceOn) -> list[str]:
        """A sequence changes its owner, and grows with it. That of an identity is made anew, where the old one is."""
        there, owner = name(sequence.schema, sequence.name), f"{self.table.sql}.{name(self.column)}"
        if not sequence.is_identity:
            grown = {True: self.pair.new_type, False: sequence.type}[self.is_new_type]
            as_type = f" AS {grown}" if grows(sequence, self.pair.new_type) else ""
            return [f"ALTER SEQUENCE {there}{as_type} OWNED BY {owner}"]
        column, leaving = self.on.column, name(self.leaves_as)
        made = helper(self.table.schema, self.table.name, self.comes, "sequence")
        options = [
            f"SEQUENCE NAME {name(sequence.schema, made)}", f"START WITH {sequence.start}",
            f"INCREMENT BY {sequence.increment}", f"CACHE {sequence.cache}", "CYCLE" if sequence.cycles else "NO CYCLE",
        ]  # fmt: skip
        options += [f"{word} {value}" for word, value in _bounds(sequence)]
        added = f"ALTER COLUMN {name(self.column)} ADD GENERATED {column.identity} AS IDENTITY ({' '.join(options)})"
        return [
            f"ALTER SEQUENCE {there} INCREMENT BY {sequence.increment}",  # its lock keeps the position as it is
            self._alter(added),
            _continued(name(sequence.schema, made), there),
            self._alter(f"ALTER COLUMN {leaving} DROP IDENTITY"),
            self._alter(f"ALTER COLUMN {leaving} DROP NOT NULL"),
            f"ALTER SEQUENCE {name(sequence.schema, made)} RENAME TO {name(sequence.name)}",
        ]

    def _told(self) -> list[str]:
        """Return the statements for comments and rights."""
        found = []
        if self.on.comment is not None:
            found.append(f"COMMENT ON COLUMN {self.table.sql}.{name(self.column)} IS {literal(self.on.comment)}")
            found.append(f"COMMENT ON COLUMN {self.table.sql}.{name(self.leaves_as)} IS NULL")
        for index in self.on.indexes:
            found += _comment(f"INDEX {name(index.schema, index.name)}", index.comment)
            found += _comment(f"CONSTRAINT {name(index.name)} ON {self.table.sql}", index.constraint_comment)
        for one in self.on.constraints:
            found += _comment(f"CONSTRAINT {name(one.name)} ON {self._of(one).sql}", one.comment)
        for statistics in self.on.statistics:
            found += _comment(f"STATISTICS {name(statistics.schema, statistics.name)}", statistics.comment)
        for sequence in self.on.sequences:
            if sequence.is_identity:
                found += _comment(f"SEQUENCE {name(sequence.schema, sequence.name)}", sequence.comment)
        for grant in self.on.grants:
            what = f"SEQUENCE {grant.sequence}" if grant.sequence else f"TABLE {self.table.sql}"
            right = grant.privilege if grant.sequence else f"{grant.privilege} ({name(self.column)})"
            more = " WITH GRANT OPTION" if grant.is_grantable else ""
            found.append(f"GRANT {right} ON {what} TO {grant.grantee}{more}")
        return found

    def _alter(self, clause: str) -> str:
        return alter_table(self.table.identifier, clause)


_ADD = parsed("ALTER TABLE t ADD CHECK (true)").cmds[0]
_RANGES = {"smallint": 2**15, "integer": 2**31, "bigint": 2**63}


def grows(sequence: SequenceOn, type_: str) -> bool:
    """Tell whether a sequence that is no identity's would run out of numbers before a column of a new type does."""
    return not sequence.is_identity and _RANGES.get(type_, 0) > _RANGES[sequence.type]


def _bounds(sequence: SequenceOn) -> list[tuple[str, int]]:
    """Return the bounds of a sequence that are not those of its type: of these the new type has its own."""
    end = _RANGES[sequence.type]
    rises = sequence.increment > 0
    least, most = (1, end - 1) if rises else (-end, -1)
    found = [("MINVALUE", sequence.least)] if sequence.least != least else []
    return [*found, ("MAXVALUE", sequence.most)] if sequence.most != most else found


def _continued(sequence: str, there: str) -> str:
    position = sql.SQL("SELECT pg_catalog.setval({}::pg_catalog.regclass, s.last_value, s.is_called) FROM {} AS s")
    return position.format(sql.Literal(sequence), sql.SQL(there)).as_string(None)


def _comment(what: str, comment: str | None) -> list[str]:
    return [] if comment is None else [f"COMMENT ON {what} IS {literal(comment)}"]
