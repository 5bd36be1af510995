"""What runs are at, as their record in the database tells it: loops with their pace, and the last migrations."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest

from pgrunbook.database import control, own_work, step_log
from pgrunbook.database.control import Command
from pgrunbook.database.own_work import Loop, OwnWork, Paces
from pgrunbook.database.vitals import look
from pgrunbook.online.batches import BatchProgress, run_batches
from pgrunbook.procedures import monitor_views
from safe_forms_stage import Stage
from test_batches import PLUS_ONE

KEY = {"run_id": "run_1", "migration": "00:01 'odd' 🐘", "direction": "up", "file_sha256": "f" * 64, "plan_digest": "d"}
STEP = {"step": 2, "kind": "UPDATE", "sha256": "s"}
WHOLE = {"step": 0, "kind": "history row", "sha256": ""}
NAME = f"up:{KEY['migration']}:{KEY['file_sha256']}:2"


def loop(**facts: object) -> Loop:
    """A loop as the record has it."""
    there = {
        "name": NAME, "direction": "up", "migration": "0001_a", "step": 2, "run_id": "run_1", "rows": 100, "batches": 2,
        "last_key": ["100"], "end_key": ["400"], "age_s": 4.0, "quiet_s": 0.0,
    }  # fmt: skip
    return Loop(**{**there, **facts})  # type: ignore[arg-type]


@pytest.mark.first_case
def test_a_loop_at_work_is_told_with_its_run_and_pace(stage: Stage) -> None:
    """It is there from its first batch to its last; the second look tells how long it will take."""
    step_log.create(stage.conn)
    step_log.write(stage.conn, KEY, "intended", [STEP])
    seen, paces = [], Paces()

    def at(progress: BatchProgress) -> None:
        if progress.batches in (2, 4):
            with stage.session() as other:
                seen.append(look(other, paces))

    run_batches(stage.conn, PLUS_ONE, resume_from=NAME, on_batch=at)
    first, second = (one.own.loops[0] for one in seen)
    assert (first.run_id, first.migration, first.step, first.direction) == ("run_1", KEY["migration"], 2, "up")
    assert (first.rows, second.rows, second.batches, first.left_s) == (59, 119, 4, None)
    assert second.rows_per_s > 0
    assert second.left_s is not None
    assert second.left_s > 0
    told = repr(monitor_views.screen(seen[1]))
    assert f"{KEY['migration']}, step 2" in told
    assert "119 rows in 4 batches" in told
    assert " left" in told
    assert seen[1].numbers()["batch_rows_per_s"] == round(second.rows_per_s, 1)
    assert look(stage.conn).own.loops == ()


def test_a_pause_is_told_as_long_as_it_holds(stage: Stage) -> None:
    """With who asks for it, and why."""
    step_log.create(stage.conn)
    step_log.write(stage.conn, KEY, "intended", [STEP])
    control.ask(stage.conn, Command.PAUSE, "a standby lags")
    seen: list[str] = []

    def pause(_: control.Order) -> None:
        with stage.session() as other:
            seen.append(repr(monitor_views.screen(look(other))))
            control.withdraw(other)

    run_batches(stage.conn, PLUS_ONE, resume_from=NAME, on_pause=pause)
    assert "batches stand still" in seen[0]
    assert "postgres asks batches to pause: a standby lags" in seen[0]


def test_the_last_migrations_are_told_the_newest_first(stage: Stage) -> None:
    """At most five of them, applied or taken back."""
    step_log.create(stage.conn)
    for number in range(6):
        step_log.write(stage.conn, {**KEY, "migration": f"000{number}"}, "done", [WHOLE])
    step_log.write(stage.conn, {**KEY, "migration": "0005", "direction": "down", "run_id": "run_2"}, "done", [WHOLE])
    found = own_work.read(stage.conn).migrations
    assert [(one.migration, one.direction, one.run_id) for one in found] == [
        ("0005", "down", "run_2"), *((f"000{number}", "up", "run_1") for number in (5, 4, 3, 2)),
    ]  # fmt: skip
    told = repr(monitor_views.screen(look(stage.conn)))
    assert "Last migrations" in told
    assert "taken back" in told


def test_a_database_without_a_record_has_nothing_to_tell(stage: Stage) -> None:
    """And nothing is created there."""
    stage.conn.execute("DROP SCHEMA IF EXISTS pgrunbook CASCADE")
    assert own_work.read(stage.conn) == OwnWork()
    assert stage.conn.execute("SELECT to_regnamespace('pgrunbook')").fetchone() == (None,)


def test_a_record_of_somebody_else_is_not_read(stage: Stage) -> None:
    """A view in its place would run their code with our rights; the rest of the look is there."""
    step_log.create(stage.conn)
    stage.conn.execute("DROP ROLE IF EXISTS mallory_own_work")
    stage.conn.execute("CREATE ROLE mallory_own_work")
    try:
        stage.conn.execute("ALTER TABLE pgrunbook.step OWNER TO mallory_own_work")
        with stage.session() as other:
            seen = look(other)
        assert any(one.startswith("runs of pgrunbook: cannot use schema pgrunbook") for one in seen.unseen)
        assert seen.own == OwnWork()
        assert seen.sessions
    finally:
        stage.conn.execute("DROP TABLE pgrunbook.step")
        stage.conn.execute("DROP ROLE mallory_own_work")


def test_a_role_that_may_not_read_the_record_is_told_so(stage: Stage) -> None:
    """As one that only has pg_monitor."""
    step_log.create(stage.conn)
    stage.conn.execute("DROP ROLE IF EXISTS watcher_own_work")
    stage.conn.execute("CREATE ROLE watcher_own_work")
    try:
        with stage.session() as other:
            other.execute("SET ROLE watcher_own_work")
            seen = look(other)
        assert any(one.startswith("runs of pgrunbook: ") for one in seen.unseen)
    finally:
        stage.conn.execute("DROP ROLE watcher_own_work")


@pytest.mark.parametrize(
    ("before", "now", "end", "is_known"),
    [
        ("100", "200", "400", True),
        ("-5", "0.5", "7.25", True),
        ("00000000-0000-0000-0000-000000000000", "7fffffff-ffff-ffff-ffff-ffffffffffff", "f" * 32, True),
        ("2026-01-01", "2026-02-01", "2026-03-01", True),
        ("2026-01-01 00:00:00+00", "2026-01-01 01:00:00+00", "2026-01-01 09:00:00+00", True),
        ("a", "b", "z", False),
        ("NaN", "NaN", "Infinity", False),
        ("100", "100", "400", False),  # no batch meanwhile
    ],
)
def test_what_is_left_is_told_by_keys_of_which_one_can_tell_how_far_they_are(
    before: str, now: str, end: str, *, is_known: bool
) -> None:
    """Numbers, UUIDs and times; of texts nobody knows how many lie between."""
    paces = Paces()
    paces.of([loop(last_key=[before], end_key=[end])])
    time.sleep(0.01)
    (found,) = paces.of([loop(last_key=[now], end_key=[end], rows=150)])
    assert (found.left_s is not None) is is_known
    assert found.rows_per_s > 0


def test_a_loop_that_began_anew_has_no_rate_below_zero() -> None:
    """Its rows are fewer than at the look before."""
    paces = Paces()
    paces.of([loop(rows=500)])
    (found,) = paces.of([loop(rows=10, age_s=1.0)])
    assert (found.rows_per_s, found.left_s) == (10.0, None)


def test_a_loop_whose_run_is_gone_is_told_to_be_quiet() -> None:
    """Its rate counts for nothing."""
    own = OwnWork(loops=(loop(age_s=900.0, quiet_s=880.0, rows_per_s=5.0),))
    assert "no batch for 15 min: pgrunbook runs tells" in repr(monitor_views.runs(own))


def test_migrations_that_ended_later_than_the_look_ended_now(stage: Stage) -> None:
    """The clock of the server may be ahead of ours."""
    step_log.create(stage.conn)
    step_log.write(stage.conn, KEY, "done", [WHOLE])
    seen = look(stage.conn)
    (one,) = seen.own.migrations
    assert one.ended_at.tzinfo is not None
    for seconds, told in ((-5, "0.0 s ago"), (0, "0.0 s ago"), (90, "90 s ago")):
        assert told in repr(monitor_views.migrations(replace(seen, at=one.ended_at + timedelta(seconds=seconds))))


def test_the_error_of_a_lost_connection_is_not_swallowed(stage: Stage) -> None:
    """Only what cannot be read is passed over."""
    with stage.session() as other:
        other.close()
        with pytest.raises(psycopg.Error):
            look(other)
