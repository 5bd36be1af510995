"""A rehearsal on an empty branch: the schema of the target, without its rows, taken up and down again.

It says before the fact which schema the plan ends in, which statements the server would refuse, and
whether each down script leads back. What depends on rows (times, locks, values) it cannot say.
"""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from pgrunbook import history as histories
from pgrunbook.branches.server import Server
from pgrunbook.changes.plan import Change, Step
from pgrunbook.changes.statements import Policy
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
    "passfile": "PGPASSFILE", "channel_binding": "PGCHANNELBINDING",
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
    name = f"empty_{secrets.token_hex(6)}"
    branch = Target(name=f"empty branch of {target.name}", server=SERVER, database=name)
    with connect(target, purpose="copies the schema") as source, server.connect(purpose="branch") as admin:
        _make_roles(source, admin)
        encoding = source.execute("SELECT pg_catalog.getdatabaseencoding()").fetchone() or ("UTF8",)
        # A C locale goes with every encoding, and no order of text is part of a schema.
        admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {} LC_COLLATE 'C' LC_CTYPE 'C'").format(
                sql.Identifier(name), sql.Literal(encoding[0])
            )
        )
        try:
            _load(server, branch, _dump(server, target))
            with connect(branch, purpose="rehearses") as conn:
                conn.execute("SET statement_timeout = '10min'; SET lock_timeout = '10s'")
                yield conn
        finally:
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _make_roles(source: Connection, admin: Connection) -> None:
    """Roles are the cluster's, not the database's: owners and grants need them on the branch as well."""
    there = {row[0] for row in admin.execute("SELECT rolname FROM pg_catalog.pg_roles")}
    for (role,) in source.execute("SELECT rolname::text FROM pg_catalog.pg_roles WHERE rolname !~ '^pg_'"):
        if role not in there:
            admin.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(str(role))))


def _dump(server: Server, target: Target) -> str:
    """The address goes by environment: arguments are seen by everybody on the machine."""
    keywords = target.conninfo()
    keywords = {**conninfo_to_dict(keywords.pop("conninfo", "")), **keywords}  # type: ignore[dict-item]
    environment = {LIBPQ_VARIABLES[k]: str(v) for k, v in keywords.items() if k in LIBPQ_VARIABLES}
    command = [
        str(server.program("pg_dump")),
        "--schema-only",
        "--no-tablespaces",
        "--lock-wait-timeout=2000",
    ]
    command.append("--exclude-schema=pgrunbook")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PG") or k in ("PGSERVICEFILE", "PGPASSFILE")}
    done = subprocess.run(command, env={**inherited, **environment}, capture_output=True, text=True, check=False)
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
    done = subprocess.run(command, input=dump, capture_output=True, text=True, check=False, cwd=Path("/"))
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
