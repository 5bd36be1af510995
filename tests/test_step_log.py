"""The database's own record of what runs did."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import connect, do, rows
from pgrunbook.config.targets import Target
from pgrunbook.database import step_log
from pgrunbook.database.connection import Connection
from pgrunbook.errors import StatementFailed
from scenes import error_of

Project = Callable[..., Target]


@pytest.fixture
def target(project: Project) -> Target:
    """An empty database."""
    return project(folder={})


def key(migration: str = "0001_a", direction: str = "up", run_id: str = "run") -> dict[str, object]:
    return {
        "run_id": run_id, "migration": migration, "direction": direction, "file_sha256": "f", "plan_digest": "d",
    }  # fmt: skip


def row(step: int, kind: str = "CREATE TABLE", **more: object) -> dict[str, object]:
    return {"step": step, "kind": kind, "sha256": "s", **more}


def test_a_database_without_a_record_is_asked_without_harm(target: Target) -> None:
    """Every question has an answer before any run."""
    with connect(target) as conn:
        assert not step_log.exists(conn)
        assert step_log.of_plan(conn, {"0001_a": "f"}, "up") == {}
        assert step_log.applied_by_run(conn, "run") == []
        assert step_log.restore_points(conn) == []
        assert (step_log.last_history_step(conn), step_log.history_step(conn, "0001_a")) == (None, None)


def test_the_record_is_made_once_however_many_runs_make_it(target: Target) -> None:
    """At the same time, and again afterwards."""

    def make(_: int) -> bool:
        with connect(target) as conn:
            step_log.create(conn)
            return step_log.exists(conn)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(make, range(12)))


def test_who_may_write_the_record_need_not_own_it(target: Target) -> None:
    """Once it is there, nothing is created; where it is not, the error says what is missing."""
    do(target, "CREATE ROLE writer")
    with connect(target) as conn:
        conn.execute("SET ROLE writer")
        error = error_of(lambda: step_log.create(conn))
        assert isinstance(error, StatementFailed)
        assert str(error) == (
            "could not create schema pgrunbook, in which the database records what runs did\n"
            f"Detail: permission denied for database {target.database}\n"
            "State: Nothing changed in the database.\n"
            "Hint: An administrator of the database can make it for you:"
            " CREATE SCHEMA pgrunbook AUTHORIZATION writer; docs/rights.md has all rights."
        )
        conn.execute("RESET ROLE")
        step_log.create(conn)
        conn.execute("GRANT USAGE ON SCHEMA pgrunbook TO writer; GRANT ALL ON ALL TABLES IN SCHEMA pgrunbook TO writer")
        conn.execute("SET ROLE writer")
        step_log.create(conn)
        step_log.write(conn, key(), "done", [row(1)])
        conn.execute("RESET ROLE")
    do(target, "DROP OWNED BY writer; DROP ROLE writer")


def test_steps_are_known_by_migration_text_and_direction(target: Target) -> None:
    """Done by any run counts, meant is told apart, and what was taken back counts no more."""
    with connect(target) as conn:
        step_log.create(conn)
        step_log.write(conn, key(), "done", [row(1), row(2)])
        step_log.write(conn, key(run_id="other"), "intended", [row(2), row(3)])
        step_log.write(conn, key(direction="down"), "done", [row(9)])
        step_log.write(conn, key("0002_b"), "intended", [row(1)])
        both = {"0001_a": "f", "0002_b": "f"}
        assert told(conn, both) == {"0001_a": {1: True, 2: True, 3: False}, "0002_b": {1: False}}
        assert step_log.of_plan(conn, {"0001_a": "edited"}, "up") == {}
        step_log.withdraw(conn, key("0002_b"), [1])
        step_log.withdraw(conn, key(), [1])
        assert told(conn, both) == {"0001_a": {2: True, 3: False}}
        step_log.take_back(conn, "0001_a", "up")
        assert step_log.of_plan(conn, both, "up") == {}
        assert told(conn, both, "down") == {"0001_a": {9: True}}


def test_what_is_half_way_there_is_told_with_its_run_and_text(target: Target) -> None:
    """Steps that are done without the row of the history; what is whole, only meant, or taken back is not."""
    with connect(target) as conn:
        assert step_log.unfinished(conn, "up") == []
        step_log.create(conn)
        step_log.write(conn, key(), "done", [row(1), row(2)])
        step_log.write(conn, key("0002_b"), "done", [row(1), row(2, "history row")])
        step_log.write(conn, key("0003_c"), "intended", [row(1)])
        step_log.write(conn, key("0004_d"), "done", [row(1)])
        step_log.withdraw(conn, key("0004_d"), [1])
        found = step_log.unfinished(conn, "up")
        assert [(one.migration, one.run_id, one.file_sha256) for one in found] == [("0001_a", "run", "f")]
        assert step_log.unfinished(conn, "down") == []


def told(conn: Connection, migrations: dict[str, str], direction: str = "up") -> dict[str, dict[int, bool]]:
    return {name: dict(begun.steps) for name, begun in step_log.of_plan(conn, migrations, direction).items()}


def test_a_step_that_was_meant_becomes_done(target: Target) -> None:
    """One row, with when it ended, by whom and in which transaction."""
    with connect(target) as conn:
        step_log.create(conn)
        step_log.write(conn, key(), "intended", [row(1, "VACUUM")])
        step_log.write(conn, key(), "done", [row(1, "VACUUM")])
        pid = conn.info.backend_pid
    found = rows(
        target, "SELECT state, kind, ended_at >= started_at, backend_pid, session_user_name FROM pgrunbook.step"
    )
    assert found == [("done", "VACUUM", True, pid, "postgres")]


def test_what_a_run_applied_is_told_newest_first(target: Target) -> None:
    """Whole migrations only, and none that was taken back."""
    with connect(target) as conn:
        step_log.create(conn)
        for name in ("0001_a", "0002_b", "0003_c"):
            step_log.write(
                conn, key(name), "done", [row(2, "history row", schema_before="x" + name, schema_after=name)]
            )
        step_log.write(conn, key("0004_d"), "done", [row(1)])
        step_log.take_back(conn, "0002_b", "up")
        assert step_log.applied_by_run(conn, "run") == ["0003_c", "0001_a"]
        last, first = step_log.last_history_step(conn), step_log.history_step(conn, "0001_a")
    assert last is not None
    assert first is not None
    assert (last["migration"], last["schema_after"]) == ("0003_c", "0003_c")
    assert (first["schema_before"], first["schema_after"]) == ("x0001_a", "0001_a")


def test_restore_points_are_told_newest_first(target: Target) -> None:
    """With their place in the WAL and the version they were made at."""
    with connect(target) as conn:
        step_log.create(conn)
        step_log.write_restore_point(conn, "one", "run", "0/1A", None)
        step_log.write_restore_point(conn, "two", "run", "0/2B", "0001_a")
        found = [(p.name, p.run_id, p.lsn, p.version) for p in step_log.restore_points(conn)]
    assert found == [("two", "run", "0/2B", "0001_a"), ("one", "run", "0/1A", None)]
