"""Rows that the server refuses in a batch: they stand alone at the end, by their key, and stop or pass over."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import psycopg
import pytest

from pgrunbook.database import step_log
from pgrunbook.database.queries import load
from pgrunbook.errors import Refused
from pgrunbook.online import bad_rows
from pgrunbook.online.bad_rows import BadRows
from pgrunbook.online.batches import run_batches
from pgrunbook.online.throttle import Throttle, ThrottleGoals
from pgrunbook.plan.step import Batches
from safe_forms_stage import Stage, plan
from test_throttle import NOTHING, oid

BAD = (17, 18, 93, 200)  # two neighbours, one within a batch, the last
TABLE = """
CREATE TABLE many (id int PRIMARY KEY, v text, n int, u int UNIQUE);
INSERT INTO many SELECT i, i::text, -i FROM generate_series(1, 200) AS i
"""
KNOWN = """
CREATE TABLE known AS SELECT id FROM many WHERE id NOT IN {bad};
ALTER TABLE known ADD PRIMARY KEY (id);
ALTER TABLE many ADD FOREIGN KEY (u) REFERENCES known
"""
RAISES = """
CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN IF new.id IN {bad} THEN RAISE 'no %', new.id; END IF; RETURN new; END $$;
CREATE TRIGGER no BEFORE UPDATE ON many FOR EACH ROW EXECUTE FUNCTION no()
"""
# What may be wrong with a row, what makes it so, and the SQLSTATE.
FAULTS = {
    "a value that cannot be cast": ("UPDATE many SET v = 'x' || v WHERE id IN {bad}", "SET n = v::int", "22P02"),
    "one that is too large": ("UPDATE many SET v = v || '0000000000' WHERE id IN {bad}", "SET n = v::int", "22003"),
    "a check": ("ALTER TABLE many ADD CHECK (u NOT IN {bad})", "SET u = id", "23514"),
    "a null": ("ALTER TABLE many ALTER n SET NOT NULL", "SET n = nullif(id * (id NOT IN {bad})::int, 0)", "23502"),
    "a value that is there": (
        "INSERT INTO many VALUES (1000, '1000', -1000, 1001)",
        "SET u = CASE WHEN id IN {bad} OR id = 1000 THEN 1001 ELSE id END", "23505",
    ),
    "a foreign key": (
        KNOWN, "SET u = id", "23503",
    ),
    "a trigger that raises": (
        RAISES, "SET u = id", "P0001",
    ),
}  # fmt: skip


def loop(assigns: str, *, by_pages: bool = False, key: tuple[str, ...] = ("id",)) -> Batches:
    """Return a loop that changes rows that it has not changed yet."""
    column, _, value = assigns.removeprefix("SET ").partition(" = ")
    differs = f"CASE WHEN pgrunbook_guard THEN many.{column} IS DISTINCT FROM {value} ELSE false END"
    statement = f"UPDATE many {assigns} WHERE pgrunbook_range AND {differs}"
    types = tuple("integer" for _ in key)
    return Batches("public", "many", "many", statement, key, types, rows=30, by_pages=by_pages)


@pytest.mark.first_case
@pytest.mark.parametrize("by_pages", [False, True], ids=["by key", "by pages"])
@pytest.mark.parametrize("fault", FAULTS)
def test_rows_that_are_refused_are_passed_over_and_recorded(stage: Stage, fault: str, by_pages: bool) -> None:
    """Each by its key with what the server said; all others are done, and none twice."""
    before, assigns, sqlstate = (text.replace("{bad}", str(BAD)) for text in FAULTS[fault])
    stage.conn.execute(TABLE)
    stage.conn.execute(before)
    done = run_batches(stage.conn, loop(assigns, by_pages=by_pages), resume_from="x", bad_rows=BadRows("skip"))
    assert (done.is_done, done.rows) == (True, 196)
    found = bad_rows.read(stage.conn, "x")
    assert sorted(one.key for one in found) == sorted((str(one),) for one in BAD)
    assert {one.sqlstate for one in found} == {sqlstate}
    column, _, value = assigns.removeprefix("SET ").partition(" = ")
    ok = f"SELECT count(*) FROM many WHERE id NOT IN {BAD} AND {column} IS DISTINCT FROM {value}"
    assert stage.conn.execute(ok).fetchone() == (0,)


@pytest.mark.parametrize("by_pages", [False, True], ids=["by key", "by pages"])
def test_row_that_is_refused_stops_the_loop_and_is_named(stage: Stage, by_pages: bool) -> None:
    """What was done before it stays, and the same call goes on when the row is mended."""
    stage.conn.execute(TABLE)
    stage.conn.execute("UPDATE many SET v = 'x' WHERE id = 93")
    changes = loop("SET n = v::int", by_pages=by_pages)
    with pytest.raises(psycopg.errors.InvalidTextRepresentation) as caught:
        run_batches(stage.conn, changes, resume_from="x")
    assert caught.value.__notes__ == ["It is the row id = 93."]
    (done,) = stage.conn.execute("SELECT count(*) FROM many WHERE n > 0").fetchone() or (0,)
    assert done % 30 == 0 if not by_pages else done < 200  # whole batches
    stage.conn.execute("UPDATE many SET v = '94' WHERE id = 93")
    assert run_batches(stage.conn, changes, resume_from="x").rows == 200


def test_row_of_a_table_without_a_key_is_named_by_its_place(stage: Stage) -> None:
    """There is nothing else to name it by."""
    stage.conn.execute(TABLE.replace("PRIMARY KEY", ""))
    stage.conn.execute("UPDATE many SET v = 'x' WHERE id = 7")
    changes = loop("SET n = v::int", by_pages=True, key=())
    done = run_batches(stage.conn, changes, resume_from="x", bad_rows=BadRows("skip"))
    (ctid,) = stage.conn.execute("SELECT ctid::text FROM many WHERE id = 7").fetchone() or ("",)
    assert (done.rows, [one.key for one in bad_rows.read(stage.conn, "x")]) == (199, [(ctid,)])


def test_more_bad_rows_than_are_passed_over_end_the_loop(stage: Stage) -> None:
    """A wrong expression does not fill a table; the full text says where they are."""
    stage.conn.execute(TABLE)
    stage.conn.execute("UPDATE many SET v = 'x' WHERE id > 50")
    with pytest.raises(Refused) as caught:
        run_batches(stage.conn, loop("SET n = v::int"), resume_from="x", bad_rows=BadRows("skip", most=3))
    assert str(caught.value) == (
        "more than 3 rows were refused by the server\n"
        'Detail: The last one, 54: invalid input syntax for type integer: "x".\n'
        "State: The batches before it are committed; what was refused is recorded in pgrunbook.refused_row.\n"
        "Hint: Correct the expression or the rows, or allow more of them (most_bad_rows); then go on with this run."
    )
    assert len(bad_rows.read(stage.conn, "x")) == 3


def test_bad_row_that_was_moved_is_passed_over_too(stage: Stage) -> None:
    """Behind the ranges come the rows whose key has changed; one of them is refused."""
    begins, loop_, ends = plan(stage.conn, "UPDATE t SET c = c / (a - 3)", batch_rows=30)[0].steps
    step_log.create(stage.conn)
    stage.conn.execute(begins.sql)
    stage.conn.execute("UPDATE t SET id = id + 1000 WHERE id IN (2, 3, 4)")
    assert loop_.batches is not None
    done = run_batches(stage.conn, loop_.batches, resume_from="x", bad_rows=BadRows("skip"))
    assert done.rows == 199
    assert [(one.key, one.sqlstate) for one in bad_rows.read(stage.conn, "x")] == [(("1003",), "22012")]
    stage.conn.execute(ends.sql)


def test_row_that_was_inserted_before_the_bad_one_meanwhile_is_not_passed_over(stage: Stage) -> None:
    """Between the refusal and the record somebody writes a row with a smaller key: it is done like any other."""
    stage.conn.execute(TABLE)
    stage.conn.execute("DELETE FROM many WHERE id = 16; UPDATE many SET v = 'x' WHERE id = 17")
    real, came = bad_rows.record, []

    def insert(cursor: Any) -> None:
        if not came:
            came.append(cursor)
            with stage.session() as other:
                other.execute("INSERT INTO many VALUES (16, '16', -16)")

    class Watching(psycopg.Cursor[tuple[object, ...]]):
        """Inserts the row once the single one was refused."""

        def execute(self, query: Any, *args: Any, **options: Any) -> Any:
            try:
                return super().execute(query, *args, **options)
            except psycopg.errors.InvalidTextRepresentation:
                if b"OPERATOR(pg_catalog.>) ROW(CAST('15'" in bytes(query):
                    insert(self)
                raise

    stage.conn.cursor_factory = Watching
    done = run_batches(stage.conn, loop("SET n = v::int"), resume_from="x", bad_rows=BadRows("skip"))
    assert came
    assert real is bad_rows.record
    assert (done.rows, [one.key for one in bad_rows.read(stage.conn, "x")]) == (199, [("17",)])


@pytest.mark.slow
def test_lock_that_is_not_to_be_had_halves_the_batch(stage: Stage) -> None:
    """The rows before the locked one are done meanwhile; the loop goes on when it is free."""
    goals = ThrottleGoals(least_rows=1, most_rows=30, brakes=NOTHING)
    throttle = Throttle(stage.conn, oid(stage.conn), goals, rows=30)
    stage.conn.execute(TABLE)
    with stage.session() as other:
        other.execute("BEGIN; UPDATE many SET u = 1 WHERE id = 5")
        done = run_batches(
            stage.conn, loop("SET n = v::int"), resume_from="x", throttle=throttle, lock_timeout_ms=20,
            on_batch=lambda progress: other.rollback() if progress.rows == 4 else None,
        )  # fmt: skip
    assert (done.is_done, done.rows) == (True, 200)
    assert done.batches > 7


def test_lock_that_is_never_to_be_had_ends_the_loop(stage: Stage) -> None:
    """After a bounded number of attempts, with what was done before the locked row kept."""
    goals = ThrottleGoals(batch_ms=1, least_rows=1, most_rows=30, brakes=NOTHING)
    throttle = Throttle(stage.conn, oid(stage.conn), goals, rows=30)
    stage.conn.execute(TABLE)
    with stage.session() as other:
        other.execute("BEGIN; UPDATE many SET u = 1 WHERE id = 5")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            run_batches(stage.conn, loop("SET n = v::int"), resume_from="x", throttle=throttle, lock_timeout_ms=10)
        other.rollback()
    assert stage.conn.execute("SELECT count(*) FROM many WHERE n > 0").fetchone() == (4,)
    assert run_batches(stage.conn, replace(loop("SET n = v::int")), resume_from="x").rows == 200


def test_table_of_refused_rows_is_ours(stage: Stage) -> None:
    """It is made once, and hidden from others; a loop that stops makes none."""
    assert stage.conn.execute(load("relations")["has_refused_rows"]).fetchone() == (False,)
    bad_rows.create(stage.conn)
    bad_rows.create(stage.conn)
    assert bad_rows.read(stage.conn, "x") == []
