"""The throttle of a loop of transactions: when the next one may begin, and how many rows it takes.

1. Between two transactions the loop calls :meth:`Throttle.turn`. It obeys the control rows (``database.control``),
   waits while something has to be spared (``online.brakes``), and rests.
2. After each one it calls :meth:`Throttle.worked`. The next batch aims at ``batch_ms``: it grows by a fifth at most,
   shrinks at once (as GitLab's batch optimizer), and is halved where a lock or the statement timed out.
   One that takes long for other reasons than its rows (a machine that is busy) is not shrunk: more of them cost more.
3. A rest is a multiple of the work before it. Four times a second it is set anew, from the latency of small
   transactions on the table (``online.latency``): longer where that is above its goal, shorter where it is well below,
   down to a fifth of the time.
   Where others make it slow already while the loop rests, the goals are relative to that: to stand still helps nobody.
   To know that, a loop beside slow transactions rests every few seconds for long enough to listen.
4. Where nobody else is at work (``online.brakes``) it does not rest, unless a person has slowed it down: what is slow
   then, as each page's first change behind a checkpoint, is slow for us only. Once a second it looks whether they came.

Whatever holds locks across turns breaks the promise: call it outside of any transaction.
Source: https://docs.gitlab.com/ee/development/database/batched_background_migrations.html,
https://github.com/github/gh-ost/blob/master/doc/throttle.md
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace

from psycopg import sql

from pgrunbook.config.targets import Target
from pgrunbook.database import control
from pgrunbook.database.connection import Connection
from pgrunbook.database.control import Obedience, Order
from pgrunbook.display import progress
from pgrunbook.errors import Blocked, WrongInput
from pgrunbook.online.brakes import Brake, BrakeLimits, Brakes
from pgrunbook.online.latency import LatencyProbe

LOOK_S, STEER_S = 1.0, 0.25
GROWS_BY = 1.2
LEAST_PROBES = 5
# The rest behind a batch, as a multiple of its time: half of the time at first.
FIRST_REST, LEAST_REST, MOST_REST, MORE = 1.0, 0.2, 20.0, 1.25
# So much it rests where it has once rested and others are at work: their backlog on a busy machine shows in no probe.
FOR_OTHERS = 0.25
ABOVE_IDLE = 2.0
LISTEN_EVERY_S, LISTEN_S = 4.0, 0.3
OVER_S = 1.0  # probes of the last second: fewer of them tell more of chance than of us
LONGEST_REST_S = 5.0
MOST_SAMPLES = 4_000


@dataclass(frozen=True)
class ThrottleGoals:
    """What a throttle aims at: the latency of others, the time and the rows of a batch; how long it waits at most.

    With ``halves`` a batch whose lock or statement times out is halved; else that ends the loop.
    """

    latency_ms: float = 20.0
    batch_ms: float = 50.0
    least_rows: int = 10
    most_rows: int = 20_000
    patience_s: float = 1_800.0
    halves: bool = True
    brakes: BrakeLimits = field(default_factory=BrakeLimits)


@dataclass(frozen=True)
class ThrottleSample:
    """What a loop was at, some seconds after its begin: rows so far, latency of others, rest, rows of a batch."""

    at_s: float
    rows: int
    latency_ms: float | None
    rest: float
    batch_rows: int


@dataclass(frozen=True)
class ThrottleWait:
    """A time in which the loop stood still, and why."""

    at_s: float
    waited_s: float
    why: str


@dataclass
class Throttle:
    """The throttle of one loop on a table (its OID), on the loop's connection.

    ``rows`` is the size of the next batch. ``probe`` measures the latency of others; without one, that of the loop's
    own COMMIT is all that is known. ``on_wait`` is called when the loop begins to wait, ``on_pause`` for a command.
    ``run_id`` names the run whose pace and commands a person may change. ``refuse`` is called at each turn, and while
    it waits: what it raises ends the loop.
    """

    conn: Connection
    table: int
    goals: ThrottleGoals = field(default_factory=ThrottleGoals)
    rows: int = 1_000
    probe: LatencyProbe | None = None
    run_id: str = control.ALL
    on_wait: Callable[[Brake], None] = lambda _: None
    on_pause: Callable[[Order], None] = lambda _: None
    refuse: Callable[[], None] = lambda: None
    samples: list[ThrottleSample] = field(default_factory=list, init=False)
    waits: list[ThrottleWait] = field(default_factory=list, init=False)
    rest: float = field(default=FIRST_REST, init=False)
    latency_ms: float | None = field(default=None, init=False)
    idle_ms: float | None = field(default=None, init=False)
    pace: float = field(default=1.0, init=False)
    is_alone: bool = field(default=False, init=False)
    worked_s: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._obedience = Obedience(self.conn, self._paused, run_id=self.run_id)
        self._brakes = Brakes(self.conn, self.table, self.goals.brakes)
        self._began = self._steered_at = time.monotonic()
        self._looked_at, self._owed_s, self._commit_ms, self._done, self._pause = -LOOK_S, 0.0, 0.0, 0, ""
        self._listened_at = float("-inf")

    @property
    def unseen(self) -> tuple[str, ...]:
        """What could not be seen or measured, and so throttles nothing."""
        return (*self._brakes.unseen.values(), *([self.probe.unseen] if self.probe and self.probe.unseen else []))

    def turn(self) -> None:
        """Return when the next transaction may begin.

        Raises Interrupted where the run is told to stop, Blocked where a reason to wait lasts longer than
        ``patience_s``, or a pause of all batches longer than ``control.PAUSE_AT_MOST_S``.
        """
        self._obey()
        if time.monotonic() - self._looked_at >= LOOK_S:
            self._look()
        rest_s = self._rest_s()
        if rest_s > 0:
            with self.probe.resting() if self.probe is not None else nullcontext():
                time.sleep(rest_s)
            self._owed_s = 0.0

    def worked(
        self, took_s: float, rows: int, *, asked: int = 0, commit_s: float = 0.0, statement_s: float | None = None
    ) -> None:
        """Learn from a batch: how long it took with its COMMIT, the rows it wrote, the rows that it was to look at.

        ``statement_s`` is what the statement took of that time.
        """
        if self.probe is not None and time.monotonic() - self._began > STEER_S:
            self.probe.begin()
        self._done, self.worked_s = self._done + rows, self.worked_s + took_s
        self._commit_ms = max(self._commit_ms, commit_s * 1000)
        self._owed_s += took_s * self.rest
        if not asked or asked >= self.rows:  # a last batch, which is smaller, tells nothing about a whole one
            self._resize(took_s, took_s if statement_s is None else statement_s)
        if time.monotonic() - self._steered_at >= STEER_S:
            self._steer()

    def _rest_s(self) -> float:
        if not self.rests:
            self._owed_s = 0.0
            return 0.0
        rest_s, now = min(self._owed_s, LONGEST_REST_S), time.monotonic()
        if rest_s >= LISTEN_S:
            self._listened_at = now
        elif (
            self.probe is not None
            and (self.latency_ms or 0.0) > self.goals.latency_ms
            and now - self._listened_at >= LISTEN_EVERY_S
        ):
            rest_s, self._listened_at = LISTEN_S, now
        return rest_s

    @property
    def rests(self) -> bool:
        """Whether there is somebody to rest for, or a person who wants it slower."""
        return not self.is_alone or self.pace < 1.0

    @property
    def can_halve(self) -> bool:
        """Whether a batch that timed out may be tried again with fewer rows."""
        return self.goals.halves and self.rows > self.goals.least_rows

    def failed(self) -> None:
        """Halve the next batch: a lock or the statement timed out."""
        self.rows = max(self.goals.least_rows, self.rows // 2)
        self._owed_s = max(self._owed_s, self.goals.batch_ms / 1000)

    def _resize(self, took_s: float, statement_s: float) -> None:
        goal_s = max(self.goals.batch_ms * min(self.pace, 2.0), ABOVE_IDLE * (self.idle_ms or 0.0)) / 1000
        times = min(goal_s / max(took_s, 1e-6), GROWS_BY)
        if 1.0 < times < 1.1 or (times < 1.0 and statement_s < took_s / 2):
            return
        self.rows = max(self.goals.least_rows, min(self.goals.most_rows, round(self.rows * times)))

    def _steer(self) -> None:
        """Set the rest from the latency since the last time."""
        took = self.probe.since(time.monotonic() - OVER_S) if self.probe is not None else []
        measured = _p90(took)
        self.idle_ms = _p90(self.probe.idle()) if self.probe is not None else None
        goal_ms = max(self.goals.latency_ms, ABOVE_IDLE * (self.idle_ms or 0.0)) * self.pace
        now_ms = max(measured or 0.0, self._commit_ms)
        self._steered_at, self._commit_ms = time.monotonic(), 0.0
        before = self.latency_ms
        self.latency_ms = now_ms if before is None else 0.6 * now_ms + 0.4 * before
        if not self.rests:
            pass
        elif self.latency_ms > goal_ms:
            self.rest = min(MOST_REST, max(self.rest, LEAST_REST) * MORE)
        elif self.latency_ms < 0.8 * goal_ms:
            self.rest = max(min(self.rest, FOR_OTHERS / self.pace), self.rest / MORE)
        if self.probe is not None and self.probe.behind:  # they wait for rows of ours
            self.rows = max(self.goals.least_rows, self.rows * 2 // 3)
        self._sample()

    def _sample(self) -> None:
        now, rest = time.monotonic(), round(self.rest, 3) if self.rests else 0.0
        self.samples.append(ThrottleSample(round(now - self._began, 3), self._done, self.latency_ms, rest, self.rows))
        if len(self.samples) > MOST_SAMPLES:
            del self.samples[1::2]

    def _look(self) -> None:
        """Wait while something has to be spared; see the pace that a person has given."""
        self._looked_at = began = time.monotonic()
        pace = control.pace(self.conn, self.run_id)
        if pace != self.pace:
            self.rest, self.pace = min(MOST_REST, max(self.rest, 0.05) * self.pace / pace), pace
        self.is_alone = self._brakes.is_alone()
        brake = self._brakes.look()
        if brake is None:
            return
        self.on_wait(brake)
        why, self._owed_s = str(brake.name), 0.0
        with progress.doing(f"waiting, because {brake}") as stage:
            while brake is not None:
                if time.monotonic() - began > self.goals.patience_s:
                    raise Blocked(
                        f"batches have waited for {self.goals.patience_s:,.0f} s, because {brake.name}",
                        detail=f"{brake}.",
                        hint="Mend what that names, then go on with this run.",
                    )
                stage.how_far(brake.told)
                time.sleep(min(LOOK_S, self.goals.patience_s / 2))
                self._obey()
                brake = self._brakes.look()
        self._note_wait(began, why)

    def _obey(self) -> None:
        began, self._pause = time.monotonic(), ""
        self.refuse()
        self._obedience.now()
        if self._pause:
            self._note_wait(began, self._pause)

    def _paused(self, order: Order) -> None:
        self.on_pause(order)
        self._pause = f"paused by {order.asked_by}"

    def _note_wait(self, began: float, why: str) -> None:
        now = time.monotonic()
        waited = ThrottleWait(round(began - self._began, 3), round(now - began, 3), why)
        last = self.waits[-1] if self.waits else None
        if last is not None and last.why == why and waited.at_s - last.at_s - last.waited_s < LOOK_S * 2:
            self.waits[-1] = replace(last, waited_s=round(waited.at_s + waited.waited_s - last.at_s, 3))
        else:
            self.waits.append(waited)
        self._looked_at = self._steered_at = now


def _p90(took_ms: Sequence[float]) -> float | None:
    found = sorted(took_ms)
    return found[int(len(found) * 0.9)] if len(found) >= LEAST_PROBES else None


@contextmanager
def throttled(
    target: Target,
    conn: Connection,
    schema: str,
    table: str,
    *,
    rows: int,
    run_id: str,
    goals: ThrottleGoals,
    on_wait: Callable[[Brake], None] = lambda _: None,
    on_pause: Callable[[Order], None] = lambda _: None,
) -> Iterator[Throttle]:
    """Give the throttle of a loop on a table, with a probe of its own, which opens a connection after a moment."""
    name = sql.Identifier(schema, table).as_string(conn)
    oid = conn.oid_of("regclass", name)
    if oid is None:
        raise WrongInput(f"there is no table {name}")
    with LatencyProbe(target, schema, table, conn.info.backend_pid) as probe:
        yield Throttle(conn, oid, goals, rows, probe, run_id, on_wait, on_pause)
