"""Which subcommands of ALTER TABLE are for the tables below theirs, too; for ``effects.alter_table``."""

from __future__ import annotations

from typing import Any

from pgrunbook.database.catalog import Table
from pgrunbook.effects import result as fx
from pgrunbook.sql.lock_modes import SHARE
from pgrunbook.sql.tree import constraint_kind, subcommand

CONSTRAINTS_LOCK_ALL_FROM = 18  # each new constraint locks what inherits, whether it is for that or not
_TRIGGERS = {
    "EnableTrig", "EnableAlwaysTrig", "EnableReplicaTrig", "EnableTrigAll", "EnableTrigUser", "DisableTrig",
    "DisableTrigAll", "DisableTrigUser",
}  # fmt: skip
_OF_STORAGE = {"SetLogged", "SetUnLogged", "SetTableSpace", "SetAccessMethod"}
_ALONE = {"UNIQUE", "EXCLUSION", "FOREIGN"}  # what inherits does not get these
_RECURSE = {
    "AddColumn", "DropColumn", "AlterColumnType", "SetNotNull", "DropNotNull", "AddConstraint", "DropConstraint",
    "ValidateConstraint", "ColumnDefault", "SetStorage", "SetCompression", "SetStatistics", "SetExpression",
    "DropExpression",
}  # fmt: skip


def lock_below(found: fx.Found, table: Table, cmd: Any, mode: str, *, inh: bool) -> None:
    """Collect the locks on the tables below; ONLY locks those next to it which inherit what is dropped."""
    word, recurses = subcommand(cmd), inh
    kind = constraint_kind(cmd.def_) if word == "AddConstraint" else ""
    if not found.is_from(CONSTRAINTS_LOCK_ALL_FROM):
        recurses = inh and not (kind == "CHECK" and cmd.def_.is_no_inherit)
        recurses = recurses and (table.kind == "p" or kind not in _ALONE)
        if kind in ("UNIQUE", "EXCLUSION"):
            mode = SHARE
    if word in _TRIGGERS and table.kind != "p":
        return
    if recurses and word in _RECURSE | _TRIGGERS:
        for member in found.catalog.below(table)[1:]:
            found.lock(member, mode)
    elif word in ("DropColumn", "DropConstraint") or (
        word == "DropNotNull" and found.is_from(CONSTRAINTS_LOCK_ALL_FROM)
    ):
        for key in table.children:
            found.lock(found.catalog.at(key), mode)


def goes_below(table: Table, cmd: Any, *, inh: bool) -> bool:
    """Whether a subcommand reads or changes the rows of the tables below, too."""
    word = subcommand(cmd)
    if word in _OF_STORAGE:
        return False
    if word != "AddConstraint":
        return inh or word not in _RECURSE
    kind = constraint_kind(cmd.def_)
    return inh and (table.kind == "p" or not (kind in _ALONE or cmd.def_.is_no_inherit))
