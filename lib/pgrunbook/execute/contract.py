"""The contract of an expand: a column that lived beside another is dropped; used by notebooks/contract.ipynb."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from pgrunbook.config.targets import Target
from pgrunbook.database import inverse_log, publications, shadows
from pgrunbook.database.column_sync import ColumnPair, ColumnSync
from pgrunbook.database.connection import Connection
from pgrunbook.database.relations import Relation
from pgrunbook.database.shadows import Shadow
from pgrunbook.online import alteration
from pgrunbook.plan.way_back import Back

if TYPE_CHECKING:
    from pgrunbook.execute.permit import Permit

PROOF_MS = 3_600_000  # it reads the whole table, and holds nobody up


def subject(shadow: Shadow) -> str:
    """Return what a check of a column is about: the column, what it lives beside, and since when."""
    return f"{shadow.label} beside {shadow.beside} since {shadow.made_at}"


def prove(conn: Connection, shadow: Shadow) -> None:
    """See that both names of a renamed column hold the same in every row, and that their trigger fires.

    A change of type is not asked: what the column that goes cannot hold is in the other one.
    Raises psycopg's errors where they differ: what is in one of them only would be lost.
    Locks: AccessShareLock on the table, whose rows are all read.
    """
    if shadow.kind != "rename":
        return
    pair = ColumnPair(shadow.shadow_name, shadow.column_name, "", "")
    with conn.transaction():
        conn.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(sql.Literal(PROOF_MS)))
        conn.execute(ColumnSync(shadow.sync_name, shadow.table).proof(pair).encode())


def drop(conn: Connection, target: Target, shadow: Shadow, permit: Permit) -> None:
    """Drop the column, its trigger and its entry, in one transaction; a way back that needs it is none any more.

    Raises Refused without a permit, Blocked as ``online.alteration``; psycopg's errors where something depends on it.
    Locks: AccessExclusiveLock on the table, for a moment.
    """
    permit.check(subject(shadow), conn)

    def change() -> None:
        conn.execute(ColumnSync(shadow.sync_name, shadow.table).removal().encode())
        dropped = sql.SQL("ALTER TABLE {} DROP COLUMN {}")
        conn.execute(dropped.format(shadow.table, sql.Identifier(shadow.shadow_name)))
        conn.execute(shadow.removal().encode())
        conn.execute(publications.whole(Relation(0, shadow.table_schema, shadow.table_name)).encode())
        if shadow.kind != "rename":
            _end_way_back(conn, shadow, permit.run_id)

    alteration.alter(conn, target, shadow.table, shadow.label, change)


def is_waiting(conn: Connection, shadow: Shadow) -> bool:
    """Tell whether a column still waits for contract."""
    return subject(shadow) in map(subject, shadows.read(conn))


def _end_way_back(conn: Connection, shadow: Shadow, run_id: str) -> None:
    """Note that the statement's own way back, which swaps the columns again, has lost one of them."""
    because = f"contract ({run_id}) has dropped {shadow.label}, from which it would come back"
    for way in inverse_log.read(conn, shadow.migration):
        if shadow.sync_name in str((way.back or {}).get("own", "")):
            back = Back(because=because).model_dump(mode="json")
            inverse_log.correct(conn, shadow.migration, way.statement, back)
