"""Who the database is and who is in it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from conftest import Site, connect, do
from pgrunbook.config.targets import Target
from pgrunbook.database import activity
from pgrunbook.database.activity import Blocker, CommandProgress
from scenes import meanwhile, session, until, waits

Project = Callable[..., Target]


@pytest.mark.slow
def test_the_identity_is_the_servers_own(project: Project, site: Site) -> None:
    """Version, database, role and system identifier, as the server tells them."""
    target = project(folder={})
    with connect(target) as conn:
        who = activity.identity(conn)
        assert who.backend_pid == conn.info.backend_pid
    assert who.server_version.startswith(site.server.installation.version.split()[0])
    assert who.server_version_num // 10000 == site.server.installation.major
    assert (who.database, who.role, who.session_user, who.superuser) == (target.database, "primary", "postgres", True)
    assert who.size_bytes > 1_000_000
    assert (who.archive_mode, who.system_identifier.isdigit()) == ("on", True)
    assert who.started_at < datetime.now(UTC)


def test_sessions_are_grouped_by_application_and_user(project: Project) -> None:
    """Most first; our own is not counted, nor those of other databases."""
    target = project(folder={})
    with (
        connect(target) as conn,
        session(target, "SELECT 1", name="web") as one,
        session(target, name="web"),
        session(target, name="") as nameless,
    ):
        assert one.info.backend_pid != nameless.info.backend_pid
        found = [
            (s.application, s.username, s.sessions, s.active, s.idle_in_transaction) for s in activity.sessions(conn)
        ]
        assert found == [("web", "postgres", 2, 0, 1), ("(no name)", "postgres", 1, 0, 0)]
        assert activity.sessions(conn)[0].oldest_s > 0
    with connect(target) as conn:
        until(lambda: activity.sessions(conn) == [])


def test_blockers_are_those_that_the_server_names(project: Project) -> None:
    """Nobody for a session that does not wait."""
    target = project(folder={})
    do(target, "CREATE TABLE orders (n int)")
    with connect(target) as conn, session(target, "LOCK TABLE orders") as head, session(target, name="us") as us:
        assert activity.blockers(conn, us.info.backend_pid) == []
        with meanwhile(lambda: us.execute("SELECT FROM orders")):
            until(waits(target, "us"))
            (found,) = activity.blockers(conn, us.info.backend_pid)
            head.execute("ROLLBACK")
    assert (found.application, found.username, found.state) == ("billing", "postgres", "idle in transaction")
    assert (found.query, found.waits_too, found.waits_for) == ("LOCK TABLE orders", False, "orders")
    assert found.waited_ms >= 0


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({}, 'Process 7 ("billing", idle in transaction for 318 s) heads the lock queue for orders.'),
        (
            {"waits_too": True},
            'Process 7 ("billing", idle in transaction for 318 s) stands in the lock queue for orders.',
        ),
        (
            {"waits_for": "virtualxid"},
            'Process 7 ("billing", idle in transaction for 318 s) has to end its transaction first.',
        ),
        (
            {"pid": 0, "application": "half", "state": "prepared transaction"},
            'A transaction without a process ("half", prepared transaction for 318 s) heads the lock queue for orders.',
        ),
    ],
)
def test_a_blocker_is_told_in_one_sentence(facts: dict[str, object], told: str) -> None:
    """With process, application, state and age, and what it stands before."""
    usual = {
        "pid": 7, "application": "billing", "username": "app", "state": "idle in transaction", "xact_age_s": 318.2,
        "query": "", "waits_too": False, "waits_for": "orders", "waited_ms": 0.0,
    }  # fmt: skip
    assert str(Blocker(**{**usual, **facts})) == told  # type: ignore[arg-type]


def test_a_command_tells_how_far_it_has_come_and_whom_it_waits_for(project: Project) -> None:
    """CREATE INDEX CONCURRENTLY behind a writer; nothing for a session that runs nothing of the kind."""
    target = project(folder={})
    do(target, "CREATE TABLE orders (n int)")
    with (
        connect(target) as conn,
        session(target, "INSERT INTO orders VALUES (1)") as writer,
        session(target, name="us") as us,
    ):
        assert activity.progress(conn, us.info.backend_pid) is None
        with meanwhile(lambda: us.execute("CREATE INDEX CONCURRENTLY i ON orders (n)")):
            until(waits(target, "us"))
            found = activity.progress(conn, us.info.backend_pid)
            pid = writer.info.backend_pid
            writer.execute("ROLLBACK")
    assert found is not None
    assert (found.phase, found.locker_pid, found.application, found.state) == (
        "waiting for writers before build", pid, "billing", "idle in transaction",
    )  # fmt: skip
    assert (found.done, found.total, found.lockers_total) == (0, 0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["VACUUM (FULL) big", "CLUSTER big USING big_n", "VACUUM big", "ANALYZE big"])
def test_a_vacuum_tells_its_phase(project: Project, command: str) -> None:
    """An index of a slow function holds it in the middle, so that somebody sees it; a throttled one is slow anyway."""
    target = project(folder={})
    do(
        target,
        "CREATE FUNCTION slow(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN n; END $$;"
        "CREATE TABLE big (n int, filler text) WITH (autovacuum_enabled = false);"
        "INSERT INTO big SELECT i, repeat('x', 900) FROM generate_series(1, 2000) AS i;"
        "CREATE INDEX big_n ON big (n); CREATE INDEX big_slow ON big (slow(n)); DELETE FROM big WHERE n < 1500",
    )
    with (
        connect(target) as conn,
        session(target, "SELECT pg_advisory_xact_lock(7)") as holder,
        session(target, name="us") as us,
    ):
        us.execute("SET vacuum_cost_limit = 1; SET vacuum_cost_delay = 20")
        pid = us.info.backend_pid
        found: list[CommandProgress] = []

        def seen() -> bool:
            now = activity.progress(conn, pid)
            found.extend([now] if now is not None else [])
            return bool(found)

        with meanwhile(lambda: us.execute(command.encode())):
            until(seen)
            holder.execute("ROLLBACK")
            us.cancel_safe() if command == "VACUUM big" else None
    assert found[0].locker_pid is None
    assert str(found[0])


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({}, "Building index: scanning table, 1,234 of 9,876 pages (12 %)"),
        ({"total": 0}, "Building index: scanning table"),
        (
            {"phase": "waiting for old snapshots", "total": 0, "locker_pid": 4711, "lockers_total": 1},
            (
                'Waiting for old snapshots: waits for process 4711 ("billing", idle in transaction for 318 s), '
                "whose snapshot is older"
            ),
        ),
        (
            {"phase": "waiting for writers before build", "total": 0, "locker_pid": 7, "lockers_total": 3},
            (
                'Waiting for writers before build, 1 of 3: waits for process 7 ("billing", idle in transaction for '
                "318 s), which has used the table"
            ),
        ),
    ],
)
def test_how_far_a_command_has_come_is_told_in_one_sentence(facts: dict[str, object], told: str) -> None:
    """The phase, what is done of what there is to do, and who has to end first."""
    usual = {
        "phase": "building index: scanning table", "unit": "pages", "done": 1234, "total": 9876, "lockers_done": 0,
        "lockers_total": 0, "locker_pid": None, "application": "billing", "state": "idle in transaction",
        "xact_age_s": 318.2,
    }  # fmt: skip
    assert str(CommandProgress(**{**usual, **facts})) == told  # type: ignore[arg-type]
