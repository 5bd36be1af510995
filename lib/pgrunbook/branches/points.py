"""The restore points that a server's WAL holds, and which of them was meant by a name that it does not hold."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace

from pgrunbook.branches import archive, recovery_target, wal_segments
from pgrunbook.branches.recovery_target import Point
from pgrunbook.branches.restore_point_records import WalRestorePoint
from pgrunbook.branches.server import Server
from pgrunbook.errors import WrongInput

SHOWN = 5


def located(source: Server, point: Point) -> Point:
    """Return the point with the LSN of its name, searched in the WAL where it is not given; no segment is ended.

    Raises WrongInput for a name that the WAL does not hold, or holds more than once, and for an LSN of another
    timeline, or one that means several places.
    """
    if point.lsn is not None:
        _refuse_other_timeline(source, point.lsn, point.timeline)
    if point.name is None:
        return point
    archive.flush(source)
    if point.at_lsn is not None and _is_at(source, point.name, point.at_lsn):
        return point
    there = archive.restore_points(source)
    found = [known.lsn for known in there if known.name == point.name]
    if len(found) > 1 and point.at_lsn is None:
        raise WrongInput(
            f'{point} of server "{source.name}" exists {len(found)} times',
            detail=f"Its records begin at {', '.join(found)}.",
            hint=f"Name one of these LSNs instead, as {archive.timelines(source).told(found[-1])}.",
        )
    if not found:
        raise unknown(point.name, f'in the WAL of server "{source.name}"', there)
    return point if point.at_lsn else replace(point, at_lsn=found[0])


def _refuse_other_timeline(source: Server, lsn: str, timeline: int | None) -> None:
    past = archive.timelines(source)
    if past.is_one_place(lsn) if timeline is None else past.holds(lsn, timeline):
        return
    left = ", ".join(
        f"timeline {one} at {recovery_target.lsn_text(end)}"
        for (one, _), end in zip(past.switches, past.left_at, strict=False)
    )
    now = f'Server "{source.name}" is on timeline {past.newest}' + (f"; it left {left}." if left else ".")
    if timeline is None:
        raise WrongInput(
            f"LSN {lsn} is a place on more than one timeline",
            detail=now,
            hint=f"If it was read on timeline {past.at(lsn)}, write lsn:{lsn}@{past.at(lsn)}.",
        )
    raise WrongInput(
        f'LSN {lsn} of timeline {timeline} does not lie in the past of server "{source.name}"',
        detail=now,
        hint=f"What the server has at that number is {past.told(lsn)}"
        + (": another place; a restore point or a time can be named, too." if past.at(lsn) != timeline else "."),
    )


def unknown(name: str, where: str, known: Sequence[WalRestorePoint]) -> WrongInput:
    """Return the error for a name that is none of the restore points: the nearest of them, or the newest."""
    by_name = {point.name: point for point in known}
    near = [by_name[other] for other in difflib.get_close_matches(name, by_name, SHOWN)]
    shown = near or list(reversed(known))[:SHOWN]
    told = listed(shown)
    return WrongInput(
        f'could not find restore point "{name}" {where}',
        detail=f"{'The nearest are' if near else 'The newest are' if known else 'There are'}: {told or 'none'}.",
        hint=recovery_target.meant(name)
        or "Correct the name, or name an LSN (lsn:0/3000060) or a time (2026-11-22T16:54:31Z).",
    )


def listed(points: Sequence[WalRestorePoint]) -> str:
    """Return restore points as a sentence names them, each with its time; "" without any."""
    return ", ".join(f"{point.name} ({point.created_at:%Y-%m-%dT%H:%M:%SZ})" for point in points)


def _is_at(source: Server, name: str, lsn: str) -> bool:
    """Tell whether the record of a restore point ends near an LSN, by the segments around it."""
    last = wal_segments.number_at(lsn, end=True)
    found = archive.restore_points(source, range(last - 1, last + 1))
    return name in {point.name for point in found}
