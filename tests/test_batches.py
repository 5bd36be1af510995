"""The loop of batches: every row once, whatever happens meanwhile, and on from where it was stopped."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psycopg
import pytest

from budget import sample
from pgrunbook import undo_data
from pgrunbook.database import step_log
from pgrunbook.online import batch_order, tracked_pages
from pgrunbook.online.batches import BatchProgress, Haste, run_batches
from pgrunbook.plan.step import Batches
from safe_forms_stage import Conn, Stage, plan, wait_until

PLUS_ONE = Batches(
    schema="public",
    table="t",
    alias="t",
    statement="UPDATE t SET c = t.c + 1000 WHERE pgrunbook_range AND t.id <> 50",
    key=("id",),
    key_types=("integer",),
    rows=30,
)


def test_every_row_is_changed_once(stage: Stage) -> None:
    """A statement that would change a row again each time it runs changes each row once, by ranges of the key."""
    told: list[BatchProgress] = []
    done = run_batches(stage.conn, PLUS_ONE, resume_from="one", on_batch=told.append)
    assert (done.is_done, done.batches, done.rows) == (True, 7, 199)
    assert [progress.last_key for progress in told[:3]] == [("30",), ("60",), ("90",)]
    assert _values(stage.conn, "SELECT count(*) FROM t WHERE c BETWEEN 1001 AND 1050") == [199]


def test_first_batch_is_the_plans_also_where_later_ones_are_larger(stage: Stage) -> None:
    """On a branch where nobody waits; after a stop the loop goes on with large ones."""
    told: list[BatchProgress] = []
    done = run_batches(stage.conn, PLUS_ONE, resume_from="one", on_batch=told.append, haste=Haste(times=4, after=1))
    assert [progress.last_key for progress in told[:3]] == [("30",), ("150",), ("200",)]
    assert (done.batches, done.rows) == (3, 199)


def test_loop_that_is_done_is_not_done_again(stage: Stage) -> None:
    """The progress row says so, and nothing is changed."""
    first = run_batches(stage.conn, PLUS_ONE, resume_from="one")
    assert run_batches(stage.conn, PLUS_ONE, resume_from="one") == first
    assert _values(stage.conn, "SELECT count(*) FROM t WHERE c > 2000") == [0]


def test_killed_loop_goes_on_behind_the_last_commit(stage: Stage) -> None:
    """Its session is ended in the middle of a batch; the next one does the rest, and no row twice."""
    with stage.session() as victim, stage.session() as other:
        other.execute("BEGIN; UPDATE t SET b = b WHERE id = 100")
        pid = victim.info.backend_pid
        waits = f"SELECT count(*) FROM pg_locks WHERE pid = {pid} AND NOT granted"

        def kill_when_waiting() -> None:
            wait_until(lambda: _values(stage.conn, waits) == [1])
            stage.conn.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])

        thread = threading.Thread(target=kill_when_waiting)
        thread.start()
        with pytest.raises(psycopg.OperationalError):
            run_batches(victim, PLUS_ONE, resume_from="one")
        thread.join(timeout=30)
        other.rollback()
    assert _values(stage.conn, "SELECT rows FROM pgrunbook.batch") == [89]
    assert run_batches(stage.conn, PLUS_ONE, resume_from="one").rows == 199
    assert _values(stage.conn, "SELECT count(*) FROM t WHERE c BETWEEN 1001 AND 1050") == [199]


@pytest.mark.slow
def test_client_that_writes_rows_in_another_order_is_no_victim_of_a_deadlock(stage: Stage) -> None:
    """The batch gives its rows back before the server looks for one, and waits again: who writes sees no error."""
    waits = "SELECT count(*) FROM pg_locks WHERE pid = {} AND NOT granted"
    with stage.session() as other, stage.session() as worker, ThreadPoolExecutor(1) as pool:
        other.execute("BEGIN; UPDATE t SET b = b WHERE id = 28")
        running = pool.submit(run_batches, worker, PLUS_ONE, resume_from="one")
        wait_until(lambda: _values(stage.conn, waits.format(worker.info.backend_pid)) == [1])
        other.execute("UPDATE t SET b = b WHERE id IN (3, 28)")
        other.execute("COMMIT")
        assert running.result().rows == 199
    assert _values(stage.conn, "SELECT count(*) FROM t WHERE c BETWEEN 1001 AND 1050") == [199]


def test_row_that_is_locked_ends_the_batch_and_not_the_loop(stage: Stage) -> None:
    """After a lock timeout what was committed stays, and the same call goes on."""
    with stage.session() as other:
        other.execute("BEGIN; UPDATE t SET b = b WHERE id = 100")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            run_batches(stage.conn, PLUS_ONE, resume_from="one", lock_timeout_ms=50)
        other.rollback()
    assert run_batches(stage.conn, PLUS_ONE, resume_from="one").rows == 199


def test_rows_that_come_meanwhile_are_left_as_they_are(stage: Stage) -> None:
    """Behind the largest key of the start, and among the other keys: one statement would not have seen them either."""
    begins, loop, ends = plan(stage.conn, "UPDATE t SET c = c + 1000", batch_rows=30)[0].steps
    step_log.create(stage.conn)
    stage.conn.execute("DELETE FROM t WHERE id IN (20, 150)")
    stage.conn.execute(begins.sql)

    def insert(_: BatchProgress) -> None:
        with stage.session() as other:
            other.execute("INSERT INTO t (id, c) SELECT max(id) + 1, 5 FROM t")
            other.execute("INSERT INTO t (id, c) VALUES (20, 5), (150, 5) ON CONFLICT (id) DO NOTHING")

    assert loop.batches is not None
    done = run_batches(stage.conn, loop.batches, resume_from="one", on_batch=insert)
    assert (done.batches, done.rows) == (7, 198)
    assert _values(stage.conn, "SELECT DISTINCT c FROM t WHERE id IN (20, 150) OR id > 200") == [5]
    stage.conn.execute(ends.sql)


def test_row_that_stays_as_it_is_does_not_hold_the_loop_up(stage: Stage) -> None:
    """Progress is the key: a statement that leaves its own condition true ends all the same."""
    still = replace(PLUS_ONE, statement="UPDATE t SET b = b WHERE pgrunbook_range AND t.b IS NOT NULL")
    assert run_batches(stage.conn, still, resume_from="one").rows == 200


@pytest.mark.parametrize(("role", "may"), [("postgres", True), ("common", False), ("granted", True)])
def test_images_of_pages_are_compressed_where_the_role_may(stage: Stage, role: str, may: bool) -> None:
    """With LZ4, where the server has it: in the batches, and not behind them."""
    if role != "postgres":
        step_log.create(stage.conn)
        rights = [f"GRANT ALL ON ALL TABLES IN SCHEMA pgrunbook TO {role}", f"GRANT ALL ON t TO {role}"]
        rights.append(f"GRANT ALL ON SCHEMA pgrunbook, public TO {role}")
        if role == "granted" and stage.version >= 15:
            rights.append(f"GRANT SET ON PARAMETER wal_compression TO {role}")
        stage.conn.execute(";".join([f"CREATE ROLE {role}", *rights]).encode())
    try:
        stage.conn.execute(f"SET ROLE {role}".encode())
        tells = replace(PLUS_ONE, statement="UPDATE t SET b = current_setting('wal_compression') WHERE pgrunbook_range")
        before = _values(stage.conn, "SELECT current_setting('wal_compression')")
        has_lz4 = "SELECT coalesce('lz4' = ANY (enumvals), false) FROM pg_settings WHERE name = 'wal_compression'"
        expected = ["lz4"] if may and _values(stage.conn, has_lz4) == [True] else before
        run_batches(stage.conn, tells, resume_from="one")
        assert _values(stage.conn, "SELECT DISTINCT b FROM t") == expected
        assert _values(stage.conn, "SELECT current_setting('wal_compression')") == before
    finally:
        stage.conn.execute("RESET ROLE")
        if role != "postgres":
            stage.conn.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


def test_each_batch_holds_its_own_rows_only(stage: Stage) -> None:
    """Between two batches nothing is locked, and inside one the table's lock lets others write."""
    stage.conn.execute(
        "CREATE TABLE seen (mode text);"
        "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO seen SELECT l.mode"
        " FROM pg_locks AS l WHERE l.pid = pg_backend_pid() AND l.relation = 't'::regclass; RETURN NEW; END $$;"
        "CREATE TRIGGER look BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION look()"
    )

    def write(_: BatchProgress) -> None:
        with stage.session() as other:
            other.execute("DELETE FROM seen; UPDATE t SET b = 'mine' WHERE id = 1")

    run_batches(stage.conn, PLUS_ONE, resume_from="one", on_batch=write)
    run_batches(stage.conn, PLUS_ONE, resume_from="two")
    assert set(_values(stage.conn, "SELECT mode FROM seen")) <= {"AccessShareLock", "RowExclusiveLock"}


@pytest.mark.first_case
@pytest.mark.parametrize(
    ("type_", "value"),
    sample([
        ("numeric(12,3)", "(i::numeric / 7)"), ("text", "chr(64 + i % 26) || i"), ("char(9)", "i::text"),
        ("timestamptz", "'2026-01-01'::timestamptz + i * interval '1 second 1 us'"), ("uuid", "md5(i::text)::uuid"),
        ("bytea", "decode(md5(i::text), 'hex')"), ("double precision", "i / 3.0::float8"), ("app.positive", "i"),
        ("date", "'2026-01-01'::date + i"), ("interval", "i * interval '1 hour'"), ("bigint", "-i"),
        ("inet", "'10.0.0.0'::inet + i"), ("text COLLATE \"C\"", "CASE WHEN i % 2 = 0 THEN 'a' ELSE 'B' END || i"),
    ], 3),
)  # fmt: skip
def test_key_of_any_type_is_walked_through(stage: Stage, type_: str, value: str) -> None:
    """Also beside a second column, and in a session that writes dates in another way."""
    conn = stage.conn
    conn.execute(f'CREATE TABLE k (a {type_}, "B b" integer, n integer DEFAULT 0, PRIMARY KEY (a, "B b"))')
    conn.execute(f"INSERT INTO k SELECT {value}, j FROM generate_series(1, 40) AS i, generate_series(1, 3) AS j")
    conn.execute("SET DateStyle = 'SQL, DMY'; SET TimeZone = 'Asia/Tokyo'")
    (expansion,) = plan(conn, "UPDATE k SET n = n + 1", batch_rows=7)
    begins, loop, ends = expansion.steps
    assert loop.batches is not None
    step_log.create(conn)
    conn.execute(begins.sql)
    done = run_batches(conn, loop.batches, resume_from="k")
    conn.execute(ends.sql)
    assert (done.rows, done.batches) == (120, 18)
    assert _values(conn, "SELECT DISTINCT n FROM k") == [1]


BY_RANDOM_KEY = """
CREATE TABLE big (id uuid PRIMARY KEY, n integer UNIQUE, at integer);
INSERT INTO big SELECT md5(i::text)::uuid, i, i % 3 FROM generate_series(1, 2000) AS i;
CREATE TABLE small (n integer REFERENCES big (n)); INSERT INTO small VALUES (1201);
ANALYZE big
"""


@pytest.mark.first_case
@pytest.mark.parametrize("kind", ["DELETE", "UPDATE"])
def test_delete_goes_by_pages_where_a_key_is_random_in_a_large_table(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """It tells what is left by itself, which no UPDATE does; a row that is refused is named."""
    conn, told = stage.conn, list[BatchProgress]()
    step_log.create(conn)
    conn.execute(BY_RANDOM_KEY)
    monkeypatch.setattr(batch_order, "SMALL_ROWS", 100)
    statement = "DELETE FROM big WHERE at < 2" if kind == "DELETE" else "UPDATE big SET at = at + 1 WHERE at < 2"
    for room in (1, 1 << 30):
        monkeypatch.setattr(batch_order, "OF_ROOM", room)
        (expansion,) = plan(conn, statement, batch_rows=50)
        conn.execute(expansion.steps[0].sql)
        batches = expansion.steps[1].batches
        assert batches is not None
        assert tracked_pages.serve(conn, batches) is (kind == "DELETE" and room > 1)
    if kind == "UPDATE":
        assert run_batches(conn, batches, resume_from="loop", on_batch=told.append).rows == 1333
        assert {now.number for now in told} == {1}
        return
    with pytest.raises(psycopg.errors.ForeignKeyViolation) as refused:
        run_batches(conn, batches, resume_from="loop", on_batch=told.append)
    (named,) = _values(conn, "SELECT id::text FROM big WHERE n = 1201")
    assert refused.value.__notes__ == [f"It is the row id = {named}."]
    assert {now.number for now in told} == {tracked_pages.WINDOWS}
    conn.execute("DELETE FROM small")
    monkeypatch.setattr(batch_order, "OF_ROOM", 1)  # the loop goes on as it has begun
    done = run_batches(conn, batches, resume_from="loop", on_batch=told.append)
    assert (done.is_done, done.number, done.rows) == (True, 2, 1333)
    assert max(now.number for now in told) == tracked_pages.FOUND
    assert _values(conn, "SELECT count(*) FROM big WHERE at < 2") == [0]


@pytest.mark.slow
def test_rows_that_are_deleted_by_pages_are_captured(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each once, and they come back."""
    conn, here = stage.conn, "SELECT id, n, at FROM big ORDER BY id"
    step_log.create(conn)
    conn.execute(BY_RANDOM_KEY)
    monkeypatch.setattr(tracked_pages, "serve", lambda *_: True)
    before = conn.execute(here).fetchall()
    (expansion,) = plan(conn, "DELETE FROM big WHERE at = 2", batch_rows=50)
    conn.execute(expansion.steps[0].sql)
    batches = expansion.steps[1].batches
    assert batches is not None
    captures = undo_data.capture_batches(conn, batches, undo_data.StepKey("run", "m", "up", 1))
    done = run_batches(conn, captures, resume_from="loop")
    assert (done.number, done.rows) == (2, 667)
    (entry,) = [one for one in undo_data.entries_of_migration(conn, "m", "up", steps=(1,)) if one.part_of is None]
    assert _values(conn, f'SELECT count(*) FROM pgrunbook."{entry.kept_as}"') == [667]
    assert undo_data.revert(conn, entry, on_conflict="stop").rows == 667
    assert conn.execute(here).fetchall() == before


@pytest.mark.slow
@pytest.mark.parametrize("of", ["big", "big_1"])
def test_delete_that_a_trigger_turns_into_an_update_meets_each_row_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    """Its new versions are on other pages: it goes by the key, also where only a partition has the trigger."""
    conn = stage.conn
    step_log.create(conn)
    parts = "CREATE TABLE big (id uuid PRIMARY KEY, n integer DEFAULT 0) PARTITION BY HASH (id);"
    parts += "CREATE TABLE big_1 PARTITION OF big FOR VALUES WITH (MODULUS 1, REMAINDER 0)"
    conn.execute(parts if of == "big_1" else "CREATE TABLE big (id uuid PRIMARY KEY, n integer DEFAULT 0)")
    conn.execute("INSERT INTO big SELECT md5(i::text)::uuid FROM generate_series(1, 2000) AS i; ANALYZE big")
    conn.execute("CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS"
                 " 'BEGIN UPDATE big SET n = n + 1 WHERE id = OLD.id; RETURN NULL; END'")  # fmt: skip
    conn.execute(f"CREATE TRIGGER keep BEFORE DELETE ON {of} FOR EACH ROW EXECUTE FUNCTION keep()")
    monkeypatch.setattr(batch_order, "SMALL_ROWS", 100)
    monkeypatch.setattr(batch_order, "OF_ROOM", 1 << 30)
    (expansion,) = plan(conn, "DELETE FROM big", batch_rows=50)
    conn.execute(expansion.steps[0].sql)
    batches = expansion.steps[1].batches
    assert batches is not None
    run_batches(conn, batches, resume_from="loop")
    assert conn.execute("SELECT n, count(*) FROM big GROUP BY n").fetchall() == [(1, 2000)]


def test_empty_table_is_done_at_once(stage: Stage) -> None:
    """There is no largest key, and so nothing to do."""
    stage.conn.execute("DELETE FROM t")
    assert run_batches(stage.conn, PLUS_ONE, resume_from="one").batches == 0


def _values(conn: Conn, query: str) -> list[object]:
    return [row[0] for row in conn.execute(query).fetchall()]
