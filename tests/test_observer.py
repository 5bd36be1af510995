"""What the second session sees of a step: locks, waits, rewrites, rows and WAL."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from conftest import connect, do, rows
from pgrunbook.config.targets import Target
from pgrunbook.database import connection
from pgrunbook.database.connection import Connection, transaction
from pgrunbook.errors import Unreachable
from pgrunbook.plan.plan import Change, Step
from pgrunbook.rehearse.observer import HeldLock, Observation, Observer
from pgrunbook.sql.classify import Policy
from scenes import error_of, kill, meanwhile, session, steps_of, until, waits

LIMITS = {"lock_timeout_ms": 30_000, "statement_timeout_ms": 60_000}
SCENE = """
CREATE TABLE orders (id int PRIMARY KEY, note text, code varchar(10));
CREATE INDEX by_note ON orders (note);
INSERT INTO orders SELECT n, 'note ' || n FROM generate_series(1, 1000) n;
CREATE INDEX by_code ON orders (code);
CREATE TABLE "Odd T" (n int);
CREATE VIEW notes AS SELECT note FROM orders;
"""


@dataclass
class Stage:
    """A target, the session that executes, and the observer; steps are run as Execution does."""

    target: Target
    conn: Connection
    observer: Observer

    def change(self, sql: str) -> Change:
        """Return the statements as one migration."""
        steps = steps_of(sql, "0001_a.sql", self.target)
        return stub(steps)

    def run(self, sql: str, *, pause: Callable[[], object] = lambda: None) -> list[Observation]:
        """Run statements in one transaction, or alone where they must; return what was seen of them."""
        change, before = self.change(sql), len(self.observer.results)
        if change.steps[0].policy is Policy.ALONE:
            for step in change.steps:
                self.send(change, step)
                self.observer.committed(change, [step])
        else:
            with transaction(self.conn, **LIMITS):
                for step in change.steps:
                    self.send(change, step)
                pause()
            self.observer.committed(change, change.steps)
        return list(self.observer.results[before:])

    def send(self, change: Change, step: Step, attempt: int = 1) -> None:
        """Run one step, and tell the observer before and after."""
        self.observer.begins(change, step, attempt)
        cursor = self.conn.execute(step.sql.encode())
        self.observer.ran(change, step, cursor.rowcount if cursor.rowcount >= 0 else None)


def stub(steps: tuple[Step, ...]) -> Change:
    return Change.model_construct(migration="0001_a", steps=steps)


def locks(seen: Observation) -> set[tuple[str, str]]:
    return {(lock.object, lock.mode) for lock in seen.locks}


def the_lock(seen: Observation, name: str) -> HeldLock:
    (found,) = (lock for lock in seen.locks if lock.object == name)
    return found


def is_traced(observer: Observer) -> bool:
    """Tell whether it has seen a lock that is still held: it looks every few milliseconds."""
    group = observer._group
    return group is not None and any(trace.is_held for trace in list(group.traces.values()))


@pytest.fixture
def stage(project: Callable[..., Target]) -> Iterator[Stage]:
    target = project(folder={"0001_a.sql": "SELECT 1"})
    do(target, SCENE)
    with connect(target, purpose="migrate") as conn, Observer(target, conn) as observer:
        connection.limit(conn, **LIMITS)
        yield Stage(target, conn, observer)


def test_a_lock_is_held_from_the_step_to_the_commit(stage: Stage) -> None:
    """Also while later steps run; times are on the observer's clock."""
    first, second = stage.run('ALTER TABLE orders ADD a int; CREATE INDEX ON "Odd T" (n)')
    lock = the_lock(first, "public.orders")
    assert lock.mode == "AccessExclusiveLock"
    assert lock.held_ms > 0
    assert lock.waited_ms == 0
    assert first.started_ms <= lock.from_ms <= second.started_ms < second.started_ms + second.duration_ms <= lock.to_ms
    assert lock.held_ms == pytest.approx(lock.to_ms - lock.from_ms, abs=0.01)
    assert locks(second) == {('public."Odd T"', "ShareLock")}
    assert (first.migration, first.step, first.attempt, second.step) == ("0001_a", 1, 1, 2)


def test_only_what_says_something_is_listed(stage: Stage) -> None:
    """Not the catalogs, what is new itself, what a stronger lock covers, nor the table's own indexes."""
    (made, filled, keyed) = stage.run(
        "CREATE TABLE new (id int REFERENCES orders); INSERT INTO new SELECT 1; ALTER TABLE new ADD PRIMARY KEY (id)"
    )
    assert locks(made) == {("public.orders", "ShareRowExclusiveLock")}
    assert locks(filled) == locks(keyed) == set()
    (read,) = stage.run("CREATE TABLE t AS SELECT note FROM notes")
    assert locks(read) == {("public.orders", "AccessShareLock"), ("public.notes", "AccessShareLock")}
    (index,) = stage.run("DROP INDEX by_note")
    assert locks(index) == {("public.orders", "AccessExclusiveLock")}


def test_names_are_those_from_before_the_transaction(stage: Stage) -> None:
    """What it renames or drops, others wait for by the old name."""
    renamed, dropped = stage.run('ALTER TABLE orders RENAME TO new_name; DROP TABLE "Odd T"')
    assert locks(renamed) == {("public.orders", "AccessExclusiveLock")}
    assert locks(dropped) == {('public."Odd T"', "AccessExclusiveLock")}
    (again,) = stage.run("TRUNCATE new_name")
    assert ("public.new_name", "AccessExclusiveLock") in locks(again)


def test_an_index_made_in_a_transaction_holds_a_share_lock(stage: Stage) -> None:
    """Writers wait, and nothing is written anew."""
    (seen,) = stage.run("CREATE INDEX again ON orders (note)")
    assert locks(seen) == {("public.orders", "ShareLock")}
    assert (seen.rewrites, seen.dead_rows) == ((), 0)


def test_a_statement_that_runs_alone_is_traced_while_it_runs(stage: Stage) -> None:
    """CREATE INDEX CONCURRENTLY behind an old snapshot: its lock on the table, and no rewrite."""
    snapshot = ("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT count(*) FROM orders")
    with session(stage.target, *snapshot) as old:
        with meanwhile(lambda: stage.run("CREATE INDEX CONCURRENTLY c ON orders (note)")) as seen:
            until(waits(stage.target))
            until(lambda: is_traced(stage.observer))
            old.execute("ROLLBACK")
        (alone,) = seen.result()  # type: ignore[misc]
    assert locks(alone) == {("public.orders", "ShareUpdateExclusiveLock")}
    lock = the_lock(alone, "public.orders")
    assert lock.held_ms > 0
    assert alone.started_ms <= lock.from_ms < lock.to_ms
    assert alone.rewrites == ()


def test_a_changed_type_rewrites_the_table_and_its_indexes(stage: Stage) -> None:
    """Told of the step that did it, by the names from before; indexes come back as other ones."""
    first, second, third = stage.run(
        "ALTER TABLE orders ADD a int; ALTER TABLE orders ALTER id TYPE bigint; DROP INDEX by_note"
    )
    assert first.rewrites == third.rewrites == ()
    assert second.rewrites == ("public.by_code", "public.by_note", "public.orders", "public.orders_pkey")
    (widened,) = stage.run("ALTER TABLE orders ALTER code TYPE varchar(20)")
    assert widened.rewrites == ()


def test_rewrites_by_statements_that_run_alone_are_seen_as_well(stage: Stage) -> None:
    """VACUUM FULL and REINDEX CONCURRENTLY; plain VACUUM writes nothing anew."""
    (full,) = stage.run("VACUUM FULL orders")
    assert full.rewrites == ("public.by_code", "public.by_note", "public.orders", "public.orders_pkey")
    (index,) = stage.run("REINDEX INDEX CONCURRENTLY by_note")
    assert index.rewrites == ("public.by_note",)
    (plain,) = stage.run("VACUUM orders")
    assert plain.rewrites == ()


def test_an_update_leaves_dead_rows_and_wal(stage: Stage) -> None:
    """Each step has its own; what a DO block does counts as well."""
    update, delete, block, insert = stage.run(
        "UPDATE orders SET note = 'x' WHERE id <= 100; DELETE FROM orders WHERE id <= 10;"
        "DO $$ BEGIN DELETE FROM orders WHERE id <= 20; END $$; INSERT INTO orders VALUES (0)"
    )
    assert [(s.rows, s.dead_rows) for s in (update, delete, block, insert)] == [
        (100, 100),
        (10, 10),
        (None, 10),
        (1, 0),
    ]
    assert update.wal_bytes > 100
    assert locks(update) == {("public.orders", "RowExclusiveLock")}


def test_dead_rows_of_what_runs_without_a_transaction_are_the_rows_it_tells(stage: Stage) -> None:
    """As batches do."""
    change = stage.change("UPDATE orders SET note = 'x'")
    stage.send(change, change.steps[0])
    stage.observer.committed(change, change.steps)
    (seen,) = stage.observer.results
    assert (seen.rows, seen.dead_rows) == (1000, 1000)


def test_a_step_that_waits_says_how_long(stage: Stage) -> None:
    """Waited and held are two things."""
    with session(stage.target, "LOCK TABLE orders IN ACCESS SHARE MODE") as reader:
        with meanwhile(lambda: stage.run("ALTER TABLE orders ADD a int")) as seen:
            until(waits(stage.target))
            until(waited_for_ms(stage.target, 250))
            reader.execute("ROLLBACK")
        (waited,) = seen.result()  # type: ignore[misc]
    lock = the_lock(waited, "public.orders")
    assert 50 <= lock.waited_ms <= waited.duration_ms
    assert lock.from_ms >= waited.started_ms + 50
    assert lock.held_ms > 0


def test_an_attempt_that_was_aborted_leaves_nothing(stage: Stage) -> None:
    """The next one counts, with its number, and not what the first one held or wrote."""
    change = stage.change("ALTER TABLE orders ALTER id TYPE bigint; UPDATE orders SET note = 'x'")
    stage.conn.execute("BEGIN")
    stage.send(change, change.steps[0])
    stage.observer.begins(change, change.steps[1], 1)
    stage.conn.execute("ROLLBACK")
    stage.observer.aborted(change)
    assert stage.observer.results == ()
    with transaction(stage.conn, **LIMITS):
        stage.send(change, change.steps[1], attempt=2)
    stage.observer.committed(change, change.steps[1:])
    (seen,) = stage.observer.results
    assert (seen.step, seen.attempt, seen.dead_rows, seen.rewrites) == (2, 2, 1000, ())
    assert locks(seen) == {("public.orders", "RowExclusiveLock")}


def test_the_record_at_the_end_of_the_transaction_is_not_the_steps(stage: Stage) -> None:
    """What is locked after the last step ran (the history table) is not told as its doing."""
    began = threading.Event()

    def record() -> None:
        stage.conn.execute('UPDATE "Odd T" SET n = 1')
        until(lambda: rows(stage.target, "SELECT FROM pg_locks WHERE relation = '\"Odd T\"'::regclass"))
        began.set()

    (seen,) = stage.run("UPDATE orders SET note = 'x'", pause=record)
    assert began.is_set()
    assert locks(seen) == {("public.orders", "RowExclusiveLock")}


def test_a_transaction_can_still_be_given_its_isolation_level(stage: Stage) -> None:
    """The observer sends nothing in the executor's transaction that would fix its snapshot too early."""
    seen = stage.run("SET LOCAL work_mem = '5MB'; LOCK TABLE orders; SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
    assert [locks(s) for s in seen] == [set(), {("public.orders", "AccessExclusiveLock")}, set()]


def test_nothing_is_told_of_what_never_began(stage: Stage) -> None:
    """A step that was found done, a transaction of the history row alone, an error before the first step."""
    change = stage.change("SELECT 1")
    stage.observer.committed(change, ())
    stage.observer.aborted(change)
    assert stage.observer.results == ()


def test_a_lost_session_is_told_and_not_taken_for_the_steps(stage: Stage) -> None:
    """It says what is lost; half an observation is none."""
    kill(stage.target, "observes")
    error = error_of(lambda: stage.run("ALTER TABLE orders ADD a int"))
    assert isinstance(error, Unreachable)
    assert error.message == 'could not observe what the steps do on target "demo"'


def waited_for_ms(target: Target, least: int) -> Callable[[], bool]:
    """Tell whether somebody has waited so long for a lock."""
    query = f"SELECT FROM pg_locks WHERE NOT granted AND clock_timestamp() - waitstart > interval '{least} ms'"
    return lambda: bool(rows(target, query))


def test_a_hastened_loop_takes_as_long_as_its_first_batches_would(stage: Stage) -> None:
    """What comes behind it is later on the observer's clock, and a lock that was held all the while was held longer."""
    change = stage.change("SELECT 1; SELECT 2")
    first, second = change.steps
    haste = stage.observer.haste
    stage.observer.begins(change, first, 1)
    stage.conn.execute("SELECT pg_sleep(0.1)")
    stage.observer.batch(haste.after)
    for large in range(1, 4):
        stage.observer.batch(haste.after + large)
    stage.observer.ran(change, first, 1)
    stage.observer.committed(change, [first])
    stage.send(change, second)
    stage.observer.committed(change, [second])
    loop, behind = stage.observer.results
    assert loop.duration_ms >= 100 * (1 + 2.5 * haste.times / haste.after)
    assert behind.started_ms >= loop.started_ms + loop.duration_ms
