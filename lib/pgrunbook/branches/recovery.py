"""Point-in-time restore into a new server, from a base backup and archived WAL; the notebook restore uses it."""

from __future__ import annotations

import logging
import os
import shutil
import time
from dataclasses import dataclass, replace
from datetime import datetime
from typing import LiteralString, cast

import psycopg

from pgrunbook.branches import isolation
from pgrunbook.branches.archive import newest_archived, restore_points, tablespaces_made, wait_archived
from pgrunbook.branches.backup import BaseBackup, list_base_backups
from pgrunbook.branches.binaries import last_lines
from pgrunbook.branches.recovery_target import Point, lsn_number
from pgrunbook.branches.server import Server
from pgrunbook.database.connection import Connection
from pgrunbook.display import progress
from pgrunbook.display.progress import Stage
from pgrunbook.display.units import human
from pgrunbook.errors import Broken, Refused, RunbookError, Unreachable, WrongInput

log = logging.getLogger(__name__)

POLL_S = 0.05
ARCHIVE_TIMEOUT_S = 60
# A restore point's record is about 100 bytes long; a page header may stand beside it.
RECORD_MAX_BYTES = 512
REMOVED = "The new server was removed; its source was only read."

"""Called with ``copy`` or ``replay``, the bytes done, and the bytes in all, or None where they are not known."""


@dataclass(frozen=True)
class Measures:
    """How a restore went; read while replay was paused at the point, before the server was promoted.

    ``last_transaction_at`` is None where no transaction was replayed; ``told`` is the line in the server's log.
    """

    copy_s: float
    replay_s: float
    promote_s: float
    start_lsn: str
    end_lsn: str
    replayed_bytes: int
    last_transaction_at: datetime | None
    told: str


@dataclass(frozen=True)
class Restored:
    """A new server in the state that its source had at the point."""

    server: Server
    source: str
    point: Point
    backup: BaseBackup
    measures: Measures


def restore(
    source: Server,
    point: Point,
    *,
    name: str,
    backup: BaseBackup | None = None,
    timeout_s: int = 3600,
) -> Restored:
    """Restore the source's past into the new server ``name``, and start it; the source is only read.

    1. Make sure that the WAL up to the point is archived. Where the source runs, one empty transaction is
       committed on it and its WAL segment ended, as PostgreSQL only stops at a record after the point.
    2. Copy the newest base backup that ended before the point.
    3. Replay the archived WAL, pause at the point, and read the LSN at which replay stands.
    4. Promote it: from there on it is a server of its own, with its own archive.

    Raises Refused when the name is taken, or when a tablespace was made between the backup and the point;
    WrongInput when the point lies outside of what can be restored, Blocked when the WAL cannot be archived,
    Broken when it ends before the point. A half-made server is
    removed.
    Source: https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-PITR-RECOVERY
    """
    new = Server(name)
    with new.lock():
        _refuse_existing(new)
        running = _see_archived(source, point)
        point = _located(source, point)
        chosen = backup or _backup_before(source, point)
        _refuse_tablespaces(source, point, chosen)
        began = time.monotonic()
        try:
            with progress.doing(f"copying the base backup of {human(chosen.bytes)}"):
                _copy(chosen, new)
            copy_s = time.monotonic() - began
            with progress.doing("replaying the WAL") as stage:
                measures = _replay(source, point, chosen, new, stage, running=running, timeout_s=timeout_s)
        except BaseException:
            _remove(new)
            raise
    return Restored(new, source.name, point, chosen, replace(measures, copy_s=copy_s))


def _refuse_existing(new: Server) -> None:
    if new.dir.exists():
        raise Refused(
            f'refused to restore over server "{new.name}"',
            detail=f"{new.dir} exists; a restore only ever makes a new server.",
            hint=f"Choose another name, or first: pgrunbook server destroy --name {new.name}.",
        )


def _see_archived(source: Server, point: Point) -> bool:
    """Wait until the WAL up to the point is archived; return False where the source does not run."""
    if source.pid() is None:
        return False
    with source.connect(purpose="restore") as conn:
        now = str(_value(conn, "SELECT pg_catalog.pg_current_wal_insert_lsn()"))
        aim = point.lsn or point.at_lsn
        if aim and lsn_number(aim) > lsn_number(now):
            raise WrongInput(
                f"{point} lies beyond the WAL",
                detail=f'Server "{source.name}" has written up to {now}.',
                hint="Name a point that is in the past.",
            )
        _value(conn, "SELECT pg_catalog.pg_current_xact_id()")
        after = str(_value(conn, "SELECT pg_catalog.pg_current_wal_insert_lsn()"))
        wait_archived(conn, after, ARCHIVE_TIMEOUT_S)
    return True


def _located(source: Server, point: Point) -> Point:
    """Return the point with the LSN of its name, searched in the WAL where it is not given."""
    if point.name is None or point.at_lsn is not None:
        return point
    there = restore_points(source)
    found = [known.lsn for known in there if known.name == point.name]
    if len(found) == 1:
        return replace(point, at_lsn=found[0])
    if found:
        raise WrongInput(
            f'{point} of server "{source.name}" exists {len(found)} times',
            detail=f"Its records begin at {', '.join(found)}.",
            hint="Name one of these LSNs instead, as lsn:0/3000060.",
        )
    raise WrongInput(
        f'could not find {point} in the WAL of server "{source.name}"',
        detail=f"There are: {', '.join(known.name for known in there[-10:]) or 'none'}.",
        hint="Correct the name, or name an LSN or a time.",
    )


def _backup_before(source: Server, point: Point) -> BaseBackup:
    backups = list_base_backups(source)
    aim = point.lsn or point.at_lsn
    for backup in reversed(backups):
        if lsn_number(backup.stop_lsn) <= lsn_number(aim) if aim else backup.ended_at <= cast(datetime, point.time):
            return backup
    oldest = f"The oldest ended at {backups[0].ended_at}, LSN {backups[0].stop_lsn}." if backups else ""
    raise WrongInput(
        f'could not find a base backup of server "{source.name}" that ended before {point}',
        detail=oldest or "It has none.",
        hint="Name a later point; what lies before the oldest base backup cannot be restored.",
    )


def _refuse_tablespaces(source: Server, point: Point, backup: BaseBackup) -> None:
    """See that no tablespace of the source was made between the backup and the point.

    The WAL names its folder: to replay it would be to write there, among the files of the source.
    """
    if not any(path.is_symlink() for path in (source.data_dir / "pg_tblspc").iterdir()):
        return
    first, aim = lsn_number(backup.start_lsn), point.lsn or point.at_lsn
    made = [(lsn_number(lsn), folder) for lsn, folder in tablespaces_made(source)]
    between = [folder for lsn, folder in made if lsn >= first and (aim is None or lsn < lsn_number(aim))]
    if between:
        raise Refused(
            f"cannot restore to {point}: a tablespace was made since the base backup",
            detail=f'Replaying the WAL would write into {", ".join(between)}, which server "{source.name}" uses.',
            hint="Restore to an LSN before that, or move its tables to pg_default and drop the tablespace.",
        )


def _copy(backup: BaseBackup, new: Server) -> None:
    """Make the new server's folder from the backup, under another name first."""
    staged = new.dir.with_name(f"{new.name}.new")
    shutil.rmtree(staged, ignore_errors=True)
    log.info('copying base backup %s for server "%s"', backup.id, new.name)
    try:
        new.make_folders(staged)
        copy = ("cp", "-a", "--reflink=auto") if os.uname().sysname == "Linux" else ("cp", "-Rp")
        new.do(*copy, os.path.relpath(backup.path, staged), "data", cwd=staged)
        new.do("tee", "data/recovery.signal", cwd=staged)
        new.do("tee", isolation.MARK, text=isolation.MARK_TEXT, cwd=staged)
        isolation.refuse_links(new, staged / "data")
        staged.rename(new.dir)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _recovery_settings(source: Server, point: Point, *, running: bool) -> dict[str, str]:
    """Return the settings for replaying to the point; paths are relative to the new data directory.

    An LSN is where a restore point's or a transaction's record ended: the record that begins there is
    left out (not inclusive), else it would be one too many. What was committed at exactly the time is included.
    """
    archive, wal = f"../../{source.name}/archive/%f", f"../../{source.name}/data/pg_wal/%f"
    command = f'test -f {archive} && cp {archive} "%p"'
    if not running:  # then nobody archives the end of its WAL any more, and nobody writes to it
        command = f'if test -f {archive}; then cp {archive} "%p"; else test -f {wal} && cp {wal} "%p"; fi'
    aim = (
        {"recovery_target_name": point.name}
        if point.name is not None
        else {"recovery_target_lsn": point.lsn}
        if point.lsn is not None
        else {"recovery_target_time": cast(datetime, point.time).isoformat(sep=" ", timespec="microseconds")}
    )
    return {
        "hot_standby": "on",
        "restore_command": command,
        **aim,
        "recovery_target_inclusive": "off" if point.lsn is not None else "on",
        "recovery_target_timeline": "latest",
        "recovery_target_action": "pause",
    }


def _replay(
    source: Server,
    point: Point,
    backup: BaseBackup,
    new: Server,
    stage: Stage,
    *,
    running: bool,
    timeout_s: int,
) -> Measures:
    began = time.monotonic()
    try:
        new.launch(timeout_s=timeout_s, more=_recovery_settings(source, point, running=running))
        with new.connect(purpose="restore") as conn:
            aim = point.lsn or point.at_lsn
            _wait_paused(conn, backup, aim, stage, began + timeout_s)
            paused = time.monotonic()
            query = "SELECT pg_catalog.pg_last_wal_replay_lsn(), pg_catalog.pg_last_xact_replay_timestamp()"
            end_lsn, last_at = conn.execute(query).fetchone() or ("", None)
            told = _proof(new, point, str(end_lsn))
            _promote(conn, began + timeout_s)
        isolation.close(new)
    except (Unreachable, psycopg.Error) as exc:
        raise _not_reached(source, point, new, exc) from exc
    return Measures(
        copy_s=0,
        replay_s=paused - began,
        promote_s=time.monotonic() - paused,
        start_lsn=backup.start_lsn,
        end_lsn=str(end_lsn),
        replayed_bytes=lsn_number(str(end_lsn)) - lsn_number(backup.start_lsn),
        last_transaction_at=last_at if isinstance(last_at, datetime) else None,
        told=told,
    )


def _wait_paused(conn: Connection, backup: BaseBackup, aim: str | None, stage: Stage, ends_at: float) -> None:
    start = lsn_number(backup.start_lsn)
    of = f" of {human(lsn_number(aim) - start)}" if aim else ""
    query = "SELECT pg_catalog.pg_get_wal_replay_pause_state(), pg_catalog.pg_last_wal_replay_lsn()"
    while True:
        state, lsn = conn.execute(query).fetchone() or ("", None)
        stage.how_far(f"{human(lsn_number(str(lsn)) - start if lsn else 0)}{of}")
        if state == "paused":
            return
        if time.monotonic() > ends_at:
            raise Unreachable("could not replay the WAL in time", detail=f"Replay has reached {lsn}.")
        time.sleep(POLL_S)


def _proof(new: Server, point: Point, end_lsn: str) -> str:
    """Return what the server logged when it stopped. Raises Broken when it did not stop at the point."""
    lines = [line for line in new.log_since(0).splitlines() if "recovery stopping " in line]
    told = lines[-1][lines[-1].index("recovery stopping ") :] if lines else ""
    beyond = lsn_number(end_lsn) - lsn_number(point.at_lsn) if point.at_lsn else 0
    if not told or not 0 <= beyond <= RECORD_MAX_BYTES:
        raise Broken(
            f"could not stop at {point}",
            detail=f"Replay stands at {end_lsn}, {point} is at {point.at_lsn or point.lsn or point.time}; "
            f"the server's log says: {told or last_lines(new.log_since(0))}",
            state=REMOVED,
            hint="Restore to the LSN instead, as lsn:0/3000060.",
        )
    return told


def _promote(conn: Connection, ends_at: float) -> None:
    conn.execute("SELECT pg_catalog.pg_wal_replay_resume()")  # at the recovery target, this promotes the server
    while _value(conn, "SELECT pg_catalog.pg_is_in_recovery()"):
        if time.monotonic() > ends_at:
            raise Unreachable("could not promote the new server in time")
        time.sleep(POLL_S)


def _not_reached(source: Server, point: Point, new: Server, exc: Exception) -> RunbookError:
    told = new.log_since(0)
    newest = newest_archived(source)
    if "recovery ended before configured recovery target was reached" in told:
        return Broken(
            f"could not reach {point}: the WAL ends before it",
            detail=f"The newest archived WAL is {newest[0]}, which ends at {newest[1]} ({newest[2]})."
            if newest
            else "No WAL is archived.",
            state=REMOVED,
            hint="Restore to an earlier point, or put the missing WAL into the archive.",
        )
    return Unreachable(
        f"could not restore to {point}",
        detail=f"{exc.detail if isinstance(exc, RunbookError) else exc} | {last_lines(told)}",
        state=REMOVED,
        hint=f"Read what the log says, then restore again; the source's archive is {source.archive_dir}.",
    )


def _remove(new: Server) -> None:
    try:
        new.destroy()
    except RunbookError as exc:
        log.warning('could not remove the half restored server "%s": %s', new.name, exc.message)


def _value(conn: Connection, query: LiteralString) -> object:
    row = conn.execute(query).fetchone()
    return row[0] if row else None
