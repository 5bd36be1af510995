"""What ``pgrunbook backup`` prints with ``--json``: a target's base backups, and what can be restored from them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from pgrunbook.branches import archive, backup, verification, wal_segments
from pgrunbook.branches.backup import BaseBackup, Window
from pgrunbook.branches.server import Server


class BackupReport(BaseModel):
    """The base backups, oldest first, and the ranges of time that can be restored.

    ``damage`` has a line for each file that is damaged and each segment that is missing, and is null where nobody
    looked. ``removed_backups`` and ``removed_segments`` are what this command has removed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str
    server: str
    backups: tuple[BaseBackup, ...]
    windows: tuple[Window, ...]
    archived_segments: int
    damage: tuple[str, ...] | None = None
    removed_backups: tuple[str, ...] = ()
    removed_segments: int = 0


def report(target: str, server: Server) -> BackupReport:
    """Return the report on a target's server as it is now. Raises Broken where the facts of a backup are damaged."""
    return BackupReport(
        target=target,
        server=server.name,
        backups=tuple(backup.list_base_backups(server)),
        windows=tuple(backup.windows(server)),
        archived_segments=len(archive.archived(server)),
    )


def verified(found: BackupReport, server: Server) -> BackupReport:
    """Return the report with what is damaged: every file of every backup is read, and all WAL that leads on from them.

    Raises WrongInput where PostgreSQL's programs for it are missing.
    """
    damage = [f"base backup {one.id}: {said}" for one in found.backups for said in verification.damage_of_backup(one)]
    chain, archived = archive.timelines(server), archive.archived(server)
    first = wal_segments.number_at(found.backups[0].start_lsn) if found.backups else None
    for stretch in wal_segments.stretches(archived, chain) if first is not None else []:
        if stretch.last >= int(first or 0):
            said = verification.damage_of_wal(server, max(stretch.first, int(first or 0)), stretch.last)
            damage += [f"WAL segment {said}"] if said else []
    damage += [f"WAL segment {name}: it is missing" for window in found.windows for name in window.missing]
    return found.model_copy(update={"damage": tuple(damage)})
