"""A backfill with undo data: old values come back in batches, what somebody wrote since stays, nothing is left."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from acting import error, events, outputs, run, wait_until
from conftest import connect, do, rows
from permits import permitted_of
from pgrunbook import undo_data
from pgrunbook.config import targets
from pgrunbook.config.targets import Target
from pgrunbook.database import step_log
from pgrunbook.database.connection import Connection
from pgrunbook.errors import Refused
from pgrunbook.execute import backfill as execution
from pgrunbook.online import backfill
from pgrunbook.online.backfill import ColumnBackfill, resolve
from pgrunbook.online.backfill_run import BackfillRun
from pgrunbook.online.bad_rows import STOP
from pgrunbook.online.batch_order import Asked
from pgrunbook.online.throttle import Throttle
from pgrunbook.record.run import Run, Status
from pgrunbook.runner import runbook
from pgrunbook.session import run_control
from servers import Server
from test_online_backfill import GOALS, left, working

# Every third row has a value of its own in the column that is filled.
PRICES = """
CREATE TABLE public.prices ({key}, n int, total numeric(12,2), note text, cents bigint, label varchar(8)){parts};
INSERT INTO prices (id, n, total, cents, label)
SELECT {id}, i, i / 10.0, CASE WHEN i % 3 = 0 THEN i END, 'l' || i FROM generate_series(1, 3000) AS i;
CREATE TABLE public.twin AS TABLE prices;
ANALYZE prices
"""
KEYS = {
    "uuid": ("id uuid PRIMARY KEY DEFAULT gen_random_uuid()", "", "md5(i::text)::uuid"),
    "two columns": ("id text, part int NOT NULL DEFAULT 7, PRIMARY KEY (part, id)", "", "'k' || i"),
    "partitioned": ("id int PRIMARY KEY", """ PARTITION BY RANGE (id);
        CREATE TABLE prices_1 PARTITION OF prices FOR VALUES FROM (0) TO (900);
        CREATE TABLE prices_2 PARTITION OF prices DEFAULT""", "i"),
}  # fmt: skip
EXPRESSIONS = {"cents": "round(total * 100)", "label": "upper(label)"}
FILL = {"table": "prices", "fill": '{"cents": "round(total * 100)", "label": "upper(label)"}', "undo_data": "true"}
DIFFERS = """
SELECT count(*) FROM prices AS p FULL JOIN twin AS t USING (id)
WHERE (p.cents, p.label, p.total, p.note) IS DISTINCT FROM (t.cents, t.label, t.total, t.note)
   OR p.n IS NULL OR t.n IS NULL
"""
OURS = """
SELECT tgname::text FROM pg_trigger WHERE tgname ~ 'pgrunbook'
UNION SELECT proname FROM pg_proc WHERE proname ~ '^(fill|write)_'
"""


@pytest.fixture
def target(
    request: pytest.FixtureRequest, server: Server, database: Callable[..., str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Target:  # fmt: skip
    """A target with a table of three thousand rows, and a copy of it, on each version."""
    key, parts, id_ = KEYS[getattr(request, "param", "uuid")]
    name = database(PRICES.format(key=key, parts=parts, id=id_))
    monkeypatch.setenv("PRICES_URL", f"postgresql://postgres@/{name}?host={server.socket_dir}")
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "0001_none.sql").write_text("SELECT 1;\n")
    file = tmp_path / "targets.toml"
    file.write_text('[demo]\nurl_from = "PRICES_URL"\nmigrations = "migrations"\nrestore_points = false\n')
    monkeypatch.setenv("PGRUNBOOK_TARGETS", str(file))
    monkeypatch.setenv("PGRUNBOOK_OUTPUTS", str(tmp_path / "outputs"))
    return targets.load("demo")


def filled(**given: str) -> Run:
    """Backfill with undo data."""
    made, code = run("backfill", **FILL, **given)
    assert (made.status, code) == (Status.DONE, 0), error(made)
    return made


def back(made: Run, **given: str) -> tuple[Run, int]:
    """Bring the values of a run back."""
    return run("backfill", do="back", of_run=made.run_id, **given)


def differ(target: Target) -> int:
    """Count the rows that are not those of the twin."""
    return int(str(rows(target, DIFFERS)[0][0]))


class Loop:
    """A backfill with undo data by its mechanism: the trigger with its capture, the batches, and the way back."""

    def __init__(self, target: Target, conn: Connection, run_id: str = "run") -> None:
        self.target, self.conn, self.run_id = target, conn, run_id
        self.made: ColumnBackfill = resolve(conn, "prices", EXPRESSIONS)
        self.batches, self.capture = self._captured(by_pages=False)

    def _captured(self, *, by_pages: bool) -> tuple[backfill.Batches, undo_data.FillCapture]:
        whole = self.made.batches(rows=200, by_pages=by_pages)
        is_silent = not backfill.fired(self.conn, self.made)
        return undo_data.fill_capture(self.conn, whole, list(EXPRESSIONS), self.run_id, is_silent=is_silent)

    def install(self) -> bool:
        """Install trigger and side table."""
        permitted = permitted_of(self.made.subject, self.conn)
        return execution.install(self.conn, self.target, self.made, permitted, lambda *_: None, self.capture)

    def fill(self, order: Asked = "auto", on_batch: Callable[[int, int], None] = lambda *_: None) -> int:
        """Fill; return the rows written."""
        throttle = Throttle(self.conn, self.made.table.oid, GOALS, rows=200)
        throttle.rest = 0.0
        work = BackfillRun(self.conn, self.made, self.run_id, throttle, STOP, True,
                           lambda by_pages: self._captured(by_pages=by_pages)[0], on_batch=on_batch)  # fmt: skip
        return work.run(order).rows

    def back(self) -> undo_data.Conflicts:
        """Take the trigger away, bring everything back; return what was left."""
        subject = self.made.subject
        execution.remove(self.conn, self.target, self.made, permitted_of(subject, self.conn), lambda *_: None)
        (entry,) = undo_data.entries_of_fill(self.conn, self.run_id)
        return undo_data.revert(
            self.conn, entry, on_conflict="keep", throttle=Throttle(self.conn, self.made.table.oid, GOALS, rows=200)
        ).left


@pytest.mark.slow
@pytest.mark.newest
def test_old_values_come_back_and_nothing_of_ours_is_left(target: Target) -> None:
    """Rows that had none are empty again; purge takes what was captured only behind that."""
    made = filled()
    assert (left(target, "prices"), differ(target)) == (0, 3000)
    assert rows(target, "SELECT migration, state, columns::text[] FROM pgrunbook.kept") == [
        (f"backfill {made.run_id}", "kept", ["cents", "label"])
    ]
    again, code = back(made)
    assert (again.status, code, differ(target)) == (Status.DONE, 0, 0), error(again)
    assert "3,000 rows of public.prices are as before the backfill: cents and label." in outputs(again, "verdict")
    assert rows(target, OURS) == []


@pytest.mark.slow
def test_purge_keeps_what_is_needed_and_drops_what_is_not(target: Target) -> None:
    """By force while the values are not back; then back says that nothing is captured."""
    made = filled()
    refused, code = run("purge", everything="true")
    assert (refused.status, code) == (Status.REFUSED, 3)
    assert f"what backfill {made.run_id} has filled can only be taken back by a restore to a time before" in error(
        refused
    )
    purged, code = run("purge", everything="true", force="true")
    assert (purged.status, code) == (Status.DONE, 0), error(purged)
    assert rows(target, OURS) == []
    assert rows(target, "SELECT count(*) FROM pg_class WHERE relname ~ '^kept_[0-9a-f]{16}'") == [(0,)]
    again, code = back(made)
    assert (again.status, code) == (Status.REFUSED, 3)
    assert error(again) == (
        f"run {made.run_id} has no undo data\n"
        "Detail: It was made without undo_data, or what it captured is purged.\n"
        "State: Nothing changed in the database.\n"
        "Hint: A restore brings old values back. What is left of it goes by: "
        f"pgrunbook run backfill --target demo -p do=abandon -p of_run={made.run_id}"
    )


@pytest.mark.slow
def test_rows_that_somebody_changed_since_are_told_and_stay(target: Target) -> None:
    """Nobody decides for the operator; each is in a file, and in the verdict."""
    made = filled()
    do(target, "UPDATE prices SET cents = -1 WHERE n <= 7; DELETE FROM prices WHERE n = 8")
    again, code = back(made)
    assert (again.status, code) == (Status.REFUSED, 3)
    told = error(again)
    assert told.startswith("8 rows of public.prices that the backfill has filled were changed by somebody since\n")
    assert "-p on_conflict=keep leaves these rows as they are" in told
    assert "State: Nothing changed in the database." in told
    assert (again.folder / "conflicts.csv").read_text().count("\n") == 17
    assert left(target, "prices") == 7
    again, code = back(made, on_conflict="keep")
    assert (again.status, code) == (Status.DONE, 0), error(again)
    assert rows(target, "SELECT count(*) FROM prices WHERE cents = -1") == [(7,)]
    assert differ(target) == 8
    assert "WITH OPEN GATES" in outputs(again, "verdict")
    assert [event["left"] for event in events(again, "values-brought-back")] == [8]


@pytest.mark.slow
def test_rows_that_somebody_changed_since_are_overwritten_where_that_is_decided(target: Target) -> None:
    """A row that was deleted stays so."""
    made = filled()
    do(target, "UPDATE prices SET cents = -1 WHERE n <= 7; DELETE FROM prices WHERE n = 8")
    again, code = back(made, on_conflict="restore")
    assert (again.status, code, differ(target)) == (Status.DONE, 0, 1), error(again)


@pytest.mark.slow
def test_later_backfill_goes_back_first(target: Target) -> None:
    """Each in its turn; a rollback of such a run names the command."""
    first = filled()
    second, _ = run("backfill", table="prices", fill='{"cents": "-n"}', undo_data="true")
    assert second.status is Status.DONE, error(second)
    refused, code = back(first)
    assert (refused.status, code) == (Status.REFUSED, 3)
    assert error(refused).endswith(f"First: pgrunbook run backfill --target demo -p do=back -p of_run={second.run_id}")
    for made in (second, first):
        again, code = back(made)
        assert (again.status, code) == (Status.DONE, 0), error(again)
    assert differ(target) == 0
    made, code = run("rollback", of_run=first.run_id)
    assert code == 2
    assert f"pgrunbook run backfill --target demo -p do=back -p of_run={first.run_id}" in error(made)


@pytest.mark.slow
def test_way_back_that_is_stopped_goes_on(target: Target) -> None:
    """A person stops it between two batches; what is back is committed, and the run goes on with the rest."""
    do(target, "INSERT INTO prices (id, n, total) SELECT gen_random_uuid(), i, i FROM generate_series(1, 60000) AS i;"
               "TRUNCATE twin; INSERT INTO twin SELECT * FROM prices")  # fmt: skip
    made = filled()

    def stop() -> None:
        query = "SELECT coalesce(max(rows_given_back), 0) > 0 FROM pgrunbook.kept"
        wait_until(lambda: rows(target, query) == [(True,)])
        name = rows(target, "SELECT substring(application_name FROM 'backfill (.*)') FROM pg_stat_activity"
                            " WHERE application_name LIKE '%backfill 2%' LIMIT 1")  # fmt: skip
        run_control.tell(str(name[0][0]).strip(), "stop", "enough")

    thread = threading.Thread(target=stop)
    thread.start()
    again, code = back(made, most_batch_rows="100")
    thread.join(timeout=60)
    assert (again.status, code) == (Status.INTERRUPTED, 1), error(again)
    assert "as before, committed; the trigger is gone, the others are filled." in error(again)
    assert 0 < differ(target) < 63000
    again, code = runbook.resume(again.run_id)
    assert (again.status, code, differ(target)) == (Status.DONE, 0, 0), error(again)


REFUSED = {
    "without a key": ("ALTER TABLE prices DROP CONSTRAINT prices_pkey", {}, "has no unique key"),
    "its key": ("", {"fill": '{"id": "md5(n::text)::uuid"}'}, "its key id is filled"),
    "not in sync": ("", {"keep_in_sync": "false"}, "undo_data needs keep_in_sync"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_captured_is_refused_before_anything_is_written(target: Target, case: str) -> None:
    """No table, no trigger, no row."""
    statement, given, told = REFUSED[case]
    if statement:
        do(target, statement)
    made, code = run("backfill", **{**FILL, **given})
    assert (made.status, code) == (Status.REFUSED, 3)
    assert told in error(made)
    assert (rows(target, OURS), differ(target)) == ([], 0)


@pytest.mark.slow
def test_of_what_the_application_writes_the_values_come_back_that_it_would_have(target: Target) -> None:
    """Before the batches and behind them: other columns, those the values are made of, the filled ones, and the key."""
    writes = [
        "UPDATE TABLE SET note = 'x' WHERE n BETWEEN {0} + 1 AND {0} + 9",
        "UPDATE TABLE SET total = total + 1 WHERE n BETWEEN {0} + 6 AND {0} + 19",
        "UPDATE TABLE SET cents = 7, label = 'mine' WHERE n BETWEEN {0} + 16 AND {0} + 29",
        "UPDATE TABLE SET total = 1, cents = NULL WHERE n BETWEEN {0} + 26 AND {0} + 39",
        "UPDATE TABLE SET id = md5('new ' || n)::uuid, total = -total WHERE n BETWEEN {0} + 36 AND {0} + 49",
        "DELETE FROM TABLE WHERE n = {0} + 50",
    ]

    def write(base: int) -> None:
        for text in writes:
            for table in ("prices", "twin"):
                do(target, text.format(base).replace("TABLE", table))

    with working(target) as conn:
        loop = Loop(target, conn)
        assert loop.install() is True
        assert loop.install() is False
        write(0)
        loop.fill()
        assert backfill.proof(conn, loop.made, statement_timeout_ms=30_000, in_sync=True) == 0
        write(0)
        write(100)
        assert backfill.proof(conn, loop.made, statement_timeout_ms=30_000, in_sync=True) == 0
        assert rows(target, "SELECT count(*) FROM prices WHERE cents IS DISTINCT FROM round(total * 100)") == [(0,)]
        found = loop.back()
    assert differ(target) == 0
    # A row that was deleted once it was filled is told; the other one was never captured.
    assert (found.rows, {one.way for one in found.samples}) == (1, {"deleted"})


OPERATIONS = (
    "UPDATE TABLE SET note = note || 'x' WHERE n % 97 = {0} % 97",
    "UPDATE TABLE SET total = {0} WHERE n = {0}",
    "UPDATE TABLE SET total = -total, label = 'o{1}' WHERE n BETWEEN {0} AND {0} + 5",
    "UPDATE TABLE SET cents = {1} WHERE n = {0}",
    "UPDATE TABLE SET id = {2} WHERE n = {0}",
    "UPDATE TABLE SET id = {2}, cents = NULL WHERE n = {0}",
    "DELETE FROM TABLE WHERE n = {0}",
    "INSERT INTO TABLE (id, n, total, cents, label) VALUES ({2}, {0}, 1, 100, 'FULL')",
)
NEW_KEY = {"uuid": "md5('{0}')::uuid", "two columns": "'x{0}'", "partitioned": "{0}"}


@pytest.mark.slow
@pytest.mark.every_version
@pytest.mark.parametrize("order", ["key", "pages"])
@pytest.mark.parametrize("target", list(KEYS), indirect=True)
def test_twin_without_a_backfill_is_the_same_after_the_way_back(
    target: Target, order: Asked, request: pytest.FixtureRequest
) -> None:
    """Whatever the application writes before, between and behind the batches, in sessions of its own."""
    kind = request.node.callspec.params["target"]
    chance = random.Random(f"{kind} {order}")  # noqa: S311 - no secret
    numbers = iter(range(10_000, 1_000_000))

    def write(times: int) -> None:
        with connect(target, purpose="writer") as conn:
            for _ in range(times):
                key = NEW_KEY[kind].format(chance.randrange(900) if chance.random() < 0.1 else next(numbers))
                text = chance.choice(OPERATIONS).format(chance.randrange(1, 3000), chance.randrange(999), key)
                try:
                    with conn.transaction():
                        for table in ("prices", "twin"):
                            conn.execute(text.replace("TABLE", table).encode())
                except psycopg.errors.UniqueViolation:
                    continue

    with working(target) as conn:
        loop = Loop(target, conn)
        loop.install()
        write(40)
        loop.fill(order, lambda *_: write(12))
        write(40)
        assert backfill.proof(conn, loop.made, statement_timeout_ms=30_000, in_sync=True) == 0
        found = loop.back()
    assert {one.way for one in found.samples} <= {"deleted"}, found.lines()
    assert differ(target) == 0


@pytest.mark.slow
def test_trigger_fails_no_write_where_its_side_table_is_gone(target: Target) -> None:
    """Somebody purges while the trigger stays: what is written is filled, and nothing is captured."""
    with working(target) as conn:
        loop = Loop(target, conn)
        loop.install()
        loop.fill()
        assert len(undo_data.purge(conn, older_than=timedelta(0))) == 1
        do(target, "UPDATE prices SET total = 5 WHERE n < 10")
        assert backfill.proof(conn, loop.made, statement_timeout_ms=30_000, in_sync=True) == 0
        # A later run with undo data does not take it for its own.
        later = Loop(target, conn, "later")
        assert later.install() is True
        do(target, "UPDATE prices SET total = 6 WHERE n < 10")
        assert rows(target, f"SELECT count(*) FROM pgrunbook.{later.capture.side.kept_as}") == [(9,)]


def test_undo_data_of_a_table_of_another_role_is_refused(target: Target) -> None:
    """Only the owner of a table may have triggers on it; nothing is created."""
    with working(target) as conn:
        step_log.create(conn)
        conn.execute("CREATE ROLE backfiller; GRANT backfiller TO postgres; GRANT ALL ON public.prices TO backfiller")
        try:
            conn.execute("SET ROLE backfiller")
            made = resolve(conn, "public.prices", {"cents": "n"})
            with pytest.raises(Refused, match="cannot capture undo data of public") as caught:
                undo_data.fill_capture(conn, made.batches(rows=10, by_pages=False), ["cents"], "run", is_silent=True)
            assert "it is another role's" in caught.value.detail
        finally:
            conn.execute("RESET ROLE")
            conn.execute("DROP OWNED BY backfiller; DROP ROLE backfiller")
    assert rows(target, OURS) == []
