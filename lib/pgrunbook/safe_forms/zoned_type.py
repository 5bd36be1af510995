"""The gate of a column whose values become another type by the session's TimeZone, which no file names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pglast import ast, enums

from pgrunbook.database.facts import Facts
from pgrunbook.effects import time_zone
from pgrunbook.effects.zone_use import Columns, uses
from pgrunbook.plan.step import Gate
from pgrunbook.safe_forms.form import Case
from pgrunbook.sql.settings import ANY, settings
from pgrunbook.sql.tree import text

ID = "time-zone"
_NAMES = ("timezone", ANY)


@dataclass(frozen=True)
class FactsTypes:
    """The types in the database that is asked one fact at a time."""

    facts: Facts

    def columns(self, name: ast.RangeVar) -> Columns:
        """Return the types of a relation's columns."""
        relation = self.facts.relation(name)
        return {each.name: each.base for each in self.facts.columns(relation).values()} if relation else {}

    def base(self, name: ast.TypeName) -> str:
        """Return the type that a name means."""
        fact = self.facts.type(text(name))
        return fact.base if fact else str(name.names[-1].sval)


def find(case: Case) -> Gate | None:
    """Return the gate of an ALTER TABLE that converts the values of a column by the session's TimeZone."""
    node = case.node
    changed = [cmd for cmd in node.cmds if _changes_type(cmd)] if isinstance(node, ast.AlterTableStmt) else []
    table = case.facts.relation(node.relation) if changed else None
    if table is None or table.kind not in ("r", "p", "f") or not case.facts.has_rows_beyond(table, 0):
        return None
    types = FactsTypes(case.facts)
    told, how = [], []
    for cmd in changed:
        found = uses(ast.AlterTableStmt(relation=node.relation, cmds=(cmd,)), types)
        if found:
            zone, old, new = case.facts.time_zone(), types.columns(node.relation), types.base(cmd.def_.typeName)
            told.append(f"{found[0].value} becomes {new} by the session's TimeZone, here {zone}")
            type_ = text(cmd.def_.typeName)
            if cmd.def_.raw_default is None:
                how.append(time_zone.alteration(table.sql, cmd.name, old.get(cmd.name, ""), new, type_, zone))
    if not told:
        return None
    says = f"{'; '.join(told)}: by another zone the values would be others"
    named = f"Name the zone: {' '.join(how)} Or" if how else "Name the zone by AT TIME ZONE in its USING, or"
    return Gate(ID, says, "by hand", f"{named} SET TimeZone before it, in the same file.")


def is_set_behind(nodes: Iterable[Any], before: bool) -> bool:
    """Tell whether a file has named the TimeZone behind statements, as it had before them."""
    for setting in (each for node in nodes for each in settings(node) if each.name in _NAMES):
        before = setting.value is not None and setting.is_known
    return before


def _changes_type(cmd: Any) -> bool:
    return bool(cmd.subtype == enums.AlterTableType.AT_AlterColumnType)
