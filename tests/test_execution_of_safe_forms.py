"""Executing a plan of safe forms: killed anywhere it goes on, refused it leaves no helper, and it keeps nobody out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import servers
import test_execution
from conftest import connect, do, rows, write_folder
from pgrunbook.branches.server import Server
from pgrunbook.config.targets import Target
from pgrunbook.database import lock_wait, locks
from pgrunbook.database.schema import snapshot
from pgrunbook.database.schema_diff import diff
from pgrunbook.errors import Blocked, Interrupted, Refused, StatementFailed, Unreachable
from pgrunbook.execute import lock_requests
from pgrunbook.execute.execution import Execution
from pgrunbook.execute.results import StepResult, StepState
from pgrunbook.procedures import shared_steps
from scenes import (
    RUN,
    beside,
    error_of,
    events,
    execute,
    gone,
    interrupted_when,
    is_at,
    kill,
    meanwhile,
    plan_of,
    safe_plan_of,
    session,
    until,
    waits,
)

own_server = test_execution.own_server
pytestmark = pytest.mark.newest
Place = Callable[..., Target]

BASE = """
CREATE TABLE customers (id int PRIMARY KEY);
INSERT INTO customers SELECT generate_series(1, 20);
CREATE TABLE orders (id int PRIMARY KEY, code text, customer int, amount int, hits int NOT NULL DEFAULT 0);
INSERT INTO orders SELECT i, 'c' || i, 1 + i % 20, i, 0 FROM generate_series(1, 500) AS i;
CREATE TABLE log (n int);
"""
RELEASE = """INSERT INTO log VALUES (1);
ALTER TABLE orders ALTER customer SET NOT NULL;
ALTER TABLE orders ADD CONSTRAINT known FOREIGN KEY (customer) REFERENCES customers;
UPDATE orders SET hits = hits + 1;
ALTER TABLE orders ADD UNIQUE (code);
ALTER TABLE orders ADD COLUMN token uuid NOT NULL DEFAULT gen_random_uuid();
INSERT INTO log VALUES (2);
"""
# What holds a step in its middle: a function that waits while somebody has the advisory lock 7.
CANCEL_WAITING = (
    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
    " WHERE wait_event_type = 'Lock' AND datname = current_database()"
)
HOLDING = """
CREATE FUNCTION held(n int) RETURNS boolean LANGUAGE plpgsql AS
    $$ BEGIN IF n = 250 THEN PERFORM pg_advisory_xact_lock_shared(7); END IF; RETURN true; END $$;
CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM held(OLD.id); RETURN NEW; END $$;
CREATE TRIGGER hold BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION hold();
"""
# A statement, and what holds it in the middle, in a transaction that somebody else has open.
MIDDLES = {
    "build": ("CREATE UNIQUE INDEX orders_code ON orders (code);", "DELETE FROM orders WHERE id = -1"),
    "validate": ("ALTER TABLE orders ADD CONSTRAINT seen CHECK (held(id));", "SELECT pg_advisory_xact_lock(7)"),
    "batches": ("UPDATE orders SET hits = hits + 1;", "SELECT pg_advisory_xact_lock(7)"),
}
INVALID = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid"
HELPERS = r"SELECT conname FROM pg_constraint WHERE conname LIKE 'pgrunbook\_%'"
DONE = """
SELECT step, count(*) FILTER (WHERE state = 'done'), count(*) FILTER (WHERE state = 'intended')
FROM pgrunbook.step
GROUP BY step
ORDER BY step
"""
RECORD = "SELECT step, state FROM pgrunbook.step ORDER BY step, run_id"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other at once."""
    monkeypatch.setattr(lock_requests, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(lock_requests, "LAST_PATIENCE_MS", 200.0)


@pytest.fixture
def place(server: servers.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Make targets on each version of PostgreSQL: a database with the tables of BASE, and a folder of migrations."""
    made: list[str] = []

    def make(migration: str, *, name: str = "safe", **options: object) -> Target:
        made.append(name)
        server.make(name)
        server.run(name, BASE)
        write_folder(tmp_path / name, {"0001_a.sql": migration})
        monkeypatch.setenv(f"URL_{name}", f"postgresql://postgres@/{name}?host={server.socket_dir}")
        usual: dict[str, object] = {"batch_rows": 100, "lock_timeout_ms": 20_000, "lock_patience_ms": 20_000}
        facts = {**usual, **options, "name": name, "url_from": f"URL_{name}", "migrations": tmp_path / name}
        return Target.model_validate(facts)

    yield make
    for name in made:
        server.run("postgres", f"DROP DATABASE {name} WITH (FORCE)")


def versions(target: Target) -> list[object]:
    return [version for (version,) in rows(target, "SELECT version FROM schema_migrations")]


def states(results: list[StepResult]) -> list[StepState]:
    return [result.state for result in results]


def text_of(target: Target) -> str:
    assert target.migrations is not None
    return (target.migrations / "0001_a.sql").read_text()


def unlike_plain_sql(target: Target, twin: Target) -> list[str]:
    """Return where the schema differs from that of the plain SQL on a twin, which is executed there now."""
    do(twin, text_of(target))
    found = []
    for one in (target, twin):
        with connect(one, purpose="test") as conn:
            found.append(snapshot(conn, leave_out=["pgrunbook", "public.schema_migrations"]))
    assert (found[0].fingerprint == found[1].fingerprint) == (diff(found[1], found[0]) == [])
    return [difference.line() for difference in diff(found[1], found[0])]


def is_whole(target: Target, steps: int) -> None:
    """See that every step is done once, and that nothing of the helpers is there."""
    assert rows(target, INVALID) == []
    assert rows(target, HELPERS) == []
    assert versions(target) == ["0001_a"]
    assert rows(target, DONE) == [(n, 1, 0) for n in range(1, steps + 2)]
    assert rows(target, "SELECT FROM pgrunbook.batch WHERE NOT is_done") == []


def is_as_before(target: Target) -> None:
    """See that a refused statement has left nothing, and no row that says that a step of it is done."""
    assert rows(target, INVALID) == []
    assert rows(target, HELPERS) == []
    assert rows(target, "SELECT FROM pgrunbook.step WHERE state <> 'taken back'") == []
    assert (
        rows(target, "SELECT conname FROM pg_constraint WHERE conrelid = 'orders'::regclass AND NOT convalidated") == []
    )


# -- killed


@pytest.mark.slow
@pytest.mark.first_case
def test_killed_at_every_step_it_comes_to_the_end_of_the_plain_sql(place: Place) -> None:
    """Twice at each step (before it is sent, and when it ran and is not committed): each is done once."""
    target, twin = place(RELEASE), place(RELEASE, name="twin")
    plan = safe_plan_of(target)
    assert {written.form for written in plan.changes[0].statements} == {"", "alter-table", "batches"}
    for step in plan.changes[0].steps:
        for moment in ("begins", "ran"):
            with beside(target, plan, killed_when=f"{moment} {step.number}") as process:
                assert process.wait() == -9, step
            until(gone(target))
    execute(target, plan)
    is_whole(target, len(plan.changes[0].steps))
    assert rows(target, "SELECT n FROM log ORDER BY n") == [(1,), (2,)]
    assert rows(target, "SELECT hits, count(*) FROM orders GROUP BY hits") == [(1, 500)]
    assert rows(target, "SELECT count(DISTINCT token) FROM orders") == [(500,)]
    assert unlike_plain_sql(target, twin) == []


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize("end", ["killed", "terminated"])
@pytest.mark.parametrize("middle", MIDDLES)
def test_cut_off_in_the_middle_of_a_step_it_goes_on(place: Place, middle: str, end: str) -> None:
    """kill -9 of the process that executes, pg_terminate_backend of its session: the same plan comes to its end."""
    statement, holds = MIDDLES[middle]
    migration = f"INSERT INTO log VALUES (1);\n{statement}\nINSERT INTO log VALUES (2);"
    target, twin = place(migration), place(migration, name="twin")
    for one in (target, twin):
        do(one, HOLDING)
    plan = safe_plan_of(target)
    with session(target, holds):
        if end == "killed":
            with beside(target, plan) as process:
                until(waits(target))
                process.kill()
        else:
            with meanwhile(lambda: error_of(lambda: execute(target, plan))) as running:
                until(waits(target))
                kill(target)
                assert isinstance(running.result(), Unreachable)
        until(gone(target))
        came_to = rows(target, "SELECT count(*) FROM orders WHERE hits = 1")[0][0]
    assert came_to == (200 if middle == "batches" else 0)
    execute(target, plan)
    is_whole(target, len(plan.changes[0].steps))
    assert rows(target, "SELECT n FROM log ORDER BY n") == [(1,), (2,)]
    assert rows(target, "SELECT hits, count(*) FROM orders GROUP BY hits") == [(int(middle == "batches"), 500)]
    assert unlike_plain_sql(target, twin) == []


@pytest.mark.slow
@pytest.mark.first_case
def test_a_commit_under_way_when_its_process_was_killed_is_not_done_beside(place: Place) -> None:
    """The next run waits for the session that is still at it: what it was at is there once."""
    target = place("INSERT INTO log VALUES (1)")
    do(
        target,
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_sleep(0.7); RETURN NULL; END $$;"
        "CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON log DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION wait()",
    )
    plan = safe_plan_of(target)
    with beside(target, plan) as process:
        until(is_at(target, "COMMIT", "PgSleep"))
        process.kill()
        execute(target, plan)
    assert rows(target, "SELECT n FROM log") == [(1,)]
    assert versions(target) == ["0001_a"]


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize("middle", MIDDLES)
def test_a_server_that_was_stopped_in_the_middle_goes_on_when_it_is_back(
    own_server: Callable[[dict[str, str]], Target], middle: str
) -> None:
    """Stopped in mode immediate, started again: the same plan comes to its end."""
    statement, holds = MIDDLES[middle]
    target = own_server({"0001_a.sql": f"INSERT INTO log VALUES (1);\n{statement}"}).model_copy(
        update={"batch_rows": 100, "lock_timeout_ms": 20_000}
    )
    do(target, BASE + HOLDING)
    plan = safe_plan_of(target)
    running_server = Server("own")
    with ExitStack() as scene:
        scene.enter_context(session(target, holds))
        running: Future[object] = scene.enter_context(meanwhile(lambda: error_of(lambda: execute(target, plan))))
        until(waits(target))
        running_server.run("pg_ctl", "stop", "-D", "data", "-m", "immediate", "-w")
        assert isinstance(running.result(), Unreachable)
        scene.pop_all()  # the session in the way is gone with the server
    running_server.start()
    execute(target, plan)
    is_whole(target, len(plan.changes[0].steps))
    assert rows(target, "SELECT n FROM log") == [(1,)]
    assert rows(target, "SELECT hits, count(*) FROM orders GROUP BY hits") == [(int(middle == "batches"), 500)]


# -- refused


REFUSED = {
    "check": (
        "UPDATE orders SET amount = -1 WHERE id = 7",
        "ALTER TABLE orders ADD CONSTRAINT positive CHECK (amount > 0)",
        "UPDATE orders SET amount = 7 WHERE id = 7",
        (
            "could not run step 3 of 0001_a (ALTER TABLE VALIDATE CONSTRAINT; 0001_a.sql, line 2): "
            'check constraint "positive" of relation "orders" is violated by some row\n'
        ),
    ),
    "unique": (
        "UPDATE orders SET code = 'c8' WHERE id = 7",
        "CREATE UNIQUE INDEX orders_code ON orders (code)",
        "UPDATE orders SET code = 'c7' WHERE id = 7",
        (
            "could not run step 2 of 0001_a (CREATE UNIQUE INDEX CONCURRENTLY; 0001_a.sql, line 2): "
            'could not create unique index "orders_code"\nDetail: Key (code)=(c8) is duplicated.\n'
        ),
    ),
    "key": (
        "UPDATE orders SET code = 'c8' WHERE id = 7",
        "ALTER TABLE orders ADD CONSTRAINT one UNIQUE (code)",
        "UPDATE orders SET code = 'c7' WHERE id = 7",
        (
            "could not run step 2 of 0001_a (CREATE UNIQUE INDEX CONCURRENTLY; 0001_a.sql, line 2): "
            'could not create unique index "one"\nDetail: Key (code)=(c8) is duplicated.\n'
        ),
    ),
    "not null": (
        "UPDATE orders SET customer = NULL WHERE id = 7",
        "ALTER TABLE orders ALTER customer SET NOT NULL",
        "UPDATE orders SET customer = 8 WHERE id = 7",
        ("could not run step 3 of 0001_a (ALTER TABLE VALIDATE CONSTRAINT; 0001_a.sql, line 2): "),
    ),
    "foreign key": (
        "UPDATE orders SET customer = 99 WHERE id = 7",
        "ALTER TABLE orders ADD CONSTRAINT known FOREIGN KEY (customer) REFERENCES customers",
        "UPDATE orders SET customer = 8 WHERE id = 7",
        (
            "could not run step 3 of 0001_a (ALTER TABLE VALIDATE CONSTRAINT; 0001_a.sql, line 2): "
            'insert or update on table "orders" violates foreign key constraint "known"\n'
            'Detail: Key (customer)=(99) is not present in table "customers".\n'
        ),
    ),
}
MEND = (
    "Hint: Correct the rows that the server names, leave the file as it is, and run this cell again; "
    "or correct the migration, and start a new run."
)


@pytest.mark.first_case
@pytest.mark.parametrize("case", REFUSED)
def test_a_statement_that_is_refused_takes_its_helpers_with_it(place: Place, case: str) -> None:
    """The error tells what stays (the step before it); when the rows are mended, the same plan comes to its end."""
    wrong, statement, mended, told = REFUSED[case]
    migration = f"DELETE FROM log;\n{statement};\nINSERT INTO log VALUES (1);"
    target, twin = place(migration), place(migration, name="twin")
    do(target, wrong)
    plan = safe_plan_of(target)
    seen: list[Execution] = []
    error = error_of(lambda: execute(target, plan, seen=seen.append))
    assert isinstance(error, StatementFailed)
    assert str(error).startswith(told)
    assert error.state == "Of 0001_a these steps are done and stay so: 1; the history table does not list it yet."
    assert error.hint == "Correct what the server names, leave the file as it is, and run this cell again."
    assert rows(target, "SELECT step, state FROM pgrunbook.step WHERE state <> 'taken back'") == [(1, "done")]
    assert rows(target, INVALID) == rows(target, HELPERS) == []
    failed = next(result for result in seen[0].results if result.state is StepState.FAILED)
    undone = [result.step.number for result in seen[0].results if result.state is StepState.UNDONE]
    assert undone == list(range(2, failed.step.number))
    assert [event["step"] for event in events(target, "step-failed")] == [failed.step.number]
    do(target, mended)
    again = states(execute(target, plan))
    assert again == [StepState.DONE_BEFORE] + [StepState.DONE] * (len(plan.changes[0].steps) - 1)
    assert (rows(target, INVALID), rows(target, HELPERS), versions(target)) == ([], [], ["0001_a"])
    assert unlike_plain_sql(target, twin) == []


def test_a_refused_statement_alone_in_its_migration_leaves_nothing(place: Place) -> None:
    """The whole text: message, detail, state and hint."""
    target = place("ALTER TABLE orders ADD CONSTRAINT one UNIQUE (code)")
    do(target, "UPDATE orders SET code = 'c8' WHERE id = 7")
    error = error_of(lambda: execute(target, safe_plan_of(target)))
    assert str(error) == (
        "could not run step 1 of 0001_a (CREATE UNIQUE INDEX CONCURRENTLY; 0001_a.sql, line 1): "
        'could not create unique index "one"\n'
        "Detail: Key (code)=(c8) is duplicated.\n"
        "State: 0001_a was aborted as a whole: nothing of it is applied.\n" + MEND
    )
    is_as_before(target)


@pytest.mark.slow
def test_what_an_earlier_run_has_made_is_taken_away_too(place: Place) -> None:
    """Cut off behind its helper, then refused under another run: no run's row says that the helper is there."""
    target = place("ALTER TABLE orders ADD CONSTRAINT positive CHECK (amount > 0)")
    do(target, "UPDATE orders SET amount = -1 WHERE id = 7")
    plan = safe_plan_of(target)
    with beside(target, plan, killed_when="begins 2") as process:
        process.wait()
    until(gone(target))
    assert rows(target, RECORD) == [(1, "done")]
    assert isinstance(error_of(lambda: execute(target, plan, run_id="second")), StatementFailed)
    is_as_before(target)
    do(target, "UPDATE orders SET amount = 7 WHERE id = 7")
    assert states(execute(target, plan, run_id="third")) == [StepState.DONE, StepState.DONE]
    assert versions(target) == ["0001_a"]


@pytest.mark.slow
def test_what_cannot_be_done_twice_is_not_undone(place: Place) -> None:
    """A column was added beside the constraint that is refused: both stay, it is said, and the same plan goes on."""
    migration = "ALTER TABLE orders ADD COLUMN note text, ADD CONSTRAINT positive CHECK (amount > 0)"
    target, twin = place(migration), place(migration, name="twin")
    do(target, "UPDATE orders SET amount = -1 WHERE id = 7")
    plan = safe_plan_of(target)
    error = error_of(lambda: execute(target, plan))
    assert str(error) == (
        "could not run step 3 of 0001_a (ALTER TABLE VALIDATE CONSTRAINT; 0001_a.sql, line 1): "
        'check constraint "positive" of relation "orders" is violated by some row\n'
        "State: Of 0001_a these steps are done and stay so: 1, 2; the history table does not list it yet.\n"
        "Hint: Correct what the server names, leave the file as it is, and run this cell again."
    )
    (event,) = events(target, "helpers-stay")
    assert event["reason"] == 'column "note" of relation "orders" already exists'
    do(target, "UPDATE orders SET amount = 7 WHERE id = 7")
    assert states(execute(target, plan)) == [StepState.DONE_BEFORE, StepState.DONE_BEFORE, StepState.DONE]
    assert unlike_plain_sql(target, twin) == []


@pytest.mark.slow
def test_an_index_that_became_a_constraint_is_not_built_twice(place: Place) -> None:
    """The index was built alone and taken over, then a CHECK is refused: the constraint stays, and is gone on with."""
    migration = "ALTER TABLE orders ADD CONSTRAINT one UNIQUE (code), ADD CONSTRAINT positive CHECK (amount > 0)"
    target, twin = place(migration), place(migration, name="twin")
    do(target, "UPDATE orders SET amount = -1 WHERE id = 7")
    plan = safe_plan_of(target)
    assert isinstance(error_of(lambda: execute(target, plan)), StatementFailed)
    do(target, "UPDATE orders SET amount = 7 WHERE id = 7")
    assert states(execute(target, plan))[-1] is StepState.DONE
    assert rows(target, INVALID) == []
    assert unlike_plain_sql(target, twin) == []


@pytest.mark.slow
def test_a_built_index_is_dropped_when_what_comes_behind_it_is_refused(place: Place) -> None:
    """The primary key's index was built; NOT NULL before it and the key behind it are not there any more either."""
    migration = "ALTER TABLE keyless ADD CONSTRAINT one PRIMARY KEY (a), ADD CONSTRAINT two UNIQUE (b)"
    target, twin = place(migration), place(migration, name="twin")
    for one in (target, twin):
        do(one, "CREATE TABLE keyless (a int, b int); INSERT INTO keyless SELECT i, i FROM generate_series(1, 9) AS i")
    do(target, "UPDATE keyless SET b = 1")
    plan = safe_plan_of(target)
    error = error_of(lambda: execute(target, plan))
    assert error.state == "0001_a was aborted as a whole: nothing of it is applied."
    assert rows(target, "SELECT FROM pg_index WHERE indrelid = 'keyless'::regclass") == []
    assert rows(target, "SELECT FROM pg_constraint WHERE conrelid = 'keyless'::regclass") == []
    assert rows(target, "SELECT FROM pgrunbook.step WHERE state <> 'taken back'") == []
    dropped = [str(event["sql"]) for event in events(target, "helper-dropped", "leftover-dropped")]
    assert 'DROP INDEX CONCURRENTLY "public"."one"' in dropped
    do(target, "UPDATE keyless SET b = a")
    assert set(states(execute(target, plan))) == {StepState.DONE}
    assert unlike_plain_sql(target, twin) == []


PARTITIONED = (
    "CREATE TABLE parts (id int, at int NOT NULL) PARTITION BY RANGE (at);"
    "CREATE TABLE part_1 PARTITION OF parts FOR VALUES FROM (0) TO (100);"
    "CREATE TABLE part_2 PARTITION OF parts FOR VALUES FROM (100) TO (200);"
    "INSERT INTO parts SELECT i, i FROM generate_series(1, 199) AS i"
)


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize(
    "statement", ["ALTER TABLE parts ADD CONSTRAINT one UNIQUE (id, at)", "CREATE UNIQUE INDEX one ON parts (id, at)"]
)
def test_a_partition_that_is_refused_takes_the_others_with_it(place: Place, statement: str) -> None:
    """The first partition's index was built and taken over; the second's is refused: none is there."""
    target, twin = place(statement), place(statement, name="twin")
    for one in (target, twin):
        do(one, PARTITIONED)
    do(target, "INSERT INTO parts VALUES (150, 150)")
    plan = safe_plan_of(target)
    error = error_of(lambda: execute(target, plan))
    assert error.state == "0001_a was aborted as a whole: nothing of it is applied."
    assert rows(target, "SELECT indexrelid::regclass FROM pg_index WHERE indrelid::regclass::text ~ '^part'") == []
    assert rows(target, "SELECT FROM pgrunbook.step WHERE state <> 'taken back'") == []
    do(target, "DELETE FROM parts WHERE id = 150; INSERT INTO parts VALUES (150, 150)")
    assert set(states(execute(target, plan))) == {StepState.DONE}
    assert unlike_plain_sql(target, twin) == []


@pytest.mark.slow
def test_helpers_that_cannot_be_taken_away_stay_and_are_used_again(place: Place) -> None:
    """A reader is in the way of dropping them: the error says so, and the next attempt goes on from them."""
    target = place(
        "ALTER TABLE orders ADD CONSTRAINT seen CHECK (held(id) AND amount > 0)",
        lock_timeout_ms=300, lock_patience_ms=300, attempts=1,
    )  # fmt: skip
    do(target, HOLDING)
    do(target, "UPDATE orders SET amount = -1 WHERE id = 300")
    plan = safe_plan_of(target)
    plan = plan.model_copy(update={"changes": tuple(_patient(change) for change in plan.changes)})
    with session(target, "SELECT pg_advisory_lock(7)") as other, session(target, name="report") as reader:
        with meanwhile(lambda: error_of(lambda: execute(target, plan))) as running:
            until(waits(target))  # in the middle of VALIDATE, which a reader does not disturb
            reader.execute("BEGIN; SELECT FROM orders")
            other.execute("SELECT pg_advisory_unlock(7); ROLLBACK")
            error = running.result()
        assert isinstance(error, StatementFailed)
        assert error.state == (
            "Of 0001_a these steps are done and stay so: 1; the history table does not list it yet. The helper "
            "objects of the refused statement could not be dropped (canceling statement due to lock timeout), and are "
            "used again."
        )
    assert len(events(target, "not-undone")) == 1
    do(target, "UPDATE orders SET amount = 7 WHERE id = 300")
    assert states(execute(target, plan)) == [StepState.DONE_BEFORE, StepState.DONE]


def _patient(change: object) -> object:
    """Give the step that is held in its middle the time to be."""
    steps = [step.model_copy(update={} if step.quick else {"lock_timeout_ms": 20_000}) for step in change.steps]  # type: ignore[attr-defined]
    return change.model_copy(update={"steps": tuple(steps)})  # type: ignore[attr-defined]


def test_a_step_that_was_cancelled_keeps_what_was_made_before_it(place: Place) -> None:
    """Nobody refused it: an index of hours is not thrown away, and the same run goes on."""
    target = place("ALTER TABLE orders ADD CONSTRAINT seen CHECK (held(id))")
    do(target, HOLDING)
    plan = safe_plan_of(target)
    with (
        session(target, "SELECT pg_advisory_xact_lock(7)"),
        meanwhile(lambda: error_of(lambda: execute(target, plan))) as it,
    ):
        until(waits(target))
        do(target, CANCEL_WAITING)
        error = it.result()
    assert error.message.endswith("was cancelled in the server")  # type: ignore[attr-defined]
    assert rows(target, RECORD) == [(1, "done")]
    assert states(execute(target, plan)) == [StepState.DONE_BEFORE, StepState.DONE]


@pytest.mark.slow
def test_a_step_that_takes_too_long_takes_its_helpers_with_it(place: Place) -> None:
    """The same plan would come no further: a new one, with more time, has to find the table as it was."""
    target = place("ALTER TABLE orders ADD CONSTRAINT seen CHECK (held(id))")
    do(target, HOLDING)
    plan = safe_plan_of(target)
    short = [
        step.model_copy(update={} if step.quick else {"statement_timeout_ms": 200}) for step in plan.changes[0].steps
    ]
    change = plan.changes[0].model_copy(update={"steps": tuple(short)})
    with session(target, "SELECT pg_advisory_xact_lock(7)"):
        error = error_of(lambda: execute(target, plan.model_copy(update={"changes": (change,)})))
    assert str(error) == (
        "step 2 of 0001_a (ALTER TABLE VALIDATE CONSTRAINT; 0001_a.sql, line 1) did not end within its "
        "statement_timeout (200 ms)\n"
        f"Detail: {error.detail}\n"
        "State: 0001_a was aborted as a whole: nothing of it is applied.\n"
        "Hint: Raise statement_timeout_ms, or split the statement into smaller ones; then start a new run."
    )
    is_as_before(target)
    assert states(execute(target, plan, run_id="new")) == [StepState.DONE, StepState.DONE]


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize("end", ["cancelled", "lock timeout"])
def test_a_partition_that_is_half_detached_is_not_detached_twice(place: Place, end: str) -> None:
    """Cut off while it waits for a reader, it is ended by whoever goes on, and what follows is done."""
    target = place("ALTER TABLE parts DETACH PARTITION part", attempts=1, lock_patience_ms=100)
    do(
        target,
        "CREATE TABLE parts (n int) PARTITION BY LIST (n); CREATE TABLE part PARTITION OF parts FOR VALUES IN (1)",
    )
    plan = safe_plan_of(target)
    if end == "lock timeout":
        short = [step.model_copy(update={"lock_timeout_ms": 300}) for step in plan.changes[0].steps]
        plan = plan.model_copy(update={"changes": (plan.changes[0].model_copy(update={"steps": tuple(short)}),)})
    with session(target, "SELECT FROM parts"), meanwhile(lambda: error_of(lambda: execute(target, plan))) as running:
        if end == "cancelled":
            until(waits(target))
            do(target, CANCEL_WAITING)
        error = running.result()
    assert isinstance(error, Blocked if end == "lock timeout" else StatementFailed)
    assert rows(target, "SELECT inhdetachpending FROM pg_inherits") == [(True,)]
    assert states(execute(target, plan)) == [StepState.DONE_BEFORE, StepState.DONE]
    assert rows(target, "SELECT FROM pg_inherits") == []
    assert rows(target, "SELECT FROM pg_constraint WHERE conrelid = 'part'::regclass AND contype = 'c'") == []


@pytest.mark.slow
def test_every_statement_stands_in_the_journal_with_what_became_of_it(place: Place) -> None:
    """Each step that was begun has run, or an attempt at it has failed, or it has."""
    target = place(RELEASE + "ALTER TABLE orders ADD CONSTRAINT small CHECK (amount < 100)")
    error_of(lambda: execute(target, safe_plan_of(target)))
    told = [(event["event"], event["step"]) for event in events(target, "step-started", "step-ran", "step-failed")]
    begun = [step for event, step in told if event == "step-started"]
    ended = [step for event, step in told if event != "step-started"]
    assert begun == ended == list(range(1, len(begun) + 1))
    assert told[-1][0] == "step-failed"
    (undone,) = events(target, "undone")
    assert undone["steps"] == [begun[-1] - 1]
    committed = [step for event in events(target, "committed") for step in event["steps"]]  # type: ignore[attr-defined]
    assert committed == begun[:-1]


# -- batches


@pytest.mark.slow
def test_a_lock_timeout_between_batches_goes_on_behind_the_last_one(place: Place) -> None:
    """Somebody has a row of the third batch: two are committed, it is tried again, and no row is done twice."""
    target = place("UPDATE orders SET hits = hits + 1", lock_timeout_ms=100, attempts=100)
    with (
        session(target, "SELECT FROM orders WHERE id = 250 FOR UPDATE") as other,
        meanwhile(lambda: execute(target, safe_plan_of(target))) as running,
    ):
        until(lambda: len(events(target, "attempt-failed")) >= 2)
        assert rows(target, "SELECT count(*) FROM orders WHERE hits = 1") == [(200,)]
        pid = other.info.backend_pid
        other.execute("ROLLBACK")
        _, result, _ = running.result()  # type: ignore[misc]
    assert (result.state, result.rows) == (StepState.DONE, 500)
    assert f"Process {pid}" in result.blockers or result.blockers == ""
    assert rows(target, "SELECT hits, count(*) FROM orders GROUP BY hits") == [(1, 500)]
    assert [event["rows"] for event in events(target, "batch") if event["rows"]][:5] == [100, 200, 300, 400, 500]


@pytest.mark.slow
def test_a_batch_whose_lock_is_never_to_be_had_gives_up_with_what_is_committed(place: Place) -> None:
    """It says which row it could not have; when that is free, the same run goes on behind the last batch."""
    target = place("UPDATE orders SET hits = hits + 1", lock_timeout_ms=50, attempts=2)
    plan = safe_plan_of(target)
    with session(target, "SELECT FROM orders WHERE id = 250 FOR UPDATE"):
        error = error_of(lambda: execute(target, plan))
    assert isinstance(error, Blocked)
    assert error.message == 'could not lock "public.orders" in 2 attempts (lock_timeout 50 ms)'
    assert error.state == (
        "Of 0001_a these steps are done and stay so: 1; 2 batches (200 rows) of step 2; "
        "the history table does not list it yet."
    )
    assert states(execute(target, plan)) == [StepState.DONE_BEFORE, StepState.DONE, StepState.DONE]
    assert rows(target, "SELECT hits, count(*) FROM orders GROUP BY hits") == [(1, 500)]
    assert rows(target, "SELECT FROM pg_trigger WHERE tgname ~ 'pgrunbook'") == []


@pytest.mark.slow
def test_a_default_isolation_level_of_the_database_is_not_that_of_our_steps(place: Place) -> None:
    """A snapshot of before the lock would not show the rows of those who had it."""
    target = place("UPDATE orders SET hits = hits + 1;\nALTER TABLE orders DROP COLUMN amount")
    do(
        target,
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = serializable',"
        " current_database()); END $$",
    )
    assert set(states(execute(target, safe_plan_of(target)))) == {StepState.DONE}
    assert rows(target, "SELECT hits, count(*) FROM orders GROUP BY hits") == [(1, 500)]


@pytest.mark.slow
@pytest.mark.parametrize("refused_at", [50, 250])
def test_a_batch_that_is_refused_leaves_no_helpers_unless_others_are_committed(place: Place, refused_at: int) -> None:
    """Where nothing was changed, triggers and notes go, and the file may be changed; else the same run goes on."""
    target = place("UPDATE orders SET hits = hits + 1")
    do(target, f"ALTER TABLE orders ADD CHECK (id <> {refused_at} OR hits < 1)")
    plan = safe_plan_of(target)
    assert isinstance(error_of(lambda: execute(target, plan)), StatementFailed)
    ours = "SELECT FROM pg_trigger WHERE tgname ~ 'pgrunbook'"
    if refused_at == 50:
        assert rows(target, ours) == rows(target, "SELECT FROM pgrunbook.batch") == []
        assert rows(target, "SELECT FROM pg_class WHERE relname ~ '^moves_'") == []
        do(target, "INSERT INTO orders (id, hits) VALUES (900, 0)")
        file = target.migrations / "0001_a.sql"  # type: ignore[operator]
        file.write_text("UPDATE orders SET hits = hits + 1 WHERE id <> 50")
        assert states(execute(target, safe_plan_of(target), run_id="other")) == [StepState.DONE] * 3
        assert rows(target, "SELECT hits, count(*) FROM orders GROUP BY hits ORDER BY 1") == [(0, 1), (1, 500)]
    else:
        assert rows(target, ours) != []
        do(target, "ALTER TABLE orders DROP CONSTRAINT orders_check")
        assert states(execute(target, plan)) == [StepState.DONE_BEFORE, StepState.DONE, StepState.DONE]
        assert rows(target, "SELECT hits, count(*) FROM orders GROUP BY hits") == [(1, 500)]
    assert rows(target, ours) == []


@pytest.mark.slow
def test_a_migration_that_is_put_up_again_runs_its_batches_again(place: Place) -> None:
    """Taking it back forgets how far the loop came."""
    target = place("UPDATE orders SET hits = hits + 1")
    (target.migrations / "0001_a.down.sql").write_text("UPDATE orders SET hits = 0")  # type: ignore[operator]
    for number in range(2):
        assert states(execute(target, safe_plan_of(target), run_id=f"up{number}")) == [StepState.DONE] * 3
        assert rows(target, "SELECT hits, count(*) FROM orders GROUP BY hits") == [(1, 500)]
        execute(target, plan_of(target, direction="down"), run_id=f"down{number}")
        assert rows(target, "SELECT FROM pgrunbook.batch") == []


@pytest.mark.slow
def test_a_plan_that_another_plan_has_begun_is_refused(place: Place) -> None:
    """The plan as written goes another way; the same steps under another run go on."""
    target = place(RELEASE)
    plan = safe_plan_of(target)
    do(target, "UPDATE orders SET customer = 99 WHERE id = 7")
    error_of(lambda: execute(target, plan))
    error = error_of(lambda: execute(target, plan_of(target), run_id="other"))
    assert isinstance(error, Refused)
    done = [
        number for number, _ in rows(target, "SELECT step, state FROM pgrunbook.step WHERE state = 'done' ORDER BY 1")
    ]
    assert str(error) == (
        f"0001_a was begun by run {RUN}, and not finished\n"
        f"Detail: The plan of that run has other steps. Those that are done: {', '.join(map(str, done))}.\n"
        "State: Nothing changed in the database.\n"
        f"Hint: Go on with that run: pgrunbook run --resume {RUN}."
    )
    do(target, "UPDATE orders SET customer = 8 WHERE id = 7")
    assert set(states(execute(target, plan, run_id="other"))) == {StepState.DONE_BEFORE, StepState.DONE}
    assert versions(target) == ["0001_a"]


@pytest.mark.slow
def test_ctrl_c_in_a_loop_of_batches_keeps_what_is_committed(place: Place) -> None:
    """The batch that ran is aborted, and the same run goes on behind the one before it."""
    target = place("UPDATE orders SET hits = hits + 1")
    do(target, HOLDING)
    plan = safe_plan_of(target)
    with session(target, "SELECT pg_advisory_xact_lock(7)"), interrupted_when(waits(target)):
        error = error_of(lambda: execute(target, plan))
    assert error.message.startswith("stopped in step 2 of 0001_a")
    assert rows(target, "SELECT count(*) FROM orders WHERE hits = 1") == [(200,)]
    assert states(execute(target, plan)) == [StepState.DONE_BEFORE, StepState.DONE, StepState.DONE]
    assert rows(target, "SELECT hits, count(*) FROM orders GROUP BY hits") == [(1, 500)]
    assert rows(target, "SELECT FROM pg_trigger WHERE tgname ~ 'pgrunbook'") == []


# -- traffic


STRONG = {
    "short": ("ALTER TABLE orders ADD COLUMN note text", "ALTER TABLE"),
    "vacuum full": ("VACUUM FULL orders", "VACUUM"),
    "cluster": ("CLUSTER orders USING orders_pkey", "CLUSTER"),
    "safe form": ("ALTER TABLE orders ADD CONSTRAINT positive CHECK (amount > 0)", "ALTER TABLE"),
}


@contextmanager
def old_reader(target: Target) -> Iterator[int]:
    """A reader who has been idle in its transaction for long enough to be waited for."""
    age = "SELECT 1000 * extract(epoch FROM clock_timestamp() - xact_start) > %s FROM pg_stat_activity WHERE pid = %s"
    with session(target, "SELECT FROM orders") as reader, connect(target, purpose="looks") as conn:
        pid = reader.info.backend_pid
        until(lambda: conn.execute(age, [lock_wait.OLD_MS, pid]).fetchone() == (True,))
        yield pid


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize("case", STRONG)
def test_nobody_queues_behind_us_while_a_reader_is_in_the_way(place: Place, case: str) -> None:
    """Others read and write while we look for a moment; when the reader has gone, it is done, and he is named."""
    statement, _ = STRONG[case]
    target = place(statement, lock_patience_ms=600_000)
    seen: list[Execution] = []
    told: list[str] = []

    def is_looking() -> bool:
        (first, *_) = seen[0].results if seen else (None,)
        if first is not None and first.state is StepState.LOOKING:
            told.append(first.blockers)
        return len(told) > 3

    plan = safe_plan_of(target)
    with meanwhile(lambda: None), ExitStack() as scene:
        pid = scene.enter_context(old_reader(target))
        with meanwhile(lambda: execute(target, plan, seen=seen.append)) as running:
            until(is_looking)
            for number in range(20):
                do(target, f"SET lock_timeout = '5s'; UPDATE orders SET amount = amount WHERE id = {number}")
                assert seen[0].results[0].state is StepState.LOOKING
            assert rows(target, "SELECT FROM pg_locks WHERE NOT granted") == []
            scene.close()
            results = running.result()
    assert set(states(results)) == {StepState.DONE}  # type: ignore[arg-type]
    assert all(f'process {pid} ("billing", idle in transaction for' in text for text in told)
    first = results[0]  # type: ignore[index]
    assert f'process {pid} ("billing", idle in transaction for' in first.blockers
    assert "looking" in {stretch.kind for stretch in first.stretches}
    (looked,) = events(target, "looked")
    assert (looked["free"], looked["step"]) == (True, 1)
    assert f"process {pid}" in str(looked["holders"])


def test_a_step_that_is_stopped_while_it_waits_says_stopped(place: Place) -> None:
    """And no more how long it would have waited; who was in the way stays."""
    target = place("ALTER TABLE orders ADD COLUMN note text", lock_patience_ms=600_000)
    seen: list[Execution] = []

    def is_looking() -> bool:
        return bool(seen and seen[0].results[0].state is StepState.LOOKING and " s left" in seen[0].results[0].progress)

    with old_reader(target) as pid, interrupted_when(is_looking):
        error = error_of(lambda: execute(target, safe_plan_of(target), seen=seen.append))
    assert isinstance(error, Interrupted)
    (row, *_) = shared_steps.table_of(seen[0].results).rows
    assert str(row[3]) == "stopped"
    assert f"process {pid}" in str(row[-1])
    assert " left" not in str(row[-1])


@pytest.mark.slow
def test_a_reader_who_stays_ends_it_in_counted_attempts(place: Place) -> None:
    """The whole text: how often it was asked for, who was there, what stays, what to do."""
    target = place("ALTER TABLE orders ADD COLUMN note text", lock_timeout_ms=100, lock_patience_ms=300, attempts=2)
    with old_reader(target) as pid:
        error = error_of(lambda: execute(target, safe_plan_of(target)))
    assert isinstance(error, Blocked)
    assert re.sub(r"(within|for) [\d.]+ m?s\b", r"\1 N s", str(error)) == (
        'could not lock "orders" in 2 attempts (lock_timeout 100 ms)\n'
        f'Detail: Not free within N s: process {pid} ("billing", idle in transaction for N s) holds AccessShareLock '
        "on public.orders.\n"
        "State: 0001_a was aborted as a whole: nothing of it is applied.\n"
        "Hint: End the first process of the lock queue or wait for it, then run this cell again."
    )
    counted = [(event["attempt"], event["counted"], event["of"]) for event in events(target, "attempt-failed")]
    assert counted == [(1, 1, 2), (2, 2, 2)]
    assert [event["free"] for event in events(target, "looked")] == [False, False]


def test_a_look_that_is_not_allowed_does_not_fail_the_step(
    place: Place, server: servers.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partition lies in a schema that we may not use: the reason is told, and the lock asked for by attempts."""
    target = place("ALTER TABLE parts ADD COLUMN note text")
    do(
        target,
        "CREATE SCHEMA hidden; CREATE TABLE parts (n int) PARTITION BY LIST (n);"
        "CREATE TABLE hidden.part PARTITION OF parts FOR VALUES IN (1);"
        "DROP ROLE IF EXISTS blind; CREATE ROLE blind LOGIN; GRANT ALL ON SCHEMA public TO blind;"
        "GRANT CREATE ON DATABASE safe TO blind;"
        "ALTER TABLE parts OWNER TO blind; ALTER TABLE hidden.part OWNER TO blind",
    )
    plan = safe_plan_of(target)
    try:
        with session(target, "SELECT FROM orders"):  # a look goes by the names only where somebody holds a lock
            monkeypatch.setenv("URL_safe", f"postgresql://blind@/safe?host={server.socket_dir}")
            assert states(execute(target, plan)) == [StepState.DONE]
    finally:
        server.run("safe", "DROP OWNED BY blind CASCADE", "DROP ROLE blind")
    (event,) = events(target, "not-looked")
    assert (event["step"], event["reason"]) == (1, "permission denied for schema hidden")


# -- progress


def test_a_build_shows_what_it_waits_for_while_it_runs(place: Place) -> None:
    """In the table's notes while the step runs, gone when it ended; in the journal once, and not ten times a second."""
    target = place("CREATE INDEX orders_amount ON orders (amount); REINDEX TABLE customers")
    seen: list[Execution] = []
    notes: list[str] = []

    def shows() -> bool:
        told = seen[0].results[0].progress if seen else ""
        if told:
            notes.append(str(shared_steps.table_of(seen[0].results).rows[0][-1]))
        return "waits for" in told

    with (
        locks.one_runner(target, RUN),
        session(target, "DELETE FROM orders WHERE id = 0") as writer,
        meanwhile(lambda: execute(target, safe_plan_of(target), seen=seen.append)) as running,
    ):
        until(shows)
        pid = writer.info.backend_pid
        writer.execute("ROLLBACK")
        results = running.result()
    assert states(results) == [StepState.DONE, StepState.DONE]  # type: ignore[arg-type]
    assert f'process {pid} ("billing", idle in transaction for' in notes[-1]
    assert notes[-1].endswith("s), which has used the table.")
    assert [result.progress for result in results] == ["", ""]  # type: ignore[attr-defined]
    assert f"Process {pid}" in results[0].blockers  # type: ignore[index]
    told = [str(event["says"]) for event in events(target, "step-progress") if event["step"] == 1]
    assert len(told) == 1
    assert told[0].startswith("Waiting for writers before build: waits for process")
