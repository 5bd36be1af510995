"""What a statement does to a database that others use: the locks it takes, what it reads, rewrites and loses.

It is told before the statement runs, from its text and the catalog; ``tests/test_effects.py`` compares it with
what real servers do. What cannot be told is said in ``unsure``.
"""

from __future__ import annotations

from typing import Any

from pgrunbook.changes import statement_locks
from pgrunbook.changes.found import Effects, Found
from pgrunbook.database.catalog import Catalog
from pgrunbook.sql.lock_modes import CONFLICTS, MODES, Lock, blocks, covers, strongest

__all__ = ["CONFLICTS", "MODES", "Effects", "Lock", "blocks", "covers", "effects", "strongest"]


def effects(node: Any, catalog: Catalog) -> Effects:
    """Return what a statement's node would do to this database."""
    found = Found(catalog)
    statement_locks.tell(found, node)
    return found.effects()
