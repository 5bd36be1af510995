"""Traffic on a branch: it shows what the application would feel, and fails without a noise."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import psycopg
import pytest

from conftest import Site, connect, do, rows
from pgrunbook.config.targets import Target
from pgrunbook.database import connection
from pgrunbook.rehearse import traffic as load
from pgrunbook.rehearse.traffic import Traffic
from scenes import session, until

Run = Callable[..., AbstractContextManager[Traffic]]

SCENE = """
CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text, more int,
    twice int GENERATED ALWAYS AS (more * 2) STORED);
INSERT INTO orders (note, more) SELECT 'note ' || n, n FROM generate_series(1, 30000) n;
CREATE TABLE keyless (n int);
INSERT INTO keyless VALUES (1);
CREATE TABLE empty (n int PRIMARY KEY);
CREATE SCHEMA "Odd one";
CREATE TABLE "Odd one"."T's" ("A: a" text NOT NULL, "B""b" date NOT NULL, "C c" int, UNIQUE ("A: a", "B""b"));
INSERT INTO "Odd one"."T's" SELECT 'it''s ' || n, '2026-01-01', n FROM generate_series(1, 50) n;
CREATE TABLE p (n int, at date, note text, PRIMARY KEY (n, at)) PARTITION BY RANGE (at);
CREATE TABLE p_2026 PARTITION OF p FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO p SELECT n, '2026-02-03' FROM generate_series(1, 50) n;
ANALYZE;
"""


@pytest.fixture
def target(project: Callable[..., Target]) -> Target:
    found = project(folder={"0001_a.sql": "SELECT 1"})
    do(found, SCENE)
    return found


@pytest.fixture
def run(site: Site, target: Target) -> Run:
    @contextmanager
    def traffic(*tables: str, leave: Mapping[str, Collection[str]] | None = None) -> Iterator[Traffic]:
        leave_columns, began = leave or {}, time.monotonic()
        with load.traffic(
            site.server, target, tables, per_second=200, leave_columns=leave_columns, began=began
        ) as told:
            yield told

    return traffic


def busy(target: Target, schema: str, table: str) -> Callable[[], bool]:
    """Tell whether rows of a table were both read and updated."""
    query = (
        "SELECT n_tup_upd > 0 AND coalesce(idx_scan, 0) + seq_scan > n_tup_upd FROM pg_stat_user_tables"
        f" WHERE schemaname = '{schema}' AND relname = $${table}$$"
    )
    return lambda: rows(target, query) == [(True,)]


def updates(target: Target, table: str) -> int:
    """Return how many rows of a table were updated so far."""
    return int(str(rows(target, f"SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = '{table}'")[0][0]))


def ended(target: Target, clients: int = 0) -> Callable[[], bool]:
    """Tell whether so few clients are left."""
    query = f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{connection.TRAFFIC}'"
    return lambda: rows(target, query) == [(clients,)]


@pytest.mark.slow
def test_latencies_come_and_nothing_stays_behind(run: Run, target: Target, site: Site) -> None:
    """Each transaction with the time at which it was due; the rows are what they were."""
    before = rows(target, "SELECT sum(hashtext(o::text)) FROM orders o")
    with run("public.orders") as told:
        until(busy(target, "public", "orders"))
        assert told.latencies == ()
    assert told.failed == ""
    assert told.transactions == len(told.latencies) > 0
    assert all(latency.at_ms > 0 and latency.ms > 0 for latency in told.latencies)
    assert [x.at_ms for x in told.latencies] == sorted(x.at_ms for x in told.latencies)
    assert rows(target, "SELECT sum(hashtext(o::text)) FROM orders o") == before
    assert rows(target, "SELECT FROM pg_tables WHERE schemaname = 'pgrunbook'") == []
    assert list(site.server.dir.glob("traffic-*")) == []


@pytest.mark.slow
def test_a_held_lock_shows_as_a_stall(run: Run, target: Target) -> None:
    """Who was due at its beginning took about as long as it was held, and who was due later is late as well."""
    with run("public.orders", "public.keyless") as told:
        until(busy(target, "public", "orders"))
        with session(target, "LOCK TABLE orders") as holder:
            until(lambda: rows(target, "SELECT FROM pg_locks WHERE clock_timestamp() - waitstart > interval '0.3 s'"))
            holder.execute("ROLLBACK")
    assert max(latency.ms for latency in told.latencies) >= 250
    assert len([latency for latency in told.latencies if latency.ms >= 100]) > load.CLIENTS
    assert told.failed == ""


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize(
    ("name", "schema", "table"),
    [('"Odd one"."T\'s"', "Odd one", "T's"), ("public.p", "public", "p_2026")],
)
def test_rows_are_found_by_any_key(run: Run, target: Target, name: str, schema: str, table: str) -> None:
    """Of several columns, with quotes and colons in their names, and through a partitioned table."""
    with run(name) as told:
        until(busy(target, schema, table))
    assert told.failed == ""


@pytest.mark.slow
def test_tables_without_a_key_or_without_rows_are_looked_into(run: Run, target: Target) -> None:
    """And those that are not there are passed over; with none at all there is no traffic."""
    with run("public.keyless", "public.empty", "public.not_there") as told:
        until(lambda: rows(target, "SELECT FROM pg_stat_user_tables WHERE relname = 'keyless' AND seq_scan > 5"))
    assert (told.failed, told.transactions > 0) == ("", True)
    with run("public.not_there") as told:
        pass
    assert told == Traffic()


@pytest.mark.slow
def test_columns_that_the_plan_changes_are_left_alone(run: Run, target: Target) -> None:
    """They can be dropped meanwhile; where the key is among them, rows are no longer looked for by it."""
    leave = {"public.orders": {"note", "twice"}, "public.p": {"at"}}
    with run("public.orders", "public.p", leave=leave) as told:
        do(target, "ALTER TABLE orders DROP note, DROP twice")
        before = updates(target, "orders")
        until(lambda: updates(target, "orders") > before)
    assert told.failed == ""
    assert updates(target, "p_2026") == 0


@pytest.mark.slow
def test_traffic_that_fails_is_told_and_raises_nothing(run: Run, target: Target) -> None:
    """What an application would have failed with; the rehearsal goes on, with what was measured until then."""
    with run("public.orders") as told:
        until(busy(target, "public", "orders"))
        do(target, "ALTER TABLE orders DROP note")
        until(ended(target))
        do(target, "CREATE TABLE the_rehearsal_goes_on ()")
    assert 'column "note" does not exist' in told.failed
    assert told.transactions > 0


@pytest.mark.slow
def test_one_client_that_fails_is_told_as_well(run: Run, target: Target) -> None:
    """The others go on, so that pgbench itself ends well."""
    with run("public.keyless") as told:
        do(target, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
           f" WHERE application_name = '{connection.TRAFFIC}' LIMIT 1")  # fmt: skip
        until(ended(target, load.CLIENTS - 1))
    assert "terminating connection" in told.failed or "aborted" in told.failed


def test_the_traffic_ends_with_the_body_however_that_ends(run: Run, target: Target) -> None:
    """An error of the rehearsal is what is raised; no client and no key stays."""

    def rehearse() -> None:
        with run("public.orders"), connect(target, purpose="test") as conn:
            conn.execute("SELECT 1/0")

    with pytest.raises(psycopg.errors.DivisionByZero):
        rehearse()
    assert ended(target)()
    assert rows(target, "SELECT FROM pg_tables WHERE schemaname = 'pgrunbook'") == []
