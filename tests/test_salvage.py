"""Salvage: old rows of a restored database come back into that of today, and what is new there stays."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from psycopg import sql

from acting import cells, completed, error, events, newest_run, outputs, pgrunbook, run, wait_until
from conftest import Site, connect, do, rows
from pgrunbook.branches import backup
from pgrunbook.branches.server import Server
from pgrunbook.branches.server_name import server_names
from pgrunbook.config.targets import Target
from pgrunbook.database.connection import connect as connected
from pgrunbook.online import salvage, salvage_plan, salvage_rows, salvage_undo
from pgrunbook.online.salvage_plan import SalvageChoice, SalvagedTable
from pgrunbook.record.run import Status
from pgrunbook.runner import runbook

Project = Callable[..., Target]
SHOP = """
CREATE TABLE customers (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text UNIQUE NOT NULL, parent int
    REFERENCES customers, name text, shout text GENERATED ALWAYS AS (upper(name)) STORED);
CREATE TABLE orders (id bigserial PRIMARY KEY, customer int NOT NULL REFERENCES customers, total numeric,
    at timestamptz NOT NULL DEFAULT now(), note text);
CREATE TABLE items (order_id bigint REFERENCES orders, line int, what text, PRIMARY KEY (order_id, line));
INSERT INTO customers (email, parent, name)
    SELECT n || '@x', nullif((n - 1) / 2, 0), 'c' || n FROM generate_series(1, 40) AS n;
INSERT INTO orders (customer, total, note) SELECT 1 + n % 40, n / 7.0, 'o' || n FROM generate_series(1, 300) AS n;
INSERT INTO items SELECT o, l, 'i' || o || l FROM generate_series(1, 300) AS o, generate_series(1, 2) AS l;
"""


@dataclass(frozen=True)
class Scene:
    """A database as it is today, and as it was."""

    target: Target
    then: Target

    def today(self, statements: str) -> None:
        """Do something in the database of today."""
        do(self.target, statements)

    def plan(self, choice: SalvageChoice) -> list[SalvagedTable]:
        """Plan a salvage."""
        with connected(self.then) as old, connected(self.target) as conn:
            return salvage_plan.plan(old, conn, choice)

    def salvage(
        self, *tables: str, run_id: str = "r", batch_rows: int = 50, **more: object
    ) -> dict[str, dict[str, int]]:
        """Salvage tables; return what became of the rows of each."""
        choice = SalvageChoice(tables, more.pop("where", {}), **more)  # type: ignore[arg-type]
        target = self.target.model_copy(update={"batch_rows": batch_rows})
        with connected(self.then) as old, connected(self.target) as conn:
            found = salvage_plan.plan(old, conn, choice)
            before = salvage_rows.look(old, conn, found, choice, where_ms=2_000)
            if not salvage_rows.is_staged(conn, found, run_id):
                staged = salvage_rows.stage(old, conn, found, choice, run_id, where_ms=2_000, keep_days=30)
                assert {k: (v.missing, v.changed) for k, v in staged.items()} == {
                    k: (v.missing, v.changed) for k, v in before.items()
                }
            salvage.run(conn, target, found, choice, run_id)
            return salvage.became(conn, found, run_id)

    def same(self, query: str) -> bool:
        """Tell whether a query finds the same on both sides."""
        return rows(self.target, query) == rows(self.then, query)


@pytest.fixture
def scene(project: Project, site: Site) -> Iterator[Callable[[str], Scene]]:
    """Make a database, and keep a copy of it as it was."""
    made: list[str] = []

    def make(statements: str) -> Scene:
        target = project(folder={"0001_a.sql": "SELECT 1"})
        do(target, statements)
        name = f"{target.database}_then"
        with site.server.connect() as admin:
            admin.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                    sql.Identifier(name), sql.Identifier(str(target.database))
                )
            )
        made.append(name)
        return Scene(target, target.model_copy(update={"database": name, "name": "then"}))

    yield make
    with site.server.connect() as admin:
        for name in made:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


EVERYTHING = ("SELECT * FROM customers ORDER BY id", "SELECT * FROM orders WHERE id <= 300 ORDER BY id",
              "SELECT * FROM items WHERE order_id <= 300 ORDER BY 1, 2")  # fmt: skip


def test_deleted_rows_come_back_parents_first_and_new_ones_stay(scene: Callable[[str], Scene]) -> None:
    """Tables that refer to each other and to themselves, identity and generated columns, in whatever order named."""
    shop = scene(SHOP)
    shop.today(
        "DELETE FROM items; DELETE FROM orders WHERE id % 3 = 0 OR customer > 20; DELETE FROM customers WHERE id > 20;"
        "INSERT INTO orders (customer, note) VALUES (1, 'new'); UPDATE orders SET note = 'since' WHERE id = 1"
    )
    became = shop.salvage("items", "public.orders", '"public"."customers"')
    assert became == {
        "public.customers": {"inserted": 20}, "public.orders": {"inserted": 193}, "public.items": {"inserted": 600}
    }  # fmt: skip
    assert rows(shop.target, "SELECT note FROM orders WHERE id = 1 OR id > 300 ORDER BY id") == [("since",), ("new",)]
    shop.today("UPDATE orders SET note = 'o1' WHERE id = 1")
    assert all(shop.same(query) for query in EVERYTHING)
    again = shop.salvage("items", "orders", "customers", run_id="again")
    assert again == {"public.customers": {}, "public.orders": {}, "public.items": {}}


def test_changed_rows_are_overwritten_only_where_that_is_asked_for(scene: Callable[[str], Scene]) -> None:
    """Those of a condition; what was there is kept, and comes back by the file, but for what was changed again."""
    shop = scene(SHOP)
    shop.today("UPDATE orders SET total = 0, note = NULL; DELETE FROM items WHERE order_id = 7; "
               "DELETE FROM orders WHERE id = 7")  # fmt: skip
    before = rows(shop.target, "SELECT * FROM orders ORDER BY id")
    assert shop.salvage("orders", run_id="missing") == {"public.orders": {"inserted": 1}}
    became = shop.salvage("orders", rows="changed", where={"orders": "id <= 100 AND note LIKE 'o%'"})
    assert became == {"public.orders": {"updated": 99}}
    assert shop.same("SELECT * FROM orders WHERE id <= 100 ORDER BY id")
    assert rows(shop.target, "SELECT count(*) FROM orders WHERE total = 0") == [(200,)]
    shop.today("UPDATE orders SET note = 'mine' WHERE id = 5")
    told = take_back(shop, "orders", rows="changed")
    assert "public | orders | 1" in " ".join(told.replace("|", " | ").split())
    take_back(shop, "orders", run_id="missing")
    assert rows(shop.target, "SELECT note FROM orders WHERE id = 5") == [("mine",)]
    shop.today("UPDATE orders SET total = 0, note = NULL WHERE id = 5")
    assert rows(shop.target, "SELECT * FROM orders ORDER BY id") == before


def take_back(shop: Scene, *tables: str, run_id: str = "r", **more: object) -> str:
    """Run the file that takes a salvage back, as a person does."""
    plan = shop.plan(SalvageChoice(tables, {}, **more))  # type: ignore[arg-type]
    with connected(shop.target) as conn:
        text = salvage_undo.text(conn, plan, run_id, "back.sql")
    given = shop.target.conninfo()
    psql = Server("main").installation.program("psql")
    done = subprocess.run(
        [psql, "-X", "-v", "ON_ERROR_STOP=1", "-h", given["host"], "-U", "postgres", "-d", str(shop.target.database)],
        input=text, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


LEDGER = """
CREATE TABLE accounts (id int PRIMARY KEY, name text);
CREATE TABLE ledger (id bigserial PRIMARY KEY, account int NOT NULL REFERENCES accounts, amount int, by text);
CREATE TABLE heard (what text);
INSERT INTO accounts SELECT n, 'a' || n FROM generate_series(1, 50) AS n;
INSERT INTO ledger (account, amount, by) SELECT 1 + n % 50, n, 'before' FROM generate_series(1, 4000) AS n;
CREATE FUNCTION hear() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO heard VALUES (TG_OP || ' ' || NEW.id); RETURN NEW; END $$;
CREATE TRIGGER hears AFTER INSERT ON accounts FOR EACH ROW EXECUTE FUNCTION hear();
"""


@pytest.fixture
def ledger(project: Project, site: Site) -> Iterator[Target]:
    """A database from which half of the rows were deleted, behind a restore point; what is restored goes."""
    target = project(folder={"0001_a.sql": "SELECT 1"}, batch_rows=100)
    do(target, LEDGER)
    backup.take_base_backup(site.server)
    before = set(server_names())
    yield target
    for name in set(server_names()) - before:
        Server(name).destroy()


@pytest.mark.slow
def test_old_rows_come_back_while_others_write_also_after_a_kill(ledger: Target) -> None:
    """Killed among its batches, the run goes on: every old row is back once, and no new row or change is lost."""
    do(ledger, "SELECT pg_create_restore_point('good-" + str(ledger.database) + "')")
    do(
        ledger,
        "DELETE FROM ledger WHERE by = 'before' AND id % 2 = 0 OR account > 25; DELETE FROM accounts WHERE id > 25",
    )
    done, written = threading.Event(), []

    def write() -> None:
        with connect(ledger, purpose="writes") as conn:
            while not done.is_set():
                conn.execute("INSERT INTO ledger (account, amount, by) VALUES (1, %s, 'since')", [len(written)])
                conn.execute("UPDATE ledger SET by = 'since too' WHERE id = %s", [1 + 2 * (len(written) % 2000)])
                written.append(1)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        given = [f"to=good-{ledger.database}", "salvage=ledger,accounts", "compare=none", "with_data=false"]
        options = [word for text in given for word in ("-p", text)]
        with pgrunbook("run", "restore", "--target", "demo", *options) as process:
            wait_until(lambda: newest_run() is not None and len(events(newest_run(), "salvage-batch")) >= 3)
            broken = newest_run()
            assert broken is not None
            os.kill(events(broken, "salvage-started")[0]["pid"], signal.SIGKILL)
            process.kill()
            process.communicate()
        assert not events(broken, "salvaged")
        made, code = runbook.resume(broken.run_id)
        assert (code, made.status, completed(made)) == (0, Status.DONE, True)
    finally:
        done.set()
        writer.join()
    (told,) = events(made, "salvaged")
    assert told["became"]["public.accounts"] == {"inserted": 25}
    assert sum(told["became"]["public.ledger"].values()) == told["became"]["public.ledger"]["inserted"]
    assert rows(ledger, "SELECT count(*), sum(amount) FROM ledger WHERE id <= 4000") == [(4000, 4000 * 4001 // 2)]
    assert rows(ledger, "SELECT count(*), count(DISTINCT amount) FROM ledger WHERE by = 'since'") == [
        (len(written),) * 2
    ]
    assert rows(ledger, "SELECT count(*) FROM accounts WHERE name = 'a' || id") == [(50,)]
    assert rows(ledger, "SELECT count(*) FROM heard") == [(50,)]  # not heard again: triggers were silent
    assert not (made.folder / "not-salvaged.csv").exists()


@pytest.mark.slow
def test_a_salvage_is_tried_goes_on_from_an_earlier_run_and_says_what_it_did(ledger: Target) -> None:
    """Looked at first, salvaged by a second run; where the branch refuses a row, nothing changes."""
    do(ledger, "SELECT pg_create_restore_point('good-" + str(ledger.database) + "')")
    do(ledger, "DELETE FROM ledger WHERE account = 7; DELETE FROM accounts WHERE id IN (7, 8) AND id NOT IN (8)")
    looked, code = run("restore", to=f"good-{ledger.database}", compare="none")
    assert code == 0
    assert outputs(looked, "salvage-rows") == "Nothing is salvaged: salvage names no table."
    command = f"pgrunbook run restore --target demo -p of_run={looked.run_id} -p salvage=<table>"
    assert command in outputs(looked, "what-next")

    made, code = run("restore", of_run=looked.run_id, compare="none", salvage="ledger")
    assert (code, made.status, cells(made)["what-to-salvage"]) == (3, Status.REFUSED, "failed")
    assert error(made).splitlines() == [
        "cannot salvage 80 rows of public.ledger: what they refer to is missing today",
        "Detail: Foreign key ledger_account_fkey leads to public.accounts, which has no row for (7).",
        "State: Nothing changed in the database.",
        "Hint: Salvage that, too: -p salvage=public.accounts,public.ledger",
    ]
    do(ledger, "CREATE FUNCTION grumble() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;"
       "CREATE TRIGGER g BEFORE INSERT ON ledger FOR EACH ROW EXECUTE FUNCTION grumble()")  # fmt: skip
    given = {"of_run": looked.run_id, "compare": "none", "salvage": "accounts,ledger", "with_data": "true"}
    made, code = run("restore", **given, salvage_triggers="fire")
    assert (code, made.status, cells(made)["try-salvage"]) == (3, Status.REFUSED, "failed")
    assert error(made).splitlines()[0] == "cannot salvage: no"
    assert error(made).splitlines()[2] == "State: Nothing changed in the database: it was tried on a branch."
    assert rows(ledger, "SELECT count(*) FROM accounts WHERE id = 7") == [(0,)]
    made, code = run("restore", **given)
    assert (code, made.status, completed(made)) == (0, Status.DONE, True)
    assert events(made, "salvage-tried")[0]["became"] == events(made, "salvaged")[0]["became"]
    assert "81 rows of public.accounts and public.ledger came back, 0 rows overwritten." in outputs(made, "verdict")
    assert rows(ledger, "SELECT count(*) FROM ledger WHERE account = 7") == [(80,)]

    Server(events(looked, "restored")[0]["name"]).stop()
    made, code = run("restore", of_run=looked.run_id, compare="none", salvage="ledger")
    assert (code, made.status, cells(made)["restore-to-branch"]) == (2, Status.FAILED, "failed")
    assert error(made).splitlines()[0].endswith(" does not run any more")
