"""The salvage that a permit allows: old rows of a restored server into the database of today; used by restore."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pgrunbook.branches import free_space
from pgrunbook.config.targets import Target
from pgrunbook.database.connection import Connection
from pgrunbook.execute.permit import Permit
from pgrunbook.online import salvage, salvage_plan, salvage_rows
from pgrunbook.online.salvage import SalvageBatch
from pgrunbook.online.salvage_plan import SalvageChoice, SalvagedTable

STAGED_TIMES = 4  # the staged rows, the rows themselves with their indexes, and the WAL of both


def write(
    old: Connection,
    conn: Connection,
    target: Target,
    tables: Sequence[SalvagedTable],
    choice: SalvageChoice,
    permit: Permit,
    subject: str,
    *,
    staged_bytes: int,
    on_batch: Callable[[SalvageBatch], None],
) -> None:
    """Stage what is salvaged where this run has not, and write what is not written yet.

    Raises Refused without a permit for it, or without room on the disk, and what ``online.salvage`` raises.
    """
    permit.check(subject, conn)
    salvage_plan.refuse_foreign(conn, tables, choice)  # whoever owns them may have made it since the look
    if not salvage_rows.is_staged(conn, tables, permit.run_id):
        free_space.check("the rows that are salvaged", STAGED_TIMES * staged_bytes)
        salvage_rows.stage(
            old, conn, tables, choice, permit.run_id,
            where_ms=target.statement_timeout_ms, keep_days=target.keep_days,
        )  # fmt: skip
    salvage.run(conn, target, tables, choice, permit.run_id, on_batch)
