"""Archived WAL for a server that replays it: compressed segments are written out shortly before it asks for them.

1. The server's restore_command copies a plain segment from the archive by itself.
2. It moves a compressed one out of the folder ``wal`` beside its data, where it mostly lies already; else it asks for
   it by a file of that name with WANTED behind it, and waits for the segment, or for that file to go.
3. Here a thread watches the folder: for each segment that was taken, it has the next ones written into it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from pgrunbook.branches import archive, wal_segments
from pgrunbook.branches.backup import BaseBackup
from pgrunbook.branches.frames import SUFFIX, WORKERS
from pgrunbook.branches.server import Server
from pgrunbook.branches.streams import piped

log = logging.getLogger(__name__)

FOLDER, WANTED, HALF = "wal", ".wanted", ".new"
AHEAD = 4
POLL_S = 0.005
WAITS = 6000  # of a hundredth of a second: a process that was killed delivers nothing
COMMAND = (
    "a=../../{source}/archive/%f; w=../{folder}/%f; "
    'if test -f $a && cp $a "%p"; then :; '
    "elif test -f $a{suffix}; then test -f $w || {{ : > $w{wanted}; n=0; "
    "while ! test -f $w && test -f $w{wanted} && test $n -lt {waits}; do n=$((n+1)); sleep 0.01; done; "
    'rm -f $w{wanted}; }}; mv $w "%p"; '
    "else {otherwise}; fi"
)


def restore_command(source: Server, *, otherwise: str = "false") -> str:
    """Return the restore_command of a server whose WAL :func:`delivered` brings; its paths are relative to its data.

    ``otherwise`` is a command for what the archive lacks.
    """
    return COMMAND.format(
        source=source.name, folder=FOLDER, suffix=SUFFIX, wanted=WANTED, waits=WAITS, otherwise=otherwise
    )


@contextlib.contextmanager
def delivered(source: Server, new: Server, backup: BaseBackup) -> Iterator[None]:
    """Deliver the compressed WAL of a source while the body runs, from a backup on; the folder goes."""
    new.do("mkdir", "-p", FOLDER)
    ends = threading.Event()
    with ThreadPoolExecutor(WORKERS) as pool:
        thread = threading.Thread(
            target=_Delivery(source, new, pool).run, args=(wal_segments.number_at(backup.start_lsn), ends), daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            ends.set()
            thread.join()
    new.do("rm", "-rf", FOLDER)


class _Delivery:
    """What lies in the folder, or is on its way there; it belongs to one thread."""

    def __init__(self, source: Server, new: Server, pool: ThreadPoolExecutor) -> None:
        self._source, self._new, self._pool = source, new, pool
        self._folder = new.dir / FOLDER
        self._chain = archive.timelines(source)
        self._running: dict[str, Future[None]] = {}
        self._begun: set[str] = set()

    def run(self, first: int, ends: threading.Event) -> None:
        """Deliver until it ends."""
        self._ahead(first)
        while not ends.wait(POLL_S):
            done = [name for name, one in self._running.items() if one.done()]
            there = {path.name for path in self._folder.iterdir()}
            for name in done:
                if name not in there:
                    self._gone(name, self._running.pop(name))
            for name in {one.removesuffix(WANTED) for one in there if one.endswith(WANTED)} - there:
                self._begin(name)

    def _gone(self, name: str, one: Future[None]) -> None:
        """Have the segments behind one that was taken delivered; say of one that could not be that it will not come."""
        failed = one.exception()
        if failed is None:
            self._ahead(wal_segments.number(name) + 1)
        else:
            log.warning("could not deliver WAL segment %s: %s", name, failed)
            self._new.do("rm", "-f", f"{FOLDER}/{name}{WANTED}")

    def _ahead(self, first: int) -> None:
        for name in map(self._chain.name, range(first, first + AHEAD)):
            if name not in self._begun and wal_segments.compressed(self._source.archive_dir / name).is_file():
                self._begin(name)

    def _begin(self, name: str) -> None:
        if name not in self._running:
            self._begun.add(name)
            self._running[name] = self._pool.submit(self._deliver, name)

    def _deliver(self, name: str) -> None:
        octets = b"".join(wal_segments.pieces(self._source.archive_dir / name))
        write = ["sh", "-c", f'cat > "$0{HALF}" && mv "$0{HALF}" "$0"', name]
        with piped(self._new.installation.account, write, cwd=self._folder) as cat:
            assert cat.stdin  # noqa: S101 - it is a pipe
            cat.stdin.write(octets)
