"""Each row once, whatever others write while a loop is at work: proven by a twin of the table.

The twin has each row by a number that nobody changes, and what became of it without the loop, written in the same
transactions. Whether a row was there when the loop began is noted under the lock of the tracker's installation.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial

import psycopg
import pytest

from budget import sample
from pgrunbook.database import schema, step_log
from pgrunbook.database.own_schema import refuse_foreign
from pgrunbook.errors import Broken
from pgrunbook.online import ranges, tracked_pages
from pgrunbook.online.batches import BatchProgress, run_batches
from pgrunbook.plan.step import Batches, SafeStep
from safe_forms_stage import plan, wait_until
from servers import Server, Servers

ROWS = 100
UPDATE, DELETE = "UPDATE t SET n = n + 1", "DELETE FROM t"
PAGES = "DELETE FROM t WHERE n IS NOT NULL"  # the loop that goes by pages
# The key's columns, the key of a number, and the names of its columns.
KEYS = {
    "integer": ("k integer", "{}", "k"),
    "text": ("k text", "'k' || lpad(({})::text, 7, '0')", "k"),
    "char": ("k char(9)", "lpad(({})::text, 7, '0')", "k"),
    "uuid": ("k uuid", "md5(({})::text)::uuid", "k"),
    "numeric": ("k numeric", "({}) / 7.0", "k"),
    "timestamptz": ("k timestamptz", "'2026-01-01'::timestamptz + ({}) * interval '1 minute'", "k"),
    "enum": ("k app.digits, l integer", "('d' || ({}) % 10)::app.digits, {}", "k, l"),
    "domain": ("k app.positive", "{}", "k"),
    "any case": ("k text COLLATE app.any_case", "'k' || ({})", "k"),
    "composite": ('"K 1" integer, "%L" text', "({}) % 5, 'x' || ({})", '"K 1", "%L"'),
    "partitions": ("k integer", "{}", "k"),
}
TYPES = """
CREATE SCHEMA app;
CREATE TYPE app.digits AS ENUM ('d0', 'd9', 'd1', 'd8', 'd2', 'd7', 'd3', 'd6', 'd4', 'd5');
CREATE DOMAIN app.positive AS integer CHECK (VALUE > 0);
"""


@dataclass
class Twins:
    """A table with a twin, and a loop over it."""

    server: Server
    name: str
    key: str
    loop: str
    steps: Sequence[SafeStep] = ()
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(10_000, 10_000_000)))

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        """Open a session."""
        return self.server.connect(self.name)

    @property
    def batches(self) -> Batches:
        """The loop."""
        found = self.steps[1].batches
        assert found is not None
        return found

    def key_of(self, number: int) -> str:
        """The key of a number, as SQL."""
        return KEYS[self.key][1].replace("{}", str(number))

    def at(self, number: int) -> str:
        """The condition for the row that has the key of a number."""
        return f"ROW({KEYS[self.key][2]}) = ROW({self.key_of(number)})"

    def move(self, conn: psycopg.Connection[tuple[object, ...]], old: int, new: int) -> None:
        """Change the key of a row."""
        conn.execute(f"UPDATE t SET ({KEYS[self.key][2]}) = ROW({self.key_of(new)}) WHERE {self.at(old)}")

    def swap(self, conn: psycopg.Connection[tuple[object, ...]], one: int, other: int) -> None:
        """Let two rows take each other's key, in one transaction."""
        with conn.transaction():
            for old, new in ((one, 9_000_001), (other, one), (9_000_001, other)):
                self.move(conn, old, new)

    def insert(self, conn: psycopg.Connection[tuple[object, ...]], at: int, *, form: str = "") -> None:
        """Insert a row into both, by an INSERT or what takes its place."""
        number = next(self.numbers)
        values = f"{self.key_of(at)}, {number}, 0"
        names = f"{KEYS[self.key][2]}, row_number, n"
        with conn.transaction():
            if form == "COPY":
                (texts,) = conn.execute(f"SELECT ROW({self.key_of(at)})::text").fetchall()
                row = str(texts[0])[1:-1]
                with conn.cursor().copy(f"COPY t ({names}) FROM STDIN (FORMAT csv)") as copy:
                    copy.write(f"{row},{number},0\n")
            elif form == "MERGE":
                conn.execute(
                    f"MERGE INTO t USING (SELECT 1) AS s ON t.row_number = {number}"
                    f" WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({values})"
                )
            else:
                conn.execute(f"INSERT INTO t ({names}) VALUES ({values})")
            conn.execute(f"INSERT INTO twin VALUES ({number}, 0, false)")

    def upsert(self, conn: psycopg.Connection[tuple[object, ...]], at: int) -> None:
        """INSERT ... ON CONFLICT DO UPDATE: a new row, or another value in the one that is there."""
        number = next(self.numbers)
        with conn.transaction():
            row = conn.execute(
                f"INSERT INTO t ({KEYS[self.key][2]}, row_number, n) VALUES ({self.key_of(at)}, {number}, 0)"
                f" ON CONFLICT ({KEYS[self.key][2]}) DO UPDATE SET n = t.n + 10 RETURNING row_number"
            ).fetchone()
            assert row is not None
            if row[0] == number:
                conn.execute(f"INSERT INTO twin VALUES ({number}, 0, false)")
            else:
                conn.execute(f"UPDATE twin SET n = n + 10 WHERE row_number = {row[0]}")

    def delete(self, conn: psycopg.Connection[tuple[object, ...]], at: int) -> None:
        """Delete a row in both."""
        with conn.transaction():
            for (number,) in conn.execute(f"DELETE FROM t WHERE {self.at(at)} RETURNING row_number").fetchall():
                conn.execute(f"DELETE FROM twin WHERE row_number = {number}")

    def replace(self, conn: psycopg.Connection[tuple[object, ...]], at: int) -> None:
        """Delete a row and insert another one with its key, in one transaction."""
        with conn.transaction():
            self.delete(conn, at)
            self.insert(conn, at)

    def change(self, conn: psycopg.Connection[tuple[object, ...]], at: int) -> None:
        """Change a value in both."""
        with conn.transaction():
            for (number,) in conn.execute(
                f"UPDATE t SET n = n + 10 WHERE {self.at(at)} RETURNING row_number"
            ).fetchall():
                conn.execute(f"UPDATE twin SET n = n + 10 WHERE row_number = {number}")

    def truncate(self, conn: psycopg.Connection[tuple[object, ...]]) -> None:
        """Empty both."""
        conn.execute("TRUNCATE t, twin")

    def begin(self, conn: psycopg.Connection[tuple[object, ...]]) -> None:
        """Install the tracker; note which rows are there at that moment."""
        step_log.create(conn)
        (expansion,) = plan(conn, self.loop, batch_rows=20)
        self.steps = expansion.steps
        with conn.transaction():
            conn.execute(self.steps[0].sql)
            conn.execute("UPDATE twin SET was_there = true")

    def run(
        self,
        conn: psycopg.Connection[tuple[object, ...]],
        on_batch: Callable[[int], None] = lambda _: None,
        lock_timeout_ms: int = 30_000,
    ) -> BatchProgress:
        """Run the loop to its end."""
        return run_batches(
            conn, self.batches, resume_from="loop", on_batch=lambda now: on_batch(now.batches),
            lock_timeout_ms=lock_timeout_ms,
        )  # fmt: skip

    def differing(self, conn: psycopg.Connection[tuple[object, ...]]) -> list[tuple[object, ...]]:
        """The rows in which the table is not what one statement at the start would have made of it."""
        wanted = "n + was_there::integer AS n FROM twin" if self.loop == UPDATE else "n FROM twin WHERE NOT was_there"
        return conn.execute(
            f"SELECT row_number, t.n, w.n FROM t FULL JOIN (SELECT row_number, {wanted}) AS w USING (row_number)"
            " WHERE t.n IS DISTINCT FROM w.n"
        ).fetchall()


@pytest.fixture(autouse=True)
def by_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one of the loops go by pages, however small its table is."""
    monkeypatch.setattr(tracked_pages, "serve", lambda _, batches: batches.left == "n IS NOT NULL")
    monkeypatch.setattr(ranges, "LEAST_PAGES", 1)


@contextmanager
def twins(server: Server, key: str, loop: str = UPDATE) -> Iterator[Twins]:
    """Give a table with a key of some kind, and its twin."""
    columns, value, names = KEYS[key]
    made = f"CREATE TABLE t ({columns}, row_number bigint, n integer, PRIMARY KEY ({names}))"
    if key == "partitions":
        made += " PARTITION BY RANGE (k); CREATE TABLE t_rest PARTITION OF t DEFAULT;" + ";".join(
            f"CREATE TABLE t_{n} PARTITION OF t FOR VALUES FROM ({n * 25}) TO ({n * 25 + 25})" for n in range(4)
        )
    if key == "any case":
        with server.connect("postgres") as conn:
            if conn.execute("SELECT FROM pg_collation WHERE collname = 'und-x-icu'").fetchone() is None:
                pytest.skip("this build has no collation that takes different texts for equal")
        made = (
            "CREATE COLLATION app.any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);" + made
        )
    if loop == PAGES:
        made += "; ALTER TABLE t ADD pad text DEFAULT repeat('x', 900)"  # nine rows on a page
    filled = (
        f"INSERT INTO t ({names}, row_number, n) SELECT {value.replace('{}', 'i')}, i, 0"
        f" FROM generate_series(1, {ROWS}) AS i;"
        f"CREATE TABLE twin AS SELECT row_number, n, false AS was_there FROM t"
    )
    template = server.database(f"twins_{'_'.join(key.split())}{'_wide' * (loop == PAGES)}", TYPES, made, filled)
    name = f"own_{template}"
    with server.copied(name, template):
        yield Twins(server, name, key, loop)


def writes(own: Twins, number: int) -> list[Callable[[psycopg.Connection[tuple[object, ...]]], None]]:
    """One of each kind behind a batch, of rows that the loop has reached and of others."""
    base = number * 20
    merge = "MERGE" if own.server.version >= 15 else ""
    return [
        lambda conn: own.move(conn, base - 5, 1_100 + base),
        lambda conn: own.move(conn, base + 12, base - 5),  # not done, to where the loop has been
        lambda conn: own.move(conn, 1_100 + base, base + 12),  # done, to where it has not been
        lambda conn: own.move(conn, base + 7, 1_000 + base),  # not done, behind the end
        lambda conn: own.swap(conn, base - 3, base + 13),
        lambda conn: own.replace(conn, base + 15),
        lambda conn: own.replace(conn, base - 1),
        lambda conn: own.insert(conn, 2_000 + base),
        lambda conn: own.move(conn, 2_000 + base, base + 7),  # new, into the rows of the start
        lambda conn: own.upsert(conn, base + 9),
        lambda conn: own.delete(conn, base + 10),
        lambda conn: own.insert(conn, base + 10, form="COPY"),
        lambda conn: own.change(conn, base + 11),
        lambda conn: own.move(conn, 1_000 + base, 3_000 + base),
        lambda conn: own.delete(conn, base + 2),
        lambda conn: own.insert(conn, base + 2, form=merge),
        lambda conn: own.move(conn, base + 5, 4_000 + base),
        lambda conn: own.delete(conn, 4_000 + base),  # it was moved and is gone:
        lambda conn: own.insert(conn, 4_000 + base),  # the next one with its key is new
    ]


@pytest.mark.first_case
@pytest.mark.parametrize("loop", [UPDATE, DELETE, PAGES])
@pytest.mark.parametrize("key", sample([*KEYS], 10))
def test_rows_are_done_once_while_keys_change(server: Server, key: str, loop: str) -> None:
    """Rows that are moved, swapped, deleted, inserted again, copied, merged, by replication too: none is done twice."""

    def between(number: int) -> None:
        if number > 4:
            return
        with own.connect() as other:
            if number % 2 == 0:
                other.execute("SET session_replication_role = replica")
            for each in writes(own, number):
                with suppress(psycopg.errors.UniqueViolation):  # another one has that key by now
                    each(other)

    with twins(server, key, loop) as own, own.connect() as conn:
        own.begin(conn)
        refuse_foreign(conn)
        done = own.run(conn, between)
        assert done.number == 2, "nothing was moved"
        assert own.differing(conn) == []
        conn.execute(own.steps[2].sql)
        assert conn.execute("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal").fetchone() == (0,)
        assert conn.execute("SELECT relname FROM pg_class WHERE relname ~ 'moves_'").fetchall() == []


@pytest.mark.first_case
def test_rows_that_move_to_pages_that_were_met_are_found(server: Server) -> None:
    """Their new versions lie where the loop has been; one of them has another key too, and one matches no more."""
    behind: list[object] = []

    def between(number: int) -> None:
        if number == 4:
            with own.connect() as other:
                other.execute("VACUUM t")
                own.change(other, 60)
                own.move(other, 70, 2_070)
                other.execute("UPDATE t SET n = NULL WHERE row_number = 80")
                found = "SELECT row_number FROM t WHERE row_number IN (60, 70, 80) AND ctid < '(4,0)'"
                behind.extend(other.execute(found).fetchall())

    with twins(server, "integer", PAGES) as own, own.connect() as conn:
        own.begin(conn)
        done = own.run(conn, between)
        assert (len(behind), done.number, done.is_done) == (3, 2, True)
        assert conn.execute("SELECT row_number FROM t").fetchall() == [(80,)]
        own.run(conn)
        conn.execute(own.steps[2].sql)


# What a transaction does whose end the third batch (41 to 60) has to wait for.
OVERLAPS: dict[str, Sequence[tuple[int, int]]] = {
    "within the range": [(45, 1_045), (50, 45), (1_045, 50)],
    "to a free key of the range": [(50, 999_050)],
    "out of it, back": [(5, 2_005), (50, 5)],
    "out of it, forward": [(70, 2_070), (50, 70)],
    "behind the end": [(50, 5_000)],
    "into it from before": [(50, 2_050), (5, 50)],
    "into it from behind": [(50, 2_050), (70, 50)],
    "three times": [(50, 2_050), (2_050, 2_051), (45, 50), (2_051, 45)],
}


@pytest.mark.first_case
@pytest.mark.parametrize("isolation", ["READ COMMITTED", pytest.param("REPEATABLE READ", marks=pytest.mark.slow)])
@pytest.mark.parametrize("moves", sample(OVERLAPS, 3))
@pytest.mark.parametrize("key", ["integer", pytest.param("partitions", marks=pytest.mark.slow)])
def test_batch_that_waits_for_a_move_does_the_row_once(server: Server, key: str, moves: str, isolation: str) -> None:
    """The transaction begins before the loop, and moves rows while a batch is about to do them."""
    with twins(server, key) as own, own.connect() as conn, own.connect() as other, ThreadPoolExecutor(1) as beside:
        own.move(other, 49, 999_049)
        own.move(other, 999_049, 49)
        other.execute(f"BEGIN ISOLATION LEVEL {isolation}; SELECT count(*) FROM twin")
        own.begin(conn)
        pid = conn.info.backend_pid

        def between(number: int) -> None:
            if number != 2:
                return
            for old, new in OVERLAPS[moves]:
                own.move(other, old, new)
            beside.submit(commit_when_awaited)

        def commit_when_awaited() -> None:
            with own.connect() as third:
                waits = f"SELECT FROM pg_locks WHERE pid = {pid} AND NOT granted"
                wait_until(lambda: third.execute(waits).fetchone() is not None)
            other.execute("COMMIT")

        if isolation == "REPEATABLE READ" and any(old < 41 for old, _ in OVERLAPS[moves]):
            with pytest.raises(psycopg.errors.SerializationFailure):
                own.run(conn, between)  # the server keeps such a writer from a row that was changed after its snapshot
            other.execute("ROLLBACK")
        own.run(conn, between if not other.broken and other.info.transaction_status else lambda _: None)
        assert own.differing(conn) == []


@pytest.mark.slow
@pytest.mark.parametrize("place", ["within", "beyond"])
@pytest.mark.parametrize("loop", [UPDATE, DELETE, PAGES])
def test_a_row_that_waits_for_its_new_partition_is_not_new(server: Server, loop: str, place: str) -> None:
    """Who leaves the key that it waits for notes that later than it has noted its own move.

    The key may be within those of the start, or beyond the last.
    """
    with (
        twins(server, "partitions", loop) as own, own.connect() as conn, own.connect() as first, own.connect() as third,
        own.connect() as mover, ThreadPoolExecutor(2) as beside,
    ):  # fmt: skip
        if place == "beyond":
            own.begin(conn)
        own.move(conn, 95, 995)
        own.move(conn, 96, 996)
        if place == "within":
            own.begin(conn)

        def waits(one: psycopg.Connection[tuple[object, ...]]) -> bool:
            return conn.execute(f"SELECT FROM pg_locks WHERE pid = {one.info.backend_pid} AND NOT granted").rowcount > 0

        with third.transaction():
            third.execute("SELECT FROM t WHERE k = 996 FOR UPDATE")
            leaves = beside.submit(first.execute, "UPDATE t SET k = k + 2000 WHERE k IN (995, 996)")
            wait_until(lambda: waits(first))
            comes = beside.submit(own.move, mover, 60, 995)
            wait_until(lambda: waits(mover))
        assert (leaves.result(30).rowcount, comes.result(30)) == (2, None)
        own.run(conn)
        assert own.differing(conn) == []


@pytest.mark.slow
@pytest.mark.parametrize("key", ["integer", "partitions"])
def test_rows_of_a_table_that_was_emptied_are_new(server: Server, key: str) -> None:
    """TRUNCATE in the middle, also of a single partition: what comes after it is left as it is."""

    def between(number: int) -> None:
        if number == 2:
            with own.connect() as other:
                own.move(other, 50, 5_000)
                own.move(other, 60, 5_001)
                if key == "partitions":
                    gone = "DELETE FROM twin USING t_rest AS t WHERE twin.row_number = t.row_number"
                    other.execute(f"{gone}; TRUNCATE t_rest")
                else:
                    own.truncate(other)
                for at in (5, 55, 5_000, 5_002):
                    with suppress(psycopg.errors.UniqueViolation):
                        own.insert(other, at)

    with twins(server, key) as own, own.connect() as conn:
        own.begin(conn)
        own.run(conn, between)
        assert own.differing(conn) == []


def test_killed_loop_goes_on_with_what_was_noted(server: Server) -> None:
    """Notes and progress are in the database: another session does the rest, and no row twice."""
    with twins(server, "integer") as own, own.connect() as conn:
        own.begin(conn)

        def between(number: int) -> None:
            with own.connect() as other:
                for each in writes(own, number):
                    with suppress(psycopg.errors.UniqueViolation):
                        each(other)
            if number == 3:
                conn.execute("SELECT pg_terminate_backend(%s, 5000)", [victim.info.backend_pid])

        with own.connect() as victim, pytest.raises(psycopg.OperationalError):
            own.run(victim, between)
        own.run(conn)
        assert own.differing(conn) == []


@pytest.mark.slow
@pytest.mark.newest
@pytest.mark.parametrize("ends", ["COMMIT", pytest.param("ROLLBACK", marks=pytest.mark.slow)])
@pytest.mark.parametrize("key", [pytest.param("integer", marks=pytest.mark.slow), "partitions"])
def test_a_loop_goes_on_behind_a_prepared_transaction(servers: Servers, server: Server, key: str, ends: str) -> None:
    """Which holds rows that the loop has reached and such that it has not: its batch fails until they are free."""

    def between(number: int) -> None:
        if number == 2:
            with own.connect() as other:
                other.execute("BEGIN")
                for old, new in ((5, 1_005), (50, 1_050), (45, 50), (70, 5)):
                    own.move(other, old, new)
                own.delete(other, 46)
                other.execute("PREPARE TRANSACTION 'shop'")

    with twins(servers.get(server.version, max_prepared_transactions="2"), key) as own, own.connect() as conn:
        own.begin(conn)
        with pytest.raises(psycopg.errors.LockNotAvailable):
            own.run(conn, between, lock_timeout_ms=100)
        with pytest.raises(psycopg.errors.LockNotAvailable):
            own.run(conn, lock_timeout_ms=100)
        conn.execute(f"{ends} PREPARED 'shop'")
        own.run(conn)
        assert own.differing(conn) == []


@pytest.mark.parametrize("on", ["ENABLE TRIGGER ALL", "ENABLE ALWAYS TRIGGER {come}"])
def test_triggers_that_somebody_switched_off_are_told(server: Server, on: str) -> None:
    """What happened meanwhile is not known, even where they are as before: the loop does not say that it is done."""
    with twins(server, "integer") as own, own.connect() as conn:
        own.begin(conn)
        come = f'" pgrunbook_{own.batches.tracker}_come"'
        off = "DISABLE TRIGGER ALL" if on.endswith("ALL") else f"DISABLE TRIGGER {come}"
        conn.execute(f"ALTER TABLE t {off}; ALTER TABLE t {on.format(come=come)}".encode())
        with pytest.raises(Broken) as caught:
            own.run(conn)
    assert caught.value.lines() == [
        "cannot tell which rows of public.t were changed meanwhile",
        'Detail: Somebody has switched trigger " pgrunbook_' + own.batches.tracker + '_come" off, and on again perhaps:'
        " rows that were inserted, or whose key changed meanwhile, may have been changed twice or not at all.",
        "State: Nothing changed in the last transaction; the batches before it are committed.",
        "Hint: Compare the rows with what you expect, or roll the migration back; then begin it again.",
    ]


def test_cleanup_takes_the_tracker_away(server: Server) -> None:
    """The queries of the expansion find triggers, function and notes; behind them the schema is what it was."""
    with twins(server, "partitions") as own, own.connect() as conn:
        before = schema.snapshot(conn)
        own.begin(conn)
        (expansion,) = plan(conn, own.loop, batch_rows=20)
        for query in expansion.cleanup:
            for (statement,) in conn.execute(query.encode()).fetchall():
                conn.execute(str(statement).encode())
        assert schema.snapshot(conn) == before
        assert [conn.execute(query.encode()).fetchall() for query in expansion.cleanup] == [[]]


@pytest.mark.slow
@pytest.mark.parametrize("loop", [UPDATE, DELETE, PAGES])
@pytest.mark.parametrize("key", ["integer", "text", "composite", "partitions"])
def test_writers_at_work_see_each_row_done_once(server: Server, key: str, loop: str) -> None:
    """Four sessions under all isolation levels, all the time; what they are refused, they leave."""
    over = threading.Event()

    def work(seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 - not a secret
        with own.connect() as other:
            while not over.is_set():
                level = chance.choice(["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
                other.execute(f"SET default_transaction_isolation = '{level}'")
                one, two = chance.randrange(1, ROWS + 30), chance.randrange(1, ROWS + 30)
                kinds: list[Callable[[], None]] = [
                    partial(own.move, other, one, two), partial(own.swap, other, one, two),
                    partial(own.insert, other, two), partial(own.delete, other, one), partial(own.replace, other, one),
                    partial(own.change, other, one), partial(own.upsert, other, two),
                ]  # fmt: skip
                with (
                    suppress(
                        psycopg.errors.UniqueViolation,
                        psycopg.errors.SerializationFailure,
                        psycopg.errors.DeadlockDetected,
                    ),
                    other.transaction(),
                ):
                    for each in chance.sample(kinds, 2):
                        each()

    with twins(server, key, loop) as own, own.connect() as conn, ThreadPoolExecutor(4) as pool:
        working = [pool.submit(work, seed) for seed in range(4)]
        try:
            own.begin(conn)
            own.steps = [own.steps[0], replace(own.steps[1], batches=replace(own.batches, rows=3)), own.steps[2]]
            own.run(conn)
        finally:
            over.set()
            for one in working:
                one.result(timeout=30)
        assert own.differing(conn) == []


def test_no_loop_goes_by_a_deferrable_key(server: Server) -> None:
    """A row may come to a key before another has left it: no note tells which of them has it."""
    made = "CREATE TABLE t AS SELECT i AS k, i AS n FROM generate_series(1, 9) AS i; ALTER TABLE t ADD PRIMARY KEY (k)"
    with server.connect(server.database("late_key", made)) as conn:
        (expansion,) = plan(conn, UPDATE, batch_rows=2)
        assert any(step.batches for step in expansion.steps)
        conn.execute("ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY (k) DEFERRABLE")
        (expansion,) = plan(conn, UPDATE, batch_rows=2)
        assert not any(step.batches for step in expansion.steps)
