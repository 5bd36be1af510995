"""Safe form of RENAME COLUMN: both names are columns that agree until contract, so that old and new code run.

1. A column of ours is added; a trigger lets it follow the old name, and it is filled in batches.
2. It gets the indexes that the old one has, for queries by the old name, and it is proven that both agree.
3. In one short transaction the column gets its new name, with everything that hangs on it, and ours gets the old
   name; from then on the trigger lets each follow the other.

The way back drops the column of ours and renames the other one back: both agree, so no write is lost.

A publication goes on sending the column under its old name, which is all that subscribers have: it sends the renamed
one until the cut-over, and ours from then on. Contract lets it send the new name.
"""

# ruff: noqa: S608 - the statements are made of quoted names

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pglast import ast, enums

from pgrunbook.database import column_dependents, publications
from pgrunbook.database.column_sync import ColumnPair, ColumnSync, Leads, sync_name
from pgrunbook.database.relations import Column, Relation, constraints_of
from pgrunbook.database.shadows import Shadow
from pgrunbook.display.prose import listed
from pgrunbook.plan.declared import Declared
from pgrunbook.plan.step import RANGE, Batches, Expansion, SafeStep
from pgrunbook.safe_forms import indexes, name_uses, probes
from pgrunbook.safe_forms.form import Case
from pgrunbook.sql.deparse import alter_table, changed, helper, mapped, name, parsed
from pgrunbook.sql.tree import quoted, strings

FORM, BACK = "rename-column", "rename-column-back"
_COLUMN = enums.ObjectType.OBJECT_COLUMN
_WHY = {
    "partition key": 'it is in the partition key of "{}": a row finds its partition before a trigger could fill it',
    "inherits": 'the table and "{}" inherit from each other',
    "typed": 'the table is one of type "{}"',
    "published": 'publication "{}" sends it: of a partitioned table it takes no list of columns',
    "update of": 'trigger "{}" fires on UPDATE OF this column, and would not for the other name',
    "reads": 'trigger "{}" reads it before the two are made equal',
}


def beside(case: Case) -> Expansion | None:
    """RENAME COLUMN of a table -> a column under the old name that a trigger keeps equal to the renamed one.

    Not on the way back of a migration, behind which only the names of before are left.
    """
    table, column = _renamed(case)
    if case.is_back or table is None or column is None or obstacle(case, table, column):
        return None
    return _Rename(case, table, column).expansion()


def back(case: Case) -> Expansion | None:
    """RENAME COLUMN to a name that lives beside it -> that column is dropped; for a way back."""
    shadow = taken_back(case)
    if shadow is None:
        return None
    pair, sync = _pair(shadow.shadow_name, shadow.column_name, ""), ColumnSync(shadow.sync_name, shadow.table)
    gone, old, new = shadow.label, name(shadow.shadow_name), name(shadow.column_name)
    proof = SafeStep(sync.proof(pair), f"See that {gone} agrees with {shadow.beside} in every row.", quick=False)
    renamed = [
        sync.removal(),
        alter_table(shadow.table, f"DROP COLUMN {old}"),
        f"ALTER TABLE {shadow.table_sql} RENAME COLUMN {new} TO {old}",
        shadow.removal(),
    ]
    table, _ = _renamed(case)
    if table is not None and publications.naming(case.facts.conn, table, shadow.shadow_name):
        renamed = [*_out(table, shadow.shadow_name), *renamed, publications.put_back(), publications.whole(table)]
    says = f"Drop {gone}, which lived beside {shadow.beside}, and give that its old name."
    explains = "Both columns hold the same values, so that no write is lost with one of them."
    return Expansion(case.statement, BACK, explains, (proof, SafeStep(";\n".join(renamed), says)))


def taken_back(case: Case) -> Shadow | None:
    """Return the shadow that a rename takes back, on the way back of a migration; None for any other statement."""
    table, _ = _renamed(case)
    if table is None or not case.is_back:
        return None
    for one in case.shadows:
        there = (one.table_schema, one.table_name, one.column_name, one.shadow_name)
        if one.kind == "rename" and there == (table.schema, table.name, case.node.subname, case.node.newname):
            return one
    return None


def shadow(case: Case) -> Shadow | None:
    """Return the shadow that the form makes, None where the statement is no rename of a column."""
    table, column = _renamed(case)
    if table is None or column is None:
        return None
    new = case.node.newname
    return Shadow(
        table.schema, table.name, new, column.name, "rename", case.statement.place.migration,
        sync_name(table.identifier, column.name, new),
    )  # fmt: skip


def obstacle(case: Case, table: Relation, column: Column) -> str:
    """Return why both names cannot live side by side, as a part of a sentence, "" where they can."""
    return next(_obstacles(case, table, column), "")


def _obstacles(case: Case, table: Relation, column: Column) -> Iterator[str]:
    if column.generated:
        yield "it is generated"
    if column.identity == "ALWAYS":
        yield "its values are GENERATED ALWAYS, and the other name could be given any"
    if column.checked:
        yield f"its type {column.type} is a domain with conditions, which a column that is still empty may not meet"
    if table.has_rules:
        yield "the table has rules"
    if not table.is_own:
        yield "the table is another role's"
    if case.facts.loop_key(table) is None and case.facts.has_rows_beyond(table, case.batch_rows):
        yield "the table has no key by which to fill the other name in batches"
    if not table.is_partitioned:
        yield from publications.obstacles_of_names(case.facts.conn, table, column.name)
    words = {"word": name_uses.word(column.name), "other": name_uses.word(case.node.newname)}
    for row in case.facts.rows("shadow_obstacles", oid=table.oid, column=column.name, **words):
        if row["kind"] != "published" or table.is_partitioned:
            yield _WHY[row["kind"]].format(row["name"])


def of_rename(case: Case) -> tuple[Relation, Column] | None:
    """Return the table and the column that a statement renames, None for any other statement."""
    table, column = _renamed(case)
    return None if table is None or column is None else (table, column)


def _renamed(case: Case) -> tuple[Relation | None, Column | None]:
    node = case.node
    if not isinstance(node, ast.RenameStmt) or node.renameType != _COLUMN or node.relation is None:
        return None, None
    table = case.facts.relation(node.relation)
    if table is None or table.kind not in "rp" or table.is_temporary or table.is_partition:
        return None, None
    return table, case.facts.columns(table).get(node.subname)


def _out(table: Relation, column: str) -> list[str]:
    """Return what takes a table out of the publications that name a column, while nobody writes."""
    return [f"LOCK TABLE {table.sql} IN ACCESS EXCLUSIVE MODE", publications.taken_out(table, [column])]


def _pair(old: str, new: str, type_: str) -> ColumnPair:
    return ColumnPair(old, new, type_, type_, is_steady=True)


class _Rename:
    """The steps of one rename."""

    def __init__(self, case: Case, table: Relation, column: Column) -> None:
        self.case, self.table, self.column = case, table, column
        made = shadow(case)
        assert made is not None  # noqa: S101 - of a column that is there
        self.shadow = made
        self.sync = ColumnSync(made.sync_name, table.identifier)
        self.ours = helper(table.schema, table.name, column.name, "rename")
        there = [] if table.is_partitioned else publications.of_table(case.facts.conn, table)
        self.publications = [one for one in there if one.sends(column.name)]

    def expansion(self) -> Expansion:
        """Return them, what takes them away, and what lives beside until contract."""
        old, new = quoted(self.column.name), quoted(self.case.node.newname)
        indexes_ = list(self._indexes())
        steps = [self._added(), self._filled(), *(step for _, step in indexes_), *self._proven(), self._cut_over()]
        return Expansion(
            self.case.statement,
            FORM,
            f"Code that uses {old} would fail as soon as the rename commits. So {old} stays as a column that a trigger "
            f"keeps equal to {new}, until contract drops it; SELECT * shows both.",
            tuple(steps),
            cleanup=tuple(self._cleanup()),
            differs=tuple(self._differs([label for label, _ in indexes_ if label])),
        )

    def _cleanup(self) -> Iterator[str]:
        yield self.sync.cleanup()
        yield probes.drop_column(self.table, self.ours)
        if self._is_sent_whole:
            yield publications.cleanup(self.table)

    @property
    def _is_sent_whole(self) -> bool:
        return any(not one.is_listed for one in self.publications)

    def _unsent(self, column: str) -> list[str]:
        if self.table.is_partitioned:
            return []
        return [publications.unsent(self.table, [column], self.case.facts.version)]

    def _added(self) -> SafeStep:
        type_ = self.column.type
        collation = f" COLLATE {self.column.own_collation}" if self.column.own_collation else ""
        added = alter_table(self.table.identifier, f"ADD COLUMN {name(self.ours)} {type_}{collation}")
        installed = self.sync.installation(_pair(self.column.name, self.ours, type_), Leads.OLD)
        listed = [publications.listed(self.table, [self.ours])] if self._is_sent_whole else []
        text = ";\n".join([added, *listed, *self._unsent(self.ours), installed])
        return SafeStep(text, f"Add a column that follows {self.column.sql}, empty in old rows.")

    def _filled(self) -> SafeStep:
        old, ours = name(self.column.name), name(self.ours)
        is_due = f"t.{ours} IS NOT DISTINCT FROM NULL AND t.{old} IS DISTINCT FROM NULL"
        statement = f"UPDATE {self.table.sql} AS t SET {ours} = t.{old} WHERE {{}}{is_due}"
        key = self.case.facts.loop_key(self.table)
        if key is None:
            return SafeStep(
                statement.format(""), f"Fill it in the rows of {self.table.sql}; there are few.", quick=False
            )
        # Whoever inserts or moves a row meanwhile fills it: the loop needs no tracker.
        batches = Batches(
            schema=self.table.schema, table=self.table.name, alias="t", statement=statement.format(f"{RANGE} AND "),
            key=key.columns, key_types=key.types, rows=self.case.batch_rows, fires_triggers=self._fires_triggers(),
        )  # fmt: skip
        says = f"Fill it in the rows of {self.table.sql}, {self.case.batch_rows} at a time."
        return SafeStep(statement.format(""), says, quick=False, batches=batches)

    def _fires_triggers(self) -> bool:
        return not (self._triggers() and self.case.facts.rows("may_silence_triggers")[0]["may"])

    def _triggers(self) -> list[str]:
        return [row["name"] for row in self.case.facts.rows("triggers", oid=self.table.oid) if row["on_update"]]

    def _indexes(self) -> Iterator[tuple[str, SafeStep]]:
        """Yield what makes each index on the column of ours, by the label of what it makes, "" for nothing new.

        Those of a partitioned table are declared, built on each partition, and attached. A key that is checked late is
        no key of ours: it could fail in the middle of a transaction.
        """
        facts, made, attached = self.case.facts, dict[int, str](), list[SafeStep]()
        tables = [self.table, *facts.partitions(self.table)]
        constraints = constraints_of(facts.conn, [table.oid for table in tables])
        for table in tables:
            late = {k.index for k in constraints[table.oid] if k.deferrable}
            for index in column_dependents.read(facts.conn, table, facts.columns(table)[self.column.name]).indexes:
                node = mapped(parsed(index.definition), self._in_ours)
                node = changed(node, unique=node.unique and index.name not in late)
                named = helper(table.schema, table.name, index.name, "rename")
                made[index.oid] = name(table.schema, named)
                label = f"{table.label}.{quoted(named)}"
                if table.is_partitioned:
                    yield label, indexes.declared(table, named, node)
                else:
                    what = f"an index as {quoted(index.name)}, for queries by the old name,"
                    yield label, indexes.build(table, named, node, what)
                if index.parent:
                    attached.insert(0, indexes.attach(made[index.parent], table, named))
        yield from (("", step) for step in attached)

    def _in_ours(self, node: Any) -> Any:
        if isinstance(node, ast.IndexElem) and node.name == self.column.name:
            return changed(node, name=self.ours)
        if isinstance(node, ast.ColumnRef) and strings(node.fields) == (self.column.name,):
            return changed(node, fields=(ast.String(sval=self.ours),))
        return node

    def _proven(self) -> Iterator[SafeStep]:
        yield SafeStep(f"ANALYZE {self.table.sql} ({name(self.ours)})", "Let the planner know its values.", quick=False)
        pair = _pair(self.column.name, self.ours, self.column.type)
        says = f"See that it agrees with {self.column.sql} in every row."
        yield SafeStep(self.sync.proof(pair), says, quick=False)

    def _cut_over(self) -> SafeStep:
        old, new, ours = name(self.column.name), name(self.case.node.newname), name(self.ours)
        rights = self.case.facts.rows("column_rights", oid=self.table.oid, column=self.column.name)
        statements = [
            *(_out(self.table, self.column.name) if self.publications else []),
            f"ALTER TABLE {self.table.sql} RENAME COLUMN {old} TO {new}",
            f"ALTER TABLE {self.table.sql} RENAME COLUMN {ours} TO {old}",
            self.sync.turn(_pair(self.column.name, self.case.node.newname, self.column.type), Leads.BOTH),
            *(row["sql"] for row in rights),
            self.shadow.entry(),
            *([publications.put_back()] if self.publications else []),
            *self._unsent(self.case.node.newname),
        ]
        says = f"Give {self.column.sql} its new name, and the column of ours the old one; each follows the other now."
        if self.publications:
            sent = (
                f"{listed([one.sql for one in self.publications], 6)} goes on sending {self.column.sql} until contract"
            )
            says += f" {sent}: then subscribers stop until it has its new name there, too."
        return SafeStep(";\n".join(statements), says)

    def _differs(self, made: list[str]) -> Iterator[Declared]:
        why = f"{self.shadow.label} lives beside {quoted(self.case.node.newname)} until contract"
        tables = [self.table, *self.case.facts.partitions(self.table)]
        yield from (Declared("until contract", f"{table.label}.{self.column.sql}", why) for table in tables)
        for index in made:
            yield Declared("until contract", index, why)
        for row in self.case.facts.rows("column_rights", oid=self.table.oid, column=self.column.name):
            yield Declared("until contract", f"column {self.table.label}.{self.column.sql} to {row['grantee']}", why)
        for one in self.publications:
            told = f"publication {one.sql} sends {self.column.sql} until contract: subscribers lack the new name"
            yield Declared("until contract", f"{one.sql} {self.table.label}", told)
        if sent := [one.sql for one in self.publications if one.sends_updates]:
            told = f"each row that is filled is sent to the subscribers of {listed(sent, 6)} once more"
            yield Declared("elsewhere", self.table.sql, told)
        if self._triggers() and self._fires_triggers():
            told = f"triggers fire for each row that is filled: {listed(self._triggers(), 6)}"
            yield Declared("elsewhere", self.table.sql, told)
