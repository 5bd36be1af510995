"""Archived WAL, compressed after it was archived; at each backup, at ``backup expire`` and while WAL is received.

1. A segment is compressed into a file of another name, which is on the disk before it gets its own.
2. Only then the plain file is removed: whenever this is killed, the segment is there whole, in one form or the other.

The newest segment stays plain: pg_receivewal goes on behind it. One that a server archives again after a crash is plain
again, beside its compressed form; where both hold the same, the plain one goes.
"""

from __future__ import annotations

import logging
import os
import sys
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pgrunbook.branches import backup_files, datadir, frames, lock_file, wal_segments
from pgrunbook.branches.frames import SUFFIX, WORKERS, DamagedFrame
from pgrunbook.branches.server import Server
from pgrunbook.branches.streams import piped
from pgrunbook.errors import RunbookError

log = logging.getLogger(__name__)

HALF = f"{SUFFIX}.new"
AT_ONCE = 2 * WORKERS
NAMED = f"""
for one; do touch -r "$one" "$one{HALF}" && mv -f "$one{HALF}" "$one{SUFFIX}" || exit; done"""


def compress(server: Server, *, newest: bool = False) -> int:
    """Compress what a server has archived, but for the newest segment, or with it; return how many were.

    Where another process is at it, nothing happens. Where it fails, as on a full disk, a warning says so: the segments
    are there as they were.
    """
    handle = lock_file.take(server.archive_lock, 0)
    if handle is None:
        return 0
    try:
        halves = [path.name for path in server.archive_dir.glob(f"*{HALF}")]
        _remove(server, halves)
        plain = sorted(path.name for path in server.archive_dir.glob("*") if wal_segments.NAME.fullmatch(path.name))
        due = [
            name for name in plain[: None if newest else -1] if not wal_segments.wrong_size(server.archive_dir / name)
        ]
        for first in range(0, len(due), AT_ONCE):
            _compress(server, due[first : first + AT_ONCE])
    except (RunbookError, OSError, DamagedFrame) as exc:
        told = (exc.detail or exc.message) if isinstance(exc, RunbookError) else exc
        log.warning('could not compress the archive of server "%s": %s', server.name, told)
        return 0
    finally:
        os.close(handle)
    return len(due)


def is_there_twice(folder: Path, name: str) -> bool:
    """Tell whether a segment is there in both forms, and they differ."""
    plain = folder / name
    packed = wal_segments.compressed(plain)
    return plain.is_file() and packed.is_file() and not _is_same(plain, packed)


def _compress(server: Server, names: Sequence[str]) -> None:
    folder = server.archive_dir
    again = {name for name in names if wal_segments.compressed(folder / name).is_file()}
    with ThreadPoolExecutor(WORKERS) as pool:
        kinds = dict(zip(again, pool.map(lambda name: _kind(folder / name), again), strict=True))
        todo = [name for name in names if kinds.get(name) in (None, "damaged")]
        packed = pool.map(lambda name: _packed(folder / name), todo)
        with piped(server.installation.account, ["tar", "-xpf", "-", "-C", "archive"], cwd=server.dir) as tar:
            assert tar.stdin  # noqa: S101 - it is a pipe
            for name, octets in zip(todo, packed, strict=True):
                info = tarfile.TarInfo(f"{name}{HALF}")
                info.mode, info.size = 0o600, len(octets)
                backup_files.write_member(tar.stdin, info, [octets])
            tar.stdin.write(backup_files.THE_END)
    if todo:
        _sync(server, [f"{name}{HALF}" for name in todo])
        server.do("sh", "-c", NAMED, "sh", *todo, cwd=folder)
        _sync(server, ["."])
    _remove(server, [name for name in names if kinds.get(name) != "another"])


def _kind(plain: Path) -> str:
    """Return what a segment that is there in both forms is: the "same", "another", or "damaged" as compressed."""
    try:
        return "same" if _is_same(plain, wal_segments.compressed(plain)) else "another"
    except DamagedFrame:
        return "damaged"


def _is_same(plain: Path, packed: Path) -> bool:
    return b"".join(frames.pieces(plain)) == b"".join(frames.pieces(packed))


def _packed(path: Path) -> bytes:
    return b"".join(map(frames.compressed, frames.pieces(path)))


def _sync(server: Server, names: Sequence[str]) -> None:
    if datadir.fsync() == "on":
        server.do("sync", *(names if sys.platform.startswith("linux") else ()), cwd=server.archive_dir)


def _remove(server: Server, names: Sequence[str]) -> None:
    if names:
        server.do("rm", "-f", *names, cwd=server.archive_dir)
