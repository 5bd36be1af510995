"""Changes of a release that are several statements: which belong to one, and what is executed in their place."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from pglast import ast, enums

from pgrunbook.database.shadows import Shadow
from pgrunbook.plan.step import Expansion
from pgrunbook.safe_forms import (
    default_gap,
    enum_change,
    enum_form,
    gates,
    row_security,
    shadow_column,
    small_table,
    unfinished,
)
from pgrunbook.safe_forms.enum_change import EnumChange
from pgrunbook.safe_forms.enum_form import EnumForm
from pgrunbook.safe_forms.form import Case
from pgrunbook.safe_forms.names import Names
from pgrunbook.sql.statements import Statement
from pgrunbook.sql.tree import tree

HOW = (
    "Where the new list only adds values, write ALTER TYPE ... ADD VALUE. Otherwise release a second type and a second"
    " column, keep both equal with a trigger, fill it in batches, then swap the names."
)


class JoinedChanges:
    """Asked for each statement of a release, in order; ``shadows`` are the columns that the last answer leaves."""

    def __init__(self, release: Sequence[Statement]) -> None:
        self._release = release
        self._places = {str(one.place): number for number, one in enumerate(release)}
        self._waiting: dict[str, Expansion] = {}  # for the others of a change that has begun
        self._together: set[str] = set()  # of changes over small tables
        self._because: dict[str, str] = {}  # of changes that have no form
        self.shadows: tuple[Shadow, ...] = ()

    def expansion(self, case: Case, off: Collection[str], names: Names) -> Expansion | None:
        """Return what is executed for a statement of such a change, None for any other, and where there is no form."""
        place, self.shadows = str(case.statement.place), ()
        if place in self._waiting:
            return self._waiting.pop(place)
        if place not in self._places or place in self._together or place in self._because:
            return None
        if case.is_back or case.is_off:
            return None
        number = self._places[place]
        file = [one for one in self._release[number:] if one.place.migration == case.statement.place.migration]
        change = enum_change.read(case.facts, file) if case.is_branch else None
        statements = default_gap.read(case.facts, file) if change is None else change.statements
        if not statements or any(str(one.place) in off for one in statements):
            return None
        if any(names.are_fresh(tree(one.sql)) for one in statements if _changes_type(tree(one.sql))):
            return None
        later = self._release[number + len(statements) :]
        return self._begun(case, change, later) if change is not None else self._closed(case, statements, later)

    def settled(self, found: Expansion) -> Expansion:
        """Return the expansion of a statement without the gate that its change has no use for, or with its own."""
        place = str(found.statement.place)
        if place in self._together:
            return self.joined(replace(found, gate=None))
        if place in self._because and found.gate is not None and _changes_type(tree(found.statement.sql)):
            says = f"the values of the enum are replaced under a lock that rewrites the table ({self._because[place]})"
            return replace(found, explains=f"No safe form: {says}.", gate=gates.as_written(says, HOW))
        return found

    def joined(self, found: Expansion) -> Expansion:
        """Return an expansion in the transaction of its change, where that is over small tables."""
        if not self.is_together(found.statement):
            return found
        return replace(found, steps=tuple(replace(step, own_transaction=False) for step in found.steps))

    def is_together(self, statement: Statement) -> bool:
        """Tell whether a statement has to be committed with the others of its change."""
        return str(statement.place) in self._together

    def _begun(self, case: Case, change: EnumChange, later: Sequence[Statement]) -> Expansion | None:
        places = [str(one.place) for one in change.statements]
        found = enum_form.form(case, change)
        if found is None:
            self._together |= set(places)
            return None
        because = found if isinstance(found, str) else _obstacle(found, case, later)
        if because:
            self._because.update(dict.fromkeys(places, because))
            return None
        assert isinstance(found, EnumForm)  # noqa: S101 - a text is a reason
        self._waiting = {str(one.statement.place): one for one in found.others}
        self.shadows = found.shadows
        return found.first

    def _closed(self, case: Case, statements: Sequence[Statement], later: Sequence[Statement]) -> Expansion | None:
        """Return the change of type between a default that is dropped and one that is set, as one with both."""
        joined = replace(case, node=default_gap.joined(statements))
        unfinished.refuse(joined)
        found = shadow_column.change(joined)
        if found is None:
            table = small_table.changed_table(joined)
            if table is not None and small_table.is_small(joined, table):
                self._together |= {str(one.place) for one in statements}
            return None
        made = tuple(shadow_column.shadow(joined))
        is_broken = unfinished.breaking(replace(joined, shadows=made), later) is not None
        if is_broken or row_security.hidden(case.facts, found):
            return None
        self.shadows, self._waiting = made, {str(one.place): enum_form.part(one, case) for one in statements[1:]}
        return found


def _obstacle(found: EnumForm, case: Case, later: Sequence[Statement]) -> str:
    """Return why the columns cannot live on beside the new ones, "" where they can."""
    if table := row_security.hidden(case.facts, found.first):
        return f"row level security hides rows of {table} from this role"
    for one in later:
        if found.new_type is not None and unfinished.renames_value(tree(one.sql), found.new_type):
            return f"{one.place} renames a value that lives on beside it until contract"
    for case_ in found.cases:
        breaks = unfinished.breaking(replace(case_, shadows=found.shadows), later, [found.old_type])
        if breaks is not None:
            return f"{breaks.place} changes what would live on beside it until contract"
    return ""


def _changes_type(node: Any) -> bool:
    cmds = node.cmds if isinstance(node, ast.AlterTableStmt) else ()
    return any(cmd.subtype == enums.AlterTableType.AT_AlterColumnType for cmd in cmds)
