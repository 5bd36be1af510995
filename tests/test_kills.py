"""Runs that are killed at random moments, with the server or without, under writers of a twin, and go on."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from acting import anchored, cells, completed, events, pgrunbook, run
from conftest import do, rows
from kill_stage import VICTIMS, KillScene, TwinWriters, Written, differing, record_is_true
from pgrunbook.branches.server import Server
from pgrunbook.config.targets import Target
from pgrunbook.record.run import Run, Status

Project = Callable[..., Target]
SEEDS = range(*map(int, os.environ.get("PGRUNBOOK_TEST_SEEDS", "1:2").split(":")))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_200)]
ORDERS = """
CREATE TABLE orders (id int PRIMARY KEY, amount int DEFAULT 1 CHECK (amount >= 0), note text, cents bigint);
INSERT INTO orders SELECT i, i % 1000, 'n' || i FROM generate_series(1, 30000) AS i;
CREATE INDEX orders_amount ON orders (amount);
CREATE TABLE twin AS SELECT id, amount, note FROM orders;
ALTER TABLE twin ADD PRIMARY KEY (id);
CREATE TABLE log (n int);
"""
OURS = """
SELECT c.relname::text FROM pg_class AS c WHERE c.relname ~ '^(swap|changes)_[0-9a-f]'
UNION ALL SELECT conname::text FROM pg_constraint WHERE conname LIKE 'pgrunbook%' AND conrelid <> 0
UNION ALL SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid
UNION ALL SELECT tgname::text FROM pg_trigger AS t WHERE NOT tgisinternal AND tgrelid = 'orders'::regclass
UNION ALL SELECT proname::text FROM pg_proc WHERE pronamespace = to_regnamespace('pgrunbook') AND proname ~ '(fill|sync|swap|changes|note)_'
UNION ALL SELECT pid::text FROM pg_stat_activity WHERE application_name LIKE 'pgrunbook %' AND application_name !~ 'test|writer' AND datname = current_database()
"""
STEPS = """
SELECT step, count(*) FILTER (WHERE state = 'done'), count(*) FILTER (WHERE state = 'intended')
FROM pgrunbook.step WHERE kind <> 'history row'
GROUP BY step
ORDER BY step
"""


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
def place(project: Project, crash: Server, tmp_path: Path) -> Callable[..., Target]:
    """A target on it, with table orders and its twin."""

    def make(**options: Any) -> Target:
        (tmp_path / "targets.toml").unlink(missing_ok=True)
        shutil.rmtree(tmp_path / "migrations-demo", ignore_errors=True)
        made = project(
            name="demo", server=crash.name, database="postgres", restore_points=False, folder=options.pop("folder", {}),
            **options,
        )  # fmt: skip
        do(made, "DROP SCHEMA IF EXISTS pgrunbook CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public;" + ORDERS)
        return made

    return make


def tell(name: str, seed: int, scene: KillScene, writers: TwinWriters) -> None:
    """Write down what was survived."""
    file = os.environ.get("PGRUNBOOK_TEST_TOLD")
    if file:
        with Path(file).open("a") as told:
            for kill in scene.kills:
                told.write(f"{name}\t{seed}\t{kill}\n")
            told.write(f"{name}\t{seed}\tSURVIVED {len(scene.kills)} writes {writers.done} crashes {writers.crashes}\n")


def ended_well(made: Run, target: Target, writers: TwinWriters) -> None:
    """See that the run is done, that its record is true, and that no writer has seen but the server's own crash."""
    assert made.status is Status.DONE
    assert writers.errors == []
    if anchored(target, made)[-1] != "closed":  # the server was killed before that, or the runner
        assert runbook_seal(made) == 0
    assert anchored(target, made)[-1] == "closed"
    record_is_true(made, target)
    for part, _ in enumerate(made.parts):
        assert completed(made, part), cells(made, part)


def runbook_seal(made: Run) -> int:
    """Seal a run by the command."""
    with pgrunbook("seal", made.run_id) as process:
        told = process.communicate(timeout=60)
    assert process.returncode == 0, told
    return process.returncode


def survived(name: str, seed: int, target: Target, crash: Server, written: Written, command: list[str],
             most: int = 3, **options: Any) -> tuple[Run, KillScene, TwinWriters]:  # fmt: skip
    chance = random.Random(f"{name} {seed}")  # noqa: S311 - it keeps no secret
    scene = KillScene(target, command, chance, crash, **options)
    with TwinWriters(target, written, seed) as writers:
        try:
            made = scene.survive(COURSES[name.partition(" ")[0]], most, VICTIMS)
        except BaseException:
            print("KILLS", *scene.kills, "WRITERS", writers.errors[:3], sep="\n")
            raise
    tell(name, seed, scene, writers)
    return made, scene, writers


COURSES: dict[str, list[tuple[str, float]]] = {}


def course(name: str, target: Target, command: list[str]) -> None:
    """Run the procedure once, undisturbed, where that was not done yet."""
    if name not in COURSES:
        COURSES[name] = KillScene(target, command, random.Random()).undisturbed()  # noqa: S311
        print(name, len(COURSES[name]), sum(t for _, t in COURSES[name]))


FILL = ["run", "backfill", "--target", "demo", "-p", "table=orders", "-p", 'fill={"cents": "amount * 100"}']


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("order", ["key", "pages"])
def test_backfill(place: Callable[..., Target], crash: Server, order: str, seed: int) -> None:
    """Zero rows differ from the twin, and nothing of the backfill is left."""
    command = [*FILL, "-p", f"order={order}"]
    if f"backfill-{order}" not in COURSES:
        course(f"backfill-{order}", place(), command)
    target = place()
    # The trigger goes at the end of the run: what is written then is not filled, and counted before it.
    made, scene, writers = survived(f"backfill-{order}", seed, target, crash, Written("orders", "amount", "g % 1000"),
                             [*command, "-p", "leave_in_sync=true"])
    ended_well(made, target, writers)
    assert differing(target, "orders", "id, amount, note", "id, amount, note") == []
    assert rows(target, "SELECT count(*) FROM orders WHERE cents IS DISTINCT FROM amount * 100") == [(0,)]
    filled = events(made, "rows-filled")[-1]
    assert rows(target, "SELECT count(*) FROM pgrunbook.batch WHERE NOT is_done") == [(0,)], filled


WIDER = "ALTER TABLE {table} ALTER COLUMN amount TYPE bigint"
SWAP = ["run", "swap", "--target", "demo", "-p", "table=public.orders", "-p", f"shape={WIDER}"]
TYPE = "SELECT format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attname = 'amount'"


@pytest.mark.parametrize("seed", SEEDS)
def test_swap(place: Callable[..., Target], crash: Server, seed: int) -> None:
    """Zero rows differ; back again, and away, nothing is left."""
    if "swap" not in COURSES:
        course("swap", place(), SWAP)
    target = place()

    def as_told(made: Run | None) -> None:
        if made is None:
            return
        cut = [e for e in events(made) if e["event"] == "cut-over"]
        (type_,) = rows(target, TYPE)[0]
        if cut:
            assert type_ == "bigint"
        if made.status is Status.DONE:
            assert type_ == "bigint"

    made, _, writers = survived(
        "swap", seed, target, crash, Written("orders", "amount", "g % 1000"), SWAP, after_kill=as_told
    )
    ended_well(made, target, writers)
    assert rows(target, TYPE) == [("bigint",)]
    assert differing(target, "orders", "id, amount, note", "id, amount, note") == []
    back, code = run("swap", table="public.orders", do="back")
    assert code == 0
    assert differing(target, "orders", "id, amount, note", "id, amount, note") == []
    assert rows(target, TYPE) == [("integer",)]
    gone, code = run("swap", table="public.orders", do="abandon")
    assert code == 0
    assert rows(target, OURS) == []


RELEASE = ["run", "release", "--target", "demo", "-p", "with_data=false"]


def released(made: Run, target: Target, writers: TwinWriters) -> None:
    ended_well(made, target, writers)
    assert rows(target, "SELECT n FROM log ORDER BY n") == [(1,), (2,)]
    assert {row[1:] for row in rows(target, STEPS)} == {(1, 0)}
    assert rows(target, "SELECT count(*) FROM schema_migrations") == [(1,)]


def half_released(target: Target) -> Callable[[Run | None], None]:
    """What the journal calls committed is so in the database, and what is there, is in the journal once it is done."""

    def as_told(made: Run | None) -> None:
        if made is None:
            return
        told = {int(s) for e in events(made, "committed") if e.get("direction") == "up" for s in e["steps"]}
        if rows(target, "SELECT to_regclass('pgrunbook.step')::text") == [(None,)]:
            assert not told
            return
        there = {n for (n,) in rows(target, "SELECT step FROM pgrunbook.step WHERE state = 'done' AND kind <> 'history row'")}
        assert not told - there, (told, there)
        log = [n for (n,) in rows(target, "SELECT n FROM log ORDER BY n")]
        assert log in ([], [1], [1, 2])

    return as_told


@pytest.mark.parametrize("seed", SEEDS)
def test_type(place: Callable[..., Target], crash: Server, seed: int) -> None:
    """A change of type as a release: each step once, both columns hold the same until contract, and nothing after."""
    text = "INSERT INTO log VALUES (1);\nALTER TABLE orders ALTER COLUMN amount TYPE bigint;\nINSERT INTO log VALUES (2);"
    if "type" not in COURSES:
        course("type", place(folder={"0001_a.sql": text}), RELEASE)
    target = place(folder={"0001_a.sql": text})
    made, _, writers = survived("type", seed, target, crash, Written("orders", "amount", "g % 1000"), RELEASE,
                                after_kill=half_released(target))  # fmt: skip
    released(made, target, writers)
    assert rows(target, TYPE) == [("bigint",)]
    assert differing(target, "orders", "id, amount, note", "id, amount, note") == []
    assert differing(target, "orders", "id, pgrunbook_old_amount, note", "id, amount, note") == []
    done, code = run("contract", accept="all")
    assert code == 0
    assert rows(target, OURS) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_rename(place: Callable[..., Target], crash: Server, seed: int) -> None:
    """A rename as a release: both names hold the same until contract, and nothing is left after."""
    text = "INSERT INTO log VALUES (1);\nALTER TABLE orders RENAME COLUMN note TO remark;\nINSERT INTO log VALUES (2);"
    if "rename" not in COURSES:
        course("rename", place(folder={"0001_a.sql": text}), RELEASE)
    target = place(folder={"0001_a.sql": text})
    made, _, writers = survived("rename", seed, target, crash, Written("orders", "amount", "g % 1000"), RELEASE,
                                after_kill=half_released(target))  # fmt: skip
    released(made, target, writers)
    assert differing(target, "orders", "id, amount, note, remark", "id, amount, note, note") == []
    done, code = run("contract", accept="all")
    assert code == 0
    assert differing(target, "orders", "id, amount, remark", "id, amount, note") == []
    assert rows(target, OURS) == []
