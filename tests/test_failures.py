"""What is said when a step did not come through, where no other test brings it about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import psycopg
import pytest

from conftest import connect
from pgrunbook.config.targets import Target
from pgrunbook.database.connection import Connection
from pgrunbook.errors import Blocked, StatementFailed, Unreachable
from pgrunbook.execute import failures
from pgrunbook.execute.failures import AttemptEnd
from pgrunbook.record import run as runs
from scenes import execute, is_at, kill, meanwhile, plan_of, session, until

Project = Callable[..., Target]


def scene_of(target: Target, **facts: object) -> AttemptEnd:
    """A scene in the middle of the target's pending migration."""
    plan = plan_of(target)
    change = plan.changes[0]
    usual = AttemptEnd(target, plan, change, change.steps[0], "send", "public.schema_migrations", "", 0.0, (), 0)
    return replace(usual, **facts)


def nap(conn: Connection) -> None:
    """Sleep in the server until somebody cancels it."""
    with pytest.raises(psycopg.errors.QueryCanceled):
        conn.execute("SELECT pg_sleep(60)")


def test_a_session_that_is_still_at_work_leaves_the_state_open(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our connection is gone, the server's process goes on: what it will have done is not known yet."""
    monkeypatch.setattr(failures, "GONE_WITHIN_S", 0.3)
    target = project(folder={"0001_a.sql": "SELECT 1"})
    with session(target, "SELECT 1") as other, meanwhile(lambda: nap(other)):
        until(is_at(target, "pg_sleep(60)"))
        ours = connect(target)
        ours.close()
        pid = other.info.backend_pid
        error = failures.explain(psycopg.OperationalError("the wire was cut"), scene_of(target, backend_pid=pid), ours)
        other.cancel_safe()
    assert isinstance(error, Unreachable)
    assert str(error) == (
        "lost the connection in step 1 of 0001_a (SELECT; 0001_a.sql, line 1)\n"
        "Detail: the wire was cut\n"
        f"State: Not known yet: process {pid} is still at work on it in the server.\n"
        "Hint: When the server answers again, run this cell again. The database shows what is done."
    )


@pytest.mark.parametrize(
    ("batches", "rows", "done"),
    [
        (18, 18_000, "18 batches (18,000 rows) of"),
        (1, 1, "1 batch (1 row) of"),
        (0, 0, "no batch of"),
        (0, 7, "7 rows of"),
    ],
)
def test_what_is_committed_of_a_loop_is_told_when_nobody_answers(
    project: Project, batches: int, rows: int, done: str
) -> None:
    """The server has confirmed each batch; a revert counts its rows only."""
    target = project(folder={"0001_a.sql": "SELECT 1"})
    gone = target.model_copy(update={"server": "not-there"})
    scene = replace(scene_of(target, batches=batches, rows=rows), target=gone)
    scene = replace(scene, step=scene.step.model_copy(update={"gives_rows": (1,)}))  # type: ignore[union-attr]
    with connect(target) as conn:
        pass
    assert failures.state_now(scene, conn) == (
        f"Not known, the server does not answer. Committed for certain: {done} step 1 of 0001_a; "
        "the next batch may be, too. What is committed stays."
    )


def test_a_server_that_does_not_answer_leaves_the_state_open(project: Project) -> None:
    """In one transaction it is all or nothing; in several, each step is."""
    target = project(folder={"0001_a.sql": "SELECT 1"})
    gone = target.model_copy(update={"server": "not-there"})
    with connect(target) as conn:
        pass
    assert failures.state_now(replace(scene_of(target), target=gone), conn) == (
        "Not known, the server does not answer: the whole of 0001_a is either done or not begun."
    )
    (target.migrations / "0001_a.sql").write_text("VACUUM; SELECT 1")
    assert failures.state_now(replace(scene_of(target), target=gone), conn) == (
        "Not known, the server does not answer: each step of 0001_a is either done or not begun."
    )


def test_the_state_is_what_the_database_shows(project: Project) -> None:
    """Not what we meant to do: after the commit it is applied, whatever broke behind it."""
    target = project(folder={"0001_a.sql": "SELECT 1"})
    scene = scene_of(target, committed=("0000_z",))
    with connect(target) as conn:
        assert failures.state_now(scene, conn) == (
            "0001_a was aborted as a whole: nothing of it is applied. Applied by this run before it: 0000_z."
        )
        execute(target)
        assert failures.state_now(scene, conn) == (
            "0001_a is applied as a whole. Applied by this run before it: 0000_z."
        )


@pytest.mark.parametrize(
    ("takes_back", "applied", "then"),
    [
        ("rollback", ("0000_z",), "start a new run, when this one has taken back what it applied"),
        ("rollback", (), "go on with this run: pgrunbook run --resume r"),
        ("", ("0000_z",), "go on with this run: pgrunbook run --resume r"),
    ],
)
def test_a_run_that_takes_back_what_it_applied_is_not_gone_on_with(
    project: Project, monkeypatch: pytest.MonkeyPatch, takes_back: str, applied: tuple[str, ...], then: str
) -> None:
    """Each error after which the runner does that, and each of an obstacle from outside, after which it waits."""
    monkeypatch.setenv(runs.RUNNER, "r")
    monkeypatch.setenv(runs.TAKES_BACK, takes_back)
    scene = scene_of(project(folder={"0001_a.sql": "CREATE INDEX CONCURRENTLY i ON t (a)"}), committed=applied)
    with connect(scene.target) as conn:
        refused = [
            failures.explain(exc, scene, conn)
            for exc in (psycopg.errors.UniqueViolation("twice"), psycopg.errors.QueryCanceled("cancelled"))
        ]
        passing = [
            failures.gave_up(psycopg.errors.LockNotAvailable("no lock"), scene, conn),
            failures.explain(KeyboardInterrupt(), scene, conn),
        ]
    passing.append(failures.explain(psycopg.OperationalError("cut"), scene, conn))
    assert all(then in error.hint for error in refused)
    assert all("o on with this run: pgrunbook run --resume r" in error.hint for error in passing)


def test_the_servers_detail_context_and_hint_are_passed_on(project: Project) -> None:
    """It knows best what was wrong."""
    target = project(folder={"0001_a.sql": "SELECT 1"})
    text = "DO $$ BEGIN RAISE EXCEPTION 'no' USING DETAIL = 'Too late.', HINT = 'Come earlier.'; END $$"
    with connect(target) as conn:
        with pytest.raises(psycopg.errors.RaiseException) as caught:
            conn.execute(text)
        error = failures.explain(caught.value, scene_of(target), conn)
    assert isinstance(error, StatementFailed)
    assert str(error) == (
        "could not run step 1 of 0001_a (SELECT; 0001_a.sql, line 1): no\n"
        "Detail: Too late. PL/pgSQL function inline_code_block line 1 at RAISE\n"
        "State: 0001_a was aborted as a whole: nothing of it is applied.\n"
        "Hint: Come earlier."
    )


def test_a_lock_without_a_known_holder_is_told_in_the_servers_words(project: Project) -> None:
    """It may be gone before anybody looks."""
    target = project(folder={"0001_a.sql": "SELECT 1"})
    with connect(target) as conn:
        error = failures.gave_up(psycopg.errors.LockNotAvailable("canceling statement"), scene_of(target), conn)
    assert isinstance(error, Blocked)
    assert (error.message, error.detail) == (
        'could not lock "0001_a" in 5 attempts (lock_timeout 2000 ms)', "canceling statement",
    )  # fmt: skip
    assert kill(target) == 0
