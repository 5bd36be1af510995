"""A restored server that takes over: it is a copy no more, writes to the disk for good, and archives for itself."""

from __future__ import annotations

import logging

from pgrunbook.branches import isolation
from pgrunbook.branches.server import Server
from pgrunbook.errors import Broken

log = logging.getLogger(__name__)


def promote(server: Server) -> None:
    """Start a restored server as one of its own, with fsync on; nothing happens where it is that already.

    1. Stop it, and flush all of its files: a copy may have been made without.
    2. Take its mark away, and start it with its own settings: it archives its WAL.

    Raises Unreachable where it does not start, Broken where fsync is not on.
    """
    with server.lock():
        if not isolation.is_isolated(server) and server.pid() is not None and _fsync(server) == "on":
            return
        log.info('server "%s" takes over', server.name)
        server.stop()
        server.run("initdb", "--sync-only", "-D", "data")
        server.do("rm", "-f", isolation.MARK)
        server.launch(more={"fsync": "on"})
        if (found := _fsync(server)) != "on":
            raise Broken(
                f'server "{server.name}" does not write to the disk for good: fsync is {found}',
                state="It runs; nobody was led to it.",
                hint="Take fsync out of its configuration (postgresql.auto.conf), then go on with this run.",
            )


def _fsync(server: Server) -> str:
    with server.connect(purpose="promotes") as conn:
        (found,) = conn.execute("SELECT pg_catalog.current_setting('fsync')").fetchone() or ("",)
    return str(found)
