"""How long a transaction looks, how it asks for its locks, and whom it asks to make way."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conftest import connect, do, rows
from pgrunbook.config.targets import Target
from pgrunbook.database import lock_wait
from pgrunbook.database.lock_wait import LAST_PATIENCE_MS, Holder, is_cancellable_autovacuum
from pgrunbook.execute import lock_requests
from pgrunbook.execute.execution import Execution
from pgrunbook.execute.lock_requests import Patience
from pgrunbook.execute.results import StepState
from pgrunbook.plan.plan import LockOn, Step
from scenes import events, execute, meanwhile, safe_plan_of, session, until, waits

Project = Callable[..., Target]
FOREVER_MS = 3_600_000.0


def step(*locks: tuple[str, str], lock_timeout_ms: int = 2_000) -> Step:
    """A step that takes locks, whatever it does."""
    return Step(
        number=1, statement=1, sql="SELECT 1", sha256="", file="0001_a.sql", line=1, kind="SELECT",
        type="breaking", policy="in the migration's transaction", objects=(), lock_timeout_ms=lock_timeout_ms,
        statement_timeout_ms=60_000, locks=tuple(LockOn(object=name, mode=mode) for name, mode in locks),
    )  # fmt: skip


STRONG = step(("public.orders", "AccessExclusiveLock"))
WEAK = step(("public.orders", "ShareUpdateExclusiveLock"))


def holder(**facts: object) -> Holder:
    usual = {
        "pid": 4711, "application": "autovacuum worker", "state": "active", "xact_age_ms": 60_000.0,
        "query": "autovacuum: VACUUM public.orders", "object": "public.orders", "mode": "ShareUpdateExclusiveLock",
        "waits": False, "transaction": "3/4",
    }  # fmt: skip
    return Holder(**{**usual, **facts})  # type: ignore[arg-type]


# -- patience


def test_only_locks_that_keep_somebody_waiting_are_looked_for() -> None:
    """Each once, with the modes that it waits for; what readers and writers do not notice is asked for at once."""
    found = lock_requests.wanted([STRONG, WEAK, STRONG, step(("public.u", "ShareRowExclusiveLock"))])
    assert [(one.object, one.mode) for one in found] == [
        ("public.orders", "AccessExclusiveLock"),
        ("public.u", "ShareRowExclusiveLock"),
    ]
    assert "AccessShareLock" in found[0].conflicts
    assert "AccessShareLock" not in found[1].conflicts
    assert lock_requests.wanted([WEAK, step()]) == []


def test_while_nobody_is_in_the_way_it_asks_gently_and_as_often_as_it_takes() -> None:
    """10 ms each time, the pauses grow to a quarter of a second, and none of it is counted."""
    patience = Patience([STRONG], FOREVER_MS, 3)
    pauses = []
    for _ in range(50):
        patience.looked(free=True)
        assert patience.lock_timeout_ms(STRONG) == lock_requests.NET_MS
        pauses.append(patience.again_in_s(counts=False))
    assert pauses == sorted(pauses)  # type: ignore[type-var]
    assert pauses[-1] == lock_requests.LONGEST_GENTLE_PAUSE_S
    assert patience.attempt == 1


def test_a_step_that_keeps_nobody_waiting_has_its_whole_timeout() -> None:
    """Also beside one that asks gently; and a timeout that is shorter than ours stays as it is."""
    patience = Patience([STRONG, WEAK], FOREVER_MS, 3)
    patience.looked(free=True)
    assert patience.lock_timeout_ms(WEAK) == 2_000
    assert patience.lock_timeout_ms(step(("a", "AccessExclusiveLock"), lock_timeout_ms=5)) == 5


def test_what_waits_for_transactions_is_not_asked_gently() -> None:
    """DETACH CONCURRENTLY waits for them under its lock_timeout: cut off after 10 ms, it would leave half of it."""
    detach = step(("public.part", "AccessExclusiveLock"), lock_timeout_ms=3_600_000)
    detach = detach.model_copy(update={"kind": "ALTER TABLE DETACH PARTITION CONCURRENTLY"})
    patience = Patience([detach], FOREVER_MS, 3)
    for free in (True, False):
        patience.looked(free=free)
        assert patience.lock_timeout_ms(detach) == 3_600_000


def test_attempts_that_are_counted_wait_twice_as_long_each_time_and_the_last_one_in_full() -> None:
    """Once the patience is over: 50, 100, 200 ms, and then the target's own lock_timeout."""
    patience = Patience([STRONG], 0, 4)
    waited, pauses = [], []
    for _ in range(4):
        patience.looked(free=True)  # a free moment behind the end of the patience makes no difference
        waited.append(patience.lock_timeout_ms(STRONG))
        pauses.append(patience.again_in_s(counts=False))
    assert waited == [50, 100, 200, 2_000]
    assert pauses == [
        lock_requests.FIRST_PAUSE_S,
        lock_requests.FIRST_PAUSE_S * 2,
        lock_requests.FIRST_PAUSE_S * 4,
        None,
    ]


def test_where_somebody_stays_in_the_way_attempts_are_counted() -> None:
    """The look was not free: what follows is no gentle question."""
    patience = Patience([STRONG], FOREVER_MS, 2)
    patience.looked(free=False)
    assert patience.lock_timeout_ms(STRONG) == lock_requests.SHORTEST_LOCK_TIMEOUT_MS
    assert patience.again_in_s(counts=False) is not None
    assert patience.again_in_s(counts=False) is None


def test_a_deadlock_counts_however_gently_it_was_asked() -> None:
    """Two that wait for each other would do so for ever."""
    patience = Patience([STRONG], FOREVER_MS, 3)
    patience.looked(free=True)
    assert [patience.again_in_s(counts=True) is None for _ in range(3)] == [False, False, True]
    assert patience.attempt == 3


def test_an_attempt_that_got_further_begins_to_count_anew() -> None:
    """A loop of batches that goes on is not given up."""
    patience = Patience([WEAK], 0, 2)
    assert patience.again_in_s(counts=False) is not None
    patience.begin_again()
    assert patience.again_in_s(counts=False) is not None
    assert patience.again_in_s(counts=False) is None


def test_every_attempt_that_is_counted_looks_for_a_moment() -> None:
    """Behind the end of the patience too: it may just be free."""
    assert Patience([STRONG], 0, 3).left_ms == LAST_PATIENCE_MS
    assert Patience([STRONG], FOREVER_MS, 3).left_ms > LAST_PATIENCE_MS


# -- autovacuum


@pytest.mark.parametrize(
    ("facts", "does"),
    [
        ({}, True),
        ({"query": "autovacuum: VACUUM ANALYZE public.orders"}, True),
        ({"query": "autovacuum: VACUUM public.orders (to prevent wraparound)"}, False),
        ({"application": "billing", "query": "VACUUM orders"}, False),
    ],
)
def test_only_an_autovacuum_yields_that_does_not_prevent_wraparound(facts: dict[str, object], does: bool) -> None:
    """The server cancels no other for somebody who waits."""
    assert is_cancellable_autovacuum(holder(**facts)) is does


@pytest.fixture
def vacuumed(project: Project) -> Target:
    """A table on which an autovacuum is at work, throttled so that it would take hours; a server may have them off."""
    target = project(folder={"0001_a.sql": "ALTER TABLE orders ADD COLUMN note text"}, lock_patience_ms=600_000)
    if rows(target, "SHOW autovacuum") == [("off",)]:
        pytest.skip("autovacuum is off on this server")
    do(
        target,
        "CREATE TABLE orders (n int, filler text) WITH (autovacuum_vacuum_cost_delay = 100,"
        " autovacuum_vacuum_cost_limit = 1, autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);"
        "INSERT INTO orders SELECT i, repeat('x', 500) FROM generate_series(1, 20000) AS i;"
        "UPDATE orders SET n = n + 1",
    )
    naptime = rows(target, "SHOW autovacuum_naptime")
    with connect(target, purpose="test") as conn:
        conn.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
        conn.execute("SELECT pg_reload_conf()")
    try:
        until(lambda: rows(target, WORKER), within_s=60)
    except AssertionError:
        pytest.skip("no autovacuum came to this table within 60 s")
    finally:
        assert naptime
        with connect(target, purpose="test") as conn:
            conn.execute("ALTER SYSTEM RESET autovacuum_naptime")
            conn.execute("SELECT pg_reload_conf()")
    return target


WORKER = (
    "SELECT pid FROM pg_stat_activity WHERE backend_type = 'autovacuum worker' AND datname = current_database()"
    " AND query LIKE '%orders%' AND clock_timestamp() - xact_start > interval '60 ms'"
)


@pytest.mark.slow
@pytest.mark.first_case
def test_an_autovacuum_in_the_way_is_asked_to_yield(vacuumed: Target) -> None:
    """It would be there for hours; asked, it is gone, nobody has waited, and the column is there."""
    ((pid,),) = rows(vacuumed, WORKER)
    plan = safe_plan_of(vacuumed)
    (result,) = execute(vacuumed, plan)
    assert result.state is StepState.DONE
    (asked,) = events(vacuumed, "autovacuum-asked-to-yield")
    assert (asked["step"], asked["object"]) == (1, "public.orders")
    assert f'process {pid} ("autovacuum worker", active for' in str(asked["holders"])
    assert events(vacuumed, "autovacuum-did-not-yield") == []
    assert [event["free"] for event in events(vacuumed, "looked")] == [True]
    assert f"process {pid}" in result.blockers


@pytest.mark.slow
def test_while_an_autovacuum_is_asked_others_read_and_write(vacuumed: Target) -> None:
    """We wait in a mode that keeps neither out; somebody else's lock of that mode makes the wait long enough to see."""
    plan = safe_plan_of(vacuumed)
    with session(vacuumed) as other, meanwhile(lambda: execute(vacuumed, plan)) as running:
        until(lambda: waits(vacuumed)() or running.done())
        other.execute("SET lock_timeout = '5s'")
        other.execute("UPDATE orders SET n = n WHERE n = 5; SELECT count(*) FROM orders WHERE n < 9")
        assert [result.state for result in running.result()] == [StepState.DONE]  # type: ignore[attr-defined]


def test_what_cannot_be_locked_that_way_is_told_and_waited_for(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A materialized view has autovacuums too, and no LOCK TABLE: the reason is told, and looking goes on."""
    target = project(folder={"0001_a.sql": "ALTER MATERIALIZED VIEW totals RENAME COLUMN n TO m"})
    do(target, "CREATE MATERIALIZED VIEW totals AS SELECT 1 AS n")
    plan = safe_plan_of(target)
    looks: list[int] = []

    def holders(*_: object, **__: object) -> list[Holder]:
        looks.append(1)
        return [holder(object="public.totals")] if len(looks) < 3 else []

    monkeypatch.setattr(lock_wait, "holders", holders)
    seen: list[Execution] = []
    (result,) = execute(target, plan, seen=seen.append)
    assert result.state is StepState.DONE
    (event,) = events(target, "autovacuum-did-not-yield")
    assert str(event["reason"]).endswith("This operation is not supported for materialized views.")
    assert len(events(target, "autovacuum-asked-to-yield")) == 1


def test_an_autovacuum_beside_a_reader_is_not_disturbed(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader has to be waited for anyway; only then the autovacuum is asked, once."""
    target = project(folder={"0001_a.sql": "ALTER TABLE orders ADD COLUMN note text"})
    do(target, "CREATE TABLE orders (n int)")
    reader = holder(pid=4712, application="billing", query="SELECT", mode="AccessShareLock", transaction="5/6")
    scene = [[holder(), reader], [holder(), reader], [holder()], [holder()], []]
    told: list[int] = []
    monkeypatch.setattr(lock_wait, "REPORT_S", 0.0)
    monkeypatch.setattr(lock_wait, "holders", lambda *_, **__: scene.pop(0))
    plan = safe_plan_of(target)
    execute(target, plan, seen=lambda _: told.append(len(scene)))
    assert len(events(target, "autovacuum-asked-to-yield")) == 1
    assert told == [5]
