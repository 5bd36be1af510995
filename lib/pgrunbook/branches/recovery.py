"""Point-in-time restore into a new server, from a base backup and archived WAL; the notebook restore uses it."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import LiteralString, cast

import psycopg

from pgrunbook.branches import (
    archive,
    backup_files,
    destruction,
    free_space,
    half_restored,
    isolation,
    points,
    recovery_failure,
    server_name,
    verification,
    wal_delivery,
    wal_segments,
)
from pgrunbook.branches.archive import tablespaces_made, wait_archived
from pgrunbook.branches.backup import BaseBackup, chain, list_base_backups, lock, missing_wal
from pgrunbook.branches.backup_files import DamagedFile
from pgrunbook.branches.binaries import last_lines
from pgrunbook.branches.manifest import DamagedManifest
from pgrunbook.branches.recovery_failure import REMOVED
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
LINK_SINCE = 18  # pg_combinebackup --link
LOCK_TIMEOUT_S = 2.0


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
    told: Callable[[Restored], None] | None = None,
) -> Restored:
    """Restore the source's past into the new server ``name``, and start it; the source is only read.

    1. Find the point in the WAL, and the newest base backup that ended before it.
    2. Make sure that the WAL between them is archived. Where the source runs, one empty transaction is
       committed on it and its WAL segment ended, as PostgreSQL only stops at a record after the point.
    3. Copy the base backup, and compare it with its manifest meanwhile.
    4. Replay the archived WAL, pause at the point, and read the LSN at which replay stands.
    5. Promote it: from there on it is a server of its own, with its own archive.

    A mark says what the new server is until all of it is done, and ``told`` has noted it: a server that a killed
    restore has left counts as half restored, and is made anew.

    Raises Refused when the name is taken, when a tablespace was made between the backup and the point or when the
    disk has no room; WrongInput when the point lies outside of what can be restored, Blocked when the WAL cannot be
    archived or another process restores to that name, Broken when the backup is damaged, or WAL is missing or
    damaged before the point. A half-made server is removed.
    Source: https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-PITR-RECOVERY
    """
    server_name.refuse_branch_name(name)
    new = Server(name)
    with new.lock(timeout_s=LOCK_TIMEOUT_S), lock(source, shared=True):
        _refuse_existing(new)
        needed_bytes = 0
        try:
            point = points.located(source, point)
            chosen = backup or _backup_before(source, point)
            running = _see_archived(source, point)
            _refuse_gaps(source, point, chosen)
            _refuse_tablespaces(source, point, chosen)
            parts = chain(list_base_backups(source), chosen)
            needed_bytes = _needed_bytes(parts, new)
            free_space.check("the restored server", needed_bytes)
            began = time.monotonic()
            new.make_folders(new.dir)
            new.write(half_restored.MARK, f"To {point} of server {source.name}, begun {datetime.now(UTC):%F %T} UTC.")
            with progress.doing(f"copying the base backup of {human(needed_bytes)}"):
                _copy(source, parts, new)
            copy_s = time.monotonic() - began
            with progress.doing("replaying the WAL") as stage, wal_delivery.delivered(source, new, chosen):
                measures = _replay(source, point, chosen, new, stage, running=running, timeout_s=timeout_s)
            done = Restored(new, source.name, point, chosen, replace(measures, copy_s=copy_s))
            if told is not None:
                told(done)
            new.do("rm", half_restored.MARK)
        except BaseException as exc:
            full = _full_disk(point, needed_bytes, exc)
            _remove(new)
            if full is not None:
                raise full from exc
            raise
    return done


def _full_disk(point: Point, needed_bytes: int, exc: BaseException) -> RunbookError | None:
    """Return the error of a disk that has run full, where that is why a restore failed; None for other reasons."""
    is_plain = type(exc) is RunbookError and exc.state != REMOVED
    lack = free_space.lack(str(exc)) if is_plain else ""
    return free_space.full(f"restore to {point}", lack, needed_bytes, state=REMOVED) if lack else None


def _refuse_existing(new: Server) -> None:
    """See that the name is free; what a killed restore has left there is removed."""
    if half_restored.told(new.dir) is not None:
        log.info('removing the half restored server "%s"', new.name)
        new.destroy()
    if new.dir.exists():
        kept = destruction.reasons_to_keep(new)
        first = "" if kept else f", or first: pgrunbook server destroy --name {new.name}"
        raise Refused(
            f'refused to restore over server "{new.name}"',
            detail=f"{new.dir} exists; a restore only ever makes a new server.",
            hint=f"Choose another name{first}.",
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
                hint=f"Name a point that is in the past; the nearest is {archive.timelines(source).told(now)}.",
            )
        _value(conn, "SELECT pg_catalog.pg_current_xact_id()")
        after = str(_value(conn, "SELECT pg_catalog.pg_current_wal_insert_lsn()"))
        wait_archived(conn, after, ARCHIVE_TIMEOUT_S)
    return True


def _refuse_gaps(source: Server, point: Point, backup: BaseBackup) -> None:
    """See that every segment between the backup and the point is there. Raises Broken."""
    aim = point.lsn or point.at_lsn
    lacking = missing_wal(source, backup, aim)
    # Before a gap that lies behind the moment, all is there: what its last segment holds was written before that.
    if not lacking or (aim is None and _ends_after(source, lacking[0], cast(datetime, point.time))):
        return
    first = wal_segments.number(lacking[0])
    past, end_lsn = archive.timelines(source), wal_segments.start_lsn(first)
    if any(wal_segments.number(name) > first for name in archive.archived(source)):
        raise Broken(
            f"could not reach {point}: WAL is missing before it",
            detail=f"The archive lacks {wal_segments.listed(lacking)}: replay from base backup {backup.id} would end "
            f"at {end_lsn}, and {aim or point.time} was asked for.",
            hint=f"Put the missing WAL into the archive, or restore to a point before it; the last is "
            f"{past.told(end_lsn)}.",
        )
    raise Broken(
        f"could not reach {point}: the WAL ends before it",
        detail=f"The newest archived WAL is {past.name(first - 1)}, which ends at {end_lsn}; "
        f"{aim or point.time} was asked for.",
        hint=f"Restore to an earlier point: what was written lies before {past.told(end_lsn)}.",
    )


def _ends_after(source: Server, missing: str, time: datetime) -> bool:
    """Tell whether the segment before a missing one was archived after a moment."""
    before = archive.timelines(source).name(wal_segments.number(missing) - 1)
    return before in archive.archived(source) and archive.archived_at(source, before) > time


def _backup_before(source: Server, point: Point) -> BaseBackup:
    backups = list_base_backups(source)
    aim = point.lsn or point.at_lsn
    for backup in reversed(backups):
        if lsn_number(backup.stop_lsn) <= lsn_number(aim) if aim else backup.ended_at <= cast(datetime, point.time):
            return backup
    oldest = backups[0] if backups else None
    raise WrongInput(
        f'could not find a base backup of server "{source.name}" that ended before {point}',
        detail=f"The oldest ended at {oldest.ended_at}, LSN {oldest.stop_lsn}." if oldest else "It has none.",
        hint=f"What lies before it cannot be restored; the nearest point is "
        f"{archive.timelines(source).told(oldest.stop_lsn)}."
        if oldest
        else "Take one, for what comes: pgrunbook backup create.",
    )


def _refuse_tablespaces(source: Server, point: Point, backup: BaseBackup) -> None:
    """See that no tablespace of the source was made between the backup and the point.

    The WAL names its folder: to replay it would be to write there, among the files of the source.
    """
    links = source.data_dir / "pg_tblspc"
    if not links.is_dir() or not any(path.is_symlink() for path in links.iterdir()):
        return
    first, aim = lsn_number(backup.start_lsn), point.lsn or point.at_lsn
    made = [(lsn, folder) for lsn, folder in tablespaces_made(source) if lsn_number(lsn) >= first]
    between = [(lsn, folder) for lsn, folder in made if aim is None or lsn_number(lsn) < lsn_number(aim)]
    if between:
        before = archive.timelines(source).told(between[0][0])
        raise recovery_failure.tablespace_made(point, [folder for _, folder in between], before)


def _copy(source: Server, parts: Sequence[BaseBackup], new: Server) -> None:
    """Make the new server's data directory from a backup, or from a full one and the incremental ones on it.

    Each is compared with its manifest meanwhile.
    """
    log.info('unpacking base backup %s for server "%s"', parts[-1].id, new.name)
    places = [f"part-{number}" for number, _ in enumerate(parts)] if len(parts) > 1 else ["data"]
    verification.check_backups(source, parts, contents=False)
    try:
        for part, place in zip(parts, places, strict=True):
            backup_files.unpack(new, part.path, part.files(), place)
    except (DamagedFile, DamagedManifest) as exc:
        verification.check_backups(source, parts)  # names all of the damage
        raise RunbookError(f"could not read base backup {parts[-1].id}", detail=f"Once only: {exc}.") from exc
    if len(parts) > 1:
        link = ("--link",) if new.installation.major >= LINK_SINCE else ()
        new.run("pg_combinebackup", "--no-sync", "--no-manifest", *link, *places, "-o", "data")
        new.do("rm", "-rf", *places)
    new.do("tee", "data/recovery.signal")
    isolation.isolate(new)
    isolation.refuse_links(new, new.data_dir)


def _needed_bytes(parts: Sequence[BaseBackup], new: Server) -> int:
    """Return how much room a restore needs; where backups are combined without links, the full one lies there twice."""
    twice = len(parts) > 1 and new.installation.major < LINK_SINCE
    return sum(part.bytes for part in parts) + (parts[0].bytes if twice else 0)


def _recovery_settings(source: Server, point: Point, *, running: bool) -> dict[str, str]:
    """Return the settings for replaying to the point; paths are relative to the new data directory.

    An LSN is where a restore point's or a transaction's record ended: the record that begins there is
    left out (not inclusive), else it would be one too many. What was committed at exactly the time is included.
    """
    wal = f"../../{source.name}/data/pg_wal/%f"
    # Where it does not run, nobody archives the end of its WAL any more, and nobody writes to it.
    otherwise = "false" if running else f'test -f {wal} && cp {wal} "%p"'
    aim = (
        {"recovery_target_name": point.name}
        if point.name is not None
        else {"recovery_target_lsn": point.lsn}
        if point.lsn is not None
        else {"recovery_target_time": cast(datetime, point.time).isoformat(sep=" ", timespec="microseconds")}
    )
    return {
        "hot_standby": "on",
        # All files reach the disk before replay begins: at once, not one by one.
        **({"recovery_init_sync_method": "syncfs"} if sys.platform.startswith("linux") else {}),
        "restore_command": wal_delivery.restore_command(source, otherwise=otherwise),
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
        raise recovery_failure.explained(source, point, backup, new, exc) from exc
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


def _remove(new: Server) -> None:
    try:
        new.destroy()
    except RunbookError as exc:
        log.warning('could not remove the half restored server "%s": %s', new.name, exc.message)


def _value(conn: Connection, query: LiteralString) -> object:
    row = conn.execute(query).fetchone()
    return row[0] if row else None
