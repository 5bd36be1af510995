"""Parked tables: moved to schema pgrunbook instead of dropped, and moved back on rollback.

1. Drop the objects that DROP TABLE would drop with it, and its parts that need other objects of the application
   (a default's function, a check's type): a later statement may drop these. The inverse creates all of them again.
2. Move the table to schema pgrunbook, under a generated name (``parked_names``). Its indexes, constraints, extended
   statistics and the sequences of its columns move with it.
3. Revoke the rights of others on it, and take its owner's place: a later statement may drop these roles.
4. Convert its columns of the application's own types to text (``parked_types``), and its storage to PostgreSQL's own.

Without CASCADE, the rehearsal has shown that nothing depends on the table: it executed the plain statement, and the
plan is valid for that schema only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from psycopg import sql

from pgrunbook.database.checksums import TableName
from pgrunbook.database.connection import Connection
from pgrunbook.database.facts import Facts
from pgrunbook.database.queries import snapshot_cursor
from pgrunbook.database.relations import Relation, foreign_partition_keys
from pgrunbook.errors import Broken
from pgrunbook.plan.step import Expansion, Keep, SafeStep
from pgrunbook.sql.deparse import parsed, text
from pgrunbook.undo_data import parked_names, parked_types
from pgrunbook.undo_data.cascades import CannotCaptureError
from pgrunbook.undo_data.entries import refuse_purged_keep
from pgrunbook.undo_data.parked_names import Names
from pgrunbook.undo_data.parked_roots import replaced
from pgrunbook.undo_data.parked_types import Types
from pgrunbook.undo_data.partition_notes import note_attached, note_parked
from pgrunbook.undo_data.tables import SCHEMA, rows

CHANGES_ACCESS_METHOD = 150_000


def park(conn: Connection, expansion: Expansion, detaches: Sequence[str], keeps: tuple[Keep, ...]) -> Expansion:
    """Return the expansion that parks tables in one transaction, after the statements in ``detaches``.

    Raises CannotCaptureError when something else would be lost.
    """
    others = [keep for keep in keeps if keep.kind != "table"]
    if others:
        raise CannotCaptureError(f"values of {others[0].table}.{others[0].column} would be dropped with a table")
    freed: list[SafeStep] = []
    statements = [*(note_parked(keep.table) for keep in keeps if _is_partition(conn, keep)), *detaches]
    with conn.transaction(force_rollback=True):  # what is left when these have run is what moves
        for detach in detaches:
            conn.execute(detach.encode())
        for keep in keeps:
            types = parked_types.types_of(conn, keep)
            statements += _moved(conn, keep, types)
            if types:
                freed.append(parked_types.to_text(keep, TableName(SCHEMA, keep.kept_as), types))
            freed += _stored_plainly(conn, keep)
    names = ", ".join(keep.table for keep in keeps)
    own = expansion.steps[0]
    step = replace(own, sql=";\n".join(statements), says=f"{names}: parked instead of dropped.", keeps=keeps,
                   own_transaction=True, quick=True)  # fmt: skip
    return replace(
        expansion,
        form="keep-table",
        explains="The table is parked in schema pgrunbook instead: a rollback moves it back with its rows.",
        steps=(step, *freed),
    )


def _is_partition(conn: Connection, keep: Keep) -> bool:
    query = "SELECT c.relispartition FROM pg_catalog.pg_class AS c WHERE c.oid = pg_catalog.to_regclass(%s)"
    return conn.execute(query, [keep.table]).fetchone() == (True,)


def _stored_plainly(conn: Connection, keep: Keep) -> list[SafeStep]:
    """Return the step after which a parked table does not need an access method that somebody has made."""
    (found,) = rows(conn, "access_method", table=keep.table)
    if found["is_plain"] or conn.info.server_version < CHANGES_ACCESS_METHOD:
        return []
    there = sql.Identifier(SCHEMA, keep.kept_as)
    says = f"The parked table {keep.table} no longer needs access method {found['name']}."
    return [SafeStep(text(sql.SQL("ALTER TABLE {} SET ACCESS METHOD heap").format(there)), says, quick=False)]


def unpark(conn: Connection, keep: Keep) -> tuple[SafeStep, ...]:
    """Return the steps that move a parked table back to its schema, with its indexes, constraints and sequences.

    Raises Refused when it was purged, Broken when it does not exist.
    Locks: AccessExclusiveLock on the parked table.
    """
    refuse_purged_keep(conn, keep)
    home, there = _home(keep), TableName(SCHEMA, keep.kept_as)
    names, types, key = _noted(conn, there)
    found = list(parked_names.moves_back(conn, keep.kept_as, home, names))
    if not found:
        where = there.identifier().as_string(None)
        raise Broken(f"cannot bring back table {keep.table}", detail=f"It was parked as {where}, which does not exist.")
    if key:
        found.insert(0, replaced(there, key))
    # What was said about the table is said again later, with all else that is its own.
    found.append(text(sql.SQL("COMMENT ON TABLE {} IS NULL").format(home.identifier())))
    says = f"Table {keep.table} comes back with its rows."
    moves = SafeStep(";\n".join(found), says, own_transaction=False, gives_back=(keep.kept_as,))
    return (*parked_types.from_text(conn, keep, there, types), moves)


def watch_again(keep: Keep) -> tuple[SafeStep, ...]:
    """Return the step behind the one that attaches a partition which was parked: its rows are watched again."""
    says = f"What was captured of rows of {keep.table} follows them again."
    return (SafeStep(note_attached(keep.table), says, own_transaction=False),)


def _home(keep: Keep) -> TableName:
    name = parsed(f"TABLE {keep.table}").fromClause[0]
    return TableName(name.schemaname, name.relname)


def _moved(conn: Connection, keep: Keep, types: Types) -> list[str]:
    relation = Facts(conn).named(tuple(filter(None, _home(keep))))
    if relation is not None and relation.is_temporary:
        raise CannotCaptureError(f"{keep.table} is temporary")
    for statistics in parked_names.parts_elsewhere(conn, keep.table):
        raise CannotCaptureError(f"statistics {statistics} are in another schema than {keep.table}")
    freed = [one["statement"] for one in rows(conn, "rights_of_others", table=keep.table)]
    moves = [*freed, *parked_names.moves_there(conn, keep.table, keep.kept_as)]
    notes: dict[str, object] = {"names": parked_names.names_of(conn, keep.table), "types": types}
    there = sql.Identifier(SCHEMA, keep.kept_as)
    key = "" if relation is None else _partition_key(conn, relation)
    if not rows(conn, "is_mine", table=keep.table)[0]["is_mine"]:
        moves.append(text(sql.SQL("ALTER TABLE {} OWNER TO CURRENT_USER").format(there)))
    if key:
        moves.append(replaced(TableName(SCHEMA, keep.kept_as)))
        notes["key"] = key
    return [*moves, text(sql.SQL("COMMENT ON TABLE {} IS {}").format(there, json.dumps(notes)))]


def _partition_key(conn: Connection, relation: Relation) -> str:
    """Return the partition key of a table that cannot be parked with it, "" where there is none."""
    if not relation.is_partitioned:
        return ""
    with snapshot_cursor(conn):  # so that it names everything in full
        return foreign_partition_keys(conn, [relation.oid]).get(relation.oid, "")


def _noted(conn: Connection, there: TableName) -> tuple[Names, Types, str]:
    """Return what was noted when a table was parked: the original names, the types of its columns, a partition key."""
    (found,) = rows(conn, "parked_notes", table=there.identifier().as_string(None))
    notes = json.loads(found["notes"] or "{}")
    return notes.get("names", {}), notes.get("types", {}), notes.get("key", "")
