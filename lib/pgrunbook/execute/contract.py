"""The contract of an expand: a column that lived beside another is dropped; used by notebooks/contract.ipynb."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from pgrunbook.config.targets import Target
from pgrunbook.database import inverse_log, publications, queries, shadows
from pgrunbook.database.column_sync import ColumnPair, ColumnSync
from pgrunbook.database.connection import Connection
from pgrunbook.database.publications import Publication
from pgrunbook.database.relations import Relation
from pgrunbook.database.shadows import Shadow
from pgrunbook.errors import Refused
from pgrunbook.online import alteration
from pgrunbook.plan.way_back import Back

if TYPE_CHECKING:
    from pgrunbook.execute.permit import Permit

PROOF_MS = 3_600_000  # it reads the whole table, and holds nobody up


def subject(shadow: Shadow) -> str:
    """Return what a check of a column is about: the column, what it lives beside, and since when."""
    return f"{shadow.label} beside {shadow.beside} since {shadow.made_at}"


Firing = frozenset[tuple[object, ...]]


def prove(conn: Connection, shadow: Shadow) -> Firing:
    """See that both names of a renamed column hold the same in every row, and that their trigger fires.

    Returns how the trigger stood when the rows were read: :func:`drop` compares it, as somebody may switch it then.
    A change of type is not asked: what the column that goes cannot hold is in the other one.
    Raises psycopg's errors where they differ: what is in one of them only would be lost.
    Locks: AccessShareLock on the table, whose rows are all read.
    """
    if shadow.kind != "rename":
        return frozenset()
    pair = ColumnPair(shadow.shadow_name, shadow.column_name, "", "")
    with conn.transaction():
        conn.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(sql.Literal(PROOF_MS)))
        found = _firing(conn, shadow)
        conn.execute(_sync(shadow).proof(pair).encode())
    return found


def is_left_behind(conn: Connection, shadow: Shadow) -> bool:
    """Tell whether somebody has switched the trigger off since the cut-over: the column may lack what came then."""
    return bool(queries.rows(conn, "relations", "switched_off", function=_sync(shadow).function_name))


def sending(conn: Connection, shadow: Shadow) -> list[Publication]:
    """Return the publications that name a column until contract: those that send the old name of a renamed one."""
    oid = conn.oid_of("regclass", shadow.table_sql) or 0
    return publications.naming(conn, Relation(oid, shadow.table_schema, shadow.table_name), shadow.shadow_name)


def drop(conn: Connection, target: Target, shadow: Shadow, permit: Permit, *, proven: Firing | None = None) -> None:
    """Drop the column, its trigger and its entry, in one transaction; a way back that needs it is none any more.

    ``proven`` is what :func:`prove` has returned.
    Publications that send the old name of a renamed column send the new one from then on.

    Raises Refused without a permit, and where somebody has switched the trigger of a renamed column since the proof;
    Blocked as ``online.alteration``; psycopg's errors where something depends on it.
    Locks: AccessExclusiveLock on the table, for a moment.
    """
    permit.check(subject(shadow), conn)

    table = Relation(0, shadow.table_schema, shadow.table_name)

    def change() -> None:
        conn.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(shadow.table))
        if proven is not None and shadow.kind == "rename" and _firing(conn, shadow) != proven:
            raise _switched(shadow)
        sent = sending(conn, shadow)
        if sent:  # under the old name, by which PostgreSQL would not let it go
            names = {shadow.shadow_name: shadow.column_name}
            conn.execute(publications.taken_out(table, [shadow.shadow_name], names).encode())
        conn.execute(_sync(shadow).removal().encode())
        dropped = sql.SQL("ALTER TABLE {} DROP COLUMN {}")
        type_ = shadows.old_type(conn, shadow)
        conn.execute(dropped.format(shadow.table, sql.Identifier(shadow.shadow_name)))
        if type_:  # of an enum that was replaced
            conn.execute(f"DROP TYPE {type_}".encode())
        conn.execute(shadow.removal().encode())
        if sent:
            conn.execute(publications.put_back().encode())
        conn.execute(publications.whole(table).encode())
        if shadow.kind != "rename":
            _end_way_back(conn, shadow, permit.run_id)

    alteration.alter(conn, target, shadow.table, shadow.label, change)


def is_waiting(conn: Connection, shadow: Shadow) -> bool:
    """Tell whether a column still waits for contract."""
    return subject(shadow) in map(subject, shadows.read(conn))


def _sync(shadow: Shadow) -> ColumnSync:
    return ColumnSync(shadow.sync_name, shadow.table)


def _firing(conn: Connection, shadow: Shadow) -> Firing:
    found = queries.rows(conn, "relations", "firing", function=_sync(shadow).function_name)
    return frozenset(tuple(row.values()) for row in found)


def _switched(shadow: Shadow) -> Refused:
    return Refused(
        f"cannot drop {shadow.label}: somebody has switched its trigger off since its rows were compared",
        detail=f"It may be on again; rows that were written meanwhile may hold one value as {shadow.label}, and another"
        f" one as {shadow.beside}.",
        hint='Let it fire (ENABLE ALWAYS), and run cell "do-they-agree" again: it names rows that differ.',
    )


def _end_way_back(conn: Connection, shadow: Shadow, run_id: str) -> None:
    """Note that the statement's own way back, which swaps the columns again, has lost one of them."""
    because = f"contract ({run_id}) has dropped {shadow.label}, from which it would come back"
    for way in inverse_log.read(conn, shadow.migration):
        if shadow.sync_name in str((way.back or {}).get("own", "")):
            back = Back(because=because).model_dump(mode="json")
            inverse_log.correct(conn, shadow.migration, way.statement, back)
