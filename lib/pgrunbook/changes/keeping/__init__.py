"""What a step would destroy is kept before it is destroyed, in schema pgrunbook, and given back on the way back.

``keeping`` makes a loop of batches keep the rows that it changes, ``keeping_statement`` a statement that is executed
whole; ``cannot_because`` and ``size_estimate`` tell beforehand. ``of_migration`` finds what is kept of a migration,
``conflicts`` what somebody has changed since, ``give_back_migration`` (and ``give_back`` for
one step) restores the rest. ``kept_list`` shows everything that is
kept, ``let_go`` notes that a thing is not to be given back any more, ``purge`` drops it.
"""

from __future__ import annotations

from pgrunbook.changes.keeping.conflicts import Conflict, Conflicts, conflicts
from pgrunbook.changes.keeping.estimate import Estimate, size_estimate
from pgrunbook.changes.keeping.giving_back import GivenBack, OnConflict, give_back, give_back_migration
from pgrunbook.changes.keeping.registry import Kept, Place, create, kept_list, let_go, of_migration, purge
from pgrunbook.changes.keeping.rewriting import cannot_because, keeping, keeping_statement

__all__ = [
    "Conflict", "Conflicts", "Estimate", "GivenBack", "Kept", "OnConflict", "Place", "cannot_because", "conflicts",
    "create", "give_back", "give_back_migration", "keeping", "keeping_statement", "kept_list", "let_go",
    "of_migration", "purge", "size_estimate",
]  # fmt: skip
