"""The swaps of tables that are not ended: a trigger of ours notes each write to these by their key.

The log that it writes has columns of the key's types of then: without one of them, or with another type, each write
of the application would fail. ``online.swap_store`` has the swaps themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

from pgrunbook.database import own_schema, queries
from pgrunbook.database.connection import Connection
from pgrunbook.errors import Refused


@dataclass(frozen=True)
class OpenSwap:
    """A table whose swap is not ended, how far that is, and the columns by which its writes are noted."""

    schema: str
    table: str
    state: str
    key: tuple[str, ...]

    @property
    def label(self) -> str:
        """The table."""
        return f"{self.schema}.{self.table}"

    def refused(self, what: str, column: str = "") -> Refused:
        """Return the error for something that would change a column of its key, or the name of the table."""
        end = "finish" if self.state == "cut over" else "abandon"
        about = f", and {column} is of its key" if column else ""
        return Refused(
            f"{what}: the swap of table {self.label} is not ended ({self.state}){about}",
            detail="Until then a trigger notes each write by that key: with another name or type of it, each write of"
            " the application would fail."
            if column
            else "Under another name nobody could end it, and its trigger would note each write for good.",
            hint=f"pgrunbook run swap --target TARGET -p table={self.label} -p do={end}, then begin again.",
        )


def read(conn: Connection, *, is_branch: bool = False) -> list[OpenSwap]:
    """Return the swaps that are not ended, [] where there is no record of swaps.

    A branch is a copy of what was looked at. Raises Refused as ``own_schema``.
    """
    if not is_branch:
        own_schema.refuse_foreign(conn)
    if conn.execute(queries.load("swap")["is_there"].encode()).fetchone() != (True,):
        return []
    return [
        OpenSwap(row["schema"], row["table"], row["state"], tuple(row["key"]))
        for row in queries.rows(conn, "swap", "open")
    ]
