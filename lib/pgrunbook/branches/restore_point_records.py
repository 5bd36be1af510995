"""Restore points as their records in the WAL tell them: name, LSN and time, which pg_waldump does not show.

A record that begins in one segment and ends in the next is found when both are given, one after the other.
"""

from __future__ import annotations

import logging
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import google_crc32c

from pgrunbook.branches import wal_segments
from pgrunbook.branches.frames import DamagedFrame
from pgrunbook.branches.recovery_target import lsn_text
from pgrunbook.branches.wal_segments import SEGMENT_BYTES

PAGE_BYTES = 8192
LONG_HEADER, SHORT_HEADER = 40, 24
PAGE_ADDRESS_AT = 8
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
RECORD_BYTES, CRC_AT, TIME_AT, NAME_AT = 98, 20, 26, 34
log = logging.getLogger(__name__)

LENGTH = struct.pack("=I", RECORD_BYTES)
# Length, transaction, previous record, kind (XLOG_RESTORE_POINT of resource manager XLOG), checksum, 72 bytes of data.
RECORD = re.compile(re.escape(LENGTH) + rb".{12}\x70\0\0\0.{4}\xff\x48", re.S)


@dataclass(frozen=True)
class WalRestorePoint:
    """A restore point found in the WAL; ``lsn`` is where its record begins."""

    name: str
    lsn: str
    created_at: datetime


def read(segments: Iterable[Path]) -> Iterator[WalRestorePoint]:
    """Yield the restore points in segments, given in the order of the WAL; those that are gone meanwhile have none.

    Source: https://github.com/postgres/postgres/blob/master/src/include/access/xlogrecord.h
    """
    before, expected = _Text(b"", []), -1
    for path in segments:
        number = wal_segments.number(path.name)
        try:
            text = _text(path, number)
        except FileNotFoundError:
            continue  # the server has recycled it, and archived it before
        whole = before + text if number == expected else text
        for at in _places(whole.octets):
            record = whole.octets[at : at + RECORD_BYTES]
            if len(record) == RECORD_BYTES and _is_whole(record):
                yield _point(record, whole.lsn(at))
        before, expected = whole.end(), number + 1


@dataclass(frozen=True)
class _Text:
    """WAL without the headers of its pages; ``pages`` are pairs of offset and LSN where each begins."""

    octets: bytes
    pages: list[tuple[int, int]]

    def __add__(self, other: _Text) -> _Text:
        shift = len(self.octets)
        return _Text(self.octets + other.octets, [*self.pages, *((at + shift, lsn) for at, lsn in other.pages)])

    def end(self) -> _Text:
        """Return what may be the beginning of a record that goes on in the next segment."""
        cut = max(0, len(self.octets) - RECORD_BYTES + 1)
        last = [(at, lsn) for at, lsn in self.pages if at <= cut][-1:]
        return _Text(self.octets[cut:], [(0, lsn + cut - at) for at, lsn in last])

    def lsn(self, offset: int) -> str:
        at, lsn = next((at, lsn) for at, lsn in reversed(self.pages) if at <= offset)
        return lsn_text(lsn + offset - at)


def _text(path: Path, number: int) -> _Text:
    """Return those pages of a segment that are its own: a recycled one begins with a page of an older segment."""
    parts: list[bytes] = []
    pages: list[tuple[int, int]] = []
    length = 0
    addresses = iter(range(number * SEGMENT_BYTES, (number + 1) * SEGMENT_BYTES, PAGE_BYTES))
    for page, address in zip(_pages(path), addresses, strict=False):
        header = SHORT_HEADER if parts else LONG_HEADER
        if page[PAGE_ADDRESS_AT : PAGE_ADDRESS_AT + 8] == struct.pack("=Q", address):
            parts.append(page[header:])
            pages.append((length, address + header))
            length += len(parts[-1])
        elif not parts:
            break
    return _Text(b"".join(parts), pages)


def _pages(path: Path) -> Iterator[bytes]:
    """Yield the pages of a segment; of one whose compressed form is damaged those before the damage."""
    try:
        for piece in wal_segments.pieces(path):
            yield from (piece[at : at + PAGE_BYTES] for at in range(0, len(piece), PAGE_BYTES))
    except DamagedFrame as exc:
        log.warning("WAL segment %s cannot be decompressed: %s", path.name, exc)


def _places(octets: bytes) -> Iterator[int]:
    """Yield where a record of a restore point may begin; find() is several times as fast as a pattern."""
    at = octets.find(LENGTH)
    while at >= 0:
        if RECORD.match(octets, at):
            yield at
        at = octets.find(LENGTH, at + 1)


def _is_whole(record: bytes) -> bool:
    told: int = struct.unpack_from("=I", record, CRC_AT)[0]
    found: int = google_crc32c.value(record[CRC_AT + 4 :] + record[:CRC_AT])
    return found == told


def _point(record: bytes, lsn: str) -> WalRestorePoint:
    (micros,) = struct.unpack_from("=q", record, TIME_AT)
    name = record[NAME_AT:].split(b"\0", 1)[0].decode("utf-8", "replace")
    return WalRestorePoint(name, lsn, EPOCH + timedelta(microseconds=micros))
