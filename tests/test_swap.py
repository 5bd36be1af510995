"""notebooks/swap.ipynb: a table takes another shape, back and forth, and the record says what was done."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from acting import cells, completed, error, events, outputs, run
from conftest import do, rows
from pgrunbook.config.targets import Target
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


def test_table_gets_wider_keys_and_the_old_one_goes_in_its_own_step(target: Target) -> None:
    """One run swaps, another one ends it; the old table is not dropped before its time, without force."""
    made, code = run("swap", table="orders", shape=WIDER)
    assert (code, made.status, completed(made)) == (0, Status.DONE, True)
    assert rows(target, TYPE) == [("bigint",)]
    (cut_over,) = events(made, "cut-over")
    assert cut_over["attempts"] == 1
    assert cut_over["held_ms"] > 0
    assert events(made, "swap-settled")[0]["parts"] == [
        "ALTER TABLE public.items VALIDATE CONSTRAINT items_order_id_fkey"
    ]
    do(target, "INSERT INTO orders (customer) VALUES (3000000000)")
    assert rows(target, "SELECT convalidated FROM pg_constraint WHERE conname = 'items_order_id_fkey'") == [(True,)]
    early, code = run("swap", table="orders", do="finish")
    assert (code, early.status) == (3, Status.REFUSED)
    assert "refused to drop the old table" in error(early)
    late, code = run("swap", table="orders", do="finish", force="true")
    assert (code, completed(late)) == (0, True)
    assert "the old one is gone" in outputs(late, "verdict")
    assert rows(target, "SELECT count(*) FROM orders") == [(501,)]


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
