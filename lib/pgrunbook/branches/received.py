"""The backups and the WAL of a server that is not ours, which come over a replication connection.

They lie in a folder as a server of ours has it, without data: so they are listed, verified, expired and restored from
in the same way. ``pgrunbook backup receive`` fills its archive.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import re
import time

import psycopg

from pgrunbook.branches import archive, archive_compression, backup, streams, wal_segments
from pgrunbook.branches.binaries import state_folder
from pgrunbook.branches.recovery_target import lsn_number
from pgrunbook.branches.server import Server
from pgrunbook.config.targets import Target
from pgrunbook.database.connection import Connection, connect
from pgrunbook.database.queries import load
from pgrunbook.errors import Blocked, Refused

log = logging.getLogger(__name__)

PLAIN = re.compile(r"[a-z0-9][a-z0-9_-]{0,30}")
POLL_S, COMPRESS_EVERY = 0.2, 25
RECEIVE_TIMEOUT_S = 60


def home(target: Target) -> Server:
    """Return what has the backups and the WAL of a target: its server where it is ours, else the folder of them."""
    if target.server is not None:
        return Server(target.server)
    kept = kept_of(target)
    if not kept.backups_dir.is_dir():
        state_folder("servers")
        kept.make_folders(kept.dir)
    return kept


def kept_of(target: Target) -> Server:
    """Return what :func:`home` returns, but make nothing."""
    return Server(target.server or f"received-{_own_name(target)}")


def _own_name(target: Target) -> str:
    """Return a name that a server can have, and that no other target has, whatever the target's own is."""
    if PLAIN.fullmatch(target.name):
        return target.name
    words = "-".join(re.findall(r"[a-z0-9]+", target.name.lower()))
    return f"{words[:24]}-{hashlib.sha256(target.name.encode()).hexdigest()[:6]}"


def wait_received(target: Target, lsn: str | None) -> None:
    """Wait until the WAL of a target that is not ours has come up to an LSN, or up to now.

    Its segment is ended, behind an empty transaction: replay stops only at a record that lies behind its point.

    Raises Refused where the role may not end a segment, Blocked where it does not come within RECEIVE_TIMEOUT_S.
    """
    kept = kept_of(target)
    with connect(target, purpose="restore") as conn:
        (now,) = conn.execute("SELECT pg_catalog.pg_current_wal_insert_lsn()::text").fetchone() or ("0/0",)
        aim = min(lsn or str(now), str(now), key=lsn_number)
        needed = archive.timelines(kept).name(wal_segments.number_at(aim))
        if needed in archive.archived(kept):
            return
        try:
            conn.execute("SELECT pg_catalog.pg_current_xact_id()")
            conn.execute("SELECT pg_catalog.pg_switch_wal()")
        except psycopg.errors.InsufficientPrivilege as exc:
            raise Refused(
                f'could not end the WAL segment of target "{target.name}": the role lacks the right',
                detail=str(exc.diag.message_primary),
                hint="Let a superuser GRANT EXECUTE ON FUNCTION pg_catalog.pg_switch_wal() to the role, or restore to "
                "a point in WAL that has come.",
            ) from exc
    ends_at = time.monotonic() + RECEIVE_TIMEOUT_S
    while needed not in archive.archived(kept):
        if time.monotonic() > ends_at:
            raise Blocked(
                f'the WAL of target "{target.name}" up to {aim} has not come in {RECEIVE_TIMEOUT_S} s',
                detail=f"Segment {needed} is needed; the newest that came is "
                f"{max(archive.archived(kept), default='none')}.",
                hint=f"Let it be received: pgrunbook backup receive --target {target.name}; then do this again.",
            )
        time.sleep(POLL_S)


def slot(target: Target) -> str:
    """Return the name of the replication slot that keeps the target's WAL until it is received."""
    return f"pgrunbook_{_own_name(target).replace('-', '_')}"


def receive(target: Target) -> None:
    """Receive the target's WAL from now on; this process becomes pg_receivewal, and never returns.

    A child of it compresses what has come, and ends with it.

    The slot is made where it is missing. What it may keep while nobody receives is bounded by the server's
    max_slot_wal_keep_size; the slot of a reader that stays away longer is lost.

    Raises Refused where that has no bound, where the slot was lost, another process reads it, or segments do not
    have the usual size.
    Source: https://www.postgresql.org/docs/current/app-pgreceivewal.html
    """
    kept, name = home(target), slot(target)
    with backup.session(kept, target) as conn:
        _refuse_unfit(target, conn)
        if not _row(conn, "slot", name):
            log.info('making replication slot "%s" of target "%s"', name, target.name)
            conn.execute("SELECT pg_catalog.pg_create_physical_replication_slot(%s, true)", (name,))
        _pass_over_gap(kept, conn)
        environment = backup.own_environment(conn)
    _compress_meanwhile(kept)
    words = [str(kept.program("pg_receivewal")), "-D", "archive", "--slot", name, "--no-loop", "--no-password", "-v"]
    streams.become(kept.installation.account, words, cwd=kept.dir, environment=environment)


def stop_for_good(target: Target) -> bool:
    """Drop the target's slot, so that its server keeps no WAL for us any more; return False where there is none.

    Raises Refused while it is read.
    """
    with backup.session(home(target), target) as conn:
        row = _row(conn, "slot", slot(target))
        if not row:
            return False
        if row[0]:
            raise Refused(
                f'refused to drop replication slot "{slot(target)}": it is being read',
                detail=f"Process {row[0]} of the server sends WAL to a reader.",
                hint="Stop the service that runs pgrunbook backup receive, then do this again.",
            )
        conn.execute("SELECT pg_catalog.pg_drop_replication_slot(%s)", (slot(target),))
    return True


def _pass_over_gap(kept: Server, conn: Connection) -> None:
    """Let the receiver begin where the slot does, where the server has not what follows the newest segment any more.

    pg_receivewal goes on behind the newest plain or partial file of its folder, and ends where the server lacks that.
    """
    partial = [path.name for path in kept.archive_dir.glob("*.partial")]
    plain = [path.name for path in kept.archive_dir.glob("*") if wal_segments.NAME.fullmatch(path.name)]
    if not (partial or plain):
        return
    newest = max([*partial, *plain])
    follows = wal_segments.number(newest) + (newest in plain)
    if conn.execute(load("received")["has_segment"].encode(), {"tail": wal_segments.name_tail(follows)}).fetchone():
        return
    log.warning("the server has not the WAL behind %s any more: there is a gap, and a base backup is needed", newest)
    archive_compression.compress(kept, newest=True)
    for name in partial:
        kept.do("mv", "-f", name, f"{name}.left", cwd=kept.archive_dir)


def _compress_meanwhile(kept: Server) -> None:
    """Let a child of this process compress what is received, for as long as this process is there."""
    receiver = os.getpid()
    if os.fork():
        return
    try:
        for number in itertools.count():
            if os.getppid() != receiver:
                break
            if number % COMPRESS_EVERY == 0:
                archive_compression.compress(kept)
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        log.info("asked to stop")  # a terminal sends it to both
    except Exception:
        log.exception("the WAL is received, and not compressed any more")
    finally:
        os._exit(0)  # whatever it met, it does not go on as a second receiver


def _refuse_unfit(target: Target, conn: Connection) -> None:
    bound, segment_bytes = _row(conn, "settings", slot(target))
    if bound == "-1":
        raise Refused(
            f'refused to make a replication slot of target "{target.name}": it would keep WAL without a bound',
            detail="max_slot_wal_keep_size is -1: while nobody receives, the slot could fill the server's disk.",
            hint="Let a superuser bound it there: ALTER SYSTEM SET max_slot_wal_keep_size = '10GB'; "
            "SELECT pg_reload_conf().",
        )
    if segment_bytes != wal_segments.SEGMENT_BYTES:
        raise Refused(
            f'cannot receive the WAL of target "{target.name}": its segments have another size',
            detail=f"They have {segment_bytes:,} bytes instead of {wal_segments.SEGMENT_BYTES:,}.",
            hint="Use another tool for its backups.",
        )
    row = _row(conn, "slot", slot(target))
    if row and row[0]:
        raise Refused(
            f'refused to receive the WAL of target "{target.name}" twice',
            detail=f'Process {row[0]} of the server sends it to the reader of slot "{slot(target)}".',
            hint="Stop that one first, if this one is to receive.",
        )
    if row and row[1] == "lost":
        raise Refused(
            f'cannot go on receiving the WAL of target "{target.name}": its slot was lost',
            detail=f'Nobody has read "{slot(target)}" for longer than max_slot_wal_keep_size ({bound}) of WAL.',
            hint=f"pgrunbook backup receive --target {target.name} --drop; then receive again, and take a base backup: "
            f"pgrunbook backup create --target {target.name}.",
        )


def _row(conn: Connection, query: str, name: str) -> tuple[object, ...]:
    return conn.execute(load("received")[query].encode(), {"name": name}).fetchone() or ()
