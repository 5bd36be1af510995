"""Safe-migrations mode on a real database: what is refused, what is let pass, and the way through."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace

import pytest

from budget import sample
from pgrunbook.database import catalog_reader
from pgrunbook.database.catalog import UNKNOWN, Use
from pgrunbook.database.connection import Connection
from pgrunbook.errors import Refused
from pgrunbook.review.safe_mode import Refusal, refusals, refused, way_through
from pgrunbook.session.parameters import Prepare, checked
from pgrunbook.sql.statements import parse
from servers import Server

SHOP = """
CREATE TABLE users (id integer PRIMARY KEY, name text, nick text, free text);
CREATE TABLE orders (id integer PRIMARY KEY, total integer, note text,
    user_id integer CONSTRAINT orders_user REFERENCES users);
CREATE TABLE items (order_id integer CONSTRAINT items_order REFERENCES orders);
CREATE TABLE empty (id integer PRIMARY KEY, name text);
CREATE TABLE empty_too (id integer CONSTRAINT empty_too_id REFERENCES users);
CREATE TABLE events (at date, what text) PARTITION BY RANGE (at);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE TABLE felt (by integer, mood mood, moods mood[]);
CREATE TYPE tone AS ENUM ('low', 'high');
CREATE TABLE heard (tones tone[]);
CREATE SCHEMA old;
CREATE TABLE old.used (id integer);
CREATE TABLE old.empty (id integer);
CREATE SCHEMA bare;
CREATE TABLE bare.empty (id integer);
CREATE INDEX users_name ON users (name);
CREATE VIEW nicks AS SELECT nick FROM users;
INSERT INTO users VALUES (1, 'a', 'b', 'c');
INSERT INTO orders VALUES (1, 5, 'x', 1);
INSERT INTO items VALUES (1);
INSERT INTO events VALUES ('2026-03-01', 'x');
INSERT INTO felt VALUES (1, 'good', '{bad}');
INSERT INTO heard VALUES ('{low}');
INSERT INTO old.used VALUES (1);
ANALYZE;
"""


@pytest.fixture(scope="module")
def made(newest: Server) -> Iterator[Connection]:
    """A connection to a database with rows."""
    with newest.connect(newest.database("safe_mode", SHOP)) as conn:
        yield conn


@pytest.fixture
def shop(made: Connection) -> Iterator[Connection]:
    """The same; what is done there is rolled back."""
    with made.transaction(force_rollback=True):
        yield made


def of(shop: Connection, sql: str, *allowed: str) -> list[Refusal]:
    """Return what is refused of a release on this database."""
    statements = parse(sql, "0002_b.sql")
    return refusals(statements, catalog_reader.read(shop, statements), allowed)


REFUSED = [
    ("DROP TABLE orders CASCADE", {"public.orders", "public.items.items_order"}),
    ("DROP TABLE items, orders", {"public.items", "public.orders"}),
    ("DROP TABLE events", {"public.events"}),
    ("DROP TABLE events_1", {"public.events_1"}),
    ("DROP SCHEMA old CASCADE", {"old.used"}),
    ("DROP TYPE mood CASCADE", {"public.felt.mood", "public.felt.moods"}),
    ("DROP EXTENSION plpgsql CASCADE", {"plpgsql"}),
    ("DROP OWNED BY billing", {"owned by billing"}),
    ("DELETE FROM items", {"public.items"}),
    ("DO $$ BEGIN DELETE FROM items; END $$", {"public.items"}),
    ("TRUNCATE items", {"public.items"}),
    ("TRUNCATE orders, items", {"public.items", "public.orders"}),
    ("TRUNCATE orders CASCADE", {"public.items", "public.orders"}),
    ("TRUNCATE events", {"public.events"}),
    ("TRUNCATE users CASCADE", {"public.users", "public.orders", "public.items"}),
    ("DROP TYPE tone CASCADE", {"public.heard.tones"}),
    ("ALTER TABLE users DROP COLUMN name", {"public.users.name"}),
    ("ALTER TABLE users DROP COLUMN nick CASCADE", {"public.users.nick"}),
    ("ALTER TABLE orders DROP COLUMN user_id", {"public.orders.orders_user"}),
    ("ALTER TABLE orders DROP CONSTRAINT orders_user", {"public.orders.orders_user"}),
    ("ALTER TABLE users DROP CONSTRAINT users_pkey CASCADE", {"public.orders.orders_user"}),
    ("DO $$ BEGIN DROP TABLE items; END $$", {"public.items"}),
    ("ALTER TABLE items RENAME TO things; DROP TABLE things", {"public.things"}),
    ("CREATE TABLE a (); DROP TABLE a; ALTER TABLE items RENAME TO a; DROP TABLE a", {"public.a"}),
    ("ALTER TABLE IF EXISTS nothing RENAME TO items; DROP TABLE items", {"public.items"}),
    ("ALTER TABLE users RENAME TO people; DROP TABLE people CASCADE", {"public.people", "public.orders.orders_user"}),
    ("ALTER TABLE items SET SCHEMA old; DROP TABLE old.items", {"old.items"}),
    ("ALTER TABLE items SET SCHEMA old; TRUNCATE old.items", {"old.items"}),
    ("ALTER TABLE old.used SET SCHEMA public; DROP TABLE used", {"public.used"}),
    ("ALTER TABLE items SET SCHEMA bare; DROP SCHEMA bare CASCADE", {"bare.items"}),
    ("ALTER TABLE events SET SCHEMA old; DROP TABLE old.events", {"old.events"}),
    ("ALTER TABLE events_1 SET SCHEMA old; TRUNCATE events", {"public.events"}),
    ("ALTER TABLE users SET SCHEMA old; ALTER TABLE old.users DROP COLUMN nick CASCADE", {"old.users.nick"}),
    ("ALTER TABLE users SET SCHEMA old; TRUNCATE old.users CASCADE",
     {"old.users", "public.orders", "public.items"}),
    ("CREATE TABLE old.items (); DROP TABLE old.items; ALTER TABLE items SET SCHEMA old; DROP TABLE old.items",
     {"old.items"}),
    ("DO $$ BEGIN ALTER TABLE items SET SCHEMA old; END $$; DROP TABLE old.items", {"old.items"}),
    ("ALTER SCHEMA old RENAME TO archive; DROP TABLE archive.used", {"archive.used"}),
    ("ALTER SCHEMA old RENAME TO archive; DROP SCHEMA archive CASCADE", {"archive.used"}),
    ("DROP SCHEMA bare CASCADE; ALTER SCHEMA old RENAME TO bare; DROP SCHEMA bare CASCADE", {"bare.used"}),
    ("CREATE SCHEMA a; CREATE TABLE a.used (); DROP SCHEMA a CASCADE; ALTER SCHEMA old RENAME TO a; DROP TABLE a.used",
     {"a.used"}),
    ("ALTER TYPE mood SET SCHEMA old; DROP TYPE old.mood CASCADE", {"public.felt.mood", "public.felt.moods"}),
]  # fmt: skip


@pytest.mark.first_case
@pytest.mark.parametrize(("sql", "objects"), sample(REFUSED, 4))
def test_what_is_in_use_is_kept_unless_the_operator_names_it(shop: Connection, sql: str, objects: set[str]) -> None:
    """A table with rows, a column in use and a foreign key are refused; named, with schema or without, they pass."""
    assert {one.object for one in of(shop, sql)} == objects
    assert of(shop, sql, *objects) == []
    assert of(shop, sql, *(name.partition(".")[2] or name for name in objects)) == []
    assert {one.object for one in of(shop, sql, "public.other", "other")} == objects


@pytest.mark.parametrize(
    "sql",
    sample(
        [
            "DROP TABLE empty",
            "DROP TABLE empty_too",
            "DROP TABLE IF EXISTS nothing",
            "TRUNCATE empty",
            "TRUNCATE empty CASCADE",
            "DROP SCHEMA bare CASCADE",
            "ALTER TABLE empty_too DROP CONSTRAINT empty_too_id",
            "ALTER TABLE empty DROP COLUMN name",
            "ALTER TABLE users DROP COLUMN free",
            "ALTER TABLE users ADD COLUMN more text",
            "CREATE TABLE a (b integer REFERENCES users); ALTER TABLE a DROP COLUMN b; DROP TABLE a",
            "CREATE TABLE a (b integer CONSTRAINT a_b REFERENCES users); ALTER TABLE a DROP CONSTRAINT a_b; TRUNCATE a",
            "CREATE TABLE a AS SELECT * FROM users; ALTER TABLE a RENAME TO b; TRUNCATE b; DROP TABLE b",
            "CREATE TABLE a (b int); INSERT INTO a SELECT 1 FROM users; CREATE INDEX ON a (b); ALTER TABLE a DROP b",
            "DELETE FROM items WHERE order_id = 1",
            "ALTER TABLE empty SET SCHEMA old; DROP TABLE old.empty",
            "ALTER SCHEMA bare RENAME TO b; DROP SCHEMA b CASCADE",
            "CREATE TABLE a (b integer); ALTER TABLE a SET SCHEMA old; TRUNCATE old.a; DROP TABLE old.a",
            "CREATE SCHEMA s; CREATE TABLE s.a AS SELECT * FROM users; ALTER SCHEMA s RENAME TO t; DROP TABLE t.a",
            "ALTER TABLE items SET SCHEMA old; DROP TABLE IF EXISTS items",
        ],
        4,
    ),
)
def test_what_is_empty_or_made_by_the_release_itself_is_let_pass(shop: Connection, sql: str) -> None:
    """Nothing that anybody uses is lost."""
    assert of(shop, sql) == []


@pytest.mark.parametrize(
    "sql",
    [
        "SET search_path = old; DROP TABLE used",
        "SELECT set_config('search_path', 'old', false); TRUNCATE used",
        "SET LOCAL search_path TO old; ALTER TABLE used DROP COLUMN id",
    ],
)
def test_a_bare_name_behind_a_search_path_may_mean_anything(shop: Connection, sql: str) -> None:
    """It is refused by its bare name, and let pass by it; with its schema it is judged as ever."""
    statements = parse(sql, "0001_a.sql")
    catalog = catalog_reader.read(shop, statements)
    assert [one.object for one in refusals(statements, catalog, ())] == ["used"]
    assert refusals(statements, catalog, ["used"]) == []
    named = parse("SET search_path = old; DROP TABLE old.empty", "0001_a.sql")
    assert refusals(named, catalog_reader.read(shop, named), ()) == []


def test_a_table_is_not_made_where_it_was_there_already(shop: Connection) -> None:
    """IF NOT EXISTS makes nothing of a table with rows."""
    assert [one.object for one in of(shop, "CREATE TABLE IF NOT EXISTS items (a int); DROP TABLE items")] == [
        "public.items"
    ]


def test_a_column_that_an_empty_table_is_asked_for_is_in_use(shop: Connection) -> None:
    """Dropping it breaks the view, or the query, whether or not there are rows."""
    shop.execute("CREATE VIEW names AS SELECT name FROM empty")
    (one,) = of(shop, "ALTER TABLE empty DROP COLUMN name CASCADE")
    assert one.reason == "the column is in use: view public.names"


@pytest.mark.parametrize(
    ("query", "used"),
    sample(
        [
            ("SELECT note FROM orders WHERE id = $1", True),
            ("SELECT o.note FROM public.orders AS o", True),
            ("SELECT * FROM orders", True),
            ("UPDATE orders SET note = $1 WHERE id = $2", True),
            ("INSERT INTO orders (id, note) VALUES ($1, $2)", True),
            ("DELETE FROM orders WHERE note LIKE $1", True),
            ("INSERT INTO orders VALUES ($1, $2, $3, $4)", True),
            ("INSERT INTO public.orders SELECT $1, id FROM users", True),
            ("INSERT INTO orders DEFAULT VALUES", False),
            ("INSERT INTO orders (id) VALUES ($1)", False),
            ("INSERT INTO orders (id) VALUES ($1) ON CONFLICT (id) DO UPDATE SET note = $2", True),
            ("INSERT INTO orders (id) VALUES ($1) ON CONFLICT (note) DO NOTHING", True),
            ("INSERT INTO letters VALUES ($1) RETURNING (SELECT max(id) FROM orders)", False),
            ("WITH made AS (INSERT INTO orders (id, note) VALUES ($1, $2)) SELECT $3", True),
            ("WITH made AS (INSERT INTO orders VALUES ($1, $2, $3)) SELECT $4", True),
            ("WITH changed AS (UPDATE orders SET note = $1) SELECT $2", True),
            ("WITH changed AS (UPDATE letters SET note = $1) SELECT id FROM orders", False),
            ("MERGE INTO orders USING users ON orders.id = users.id WHEN MATCHED THEN UPDATE SET note = $1", True),
            ("MERGE INTO orders USING users ON orders.id = users.id WHEN NOT MATCHED THEN INSERT VALUES ($1)", True),
            (
                "MERGE INTO orders USING users ON orders.id = users.id WHEN NOT MATCHED THEN INSERT (id) VALUES ($1)",
                False,
            ),
            ("MERGE INTO orders USING users ON orders.id = users.id WHEN MATCHED THEN DELETE", False),
            ("COPY orders FROM STDIN", True),
            ("COPY orders (id, note) FROM STDIN", True),
            ("COPY orders (id) FROM STDIN", False),
            ("select NOTE from ORDERS", True),
            ("SELECT id AS note FROM orders", False),
            ("SELECT id FROM orders", False),
            ("SELECT note FROM old.orders", False),
            ("SELECT note FROM letters", False),
            ("not SQL about orders and note", False),
        ],
        3,
    ),
)
def test_a_column_that_the_servers_statistics_show_is_in_use(shop: Connection, query: str, used: bool) -> None:
    """Texts as pg_stat_statements has them; test_effects reads them from a server that counts."""
    statements = parse("ALTER TABLE orders DROP COLUMN note", "0002_b.sql")
    catalog = catalog_reader.read(shop, statements)
    found = refusals(statements, replace(catalog, uses=(Use(query, 1_234),), uses_known=True), ())
    assert [(one.object, one.reason) for one in found] == (
        [("public.orders.note", "the column is in use: 1,234 calls in pg_stat_statements")] if used else []
    )


def test_without_a_database_nothing_is_harmless() -> None:
    """What nobody knows is refused, with that reason."""
    statements = parse("DROP SCHEMA old CASCADE; TRUNCATE orders; ALTER TABLE a DROP COLUMN b", "0002_b.sql")
    assert [(one.object, one.reason) for one in refusals(statements, UNKNOWN, ())] == [
        ("old", "it is unknown whether tables or columns with rows are dropped with the schema"),
        ("orders", "it is unknown whether the table holds rows"),
        ("a.b", "it is unknown whether the column is in use"),
    ]


def test_the_error_tells_each_statement_and_the_way_through(shop: Connection) -> None:
    """Places, objects, reasons, and a command that is right as it stands, with what was allowed before."""
    sql = "DROP TABLE items;\nTRUNCATE felt;\nALTER TABLE users DROP COLUMN name;\n"
    error = refused(of(shop, sql, "felt"), "demo", ["felt"])
    assert isinstance(error, Refused)
    assert str(error) == (
        "refused in safe-migrations mode: 2 statements lose something that is in use\n"
        "Detail: 0002_b.sql:1: public.items: the table holds rows (about 1); "
        "0002_b.sql:3: public.users.name: the column is in use: index public.users_name\n"
        "State: Nothing changed in the database.\n"
        "Hint: Keep these objects, or name those that may be lost: "
        "pgrunbook run release --target demo -p allow_loss=felt,public.items,public.users.name"
    )


def test_one_statement_is_told_as_one(shop: Connection) -> None:
    """However many objects it loses."""
    assert refused(of(shop, "TRUNCATE orders CASCADE"), "demo").message == (
        "refused in safe-migrations mode: 1 statement loses something that is in use"
    )


@pytest.mark.parametrize(
    "objects", [["public.orders", "public.users.name"], ["owned by billing"], ['public."a,b"', "c"]]
)
def test_the_way_through_is_read_as_it_is_written(objects: list[str]) -> None:
    """Through a shell, and as the parameter of prepare: names with commas and blanks as well."""
    *command, option, given = shlex.split(way_through([*objects, objects[0]], "demo"))
    assert (command, option) == (["pgrunbook", "run", "release", "--target", "demo"], "-p")
    name, _, value = given.partition("=")
    found = checked("prepare", Prepare, {"target": "demo", name: value}, from_text=True)
    assert found.model_dump(mode="json")["allow_loss"] == objects
