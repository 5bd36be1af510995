"""Base backups of an embedded server, and what can be restored from them; for prepare and restore."""

from __future__ import annotations

import json
import logging
import re
import shutil
import sys
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pgrunbook.branches import datadir
from pgrunbook.branches.archive import newest_archived
from pgrunbook.branches.recovery_target import lsn_number
from pgrunbook.branches.server import Server
from pgrunbook.errors import Refused

log = logging.getLogger(__name__)

SYNCFS_SINCE = 17


@dataclass(frozen=True)
class BaseBackup:
    """A copy of a whole server, from which WAL leads to any later point; ``stop_lsn`` is the earliest."""

    id: str
    path: Path
    started_at: datetime
    ended_at: datetime
    start_lsn: str
    stop_lsn: str
    bytes: int
    server_version: str


@dataclass(frozen=True)
class Window:
    """The range that can be restored: from the end of the oldest base backup to the end of the archived WAL.

    ``latest_at`` is when the newest segment was archived: later commits cannot be restored.
    """

    earliest_at: datetime
    earliest_lsn: str
    latest_at: datetime
    latest_lsn: str


def take_base_backup(server: Server) -> BaseBackup:
    """Copy the running server with pg_basebackup into its backups, and verify the copy.

    Raises Unreachable when it does not run, Refused when it has tablespaces, RunbookError when it fails;
    a backup that failed is removed.
    Source: https://www.postgresql.org/docs/current/app-pgbasebackup.html
    """
    _refuse_tablespaces(server)
    started_at = datetime.now(UTC)
    backup_id = f"{started_at:%Y%m%dT%H%M%S}{started_at.microsecond // 1000:03d}Z"
    half, ready = f"backups/{backup_id}.new", f"backups/{backup_id}"
    options = ("-c", "fast", "-X", "stream", "-l", f"pgrunbook {backup_id}", *_sync(server))
    log.info('taking base backup %s of server "%s"', backup_id, server.name)
    try:
        server.run("pg_basebackup", "-h", str(server.socket_dir), "-U", "postgres", "-D", half, *options)
        if (server.installation.bindir / "pg_verifybackup").is_file():
            server.run("pg_verifybackup", "-q", half)
        server.do("mv", half, ready)
    except BaseException:
        shutil.rmtree(server.dir / half, ignore_errors=True)
        raise
    backup = _facts(server, backup_id, started_at)
    told = {**asdict(backup), "path": None, "started_at": started_at.isoformat()}
    server.write(f"{ready}.json", json.dumps({**told, "ended_at": backup.ended_at.isoformat()}, indent=1))
    return backup


def list_base_backups(server: Server) -> list[BaseBackup]:
    """Return the server's finished base backups, oldest first."""
    found = []
    for path in sorted(server.backups_dir.glob("*.json")):
        told = json.loads(path.read_text(encoding="utf-8"))
        times = {key: datetime.fromisoformat(told[key]) for key in ("started_at", "ended_at")}
        if path.with_suffix("").is_dir():
            found.append(BaseBackup(**{**told, **times, "path": path.with_suffix("")}))
    return found


def window(server: Server) -> Window | None:
    """Return the range that can be restored, None where there is no base backup, and so nothing at all."""
    backups = list_base_backups(server)
    if not backups:
        return None
    oldest, newest = backups[0], backups[-1]
    reach = Window(oldest.ended_at, oldest.stop_lsn, newest.ended_at, newest.stop_lsn)
    archived = newest_archived(server)
    if archived and lsn_number(archived[1]) > lsn_number(reach.latest_lsn):
        reach = replace(reach, latest_at=archived[2], latest_lsn=archived[1])
    return reach


def _sync(server: Server) -> tuple[str, ...]:
    """Return how the copy reaches the disk: with its whole file system, as 13,000 files one by one take 5 s."""
    if datadir.fsync() != "on":
        return ("--no-sync",)
    can = sys.platform.startswith("linux") and server.installation.major >= SYNCFS_SINCE
    return ("--sync-method=syncfs",) if can else ()


def _facts(server: Server, backup_id: str, started_at: datetime) -> BaseBackup:
    path = server.backups_dir / backup_id
    label = (path / "backup_label").read_text(encoding="utf-8")
    start = re.search(r"START WAL LOCATION: (\S+)", label)
    manifest = json.loads((path / "backup_manifest").read_text(encoding="utf-8"))
    return BaseBackup(
        id=backup_id,
        path=path,
        started_at=started_at,
        ended_at=datetime.now(UTC),
        start_lsn=start[1] if start else manifest["WAL-Ranges"][0]["Start-LSN"],
        stop_lsn=manifest["WAL-Ranges"][-1]["End-LSN"],
        bytes=sum(file["Size"] for file in manifest["Files"]),
        server_version=server.installation.version,
    )


def _refuse_tablespaces(server: Server) -> None:
    query = "SELECT spcname FROM pg_catalog.pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')"
    with server.connect(purpose="base backup") as conn:
        names = [str(row[0]) for row in conn.execute(query)]
    if names:
        raise Refused(
            f'cannot take a base backup of server "{server.name}": it has tablespaces',
            detail=f"{', '.join(names)} lie outside of its data directory; a copy would share them.",
            hint="Move the tables back to pg_default and drop the tablespaces.",
        )
