"""Deleted rows of tables that refer to each other in a circle come back in the order in which they need others."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from budget import sample
from pgrunbook import undo_data
from servers import Server
from undo_data_stage import Conn, Way, database, give_back_migration, texts

MADE = """
CREATE TABLE a (id integer PRIMARY KEY, b integer, a integer);
CREATE TABLE b (id integer PRIMARY KEY, a integer, FOREIGN KEY (a) REFERENCES a ON DELETE CASCADE {how});
CREATE TABLE c (id integer PRIMARY KEY, b integer REFERENCES b ON DELETE CASCADE);
INSERT INTO a VALUES (1), (2), (3);
INSERT INTO b VALUES (1, 1), (2, 2);
INSERT INTO a VALUES (4, 1, 4), (5, 2, NULL), (6, 1, 5);
INSERT INTO b VALUES (3, 4), (4, 6), (5, 3);
INSERT INTO c VALUES (1, 3), (2, 2);
ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b ON DELETE CASCADE {how}, ADD FOREIGN KEY (a) REFERENCES a ON DELETE CASCADE {how};
"""  # noqa: E501
# Rows that need each other.
EACH_OTHER = "UPDATE a SET b = 3 WHERE id = 5; INSERT INTO a VALUES (9, 3); UPDATE b SET a = 9 WHERE id = 3"
NEED_EACH_OTHER = (
    {("a", "displaced", id_) for id_ in "569"} | {("b", "displaced", id_) for id_ in "34"} | {("c", "displaced", "1")}
)
TRIGGER = """
CREATE FUNCTION seen() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER seen BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION seen()
"""
TAKES_AWAY = """
CREATE FUNCTION taken() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN DELETE FROM a WHERE id = NEW.id; RETURN NULL; END';
CREATE TRIGGER taken AFTER INSERT ON a FOR EACH ROW WHEN (NEW.id = 4) EXECUTE FUNCTION taken()
"""
KINDS = [
    (how, rows)
    for how in ("", "DEFERRABLE", "DEFERRABLE INITIALLY DEFERRED")
    for rows in ("SELECT 1", EACH_OTHER, f"{EACH_OTHER}; {TRIGGER}")
    if how or TRIGGER not in rows
]


@pytest.fixture
def conn(server: Server) -> Iterator[Conn]:
    """A connection to a database in which nothing is made yet."""
    with database(server, "circles", "SELECT 1") as conn:
        yield conn


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.every_version
@pytest.mark.parametrize(("how", "more"), sample(KINDS, 4))
def test_rows_of_a_circle_come_back(conn: Conn, how: str, more: str) -> None:
    """Of chains through all tables, and of rows that need each other, whenever the keys are checked."""
    conn.execute(f"{MADE.format(how=how)}; {more}".encode())
    before = [texts(conn, table) for table in "abc"]
    way = Way(conn, "DELETE FROM a WHERE id IN (1, 9)")
    assert way.because == ""
    way.there()
    assert [len(texts(conn, table)) for table in "abc"] < [len(each) for each in before]
    result = give_back_migration(conn, way.site.migration, "up")
    assert [texts(conn, table) for table in "abc"] == before
    assert not result.left


@pytest.mark.slow
@pytest.mark.newest
def test_rows_that_need_each_other_behind_a_trigger_are_told(conn: Conn) -> None:
    """Where triggers have to fire and keys cannot be deferred, nothing inserts them: they are listed, or stop it."""
    conn.execute(f"{MADE.format(how='')}; {EACH_OTHER}; {TRIGGER}".encode())
    way = Way(conn, "DELETE FROM a WHERE id IN (1, 9)")
    way.there()
    kept = undo_data.entries_of_migration(conn, way.site.migration, "up")
    with pytest.raises(psycopg.errors.ForeignKeyViolation), conn.transaction():
        sum(undo_data.revert(conn, one, leaves_refused=False).rows for one in kept)
    left = [undo_data.revert(conn, one, on_conflict="keep").left for one in kept]
    assert {(one.table.name, one.way, one.key["id"]) for some in left for one in some.samples} == NEED_EACH_OTHER
    assert texts(conn, "a") == ["(1,,)", "(2,,)", "(3,,)", "(4,1,4)"]


@pytest.mark.slow
@pytest.mark.newest
def test_a_trigger_that_takes_rows_away_again_does_not_keep_the_revert_going(conn: Conn) -> None:
    """Each round would insert them anew: they are told as rows that are not there, and the others are back."""
    conn.execute(f"{MADE.format(how='DEFERRABLE')}; {TAKES_AWAY}".encode())
    way = Way(conn, "DELETE FROM a WHERE id = 1")
    way.there()
    result = give_back_migration(conn, way.site.migration, "up")
    assert texts(conn, "a") == ["(1,,)", "(2,,)", "(3,,)", "(5,2,)", "(6,1,5)"]
    assert {(one.table.name, one.key["id"]) for one in result.left.samples} == {("a", "4"), ("b", "3"), ("c", "1")}
