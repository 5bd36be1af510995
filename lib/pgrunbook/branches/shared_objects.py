"""Roles and databases of a branch's server, which all its databases share; reset between two rehearsals on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from psycopg import sql

from pgrunbook.branches.server import Server
from pgrunbook.database.connection import Connection


@contextmanager
def reset_shared_objects(server: Server) -> Iterator[None]:
    """Undo what the body did to the server's roles and databases, so that the next rehearsal can do it again.

    A new role keeps its privileges and gets another name. A dropped role is created again, without its privileges.
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
