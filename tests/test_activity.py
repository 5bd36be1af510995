"""Who the database is and who is in it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from conftest import Site, do
from pgrunbook.database import activity
from pgrunbook.database.activity import Blocker
from pgrunbook.database.connection import connect
from pgrunbook.target import Target
from scenes import meanwhile, session, until, waits

Project = Callable[..., Target]


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
            'Nobody ("half", prepared transaction for 318 s) heads the lock queue for orders.',
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
