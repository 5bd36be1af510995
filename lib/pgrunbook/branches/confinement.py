"""What the processes of a branch's server may do to the machine: nothing but serve their own folder.

A branch executes the code of whoever owns a table: check constraints as rows are loaded, triggers as a migration is
rehearsed, both as a superuser, who may run programs and write files. So Linux keeps the server's processes, for as
long as they live, from executing anything but PostgreSQL's own programs, from writing outside of the server's
folder, from TCP, and from signals to other processes. Other systems, and kernels without Landlock, do not:
``is_there`` says which.

Source: https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
_VERSION, _PATH_BENEATH = 1, 1
_SET_NO_NEW_PRIVS = 38
_LOADER = 3  # PT_INTERP
_EXECUTE = 1 << 0
# write a file, remove a folder or a file, make one of any kind; move between folders (2), truncate (3), ioctl (5)
_WRITES = {1: 1 << 1 | sum(1 << bit for bit in range(4, 13)), 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
_OF_A_FILE = 1 << 1 | 1 << 14 | 1 << 15
_TCP = {4: 1 << 0 | 1 << 1}  # bind and connect
_SCOPES = {6: 1 << 0 | 1 << 1}  # abstract unix sockets, and signals


@cache
def version() -> int:
    """Return the version of Landlock's interface that this kernel has, 0 where there is none."""
    if not sys.platform.startswith("linux"):
        return 0
    return max(0, int(_libc().syscall(_CREATE_RULESET, None, 0, _VERSION)))


def is_there() -> bool:
    """Tell whether this system can confine a server."""
    return version() > 0


def confining(programs: Path, writable: Sequence[Path]) -> Callable[[], None]:
    """Return what confines the process that calls it, between fork and exec, for good.

    ``programs`` is the folder with what it may execute, ``writable`` are the folders that it may change.

    Raises OSError where the kernel refuses.
    """
    libc, abi = _libc(), version()
    writes, network, scopes = (_known(bits, abi) for bits in (_WRITES, _TCP, _SCOPES))
    size = 24 if scopes else 16 if network else 8
    attributes = struct.pack("=QQQ", _EXECUTE | writes, network, scopes)[:size]
    executable = [programs, *_loaders(programs / "postgres")]
    places = [*((place, _EXECUTE) for place in executable), *((place, writes) for place in writable)]
    places.append((Path(os.devnull), writes & _OF_A_FILE))

    def confine() -> None:
        rules = _checked(libc.syscall(_CREATE_RULESET, attributes, size, 0))
        for place, access in places:
            handle = os.open(place, os.O_PATH | os.O_CLOEXEC)
            _checked(libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, struct.pack("=Qi", access, handle), 0))
        _checked(libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _checked(libc.syscall(_RESTRICT_SELF, rules, 0))

    return confine


def _known(bits: dict[int, int], abi: int) -> int:
    return sum(some for since, some in bits.items() if abi >= since)


def _loaders(program: Path) -> list[Path]:
    """Return the program that the kernel executes to load another one, as its ELF header names it."""
    with program.open("rb") as file:
        head = file.read(64)
        if head[:5] != b"\x7fELF\x02":
            return []
        order = "<" if head[5] == 1 else ">"
        (start,), (size, count) = struct.unpack_from(f"{order}Q", head, 32), struct.unpack_from(f"{order}HH", head, 54)
        for number in range(count):
            file.seek(start + number * size)
            kind, _, offset, _, _, length = struct.unpack(f"{order}IIQQQQ", file.read(40))
            if kind == _LOADER:
                file.seek(offset)
                return [Path(os.fsdecode(file.read(length).rstrip(b"\0"))).resolve()]
    return []


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "the kernel does not confine the server")
    return result


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
