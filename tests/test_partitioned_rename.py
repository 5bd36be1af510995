"""Both names of a column of a partitioned table live in all of its partitions, each with its indexes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pgrunbook.database import shadows
from pgrunbook.database.connection import Connection
from pgrunbook.database.schema import snapshot
from pgrunbook.database.schema_diff import diff
from pgrunbook.draft.expected_differences import is_declared
from pgrunbook.safe_forms import rename_column
from safe_forms_stage import Stage, Watch, end, perform, plan, undo
from test_rename_column import APART, RENAME, Writers, back

MADE = """
CREATE TABLE n (id integer, was text NOT NULL, other integer, PRIMARY KEY (id, was)) PARTITION BY RANGE (id);
CREATE TABLE n1 PARTITION OF n FOR VALUES FROM (0) TO (50);
CREATE TABLE n2 (other integer, gone integer, was text NOT NULL, id integer NOT NULL);
ALTER TABLE n2 DROP gone;
ALTER TABLE n ATTACH PARTITION n2 FOR VALUES FROM (50) TO (100);
CREATE TABLE n3 PARTITION OF n DEFAULT PARTITION BY HASH (id);
CREATE TABLE n3a PARTITION OF n3 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE n3b PARTITION OF n3 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE INDEX plain ON n (was); CREATE INDEX ON n (other) INCLUDE (was);
CREATE UNIQUE INDEX lowered ON n (lower(was), id);
CREATE INDEX own ON n2 (other) WHERE was <> ''; CREATE UNIQUE INDEX own_key ON n3 (was, id);
GRANT SELECT (was) ON n TO PUBLIC;
INSERT INTO n SELECT i, 'w' || i, i FROM generate_series(1, 160) AS i;
"""


@contextmanager
def plainly(stage: Stage) -> Iterator[Connection]:
    """Give a database in which the rename ran as it is written."""
    with stage.server.copied("plain", "stage_template"), stage.server.connect("plain") as plain:
        plain.execute(MADE)
        plain.execute(RENAME)
        yield plain


@pytest.mark.slow
@pytest.mark.newest
def test_the_end_is_that_of_the_plain_sql_but_for_what_is_declared(stage: Stage) -> None:
    """Indexes by the old name in each partition, attached; quick steps read no rows, and the way back leads back."""
    stage.conn.execute(MADE)
    before, watch = end(stage.conn)[0], Watch()
    (found,) = plan(stage.conn, RENAME, batch_rows=30)
    assert found.form == rename_column.FORM, found.gate and found.gate.says
    perform(stage.conn, [found], watch=watch)
    with plainly(stage) as plain:
        differ = diff(snapshot(plain), end(stage.conn)[0])
    assert [d.line() for d in differ if not is_declared(d, found.differs)] == []
    assert {d.name for d in differ} == {one.name for one in shadows.objects(stage.conn, shadows.read(stage.conn))}
    assert stage.conn.execute("SELECT FROM pg_index WHERE NOT indisvalid").fetchall() == []
    assert (watch.rows_read_quickly(), watch.rewritten) == (0, [])
    stage.conn.execute(
        "SET enable_seqscan = off; UPDATE n SET id = 60 WHERE id = 1; UPDATE n SET becomes = 'x' WHERE id = 2"
    )
    assert "Index" in str(stage.conn.execute("EXPLAIN SELECT FROM n WHERE was = 'w5'").fetchall())
    assert stage.conn.execute("SELECT count(*) FROM n WHERE was IS DISTINCT FROM becomes").fetchone() == (0,)
    back(stage)
    assert diff(before, end(stage.conn)[0]) == []
    assert stage.conn.execute("SELECT was FROM n2 WHERE id = 60 AND other = 1").fetchall() == [("w1",)]


@pytest.mark.slow
def test_an_abandoned_rename_leaves_nothing(stage: Stage) -> None:
    """Stopped before some of its steps, what it has made is taken away, and the rename begins anew."""
    stage.conn.execute(MADE)
    before = end(stage.conn)
    (found,) = plan(stage.conn, RENAME, batch_rows=30)
    for stop in found.steps[::-3]:
        perform(stage.conn, [found], until=lambda step, stop=stop: step is stop)
        undo(stage.conn, [found])
        stage.conn.execute("DROP SCHEMA performed CASCADE; DELETE FROM pgrunbook.batch")
        assert end(stage.conn) == before
    perform(stage.conn, [found])
    assert stage.conn.execute("SELECT was, becomes FROM n WHERE id = 5").fetchall() == [("w5", "w5")]


@pytest.mark.slow
def test_writers_of_both_versions_lose_nothing_there_and_back(stage: Stage) -> None:
    """Old code writes throughout, new code from the cut-over on, and keys that move rows; the twin differs in none."""
    conn = stage.conn
    for table, column in (("n", "was"), ("same", "value")):
        conn.execute(f"""
            CREATE TABLE {table} (id integer PRIMARY KEY, {column} text, other integer) PARTITION BY RANGE (id);
            CREATE TABLE {table}0 PARTITION OF {table} FOR VALUES FROM (MINVALUE) TO (30);
            CREATE TABLE {table}1 PARTITION OF {table} FOR VALUES FROM (30) TO (200);
            CREATE TABLE {table}2 PARTITION OF {table} DEFAULT;
            CREATE INDEX ON {table} ({column});
            INSERT INTO {table} SELECT i, 'w' || i, i FROM generate_series(1, 2000) AS i WHERE i < 60 OR i > 600
        """)
    writers = Writers(stage)
    writers.start("was")
    try:
        writers.go_on("was")
        (found,) = plan(conn, RENAME, batch_rows=50)
        perform(conn, [found], until=lambda _: bool(writers.go_on("was", 5)))
        writers.start("becomes")
        writers.go_on("becomes", 100)
        writers.go_on("was", 100)
        with conn.transaction():
            conn.execute("LOCK TABLE n, same IN SHARE MODE")
            for column in ("was", "becomes"):
                assert conn.execute(APART.format(column)).fetchone() == (0,)
        writers.end("becomes")
        back(stage)
        writers.go_on("was", 50)
    finally:
        for name in writers._threads:
            writers.end(name)
    assert writers.errors == []
    assert conn.execute(APART.format("was")).fetchone() == (0,)
