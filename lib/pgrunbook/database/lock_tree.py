"""Who blocks whom: each waiting session under those that it waits for; monitor and troubleshoot show it.

The server says whom a process waits for (pg_blocking_pids); prepared transactions, which have no process, are found by
the locks that they hold. A cycle is a deadlock that the server has not broken yet. Nothing here waits for a lock or
locks anything; pg_blocking_pids locks the lock manager for a moment, and is asked for waiting processes only.

Sources: https://www.postgresql.org/docs/current/view-pg-locks.html,
https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-INFO-SESSION
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from psycopg.rows import class_row

from pgrunbook.database import queries
from pgrunbook.database.connection import APPLICATION, Connection
from pgrunbook.sql.lock_modes import CONFLICTS

Kind = Literal["client", "parallel worker", "autovacuum", "walsender", "background", "prepared transaction"]
_KINDS: Mapping[str, Kind] = {
    "client backend": "client",
    "parallel worker": "parallel worker",
    "autovacuum worker": "autovacuum",
    "walsender": "walsender",
    "prepared transaction": "prepared transaction",
}


@dataclass(frozen=True)
class ServerSession:
    """A session, a background process, or a prepared transaction (``pid`` 0, known by ``gid``).

    Ages are in seconds, None where there is none or the server hides it. With ``is_hidden`` it shows neither state nor
    query of others: that takes pg_monitor. ``leader_pid`` is that of the session for which a parallel worker works.
    """

    pid: int
    backend_start: datetime | None
    leader_pid: int
    backend_type: str
    application: str
    username: str
    database: str
    client: str
    state: str
    wait_event: str
    xact_age_s: float | None
    query_age_s: float | None
    state_age_s: float | None
    has_written: bool
    query: str
    is_hidden: bool
    gid: str
    transaction: str
    is_own_role: bool = False

    @property
    def kind(self) -> Kind:
        """What kind of session it is; processes of the server and of extensions are "background"."""
        return _KINDS.get(self.backend_type, "background")

    @property
    def is_ours(self) -> bool:
        """Whether it has the name of a run's session, and our own role or one that may write what runs write."""
        return self.is_own_role and self.application.startswith(f"{APPLICATION} ")

    @property
    def prevents_wraparound(self) -> bool:
        """Whether it is an autovacuum that the server does not cancel for those who wait."""
        return self.kind == "autovacuum" and "(to prevent wraparound)" in self.query

    @property
    def key(self) -> str:
        """What names it and no later one: process and start, or the name of the prepared transaction."""
        if self.kind == "prepared transaction":
            return f"prepared:{self.gid}"
        return f"{self.pid}@{self.backend_start:%Y%m%dT%H%M%S.%fZ}" if self.backend_start else f"{self.pid}@hidden"

    def __str__(self) -> str:
        who = f'"{self.application}"' if self.application else f"a {self.backend_type or 'process'} without a name"
        if self.kind == "prepared transaction":
            return f'prepared transaction "{self.gid}" of {self.username}'
        name = f"process {self.pid} ({who}{f' of {self.username}' if self.username else ''}"
        return f"{name}{f', from {self.client}' if self.client else ''})"


@dataclass(frozen=True)
class Waiting:
    """What a session waits for: the mode, spelt as in pg_locks, the object, and for how many seconds.

    ``holders`` hold a lock on it that conflicts, each with its mode; ``ahead`` only stand before it in the queue. Both
    are process ids; prepared transactions are known by their transaction ids, which are texts.
    """

    mode: str
    object: str
    waited_s: float | None
    holders: Mapping[int | str, str]
    ahead: tuple[int, ...]

    def above(self) -> tuple[int | str, ...]:
        """Return under whom it stands: all who hold the lock, or else the last one who is before it in the queue."""
        return tuple(self.holders) or self.ahead[-1:]


@dataclass
class Node:
    """A session in the tree: ``waits`` is None for the head of a queue; ``below`` wait for it.

    ``holds`` is the mode in which it blocks them, "" where they only queue behind it. ``blocks`` is the number of
    sessions that wait for it, also behind others. A session that waits for several stands under each; what is below it
    is told once, and ``is_told`` marks the other places. ``is_cycle`` marks a session that stands above itself: with
    those in between, it is a deadlock.
    """

    session: ServerSession
    waits: Waiting | None = None
    holds: str = ""
    blocks: int = 0
    below: list[Node] = field(default_factory=list)
    is_told: bool = False
    is_cycle: bool = False

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Node]]:
        """Yield it and all below with their depth, each before those that wait for it."""
        yield depth, self
        for node in self.below:
            yield from node.walk(depth + 1)


def sessions(conn: Connection) -> list[ServerSession]:
    """Return every session of the server but this one, and every prepared transaction."""
    with conn.cursor(row_factory=class_row(ServerSession)) as cursor:
        return cursor.execute(queries.load("lock_tree")["sessions"]).fetchall()


def lock_tree(conn: Connection) -> list[Node]:
    """Return the heads of the lock queues of all databases, those that block most first; [] where nobody waits.

    Locks: none.
    """
    return tree_of(sessions(conn), waits(conn))


def waits(conn: Connection) -> dict[int, Waiting]:
    """Return what each waiting process waits for, those who have waited longest first."""
    found: dict[int, Waiting] = {}
    for row in queries.rows(conn, "lock_tree", "waits"):
        conflicting = CONFLICTS.get(row["mode"], frozenset())
        blockers = tuple(dict.fromkeys(row["blockers"]))
        holders: dict[int | str, str] = {}
        for pid, transaction, mode in row["held"]:
            if mode in conflicting and pid in blockers:
                holders[pid or str(transaction)] = mode
        ahead = tuple(pid for pid in blockers if pid and pid not in holders)
        found[row["pid"]] = Waiting(row["mode"], _object(row), row["waited_s"], holders, ahead)
    return found


def tree_of(found: Sequence[ServerSession], waiting: Mapping[int, Waiting]) -> list[Node]:
    """Return the heads of the queues, from sessions and waits that were read one after the other.

    Who has ended in between is left out.
    """
    known: dict[int | str, ServerSession] = {session.transaction or session.pid: session for session in found}
    below: dict[int | str, list[int]] = {}
    for pid, waits_ in waiting.items():
        for key in waits_.above():
            if pid in known and key in known:
                below.setdefault(key, []).append(pid)
    told: set[int | str] = set()

    def node(key: int | str, above: frozenset[int | str]) -> Node:
        waits_ = waiting.get(key) if isinstance(key, int) else None
        modes = (waiting[pid].holders.get(key, "") for pid in below.get(key, ()))
        made = Node(known[key], waits_, next(filter(None, modes), ""), len(_reached(below.get(key, ()), below) - {key}))
        made.is_cycle, made.is_told = key in above, key in told
        if not made.is_cycle and not made.is_told:
            told.add(key)
            made.below = [node(pid, above | {key}) for pid in below.get(key, ())]
        return made

    heads: list[int | str] = [key for key in below if key not in waiting]
    reached = _reached(heads, below)
    for pid in waiting:
        if (
            pid in known and pid not in reached and pid in _reached(below.get(pid, ()), below)
        ):  # a cycle, without a head
            heads.append(pid)
            reached |= _reached([pid], below)
    return sorted((node(key, frozenset()) for key in heads), key=lambda made: -made.blocks)


def _reached(keys: Iterable[int | str], below: Mapping[int | str, Sequence[int]]) -> set[int | str]:
    todo, seen = list(keys), set[int | str]()
    while todo:
        key = todo.pop()
        if key not in seen:
            seen.add(key)
            todo += below.get(key, ())
    return seen


def _object(row: Mapping[str, str]) -> str:
    match row["kind"]:
        case "relation":
            return row["relation"]
        case "transactionid":
            return "a row that another transaction has changed"
        case "virtualxid":
            return "another transaction to end"
        case "tuple":
            return f"a row of {row['relation']}"
        case "advisory":
            return f"advisory lock ({row['key']})"
        case kind:
            return f"{kind} of {row['relation']}" if row["relation"] else kind
