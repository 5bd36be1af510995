"""The control row: loops of batches that are at work pause, go on and end as it says."""

from __future__ import annotations

import threading

import psycopg
import pytest

from pgrunbook.database import control
from pgrunbook.database.control import Command, Obedience, Order, ask, standing, withdraw
from pgrunbook.errors import Blocked, Interrupted, Refused
from pgrunbook.online.batches import BatchProgress, run_batches
from safe_forms_stage import Stage
from test_batches import PLUS_ONE


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often: nobody waits half a second here."""
    monkeypatch.setattr(control, "LOOK_S", 0.02)


def test_loop_pauses_while_it_is_asked_to_and_then_goes_on(stage: Stage) -> None:
    """It holds no lock and no transaction meanwhile, and says who asks for it and why."""
    told: list[tuple[Order, str]] = []
    batches: list[BatchProgress] = []

    def pause(order: Order) -> None:
        with stage.session() as other:
            (state,) = other.execute(
                "SELECT state FROM pg_stat_activity WHERE pid = %s", [stage.conn.info.backend_pid]
            ).fetchone() or ("",)
            told.append((order, str(state)))
            other.execute("BEGIN; LOCK t IN ACCESS EXCLUSIVE MODE NOWAIT; COMMIT")
            withdraw(other)

    def at(progress: BatchProgress) -> None:
        batches.append(progress)
        if progress.batches == 2:
            threading.Event().wait(0.03)  # the loop looks again
            with stage.session() as other:
                ask(other, Command.PAUSE, "a standby lags")

    done = run_batches(stage.conn, PLUS_ONE, resume_from="one", on_batch=at, on_pause=pause)
    assert (done.is_done, done.rows, batches[-1].batches) == (True, 199, 7)
    assert told == [(Order(Command.PAUSE, "a standby lags", "postgres"), "idle")]


def test_pause_ends_by_itself_when_nobody_renews_it(stage: Stage) -> None:
    """A monitor that dies stops nobody for longer than its lease."""
    ask(stage.conn, Command.PAUSE, "a standby lags", lease_s=0.1)
    assert run_batches(stage.conn, PLUS_ONE, resume_from="one").rows == 199


def test_pause_that_does_not_end_blocks_the_run(stage: Stage) -> None:
    """After a time that is bounded; the full text says by whom and why."""
    ask(stage.conn, Command.PAUSE, "replica_1 lags")
    with pytest.raises(Blocked) as caught:
        Obedience(stage.conn, at_most_s=0).now()
    assert str(caught.value) == (
        "batches were paused for 0 s, and postgres still asks for it\n"
        "Detail: replica_1 lags.\n"
        "State: Nothing changed in the database.\n"
        "Hint: Mend what that names, then go on with this run."
    )


def test_abort_ends_the_loop_behind_the_last_commit_and_it_can_go_on(stage: Stage) -> None:
    """What was committed stays; a pause that is asked for meanwhile does not weaken it."""

    def at(progress: BatchProgress) -> None:
        if progress.batches == 2:
            threading.Event().wait(0.03)
            with stage.session() as other:
                ask(other, Command.ABORT, "the disk is full", lease_s=0.3)
                ask(other, Command.PAUSE, "a standby lags")

    with pytest.raises(Interrupted) as caught:
        run_batches(stage.conn, PLUS_ONE, resume_from="one", on_batch=at)
    assert str(caught.value) == (
        "the run was aborted by postgres, between two batches\n"
        "Detail: the disk is full.\n"
        "State: Nothing changed in the database.\n"
        "Hint: Mend what that names, then go on with this run: a monitor that still sees it aborts again."
    )
    assert stage.conn.execute("SELECT rows FROM pgrunbook.batch").fetchone() == (59,)
    threading.Event().wait(0.3)  # its lease
    assert run_batches(stage.conn, PLUS_ONE, resume_from="one").rows == 199


def test_abort_is_for_those_who_were_at_work_and_not_for_the_run_that_goes_on(stage: Stage) -> None:
    """It holds for half a minute yet; where it is given once more, whoever goes on is aborted too."""
    ask(stage.conn, Command.ABORT, "the disk is full")
    with pytest.raises(Interrupted):
        Obedience(stage.conn).now()
    with stage.session() as later:
        Obedience(later).now()
        ask(stage.conn, Command.ABORT, "the disk is full")
        with pytest.raises(Interrupted):
            Obedience(later).now()


def test_no_table_of_commands_is_no_command(stage: Stage) -> None:
    """Databases where nobody ever gave one; withdrawing finds nothing, and creates nothing."""
    withdraw(stage.conn)
    assert standing(stage.conn) is None
    assert stage.conn.execute("SELECT to_regclass('pgrunbook.control')").fetchone() == (None,)


def test_command_of_somebody_else_is_not_obeyed(stage: Stage) -> None:
    """A table that another role has planted is refused, as all of a schema that is not ours."""
    ask(stage.conn, Command.PAUSE, "ours")
    stage.conn.execute("DROP ROLE IF EXISTS mallory_control")
    stage.conn.execute("CREATE ROLE mallory_control")
    try:
        stage.conn.execute("ALTER TABLE pgrunbook.control OWNER TO mallory_control")
        with stage.session() as other, pytest.raises(Refused, match=r"pgrunbook\.control belongs to mallory_control"):
            Obedience(other).now()
    finally:
        stage.conn.execute("DROP TABLE pgrunbook.control")
        stage.conn.execute("DROP ROLE mallory_control")


def test_unknown_command_cannot_be_written(stage: Stage) -> None:
    """The server refuses it: what a loop reads is one of two words."""
    ask(stage.conn, Command.PAUSE, "ours")
    with pytest.raises(psycopg.errors.CheckViolation):
        stage.conn.execute("UPDATE pgrunbook.control SET command = 'faster'")
