"""A copy of an embedded server, file by file, for a branch: nothing of it passes through a connection."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pgrunbook.branches.binaries import ServerAccount, last_lines, run_as
from pgrunbook.branches.server import Server
from pgrunbook.database import connection
from pgrunbook.database.queries import load
from pgrunbook.display import progress
from pgrunbook.display.units import human
from pgrunbook.errors import RunbookError

AT_ONCE = 2
FILES_AT_ONCE = 2_000
BYTES_AT_ONCE = 128 * 1024 * 1024
TIMEOUT_MS = 3_600_000
# What a base backup leaves out: it belongs to the running server, or is made anew by the one that starts.
# https://www.postgresql.org/docs/current/protocol-replication.html#PROTOCOL-REPLICATION-BASE-BACKUP
EMPTY_FOLDERS = frozenset({
    "pg_wal", "pg_dynshmem", "pg_notify", "pg_replslot", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans",
})  # fmt: skip
LEFT_OUT = frozenset({
    "postmaster.pid", "postmaster.opts", "postgresql.auto.conf.tmp", "current_logfiles.tmp", "backup_label",
    "tablespace_map", "pgsql_tmp", "pg_internal.init",
})  # fmt: skip
GONE, REPLACED = "No such file or directory", "as it was replaced while being copied"
ATTEMPTS = 5


@dataclass(frozen=True)
class _Files:
    """Some files below a folder, by their paths in it, and the folder below which their copies belong."""

    folder: Path
    names: tuple[str, ...]
    to: Path
    bytes: int


def copy_running(there: Server, here: Server, tablespaces: Sequence[Sequence[str]]) -> None:
    """Make the data directory of ``here`` a copy of that of a running server, with its WAL until now.

    1. The server makes a checkpoint, keeps its WAL, and writes whole pages into it from then on.
    2. Its files are copied as they are, while others work: WAL puts right what changes meanwhile.
    3. The backup's label and that WAL are added. ``here`` replays it when it starts.

    ``tablespaces`` are pairs of OID and folder; their files are copied into folders of ``here``.

    Raises RunbookError where a file cannot be copied.
    Source: https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-LOWLEVEL-BASE-BACKUP
    """
    major = there.installation.major
    queries = load("server_copy", major)
    with there.connect(purpose="base backup") as conn:
        connection.limit(conn, lock_timeout_ms=TIMEOUT_MS, statement_timeout_ms=TIMEOUT_MS)
        conn.execute(queries["keep_wal"], {"name": here.name.replace("-", "_")})
        (first,) = conn.execute(queries["begin"], {"label": f"pgrunbook {here.name}"}).fetchone() or ("",)
        _copy_all(here, [*_below(there.data_dir, here.data_dir), *_of_tablespaces(here, tablespaces, major)])
        label, last = conn.execute(queries["end"].encode()).fetchone() or ("", "")
        wal = sorted(path.name for path in (there.data_dir / "pg_wal").iterdir() if path.is_file())
        needed = [name for name in wal if str(first) <= name <= str(last) or name.endswith(".history")]
        _copy_all(here, [*_parts(there.data_dir / "pg_wal", needed, here.data_dir / "pg_wal")])
    here.do("tee", "data/backup_label", text=str(label))


def copy_stopped(there: Server, here: Server) -> None:
    """Make the data directory of ``here`` a copy of that of a server that was shut down, with its tablespaces.

    Raises RunbookError where a file cannot be copied.
    """
    links = [path for path in (there.data_dir / "pg_tblspc").iterdir() if path.is_symlink()]
    tablespaces = [(path.name, str(path.readlink())) for path in links]
    wal = [path.name for path in (there.data_dir / "pg_wal").iterdir()]
    files = [*_below(there.data_dir, here.data_dir), *_of_tablespaces(here, tablespaces, there.installation.major)]
    _copy_all(here, [*files, *_parts(there.data_dir / "pg_wal", wal, here.data_dir / "pg_wal")])


def _below(root: Path, to: Path) -> Iterator[_Files]:
    """Yield the files of a folder and of the folders in it, as far as a base backup has them; links are none."""
    found: list[str] = []
    for folder, folders, names in os.walk(root):
        place = Path(folder).relative_to(root)
        if Path(folder).parent == root and Path(folder).name in EMPTY_FOLDERS:
            folders.clear()
            names.clear()
        folders[:] = [name for name in folders if not _is_left_out(name) and not Path(folder, name).is_symlink()]
        yield _Files(Path(folder), (), to / place, 0)  # the folder itself, which may hold none
        found += [str(place / name) for name in names if not _is_left_out(name)]
    yield from _parts(root, found, to)


def _is_left_out(name: str) -> bool:
    return name in LEFT_OUT or name.startswith(("pgsql_tmp", "pg_internal.init."))


def _parts(folder: Path, names: Sequence[str], to: Path) -> Iterator[_Files]:
    """Yield files below a folder in parts that are copied at once, at least as many as there are processes."""
    sizes: dict[str, int] = {}
    for name in names:
        try:
            facts = os.lstat(folder / name)
        except FileNotFoundError:
            continue  # its table was dropped
        if stat.S_ISREG(facts.st_mode):
            sizes[name] = facts.st_size
    most = min(BYTES_AT_ONCE, sum(sizes.values()) // AT_ONCE + 1)
    part: list[str] = []
    octets = 0
    for name, size in sizes.items():
        part.append(name)
        octets += size
        if len(part) >= FILES_AT_ONCE or octets >= most:
            yield _Files(folder, tuple(part), to, octets)
            part, octets = [], 0
    yield _Files(folder, tuple(part), to, octets)


def _of_tablespaces(here: Server, tablespaces: Sequence[Sequence[str]], major: int) -> Iterator[_Files]:
    """Yield the files of tablespaces, and link the folders for their copies, as they are to be."""
    own = here.dir / "tablespaces"
    here.do("mkdir", "-p", "data/pg_tblspc", *(f"tablespaces/{oid}" for oid, _ in tablespaces), "tablespaces")
    for oid, location in tablespaces:
        here.do("ln", "-s", str(own / oid), f"data/pg_tblspc/{oid}")
        for folder in Path(location).glob(f"PG_{major}_*"):  # a tablespace may hold those of other versions, too
            yield from _below(folder, own / oid / folder.name)


def _copy_all(here: Server, files: Sequence[_Files]) -> None:
    here.do("mkdir", "-p", *dict.fromkeys(str(part.to) for part in files))
    stage, copied, total = progress.current(), 0, sum(part.bytes for part in files)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for part, _ in zip(files, pool.map(lambda part: _copy(here.installation.account, part), files), strict=True):
            copied += part.bytes
            stage.how_far(f"{human(copied)} of {human(total)}")


def _copy(account: ServerAccount | None, files: _Files) -> None:
    """Copy files, again those that were replaced meanwhile; those that are gone are none."""
    names, told = list(files.names), ""
    for _ in range(ATTEMPTS):
        if not names:
            return
        # Where the file system can, GNU cp lets both share the blocks.
        done = run_as(account, ["cp", "-a", "--parents", "--", *names, f"{files.to}/"], cwd=files.folder)
        told = done.stderr
        if done.returncode == 0:
            return
        if any(line and GONE not in line and REPLACED not in line for line in told.splitlines()):
            break
        names = [name for name in names if _is_owed(files, name, told)]
    else:
        if not names:
            return
    raise RunbookError(f"could not copy files of {files.folder}", detail=f"Into {files.to}: {last_lines(told)}")


def _is_owed(files: _Files, name: str, told: str) -> bool:
    """Tell whether a file is there and has no copy yet, or one of before it was replaced."""
    is_replaced = any(REPLACED in line and name in line for line in told.splitlines())
    return (files.folder / name).exists() and (is_replaced or not (files.to / name).exists())
