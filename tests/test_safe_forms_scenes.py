"""Safe forms beside a busy session, on rows that do not fit, and after they were killed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest

import safe_forms_stage
from budget import sample
from pgrunbook.database.schema_diff import diff
from pgrunbook.plan.step import Expansion
from safe_forms_stage import LETS_OTHERS_WRITE, Conn, Stage, end, perform, plan, undo, wait_until

# ruff: noqa: E501 - one statement on a line, whatever its length


# A table, a statement on it that runs alone, and what another session does meanwhile.
ALONE = [
    ("t", "CREATE INDEX waited ON t (a)", "UPDATE t SET c = c WHERE id = 2; SELECT * FROM t"),
    ("t", "ALTER TABLE t ADD UNIQUE (a)", "UPDATE t SET c = c WHERE id = 2; SELECT * FROM t"),
    ("t", "DROP INDEX t_b", "UPDATE t SET c = c WHERE id = 2; SELECT * FROM t"),
    ("t", "REINDEX INDEX t_b", "UPDATE t SET c = c WHERE id = 2; SELECT * FROM t"),
    ("p", "CREATE INDEX ON p (v)", "UPDATE p_2025 SET v = v WHERE id = 2; SELECT * FROM p"),
    ("p", "ALTER TABLE p DETACH PARTITION p_2025", "INSERT INTO p VALUES (1, '2026-01-01', 1, 'x'); SELECT * FROM p"),
]
HELD = """
SELECT l.mode
FROM pg_locks AS l
JOIN pg_class AS c ON c.oid = l.relation
WHERE l.pid = %s AND c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace AND l.granted
"""

BAD = [
    ("INSERT INTO t (id, a) VALUES (999, 1)", "ALTER TABLE t ADD UNIQUE (a)", psycopg.errors.UniqueViolation),
    ("INSERT INTO t (id, a) VALUES (999, 1)", "CREATE UNIQUE INDEX ON t (a)", psycopg.errors.UniqueViolation),
    ("INSERT INTO keyless VALUES (1, 'x')", "ALTER TABLE keyless ADD PRIMARY KEY (a)", psycopg.errors.UniqueViolation),
    ("INSERT INTO keyless VALUES (NULL, 'x')", "ALTER TABLE keyless ADD PRIMARY KEY (a)", psycopg.Error),
    ("UPDATE t SET a = -1 WHERE id = 7", "ALTER TABLE t ADD CHECK (a > 0)", psycopg.errors.CheckViolation),
    ("UPDATE t SET c = 999 WHERE id = 7", "ALTER TABLE t ADD FOREIGN KEY (c) REFERENCES u", psycopg.errors.ForeignKeyViolation),
    ("UPDATE p SET v = 999 WHERE id = 7", "ALTER TABLE p ADD FOREIGN KEY (v) REFERENCES u", psycopg.errors.ForeignKeyViolation),
    ("UPDATE t SET a = NULL WHERE id = 7", "ALTER TABLE t ALTER a SET NOT NULL", psycopg.Error),
    ("UPDATE p SET v = NULL WHERE id = 7", "ALTER TABLE p ALTER v SET NOT NULL", psycopg.Error),
    ("INSERT INTO p SELECT * FROM p WHERE id = 9", "ALTER TABLE p ADD UNIQUE (id, at, w)", psycopg.errors.UniqueViolation),
    ("INSERT INTO p SELECT * FROM p WHERE id = 90", "CREATE UNIQUE INDEX ON p (id, at, w)", psycopg.errors.UniqueViolation),
    ("INSERT INTO p_2027 VALUES (1, '2020-01-01')", "ALTER TABLE p ATTACH PARTITION p_2027 FOR VALUES FROM ('2027-01-01') TO (MAXVALUE)", psycopg.errors.CheckViolation),
    ("INSERT INTO q VALUES (1, 'a')", "ALTER TABLE q ATTACH PARTITION q_a FOR VALUES IN ('a')", psycopg.errors.CheckViolation),
    ("INSERT INTO d VALUES (8, 'b')", "CREATE TABLE d_7 PARTITION OF d FOR VALUES FROM (7, 'a') TO (9, 'a')", psycopg.errors.CheckViolation),
    ("UPDATE t SET a = -1 WHERE id = 7", "ALTER TABLE t ADD COLUMN r float NOT NULL DEFAULT random() CHECK (a > 0)", psycopg.errors.CheckViolation),
]  # fmt: skip

LONG = [
    "CREATE INDEX ON p (v)",
    "ALTER TABLE p ADD PRIMARY KEY (id, at, w)",
    "ALTER TABLE p ADD FOREIGN KEY (v) REFERENCES u",
    "ALTER TABLE t ALTER a SET NOT NULL, DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (a), ADD CHECK (c > 0)",
    "ALTER TABLE t ADD COLUMN r float NOT NULL DEFAULT random() * 0, ADD COLUMN i int GENERATED ALWAYS AS IDENTITY",
    "ALTER TABLE q ATTACH PARTITION q_a FOR VALUES IN ('a')",
    "CREATE TABLE d_7 PARTITION OF d FOR VALUES FROM (7, 'a') TO (9, 'a')",
    "ALTER TABLE p DETACH PARTITION p_2025",
    "UPDATE t SET c = c + 1; DELETE FROM keyless WHERE a > 5; REFRESH MATERIALIZED VIEW mv; REINDEX TABLE t",
]


@pytest.mark.parametrize(("table", "migration", "work"), sample(ALONE, 3))
def test_step_that_waits_makes_nobody_wait(stage: Stage, table: str, migration: str, work: str) -> None:
    """While it waits for a transaction to end, its locks let others read and write, and they do."""
    expansions = plan(stage.conn, migration)
    pid = stage.conn.info.backend_pid
    with _blocked(stage, table) as (free, other), _running(lambda: perform(stage.conn, expansions)):
        wait_until(lambda: _waits(other, pid))
        assert {row[0] for row in other.execute(HELD, [pid])} <= LETS_OTHERS_WRITE
        other.execute(work)
        free()
    assert all(expansion.form for expansion in expansions)


@pytest.mark.first_case
@pytest.mark.parametrize(("before", "migration", "error"), sample(BAD, 3))
def test_rows_that_do_not_fit_leave_the_table_as_it_was(
    stage: Stage, before: str, migration: str, error: type[psycopg.Error]
) -> None:
    """The failure is PostgreSQL's own; after undo no helper and no half made object is there."""
    conn = stage.conn
    conn.execute(before)
    as_it_was = end(conn)
    expansions = plan(conn, migration, batch_rows=15)
    assert expansions[0].form
    with pytest.raises(error):
        perform(conn, expansions)
    undo(conn, expansions)
    schema_now, data_now = end(conn)
    assert [difference.line() for difference in diff(as_it_was[0], schema_now)] == []
    assert as_it_was[1] == data_now


@pytest.mark.slow
@pytest.mark.parametrize("migration", sample(LONG, 3))
def test_sequence_can_be_cut_off_behind_every_step(stage: Stage, migration: str) -> None:
    """Stopped before each step in turn and started again, it comes to the same end, each step done once."""
    conn = stage.conn
    with conn.transaction(force_rollback=True):
        conn.execute(migration)
        wanted = end(conn)
    expansions = plan(conn, migration, batch_rows=15)
    for step in [step for expansion in expansions for step in expansion.steps]:
        perform(conn, expansions, until=lambda other, stop=step: other is stop)  # type: ignore[misc]
    perform(conn, expansions)
    schema_now, data_now = end(conn)
    lines = [difference.line() for difference in diff(wanted[0], schema_now)]
    assert [line for line in lines if "(LOCAL)" not in line] == []
    assert [(name, rows) for name, rows in wanted[1].items() if data_now[name].rows != rows.rows] == []


@pytest.mark.slow
@pytest.mark.parametrize("migration", sample(LONG, 3))
def test_abandoned_sequence_leaves_nothing_but_data(stage: Stage, migration: str) -> None:
    """Whichever step it was stopped before, undo takes everything away that the steps before it have made."""
    steps = [step for expansion in plan(stage.conn, migration, batch_rows=15) for step in expansion.steps]
    last_quick = next((n for n in range(len(steps)) if "DROP CONSTRAINT" in steps[n].sql), len(steps))
    for number in range(1, min(len(steps), last_quick, 4) if "DETACH" not in migration else 0):
        conn = stage.conn
        conn.execute(
            "DROP SCHEMA IF EXISTS public, app, performed, pgrunbook CASCADE; CREATE SCHEMA public"
            if number > 1
            else "SELECT"
        )
        if number > 1:
            conn.execute(";\n".join(safe_forms_stage.BASE))
        as_it_was, _ = end(conn)
        expansions = plan(conn, migration, batch_rows=15)
        stop = [step for expansion in expansions for step in expansion.steps][number]
        perform(conn, expansions, until=lambda step, stop=stop: step is stop)  # type: ignore[misc]
        undo(conn, expansions)
        assert [difference.line() for difference in diff(as_it_was, end(conn)[0])] == [], stop


@pytest.mark.parametrize(("table", "migration"), sample([(table, migration) for table, migration, _ in ALONE], 3))
def test_killed_step_is_done_when_run_again(stage: Stage, table: str, migration: str) -> None:
    """Its session is ended while it waits; the same plan on a new session comes to the same end."""
    with stage.conn.transaction(force_rollback=True):
        stage.conn.execute(migration)
        wanted, _ = end(stage.conn)
    victim = stage.session()
    victim.execute("SET lock_timeout = 0")
    expansions = plan(victim, migration)
    with _blocked(stage, table) as (free, other), _running(lambda: perform(victim, expansions), psycopg.Error):
        wait_until(lambda: _waits(other, victim.info.backend_pid))
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [victim.info.backend_pid])
        free()
    perform(stage.conn, expansions)
    assert [difference.line() for difference in diff(wanted, end(stage.conn)[0])] == []


@pytest.mark.first_case
@pytest.mark.parametrize(
    ("table", "migration"), [(table, migration) for table, migration, _ in ALONE if "DETACH" not in migration]
)
def test_killed_step_can_be_undone(stage: Stage, table: str, migration: str) -> None:
    """Its session is ended while it waits; undo leaves no invalid index."""
    before, _ = end(stage.conn)
    victim = stage.session()
    victim.execute("SET lock_timeout = 0")
    expansions: list[Expansion] = plan(victim, migration)
    with _blocked(stage, table) as (free, other), _running(lambda: perform(victim, expansions), psycopg.Error):
        wait_until(lambda: _waits(other, victim.info.backend_pid))
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [victim.info.backend_pid])
        free()
    undo(stage.conn, expansions)
    assert [difference.line() for difference in diff(before, end(stage.conn)[0])] == []


@contextmanager
def _blocked(stage: Stage, table: str) -> Iterator[tuple[Callable[[], None], Conn]]:
    """Give a session beside one that has written to the table and not ended its transaction."""
    with stage.session() as writer, stage.session() as other:
        writer.execute("BEGIN")
        writer.execute(f"DELETE FROM {table} WHERE id = 1")
        yield writer.rollback, other


@contextmanager
def _running(work: Callable[[], None], *expected: type[BaseException]) -> Iterator[None]:
    """Run something beside, and raise its error at the end unless it is expected."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as exc:
            raised.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join(timeout=30)
    assert not thread.is_alive()
    if expected:
        assert isinstance(raised[0], expected)
    elif raised:
        raise raised[0]


def _waits(conn: Conn, pid: int) -> bool:
    query = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s"
    return conn.execute(query, [pid]).fetchone() == (True,)
