"""What a server does right now: one sample, cheap enough for once a second; monitor and troubleshoot show it.

Each part is read under a short timeout and without waiting for a lock; what cannot be read, or may not be seen, is
said. Sizes of tables are those that VACUUM and ANALYZE have noted: to measure them would take a lock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, TypeVar

import psycopg

from pgrunbook.database import activity, connection, lock_tree, own_work, queries
from pgrunbook.database.connection import Connection
from pgrunbook.database.lock_tree import Node, ServerSession, Waiting
from pgrunbook.database.own_work import OwnWork, Paces
from pgrunbook.database.sqlstate import Meaning, meaning, said
from pgrunbook.display.prose import counted, listed
from pgrunbook.display.units import human
from pgrunbook.errors import Refused

TIMEOUT_MS, LOCK_TIMEOUT_MS = 2_000, 100
MB = 1024 * 1024
_T = TypeVar("_T")


@dataclass(frozen=True)
class VitalLimits:
    """Beyond which something is a concern; seconds, bytes, and parts of one."""

    waited_s: float = 1.0
    idle_in_transaction_s: float = 30.0
    statement_s: float = 60.0
    prepared_s: float = 300.0
    lag_bytes: int = 256 * MB
    lag_s: float = 30.0
    kept_bytes: int = 4096 * MB
    connections: float = 0.9
    dead: float = 0.2


@dataclass(frozen=True)
class Vitals:
    """A look at a server. ``unseen`` says which parts could not be read, and what others hide."""

    at: datetime
    took_ms: float
    heads: Sequence[Node]
    waiting: Mapping[int, Waiting]
    sessions: Sequence[ServerSession]
    commands: Sequence[dict[str, Any]] = ()
    standbys: Sequence[dict[str, Any]] = ()
    slots: Sequence[dict[str, Any]] = ()
    receiver: Mapping[str, Any] = field(default_factory=dict)
    archiver: Mapping[str, Any] = field(default_factory=dict)
    connections: Mapping[str, Any] = field(default_factory=dict)
    tables: Sequence[dict[str, Any]] = ()
    own: OwnWork = field(default_factory=OwnWork)
    unseen: tuple[str, ...] = ()

    def numbers(self) -> dict[str, float | int | str | None]:
        """Return what is kept of it for the pictures afterwards, one number a name."""
        idle = [s.xact_age_s or 0.0 for s in self.sessions if s.state.startswith("idle in transaction")]
        active = [s.query_age_s or 0.0 for s in self.sessions if s.state == "active" and s.kind == "client"]
        lags = [one["lag_bytes"] for one in self.standbys if one["lag_bytes"] is not None]
        return {
            "at": self.at.isoformat(timespec="milliseconds"),
            "took_ms": round(self.took_ms, 1),
            "waiting": len(self.waiting),
            "longest_wait_s": round(max((w.waited_s or 0.0 for w in self.waiting.values()), default=0.0), 3),
            "active": len(active),
            "longest_statement_s": round(max(active, default=0.0), 3),
            "idle_in_transaction": len(idle),
            "longest_idle_s": round(max(idle, default=0.0), 3),
            "connections": self.connections.get("used"),
            "lag_bytes": max(lags, default=None),
            "kept_bytes": max((s["kept_bytes"] or 0 for s in self.slots), default=None),
            "dead_rows": sum(t["dead"] for t in self.tables),
            "batch_rows_per_s": round(sum(loop.rows_per_s for loop in self.own.loops if not loop.is_quiet), 1),
        }


class Urgency(IntEnum):
    """How urgent a concern is: "now" stands first."""

    NOW = 0
    SOON = 1
    KNOW = 2


@dataclass(frozen=True)
class Concern:
    """Something that a person should know: what, of whom, and the one thing to do."""

    urgency: Urgency
    what: str
    detail: str
    todo: str
    of: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What it is known by at the next look: ages and numbers in ``detail`` differ each time."""
        return self.what, self.of or self.detail


def look(conn: Connection, paces: Paces | None = None) -> Vitals:
    """Look at the server once; a part that cannot be read is empty, and said in ``unseen``.

    ``paces`` remembers the looks before, for the rates of our own loops.

    Raises psycopg's errors where the connection is lost. Locks: none.
    """
    began, unseen = time.perf_counter(), list[str]()
    connection.limit(conn, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=TIMEOUT_MS)

    def rows(name: str, read: Callable[[], list[dict[str, Any]]] | None = None) -> list[dict[str, Any]]:
        return _part(conn, unseen, name, read or (lambda: queries.rows(conn, "vitals", name))) or []

    sessions = _part(conn, unseen, "sessions", lambda: lock_tree.sessions(conn)) or []
    waiting = _part(conn, unseen, "waits", lambda: lock_tree.waits(conn)) or {}
    hidden = sum(session.is_hidden for session in sessions)
    if hidden:
        unseen.append(f"state and query of {counted(hidden, 'session')} of others: GRANT pg_monitor shows them")
    own = _part(conn, unseen, "runs of pgrunbook", lambda: own_work.read(conn)) or OwnWork()
    found = Vitals(
        at=datetime.now(UTC),
        took_ms=0.0,
        heads=lock_tree.tree_of(sessions, waiting),
        waiting=waiting,
        sessions=sessions,
        commands=rows("commands"),
        standbys=rows("standbys"),
        slots=rows("slots"),
        receiver=next(iter(rows("receiver")), {}),
        archiver=next(iter(rows("archiver", lambda: activity.rows(conn, "archiver"))), {}),
        connections=next(iter(rows("connections")), {}),
        tables=rows("tables"),
        own=replace(own, loops=(paces or Paces()).of(own.loops)),
    )
    return replace(found, took_ms=(time.perf_counter() - began) * 1000, unseen=tuple(unseen))


def _part(conn: Connection, unseen: list[str], name: str, read: Callable[[], _T]) -> _T | None:
    try:
        return read()
    except Refused as exc:
        unseen.append(f"{name}: {exc.message}")
        return None
    except psycopg.Error as exc:
        if meaning(exc) is Meaning.LOST or conn.closed:
            raise
        unseen.append(f"{name}: {said(exc)}")
        return None


def concerns(seen: Vitals, limits: VitalLimits = VitalLimits()) -> list[Concern]:
    """Return what a person should know of a sample, the most urgent first."""
    found = [
        *_blocking(seen, limits),
        *_old(seen, limits),
        *_replication(seen, limits),
        *_rest(seen, limits),
        *(Concern(Urgency.KNOW, "not seen", one, "ask for the right, or look elsewhere") for one in seen.unseen),
    ]
    return sorted(found, key=lambda concern: concern.urgency)


def to_do(session: ServerSession) -> str:
    """Return the one thing to do about a session that stands in the way: the gentlest that helps."""
    if session.is_ours:
        return "wait: it is a run of pgrunbook (pgrunbook runs), which gives its locks back"
    if session.is_hidden:
        return "ask its owner: GRANT pg_monitor shows what it does, and pg_signal_backend lets one end it"
    match session.kind:
        case "prepared transaction":
            return "let its coordinator end it; else COMMIT PREPARED or ROLLBACK PREPARED, as pgrunbook doctor shows"
        case "autovacuum" if session.prevents_wraparound:
            return "wait: it prevents wraparound, and begins again when it is cancelled"
        case "autovacuum":
            return "wait: the server cancels it for who waits longer than deadlock_timeout"
        case "walsender" | "background":
            return "look into its log: nobody should cancel a process of the server"
    if session.state.startswith("idle in transaction"):
        return "ask its owner to end the transaction; only terminating it helps else: pgrunbook doctor"
    return "wait for its end, or cancel the statement: pgrunbook doctor"


def _blocking(seen: Vitals, limits: VitalLimits) -> Iterator[Concern]:
    for head in seen.heads:
        below = [node for _, node in head.walk() if node.waits and node is not head]
        longest = max((node.waits.waited_s or 0.0 for node in below if node.waits), default=0.0)
        urgency = Urgency.NOW if longest >= limits.waited_s else Urgency.KNOW
        if any(node.is_cycle for node in below):
            detail = (
                f"{counted(head.blocks + 1, 'session')} wait for each other: {listed([head.session, *_names(below)])}"
            )
            yield Concern(
                Urgency.NOW,
                "a deadlock",
                detail,
                "wait: the server ends one of them after deadlock_timeout",
                head.session.key,
            )
            continue
        objects = listed(list(dict.fromkeys(node.waits.object for node in below if node.waits)), 3)
        detail = f"{head.session}, {_doing(head.session)}: {counted(head.blocks, 'session')} wait for {objects}"
        detail += f", the longest for {longest:.1f} s"
        yield Concern(urgency, "blocks others", detail, to_do(head.session), head.session.key)


def _names(nodes: Sequence[Node]) -> Iterator[ServerSession]:
    yield from dict.fromkeys(node.session for node in nodes if not node.is_cycle)


def _doing(session: ServerSession) -> str:
    if session.is_hidden:
        return "whose state is hidden"
    since = f" for {session.state_age_s:.0f} s" if session.state_age_s is not None else ""
    query = f" ({' '.join(session.query.split())[:80]})" if session.query else ""
    return f"{session.state or 'at work'}{since}{query}"


def _old(seen: Vitals, limits: VitalLimits) -> Iterator[Concern]:
    heads = {head.session.key for head in seen.heads}
    for one in sorted(seen.sessions, key=lambda session: -(session.xact_age_s or 0.0)):
        if one.key in heads or one.is_ours:
            continue
        age = one.xact_age_s or 0.0
        if one.gid and age >= limits.prepared_s:
            yield Concern(Urgency.SOON, "a prepared transaction", f"{one}, for {age:.0f} s", to_do(one), one.key)
        elif one.state.startswith("idle in transaction") and (one.state_age_s or 0.0) >= limits.idle_in_transaction_s:
            yield Concern(Urgency.SOON, "idle in transaction", f"{one}, {_doing(one)}", to_do(one), one.key)
        elif one.state == "active" and one.kind == "client" and (one.query_age_s or 0.0) >= limits.statement_s:
            yield Concern(Urgency.SOON, "a long statement", f"{one}, {_doing(one)}", to_do(one), one.key)


def _replication(seen: Vitals, limits: VitalLimits) -> Iterator[Concern]:
    for one in seen.standbys:
        bytes_, seconds = one["lag_bytes"], one["lag_s"] or 0.0
        if bytes_ is None:
            continue
        if bytes_ >= limits.lag_bytes or seconds >= limits.lag_s:
            detail = f"{one['name']} ({one['client']}) is {human(bytes_)} and {seconds:.0f} s behind"
            yield Concern(
                Urgency.SOON, "a standby lags", detail, "slow down what writes much: batches, index builds", one["name"]
            )
    behind = seen.receiver.get("lag_bytes") or 0
    if seen.receiver.get("is_paused") or behind >= limits.lag_bytes:
        told = "replay is paused" if seen.receiver["is_paused"] else f"{human(behind)} are received and not replayed"
        yield Concern(Urgency.SOON, "this standby lags", told, "pg_wal_replay_resume(), or see what blocks replay", "-")
    for one in seen.slots:
        if one["wal_status"] == "lost":
            yield Concern(
                Urgency.SOON, "a slot is lost", f"{one['name']}: its WAL is gone", "its reader begins anew", one["name"]
            )
        elif (one["kept_bytes"] or 0) >= limits.kept_bytes:
            who = "its reader lags" if one["active"] else "nobody reads it"
            detail = f"{one['name']} keeps {human(one['kept_bytes'])} of WAL: {who}"
            todo = "see to its reader; one that nobody needs is dropped: pgrunbook doctor"
            yield Concern(Urgency.SOON, "a slot keeps WAL", detail, todo, one["name"])


def _rest(seen: Vitals, limits: VitalLimits) -> Iterator[Concern]:
    if (order := seen.own.order) is not None:
        asked = f"{order.asked_by} asks batches to {order.command}: {order.reason}"
        yield Concern(Urgency.SOON, "batches stand still", asked, "mend what that names", order.reason)
    if seen.archiver.get("failing"):
        detail = f"{seen.archiver['last_failed_wal']} failed at {seen.archiver['last_failed_utc']} UTC"
        yield Concern(
            Urgency.SOON, "WAL is not archived", detail, "see the server's log: pg_wal grows until it works", "-"
        )
    used, most = seen.connections.get("used"), seen.connections.get("most")
    if used is not None and most and used >= limits.connections * most:
        yield Concern(
            Urgency.NOW, "connections run out", f"{used} of {most}", "find who opens them; a pooler bounds them"
        )
    for one in seen.tables:
        if one["dead"] >= max(10_000, limits.dead * one["live"]):
            detail = f"{one['name']}: {one['dead']:,} dead rows beside {one['live']:,}"
            yield Concern(
                Urgency.KNOW, "dead rows", detail, "an old transaction may keep VACUUM from removing them", one["name"]
            )
