"""Triggers that fire behind that of a backfill: they may change what it has filled, or what it has read.

Those that keep two columns equal until contract are ours. They change these two columns and nothing else, so a backfill
that neither fills nor reads one of them is none of their business.
"""

from __future__ import annotations

from pgrunbook.database import queries, shadows
from pgrunbook.database.column_fill import read_columns
from pgrunbook.database.connection import Connection
from pgrunbook.database.row_tracker import LAST
from pgrunbook.errors import Refused
from pgrunbook.online.backfill import ColumnBackfill


def refuse_behind(conn: Connection, made: ColumnBackfill, target: str) -> None:
    """Raise Refused where a trigger fires behind that of the backfill, and may change what matters to it."""
    rows = queries.rows(conn, "backfill", "behind", table=made.table.oid, last=made.fill.trigger_name)
    behind = [row["name"] for row in rows]
    pairs = {f"{LAST}_{one.sync_name}": one for one in shadows.read(conn)} if behind else {}
    for name in behind:
        pair = pairs.get(name)
        if pair is None:
            raise Refused(
                f'cannot keep {made.table.label} in sync: trigger "{name}" fires behind ours',
                detail="Triggers fire in the order of their names; it may change what ours has filled.",
                hint="Give it another name (ALTER TRIGGER ... RENAME TO), or set keep_in_sync to false.",
            )
        if _touched(made) & {pair.column_name, pair.shadow_name}:
            raise Refused(
                f"cannot keep {made.table.label} in sync: {pair.label} lives beside {pair.beside} until contract",
                detail=f"{pair.migration} ({pair.kind}) has left both, and a trigger keeps them equal behind ours,"
                " which fills or reads one of them.",
                hint=f"pgrunbook run contract --target {target}, then begin again; or set keep_in_sync to false.",
            )


def refuse_follower(conn: Connection, made: ColumnBackfill, target: str) -> None:
    """Raise Refused where a column is filled that follows another since a change of type: that would be undone."""
    for one in shadows.read(conn):
        is_of_table = (one.table_schema, one.table_name) == (made.table.schema, made.table.name)
        if is_of_table and one.kind == "type change" and one.shadow_name in made.values:
            raise Refused(
                f"cannot fill {one.label}: it follows {one.beside} until contract",
                detail=f"{one.migration} ({one.kind}) has left both, and a trigger would undo what is filled.",
                hint=f"Fill {one.beside}; or pgrunbook run contract --target {target}.",
            )


def _touched(made: ColumnBackfill) -> set[str]:
    """Return the columns that are filled or read, there or back."""
    texts = [*made.values.values(), *made.back.values(), *([made.where] if made.where else [])]
    read = {column for text in texts for column in read_columns(text, made.table.name, made.columns)}
    return {*made.values, *made.back, *read}
