"""Backups of a branch at PlanetScale, for ``pgrunbook backup``: taken, listed, and those that are ours removed.

PlanetScale keeps the files and the WAL, and removes each backup when its retention is over.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from pgrunbook.branches.backup import BaseBackup, Window
from pgrunbook.branches.backup_report import BackupReport
from pgrunbook.branches.planetscale import moments
from pgrunbook.branches.planetscale.answers import SUCCESS, PlanetscaleBackup
from pgrunbook.branches.planetscale.api import Api
from pgrunbook.config.targets import Planetscale, Target
from pgrunbook.errors import Refused

OURS = "by-pgrunbook-"
INSTEAD = {
    "create --incremental": "Leave --incremental out: PlanetScale decides how it copies.",
    "verify": "Restore to now and compare: pgrunbook run restore --target {name} -p to=newest; then delete the branch.",
    "receive": "It keeps the WAL itself: pgrunbook backup list --target {name} shows what can be restored.",
}


def refuse(target: Target, command: str) -> None:
    """Raise Refused for a command that PlanetScale has nothing for."""
    raise Refused(
        f'target "{target.name}" has no backup {command}',
        detail="Its backups and its WAL are in PlanetScale's hands.",
        state="Nothing was started.",
        hint=INSTEAD[command].format(name=target.name),
    )


def create(target: Target) -> BaseBackup:
    """Take a backup, wait until it is complete, and return its facts; it is kept for the target's keep_days."""
    place = _place(target)
    with Api(place) as api:
        begun = api.create_backup(place.branch, f"{OURS}{datetime.now(UTC):%Y%m%dT%H%M%SZ}", keep_days=target.keep_days)
        return _facts(api.wait_backup(place.branch, begun.id))


def report(target: Target) -> BackupReport:
    """Return the complete backups, oldest first, and the moments that can be restored."""
    with Api(_place(target)) as api:
        return _report(target, api)


def expire(target: Target) -> BackupReport:
    """Delete the backups that pgrunbook has taken beyond the target's keep_backups; return what is there then."""
    place = _place(target)
    with Api(place) as api:
        ours = [one for one in api.backups(place.branch) if one.name.startswith(OURS) and not one.protected]
        gone = ours[: max(0, len(ours) - target.keep_backups)]
        for one in gone:
            api.delete_backup(place.branch, one.id)
        return _report(target, api).model_copy(update={"removed_backups": tuple(one.id for one in gone)})


def _report(target: Target, api: Api) -> BackupReport:
    found = moments.moments(api)
    complete = [one for one in api.backups(api.place.branch) if one.state == SUCCESS and one.completed_at]
    can = found is not None and found.first_at <= found.last_at
    return BackupReport(
        target=target.name,
        server=f"{api.name}, branch {api.place.branch}",
        backups=tuple(map(_facts, complete)),
        windows=(Window(found.first_at, "", found.last_at, ""),) if found is not None and can else (),
        archived_segments=0,
    )


def _facts(one: PlanetscaleBackup) -> BaseBackup:
    size = one.size or 0
    ended_at = one.completed_at or one.created_at
    return BaseBackup(one.id, Path(one.name), one.created_at, ended_at, "", "", size, "", stored_bytes=size)


def _place(target: Target) -> Planetscale:
    assert target.planetscale is not None  # noqa: S101 - asked of such targets only
    return target.planetscale
