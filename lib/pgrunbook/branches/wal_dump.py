"""pg_waldump over archived WAL, which is decompressed for it, some segments at a time; for restore and verify."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from pgrunbook.branches import wal_segments
from pgrunbook.branches.binaries import run_as, state_folder
from pgrunbook.branches.frames import WORKERS
from pgrunbook.branches.server import Server
from pgrunbook.branches.wal_segments import Timelines

AT_ONCE = 8


def dumped(
    server: Server, folder: Path, chain: Timelines, first: int, last: int, *options: str
) -> Iterator[tuple[str, subprocess.CompletedProcess[str]]]:
    """Yield what pg_waldump does with each part of a stretch of segments, by the name of its first segment.

    Each part begins with the last segment of the one before: a record may go over from one to the other.

    Raises DamagedFrame, FileNotFoundError.
    """
    for timeline, begins, ends in chain.parts(first, last):
        for start in range(begins, max(begins, ends - 1) + 1, AT_ONCE):
            end = min(start + AT_ONCE, ends)
            names = [chain.name(number) for number in range(start, end + 1)]
            with _plain(server, folder, names) as path:
                command = [
                    *(
                        str(server.program("pg_waldump")),
                        *options,
                        f"--path={os.path.relpath(path, server.dir)}",
                        f"--timeline={timeline}",
                    ),
                    *(f"--start={wal_segments.start_lsn(start)}", f"--end={wal_segments.start_lsn(end + 1)}"),
                ]
                yield names[0], run_as(server.installation.account, command, cwd=server.dir)


@contextmanager
def _plain(server: Server, folder: Path, names: list[str]) -> Iterator[Path]:
    """Give a folder in which the segments lie plain; the server's account may read it, and nobody else."""
    if all((folder / name).is_file() for name in names):
        yield folder
        return
    account = server.installation.account
    with tempfile.TemporaryDirectory(dir=state_folder("servers"), prefix="wal-") as made:
        place = Path(made)

        def write(name: str) -> None:
            with (place / name).open("xb") as file:
                file.writelines(wal_segments.pieces(folder / name))
            if account:
                os.chown(place / name, -1, account.gid)
                (place / name).chmod(0o640)

        if account:
            os.chown(place, -1, account.gid)
            place.chmod(0o750)
        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(write, names))
        yield place
