"""Columns take the place of others, with everything that hung on these; for changes of type and their way back.

1. Each index is built CONCURRENTLY on the columns that come. Each CHECK and foreign key is added to them NOT VALID and
   then validated, as is NOT NULL. Statistics are gathered.
2. All rows are read once more: each two columns agree (:meth:`ColumnSync.proof`).
3. In one short transaction everything is taken off the columns that leave, all get their new names, and what was made
   for the columns that come gets the names, comments and rights of what it stands for.

A deferrable key is made before the columns that come are filled (:meth:`ColumnMove.keys_beside`), and changes names
with that of the columns that leave, which keep theirs. Foreign keys that refer to the columns are foreign keys of two
columns meanwhile. What hangs on a column otherwise has no such form: ``column_dependents.refused`` tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pglast import ast
from psycopg import sql

from pgrunbook.database import publications
from pgrunbook.database.column_dependents import ConstraintOn, IndexOn, StatisticsOn
from pgrunbook.database.relations import Relation
from pgrunbook.display.prose import listed
from pgrunbook.plan.declared import Declared
from pgrunbook.plan.step import SafeStep
from pgrunbook.safe_forms import indexes, probes, trigger_code
from pgrunbook.safe_forms.hung import Hung
from pgrunbook.safe_forms.moved_column import MovedColumn, comment
from pgrunbook.sql.deparse import alter_table, changed, command, helper, mapped, name, parsed
from pgrunbook.sql.own_code import do

_INDEX_COLUMNS = """
DECLARE
    renamed text;
BEGIN
    FOR renamed IN
        SELECT format('ALTER TABLE %s RENAME COLUMN %I TO %I', x.attrelid::regclass, x.attname, a.attname)
        FROM pg_index AS i
        JOIN pg_attribute AS x ON x.attrelid = i.indexrelid AND x.attname = ANY ({names})
        JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[x.attnum - 1]
        WHERE i.indrelid = {table}::regclass
          AND NOT EXISTS (SELECT FROM pg_attribute AS o WHERE o.attrelid = x.attrelid AND o.attname = a.attname)
    LOOP
        EXECUTE renamed;
    END LOOP;
END
"""


@dataclass(frozen=True)
class ColumnMove:
    """Columns of one table that are moved together; ``key`` names its rows.

    ``taken`` is taken off the columns that leave, and ``given`` is put on those that come: by default both are what
    hangs on the columns.
    """

    table: Relation
    columns: tuple[MovedColumn, ...]
    key: tuple[str, ...] = ()
    taken: Hung | None = None
    given: Hung | None = None

    def steps(self, *, ends: Iterable[str], says: str) -> list[SafeStep]:
        """Return the steps; ``ends`` are the last statements of the cut-over."""
        proofs = [
            SafeStep(
                one.sync.proof(one.pair, self.key),
                f"Prove that {one.comes} has the value of {one.column} in every row; reads and writes go on.",
                quick=False,
            )
            for one in self.columns
        ]
        analyzed = SafeStep(
            f"ANALYZE {self.table.sql} ({', '.join(name(one.comes) for one in self.columns)})",
            f"Gather statistics on {self._that_come}, so that queries are planned as well as before.",
            quick=False,
        )
        cut = SafeStep(";\n".join([*self._cutover(), *ends]), says)
        return [*self.built(), *self.not_null(), *self.checked(), analyzed, *proofs, cut]

    def cleanup(self) -> list[str]:
        """Return the queries for the statements that drop what was made for the columns that come."""
        return [*self.constraints_cleanup(), *self.indexes_cleanup()]

    def constraints_cleanup(self) -> list[str]:
        """Return the queries for what drops the constraints."""
        own = [probes.drop_constraint(self._of(one), self.temporary(one.name)) for one in self.constraints]
        own += [probes.drop_constraint(self.table, self._beside(one.name)) for one in self.late_keys]
        own += [probes.drop_constraint(self.table, one.proves_not_null) for one in self.columns if one.not_null]
        return own

    def indexes_cleanup(self) -> list[str]:
        """Return the queries for what drops the indexes."""
        late = [probes.drop_index(self.table.schema, self._beside(one.name)) for one in self.late_keys]
        return [*late, *(probes.drop_index(self.table.schema, self.temporary(one.name)) for one in self.indexes)]

    @property
    def parts(self) -> tuple[ColumnMove, ...]:
        """The moves of single tables that it is made of."""
        return (self,)

    def differs(self) -> list[Declared]:
        """Return what differs there and back, because the server has no way to the same end."""
        return []

    def keys_beside(self) -> list[SafeStep]:
        """Return the steps that make the deferrable keys of the columns that come, while these are still empty.

        An index that is built concurrently is checked at once as long as it is no deferrable key's. It finds nothing
        to complain of while each of its entries has a NULL.
        """
        found = []
        for index in self.late_keys:
            node = changed(self._moved(parsed(index.definition)), tableSpace=index.tablespace)
            named = self._beside(index.name)
            clause = f"ADD CONSTRAINT {name(named)} UNIQUE USING INDEX {name(named)} {index.checked_late}"
            found += [
                indexes.build(self.table, named, node, f"{index.name} for {self._that_come}, which are empty,"),
                SafeStep(self._alter(clause), f"Let {named} be checked as late as {index.name}; no row is read."),
            ]
        return found

    @property
    def carried(self) -> Hung:
        """What hangs on one of the columns."""
        return Hung.on([one.on for one in self.columns])

    @property
    def indexes(self) -> list[IndexOn]:
        """The indexes of the columns that come, the primary key first; but for :attr:`late_keys`."""
        return [index for index in self._all_indexes if not index.checked_late]

    @property
    def late_keys(self) -> list[IndexOn]:
        """The indexes of deferrable keys that use one of the columns: each column keeps its own until contract."""
        return [index for index in self._all_indexes if index.checked_late]

    @property
    def leaving_keys(self) -> list[str]:
        """The names of the deferrable keys of the columns that leave, after the cut-over."""
        return [self.leaving_key(key) for key in self.late_keys]

    def leaving_key(self, index: IndexOn) -> str:
        """Return the name of a deferrable key of the columns that leave, after the cut-over."""
        return self._key_name([one.leaves_as for one in self.columns], index.name)

    @property
    def _all_indexes(self) -> list[IndexOn]:
        return (self.carried if self.given is None else self.given).ordered_indexes

    @property
    def constraints(self) -> list[ConstraintOn]:
        """The CHECKs and foreign keys of the columns that come, the CHECKs first."""
        return (self.carried if self.given is None else self.given).ordered_constraints

    @property
    def statistics(self) -> list[StatisticsOn]:
        """The statistics objects that use one of the columns."""
        return list(dict.fromkeys(each for one in self.columns for each in one.on.statistics))

    @property
    def _is_published(self) -> bool:
        return any(one.on.is_published for one in self.columns)

    @property
    def _comes(self) -> dict[str, str]:
        return {one.column: one.comes for one in self.columns}

    @property
    def _that_come(self) -> str:
        return listed([one.comes for one in self.columns], len(self.columns))

    # -- before the cut-over

    def built(self) -> list[SafeStep]:
        """Return the steps that build the indexes on the columns that come."""
        return [self._built(index) for index in self.indexes]

    def not_null(self) -> list[SafeStep]:
        """Return the steps that prove NOT NULL of the columns that come."""
        found = []
        for one in self.columns:
            if one.not_null:
                valid, definition = one.is_proven, f"{one.not_null} NOT VALID"
                found += self._added(self.table, one.proves_not_null, definition, one.comes, valid)
        return found

    def checked(self) -> list[SafeStep]:
        """Return the steps that add the CHECKs and foreign keys of the columns that come."""
        return [step for one in self.constraints for step in self.added(one)]

    def added(self, one: ConstraintOn, first: Sequence[ColumnMove] | None = None) -> list[SafeStep]:
        """Return the steps that add a CHECK or foreign key; where it cannot be NOT VALID, to partitions ``first``."""
        temporary, found = self.temporary(one.name), []
        if first is None:
            return self._added(self._of(one), temporary, self._definition(one), self._that_come, one.is_valid)
        for leaf in first:
            found += self._added(leaf.table, temporary, self._definition(one), self._that_come)
        adopts = self._alter(f"ADD CONSTRAINT {name(temporary)} {self._definition(one, is_proven=True)}")
        return [*found, SafeStep(adopts, f"{self.table.sql} adopts what its partitions have; no row is read.")]

    def _built(self, index: IndexOn) -> SafeStep:
        what = f"{index.name} for {self._that_come}"
        return indexes.build(self.table, self.temporary(index.name), self._on_these(index), what)

    def _on_these(self, index: IndexOn) -> Any:
        """Return an index on the columns that come, as a tree."""
        return changed(self._moved(parsed(index.definition)), tableSpace=index.tablespace)

    def _added(
        self, table: Relation, conname: str, definition: str, comes: str, is_valid: bool = True
    ) -> list[SafeStep]:
        added = SafeStep(
            alter_table(table.identifier, f"ADD CONSTRAINT {name(conname)} {definition}"),
            f"New rows of {table.sql} are checked for {comes}, too; no row is read.",
        )
        proven = SafeStep(
            alter_table(table.identifier, f"VALIDATE CONSTRAINT {name(conname)}"),
            f"Prove it for the rows of {table.sql} that are there; reads and writes go on.",
            quick=False,
        )
        return [added, proven] if is_valid else [added]

    def _definition(self, one: ConstraintOn, *, is_proven: bool = False) -> str:
        """Return a CHECK or foreign key for the columns that come, NOT VALID where it is not proven."""
        node = parsed(f"ALTER TABLE t ADD {one.definition}").cmds[0].def_
        if one.kind == "c":
            node = changed(node, raw_expr=self._moved(node.raw_expr))
        else:
            ours = (self.table.schema, self.table.name)
            if (one.schema, one.table) == ours:
                node = changed(node, fk_attrs=self._renamed(node.fk_attrs))
                if node.fk_del_set_cols:
                    node = changed(node, fk_del_set_cols=self._renamed(node.fk_del_set_cols))
            if (one.partner_schema, one.partner_table) == ours:
                node = changed(node, pk_attrs=self._renamed(node.pk_attrs))
        text = command(changed(_ADD, def_=changed(node, skip_validation=not is_proven, initially_valid=is_proven)))
        return text.removeprefix("ADD ")

    def _moved(self, node: Any) -> Any:
        """Return a copy of an index, a statistics object or an expression over the columns that come instead."""
        comes = self._comes

        def change(part: Any) -> Any:
            if isinstance(part, ast.IndexElem | ast.StatsElem) and part.name in comes:
                return changed(part, name=comes[part.name])
            if isinstance(part, ast.ColumnRef) and getattr(part.fields[-1], "sval", None) in comes:
                return changed(part, fields=(*part.fields[:-1], ast.String(sval=comes[part.fields[-1].sval])))
            return part

        return mapped(node, change)

    def _renamed(self, names: Iterable[Any]) -> tuple[Any, ...]:
        return tuple(ast.String(sval=self._comes.get(part.sval, part.sval)) for part in names)

    def temporary(self, of: str) -> str:
        """Return the name of what stands for an index or a constraint until the cut-over."""
        return helper(self.table.schema, self.table.name, *self._comes.values(), of)

    def _beside(self, of: str) -> str:
        return self._key_name(self._comes.values(), of)

    def _key_name(self, columns: Iterable[str], of: str) -> str:
        return helper(self.table.schema, self.table.name, *sorted(columns), of, "deferrable")

    def _of(self, one: ConstraintOn) -> Relation:
        return Relation(0, one.schema, one.table)

    # -- the cut-over

    @property
    def tables(self) -> set[tuple[str, str]]:
        """The tables that the cut-over locks: this one, and those at the other end of a foreign key."""
        every = [*self.constraints, *self._constraints_taken]
        both = [(one.schema, one.table) for one in every]
        both += [(one.partner_schema or "", one.partner_table or "") for one in every if one.kind == "f"]
        return {(self.table.schema, self.table.name), *both}

    def _cutover(self) -> list[str]:
        """Return the statements of the cut-over, but for what the caller adds."""
        return [
            f"LOCK TABLE {', '.join(name(*one) for one in sorted(self.tables))} IN ACCESS EXCLUSIVE MODE",
            *(one.sync.guard(one.pair, self.key) for one in self.columns),
            *self._taken_off(),
            *(text for one in self.columns for text in one.renamed()),
            *self._put_on(),
            *self.told(),
            *(one.index_columns() for one in self.parts),
            trigger_code.compiled_anew(self.table),
        ]

    def _taken_off(self) -> list[str]:
        """Take off the columns that leave what the others have already: what refers to a key before the key."""
        taken = [publications.taken_out(self.table, list(self._comes))] if self._is_published else []
        return [*taken, *self.constraints_off(), *self.indexes_off(), *self.columns_off()]

    def constraints_off(self) -> list[str]:
        """Return the statements that drop the statistics and constraints of the columns that leave."""
        dropped = [f"DROP STATISTICS {name(one.schema, one.name)}" for one in self.statistics]
        for one in sorted(self._constraints_taken, key=lambda one: one.kind != "f"):
            dropped.append(alter_table(self._of(one).identifier, f"DROP CONSTRAINT {name(one.name)}"))
        return dropped

    @property
    def _constraints_taken(self) -> list[ConstraintOn]:
        return self.constraints if self.taken is None else self.taken.ordered_constraints

    def indexes_off(self) -> list[str]:
        """Return the statements that drop the indexes of the columns that leave."""
        dropped = []
        for index in (self.carried if self.taken is None else self.taken).ordered_indexes:
            if index.checked_late:
                continue
            is_key = index.constraint_kind is not None
            drop = self._alter(f"DROP CONSTRAINT {name(index.name)}") if is_key else None
            dropped.append(drop or f"DROP INDEX {name(index.schema, index.name)}")
        for key in self.late_keys:
            leaving = name(self.leaving_key(key))
            dropped.append(self._alter(f"RENAME CONSTRAINT {name(key.name)} TO {leaving}"))
            if key.constraint_comment is not None:
                dropped.append(f"COMMENT ON CONSTRAINT {leaving} ON {self.table.sql} IS NULL")
            if key.comment is not None:
                dropped.append(f"COMMENT ON INDEX {name(key.schema)}.{leaving} IS NULL")
        return dropped

    def columns_off(self) -> list[str]:
        """Return the statements that take the rest off the columns that leave, and see that nothing is left."""
        off = [text for one in self.columns for text in one.taken_off()]
        return [*off, *(one.nothing_else(self.leaving_keys) for one in self.columns)]

    def _put_on(self) -> list[str]:
        found = [text for one in self.columns for text in one.put_on()]
        for index in self.indexes:
            found += [*self._index(index), *self._marks(index)]
        for key in self.late_keys:
            found.append(self._alter(f"RENAME CONSTRAINT {name(self._beside(key.name))} TO {name(key.name)}"))
            if key.is_clustered:
                found.append(self._alter(f"CLUSTER ON {name(key.name)}"))
        return [*found, *self.constraints_on()]

    def constraints_on(self) -> list[str]:
        """Return the statements that give constraints and statistics their names."""
        found = []
        for one in self.constraints:
            renamed = f"RENAME CONSTRAINT {name(self.temporary(one.name))} TO {name(one.name)}"
            found.append(alter_table(self._of(one).identifier, renamed))
        resets_targets = any(one.is_new_type for one in self.columns)  # as the plain change does
        for statistics in self.statistics:
            found.append(statistics.definition)
            if statistics.target >= 0 and not resets_targets:
                label = name(statistics.schema, statistics.name)
                found.append(f"ALTER STATISTICS {label} SET STATISTICS {statistics.target}")
        return [*found, publications.put_back()] if self._is_published else found

    def _index(self, index: IndexOn) -> list[str]:
        temporary, quoted = name(self.temporary(index.name)), name(index.name)
        if index.constraint_kind is not None:
            kind = {"p": "PRIMARY KEY", "u": "UNIQUE"}[index.constraint_kind]
            return [self._alter(f"ADD CONSTRAINT {quoted} {kind} USING INDEX {temporary}")]
        return [f"ALTER INDEX {name(index.schema, self.temporary(index.name))} RENAME TO {quoted}"]

    def _marks(self, index: IndexOn) -> list[str]:
        found, quoted = [], name(index.name)
        if index.is_replica_identity:
            found.append(self._alter(f"REPLICA IDENTITY USING INDEX {quoted}"))
        if index.is_clustered:
            found.append(self._alter(f"CLUSTER ON {quoted}"))
        return found

    def index_columns(self) -> str:
        """Return the statement that gives the columns of indexes the names of those of the table.

        \\d shows them; an index that is built keeps those of then.
        """
        names = sql.Literal([one.comes for one in self.columns])
        return do(sql.SQL(_INDEX_COLUMNS).format(table=sql.Literal(self.table.sql), names=names)).as_string(None)

    def told(self) -> list[str]:
        """Return the statements for comments and rights."""
        found = [text for one in self.columns for text in one.told()]
        for index in self._all_indexes:
            found += comment(f"INDEX {name(index.schema, index.name)}", index.comment)
            found += comment(f"CONSTRAINT {name(index.name)} ON {self.table.sql}", index.constraint_comment)
        for one in self.constraints:
            found += comment(f"CONSTRAINT {name(one.name)} ON {self._of(one).sql}", one.comment)
        for statistics in self.statistics:
            found += comment(f"STATISTICS {name(statistics.schema, statistics.name)}", statistics.comment)
        return found

    def _alter(self, clause: str) -> str:
        return alter_table(self.table.identifier, clause)


_ADD = parsed("ALTER TABLE t ADD CHECK (true)").cmds[0]
