"""What is counted, summed, timed and weighed before a change, and again after it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from typing import Any

import psycopg
import pytest

from conftest import do
from pgrunbook.config.targets import Target
from pgrunbook.database import connection, measurements
from pgrunbook.database.measurements import Measurements, TableSize
from pgrunbook.database.queries import load, snapshot_cursor
from pgrunbook.database.query_plans import HeavyQuery, MeasuredQuery, QueryPlan
from pgrunbook.display.show import QUIET, Cell
from pgrunbook.procedures import measured_views, query_views
from scenes import session

Project = Callable[..., Target]


@pytest.fixture
def target(project: Project) -> Target:
    """Three tables, a large one among them."""
    target = project(folder={})
    do(target, 'CREATE TABLE "A b" (id int PRIMARY KEY, v text); INSERT INTO "A b" VALUES (1, NULL), (2, $$x$$);'
       "CREATE TABLE big (id int PRIMARY KEY, v text); INSERT INTO big SELECT i, repeat('x', 90) FROM"
       " generate_series(1, 2000) i; CREATE TABLE history (v int)")  # fmt: skip
    return target


def taken(target: Target, *, checksum_bytes: int = 1 << 30, changed: Collection[str] = ()) -> Measurements:
    with connection.connect(target) as conn:
        return measurements.take(
            conn, {"q": "SELECT 1"}, leave_out="public.history", checksum_bytes=checksum_bytes, check_timeout_ms=5_000,
            changed=changed,
        )  # fmt: skip


def again(target: Target, before: Measurements) -> dict[str, bool]:
    with connection.connect(target) as conn:
        now = measurements.sums_again(conn, before.sums)
    return {name: found == before.sums[name] for name, found in now.items()}


def test_the_smallest_tables_are_summed_up_to_a_limit(target: Target) -> None:
    """All are counted; the history table, which every migration changes, is not."""
    found = taken(target)
    assert found.rows == {'public."A b"': (2, True), "public.big": (2000, True)}
    assert (set(found.sums), found.sums['public."A b"'].columns) == (set(found.rows), {"id": "integer", "v": "text"})
    assert found.sizes["public.big"].index_bytes > 0
    assert (found.queries_ms["q"] is not None, found.breaches) == (True, {})
    assert set(taken(target, checksum_bytes=100_000).sums) == {'public."A b"'}


def test_of_large_tables_those_are_checked_that_the_plan_changes(target: Target) -> None:
    """A key of another one is named as not checked; validate then does not know whether it was broken before."""
    do(target, "ALTER TABLE big DROP CONSTRAINT big_pkey; CREATE UNIQUE INDEX k ON big (id);"
       " UPDATE pg_index SET indisunique = false WHERE indexrelid = 'k'::regclass; INSERT INTO big VALUES (7, 'x');"
       " UPDATE pg_index SET indisunique = true WHERE indexrelid = 'k'::regclass")  # fmt: skip
    key = "duplicates: public.k of public.big"
    assert taken(target).breaches == {key: 1}
    assert taken(target, checksum_bytes=100_000).breaches == {key: None}
    assert taken(target, checksum_bytes=100_000, changed={"big"}).breaches == {key: 1}
    ((_, _, now),) = measured_views.before(taken(target, checksum_bytes=100_000)).rows[-1:]
    assert now == Cell("against the schema", QUIET)


def test_many_small_tables_are_measured_together(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty tables more take a statement or two more; their columns are found by index, not by comparing all."""
    asked: list[str] = []
    execute = psycopg.Cursor.execute

    def counted(self: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(query if isinstance(query, str) else str(query))
        return execute(self, query, *args, **kwargs)

    monkeypatch.setattr(psycopg.Cursor, "execute", counted)
    few = taken(target).sums
    before = len(asked)
    do(target, "".join(f"CREATE TABLE t{n} (id int PRIMARY KEY, d int);" for n in range(20)))
    asked.clear()
    many = taken(target).sums
    assert (len(many) - len(few), len(asked) - before < 6) == (20, True)
    assert sum("pg_table_size" in query for query in asked) == 1  # a file or five of each table are looked at
    with connection.connect(target) as conn, snapshot_cursor(conn) as cursor:
        names = json.dumps([{"schema": was.schema, "name": was.name} for was in many.values()])
        query = f"EXPLAIN (ANALYZE, FORMAT JSON, TIMING off) {load('checksums')['columns'].rstrip(';')}"
        plan = cursor.execute(query.encode(), {"tables": names}).fetchone()
    thrown = [int(n) for n in re.findall(r"Rows Removed by Join Filter.: (\d+)", json.dumps(plan))]
    assert sum(thrown) < 10 * len(many)


@pytest.mark.slow
def test_the_values_of_the_same_columns_are_compared(target: Target) -> None:
    """Not those of new ones; a table that lost a column, changed its type, is locked or gone is not compared."""
    before = taken(target)
    assert again(target, before) == {'public."A b"': True, "public.big": True}
    do(target, "ALTER TABLE big ADD COLUMN n int DEFAULT 7; UPDATE \"A b\" SET v = 'y' WHERE id = 2")
    assert again(target, before) == {'public."A b"': False, "public.big": True}
    with session(target, "LOCK TABLE big"):
        assert again(target, before) == {'public."A b"': False}
    do(target, 'ALTER TABLE big ALTER v TYPE varchar; DROP TABLE "A b"')
    assert again(target, before) == {}


def test_a_change_without_a_data_statement_is_unexplained(target: Target) -> None:
    """Of rows or of values; a new table, one that is gone and one that is meant to change are not."""
    before = taken(target)
    counts = {"public.big": (1999, True), "new": (3, True)}
    (big, new, gone) = measured_views.compared(before, counts, {}, [])
    assert [table.unexplained for table in (big, new, gone)] == [True, False, False]
    (big, _, _) = measured_views.compared(before, counts, {}, ["big"])
    assert not big.unexplained
    (same, *_) = measured_views.compared(before, {"public.big": (2000, True)}, before.sums, [])
    assert (same.is_same, same.unexplained) == (True, False)
    estimated = measured_views.compared(before, {"public.big": (1, False)}, {}, [])
    assert not estimated[0].unexplained


PLAN = QueryPlan(("Index Scan on a using a_pkey",), 8.3, 1)
OTHER = QueryPlan(("Seq Scan on a",), 900.0, 1, rows=5_000, blocks=40)


def test_a_query_of_the_traffic_is_compared_by_the_calls_since() -> None:
    """Its mean before against that of the new calls alone; few calls prove nothing; counters may be reset."""
    was = HeavyQuery("SELECT * FROM a WHERE id = $1", 100, 4_000.0, PLAN)
    slow = query_views.of_heavy(was, HeavyQuery(was.query, 110, 6_000.0, OTHER))
    assert (slow.before_ms, slow.now_ms, slow.has_other_plan) == (40.0, 200.0, True)
    assert list(slow.problems(2.0)) == [f'query "{was.query}" takes 200 ms, before 40 ms']
    assert list(slow.problems(5.0)) == []
    assert list(query_views.of_heavy(was, HeavyQuery(was.query, 104, 6_000.0)).problems(2.0)) == []
    reset = query_views.of_heavy(was, HeavyQuery(was.query, 10, 300.0))
    assert (reset.now_ms, list(reset.problems(2.0))) == (30.0, [])
    unseen = query_views.of_heavy(was, HeavyQuery(was.query, 100, 4_000.0))
    assert (unseen.now_ms, list(unseen.problems(2.0))) == (None, [])


@pytest.mark.slow
def test_a_dollar_in_a_name_is_no_formula() -> None:
    """pg_stat_statements writes values as $1, and a table may be named so."""
    name = "SELECT $1+i%$2, \\frac"
    assert query_views.bars({name: (1.0, 2.0)}, 2.0).says == f"Critical queries: {name}: 1.0 ms before, 2.0 ms now"
    size = {"a$b^{$": TableSize(1 << 20, 1 << 20, 0)}
    assert query_views.size_bars(size, size, list(size)).png[:4] == b"\x89PNG"


def test_a_query_that_fails_now_is_a_problem_and_one_that_always_failed_is_not() -> None:
    """Also one that is only planned."""
    before = Measurements(rows={}, queries_ms={"a": 1.0, "b": None, "c": None}, plans={"c": PLAN})
    failed = [query_views.of_critical(name, before, MeasuredQuery(None, error="no")) for name in "abc"]
    assert [list(query.problems(2.0)) for query in failed] == [['query "a" fails: no'], [], ['query "c" fails: no']]


def test_another_plan_and_a_misjudged_number_of_rows_stand_out() -> None:
    """The plans unfold line by line below it."""
    before = Measurements(rows={}, queries_ms={"q": 1.0}, plans={"q": PLAN})
    query = query_views.of_critical("q", before, MeasuredQuery(1.5, OTHER))
    ((_, _, _, _, plan, rows, *_),) = query_views.table([query], 2.0).rows
    assert (str(plan), plan.under.splitlines()[-2:]) == ("another plan", [f"-{PLAN.nodes[0]}", f"+{OTHER.nodes[0]}"])
    assert str(rows) == "1, 5,000: ANALYZE its tables"
