"""notebooks/swap.ipynb: a table takes another shape, back and forth, and the record says what was done."""

from __future__ import annotations

import os
import random
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from acting import anchored, cells, completed, error, events, newest_run, outputs, pgrunbook, run, wait_until
from conftest import ROOT, connect, do, rows
from pgrunbook.branches.server import Server
from pgrunbook.config.targets import Target
from pgrunbook.database.checksums import TableName
from pgrunbook.procedures import swap_views
from pgrunbook.record.run import Status
from pgrunbook.session import session as heres

Project = Callable[..., Target]
ORDERS = """
CREATE TABLE orders (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer int NOT NULL, total numeric, note text);
CREATE TABLE items (id int PRIMARY KEY, order_id int NOT NULL REFERENCES orders);
INSERT INTO orders (customer, total, note) SELECT n % 50, n / 7.0, 'o' || n FROM generate_series(1, 500) AS n;
INSERT INTO items SELECT n, n FROM generate_series(1, 500) AS n;
CREATE INDEX orders_customer ON orders (customer);
"""
WIDER = "ALTER TABLE {table} ALTER COLUMN id TYPE bigint, ALTER COLUMN customer TYPE bigint"
MEANWHILE = """
UPDATE orders SET note = NULL WHERE id < 100;
DELETE FROM items WHERE id = 500;
DELETE FROM orders WHERE id = 500;
INSERT INTO orders (customer, note) VALUES (7, 'later');
"""
MANY = """
INSERT INTO orders (customer, total, note) SELECT n % 50, n / 7.0, 'o' || n FROM generate_series(501, 100000) AS n;
"""
LEFT = """SELECT c.relname FROM pg_class AS c
WHERE c.relnamespace = to_regnamespace('pgrunbook') AND c.relname ~ '^(swap|changes)_[0-9a-f]'"""
COUNTED = "SELECT count(*), sum(id), sum(total), count(DISTINCT id) FROM orders"
MOST_KILLS, MOST_CRASHES = 8, 4
TYPE = "SELECT format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attname = 'id'"


@pytest.fixture
def target(project: Project) -> Target:
    """A target with a table of orders."""
    target = project(folder={})
    do(target, ORDERS)
    return target


@pytest.fixture(autouse=True)
def leave() -> Iterator[None]:
    """End what a test began in this process."""
    yield
    heres._end_earlier()


def test_table_gets_wider_keys(target: Target) -> None:
    """One run makes the new table, cuts over and validates what came along; the journal says for how long it locked."""
    made, code = run("swap", table="orders", shape=WIDER)
    assert (code, made.status, completed(made)) == (0, Status.DONE, True)
    assert rows(target, TYPE) == [("bigint",)]
    (cut_over,) = events(made, "cut-over")
    assert cut_over["attempts"] == 1
    assert cut_over["held_ms"] > 0
    assert events(made, "swap-settled")[0]["parts"] == [
        "ALTER TABLE public.items VALIDATE CONSTRAINT items_order_id_fkey"
    ]
    assert rows(target, "SELECT convalidated FROM pg_constraint WHERE conname = 'items_order_id_fkey'") == [(True,)]
    assert anchored(target, made) == ["opened", "closed"]


@pytest.mark.slow
def test_old_table_goes_in_its_own_step(target: Target) -> None:
    """It is not dropped before its time, without force; a number beyond the old type is there then."""
    run("swap", table="orders", shape=WIDER)
    do(target, "INSERT INTO orders (customer) VALUES (3000000000)")
    early, code = run("swap", table="orders", do="finish")
    assert (code, early.status) == (3, Status.REFUSED)
    assert "refused to drop the old table" in error(early)
    late, code = run("swap", table="orders", do="finish", force="true")
    assert (code, completed(late)) == (0, True)
    assert "the old one is gone" in outputs(late, "verdict")
    assert rows(target, "SELECT count(*) FROM orders") == [(501,)]


@pytest.mark.slow
def test_way_back_loses_no_write(target: Target) -> None:
    """What was written since the cut-over is there in the old table too, and the swap can be taken away then."""
    made, _ = run("swap", table="public.orders")
    assert made.status is Status.DONE
    do(target, MEANWHILE)
    before = rows(target, "SELECT * FROM orders ORDER BY id")
    back, code = run("swap", table="orders", do="back")
    assert (code, back.status) == (0, Status.DONE)
    assert rows(target, "SELECT * FROM orders ORDER BY id") == before
    gone, code = run("swap", table="orders", do="abandon")
    assert (code, gone.status) == (0, Status.DONE)
    assert "nothing of a swap is left" in outputs(gone, "verdict")
    again, code = run("swap", table="orders", do="back")
    assert (code, again.status) == (3, Status.REFUSED)


@pytest.mark.slow
def test_cut_over_waits_for_a_person(target: Target) -> None:
    """Postponed, the run ends with a ready table; changes are noted, and the next run brings them over."""
    was = rows(target, "SELECT 'orders'::regclass::oid")
    made, code = run("swap", table="orders", cutover="postponed")
    assert (code, made.status) == (0, Status.DONE)
    assert "ready for the cut-over" in outputs(made, "verdict")
    assert rows(target, "SELECT 'orders'::regclass::oid") == was
    do(target, "DELETE FROM items; TRUNCATE orders CASCADE; INSERT INTO orders (customer) VALUES (1), (2)")
    later, _ = run("swap", table="orders")
    assert later.status is Status.DONE
    assert rows(target, "SELECT 'orders'::regclass::oid") != was
    assert rows(target, "SELECT customer FROM orders ORDER BY id") == [(1,), (2,)]


@pytest.mark.slow
def test_rows_that_the_shape_refuses_are_named(target: Target) -> None:
    """The traffic is untouched, and once the rows are mended the same run goes on."""
    shape = "ALTER TABLE {table} ADD CONSTRAINT few CHECK (total < 60)"
    made, code = run("swap", table="orders", shape=shape)
    assert (code, made.status) == (1, Status.FAILED)
    assert "the new table does not take all rows" in error(made)
    assert 'row (420): new row for relation "swap_' in error(made)
    assert cells(made)["cut-over"] == "pending"
    do(target, "UPDATE orders SET total = 1 WHERE total >= 60")
    later, code = run("swap", table="orders")
    assert (code, later.status) == (0, Status.DONE)
    assert rows(target, "SELECT conname FROM pg_constraint WHERE conname = 'few'") == [("few",)]


@pytest.mark.slow
def test_run_that_is_killed_goes_on_where_the_database_shows_that_it_stopped(target: Target) -> None:
    """At random moments, until it has ended: no row is lost or there twice, and nobody who writes meanwhile is hurt."""
    do(target, MANY)
    kills, chance, made = 0, random.Random(7), ""  # noqa: S311 - the same moments each time
    before = rows(target, COUNTED)
    arguments = ["run", "swap", "--target", "demo", "-p", "table=orders", "-p", f"shape={WIDER}"]
    while True:
        with pgrunbook(*arguments, start_new_session=True) as process:
            try:
                _, told = process.communicate(timeout=chance.uniform(1.0, 6.0) if kills < MOST_KILLS else 120)
            except subprocess.TimeoutExpired:
                end_all(process)
                kills += 1
            else:
                assert process.returncode == 0, told
        newest = newest_run()
        if process.returncode == 0:
            break
        do(target, "UPDATE orders SET note = 'killed' || id WHERE id % 997 = 0")
        if newest is not None:
            made = newest.run_id
        arguments = ["run", "--resume", made] if made else arguments
    assert kills > 0
    assert rows(target, TYPE) == [("bigint",)]
    assert rows(target, COUNTED) == before
    assert rows(target, "SELECT count(*) FROM orders WHERE id % 997 = 0 AND note <> 'killed' || id") == [(0,)]
    _, code = run("swap", table="orders", do="finish", force="true")
    assert code == 0


@pytest.mark.slow
def test_cut_over_that_never_gets_its_lock_is_given_back(project: Project) -> None:
    """Who holds the table is not ended, those behind are let through, and the next try succeeds."""
    target = project(folder={}, name="held", lock_patience_ms=300)
    do(target, ORDERS)
    run("swap", "held", table="orders", cutover="postponed")
    with connect(target) as holder:
        holder.execute("BEGIN; SELECT FROM orders")
        made, code = run("swap", "held", table="orders", attempts="2")
        assert (code, made.status) == (1, Status.FAILED)
        assert len(events(made, "cut-over-given-back")) == 2
        assert "could not cut over table" in error(made)
        assert "State: Table public.orders is as it was, and its changes are noted; the new table is ready" in error(
            made
        )
        do(target, "INSERT INTO orders (customer) VALUES (1)")
        holder.execute("COMMIT")
    later, code = run("swap", "held", table="orders")
    assert (code, later.status) == (0, Status.DONE)
    assert rows(target, "SELECT count(*) FROM orders") == [(501,)]


@pytest.mark.slow
def test_table_that_was_changed_meanwhile_is_not_cut_over(target: Target) -> None:
    """Another column, or an index that the new table lacks: what would be lost is named."""
    run("swap", table="orders", cutover="postponed")
    for change, told in (
        ("ALTER TABLE orders ADD COLUMN more int", "its columns are others now"),
        ("ALTER TABLE orders DROP COLUMN more; CREATE INDEX orders_note ON orders (note)", "orders_note was added"),
    ):
        do(target, change)
        made, code = run("swap", table="orders")
        assert (code, made.status) == (3, Status.REFUSED)
        assert told in error(made).lower()
    do(target, "DROP INDEX orders_note")
    made, code = run("swap", table="orders")
    assert (code, made.status) == (0, Status.DONE)


def end_all(process: subprocess.Popen[str]) -> None:
    """Kill a run with its kernels, all at once."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_each_line_of_the_guide_does_what_it_says(target: Target) -> None:
    """The chapter's lines, one after the other: postponed, over, back, over again, ended; begun again and abandoned."""
    text = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    chapter = text.partition("\n### Blue-green swap\n")[2].partition("\n## ")[0]
    lines = [line for block in re.findall(r"^```\n(.*?)^```$", chapter, re.M | re.S) for line in block.splitlines()]
    assert len(lines) == 7
    types = []
    for line in lines:
        words = shlex.split(line)
        assert words[:5] == ["pgrunbook", "run", "swap", "--target", "demo"]
        made, code = run("swap", **dict(word.split("=", 1) for word in words[5:] if word != "-p"))
        assert (code, made.status) == (0, Status.DONE), line
        types.append(rows(target, TYPE)[0][0])
    assert types == ["integer", "bigint", "integer", "bigint", "bigint", "bigint", "bigint"]
    assert rows(target, "SELECT state FROM pgrunbook.swap") == [("abandoned",)]
    made, code = run("swap", table="public.orders", do="finish")
    assert (code, made.status) == (3, Status.REFUSED)
    assert "Hint: Begin one: pgrunbook run swap --target demo -p table=public.orders" in error(made)


@pytest.mark.slow
def test_server_that_is_killed_loses_nothing_of_a_swap(project: Project) -> None:
    """kill -9 of the postmaster at random moments; the same run goes on with what the database holds then."""
    server, chance = Server("crash"), random.Random(3)  # noqa: S311 - the same moments each time
    server.start()
    try:
        target = project(folder={}, name="crash", server="crash", database="postgres", restore_points=False)
        do(target, ORDERS + MANY)
        before = rows(target, COUNTED)
        arguments = ["run", "swap", "--target", "crash", "-p", "table=orders", "-p", f"shape={WIDER}"]
        for crash in range(MOST_CRASHES + 1):
            with pgrunbook(*arguments) as process:
                if crash < MOST_CRASHES:
                    time.sleep(chance.uniform(1.5, 5.0))
                    os.kill(server.status().pid or 0, signal.SIGKILL)
                process.wait(120)
            wait_until(lambda: server.start().pid)
            do(target, "UPDATE orders SET note = 'crashed' || id WHERE id % 997 = 0")
            newest = newest_run()
            arguments = ["run", "--resume", newest.run_id] if newest is not None else arguments
            if process.returncode == 0:
                break
        assert process.returncode == 0
        assert rows(target, TYPE) == [("bigint",)]
        assert rows(target, COUNTED) == before
        assert rows(target, "SELECT count(*) FROM orders WHERE id % 997 = 0 AND note <> 'crashed' || id") == [(0,)]
    finally:
        server.destroy()


@pytest.mark.slow
def test_swap_whose_table_was_dropped_can_be_taken_away(target: Target) -> None:
    """Nothing of it is left in schema pgrunbook then."""
    run("swap", table="orders", cutover="postponed")
    do(target, "DROP TABLE orders CASCADE")
    made, code = run("swap", table="public.orders", do="abandon")
    assert (code, made.status) == (0, Status.DONE)
    assert rows(target, LEFT) == []


@pytest.mark.slow
@pytest.mark.usefixtures("target")
def test_cut_over_waits_for_its_time() -> None:
    """Meanwhile it catches up; a time without zone, and what is no time, are refused before anything is made."""
    for wrong in ("tomorrow", "2026-12-01T03:00:00"):
        made, code = run("swap", table="orders", cutover=wrong)
        assert (code, made.status) == (2, Status.FAILED)
        assert f'cutover is "{wrong}"' in error(made)
    moment = datetime.now(UTC) + timedelta(seconds=8)
    made, code = run("swap", table="orders", cutover=moment.isoformat())
    assert (code, made.status) == (0, Status.DONE)
    (cut_over,) = events(made, "cut-over")
    assert datetime.fromisoformat(cut_over["at"]) >= moment


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "code", "told"),
    [
        ({}, 2, "swap needs a table"),
        ({"table": "nothing"}, 2, "there is no table nothing"),
        ({"table": "orders", "do": "back"}, 3, "cannot swap table public.orders back: no swap of it was begun"),
        ({"table": "orders", "do": "finish"}, 3, "cannot drop the old table of the swap of public.orders: no swap"),
        ({"table": "orders", "shape": "ALTER TABLE {table} ADD COLUMN x nope"}, 1, 'type "nope" does not exist'),
    ],
)
def test_wrong_input_is_named_and_changes_nothing(target: Target, given: dict[str, str], code: int, told: str) -> None:
    """Before the first statement that changes anything."""
    made, ended = run("swap", **given)
    assert (ended, told in error(made)) == (code, True), error(made)
    assert "State: Nothing changed in the database." in error(made)
    assert rows(target, LEFT) == []


@pytest.mark.slow
@pytest.mark.usefixtures("target")
def test_another_shape_while_a_swap_is_at_work_is_refused() -> None:
    """It names the shape that is at work, and how to take it away."""
    run("swap", table="orders", shape=WIDER, cutover="postponed")
    made, code = run("swap", table="orders", shape="ALTER TABLE {table} SET (fillfactor = 50)")
    assert code == 2
    assert f"Its shape: {WIDER}" in error(made)
    assert "pgrunbook run swap --target demo -p table=public.orders -p do=abandon" in error(made)


def test_a_copy_that_somebody_stops_tells_where_the_swap_stands() -> None:
    """What is in use, what stays, how it goes on, and how it is taken away."""
    assert str(swap_views.stopped("demo", TableName("public", "orders"), "run this cell again")) == (
        "stopped while the new table was filled\n"
        "State: public.orders is whole and in use; what is made of the new table, its log and its trigger stays.\n"
        "Hint: To go on: run this cell again. "
        "To take it away: pgrunbook run swap --target demo -p table=public.orders -p do=abandon"
    )
