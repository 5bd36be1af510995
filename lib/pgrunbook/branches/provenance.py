"""What made the server at the other end of a connection: a rehearsal may change only what branches made.

1. A copy has the system identifier and the database name of its source, so these prove nothing. Nor does the address
   alone: another server may listen there.
2. What counts is the process at the other end of the connection: it serves a data directory in our state directory.
3. Of these servers, a branch is one that this process has made, and has not removed yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pgrunbook.branches import isolation
from pgrunbook.branches.postmaster import Postmaster
from pgrunbook.branches.server import Server
from pgrunbook.branches.server_name import server_names
from pgrunbook.database.connection import Connection

PORT = 5432

_branches: set[str] = set()  # the names of the servers that this process has made as branches


@contextmanager
def branch(server: Server) -> Iterator[None]:
    """Let connections to a server count as leading to a branch meanwhile."""
    _branches.add(server.name)
    try:
        yield
    finally:
        _branches.remove(server.name)


def own_server(conn: Connection) -> Server | None:
    """Return the embedded server at the other end of a connection, None where it is no server of ours."""
    address = (conn.info.host, conn.info.port)
    for server in map(Server, server_names()):
        if address == (str(server.socket_dir), PORT):
            postmaster = Postmaster(server.data_dir, server.socket_dir)
            return server if postmaster.serves(conn.fileno()) else None
    return None


def is_branch(conn: Connection) -> bool:
    """Tell whether a connection leads to a branch of this process, which reaches nothing outside."""
    server = own_server(conn)
    return server is not None and server.name in _branches and isolation.is_isolated(server)
