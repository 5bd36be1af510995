"""Parked tables: moved to a schema of their own instead of dropped, and moved back on rollback.

1. Drop the objects that DROP TABLE would drop with it, and that the inverse creates again.
2. Move the table to a schema on which nobody has rights. Its indexes, constraints and the sequences of its columns
   move with it; extended statistics are moved by a statement of their own.
3. Convert its columns of the application's own types to text (``parked_types``).

Without CASCADE, the rehearsal has shown that nothing depends on the table: it executed the plain statement, and the
plan is valid for that schema only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.database.relations import Facts
from pgrunbook.errors import Broken
from pgrunbook.plan.step import Expansion, Keep, SafeStep
from pgrunbook.sql.deparse import parsed, text
from pgrunbook.undo_data import parked_types
from pgrunbook.undo_data.cascades import CannotCaptureError
from pgrunbook.undo_data.entries import refuse_purged_keep
from pgrunbook.undo_data.tables import rows


def park(conn: Connection, expansion: Expansion, detaches: Sequence[str], keeps: tuple[Keep, ...]) -> Expansion:
    """Return the expansion that parks tables in one transaction, after the statements in ``detaches``.

    Raises CannotCaptureError when something else would be lost.
    """
    others = [keep for keep in keeps if keep.kind != "table"]
    if others:
        raise CannotCaptureError(f"values of {others[0].table}.{others[0].column} would be dropped with a table")
    statements, freed = list(detaches), []
    for keep in keeps:
        statements += _moved(conn, keep)
        notes = parked_types.notes_of(conn, keep)
        if notes:
            statements.append(parked_types.comment_statement(keep, notes))
            freed.append(parked_types.to_text(keep, _name(keep).relname, notes))
    names = ", ".join(keep.table for keep in keeps)
    own = expansion.steps[0]
    step = replace(own, sql=";\n".join(statements), says=f"{names}: parked instead of dropped.", keeps=keeps,
                   own_transaction=True, quick=True)  # fmt: skip
    return replace(
        expansion,
        form="keep-table",
        explains="The table is parked in a schema of pgrunbook instead: a rollback moves it back with its rows.",
        steps=(step, *freed),
    )


def unpark(conn: Connection, keep: Keep) -> tuple[SafeStep, ...]:
    """Return the steps that move a parked table back to its schema, with its indexes, constraints and sequences.

    Raises Refused when it was purged, Broken when it does not exist.
    Locks: AccessExclusiveLock on the parked table.
    """
    refuse_purged_keep(conn, keep)
    name = _name(keep)
    here = sql.Identifier(keep.kept_as, name.relname).as_string(None)
    found = [one["sql"] for one in rows(conn, "moves_to_schema", table=here, to=name.schemaname)]
    if not found:
        raise Broken(f"cannot bring back table {keep.table}", detail=f"It was parked as {here}, which does not exist.")
    found.append(text(sql.SQL("DROP SCHEMA {}").format(sql.Identifier(keep.kept_as))))
    says = f"Table {keep.table} comes back with its rows."
    moves = SafeStep(";\n".join(found), says, own_transaction=False, gives_back=(keep.kept_as,))
    return (*parked_types.from_text(conn, keep, name.relname), moves)


def _name(keep: Keep) -> Any:
    return parsed(f"TABLE {keep.table}").fromClause[0]


def _moved(conn: Connection, keep: Keep) -> list[str]:
    name = _name(keep)
    relation = Facts(conn).named(tuple(filter(None, (name.schemaname, name.relname))))
    if relation is not None and relation.is_temporary:
        raise CannotCaptureError(f"{keep.table} is temporary")
    moves = rows(conn, "moves_to_schema", table=keep.table, to=keep.kept_as)
    for move in moves:
        if move["elsewhere"]:
            raise CannotCaptureError(f"statistics {move['elsewhere']} are in another schema than {keep.table}")
    schema = sql.Identifier(keep.kept_as)
    users = [sql.SQL(one["grantee"]) for one in rows(conn, "users_of_schemas")]
    hidden = [sql.SQL("REVOKE ALL ON SCHEMA {} FROM {}").format(schema, sql.SQL(", ").join(users))] if users else []
    made = [sql.SQL("CREATE SCHEMA {}").format(schema), *hidden]
    return [*map(text, made), *(move["sql"] for move in moves)]
