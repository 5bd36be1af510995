"""Roles and databases of a branch's server, which all its databases share; reset between two rehearsals on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from psycopg import sql

from pgrunbook.branches import roles
from pgrunbook.branches.roles import Roles
from pgrunbook.branches.server import Server
from pgrunbook.database.connection import Connection


@contextmanager
def reset_shared_objects(server: Server, wanted: Roles) -> Iterator[None]:
    """Undo what the body did to the server's roles and databases, so that the next rehearsal can do it again.

    A new role that a database still needs keeps its privileges and gets another name. A dropped role is created
    again, without its privileges.
    """
    with server.connect(purpose="branch") as admin:
        databases = _databases(admin)
        yield
        roles.apply(wanted, admin)
        made = _databases(admin)
        for oid in made.keys() - databases.keys():
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(made[oid])))
        for oid in databases.keys() - made.keys():
            admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(databases[oid])))


def _databases(admin: Connection) -> dict[int, str]:
    query = "SELECT d.oid, d.datname FROM pg_catalog.pg_database AS d"
    return {int(str(oid)): str(name) for oid, name in admin.execute(query).fetchall()}
