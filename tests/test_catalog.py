"""What is read of a database for a judgement, on a real server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from pgrunbook.changes.catalog import Catalog, Standing, Use, Weight
from pgrunbook.changes.catalog_reader import read
from pgrunbook.changes.hazards import Transactions
from pgrunbook.changes.review import review
from pgrunbook.changes.statements import parse
from pgrunbook.changes.syntax import Name
from pgrunbook.changes.usage import uses_of
from pgrunbook.database.connection import Connection, connect
from pgrunbook.target import Target

SETUP = """
CREATE SCHEMA "Odd";
CREATE TABLE users (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email varchar(50) NOT NULL, price numeric(10,2)
);
CREATE TABLE "Odd"."Orders" (id int PRIMARY KEY, user_id bigint REFERENCES users ON DELETE CASCADE, "total sum" int);
CREATE INDEX lower_email ON users (lower(email)) WHERE price > 0;
CREATE VIEW mails AS SELECT email FROM users;
CREATE VIEW mails_too AS SELECT email AS e FROM mails;
CREATE PUBLICATION everything FOR TABLE users;
CREATE TABLE log (id int, at date) PARTITION BY RANGE (at);
CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
INSERT INTO users (email) SELECT 'x' FROM generate_series(1, 5000);
INSERT INTO log SELECT n, '2025-02-02' FROM generate_series(1, 20000) AS n;
"""


@pytest.fixture
def conn(project: Callable[..., Target]) -> Iterator[Connection]:
    target = project(folder={})
    with connect(target, purpose="test") as connection:
        for statement in SETUP.strip().split(";\n"):
            connection.execute(statement.encode())
        yield connection


def catalog_of(conn: Connection, sql: str) -> Catalog:
    return read(conn, parse(sql, "a.sql"))


def test_touched_tables_are_read_with_all_that_hangs_on_them(conn: Connection) -> None:
    """Columns, keys in both directions, indexes, dependents through views, publications and sequences."""
    conn.execute("ANALYZE users")
    found = catalog_of(conn, "ALTER TABLE users DROP COLUMN email;")
    users = found.find(Name(None, "users"))
    assert (users.standing, users.label, users.rows_estimate) == (Standing.THERE, "public.users", 5000)
    assert users.weight is Weight.SMALL
    assert users.columns["email"].modifiers == (50,)
    assert users.columns["price"].modifiers == (10, 2)
    lower = next(index for index in users.indexes if index.name == "lower_email")
    assert (lower.keys, lower.uses, lower.plain, lower.partial) == (("",), frozenset({"email", "price"}), False, True)
    names = {(d.kind, d.name, d.columns) for d in users.dependents}
    assert ("view", "public.mails", ("email",)) in names
    assert ("view", "public.mails_too", ("email",)) in names
    assert ("publication", "everything", ()) in names
    assert ("sequence", "public.users_id_seq", ("id",)) in names
    ((orders, key),) = found.references_to(users)
    assert (orders.label, key.columns, key.on_delete) == ('"Odd"."Orders"', ("user_id",), "c")


def test_partitions_count_for_their_parent(conn: Connection) -> None:
    """Weight, rows and size of a partitioned table are those of its partitions."""
    conn.execute("ANALYZE log")
    found = catalog_of(conn, "ALTER TABLE log ADD COLUMN x text;")
    log = found.find(Name(None, "log"))
    assert [member.name for member in found.below(log)] == ["log", "log_1"]
    assert found.rows_estimate(log) == 20_000
    assert found.weight(log) is Weight.BIG


def test_sizes_are_known_without_statistics(conn: Connection) -> None:
    """A table that was never analysed is not taken for empty, and one without a page is."""
    conn.execute("CREATE TABLE never (id int)")
    found = catalog_of(conn, "DROP TABLE users; DROP TABLE never;")
    assert found.find(Name(None, "users")).rows_estimate
    assert found.find(Name(None, "never")).rows_estimate == 0
    assert found.find(Name(None, "never")).weight is Weight.NOTHING


def test_names_are_found_by_the_search_path_of_the_session(conn: Connection) -> None:
    """A name without a schema is the first one on the path; one that is not there is told as missing."""
    conn.execute('CREATE TABLE "Odd".users (id int)')
    conn.execute('SET search_path = "Odd", public')
    found = catalog_of(conn, "DROP TABLE users; DROP TABLE public.users; DROP TABLE nothing;")
    assert found.find(Name(None, "users")).label == '"Odd".users'
    assert found.find(Name("public", "users")).label == "public.users"
    assert found.find(Name(None, "nothing")).standing is Standing.MISSING


def test_reading_leaves_the_session_as_it_was(conn: Connection) -> None:
    """Settings and transaction are the caller's."""
    before = conn.execute("SELECT current_setting('search_path'), current_setting('TimeZone')").fetchone()
    catalog_of(conn, "DROP TABLE users;")
    after = conn.execute("SELECT current_setting('search_path'), current_setting('TimeZone')").fetchone()
    assert before == after
    assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_statements_that_the_server_counted_tell_who_uses_a_column(conn: Connection) -> None:
    """A star uses all columns; another table's column of the same name does not count."""
    catalog = catalog_of(conn, "DROP TABLE users;")
    assert not catalog.uses_known
    uses = (
        Use("SELECT email FROM users WHERE id = $1", 3),
        Use("SELECT * FROM users", 2),
        Use("SELECT email FROM others", 5),
        Use("UPDATE users SET email = $1", 7),
        Use("SELECT id FROM users", 11),
        Use("SELECT broken FROM FROM users", 13),
    )
    catalog = Catalog(connected=True, tables=catalog.tables, uses=uses, uses_known=True)
    users = catalog.find(Name(None, "users"))
    assert sum(use.calls for use in uses_of(catalog, users, "email")) == 12


def test_many_statements_on_many_tables_are_read_and_judged_soon(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of queries does not grow with the statements, and 100 of them on 500 tables are judged at once."""
    for number in range(500):
        refers = f"REFERENCES t_{number - 1}" if number else ""
        conn.execute(f"CREATE TABLE t_{number} (id int PRIMARY KEY, other int {refers}, name varchar(20))".encode())
    both = "ALTER TABLE t_{0} ALTER COLUMN name TYPE text; CREATE INDEX ON t_{0} (name);"
    sql = "".join(both.format(number) for number in range(0, 500, 10))
    sent = []
    execute = psycopg.Cursor.execute

    def counted(self: object, query: object, *args: object, **options: object) -> object:
        sent.append(query)
        return execute(self, query, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(psycopg.Cursor, "execute", counted)
    start_s = time.process_time()
    catalog = read(conn, parse(sql, "a.sql"))
    assert len(sent) <= 16
    found = review([("a.sql", sql)], catalog, transactions=Transactions.FILE, with_squawk=False)
    assert time.process_time() - start_s < 1
    assert len(found) == 100
    assert len(catalog.tables) >= 149
