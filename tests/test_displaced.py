"""What the server would refuse to take back is told before anything is changed: the same rows as it then leaves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pgrunbook.undo_data import StepKey, capture_statement, conflicts, list_entries
from servers import Server
from undo_data_stage import Conn, database, give_back_migration

# ruff: noqa: E501 - one statement on a line, whatever its length

BASE = """
CREATE TABLE parent (id integer PRIMARY KEY, code text UNIQUE);
INSERT INTO parent SELECT i, 'c' || i FROM generate_series(1, 9) AS i;
CREATE TABLE t (id integer PRIMARY KEY, u text, a integer, b integer, r int4range, kind text, parent integer REFERENCES parent);
INSERT INTO t SELECT i, 'u' || i, i, i, int4range(i * 10, i * 10 + 5), 'k', i FROM generate_series(1, 9) AS i;
CREATE TABLE child (id integer PRIMARY KEY, parent integer NOT NULL REFERENCES parent ON DELETE CASCADE, tag text UNIQUE);
INSERT INTO child SELECT i, i, 'g' || i FROM generate_series(1, 9) AS i;
CREATE TABLE p (id integer, u text, PRIMARY KEY (id), UNIQUE (id, u)) PARTITION BY RANGE (id);
CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (100);
INSERT INTO p SELECT i, 'u' || i FROM generate_series(1, 9) AS i;
"""
UNIQUE = "CREATE UNIQUE INDEX ON t (u)"
UPDATE, DELETE = "UPDATE t SET u = 'new' || id WHERE id < 4", "DELETE FROM t WHERE id < 4"
DEFERRED = "ALTER TABLE t ALTER CONSTRAINT t_parent_fkey DEFERRABLE INITIALLY DEFERRED"
UNCHECKED = "UPDATE t SET a = 99 WHERE id = 2; ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES parent NOT VALID"
TRIGGER = (
    "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
    "CREATE TRIGGER g BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f()"
)
OWN = "ALTER TABLE t ADD UNIQUE (a); UPDATE t SET b = greatest(id - 1, 1); ALTER TABLE t ADD FOREIGN KEY (b) REFERENCES t (a)"
# What is unique, what the step does, what somebody writes then, and the keys of the rows that cannot be as before.
CASES = {
    "a value that is taken": (UNIQUE, UPDATE, "INSERT INTO t VALUES (20, 'u2')", ["2"]),
    "a value that another row has got": (UNIQUE, UPDATE, "UPDATE t SET u = 'u2' WHERE id = 9", ["2"]),
    "a value that is free again": (UNIQUE, UPDATE, "INSERT INTO t VALUES (20, 'u2'); DELETE FROM t WHERE id = 20", []),
    "values that go back together": (UNIQUE, "UPDATE t SET u = 'u' || (id % 3 + 11) WHERE id < 4; UPDATE t SET u = 'u' || (id % 3 + 1) WHERE id < 4", "SELECT", []),
    "a value of a row that somebody has changed": (UNIQUE, UPDATE, "UPDATE t SET u = 'u2' WHERE id = 1", ["1", "2"]),
    "a value that only looks alike": ("CREATE UNIQUE INDEX ON t (lower(u))", UPDATE, "INSERT INTO t VALUES (20, 'U2')", ["2"]),
    "a value beside a predicate": ("CREATE UNIQUE INDEX ON t (u) WHERE kind = 'k'", UPDATE, "INSERT INTO t (id, u, kind) VALUES (20, 'u2', 'other'), (21, 'u3', 'k')", ["3"]),
    "two columns": ("CREATE UNIQUE INDEX ON t (a, b)", "UPDATE t SET a = 0 WHERE id < 4", "INSERT INTO t (id, a, b) VALUES (20, 2, 9), (21, 3, 3)", ["3"]),
    "an empty value": (UNIQUE, "UPDATE t SET u = NULL WHERE id = 1; UPDATE t SET u = 'x' WHERE id = 1", "INSERT INTO t (id, u) VALUES (20, NULL)", []),
    "a range": ("ALTER TABLE t ADD EXCLUDE USING gist (r WITH &&)", "UPDATE t SET r = 'empty' WHERE id < 4", "INSERT INTO t (id, r) VALUES (20, '[24,26)')", ["2"]),
    "a deferrable constraint": ("ALTER TABLE t ADD UNIQUE (u) DEFERRABLE", UPDATE, "INSERT INTO t VALUES (20, 'u2')", ["2"]),
    "a partitioned table": ("SELECT", "UPDATE p SET id = id + 20 WHERE id < 4", "INSERT INTO p VALUES (2, 'x')", ["22"]),
    "a deleted row whose value is taken": (UNIQUE, DELETE, "INSERT INTO t VALUES (20, 'u2')", ["2"]),
    "a deleted row whose parent is gone": ("SELECT", DELETE, "DELETE FROM child WHERE parent = 2; DELETE FROM parent WHERE id = 2", ["2"]),
    "a row whose parent is gone": ("SELECT", "UPDATE t SET parent = 9 WHERE id < 4", "DELETE FROM parent WHERE id = 2", ["2"]),
    "children whose parents come back": ("UPDATE t SET parent = NULL", "DELETE FROM parent WHERE id < 4", "SELECT", []),
    "a child whose value is taken": ("UPDATE t SET parent = NULL", "DELETE FROM parent WHERE id < 4", "INSERT INTO child VALUES (20, 9, 'g2')", ["2"]),
    "a parent whose value is taken": ("UPDATE t SET parent = NULL", "DELETE FROM parent WHERE id < 4", "INSERT INTO parent VALUES (20, 'c2')", ["2"]),
    "a row whose parent is gone behind a key that waits": (DEFERRED, "UPDATE t SET parent = 9 WHERE id < 4", "DELETE FROM parent WHERE id = 2", ["2"]),
    "a deleted row whose parent is gone behind a key that waits": (DEFERRED, DELETE, "DELETE FROM child WHERE parent = 2; DELETE FROM parent WHERE id = 2", ["2"]),
    "a row whose parent was not there behind a key that is not valid": (UNCHECKED, "UPDATE t SET a = 9, b = 9 WHERE id < 4", "SELECT", ["2"]),
    "another column behind a key that is not valid": (UNCHECKED, "UPDATE t SET u = u || 'x' WHERE id < 4", "SELECT", []),
    "all columns behind a key that is not valid": (f"{UNCHECKED}; {TRIGGER}", "UPDATE t SET u = u || 'x' WHERE id < 4", "SELECT", []),
    "a deleted row behind a key that is not valid": (UNCHECKED, DELETE, "SELECT", ["2"]),
    "a row of its own table": (OWN, "UPDATE t SET b = 9 WHERE id = 4; UPDATE t SET b = 9 WHERE id = 3", "DELETE FROM t WHERE id = 2", ["3"]),
    "deleted rows of its own table": (OWN, "DELETE FROM t WHERE id > 5", "SELECT", []),
    "a deleted row whose parent in its own table is gone": (OWN, "DELETE FROM t WHERE id = 9", "DELETE FROM t WHERE id = 8", ["9"]),
    "deleted rows of its own table behind a key that waits": (f"{OWN} DEFERRABLE INITIALLY DEFERRED", "DELETE FROM t WHERE id > 5", "UPDATE t SET a = 55, b = 1 WHERE id = 5; INSERT INTO t (id, a, b) VALUES (20, 7, 1)", ["6", "7"]),
    "a parent in its own table that got another key": (OWN, "UPDATE t SET b = 9 WHERE id = 3", "UPDATE t SET a = 22 WHERE id = 2", ["3"]),
    "rows of one statement that are captured as a whole": (UNIQUE, "LOCK TABLE t IN SHARE ROW EXCLUSIVE MODE;\nMERGE INTO t USING (VALUES (1), (2)) AS s (id) ON s.id = t.id WHEN MATCHED AND t.id = 1 THEN DELETE WHEN MATCHED THEN UPDATE SET u = 'u1'", "SELECT", []),
}  # fmt: skip


@pytest.fixture
def own(server: Server) -> Iterator[Conn]:
    """A connection to the tables."""
    with database(server, "own_displaced", BASE) as conn:
        yield conn


@pytest.mark.first_case
@pytest.mark.parametrize("case", CASES)
def test_rows_that_cannot_be_as_before_are_told_before(own: Conn, case: str) -> None:
    """Where somebody chooses to leave them, exactly these are left."""
    unique, does, writes, told = CASES[case]
    if "MERGE" in does and own.info.server_version < 150_000:
        pytest.skip("PostgreSQL 14 does not know it")
    own.execute(unique.encode())
    for step, statement in enumerate(does.split("; "), 1):
        with own.transaction():
            own.execute(capture_statement(own, statement, StepKey("r", "m", "up", step)).encode())
    for write in writes.split("; "):
        own.execute(write.encode())
    entries = [one for one in list_entries(own) if one.part_of is None]
    before = [row for one in entries for row in conflicts(own, one).samples]
    assert sorted({row.key["id"] for row in before}) == told
    left = give_back_migration(own, "m", "up", on_conflict="keep").left
    assert {row.key["id"] for row in left.samples} == {*told}
    if told:
        assert "displaced" in {row.way for row in before}
