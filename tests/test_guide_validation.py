"""What the guide's post-migration validation does not see, and ours does (reference: its defects 48, 49 and 53)."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from pgrunbook.database import health, measurements, query_plans
from pgrunbook.database.integrity import breaches
from pgrunbook.database.schema import snapshot
from pgrunbook.database.schema_diff import diff
from servers import Server

Make = Callable[..., str]

SOUND = (
    'CREATE TABLE projects (id int PRIMARY KEY, status text); CREATE TABLE "Nodes" (id serial PRIMARY KEY, p int)',
    "INSERT INTO projects VALUES (1, 'running'), (2, 'running'); INSERT INTO \"Nodes\" (p) VALUES (1), (2)",
    'ALTER TABLE "Nodes" ADD CONSTRAINT of_project FOREIGN KEY (p) REFERENCES projects',
    'ALTER TABLE "Nodes" ADD CONSTRAINT positive CHECK (p > 0)',
    "CREATE INDEX by_status ON projects (status)",
)
# The same by every name; but nothing of it holds.
BROKEN = (
    SOUND[0],
    "INSERT INTO projects VALUES (1, 'running'), (2, 'running'); INSERT INTO \"Nodes\" VALUES (1, 7), (2, -3)",
    'ALTER TABLE "Nodes" ADD CONSTRAINT of_project FOREIGN KEY (p) REFERENCES projects NOT VALID',
    'ALTER TABLE "Nodes" ADD CONSTRAINT positive CHECK (p > 0) NOT VALID',
    SOUND[4],
    "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'by_status'::regclass",
)
QUERIES = (
    (
        "SELECT conname, contype, conrelid::regclass::text FROM pg_constraint"
        " WHERE connamespace = 'public'::regnamespace ORDER BY conrelid::regclass"
    ),
    "SELECT indexname, tablename, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY tablename, indexname",
    "SELECT COUNT(*) FROM projects",
    "SELECT COUNT(*) FROM projects WHERE status = 'running'",
)


@pytest.mark.newest
def test_its_queries_tell_a_sound_database_from_a_broken_one_no_more_than_a_coin(
    server: Server, database: Make
) -> None:
    """Ours name each: the invalid index, what was not validated, the sequence, the orphans, the row below zero."""
    sound, broken = database(*SOUND), database(*BROKEN)
    with server.connect(sound) as a, server.connect(broken) as b:
        for query in QUERIES:
            told, told_broken = (conn.execute(query.encode()).fetchall() for conn in (a, b))
            assert told == told_broken
        assert (health.leftovers(a), breaches(a)) == ([], [])
        assert {(left.kind, left.name) for left in health.leftovers(b)} == {
            ("invalid index", "by_status"), ("constraint not validated", "of_project"),
            ("constraint not validated", "positive"), ("sequence behind its column", '"Nodes_id_seq"'),
        }  # fmt: skip
        assert {(found.kind, found.name, found.rows) for found in breaches(b)} == {
            ("orphans", "of_project", 2), ("rows against a constraint", "positive", 1),
        }  # fmt: skip
        assert {difference.name for difference in diff(snapshot(a), snapshot(b))} >= {"public.projects.by_status"}
        b.execute("UPDATE projects SET status = 'Running' WHERE id = 1")  # as many rows, another value
        was = measurements.take(a, {}, leave_out="", checksum_bytes=1 << 20, check_timeout_ms=1_000).sums
        assert measurements.sums_again(b, was)["projects"].checksum != was["projects"].checksum


@pytest.mark.newest
def test_its_look_at_a_table_succeeds_where_there_is_none(server: Server, database: Make) -> None:
    """The exit code is that of head; a schema that lacks a table is another one for us."""
    name = database(*SOUND)
    words = f'{server.client("psql")} -h {server.socket_dir} -U postgres -d {name} -c "\\d deployments" | head -20'
    done = subprocess.run(["sh", "-c", words], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b'Did not find any relation named "deployments".\n')
    with server.connect(name) as conn:
        before = snapshot(conn)
        conn.execute('DROP TABLE "Nodes"')
        assert 'public."Nodes"' in {difference.name for difference in diff(before, snapshot(conn))}


@pytest.mark.newest
def test_its_look_at_a_plan_executes_the_statement(server: Server, database: Make) -> None:
    """EXPLAIN ANALYZE of a DELETE deletes; ours plans it, and what is executed on request is aborted."""
    name = database(*SOUND)
    with server.connect(name) as conn:
        for time_writes in (False, True):
            found = query_plans.measured(conn, 'DELETE FROM "Nodes"', time_writes=time_writes)
            assert (found.error, conn.execute('SELECT count(*) FROM "Nodes"').fetchone()) == ("", (2,))
        conn.execute('EXPLAIN ANALYZE DELETE FROM "Nodes"')
        assert conn.execute('SELECT count(*) FROM "Nodes"').fetchone() == (0,)
