"""Which base backups and archived WAL have to stay, and removal of the others; for ``backup expire``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pgrunbook.branches import archive, archive_compression, backup, verification, wal_segments
from pgrunbook.branches.backup import BaseBackup
from pgrunbook.branches.recovery_target import lsn_number
from pgrunbook.branches.restore_point_records import WalRestorePoint
from pgrunbook.branches.server import Server
from pgrunbook.config.targets import Target
from pgrunbook.errors import Broken

log = logging.getLogger(__name__)

NAMES_AT_ONCE = 1_000


@dataclass(frozen=True)
class Expiry:
    """What goes, and what stays beyond the number of backups to keep: pairs of backup and the restore point.

    ``segments`` are the names of files in the archive: WAL, and the notes of backups beside it.
    """

    backups: list[BaseBackup]
    segments: list[str]
    needed: list[tuple[BaseBackup, WalRestorePoint]]


def expire(server: Server, on_it: Sequence[Target]) -> Expiry:
    """Remove what is neither among the newest backups nor needed by a restore point, and the WAL before what stays.

    The targets on the server say how many backups to keep (``keep_backups``) and for how long a restore point is
    offered (``keep_days``); the most of them counts. What stays is verified first, and its WAL compressed at the end.

    Raises Broken when a backup that is to stay is damaged: nothing is removed then. Raises Blocked while a restore
    reads them.
    """
    with backup.lock(server):
        found = choose(server, max(target.keep_backups for target in on_it), max(target.keep_days for target in on_it))
        if found.backups:
            _refuse_damaged(server, found)
        for one in found.backups:
            log.info('removing base backup %s of server "%s"', one.id, server.name)
            # Its facts go first: without them it is none.
            server.do("rm", "-f", f"backups/{one.id}.json")
            server.do("rm", "-rf", f"backups/{one.id}")
        for first in range(0, len(found.segments), NAMES_AT_ONCE):
            names = found.segments[first : first + NAMES_AT_ONCE]
            server.do("rm", "-f", *(f"archive/{name}" for name in names))
    archive_compression.compress(server)
    return found


def choose(server: Server, keep: int, days: int) -> Expiry:
    """Return what would go when so many backups are kept, and restore points are offered for so many days."""
    backups = backup.list_base_backups(server)
    stay = {one.id for one in backups[-keep:]}
    needed = []
    for point in archive.restore_points(server) if len(stay) < len(backups) else []:
        before = [one for one in backups if lsn_number(one.stop_lsn) <= lsn_number(point.lsn)]
        if before and before[-1].id not in stay and point.created_at > datetime.now(UTC) - timedelta(days):
            stay.add(before[-1].id)
            needed.append((before[-1], point))
    stay |= {part.id for one in backups if one.id in stay for part in backup.chain(backups, one)}
    kept = [one for one in backups if one.id in stay]
    first = wal_segments.number_at(kept[0].start_lsn) if kept else 0
    names = (path.name for path in server.archive_dir.glob("*") if wal_segments.NAME.match(path.name))
    segments = sorted(name for name in names if wal_segments.number(name[:24]) < first)
    return Expiry([one for one in backups if one.id not in stay], segments, needed)


def _refuse_damaged(server: Server, found: Expiry) -> None:
    going = {one.id for one in found.backups}
    for one in backup.list_base_backups(server):
        damage = verification.damage_of_backup(one) if one.id not in going else []
        if damage:
            raise Broken(
                f"refused to remove older base backups: {one.id}, which would stay, is damaged",
                detail="; ".join(map(str, damage)),
                hint="Take a new one first: pgrunbook backup create; then move the damaged one away: "
                f"mv {one.path}.json {one.path}.json.damaged.",
            )
