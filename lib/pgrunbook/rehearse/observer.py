"""The observer of a rehearsal: it records from a second session what each step of a plan did to others.

1. Before a transaction (or a statement that runs alone) it records which relations there are, by the names
   that others see, and their files.
2. While a step runs, it reads the locks of its session every few milliseconds: when each was first requested,
   acquired and released. A lock counts as held from the last reading without it to the first reading that
   found it released, so never for a shorter time than it was.
3. Right after a step ran, with its transaction still open, it reads the locks once more: that is complete.
4. A relation that was rewritten has another file afterwards: within a transaction, the step's own session sees
   that; after a statement that runs alone, every session does.
5. Only what is committed counts.
6. Of a long loop, the first batches are measured, and later ones are larger, so that nobody waits for them: the
   observer's clock goes on as if all had taken as long a row as the first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType

import psycopg
from psycopg.pq import TransactionStatus

from pgrunbook.config.targets import Target
from pgrunbook.database.connection import Connection, connect
from pgrunbook.database.queries import load
from pgrunbook.errors import Unreachable
from pgrunbook.online.batches import Haste
from pgrunbook.plan.plan import Change, Step
from pgrunbook.plan.way_back import Frozen
from pgrunbook.sql.lock_modes import ACCESS_EXCLUSIVE, MODES, covers
from pgrunbook.sql.tree import quoted

POLL_S = 0.005
# After these the observer must not query in the transaction: a query would fix its snapshot before SET TRANSACTION.
NO_SNAPSHOT = ("SET", "LOCK")
MAKE_ROWS_DEAD = ("UPDATE", "DELETE")


class HeldLock(Frozen):
    """A lock on a relation that was there before, in milliseconds since the observer began.

    ``object`` and ``mode`` are spelt as in ``effects.Lock``. ``held_ms`` is shorter than from ``from_ms`` to
    ``to_ms`` where the lock was released in between.
    """

    object: str
    mode: str
    held_ms: float
    waited_ms: float
    from_ms: float
    to_ms: float


class Observation(Frozen):
    """The effects of a step, in the attempt that was committed.

    ``locks`` are those that no earlier step of its transaction held already, without the ones that a
    stronger one on the same object covers, and without those on indexes whose table is locked as strongly.
    ``rewrites`` are relations that have another file than before: TRUNCATE makes one as well.
    ``wal_bytes`` is what the whole server wrote meanwhile, not compressed. ``dead_rows`` are rows updated and deleted.
    """

    migration: str
    step: int
    attempt: int
    started_ms: float
    duration_ms: float
    rows: int | None
    wal_bytes: int
    dead_rows: int
    rewrites: tuple[str, ...]
    locks: tuple[HeldLock, ...]


@dataclass(frozen=True)
class _Relation:
    oid: int
    schema: str
    name: str
    kind: str
    table_oid: int
    file: int

    @property
    def label(self) -> str:
        return f"{quoted(self.schema)}.{quoted(self.name)}"


@dataclass
class _Trace:
    """A lock in one mode: the step that took it, and the (start, end) of each stretch held and waited for."""

    step: int
    held: list[list[float]] = field(default_factory=list)
    waits: list[list[float]] = field(default_factory=list)
    is_held: bool = False
    is_awaited: bool = False


@dataclass
class _Ran:
    """A step that is not committed yet."""

    step: Step
    attempt: int
    began: float
    wal_before: int
    ended: float = 0.0
    rows: int | None = None
    wal_bytes: int = 0
    dead_rows: int = 0
    rewrites: tuple[str, ...] = ()


@dataclass
class _Loop:
    """A loop with large batches behind those that took ``measured_s``; the last one is half full on average."""

    haste: Haste
    measured_s: float
    large: int = 0

    @property
    def would_take_s(self) -> float:
        """How long it would have taken without haste."""
        return self.measured_s * (1 + max(0.0, self.large - 0.5) * self.haste.times / self.haste.after)


@dataclass
class _Group:
    """The steps of one transaction, or one that runs alone, and what there was before."""

    alone: bool
    before: Mapping[int, _Relation]
    files: dict[int, _Relation]
    steps: list[_Ran] = field(default_factory=list)
    traces: dict[tuple[int, str], _Trace] = field(default_factory=dict)
    is_running: bool = False
    looked: float = 0.0
    dead_rows: int = 0

    def note(self, locks: Sequence[tuple[int, str, bool, float]], asked: float, answered: float) -> None:
        """Take in one reading of the locks, which was asked for and answered at these times."""
        held = {(oid, mode) for oid, mode, granted, _ in locks if granted}
        awaited = {(oid, mode): waited_ms for oid, mode, granted, waited_ms in locks if not granted}
        for key in (held | awaited.keys()) - self.traces.keys() if self.is_running else ():
            if key[0] in self.before:
                self.traces[key] = _Trace(len(self.steps) - 1)
        for key, trace in self.traces.items():
            if key in held and not trace.is_held and self.is_running:
                trace.held.append([max(self.looked, self.steps[-1].began), answered])
            elif trace.is_held:
                trace.held[-1][1] = answered
            trace.is_held = key in held and (trace.is_held or self.is_running)
            if key in awaited:
                start = answered - awaited[key] / 1000
                if trace.is_awaited:
                    start = min(start, trace.waits.pop()[0])
                trace.waits.append([start, answered])
            trace.is_awaited = key in awaited
        self.looked = asked


class Observer:
    """Observes the steps that are executed on ``conn``, from a session of its own; a context manager.

    The thread that executes calls its methods. It never changes the state of ``conn``.
    ``began`` is when it began, in seconds of ``time.monotonic``. ``haste`` is what loops are to be executed with.

    The next call raises Unreachable when its session is lost.
    """

    haste = Haste(times=5, after=25)

    def __init__(self, target: Target, conn: Connection) -> None:
        self.began = time.monotonic()
        self._saved_s = 0.0  # by large batches
        self._loop: _Loop | None = None
        self._target, self._conn, self._pid = target, conn, conn.info.backend_pid
        self._results: list[Observation] = []
        self._group: _Group | None = None
        self._mutex = threading.Lock()  # for the session, and for the group
        self._active, self._over = threading.Event(), threading.Event()
        self._lost: psycopg.Error | None = None
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def __enter__(self) -> Observer:
        self._second = connect(self._target, purpose="observes")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._active.set()
        self._thread.join()
        self._second.close()

    @property
    def results(self) -> tuple[Observation, ...]:
        """The effects of each committed step, in the order of execution."""
        return tuple(self._results)

    def begins(self, change: Change, step: Step, attempt: int) -> None:  # noqa: ARG002 - as Execution calls it
        """Called right before a step's SQL is sent, inside its transaction where it has one."""
        alone = self._conn.info.transaction_status == TransactionStatus.IDLE
        with self._mutex:
            if self._group is None or self._group.alone or alone:
                before = self._relations()
                self._group = _Group(alone, before, dict(before))
            wal = self._wal()
            self._group.steps.append(_Ran(step, attempt, self._now(), wal))
            self._group.is_running = True
            self._loop = None
        self._active.set()

    def batch(self, batches: int) -> None:
        """Called when a batch of a step is committed, with their number so far."""
        if batches == self.haste.after and self._group is not None:
            self._loop = _Loop(self.haste, self._now() - self._group.steps[-1].began)
        elif self._loop is not None:
            self._loop.large = batches - self.haste.after

    def ran(self, change: Change, step: Step, rows: int | None) -> None:  # noqa: ARG002 - as Execution calls it
        """Called right after a step ran, before its transaction is committed."""
        ended = self._now()
        with self._mutex:
            group = self._group
            if group is None:
                return
            ran = group.steps[-1]
            if self._loop is not None:
                saved_s = max(0.0, self._loop.would_take_s - (ended - ran.began))
                self._saved_s, ended = self._saved_s + saved_s, ended + saved_s
            self._look()
            group.is_running = False
            ran.ended, ran.rows, ran.wal_bytes = ended, rows, self._wal() - ran.wal_before
            if group.alone:
                writes = step.batches is not None or step.kind in MAKE_ROWS_DEAD
                ran.dead_rows = (rows or 0) if writes else 0
            elif step.kind not in NO_SNAPSHOT:
                self._ask_the_executor(group, ran)

    def committed(self, change: Change, steps: Sequence[Step]) -> None:  # noqa: ARG002 - as Execution calls it
        """Called when the transaction, or the statement that ran alone, is committed: what it did counts."""
        with self._mutex:
            group, self._group = self._group, None
            self._active.clear()
            if group is None:
                return
            now = self._now()
            for trace in group.traces.values():
                if trace.is_held:
                    trace.held[-1][1] = now
            if group.alone:
                group.steps[-1].rewrites = _rewritten(group, self._relations())
            for number, ran in enumerate(group.steps):
                self._results.append(self._observed(change, ran, self._locks(group, number)))

    def aborted(self, change: Change) -> None:  # noqa: ARG002 - as Execution calls it
        """Called when an attempt was aborted: what began in it does not count."""
        with self._mutex:
            self._group = None
            self._active.clear()

    def _poll(self) -> None:
        while not self._over.is_set():
            self._active.wait()
            try:
                with self._mutex:
                    if self._group is not None:
                        self._look()
            except Unreachable:
                return  # the next call raises it
            self._over.wait(POLL_S)

    def _look(self) -> None:
        asked = self._now()
        found = self._ask("locks", {"pid": self._pid})
        if self._group is not None:
            self._group.note(found, asked, self._now())  # type: ignore[arg-type]

    def _now(self) -> float:
        return time.monotonic() + self._saved_s

    def _wal(self) -> int:
        return int(str(self._ask("wal")[0][0]))

    def _relations(self) -> dict[int, _Relation]:
        return _by_oid(self._ask("relations", {"of": None}))

    def _ask(self, query: str, values: Mapping[str, object] | None = None) -> list[tuple[object, ...]]:
        if self._lost is not None:
            raise self._is_lost(self._lost)
        try:
            return self._second.execute(load("observer")[query].encode(), values).fetchall()
        except psycopg.Error as exc:
            self._lost = exc
            raise self._is_lost(exc) from None  # else it would look like an error of the execution

    def _is_lost(self, exc: psycopg.Error) -> Unreachable:
        return Unreachable(
            f'could not observe what the steps do on target "{self._target.name}"',
            detail=" ".join(str(exc).split()),
            hint="Find out why the server ended the session, then rehearse again.",
        )

    def _ask_the_executor(self, group: _Group, ran: _Ran) -> None:
        """Ask the step's own session what only it can see while its transaction is open."""
        if self._conn.closed or self._conn.info.transaction_status != TransactionStatus.INTRANS:
            return
        row = self._conn.execute(load("observer")["own_dead_rows"].encode()).fetchone()
        dead_rows = int(str(row[0])) if row else 0
        # TRUNCATE resets the counter.
        ran.dead_rows, group.dead_rows = max(0, dead_rows - group.dead_rows), dead_rows
        locked = [oid for (oid, mode), trace in group.traces.items() if mode == ACCESS_EXCLUSIVE and trace.is_held]
        if locked:  # else nothing can have been rewritten
            found = self._conn.execute(load("observer")["relations"].encode(), {"of": locked}).fetchall()
            ran.rewrites = _rewritten(group, _by_oid(found))

    def _observed(self, change: Change, ran: _Ran, locks: tuple[HeldLock, ...]) -> Observation:
        return Observation(
            migration=change.migration,
            step=ran.step.number,
            attempt=ran.attempt,
            started_ms=self._ms(ran.began),
            duration_ms=round((ran.ended - ran.began) * 1000, 3),
            rows=ran.rows,
            wal_bytes=ran.wal_bytes,
            dead_rows=ran.dead_rows,
            rewrites=ran.rewrites,
            locks=locks,
        )

    def _locks(self, group: _Group, number: int) -> tuple[HeldLock, ...]:
        modes: dict[int, set[str]] = {}
        ended = group.steps[number].ended  # it is seen later that a wait is over, and no wait outlasts its step
        for (oid, mode), trace in group.traces.items():
            if trace.step <= number and trace.held:
                modes.setdefault(oid, set()).add(mode)
        mine = [
            HeldLock(
                object=group.before[oid].label,
                mode=mode,
                held_ms=round(sum(end - start for start, end in trace.held) * 1000, 3),
                waited_ms=round(sum(max(0.0, min(end, ended) - start) for start, end in trace.waits) * 1000, 3),
                from_ms=self._ms(trace.held[0][0]),
                to_ms=self._ms(trace.held[-1][1]),
            )
            for (oid, mode), trace in group.traces.items()
            if trace.step == number and trace.held and not _is_covered(group.before[oid], mode, modes)
        ]
        return tuple(sorted(mine, key=lambda lock: (lock.from_ms, lock.object, lock.mode)))

    def _ms(self, moment: float) -> float:
        return round((moment - self.began) * 1000, 3)


def _by_oid(rows: Sequence[tuple[object, ...]]) -> dict[int, _Relation]:
    found = (_Relation(*row) for row in rows)  # type: ignore[arg-type]
    return {relation.oid: relation for relation in found}


def _is_covered(relation: _Relation, mode: str, modes: Mapping[int, set[str]]) -> bool:
    """Tell whether a lock is covered by another one on the same relation, or by that on an index's table."""
    if any(other != mode and covers(other, mode) for other in modes[relation.oid]):
        return True
    return any(MODES.index(other) >= MODES.index(mode) for other in modes.get(relation.table_oid, ()))


def _rewritten(group: _Group, after: Mapping[int, _Relation]) -> tuple[str, ...]:
    """Return the relations that have another file than before; an index can be recreated under its name."""
    gone = {r.label: r for r in group.files.values() if r.oid not in after and r.kind == "i"}
    found = []
    for relation in after.values():
        before = group.files.get(relation.oid) or gone.get(relation.label)
        if before is not None and relation.kind in "rmi" and relation.file != before.file:
            found.append(before.label)
    group.files.update(after)
    return tuple(sorted(found))
