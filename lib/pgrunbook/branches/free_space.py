"""The room on the disk for a copy of a server: looked at before it is made, and told when it has run out."""

from __future__ import annotations

import shutil

from pgrunbook.branches.binaries import state_folder
from pgrunbook.config import paths
from pgrunbook.display.units import human
from pgrunbook.errors import NOTHING_CHANGED, Refused, RunbookError

FULL = "No space left on device"
SEGMENT_BYTES = 16 * 1024 * 1024
WAL_BYTES = 160 * 1024 * 1024  # a server that starts writes some segments of its own


def left() -> int:
    """Return how many bytes the disk of the state directory has left."""
    return shutil.disk_usage(state_folder("servers")).free


def check(what: str, needed_bytes: int) -> None:
    """See that the state directory has room for something, and for some WAL beside it. Raises Refused."""
    free, needed = left(), needed_bytes + WAL_BYTES
    if free < needed:
        raise Refused(
            f"refused to begin: there is too little space on the disk for {what}",
            detail=f"{paths.state_dir()} has {human(free)} left; {human(needed)} are needed.",
            hint=_way_out(needed),
        )


def lack(told: str) -> str:
    """Return how a program that failed lacked room: by what it told, or by what is left; "" where it did not."""
    free = left()
    if FULL in told:
        return next(line.strip() for line in told.splitlines() if FULL in line)
    return f"{paths.state_dir()} has {human(free)} left." if free < SEGMENT_BYTES else ""


def full(what: str, told: str, needed_bytes: int, *, state: str = NOTHING_CHANGED) -> RunbookError:
    """Return the error of a disk that has run full meanwhile."""
    return RunbookError(
        f"could not {what}: the disk is full",
        detail=told,
        state=state,
        hint=_way_out(needed_bytes + WAL_BYTES),
    )


def _way_out(needed_bytes: int) -> str:
    return (
        f"Make {human(needed_bytes)} of space in {paths.state_dir()} (pgrunbook server status shows what lies there, "
        "pgrunbook backup expire removes old backups), or name another folder in PGRUNBOOK_STATE."
    )
