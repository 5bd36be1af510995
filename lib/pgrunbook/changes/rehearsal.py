"""A rehearsal on an empty branch: the schema of the target, without its rows, taken up and down again.

It says before the fact which schema the plan ends in, which statements the server would refuse, and
whether each down script leads back. What depends on rows (times, locks, values) it cannot say.
"""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from pgrunbook import history as histories
from pgrunbook.branches.server import Server
from pgrunbook.changes.plan import Change, Step
from pgrunbook.changes.statements import Policy
from pgrunbook.database import connection, locks
from pgrunbook.database.connection import Connection, connect
from pgrunbook.database.schema import Snapshot, snapshot
from pgrunbook.database.schema_diff import Difference, diff
from pgrunbook.errors import StatementFailed, Unreachable
from pgrunbook.history import History
from pgrunbook.target import Target

SERVER = "rehearsal"
LIBPQ_VARIABLES = {
    "host": "PGHOST", "hostaddr": "PGHOSTADDR", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD",
    "dbname": "PGDATABASE", "service": "PGSERVICE", "sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT",
    "passfile": "PGPASSFILE", "channel_binding": "PGCHANNELBINDING", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY",
    "sslcrl": "PGSSLCRL", "sslnegotiation": "PGSSLNEGOTIATION", "gssencmode": "PGGSSENCMODE",
    "krbsrvname": "PGKRBSRVNAME", "connect_timeout": "PGCONNECT_TIMEOUT", "options": "PGOPTIONS",
    "target_session_attrs": "PGTARGETSESSIONATTRS", "require_auth": "PGREQUIREAUTH",
}  # fmt: skip


@dataclass(frozen=True)
class Way:
    """What came of taking one migration back by its down script, right after it was taken up."""

    migration: str
    proven: bool
    says: str


@dataclass(frozen=True)
class Rehearsal:
    """The schemas on the way: ``before``, and one after each change, in order.

    ``unlike`` names the objects that the branch could not copy exactly (another server version words
    them otherwise); they are left out of every comparison with the target.
    """

    before: Snapshot
    after: tuple[Snapshot, ...]
    ways: tuple[Way, ...]
    unlike: tuple[tuple[str, str], ...]

    @property
    def end(self) -> Snapshot:
        """The schema after the last change."""
        return self.after[-1] if self.after else self.before


def leave_out(history: History) -> list[str]:
    """Return what a comparison of schemas passes over: our own schema, and the history table."""
    return ["pgrunbook", history.qualified_table]


def rehearse(
    target: Target, history: History, changes: Sequence[Change], backs: Sequence[Change], here: Snapshot
) -> Rehearsal:
    """Take the changes up on an empty branch, one by one, each that has a way back also down and up again.

    ``backs`` are the down changes of the same migrations, where there are any; ``here`` is the target's
    schema now.

    Raises StatementFailed for a statement that the server refuses even without rows, Unreachable when
    no empty branch is to be had.
    Locks: pg_dump takes AccessShareLock on every table of the target, with a lock timeout of 2 s.
    """
    left = leave_out(history)
    with empty_branch(target) as conn:
        before = snapshot(conn, leave_out=left)
        unlike = tuple((d.kind, d.name) for d in diff(here, before))
        for statement in histories.prepare_table(history):
            conn.execute(statement)
        before = snapshot(conn, leave_out=left)
        after: list[Snapshot] = []
        ways: list[Way] = []
        scripts = {back.migration: back for back in backs}
        for change in changes:
            _apply(conn, change)
            after.append(snapshot(conn, leave_out=left))
            earlier = after[-2] if len(after) > 1 else before
            ways.append(_way_back(conn, change, scripts.get(change.migration), earlier, after[-1], left))
    return Rehearsal(before, tuple(after), tuple(ways), unlike)


def unexpected(promised: Snapshot, found: Snapshot, unlike: Sequence[tuple[str, str]]) -> list[Difference]:
    """Return where a schema differs from the promised one, without what could not be compared."""
    passed_over = {tuple(pair) for pair in unlike}
    return [d for d in diff(promised, found) if (d.kind, d.name) not in passed_over]


@contextmanager
def empty_branch(target: Target) -> Iterator[Connection]:
    """Give a connection to an empty copy of the target's schema, on a server of ours; dropped afterwards.

    Raises Unreachable when the schema cannot be copied.
    """
    server = Server(SERVER)
    server.start()
    name = f"empty_{os.getpid()}_{secrets.token_hex(6)}"
    branch = Target(name=f"empty branch of {target.name}", server=SERVER, database=name)
    dump = _dump(server, target)
    with server.connect(purpose="branch") as admin:
        with connect(target, purpose="copies the schema") as source:
            _make_empty_database(source, admin, name)
        try:
            _load(server, branch, dump)
            with connect(branch, purpose="rehearses") as conn:
                _limit(conn)
                yield conn
        finally:
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _make_empty_database(source: Connection, admin: Connection, name: str) -> None:
    """Make a database, and the source's roles: those are the cluster's, and owners and grants need them.

    What earlier rehearsals left is cleared away first: databases of processes that are gone, and, where
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
        there = {str(role) for (role,) in admin.execute("SELECT rolname FROM pg_catalog.pg_roles")}
        for role in sorted(wanted - there):
            admin.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(role)))
        for role in sorted(there - wanted) if not others else ():
            with suppress(psycopg.Error):  # the server's own roles, which nobody can drop
                admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
        # A C locale goes with every encoding, and no order of text is part of a schema.
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


def _limit(conn: Connection) -> None:
    connection.limit(conn, lock_timeout_ms=10_000, statement_timeout_ms=600_000)


def _dump(server: Server, target: Target) -> str:
    """The address goes by environment: arguments are seen by everybody on the machine."""
    with connect(target, purpose="copies the schema"):
        pass  # so that an address that does not work is told as everywhere
    keywords = target.conninfo()
    keywords = {**conninfo_to_dict(keywords.pop("conninfo", "")), **keywords}  # type: ignore[dict-item]
    environment = {LIBPQ_VARIABLES[k]: str(v) for k, v in keywords.items() if k in LIBPQ_VARIABLES}
    # A subscription holds the address of its publisher, and is no part of a schema.
    command = [str(server.program("pg_dump")), "--schema-only", "--no-tablespaces", "--no-subscriptions"]
    command += ["--lock-wait-timeout=2000", "--exclude-schema=pgrunbook"]
    env = {**os.environ, **environment}
    done = subprocess.run(command, env=env, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode:
        raise Unreachable(
            f'could not copy the schema of target "{target.name}"',
            detail=" ".join(done.stderr.split())[:600],
            hint="Plan without a rehearsal (rehearse = False), and know that nothing is promised then.",
        )
    return done.stdout


def _load(server: Server, branch: Target, dump: str) -> None:
    command = [str(server.program("psql")), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", str(server.socket_dir)]
    command += ["-U", "postgres", "-d", str(branch.database)]
    done = subprocess.run(command, input=dump, capture_output=True, text=True, encoding="utf-8", check=False, cwd="/")
    if done.returncode:
        raise Unreachable(
            "could not make an empty branch of the schema",
            detail=" ".join(done.stderr.split())[:600],
            hint="Plan without a rehearsal (rehearse = False), and know that nothing is promised then.",
        )


def _apply(conn: Connection, change: Change) -> None:
    together: list[Step] = []
    for step in change.steps:
        if step.policy is Policy.TOGETHER:
            together.append(step)
            continue
        _send(conn, change, together)
        together = []
        _run(conn, change, step)
    _send(conn, change, together)
    if conn.info.transaction_status == TransactionStatus.IDLE:
        connection.reset(conn)
        _limit(conn)
    else:  # what it set goes with the transaction that the caller aborts, but not into the way back
        for statement in connection.RESET_SESSION:
            conn.execute(statement.encode())


def _send(conn: Connection, change: Change, group: Sequence[Step]) -> None:
    if not group:
        return
    with conn.transaction():
        for step in group:
            _run(conn, change, step)


def _run(conn: Connection, change: Change, step: Step) -> None:
    try:
        conn.execute(step.sql.encode())
    except psycopg.Error as exc:
        raise StatementFailed(
            f"step {step.number} of {change.migration} ({step.kind}; {step.file}, line {step.line}) would fail: "
            f"{exc.diag.message_primary or ' '.join(str(exc).split())}",
            detail=exc.diag.message_detail or "It failed on an empty branch that has the target's schema.",
            state="Nothing changed in the target: it failed in a rehearsal.",
            hint=exc.diag.message_hint
            or "Correct the migration. Where it needs rows to succeed, prepare with rehearse = False.",
        ) from exc


def _way_back(
    conn: Connection, change: Change, back: Change | None, before: Snapshot, after: Snapshot, left: list[str]
) -> Way:
    """Go down and up again from right behind the change, and compare the schema at both ends."""
    if back is None:
        return Way(change.migration, False, "no down script: after this, only the restore point")
    splits = any(step.policy is Policy.ALONE for step in (*change.steps, *back.steps))
    try:
        if splits:
            return _there_and_back(conn, change, back, before, after, left)
        with conn.transaction(force_rollback=True):  # whatever comes of it, the branch stays as it was
            return _there_and_back(conn, change, back, before, after, left)
    except StatementFailed as exc:
        if splits:
            raise  # what it did until then is committed on the branch: the rest would prove nothing
        return Way(change.migration, False, f"the down script fails: {exc.message}")


def _there_and_back(
    conn: Connection, change: Change, back: Change, before: Snapshot, after: Snapshot, left: list[str]
) -> Way:
    _apply(conn, back)
    found = diff(before, snapshot(conn, leave_out=left))
    if found:
        lines = "; ".join(d.line() for d in found[:5])
        return Way(change.migration, False, f"the down script leaves another schema: {lines}")
    _apply(conn, change)
    found = diff(after, snapshot(conn, leave_out=left))
    if found:
        lines = "; ".join(d.line() for d in found[:5])
        return Way(change.migration, False, f"going up again leads to another schema: {lines}")
    return Way(change.migration, True, "down and up again: the schema is equal both times")
