"""Safe form of the replacement of an enum: columns of the new type beside those of the old one, and one cut-over.

1. Values that the new type lacks are counted: where there are any, nothing has been written yet.
2. The new type is made, under a name of ours. Each column gets another one of it beside it, as for any change of type
   (``safe_forms.shadow_column``).
3. In one transaction the old type moves aside, the new one gets its name, and all columns take their places: whoever
   casts to the type by its name finds that of the columns.
4. The old columns have the old type until contract drops both. The way back is the same in the other direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import psycopg
from psycopg import sql

from pgrunbook.database.shadows import OLD_TYPE, Shadow, type_objects
from pgrunbook.display.prose import listed
from pgrunbook.plan.declared import Declared
from pgrunbook.plan.step import Expansion, SafeStep
from pgrunbook.safe_forms import probes, small_table, type_parts, unfinished
from pgrunbook.safe_forms.enum_change import EnumChange, EnumColumn
from pgrunbook.safe_forms.form import Case
from pgrunbook.safe_forms.shadow_column import ShadowForm
from pgrunbook.sql.deparse import changed, helper, literal, name
from pgrunbook.sql.own_code import do
from pgrunbook.sql.statements import Statement
from pgrunbook.sql.tree import dotted_name, tree

FORM, PART = "replaced-enum", "part-of-a-change"
_NEW_TYPE = "pgrunbook_new_"
_LONGEST = 63
_LACKING = """
DECLARE
    found text;
BEGIN
    SELECT string_agg(format('%L in %s', v.value, v.rows), ', ' ORDER BY v.value)
    INTO found
    FROM (SELECT u.value::text AS value, count(*) AS rows
          FROM {table} AS t
          CROSS JOIN LATERAL unnest({values}) AS u (value)
          WHERE u.value = ANY ({lacking}::{old}[])
          GROUP BY 1) AS v;
    IF found IS NOT NULL THEN
        RAISE integrity_constraint_violation USING
            MESSAGE = {says},
            DETAIL = format({more}, found),
            HINT = 'Give these rows another value in a migration before it, or keep the value.';
    END IF;
END
"""

_UNUSED = """
DECLARE
    found text;
BEGIN
    SELECT pg_describe_object(d.classid, d.objid, d.objsubid) INTO found
    FROM pg_type AS t
    JOIN pg_depend AS d ON d.refclassid = 'pg_type'::regclass AND d.refobjid IN (t.oid, t.typarray)
    WHERE t.oid = {aside}::regtype
      AND (d.classid, d.objid) <> ('pg_type'::regclass::oid, t.typarray)
      AND NOT (d.classid = 'pg_proc'::regclass
               AND (SELECT p.pronamespace = 'pgrunbook'::regnamespace FROM pg_proc AS p WHERE p.oid = d.objid))
      AND NOT EXISTS (SELECT
                      FROM (VALUES {columns}) AS c (relation, name)
                      JOIN LATERAL (SELECT c.relation::regclass::oid AS oid
                                    UNION
                                    SELECT p.relid FROM pg_partition_tree(c.relation::regclass) AS p) AS r ON true
                      JOIN pg_attribute AS a ON a.attrelid = r.oid AND a.attname = c.name
                      WHERE (d.classid, d.objid, d.objsubid) = ('pg_class'::regclass::oid, a.attrelid, a.attnum))
    LIMIT 1;
    IF found IS NOT NULL THEN
        RAISE dependent_objects_still_exist USING
            MESSAGE = format('%s needs type %s, and did not when this was planned', found, {old}),
            HINT = 'Let it need the type no more, then go on; or roll this back.';
    END IF;
END
"""


@dataclass(frozen=True)
class EnumForm:
    """The form of a whole change: the expansion of its first statement, and those of the others.

    ``shadows`` are the columns that live on until contract, ``old_type`` is what their type is called then, and
    ``new_type`` that of the columns beside them, None for text.
    """

    first: Expansion
    others: tuple[Expansion, ...]
    shadows: tuple[Shadow, ...]
    old_type: tuple[str, str]
    new_type: tuple[str, str] | None
    cases: tuple[Case, ...]


def form(case: Case, change: EnumChange) -> EnumForm | str | None:
    """Return the form, why there is none, or None where the tables are small: then it is done as it is written.

    The new type is made on the branch for as long as the form is read, in a transaction that is rolled back.
    Raises Refused where one of the columns lives beside another until contract.
    """
    types = _Types.of(change)
    if case.facts.type_oid(name(*types.aside)) is not None:
        return f"type {dotted_name(*types.aside)} of an earlier change waits for contract"
    with case.facts.conn.transaction(force_rollback=True):
        if types.is_made:
            try:
                case.facts.conn.execute(types.creation.encode())
            except psycopg.Error as exc:
                return f"the server refuses the new type: {exc.diag.message_primary}"
        tables = dict.fromkeys(one.table for one in change.columns)
        cases = [_case(case, change, types, [c for c in change.columns if c.table == table]) for table in tables]
        for one in cases:
            unfinished.refuse(one)
        found = [type_parts.parts(one) for one in cases]
        if because := [one for one in found if isinstance(one, str)]:
            return "; ".join(because)
        parts = [one for one in found if isinstance(one, list)]
        if len(parts) < len(cases):
            return "the server refuses it as it is written"
        if all(small_table.is_small(one, part[0].table) for one, part in zip(cases, parts, strict=True)):
            return None
        tried = {(one.table.oid, one.column.name) for one in change.columns if one.is_cast and change.new is not None}
        parts = [[replace(p, is_tried=(p.table.oid, p.column.name) in tried) for p in each] for each in parts]
        forms = [ShadowForm.of(one, part, type_parts.beside(one)) for one, part in zip(cases, parts, strict=True)]
        return _EnumSteps(case, change, types, tuple(forms)).form(cases)


def part(statement: Statement, case: Case) -> Expansion:
    """Return the expansion of a statement that is done with an earlier one."""
    return Expansion(statement, PART, f"It is done with {case.statement.place}, in the same cut-over.", ())


@dataclass(frozen=True)
class _Types:
    """The names of the two types: of the old one before and aside, of the new one meanwhile and at the end."""

    old: tuple[str, str]
    aside: tuple[str, str]
    temporary: tuple[str, str] | None
    new: tuple[str, str] | None
    labels: tuple[str, ...]
    is_made: bool

    @classmethod
    def of(cls, change: EnumChange) -> _Types:
        old, new = change.old.was or ("", ""), change.new
        aside = (old[0], _helper(OLD_TYPE, *old))
        if new is None or new.now is None:
            return cls(old, aside, None, None, (), is_made=False)
        if new.was is not None:  # an earlier migration has made it
            return cls(old, aside, new.was, new.now, new.labels, is_made=False)
        temporary = (new.now[0], _helper(_NEW_TYPE, *new.now))
        return cls(old, aside, temporary, new.now, new.labels, is_made=True)

    @property
    def creation(self) -> str:
        labels = ", ".join(map(literal, self.labels))
        return f"CREATE TYPE {name(*(self.temporary or ()))} AS ENUM ({labels})"

    def there(self) -> list[str]:
        """Return the statements that exchange the names."""
        return [*_renamed(self.old, self.aside), *_renamed(self.temporary, self.new)]

    def back(self) -> list[str]:
        """Return the statements that exchange them again."""
        return [*_renamed(self.new, self.temporary), *_renamed(self.aside, self.old)]


def _renamed(was: tuple[str, str] | None, becomes: tuple[str, str] | None) -> list[str]:
    if was is None or becomes is None or was == becomes:
        return []
    return [f"ALTER TYPE {name(*was)} RENAME TO {name(becomes[1])}"]


def _helper(prefix: str, schema: str, of: str) -> str:
    long = f"{prefix}{of}"
    return long if len(long.encode()) <= _LONGEST else f"{prefix}{helper(schema, of).rpartition('_')[2]}"


def _case(case: Case, change: EnumChange, types: _Types, columns: Sequence[EnumColumn]) -> Case:
    """Return the case of the one ALTER TABLE to which the statements come for the columns of a table."""
    node = tree(f"ALTER TABLE {columns[0].table.sql} ALTER COLUMN a TYPE text USING a, ALTER COLUMN a SET DEFAULT 1")
    type_, default = node.cmds
    new, cmds = types.temporary or ("", ""), []
    for one in columns:
        made = changed(
            type_.def_, typeName=change.settled(one.type_name, new), raw_default=change.settled(one.value, new)
        )
        cmds.append(changed(type_, name=one.column.name, def_=made))
        if one.gives_default:
            given = None if one.default is None else change.settled(one.default, types.new or ("", ""))
            cmds.append(changed(default, name=one.column.name, def_=given))
    return replace(case, node=changed(node, cmds=tuple(cmds)))


@dataclass(frozen=True)
class _EnumSteps:
    """The steps of a change of one or several tables: there, and back."""

    case: Case
    change: EnumChange
    types: _Types
    forms: tuple[ShadowForm, ...]

    def form(self, cases: Sequence[Case]) -> EnumForm:
        """Return the form."""
        statement = self.change.statements[0]
        first = Expansion(
            statement, FORM, self._explains(), tuple(self._there()), cleanup=tuple(self._cleanup()),
            differs=tuple(self._differs()), back=tuple(self._back()),
            back_cleanup=tuple(query for one in reversed(self.forms) for query in one.back_cleanup()),
        )  # fmt: skip
        others = tuple(part(one, self.case) for one in self.change.statements[1:])
        shadows = tuple(each for one in self.forms for each in one.shadows())
        return EnumForm(first, others, shadows, self.types.aside, self.types.new, tuple(cases))

    def _explains(self) -> str:
        old, new, last = dotted_name(*self.types.old), self.types.new, self.change.statements[-1]
        columns = [f"{one.table.label}.{one.column.name}" for one in self.change.columns]
        label = f"values of {old}" if new is not None else f"{old} by text"
        says = f"The statements up to {last.place} replace the {label} in {listed(columns, len(columns))}."
        says += " A column of the new type is added beside each, kept equal by a trigger, filled in batches, and takes"
        says += f" its place; the old one follows it until contract drops it with the old type, {self.types.aside[1]}."
        if self.change.is_superset and all(one.is_cast for one in self.change.columns):
            says += f" The new list only adds values: {self._added()} would do that without a second column."
        return says

    def _added(self) -> str:
        """Return the statements that add the values to the old type."""
        labels, found = self.types.labels, []
        there = [label for label in labels if label in self.change.old.labels]
        for place, label in enumerate(labels):
            if label not in there:
                first = f" BEFORE {literal(there[0])}" if there else ""
                at = f" AFTER {literal(labels[place - 1])}" if place else first
                found.append(f"ALTER TYPE {dotted_name(*self.types.old)} ADD VALUE {literal(label)}{at}")
        return "; ".join(found)

    def _there(self) -> list[SafeStep]:
        every = [one.steps() for one in self.forms]
        made, new = [], self.types.temporary
        if new is not None and self.types.is_made:
            made.append(SafeStep(self.types.creation, f"Make the new type, as {dotted_name(*new)}."))
        before = [*self._counted(), *made, *(step for each in every for step in each[:-1])]
        cuts = [each[-1] for each in every]
        return [*before, self._cutover(cuts, self.types.there(), there=True, ends=[self._unused()])]

    def _back(self) -> list[SafeStep]:
        every = [one.way_back() for one in self.forms]
        ends = [f"DROP TYPE {name(*self.types.temporary or ())}"] if self.types.is_made else []
        cut = self._cutover([each[-1] for each in every], self.types.back(), there=False, ends=ends)
        return [*(step for each in every for step in each[:-1]), cut]

    def _cutover(
        self, cuts: Sequence[SafeStep], renames: Sequence[str], *, there: bool, ends: Sequence[str] = ()
    ) -> SafeStep:
        """Return the one step of all cut-overs, in which the types change their names as soon as all is locked."""
        tables = {table for one in self.forms for table in (one.there if there else one.back).tables}
        lock = f"LOCK TABLE {', '.join(name(*one) for one in sorted(tables))} IN ACCESS EXCLUSIVE MODE"
        old, new = dotted_name(*self.types.old), self.types.new
        says = f"{old} is {self.types.aside[1]} until contract" if there else f"{self.types.aside[1]} is {old} again"
        says += f", and the new type is {dotted_name(*new)}" if there and new is not None else ""
        says = " ".join([f"{says}.", *(one.says for one in cuts)])
        return SafeStep(";\n".join([lock, *renames, *(one.sql for one in cuts), *ends]), says)

    def _unused(self) -> str:
        """Return the statement that fails where something else came to need the old type, which the plain SQL drops."""
        every = [(one.table_sql, one.shadow_name) for form in self.forms for one in form.shadows()]
        columns = [sql.SQL("({}, {})").format(sql.Literal(table), sql.Literal(column)) for table, column in every]
        block = sql.SQL(_UNUSED).format(
            aside=sql.Literal(name(*self.types.aside)), old=sql.Literal(dotted_name(*self.types.old)),
            columns=sql.SQL(", ").join(columns),
        )  # fmt: skip
        return do(block).as_string(None)

    def _counted(self) -> list[SafeStep]:
        """Return the steps that count the values which the new type lacks."""
        found = []
        for one in self.change.columns if self.change.lacking else ():
            if one.is_cast:
                says = f"Count the rows of {one.table.label} with a value that the new type lacks; all others go on."
                found.append(SafeStep(self._lacking(one), says, quick=False))
        return found

    def _lacking(self, one: EnumColumn) -> str:
        column = sql.Identifier("t", one.column.name)
        label, new = f"{one.table.label}.{one.column.name}", dotted_name(*(self.types.new or ()))
        block = sql.SQL(_LACKING).format(
            table=one.table.identifier, values=column if one.is_array else sql.SQL("ARRAY[{}]").format(column),
            lacking=sql.Literal(list(self.change.lacking)), old=sql.Identifier(*self.types.old),
            says=sql.Literal(f"rows of {label} have values that the new type {new} lacks"),
            more=sql.Literal("%s rows."),
        )  # fmt: skip
        return do(block).as_string(None)

    def _cleanup(self) -> list[str]:
        found = [query for one in reversed(self.forms) for query in one.cleanup()]
        return [*found, probes.drop_type(name(*self.types.temporary or ()))] if self.types.is_made else found

    def _differs(self) -> list[Declared]:
        aside = dotted_name(*self.types.aside)
        why = f"it is what {dotted_name(*self.types.old)} was, and the old columns have it until contract"
        found = [each for one in self.forms for each in one.differs()]
        objects = type_objects(aside, self.change.old.grantees)
        return [*found, *(Declared("until contract", one, why) for one in objects)]
