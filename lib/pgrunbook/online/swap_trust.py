"""Whose code a swap would run: asked before each part of it, for the owner of the table may change it meanwhile."""

from __future__ import annotations

from collections.abc import Collection

from pgrunbook.database import foreign_code
from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import rows
from pgrunbook.online.swap_store import TableSwap

INSTEAD = "drop what calls them"


def refuse_foreign_code(conn: Connection, swap: TableSwap) -> None:
    """Raise Refused where reading the live table, or writing the other one, runs code of a role that is not trusted.

    Its owner may have added an index, statistics or a check since the swap was begun. Locks: none.
    """
    live, other = conn.oid_of("regclass", str(swap.table)), conn.oid_of("regclass", str(swap.other))
    reads = [oid for oid in (live, other) if oid is not None]
    refuse(conn, reads, [] if other is None else [other])


def refuse(conn: Connection, reads: Collection[int], writes: Collection[int], *, fires: bool = True) -> None:
    """Raise Refused where reading or writing one of these tables runs code of a role that is not trusted.

    With a table that is read go its foreign keys, and the tables on their other side: they are validated. ``fires`` is
    as in :func:`foreign_code.written`. Locks: none.
    """
    found = set(foreign_code.written(conn, writes, fires=fires)) if writes else set()
    reached = foreign_code.reached(conn)
    if reached:
        found |= reached & set(reads)
        for oid in reads:
            for key in rows(conn, "swap", "foreign_keys", oid=oid):
                found |= reached & {key["child_oid"], key["parent_oid"]}
                found |= {key["child_oid"]} if key["oid"] in reached else set()
    if found:
        named = rows(conn, "swap", "names", oids=sorted(found))
        foreign_code.refuse([(row["schema"], row["name"]) for row in named], "swap", INSTEAD)
