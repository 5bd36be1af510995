"""What the databases of a branch share: roles, and the databases themselves; put back between two runs on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from psycopg import sql

from pgrunbook.branches.server import Server
from pgrunbook.database.connection import Connection


@contextmanager
def reset_shared_objects(server: Server) -> Iterator[None]:
    """Put back what the body did to the server's roles and databases: the other way does it once more.

    A role that was made keeps what it was granted, and only its name is given up. One that was dropped comes back
    without what it was allowed.
    """
    with server.connect(purpose="branch") as admin:
        roles, databases = _names(admin, "pg_roles"), _names(admin, "pg_database")
        yield
        now = _names(admin, "pg_roles")
        for oid, name in now.items() - roles.items():
            kept = roles.get(oid, f"plain_{oid}")
            admin.execute(sql.SQL("ALTER ROLE {} RENAME TO {}").format(sql.Identifier(name), sql.Identifier(kept)))
        for oid in roles.keys() - now.keys():
            admin.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(roles[oid])))
        made = _names(admin, "pg_database")
        for oid in made.keys() - databases.keys():
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(made[oid])))
        for oid in databases.keys() - made.keys():
            admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(databases[oid])))


def _names(admin: Connection, catalog: Literal["pg_roles", "pg_database"]) -> dict[int, str]:
    query = {"pg_roles": "SELECT oid, rolname FROM pg_catalog.pg_roles",
             "pg_database": "SELECT oid, datname FROM pg_catalog.pg_database"}  # fmt: skip
    return {int(str(oid)): str(name) for oid, name in admin.execute(query[catalog].encode()).fetchall()}
