"""Publications that send the tables of schema pgrunbook, too; for prepare, migrate, doctor and every permit.

A publication FOR ALL TABLES sends each table of the database, and leaves none out. A subscriber applies what it is
sent in order: at the first row of a table that it does not have, it stops, and with it all that comes behind. Our
tables must outlive a crash, so they are logged; some have names that only a run gives. So nothing is written there
while somebody follows such a publication, but where the target's ``publish_records`` says that all readers pass over
what they do not know.

Source: https://www.postgresql.org/docs/current/logical-replication-publication.html
"""

from __future__ import annotations

from dataclasses import dataclass

from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import rows
from pgrunbook.display.prose import listed
from pgrunbook.errors import Refused

_MODULE = "own_publications"
OURS = "pgrunbook"
SCHEMAS_SINCE = 150000  # publications of whole schemas
STOPS = (
    "A subscriber that does not have the tables of schema pgrunbook stops at their first row, and applies nothing that"
    " comes behind it."
)


@dataclass(frozen=True)
class OwnPublication:
    """A publication that sends our tables, by its name as SQL needs it; ``kind`` is how it was made."""

    sql: str
    kind: str

    def __str__(self) -> str:
        return f"publication {self.sql} {self.kind}"


def sending(conn: Connection, schema: str = OURS) -> list[OwnPublication]:
    """Return the publications that send the tables of a schema, also those that are not made yet, by their names."""
    return [OwnPublication(**row) for row in rows(conn, _MODULE, "sending", schema=schema)]


def stopped_by(conn: Connection, schema: str) -> list[OwnPublication]:
    """Return the publications whose subscribers would stop at the first row of a new table of a schema."""
    found = sending(conn, schema) if not conn.publishes_records else []
    return found if found and readers(conn) else []


def readers(conn: Connection) -> list[str]:
    """Return the slots by which somebody follows publications of this database, [] where nobody does."""
    return [row["name"] for row in rows(conn, _MODULE, "readers")]


def refuse(conn: Connection) -> None:
    """See that no subscriber would be stopped by what we write. Raises Refused.

    Ask before anything is written to schema pgrunbook, and before it is made.
    """
    if not (found := stopped_by(conn, OURS)):
        return
    raise Refused(
        f"cannot write to schema pgrunbook of database {conn.info.dbname}: {listed(found)} would send it",
        detail=f"{STOPS} Slots that are read: {listed(readers(conn))}.",
        state="Nothing was written there now; what was done before stays as it is.",
        hint=way_out(conn, found),
    )


def way_out(conn: Connection, found: list[OwnPublication]) -> str:
    """Return what an operator can do about such publications."""
    if all(one.kind != "FOR ALL TABLES" for one in found):
        dropped = "; ".join(f"ALTER PUBLICATION {one.sql} DROP TABLES IN SCHEMA pgrunbook" for one in found)
        return f"{dropped}. {_PASSED_OVER}"
    if conn.info.server_version >= SCHEMAS_SINCE:
        schemas = [row["sql"] for row in rows(conn, _MODULE, "schemas")]
        what = f"TABLES IN SCHEMA {', '.join(schemas) or 'public'}"
    else:
        what = "TABLE, with the tables that they need"
    return (
        f"Give subscribers a publication without our tables: CREATE PUBLICATION instead FOR {what}; when they have"
        " caught up with that, ALTER SUBSCRIPTION ... SET PUBLICATION instead on each of them; then"
        f" {'; '.join(f'DROP PUBLICATION {one.sql}' for one in found)}. {_PASSED_OVER}"
    )


_PASSED_OVER = (
    "Where all readers pass over tables that they do not know, as Debezium does, set publish_records = true for this"
    " target."
)
