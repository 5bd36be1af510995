"""notebooks/purge.ipynb: what is kept is purged, but not while it is needed, and the record is right."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from acting import cells, completed, error, events, newest_run, outputs, pgrunbook, run, wait_until
from conftest import connect, do, rows
from pgrunbook import history as histories
from pgrunbook import undo_data
from pgrunbook.config.targets import Target
from pgrunbook.database import locks, step_log
from pgrunbook.errors import Blocked, Interrupted, Refused, Unreachable, WrongInput
from pgrunbook.execute import purge as purging
from pgrunbook.execute.purge import PurgeItem
from pgrunbook.procedures import purge, undo_data_views
from pgrunbook.record.journal import read
from pgrunbook.record.run import Status
from pgrunbook.runner import runbook
from pgrunbook.session import session as heres
from pgrunbook.session.session import Session
from pgrunbook.undo_data import StepKey, UndoEntry, capture_statement, list_entries
from scenes import RUN, error_of, interrupted_when, kill, session

Project = Callable[..., Target]
FOLDER = {
    "0001_a.sql": "CREATE TABLE a (id int PRIMARY KEY, b text);"
    "CREATE TABLE child (id int PRIMARY KEY, a int REFERENCES a ON DELETE CASCADE);"
    "INSERT INTO a SELECT i, 'b' || i FROM generate_series(1, 20) AS i; INSERT INTO child SELECT i, i FROM a AS i (i);",
    "0002_b.sql": "UPDATE a SET b = 'x';",
    "0003_c.sql": "SELECT 1;",
}
UPDATE = "UPDATE a SET b = 'x' WHERE id > 2"
POINT = f"before_{RUN}"


@pytest.fixture
def target(project: Project) -> Target:
    """A target whose migrations 0001 and 0002 are applied, with a restore point of the run that did it."""
    target = project(folder=FOLDER)
    apply(target, 2)
    with connect(target, purpose="test") as conn:
        step_log.create(conn)
        step_log.write_restore_point(conn, POINT, RUN, "0/1", "0001_a")
    return target


@pytest.fixture(autouse=True)
def leave() -> Iterator[None]:
    """End what a test began in this process."""
    yield
    heres._end_earlier()


def apply(target: Target, most: int) -> None:
    """Apply pending migrations as another tool would."""
    with connect(target, purpose="test") as conn:
        history = histories.read(conn, target)
        for statement in histories.prepare_table(history):
            conn.execute(statement)
        for migration in history.pending()[:most]:
            conn.execute(migration.sql.encode())
            conn.execute(*histories.record(history, migration))


def keep(
    target: Target,
    statement: str = UPDATE,
    migration: str = "0002_b",
    *,
    direction: str = "up",
    step: int = 1,
    days: float | None = 30,
) -> int:
    """Keep what a statement changes, for some days from now; return its number."""
    until = None if days is None else datetime.now(UTC) + timedelta(days=days)
    with connect(target, purpose="test") as conn:
        with conn.transaction():
            conn.execute(capture_statement(conn, statement, StepKey(RUN, migration, direction, step), keep_until=until))
        return max(kept.id for kept in list_entries(conn) if kept.part_of is None)


def mark(target: Target, number: int, state: str) -> None:
    do(target, f"UPDATE pgrunbook.kept SET state = '{state}' WHERE id = {number}")


def states(target: Target) -> dict[int, str]:
    """Return the state of each thing, as the database has it; what is purged has no side table any more."""
    found = rows(target, "SELECT id, state, to_regclass('pgrunbook.' || kept_as) IS NULL FROM pgrunbook.kept")
    assert all(gone == (state == "purged") for _, state, gone in found)
    return {int(str(number)): str(state) for number, state, _ in found}


def up_to_the_drop(**given: object) -> Session:
    """Step through the notebook in this process, up to what goes."""
    here = purge.begin(target="demo", **given)
    purge.meet_the_target(here)
    purge.what_is_captured(here)
    purge.what_goes(here)
    return here


def names(target: Target, number: int) -> str:
    (row,) = rows(target, f"SELECT kept_as FROM pgrunbook.kept WHERE id = {number}")
    return str(row[0])


def test_what_nobody_needs_goes_and_the_rest_stays(target: Target) -> None:
    """Over its time, given back, named: each is dropped with an event; what is needed is not touched."""
    over, back, gone, needed = keep(target, days=-1), keep(target, step=2), keep(target, step=3), keep(target, step=4)
    mark(target, back, "given back")
    mark(target, gone, "given back")
    made, code = run("purge")
    assert (code, made.status, completed(made)) == (0, Status.DONE, True)
    assert states(target) == {over: "purged", back: "purged", gone: "purged", needed: "kept"}
    assert [e["id"] for e in events(made, "dropped")] == [gone, back, over]
    assert [e["id"] for e in events(made, "drop-started")] == [gone, back, over]
    shown = outputs(made, "what-is-captured")
    assert [line.split()[0] for line in shown.splitlines()[1:]] == ["stays", "goes", "goes", "goes"]
    for told in ("its retention is over", "reverted or reapplied"):
        assert told in outputs(made, "what-goes")
    assert "rows updated (b) of public.a" in shown
    assert f"0002_b can only be taken back by restore point {POINT}" in shown
    assert made.parts[0].says.startswith("3 items are purged, ")
    assert made.parts[0].says.endswith("freed; 1 item is still kept (41 kB).")
    told = outputs(made, "verdict")
    assert f"0002_b only by: restore point {POINT}" in told
    assert (made.folder / "what-is-captured.csv").read_text().count("\n") == 5
    assert (made.folder / "purge-it.csv").read_text().count("dropped") == 3


@pytest.mark.slow
def test_what_is_still_needed_is_refused(target: Target) -> None:
    """The whole text; only with force it goes, and the verdict says what is left as a way back."""
    one, other = keep(target), keep(target, step=2, days=None)
    with connect(target, purpose="test") as conn:
        until = undo_data_views.until(list_entries(conn)[1])
    made, code = run("purge", everything="true")
    assert (code, made.status, cells(made)["what-goes"]) == (3, Status.REFUSED, "failed")
    loss = f"0002_b can only be taken back by restore point {POINT}"
    assert error(made) == (
        "cannot purge undo data that is still needed: 2 items\n"
        f"Detail: {other} (rows updated (b) of public.a, kept until no end): {loss}; "
        f"{one} (rows updated (b) of public.a, kept until {until}): {loss}\n"
        "State: Nothing changed in the database.\n"
        "Hint: Wait until their retention is over; or purge them all the same: "
        "pgrunbook undo-data purge --target demo --all --force"
    )
    assert "everything was asked for" in outputs(made, "what-goes")
    assert states(target) == {one: "kept", other: "kept"}
    do(target, "UPDATE pgrunbook.kept SET made_at = made_at - interval '8 days'")
    assert isinstance(error_of(lambda: up_to_the_drop(older_than_days=7)), Refused)
    up_to_the_drop(older_than_days=9)

    refused = error_of(lambda: up_to_the_drop(ids=[one]))
    assert isinstance(refused, Refused)
    assert str(refused).endswith(f"pgrunbook undo-data purge --target demo --id {one} --force")
    assert states(target) == {one: "kept", other: "kept"}
    here = up_to_the_drop(ids=[one], force=True)
    purge.purge_it(here)
    assert f"0002_b only by: restore point {POINT}" in repr(purge.verdict(here))
    assert states(target) == {one: "purged", other: "kept"}
    purge.purge_it(up_to_the_drop(everything=True, force=True))
    assert states(target) == {one: "purged", other: "purged"}
    here = up_to_the_drop()
    assert repr(purge.purge_it(here)) == "Nothing was to be purged."
    assert repr(purge.verdict(here)).startswith("DONE: Nothing was purged; no undo data is left.")


def things(target: Target) -> dict[int, PurgeItem]:
    with connect(target, purpose="test") as conn:
        return {thing.id: thing for thing in purging.items(conn, histories.read(conn, target))}


def test_what_a_thing_is_needed_for_depends_on_where_its_migration_stands(target: Target) -> None:
    """Up and applied, or partly; down and not applied: needed. Otherwise nothing gives it back."""
    pending, down, again = keep(target, migration="0003_c"), *(
        keep(target, migration=name, direction="down") for name in ("0003_c", "0002_b")
    )  # fmt: skip
    told = things(target)
    assert told[pending].loss == "no rollback needs it: 0003_c is not applied"
    assert told[down].loss.startswith("what the rollback of 0003_c destroyed can only come back by a restore to a time")
    assert told[again].loss == "no migration reapplies it: 0002_b is applied again"
    assert [told[n].is_needed for n in (pending, down, again)] == [False, True, False]

    row = "INSERT INTO pgrunbook.step VALUES ('r', '0003_c', 'up', 1, 'done', 'UPDATE', '', '', '', NULL, NULL, now())"
    do(target, row)
    partly = things(target)[pending]
    assert partly.is_needed
    assert partly.loss == f"what is applied of 0003_c can only be taken back by restore point {POINT}"


def test_a_thing_that_is_being_given_back_is_never_over_its_time(target: Target) -> None:
    """A rollback that was cut off goes on with it."""
    number = keep(target, days=-1)
    assert not things(target)[number].is_needed
    mark(target, number, "giving back")
    assert things(target)[number].is_needed
    purge.purge_it(up_to_the_drop())
    assert states(target) == {number: "giving back"}


@pytest.mark.slow
def test_what_a_delete_reached_goes_with_it_and_not_alone(target: Target) -> None:
    """Both in one transaction; a part that is named, and a number that never was, are wrong use."""
    number = keep(target, "DELETE FROM a WHERE id < 5", days=-1)
    (part,) = (n for n in states(target) if n != number)
    assert str(error_of(lambda: up_to_the_drop(ids=[part]))) == (
        f"number {part} belongs to {number}\n"
        "Detail: Rows that a DELETE cascaded to in other tables are reverted, and purged, with its own rows.\n"
        f"State: Nothing changed in the database.\nHint: Name {number}, or neither."
    )
    made, code = run("purge", ids=f"{number},4711")
    assert (code, made.status) == (2, Status.FAILED)
    assert error(made) == (
        "no undo data ever had the number 4711\nState: Nothing changed in the database.\n"
        "Hint: The numbers stand in: pgrunbook undo-data list --target demo."
    )
    here = up_to_the_drop()
    assert f"rows deleted, with {number}" in repr(purge.what_is_captured(here))
    purge.purge_it(here)
    assert states(target) == {number: "purged", part: "purged"}
    assert "1 item is purged" in repr(purge.verdict(here))
    assert repr(purge.what_goes(up_to_the_drop(ids=[number]))).startswith("Nothing to purge")  # the same command again


@pytest.mark.slow
def test_who_reads_it_is_waited_for_and_named_and_the_same_run_goes_on(project: Project) -> None:
    """Nothing queues behind a drop; what was dropped stays so, is counted once, and told in the state."""
    target = project(folder=FOLDER, lock_patience_ms=200)
    apply(target, 2)
    first, second = keep(target, days=-1), keep(target, step=2, days=-1)
    with session(target, f"SELECT FROM pgrunbook.{names(target, first)}", name="nightly dump"):
        made, code = run("purge")
        assert (code, made.status, cells(made)["purge-it"]) == (1, Status.FAILED, "failed")
    lines = error(made).splitlines()
    assert lines[0].startswith(f"could not purge undo data number {first} (waited for 0.2")
    assert '("nightly dump", idle in transaction for ' in lines[1]
    assert lines[2] == f"State: Purged: {second}; still kept, unchanged: {first}."
    assert lines[3] == (
        "Hint: Wait until these sessions have ended, or end them; "
        f"then go on with this run: pgrunbook run --resume {made.run_id}."
    )
    assert states(target) == {first: "kept", second: "purged"}
    assert events(made, "drop-waits")
    assert "dropped" in outputs(made, "purge-it")

    # As if it had been killed between the server's COMMIT and its own note of it.
    lines = made.journal.path.read_text().splitlines(keepends=True)
    cut = next(n for n, line in enumerate(lines) if json.loads(line)["event"] == "dropped")
    made.journal.path.write_text("".join(lines[:cut]))
    made, code = runbook.resume(made.run_id)
    assert (code, made.status) == (0, Status.DONE)
    assert [(e["id"], e.get("told_by")) for e in events(made, "dropped")] == [(second, "the database"), (first, None)]
    assert made.parts[0].says == "2 items are purged, 82 kB freed; no undo data is left."


@pytest.mark.slow
def test_a_purge_that_was_killed_goes_on(target: Target) -> None:
    """SIGKILL to the runner while it waits for a reader: resumed, it lets go of the rest."""
    first, second = keep(target, days=-1), keep(target, step=2, days=-1)
    with session(target, f"SELECT FROM pgrunbook.{names(target, first)}"):
        with pgrunbook("run", "purge", "--target", "demo") as process:
            wait_until(lambda: (made := newest_run()) and events(made, "drop-waits"))
            process.kill()
        assert states(target) == {first: "kept", second: "purged"}
    broken = newest_run()
    assert broken is not None
    assert broken.actual_status() is Status.BROKEN_OFF
    made, code = runbook.resume(broken.run_id)
    assert (code, states(target)) == (0, {first: "purged", second: "purged"})
    assert made.parts[0].says.startswith("2 items are purged")


def waits(here: Session) -> Callable[[], bool]:
    return lambda: any(event["event"] == "drop-waits" for event in read(here.run.journal.path))


@pytest.mark.slow
def test_stopped_by_the_operator_or_by_the_server_it_says_what_is_gone(target: Target) -> None:
    """Ctrl-C, and a session that is ended: the state is the database's own."""
    number = keep(target, days=-1)
    with session(target, f"SELECT FROM pgrunbook.{names(target, number)}"):
        here = up_to_the_drop()
        with interrupted_when(waits(here)):
            stopped = error_of(lambda: purge.purge_it(here))
        assert isinstance(stopped, Interrupted)
        assert stopped.lines() == [
            "stopped while undo data was purged",
            "Detail: Somebody stopped this run; what was running in the server was cancelled.",
            f"State: Purged: nothing; still kept, unchanged: {number}.",
            "Hint: Run this cell again. It goes on with what is left.",
        ]
        here = up_to_the_drop()

        def told(_holders: object, _left_ms: float) -> None:
            kill(target, f"purge {here.run.run_id}")

        lost = error_of(lambda: with_on_wait(here, told))
        assert isinstance(lost, Unreachable)
        assert lost.lines()[0] == "lost the connection while undo data was purged"
        assert lost.lines()[2] == f"State: Purged: nothing; still kept, unchanged: {number}."
    purge.purge_it(up_to_the_drop())
    assert states(target) == {number: "purged"}


def with_on_wait(here: Session, told: Callable[[object, float], None]) -> object:
    """Purge, and be called as soon as somebody is waited for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            purging, "drop",
            lambda conn, target, thing, permit, on_wait: DROP(conn, target, thing, permit, on_wait=told),  # noqa: ARG005
        )  # fmt: skip
        return purge.purge_it(here)


DROP = purging.drop


def test_who_comes_in_between_is_met_by_bounded_attempts(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody whom looking did not show: asked for under the lock_timeout, as often as the target says."""
    target = project(folder=FOLDER, lock_patience_ms=100, attempts=2)
    apply(target, 2)
    number = keep(target, days=-1)
    monkeypatch.setattr(undo_data.registry, "LOCK_TIMEOUT_MS", 50)
    nobody = purging.lock_wait.LockWait(free=True, waited_ms=0, polls=1, holders=())
    monkeypatch.setattr(purging.lock_wait, "until_free", lambda *_, **__: nobody)
    here = up_to_the_drop()
    with session(target, f"SELECT FROM pgrunbook.{names(target, number)}"):
        told = error_of(lambda: purge.purge_it(here)).lines()
    assert told[:2] == [
        f"could not purge undo data number {number} (lock_timeout 50 ms, 2 attempts)",
        "Detail: canceling statement due to lock timeout.",
    ]
    assert states(target) == {number: "kept"}
    with connect(target, purpose="somebody else") as conn:
        undo_data.purge(conn, [number])
    assert repr(purge.purge_it(here)) == "It was purged already."
    assert "Nothing was purged" in repr(purge.verdict(here))  # what somebody else dropped is not counted as ours


def test_what_became_needed_while_it_waited_for_the_run_lock_is_refused(target: Target) -> None:
    """What was seen may be old: it is judged again when nobody else can change it."""
    number = keep(target, migration="0003_c")
    here = up_to_the_drop(everything=True)
    apply(target, 1)
    refused = error_of(lambda: purge.purge_it(here))
    assert isinstance(refused, Refused)
    assert refused.message == "cannot purge undo data that is still needed: 1 item"
    assert states(target) == {number: "kept"}


def test_another_run_at_work_is_waited_for(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run lock is taken as by all that changes the database."""
    number = keep(target, days=-1)
    here = up_to_the_drop()
    runner = locks.one_runner
    monkeypatch.setattr(locks, "one_runner", lambda target, run_id: runner(target, run_id, wait_s=0.1))
    with runner(target, "another"):
        blocked = error_of(lambda: purge.purge_it(here))
    assert isinstance(blocked, Blocked)
    assert blocked.message == 'another run is in progress on target "demo"'
    assert states(target) == {number: "kept"}


@pytest.mark.slow
def test_a_refusal_of_the_server_is_told(target: Target) -> None:
    """Whatever keeps PostgreSQL from dropping it; nothing is half dropped."""
    number = keep(target, "DELETE FROM a WHERE id < 5", days=-1)
    (part,) = (n for n in states(target) if n != number)
    do(target, f"CREATE VIEW public.seen AS SELECT * FROM pgrunbook.{names(target, part)}")
    told = error_of(lambda: purge.purge_it(up_to_the_drop())).lines()
    assert told[0].startswith("could not purge undo data: cannot drop table pgrunbook.kept_")
    assert told[-2] == f"State: Purged: nothing; still kept, unchanged: {number}."
    assert states(target) == {number: "kept", part: "kept"}


def test_without_a_list_there_is_nothing_to_let_go(project: Project) -> None:
    """A database that pgrunbook has never changed, and a number in it."""
    target = project(folder=FOLDER)
    here = purge.begin(target="demo")
    assert repr(purge.what_is_captured(here)) == "No undo data is kept in this database."
    assert isinstance(error_of(lambda: up_to_the_drop(ids=[1])), WrongInput)
    assert rows(target, "SELECT to_regnamespace('pgrunbook')") == [(None,)]


def test_all_five_kinds_are_told(target: Target) -> None:
    """Rows, columns and tables, each with what it is of and how many rows it holds."""
    keep(target)
    with connect(target, purpose="test") as conn:
        (kept,) = list_entries(conn)
        told = [
            undo_data_views.what(replace(kept, kind=kind)) for kind in ("update", "delete", "insert", "column", "table")
        ]
        assert told == ["rows updated (b)", "rows deleted", "rows inserted", "column b", "table"]
        assert undo_data_views.rows_of(conn, kept) == "18"
        assert counted(conn, kept, rows_estimate=1_000) == "about 1,000"
        assert counted(conn, kept, bytes=10**9) == counted(conn, kept, kind="table") == "not counted"
        undo_data.purge(conn, [kept.id])
        assert undo_data_views.rows_of(conn, kept) == "not counted"
    assert (
        str(undo_data_views.state(replace(kept, state="giving back", rows_given_back=7))) == "reverting (7 rows so far)"
    )


def counted(conn: undo_data.registry.Connection, kept: UndoEntry, **changes: object) -> str:
    return undo_data_views.rows_of(conn, replace(kept, **changes))  # type: ignore[arg-type]
