"""Whose code a backfill would run: of the rows that it changes, and in the trigger that keeps columns in sync."""

from __future__ import annotations

from pgrunbook.database import foreign_code
from pgrunbook.database.column_fill import ColumnFill
from pgrunbook.database.connection import Connection
from pgrunbook.database.relations import Relation
from pgrunbook.errors import Refused


def refuse_foreign_code(conn: Connection, table: Relation) -> None:
    """Raise Refused where reading or writing a row of a table runs code of a role that is not trusted. Locks: none.

    By a trigger, a check, an index: its owner may add one meanwhile, so it is asked again before the loop.
    """
    names = {(table.schema, table.name)}
    is_written = bool(foreign_code.written(conn, [table.oid], fires=True))
    foreign_code.refuse(
        names if is_written else names & foreign_code.tables(conn), "change rows of",
        f"let somebody without rights beyond that table backfill {table.label}",
    )  # fmt: skip


def refuse_foreign_text(conn: Connection, table: Relation, fill: ColumnFill) -> None:
    """Raise Refused where the trigger calls code of a role that is not trusted: it has our rights, whoever writes.

    Call it behind its installation, in the same transaction. Locks: none.
    """
    if foreign_code.called(conn, fill.function_names):
        raise Refused(
            f"cannot keep {table.label} in sync: its expressions call code of another role",
            detail="The trigger has our rights, whoever writes a row; that code would have them too, and its owner may"
            " change it at any time.",
            hint="Give those functions and types to a role that is trusted (ALTER ... OWNER TO), let the owner of the"
            " table run the backfill, or set keep_in_sync to false.",
        )
