"""Columns of a partitioned table take the places of others in all of its partitions; for changes of type.

As ``column_move`` does it for one table; what differs:

1. An index is declared on the partitioned table, built CONCURRENTLY on each partition, and attached. A UNIQUE
   constraint is made so before the cut-over; a primary key, of which there can be one only, in it.
2. A CHECK, and from PostgreSQL 18 on a foreign key, is added to the partitioned table NOT VALID, which its partitions
   inherit. Before that each partition gets the foreign key, and the partitioned table adopts those that are valid.
3. What only a partition has, as an index, a CHECK, a default, rights or a comment, comes with the partition.
4. The cut-over is one transaction for all partitions: it is refused where some have come or gone since the plan.

Source: https://www.postgresql.org/docs/current/ddl-partitioning.html#DDL-PARTITIONING-DECLARATIVE-MAINTENANCE
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from psycopg import sql

from pgrunbook.database.column_dependents import ConstraintOn, IndexOn
from pgrunbook.database.relations import Partition, Relation
from pgrunbook.plan.declared import Declared
from pgrunbook.plan.step import SafeStep
from pgrunbook.safe_forms import indexes, probes
from pgrunbook.safe_forms.column_move import ColumnMove
from pgrunbook.safe_forms.constraints import NOT_NULL_IS_A_CONSTRAINT, NOT_NULL_OF_PARTITIONS
from pgrunbook.safe_forms.hung import Hung
from pgrunbook.safe_forms.moved_column import MovedColumn
from pgrunbook.safe_forms.partition_column import Below, PartitionColumn
from pgrunbook.sql.deparse import add_constraint, alter_table, changed, literal, name, parsed, text
from pgrunbook.sql.own_code import do
from pgrunbook.sql.tree import quoted

_HANDS_NO_COMMENT = 16  # before, partitions' indexes get the comment of that above when they are made anew
_SAME_PARTITIONS = """
DECLARE
    found text;
BEGIN
    SELECT string_agg(coalesce(t.relid::text, p.name), ', ') INTO found
    FROM (SELECT b.relid FROM pg_partition_tree({table}::regclass) AS b WHERE b.level > 0) AS t
    FULL JOIN unnest({planned}::text[]) AS p (name) ON to_regclass(p.name)::oid = t.relid::oid
    WHERE t.relid IS NULL OR p.name IS NULL;
    IF found IS NOT NULL THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('table %s has other partitions than when this was planned', {table}),
            DETAIL = format('Come or gone since: %s.', found),
            HINT = 'Plan it again.';
    END IF;
END
"""
_COPIES_NAMED = """
DECLARE
    one record;
BEGIN
    FOR one IN
        WITH RECURSIVE copy AS (
            SELECT k.oid, k.conrelid, k.confrelid, k.conname
            FROM pg_constraint AS k
            JOIN pg_constraint AS p ON p.oid = k.conparentid
            WHERE p.conrelid = {table}::regclass AND p.conname = {name}
            UNION ALL
            SELECT k.oid, k.conrelid, k.confrelid, k.conname
            FROM copy AS c
            JOIN pg_constraint AS k ON k.conparentid = c.oid
        )
        SELECT c.conrelid::regclass AS relation, c.conname AS was, n.name AS becomes
        FROM copy AS c
        JOIN (VALUES {copies}) AS n (relation, partner, name)
          ON c.conrelid = n.relation::regclass AND c.confrelid = n.partner::regclass
        WHERE c.conname <> n.name
    LOOP
        EXECUTE format('ALTER TABLE %s RENAME CONSTRAINT %I TO %I', one.relation, one.was, one.becomes);
    END LOOP;
END
"""


@dataclass(frozen=True)
class PartMove(ColumnMove):
    """The columns of one table of a partitioned one: itself, or a partition, also one that has partitions again."""

    @property
    def constraints(self) -> list[ConstraintOn]:
        """The CHECKs and foreign keys that the table does not have from above."""
        return [one for one in super().constraints if one.is_own]

    @property
    def copies(self) -> list[ConstraintOn]:
        """The foreign keys that PostgreSQL has made of one above."""
        return [one for one in super().constraints if one.parent]

    def built(self) -> list[SafeStep]:
        """Return the steps that build the indexes of a partition, or declare those of a partitioned table."""
        found = []
        for index in self.indexes:
            if not self.table.is_partitioned:
                found.append(self._built(index))
            elif index.constraint_kind is None:
                found.append(indexes.declared(self.table, self.temporary(index.name), self._on_these(index)))
            if index.constraint_kind == "u":
                found.append(self._unique(index))
        return found

    def indexes_cleanup(self) -> list[str]:
        """Return the queries for what drops the indexes, before them those that a UNIQUE constraint has adopted."""
        keys = [index for index in self.indexes if index.constraint_kind == "u"]
        adopted = [probes.drop_constraint(self.table, self.temporary(index.name)) for index in keys]
        return [*adopted, *super().indexes_cleanup()]

    def differs(self) -> list[Declared]:
        """Return what differs: with a key that adopts an index, NOT NULL becomes the partition's own."""
        is_new = self.columns[0].version >= NOT_NULL_IS_A_CONSTRAINT and not self.table.is_partitioned
        keys = [index for index in self.indexes if index.constraint_kind == "p"]
        return [replace(NOT_NULL_OF_PARTITIONS, object=self.table.label)] if is_new and keys else []

    def indexes_off(self) -> list[str]:
        """Return the statements that drop the indexes which are no part of one above: the others go with that."""
        found = []
        for index in self.indexes:
            if not index.parent and index.constraint_kind:
                found.append(self._alter(f"DROP CONSTRAINT {name(index.name)}"))
            elif not index.parent:
                found.append(f"DROP INDEX {name(index.schema, index.name)}")
        return found

    def keys_on(self) -> list[str]:
        """Return the statements that make the primary key, and name the other indexes."""
        found = []
        for index in self.indexes:
            if index.constraint_kind != "p":
                temporary = name(index.schema, self.temporary(index.name))
                found.append(f"ALTER INDEX {temporary} RENAME TO {name(index.name)}")
            elif self.table.is_partitioned:
                found.append(self._declared(index, index.name, parsed(f"ALTER TABLE t ADD {_defined(index)}")))
            else:
                found += self._index(index)
        return found

    def marks(self) -> list[str]:
        """Return the statements that say by which index the table is clustered and replicated."""
        return [text_ for index in self.indexes for text_ in self._marks(index)]

    def _unique(self, index: IndexOn) -> SafeStep:
        """Return the step that makes an index a UNIQUE constraint, which is named in the cut-over."""
        temporary = self.temporary(index.name)
        if not self.table.is_partitioned:
            made = self._alter(f"ADD CONSTRAINT {name(temporary)} UNIQUE USING INDEX {name(temporary)}")
            return SafeStep(made, f"Let the constraint adopt its index on {self.table.sql}.")
        node = parsed(f"ALTER TABLE t ADD {_defined(index)}")
        made = self._declared(index, temporary, self._on_keys(node))
        return SafeStep(made, f"Declare the constraint on {self.table.sql}; nothing is built.")

    def _on_keys(self, node: Any) -> Any:
        definition = node.cmds[0].def_
        keys, more = self._renamed(definition.keys), self._renamed(definition.including or ()) or None
        return changed(node, cmds=(changed(node.cmds[0], def_=changed(definition, keys=keys, including=more)),))

    def _declared(self, index: IndexOn, conname: str, node: Any) -> str:
        """Return the statement that declares a key of a partitioned table, and of none of its partitions."""
        options = parsed(index.definition).options
        made = changed(node.cmds[0].def_, conname=conname, options=options, indexspace=index.tablespace)
        return alter_table(self.table.identifier, add_constraint(made), only=True)


@dataclass(frozen=True)
class PartitionedMove(PartMove):
    """The columns of a partitioned table and of all tables below it, parents first; ``version`` is the server's."""

    below: tuple[PartMove, ...] = ()
    version: int = 0

    def built(self) -> list[SafeStep]:
        """Return the steps that build all indexes and attach them."""
        found = [step for one in self.parts for step in (PartMove.built(self) if one is self else one.built())]
        attached = [
            indexes.attach(name(above.schema, parent.temporary(above.name)), one.table, one.temporary(index.name))
            for one, index, parent, above in self._attached()
            if above.constraint_kind != "p"
        ]
        return [*found, *attached]

    def not_null(self) -> list[SafeStep]:
        """Return the steps that prove NOT NULL, also where only a partition has it."""
        return [*super().not_null(), *(step for one in self.below for step in one.not_null())]

    def checked(self) -> list[SafeStep]:
        """Return the steps that add CHECKs and foreign keys, also those that only a partition has."""
        found = []
        for one in self.parts:
            for constraint in one.constraints:
                found += one.added(constraint, self._leaves(one, constraint))
        return found

    def constraints_cleanup(self) -> list[str]:
        """Return the queries for what drops the constraints, above before below."""
        found = super().constraints_cleanup()
        for one in self.parts:
            for constraint in one.constraints:
                leaves = self._leaves(one, constraint) or ()
                found += [probes.drop_constraint(leaf.table, one.temporary(constraint.name)) for leaf in leaves]
        return [*found, *(query for one in self.below for query in one.constraints_cleanup())]

    def indexes_cleanup(self) -> list[str]:
        """Return the queries for what drops the indexes: those above take theirs along."""
        return [*super().indexes_cleanup(), *(query for one in self.below for query in one.indexes_cleanup())]

    @property
    def tables(self) -> set[tuple[str, str]]:
        """The tables that the cut-over locks."""
        below = {(one.table.schema, one.table.name) for one in self.below}
        others = {table for one in self.below for table in one.tables}
        return {*super().tables, *others} - below  # these are locked with the partitioned table

    def differs(self) -> list[Declared]:
        """Return what differs: the plain change makes partitions' indexes anew, as their parents are."""
        found = []
        by_oid = {index.oid: index for one in self.parts for index in one.indexes}
        handed = {oid for oid, index in by_oid.items() if index.comment and self.version < _HANDS_NO_COMMENT}
        for one, index, _, above in reversed(list(self._attached())):
            if above.oid in handed:
                handed.add(index.oid)
            marks = (index.comment, index.constraint_comment, index.is_clustered, index.tablespace != above.tablespace)
            same = parsed(index.definition).options == parsed(above.definition).options
            if index.name != index.plain_name or any(marks) or index.oid in handed or not same:
                why = f"{quoted(index.name)} is carried over as it is; the plain change makes it anew, as {above.name}"
                found += [Declared("partition index", what, why) for what in _objects(one.table, index)]
        return found

    def same_partitions(self) -> str:
        """Return the statement that fails where partitions have come or gone."""
        planned = [one.table.sql for one in self.below]
        made = sql.SQL(_SAME_PARTITIONS).format(table=sql.Literal(self.table.sql), planned=sql.Literal(planned))
        return text(do(made))

    def _taken_off(self) -> list[str]:
        return [
            self.same_partitions(),
            *self.constraints_off(),
            *(off for one in self.below for off in one.constraints_off()),
            *self.indexes_off(),
            *(off for one in self.below for off in one.indexes_off()),
            *(off for part in self.parts for one in part.columns for off in one.taken_off()),
            *(one.nothing_else(()) for part in self.parts for one in part.columns),
        ]

    def _put_on(self) -> list[str]:
        attached = [
            f"ALTER INDEX {name(above.schema, above.name)} ATTACH PARTITION {name(index.schema, index.name)}"
            for _, index, _, above in self._attached()
            if above.constraint_kind == "p"
        ]
        return [
            *(on for part in self.parts for one in part.columns for on in one.put_on()),
            *(on for one in reversed(self.parts) for on in one.keys_on()),
            *attached,
            *(on for one in self.parts for on in one.marks()),
            *(on for one in self.parts for on in one.constraints_on()),
            *self._copies_named(),
        ]

    def told(self) -> list[str]:
        """Return the statements for comments and rights."""
        return [*super().told(), *(told for one in self.below for told in one.told())]

    @property
    def parts(self) -> tuple[PartMove, ...]:
        """The partitioned table, and the tables below."""
        return (self, *self.below)

    def _attached(self) -> Iterator[tuple[PartMove, IndexOn, PartMove, IndexOn]]:
        """Yield each index that is part of another one, with its table's move and those of the other; below first."""
        by_oid = {index.oid: (one, index) for one in self.parts for index in one.indexes}
        for one in reversed(self.below):
            for index in one.indexes:
                if index.parent:
                    yield one, index, *by_oid[index.parent]

    def _leaves(self, one: PartMove, constraint: ConstraintOn) -> list[PartMove] | None:
        """Return the partitions to which a foreign key comes first, because their table can have none NOT VALID.

        None for any other constraint.
        """
        is_theirs = (constraint.schema, constraint.table) == (one.table.schema, one.table.name)
        is_by_leaf = self.version < NOT_NULL_IS_A_CONSTRAINT and one.table.is_partitioned
        if constraint.kind != "f" or not is_theirs or not is_by_leaf:
            return None
        above, found = {one.table.oid}, []
        for part in self.below:
            if isinstance(part.table, Partition) and part.table.parent in above:
                above.add(part.table.oid)
                found += [] if part.table.is_partitioned else [part]
        return found

    def _copies_named(self) -> list[str]:
        """Return the statements that name the copies which PostgreSQL has made of foreign keys, as before."""
        every = {one.oid: one for part in self.parts for one in [*part.constraints, *part.copies]}
        below: dict[int, list[ConstraintOn]] = {}
        for one in every.values():
            top = one
            while top.parent in every:
                top = every[top.parent]
            if top is not one:
                below.setdefault(top.oid, []).append(one)
        found = []
        for oid, copies in below.items():
            values = [
                f"({literal(name(one.schema, one.table))}, "
                f"{literal(name(one.partner_schema or '', one.partner_table or ''))}, {literal(one.name)})"
                for one in copies
            ]
            top = every[oid]
            made = sql.SQL(_COPIES_NAMED).format(
                table=sql.Literal(name(top.schema, top.table)), name=sql.Literal(top.name),
                copies=sql.SQL(", ".join(values)),
            )  # fmt: skip
            found.append(text(do(made)))
        return found


def move(
    columns: Sequence[tuple[MovedColumn, Sequence[Below]]],
    key: tuple[str, ...],
    taken: Hung | None = None,
    given: Hung | None = None,
) -> ColumnMove:
    """Return the move of columns of one table; each with what there is of it below, where that is partitioned.

    A default that is new is that of the partitions, too. ``taken`` and ``given`` are those of a table without any.
    """
    moved = tuple(one for one, _ in columns)
    table, version = moved[0].table, moved[0].version
    if not table.is_partitioned:
        return ColumnMove(table, moved, key, taken, given)
    parts: dict[Partition, list[PartitionColumn]] = {}
    for one, there in columns:
        for part in there:
            default = one.default if one.gives_default else part.on.column.default
            parts.setdefault(part.table, []).append(_below(one, part, default))
    lower = tuple(PartMove(part, tuple(theirs), key) for part, theirs in parts.items())
    own = tuple(PartitionColumn(**_fields(one)) for one in moved)
    return PartitionedMove(table, own, key, below=lower, version=version)


def _below(one: MovedColumn, part: Below, default: str | None) -> PartitionColumn:
    not_null = part.on.column.not_null
    fields = {**_fields(one), "table": part.table, "on": part.on, "default": default}
    fields |= {"was_not_null": not_null, "is_not_null": not_null}
    return PartitionColumn(**fields, is_bound=part.is_bound)


def _fields(one: MovedColumn) -> dict[str, Any]:
    return {each.name: getattr(one, each.name) for each in dataclasses.fields(MovedColumn)}


def _objects(table: Relation, index: IndexOn) -> list[str]:
    """Return the names that a snapshot gives an index, and comments on it: now, and made anew."""
    found = []
    for one in dict.fromkeys((index.name, index.plain_name)):
        found += [f"{table.label}.{quoted(one)}", f"index {quoted(table.schema)}.{quoted(one)}"]
        found += [f"table constraint {quoted(one)} on {table.label}"] if index.constraint_kind else []
    return found


def _defined(index: IndexOn) -> str:
    """Return the definition of the key whose index it is."""
    return index.constraint_definition or ""
