"""Safe form of ALTER COLUMN TYPE where it rewrites the table: a column of the new type beside the old one.

Of several columns in one statement each gets its own, and all take their places in one cut-over.


1. All rows are tried: where a value cannot be converted, nothing has been written yet.
2. The new column is added, and a trigger keeps it equal to the old one (``database.column_sync``).
3. The rows that are there are filled in batches.
4. The new column takes the place of the old one (``safe_forms.column_move``). From then on the old column follows the
   new one, until contract drops it: so the way back is the same move in the other direction, and no write is lost.

What reads the columns of the table by their order (SELECT *, INSERT without names) sees the new one behind the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pglast import ast, enums

from pgrunbook.database import column_dependents, publications, shadows
from pgrunbook.database.column_sync import ColumnPair, ColumnSync, Leads, filled
from pgrunbook.database.publications import Publication
from pgrunbook.database.relations import Column, Relation
from pgrunbook.database.shadows import Shadow
from pgrunbook.display.prose import listed
from pgrunbook.plan.declared import Declared
from pgrunbook.plan.step import RANGE, Batches, Expansion, SafeStep
from pgrunbook.safe_forms import partition_column, partitioned_move, probes, small_table, type_cost, type_parts
from pgrunbook.safe_forms.column_move import ColumnMove
from pgrunbook.safe_forms.form import Case
from pgrunbook.safe_forms.moved_column import MovedColumn, grows
from pgrunbook.safe_forms.partition_column import Below
from pgrunbook.safe_forms.side_changes import SideChanges
from pgrunbook.safe_forms.type_parts import TypeChangeParts
from pgrunbook.sql.deparse import alter_table, changed, command, name, parsed
from pgrunbook.sql.tree import dotted_name, quoted

A = enums.AlterTableType
FORM, BACK = "shadow-column", "shadow-column-back"
_LONGEST = 63


def change(case: Case) -> Expansion | None:
    """ALTER COLUMN ... TYPE of one or several columns -> columns beside them, batches, and one short cut-over.

    The default of a column may be dropped and set in the same statement.
    """
    found = type_parts.parts(case)
    if not isinstance(found, list):
        return None
    if small_table.changed_table(case) is not None and small_table.is_small(case, found[0].table):
        return None
    if not type_cost.of(case, found[0].table).rewrites:
        return None
    form = ShadowForm.of(case, found, type_parts.beside(case))
    one = len(found) == 1
    return Expansion(
        case.statement,
        FORM,
        f"The new type of {_listed(part.column.name for part in found)} rewrites the table. "
        + (
            "A column of the new type is added, kept equal by a trigger, filled in batches, and takes its place; the"
            " old one follows it until contract drops it."
            if one
            else "Columns of the new types are added, kept equal by triggers, filled in batches, and take their places"
            " together; the old ones follow them until contract drops them."
        ),
        tuple(form.steps()),
        cleanup=tuple(form.cleanup()),
        differs=tuple(form.differs()),
        back=tuple(form.way_back()),
        back_cleanup=tuple(form.back_cleanup()),
        same_as=type_parts.accepted(case, found[0].table, [part.column.name for part in found]),
    )


def back(case: Case) -> Expansion | None:
    """ALTER COLUMN ... TYPE to the type that lives beside it -> that column takes its place again; for a way back."""
    gone = taken_back(case)
    table = case.facts.relation(case.node.relation) if gone else None
    if table is None:
        return None
    columns, loop_key = case.facts.columns(table), case.facts.loop_key(table)
    moved: list[tuple[MovedColumn, Sequence[Below]]] = []
    for one in gone:
        column, old = columns[one.column_name], columns[one.shadow_name]
        pair = ColumnPair(old.name, column.name, old.type, column.type)
        returns = MovedColumn(
            table, column_dependents.read(case.facts.conn, table, column), old.name,
            type_parts.shadow_names(table, column.name)[0], ColumnSync(one.sync_name, one.table), pair,
            case.facts.version, column.not_null, column.not_null, column.default,
        )  # fmt: skip
        moved.append((returns, partition_column.below(case.facts, table, column)))
    move = partitioned_move.move(moved, loop_key.columns if loop_key is not None else ())
    says = " ".join(f"{m.comes} holds what {m.column} has, also what was written since." for m in move.columns)
    return Expansion(case.statement, BACK, says, tuple(_returned(move, gone)), cleanup=tuple(move.cleanup()))


def taken_back(case: Case) -> list[Shadow]:
    """Return the shadows that changes of type take back, on the way back of a migration; [] for any other statement."""
    found = _changed(case)
    if found is None or not case.is_back:
        return []
    table, columns, cmds = found
    gone = []
    for cmd in cmds:
        one = shadows.of_column(case.shadows, table.schema, table.name, cmd.name)
        made = type_parts.type_of(case, cmd.def_)
        if one is None or made is None or one.kind != "type change" or one.column_name != cmd.name:
            return []
        if one.shadow_name not in columns or made[1] != columns[one.shadow_name].type:
            return []
        gone.append(one)
    return gone


def _changed(case: Case) -> tuple[Relation, Mapping[str, Column], Sequence[Any]] | None:
    """Return the table, its columns and the commands of a statement that changes types, and only that."""
    node = case.node
    if not isinstance(node, ast.AlterTableStmt) or node.objtype != enums.ObjectType.OBJECT_TABLE:
        return None
    table = case.facts.relation(node.relation)
    if table is None or any(cmd.subtype != A.AT_AlterColumnType for cmd in node.cmds):
        return None
    return table, case.facts.columns(table), node.cmds


def _returned(move: ColumnMove, gone: Sequence[Shadow], beside: SideChanges | None = None) -> list[SafeStep]:
    """Return the steps by which the old columns take their places again, and the new ones are dropped."""
    beside = beside or SideChanges()
    tried = [
        SafeStep(
            one.sync.proof(one.pair, move.key),
            f"Try whether each row has a value that can be {one.pair.old_type} again; reads and writes go on.",
            quick=False,
        )
        for one in move.columns
    ]
    ends = [one.sync.removal() for one in move.columns]
    ends.append(alter_table(move.table.identifier, *(f"DROP COLUMN {name(one.leaves_as)}" for one in move.columns)))
    ends += [one.removal() for one in gone]
    is_sent = any(one.on.publications for one in move.columns)
    ends += [publications.with_others(move.table, gone=beside.columns)] if is_sent and beside.columns else []
    ends += [alter_table(move.table.identifier, *beside.back_last)] if beside.back_last else []
    ends += beside.back_then
    if is_sent:
        ends.append(publications.whole(move.table))
    says = " ".join(
        f"{one.comes} becomes {one.column} again, with all that hangs on it; the new column is dropped."
        for one in move.columns
    )
    return [*tried, *beside.back_first, *move.steps(ends=ends, says=says)]


def shadow(case: Case) -> list[Shadow]:
    """Return the columns that changes of type in this form leave beside the new ones, [] for any other statement."""
    found = type_parts.parts(case)
    return [_registered(case, one) for one in found] if isinstance(found, list) else []


@dataclass(frozen=True)
class ShadowForm:
    """The form of the changes of type of a table's columns: there, and back."""

    case: Case
    found: list[TypeChangeParts]
    beside: SideChanges
    there: ColumnMove
    back: ColumnMove

    @classmethod
    def of(cls, case: Case, found: list[TypeChangeParts], beside: SideChanges) -> ShadowForm:
        """Read what hangs on the columns."""
        table, version, loop_key = found[0].table, case.facts.version, case.facts.loop_key(found[0].table)
        key, there, back = loop_key.columns if loop_key is not None else (), [], []
        for one in found:
            pair, on = one.pair, column_dependents.read(case.facts.conn, table, one.column)
            below = partition_column.below(case.facts, table, one.column)
            was, becomes = one.column.not_null, one.not_null
            comes = MovedColumn(
                table, on, pair.new, one.parked, one.sync, pair, version, was, becomes, one.default, one.gives_default,
                is_new_type=True,
            )  # fmt: skip
            after, default = pair.behind(one.parked, one.column.name), one.column.default
            returns = MovedColumn(table, on, one.parked, pair.new, one.sync, after, version, becomes, was, default)
            there.append((comes, below))
            back.append((returns, below))
        carried = ColumnMove(table, tuple(one for one, _ in there)).carried
        before, behind = carried.beside(beside.gone), carried.without(beside.gone).beside(beside.added)
        moves = (partitioned_move.move(there, key, before, behind), partitioned_move.move(back, key, behind, before))
        return cls(case, found, beside, *moves)

    def steps(self) -> list[SafeStep]:
        """Return the steps of the change."""
        beside, table = self.beside, self.there.table
        ends = [alter_table(table.identifier, *beside.last)] if beside.last else []
        ends += [publications.with_others(table, come=beside.columns)] if self._unlisted and beside.columns else []
        ends += [one.sync.turn(one.pair, Leads.NEW) for one in self.back.columns]
        ends += [_registered(self.case, one).entry() for one in self.found]
        parked = [one.leaves_as for one in self.there.columns]
        ends.append(publications.unsent(table, parked, self.case.facts.version))
        says = " ".join(
            f"{one.comes} becomes {one.column} with all that hangs on it; {one.column} goes on as {one.leaves_as}."
            for one in self.there.columns
        )
        says += " The rest of the statement only writes the catalog, and is part of it." if beside.last else ""
        made = _beside(self.case, self.found, self.there, self._unlisted)
        return [*beside.first, *made, *self.there.steps(ends=ends, says=says)]

    def cleanup(self) -> list[str]:
        """Return the queries for what drops all that was made before the cut-over."""
        drops = [probes.drop_column(one.table, one.pair.new) for one in self.found]
        if self._unlisted:
            drops.append(publications.cleanup(self.there.table))
        return [*(one.sync.cleanup() for one in self.found), *self.there.cleanup(), *drops, *self.beside.cleanup]

    def shadows(self) -> list[Shadow]:
        """Return the columns that it leaves beside the new ones."""
        return [_registered(self.case, one) for one in self.found]

    def way_back(self) -> list[SafeStep]:
        """Return the steps of the way back."""
        return _returned(self.back, self.shadows(), self.beside)

    def back_cleanup(self) -> list[str]:
        """Return the queries for what drops all that the way back has made before its cut-over."""
        return [*self.back.cleanup(), *self.beside.back_cleanup]

    @property
    def _publications(self) -> list[Publication]:
        return list(dict.fromkeys(each for one in self.there.columns for each in one.on.publications))

    @property
    def _unlisted(self) -> list[Publication]:
        return [one for one in self._publications if not one.is_listed]

    def differs(self) -> list[Declared]:
        """Return what differs from the plain change: until contract, and the order of columns, which stays so."""
        table = self.there.table
        told = [*self.beside.differs]
        told += [each for one in self.there.parts for each in [*_differs(one), *one.differs()]]
        for key in self.there.late_keys:
            why = f"it is what {key.name} was: two values that are the same are told by its name, too"
            told.append(Declared("until contract", f"{table.label}.{quoted(self.there.leaving_key(key))}", why))
        for publication in self._unlisted:
            why = f"publication {publication.sql} has a list of its columns until contract: subscribers lack the other"
            told.append(Declared("until contract", f"{publication.sql} {table.label}", why))
        if sent := [one.sql for one in self._publications if one.sends_updates]:
            why = f"each row that is filled is sent to the subscribers of {', '.join(sent)} once more"
            told.append(Declared("elsewhere", table.sql, why))
        triggers, silenced = _fired(self.case, table)
        if triggers and not silenced:
            why = f"triggers fire for each row that is filled: {', '.join(triggers)}"
            told.append(Declared("elsewhere", table.sql, why))
        return told


def _differs(move: ColumnMove) -> list[Declared]:
    """Return what differs in one table, which may be a partition."""
    table = move.table
    moved = {table.label: f"column order of {table.label}: what has a new type comes last"}
    for statistics in move.statistics:
        moved[dotted_name(statistics.schema, statistics.name)] = "the columns come in their new order"
    told = [Declared("column order", what, why) for what, why in moved.items()]
    for one in move.columns:
        label = f"{table.label}.{quoted(one.leaves_as)}"
        beside = f"{one.leaves_as} follows {one.column} until contract drops it"
        grants = [grant for grant in one.on.grants if not grant.sequence]
        rights = dict.fromkeys(f"column {label} to {grant.grantee}" for grant in grants)
        told += [Declared("until contract", what, beside) for what in (label, *rights)]
        for sequence in one.on.sequences:
            if grows(sequence, one.pair.new_type):
                why = f"it grows with {one.column}: as {sequence.type} it would end before the column's values do"
                told.append(Declared("sequence type", dotted_name(sequence.schema, sequence.name), why))
    return told


def _fired(case: Case, table: Relation) -> tuple[list[str], bool]:
    """Return the triggers of the application on UPDATE, and whether the loop may silence them."""
    triggers = [row["name"] for row in case.facts.rows("triggers", oid=table.oid) if row["on_update"]]
    return triggers, bool(triggers) and case.facts.rows("may_silence_triggers")[0]["may"]


def _beside(
    case: Case, found: Sequence[TypeChangeParts], move: ColumnMove, unlisted: Sequence[Publication]
) -> list[SafeStep]:
    """Return the steps that try all rows, add the columns, and fill them."""
    table, pairs = found[0].table, [(one.sync, one.pair) for one in found]
    new, old = _listed(one.pair.new for one in found), _listed(one.column.name for one in found)
    tried = [
        SafeStep(
            one.sync.trial(one.pair, move.key, not_null=one.not_null and moved.is_proven),
            f"Try whether each value of {one.column.name} can be converted; reads and writes go on.",
            quick=False,
        )
        for one, moved in zip(found, move.columns, strict=True)
        if not one.is_tried
    ]
    added = [text for one in found for text in _added(case, one)]
    if unlisted:
        added.append(publications.listed(table, [one.pair.new for one in found]))
    added.append(publications.unsent(table, [one.pair.new for one in found], case.facts.version))
    synced = [one.sync.installation(one.pair, Leads.OLD) for one in found]
    triggers = (
        f"a trigger that keeps it equal to {old}" if len(found) == 1 else f"triggers that keep them equal to {old}"
    )
    beside = [SafeStep(";\n".join([*added, *synced]), f"Add {new}, and {triggers}; no row is read.")]
    if keys := move.keys_beside():
        beside = [
            SafeStep(";\n".join(added), f"Add {new}; no row is read."),
            *keys,
            SafeStep(";\n".join(synced), f"Add {triggers}; no row is read."),
        ]
    _, silenced = _fired(case, table)
    batches = Batches(
        schema=table.schema, table=table.name, alias="t", statement=filled(pairs, RANGE), key=(), key_types=(),
        rows=case.batch_rows, fires_triggers=not silenced, by_pages=True,
    )  # fmt: skip
    fills = SafeStep(
        filled(pairs, ""),
        f"Fill {new} in the existing rows, {case.batch_rows} at a time.",
        quick=False,
        batches=batches,
    )
    return [*tried, *beside, fills]


def _added(case: Case, one: TypeChangeParts) -> list[str]:
    """Return the statements that add a column."""
    pair, add = one.pair, parsed("ALTER TABLE t ADD COLUMN a int").cmds[0]
    typed = {"typeName": one.definition.typeName, "collClause": one.definition.collClause}
    clause = command(changed(add, def_=changed(add.def_, colname=pair.new, **typed)))
    found = [alter_table(one.table.identifier, clause)]
    for table in (one.table, *case.facts.partitions(one.table)):
        column, clauses = case.facts.columns(table)[one.column.name], []
        if column.statistics >= 0:
            clauses.append(f"ALTER COLUMN {name(pair.new)} SET STATISTICS {column.statistics}")
        if column.options:
            clauses.append(f"ALTER COLUMN {name(pair.new)} SET ({', '.join(column.options)})")
        found += [alter_table(table.identifier, each, only=table.is_partitioned) for each in clauses]
    return found


def _listed(names: Iterable[str]) -> str:
    found = list(names)
    return listed(found, len(found))


def _registered(case: Case, found: TypeChangeParts) -> Shadow:
    table, migration = found.table, case.statement.place.migration
    return Shadow(table.schema, table.name, found.column.name, found.parked, "type change", migration, found.sync.name)
