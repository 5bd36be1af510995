"""What the guide's monitoring does not see, and ours does (reference: its defects 24 to 26 and 50)."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from pgrunbook.database.connection import Connection
from pgrunbook.database.vitals import VitalLimits, concerns, look
from scenes import until
from servers import Server
from test_lock_tree import opened, waiting

Make = Callable[..., str]
AT_ONCE = VitalLimits(waited_s=0, idle_in_transaction_s=0, statement_s=0)

# Also without its half a minute.
LONG = "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND now() - query_start > interval '0 seconds'"
LOCKS = "SELECT relation::regclass::text, mode FROM pg_locks WHERE relation IS NOT NULL AND mode != 'AccessShareLock'"
SIZES = (
    "SELECT tablename, pg_total_relation_size(schemaname||'.'||tablename) FROM pg_tables WHERE schemaname = 'public'"
)
WAITERS = "SELECT pid FROM pg_stat_activity WHERE pg_blocking_pids(pid)::text != '{}'"

pytestmark = pytest.mark.newest


def connected(server: Server, name: str) -> Connection:
    """Connect as monitor does."""
    return Connection.connect(host=server.socket_dir, user="postgres", dbname=name, autocommit=True)


def test_its_queries_name_the_victim_and_hide_the_reader_that_blocks(server: Server, database: Make) -> None:
    """An idle reader blocks an ALTER: neither its statements nor its locks nor its blockers have it (24, 26, 50)."""
    name = database("CREATE TABLE t (id int)")
    with (
        connected(server, name) as conn,
        opened(server, name, "report", "SELECT FROM t") as reader,
        waiting(server, name, "migration", "ALTER TABLE t ADD COLUMN a int"),
    ):
        blocker = reader.info.backend_pid
        assert blocker not in {pid for (pid,) in conn.execute(LONG)}
        assert conn.execute(LOCKS).fetchall() == [("t", "AccessExclusiveLock")], "what waits, as if it were held"
        (victim,) = [pid for (pid,) in conn.execute(WAITERS)]
        assert victim != blocker, "ended by its next statement: the migration"
        first = concerns(look(conn), AT_ONCE)[0]
    assert first.what == "blocks others"
    assert f'process {blocker} ("report"' in first.detail
    assert first.todo.startswith("ask its owner to end the transaction")


def test_its_locks_are_those_of_other_databases_too(server: Server, database: Make) -> None:
    """A table of another database is a number, or the name of a table here that has the same one (26)."""
    here, there = database(), database("CREATE TABLE far (id int)")
    with (
        connected(server, here) as conn,
        opened(server, there, "other", "LOCK far"),
        waiting(server, there, "waiter", "SELECT FROM far"),
    ):
        (told,) = {name for name, _ in conn.execute(LOCKS)}
        first = concerns(look(conn), AT_ONCE)[0]
    assert told.isdigit()
    assert f"wait for relation {told} of database {there}" in first.detail


def test_its_sizes_fail_at_the_first_name_with_quotes(server: Server, database: Make) -> None:
    """Ours have each table by its quoted name, with its partitions summed up (25)."""
    name = database('CREATE TABLE "Order Items" (id int)', 'INSERT INTO "Order Items" SELECT generate_series(1, 100)')
    with connected(server, name) as conn:
        with pytest.raises(psycopg.Error, match="invalid name syntax"):
            conn.execute(SIZES)
        conn.execute('ANALYZE "Order Items"')
        until(lambda: look(conn).tables[0]["live"])  # PostgreSQL 14 tells it a moment later
        (table,) = look(conn).tables
    assert (table["name"], table["live"]) == ('public."Order Items"', 100)
    assert table["bytes"] > 0
