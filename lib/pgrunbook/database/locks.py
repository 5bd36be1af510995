"""The lock that admits one run at a time, and a watch for who blocks us while we wait for a lock."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Literal

import psycopg
from psycopg import errors as pg
from psycopg.pq import TransactionStatus

from pgrunbook.config.targets import Target
from pgrunbook.database import queries
from pgrunbook.database.activity import Blocker, blockers, progress
from pgrunbook.database.connection import Connection, connect
from pgrunbook.errors import RunbookError, TargetBusy

log = logging.getLogger(__name__)

# "pgru" and "book": a pair of its own, which shows in pg_locks as classid and objid.
LOCK_KEY = (0x70677275, 0x626F6F6B)
# "pgru" and "exec": the executing session holds it; when its process dies, it lives on until the server notices.
EXECUTOR_KEY = (0x70677275, 0x65786563)
POLL_S = 0.1
# A client that waits for us has not looked for a deadlock before.
OF_DEADLOCK_TIMEOUT = 0.4
GivesWay = Literal["", "deadlock", "soon"]
# The watch reads the command's progress once in so many polls.
POLLS_PER_PROGRESS = 5


@contextmanager
def one_runner(target: Target, run_id: str, *, wait_s: float = 10.0) -> Iterator[None]:
    """Hold this database's run lock while the body runs; nobody else can migrate it meanwhile.

    The lock is requested by polling, on a session of its own that is never inside a transaction:
    a session that waits for a lock holds a snapshot, and CREATE INDEX CONCURRENTLY would wait for it.

    Raises TargetBusy when another runner still holds it after ``wait_s`` seconds.
    Locks: one session-level advisory lock, which the server releases when this process is gone.
    """
    deadline = time.monotonic() + wait_s
    with connect(target, purpose=f"holds the run lock for {run_id}") as conn:
        while not _try_lock(conn, LOCK_KEY):
            if time.monotonic() >= deadline:
                raise _in_progress(conn, target, wait_s)
            time.sleep(POLL_S)
        yield


@contextmanager
def one_executor(conn: Connection, *, wait_s: float = 30.0) -> Iterator[None]:
    """Hold the executor's lock while the body runs: only one session executes in this database.

    When a process is killed, its session goes on in the server until that is noticed, and may still commit. Its
    statement must not be taken for undone meanwhile, and must not be executed a second time.

    Raises TargetBusy when such a session is still there after ``wait_s`` seconds.
    Locks: one session-level advisory lock, on the connection itself.
    """
    deadline = time.monotonic() + wait_s
    while not _try_lock(conn, EXECUTOR_KEY):
        if time.monotonic() >= deadline:
            raise _still_at_work(conn, wait_s)
        time.sleep(POLL_S)
    try:
        yield
    finally:
        if not conn.closed and conn.info.transaction_status == TransactionStatus.IDLE:
            with suppress(psycopg.Error):  # the server releases it at the end of the session
                conn.execute("SELECT pg_catalog.pg_advisory_unlock(%s::int, %s::int)", EXECUTOR_KEY)


@contextmanager
def held(conn: Connection, keys: Sequence[int], *, of: str, wait_s: float) -> Iterator[None]:
    """Hold the advisory locks of another program while the body runs; ``of`` is its name.

    Raises TargetBusy when somebody else holds one of them for longer than ``wait_s`` seconds.
    Locks: these session-level advisory locks, on the connection itself.
    """
    deadline = time.monotonic() + wait_s
    taken: list[int] = []
    try:
        for key in keys:
            while conn.execute("SELECT pg_catalog.pg_try_advisory_lock(%s::bigint)", (key,)).fetchone() != (True,):
                if time.monotonic() >= deadline:
                    raise _other_program(of, wait_s)
                time.sleep(POLL_S)
            taken.append(key)
        yield
    finally:
        if not conn.closed and conn.info.transaction_status == TransactionStatus.IDLE:
            with suppress(psycopg.Error):  # the server releases them at the end of the session
                for key in taken:
                    conn.execute("SELECT pg_catalog.pg_advisory_unlock(%s::bigint)", (key,))


def wait_for_others(conn: Connection, target: Target, *, wait_s: float = 3.0, executor_s: float = 30.0) -> None:
    """Wait until nobody else is at work on this database, before any work is done for it.

    The session of a runner that was killed goes on until the server notices: it gets longer.

    Raises TargetBusy when a runner still holds the run lock after ``wait_s`` seconds, or an executing session its own
    after ``executor_s``.
    """
    for key, patience_s, error in ((LOCK_KEY, wait_s, _in_progress), (EXECUTOR_KEY, executor_s, None)):
        deadline = time.monotonic() + patience_s
        while run_in_progress(conn, key):
            if time.monotonic() >= deadline:
                raise error(conn, target, patience_s) if error else _still_at_work(conn, patience_s)
            time.sleep(POLL_S)


def run_in_progress(conn: Connection, key: tuple[int, int] = LOCK_KEY, *, able: bool = False) -> str:
    """Return who holds this database's run lock, as a phrase; "" when nobody does.

    Whoever may connect can take the lock; with ``able`` only our own role counts, and one that may write what
    runs write.
    """
    given = {"classid": key[0], "objid": key[1], "able": able}
    found = conn.execute(queries.load("activity")["lock_holder"], given).fetchone()
    if found is None:
        return ""
    pid, application, age_s = found
    return f'process {pid} ("{application}", for {age_s:.0f} s)'


class GaveWay(pg.DeadlockDetected):
    """A statement of ours was cancelled, because a client waited for it."""


class Watch:
    """Watches one backend from a second session and records whom it waits for, and how long.

    The session is opened only once a statement has run for ``after_s``: most never wait at all. Where it has to give
    way soon, it is opened before.
    With ``gives_way`` its statement is cancelled where it and a client wait for each other, and leaving the watch
    raises GaveWay; with "soon" also where a client waits for it, for a lock that keeps others out. Each of two that
    wait for each other looks for a deadlock once, when it has waited for deadlock_timeout (1 s), and who looks last
    is the victim: it may be the client. CREATE INDEX CONCURRENTLY waits for whoever has written or reads, and TRUNCATE
    waits for it, with all who come behind: there is no order of locks that avoids that, but to be gone before.
    ``blockers`` holds each blocker as last seen, ``waits`` the (start, end) of each wait in seconds of
    ``time.monotonic``. ``on_progress`` is called from the watching thread with the progress of a command,
    where the server reports it.
    """

    def __init__(
        self,
        target: Target,
        pid: int,
        *,
        after_s: float = 0.15,
        on_progress: Callable[[str], None] = lambda _: None,
        gives_way: GivesWay = "",
    ) -> None:
        self.blockers: dict[int, Blocker] = {}
        self.waits: list[tuple[float, float]] = []
        self.gave_way = False
        self._target, self._pid, self._after_s, self._on_progress = target, pid, after_s, on_progress
        self._gives_way = gives_way
        self._over, self._opened = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        if self._gives_way == "soon":
            self._opened.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if self.gave_way and isinstance(exc, pg.QueryCanceled):
            raise GaveWay(f"gave way to a client, which waited for it. {self.blocker_text()}".strip()) from exc

    @property
    def waited_ms(self) -> float:
        """How long the backend has waited in all, as far as the polls saw."""
        return sum(end - start for start, end in self.waits) * 1000

    def blocker_text(self) -> str:
        """Return who blocked as text, the head of the lock queue first; "" when nobody was seen."""
        heads = sorted(self.blockers.values(), key=lambda b: (b.waits_too, -b.xact_age_s))
        return " ".join(str(blocker) for blocker in heads[:3])

    def _poll(self) -> None:
        if self._gives_way != "soon" and self._over.wait(self._after_s):
            return
        try:
            with connect(self._target, purpose="watches lock waits") as conn:
                self._opened.set()
                for poll in itertools.count():
                    found = blockers(conn, self._pid)
                    self._record(found)
                    if self._gives_way == "soon" or (self._gives_way and any(one.waits_too for one in found)):
                        self._give_way(conn)
                    if poll % POLLS_PER_PROGRESS == 0:
                        self._report_progress(conn)
                    if self._over.wait(POLL_S):
                        return
        except (psycopg.Error, RunbookError) as exc:
            # The watch only adds to what the step itself reports.
            log.warning("lock waits are not watched (%s); blockers stay unnamed", _first_line(exc))
        finally:
            self._opened.set()

    def _report_progress(self, conn: Connection) -> None:
        found = progress(conn, self._pid)
        if found is not None and not self._over.is_set():
            self._on_progress(str(found))

    def _give_way(self, conn: Connection) -> None:
        """Cancel the statement, if it is still at work and in somebody's way."""
        soon = {"pid": self._pid, "soon": self._gives_way == "soon", "share": OF_DEADLOCK_TIMEOUT}
        if queries.rows(conn, "activity", "in_the_way", **soon) and not self._over.is_set():
            self.gave_way = True
            conn.execute("SELECT pg_catalog.pg_cancel_backend(%s)", [self._pid])

    def _record(self, found: list[Blocker]) -> None:
        if not found:
            return
        now = time.monotonic()
        start = now - max(blocker.waited_ms for blocker in found) / 1000
        self.blockers.update({blocker.pid: blocker for blocker in found})
        if self.waits and start <= self.waits[-1][0] + POLL_S:
            self.waits[-1] = (self.waits[-1][0], now)
        else:
            self.waits.append((start, now))


def _try_lock(conn: Connection, key: tuple[int, int]) -> bool:
    found = conn.execute("SELECT pg_catalog.pg_try_advisory_lock(%s::int, %s::int)", key).fetchone()
    return found == (True,)


def _in_progress(conn: Connection, target: Target, wait_s: float) -> TargetBusy:
    return TargetBusy(
        f'another run is in progress on target "{target.name}"',
        detail=f"The run lock is held by {run_in_progress(conn) or 'another session'}; waited {wait_s:g} s.",
        state="This run changed nothing.",
        hint="Wait until it has ended (pgrunbook runs), then run the same command again.",
    )


def _other_program(name: str, wait_s: float) -> TargetBusy:
    return TargetBusy(
        f"{name} is at work on this database",
        detail=f"Another session holds the advisory lock of {name}; waited {wait_s:g} s.",
        state="This run changed nothing.",
        hint="Wait until it has ended, then run the same command again.",
    )


def _still_at_work(conn: Connection, wait_s: float) -> TargetBusy:
    return TargetBusy(
        "could not begin: the session of an earlier run is still executing in the server",
        detail=f"It is {run_in_progress(conn, EXECUTOR_KEY) or 'another session'}; waited {wait_s:g} s.",
        state="This run changed nothing; whether that session's statement will commit is not known yet.",
        hint="Wait until it has ended, or end it with pg_terminate_backend; then run the same command again.",
    )


def _first_line(exc: BaseException) -> str:
    return str(exc).partition("\n")[0]
