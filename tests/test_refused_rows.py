"""Rows that the server refuses to revert together go back in turn, by two steps, or are told; all others go back."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from budget import sample
from pgrunbook.database.checksums import TableName
from pgrunbook.undo_data import StepKey, capture_statement, check_keys, entries_of_migration, list_entries, silenced
from pgrunbook.undo_data.revert_rows import revert
from servers import Server
from undo_data_stage import Conn, database, give_back_migration

BASE = """
CREATE TABLE parent (id integer PRIMARY KEY, code text NOT NULL UNIQUE);
CREATE TABLE child (id integer PRIMARY KEY, parent integer NOT NULL REFERENCES parent ON DELETE CASCADE);
CREATE TABLE grandchild (id integer PRIMARY KEY, child integer REFERENCES child ON DELETE CASCADE);
INSERT INTO parent SELECT i, 'c' || i FROM generate_series(1, 30) AS i;
INSERT INTO child SELECT i, i FROM generate_series(1, 30) AS i;
INSERT INTO grandchild SELECT i, i FROM generate_series(1, 30) AS i;
CREATE TABLE t (id integer PRIMARY KEY, words text NOT NULL UNIQUE, numbers smallint NOT NULL UNIQUE, ids uuid NOT NULL UNIQUE, dates date UNIQUE);
INSERT INTO t SELECT i, 'w' || i, i, md5(i::text)::uuid, '2026-01-01'::date + i FROM generate_series(1, 40) AS i;
CREATE TABLE late (id integer PRIMARY KEY, n integer UNIQUE DEFERRABLE, filler text DEFAULT repeat('x', 500));
INSERT INTO late SELECT i, i FROM generate_series(1, 200) AS i;
CREATE TABLE tree (id integer PRIMARY KEY, code text UNIQUE, up integer REFERENCES tree);
INSERT INTO tree SELECT i, 'c' || i, nullif(i / 2, 0) FROM generate_series(1, 31) AS i;
"""

# ruff: noqa: E501 - one statement on a line, whatever its length


@pytest.fixture
def conn(server: Server) -> Iterator[Conn]:
    """A connection to the tables as new."""
    with database(server, "refused", BASE) as made:
        yield made


def do(conn: Conn, statement: str) -> None:
    """Execute a statement so that it captures what it changes."""
    with conn.transaction():
        conn.execute(capture_statement(conn, statement, StepKey("run", "m", "up", 1)).encode())


def back(conn: Conn) -> list[tuple[str, str, str | None]]:
    """Revert it, keeping what others have; return the rows that are left: table, way, id."""
    left = give_back_migration(conn, "m", "up", on_conflict="keep").left
    return sorted((one.table.name, one.way, one.key["id"]) for one in left.samples)


@pytest.mark.first_case
def test_children_of_a_displaced_parent_are_left_and_told(conn: Conn) -> None:
    """A unique value of one parent is taken: it and what refers to it stay away, and all others come back."""
    before = conn.execute("SELECT * FROM grandchild WHERE id <> 7 ORDER BY id").fetchall()
    do(conn, "DELETE FROM parent WHERE id < 20")
    conn.execute("INSERT INTO parent VALUES (100, 'c7')")
    assert back(conn) == [("child", "displaced", "7"), ("grandchild", "displaced", "7"), ("parent", "displaced", "7")]
    assert conn.execute("SELECT * FROM grandchild ORDER BY id").fetchall() == before


def test_children_are_left_where_no_trigger_checks_them(conn: Conn) -> None:
    """While triggers are silent, no row comes back without what it refers to; an UPDATE is no other."""
    do(conn, "UPDATE child SET parent = 1 WHERE parent IN (25, 26)")
    do(conn, "DELETE FROM parent WHERE id < 20 AND id > 1")
    conn.execute("INSERT INTO parent VALUES (100, 'c7'); DELETE FROM parent WHERE id = 25")
    for entry in entries_of_migration(conn, "m", "up"):
        if entry.part_of is None:
            revert(conn, entry, on_conflict="keep", fires_triggers=False)
    check_keys(conn, [TableName("public", "child"), TableName("public", "grandchild")])
    assert conn.execute("SELECT id FROM child WHERE parent <> id").fetchall() == [(25,)]
    assert conn.execute("SELECT count(*) FROM grandchild").fetchall() == [(29,)]


UNWATCHED = {
    "PRIMARY KEY DEFERRABLE, up int": "INSERT INTO silent VALUES (1)",
    "UNIQUE DEFERRABLE INITIALLY DEFERRED, up int": "UPDATE silent SET id = 1",
    "PRIMARY KEY, up int REFERENCES silent ON DELETE CASCADE": "DELETE FROM silent WHERE id = 1",
    "PRIMARY KEY, up int REFERENCES silent ON UPDATE CASCADE": "UPDATE silent SET id = 9 WHERE id = 1",
}


@pytest.mark.parametrize("columns", UNWATCHED)
def test_what_no_trigger_watches_while_they_are_silent_is_found(conn: Conn, columns: str) -> None:
    """A deferrable key that is there twice, and a row that refers to one of its own table, which is gone."""
    conn.execute(f"CREATE TABLE silent (id int {columns}); INSERT INTO silent VALUES (1, NULL), (2, 1)".encode())
    here = [TableName("public", "silent")]
    check_keys(conn, here)
    with conn.transaction(force_rollback=True):
        with silenced(conn):
            conn.execute(UNWATCHED[columns].encode())
        with pytest.raises(psycopg.errors.IntegrityError, match="while rows came back"):
            check_keys(conn, here)
    conn.execute("DROP TABLE silent")


def test_a_row_whose_old_value_another_row_has_is_left_and_told(conn: Conn) -> None:
    """Unique value or parent: those of an UPDATE, too, and nothing else of its batch."""
    do(conn, "UPDATE parent SET code = 'new' || id")
    conn.execute("INSERT INTO parent VALUES (100, 'c7')")
    assert back(conn) == [("parent", "displaced", "7")]
    assert conn.execute("SELECT id FROM parent WHERE code <> 'c' || id").fetchall() == [(7,), (100,)]


def test_a_row_whose_parent_is_gone_is_left_and_told(conn: Conn) -> None:
    """The others get their parents back."""
    do(conn, "UPDATE child SET parent = 1 WHERE parent < 10")
    conn.execute("DELETE FROM parent WHERE id IN (5, 7)")
    assert back(conn) == [("child", "displaced", "5"), ("child", "displaced", "7")]
    assert conn.execute("SELECT id FROM child WHERE parent <> id ORDER BY id").fetchall() == [(5,), (7,)]


SWAPS = {
    "words": "'aside'", "numbers": "-1", "ids": "gen_random_uuid()", "dates": "NULL",
}  # fmt: skip


@pytest.mark.first_case
@pytest.mark.parametrize("column", sample([*SWAPS], 3))
def test_rows_that_have_each_others_values_go_back_by_two_steps(conn: Conn, column: str) -> None:
    """Two that were swapped, three in a ring, and a row in between whose value somebody else has taken."""
    before = dict(conn.execute(f"SELECT id, {column} FROM t".encode()).fetchall())
    turns = [(1, 2), (3, 4), (4, 5), (10, 11)]
    swaps = "".join(
        f"SELECT {column} INTO one FROM t WHERE id = {one}; SELECT {column} INTO other FROM t WHERE id = {other};"
        f"UPDATE t SET {column} = {SWAPS[column]} WHERE id = {one}; UPDATE t SET {column} = one WHERE id = {other};"
        f"UPDATE t SET {column} = other WHERE id = {one};"
        for one, other in turns
    )
    do(
        conn,
        f"LOCK TABLE t IN SHARE ROW EXCLUSIVE MODE;\nDO $$ DECLARE one t.{column}%TYPE; other t.{column}%TYPE; BEGIN {swaps} END $$",
    )
    changed = dict(conn.execute(f"SELECT id, {column} FROM t".encode()).fetchall())
    assert {id_ for id_ in before if before[id_] != changed[id_]} == {1, 2, 3, 4, 5, 10, 11}
    conn.execute("UPDATE t SET id = 1000 WHERE id = 20")
    assert back(conn) == []
    found = dict(conn.execute(f"SELECT id, {column} FROM t".encode()).fetchall())
    assert found == {1000 if id_ == 20 else id_: each for id_, each in before.items()}


def test_a_ring_with_a_value_that_somebody_has_taken_stays_as_it_is(conn: Conn) -> None:
    """No value that was set aside is left behind, and another ring goes back."""
    swap = "UPDATE parent SET code = '-' WHERE id = {0}; UPDATE parent SET code = 'c{0}' WHERE id = {1}; UPDATE parent SET code = 'c{1}' WHERE id = {0};"
    do(
        conn,
        f"LOCK TABLE parent IN SHARE ROW EXCLUSIVE MODE;\nDO $$ BEGIN {swap.format(1, 2)} {swap.format(3, 4)} UPDATE parent SET code = 'new' WHERE id = 5; UPDATE parent SET code = 'c5' WHERE id = 6; END $$",
    )
    conn.execute("INSERT INTO parent VALUES (100, 'c6')")
    assert back(conn) == [("parent", "displaced", "5"), ("parent", "displaced", "6")]
    assert conn.execute("SELECT id, code FROM parent WHERE code <> 'c' || id ORDER BY id").fetchall() == [
        (5, "new"),
        (6, "c5"),
        (100, "c6"),
    ]


def test_keys_that_are_checked_at_the_end_may_be_swapped_across_batches(conn: Conn) -> None:
    """The rows of the next batch have the values that those of this one need."""
    do(conn, "UPDATE late SET n = 201 - n")
    (entry,) = entries_of_migration(conn, "m", "up")
    assert revert(conn, entry, on_conflict="keep", rows=20).left.rows == 0
    assert conn.execute("SELECT count(*) FROM late WHERE n = id").fetchall() == [(200,)]


def test_rows_below_a_displaced_one_of_their_own_table_are_left(conn: Conn) -> None:
    """Rows that refer to each other: what hangs on the displaced one stays away, the rest comes back."""
    do(conn, "DELETE FROM tree WHERE id > 1")
    conn.execute("INSERT INTO tree VALUES (100, 'c3', NULL)")
    below = {3, 6, 7, 12, 13, 14, 15, *range(24, 32)}
    assert {int(str(id_)) for _, _, id_ in back(conn)} == below
    assert {int(str(id_)) for (id_,) in conn.execute("SELECT id FROM tree")} == {*range(1, 32), 100} - below


def test_a_refused_row_is_an_error_where_nobody_has_decided(conn: Conn) -> None:
    """Nothing of its batch is reverted, with the server's own error; what goes by two steps goes."""
    do(conn, "UPDATE parent SET code = 'new' || id WHERE id < 10")
    conn.execute("INSERT INTO parent VALUES (100, 'c7')")
    before = conn.execute("SELECT * FROM parent ORDER BY id").fetchall()
    (entry,) = list_entries(conn)
    with pytest.raises(psycopg.errors.UniqueViolation):
        revert(conn, entry, on_conflict="keep", leaves_refused=False)
    assert conn.execute("SELECT * FROM parent ORDER BY id").fetchall() == before
    conn.execute("DELETE FROM parent WHERE id = 100")
    assert revert(conn, entry, on_conflict="keep", leaves_refused=False).rows == 9
