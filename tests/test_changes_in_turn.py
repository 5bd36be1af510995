"""One online change of a table behind another that is not ended yet: it works, or is refused before it breaks a write.

What is asked elsewhere: renames and changes of type behind each other in ``test_rename_column``, contract in
``test_contract``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from acting import error, outputs, run
from conftest import connect, do, rows
from pgrunbook.config.targets import Target
from pgrunbook.database.checksums import TableName
from pgrunbook.errors import Refused
from pgrunbook.online import swap_begin, swap_end, swap_store
from pgrunbook.online.swap_shape import SwapChoice
from pgrunbook.record.run import Run, Status
from pgrunbook.session import session as heres
from scenes import beside, gone, safe_plan_of, until

Project = Callable[..., Target]
ORDERS = TableName("public", "orders")
TABLE = """
CREATE TABLE orders (id int PRIMARY KEY, amount int, note text, cents bigint);
INSERT INTO orders SELECT i, i, 'n' || i, NULL FROM generate_series(1, 3000) AS i;
"""
NOTE = "ALTER TABLE {table} ALTER COLUMN note TYPE varchar(200)"
TYPE, RENAME = "ALTER COLUMN amount TYPE bigint", "RENAME COLUMN amount TO total"


@pytest.fixture
def target(project: Project) -> Target:
    """A target with a table of orders, and a folder without a migration."""
    made = project(folder={}, batch_rows=1_000)
    Path(str(made.migrations)).mkdir(exist_ok=True)
    do(made, TABLE)
    return made


@pytest.fixture(autouse=True)
def leave() -> Iterator[None]:
    """End what a test began in this process."""
    yield
    heres._end_earlier()


def done(name: str, **given: str) -> Run:
    """Run what has to end well."""
    made, code = run(name, **given)
    assert (made.status, code) == (Status.DONE, 0), error(made)
    return made


def refused(name: str, **given: str) -> str:
    """Run what has to be refused; return the error."""
    made, code = run(name, **given)
    assert (made.status, code) == (Status.REFUSED, 3), error(made, 0)
    return error(made, 0)


def migrate(target: Target, number: int, change: str) -> None:
    """Put a migration into the folder that alters the table."""
    (Path(str(target.migrations)) / f"{number:04}_m.sql").write_text(f"ALTER TABLE orders {change};")


OF_THE_KEY = ("ALTER COLUMN id TYPE bigint", "RENAME COLUMN id TO number", "DROP COLUMN id", "RENAME TO others",
              "SET SCHEMA app")  # fmt: skip
OTHERS = ("ALTER COLUMN amount TYPE bigint", "ADD COLUMN more int", "ADD CHECK (id > 0)")


@pytest.mark.slow
def test_key_of_a_table_whose_swap_is_not_ended_keeps_its_name_and_type(target: Target) -> None:
    """Else each write of the application would fail in the trigger that notes it; once it is ended, nothing does."""
    do(target, "CREATE SCHEMA app")
    with connect(target) as conn:
        choice = SwapChoice(ORDERS, NOTE)
        swap_begin.begin(conn, target, choice, swap_begin.look(conn, choice), "run")
    for change in OF_THE_KEY:
        migrate(target, 1, change)
        with pytest.raises(Refused, match=r"the swap of table public\.orders is not ended \(copying") as caught:
            safe_plan_of(target)
        assert "-p table=public.orders -p do=abandon, then begin again." in caught.value.hint
    for change in OTHERS:
        migrate(target, 1, change)
        assert safe_plan_of(target).changes
    with connect(target) as conn:
        swap_end.abandon(conn, target, swap_store.swaps(conn)[0])
    for change in OF_THE_KEY:
        migrate(target, 1, change)
        assert safe_plan_of(target).changes


@pytest.mark.slow
def test_table_is_not_swapped_while_a_migration_is_half_done(target: Target) -> None:
    """Its loop is in the middle of pages that the new table does not have; behind its end the swap begins."""
    migrate(target, 1, TYPE)
    plan = safe_plan_of(target)
    with beside(target, plan, killed_when=f"begins {plan.changes[0].steps[-1].number}") as process:
        assert process.wait() == -9
    until(gone(target))
    told = refused("swap", table="orders", shape=NOTE)
    assert told.startswith("cannot swap public.orders: 0001_m is half done\n")
    assert "pgrunbook run --resume" in told


@pytest.mark.slow
@pytest.mark.parametrize(("change", "column"), [(TYPE, "pgrunbook_old_amount"), (RENAME, "total")])
@pytest.mark.parametrize("ends", ["contract", "rollback"])
def test_pair_that_waits_for_contract_outlives_a_swap(target: Target, change: str, column: str, ends: str) -> None:
    """Both columns agree in the new table, also behind a write; contract and rollback end the pair as without it."""
    migrate(target, 1, change)
    done("release")
    done("swap", table="orders", shape=NOTE)
    do(target, "UPDATE orders SET amount = 5 WHERE id = 7; INSERT INTO orders (id, amount) VALUES (9000, 9)")
    assert rows(target, f"SELECT count(*) FROM orders WHERE amount IS DISTINCT FROM {column}") == [(0,)]
    done("swap", table="orders", do="finish", force="true")
    done(ends, **({"accept": "all"} if ends == "contract" else {}))
    name = "total" if change == RENAME and ends == "contract" else "amount"
    type_ = "bigint" if change == TYPE and ends == "contract" else "integer"
    query = f"SELECT count(*), sum({name}), pg_typeof(min({name}))::text FROM orders"
    assert rows(target, query) == [(3001, 3000 * 3001 // 2 - 7 + 5 + 9, type_)]
    left = "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgrelid = 'orders'::regclass"
    assert rows(target, left) == [(0,)]


@pytest.mark.slow
@pytest.mark.parametrize(("change", "column"), [(TYPE, "pgrunbook_old_amount"), (RENAME, "total")])
def test_column_that_waits_for_contract_is_not_filled_behind_its_trigger(
    target: Target, change: str, column: str
) -> None:
    """The way out is named and works; another column of the table is filled meanwhile."""
    migrate(target, 1, change)
    done("release")
    told = refused("backfill", table="orders", fill='{"amount": "id * 2"}')
    assert "until contract" in told
    assert "pgrunbook run contract --target demo, then begin again; or set keep_in_sync to false." in told
    done("backfill", table="orders", fill='{"cents": "id * 100"}')
    assert rows(target, "SELECT count(*) FROM orders WHERE cents = id * 100") == [(3000,)]
    if change == TYPE:
        told = refused("backfill", table="orders", fill=json.dumps({column: "id * 2"}), keep_in_sync="false")
        assert told.startswith("cannot fill public.orders.pgrunbook_old_amount: it follows public.orders.amount until")
    done("backfill", table="orders", fill='{"amount": "id * 2"}', keep_in_sync="false")
    assert rows(target, f"SELECT count(*) FROM orders WHERE amount = id * 2 AND {column} = amount") == [(3000,)]
    done("contract", accept="all")
    done("backfill", table="orders", fill=json.dumps({"total" if change == RENAME else "amount": "id * 3"}))


@pytest.mark.slow
def test_undo_data_of_a_backfill_ends_with_a_swap(target: Target) -> None:
    """The swap tells so before it begins; behind it nobody says that somebody has changed the rows."""
    fill = {"table": "orders", "fill": '{"cents": "amount * 100"}'}
    made = done("backfill", **fill, undo_data="true")
    swapped = done("swap", table="orders", shape=NOTE)
    assert "its undo data ends" in outputs(swapped, "what-hangs")
    told = refused("backfill", **fill, do="back", of_run=made.run_id)
    assert told.startswith("cannot tell whether 3,000 rows of public.orders are those of the backfill\n")
    assert "-p do=abandon" in told
    assert rows(target, "SELECT count(cents) FROM orders") == [(3000,)]


@pytest.mark.slow
def test_rollout_works_on_a_table_whose_old_one_is_kept(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way back of the swap is refused then, for the old table lacks the flag; its end is not."""
    done("swap", table="orders", shape=NOTE)
    home = tmp_path / "home"
    (home / "rollouts").mkdir(parents=True)
    declared = {"table": "orders", "column": "beta", "stages": [{"name": "everyone", "all": True}]}
    (home / "rollouts" / "beta.yaml").write_text(yaml.safe_dump(declared))
    monkeypatch.setenv("PGRUNBOOK_HOME", str(home))
    run("rollout", name="beta", accept="everyone", watch_s="0")
    assert rows(target, "SELECT count(*) FROM orders WHERE beta") == [(3000,)]
    assert "cannot cut over: table public.orders was changed since" in refused_later("swap", table="orders", do="back")
    done("swap", table="orders", do="finish", force="true")
    assert rows(target, "SELECT count(*) FROM orders WHERE beta") == [(3000,)]


def refused_later(name: str, **given: str) -> str:
    made, _ = run(name, **given)
    assert made.status in (Status.REFUSED, Status.FAILED)
    return error(made)
