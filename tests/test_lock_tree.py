"""Who blocks whom: queues, cycles, prepared transactions and autovacuum, each found in one look."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import psycopg
import pytest
from psycopg import sql

from pgrunbook.database import activity, vitals
from pgrunbook.database.connection import Connection
from pgrunbook.database.lock_tree import Node, ServerSession, Waiting, lock_tree, sessions, tree_of
from servers import Server, Servers

# What the guide shows as blocking: statements that run for half a minute.
GUIDES = "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND now() - query_start > interval '30 seconds'"


@pytest.fixture
def name(database: Callable[..., str]) -> str:
    """A database with a table of an odd name, and another."""
    return database('CREATE TABLE "Odd ""t"" 🐘" (id int PRIMARY KEY)', 'INSERT INTO "Odd ""t"" 🐘" VALUES (1), (2)',
                    "CREATE TABLE u (id int)")  # fmt: skip


@pytest.fixture
def look(server: Server, name: str) -> Iterator[Connection]:
    """A connection that looks."""
    with Connection.connect(host=server.socket_dir, user="postgres", dbname=name, autocommit=True) as conn:
        yield conn


@contextmanager
def opened(
    server: Server, name: str, application: str, *statements: str
) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """Give a session with an open transaction in which these statements are executed."""
    with psycopg.connect(host=server.socket_dir, user="postgres", dbname=name, application_name=application) as conn:
        for statement in statements:
            conn.execute(statement.encode())
        yield conn
        conn.rollback()


@contextmanager
def waiting(server: Server, name: str, application: str, *statements: str) -> Iterator[threading.Thread]:
    """Let a session wait for a lock with the last of these statements until the body ends."""
    conn = psycopg.connect(host=server.socket_dir, user="postgres", dbname=name, application_name=application)
    for statement in statements[:-1]:
        conn.execute(statement.encode())

    def run() -> None:
        try:
            conn.execute(statements[-1].encode())
        except psycopg.Error as exc:
            told.append(exc)

    told: list[psycopg.Error] = []
    thread = threading.Thread(target=run)
    thread.start()
    try:
        with psycopg.connect(host=server.socket_dir, user="postgres", dbname="postgres", autocommit=True) as admin:
            while not admin.execute("SELECT 1 FROM pg_locks WHERE pid = %s AND NOT granted",
                                    [conn.info.backend_pid]).fetchone():  # fmt: skip
                assert thread.is_alive(), told
        yield thread
    finally:
        conn.cancel_safe()
        thread.join()
        conn.close()


def drawn(heads: list[Node]) -> list[str]:
    """Return the tree as lines: depth, application, what is waited for, in which mode it is held."""
    return [
        f"{'  ' * depth}{node.session.application or node.session.gid}"
        + (f" waits for {node.waits.mode} on {node.waits.object}" if node.waits else "")
        + (f" holds {node.holds}" if node.holds else "")
        + (" (told)" if node.is_told else "")
        + (" (cycle)" if node.is_cycle else "")
        for head in heads
        for depth, node in head.walk()
    ]


TABLE = 'public."Odd ""t"" 🐘"'


def test_a_chain_of_five_stands_under_the_idle_session_at_its_head(server: Server, name: str, look: Connection) -> None:
    """The guide's query does not show the one that everybody waits for."""
    with ExitStack() as stack:
        enter = stack.enter_context
        head = enter(opened(server, name, "report", f"SELECT FROM {TABLE}"))
        enter(waiting(server, name, "migration", f"ALTER TABLE {TABLE} ADD COLUMN a int"))
        enter(waiting(server, name, "web 1", f"SELECT FROM {TABLE}"))
        enter(waiting(server, name, "web 2", "INSERT INTO u VALUES (1)", f"SELECT FROM {TABLE}"))
        enter(waiting(server, name, "web 3", "LOCK u IN ACCESS EXCLUSIVE MODE"))
        heads = lock_tree(look)
        assert drawn(heads) == [
            "report holds AccessShareLock",
            f"  migration waits for AccessExclusiveLock on {TABLE}",
            f"    web 1 waits for AccessShareLock on {TABLE}",
            f"    web 2 waits for AccessShareLock on {TABLE} holds RowExclusiveLock",
            "      web 3 waits for AccessExclusiveLock on public.u",
        ]
        (top,) = heads
        assert (top.blocks, top.session.state, top.session.kind) == (4, "idle in transaction", "client")
        assert top.session.pid == head.info.backend_pid
        assert top.session.key.startswith(f"{top.session.pid}@20")
        assert not top.session.has_written
        (below,) = top.below
        assert below.waits is not None
        assert 0 <= (below.waits.waited_s or 0) < 60
        assert (top.session.pid,) not in look.execute(GUIDES.encode()).fetchall()


def test_a_session_that_waits_for_several_stands_under_each_and_is_unfolded_once(
    server: Server, name: str, look: Connection
) -> None:
    """Two readers block one change, behind which a third session queues."""
    with (
        opened(server, name, "a", f"SELECT FROM {TABLE}"),
        opened(server, name, "b", f"SELECT FROM {TABLE}"),
        waiting(server, name, "migration", f"ALTER TABLE {TABLE} ADD COLUMN a int"),
        waiting(server, name, "web", f"SELECT FROM {TABLE}"),
    ):
        heads = sorted(lock_tree(look), key=lambda head: head.below == [])
        told = [line.strip() for line in drawn(heads)]
    assert sum(line.startswith("migration") for line in told) == 2
    assert sum(line.startswith("web") for line in told) == 1
    assert [head.blocks for head in heads] == [2, 2]


def test_a_row_lock_and_an_advisory_lock(server: Server, name: str, look: Connection) -> None:
    """Each by what it is; who has written is told, as a rollback of it takes time."""
    with (
        opened(server, name, "writer", f"UPDATE {TABLE} SET id = id WHERE id = 1", "SELECT pg_advisory_xact_lock(7)"),
        waiting(server, name, "other writer", f"UPDATE {TABLE} SET id = id WHERE id = 1"),
        waiting(server, name, "keyed", "SELECT pg_advisory_xact_lock(7)"),
    ):
        (head,) = lock_tree(look)
        assert head.session.has_written
        assert sorted(node.waits.object for node in head.below if node.waits) == [
            "a row that another transaction has changed", "advisory lock (0, 7)",
        ]  # fmt: skip


def test_a_prepared_transaction_is_named_as_it_has_no_process(server: Server, servers: Servers) -> None:
    """The server tells of process 0 only."""
    other, gid = servers.get(server.version, max_prepared_transactions="2"), "left 'behind'"
    name = other.database("locked_by_prepared", "CREATE TABLE u (id int)")
    with other.connect(name) as conn:
        conn.execute("BEGIN")
        conn.execute("LOCK u IN SHARE MODE")
        conn.execute(sql.SQL("PREPARE TRANSACTION {}").format(gid))
    with (
        Connection.connect(host=other.socket_dir, user="postgres", dbname=name, autocommit=True) as look,
        waiting(other, name, "web", "INSERT INTO u VALUES (1)"),
    ):
        (head,) = lock_tree(look)
        assert drawn([head]) == [f"{gid} holds ShareLock", "  web waits for RowExclusiveLock on public.u"]
        found = head.session
        assert (found.kind, found.pid, found.key) == ("prepared transaction", 0, f"prepared:{gid}")
        look.execute(sql.SQL("ROLLBACK PREPARED {}").format(gid))


def test_a_deadlock_in_the_making_is_a_cycle(server: Server, name: str, look: Connection) -> None:
    """Before the server breaks it, after deadlock_timeout; nobody heads it."""
    wait = "SET deadlock_timeout = '60s'"
    with (
        waiting_later(server, name, "one", wait, f"LOCK {TABLE}") as one,
        waiting(server, name, "two", wait, "LOCK u", f"LOCK {TABLE}"),
        one("LOCK u"),
    ):
        (head,) = lock_tree(look)
        assert [line.split(" waits")[0] for line in drawn([head])] in (
            ["one", "  two", "    one"],
            ["two", "  one", "    two"],
        )
        assert [node.is_cycle for _, node in head.walk()] == [False, False, True]
        assert head.blocks == 1


@contextmanager
def waiting_later(
    server: Server, name: str, application: str, *statements: str
) -> Iterator[Callable[[str], contextmanager[None]]]:
    """Open a transaction; what is yielded lets it wait for a lock with one more statement."""
    with psycopg.connect(host=server.socket_dir, user="postgres", dbname=name, application_name=application) as conn:
        for statement in statements:
            conn.execute(statement.encode())

        @contextmanager
        def then(statement: str) -> Iterator[None]:
            def run() -> None:
                with pytest.raises(psycopg.errors.QueryCanceled):
                    conn.execute(statement.encode())

            thread = threading.Thread(target=run)
            thread.start()
            with psycopg.connect(host=server.socket_dir, user="postgres", dbname=name, autocommit=True) as admin:
                while not admin.execute("SELECT 1 FROM pg_locks WHERE pid = %s AND NOT granted",
                                        [conn.info.backend_pid]).fetchone():  # fmt: skip
                    assert thread.is_alive()
            try:
                yield
            finally:
                conn.cancel_safe()
                thread.join()

        yield then
        conn.rollback()


def test_a_long_queue_is_told_once(server: Server, name: str, look: Connection) -> None:
    """Each of many who want one lock stands in one place: the server names all who are before it as its blockers."""
    with ExitStack() as stack:
        stack.enter_context(opened(server, name, "head", "LOCK u"))
        for number in range(12):
            stack.enter_context(waiting(server, name, f"w{number}", "LOCK u"))
        (head,) = lock_tree(look)
        assert (head.blocks, len(list(head.walk()))) == (12, 13)


def test_who_is_not_allowed_to_see_is_told_so(server: Server, name: str) -> None:
    """The tree stands all the same; state and query of others are hidden, and said to be."""
    with (
        opened(server, name, "report", "LOCK u"),
        waiting(server, name, "web", "SELECT FROM u"),
        server.connect("postgres") as admin,
    ):
        admin.execute("DROP ROLE IF EXISTS blind_looker")
        admin.execute("CREATE ROLE blind_looker LOGIN")
        try:
            with Connection.connect(host=server.socket_dir, user="blind_looker", dbname=name, autocommit=True) as blind:
                (head,) = lock_tree(blind)
                used = vitals.look(blind).connections["used"]
                connected = [one.application for one in activity.sessions(blind)]
                counted = vitals.look(admin).connections["used"]
        finally:
            admin.execute("DROP ROLE blind_looker")
    assert drawn([head]) == ["report holds AccessExclusiveLock", "  web waits for AccessShareLock on public.u"]
    assert head.session.is_hidden
    assert head.session.key.endswith("@hidden")
    assert head.session.kind == "client", "it has a user and a database, and is no process of the server"
    assert vitals.to_do(head.session).startswith("ask its owner: GRANT pg_monitor shows")
    assert used == counted >= 4, "clients of other roles are counted as well"
    assert {"report", "web"} <= set(connected)


def test_nobody_hides_behind_the_text_of_a_query(server: Server, name: str, look: Connection) -> None:
    """What the server shows in the place of a hidden query, a session may have executed."""
    with psycopg.connect(host=server.socket_dir, user="postgres", dbname=name, application_name="sly") as conn:
        with pytest.raises(psycopg.errors.SyntaxError):
            conn.execute("<insufficient privilege>")
        (found,) = (one for one in sessions(look) if one.application == "sly")
    assert (found.query, found.is_hidden) == ("<insufficient privilege>", False)


def test_kinds_of_processes_are_told_apart(look: Connection) -> None:
    """Background processes are there, and are no clients; we ourselves are not."""
    found = sessions(look)
    assert {session.kind for session in found} >= {"background"}
    assert look.info.backend_pid not in {session.pid for session in found}
    assert all(session.backend_start for session in found)


def test_who_ended_between_the_two_looks_is_left_out() -> None:
    """A waiter whose blocker is gone, and a blocker without its waiter."""
    gone = {5: Waiting("ShareLock", "t", 1.0, {4: "ExclusiveLock"}, ())}
    assert tree_of([], gone) == []
    known = ServerSession(
        5, None, 0, "client backend", "x", "", "", "", "active", "", None, None, None, False, "", False, "", "",
    )  # fmt: skip
    assert tree_of([known], gone) == []
