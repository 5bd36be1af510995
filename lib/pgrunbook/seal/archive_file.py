"""The file of an archive: a tar that gzip has compressed, with the same bytes whoever packs the same runs.

::

    manifest.json         an in-toto statement: each file below with its sha256, and each run with its last line
    manifest.dsse.json    the same in an envelope, signed with the operator's key where there is one
    signers               the public keys, as they were then
    outputs/ledger.jsonl  the lines of these runs
    outputs/RUN/...       their folders
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, cast

MANIFEST, ENVELOPE, SIGNERS = "manifest.json", "manifest.dsse.json", "signers"
OUTPUTS = "outputs"
SUFFIX = ".tar.gz"
PREDICATE_TYPE = "urn:pgrunbook:archive:v1"
_PART = 1 << 20
DAMAGED = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError)


@dataclass(frozen=True)
class ArchiveMember:
    """A file of an archive: its name there, where it lies now or what it holds, and the second of its time."""

    name: str
    source: Path | bytes
    time_s: int = 0

    @property
    def size(self) -> int:
        """How large it is."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size

    def open(self) -> IO[bytes]:
        """Open it to be read."""
        return io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source.open("rb")


def write(out: BinaryIO, members: Iterable[ArchiveMember]) -> None:
    """Write members in their order. Raises OSError for a file that cannot be read or has shrunk, and a full disk."""
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=out, compresslevel=6, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for member in members:
            info = tarfile.TarInfo(member.name)
            info.size, info.mtime, info.mode = member.size, member.time_s, 0o440
            with member.open() as file:
                tar.addfile(info, file)


def unpack(file: Path, room: Path) -> Iterator[tuple[str, Path | None]]:
    """Write each member below a folder, and yield its name and where it lies, None for one that is no file of ours.

    Nothing is written outside of the folder, and nothing but files. Raises one of ``DAMAGED`` where it cannot go on.
    """
    with file.open("rb") as raw, gzip.GzipFile(fileobj=raw, mode="rb") as plain, _tar(plain) as tar:
        for info in tar:
            place = _inside(room, info)
            if place is None:
                yield info.name, None
                continue
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            source = cast("IO[bytes]", tar.extractfile(info))
            left = info.size
            with place.open("xb") as made:
                while left:
                    part = source.read(min(_PART, left))
                    if not part:
                        raise EOFError(f"{info.name} is cut off")
                    made.write(part)
                    left -= len(part)
            yield info.name, place
        while plain.read(_PART):  # the checksum stands at the very end
            continue


@contextmanager
def _tar(plain: Any) -> Iterator[tarfile.TarFile]:
    with tarfile.open(fileobj=plain, mode="r|") as tar:
        yield tar


def _inside(room: Path, info: tarfile.TarInfo) -> Path | None:
    """Return where a member lies in a folder, None for what is no file, is there, or would lie outside."""
    name = PurePosixPath(info.name)
    if not info.isreg() or name.is_absolute() or ".." in name.parts or not name.parts or "\0" in info.name:
        return None
    place = room.joinpath(*name.parts)
    is_free = not place.exists() and not any(one.is_file() for one in place.parents if one.is_relative_to(room))
    return place if is_free else None
