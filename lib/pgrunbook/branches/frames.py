"""Compressed files of backups and archives: zstd frames of a few MB each, every one with a checksum of its own."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SUFFIX = ".zst"
FRAME_BYTES = 4 * 1024 * 1024
# What a frame may grow to where nothing can be compressed, as ZSTD_compressBound has it, and more.
MOST_BYTES = FRAME_BYTES + FRAME_BYTES // 64
# A higher level takes twice as long for some percent less.
LEVEL = 1
WORKERS = min(4, os.cpu_count() or 1)
NO_FILE = "it is no file"


class DamagedFrame(Exception):
    """What was read is not what was compressed."""


def compressed(octets: bytes) -> bytes:
    """Return the octets, FRAME_BYTES at most, as a frame with its length and checksum."""
    options: dict[int, int] = {
        zstd.CompressionParameter.compression_level: LEVEL,
        zstd.CompressionParameter.checksum_flag: 1,
    }
    return zstd.compress(octets, options=options)


def pieces(path: Path) -> Iterator[bytes]:
    """Yield the contents of a file, FRAME_BYTES at most at once, decompressed where its name ends with SUFFIX.

    Backups and archives are the server's own, so its superusers can put anything there; we may read more than they.
    Nothing is followed, and nobody waits for a FIFO.

    Raises DamagedFrame where it is no file, or a frame is damaged or cut off.
    """
    with _opened(path) as file:
        if path.suffix != SUFFIX:
            while octets := file.read(FRAME_BYTES):
                yield octets
            return
        held = file.read(MOST_BYTES)
        while held:
            try:
                size = zstd.get_frame_size(held)
                yield zstd.decompress(held[:size])
            except (zstd.ZstdError, EOFError) as exc:
                raise DamagedFrame(str(exc)) from exc
            held = held[size:] + file.read(size)


def _opened(path: Path) -> IO[bytes]:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as exc:
        if exc.errno not in (errno.ELOOP, errno.ENXIO):
            raise
        raise DamagedFrame(NO_FILE) from exc
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return os.fdopen(handle, "rb", buffering=0)
    os.close(handle)
    raise DamagedFrame(NO_FILE)
