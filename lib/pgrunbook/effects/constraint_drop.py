"""The effects of dropping a constraint; for ``effects.alter_table``."""

from __future__ import annotations

from typing import Any

from pgrunbook.database.catalog import VIEW_BY_KEY, Table
from pgrunbook.database.relations import CatalogConstraint
from pgrunbook.effects import result as fx
from pgrunbook.sql.lock_modes import ACCESS_EXCLUSIVE


def drop_constraint(found: fx.Found, table: Table, cmd: Any) -> None:
    """Collect the effects of ALTER TABLE ... DROP CONSTRAINT."""
    for constraint in table.constraints:
        if constraint.name == cmd.name:
            drop_constraint_of(found, table, constraint, cascade=cmd.behavior == 1)
            return
    if found.catalog.connected and cmd.missing_ok:
        return
    found.lose(f"constraint {cmd.name} on {table.label}")
    if not found.catalog.connected:
        found.cannot_know(f"whether {cmd.name} is a foreign key; if so, the other table is locked too")


def drop_constraint_of(found: fx.Found, table: Table, constraint: CatalogConstraint, *, cascade: bool) -> None:
    """Collect the effects of dropping a constraint: foreign keys and views need a key."""
    found.lose(f"constraint {constraint.name} on {table.label}")
    if constraint.partner is not None:
        partner = found.catalog.at(constraint.partner)
        found.lock(partner, ACCESS_EXCLUSIVE)
        found.lock_referenced(partner, ACCESS_EXCLUSIVE)
    if constraint.kind in ("p", "u"):
        for other, key in found.catalog.references_to(table):
            if set(key.partner_columns) == set(constraint.columns):
                if cascade:
                    found.lose(f"foreign key {key.name} on {other.label}")
                    found.lock(other, ACCESS_EXCLUSIVE)
                else:
                    found.fails[f"foreign key {key.name} of {other.label} depends on {constraint.name}"] = None
        for view in (each for each in table.of_kind(VIEW_BY_KEY) if each.type == constraint.name):
            if cascade:
                found.lose(f"view {view.name}")
                found.locks.add((view.name, ACCESS_EXCLUSIVE))
            else:
                found.fails[f"view {view.name} depends on {constraint.name}"] = None
        for index in table.indexes:
            if index.name == constraint.index:
                found.locks.add((index.label, ACCESS_EXCLUSIVE))
