"""A salvage tried on a branch that holds the target's rows as they are now; restore does so before it salvages."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import psycopg

from pgrunbook.branches import data_branch, in_memory, provenance
from pgrunbook.config.targets import Target
from pgrunbook.database.connection import Connection, connect
from pgrunbook.database.sqlstate import Meaning, meaning, said
from pgrunbook.errors import Refused
from pgrunbook.online import salvage, salvage_rows
from pgrunbook.online.salvage_plan import SalvageChoice, SalvagedTable

TRIED = "Nothing changed in the database: it was tried on a branch."


@in_memory.else_on_disk
def with_rows(
    old: Connection,
    target: Target,
    tables: Sequence[SalvagedTable],
    choice: SalvageChoice,
    run_id: str,
    *,
    most_bytes: int,
) -> tuple[str, float, Mapping[str, Mapping[str, int]]]:
    """Salvage on a branch; return which branch, how long it took in s, and what became of the rows of each table.

    Raises Refused where no such branch may be made, or the server refuses a row.
    """
    with data_branch.with_data(target, most_bytes=most_bytes, plain=False) as copy, connect(copy.safe) as conn:
        if not provenance.is_branch(conn):
            raise Refused(f'database "{conn.info.dbname}" is not on a branch', hint="Report this.")
        began = time.monotonic()
        try:
            if not salvage_rows.is_staged(conn, tables, run_id):
                salvage_rows.stage(
                    old, conn, tables, choice, run_id,
                    where_ms=target.statement_timeout_ms, keep_days=target.keep_days,
                )  # fmt: skip
            salvage.run(conn, target, tables, choice, run_id)
        except psycopg.Error as exc:
            if meaning(exc) is Meaning.LOST:
                raise
            raise Refused(
                f"cannot salvage: {said(exc)}",
                detail=exc.diag.message_detail or "The server refused it on the branch.",
                state=TRIED,
                hint="Choose other rows (salvage_where), or mend what it names; then run this again.",
            ) from exc
        return copy.how, time.monotonic() - began, salvage.became(conn, tables, run_id)
