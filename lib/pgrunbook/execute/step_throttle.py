"""The throttle of a step that is a loop of batches: what it waits for is written into the journal, and shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbook.config.targets import Target
from pgrunbook.database.connection import Connection
from pgrunbook.execute.events import EventLog
from pgrunbook.online.batches import Haste
from pgrunbook.online.brakes import Brake
from pgrunbook.online.throttle import Throttle, ThrottleGoals, throttled
from pgrunbook.plan.plan import Change, Step

LEAST_ROWS = 100  # a release tries a batch again by itself, and says how far it has come in batches of its plan


@contextmanager
def of_step(
    target: Target, conn: Connection, change: Change, step: Step, run_id: str, account: EventLog, haste: Haste | None
) -> Iterator[Throttle | None]:
    """Give the throttle of a step; its batches are never larger than those of the plan.

    None for what is no loop, or on a branch, where nobody waits.
    """
    if step.batches is None or haste is not None:
        yield None
        return
    loop = step.batches

    def on_wait(brake: Brake) -> None:
        account.event("batches-wait", change, step=step.number, why=brake.name, told=brake.told)
        account.progress(change, step, f"waits, because {brake}")

    with throttled(
        target, conn, loop.schema, loop.table, rows=loop.rows, run_id=run_id,
        goals=ThrottleGoals(least_rows=min(LEAST_ROWS, loop.rows), most_rows=loop.rows, halves=False), on_wait=on_wait,
        on_pause=lambda order: account.paused(change, step, order),
    ) as found:  # fmt: skip
        yield found
