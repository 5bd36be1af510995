"""What the tests of a swap share: a target on a test's own database, a swap from end to end, writers of twin tables."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg

from acting import wait_until
from pgrunbook.config.targets import Target
from pgrunbook.database.checksums import TableName
from pgrunbook.database.connection import Connection, connect
from pgrunbook.database.schema import Snapshot, snapshot
from pgrunbook.database.schema_diff import diff
from pgrunbook.online import cutover, swap_begin, swap_end, swap_store, swap_sync
from pgrunbook.online.cutover import TableCutover
from pgrunbook.online.swap_shape import SwapChoice
from pgrunbook.online.swap_store import TableSwap
from servers import Server

# ruff: noqa: E501 - one statement on a line, whatever its length

URL = "PGRUNBOOK_SWAP_URL"
ORDERS = TableName("public", "orders")


@dataclass(frozen=True)
class SwapStage:
    """A database of a test, as a target."""

    server: Server
    database: str
    target: Target

    @contextmanager
    def session(self) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
        """Open a session of the application."""
        with self.server.connect(self.database) as conn:
            yield conn

    def rows(self, query: str) -> list[tuple[object, ...]]:
        """Return what a query finds."""
        with self.session() as conn:
            return conn.execute(query.encode()).fetchall()

    def do(self, *statements: str) -> None:
        """Execute statements of the application."""
        self.server.run(self.database, *statements)

    def schema(self) -> Snapshot:
        """Return the schema, without that of pgrunbook."""
        with self.session() as conn:
            return snapshot(conn)  # type: ignore[arg-type]

    def begun(self, choice: SwapChoice) -> TableSwap:
        """Look, try the shape, and begin a swap."""
        with connect(self.target) as conn:
            table = swap_begin.look(conn, choice)
            swap_begin.trial(conn, choice, table)
            return swap_begin.begin(conn, self.target, choice, table, "run")

    def filled(self, swap: TableSwap) -> TableSwap:
        """Copy, catch up, build and compare."""
        with connect(self.target) as conn:
            return swap_sync.fill(conn, self.target, swap)

    def ready(self, choice: SwapChoice) -> TableSwap:
        """Bring a swap up to its cut-over."""
        return self.filled(self.begun(choice))

    def cut_over(self, **options: int) -> TableCutover:
        """Cut over the swap that is at work, forth or back, and settle it."""
        with connect(self.target) as conn:
            swap = self.swap(conn)
            done = cutover.cut_over(conn, self.target, swap, keep_hours=1, **options)
            swap_end.settle(conn, self.target, done.swap)
            return done

    def finish(self) -> None:
        """Drop the old table."""
        with connect(self.target) as conn:
            swap_end.finish(conn, self.target, self.swap(conn))

    def abandon(self) -> None:
        """Take the swap away."""
        with connect(self.target) as conn:
            swap_end.abandon(conn, self.target, self.swap(conn))

    def swap(self, conn: Connection) -> TableSwap:
        """Return the swap that is at work, as the database has it."""
        (found,) = [one for one in swap_store.swaps(conn) if not one.state.is_over]
        return found


def stage_of(server: Server, database: str, **options: object) -> SwapStage:
    """Return a stage; the variable URL has to lead to the database."""
    return SwapStage(server, database, Target(name="swapped", url_from=URL, **options))  # type: ignore[arg-type]


def url_of(server: Server, database: str) -> str:
    return f"postgresql://postgres@/{database}?host={server.socket_dir}"


def differences(before: Snapshot, after: Snapshot) -> list[str]:
    """Return what differs between two schemas, [] for nothing."""
    return [one.line() for one in diff(before, after)]


TWINS = """
CREATE TABLE orders (region int, number int, code text NOT NULL UNIQUE, total numeric, note text,
    twice numeric GENERATED ALWAYS AS (total * 2) STORED, PRIMARY KEY (region, number));
INSERT INTO orders SELECT n % 7, n, 'k' || n, n / 3.0, 'o' || n FROM generate_series(1, 4000) AS n;
CREATE INDEX ON orders (total);
CREATE TABLE twin AS SELECT region, number, code, total, note FROM orders;
ALTER TABLE twin ADD PRIMARY KEY (region, number);
CREATE SEQUENCE numbers START 100000;
"""
DIFFER = """
SELECT o.*, t.* FROM (SELECT region, number, code, total, note, twice FROM orders) AS o
FULL JOIN (SELECT *, total * 2 AS twice FROM twin) AS t USING (region, number)
WHERE (o.code, o.total, o.note, o.twice) IS DISTINCT FROM (t.code, t.total, t.note, t.twice)
"""
_SOME = "SELECT array_agg(x.number) FROM (SELECT number FROM twin ORDER BY random() LIMIT {n}) AS x"
# Each is executed on both tables, in one transaction, under a lock that keeps writers of the twin in one order.
_WRITES = (
    "INSERT INTO {t} (region, number, code, total, note) SELECT g % 7, g, 'k' || g, g, 'new' FROM generate_series({a}, {b}) AS g",
    "DELETE FROM {t} WHERE number = ANY ('{some}')",
    "UPDATE {t} SET note = NULL, total = NULL WHERE number = ANY ('{some}')",
    "UPDATE {t} SET note = 'n' || number, total = total + 1 WHERE number = ANY ('{some}')",
    "UPDATE {t} SET region = region + 7 WHERE number = ANY ('{some}')",
    "UPDATE {t} SET number = -number WHERE number = ANY ('{some}')",
    "UPDATE {t} SET region = 8, number = number + 1000000, code = code || 'x', total = 5, note = NULL WHERE number = ANY ('{few}')",
)


@dataclass
class TwinWriters:
    """Writers at work: how many transactions they have committed, and the errors that they met."""

    done: int = 0
    errors: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def go_on(self, transactions: int) -> None:
        """Let them write on, until they have committed as many more."""
        ends = self.done + transactions
        wait_until(lambda: self.done >= ends)


@contextmanager
def writers(stage: SwapStage, *, seconds: float, sessions: int = 3, bursts: int = 3_000) -> Iterator[TwinWriters]:
    """Let sessions write table orders and its twin in one transaction each, until the body ends."""
    at_work = TwinWriters()
    ends = time.monotonic() + seconds

    def write(seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 - it keeps no secret
        with stage.session() as conn:
            while not at_work.stop.is_set() and time.monotonic() < ends:
                try:
                    _write(conn, chance, bursts)
                    at_work.done += 1
                except psycopg.Error as exc:
                    at_work.errors.append(str(exc))
                time.sleep(chance.random() / 100)

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(sessions)]
    for thread in threads:
        thread.start()
    try:
        yield at_work
    finally:
        at_work.stop.set()
        for thread in threads:
            thread.join(timeout=60)


def _write(conn: psycopg.Connection[tuple[object, ...]], chance: random.Random, bursts: int) -> None:
    with conn.transaction():
        conn.execute("SELECT pg_advisory_xact_lock(1)")
        kind = chance.random()
        if kind < 0.01:
            for table in ("orders", "twin"):
                conn.execute(f"TRUNCATE {table}".encode())
        size = bursts if 0.03 > kind >= 0.01 else 20
        (first,) = conn.execute("SELECT nextval('numbers') * 10000").fetchone() or (0,)
        some, few = (
            f"{{{','.join(map(str, numbers or []))}}}"
            for (numbers,) in (conn.execute(_SOME.format(n=n).encode()).fetchone() for n in (5, 2))
        )
        text = chance.choice(_WRITES) if kind >= 0.03 else _WRITES[0]
        for table in ("orders", "twin"):
            conn.execute(text.format(t=table, a=first, b=int(str(first)) + size, some=some, few=few).encode())
