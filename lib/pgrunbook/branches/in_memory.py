"""Branches in memory: the data of a small one lies in a file system of memory, where a file costs little.

A server has thousands of small files, and a rehearsal makes several copies of each. The server's folder stays where
it was; only ``data`` in it is a link. Where there is no such file system, where it has little room, or where a
rehearsal fills it, branches lie on the disk as large ones do.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import shutil
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import psycopg

from pgrunbook.errors import WrongInput

if TYPE_CHECKING:
    from pgrunbook.branches.server import Server

log = logging.getLogger(__name__)

PLACE = Path("/dev/shm")  # noqa: S108 - each folder in it has a random name, and is its account's alone
SETTING = "PGRUNBOOK_BRANCH_MEMORY_MB"
SHARE = 4  # of what is free, one branch may take one part: three are there at a time
WAL_BYTES = 256 * 1024 * 1024
COPIES = 4  # of the data, that a rehearsal makes on one server, rewritten tables included
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
USED = ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes")
NO_SPACE = os.strerror(errno.ENOSPC)
NAME = re.compile(r"pgrunbook-[0-9a-f]{16}")
OWNER = "server"
MOST_CHARS = 4096
ABANDONED_S = 60.0

P = ParamSpec("P")
T = TypeVar("T")

_on_disk = threading.Event()  # set where the memory did not do
_used = threading.Event()


def take(server: Server, data_bytes: int) -> None:
    """Give a server that has folders and no data yet a place in memory, if that many bytes of data fit there."""
    if _on_disk.is_set() or COPIES * data_bytes + WAL_BYTES > room_bytes():
        return
    _clear_abandoned(server.dir.lstat().st_uid)
    folder = PLACE / f"pgrunbook-{secrets.token_hex(8)}"
    server.do("ln", "-s", str(folder / "data"), "data")
    server.do("mkdir", "-m", "700", str(folder))  # it fails where somebody has made it
    server.do("tee", f"{folder}/{OWNER}", text=str(server.dir))
    server.do("mkdir", "-m", "700", f"{folder}/data")
    note_use()


def note_use() -> None:
    """Note that what goes on may lie in memory: where that is too small, a rehearsal begins again on the disk."""
    _used.set()


def place_of(data_dir: Path) -> Path | None:
    """Return the folder in memory that holds the data of a server, None where they lie elsewhere.

    Code on a branch may write into the folder of its server, and so put another link in the place of ours; what says
    whose a folder in memory is lies out of its reach.
    """
    if not data_dir.is_symlink():
        return None
    folder = data_dir.readlink().parent
    is_ours = data_dir.readlink().name == "data" and folder.parent == PLACE and NAME.fullmatch(folder.name)
    uid = data_dir.lstat().st_uid
    return folder if is_ours and _owner(folder, uid) == str(data_dir.parent) else None


def room_bytes() -> int:
    """Return how many bytes one branch may take in memory, 0 where there is no file system of memory."""
    given = os.environ.get(SETTING, "")
    if given and not given.isdecimal():
        raise WrongInput(f"{SETTING} is no number", detail=f"It is {given!r}.", hint="Give megabytes, or 0 for none.")
    if not sys.platform.startswith("linux") or not os.access(PLACE, os.W_OK) or not os.path.ismount(PLACE):
        return 0
    free = min(shutil.disk_usage(PLACE).free, available_bytes()) // SHARE
    return min(free, int(given) * 1024 * 1024) if given else free


def available_bytes() -> int:
    """Return what the system and the container have left in memory, 0 where nobody knows it."""
    return min(_left_bytes()) if sys.platform.startswith("linux") else 0


def else_on_disk(rehearse: Callable[P, T]) -> Callable[P, T]:
    """Let a rehearsal for which the memory is too small begin again on the disk."""

    @wraps(rehearse)
    def on_either(*args: P.args, **kwargs: P.kwargs) -> T:
        _used.clear()
        try:
            return rehearse(*args, **kwargs)
        except Exception as exc:
            if not _used.is_set() or not any(map(_is_full, _causes(exc))):
                raise
        log.info("the memory is too small for the rehearsal: it begins again on the disk")
        with only_on_disk():
            return rehearse(*args, **kwargs)

    return on_either


@contextmanager
def only_on_disk() -> Iterator[None]:
    """Keep new branches on the disk while the body runs."""
    _on_disk.set()
    try:
        yield
    finally:
        _on_disk.clear()


def _is_full(exc: BaseException) -> bool:
    return isinstance(exc, psycopg.errors.DiskFull) or NO_SPACE in f"{exc} {getattr(exc, 'detail', '')}"


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__


def _left_bytes() -> Iterator[int]:
    """Yield what the system has left, and the container; what files in memory take already is not among it."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    yield next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    for limit, used in zip(LIMITS, USED, strict=True):
        if Path(limit).is_file() and (most := Path(limit).read_text().strip()).isdecimal():
            yield max(0, int(most) - int(Path(used).read_text()))


def _owner(folder: Path, uid: int) -> str | None:
    """Return the folder of the server whose data a folder in memory holds, None where it is none of that account's."""
    try:
        facts = folder.lstat()
        if not stat.S_ISDIR(facts.st_mode) or facts.st_mode & 0o077 or facts.st_uid != uid:
            return None
        with (folder / OWNER).open(encoding="utf-8") as text:
            return text.read(MOST_CHARS)
    except (OSError, ValueError):
        return None  # half made, or gone meanwhile


def _clear_abandoned(uid: int) -> None:
    """Remove what servers have left whose folder was deleted by hand; others are removed with their server."""
    for folder in PLACE.glob("pgrunbook-*"):
        owner = _owner(folder, uid)
        if owner is None or not NAME.fullmatch(folder.name):
            continue
        try:
            is_old = time.time() - (folder / OWNER).stat().st_mtime > ABANDONED_S
            is_abandoned = is_old and place_of(Path(owner) / "data") != folder
        except FileNotFoundError:
            continue  # its server has removed it meanwhile
        if is_abandoned:
            shutil.rmtree(folder, ignore_errors=True)
