"""A server that lasts for one rehearsal: made, marked as a copy, and removed, whatever happens.

It archives nothing, replicates nothing, and does not wait for the disk: it is thrown away. When this process is
killed, the next rehearsal removes the server: a living process holds the lock file of its own.
"""

from __future__ import annotations

import fcntl
import logging
import os
import pwd
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from psycopg import sql

from pgrunbook.branches import datadir, in_memory, isolation, provenance, server_copy
from pgrunbook.branches.binaries import Installation, state_folder
from pgrunbook.branches.branch import Branch, BranchState
from pgrunbook.branches.branch_target import OF_EVERY_CLUSTER, POSTGRES
from pgrunbook.branches.server import Server
from pgrunbook.branches.server_name import OF_BRANCHES
from pgrunbook.database.connection import Connection
from pgrunbook.database.queries import load
from pgrunbook.errors import RunbookError

log = logging.getLogger(__name__)

NAME = re.compile(rf"({OF_BRANCHES.pattern})(\.gone|\.lock)?")
# Shared memory is in the server's own folder: /dev/shm has that of other servers of the account.
OF_CONFINED = {"dynamic_shared_memory_type": "mmap"}
# Nobody keeps its WAL: that is written as by default, because pglz takes half as long as the changes themselves.
SETTINGS = {"archive_mode": "off", "fsync": "off", "wal_compression": "off", **OF_CONFINED}
# Where nobody measures how much WAL a plan writes.
UNMEASURED = {"full_page_writes": "off", "max_wal_size": "256MB"}
# A branch larger than what a server keeps in memory by default has more, up to a share of what is free.
BUFFERS_BYTES, MOST_BUFFERS_BYTES, BUFFERS_SHARE = 128 << 20, 1 << 30, 16
KNOWS_CLONE = "SELECT 'clone' = ANY (s.enumvals) FROM pg_catalog.pg_settings AS s WHERE s.name = 'file_copy_method'"
FILE_COPY_SINCE, SUMMARIZED_SINCE = 15, 17


def file_copy(server: Server) -> sql.SQL:
    """Return the option of CREATE DATABASE that copies files, which costs little where nothing waits for the disk."""
    return sql.SQL("STRATEGY file_copy" if server.installation.major >= FILE_COPY_SINCE else "")


def share_blocks(admin: Connection) -> None:
    """Let the databases that this session copies share their blocks with the original, where the file system can.

    Elsewhere the kernel copies them.
    Source: https://www.postgresql.org/docs/18/runtime-config-resource.html#GUC-FILE-COPY-METHOD
    """
    if admin.execute(KNOWS_CLONE.encode()).fetchone() == (True,) and _copies_ranges():
        admin.execute("SET file_copy_method = clone")


def _copies_ranges() -> bool:
    """Tell whether the file system has the call that clones: without it the server would fail."""
    folder = state_folder("servers")
    with tempfile.TemporaryFile(dir=folder) as one, tempfile.TemporaryFile(dir=folder) as other:
        one.write(b"x" * 8192)
        one.flush()
        try:
            return os.copy_file_range(one.fileno(), other.fileno(), 8192, 0) == 8192
        except (OSError, AttributeError):  # another kernel
            return False


def settings(server: Server, data_bytes: int = 0) -> dict[str, str]:
    """Return the settings that a branch of so many bytes is started with beside those of every server of ours."""
    found = SETTINGS | ({"summarize_wal": "off"} if server.installation.major >= SUMMARIZED_SINCE else {})
    buffers = min(data_bytes, in_memory.available_bytes() // BUFFERS_SHARE, MOST_BUFFERS_BYTES)
    return found | ({"shared_buffers": f"{buffers >> 20}MB"} if buffers > BUFFERS_BYTES else {})


@contextmanager
def new_server(
    postgres: Installation | None = None, *, data_bytes: int | None = None, target: str = ""
) -> Iterator[Server]:
    """Give a server that has folders and no data yet, for a rehearsal on a ``target``; its lock is held to its end.

    From its start on it reaches nothing outside. It runs on that installation, or on the one of embedded servers. Where
    the size of its data is known, these lie in memory if there is room.
    """
    clear_leftovers()
    server = Server(f"branch-{os.getpid()}-{secrets.token_hex(3)}")
    server.is_confined = True
    if postgres is not None:
        server.installation = postgres
    server.own_settings = settings(server, data_bytes or 0)
    with server.lock():
        try:
            server.make_folders(server.dir)
            isolation.isolate(server, target=target)
            if data_bytes is not None:
                in_memory.take(server, data_bytes)
            with provenance.branch(server):
                yield server
        finally:
            remove(server)


@contextmanager
def twin_of(server: Server, *, data_bytes: int, target: str = "") -> Iterator[Server]:
    """Give a running server with the same data as a branch, which is stopped meanwhile and started again.

    Nobody measures what it writes.
    """
    with new_server(server.installation, data_bytes=data_bytes, target=target) as twin:
        server.stop()
        server_copy.copy_stopped(server, twin)
        twin.superuser, twin.database = server.superuser, server.database
        twin.own_settings |= UNMEASURED
        for each in (server, twin):
            each.launch()
        yield twin


def start_empty(server: Server) -> None:
    """Start a new server with the data directory of a fresh cluster."""
    template = datadir.template(server.installation)
    server.do("mkdir", "-p", "-m", "700", "data")
    server.do("cp", "-a", f"{os.path.relpath(template / 'data', server.dir)}/.", "data")
    server.launch()


def give_up_name(server: Server, database: str, *, is_empty: bool) -> None:
    """Let a branch have the name of its source also where every cluster has a database of that name.

    Our own sessions use another one from then on. Of an ``is_empty`` server the database itself is dropped.
    """
    if database not in OF_EVERY_CLUSTER:
        return
    own = f"pgrunbook_{secrets.token_hex(3)}"
    with server.connect(purpose="branch") as conn:
        made = sql.SQL("CREATE DATABASE {} TEMPLATE template0 {}")
        conn.execute(made.format(sql.Identifier(own), file_copy(server)))
    server.database = own
    if is_empty:
        with server.connect(purpose="branch") as conn:
            conn.execute(sql.SQL("ALTER DATABASE {} IS_TEMPLATE false").format(sql.Identifier(database)))
            conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database)))


def take_name_back(server: Server) -> None:
    """Drop the database that our own sessions have used beside one of the source's name, which they use again."""
    own = server.database
    if own == POSTGRES:
        return
    server.database = POSTGRES
    with server.connect(purpose="branch") as conn:
        conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(own)))
    server.keep_facts()


def analyze(conn: Connection) -> None:
    """Take the statistics of every table that has no foreign table below it."""
    tables = [sql.SQL(str(row[0])) for row in conn.execute(load("data_branch")["analyzable"].encode())]
    if tables:
        with conn.as_target():  # expressions of indexes name what they need
            conn.execute(sql.SQL("ANALYZE {}").format(sql.SQL(", ").join(tables)))


def clear_leftovers() -> None:
    """Destroy the branches of processes that are gone."""
    for path in sorted(state_folder("servers").glob("branch-*")):
        found = NAME.fullmatch(path.name)
        if found is None or _is_in_use(found[1]):
            continue
        remove(Server(found[1]))
        if path.suffix == ".gone":
            shutil.rmtree(path, ignore_errors=True)


def of_rehearsals(target: str = "") -> list[Branch]:
    """Return the branches that rehearsals of a target, or of all, have made; who made one is at work, or was killed."""
    found = []
    for mark in sorted(state_folder("servers").glob(f"branch-*/{isolation.MARK}")):
        if not OF_BRANCHES.fullmatch(mark.parent.name):
            continue
        server = Server(mark.parent.name)
        told = isolation.made_for(server)
        if told is None or target not in ("", told[0]):
            continue
        state = BranchState.READY if _is_in_use(server.name) else BranchState.HALF_MADE
        owner = pwd.getpwuid((server.dir.with_name(f"{server.name}.lock")).stat().st_uid).pw_name
        facts = {"owner": owner, "purpose": "rehearsal", "made_at": told[1], "server": server.name, "state": state}
        facts |= {"target": told[0], "name": server.name, "provider": "cluster", "is_of_ours": True}
        found.append(Branch.model_validate(facts))
    return found


def _is_in_use(name: str) -> bool:
    """Tell whether a living process holds the lock of a branch."""
    try:
        handle = os.open(state_folder("servers") / f"{name}.lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except PermissionError:
        return True  # it is another user's
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def remove(server: Server) -> None:
    """Stop and destroy a branch, also one that is gone; where that fails, the next rehearsal does it."""
    try:
        server.stop_at_once()
        server.destroy()
    except RunbookError as exc:
        log.warning('could not remove branch "%s"; the next rehearsal tries again: %s', server.name, exc.message)
