"""A column that the trigger of a backfill fills or reads is not renamed, dropped or retyped before it goes."""

from __future__ import annotations

import pytest

from conftest import do, rows
from pgrunbook.config.targets import Target
from pgrunbook.errors import Refused
from pgrunbook.online.backfill import resolve
from safe_forms_stage import plan
from test_online_backfill import installed, target, working

__all__ = ["target"]
# What the statement does to which column of "orders", and what the trigger does with that.
REFUSED = {
    "RENAME COLUMN cents TO pence": "fills public.orders.cents",
    "DROP COLUMN cents": "fills public.orders.cents",
    "ALTER COLUMN cents TYPE numeric": "fills public.orders.cents",
    "RENAME COLUMN total TO sum": "reads public.orders.total",
    "DROP COLUMN total": "reads public.orders.total",
    "ALTER total TYPE text": "reads public.orders.total",
    "ADD COLUMN a int, DROP COLUMN IF EXISTS label": "reads public.orders.label",
}


@pytest.mark.slow
def test_statements_that_would_break_it_are_refused(target: Target) -> None:
    """Each by the column and what the trigger does with it; without the trigger none is."""
    with working(target) as conn:
        made = resolve(conn, "orders", {"cents": "round(total * 100)"}, where="label IS NULL")
        installed(conn, made)
        for statement, says in REFUSED.items():
            with pytest.raises(Refused) as refused:
                plan(conn, f"ALTER TABLE orders {statement}")
            assert says in refused.value.message, statement
        assert str(refused.value) == (
            "could not plan m.sql:1 (ALTER TABLE ADD COLUMN, DROP COLUMN): a backfill keeps columns in sync, and reads"
            " public.orders.label\n"
            f'Detail: Its trigger "{made.fill.trigger_name}" knows the columns as they are: behind this statement'
            " writes would fail, or be filled wrongly.\n"
            "State: Nothing changed in the database.\n"
            "Hint: Take the trigger away, then begin again: pgrunbook run backfill --target TARGET -p do=abandon -p"
            " of_run=RUN, the run of the backfill."
        )
        conn.execute(made.fill.removal().encode())
        for statement in REFUSED:
            assert plan(conn, f"ALTER TABLE orders {statement}")


def test_columns_that_it_does_not_know_come_and_go(target: Target) -> None:
    """The server drops, renames and retypes them beside the trigger, which fills what is written then."""
    with working(target) as conn:
        installed(conn, resolve(conn, "orders", {"cents": "round(orders.total * 100)"}))
        for statement in ("DROP COLUMN note", "RENAME COLUMN label TO tag", "ADD COLUMN more int"):
            assert plan(conn, f"ALTER TABLE orders {statement}")
            do(target, f"ALTER TABLE orders {statement}")
        do(target, "INSERT INTO orders (total, tag, more) VALUES (1.5, 'new', 1)")
        assert rows(target, "SELECT cents FROM orders WHERE tag = 'new'") == [(150,)]


@pytest.mark.slow
def test_an_expression_over_the_whole_row_knows_all_columns(target: Target) -> None:
    """Also one that names no column, and one that names those of another table."""
    do(target, "CREATE TABLE rates (rate int); INSERT INTO rates VALUES (2)")
    values = {
        "label": "left(to_jsonb(orders) ->> 'note', 8)",
        "note": "(SELECT 'x' || x.n FROM (SELECT count(*) AS n FROM (SELECT orders.*) AS o) AS x)",
        "cents": "(SELECT total * rate FROM rates)",
    }
    for column, text in {**values, "total": "7"}.items():
        with working(target) as conn:
            made = resolve(conn, "orders", {column: text})
            installed(conn, made)
            do(target, "DELETE FROM orders WHERE note = 'new'; INSERT INTO orders (total, note) VALUES (1.5, 'new')")
            expected = {"label": "new", "note": "x1", "cents": 3, "total": "7.00"}[column]
            assert rows(target, f"SELECT {column} FROM orders WHERE {column}::text = '{expected}'") != [], column
            conn.execute(made.fill.removal().encode())
