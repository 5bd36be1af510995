"""Executing a plan on a real server: what is done once stays done once, whatever happens between."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import connect, do, rows
from permits import permitted
from pgrunbook import history as histories
from pgrunbook.branches.server import Server
from pgrunbook.config import targets
from pgrunbook.config.targets import Target
from pgrunbook.database import locks, step_log
from pgrunbook.errors import Blocked, Broken, Interrupted, RecordFailed, Refused, StatementFailed, Unreachable
from pgrunbook.execute import lock_requests
from pgrunbook.execute.events import EventLog
from pgrunbook.execute.execution import Execution
from pgrunbook.execute.results import StepResult, StepState
from pgrunbook.record.journal import Journal
from scenes import (
    RUN,
    error_of,
    events,
    execute,
    interrupted_when,
    is_at,
    journal_of,
    kill,
    meanwhile,
    plan_of,
    session,
    until,
    waits,
)

Project = Callable[..., Target]
HISTORY = "SELECT version FROM schema_migrations ORDER BY version"
STEPS = "SELECT migration, step, state, kind FROM pgrunbook.step ORDER BY migration, step"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other at once."""
    monkeypatch.setattr(lock_requests, "FIRST_PAUSE_S", 0.05)


def versions(target: Target) -> list[object]:
    return [version for (version,) in rows(target, HISTORY)]


def tables(target: Target) -> set[object]:
    return {name for (name,) in rows(target, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}


def states(results: list[StepResult]) -> list[StepState]:
    return [result.state for result in results]


# -- what is committed together


def test_a_migration_and_its_history_row_are_committed_in_one_transaction(project: Project) -> None:
    """Rows of the migration, of the history table and of our record carry the same transaction id."""
    target = project(folder={"0001_a.sql": "CREATE TABLE a (id int);\nINSERT INTO a VALUES (1), (2);"})
    results = execute(target)
    assert states(results) == [StepState.DONE, StepState.DONE]
    assert [r.rows for r in results] == [None, 2]
    xids = rows(
        target,
        "SELECT DISTINCT x::text FROM (SELECT xmin AS x FROM a UNION SELECT xmin FROM schema_migrations"
        " UNION SELECT xmin FROM pgrunbook.step UNION SELECT transaction_id::xid FROM pgrunbook.step) t",
    )
    assert len(xids) == 1
    assert rows(target, STEPS) == [
        ("0001_a", 1, "done", "CREATE TABLE"),
        ("0001_a", 2, "done", "INSERT"),
        ("0001_a", 3, "done", "history row"),
    ]


def test_a_migration_without_a_statement_gets_its_history_row(project: Project) -> None:
    """An empty file and one of comments are applied, and not tried again."""
    target = project(folder={"0001_a.sql": "", "0002_b.sql": "-- nothing to do\n", "0003_c.sql": "SELECT 1"})
    execute(target)
    assert versions(target) == ["0001_a", "0002_b", "0003_c"]
    assert execute(target, plan_of(target)) == []


def test_the_journal_tells_intent_before_and_outcome_after(project: Project) -> None:
    """Each step stands in the journal before it is sent and after it ran; the commit after both."""
    target = project(folder={"0001_a.sql": "CREATE TABLE a ()"})
    plan = plan_of(target)
    execute(target, plan)
    told = [
        (e["event"], e.get("step"))
        for e in events(target, "migration-started", "step-started", "step-ran", "committed")
    ]
    assert told == [("migration-started", None), ("step-started", 1), ("step-ran", 1), ("committed", None)]
    (committed,) = events(target, "committed")
    assert (committed["steps"], committed["whole_migration"]) == ([1], True)
    assert events(target, "step-started")[0]["sha256"] == plan.changes[0].steps[0].sha256


def test_notices_are_kept(project: Project) -> None:
    """What the server remarks on stands in the result and in the journal, and a flood of it is cut."""
    text = (
        "DROP TABLE IF EXISTS gone;\nDO $$ BEGIN RAISE WARNING 'look at %', 'this'; END $$;\n"
        "DO $$ BEGIN FOR i IN 1..200 LOOP RAISE NOTICE 'n%', i; END LOOP; END $$"
    )
    target = project(folder={"0001_a.sql": text})
    first, second, third = execute(target)
    assert first.notices == ('table "gone" does not exist, skipping',)
    assert second.notices == ("WARNING: look at this",)
    assert (len(third.notices), third.notices[-1]) == (51, "(only the first 50 notices are kept)")
    assert events(target, "step-ran")[0]["notices"] == list(first.notices)


def test_nothing_runs_that_cannot_be_recorded(project: Project) -> None:
    """Where the journal cannot be written, the migration is aborted."""
    target = project(folder={"0001_a.sql": "CREATE TABLE a ()"})
    plan = plan_of(target)
    journal_of(target).mkdir()
    assert isinstance(error_of(lambda: execute(target, plan)), RecordFailed)
    assert "a" not in tables(target)
    assert versions(target) == []


# -- failing


def test_a_failing_statement_in_the_middle_leaves_the_migrations_before_it(project: Project) -> None:
    """Earlier migrations stay applied, the failing one is not applied at all, later ones are not begun."""
    target = project(
        folder={
            "0001_a.sql": "CREATE TABLE a ()",
            "0002_b.sql": "CREATE TABLE b (id int);\n\nINSERT INTO b VALUES (1);\nINSERT INTO b VALUES (1/(SELECT 0));",
            "0003_c.sql": "CREATE TABLE c ()",
        }
    )
    error = error_of(lambda: execute(target))
    assert isinstance(error, StatementFailed)
    assert str(error) == (
        "could not run step 3 of 0002_b (INSERT; 0002_b.sql, line 4): division by zero\n"
        "State: 0002_b was aborted as a whole: nothing of it is applied. Applied by this run before it: 0001_a.\n"
        "Hint: Correct the migration, and start a new run: its plan will have another digest."
    )
    assert (versions(target), tables(target)) == (["0001_a"], {"a", "schema_migrations"})
    (failed,) = events(target, "step-failed")
    assert (failed["step"], failed["kind"], failed["error"]) == (3, "StatementFailed", error.lines())


def test_the_results_of_a_failure_say_how_far_it_came(project: Project) -> None:
    """The step that failed is failed, the one before it ran, the one behind it waits still."""
    target = project(folder={"0001_a.sql": "CREATE TABLE a (); SELECT 1/0; SELECT 2"})
    seen: list[Execution] = []
    error_of(lambda: execute(target, seen=seen.append))
    assert states(seen[0].results) == [StepState.RAN, StepState.FAILED, StepState.WAITING]


def test_a_constraint_that_fails_at_commit_is_told_as_such(project: Project) -> None:
    """A deferred constraint fails when every step has run: no step is blamed, and nothing is applied."""
    target = project(
        folder={
            "0001_a.sql": "CREATE TABLE a (id int PRIMARY KEY);\n"
            "CREATE TABLE b (a int REFERENCES a DEFERRABLE INITIALLY DEFERRED);\nINSERT INTO b VALUES (7)"
        }
    )
    error = error_of(lambda: execute(target))
    assert str(error) == (
        'could not commit 0001_a: insert or update on table "b" violates foreign key constraint "b_a_fkey"\n'
        'Detail: Key (a)=(7) is not present in table "a".\n'
        "State: 0001_a was aborted as a whole: nothing of it is applied.\n"
        "Hint: Correct the migration, and start a new run: its plan will have another digest."
    )
    assert tables(target) == {"schema_migrations"}


def test_a_statement_that_takes_too_long_is_cancelled(project: Project) -> None:
    """The plan's statement_timeout ends it, and the error says which limit that was."""
    target = project(folder={"0001_a.sql": "CREATE TABLE a (); SELECT pg_sleep(60)"}, statement_timeout_ms=200)
    error = error_of(lambda: execute(target))
    assert str(error) == (
        "step 2 of 0001_a (SELECT; 0001_a.sql, line 1) did not end within its statement_timeout (200 ms)\n"
        "Detail: canceling statement due to statement timeout\n"
        "State: 0001_a was aborted as a whole: nothing of it is applied.\n"
        "Hint: Raise statement_timeout_ms, or split the statement into smaller ones; then start a new run."
    )
    assert tables(target) == {"schema_migrations"}


def test_a_cancel_by_somebody_else_is_not_taken_for_the_timeout(project: Project) -> None:
    """pg_cancel_backend has the same SQLSTATE as the timeout, and another way out."""
    target = project(folder={"0001_a.sql": "SELECT pg_sleep(60)"})
    with meanwhile(lambda: error_of(lambda: execute(target))) as running:
        until(is_at(target, "pg_sleep(60)"))
        do(
            target,
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
            " WHERE query = 'SELECT pg_sleep(60)' AND datname = current_database()",
        )
        error = running.result()
    assert error.message == "step 1 of 0001_a (SELECT; 0001_a.sql, line 1) was cancelled in the server"
    assert error.hint == ("Somebody called pg_cancel_backend: find out who, then run this cell again.")


def test_a_history_table_that_cannot_be_made_is_told(project: Project) -> None:
    """Without the right to create it, one error names the table."""
    target = project(folder={"0001_a.sql": "SELECT 1"}, history_schema="kept", history_table="done")
    with connect(target) as conn:
        history = histories.read(conn, target)
        plan = plan_of(target)
        conn.execute(f"CREATE ROLE limited; GRANT CREATE ON DATABASE {target.database} TO limited")
        conn.execute("SET ROLE limited")
        step_log.create(conn)
        conn.execute(f"RESET ROLE; REVOKE CREATE ON DATABASE {target.database} FROM limited; SET ROLE limited")
        work = Execution(plan, target, RUN, conn, history, Journal(journal_of(target)), permitted(plan, RUN, conn))
        error = error_of(work.run)
        conn.execute("RESET ROLE; DROP OWNED BY limited; DROP ROLE limited")
    assert str(error) == (
        "could not create the history table kept.done\n"
        f"Detail: permission denied for database {target.database}\n"
        "State: Nothing changed in the database.\n"
        "Hint: GRANT the missing privilege to the role of this target."
    )


def test_an_edited_file_is_refused(project: Project) -> None:
    """The plan's text and the file's hash in the history table must be of the same file."""
    target = project(folder={"0001_a.sql": "CREATE TABLE a ()"})
    plan = plan_of(target)
    (target.migrations / "0001_a.sql").write_text("CREATE TABLE b ()")
    error = error_of(lambda: execute(target, plan))
    assert isinstance(error, Refused)
    assert str(error) == (
        "0001_a was edited since the plan was made\n"
        "Detail: The statements come from the plan, but the row in the history table comes from the file.\n"
        "State: Nothing changed in the database.\n"
        "Hint: Put the file back as it was, or start a new run, whose plan is made of the new text."
    )
    (target.migrations / "0001_a.sql").rename(target.migrations / "0002_b.sql")
    assert error_of(lambda: execute(target, plan)).message == "0001_a was removed since the plan was made"
    assert tables(target) == set()


def test_a_history_row_that_is_gone_meanwhile_stops_the_way_back(project: Project) -> None:
    """The DELETE of the history row must hit exactly one; else the migration is aborted."""
    target = project(folder={"0001_a.sql": "CREATE TABLE a ()", "0001_a.down.sql": "DROP TABLE a"})
    execute(target)
    plan = plan_of(target, direction="down")
    error = error_of(lambda: execute(target, plan, seen=lambda _: do(target, "DELETE FROM schema_migrations")))
    assert isinstance(error, Broken)
    assert str(error) == (
        "could not write exactly one row of 0001_a in public.schema_migrations\n"
        "Detail: Somebody else changed the history table while this run was at work.\n"
        "State: 0001_a was aborted as a whole: nothing of it is taken back.\n"
        "Hint: Check the history table; then start a new run."
    )
    assert "a" in tables(target)


# -- locks


@pytest.mark.slow
def test_a_lock_that_is_not_to_be_had_is_asked_for_a_bounded_number_of_times(project: Project) -> None:
    """The error names who stands in the way, with process, application, state and age; nothing changed."""
    folder = {"0001_a.sql": "CREATE TABLE orders (id int)", "0002_b.sql": "ALTER TABLE orders ADD note text"}
    target = project(folder=folder, lock_timeout_ms=400, attempts=2)
    shutil.move(target.migrations / "0002_b.sql", target.migrations.parent)
    execute(target)
    shutil.move(target.migrations.parent / "0002_b.sql", target.migrations)
    with session(target, "SELECT FROM orders") as other:
        error = error_of(lambda: execute(target))
        pid = other.info.backend_pid
    assert isinstance(error, Blocked)
    assert re.sub(r"for \d+ s", "for N s", str(error)) == (
        'could not lock "orders" in 2 attempts (lock_timeout 400 ms)\n'
        f'Detail: Process {pid} ("billing", idle in transaction for N s) heads the lock queue for public.orders.\n'
        "State: 0002_b was aborted as a whole: nothing of it is applied.\n"
        "Hint: End the first process of the lock queue or wait for it, then run this cell again."
    )
    attempts = events(target, "attempt-failed")
    assert [(a["attempt"], a["of"], a["sqlstate"], a["step"]) for a in attempts] == [
        (1, 2, "55P03", 1),
        (2, 2, "55P03", 1),
    ]
    assert all(str(pid) in str(a["blockers"]) for a in attempts)
    assert versions(target) == ["0001_a"]
    assert states(execute(target)) == [StepState.DONE]


@pytest.mark.slow
def test_it_goes_on_when_the_blocker_goes_away_in_time(project: Project) -> None:
    """The second attempt has the lock; the result says how long it waited and for whom."""
    target = project(folder={"0001_a.sql": "ALTER TABLE orders ADD note text"}, lock_timeout_ms=1000, attempts=20)
    do(target, "CREATE TABLE orders (id int)")
    with session(target, "LOCK TABLE orders") as other, meanwhile(lambda: execute(target)) as running:
        pid = other.info.backend_pid
        until(lambda: events(target, "attempt-failed"))
        other.execute("ROLLBACK")
        (result,) = running.result()
    assert result.state is StepState.DONE
    assert result.attempt > 1
    assert result.waited_ms > 0
    assert f"Process {pid}" in result.blockers
    assert {stretch.kind for stretch in result.stretches} == {"running", "waiting"}


@pytest.mark.slow
def test_the_victim_of_a_deadlock_tries_again(project: Project) -> None:
    """40P01 is retried like a lock timeout; the whole transaction runs again, and once only counts."""
    target = project(
        folder={
            "0001_a.sql": "INSERT INTO log VALUES (1); LOCK TABLE one; SELECT pg_advisory_xact_lock(1); LOCK TABLE two"
        },
        lock_timeout_ms=20_000,
    )
    do(target, "CREATE TABLE one (); CREATE TABLE two (); CREATE TABLE log (n int)")
    with session(target, "SELECT pg_advisory_xact_lock(1)", "LOCK TABLE two") as other:
        other.execute("SET deadlock_timeout = '1h'")  # so that the victim is the migration
        with meanwhile(lambda: execute(target)) as running:
            until(waits(target))
            other.execute("SELECT pg_advisory_lock(2)")
            with meanwhile(lambda: other.execute("LOCK TABLE one")):
                until(lambda: events(target, "attempt-failed"))
            other.execute("ROLLBACK")
            assert set(states(running.result())) == {StepState.DONE}
    assert events(target, "attempt-failed")[0]["sqlstate"] == "40P01"
    assert rows(target, "SELECT n FROM log") == [(1,)]


@pytest.mark.slow
def test_a_deadlock_without_end_is_told_as_one(project: Project) -> None:
    """With one attempt the deadlock is the error, with the server's own account of it."""
    target = project(folder={"0001_a.sql": "LOCK TABLE one; LOCK TABLE two"}, lock_timeout_ms=20_000, attempts=1)
    do(target, "CREATE TABLE one (); CREATE TABLE two ()")
    with session(target, "LOCK TABLE two") as other:
        other.execute("SET deadlock_timeout = '1h'")
        with meanwhile(lambda: error_of(lambda: execute(target))) as running:
            until(waits(target))
            with meanwhile(lambda: other.execute("LOCK TABLE one")):
                error = running.result()
    assert error.message == 'could not lock "two" in 1 attempt (deadlock)'


def test_no_client_is_the_victim_of_a_build_that_waits_for_it(project: Project) -> None:
    """A client has written, the build waits for that, and the client empties the table: the build gives way.

    Of two that wait for each other PostgreSQL cancels who looks last: the client, which came second.
    """
    target = project(folder={"0001_a.sql": "CREATE INDEX CONCURRENTLY made ON parts1 (n)"})
    do(target, "CREATE TABLE parts (n int) PARTITION BY RANGE (n)")
    do(target, "CREATE TABLE parts1 PARTITION OF parts FOR VALUES FROM (0) TO (9)")
    with (
        session(target, "INSERT INTO parts VALUES (1)") as other,
        meanwhile(lambda: execute(target)) as running,
    ):
        until(is_at(target, "CREATE INDEX CONCURRENTLY", "virtualxid"))
        other.execute("TRUNCATE parts")
        other.execute("COMMIT")
        (result,) = running.result()
    assert result.state is StepState.DONE_BEFORE  # TRUNCATE makes each index anew, and valid
    (failed,) = events(target, "attempt-failed")
    assert failed["sqlstate"] == "40P01"
    assert str(failed["message"]).startswith("gave way to a client, which waited for it. ")
    assert rows(target, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'made'::regclass") == [(True,)]


@pytest.mark.slow
def test_a_build_gives_way_to_who_keeps_others_out(project: Project) -> None:
    """All who come behind such a client wait for the build too, and it waits for those that have a snapshot."""
    target = project(folder={"0001_a.sql": "CREATE INDEX CONCURRENTLY made ON one (n)"})
    do(target, "CREATE TABLE one (n int)")
    with (
        session(target, "INSERT INTO one VALUES (1)") as writer,
        session(target, "SET LOCAL lock_timeout = 0", name="strict") as other,
        meanwhile(lambda: execute(target)) as running,
    ):
        until(is_at(target, "CREATE INDEX CONCURRENTLY", "virtualxid"))
        with meanwhile(lambda: other.execute("LOCK TABLE one")) as locking:
            until(lambda: events(target, "attempt-failed"))
            writer.execute("ROLLBACK")
            locking.result()
        other.execute("ROLLBACK")
        (result,) = running.result()
    assert (result.state, result.attempt) == (StepState.DONE, 2)


@pytest.mark.slow
def test_a_locked_history_table_is_named(project: Project) -> None:
    """The step ran, and the row of the history table could not be written: that is what the error says."""
    target = project(folder={"0001_a.sql": "CREATE TABLE a ()"}, attempts=1)
    plan = plan_of(target)
    with connect(target) as conn:
        for statement in histories.prepare_table(histories.read(conn, target)):
            conn.execute(statement)

    with session(target) as other:

        def lock(_: Execution) -> None:
            other.execute("BEGIN; LOCK TABLE schema_migrations IN SHARE MODE")

        error = error_of(lambda: execute(target, plan, seen=lock))
    assert isinstance(error, Blocked)
    assert error.message == 'could not lock "public.schema_migrations" in 1 attempt (lock_timeout)'
    assert error.state == "0001_a was aborted as a whole: nothing of it is applied."
    assert "a" not in tables(target)


def test_a_prepared_transaction_in_the_way_is_named(project: Project) -> None:
    """It has no process to end: the error says its name instead of "process 0"."""
    target = project(folder={"0001_a.sql": "ALTER TABLE orders ADD note text"}, lock_timeout_ms=400, attempts=1)
    do(target, "CREATE TABLE orders (id int)")
    with connect(target) as conn:
        if conn.execute("SHOW max_prepared_transactions").fetchone() == ("0",):
            pytest.skip("this server allows no prepared transactions")
        conn.execute("BEGIN; LOCK TABLE orders; PREPARE TRANSACTION 'half done'")
        error = error_of(lambda: execute(target))
        conn.execute("ROLLBACK PREPARED 'half done'")
    assert re.sub(r"for \d+ s", "for N s", error.detail) == (
        'A transaction without a process ("half done", prepared transaction for N s) '
        "heads the lock queue for public.orders."
    )


# -- what a migration sets


SETTINGS = {
    "0001_a.sql": "CREATE SCHEMA elsewhere; SET search_path = elsewhere; SET lock_timeout = 0;\n"
    "SET timezone = 'Asia/Tokyo'; SET LOCAL statement_timeout = 0; CREATE TABLE a ()",
    "0002_b.sql": "CREATE TABLE b AS SELECT current_setting('timezone') AS zone, current_setting('lock_timeout') AS l",
}


def test_what_a_migration_sets_does_not_reach_the_next_one(project: Project) -> None:
    """search_path, timeouts and time zone are as before, and our own rows land in their own tables."""
    target = project(folder=SETTINGS)
    zone = rows(target, "SHOW timezone")[0][0]
    execute(target)
    assert rows(target, "SELECT schemaname FROM pg_tables WHERE tablename IN ('a', 'b') ORDER BY tablename") == [
        ("elsewhere",),
        ("public",),
    ]
    assert rows(target, "SELECT zone, l FROM b") == [(zone, "2s")]
    assert versions(target) == ["0001_a", "0002_b"]


@pytest.mark.first_case
@pytest.mark.parametrize("setting", ["SET ROLE weak", "SET SESSION AUTHORIZATION weak", "SET LOCAL ROLE weak"])
@pytest.mark.parametrize("alone", ["", "VACUUM pg_catalog.pg_class;"])
def test_another_role_reaches_neither_our_rows_nor_the_next_migration(
    project: Project, setting: str, alone: str
) -> None:
    """A migration may run as a role that cannot write schema pgrunbook: our rows are written as ourselves."""
    do(
        target := project(
            folder={"0001_a.sql": f"{setting}; CREATE TABLE t.a (); {alone}", "0002_b.sql": "CREATE TABLE b ()"}
        ),
        "CREATE ROLE weak; CREATE SCHEMA t AUTHORIZATION weak",
    )
    try:
        execute(target)
        assert rows(target, "SELECT tablename, tableowner FROM pg_tables WHERE tablename IN ('a', 'b') ORDER BY 1") == [
            ("a", "weak"),
            ("b", "postgres"),
        ]
        assert versions(target) == ["0001_a", "0002_b"]
        assert {owner for (owner,) in rows(target, "SELECT DISTINCT session_user_name FROM pgrunbook.step")} == {
            "postgres"
        }
    finally:
        do(target, "DROP OWNED BY weak CASCADE; DROP ROLE weak")


@pytest.mark.slow
def test_a_setting_holds_over_the_parts_of_its_migration(project: Project) -> None:
    """A migration in several transactions keeps what it set, also when another run goes on with it."""
    text = (
        "CREATE SCHEMA s; SET search_path = s; CREATE TABLE a (n int); INSERT INTO a VALUES (1), (1);\n"
        "CREATE UNIQUE INDEX CONCURRENTLY a_n ON a (n);\nCREATE TABLE b ()"
    )
    target = project(folder={"0001_a.sql": text})
    assert isinstance(error_of(lambda: execute(target)), StatementFailed)
    do(target, "DELETE FROM s.a WHERE ctid IN (SELECT min(ctid) FROM s.a)")
    results = execute(target, run_id="another-run")
    assert states(results) == [StepState.DONE_BEFORE] * 4 + [StepState.DONE] * 2
    assert rows(target, "SELECT schemaname FROM pg_tables WHERE tablename = 'b'") == [("s",)]
    assert [e["step"] for e in events(target, "setting-restored")] == [2]


@pytest.mark.first_case
@pytest.mark.parametrize(
    ("before", "found"),
    [
        ("SET my.n = '1'; SELECT pg_catalog.set_config('My.N', '7', false)", "7"),
        ("SET my.n = '1'; RESET my.n; SET my.n TO '8'", "8"),
        ("SELECT set_config('my.n', '7', false); RESET ALL; SET my.n = '9'", "9"),
    ],
)
def test_every_way_to_set_is_repeated_in_order(project: Project, before: str, found: str) -> None:
    """Another run that goes on behind a committed part has the settings that the part ended with."""
    text = f"{before};\nVACUUM a;\nINSERT INTO b SELECT current_setting('my.n') FROM c"
    target = project(folder={"0001_a.sql": text})
    do(target, "CREATE TABLE a (n int); CREATE TABLE b (n text)")
    assert isinstance(error_of(lambda: execute(target)), StatementFailed)
    do(target, "CREATE TABLE c AS SELECT 1 AS one")
    execute(target, run_id="another-run")
    assert rows(target, "SELECT n FROM b") == [(found,)]


def test_what_was_done_beside_a_setting_is_not_done_again(project: Project) -> None:
    """Only what sets and does nothing else is repeated when another run goes on."""
    text = "INSERT INTO a SELECT 1 FROM set_config('my.n', '7', false);\nVACUUM a;\nSELECT 1 / n FROM b"
    target = project(folder={"0001_a.sql": text})
    do(target, "CREATE TABLE a (n int); CREATE TABLE b (n int); INSERT INTO b VALUES (0)")
    error_of(lambda: execute(target))
    do(target, "DELETE FROM b")
    execute(target)
    assert rows(target, "SELECT n FROM a") == [(1,)]


@pytest.mark.parametrize("text", ["SET TRANSACTION READ ONLY; SELECT 1", "SET transaction_read_only = on"])
def test_a_migration_that_makes_its_transaction_read_only_is_refused_by_the_server(project: Project, text: str) -> None:
    """Its history row could not be written: nothing of it is applied, and the error says at what it failed."""
    target = project(folder={"0001_a.sql": text, "0002_b.sql": "CREATE TABLE b ()"})
    error = error_of(lambda: execute(target))
    assert error.message == "could not record 0001_a: cannot execute INSERT in a read-only transaction"
    assert error.state == "0001_a was aborted as a whole: nothing of it is applied."


def test_defaults_for_transactions_do_not_reach_the_next_migration(project: Project) -> None:
    """default_transaction_read_only and the isolation level end with the migration that set them."""
    target = project(
        folder={
            "0001_a.sql": "SET default_transaction_read_only = on; SET default_transaction_isolation = 'serializable'",
            "0002_b.sql": "CREATE TABLE b AS SELECT current_setting('transaction_isolation') AS level",
        }
    )
    execute(target)
    assert rows(target, "SELECT level FROM b") == [("read committed",)]


def test_a_migration_that_drops_our_own_schema_is_aborted(project: Project) -> None:
    """What cannot be recorded is not applied: schema pgrunbook is as it was."""
    target = project(folder={"0001_a.sql": "CREATE TABLE a ()", "0002_b.sql": "DROP SCHEMA pgrunbook CASCADE"})
    error = error_of(lambda: execute(target))
    assert isinstance(error, StatementFailed)
    assert error.message == 'could not record 0002_b: relation "pgrunbook.batch" does not exist'
    assert error.state == (
        "0002_b was aborted as a whole: nothing of it is applied. Applied by this run before it: 0001_a."
    )
    assert len(rows(target, STEPS)) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ["ALTER TABLE schema_migrations OWNER TO heir", "ALTER SCHEMA pgrunbook OWNER TO heir"]
)
def test_a_migration_that_gives_our_tables_away_is_aborted(
    project: Project, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user of the target could not write its rows any more: what cannot be recorded is not applied."""
    target = project(folder={"0001_a.sql": "CREATE TABLE a ()", "0002_b.sql": f"CREATE TABLE b (); {text}"})
    do(
        target,
        "CREATE ROLE heir; CREATE ROLE deploy LOGIN; GRANT heir TO deploy; GRANT ALL ON SCHEMA public TO heir, deploy",
    )
    do(target, f"GRANT CREATE ON DATABASE {target.database} TO heir, deploy")
    address = target.conninfo()
    monkeypatch.setenv("ADDRESS", f"postgresql://deploy@/{address['dbname']}?host={address['host']}")
    weak = target.model_copy(update={"server": None, "database": None, "url_from": "ADDRESS"})
    try:
        (target.migrations / "0002_b.sql").rename(target.migrations.parent / "0002_b.sql")
        execute(weak)
        (target.migrations.parent / "0002_b.sql").rename(target.migrations / "0002_b.sql")
        do(target, "ALTER ROLE deploy NOINHERIT; REVOKE heir FROM deploy; GRANT heir TO deploy")
        error = error_of(lambda: execute(weak))
        assert error.message.startswith("could not record 0002_b: permission denied for ")
        assert error.state == "0002_b was aborted as a whole: nothing of it is applied."
        assert versions(target) == ["0001_a"]
        assert "b" not in tables(target)
    finally:
        do(target, "DROP OWNED BY heir, deploy CASCADE; DROP ROLE heir, deploy")


# -- statements that run alone


def test_an_index_is_built_concurrently_and_the_rest_in_transactions_around_it(project: Project) -> None:
    """Three transactions; the history row stands in the last one."""
    target = project(
        folder={
            "0001_a.sql": "CREATE TABLE a (n int);\nCREATE INDEX CONCURRENTLY a_n ON a (n);\n"
            "INSERT INTO a VALUES (1);\nVACUUM a"
        }
    )
    results = execute(target)
    assert states(results) == [StepState.DONE] * 4
    assert [kind for *_, kind in rows(target, STEPS)] == [
        "CREATE TABLE", "CREATE INDEX CONCURRENTLY", "INSERT", "VACUUM", "history row",
    ]  # fmt: skip
    assert [e["whole_migration"] for e in events(target, "committed")] == [False, False, False, False, True]
    assert versions(target) == ["0001_a"]


def test_an_index_that_a_failed_build_left_is_dropped_at_once(project: Project) -> None:
    """A unique violation leaves it invalid, and slows every write; the same run goes on once that is mended."""
    target = project(folder={"0001_a.sql": 'CREATE UNIQUE INDEX CONCURRENTLY "Odd name" ON a (n)'})
    do(target, "CREATE TABLE a (n int); INSERT INTO a VALUES (1), (1)")
    error = error_of(lambda: execute(target))
    assert str(error) == (
        "could not run step 1 of 0001_a (CREATE UNIQUE INDEX CONCURRENTLY; 0001_a.sql, line 1): "
        'could not create unique index "Odd name"\n'
        "Detail: Key (n)=(1) is duplicated.\n"
        "State: 0001_a was aborted as a whole: nothing of it is applied.\n"
        "Hint: Correct the rows that the server names, leave the file as it is, and run this cell again; "
        "or correct the migration, and start a new run."
    )
    assert rows(target, "SELECT count(*) FROM pg_index WHERE indrelid = 'a'::regclass") == [(0,)]
    do(target, "DELETE FROM a")
    assert states(execute(target)) == [StepState.DONE]
    assert rows(target, "SELECT indisvalid FROM pg_index WHERE indexrelid = '\"Odd name\"'::regclass") == [(True,)]
    assert events(target, "leftover-dropped")[0]["sql"] == 'DROP INDEX CONCURRENTLY IF EXISTS public."Odd name"'
    assert versions(target) == ["0001_a"]


def test_an_index_of_that_name_which_was_there_is_not_taken_for_ours(project: Project) -> None:
    """The server refused the step, so a valid index of the name is somebody else's, also when the run goes on."""
    target = project(folder={"0001_a.sql": "CREATE INDEX CONCURRENTLY a_n ON a (n)"})
    do(target, "CREATE TABLE a (n int, m int); CREATE INDEX a_n ON a (m)")
    for _ in range(2):
        error = error_of(lambda: execute(target))
        assert error.message.endswith('relation "a_n" already exists')
    assert versions(target) == []


def test_a_concurrent_build_that_is_killed_goes_on_with_the_next_run(project: Project) -> None:
    """pg_terminate_backend in the middle: the state is asked of the database, and the next run builds it."""
    target = project(
        folder={"0001_a.sql": "CREATE TABLE b ();\nCREATE INDEX CONCURRENTLY a_n ON a (n);\nCREATE TABLE c ()"}
    )
    do(target, "CREATE TABLE a (n int)")
    building = meanwhile(lambda: error_of(lambda: execute(target)))
    with session(target, "INSERT INTO a VALUES (1)"), building as running:  # which the build waits for
        until(waits(target))
        assert kill(target) == 1
        error = running.result()
    assert isinstance(error, Unreachable)
    assert str(error).splitlines()[0] == (
        "lost the connection in step 2 of 0001_a (CREATE INDEX CONCURRENTLY; 0001_a.sql, line 2)"
    )
    assert error.state == (
        "Of 0001_a these steps are done and stay so: 1; the history table does not list it yet. It left something "
        "invalid, which the next attempt drops: DROP INDEX CONCURRENTLY IF EXISTS public.a_n."
    )
    assert error.hint == ("When the server answers again, run this cell again. The database shows what is done.")
    assert rows(target, STEPS)[-1] == ("0001_a", 2, "intended", "CREATE INDEX CONCURRENTLY")
    assert states(execute(target)) == [StepState.DONE_BEFORE, StepState.DONE, StepState.DONE]
    assert versions(target) == ["0001_a"]


def test_a_concurrent_build_waits_without_making_others_wait(project: Project) -> None:
    """It may wait long for old transactions; the plan gives it an hour, and it is done when they end."""
    target = project(folder={"0001_a.sql": "CREATE INDEX CONCURRENTLY a_n ON a (n)"}, lock_timeout_ms=100, attempts=1)
    do(target, "CREATE TABLE a (n int)")
    seen: list[Execution] = []
    with (
        session(target, "INSERT INTO a VALUES (1)") as other,
        meanwhile(lambda: execute(target, seen=seen.append)) as it,
    ):
        until(waits(target))
        do(target, "INSERT INTO a VALUES (2)")
        until(lambda: rows(target, "SELECT FROM pg_stat_activity WHERE application_name LIKE '%watches lock waits'"))
        other.execute("SELECT pg_sleep(0.3); ROLLBACK")
        pid = other.info.backend_pid
        (result,) = it.result()
    assert result.state is StepState.DONE
    assert f"Process {pid}" in result.blockers
    assert "has to end its transaction first" in result.blockers


def test_a_label_of_an_enum_is_committed_before_it_is_used(project: Project) -> None:
    """ADD VALUE runs alone where a later statement uses it; cut off behind it, it is not added twice."""
    target = project(
        folder={
            "0001_a.sql": "ALTER TYPE mood ADD VALUE 'so so';\nINSERT INTO a VALUES ('so so');\nSELECT n / 0 FROM b"
        }
    )
    do(
        target,
        "CREATE TYPE mood AS ENUM ('good'); CREATE TABLE a (m mood); CREATE TABLE b (n int); INSERT INTO b VALUES (1)",
    )
    error = error_of(lambda: execute(target))
    assert error.state == "Of 0001_a these steps are done and stay so: 1; the history table does not list it yet."
    do(target, "DELETE FROM b")
    assert states(execute(target)) == [StepState.DONE_BEFORE, StepState.DONE, StepState.DONE]
    assert rows(target, "SELECT m::text FROM a") == [("so so",)]


# -- going on after a crash


def test_a_commit_whose_answer_is_lost_is_looked_up_in_the_database(project: Project) -> None:
    """The session ends while COMMIT is under way: the State line says what the database shows."""
    target = project(
        folder={
            "0001_a.sql": "CREATE TABLE a (id int);\nCREATE FUNCTION nap() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_sleep(60); RETURN NULL; END $$;\nCREATE CONSTRAINT TRIGGER nap AFTER INSERT ON a "
            "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION nap();\nINSERT INTO a VALUES (1)"
        }
    )
    with meanwhile(lambda: error_of(lambda: execute(target))) as running:
        until(is_at(target, "COMMIT", "PgSleep"))  # not one of the short ones before it
        kill(target)
        error = running.result()
    assert isinstance(error, Unreachable)
    assert error.message == "lost the connection in 0001_a"
    assert error.state == "0001_a was aborted as a whole: nothing of it is applied."
    assert tables(target) == {"schema_migrations"}


def test_a_commit_that_took_effect_before_the_connection_broke_is_told_as_applied(project: Project) -> None:
    """The answer to COMMIT never came, the commit did happen: it is applied, and is not applied again."""
    target = project(folder={"0001_a.sql": "CREATE TABLE a (id int); INSERT INTO a VALUES (1)"})

    def break_off(work: Execution) -> None:
        real = work.conn.execute

        def execute_and_break(query: object, *args: object, **more: object) -> object:
            done = real(query, *args, **more)  # type: ignore[arg-type]
            if query == "COMMIT":
                kill(target)
                real("SELECT 1")
            return done

        work.conn.execute = execute_and_break  # type: ignore[method-assign, assignment]

    error = error_of(lambda: execute(target, seen=break_off))
    assert isinstance(error, Unreachable)
    assert error.state == "0001_a is applied as a whole."
    assert execute(target, plan_of(target)) == []
    assert rows(target, "SELECT id FROM a") == [(1,)]


@pytest.fixture
def own_server(
    session_env: pytest.MonkeyPatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[dict[str, str]], Target]]:
    """A server of the test's own, which it may stop."""
    assert session_env  # the state directory of the tests
    server = Server("own")
    server.start()

    def declare(folder: dict[str, str]) -> Target:
        (tmp_path / "migrations").mkdir()
        for name, text in folder.items():
            (tmp_path / "migrations" / name).write_text(text)
        file = tmp_path / "targets.toml"
        file.write_text('[own]\nserver = "own"\nmigrations = "migrations"\n')
        monkeypatch.setenv("PGRUNBOOK_TARGETS", str(file))
        return targets.load("own")

    yield declare
    server.destroy()


@pytest.mark.slow
def test_a_server_that_is_gone_leaves_the_state_open_until_it_is_back(
    own_server: Callable[[dict[str, str]], Target],
) -> None:
    """Stopped in mode immediate in the middle of a step: not known now, and right once it runs again."""
    target = own_server({"0001_a.sql": "CREATE TABLE a ()", "0002_b.sql": "CREATE TABLE b (); SELECT pg_sleep(60)"})
    plan = plan_of(target)
    server = Server("own")
    before = threading.active_count()
    with meanwhile(lambda: error_of(lambda: execute(target, plan))) as running:
        until(is_at(target, "pg_sleep(60)"))
        server.run("pg_ctl", "stop", "-D", "data", "-m", "immediate", "-w")
        error = running.result()
    assert isinstance(error, Unreachable)
    assert error.message == "lost the connection in step 2 of 0002_b (SELECT; 0002_b.sql, line 1)"
    assert error.state == ("Not known, the server does not answer: the whole of 0002_b is either done or not begun.")
    assert threading.active_count() == before
    server.start()
    assert versions(target) == ["0001_a"]
    assert tables(target) == {"a", "schema_migrations"}
    (target.migrations / "0002_b.sql").write_text("CREATE TABLE b ()")
    execute(target)
    assert versions(target) == ["0001_a", "0002_b"]


def test_ctrl_c_cancels_the_statement_in_the_server(project: Project) -> None:
    """The session is at nothing any more, the transaction is aborted, and the same run can go on."""
    target = project(folder={"0001_a.sql": "CREATE TABLE a ();\nSELECT pg_sleep(60)"})
    with interrupted_when(is_at(target, "pg_sleep(60)")):
        error = error_of(lambda: execute(target))
    assert isinstance(error, Interrupted)
    assert str(error) == (
        "stopped in step 2 of 0001_a (SELECT; 0001_a.sql, line 2)\n"
        "Detail: Somebody stopped this run; what was running in the server was cancelled.\n"
        "State: 0001_a was aborted as a whole: nothing of it is applied.\n"
        "Hint: Run this cell again. It goes on at the first step that is not done."
    )
    assert not is_at(target, "pg_sleep(60)")()
    assert tables(target) == {"schema_migrations"}


def test_ctrl_c_in_the_pause_between_two_attempts_stops_it(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not wait for the pause to end."""
    monkeypatch.setattr(lock_requests, "FIRST_PAUSE_S", 3600)
    monkeypatch.setattr(lock_requests, "LONGEST_PAUSE_S", 3600)
    target = project(folder={"0001_a.sql": "LOCK TABLE a"}, lock_timeout_ms=50)
    do(target, "CREATE TABLE a ()")
    seen: list[Execution] = []

    def it_pauses() -> bool:
        return bool(seen and seen[0].results[0].attempt == 1 and seen[0].results[0].state is StepState.WAITING)

    with session(target, "LOCK TABLE a"), interrupted_when(it_pauses):
        error = error_of(lambda: execute(target, seen=seen.append))
    assert isinstance(error, Interrupted)
    assert error.message == "stopped in 0001_a"


def test_ctrl_c_behind_a_commit_is_told_as_applied(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The State line is what the database shows, not where we were."""
    target = project(folder={"0001_a.sql": "CREATE TABLE a ()", "0002_b.sql": "CREATE TABLE b ()"})

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(EventLog, "committed", interrupt)
    error = error_of(lambda: execute(target))
    assert isinstance(error, Interrupted)
    assert (error.message, error.state) == ("stopped in 0001_a", "0001_a is applied as a whole.")
    assert versions(target) == ["0001_a"]


@pytest.mark.slow
def test_a_history_row_deleted_by_hand_means_apply_it_again(project: Project) -> None:
    """The history table counts; the row that we kept of the first time does not stand in the way."""
    target = project(
        folder={
            "0001_a.sql": "CREATE TABLE IF NOT EXISTS a (n int); INSERT INTO a VALUES (1);\n"
            "VACUUM a; INSERT INTO a VALUES (2)"
        }
    )
    execute(target)
    do(target, "DELETE FROM schema_migrations")
    results = execute(target, run_id="second")
    assert states(results) == [StepState.DONE] * 4
    assert rows(target, "SELECT count(*) FROM a") == [(4,)]


@pytest.mark.slow
def test_a_second_time_that_breaks_off_goes_on_where_it_was(project: Project) -> None:
    """After the history row was deleted by hand, steps of the first time are not taken for the second's."""
    text = "INSERT INTO a VALUES (1); VACUUM a; INSERT INTO a SELECT 2 / n FROM b"
    target = project(folder={"0001_a.sql": text})
    do(target, "CREATE TABLE a (n int); CREATE TABLE b (n int)")
    execute(target)
    do(target, "DELETE FROM schema_migrations; INSERT INTO b VALUES (0)")
    error_of(lambda: execute(target, run_id="second"))
    do(target, "DELETE FROM b")
    assert states(execute(target, run_id="third")) == [StepState.DONE_BEFORE, StepState.DONE_BEFORE, StepState.DONE]
    assert rows(target, "SELECT count(*) FROM a") == [(2,)]


def test_a_plan_is_executed_once_however_often_it_is_run(project: Project) -> None:
    """The second execution of the same plan finds everything done."""
    target = project(folder={"0001_a.sql": "CREATE TABLE a ()", "0002_b.sql": "CREATE INDEX CONCURRENTLY i ON c (n)"})
    do(target, "CREATE TABLE c (n int)")
    plan = plan_of(target)
    execute(target, plan)
    assert states(execute(target, plan)) == [StepState.DONE_BEFORE, StepState.DONE_BEFORE]
    assert len(events(target, "migration-done-before")) == 2


@pytest.mark.slow
def test_there_and_back_and_there_again(project: Project) -> None:
    """A migration that was taken back is applied again wholly, and taken back again wholly."""
    target = project(
        folder={
            "0001_a.sql": "CREATE TABLE a (n int); CREATE INDEX CONCURRENTLY i ON a (n)",
            "0001_a.down.sql": "DROP INDEX CONCURRENTLY i; DROP TABLE a",
        }
    )
    for number in range(2):
        execute(target, run_id=f"up{number}")
        assert versions(target) == ["0001_a"]
        results = execute(target, plan_of(target, direction="down"), run_id=f"down{number}")
        assert states(results) == [StepState.DONE] * 2
        assert tables(target) == {"schema_migrations"}
    assert rows(target, "SELECT DISTINCT state FROM pgrunbook.step WHERE direction = 'up'") == [("taken back",)]


@pytest.mark.slow
def test_a_partition_whose_detaching_was_cut_off_is_detached(project: Project) -> None:
    """DETACH PARTITION CONCURRENTLY leaves it pending when it is cancelled; the next run finalizes that."""
    target = project(folder={"0001_a.sql": "ALTER TABLE p DETACH PARTITION q CONCURRENTLY"})
    do(target, "CREATE TABLE p (n int) PARTITION BY LIST (n); CREATE TABLE q PARTITION OF p FOR VALUES IN (1)")
    with session(target, "SELECT FROM p") as other:
        with meanwhile(lambda: error_of(lambda: execute(target))) as running:
            until(waits(target))
            kill(target)
            running.result()
        assert rows(target, "SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = 'q'::regclass") == [(True,)]
        other.execute("ROLLBACK")
        assert states(execute(target)) == [StepState.DONE_BEFORE]
    assert rows(target, "SELECT relispartition FROM pg_class WHERE oid = 'q'::regclass") == [(False,)]
    assert versions(target) == ["0001_a"]


def test_everything_under_one_lock_leaves_nothing_behind(project: Project) -> None:
    """After a run no session, thread or advisory lock of ours is left."""
    target = project(folder={"0001_a.sql": "SELECT pg_sleep(0.4)"})
    before = threading.active_count()
    with locks.one_runner(target, RUN):
        execute(target)
    assert threading.active_count() == before
    until(lambda: rows(target, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()") == [(1,)])
