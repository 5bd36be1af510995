"""One runner at a time, and who stands in the way."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from budget import sample
from conftest import connect, do, rows
from pgrunbook.config.targets import Target
from pgrunbook.database import locks
from pgrunbook.errors import Blocked, TargetBusy, WrongInput
from pgrunbook.procedures import migrate, prepare, purge, rollback
from pgrunbook.session import session as heres
from scenes import error_of, kill, meanwhile, session, until, waits

Project = Callable[..., Target]
RUN = "20261122T165431Z-demo-7f3a"


def hold(target: Target, *, wait_s: float = 0.0) -> None:
    with locks.one_runner(target, "second", wait_s=wait_s):
        pass


def test_a_second_runner_is_refused_while_the_first_is_at_work(project: Project) -> None:
    """It waits its time, then says who holds the lock; afterwards the lock is to be had."""
    target = project(folder={})
    with locks.one_runner(target, RUN):
        error = error_of(lambda: hold(target, wait_s=0.2))
        (pid,) = rows(target, f"SELECT pid FROM pg_stat_activity WHERE application_name LIKE '%{RUN}'")[0]
    assert isinstance(error, Blocked)
    assert re.sub(r"for \d+ s\)", "for N s)", str(error)) == (
        'another run is in progress on target "demo"\n'
        f'Detail: The run lock is held by process {pid} ("pgrunbook holds the run lock for {RUN}", for N s); '
        "waited 0.2 s.\n"
        "State: This run changed nothing.\n"
        "Hint: Wait until it has ended (pgrunbook runs), then run the same command again."
    )
    hold(target)


def test_a_second_runner_has_the_lock_once_the_first_lets_go(project: Project) -> None:
    """Within its time it asks again and again."""
    target = project(folder={})
    with meanwhile(lambda: None):
        first = locks.one_runner(target, RUN)
        first.__enter__()
        with meanwhile(lambda: hold(target, wait_s=60)) as second:
            until(lambda: rows(target, "SELECT FROM pg_stat_activity WHERE application_name LIKE '%for second'"))
            assert not second.done()
            first.__exit__(None, None, None)
            assert second.result() is None


def test_a_lock_ends_with_the_process_that_held_it(project: Project) -> None:
    """The server lets go of it when the session is gone; nothing has to be cleared up."""
    target = project(folder={})
    with locks.one_runner(target, RUN):
        kill(target, "holds the run lock")
        until(lambda: not rows(target, "SELECT FROM pg_locks WHERE locktype = 'advisory'"))
        hold(target)


def test_databases_do_not_lock_each_other(project: Project) -> None:
    """The lock is this database's."""
    one, two = project(folder={}), project(folder={}, name="two")
    with locks.one_runner(one, RUN):
        hold(two)


def test_neither_runner_holds_up_a_concurrent_build(project: Project) -> None:
    """Whoever holds the lock, and whoever polls for it, is in no transaction: CREATE INDEX CONCURRENTLY goes on."""
    target = project(folder={})
    do(target, "CREATE TABLE a (n int)")
    with locks.one_runner(target, RUN), meanwhile(lambda: error_of(lambda: hold(target, wait_s=1))) as second:
        until(lambda: rows(target, "SELECT FROM pg_stat_activity WHERE application_name LIKE '%for second'"))
        do(target, "CREATE INDEX CONCURRENTLY i ON a (n)")
        assert isinstance(second.result(), Blocked)


def test_the_session_that_a_killed_process_left_is_waited_for(project: Project) -> None:
    """Until the server notices, it may still commit; after its time the error says which session it is."""
    target = project(folder={})
    with connect(target, purpose="migrate us") as conn:
        with session(target, "SELECT 1", name="pgrunbook migrate old") as old:
            old.execute("SELECT pg_advisory_lock(%s, %s)", locks.EXECUTOR_KEY)
            pid = old.info.backend_pid
            error = error_of(lambda: locks.one_executor(conn, wait_s=0.2).__enter__())
        with locks.one_executor(conn), connect(target) as third:
            assert error_of(lambda: locks.one_executor(third, wait_s=0).__enter__())
        with connect(target) as third, locks.one_executor(third):
            pass
    assert isinstance(error, Blocked)
    assert re.sub(r"for \d+ s\)", "for N s)", str(error)) == (
        "could not begin: the session of an earlier run is still executing in the server\n"
        f'Detail: It is process {pid} ("pgrunbook migrate old", for N s); waited 0.2 s.\n'
        "State: This run changed nothing; whether that session's statement will commit is not known yet.\n"
        "Hint: Wait until it has ended, or end it with pg_terminate_backend; then run the same command again."
    )


def test_who_holds_the_lock_is_told(project: Project) -> None:
    """A phrase with process, name and age; nothing when nobody does."""
    target = project(folder={})
    with connect(target) as conn:
        assert locks.run_in_progress(conn) == ""
        with locks.one_runner(target, RUN):
            assert re.fullmatch(
                rf'process \d+ \("pgrunbook holds the run lock for {RUN}", for \d+ s\)', locks.run_in_progress(conn)
            )
        do(target, "SELECT pg_advisory_lock(1, 2)")
        assert locks.run_in_progress(conn) == ""


def test_a_watch_tells_the_whole_queue_the_head_first(project: Project) -> None:
    """A reader heads it, an ALTER stands behind the reader, and we behind both."""
    target = project(folder={})
    do(target, "CREATE TABLE orders (n int)")
    with (
        session(target, "SELECT FROM orders", name="report") as head,
        session(target, "SELECT 1", name="deploy") as second,
        session(target, "SELECT 1", name="us") as us,
    ):
        with meanwhile(lambda: second.execute("ALTER TABLE orders ADD m int")):
            until(waits(target, "deploy"))
            with meanwhile(lambda: us.execute("ALTER TABLE orders ADD l int")):
                until(waits(target, "us"))
                with locks.Watch(target, us.info.backend_pid, after_s=0) as watch:
                    until(lambda: len(watch.blockers) == 2)
                head.execute("ROLLBACK")
                until(lambda: not waits(target, "deploy")())
                second.cancel()
                until(lambda: second.info.transaction_status.name == "INTRANS")
                second.execute("ROLLBACK")
        told = re.sub(r"for \d+ s", "for N s", watch.blocker_text())
        pids = [conn.info.backend_pid for conn in (head, second)]
    assert told == (
        f'Process {pids[0]} ("report", idle in transaction for N s) heads the lock queue for public.orders. '
        f'Process {pids[1]} ("deploy", active for N s) stands in the lock queue for public.orders.'
    )
    assert watch.waited_ms > 0


def test_a_watch_that_sees_nobody_tells_nothing(project: Project) -> None:
    """A statement that does not wait opens no second session."""
    target = project(folder={})
    with locks.Watch(target, 1) as watch:
        pass
    assert (watch.blocker_text(), watch.waited_ms, watch.blockers) == ("", 0, {})


@pytest.mark.parametrize("broken", ["gone", "killed"])
def test_a_watch_that_cannot_look_is_quiet_about_it(
    project: Project, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The step matters, the watch only adds to it: one line in the log, and no thread is left."""
    target = project(folder={})
    before = threading.active_count()
    watched = target.model_copy(update={"server": "not-there"}) if broken == "gone" else target
    with locks.Watch(watched, 1, after_s=0):
        if broken == "killed":
            until(lambda: kill(target, "watches lock waits"))
        until(lambda: "lock waits are not watched" in caplog.text)
    assert threading.active_count() == before
    assert len(caplog.records) == 1


def test_a_watch_whose_address_is_gone_is_quiet_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the reason is."""
    monkeypatch.delenv("NO_ADDRESS", raising=False)
    target = Target(name="demo", url_from="NO_ADDRESS")
    assert isinstance(error_of(target.conninfo), WrongInput)
    with locks.Watch(target, 1, after_s=0):
        until(lambda: "lock waits are not watched" in caplog.text)


def test_a_watch_is_told_how_far_a_build_has_come(project: Project) -> None:
    """And whom it waits for, as long as it does."""
    target = project(folder={})
    do(target, "CREATE TABLE orders (n int)")
    told: list[str] = []
    with (
        session(target, "INSERT INTO orders VALUES (1)") as writer,
        session(target, name="us") as us,
        locks.Watch(target, us.info.backend_pid, after_s=0, on_progress=told.append),
        meanwhile(lambda: us.execute("CREATE INDEX CONCURRENTLY i ON orders (n)")),
    ):
        until(lambda: told)
        writer.execute("ROLLBACK")
        pid = writer.info.backend_pid
    assert told[0].startswith(f'Waiting for writers before build: waits for process {pid} ("billing", idle in trans')


def test_whoever_watches_and_whoever_holds_the_run_lock_holds_up_no_build(project: Project) -> None:
    """Built beside many looks at it: none of our sessions is ever named as what it waits for, nor has a snapshot."""
    target = project(folder={})
    do(target, "CREATE TABLE orders (n int); INSERT INTO orders SELECT generate_series(1, 1000)")
    told: list[str] = []
    ours = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'pgrunbook %' AND pid <> pg_backend_pid()"
    with locks.one_runner(target, RUN), session(target, name="us") as us:
        with locks.Watch(target, us.info.backend_pid, after_s=0, on_progress=told.append) as watch:
            until(lambda: len(rows(target, ours)) == 2)  # the run lock's session, and the watch's
            pids = {pid for (pid,) in rows(target, ours)}
            with (
                session(target, "INSERT INTO orders VALUES (0)") as writer,
                meanwhile(lambda: us.execute("CREATE INDEX CONCURRENTLY i ON orders (n)")) as building,
            ):
                until(lambda: told)
                until(lambda: len(rows(target, f"{ours} AND backend_xmin IS NULL AND state = 'idle'")) == 2)
                writer.execute("ROLLBACK")
                building.result()
            for number in range(5):
                us.execute(f"CREATE INDEX CONCURRENTLY i{number} ON orders (n)".encode())
        us.execute("REINDEX TABLE CONCURRENTLY orders")
    assert not pids & set(watch.blockers)
    assert not [text for text in told if "pgrunbook" in text]
    assert rows(target, "SELECT count(*) FROM pg_index WHERE indisvalid AND indrelid = 'orders'::regclass") == [(6,)]


@pytest.mark.slow
@pytest.mark.parametrize("procedure", sample([migrate, prepare, rollback, purge], 4))
def test_a_target_at_which_somebody_works_is_noticed_before_any_work(
    project: Project, procedure: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first cell that meets the target waits a moment, and says who it is: exit code 4."""
    target = project(folder={})
    monkeypatch.chdir(tmp_path)
    here = procedure.begin(target="demo")
    with locks.one_runner(target, RUN):
        error = error_of(lambda: procedure.meet_the_target(here))
    assert isinstance(error, TargetBusy)
    assert (error.exit_code, error.message) == (4, 'another run is in progress on target "demo"')
    assert RUN in error.detail
    procedure.meet_the_target(here)
    with connect(target) as conn, locks.one_executor(conn), pytest.raises(TargetBusy, match="still executing"):
        locks.wait_for_others(here.conn, target, executor_s=0.2)
    heres._end_earlier()
