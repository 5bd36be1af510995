"""Looking who would keep us waiting, before a lock is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import pytest

from conftest import connect, do
from pgrunbook.config.targets import Target
from pgrunbook.database import lock_wait
from pgrunbook.database.connection import Connection
from pgrunbook.database.lock_wait import Holder, LockRequest
from pgrunbook.sql.lock_modes import ACCESS_EXCLUSIVE, CONFLICTS, SHARE_UPDATE_EXCLUSIVE
from scenes import meanwhile, session, until, waits

Project = Callable[..., Target]
ANY_AGE = -1.0  # the server's clock has microseconds, and a look may come within one


@pytest.fixture
def target(project: Project) -> Target:
    """A database with one table."""
    target = project(folder={})
    do(target, "CREATE TABLE orders (n int); INSERT INTO orders VALUES (1)")
    return target


def wanted(name: str = "public.orders", mode: str = ACCESS_EXCLUSIVE) -> LockRequest:
    return LockRequest(name, mode, CONFLICTS[mode])


def pids(found: Sequence[Holder]) -> list[int | None]:
    return [holder.pid for holder in found]


def grow_old(conn: Connection, other: Connection, ms: float = lock_wait.OLD_MS) -> None:
    """Wait until the transaction of another session is older than this."""
    age = "SELECT 1000 * extract(epoch FROM clock_timestamp() - xact_start) > %s FROM pg_stat_activity WHERE pid = %s"
    until(lambda: conn.execute(age, [ms, other.info.backend_pid]).fetchone() == (True,))


def test_where_nobody_is_one_look_is_enough(target: Target) -> None:
    """The usual case costs one round trip and waits for nothing."""
    with connect(target) as conn, session(target, "SELECT 1"):
        assert lock_wait.holders(conn, [wanted()], older_than_ms=ANY_AGE) == []
        told: list[float] = []
        found = lock_wait.until_free(conn, [wanted()], patience_ms=0, on_wait=lambda _, left_ms: told.append(left_ms))
    assert (found, told) == (lock_wait.LockWait(free=True, waited_ms=0.0, polls=1, holders=()), [])


def test_an_old_reader_stands_in_the_way_of_those_who_wait_for_readers(target: Target) -> None:
    """Of ALTER TABLE, though it does nothing any more; not of a mode that lets readers be."""
    with connect(target) as conn, session(target, "SELECT FROM orders") as reader:
        grow_old(conn, reader)
        found = lock_wait.holders(conn, [wanted()])
        assert lock_wait.holders(conn, [wanted(mode=SHARE_UPDATE_EXCLUSIVE)]) == []
        assert [(h.pid, h.application, h.state, h.query, h.object, h.mode, h.waits) for h in found] == [
            (reader.info.backend_pid, "billing", "idle in transaction", "SELECT FROM orders", "public.orders",
             "AccessShareLock", False)
        ]  # fmt: skip
        assert found[0].xact_age_ms > lock_wait.OLD_MS


def test_a_young_transaction_is_let_be(target: Target) -> None:
    """It is over in moments: waiting for it stalls nobody."""
    with connect(target) as conn, session(target, "UPDATE orders SET n = 2") as writer:
        grow_old(conn, writer)
        assert lock_wait.holders(conn, [wanted()], older_than_ms=600_000) == []
        assert pids(lock_wait.holders(conn, [wanted()])) == [writer.info.backend_pid]


def test_a_session_is_told_once_by_its_strongest_lock_and_the_oldest_first(target: Target) -> None:
    """However many locks it holds on however many of the objects."""
    do(target, "CREATE TABLE other (n int)")
    with (
        connect(target) as conn,
        session(target, "SELECT FROM other, orders", "SELECT FROM orders FOR UPDATE", "\n UPDATE  orders\nSET n = 3")
        as first,
        session(target, "SELECT FROM other") as second,
    ):  # fmt: skip
        grow_old(conn, second)
        found = lock_wait.holders(conn, [wanted(), wanted("public.other"), wanted(mode=SHARE_UPDATE_EXCLUSIVE)])
        assert pids(lock_wait.holders(conn, [wanted("public.other")])) == pids(found)
        assert [(h.pid, h.object, h.mode) for h in found] == [
            (first.info.backend_pid, "public.orders", "RowExclusiveLock"),
            (second.info.backend_pid, "public.other", "AccessShareLock"),
        ]
        assert found[0].query == " UPDATE orders SET n = 3"


def test_a_prepared_transaction_stands_in_the_way_at_any_age(target: Target) -> None:
    """It has no process, and ends only when somebody ends it."""
    with connect(target) as conn:
        if conn.execute("SHOW max_prepared_transactions").fetchone() == ("0",):
            pytest.skip("this server allows no prepared transactions")
        conn.execute("BEGIN; UPDATE orders SET n = 2; PREPARE TRANSACTION 'half done'")
        conn.execute("BEGIN; UPDATE orders SET n = n WHERE false; SELECT txid_current(); PREPARE TRANSACTION 'rest'")
        found = lock_wait.holders(conn, [wanted()], older_than_ms=600_000)
        for gid in ("half done", "rest"):
            conn.execute(f"ROLLBACK PREPARED '{gid}'".encode())
    assert [(h.pid, h.application, h.state, h.mode) for h in found] == [
        (None, "half done", "prepared transaction", "RowExclusiveLock"),
        (None, "rest", "prepared transaction", "RowExclusiveLock"),
    ]
    assert all(0 < h.xact_age_ms < math.inf for h in found)


def test_whoever_waits_for_such_a_lock_stands_in_the_way_too(target: Target) -> None:
    """We would queue behind: ROW SHARE conflicts with what the second waits for, not with what the first holds."""
    with (
        connect(target) as conn,
        session(target, "SELECT FROM orders") as reader,
        session(target, "SELECT 1", name="deploy") as deploy,
        meanwhile(lambda: deploy.execute("ALTER TABLE orders ADD m int")),
    ):
        until(waits(target, "deploy"))
        grow_old(conn, deploy)
        found = lock_wait.holders(conn, [wanted(mode="RowShareLock")])
        reader.execute("ROLLBACK")
        assert [(h.pid, h.mode, h.waits) for h in found] == [(deploy.info.backend_pid, "AccessExclusiveLock", True)]


def test_names_are_read_as_they_are_quoted(target: Target) -> None:
    """A schema and a table that need their quotes; an index is an object too."""
    do(target, 'CREATE SCHEMA "My Schema"; CREATE TABLE "My Schema"."Odd ""Table" (n int PRIMARY KEY)')
    name, index = '"My Schema"."Odd ""Table"', '"My Schema"."Odd ""Table_pkey"'
    with connect(target) as conn, session(target, f"SELECT FROM {name} WHERE n = 1") as reader:
        grow_old(conn, reader)
        for one in (name, index):
            assert [(h.pid, h.object) for h in lock_wait.holders(conn, [wanted(one)])] == [
                (reader.info.backend_pid, one)
            ]
        assert lock_wait.holders(conn, [wanted()]) == []


def test_a_table_that_is_not_there_counts_for_nothing(target: Target) -> None:
    """Nor do no objects at all."""
    with connect(target) as conn, session(target, "SELECT FROM orders") as reader:
        grow_old(conn, reader)
        assert lock_wait.holders(conn, [wanted("public.no_orders"), wanted("no_schema.orders")]) == []
        assert lock_wait.holders(conn, []) == []
        assert pids(lock_wait.holders(conn, [wanted("no_schema.orders"), wanted()])) == [reader.info.backend_pid]


def test_a_partition_is_an_object_of_its_own(target: Target) -> None:
    """A reader of one partition leaves the parent to others: the caller names both."""
    do(target, "CREATE TABLE p (n int) PARTITION BY LIST (n); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1)")
    with connect(target) as conn, session(target, "SELECT FROM p1") as reader:
        grow_old(conn, reader)
        assert lock_wait.holders(conn, [wanted("public.p")]) == []
        assert pids(lock_wait.holders(conn, [wanted("public.p"), wanted("public.p1")])) == [reader.info.backend_pid]


def test_locks_in_another_database_are_not_ours(target: Target, project: Project) -> None:
    """Even on a table of the same name and number."""
    twin = project(folder={}, name="twin", template=target.database)
    with connect(target) as conn, connect(twin) as there, session(twin, "SELECT FROM orders") as reader:
        grow_old(there, reader)
        number = b"SELECT 'public.orders'::regclass::oid"
        assert conn.execute(number).fetchone() == there.execute(number).fetchone()
        assert lock_wait.holders(conn, [wanted()]) == []
        assert pids(lock_wait.holders(there, [wanted()])) == [reader.info.backend_pid]


def test_looking_ends_as_soon_as_the_reader_has_let_go(target: Target) -> None:
    """Long before the patience is over; it tells who was there, and how long that was."""
    told: list[tuple[list[int | None], float]] = []
    with connect(target) as conn, session(target, "SELECT FROM orders") as reader:
        grow_old(conn, reader)

        def release(found: Sequence[Holder], left_ms: float) -> None:
            told.append((pids(found), left_ms))
            if len(told) == 2:
                reader.execute("ROLLBACK")

        found = lock_wait.until_free(conn, [wanted()], patience_ms=600_000, on_wait=release)
        pid = reader.info.backend_pid
        assert (found.free, pids(found.holders), [those for those, _ in told]) == (True, [pid], [[pid], [pid]])
        assert found.polls > 2
        assert lock_wait.REPORT_S * 1000 <= found.waited_ms < 600_000
        assert told[0][1] > told[1][1] > 0
        assert found.holders[0].xact_age_ms > lock_wait.REPORT_S * 1000


def test_looking_goes_on_while_another_one_takes_over(target: Target) -> None:
    """Two readers that overlap: the second is news, and both were met."""
    told: list[set[int | None]] = []
    with (
        connect(target) as conn,
        session(target, "SELECT FROM orders") as first,
        session(target, "SELECT FROM orders", name="report") as second,
    ):
        grow_old(conn, second)

        def release(found: Sequence[Holder], _: float) -> None:
            told.append(set(pids(found)))
            (first if len(told) == 1 else second).execute("ROLLBACK")

        found = lock_wait.until_free(conn, [wanted()], patience_ms=600_000, on_wait=release)
        one, two = first.info.backend_pid, second.info.backend_pid
        assert (found.free, set(pids(found.holders)), told) == (True, {one, two}, [{one, two}, {two}])


def test_patience_comes_to_an_end(target: Target) -> None:
    """It says who is there still; nothing was asked for meanwhile, so nobody queued behind us."""
    with connect(target) as conn, session(target, "SELECT FROM orders") as reader:
        grow_old(conn, reader)
        found = lock_wait.until_free(conn, [wanted()], patience_ms=100)
        assert reader.execute("SELECT FROM orders").rowcount == 1
        assert lock_wait.until_free(conn, [wanted()], patience_ms=0).polls == 1
        assert (found.free, pids(found.holders)) == (False, [reader.info.backend_pid])
        assert found.waited_ms >= 100
        assert found.polls > 1


@pytest.fixture
def stranger(target: Target) -> Iterator[str]:
    """A role that is not shown what other roles' sessions do."""
    name = f"stranger_{target.database}"
    do(target, f"CREATE ROLE {name}")
    yield name
    do(target, f"DROP ROLE {name}")


def test_transactions_of_unknown_age_are_as_old_as_we_have_seen_them(target: Target, stranger: str) -> None:
    """A role that is not shown the ages counts whoever is there at first as old, and whoever comes later as young."""
    with (
        connect(target) as conn,
        session(target, "SELECT FROM orders") as first,
        session(target, "SELECT 1") as second,
    ):
        conn.execute(f"SET ROLE {stranger}".encode())

        def replace(*_: object) -> None:
            second.execute("SELECT FROM orders")
            first.execute("ROLLBACK")

        seen = lock_wait.holders(conn, [wanted()], older_than_ms=600_000)
        found = lock_wait.until_free(conn, [wanted()], patience_ms=600_000, on_wait=replace)
        assert [(h.pid, h.state, h.query, h.xact_age_ms) for h in seen] == [
            (first.info.backend_pid, "state not visible", "<insufficient privilege>", math.inf)
        ]
        assert (found.free, found.polls, pids(found.holders)) == (True, 2, [first.info.backend_pid])


@pytest.mark.parametrize(
    ("holder", "text"),
    [
        (
            Holder(4711, "billing", "idle in transaction", 318_400, "", "public.orders", "RowExclusiveLock", False, ""),
            'process 4711 ("billing", idle in transaction for 318 s) holds RowExclusiveLock on public.orders',
        ),
        (
            Holder(4712, "deploy", "active", 81.2, "", '"Odd Table"', "AccessExclusiveLock", True, ""),
            'process 4712 ("deploy", active for 81 ms) waits for AccessExclusiveLock on "Odd Table"',
        ),
        (
            Holder(None, "half done", "prepared transaction", 60_000, "", "public.orders", "ShareLock", False, ""),
            (
                'a transaction without a process ("half done", prepared transaction for 60 s) '
                "holds ShareLock on public.orders"
            ),
        ),
        (
            Holder(1, "web", "state not visible", math.inf, "", "public.orders", "ShareLock", False, ""),
            'process 1 ("web", state not visible) holds ShareLock on public.orders',
        ),
    ],
)
def test_a_holder_is_told_in_one_phrase(holder: Holder, text: str) -> None:
    """Process, application, state, age, mode and object, as in the messages about a lock queue."""
    assert str(holder) == text
