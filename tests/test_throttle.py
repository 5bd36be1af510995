"""The throttle: each reason to wait is seen on a real server, the size follows the time, the rest the latency."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import psycopg
import pytest

from conftest import connect, do, rows
from pgrunbook.config.targets import Target
from pgrunbook.database import connection, control
from pgrunbook.database.control import Command
from pgrunbook.errors import Blocked, Interrupted
from pgrunbook.online import brakes, latency, throttle
from pgrunbook.online.brakes import BrakeLimits, BrakeName, Brakes
from pgrunbook.online.latency import LatencyProbe
from pgrunbook.online.throttle import Throttle, ThrottleGoals
from safe_forms_stage import Conn, Stage, wait_until

NOTHING = BrakeLimits(
    lag_bytes=0, lag_s=0, kept_bytes=0, archive_segments=0, vacuum=False, dead=0, transaction_s=0, waiters=False
)
Project = Callable[..., Target]
Command_ = Callable[..., tuple[int, str, str]]


def oid(conn: Conn, table: str = "t") -> int:
    """Return the OID of a table."""
    (found,) = conn.execute("SELECT %s::regclass::oid::int8", [table]).fetchone() or (0,)
    return int(found)


def braked(stage: Stage, limits: BrakeLimits, table: str = "t") -> BrakeName | None:
    """Return what makes a loop on a table wait."""
    found = Brakes(stage.conn, oid(stage.conn, table), limits).look()
    return found and found.name


def test_nothing_brakes_a_server_at_peace(stage: Stage) -> None:
    """All is looked at, and all can be seen."""
    looks = Brakes(stage.conn, oid(stage.conn))
    assert (looks.look(), looks.unseen) == (None, {})


@pytest.mark.parametrize(
    ("query", "waits"),
    [("SELECT 1", True), ("SELECT 0", False), ("SELECT true", True), ("SELECT false", False), ("SELECT NULL", False),
     ("SELECT 0.1", True), ("SELECT -3", False), ("SELECT 'no room'", True), ("SELECT 1 WHERE false", False)],
)  # fmt: skip
def test_query_of_the_operator_brakes(stage: Stage, query: str, waits: bool) -> None:
    """While its first value is true, above 0 or a text; no row and NULL are nothing."""
    assert braked(stage, replace(NOTHING, query=query)) == (BrakeName.QUERY if waits else None)


def test_query_that_fails_or_writes_brakes_nothing_and_is_told(stage: Stage) -> None:
    """It is read only and under a timeout; the loop is told why, and goes on."""
    for query, told in [("DELETE FROM t RETURNING 1", "read-only transaction"), ("SELECT 1/0", "division by zero")]:
        looks = Brakes(stage.conn, oid(stage.conn), replace(NOTHING, query=query))
        assert looks.look() is None
        assert told in " ".join(looks.unseen.values())
    assert stage.conn.execute("SELECT count(*) FROM t").fetchone() == (200,)


@pytest.mark.parametrize("table", ["t", "p"])
def test_waiters_for_a_lock_on_the_table_brake(stage: Stage, table: str) -> None:
    """Whoever waits for the table, or a partition, gets it; a waiter elsewhere brakes nothing."""
    of = {"t": "t", "p": "p_2025"}[table]
    with stage.session() as holder, stage.session() as waiter:
        holder.execute(f"BEGIN; LOCK {of} IN SHARE MODE")
        thread = threading.Thread(target=lambda: waiter.execute(f"BEGIN; LOCK {of}; COMMIT"))
        thread.start()
        wait_until(lambda: braked(stage, replace(NOTHING, waiters=True), table) is not None)
        assert braked(stage, replace(NOTHING, waiters=True), table) is BrakeName.WAITERS
        assert braked(stage, replace(NOTHING, waiters=True), "watched") is None
        holder.rollback()
        thread.join(timeout=30)
    assert braked(stage, replace(NOTHING, waiters=True), table) is None


def test_old_transaction_brakes_and_a_prepared_one_too(stage: Stage) -> None:
    """One that holds a snapshot, or has written; the detail names it."""
    limits = replace(NOTHING, transaction_s=0.01)
    assert braked(stage, limits) is None
    with stage.session() as other:
        other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        wait_until(lambda: braked(stage, limits) is BrakeName.OLD_TRANSACTION)
        found = Brakes(stage.conn, oid(stage.conn), limits).look()
        assert found is not None
        assert f"process {other.info.backend_pid}" in found.told
        other.rollback()
    wait_until(lambda: braked(stage, limits) is None)


def test_dead_rows_brake_only_where_autovacuum_removes_them(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the loop would wait for nobody."""
    monkeypatch.setattr(brakes, "LEAST_DEAD_ROWS", 10)
    limits = replace(NOTHING, dead=0.2)
    (works,) = stage.conn.execute("SELECT current_setting('autovacuum') = 'on'").fetchone() or (None,)
    expected = BrakeName.DEAD_ROWS if works else None
    with stage.session() as other:
        other.execute("UPDATE t SET c = c + 1")
    wait_until(lambda: braked(stage, limits) is expected and _dead(stage) >= 100)
    for option in ("autovacuum_enabled = false", "autovacuum_vacuum_threshold = 1000000"):
        stage.conn.execute(f"ALTER TABLE t SET ({option})")
        assert braked(stage, limits) is None
        stage.conn.execute(f"ALTER TABLE t RESET ({option.partition(' ')[0]})")
        assert braked(stage, limits) is expected


def _dead(stage: Stage) -> int:
    (found,) = stage.conn.execute("SELECT pg_stat_get_dead_tuples('t'::regclass)").fetchone() or (0,)
    return int(found)


def test_slot_that_keeps_wal_brakes(stage: Stage) -> None:
    """A standby that is behind for good keeps WAL in its slot."""
    stage.conn.execute("SELECT pg_create_physical_replication_slot('throttled', true)")
    try:
        stage.conn.execute("CREATE TABLE filled AS SELECT repeat('x', 100) FROM generate_series(1, 20000)")
        assert braked(stage, replace(NOTHING, kept_bytes=1_000)) is BrakeName.SLOT
        assert braked(stage, replace(NOTHING, kept_bytes=1 << 40)) is None
    finally:
        stage.conn.execute("SELECT pg_drop_replication_slot('throttled')")


def test_role_that_may_not_see_something_is_told_and_not_failed(stage: Stage) -> None:
    """Without pg_monitor the lag of standbys is hidden; without a right on a catalog the part is named."""
    stage.conn.execute("DROP ROLE IF EXISTS blind; CREATE ROLE blind; GRANT SELECT ON t TO blind")
    try:
        stage.conn.execute("REVOKE SELECT ON pg_stat_archiver FROM PUBLIC")
        stage.conn.execute("SET ROLE blind")
        looks = Brakes(stage.conn, oid(stage.conn))
        assert looks.look() is None
        assert looks.unseen == {"archive": "archive: permission denied for view pg_stat_archiver"}
    finally:
        stage.conn.execute("RESET ROLE")
        stage.conn.execute("GRANT SELECT ON pg_stat_archiver TO PUBLIC; DROP OWNED BY blind; DROP ROLE blind")


OF_OTHERS = {
    "at peace": (True, "", ""),
    "in a transaction": (False, "application", "BEGIN; SELECT 1"),
    "just now": (False, "application", "SELECT 1"),
    "ours": (True, "pgrunbook probes", "BEGIN; SELECT 1"),
    "traffic of a rehearsal": (False, connection.TRAFFIC, "BEGIN; SELECT 1"),
    "who takes our name": (False, "pgrunbook probes", "SET SESSION AUTHORIZATION other; BEGIN; SELECT 1"),
    "in another database": (False, "application", "BEGIN; SELECT 1"),
}


@pytest.mark.first_case
@pytest.mark.parametrize("case", OF_OTHERS)
def test_loop_is_alone_where_nobody_else_is_at_work(stage: Stage, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """A session counts while it does something or holds a transaction, in any database; ours count for nobody."""
    is_alone, name, does = OF_OTHERS[case]
    monkeypatch.setattr(brakes, "QUIET_S", 60.0 if case == "just now" else 0.2)
    looks = Brakes(stage.conn, oid(stage.conn))
    wait_until(lambda: case == "just now" or looks.is_alone())
    if not does:
        return
    place = {"conninfo": stage.conn.info.dsn, "user": stage.conn.info.user, "application_name": name}
    database = "postgres" if case == "in another database" else stage.conn.info.dbname
    user = "other" if case == "who takes our name" else stage.conn.info.user
    if user == "other":
        stage.conn.execute("DROP ROLE IF EXISTS other; CREATE ROLE other LOGIN")
        does = does.partition("; ")[2]
    with psycopg.connect(**{**place, "dbname": database, "user": user}, autocommit=True) as session:  # type: ignore[arg-type]
        wait_until(lambda: looks.is_alone() or case == "just now")
        session.execute(does.encode())
        if is_alone:
            wait_until(looks.is_alone)
            return
        for _ in range(3):
            time.sleep(0.1)
            assert not looks.is_alone()
    if case != "just now":
        wait_until(looks.is_alone)


def test_who_comes_and_goes_between_two_looks_is_somebody(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server counts sessions, also ours; what they did is over, and others like it will come."""
    monkeypatch.setattr(brakes, "QUIET_S", 0.2)
    looks = Brakes(stage.conn, oid(stage.conn))
    wait_until(looks.is_alone)
    for _ in range(3):
        with psycopg.connect(stage.conn.info.dsn, application_name="pgrunbook probes") as ours:
            ours.execute("SELECT 1")
            assert looks.is_alone()
    with stage.session():
        pass
    wait_until(lambda: not looks.is_alone())
    wait_until(looks.is_alone)


def test_who_hides_what_it_does_is_at_work(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A role without pg_read_all_stats does not see it; with that right it is alone."""
    monkeypatch.setattr(brakes, "QUIET_S", 0.2)
    stage.conn.execute("DROP ROLE IF EXISTS blind; CREATE ROLE blind")
    try:
        with stage.session(), stage.session() as conn:
            looks = Brakes(conn, oid(conn))
            conn.execute("SET ROLE blind")
            for _ in range(5):
                time.sleep(0.1)
                assert not looks.is_alone()
            assert looks.unseen == {}
            stage.conn.execute("GRANT pg_read_all_stats TO blind")
            wait_until(looks.is_alone)
    finally:
        stage.conn.execute("DROP ROLE blind")


def test_loop_rests_for_others_only(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody there: no rest, and none is learnt; a person slows it down all the same; when others come it rests."""
    monkeypatch.setattr(brakes, "QUIET_S", 0.2)
    monkeypatch.setattr(throttle, "LOOK_S", 0.0)
    monkeypatch.setattr(throttle, "STEER_S", 0.0)
    throttled = Throttle(stage.conn, oid(stage.conn), ThrottleGoals(latency_ms=10), run_id="20261130T100000Z-aaaa")

    slept: list[float] = []
    monkeypatch.setattr(throttle.time, "sleep", slept.append)

    def rests() -> bool:
        before = len(slept)
        throttled.worked(0.05, 1, commit_s=0.1)
        throttled.turn()
        return len(slept) > before

    wait_until(lambda: not rests())
    rest = throttled.rest
    assert not rests()
    assert (throttled.rest, throttled.samples[-1].rest) == (rest, 0.0)
    control.change_pace(stage.conn, throttled.run_id, 0.5)
    assert rests()
    control.change_pace(stage.conn, throttled.run_id, 2.0)
    throttled.turn()
    assert not rests()
    with stage.session() as other:
        other.execute("BEGIN; SELECT 1")
        assert rests()


def test_loop_that_waits_goes_on_when_the_reason_is_gone(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds no transaction meanwhile, tells the reason, and notes for how long it waited."""
    monkeypatch.setattr(throttle, "LOOK_S", 0.02)
    stage.conn.execute("CREATE TABLE flag AS SELECT 1 AS up")
    told: list[tuple[str, str]] = []

    def lower(brake: brakes.Brake) -> None:
        with stage.session() as other:
            (state,) = other.execute(
                "SELECT state FROM pg_stat_activity WHERE pid = %s", [stage.conn.info.backend_pid]
            ).fetchone() or ("",)
            told.append((str(brake), str(state)))
            other.execute("UPDATE flag SET up = 0")

    goals = ThrottleGoals(brakes=replace(NOTHING, query="SELECT up FROM flag"))
    throttled = Throttle(stage.conn, oid(stage.conn), goals, on_wait=lower)
    throttled.turn()
    assert told == [("the threshold query says so: it returns 1", "idle")]
    assert [wait.why for wait in throttled.waits] == ["the threshold query says so"]


def test_reason_that_stays_blocks_the_loop(stage: Stage) -> None:
    """After its patience; the full text names it."""
    goals = ThrottleGoals(patience_s=0, brakes=replace(NOTHING, query="SELECT 7"))
    with pytest.raises(Blocked) as caught:
        Throttle(stage.conn, oid(stage.conn), goals).turn()
    assert str(caught.value) == (
        "batches have waited for 0 s, because the threshold query says so\n"
        "Detail: the threshold query says so: it returns 7.\n"
        "State: Nothing changed in the database.\n"
        "Hint: Mend what that names, then go on with this run."
    )


def test_size_grows_slowly_shrinks_at_once_and_is_halved(stage: Stage) -> None:
    """A fifth more at most; a tenth where one took ten times as long; bounded; a last, small one tells nothing."""
    goals = ThrottleGoals(batch_ms=50, least_rows=10, most_rows=1_300)
    throttled = Throttle(stage.conn, 0, goals, rows=1_000)
    sizes = []
    for took_s, asked in [(0.010, 0), (0.010, 0), (0.5, 0), (0.048, 0), (9.0, 0), (0.001, 5)]:
        throttled.worked(took_s, 1, asked=asked)
        sizes.append(throttled.rows)
    assert sizes == [1_200, 1_300, 130, 130, 10, 10]
    throttled.rows = 999
    throttled.failed()
    assert throttled.rows == 499


def test_rest_follows_the_latency(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above its goal the loop rests longer, well below it shorter, down to a fifth of the time, or to none."""
    monkeypatch.setattr(throttle, "STEER_S", 0.0)
    throttled = Throttle(stage.conn, 0, ThrottleGoals(latency_ms=10))
    assert throttled.rest == 1.0
    throttled.worked(0.001, 1, commit_s=0.1)
    assert throttled.rest == 1.25
    for _ in range(40):
        throttled.worked(0.001, 1, commit_s=0.0001)
    assert throttled.rest == throttle.FOR_OTHERS
    assert (throttled.samples[0].latency_ms, throttled.samples[-1].rows) == (100.0, 41)
    for _ in range(40):
        throttled.worked(0.001, 1, commit_s=1.0)
    assert throttled.rest == throttle.MOST_REST
    throttled.latency_ms, throttled.rest = 1.0, 0.0
    throttled.worked(0.001, 1, commit_s=0.0001)
    assert throttled.rest == 0.0


def test_loop_beside_slow_transactions_rests_to_listen(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Now and then, for long enough that the probes behind its own work tell what others do without it."""
    rested: list[float] = []
    monkeypatch.setattr(throttle.time, "sleep", rested.append)
    probe = LatencyProbe(Target(name="never", server="asked"), "public", "t", 0)
    throttled = Throttle(stage.conn, 0, ThrottleGoals(latency_ms=10, brakes=NOTHING), probe=probe)
    monkeypatch.setattr(probe, "begin", lambda: None)
    throttled.latency_ms = 9.0
    throttled.turn()
    throttled.latency_ms = 11.0
    for _ in range(3):
        throttled.worked(0.001, 1)
        throttled.turn()
    assert rested == [throttle.LISTEN_S, 0.001, 0.001]


def test_what_others_wait_for_when_a_rest_begins_is_not_theirs(project: Project) -> None:
    """A probe counts as one beside nobody only when the rest has lasted for a while, and lasts to its end."""
    target = project()
    do(target, "CREATE TABLE public.probed AS SELECT i AS id FROM generate_series(1, 1000) AS i; ANALYZE public.probed")
    began = time.monotonic()
    with LatencyProbe(target, "public", "probed", 0) as probe:
        probe.begin()
        wait_until(lambda: len(probe.since(began)) > 5)
        assert probe.idle() == []
        for _ in range(3):
            with probe.resting():
                time.sleep(latency.SETTLED_S / 2)
        assert probe.idle() == []
        with probe.resting():
            wait_until(lambda: len(probe.idle()) > 2)


def test_person_changes_the_pace_of_one_run(stage: Stage) -> None:
    """Faster lets it rest less and its goals be wider; other runs keep theirs; there are bounds."""
    assert control.pace(stage.conn, "run") == 1.0
    assert [control.change_pace(stage.conn, "run", 4.0) for _ in range(4)] == [4.0, 16.0, 64.0, 64.0]
    assert control.change_pace(stage.conn, "run", 1 / 16) == 4.0
    throttled = [Throttle(stage.conn, 0, ThrottleGoals(brakes=NOTHING), run_id=name) for name in ("run", "other")]
    for one in throttled:
        one.turn()
    assert [(one.pace, one.rest) for one in throttled] == [(4.0, 0.25), (1.0, 1.0)]


def test_command_to_a_run_is_for_its_loops_only(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person's pause has no lease, and is not bounded; all batches obey what is said to all."""
    monkeypatch.setattr(control, "LOOK_S", 0.02)
    control.ask(stage.conn, Command.PAUSE, "the fair", run_id="run", lease_s=None)
    assert control.standing(stage.conn) is None
    assert control.standing(stage.conn, run_id="other") is None
    found = control.standing(stage.conn, run_id="run")
    assert found == control.Order(Command.PAUSE, "the fair", "postgres", is_lasting=True)

    def go_on(_: control.Order) -> None:
        time.sleep(0.05)
        with stage.session() as other:
            control.withdraw(other, run_id="run")

    throttled = Throttle(stage.conn, 0, ThrottleGoals(brakes=NOTHING), run_id="run", on_pause=go_on)
    monkeypatch.setattr(throttled._obedience, "at_most_s", 0.0)
    throttled.turn()
    assert [wait.why for wait in throttled.waits] == ["paused by postgres"]
    control.ask(stage.conn, Command.ABORT, "enough", run_id="run", lease_s=60)
    Throttle(stage.conn, 0, ThrottleGoals(brakes=NOTHING), run_id="other").turn()
    with pytest.raises(Interrupted) as caught:
        Throttle(stage.conn, 0, ThrottleGoals(brakes=NOTHING), run_id="run").turn()
    assert str(caught.value) == (
        "the run was aborted by postgres, between two batches\n"
        "Detail: enough.\n"
        "State: Nothing changed in the database.\n"
        "Hint: Go on with this run when it may work again."
    )


def test_tables_of_commands_of_older_versions_go_on_working(stage: Stage) -> None:
    """A database whose table of commands was made before there were paces: nothing of it changes."""
    control.ask(stage.conn, Command.PAUSE, "ours")
    control.withdraw(stage.conn)
    before = stage.conn.execute("SELECT oid FROM pg_class WHERE relname = 'control'").fetchone()
    with stage.session() as later:
        control.change_pace(later, "run", 2.0)
        control.ask(later, Command.PAUSE, "ours", run_id="run", lease_s=None)
    with stage.session() as later:  # looks at the schema anew
        assert control.pace(later, "run") == 2.0
    assert stage.conn.execute("SELECT oid FROM pg_class WHERE relname = 'control'").fetchone() == before


def test_probe_measures_small_transactions_and_who_waits_behind(project: Project) -> None:
    """A lock that others wait for shows in its numbers; it ends with its body."""
    target = project()
    do(target, "CREATE TABLE public.probed AS SELECT i AS id FROM generate_series(1, 1000) AS i; ANALYZE public.probed")
    with connect(target) as loop, connect(target) as waiter:
        began = time.monotonic()
        with LatencyProbe(target, "public", "probed", loop.info.backend_pid) as probe:
            probe.begin()
            wait_until(lambda: len(probe.since(began)) > 5)
            assert probe.unseen == ""
            loop.execute("BEGIN; UPDATE probed SET id = id WHERE id = 1")
            thread = threading.Thread(target=lambda: waiter.execute("UPDATE probed SET id = id WHERE id = 1"))
            thread.start()
            wait_until(lambda: probe.behind == 1)
            loop.execute("COMMIT")
            thread.join(timeout=30)
            wait_until(lambda: probe.behind == 0)
    wait_until(lambda: rows(target, "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%probes'")
               == [(0,)])  # fmt: skip


def test_probe_that_cannot_measure_is_told(project: Project) -> None:
    """No connection is to be had, or there is no row of its own to read: the loop works without."""
    target = project()
    do(target, "CREATE VIEW public.seen AS SELECT 1 AS id")
    for one, told in [
        (target.model_copy(update={"database": "nowhere"}), "could not connect"),
        (target, '"public"."seen" has no rows of its own'),
    ]:
        with LatencyProbe(one, "public", "seen", 0) as probe:
            probe.begin()
            wait_until(lambda probe=probe: bool(probe.unseen))
        assert told in probe.unseen


def test_command_of_the_command_line_reaches_the_run(
    project: Project, command: Callable[..., tuple[int, str, str]]
) -> None:
    """Pause, resume, faster, slower and stop by the end of the run's id; another word is refused."""
    from pgrunbook.record import run as records

    target = project()
    made = records.create("release", target.name, {"target": target.name}, how="headless")
    end = made.run_id[-4:]
    said = [command("throttle", end, *words) for words in (("pause", "--reason", "the fair"), ("resume",), ("faster",),
                                                           ("slower",), ("stop",), ("sprint",))]  # fmt: skip
    assert [(code, out.removeprefix(made.run_id)) for code, out, _ in said] == [
        (0, f": its batches pause until: pgrunbook throttle {made.run_id} resume\n"),
        (0, ": its batches go on\n"),
        (0, ": its batches work at 1.50 times the pace that they choose\n"),
        (0, ": its batches work at 1.00 times the pace that they choose\n"),
        (0, f": it stops behind its next batch; it goes on with: pgrunbook run --resume {made.run_id}\n"),
        (2, ""),
    ]
    assert "pause, resume, faster, slower, stop" in said[-1][2]
    assert rows(target, "SELECT name, command, reason FROM pgrunbook.control") == [
        (made.run_id, "abort", "a person asks for it")
    ]


@pytest.mark.slow
def test_what_a_command_cannot_change_is_told(project: Project, command: Callable[..., tuple[int, str, str]]) -> None:
    """Batches that are paused work at no pace; a run that is done has none."""
    from pgrunbook.record import run as records

    target = project()
    made = records.create("release", target.name, {"target": target.name}, how="headless")
    assert command("throttle", made.run_id, "pause")[0] == 0
    code, out, _ = command("throttle", made.run_id, "slower")
    says = "its batches work at 0.67 times the pace that they choose, once they are resumed: they are paused"
    assert (code, out) == (0, f"{made.run_id}: {says}\n")
    made.status = records.Status.DONE
    made.save()
    for word in ("pause", "resume", "faster", "slower", "stop"):
        code, out, err = command("throttle", made.run_id, word)
        assert (code, out) == (2, "")
        assert err.startswith(f"run {made.run_id} is done: nothing of it is at work\n")


def test_unknown_command_cannot_be_written(stage: Stage) -> None:
    """The server refuses it: what a loop reads is one of two words, whoever wrote it."""
    control.ask(stage.conn, Command.PAUSE, "ours", run_id="run", lease_s=None)
    with pytest.raises(psycopg.errors.CheckViolation):
        stage.conn.execute("UPDATE pgrunbook.control SET command = 'faster'")
