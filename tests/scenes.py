"""What the scenes of several test modules are made of: a plan executed, sessions in the background, waiting."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg

from conftest import connect
from forks import ForkedProcess
from permits import permitted
from pgrunbook import history as histories
from pgrunbook.config.targets import Target
from pgrunbook.database import activity, locks
from pgrunbook.database.connection import Connection
from pgrunbook.database.schema import snapshot
from pgrunbook.draft import release
from pgrunbook.draft.build import as_written, base, up
from pgrunbook.errors import RunbookError
from pgrunbook.execute.events import StepObserver
from pgrunbook.execute.execution import Execution
from pgrunbook.execute.results import StepResult
from pgrunbook.history import Migration
from pgrunbook.plan import plan as plans
from pgrunbook.plan.plan import Change, Plan, Step
from pgrunbook.record import journal
from pgrunbook.record.journal import Journal
from pgrunbook.sql import statements

RUN = "20261122T165431Z-release-demo-7f3a"


def plan_of(target: Target, *, direction: plans.Direction = "up") -> Plan:
    """Plan what is pending, or the way back of what is applied."""
    with connect(target, purpose="plans") as conn:
        history = histories.read(conn, target)
        applied = [entry.migration for entry in reversed(history.applied()) if entry.migration]
        return Plan(
            direction=direction,
            target=target.name,
            base=base(activity.identity(conn), snapshot(conn, leave_out=["pgrunbook"]), history),
            attempts=target.attempts,
            rehearsed="no",
            changes=up(target, history.pending()) if direction == "up" else down(target, applied),
        )


def down(target: Target, migrations: Sequence[Migration]) -> tuple[Change, ...]:
    """Take migrations back by their down scripts, as they are written."""
    scripts = [(m, statements.parse(m.down_sql or "", m.down_path.name if m.down_path else m.name)) for m in migrations]
    return tuple(as_written(m.name, m.hash, "the migration itself", read, target) for m, read in scripts)


def steps_of(sql: str, file: str, target: Target) -> tuple[Step, ...]:
    """Return the steps of a text as it is written."""
    return as_written("", "", "computed", statements.parse(sql, file), target).steps


def safe_plan_of(target: Target, *, off: Mapping[str, str] | None = None) -> Plan:
    """Plan what is pending with its safe forms, judged on the target as it is; without a rehearsal."""
    with connect(target, purpose="plans") as conn:
        history = histories.read(conn, target)
        return Plan(
            direction="up",
            target=target.name,
            base=base(activity.identity(conn), snapshot(conn, leave_out=["pgrunbook"]), history),
            attempts=target.attempts,
            rehearsed="no",
            unproven="It was not rehearsed.",
            changes=release.unproven(target, conn, history.pending(), off or {}),
        )


def execute(
    target: Target,
    plan: Plan | None = None,
    *,
    run_id: str = RUN,
    seen: Callable[[Execution], None] = lambda _: None,
    observer: StepObserver | None = None,
) -> list[StepResult]:
    """Execute a plan as migrate does, on a session of its own."""
    plan = plan or plan_of(target)
    with connect(target, purpose=f"migrate {run_id}") as conn, locks.one_executor(conn):
        journal, history = Journal(journal_of(target)), histories.read(conn, target)
        work = Execution(plan, target, run_id, conn, history, journal, permitted(plan, run_id, conn), observer=observer)
        seen(work)
        return work.run()


# A process that executes a plan, and kills itself where its argument says: "begins 3" is right before step 3 is sent,
# "ran 3" when it ran and is not committed, "" never.
BESIDE = """
import os, signal, sys
from pathlib import Path
from types import SimpleNamespace
import scenes
from pgrunbook.plan import plan
from pgrunbook.config.targets import Target
target, file, moment = Target.model_validate_json(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
def call(name):
    def told(change, step, *_):
        if moment == f"{name} {step.number}":
            os.kill(os.getpid(), signal.SIGKILL)
    return told
observer = SimpleNamespace(begins=call("begins"), ran=call("ran"))
observer.committed = observer.aborted = observer.batch = lambda *_: None
scenes.execute(target, plan.read(file), observer=observer)
"""


@contextmanager
def beside(target: Target, plan: Plan, *, killed_when: str = "") -> Iterator[ForkedProcess]:
    """Execute a plan in a process of its own; it is killed (SIGKILL) with the scene, or at that moment."""
    file = journal_of(target).parent / f"plan-{target.name}.json"
    file.write_text(plan.text())
    with file.with_suffix(".told").open("w+") as told:
        process = ForkedProcess(BESIDE, target.model_dump_json(), str(file), killed_when, told=told.fileno())
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def gone(target: Target, application: str = "migrate") -> Callable[[], bool]:
    """Tell whether the server has no session of ours of that name any more."""
    query = "SELECT FROM pg_stat_activity WHERE application_name LIKE %s AND datname = current_database()"

    def look() -> bool:
        with connect(target, purpose="looks") as conn:
            return conn.execute(query, [f"pgrunbook {application}%"]).fetchone() is None

    return look


def error_of(act: Callable[[], object]) -> RunbookError:
    """Return the error of ours that the call ends in."""
    try:
        act()
    except RunbookError as exc:
        return exc
    raise AssertionError("it did not fail")


def journal_of(target: Target) -> Path:
    """Return the path of the journal that the scenes of a target write."""
    assert target.migrations is not None
    return target.migrations.parent / "journal.jsonl"


def events(target: Target, *kinds: str) -> list[dict[str, object]]:
    """Return the journal's events of these kinds."""
    return [event for event in journal.read(journal_of(target)) if event["event"] in kinds]


@contextmanager
def session(target: Target, *statements: str, name: str = "billing") -> Iterator[Connection]:
    """Somebody else's session: inside a transaction once statements are given, aborted at the end."""
    with connect(target, purpose="other") as conn:
        conn.execute(f"SET application_name = '{name}'; SET lock_timeout = 0; SET statement_timeout = 0")
        if statements:
            conn.execute("BEGIN")
        for statement in statements:
            conn.execute(statement.encode())
        yield conn
        if not conn.closed:
            conn.execute("ROLLBACK")


@contextmanager
def meanwhile(act: Callable[[], object]) -> Iterator[Future[object]]:
    """Run something in the background while the body runs."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(act)


def until(condition: Callable[[], object], within_s: float = 30.0) -> None:
    """Poll until the condition holds."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def is_at(target: Target, text: str, wait_event: str = "") -> Callable[[], bool]:
    """Tell whether an active session is at a statement that holds the text, and waits for that event in it."""
    query = (
        "SELECT FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()"
        " AND datname = current_database() AND strpos(query, %s) > 0 AND %s IN (wait_event, '')"
    )

    def look() -> bool:
        with connect(target, purpose="looks") as conn:
            return conn.execute(query, [text, wait_event]).fetchone() is not None

    return look


def waits(target: Target, application: str = "migrate") -> Callable[[], bool]:
    """Tell whether a session of ours waits for a lock."""
    query = (
        "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name LIKE %s"
        " AND datname = current_database()"
    )

    def look() -> bool:
        with connect(target, purpose="looks") as conn:
            return conn.execute(query, [f"%{application}%"]).fetchone() is not None

    return look


def kill(target: Target, application: str = "migrate") -> int:
    """Terminate our sessions by the name they go by; return how many."""
    query = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name LIKE %s AND datname = current_database() AND pid <> pg_backend_pid()"
    )
    with connect(target, purpose="ends sessions") as conn:
        return len(conn.execute(query, [f"pgrunbook {application}%"]).fetchall())


@contextmanager
def interrupted_when(condition: Callable[[], object]) -> Iterator[None]:
    """Send this process a SIGINT, as Ctrl-C does, once the condition holds."""

    def watch() -> None:
        with suppress(AssertionError, psycopg.Error):
            until(condition)
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=watch)
    thread.start()
    yield
    thread.join()
