"""The archived WAL: its restore points, its end, and waiting until it is archived; for migrate and restore."""

from __future__ import annotations

import re
import time
from datetime import datetime
from pathlib import Path

import psycopg

from pgrunbook.branches import restore_point_index, restore_point_records, wal_dump, wal_segments
from pgrunbook.branches.recovery_target import checked_name, lsn_number, lsn_text
from pgrunbook.branches.restore_point_records import WalRestorePoint
from pgrunbook.branches.server import Server
from pgrunbook.branches.wal_segments import Timelines
from pgrunbook.database.connection import Connection
from pgrunbook.errors import Blocked, Refused, RunbookError, StatementFailed

TABLESPACE = re.compile(r'lsn: ([0-9A-F]+/[0-9A-F]+), .*desc: CREATE [0-9]+ "(/.*)"$', re.M)
POLL_S = 0.05

ARCHIVER = """
SELECT pg_catalog.left(a.last_archived_wal, 24) >= %(segment)s,
       a.last_archived_wal,
       a.last_failed_wal,
       a.last_failed_time > COALESCE(a.last_archived_time, '-infinity') AND a.last_failed_time > %(since)s
FROM pg_catalog.pg_stat_archiver AS a
"""


def create_restore_point(conn: Connection, name: str) -> str:
    """Write a named restore point into the WAL; return its LSN, which is the end of its record.

    Raises WrongInput for a bad name, Refused where the role lacks the right, StatementFailed otherwise.
    Source: https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-ADMIN-BACKUP
    """
    query = "SELECT pg_catalog.pg_create_restore_point(%s)::text"
    return str(_one(conn, "create a restore point", query, checked_name(name))[0])


def wait_archived(conn: Connection, lsn: str, timeout_s: float = 60) -> float:
    """Wait until all WAL before the LSN is archived, its segment ended by pg_switch_wal; return the seconds.

    The connection must be in autocommit: within a transaction the statistics would not change.

    Raises Refused where nothing is archived or the role may not call pg_switch_wal, Blocked when archiving fails
    or takes longer than ``timeout_s``.
    """
    _refuse_without_archiving(conn)
    began = time.monotonic()
    # The byte before the LSN: at a boundary, versions differ in which segment pg_walfile_name returns.
    query = "SELECT pg_catalog.pg_walfile_name(%s::pg_lsn - 1), pg_catalog.clock_timestamp()"
    segment, since = _one(conn, "name the WAL segment", query, lsn)
    if not _one(conn, "watch the archiver", ARCHIVER, segment=segment, since=since)[0]:
        _one(conn, "end the WAL segment", "SELECT pg_catalog.pg_switch_wal()")
    while True:
        done, newest, failed, fails = _one(conn, "watch the archiver", ARCHIVER, segment=segment, since=since)
        waited_s = time.monotonic() - began
        if done:
            return waited_s
        if fails or waited_s > timeout_s:
            raise Blocked(
                f"could not archive the WAL up to {lsn} in {waited_s:.0f} s",
                detail=f"The server failed to archive {failed}; its log has the reason."
                if fails
                else f"Segment {segment} is needed; the newest archived one is {newest or 'none'}.",
                hint="Check pg_stat_archiver, the archive's free space and archive_command, then do this again.",
            )
        time.sleep(POLL_S)


def flush(server: Server) -> None:
    """Let the WAL of a running server be on its disk up to now: a restore point does not wait for that.

    It is so behind a transaction that has written: a message that nobody reads. No segment is ended.
    """
    if server.pid() is not None:
        with server.connect(purpose="restore") as conn:
            conn.execute("SET synchronous_commit = local")  # a standby may be away
            conn.execute("SELECT pg_catalog.pg_logical_emit_message(true, 'pgrunbook', '')")


def restore_points(server: Server, numbers: range | None = None) -> list[WalRestorePoint]:
    """Return the restore points in the server's WAL, archived or not, oldest first; or in some segments of it.

    Reads 300 MB or more per second, of the archive what it has not read before.
    """
    chain, found = timelines(server), dict[str, WalRestorePoint]()
    done = set(archived(server))
    folder = server.data_dir / "pg_wal"
    there = [name for name in wal_segments.names(folder) if name not in done]
    for stretch in wal_segments.stretches(there, chain):
        found |= _read(folder, chain, range(stretch.first, stretch.last + 1), numbers)
    # The archive comes last: it has what goes from pg_wal meanwhile.
    if numbers is None:
        found |= {point.lsn: point for point in restore_point_index.archived(server, chain)}
    else:
        found |= _read(server.archive_dir, chain, numbers, numbers)
    return sorted(found.values(), key=lambda point: lsn_number(point.lsn))


def _read(folder: Path, chain: Timelines, all_of_it: range, wanted: range | None) -> dict[str, WalRestorePoint]:
    paths = (folder / chain.name(number) for number in all_of_it if wanted is None or number in wanted)
    return {point.lsn: point for point in restore_point_records.read(paths)}


def tablespaces_made(server: Server) -> list[tuple[str, str]]:
    """Return the LSN and the folder of each tablespace that was made, as the server's WAL tells; oldest first.

    Reads the WAL that :func:`restore_points` reads.
    """
    chain, found = timelines(server), dict[str, str]()
    for folder in _folders(server):
        for one in wal_segments.stretches(wal_segments.names(folder), chain):
            # It ends with an error where the WAL ends, so its exit code says nothing.
            for _, told in wal_dump.dumped(server, folder, chain, one.first, one.last, "--rmgr=Tablespace"):
                found.update(TABLESPACE.findall(told.stdout))
    return [(lsn_text(lsn_number(lsn)), folder) for lsn, folder in found.items()]


def timelines(server: Server) -> Timelines:
    """Return the timelines that a restore of the server's past would follow."""
    return wal_segments.timelines(*_folders(server))


def archived(server: Server) -> list[str]:
    """Return the names of the archived segments, sorted."""
    return wal_segments.names(server.archive_dir)


def archived_at(server: Server, name: str) -> datetime:
    """Return when a segment was archived."""
    return wal_segments.archived_at(server.archive_dir / name)


def _folders(server: Server) -> tuple[Path, Path]:
    return server.archive_dir, server.data_dir / "pg_wal"


def _refuse_without_archiving(conn: Connection) -> None:
    query = """
        SELECT pg_catalog.current_setting('archive_mode'),
               pg_catalog.current_setting('archive_command'),
               COALESCE(pg_catalog.current_setting('archive_library', true), '')"""
    mode, command, library = _one(conn, "read how WAL is archived", query)
    if mode == "off" or (command in ("", "(disabled)") and library == ""):
        raise Refused(
            "cannot wait for archived WAL: this server archives none",
            detail=f"archive_mode is {mode}, archive_command and archive_library are empty."
            if mode != "off"
            else "archive_mode is off.",
            hint="Set up WAL archiving, or go on without a restore to a point in time.",
        )


def _one(conn: Connection, what: str, query: str, *values: object, **named: object) -> tuple[object, ...]:
    try:
        row = conn.execute(query, named or values).fetchone()
    except psycopg.errors.InsufficientPrivilege as exc:
        raise Refused(
            f"could not {what}: the role lacks the right",
            detail=_primary(exc),
            hint="Let a superuser GRANT EXECUTE on that function to the role, or use another role.",
        ) from exc
    except psycopg.Error as exc:
        raise StatementFailed(f"could not {what}", detail=_primary(exc)) from exc
    if row is None:
        raise RunbookError(f"could not {what}", detail="The server returned no row.")
    return row


def _primary(exc: psycopg.Error) -> str:
    return exc.diag.message_primary or " ".join(str(exc).split())
