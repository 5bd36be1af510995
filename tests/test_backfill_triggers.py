"""Which triggers may fire behind that of a backfill: none of the application, and of ours those of other columns."""

from __future__ import annotations

import pytest

from conftest import connect, do, rows
from pgrunbook.config.targets import Target
from pgrunbook.errors import Refused
from pgrunbook.online import backfill
from pgrunbook.online.backfill import resolve
from pgrunbook.online.backfill_triggers import refuse_behind
from pgrunbook.safe_forms import rename_column
from safe_forms_stage import perform, plan
from test_online_backfill import filled, installed, target, working

__all__ = ["target"]


def both_names(target: Target) -> None:
    """Give column note a second name, which lives beside it until contract."""
    with connect(target) as conn:
        made = plan(conn, "ALTER TABLE orders RENAME COLUMN note TO remark")
        assert [one.form for one in made] == [rename_column.FORM]
        perform(conn, made)


def test_a_trigger_of_the_application_behind_ours_is_refused(target: Target) -> None:
    """It is named; one before ours is not."""
    do(
        target,
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
        'CREATE TRIGGER "~zz" BEFORE INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION f()',
    )
    with working(target) as conn:
        made = resolve(conn, "orders", {"cents": "total"})
        with pytest.raises(Refused) as refused:
            refuse_behind(conn, made, "demo")
        assert str(refused.value).splitlines()[0] == (
            'cannot keep public.orders in sync: trigger "~zz" fires behind ours'
        )
        do(target, 'ALTER TRIGGER "~zz" ON orders RENAME TO zz')
        refuse_behind(conn, made, "demo")


def test_columns_that_wait_for_contract_are_filled_and_read_by_none(target: Target) -> None:
    """Other columns of the table are filled and kept in sync beside them; the error leads to contract."""
    both_names(target)
    with working(target) as conn:
        for values in (
            {"label": "left(note, 8)"},
            {"label": "left(remark, 8)"},
            {"remark": "label"},
            {"note": "label"},
        ):
            with pytest.raises(Refused) as refused:
                refuse_behind(conn, resolve(conn, "orders", values), "demo")
        with pytest.raises(Refused):
            refuse_behind(conn, resolve(conn, "orders", {"cents": "total"}, where="note <> 'x'"), "demo")
        with pytest.raises(Refused):
            refuse_behind(conn, resolve(conn, "orders", {"cents": "total"}, back={"remark": "label"}), "demo")
        assert str(refused.value) == (
            "cannot keep public.orders in sync: public.orders.note lives beside public.orders.remark until contract\n"
            "Detail: m.sql (rename) has left both, and a trigger keeps them equal behind ours, which fills or reads one"
            " of them.\n"
            "State: Nothing changed in the database.\n"
            "Hint: pgrunbook run contract --target demo, then begin again; or set keep_in_sync to false."
        )
        made = resolve(conn, "orders", {"cents": "round(total * 100)"})
        refuse_behind(conn, made, "demo")
        installed(conn, made)
        do(target, "INSERT INTO orders (total, note) VALUES (1.5, 'old')")
        do(target, "INSERT INTO orders (total, remark) VALUES (2, 'new')")
        filled(conn, made, in_sync=True)
        assert backfill.proof(conn, made, statement_timeout_ms=30_000, in_sync=True) == 0
        assert rows(target, "SELECT note, remark, cents FROM orders WHERE note IN ('old', 'new') ORDER BY 1") == [
            ("new", "new", 200), ("old", "old", 150),
        ]  # fmt: skip
        assert rows(target, "SELECT count(*) FROM orders WHERE note IS DISTINCT FROM remark") == [(0,)]
