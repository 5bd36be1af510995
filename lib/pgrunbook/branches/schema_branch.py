"""An empty branch: a copy of the target's schema without its rows, on a server of ours; rehearsals run on it."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pglast
import psycopg
from pglast import ast
from pglast.enums import ObjectType
from psycopg import sql

from pgrunbook.branches import isolation
from pgrunbook.branches.server import Server
from pgrunbook.config.targets import Target
from pgrunbook.database import connection, locks
from pgrunbook.database.connection import Connection, connect
from pgrunbook.errors import Unreachable

SERVER = "rehearsal"


@dataclass(frozen=True)
class SchemaCopy:
    """A dump of a target's schema, from which branches are created, one after the other.

    ``roles`` are those that a rehearsal creates: they belong to the server, and the next branch must not find them.
    ``has_ours`` says whether schema pgrunbook is included, without rows.
    """

    target: Target
    server: Server
    dump: str
    roles: frozenset[str] = frozenset()
    has_ours: bool = False

    @contextmanager
    def branch(self) -> Iterator[Target]:
        """Give an empty database with the schema; drop it afterwards, with what was created on the server beside it.

        Raises Unreachable when the schema cannot be copied.
        """
        name = f"empty_{os.getpid()}_{secrets.token_hex(6)}"
        found = {"name": f"empty branch of {self.target.name}", "server": self.server.name, "database": name}
        branch = self.target.model_copy(update={"service": None, "url_from": None, **found})
        with self.server.connect(purpose="branch") as admin:
            there, roles = _databases(admin), _roles(admin)
            with connect(self.target, purpose="copies the schema") as source:
                _make_empty_database(source, admin, name)
            try:
                _load(self.server, branch, self.dump)
                isolation.close(self.server, name)
                _fill_views(self.target, branch)
                yield branch
            finally:
                made = {other for other in _databases(admin) - there if not other.startswith("empty_")}
                for other in (name, *sorted(made)):
                    _drop_subscriptions(self.server, admin, other)
                    admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(other)))
                for role in sorted(self.roles - roles):
                    _drop_role(admin, role)


def _drop_subscriptions(server: Server, admin: Connection, database: str) -> None:
    """Drop the subscriptions that a statement made on a branch; no publisher is asked."""
    query = (
        "SELECT s.subname FROM pg_catalog.pg_subscription AS s JOIN pg_catalog.pg_database AS d ON d.oid = s.subdbid"
        " WHERE d.datname = %s"
    )
    for (subscription,) in admin.execute(query, [database]).fetchall():
        named = sql.Identifier(str(subscription))
        with server.connect(purpose="branch", database=database) as conn:
            for verb in ("ALTER SUBSCRIPTION {} DISABLE", "ALTER SUBSCRIPTION {} SET (slot_name = NONE)"):
                conn.execute(sql.SQL(verb).format(named))
            conn.execute(sql.SQL("DROP SUBSCRIPTION {}").format(named))


def copy_schema(target: Target, scripts: Sequence[str] = (), *, ours: bool = False) -> SchemaCopy:
    """Read the target's schema; ``scripts`` are what will be executed on its branches. Raises Unreachable.

    With ``ours`` it includes schema pgrunbook and the parked tables, without their rows.

    Locks: pg_dump takes AccessShareLock on every table of the target, with a lock timeout of 2 s.
    """
    server = Server(SERVER)
    _start(server)
    return SchemaCopy(target, server, _dump(server, target, ours=ours), frozenset(made_roles(scripts)), ours)


def _start(server: Server) -> None:
    """Start the server of empty branches as one that reaches nothing outside, whatever is executed there."""
    with server.lock():
        server.start()
        if not isolation.is_isolated(server):
            server.stop()
            isolation.isolate(server)
            server.start()


def made_roles(scripts: Sequence[str]) -> Iterator[str]:
    """Yield the names of the roles that scripts create, and the new names that they give to roles."""
    for script in scripts:
        for item in pglast.parse_sql(script):
            if isinstance(item.stmt, ast.CreateRoleStmt):
                yield str(item.stmt.role)
            elif isinstance(item.stmt, ast.RenameStmt) and item.stmt.renameType == ObjectType.OBJECT_ROLE:
                yield str(item.stmt.newname)


def _databases(admin: Connection) -> set[str]:
    return {str(name) for (name,) in admin.execute("SELECT d.datname FROM pg_catalog.pg_database AS d")}


def _roles(admin: Connection) -> set[str]:
    return {str(name) for (name,) in admin.execute("SELECT r.rolname FROM pg_catalog.pg_roles AS r")}


def _drop_role(admin: Connection, role: str) -> None:
    with suppress(psycopg.Error):  # the server's own roles cannot be dropped, nor those that others use
        admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))


def _make_empty_database(source: Connection, admin: Connection, name: str) -> None:
    """Create a database and the source's roles: roles belong to the cluster, and owners and grants need them.

    What earlier rehearsals left is dropped first: databases of processes that are gone, and, where
    nobody else rehearses now, the roles that their migrations created.
    """
    encoding = source.execute("SELECT pg_catalog.getdatabaseencoding()").fetchone() or ("UTF8",)
    wanted = {
        str(role) for (role,) in source.execute("SELECT rolname FROM pg_catalog.pg_roles WHERE rolname !~ '^pg_'")
    }
    connection.limit(admin, lock_timeout_ms=60_000, statement_timeout_ms=60_000)
    admin.execute("SELECT pg_catalog.pg_advisory_lock(%s, %s)", locks.LOCK_KEY)
    try:
        others = _clear_databases(admin)
        there = _roles(admin)
        for role in sorted(wanted - there):
            admin.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(role)))
        for role in sorted(there - wanted) if not others else ():
            _drop_role(admin, role)
        # Locale C works with every encoding, and the sort order of text is no part of a schema.
        admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {} LC_COLLATE 'C' LC_CTYPE 'C'").format(
                sql.Identifier(name), sql.Literal(encoding[0])
            )
        )
    finally:
        admin.execute("SELECT pg_catalog.pg_advisory_unlock(%s, %s)", locks.LOCK_KEY)


def _clear_databases(admin: Connection) -> list[str]:
    """Drop the branches of processes that are gone; return those of living ones."""
    found = admin.execute("SELECT datname FROM pg_catalog.pg_database WHERE datname ~ '^empty_[0-9]+_'").fetchall()
    living = []
    for (database,) in found:
        if _is_alive(int(str(database).split("_")[1])):
            living.append(str(database))
        else:
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(str(database))))
    return living


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is another user's
    return True


def _dump(server: Server, target: Target, *, ours: bool) -> str:
    """The address is in the environment: everybody on the machine can see a program's arguments."""
    with connect(target, purpose="copies the schema"):
        pass  # so that an address that does not work raises the usual error
    # A subscription holds the address of its publisher, and is no part of a schema.
    command = [str(server.program("pg_dump")), "--schema-only", "--no-tablespaces", "--no-subscriptions"]
    command += ["--lock-wait-timeout=2000"]
    command += [] if ours else ["--exclude-schema=pgrunbook", "--exclude-schema=pgrunbook_kept_*"]
    env = {**os.environ, **connection.environment(target)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode:
        raise Unreachable(
            f'could not copy the schema of target "{target.name}"',
            detail=" ".join(done.stderr.split())[:600],
            hint="Plan without a rehearsal (rehearse = False); then nothing is promised about its result.",
        )
    return done.stdout


def _fill_views(target: Target, branch: Target) -> None:
    """Refresh the materialized views that hold rows in the target: the dump leaves them WITH NO DATA.

    A view whose query fails without rows stays unpopulated, and differs from the target's.
    """
    query = (
        "SELECT n.nspname, c.relname FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n"
        " ON n.oid = c.relnamespace WHERE c.relkind = 'm' AND c.relispopulated ORDER BY c.oid"
    )
    with connect(target, purpose="copies the schema") as source:
        views = source.execute(query).fetchall()
    with connect(branch, purpose="rehearses") as conn:
        connection.limit(conn, lock_timeout_ms=10_000, statement_timeout_ms=60_000)
        for view in views:
            with suppress(psycopg.Error):
                conn.execute(sql.SQL("REFRESH MATERIALIZED VIEW {}").format(sql.Identifier(*map(str, view))))


def _load(server: Server, branch: Target, dump: str) -> None:
    command = [str(server.program("psql")), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", str(server.socket_dir)]
    command += ["-U", "postgres", "-d", str(branch.database)]
    done = subprocess.run(command, input=dump, capture_output=True, text=True, encoding="utf-8", check=False, cwd="/")
    if done.returncode:
        raise Unreachable(
            "could not create an empty branch of the schema",
            detail=" ".join(done.stderr.split())[:600],
            hint="Plan without a rehearsal (rehearse = False); then nothing is promised about its result.",
        )
