"""End one session: the one that was chosen, and nothing that has to go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest

from pgrunbook.database import lock_tree
from pgrunbook.database.connection import Connection
from pgrunbook.database.lock_tree import ServerSession
from pgrunbook.errors import Refused, StatementFailed, WrongInput
from pgrunbook.execute import session_end
from servers import Server, Servers
from test_lock_tree import opened, waiting
from test_vitals import SESSION


@pytest.fixture
def name(database: Callable[..., str]) -> str:
    """A database with a table."""
    return database("CREATE TABLE t (id int)")


@pytest.fixture
def conn(server: Server, name: str) -> Iterator[Connection]:
    """A connection that looks and ends."""
    with Connection.connect(host=server.socket_dir, user="postgres", dbname=name, autocommit=True) as found:
        yield found


def session_of(conn: Connection, pid: int) -> ServerSession:
    """Return the session of a process."""
    return next(one for one in lock_tree.sessions(conn) if one.pid == pid)


def test_a_statement_is_cancelled_and_its_session_goes_on(server: Server, name: str, conn: Connection) -> None:
    """The gentle way: the waiter gets an error, and its transaction is aborted by itself."""
    with opened(server, name, "owner", "LOCK t"), waiting(server, name, "waiter", "SELECT FROM t") as thread:
        (head,) = lock_tree.lock_tree(conn)
        waiter = head.below[0].session
        became = session_end.end(conn, session_end.chosen(conn, waiter.key), "cancel")
        thread.join()
        assert became.startswith("cancelled; the session is idle")
        assert session_of(conn, waiter.pid).pid == waiter.pid


def test_an_idle_transaction_is_terminated_and_others_go_on(server: Server, name: str, conn: Connection) -> None:
    """Who waited for it gets its lock; to cancel it would do nothing, and is refused with what to do."""
    with psycopg.connect(host=server.socket_dir, user="postgres", dbname=name) as idle:
        idle.execute("LOCK t")
        chosen = session_of(conn, idle.info.backend_pid)
        with pytest.raises(Refused) as refused:
            session_end.end(conn, chosen, "cancel")
        assert refused.value.hint == "Ask its owner to end its transaction, or terminate it."
        assert session_end.end(conn, chosen, "terminate") == "ended"
        with pytest.raises(psycopg.OperationalError):
            idle.execute("SELECT 1")
    conn.execute("SELECT FROM t")
    with pytest.raises(WrongInput, match="there is no session"):
        session_end.chosen(conn, chosen.key)


def test_a_later_session_with_the_same_number_is_not_ended(server: Server, name: str, conn: Connection) -> None:
    """Process id and start are checked by the server, in the statement that ends it."""
    with opened(server, name, "innocent", "SELECT 1") as innocent:
        now = session_of(conn, innocent.info.backend_pid)
        assert now.backend_start is not None
        before = replace(now, backend_start=now.backend_start - timedelta(seconds=1))
        assert session_end.end(conn, before, "terminate") == "ended before"
        innocent.execute("SELECT 1")


REFUSED = {
    "a run of ours": replace(SESSION, application="pgrunbook migrate 2026", is_own_role=True),
    "a standby": replace(SESSION, backend_type="walsender"),
    "a process of the server": replace(SESSION, backend_type="checkpointer"),
    "a parallel worker": replace(SESSION, backend_type="parallel worker", leader_pid=6),
    "an autovacuum against wraparound": replace(
        SESSION, backend_type="autovacuum worker", query="autovacuum: VACUUM public.t (to prevent wraparound)"
    ),
    "one whose start is hidden": replace(SESSION, backend_start=None),
    "a prepared transaction": replace(SESSION, pid=0, gid="g"),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("how", ["cancel", "terminate"])
def test_what_has_to_go_on_is_refused(what: str, how: session_end.How) -> None:
    """Each with what to do instead."""
    with pytest.raises(Refused) as refused:
        session_end.refuse(REFUSED[what], how)
    assert refused.value.message.startswith(f"refused to {how} ")
    assert refused.value.hint


def test_a_run_of_another_operator_is_ours_and_its_name_alone_is_not(server: Server, name: str) -> None:
    """Who may write what runs write; anybody else is ended, whatever it calls itself."""
    server.run(name, "CREATE SCHEMA pgrunbook", "CREATE TABLE pgrunbook.step ()", "CREATE ROLE operates LOGIN",
               "CREATE ROLE pretends LOGIN", "GRANT INSERT ON pgrunbook.step TO operates")  # fmt: skip
    try:
        with server.connect(name) as conn:
            for role, is_ours in (("operates", True), ("pretends", False)):
                given = {**conn.info.get_parameters(), "user": role, "application_name": "pgrunbook migrate 2026"}
                with psycopg.connect(**given) as other:
                    found = session_of(conn, other.info.backend_pid)
                assert found.is_ours is is_ours
                if is_ours:
                    with pytest.raises(Refused, match="refused to terminate process"):
                        session_end.refuse(found, "terminate")
                else:
                    session_end.refuse(found, "terminate")
    finally:
        server.run(name, "DROP OWNED BY operates", "DROP ROLE operates, pretends")


def test_an_ordinary_autovacuum_may_be_cancelled_and_a_client_ended() -> None:
    """And nothing is rolled back that was not prepared."""
    session_end.refuse(replace(SESSION, backend_type="autovacuum worker", query="autovacuum: VACUUM t"), "cancel")
    session_end.refuse(SESSION, "cancel")
    session_end.refuse(SESSION, "terminate")
    session_end.refuse(replace(SESSION, application="pgrunbook that is none"), "terminate")
    with pytest.raises(Refused):
        session_end.refuse(SESSION, "rollback prepared")


def test_a_prepared_transaction_is_rolled_back_or_committed_by_its_name(server: Server, servers: Servers) -> None:
    """It has no process."""
    other = servers.get(server.version, max_prepared_transactions="2")
    name = other.database("ends_prepared", "CREATE TABLE t (id int)")
    with Connection.connect(host=other.socket_dir, user="postgres", dbname=name, autocommit=True) as conn:
        for how, rows in (("rollback prepared", 0), ("commit prepared", 1)):
            conn.execute("BEGIN")
            conn.execute("INSERT INTO t VALUES (1)")
            conn.execute("PREPARE TRANSACTION 'it''s'")
            chosen = session_end.chosen(conn, "prepared:it's")
            session_end.end(conn, chosen, how)  # type: ignore[arg-type]
            assert conn.execute("SELECT count(*) FROM t").fetchone() == (rows,)
            assert session_end.end(conn, chosen, how) == "ended before"  # type: ignore[arg-type]


def test_who_may_not_is_told_which_right_it_takes(server: Server, name: str) -> None:
    """A role that sees all and may end nothing."""
    with server.connect("postgres") as admin, opened(server, name, "owner", "LOCK t") as owner:
        admin.execute("DROP ROLE IF EXISTS only_sees")
        admin.execute("CREATE ROLE only_sees LOGIN IN ROLE pg_monitor")
        try:
            with (
                Connection.connect(host=server.socket_dir, user="only_sees", dbname=name, autocommit=True) as conn,
                pytest.raises(StatementFailed) as failed,
            ):
                session_end.end(conn, session_of(conn, owner.info.backend_pid), "terminate")
        finally:
            admin.execute("DROP ROLE only_sees")
        assert "GRANT pg_signal_backend" in failed.value.hint
        owner.execute("SELECT 1")
