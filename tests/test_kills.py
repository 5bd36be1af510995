"""Procedures and their loops that are killed at random moments, alone or with the server, under writers of a twin.

PGRUNBOOK_TEST_SEEDS=1:20 tries the seeds from 1 to 19.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from acting import anchored, cells, completed, error, events, run
from conftest import connect, do, rows
from kill_stage import Course, KillScene, TwinWriters, differing, record_is_true, survive
from pgrunbook.branches.server import Server
from pgrunbook.config.targets import Target
from pgrunbook.database import shadows
from pgrunbook.online import swap_end, swap_store, swap_sync
from pgrunbook.record import run as runs
from pgrunbook.record.run import Run, Status
from scenes import safe_plan_of
from test_rollout import share

Place = Callable[..., Target]
SEEDS = range(*map(int, os.environ.get("PGRUNBOOK_TEST_SEEDS", "1:2").split(":")))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_200)]
ORDERS = """
DROP SCHEMA IF EXISTS pgrunbook CASCADE;
DROP SCHEMA public CASCADE;
CREATE SCHEMA public;
CREATE TABLE orders (id int PRIMARY KEY, amount int DEFAULT 1 CHECK (amount >= 0), note text, cents bigint);
INSERT INTO orders SELECT i, i % 1000, 'n' || i FROM generate_series(1, 30000) AS i;
CREATE INDEX orders_amount ON orders (amount);
CREATE TABLE twin AS SELECT id, amount, note FROM orders;
ALTER TABLE twin ADD PRIMARY KEY (id);
CREATE TABLE log (n int PRIMARY KEY);
"""
IN_PARTS = ORDERS.replace(
    "cents bigint);",
    """cents bigint) PARTITION BY RANGE (id);
CREATE TABLE orders_past PARTITION OF orders FOR VALUES FROM (MINVALUE) TO (8000);
CREATE TABLE orders_now (gone int, cents bigint, note text, amount int DEFAULT 1, id int NOT NULL);
ALTER TABLE orders_now DROP gone;
ALTER TABLE orders_now ADD CONSTRAINT orders_amount_check CHECK (amount >= 0);
ALTER TABLE orders ATTACH PARTITION orders_now FOR VALUES FROM (8000) TO (1000000);
CREATE TABLE orders_new PARTITION OF orders DEFAULT PARTITION BY HASH (id);
CREATE TABLE orders_new_a PARTITION OF orders_new FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE orders_new_b PARTITION OF orders_new FOR VALUES WITH (MODULUS 2, REMAINDER 1);""",
)
TABLES = {"whole": ORDERS, "in parts": IN_PARTS}
# What is ours and may not be left, and sessions of ours.
OURS = r"""
SELECT relname::text FROM pg_class WHERE relname ~ '^(swap|changes)_[0-9a-f]'
UNION ALL SELECT conname::text FROM pg_constraint WHERE conname LIKE 'pgrunbook%' AND conrelid <> 0
UNION ALL SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid
UNION ALL SELECT tgname::text FROM pg_trigger WHERE NOT tgisinternal AND tgrelid = 'orders'::regclass
UNION ALL SELECT proname::text FROM pg_proc
WHERE pronamespace = to_regnamespace('pgrunbook') AND proname ~ '(fill|sync|swap|changes|note)_'
UNION ALL SELECT pid::text FROM pg_stat_activity
WHERE application_name LIKE 'pgrunbook %' AND application_name !~ 'test|writer' AND datname = current_database()
"""
STEPS = """
SELECT step, count(*) FILTER (WHERE state = 'done'), count(*) FILTER (WHERE state = 'intended')
FROM pgrunbook.step WHERE kind <> 'history row'
GROUP BY step
ORDER BY step
"""
TYPE = "SELECT format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attname = 'amount'"
PLAIN = "id, amount, note"


@pytest.fixture
def crash() -> Iterator[Server]:
    """A server of this test's own, to be killed."""
    server = Server("crash")
    server.start()
    try:
        with server.connect() as conn:
            conn.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")  # a backfill waits for it
            conn.execute("SELECT pg_reload_conf()")
        yield server
    finally:
        server.start()
        server.destroy()


@pytest.fixture
def place(project: Callable[..., Target], crash: Server, tmp_path: Path) -> Place:
    """A target on it, with table orders and its twin as they are at the beginning."""

    def make(migration: str = "", tables: str = ORDERS, **options: Any) -> Target:
        (tmp_path / "targets.toml").unlink(missing_ok=True)
        shutil.rmtree(tmp_path / "migrations-demo", ignore_errors=True)
        folder = {"0001_a.sql": migration} if migration else {}
        made = project(server=crash.name, database="postgres", restore_points=False, folder=folder, **options)
        do(made, tables)
        return made

    return make


# -- the procedures, headless: what their record says after each kill

COURSES: dict[str, Course] = {}
FILL = ["run", "backfill", "--target", "demo", "-p", "table=orders", "-p", 'fill={"cents": "amount * 100"}']
WIDER = "ALTER TABLE {table} ALTER COLUMN amount TYPE bigint"
SWAP = ["run", "swap", "--target", "demo", "-p", "table=public.orders", "-p", f"shape={WIDER}"]
RELEASE = ["run", "release", "--target", "demo", "-p", "with_data=false"]
CHANGES = {
    "type": "ALTER TABLE orders ALTER COLUMN amount TYPE bigint;",
    "rename": "ALTER TABLE orders RENAME COLUMN note TO remark;",
}


def survived(
    name: str, seed: int, place: Place, crash: Server, command: list[str], is_so: Callable[[Target, Run | None], None],
    migration: str = "",
) -> tuple[Run, Target]:  # fmt: skip
    """Run a procedure that is killed three times; return its run, once its record and its clients were looked at.

    ``is_so`` compares after each kill what the record says with what the database holds.
    """
    if name not in COURSES:
        COURSES[name] = KillScene(place(migration), command).undisturbed()
        shutil.rmtree(runs.folders()[0].parent)  # its anchors go with the database of the next scene
    target = place(migration)
    scene = KillScene(target, command, crash, random.Random(f"{name} {seed}"), lambda made: is_so(target, made))  # noqa: S311 - it keeps no secret
    with TwinWriters(target, seed) as writers:
        made = scene.survive(COURSES[name], 3)
    assert made.status is Status.DONE
    assert writers.errors == []
    # An attempt that only validates writes nothing into the database, and anchors nothing there.
    names = [e["event"] for e in events(made)]
    has_written = "anchored" in names[len(names) - names[::-1].index("ledger-opened") :]
    assert (anchored(target, made)[-1] == "closed") is has_written, (scene.kills, scene.told)
    record_is_true(made, target)
    for part, _ in enumerate(made.parts):
        assert completed(made, part), cells(made, part)
    return made, target


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("order", ["key", "pages"])
def test_backfill_that_is_killed(place: Place, crash: Server, order: str, seed: int) -> None:
    """No row differs from the twin; what is told as filled is."""
    command = [*FILL, "-p", f"order={order}", "-p", "leave_in_sync=true"]

    def is_so(target: Target, made: Run | None) -> None:
        if made is not None and events(made, "rows-filled"):
            assert left(target) == 0

    def left(target: Target) -> int:
        return int(str(rows(target, "SELECT count(*) FROM orders WHERE cents IS DISTINCT FROM amount * 100")[0][0]))

    _, target = survived(f"backfill-{order}", seed, place, crash, command, is_so)
    assert left(target) == 0
    assert differing(target, PLAIN, PLAIN) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_swap_that_is_killed(place: Place, crash: Server, seed: int) -> None:
    """No row differs, forth and back; a cut-over that is told is there, and nothing is left when it is taken away."""

    def is_so(target: Target, made: Run | None) -> None:
        if made is not None and (made.status is Status.DONE or events(made, "cut-over")):
            assert rows(target, TYPE) == [("bigint",)]

    made, target = survived("swap", seed, place, crash, SWAP, is_so)
    assert len(events(made, "cut-over")) + len(events(made, "cut-over-found")) > 0
    assert differing(target, PLAIN, PLAIN) == []
    for do_, type_ in (("back", "integer"), ("abandon", "integer")):
        _, code = run("swap", table="public.orders", do=do_)
        assert code == 0
        assert rows(target, TYPE) == [(type_,)]
        assert differing(target, PLAIN, PLAIN) == []
    assert rows(target, OURS) == []


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", CHANGES)
def test_release_that_is_killed(place: Place, crash: Server, kind: str, seed: int) -> None:
    """Each step is done once; no step is told as committed that is not, and none that is there is left out."""

    def is_so(target: Target, made: Run | None) -> None:
        told = {int(s) for e in events(made, "committed") for s in e["steps"]} if made is not None else set()
        is_there = rows(target, "SELECT to_regclass('pgrunbook.step') IS NOT NULL") == [(True,)]
        query = "SELECT step FROM pgrunbook.step WHERE state = 'done' AND kind <> 'history row'"
        there = {int(str(number)) for (number,) in rows(target, query)} if is_there else set()
        assert told <= there
        assert made is None or made.status is not Status.DONE or told == there

    _, target = survived(f"release-{kind}", seed, place, crash, RELEASE, is_so, migration(kind))
    is_released(target, kind)


# -- their loops and steps, in a process of their own: many kills

FILLS = """
import sys
from pgrunbook.config import targets
from test_online_backfill import filled, resolve, working, installed
from pgrunbook.online import backfill
with working(targets.load("demo")) as conn:
    made = resolve(conn, "orders", {"cents": "amount * 100"})
    if not backfill.is_in_sync(conn, made):
        installed(conn, made)
    filled(conn, made, order=sys.argv[1], in_sync=True)
"""
SWAPS = """
from pgrunbook.config import targets
from pgrunbook.database.connection import connect
from pgrunbook.online import cutover, swap_begin, swap_copy, swap_end, swap_store, swap_sync
from pgrunbook.online.swap_shape import SwapChoice
from swap_stage import ORDERS
swap_copy.RANGE_PAGES = 8
choice = SwapChoice(ORDERS, "ALTER TABLE {table} ALTER COLUMN amount TYPE bigint")
target = targets.load("demo")
with connect(target) as conn:
    swap = swap_store.of_table(conn, ORDERS)
    if swap is None:
        table = swap_begin.look(conn, choice)
        swap_begin.trial(conn, choice, table)
        swap = swap_begin.begin(conn, target, choice, table, "run")
    if not swap.is_new_live:
        swap = swap_sync.fill(conn, target, swap)
        swap = cutover.cut_over(conn, target, swap, keep_hours=1).swap
    swap_end.settle(conn, target, swap)
"""
EXECUTES = """
import sys
from pathlib import Path
import scenes
from pgrunbook.config import targets
from pgrunbook.plan import plan
scenes.execute(targets.load("demo"), plan.read(Path(sys.argv[1])))
"""
ROLLS = """
from test_rollout import lead
lead("half", watch_s=0.0)
"""


def migration(kind: str) -> str:
    """Return a migration of that change, between two statements that can be done once only."""
    return f"INSERT INTO log VALUES (1);\n{CHANGES[kind]}\nINSERT INTO log VALUES (2);"


def is_released(target: Target, kind: str) -> None:
    """See that each step was done once, both columns hold the same, and contract leaves nothing."""
    assert rows(target, "SELECT n FROM log ORDER BY n") == [(1,), (2,)]
    assert {row[1:] for row in rows(target, STEPS)} == {(1, 0)}
    assert rows(target, "SELECT count(*) FROM schema_migrations") == [(1,)]
    assert rows(target, "SELECT FROM pgrunbook.batch WHERE NOT is_done") == []
    if kind == "type":
        assert rows(target, TYPE) == [("bigint",)]
        assert differing(target, "id, amount, pgrunbook_old_amount, note", "id, amount, amount, note") == []
    else:
        assert differing(target, "id, amount, note, remark", "id, amount, note, note") == []
    with connect(target) as conn:
        assert len(shadows.read(conn)) == 1
    made, code = run("contract", accept="all")
    assert code == 0, error(made)
    assert rows(target, OURS) == []


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("order", "tables"), [("key", "whole"), ("pages", "whole"), ("pages", "in parts")])
def test_loop_of_a_backfill_that_is_killed(place: Place, crash: Server, order: str, tables: str, seed: int) -> None:
    """Each row is filled, and no row differs from the twin."""
    target = place(tables=TABLES[tables])
    with TwinWriters(target, seed) as writers:
        survive(target, crash, FILLS, f"{order} {seed}", order, span_s=1.0)
    assert writers.errors == []
    assert differing(target, f"{PLAIN}, cents", f"{PLAIN}, amount * 100") == []
    assert rows(target, "SELECT FROM pgrunbook.batch WHERE NOT is_done") == []


@pytest.mark.parametrize("seed", SEEDS)
def test_parts_of_a_swap_that_is_killed(place: Place, crash: Server, seed: int) -> None:
    """No row differs, also in the old table; finished, nothing is left."""
    target = place()
    with TwinWriters(target, seed) as writers:
        survive(target, crash, SWAPS, f"swap {seed}")
    assert writers.errors == []
    assert rows(target, TYPE) == [("bigint",)]
    assert differing(target, PLAIN, PLAIN) == []
    with connect(target) as conn:
        (swap,) = swap_store.swaps(conn)
        assert swap_sync.compare(conn, swap).is_equal
        swap_end.finish(conn, target, swap)
    assert rows(target, OURS) == []


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("tables", TABLES)
@pytest.mark.parametrize("kind", CHANGES)
def test_steps_of_a_plan_that_is_killed(
    place: Place, crash: Server, tmp_path: Path, kind: str, tables: str, seed: int
) -> None:
    """Each is done once; both columns hold the same until contract, and nothing is left behind it."""
    target, file = place(migration(kind), TABLES[tables], batch_rows=1000), tmp_path / "plan.json"
    file.write_text(safe_plan_of(target).text())
    with TwinWriters(target, seed) as writers:
        survive(target, crash, EXECUTES, f"{kind} {seed}", str(file), span_s=2.5 if tables == "whole" else 1.0)
    assert writers.errors == []
    is_released(target, kind)


@pytest.mark.parametrize("seed", SEEDS)
def test_stage_of_a_rollout_that_is_killed(
    place: Place, crash: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Behind the last run each row of the share has the flag, and all else is as its twin."""
    target, home = place(batch_rows=500), tmp_path / "home"
    (home / "rollouts").mkdir(parents=True)
    declared = {"table": "orders", "column": "beta", "stages": [{"name": "half", "share": 50}]}
    (home / "rollouts" / "beta.yaml").write_text(yaml.safe_dump(declared))
    monkeypatch.setenv("PGRUNBOOK_HOME", str(home))
    with TwinWriters(target, seed) as writers:
        survive(target, crash, ROLLS, f"rollout {seed}", span_s=4.0)
    survive(target, crash, ROLLS, "", most=0)  # rows that came since get the flag
    assert writers.errors == []
    assert differing(target, PLAIN, PLAIN) == []
    ids = {int(str(key)) for (key,) in rows(target, "SELECT id FROM orders")}
    flagged = {int(str(key)) for (key,) in rows(target, "SELECT id FROM orders WHERE beta")}
    assert share(50, ids) - flagged == set()
