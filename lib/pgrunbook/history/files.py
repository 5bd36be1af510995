"""The files of a migrations folder: their names, and their exact text."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgrunbook.errors import WrongInput
from pgrunbook.history.state import Migration
from pgrunbook.record import door

MOST_BYTES = 64_000_000
_ONLY_FILES = "A migrations folder holds files, and links to files in it. Put the file itself there, or remove it."
# The file of a migration that has a folder of its own, as those of Drizzle 1.0 do.
IN_FOLDER = "migration.sql"
# The folder of assertions, which may stand among the migrations.
VERIFY = "verify"
NUMBERED = re.compile(r"(?P<number>\d+)_.+\.sql", re.ASCII | re.IGNORECASE)
_READ: ContextVar[dict[tuple[Path, Path], bytes] | None] = ContextVar("read", default=None)


@dataclass(frozen=True)
class FileNames:
    """How a tool names its files: the form, and the part of it that identifies a migration.

    ``rule``, ``twice`` and ``unused`` complete the messages: what a name must be, what happens to two files with the
    same part, and which part one of them should get. ``almost`` is found at the start of what seems meant to be one.
    """

    pattern: re.Pattern[str]
    form: str
    rule: str
    twice: str
    part: str = "version"
    unused: str = "a version of its own"
    almost: re.Pattern[str] | None = None

    def has_form(self, path: Path) -> bool:
        """Tell whether a file is named as a migration."""
        return self.pattern.fullmatch(path.name) is not None

    def those_of(self, paths: Iterable[Path]) -> list[Path]:
        """Return the files that have the form.

        Raises WrongInput for one that seems meant to have it: ``almost`` is the form of these.
        """
        found = []
        for path in paths:
            if self.has_form(path):
                found.append(path)
            elif self.almost is not None and self.almost.match(path.name):
                raise WrongInput(
                    f"{path} is named almost as a migration",
                    detail=self.rule,
                    hint=f"Rename it to the form {self.form}, or remove it from the folder.",
                )
        return found

    def check(self, folder: Path, paths: Sequence[Path], part_of: Callable[[Path], Any]) -> None:
        """Raise WrongInput when there is no file, or two have the same part."""
        if not paths:
            raise WrongInput(f"{folder} holds no {self.form}", hint="Correct migrations in targets.toml.")
        for one, other in itertools.pairwise(sorted(paths, key=part_of)):
            if part_of(one) == part_of(other):
                raise WrongInput(
                    f"two migrations have the {self.part} {part_of(one)}",
                    detail=f"{one} and {other.name}; {self.twice}.",
                    hint=f"Give the one that is not applied anywhere {self.unused}.",
                )


def sql_files(folder: Path) -> list[Path]:
    """Return what is named as an SQL file in the folder, broken links and folders included, hidden files not."""
    files = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(path for path in files if path.suffix.lower() == ".sql")


def sql_files_below(folder: Path) -> list[Path]:
    """Return the SQL files in the folder and in the folders below it, hidden ones and assertions not."""
    below = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [*sql_files(folder), *(file for path in below if path.name != VERIFY for file in sql_files_below(path))]


def is_down(path: Path) -> bool:
    """Tell whether the file undoes a migration beside it."""
    return path.name.lower().endswith(".down.sql")


def migration_name(path: Path) -> str:
    """Return the name of a file's migration, as the history of its tool has it."""
    path = path.absolute()
    return path.parent.name if path.name in (IN_FOLDER, "up.sql") else path.stem.removesuffix(".up")


def read_migration(
    path: Path, down_path: Path | None, *, root: Path, name: str, ordinal: int, when_ms: int | None = None
) -> Migration:
    """Return the migration in the file, with its down file if it exists. Raises as :func:`read_bytes` does."""
    content = read_bytes(path, root)
    down = down_path if down_path is not None and down_path.is_file() else None
    return Migration(
        name=name,
        path=path,
        sql=as_text(path, content),
        hash=hashlib.sha256(content).hexdigest(),
        ordinal=ordinal,
        when_ms=when_ms,
        down_path=down,
        down_sql=read_text(down, root) if down else None,
    )


def version_of(path: Path) -> int:
    """Return the number before the first underscore of a file's name, as goose, sqlx and golang-migrate read it."""
    return int(path.name.split("_", 1)[0])


def read_text(path: Path, root: Path) -> str:
    """Return the file's exact text, line ends unchanged. Raises WrongInput when it is not UTF-8, or not to be read."""
    return as_text(path, read_bytes(path, root))


@contextmanager
def each_once() -> Iterator[None]:
    """Read each file once while the body runs: what it is judged by is what is applied."""
    token = _READ.set({})
    try:
        yield
    finally:
        _READ.reset(token)


def read_bytes(path: Path, root: Path) -> bytes:
    """Return what a file of the migrations folder ``root`` holds, within :func:`each_once` as it was at first.

    Raises as :func:`_read` does.
    """
    seen = _READ.get()
    if seen is None:
        return _read(path, root)
    if (path, root) not in seen:
        seen[path, root] = _read(path, root)
    return seen[path, root]


def _read(path: Path, root: Path) -> bytes:
    """Read a file of the migrations folder ``root``.

    The file is opened before it is looked at, and without waiting, so that nobody can put another one in its place.

    Raises WrongInput for what is no file (a FIFO, a device, a socket, a folder), for a link that leads out of the
    folder, and for a file of more than MOST_BYTES; FileNotFoundError when there is none.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except PermissionError as exc:
        raise WrongInput(
            f"cannot read {path}", detail=f"{exc.strerror}.", hint="Make it readable for this user."
        ) from exc
    except OSError as exc:  # a socket, a link that leads to itself
        raise WrongInput(f"cannot read {path}", detail=f"{exc.strerror}.", hint=_ONLY_FILES) from exc
    opened, real = os.fstat(handle), path.resolve()
    if not stat.S_ISREG(opened.st_mode):
        os.close(handle)
        raise WrongInput(f"cannot read {path}", detail="It is no file.", hint=_ONLY_FILES)
    with os.fdopen(handle, "rb") as file:
        if not real.is_relative_to(root.resolve()) or not os.path.samestat(opened, real.stat()):
            raise WrongInput(
                f"cannot read {path}", detail=f"It is a link that leads out of {root}, to {real}.", hint=_ONLY_FILES
            )
        if opened.st_size > MOST_BYTES:
            size = f"It has {opened.st_size / 1_000_000:,.0f} MB; {MOST_BYTES / 1_000_000:,.0f} MB are read at most."
            raise WrongInput(f"cannot read {path}", detail=size, hint="Load data outside of the migrations folder.")
        return file.read(MOST_BYTES)


def as_text(path: Path, content: bytes) -> str:
    """Return what a file holds as text. Raises WrongInput when it is not UTF-8."""
    try:
        text = sys.intern(content.decode("utf-8"))  # a folder is read several times
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        raise WrongInput(
            f"{path} is not UTF-8",
            detail=f"Byte {exc.start} (0x{content[exc.start]:02x}, line {line}): {exc.reason}.",
            hint="Save it as UTF-8; that changes the hash of a migration that is already applied.",
        ) from exc
    door.learn(text)
    return text
