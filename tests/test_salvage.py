"""Salvage: old rows of a restored database come back into that of today, and what is new there stays."""

from __future__ import annotations

import os
import re
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
from pgrunbook.errors import Refused, RunbookError, WrongInput
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


@pytest.mark.slow
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


ODD = """
CREATE SCHEMA "O d";
CREATE TYPE "O d".mood AS ENUM ('ok', 'it''s');
CREATE DOMAIN "O d".small AS int CHECK (VALUE < 100);
CREATE TYPE "O d".pair AS (a int, b text);
CREATE TABLE "O d"."T,1" ("k 1" "O d".mood, number int, "s" "O d".small, p "O d".pair, j json, b jsonb, n numeric,
    f float8, r real, y bytea, i interval, z timestamptz, d date, t text[], m money, c char(5), v varchar(30), u uuid,
    bits bit varying, net inet, run_id text, place int, state text, row_values text[], was text,
    rng int4range, g int GENERATED ALWAYS AS (number * 2) STORED, PRIMARY KEY ("k 1", number));
INSERT INTO "O d"."T,1" VALUES
    ('ok', 1, 7, ROW(1, 'a"b,)'), '{"a": 1,  "a":2}', '{"b": [1.50]}', 1.500, '-0', 0.1, '\\x00ff5c',
     '-1 day 02:00:00', '0044-03-15 12:00+00 BC', 'infinity', '[2:3]={"x,y",NULL}', '-$1,234.56', 'ab',
     E'tab\\tnew\\nline \\\\', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '101', '10.0.0.0/8', '{}', NULL, '',
     '{"",NULL}', '\\N', '[1,5)'),
    ('it''s', 2, NULL, NULL, NULL, 'null', 'NaN', 'NaN', '-Infinity', '', '1 mon -3 days',
     '2024-02-29 23:59:59.999999-12', '-infinity', '{}', NULL, '', '', NULL, '', '::1', 'a', -1, NULL, NULL, '',
     'empty');
CREATE TABLE parts (id int, day date, what text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
CREATE TABLE parts_2 PARTITION OF parts DEFAULT;
INSERT INTO parts SELECT n, '2024-01-25'::date + n, 'p' || n FROM generate_series(1, 20) AS n;
"""


@pytest.mark.slow
def test_values_of_every_kind_come_back_as_they_were(scene: Callable[[str], Scene]) -> None:
    """Names that need quotes, columns named as ours, and settings of the database under which texts read otherwise."""
    odd = scene(ODD)
    odd.today(
        'DELETE FROM "O d"."T,1"; DELETE FROM parts WHERE id % 2 = 0; UPDATE parts SET what = NULL WHERE id = 1;'
        f"ALTER DATABASE {odd.target.database} SET DateStyle = 'SQL, DMY';"
        f"ALTER DATABASE {odd.target.database} SET IntervalStyle = 'sql_standard';"
        f"ALTER DATABASE {odd.target.database} SET bytea_output = 'escape';"
        f"ALTER DATABASE {odd.target.database} SET extra_float_digits = 0"
    )
    became = odd.salvage("T,1", "parts", rows="changed")
    assert became == {"O d.T,1": {"inserted": 2}, "public.parts": {"inserted": 10, "updated": 1}}
    assert odd.same("SELECT tableoid::regclass::text, * FROM parts ORDER BY 2, 3")
    assert odd.same('SELECT w.number, record_send(w) FROM "O d"."T,1" AS w ORDER BY 1')


CIRCLE = """
CREATE TABLE a (id int PRIMARY KEY, b int);
CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a);
ALTER TABLE a ADD CONSTRAINT a_b FOREIGN KEY (b) REFERENCES b {};
INSERT INTO a VALUES (1, NULL), (2, NULL); INSERT INTO b VALUES (1, 1), (2, 2); UPDATE a SET b = 3 - id;
"""
GONE = "UPDATE a SET b = NULL; DELETE FROM b; DELETE FROM a"


@pytest.mark.slow
def test_tables_that_refer_to_each_other_come_back_together(scene: Callable[[str], Scene]) -> None:
    """In one transaction, where their keys can be deferred; else refused, unless triggers are there and are silent."""
    round_ = scene(CIRCLE.format("DEFERRABLE"))
    round_.today(GONE)
    assert round_.salvage("a", "b") == {"public.a": {"inserted": 2}, "public.b": {"inserted": 2}}
    assert round_.same("SELECT * FROM a, b ORDER BY 1, 2, 3, 4")
    stiff = "ALTER TABLE a ALTER CONSTRAINT a_b NOT DEFERRABLE"
    round_.today(f"{stiff}; {GONE}")
    with pytest.raises(Refused) as told:
        round_.plan(SalvageChoice(("a", "b"), {}))
    assert told.value.message == "cannot salvage public.a: it and public.b refer to each other"
    round_.today(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;"
        "CREATE TRIGGER t BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION no()"
    )
    assert round_.salvage("a", "b", run_id="silent") == {"public.a": {"inserted": 2}, "public.b": {"inserted": 2}}
    assert round_.same("SELECT * FROM a, b ORDER BY 1, 2, 3, 4")


@pytest.mark.slow
def test_what_is_there_by_now_stays_and_is_told(scene: Callable[[str], Scene]) -> None:
    """A unique value that is taken, a key that came back meanwhile, a parent that went; numbers start behind them."""
    shop = scene(SHOP)
    shop.today("TRUNCATE orders RESTART IDENTITY CASCADE; DELETE FROM customers WHERE id = 40;"
               "INSERT INTO customers (email, name) VALUES ('40@x', 'new')")  # fmt: skip
    choice = SalvageChoice(("customers", "orders", "items"), {"orders": "id <= 60", "items": "order_id <= 60"})
    with connected(shop.then) as old, connected(shop.target) as conn:
        plan = salvage_plan.plan(old, conn, choice)
        salvage_rows.stage(old, conn, plan, choice, "r", where_ms=2_000, keep_days=30)
        shop.today(
            "INSERT INTO orders (id, customer, note) VALUES (5, 1, 'mine'); DELETE FROM customers WHERE id = 39;"
        )
        salvage.run(conn, shop.target, plan, choice, "r")
        became = salvage.became(conn, plan, "r")
        left = [row for one in plan for row in salvage.left_out(conn, one, "r")]
    assert became == {
        "public.customers": {"conflict": 1},
        "public.orders": {"inserted": 57, "there": 1, "orphan": 2},
        "public.items": {"inserted": 116, "orphan": 4},
    }
    assert ("public.customers", "40", salvage.LEFT["conflict"]) in left
    assert ("public.orders", "5", salvage.LEFT["there"]) in left
    assert ("public.orders", "38", salvage.LEFT["orphan"]) in left
    assert rows(shop.target, "SELECT note FROM orders WHERE id = 5") == [("mine",)]
    shop.today("INSERT INTO orders (customer) VALUES (1)")
    assert rows(shop.target, "SELECT max(id) FROM orders") == [(61,)]


SCHEMA_SINCE = [
    ("ALTER TABLE t ADD more int NOT NULL", "cannot salvage table public.t: old rows have no value for more"),
    ("ALTER TABLE t ALTER n TYPE smallint", "cannot salvage table public.t: the type of column n has changed since"),
    ("ALTER TABLE t ALTER v TYPE varchar(4)", "cannot salvage table public.t: the type of column v has changed since"),
    ("ALTER TABLE t ALTER n TYPE text", "cannot salvage table public.t: the type of column n has changed since"),
    ("ALTER TABLE t DROP CONSTRAINT t_pkey", "cannot salvage table public.t: rows cannot be told apart"),
    ("ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (n)",
     "cannot salvage table public.t: rows cannot be told apart"),
    ("DROP TABLE t", "cannot salvage table t: it is not there today"),
]  # fmt: skip
TOLD = "ALTER TABLE t DROP gone, ADD more int DEFAULT 7, ALTER n TYPE bigint, ALTER v TYPE varchar(20)"


@pytest.mark.slow
def test_a_schema_that_has_changed_is_told_or_refused_before_anything_changes(scene: Callable[[str], Scene]) -> None:
    """Columns that came or went, types that hold every old value; what would lose or guess is refused."""
    since = scene("CREATE TABLE t (id int PRIMARY KEY, n int, v varchar(9), gone text);"
                  "INSERT INTO t SELECT n, n, 'v' || n, 'g' FROM generate_series(1, 9) AS n")  # fmt: skip
    since.today("DELETE FROM t")
    for statement, says in SCHEMA_SINCE:
        with connect(since.target) as conn, connected(since.then) as old, conn.transaction(force_rollback=True):
            conn.execute(statement.encode())
            with pytest.raises(RunbookError) as told:
                salvage_plan.plan(old, conn, SalvageChoice(("t",), {}))
        assert told.value.message == says
        assert told.value.hint
    since.today(TOLD)
    (plan,) = since.plan(SalvageChoice(("t",), {}))
    assert plan.told == (
        "more: there since, gets its default", "gone: dropped since, is not brought back",
        "n: integer then, bigint today", "v: character varying(9) then, character varying(20) today",
    )  # fmt: skip
    assert since.salvage("t") == {"public.t": {"inserted": 9}}
    assert rows(since.target, "SELECT count(*) FROM t WHERE n = id AND more = 7") == [(9,)]


@pytest.mark.slow
def test_what_cannot_be_salvaged_is_named(scene: Callable[[str], Scene]) -> None:
    """Names that are none or are two, conditions that write, never end, or are about another table."""
    shop = scene(
        SHOP + "CREATE SCHEMA other; CREATE TABLE other.orders (id int PRIMARY KEY); CREATE VIEW v AS SELECT 1"
    )
    shop.today("DELETE FROM items WHERE order_id = 4")

    def refused(*tables: str, **where: str) -> RunbookError:
        with pytest.raises(RunbookError) as told:
            shop.salvage(*tables, where=where)
        return told.value

    assert refused("order").hint == "Correct the name: other.orders, public.orders."
    assert refused("orders").message == "orders is the name of 2 tables"
    assert refused("v").message == "there is no table v to salvage"
    assert (
        refused("items", customers="true").message == "there is a condition for table customers, which is not salvaged"
    )
    for condition, why in [
        ("pg_sleep(1) IS NULL", "The function pg_sleep may do more than read."),
        ("nextval('orders_id_seq') > 0", "The function nextval may do more than read."),
        ("mine(order_id)", "The function mine is not PostgreSQL's own."),
        ("order_id IN (SELECT id FROM orders)", "It reads with a query of its own."),
        ("nothing = 1", 'column "nothing" does not exist.'),
        ("line / 0 = 1", "division by zero."),
        (
            "length(repeat(what, 20000000)) > 0 AND md5(repeat(what, 100000000)) > ''",
            "It did not come to its end in 2 s.",
        ),
    ]:
        told = refused("items", items=condition)
        assert isinstance(told, WrongInput)
        assert re.fullmatch(
            rf"cannot take this condition on table (public\.)?items: {re.escape(condition)}", told.message
        )
        assert told.detail == why
    assert rows(shop.target, "SELECT to_regclass('pgrunbook.salvage')") == [(None,)]


@pytest.mark.slow
def test_tables_that_a_cascade_has_emptied_are_named(scene: Callable[[str], Scene]) -> None:
    """Over all levels; only what ON DELETE CASCADE takes along, and no partition of it."""
    shop = scene(
        "CREATE TABLE a (id int PRIMARY KEY);"
        "CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a ON DELETE CASCADE);"
        "CREATE TABLE c (id int, b int REFERENCES b ON DELETE CASCADE) PARTITION BY LIST (id);"
        "CREATE TABLE c1 PARTITION OF c DEFAULT;"
        "CREATE TABLE d (a int REFERENCES a ON DELETE SET NULL);"
        "INSERT INTO a VALUES (1); INSERT INTO b VALUES (1, 1); INSERT INTO c VALUES (1, 1); INSERT INTO d VALUES (1)"
    )
    shop.today("DELETE FROM a")
    plan = shop.plan(SalvageChoice(("a",), {}))
    with connected(shop.then) as old, connected(shop.target) as conn:
        assert [one.name for one in salvage_plan.cascaded(old, conn, plan)] == ["b", "c"]
        both = shop.plan(SalvageChoice(("a", "b"), {}))
        assert [one.name for one in salvage_plan.cascaded(old, conn, both)] == ["c"]


LEDGER = """
CREATE TABLE accounts (id int PRIMARY KEY, name text);
CREATE TABLE ledger (id bigserial PRIMARY KEY, account int NOT NULL REFERENCES accounts, amount int, by text);
CREATE TABLE heard (what text);
CREATE TABLE receipts (id int PRIMARY KEY, entry bigint REFERENCES ledger ON DELETE CASCADE);
INSERT INTO accounts SELECT n, 'a' || n FROM generate_series(1, 50) AS n;
INSERT INTO ledger (account, amount, by) SELECT 1 + n % 50, n, 'before' FROM generate_series(1, 4000) AS n;
INSERT INTO receipts SELECT n, n FROM generate_series(1, 10) AS n;
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
    assert rows(ledger, "SELECT count(*) FROM heard") == [(0,)]  # triggers were silent
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

    server = events(looked, "restored")[0]["name"]
    made, code = run("restore", of_run=looked.run_id, compare="none", salvage="ledger")
    assert (code, made.status, cells(made)["what-to-salvage"]) == (3, Status.REFUSED, "failed")
    assert error(made).splitlines() == [
        "cannot salvage 80 rows of public.ledger: what they refer to is missing today",
        "Detail: Foreign key ledger_account_fkey leads to public.accounts, which has no row for (7).",
        f"State: Nothing changed in the database. Restored server {server} runs beside it.",
        "Hint: Salvage that, too: -p salvage=public.accounts,public.ledger",
    ]
    do(ledger, "CREATE FUNCTION grumble() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;"
       "CREATE TRIGGER g BEFORE INSERT ON ledger FOR EACH ROW EXECUTE FUNCTION grumble()")  # fmt: skip
    given = {"of_run": looked.run_id, "compare": "none", "salvage": "accounts,ledger", "with_data": "true"}
    made, code = run("restore", **given, salvage_triggers="fire")
    assert (code, made.status, cells(made)["try-salvage"]) == (3, Status.REFUSED, "failed")
    assert error(made).splitlines()[0] == "cannot salvage: no"
    assert error(made).splitlines()[2] == (
        f"State: Nothing changed in the database: it was tried on a branch. Restored server {server} runs beside it."
    )
    assert rows(ledger, "SELECT count(*) FROM accounts WHERE id = 7") == [(0,)]
    do(ledger, "DELETE FROM receipts")
    made, code = run("restore", **given)
    assert (code, made.status, completed(made)) == (0, Status.DONE, True)
    assert re.search(r"public.receipts .* not chosen; ON DELETE CASCADE takes its rows along: -p salvage="
                     r"public.accounts,public.ledger,public.receipts", outputs(made, "what-to-salvage"))  # fmt: skip
    assert events(made, "salvage-tried")[0]["became"] == events(made, "salvaged")[0]["became"]
    assert "81 rows of public.accounts and public.ledger came back, 0 rows overwritten." in outputs(made, "verdict")
    assert rows(ledger, "SELECT count(*) FROM ledger WHERE account = 7") == [(80,)]

    Server(events(looked, "restored")[0]["name"]).stop()
    made, code = run("restore", of_run=looked.run_id, compare="none", salvage="ledger")
    assert (code, made.status, cells(made)["restore-to-branch"]) == (2, Status.FAILED, "failed")
    assert error(made).splitlines()[0].endswith(" does not run any more")
