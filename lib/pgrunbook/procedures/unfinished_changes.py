"""Online changes that somebody has begun and nobody ended: swaps, stages of rollouts, backfills, migrations.

Troubleshoot and ``pgrunbook doctor`` show the first two beside what they know themselves, ``pgrunbook status`` all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from pgrunbook.database import leftovers, locks, queries, step_log
from pgrunbook.database.connection import Connection
from pgrunbook.database.vitals import MB
from pgrunbook.display.units import human
from pgrunbook.online import rollout_state, swap_room, swap_store
from pgrunbook.online.swap_store import SwapState
from pgrunbook.procedures import swap_views

TOLD = {
    SwapState.COPYING: "is half copied",
    SwapState.BUILDING: "is copied, and not ready yet",
    SwapState.READY: "is ready, and waits for its cut-over",
    SwapState.CUT_OVER: "is cut over, and its old table is kept for longer than was asked",
}


@dataclass(frozen=True)
class UnfinishedChange:
    """What is not ended, why that matters, and the commands that end it."""

    what: str
    why: str
    todo: str


def read(conn: Connection, target: str) -> list[UnfinishedChange]:
    """Return swaps and stages of rollouts that are not ended; [] while a run is at work, which may be at them.

    Raises Refused where schema pgrunbook is somebody else's.
    """
    if locks.run_in_progress(conn, able=True):
        return []
    return [*_swaps(conn, target), *_rollouts(conn, target)]


def names(conn: Connection, target: str) -> tuple[str, ...]:
    """Return all that is not ended, in a few words each. Raises as :func:`read`."""
    if locks.run_in_progress(conn, able=True):
        return ()
    half = [one.migration for way in ("up", "down") for one in step_log.unfinished(conn, way)]
    fills = [one.key for one in leftovers.helpers(conn) if leftovers.FILL in one.name]
    return (*(f"{name} is half done" for name in half), *fills, *(one.what for one in read(conn, target)))


def _swaps(conn: Connection, target: str) -> Iterator[UnfinishedChange]:
    for swap in swap_store.swaps(conn):
        is_kept = swap.keep_until is not None and swap.keep_until > datetime.now(UTC)
        if swap.state.is_over or (swap.is_new_live and is_kept):
            continue
        taken = swap_room.log_bytes(conn, swap)
        told = f", {human(taken)} by now" if taken > MB else ""
        yield UnfinishedChange(
            f"swap of {swap.table.label} {TOLD[swap.state]}",
            f"its second table takes room, and a trigger notes each write in a log that nobody empties{told}",
            swap_views.then(target, swap),
        )


def _rollouts(conn: Connection, target: str) -> Iterator[UnfinishedChange]:
    if not rollout_state.is_there(conn):
        return
    for row in queries.rows(conn, "rollout", "half_done"):
        way = "goes back by half" if row["state"] == "going back" else "is written by half"
        command = f"pgrunbook run rollout --target {target} -p name={row['name']}"
        yield UnfinishedChange(
            f'stage "{row["stage"]}" of rollout {row["name"]} {way}',
            f"rows of {row['table']} that belong together differ in column {row['column']}",
            f"go on: {command}; or take all stages back: {command} -p do=abandon",
        )
