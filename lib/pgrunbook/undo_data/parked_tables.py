"""Tables that are moved away instead of dropped, out of everybody's reach, and back again.

1. What DROP TABLE takes from others, and what the way back makes again, is dropped.
2. The table is moved to a schema of its own, on which nobody has rights; what is its own goes along: indexes,
   constraints, the sequences of its columns. Extended statistics are moved beside it.
3. Its columns of the application's own types become text (``independence``).

That a table without CASCADE has nothing that depends on it was seen in the rehearsal, where the plain statement was
executed; from then on the plan holds for this schema only.
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
from pgrunbook.undo_data.cascades import CannotKeepError
from pgrunbook.undo_data.entries import refuse_purged
from pgrunbook.undo_data.tables import rows


def keeping_tables(
    conn: Connection, expansion: Expansion, detaches: Sequence[str], keeps: tuple[Keep, ...]
) -> Expansion:
    """Return the expansion that moves tables away, one transaction; ``detaches`` leave them alone before.

    Raises CannotKeepError where something else would be lost.
    """
    others = [keep for keep in keeps if keep.kind != "table"]
    if others:
        raise CannotKeepError(f"values of {others[0].table}.{others[0].column} would go with a table")
    statements, freed = list(detaches), []
    for keep in keeps:
        statements += _moved(conn, keep)
        notes = parked_types.notes_of(conn, keep)
        if notes:
            statements.append(parked_types.noted(keep, notes))
            freed.append(parked_types.freeing(keep, _name(keep).relname, notes))
    names = ", ".join(keep.table for keep in keeps)
    own = expansion.steps[0]
    step = replace(own, sql=";\n".join(statements), says=f"{names}: moved away instead of dropped.", keeps=keeps,
                   own_transaction=True, quick=True)  # fmt: skip
    return replace(
        expansion,
        form="keep-table",
        explains="The table is moved to a schema of ours instead, so that it can come back with its rows.",
        steps=(step, *freed),
    )


def bring_back(conn: Connection, keep: Keep) -> tuple[SafeStep, ...]:
    """Return the steps that move a kept table back to its place, with all that is its own.

    Raises Refused when it was purged, Broken when it is not there.
    Locks: AccessExclusiveLock on the kept table.
    """
    refuse_purged(conn, keep)
    name = _name(keep)
    here = sql.Identifier(keep.kept_as, name.relname).as_string(None)
    found = [one["sql"] for one in rows(conn, "moves_to_schema", table=here, to=name.schemaname)]
    if not found:
        raise Broken(f"cannot bring back table {keep.table}", detail=f"There is no table {here}, where it was kept.")
    found.append(text(sql.SQL("DROP SCHEMA {}").format(sql.Identifier(keep.kept_as))))
    says = f"Table {keep.table} comes back with its rows."
    moves = SafeStep(";\n".join(found), says, own_transaction=False, gives_back=(keep.kept_as,))
    return (*parked_types.binding(conn, keep, name.relname), moves)


def _name(keep: Keep) -> Any:
    return parsed(f"TABLE {keep.table}").fromClause[0]


def _moved(conn: Connection, keep: Keep) -> list[str]:
    name = _name(keep)
    relation = Facts(conn).named(tuple(filter(None, (name.schemaname, name.relname))))
    if relation is not None and relation.is_temporary:
        raise CannotKeepError(f"{keep.table} is temporary")
    moves = rows(conn, "moves_to_schema", table=keep.table, to=keep.kept_as)
    for move in moves:
        if move["elsewhere"]:
            raise CannotKeepError(f"statistics {move['elsewhere']} lie in another schema than {keep.table}")
    schema = sql.Identifier(keep.kept_as)
    users = [sql.SQL(one["grantee"]) for one in rows(conn, "users_of_schemas")]
    hidden = [sql.SQL("REVOKE ALL ON SCHEMA {} FROM {}").format(schema, sql.SQL(", ").join(users))] if users else []
    made = [sql.SQL("CREATE SCHEMA {}").format(schema), *hidden]
    return [*map(text, made), *(move["sql"] for move in moves)]
