"""Base backups of an embedded server, and what can be restored from them; for prepare and restore."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import psycopg

from pgrunbook.branches import archive, backup_files, datadir, free_space, lock_file, manifest, wal_segments
from pgrunbook.branches.backup_files import StoredFile
from pgrunbook.branches.recovery_target import lsn_number
from pgrunbook.branches.server import Server
from pgrunbook.config.targets import Target
from pgrunbook.database.connection import Connection, connect
from pgrunbook.database.queries import load
from pgrunbook.display import progress
from pgrunbook.display.progress import Stage
from pgrunbook.display.units import human
from pgrunbook.errors import Blocked, Broken, Refused, RunbookError, StatementFailed

log = logging.getLogger(__name__)

ZSTD = "zstd"
LOCK_TIMEOUT_S = 60


@dataclass(frozen=True)
class BaseBackup:
    """A copy of a whole server, from which WAL leads to any later point; ``stop_lsn`` is the earliest.

    An incremental one holds what changed since another, which ``onto`` names. ``bytes`` is what it holds,
    ``stored_bytes`` its size on the disk; it is compressed with ``compression``, or not where that is "".
    """

    id: str
    path: Path
    started_at: datetime
    ended_at: datetime
    start_lsn: str
    stop_lsn: str
    bytes: int
    server_version: str
    onto: str | None = None
    compression: str = ""
    stored_bytes: int = 0

    def files(self) -> list[StoredFile]:
        """Return its files. Raises DamagedManifest."""
        return backup_files.stored(self.path, is_compressed=self.compression == ZSTD)


@dataclass(frozen=True)
class Window:
    """A range that can be restored: from the end of a base backup to the end of the WAL that is archived without a gap.

    ``latest_at`` is when the newest segment was archived: later commits cannot be restored. ``missing`` are the
    segments that end it, although later ones are archived.
    """

    earliest_at: datetime
    earliest_lsn: str
    latest_at: datetime
    latest_lsn: str
    missing: tuple[str, ...] = ()


def take_base_backup(server: Server, onto: BaseBackup | None = None, *, of: Target | None = None) -> BaseBackup:
    """Copy the running server with pg_basebackup into its backups, compressed; or what changed since one.

    ``of`` is another one, of which ``server`` only has the backups and the WAL (``branches.received``). What comes is
    compared with its manifest. A slot keeps the WAL until that is copied, too.

    Raises Unreachable when it does not run, Refused when it has tablespaces or the disk has no room, Blocked while
    others are removed, RunbookError when it fails; a backup that failed is removed.
    Source: https://www.postgresql.org/docs/current/app-pgbasebackup.html
    """
    with session(server, of) as conn:
        size = _copy_bytes(server, conn)
        started_at = datetime.now(UTC)
        backup_id = f"{started_at:%Y%m%dT%H%M%S}{started_at.microsecond // 1000:03d}Z"
        half, ready = f"backups/{backup_id}.new", f"backups/{backup_id}"
        major, version = conn.info.server_version // 10_000, _version(conn)
        _remove_leftovers(server)
        with lock(server, shared=True):
            free_space.check("a base backup", size)
            log.info('taking base backup %s of server "%s"', backup_id, server.name)
            try:
                conn.execute(load("server_copy", major)["keep_wal"], {"name": f"b{backup_id.lower()}"})
                command, told = _command(server, backup_id, onto), partial(_tell, progress.current(), size)
                backup_files.pack(server, command, half, environment=own_environment(conn), told=told)
                if datadir.fsync() == "on":
                    server.do("sync", *(("-f", half) if sys.platform.startswith("linux") else ()))
                server.do("mv", half, ready)
            except BaseException as exc:
                lack = free_space.lack(str(exc)) if isinstance(exc, RunbookError) else ""
                shutil.rmtree(server.dir / half, ignore_errors=True)
                if lack:
                    raise free_space.full("take a base backup", lack, size) from exc
                raise
            taken = facts(server.dir / ready, started_at, datetime.now(UTC), version)
            onto_id, stored_bytes = onto.id if onto else None, _stored_bytes(taken.path)
            taken = replace(taken, onto=onto_id, compression=ZSTD, stored_bytes=stored_bytes)
            times = {key: getattr(taken, key).isoformat() for key in ("started_at", "ended_at")}
            server.write(f"{ready}.json", json.dumps({**asdict(taken), "path": None, **times}, indent=1))
            if datadir.fsync() == "on":  # without its facts it is none
                server.do("sync", *((f"{ready}.json", "backups") if sys.platform.startswith("linux") else ()))
    return taken


@contextmanager
def session(server: Server, of: Target | None) -> Iterator[Connection]:
    """Give a session of a server, or of the one whose backups it has.

    Raises Unreachable, Refused where the role lacks a right, StatementFailed when the server refuses a statement.
    """
    with connect(of, purpose="base backup") if of else server.connect(purpose="base backup") as conn:
        try:
            yield conn
        except psycopg.errors.InsufficientPrivilege as exc:
            raise Refused(
                f'could not back up server "{server.name}": role "{conn.info.user}" lacks a right',
                detail=str(exc.diag.message_primary),
                hint=f'Let a superuser give both: ALTER ROLE "{conn.info.user}" REPLICATION; '
                f'GRANT pg_monitor TO "{conn.info.user}".',
            ) from exc
        except psycopg.Error as exc:
            raise StatementFailed(
                f'could not back up server "{server.name}"', detail=str(exc.diag.message_primary)
            ) from exc


def own_environment(conn: Connection) -> dict[str, str]:
    """Return the environment of a program that connects as a session does, with what that has read from files."""
    told = {one.envvar.decode(): one.val.decode() for one in conn.pgconn.info if one.envvar and one.val}
    left_out = {"PGDATABASE", "PGSERVICE", "PGAPPNAME", "PGOPTIONS"}
    password = {"PGPASSWORD": conn.info.password} if conn.info.password else {}
    return {name: value for name, value in told.items() if name not in left_out} | password


def _command(server: Server, backup_id: str, onto: BaseBackup | None) -> list[str]:
    """Return the program that writes a backup to its output, as tar."""
    how = ("-F", "tar", "-D", "-", "-X", "fetch", "-c", "fast", "--manifest-checksums=CRC32C", "--no-password")
    changes = () if onto is None else (f"--incremental=backups/{onto.id}/{manifest.FILE}",)
    return [str(server.program("pg_basebackup")), *how, "-l", f"pgrunbook {backup_id}", *changes]


def _remove_leftovers(server: Server) -> None:
    """Remove the half made backups of processes that were killed, unless somebody may be at work on one."""
    handle = lock_file.take(server.backups_lock, 0)
    if handle is not None:
        for left in server.backups_dir.glob("*.new"):
            shutil.rmtree(left, ignore_errors=True)
        os.close(handle)


@contextmanager
def lock(server: Server, *, shared: bool = False) -> Iterator[None]:
    """Keep others from removing a server's backups and archived WAL meanwhile, ``shared``; or from using them.

    Raises Blocked when another process does not release it within LOCK_TIMEOUT_S.
    """
    handle = lock_file.take(server.backups_lock, LOCK_TIMEOUT_S, shared=shared)
    if handle is None:
        raise Blocked(
            f'could not lock the base backups of server "{server.name}" in {LOCK_TIMEOUT_S} s',
            detail="Another process takes, restores or removes one.",
            hint="Wait for it to finish, then do this again.",
        )
    try:
        yield
    finally:
        os.close(handle)


def list_base_backups(server: Server) -> list[BaseBackup]:
    """Return the server's finished base backups, oldest first. Raises Broken where the facts of one cannot be read."""
    found = []
    for path in sorted(server.backups_dir.glob("*.json")):
        if path.with_suffix("").is_dir():
            found.append(_read(path))
    return found


def full(backups: Sequence[BaseBackup]) -> list[BaseBackup]:
    """Return those of the backups that stand alone."""
    return [one for one in backups if one.onto is None]


def chain(backups: Sequence[BaseBackup], backup: BaseBackup) -> list[BaseBackup]:
    """Return a backup with those that it stands on, the full one first. Raises Broken where one is gone."""
    known, found = {one.id: one for one in backups}, [backup]
    while (onto := found[0].onto) is not None:
        if onto not in known:
            raise Broken(
                f"base backup {found[0].id} cannot be used: {onto}, which it stands on, is gone",
                detail=f"{backup.path.parent} has {', '.join(known)}.",
                hint="Put it back, or move the incremental one away, so that an older one is used: "
                f"mv {found[0].path}.json {found[0].path}.json.damaged.",
            )
        found.insert(0, known[onto])
    return found


def windows(server: Server) -> list[Window]:
    """Return the ranges that can be restored, oldest first; [] where there is no base backup, and so nothing at all.

    There is more than one where archived WAL is missing between them.
    """
    chain, archived = archive.timelines(server), archive.archived(server)
    numbers = [wal_segments.number(name) for name in archived]
    found: dict[int, Window] = {}
    for backup in list_base_backups(server):
        first = wal_segments.number_at(backup.start_lsn)
        there = {*archived, *wal_segments.names(backup.path / "pg_wal")}
        reach = [one.last for one in wal_segments.stretches(there, chain) if one.first <= first <= one.last]
        last = reach[0] if reach else wal_segments.number_at(backup.stop_lsn)
        if last in found:
            continue
        at, lsn = backup.ended_at, backup.stop_lsn
        if chain.name(last) in archived:
            at, lsn = archive.archived_at(server, chain.name(last)), wal_segments.start_lsn(last + 1)
        later = min((number for number in numbers if number > last), default=last + 1)
        missing = wal_segments.missing(archived, chain, last + 1, later - 1)
        found[last] = Window(backup.ended_at, backup.stop_lsn, max(at, backup.ended_at), lsn, tuple(missing))
    return list(found.values())


def missing_wal(server: Server, backup: BaseBackup, aim: str | None) -> list[str]:
    """Return the names of the segments between a base backup and an LSN that are nowhere; without one to the last."""
    chain, there = archive.timelines(server), set(archive.archived(server))
    there.update(wal_segments.names(backup.path / "pg_wal"))
    if server.pid() is None:
        there.update(wal_segments.names(server.data_dir / "pg_wal"))
    first = wal_segments.number_at(backup.start_lsn)
    last = wal_segments.number_at(aim, end=True) if aim else max(map(wal_segments.number, there), default=first)
    return wal_segments.missing(there, chain, first, last)


def facts(path: Path, started_at: datetime, ended_at: datetime, server_version: str) -> BaseBackup:
    """Return what a finished base backup says of itself."""
    label = (path / "backup_label").read_text(encoding="utf-8")
    start = re.search(r"START WAL LOCATION: (\S+)", label)
    there = manifest.read(path)
    return BaseBackup(
        id=path.name,
        path=path,
        started_at=started_at,
        ended_at=ended_at,
        start_lsn=start[1] if start else there.wal[0].start_lsn,
        stop_lsn=there.wal[-1].end_lsn,
        bytes=sum(file.bytes for file in there.files.values()),
        server_version=server_version,
    )


def _read(path: Path) -> BaseBackup:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        times = {key: datetime.fromisoformat(told[key]) for key in ("started_at", "ended_at")}
        found = BaseBackup(**{"stored_bytes": told["bytes"], **told, **times, "path": path.with_suffix("")})
        lsn_number(found.start_lsn), lsn_number(found.stop_lsn)
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise Broken(
            f"could not read the facts of base backup {path.stem}",
            detail=f"{path}: {exc}",
            hint=f"Move it away, so that the others are used: mv {path} {path}.damaged.",
        ) from exc
    return found


def _version(conn: Connection) -> str:
    return f"{conn.info.server_version // 10_000}.{conn.info.server_version % 10_000}"


def _tell(stage: Stage, of: int, read: int) -> None:
    stage.how_far(f"{human(read)} of {human(of)}")


def _stored_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _copy_bytes(server: Server, conn: Connection) -> int:
    """Return how large a copy of the server is. Raises Refused when it has tablespaces."""
    names = "SELECT s.spcname FROM pg_catalog.pg_tablespace AS s WHERE s.spcname NOT IN ('pg_default', 'pg_global')"
    size = "SELECT pg_catalog.sum(pg_catalog.pg_tablespace_size(s.oid))::bigint FROM pg_catalog.pg_tablespace AS s"
    found = [str(row[0]) for row in conn.execute(names)]
    (size_bytes,) = conn.execute(size).fetchone() or (0,)
    if found:
        raise Refused(
            f'cannot take a base backup of server "{server.name}": it has tablespaces',
            detail=f"{', '.join(found)} lie outside of its data directory; a copy would share them.",
            hint="Move the tables back to pg_default and drop the tablespaces.",
        )
    return int(str(size_bytes))
