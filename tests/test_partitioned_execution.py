"""A change of type of a partitioned table as a plan: released, rolled back, and ended by contract."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from acting import error, run
from conftest import connect, do, rows
from pgrunbook.config.targets import Target
from pgrunbook.database.schema import snapshot
from pgrunbook.database.schema_diff import diff
from pgrunbook.draft.expected_differences import is_declared
from pgrunbook.plan.declared import Declared
from pgrunbook.record.run import Status

Project = Callable[..., Target]
pytestmark = pytest.mark.newest

TABLES = """
CREATE TABLE customers (id integer PRIMARY KEY);
INSERT INTO customers SELECT generate_series(1, 300);
CREATE TABLE events (id serial, at date, customer integer REFERENCES customers, PRIMARY KEY (id, at))
    PARTITION BY RANGE (at);
CREATE TABLE events_2025 PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE events_2026 (customer integer, at date NOT NULL, id integer NOT NULL DEFAULT 0);
ALTER TABLE events ATTACH PARTITION events_2026 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE events_rest PARTITION OF events DEFAULT;
CREATE INDEX ON events (customer);
INSERT INTO events (at, customer) SELECT '2025-06-01'::date + i, i FROM generate_series(1, 300) AS i;
"""
GROW = "ALTER TABLE events ALTER id TYPE bigint, ALTER customer TYPE bigint;"
LEFT_OUT = ["pgrunbook", "public.schema_migrations"]
LOCAL = [Declared("locality", f"public.events_{part}", "") for part in ("2025", "2026", "rest")]


@pytest.mark.slow
def test_a_release_its_rollback_and_contract(project: Project) -> None:
    """No gate; rows that are written meanwhile are there when it is taken back; contract leaves nothing of ours."""
    target = project(folder={"0001_a.sql": GROW}, batch_rows=100)
    do(target, TABLES)
    with connect(target) as conn:
        before = snapshot(conn, leave_out=LEFT_OUT)
    made, code = run("release", with_data="true")
    assert (code, made.status) == (0, Status.DONE), error(made)
    types = "SELECT DISTINCT pg_typeof(id)::text, pg_typeof(customer)::text FROM events"
    assert rows(target, types) == [("bigint", "bigint")]
    do(target, "INSERT INTO events (at, customer) VALUES ('2030-01-01', 7)")
    do(target, "UPDATE events SET at = '2031-01-01', customer = 9 WHERE id = 1")
    made, code = run("rollback", with_data="true")
    assert (code, made.status) == (0, Status.DONE), error(made)
    with connect(target) as conn:
        found = diff(before, snapshot(conn, leave_out=LEFT_OUT))
    assert [each.line() for each in found if not is_declared(each, LOCAL)] == []
    assert rows(target, "SELECT id, customer FROM events_rest ORDER BY id") == [(1, 9), (301, 7)]
    assert run("release")[1] == 0
    made, code = run("contract", accept="all")
    assert (code, made.status) == (0, Status.DONE), error(made)
    ours = "SELECT attname FROM pg_attribute WHERE attname LIKE 'pgrunbook%' AND NOT attisdropped AND attrelid IN "
    assert rows(target, f"{ours} (SELECT relid FROM pg_partition_tree('events'))") == []
