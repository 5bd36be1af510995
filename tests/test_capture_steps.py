"""What is executed around a statement keeps what it destroys; every way back of test_undo goes through it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest

import test_inverse
from budget import sample
from inverse_stage import Stage, is_told
from pgrunbook import undo_data
from pgrunbook.database import checksums, schema
from pgrunbook.database.schema_diff import diff
from pgrunbook.inverse.inverter import Inverter
from pgrunbook.plan.step import SafeStep
from pgrunbook.safe_forms.expander import Expander
from pgrunbook.undo_data import Site, StepKey
from servers import Server
from undo_data_stage import Conn, Way, as_written, database, do, give_back_migration, statement, texts

DESTROYS = re.compile("DROP (TABLE|COLUMN|TYPE|DOMAIN|EXTENSION)|ALTER COLUMN .* TYPE")
BACK = [line for line in test_inverse.BACK if DESTROYS.search(line)]
CASES = [line for line in test_inverse.CASES if DESTROYS.search(line)]


def there_and_back(stage: Stage, line: str, batch_rows: int) -> None:
    """Execute a statement with what is kept around it and go its way back, in a transaction that is rolled back."""
    conn = stage.conn
    sql = test_inverse._for(stage, line.removeprefix("differs: "))
    with conn.transaction(force_rollback=True):
        before, rows = stage.before, checksums.checksums(conn)
        way = Way(conn, sql, batch_rows)
        if way.because or not way.keeps:
            assert way.because == way.undo.because or way.because.startswith("It cannot be undone, because ")
            assert way.expansion == as_written(sql)
            return
        with conn.transaction(force_rollback=True):
            conn.execute(sql.encode())
            plain, plain_rows = schema.snapshot(conn), checksums.checksums(conn)
        way.there()
        assert [d.line() for d in diff(plain, schema.snapshot(conn))] == []
        assert checksums.checksums(conn) == plain_rows
        way.back()
        assert checksums.checksums(conn) == rows
        assert [d.line() for d in diff(before, schema.snapshot(conn)) if not is_told(d, way.undo)] == []
        assert {kept.state for kept in undo_data.list_entries(conn)} == {"given back"}


@pytest.mark.first_case
@pytest.mark.parametrize("line", sample(BACK, 6))
def test_the_rarer_objects_are_kept_and_come_back(rare: Stage, line: str) -> None:
    """The schema behind it is that of the plain statement; schema and rows are what they were."""
    there_and_back(rare, line, 1_000)


@pytest.mark.first_case
@pytest.mark.parametrize("line", CASES)
def test_what_every_kind_of_statement_destroys_is_kept(shop: Stage, line: str) -> None:
    """The same for one statement of each kind."""
    there_and_back(shop, line, 1_000)


BASE = """
CREATE TABLE t (id integer PRIMARY KEY, a integer, b text);
INSERT INTO t SELECT i, i, 'b' || i FROM generate_series(1, 100) AS i;
CREATE TABLE whole (id integer PRIMARY KEY);
CREATE TABLE of_whole (id integer PRIMARY KEY, w integer REFERENCES whole ON DELETE SET NULL);
INSERT INTO whole VALUES (1);
CREATE TABLE part_of (t integer REFERENCES t ON DELETE CASCADE, n integer PRIMARY KEY);
INSERT INTO part_of SELECT i, i FROM generate_series(1, 20) AS i;
CREATE TABLE keyless (a integer);
"""


@pytest.fixture(scope="module")
def made(server: Server) -> Iterator[Conn]:
    """A database with the tables."""
    with database(server, "keeping_around", BASE) as conn:
        yield conn


@pytest.fixture
def conn(made: Conn) -> Iterator[Conn]:
    """A connection to the tables as new: all that is done is rolled back."""
    with made.transaction(force_rollback=True):
        yield made


@pytest.fixture
def own(server: Server) -> Iterator[Conn]:
    """A connection to a database of its own, which other sessions can use."""
    with database(server, "own_keeping_around", BASE) as conn:
        yield conn


HELD = """
SELECT DISTINCT 'public.' || c.relname
FROM pg_locks AS l
JOIN pg_class AS c ON c.oid = l.relation AND c.relnamespace = 'public'::regnamespace AND NOT c.relispartition
WHERE l.pid = pg_backend_pid() AND l.mode = 'ShareRowExclusiveLock'
"""
ROWS = [
    "UPDATE t SET a = 0 WHERE id > 10",
    "DELETE FROM t WHERE id < 15",
    "INSERT INTO t VALUES (777)",
    "WITH few AS (SELECT 3 AS n) UPDATE t SET a = n FROM few WHERE id < n",
]


@pytest.mark.first_case
@pytest.mark.parametrize("sql", ROWS)
def test_rows_are_kept_by_the_step_that_changes_them(conn: Conn, sql: str) -> None:
    """As it is written, in a transaction with others."""
    before = texts(conn, "t"), texts(conn, "part_of")
    way = Way(conn, sql)
    assert way.because == ""
    assert [{keep.kind for keep in step.keeps} for step in way.expansion.steps] == [{"rows"}]
    assert {keep.kept_as for keep in way.keeps} == {""}
    way.there()
    assert (texts(conn, "t"), texts(conn, "part_of")) != before
    give_back_migration(conn, way.site.migration, "up")
    assert (texts(conn, "t"), texts(conn, "part_of")) == before


# Nobody knows how long it takes.
LONG = "INSERT INTO t SELECT i FROM generate_series(777, 778) AS i"
FEW, SERIES = "INSERT INTO t SELECT id + 777 FROM t", "INSERT INTO t SELECT generate_series(777, 778)"


@pytest.mark.parametrize("sql", [*ROWS, "DELETE FROM whole WHERE id = 1", FEW, LONG, SERIES])
def test_the_tables_that_get_triggers_are_told(conn: Conn, sql: str) -> None:
    """Their writers wait until the transaction is over: the server shows these locks, and no others."""
    (step,) = Way(conn, sql).expansion.steps
    with conn.transaction(force_rollback=True):
        before = conn.execute(HELD).fetchall()
        place = StepKey("r", "m", "up", 1)
        conn.execute(undo_data.capture_statement(conn, sql, place, follows=step.follows).encode())
        taken = {*conn.execute(HELD).fetchall()} - {*before}
    assert {(name,) for name in step.follows} == taken
    assert bool(taken) == ("generate_series" not in sql and ("DELETE" not in sql or "whole" in sql))


def test_inserted_rows_that_no_trigger_follows_are_told(conn: Conn) -> None:
    """No writer waits for an INSERT of which nobody knows how long it takes; a row that is missing then is a line."""
    before = texts(conn, "t")
    way = Way(conn, LONG)
    assert "No trigger follows what it inserts into public.t: " in way.expansion.explains
    way.there()
    conn.execute("UPDATE t SET id = 779 WHERE id = 777")
    (entry,) = undo_data.list_entries(conn)
    assert [(one.key, one.way) for one in undo_data.conflicts(conn, entry).samples] == [
        ({"id": "777"}, "not to be told")
    ]
    given = give_back_migration(conn, way.site.migration, "up", on_conflict="keep")
    assert (given.rows, [one.key for one in given.left.samples]) == (1, [{"id": "777"}])
    conn.execute("DELETE FROM t WHERE id = 779")
    assert texts(conn, "t") == before


def test_rows_of_a_loop_are_kept_by_its_batches(conn: Conn) -> None:
    """The step is the loop of the safe form."""
    planner = Expander(conn, batch_rows=7)
    expansion = planner.expand(statement("UPDATE t SET a = 0"))
    undo = Inverter(conn).inverse(expansion.statement)
    found = undo_data.with_capture(conn, expansion, undo, Site("m", "s", "up", 1), rows_conn=None, batch_rows=7)
    begins, step, ends = found.expansion.steps
    assert step.batches is not None
    assert (begins.keeps, ends.keeps) == ((), ())
    assert {keep.table for keep in step.keeps} == {"public.t"}


CANNOT = {
    "TRUNCATE keyless": "all rows are copied; write DELETE instead, and keyless has no unique key",
    "DELETE FROM keyless": "public.keyless has no unique key",
    "MERGE INTO keyless AS k USING t ON t.id = k.a WHEN MATCHED THEN DELETE": "only an UPDATE, DELETE or INSERT shows "
    "which rows it changes, and keyless has no unique key",
    "COPY keyless FROM '/tmp/file'": "and keyless has no unique key",
}


@pytest.mark.parametrize("sql", CANNOT)
def test_rows_that_cannot_be_kept_say_why(conn: Conn, sql: str) -> None:
    """A sentence; the expansion is the one that was given."""
    way = Way(conn, sql)
    assert way.because.startswith("It cannot be undone, because ")
    assert CANNOT[sql].removeprefix("public.") in way.because.replace('"', "").replace("public.", "")
    assert way.expansion == as_written(sql)


def test_where_nothing_is_destroyed_nothing_is_put_around(conn: Conn) -> None:
    """The expansion is the one that was given; a way back that there is not keeps its reason."""
    way = Way(conn, "ALTER TABLE t ADD COLUMN c integer")
    assert (way.expansion, way.keeps, way.because) == (as_written(way.sql), (), "")
    way = Way(conn, "DO 'BEGIN END'")
    assert (way.expansion, way.because) == (as_written(way.sql), way.undo.because)


def test_a_form_of_several_steps_is_kept_around_the_one_that_destroys(conn: Conn) -> None:
    """What is written between its steps is kept, too; where none is known to destroy it, it says so."""
    sql = "ALTER TABLE t ADD CONSTRAINT short CHECK (length(b) < 50), DROP COLUMN a"
    before, rows = schema.snapshot(conn), checksums.checksums(conn)
    way = Way(conn, sql, 7)
    add, drop = ("ADD CONSTRAINT short CHECK (length(b) < 50) NOT VALID", "DROP COLUMN a")
    steps = tuple(SafeStep(f"ALTER TABLE t {told}", "") for told in (add, drop, "VALIDATE CONSTRAINT short"))
    form = replace(as_written(sql), form="x", steps=steps)
    found = undo_data.with_capture(conn, form, way.undo, way.site, rows_conn=None, batch_rows=7)
    assert [told in step.sql for step in found.expansion.steps for told in (add, drop)].count(True) == 2
    with conn.transaction(force_rollback=True):
        conn.execute(sql.encode())
        plain = schema.snapshot(conn)
    for number, step in enumerate(found.expansion.steps, 1):
        do(conn, step, way.site, number)
        if drop not in step.sql and number < len(found.expansion.steps) - 1:
            conn.execute("UPDATE t SET a = a + 1; UPDATE t SET a = a - 1")
    assert diff(plain, schema.snapshot(conn)) == []
    way.back()
    assert checksums.checksums(conn) == rows
    assert [d.line() for d in diff(before, schema.snapshot(conn)) if d.change != "moved"] == []
    unknown = replace(form, steps=steps[::2])
    found = undo_data.with_capture(conn, unknown, way.undo, way.site, rows_conn=None, batch_rows=7)
    assert found.because == "It cannot be undone, because none of its steps is known to destroy what would be captured."
    assert found.expansion == unknown


def test_what_a_small_table_loses_with_a_type_is_kept(conn: Conn) -> None:
    """Its change runs as it is written, with statements of ours before and behind it."""
    expansion = Expander(conn, batch_rows=1_000).expand(
        statement("ALTER TABLE t ALTER b TYPE varchar(1) USING left(b, 1)")
    )
    assert expansion.steps[-1].sql != expansion.statement.sql
    undo = Inverter(conn).inverse(expansion.statement)
    found = undo_data.with_capture(conn, expansion, undo, Site("m", "s", "up", 1), rows_conn=None, batch_rows=1_000)
    assert found.because == ""
    assert {(keep.table, keep.column) for step in found.expansion.steps for keep in step.keeps} == {("public.t", "b")}


def test_what_is_ours_is_left_out(conn: Conn) -> None:
    """Neither sums nor schemas tell of what is kept."""
    Way(conn, "DROP TABLE keyless").there()
    assert not [table for table in checksums.checksums(conn) if table.schema.startswith("pgrunbook")]
    told = "\n".join(f"{thing.kind} {thing.name}" for thing in schema.snapshot(conn).objects)
    assert "pgrunbook" not in told


def test_a_session_of_the_application_is_not_kept_waiting_by_a_lock_that_is_held_long(
    own: Conn, server: Server
) -> None:
    """While a large table is copied, others read and write it; only the steps that read no rows lock them out."""
    way = Way(own, "ALTER TABLE t DROP COLUMN a", 7)
    start, copy, drop = way.expansion.steps
    assert (start.quick, copy.quick, copy.batches is not None) == (True, False, True)
    assert [keep.kept_as for keep in start.keeps] == [way.keep.kept_as]
    assert (copy.keeps, drop.keeps) == ((), ())
    do(own, start, way.site, 1)
    with server.connect("own_keeping_around") as other, own.transaction():
        assert copy.batches is not None
        own.execute(copy.batches.statement.replace("pgrunbook_range", "true").encode())
        other.execute("SET lock_timeout = '50ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable), other.transaction():
            other.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        assert other.execute("SELECT count(*) FROM t").fetchone() == (100,)
        other.execute("INSERT INTO t VALUES (4711, 1)")
