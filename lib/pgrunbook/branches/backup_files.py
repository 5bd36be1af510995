"""The files of a base backup, compressed one by one: written from a stream of pg_basebackup's, and read for a restore.

What they hold is compared with the manifest on both ways, so that no file is read for that alone. Programs of the
server's account write them: tar reads from us what belongs into a folder.
"""

from __future__ import annotations

import tarfile
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO

import google_crc32c

from pgrunbook.branches import frames, manifest, wal_segments
from pgrunbook.branches.binaries import state_folder
from pgrunbook.branches.frames import FRAME_BYTES, SUFFIX, WORKERS, DamagedFrame
from pgrunbook.branches.manifest import ManifestFile
from pgrunbook.branches.server import Server
from pgrunbook.branches.streams import piped
from pgrunbook.errors import Broken

BLOCK_BYTES = 512
HELD_BYTES = 128 * 1024 * 1024  # of one compressed file; a larger one is held on the disk
PLAIN = frozenset({manifest.FILE, "backup_label", "tablespace_map"})
WAL = "pg_wal/"  # which the manifest leaves out
WHOLE_SEGMENT = ManifestFile(wal_segments.SEGMENT_BYTES, None)
THE_END = bytes(2 * BLOCK_BYTES)


class DamagedFile(Exception):
    """A file of a backup does not hold what the manifest says."""


@dataclass(frozen=True)
class StoredFile:
    """A file of a backup: its path within the server, where it lies, and what it should be, as far as that is known."""

    name: str
    path: Path
    expected: ManifestFile | None

    def contents(self) -> Iterator[bytes]:
        """Yield what it holds, a piece at a time. Raises DamagedFile, at the latest behind the last piece."""
        size = crc = 0
        try:
            for piece in frames.pieces(self.path):
                size, crc = size + len(piece), google_crc32c.extend(crc, piece)
                yield piece
        except DamagedFrame as exc:
            raise DamagedFile(f"it cannot be decompressed: {exc}") from exc
        except FileNotFoundError as exc:
            raise DamagedFile("it is not on disk") from exc
        except OSError as exc:
            raise DamagedFile(f"it cannot be read: {exc.strerror}") from exc
        if self.expected and size != self.expected.bytes:
            raise DamagedFile(f"it has size {size:,} instead of {self.expected.bytes:,}")
        if self.expected and self.expected.crc32c not in (None, crc):
            raise DamagedFile("checksum mismatch: it is not the one in the manifest")


def stored(folder: Path, *, is_compressed: bool) -> list[StoredFile]:
    """Return the files of a backup: those of its manifest, there or not, its WAL, and the manifest itself.

    Raises DamagedManifest.
    """
    there, suffix = manifest.read(folder).files, SUFFIX if is_compressed else ""
    wal = [name.removesuffix(suffix) for name in _names(folder) if name.startswith(WAL)]
    expected = {
        **{name: WHOLE_SEGMENT if wal_segments.NAME.fullmatch(name.removeprefix(WAL)) else None for name in wal},
        **there,
        manifest.FILE: None,
    }
    return [
        StoredFile(name, folder / (name if name in PLAIN else name + suffix), of_it) for name, of_it in expected.items()
    ]


def beyond_manifest(folder: Path, files: Sequence[StoredFile]) -> list[str]:
    """Return the files in a backup's folder that are none of the backup's."""
    known = {file.path for file in files}
    return [name for name in _names(folder) if folder / name not in known]


def pack(
    server: Server,
    command: Sequence[str],
    folder: str,
    *,
    environment: Mapping[str, str],
    told: Callable[[int], None],
) -> None:
    """Write what a program sends as tar into a new folder of the server's, compressed; ``told`` hears the bytes read.

    Raises RunbookError when the program or tar fails, Broken where what came is not what the manifest says.
    """
    account, came, read_bytes = server.installation.account, dict[str, ManifestFile](), 0
    server.do("mkdir", folder)
    with (
        piped(account, ["tar", "-xpf", "-", "-C", folder], cwd=server.dir) as tar,
        piped(account, command, cwd=server.dir, environment=environment) as source,
        ThreadPoolExecutor(WORKERS) as pool,
    ):
        assert tar.stdin and source.stdout  # noqa: S101, PT018 - both are pipes
        for info in _members(source.stdout):
            name = info.name.removeprefix("./")
            with tempfile.SpooledTemporaryFile(HELD_BYTES, dir=str(state_folder("servers"))) as held:
                if info.isreg():
                    came[name] = _held(source.stdout, info.size, held, pool, is_plain=name in PLAIN)
                    info.name, info.size = name + ("" if name in PLAIN else SUFFIX), held.tell()
                    held.seek(0)
                    read_bytes += came[name].bytes
                write_member(tar.stdin, info, iter(partial(held.read, FRAME_BYTES), b""))
            told(read_bytes)
        tar.stdin.write(THE_END)
    wrong = sorted(name for name, one in manifest.read(server.dir / folder).files.items() if came.get(name) != one)
    if wrong:
        raise Broken("could not take a base backup: what came is not what its manifest says", detail=", ".join(wrong))


def unpack(server: Server, backup: Path, files: Sequence[StoredFile], to: str) -> None:
    """Write the files of a backup, as they were, into a new folder of the server's; several at once.

    Raises DamagedFile for the first that is damaged, RunbookError when tar fails.
    """
    folders = [to, *(f"{to}/{path.relative_to(backup)}" for path in backup.rglob("*") if path.is_dir())]
    server.do("mkdir", "-m", "0700", *sorted(folders))
    waiting = iter(sorted(files, key=lambda file: -file.expected.bytes if file.expected else 0))
    has_failed = threading.Event()

    def lane() -> None:
        with piped(server.installation.account, ["tar", "-xpf", "-", "-C", to], cwd=server.dir) as tar:
            assert tar.stdin  # noqa: S101 - it is a pipe
            try:
                while not has_failed.is_set() and (file := next(waiting, None)):
                    _write_whole(tar.stdin, file)
            except BaseException:
                has_failed.set()
                raise
            tar.stdin.write(THE_END)  # also where another one has failed: the error is that one's, and not tar's

    with ThreadPoolExecutor(WORKERS) as pool:
        for done in [pool.submit(lane) for _ in range(WORKERS)]:
            done.result()


def _names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def _members(source: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar as PostgreSQL writes it; the contents of each are to be read before the next."""
    while (header := source.read(BLOCK_BYTES)).strip(b"\0"):
        yield tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    while source.read(FRAME_BYTES):
        pass  # a program that cannot write its last blocks fails


def _held(source: IO[bytes], size: int, held: IO[bytes], pool: ThreadPoolExecutor, *, is_plain: bool) -> ManifestFile:
    """Read a member's contents and hold them compressed; return what they are."""
    running, left, crc = deque[Future[bytes]](), size, 0
    while left:
        piece = source.read(min(FRAME_BYTES, left))
        if not piece:
            raise EOFError("the tar ends within a file")
        left, crc = left - len(piece), google_crc32c.extend(crc, piece)
        running.append(pool.submit(bytes if is_plain else frames.compressed, piece))
        if len(running) > WORKERS:
            held.write(running.popleft().result())
    for one in running:
        held.write(one.result())
    source.read(-size % BLOCK_BYTES)
    return ManifestFile(size, crc)


def _write_whole(to: IO[bytes], file: StoredFile) -> None:
    contents = file.contents()
    first = next(contents, b"")  # it is there
    info, facts = tarfile.TarInfo(file.name), file.path.stat()
    info.mode, info.mtime = facts.st_mode & 0o777, facts.st_mtime
    if file.expected is None:
        first = b"".join([first, *contents])
    info.size = file.expected.bytes if file.expected else len(first)
    write_member(to, info, chain([first], contents))


def write_member(to: IO[bytes], info: tarfile.TarInfo, contents: Iterable[bytes]) -> None:
    """Write a member of a tar. Its size must be that of the contents."""
    to.write(info.tobuf(tarfile.GNU_FORMAT))
    for piece in contents:
        to.write(piece)
    to.write(bytes(-info.size % BLOCK_BYTES))
