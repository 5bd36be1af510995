"""The restore points of a server's archive, noted beside it: archived WAL does not change, so it is read once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime

from pgrunbook.branches import restore_point_records, wal_segments
from pgrunbook.branches.recovery_target import lsn_number
from pgrunbook.branches.restore_point_records import WalRestorePoint
from pgrunbook.branches.server import Server
from pgrunbook.branches.wal_segments import SEGMENT_BYTES, Timelines

FILE = "restore-points.json"


def archived(server: Server, chain: Timelines) -> list[WalRestorePoint]:
    """Return the restore points in the archive; segments that were not read before are read, and noted.

    The last segment of a stretch is never noted: a record may begin in it and end in the next.
    """
    there = wal_segments.names(server.archive_dir)
    before = _noted(server)
    read, known = before[0] & set(there), before[1]
    new: dict[str, WalRestorePoint] = {}
    for first, last in _unread(there, chain, read):
        paths = (server.archive_dir / chain.name(number) for number in range(first, last + 1))
        new |= {point.lsn: point for point in restore_point_records.read(paths)}
        read |= {chain.name(number) for number in range(first, last)}
    all_of_them = {point.lsn: point for point in known} | new
    found = {lsn: point for lsn, point in all_of_them.items() if chain.name(_segment(point)) in there}
    noted = [point for point in found.values() if chain.name(_segment(point)) in read]
    if (read, noted) != before:
        _note(server, read, noted)
    return list(found.values())


def _unread(there: list[str], chain: Timelines, read: set[str]) -> Iterator[tuple[int, int]]:
    """Yield stretches of segments to read: those not read before, and the one behind them, for what ends in it."""
    for stretch in wal_segments.stretches(there, chain):
        first: int | None = None
        for number in range(stretch.first, stretch.last + 1):
            is_read = chain.name(number) in read
            if first is None and not is_read:
                first = number
            elif first is not None and is_read:
                yield first, number
                first = None
        if first is not None:
            yield first, stretch.last


def _segment(point: WalRestorePoint) -> int:
    return lsn_number(point.lsn) // SEGMENT_BYTES


def _noted(server: Server) -> tuple[set[str], list[WalRestorePoint]]:
    """Return what is noted: the segments that were read, and their points; nothing where it cannot be read."""
    try:
        told = json.loads((server.dir / FILE).read_text(encoding="utf-8"))
        points = [
            WalRestorePoint(one["name"], one["lsn"], datetime.fromisoformat(one["created_at"]))
            for one in told["points"]
        ]
        return set(told["read"]), points
    except (OSError, ValueError, KeyError, TypeError):
        return set(), []


def _note(server: Server, read: set[str], points: list[WalRestorePoint]) -> None:
    told = {
        "read": sorted(read),
        "points": [{**asdict(one), "created_at": one.created_at.isoformat()} for one in points],
    }
    mine = f"{FILE}.{os.getpid()}"
    server.do("tee", mine, text=json.dumps(told))
    server.do("mv", "-f", mine, FILE)
