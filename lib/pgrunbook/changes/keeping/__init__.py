"""What a step would destroy is kept before it is destroyed, in schema pgrunbook, and given back on the way back.

``around`` puts into a statement's steps what keeps for it. Rows: ``keeping`` makes a loop of batches keep the rows that
it changes, ``keeping_statement`` a statement that is executed whole; ``cannot_because``, ``size_estimate`` and
``estimate_of`` tell beforehand, ``conflicts`` what somebody has changed since, ``give_back`` restores the rest.
Columns: ``fill`` fills their values back, ``settle`` forgets those that somebody has changed since a change of type,
``missing`` counts rows without one. Tables are moved to a schema of their own, and ``bring_back`` moves them back.
``waiting`` and ``refill`` are for the way forward again. ``of_migration`` finds what is kept of a migration,
``kept_list`` shows everything, ``let_go`` notes that a thing is not to be given back any more, ``purge`` drops it.
"""

from __future__ import annotations

from pgrunbook.changes.keeping.around import around
from pgrunbook.changes.keeping.cascades import CannotKeepError
from pgrunbook.changes.keeping.conflicts import Conflict, Conflicts, conflicts
from pgrunbook.changes.keeping.estimate import Estimate, estimate_of, size_estimate
from pgrunbook.changes.keeping.filling import fill, missing, settle
from pgrunbook.changes.keeping.giving_back import GivenBack, OnConflict, give_back, give_back_migration
from pgrunbook.changes.keeping.noting import Site, as_keep, make_way, mark_given_back, note
from pgrunbook.changes.keeping.refilling import refill, waiting
from pgrunbook.changes.keeping.registry import ROWS, Kept, Place, create, kept_list, let_go, of_migration, purge
from pgrunbook.changes.keeping.rewriting import cannot_because, keeping, keeping_statement
from pgrunbook.changes.keeping.whole_tables import bring_back

__all__ = [
    "ROWS", "CannotKeepError", "Conflict", "Conflicts", "Estimate", "GivenBack", "Kept", "OnConflict", "Place", "Site",
    "around", "as_keep", "bring_back", "cannot_because", "conflicts", "create", "estimate_of", "fill", "give_back",
    "give_back_migration", "keeping", "keeping_statement", "kept_list", "let_go", "make_way", "mark_given_back",
    "missing", "note", "of_migration", "purge", "refill", "settle", "size_estimate", "waiting",
]  # fmt: skip
