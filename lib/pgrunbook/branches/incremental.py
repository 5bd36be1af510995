"""Incremental base backups: what changed since a full one, as the server's summaries of its WAL tell.

A restore combines both, and then replays only the WAL behind the incremental one.
Source: https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-INCREMENTAL-BACKUP
"""

from __future__ import annotations

from pgrunbook.branches import backup
from pgrunbook.branches.backup import BaseBackup
from pgrunbook.branches.recovery_target import lsn_number
from pgrunbook.branches.server import Server
from pgrunbook.config.targets import Target
from pgrunbook.errors import Refused

SINCE = 17
PROGRAM = "pg_combinebackup"
# A restore replays some 100 MB of WAL a second.
WORTH_WAL_BYTES = 256 * 1024 * 1024


def take(server: Server, *, of: Target | None = None) -> BaseBackup:
    """Take an incremental backup onto the newest full one; ``of`` is as for ``backup.take_base_backup``.

    Raises Refused where that cannot be done, with the reason, and what ``backup.take_base_backup`` raises.
    """
    reason = hindrance(server, of=of)
    if reason:
        raise Refused(
            f'cannot take an incremental backup of server "{server.name}"',
            detail=reason,
            hint="Take a full one: pgrunbook backup create.",
        )
    return backup.take_base_backup(server, onto=backup.full(backup.list_base_backups(server))[-1], of=of)


def is_worth_it(server: Server) -> bool:
    """Tell whether a restore to now would replay so much WAL that an incremental backup pays, and one can be taken."""
    backups = backup.list_base_backups(server)
    if not backups or hindrance(server):
        return False
    with server.connect(purpose="base backup") as conn:
        (now,) = conn.execute("SELECT pg_catalog.pg_current_wal_insert_lsn()::text").fetchone() or ("0/0",)
    return lsn_number(str(now)) - lsn_number(backups[-1].stop_lsn) > WORTH_WAL_BYTES


def hindrance(server: Server, *, of: Target | None = None) -> str:
    """Return why no incremental backup of a server can be taken, "" where one can."""
    if server.installation.major < SINCE:
        return f"PostgreSQL {server.installation.major} has none; {SINCE} and later have."
    if not (server.installation.bindir / PROGRAM).is_file():
        return f"{server.installation.bindir} has no {PROGRAM}."
    if not backup.full(backup.list_base_backups(server)):
        return "There is no full backup that it could stand on."
    with backup.session(server, of) as conn:
        (on,) = conn.execute("SELECT pg_catalog.current_setting('summarize_wal')").fetchone() or ("off",)
    return "" if on == "on" else "summarize_wal is off."
