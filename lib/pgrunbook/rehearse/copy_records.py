"""The copy of the history's rows and our own to a branch: what is executed there reads them."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from pgrunbook.database import own_schema
from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import load

KEPT = sql.Identifier("pgrunbook", "kept")
OURS = (*(sql.Identifier("pgrunbook", name) for name in ("step", "way_back", "shadow", "published")), KEPT)


def copy(source: Connection, branch: Connection, tables: Sequence[sql.Identifier]) -> None:
    """Copy the rows of tables that both have; advance their sequences past these rows.

    Raises Refused when schema pgrunbook of the source is somebody else's.
    Locks: AccessShareLock on the tables of the source.
    """
    own_schema.refuse_foreign(source)  # the branch's names side tables whose entries are not copied yet
    for table in tables:
        name = table.as_string(None)
        both = [c.execute("SELECT pg_catalog.to_regclass(%s) IS NOT NULL", [name]).fetchone() for c in (source, branch)]
        if both != [(True,), (True,)]:
            continue
        out = sql.SQL("COPY {} TO STDOUT").format(table)
        in_ = sql.SQL("COPY {} FROM STDIN").format(table)
        with source.cursor() as reader, branch.cursor() as writer, writer.copy(in_) as into, reader.copy(out) as rows:
            for part in rows:
                into.write(part)
    _advance_sequences(branch, tables)


def _advance_sequences(branch: Connection, tables: Sequence[sql.Identifier]) -> None:
    for table in tables:
        found = branch.execute(load("copy_records")["sequences"], [table.as_string(None)]).fetchall()
        for sequence, column in found:
            branch.execute(
                sql.SQL("SELECT pg_catalog.setval({}, max({})) FROM {} HAVING max({}) IS NOT NULL").format(
                    sql.Literal(sequence), sql.Identifier(str(column)), table, sql.Identifier(str(column))
                )
            )
