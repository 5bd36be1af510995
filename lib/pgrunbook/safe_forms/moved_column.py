"""One column of a move: it takes the place of another one, with its default, NOT NULL, sequences, rights and comment.

What several columns may share, indexes and constraints, is the move's (``safe_forms.column_move``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from pgrunbook.database.column_dependents import ColumnDependents, SequenceOn
from pgrunbook.database.column_sync import ColumnPair, ColumnSync
from pgrunbook.database.relations import Relation
from pgrunbook.safe_forms.constraints import NOT_NULL_IS_A_CONSTRAINT
from pgrunbook.sql.deparse import alter_table, helper, literal, name
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
      AND NOT (k.oid IS NOT NULL AND k.conname = ANY ({keeps}::text[]))
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
class MovedColumn:
    """``comes`` takes the place of the column of ``on``, which is named ``leaves_as`` afterwards.

    ``pair`` are the two as ``sync`` knows them before. ``version`` is that of the server, ``default`` that of the
    column that comes; ``gives_default`` says that it is a new one. ``is_new_type`` says that the column stands for a
    change of type, and not for one that is taken back. ``was_not_null`` is whether the column that leaves is NOT NULL,
    ``is_not_null`` whether the one that comes is to be.
    """

    table: Relation
    on: ColumnDependents
    comes: str
    leaves_as: str
    sync: ColumnSync
    pair: ColumnPair
    version: int
    was_not_null: bool
    is_not_null: bool
    default: str | None = None
    gives_default: bool = False
    is_new_type: bool = False

    @property
    def column(self) -> str:
        """The name of the column that leaves, and then of the one that comes."""
        return self.on.column.name

    @property
    def not_null(self) -> str | None:
        """The constraint by which the column that comes is NOT NULL before the cut-over, None where it may be NULL."""
        if not self.is_not_null:
            return None
        comes = name(self.comes)
        return f"NOT NULL {comes}" if self._has_named_not_null else f"CHECK ({comes} IS DISTINCT FROM NULL)"

    @property
    def is_proven(self) -> bool:
        """Whether NOT NULL is to hold for each row, where it does."""
        return self.on.is_not_null_proven or not self.on.column.not_null

    @property
    def proves_not_null(self) -> str:
        """The name of that constraint."""
        return helper(self.table.schema, self.table.name, self.comes, "not null")

    def taken_off(self) -> list[str]:
        """Return the statements that take off the column that leaves what the other one has already."""
        column, quoted = self.on.column, name(self.column)
        if column.identity is not None:  # it has no default, and cannot be nullable
            return []
        dropped = [self._alter(f"ALTER COLUMN {quoted} DROP DEFAULT")]  # it may have had none, or another one
        return [*dropped, self._alter(f"ALTER COLUMN {quoted} DROP NOT NULL")] if self.was_not_null else dropped

    def nothing_else(self, keeps: Sequence[str]) -> str:
        """Return the statement that fails where something hangs on the column that was not there when it was planned.

        It keeps the constraints ``keeps``; a sequence is taken off later.
        """
        block = sql.SQL(_NOTHING_ELSE).format(
            table=sql.Literal(self.table.sql), column=sql.Literal(self.column), keeps=sql.Literal(list(keeps))
        )
        return do(block).as_string(None)

    def renamed(self) -> list[str]:
        """Return the statements by which both get their new names."""
        return [
            self._alter(f"RENAME COLUMN {name(self.column)} TO {name(self.leaves_as)}"),
            self._alter(f"RENAME COLUMN {name(self.comes)} TO {name(self.column)}"),
        ]

    def put_on(self) -> list[str]:
        """Return the statements that give the column that has come what the other one had."""
        column, quoted, found = self.on.column, name(self.column), []
        if self.is_not_null and self._has_named_not_null:
            not_null = column.not_null_name or ""
            if column.identity is not None:  # an identity's column cannot be nullable: its own is still there
                found.append(self._alter(f"RENAME CONSTRAINT {name(not_null)} TO {name(self._leaving_not_null)}"))
            found.append(self._alter(f"RENAME CONSTRAINT {name(self.proves_not_null)} TO {name(not_null)}"))
        elif self.is_not_null:
            found.append(self._alter(f"ALTER COLUMN {quoted} SET NOT NULL"))
            found.append(self._alter(f"DROP CONSTRAINT {name(self.proves_not_null)}"))
        if self.default is not None:
            found.append(self._alter(f"ALTER COLUMN {quoted} SET DEFAULT {self.default}"))
        for sequence in self.on.sequences:
            found += self._sequence(sequence)
        return found

    def told(self) -> list[str]:
        """Return the statements for comments and rights."""
        found = []
        if self.on.comment is not None:
            found.append(f"COMMENT ON COLUMN {self.table.sql}.{name(self.column)} IS {literal(self.on.comment)}")
            found.append(f"COMMENT ON COLUMN {self.table.sql}.{name(self.leaves_as)} IS NULL")
        for sequence in self.on.sequences:
            if sequence.is_identity:
                found += comment(f"SEQUENCE {name(sequence.schema, sequence.name)}", sequence.comment)
        for grant in self.on.grants:
            what = f"SEQUENCE {grant.sequence}" if grant.sequence else f"TABLE {self.table.sql}"
            right = grant.privilege if grant.sequence else f"{grant.privilege} ({name(self.column)})"
            more = " WITH GRANT OPTION" if grant.is_grantable else ""
            found.append(f"GRANT {right} ON {what} TO {grant.grantee}{more}")
        return found

    @property
    def _has_named_not_null(self) -> bool:
        return self.version >= NOT_NULL_IS_A_CONSTRAINT and self.on.column.not_null_name is not None

    @property
    def _leaving_not_null(self) -> str:
        return helper(self.table.schema, self.table.name, self.leaves_as, "not null")

    def _sequence(self, sequence: SequenceOn) -> list[str]:
        """A sequence changes its owner, and grows with it. That of an identity is made anew, where the old one is."""
        there, owner = name(sequence.schema, sequence.name), f"{self.table.sql}.{name(self.column)}"
        if not sequence.is_identity:
            grown = {True: self.pair.new_type, False: sequence.type}[self.is_new_type]
            as_type = f" AS {grown}" if grows(sequence, self.pair.new_type) else ""
            return [f"ALTER SEQUENCE {there}{as_type} OWNED BY {owner}"]
        leaving = name(self.leaves_as)
        made = helper(self.table.schema, self.table.name, self.comes, "sequence")
        return [
            f"ALTER SEQUENCE {there} INCREMENT BY {sequence.increment}",  # its lock keeps the position as it is
            self._added_identity(sequence, made),
            _continued(name(sequence.schema, made), there),
            self._alter(f"ALTER COLUMN {leaving} DROP IDENTITY"),
            self._alter(f"ALTER COLUMN {leaving} DROP NOT NULL"),
            f"ALTER SEQUENCE {name(sequence.schema, made)} RENAME TO {name(sequence.name)}",
        ]

    def _added_identity(self, sequence: SequenceOn, named: str) -> str:
        """Return the statement that makes the identity of a sequence anew, with a sequence of another name."""
        options = [
            f"SEQUENCE NAME {name(sequence.schema, named)}", f"START WITH {sequence.start}",
            f"INCREMENT BY {sequence.increment}", f"CACHE {sequence.cache}", "CYCLE" if sequence.cycles else "NO CYCLE",
        ]  # fmt: skip
        options += [f"{word} {value}" for word, value in _bounds(sequence)]
        always = self.on.column.identity
        return self._alter(f"ALTER COLUMN {name(self.column)} ADD GENERATED {always} AS IDENTITY ({' '.join(options)})")

    def _alter(self, clause: str) -> str:
        return alter_table(self.table.identifier, clause)


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


def comment(what: str, says: str | None) -> list[str]:
    """Return the statement for a comment, [] where there is none."""
    return [] if says is None else [f"COMMENT ON {what} IS {literal(says)}"]
