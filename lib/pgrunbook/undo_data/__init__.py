"""What a step would destroy is kept before it is destroyed, in schema pgrunbook, and given back on the way back.

``around`` puts into a statement's steps what keeps for it. Rows: ``keeping`` makes a loop of batches keep the rows that
it changes, ``keeping_statement`` a statement that is executed whole; ``cannot_because``, ``size_estimate`` and
``estimate_of`` tell beforehand, ``conflicts`` what somebody has changed since, ``give_back`` restores the rest.
Columns: ``fill`` fills their values back, ``settle`` forgets those that somebody has changed since a change of type,
``missing`` counts rows without one. Tables are moved to a schema of their own, and ``bring_back`` moves them back.
``waiting`` and ``refill`` are for the way forward again. ``of_migration`` finds what is kept of a migration,
``kept_list`` shows everything, ``purge`` drops it.
"""

from __future__ import annotations

from pgrunbook.undo_data.capture_rows import cannot_because, keeping, keeping_statement
from pgrunbook.undo_data.capture_steps import around
from pgrunbook.undo_data.cascades import CannotKeepError
from pgrunbook.undo_data.conflicts import Conflict, Conflicts, conflicts
from pgrunbook.undo_data.entries import Site, as_keep, make_way, mark_given_back, note
from pgrunbook.undo_data.parked_tables import bring_back
from pgrunbook.undo_data.reapplication import refill, waiting
from pgrunbook.undo_data.registry import ROWS, StepKey, UndoEntry, create, kept_list, of_migration, purge
from pgrunbook.undo_data.revert_columns import fill, missing, settle
from pgrunbook.undo_data.revert_rows import OnConflict, RevertResult, give_back
from pgrunbook.undo_data.size_estimate import SizeEstimate, estimate_of, size_estimate

__all__ = [
    "ROWS",
    "CannotKeepError",
    "Conflict",
    "Conflicts",
    "OnConflict",
    "RevertResult",
    "Site",
    "SizeEstimate",
    "StepKey",
    "UndoEntry",
    "around",
    "as_keep",
    "bring_back",
    "cannot_because",
    "conflicts",
    "create",
    "estimate_of",
    "fill",
    "give_back",
    "keeping",
    "keeping_statement",
    "kept_list",
    "make_way",
    "mark_given_back",
    "missing",
    "note",
    "of_migration",
    "purge",
    "refill",
    "settle",
    "size_estimate",
    "waiting",
]  # fmt: skip
