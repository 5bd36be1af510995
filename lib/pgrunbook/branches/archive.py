"""The archived WAL: its restore points, its end, and waiting until it is archived; for migrate and restore."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg

from pgrunbook.branches.binaries import run_as
from pgrunbook.branches.recovery_target import checked_name, lsn_number, lsn_text
from pgrunbook.branches.server import Server
from pgrunbook.database.connection import Connection
from pgrunbook.errors import Blocked, Refused, RunbookError, StatementFailed

SEGMENT_BYTES = 16 * 1024 * 1024  # as initdb makes our servers
SEGMENTS_PER_ID = 2**32 // SEGMENT_BYTES
SEGMENT = re.compile(r"[0-9A-F]{24}")
RESTORE_POINT = re.compile(r"lsn: ([0-9A-F]+/[0-9A-F]+), .*desc: RESTORE_POINT (.*)$", re.M)
TABLESPACE = re.compile(r'lsn: ([0-9A-F]+/[0-9A-F]+), .*desc: CREATE [0-9]+ "(/.*)"$', re.M)
POLL_S = 0.05

ARCHIVER = """
SELECT pg_catalog.left(a.last_archived_wal, 24) >= %(segment)s,
       a.last_archived_wal,
       a.last_failed_wal,
       a.last_failed_time > COALESCE(a.last_archived_time, '-infinity') AND a.last_failed_time > %(since)s
FROM pg_catalog.pg_stat_archiver AS a
"""


@dataclass(frozen=True)
class WalRestorePoint:
    """A restore point found in the archived WAL; ``lsn`` is where its record begins."""

    name: str
    lsn: str


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


def restore_points(server: Server) -> list[WalRestorePoint]:
    """Return the restore points in the server's archive, oldest first, as pg_waldump finds them.

    Of a stopped server, the WAL that is not archived yet is read as well. Reads 100 MB or more per second.
    """
    return [WalRestorePoint(name, lsn) for lsn, name in _records(server, "XLOG", RESTORE_POINT)]


def tablespaces_made(server: Server) -> list[tuple[str, str]]:
    """Return the LSN and the folder of each tablespace that was made, as the server's WAL tells; oldest first.

    Reads the WAL that :func:`restore_points` reads.
    """
    return list(_records(server, "Tablespace", TABLESPACE))


def _records(server: Server, rmgr: str, pattern: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    """Yield LSN and text of the records of a resource manager that match, each once, in the order of the WAL."""
    folders = ["archive"] if server.pid() else ["archive", "data/pg_wal"]
    found: dict[str, str] = {}
    for folder in folders:
        for first, last in _unbroken(_segments(server, folder)):
            # It ends with an error where the WAL ends, so its exit code says nothing.
            waldump = [str(server.program("pg_waldump")), f"--rmgr={rmgr}", f"{folder}/{first}", last]
            told = run_as(server.installation.account, waldump, cwd=server.dir).stdout
            found.update(pattern.findall(told))
    for lsn, text in found.items():
        yield lsn_text(lsn_number(lsn)), text


def newest_archived(server: Server) -> tuple[str, str, datetime] | None:
    """Return the newest archived segment, the LSN where it ends and when it was archived, or None."""
    segments = _segments(server, "archive")
    if not segments:
        return None
    newest = segments[-1]
    written_at = datetime.fromtimestamp((server.archive_dir / newest).stat().st_mtime, UTC)
    return newest, lsn_text((_number(newest) + 1) * SEGMENT_BYTES), written_at


def _segments(server: Server, folder: str) -> list[str]:
    return sorted(path.name for path in (server.dir / folder).glob("*") if SEGMENT.fullmatch(path.name))


def _number(segment: str) -> int:
    return int(segment[8:16], 16) * SEGMENTS_PER_ID + int(segment[16:24], 16)


def _unbroken(segments: list[str]) -> Iterator[tuple[str, str]]:
    """Yield first and last of every stretch of segments on one timeline without a gap."""
    first = last = ""
    for segment in segments:
        if last and segment[:8] == last[:8] and _number(segment) == _number(last) + 1:
            last = segment
            continue
        if last:
            yield first, last
        first = last = segment
    if last:
        yield first, last


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
