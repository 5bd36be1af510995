"""Small tables are captured as a whole, around statements that do not show which rows they change."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from pgrunbook.database.connection import Connection
from pgrunbook.inverse.inverter import Inverter
from pgrunbook.plan.step import Expansion, SafeStep
from pgrunbook.sql import statements
from pgrunbook.undo_data import Site, capture_tables, list_entries, with_capture
from servers import Server
from undo_data_stage import do, give_back_migration, texts

MADE = """
CREATE TYPE public.mood AS ENUM ('sad', 'ok');
CREATE TABLE kinds (code text PRIMARY KEY, name text, rank integer UNIQUE, m mood DEFAULT 'sad', up text GENERATED ALWAYS AS (upper(name)) STORED);
INSERT INTO kinds SELECT 'k' || i, 'name ' || i, i FROM generate_series(1, 9) AS i;
CREATE TABLE things (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, kind text REFERENCES kinds ON DELETE CASCADE, n numeric);
INSERT INTO things (kind, n) SELECT 'k' || 1 + i % 8, i / 3.0 FROM generate_series(1, 30) AS i;
CREATE TABLE "Od d" (a integer, at date, v text, PRIMARY KEY (a, at)) PARTITION BY RANGE (at);
CREATE TABLE od_1 PARTITION OF "Od d" FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE od_2 PARTITION OF "Od d" FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO "Od d" SELECT i, '2025-06-01'::date + i * 30, 'v' || i FROM generate_series(1, 12) AS i;
CREATE TABLE pairs (a integer, b integer, PRIMARY KEY (a, b));
INSERT INTO pairs SELECT i, i FROM generate_series(1, 5) AS i;
CREATE TABLE log (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, line text);
CREATE TABLE rates (rate numeric PRIMARY KEY, m mood UNIQUE NOT NULL);
INSERT INTO rates VALUES (1.0, 'sad'), (2.5, 'ok');
CREATE TABLE keyless (a integer);
CREATE PROCEDURE more(by integer) LANGUAGE plpgsql AS 'BEGIN UPDATE kinds SET rank = -rank WHERE rank > by; INSERT INTO log (line) VALUES (by); END';
CREATE FUNCTION fewer() RETURNS void LANGUAGE sql AS 'DELETE FROM things WHERE n > 5';
CREATE PROCEDURE hidden(t text) LANGUAGE plpgsql AS 'BEGIN EXECUTE t; END';
"""
TABLES = ("kinds", "things", '"Od d"', "pairs", "log", "rates")
# ruff: noqa: E501 - one statement on a line, whatever its length


@pytest.fixture
def conn(server: Server) -> Iterator[Connection]:
    template = server.database("whole_template", *MADE.strip().split(";\n"))
    with server.copied("whole", template), server.connect("whole") as conn:
        yield conn


def there(conn: Connection, sql: str, number: int = 1) -> SafeStep:
    """Execute a statement as the plan would, and return its step."""
    statement, *others = statements.parse(sql, "0001_m")
    undo = Inverter(conn).inverse(statement)
    assert undo.because == ""
    site = Site("0001_m", "", "up", number)
    plain = Expansion(statement, "", "", (SafeStep(sql, "", own_transaction=False, statements=1 + len(others)),))
    kept = with_capture(conn, plain, undo, site, rows_conn=None, batch_rows=100)
    assert kept.because == ""
    (step,) = kept.expansion.steps
    do(conn, step, site, number)
    return step


CASES = {
    "on conflict": "INSERT INTO kinds (code, name, rank) VALUES ('k1', 'other', 1), ('n1', 'new', 100) ON CONFLICT (code) DO UPDATE SET name = excluded.name",
    "on conflict key": "INSERT INTO kinds (code, rank) VALUES ('z', 9) ON CONFLICT (rank) DO UPDATE SET code = excluded.code || 'y'",
    "on conflict parts": """INSERT INTO "Od d" SELECT a, at, 'again' FROM "Od d" WHERE a < 9 UNION ALL SELECT 40, '2026-02-02', 'x' ON CONFLICT (a, at) DO UPDATE SET v = excluded.v""",
    "merge": "MERGE INTO kinds USING (VALUES ('k2', 'two'), ('k3', NULL), ('n', 'new')) AS s (code, name) ON s.code = kinds.code WHEN MATCHED AND s.name IS NULL THEN DELETE WHEN MATCHED THEN UPDATE SET name = s.name, m = 'ok' WHEN NOT MATCHED THEN INSERT (code, name) VALUES (s.code, s.name)",
    "truncate": "TRUNCATE pairs",
    "truncate cascade": "TRUNCATE kinds RESTART IDENTITY CASCADE",
    "truncate parts": 'TRUNCATE "Od d"',
    "returning": "UPDATE kinds SET rank = rank + 100 RETURNING code",
    "with": "WITH gone AS (DELETE FROM things WHERE id % 2 = 0 RETURNING n) INSERT INTO log (line) SELECT n::text FROM gone",
    "select with": "WITH gone AS (DELETE FROM pairs WHERE a < 3 RETURNING a) SELECT count(*) FROM gone",
    "loop": "DO $$ DECLARE k record; BEGIN FOR k IN SELECT code FROM kinds LOOP UPDATE things SET n = n + 1 WHERE kind = k.code; DELETE FROM pairs WHERE a = 2; INSERT INTO pairs VALUES (2, 3) ON CONFLICT DO NOTHING; END LOOP; END $$",
    "parents": "DO $$ BEGIN PERFORM FROM kinds; INSERT INTO kinds (code) VALUES ('p'); INSERT INTO things (kind) VALUES ('p'); DELETE FROM kinds WHERE code = 'k4'; END $$",
    "moves": """DO $$ BEGIN PERFORM FROM kinds; UPDATE "Od d" SET at = at + 200 WHERE a < 6; UPDATE pairs SET b = b + 1; END $$""",
    "equal keys": "INSERT INTO rates VALUES (1.00, 'sad') ON CONFLICT (rate) DO UPDATE SET rate = excluded.rate",
    "call": "CALL more(4)",
    "function": "SELECT fewer()",
}  # fmt: skip


# In `make test` another case of its kind stands for each of these.
NARROWER = {"on conflict key", "truncate", "select with", "returning"}


@pytest.mark.first_case
@pytest.mark.parametrize(
    "sql",
    [pytest.param(sql, id=name, marks=pytest.mark.slow if name in NARROWER else ()) for name, sql in CASES.items()],
)
def test_rows_are_as_before(conn: Connection, sql: str) -> None:
    """What the statement changed, deleted and inserted comes back, and it alone was kept; a change since is a conflict."""
    if sql.startswith("MERGE") and conn.info.server_version < 150_000:
        pytest.skip("MERGE is of PostgreSQL 15")
    before = {table: texts(conn, table) for table in TABLES}
    step = there(conn, sql)
    assert step.sql.startswith("LOCK TABLE ")
    after = {table: texts(conn, table) for table in TABLES}
    assert before != after
    changed = sum(len(set(after[table]) ^ set(before[table])) for table in TABLES)
    kept = sum(conn.execute(f"SELECT count(*) FROM {e.side.as_string(None)}").fetchone()[0] for e in list_entries(conn))
    assert changed / 2 <= kept <= changed
    given = give_back_migration(conn, "0001_m", "up")
    assert (given.rows, given.left.rows) == (kept, 0)
    assert {table: texts(conn, table) for table in TABLES} == before


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize("name", ["parents", "moves"])
def test_rows_of_a_block_that_asks_none_are_as_before(conn: Connection, name: str) -> None:
    """Each of its statements captures its own rows; nothing is locked for it."""
    before = {table: texts(conn, table) for table in TABLES}
    step = there(conn, CASES[name].replace("PERFORM FROM kinds; ", ""))
    assert step.sql.startswith("DO ")
    assert {table: texts(conn, table) for table in TABLES} != before
    assert give_back_migration(conn, "0001_m", "up").left.rows == 0
    assert {table: texts(conn, table) for table in TABLES} == before


@pytest.mark.slow
@pytest.mark.first_case
def test_a_run_of_inserts_is_captured_as_one(conn: Connection) -> None:
    """A row that one of them has inserted and another one updated is an inserted row."""
    before = texts(conn, "kinds")
    insert = "INSERT INTO kinds (code, rank) VALUES ('{}', {}) ON CONFLICT (code) DO UPDATE SET rank = excluded.rank"
    there(conn, ";\n".join(insert.format(*row) for row in [("k1", 70), ("n", 71), ("n", 72), ("k2", 73)]))
    assert {entry.kind: len(texts(conn, entry.side.as_string(None))) for entry in list_entries(conn)} == {
        "insert": 1, "update": 2, "delete": 0,
    }  # fmt: skip
    assert give_back_migration(conn, "0001_m", "up").rows == 3
    assert texts(conn, "kinds") == before


@pytest.mark.newest
def test_two_steps_are_reverted_in_turn(conn: Connection) -> None:
    """A lookup table is emptied and filled again: both are taken back, and what somebody has written since is told."""
    before = {table: texts(conn, table) for table in TABLES}
    there(conn, "TRUNCATE kinds CASCADE", 1)
    there(
        conn,
        "INSERT INTO kinds (code, rank) VALUES ('k1', 70), ('k2', 80) ON CONFLICT (code) DO UPDATE SET rank = 0",
        2,
    )
    there(
        conn,
        "INSERT INTO kinds (code, rank) VALUES ('k1', 70), ('k4', 90) ON CONFLICT (code) DO UPDATE SET rank = 0",
        3,
    )
    conn.execute("UPDATE kinds SET name = 'mine' WHERE code = 'k2'")
    given = give_back_migration(conn, "0001_m", "up", on_conflict="keep")
    assert given.left.rows == 2  # it stays, so the row that had its key does not come back
    conn.execute("UPDATE kinds SET name = 'name 2', rank = 2 WHERE code = 'k2'")
    assert {table: texts(conn, table) for table in TABLES} == before


def test_others_may_not_write_meanwhile_and_may_read(conn: Connection, server: Server) -> None:
    """The lock that keeps rows from changing between the copy and the statement is the one that the plan shows."""
    with server.connect("whole") as other, conn.transaction():
        conn.execute(capture_tables.locking(conn, CASES["on conflict"], _keeps(conn, "kinds"), _is_small).encode())
        other.execute("SET lock_timeout = '50ms'")
        assert texts(other, "kinds")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            other.execute("DELETE FROM kinds")
    assert "ACCESS EXCLUSIVE" in capture_tables.locking(conn, "TRUNCATE kinds", _keeps(conn, "kinds"), _is_small)


@pytest.mark.parametrize(
    ("sql", "because"),
    [
        ("TRUNCATE keyless", 'write DELETE instead, and "public"."keyless" has no unique key that identifies its rows'),
        ("DO $$ BEGIN EXECUTE 'DELETE FROM ' || reverse('sdnik'); END $$", "nobody can know what a DO block did, because it puts its statements together when it runs (it executes a text that it puts together of what nobody can tell)"),
        ("CALL hidden('DELETE FROM kinds')", "nobody can know what a procedure did, because it puts its statements together when it runs"),
        ("DO $$ BEGIN LOOP CREATE TABLE n (a integer); END LOOP; END $$", "a DO block executes CREATE TABLE: it loops until it leaves the loop"),
        ("DO LANGUAGE sql $$ DELETE FROM kinds $$", "because its code cannot be read"),
        ("TRUNCATE things", 'and "public"."things" has more than 20 rows'),
    ],
)  # fmt: skip
def test_what_cannot_be_known_is_told(
    conn: Connection, sql: str, because: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables without a key, many rows, and code that puts its statements together."""
    monkeypatch.setattr(capture_tables, "MOST_ROWS", 20)
    (statement,) = statements.parse(sql, "0001_m")
    undo = Inverter(conn).inverse(statement)
    plain = Expansion(statement, "", "", (SafeStep(sql, "", own_transaction=False),))
    kept = with_capture(conn, plain, undo, Site("0001_m", "", "up", 1), rows_conn=None, batch_rows=10)
    assert kept.because.endswith(f"{because}."), kept.because


def _keeps(conn: Connection, table: str) -> tuple:
    (statement,) = statements.parse(f"TRUNCATE {table}", "0001_m")
    return Inverter(conn).inverse(statement).keeps


_is_small: Callable[..., bool] = lambda *_: False  # noqa: E731
