"""Rows that a migration changes between DROP and ADD of a key are captured, and told, by the key that the table had."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import psycopg
import pytest

from budget import sample
from pgrunbook import undo_data
from pgrunbook.errors import Refused
from pgrunbook.plan.step import Keep
from pgrunbook.sql.tree import tree
from pgrunbook.undo_data import FormerKeys, StepKey, capture_statement, helper_index
from servers import Server
from undo_data_stage import Conn, database, give_back_migration, texts

MADE = """
CREATE TABLE t (id integer, n integer, a integer, b text, CONSTRAINT t_key PRIMARY KEY (id, n));
INSERT INTO t SELECT i, i % 2, i, 'b' || i FROM generate_series(1, 6) AS i;
CREATE TABLE alone (id integer NOT NULL, a integer);
CREATE UNIQUE INDEX alone_id ON alone (id);
INSERT INTO alone SELECT i, i FROM generate_series(1, 6) AS i;
CREATE TABLE p (id integer, n integer, a integer, CONSTRAINT p_key PRIMARY KEY (id, n)) PARTITION BY LIST (n);
CREATE TABLE p_0 PARTITION OF p FOR VALUES IN (0);
CREATE TABLE p_1 PARTITION OF p FOR VALUES IN (1);
INSERT INTO p SELECT i, i % 2, i FROM generate_series(1, 6) AS i;
CREATE FUNCTION same() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.id := 1; NEW.n := 1; RETURN NEW; END';
"""
UNKEYED = "ALTER TABLE t DROP CONSTRAINT t_key"
PLACE = StepKey("run", "0001_x", "up", 1)


@pytest.fixture(scope="module")
def made(server: Server) -> Iterator[Conn]:
    """A database with the tables."""
    with database(server, "former_keys", MADE) as conn:
        yield conn


@pytest.fixture
def conn(made: Conn) -> Iterator[Conn]:
    """A connection to the tables as new: all that is done is rolled back."""
    with made.transaction(force_rollback=True):
        yield made


def unkeyed(conn: Conn, table: str, *statements: str) -> tuple[Keep, ...]:
    """Execute statements that take the key from a table; return what is to be captured by it then."""
    former = FormerKeys()
    for statement in statements:
        former.note(conn, tree(statement))
        conn.execute(statement.encode())
    return former.named(conn, [Keep("rows", f"public.{table}")])


def captured(conn: Conn, statement: str, keeps: Sequence[Keep]) -> None:
    """Execute a statement with the capture of its rows."""
    conn.execute(capture_statement(conn, statement, PLACE, keeps=keeps).encode())


def taken_back(conn: Conn, keeps: Sequence[Keep]) -> undo_data.Conflicts:
    """Revert the rows, with an index on the old key meanwhile; return those that were left."""
    made, dropped = next(found for keep in keeps if (found := helper_index(conn, keep)))
    conn.execute(made.encode())
    (entry,) = undo_data.entries_of_migration(conn, PLACE.migration, "up")
    left = undo_data.conflicts(conn, entry)
    give_back_migration(conn, PLACE.migration, "up", on_conflict="keep")
    conn.execute(dropped.encode())
    return left


CHANGES = {
    "t": ("UPDATE t SET a = 7, b = upper(b) WHERE id < 5", UNKEYED),
    "t deleted": ("DELETE FROM t WHERE id < 5", UNKEYED),
    "t in a block": ("UPDATE t SET a = 7", f"DO $$ BEGIN {UNKEYED}; END $$"),
    "t renamed": ("UPDATE t SET a = 7", UNKEYED, "ALTER TABLE t RENAME COLUMN id TO old_id"),
    "alone": ("UPDATE alone SET a = 7", "DROP INDEX alone_id"),
    "p": ("UPDATE p SET a = 7 WHERE id < 5", "ALTER TABLE p DROP CONSTRAINT p_key"),
}


@pytest.mark.first_case
@pytest.mark.every_version
@pytest.mark.parametrize("kind", sample(CHANGES, 3))
def test_rows_come_back_by_the_key_that_the_table_had(conn: Conn, kind: str) -> None:
    """However it lost it, and whatever the columns of the key are called by then."""
    table, (change, *drops) = kind.split()[0], CHANGES[kind]
    before = texts(conn, table)
    keeps = unkeyed(conn, table, *drops)
    captured(conn, change, keeps)
    assert texts(conn, table) != before
    assert not taken_back(conn, keeps)
    assert texts(conn, table) == before
    assert helper_index(conn, keeps[0]) is not None


@pytest.mark.first_case
@pytest.mark.every_version
@pytest.mark.parametrize("table", ["t", "p"])
def test_captured_values_follow_their_rows_and_go_to_no_other(conn: Conn, table: str) -> None:
    """Where another row comes to the key of a captured one, nobody can tell them apart any more: it is listed."""
    keeps = unkeyed(conn, table, f"ALTER TABLE {table} DROP CONSTRAINT {table}_key")
    captured(conn, f"UPDATE {table} SET a = 0", keeps)
    for other in ("INSERT INTO {} (id, n, a) VALUES (4, 0, 0)", "UPDATE {} SET id = 40 WHERE id = 4 AND ctid = ANY (SELECT max(ctid) FROM {} WHERE id = 4)", "UPDATE {} SET n = 1, id = 20 WHERE id = 2", "DELETE FROM {} WHERE id = 6"):  # fmt: skip # noqa: E501
        conn.execute(other.format(table, table).encode())
    left = taken_back(conn, keeps)
    assert {(one.way, one.key["id"]) for one in left.samples} == {("not to be told", "4"), ("deleted", "6")}
    rows = conn.execute(f"SELECT id, n, a FROM {table} ORDER BY id").fetchall()
    assert rows == [(1, 1, 1), (3, 1, 3), (4, 0, 0), (5, 1, 5), (20, 1, 2), (40, 0, 0)]


CANNOT = {
    "INSERT INTO t VALUES (9, 9)": "has no unique key that identifies its rows",
    "UPDATE t SET n = 1": 'has no unique key, and column "n" of its old one is changed',
}


@pytest.mark.parametrize("sql", CANNOT)
def test_what_the_old_key_cannot_tell_is_not_captured(conn: Conn, sql: str) -> None:
    """New rows, and rows that change their key, may come to the key of another row."""
    keeps = unkeyed(conn, "t", UNKEYED)
    with pytest.raises(Refused, match="cannot capture") as caught:
        captured(conn, sql, keeps)
    assert CANNOT[sql] in str(caught.value.detail)


@pytest.mark.parametrize("drop", ["ALTER TABLE t ALTER id DROP NOT NULL", "ALTER TABLE t DROP COLUMN id"])
def test_a_key_that_no_longer_tells_each_row_is_none(conn: Conn, drop: str) -> None:
    """Of columns that are gone, or may be NULL."""
    keeps = unkeyed(conn, "t", UNKEYED, drop)
    with pytest.raises(Refused, match="has no unique key that identifies its rows"):
        captured(conn, "UPDATE t SET a = 7", keeps)


@pytest.mark.parametrize("before", ["INSERT INTO t VALUES (1, 1)", "CREATE TRIGGER s BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION same()"])  # fmt: skip # noqa: E501
def test_rows_with_the_same_old_key_stop_the_statement(conn: Conn, before: str) -> None:
    """Those that somebody has inserted since, and those that a trigger makes."""
    keeps = unkeyed(conn, "t", UNKEYED)
    conn.execute(before.encode())
    with pytest.raises(psycopg.errors.UniqueViolation, match=r"rows of public\.t have the same id, n"):
        captured(conn, "UPDATE t SET a = 7", keeps)
