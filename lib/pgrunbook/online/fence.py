"""The fence around a database that is cut over from: nobody writes in it any more, and whoever tries is told so.

A setting like default_transaction_read_only is none: any client can switch it off.

1. The database lets nobody in (ALLOW_CONNECTIONS false, which stops superusers, too), and CONNECT is revoked. In that
   order: whoever comes meanwhile is told to try again, and not that a right is missing.
2. A lock that every session takes as it begins, asked for once, waits for those that were let in just before.
3. The sessions that are left are ended, each by process id and start, until there are none but ours.
4. A session that is refused is the proof.

Source: https://www.postgresql.org/docs/current/sql-alterdatabase.html
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from pgrunbook.config.targets import Target
from pgrunbook.database import queries
from pgrunbook.database.connection import Connection, connect
from pgrunbook.database.queries import load
from pgrunbook.errors import Blocked, Broken, Refused, Unreachable

LOCK_TIMEOUT_MS = 10_000
WAIT_S, POLL_S = 30.0, 0.05
REFUSAL = "is not currently accepting connections"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Openness:
    """Whether a database lets anybody in, and who may connect to it beside its owner; "" is PUBLIC."""

    lets_in: bool
    may_connect: tuple[str, ...]


@dataclass(frozen=True)
class DatabaseSession:
    """A session in a database, by process id and start."""

    pid: int
    backend_start: datetime
    backend_type: str
    role: str
    application: str
    state: str

    def __str__(self) -> str:
        who = self.application or self.backend_type
        return f'process {self.pid} ("{who}", role {self.role or "none"}, {self.state})'


def look(admin: Connection, database: str) -> Openness:
    """Return how open a database is."""
    (row,) = queries.rows(admin, "fence", "look", database=database)
    return Openness(row["lets_in"], tuple(row["may_connect"]))


def sessions(admin: Connection, database: str, ours: Collection[int]) -> list[DatabaseSession]:
    """Return the sessions in a database that could write, but for ours, by their process ids."""
    with admin.cursor(row_factory=class_row(DatabaseSession)) as cursor:
        return cursor.execute(load("fence")["sessions"], {"database": database, "ours": list(ours)}).fetchall()


def refuse_prepared(admin: Connection, database: str) -> None:
    """Raise Refused where a prepared transaction could still be committed behind the fence, or never."""
    found = [row["gid"] for row in queries.rows(admin, "fence", "prepared", database=database)]
    if found:
        raise Refused(
            f"database {database} has prepared transactions: {', '.join(found[:5])}",
            detail="What they have written is neither there nor gone, and behind the fence nobody could decide it.",
            hint="COMMIT PREPARED or ROLLBACK PREPARED them first, in that database.",
        )


def raise_fence(
    admin: Connection, database: str, ours: Collection[int], on_end: Callable[[DatabaseSession], None]
) -> list[DatabaseSession]:
    """Let nobody in, and end all sessions but ours; return those that were ended. It may be done again at any time.

    ``on_end`` is called before each is ended. Raises Blocked where sessions do not end in time; the fence is up then.
    """
    name = sql.Identifier(database)
    admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
    for role in look(admin, database).may_connect:
        admin.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM {}").format(name, _grantee(role)))
    _wait_for_beginners(admin, name)
    ended: dict[tuple[int, datetime], DatabaseSession] = {}
    deadline = time.monotonic() + WAIT_S
    while left := sessions(admin, database, ours):
        for one in left:
            if (one.pid, one.backend_start) not in ended:
                on_end(one)
                ended[one.pid, one.backend_start] = one
                admin.execute(load("fence")["end"], {"pid": one.pid, "backend_start": one.backend_start})
        if time.monotonic() > deadline:
            raise Blocked(
                f"could not end every session in database {database} in {WAIT_S:.0f} s",
                detail="; ".join(map(str, left[:5])) + ".",
                state="The fence is up: nobody is let in. These sessions are still in it.",
                hint="End these processes, then go on with this run; or take the fence down: "
                "pgrunbook server unfence --run RUN",
            )
        time.sleep(POLL_S)
    log.info("database %s lets nobody in; %s sessions ended", database, len(ended))
    return list(ended.values())


def proof(target: Target) -> str:
    """Return what the server says to somebody who wants in. Raises Broken where it lets them in."""
    try:
        with connect(target, purpose="tries the fence") as conn:
            told = f"process {conn.info.backend_pid} was let in"
    except Unreachable as exc:
        if REFUSAL in exc.detail:
            return next(line for line in exc.detail.splitlines() if REFUSAL in line).strip()
        told = exc.detail
    raise Broken(
        "the fence does not hold",
        detail=f"A session that tried it was not refused as it should be: {told}",
        state="Programs still connect to the old database; nothing was led over.",
        hint="Somebody has let the database be connected to again: find out who, then go on with this run.",
    )


def enter(admin: Connection, target: Target, database: str) -> Connection:
    """Return a session of ours behind the fence: it is open for a moment to superusers, and up again.

    Whoever slipped in is ended by the :func:`raise_fence` that has to follow, before anything is compared.
    """
    name = sql.Identifier(database)
    admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))
    try:
        return connect(target, purpose="reads behind the fence")
    finally:
        admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))


def lower(admin: Connection, database: str, was: Openness) -> None:
    """Take the fence down: whoever could connect before can again. It may be done again."""
    name = sql.Identifier(database)
    for role in was.may_connect:
        admin.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(name, _grantee(role)))
    if was.lets_in:
        admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))


def sequences_forward(today: Connection, branch: Connection) -> list[str]:
    """Set the sequences of the branch where those of today stand, so that no number is given twice; return them."""
    there = {row["name"]: row for row in queries.rows(branch, "fence", "sequences")}
    known = {str(name) for (name,) in branch.execute("SELECT pg_catalog.format('%I.%I', s.schemaname, s.sequencename)"
                                                     " FROM pg_catalog.pg_sequences AS s")}  # fmt: skip
    moved = []
    for row in queries.rows(today, "fence", "sequences"):
        name, last = row["name"], row["last_value"]
        before = there.get(name, {}).get("last_value")
        is_behind = before is None or (before < last if row["counts_up"] else before > last)
        if name in known and is_behind:
            branch.execute("SELECT pg_catalog.setval(pg_catalog.to_regclass(%s), %s)", [name, last])
            moved.append(str(name))
    return moved


def _wait_for_beginners(admin: Connection, name: sql.Identifier) -> None:
    """Wait for sessions that have just been let in: each holds a lock on its database until it is listed.

    Renaming a database takes the lock that excludes theirs; to its own name it is refused behind that. (InitPostgres in
    src/backend/utils/init/postinit.c, RenameDatabase in src/backend/commands/dbcommands.c)
    """
    for _ in range(int(WAIT_S)):
        try:
            with admin.transaction():
                admin.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(LOCK_TIMEOUT_MS)))
                admin.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(name, name))
        except psycopg.errors.DuplicateDatabase:
            return
        except psycopg.errors.LockNotAvailable:
            continue
    raise Blocked("could not wait for sessions that begin", hint="Go on with this run.")


def _grantee(role: str) -> sql.Composable:
    return sql.Identifier(role) if role else sql.SQL("PUBLIC")
