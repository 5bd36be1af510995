"""A backfill while others write: what it means, what it refuses, the look at the rows, the loop, and the proof."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from conftest import connect, do, rows
from pgrunbook.config.targets import Target
from pgrunbook.database import leftovers, step_log
from pgrunbook.database.connection import Connection
from pgrunbook.database.connection import connect as connected
from pgrunbook.errors import Broken, Refused, RunbookError, WrongInput
from pgrunbook.online import backfill, backfill_check, backfill_trust, batch_order
from pgrunbook.online.backfill import ColumnBackfill, resolve
from pgrunbook.online.backfill_run import BackfillRun, Filled
from pgrunbook.online.bad_rows import STOP, BadRows
from pgrunbook.online.batch_order import Asked
from pgrunbook.online.throttle import Throttle, ThrottleGoals
from test_throttle import NOTHING

Project = Callable[..., Target]
GOALS = ThrottleGoals(least_rows=10, most_rows=500, brakes=NOTHING)
ORDERS = """
CREATE TABLE public.orders (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), total numeric(12,2), note text, cents bigint, label varchar(8)
);
INSERT INTO orders (total, note)
SELECT CASE WHEN i % 7 > 0 THEN i / 10.0 END, 'n' || i FROM generate_series(1, 3000) AS i;
ANALYZE orders
"""
CENTS = {"cents": "round(total * 100)"}


@pytest.fixture
def target(project: Project) -> Target:
    """A target with a table of three thousand rows of which some are NULL."""
    made = project(folder={})
    do(made, ORDERS)
    return made


@contextmanager
def working(target: Target) -> Iterator[Connection]:
    """Give a connection as a run has it."""
    with connected(target, purpose="backfill") as conn:
        step_log.create(conn)
        yield conn


def filled(
    conn: Connection, made: ColumnBackfill, *, order: Asked = "auto", policy: BadRows = STOP, in_sync: bool = False,
    run_id: str = "run", on_batch: Callable[[int, int], None] = lambda _rows, _batches: None,
) -> Filled:  # fmt: skip
    """Run a backfill."""
    throttle = Throttle(conn, made.table.oid, GOALS, rows=200)
    throttle.rest = 0.0
    run = BackfillRun(
        conn, made, run_id, throttle, policy, in_sync, lambda by_pages: made.batches(rows=200, by_pages=by_pages),
        on_batch=on_batch,
    )  # fmt: skip
    return run.run(order)


def installed(conn: Connection, made: ColumnBackfill) -> None:
    """Install the trigger as the procedure does."""
    with conn.transaction(), conn.as_target():
        conn.execute(made.fill.installation().encode())


def left(target: Target, table: str = "orders", cents: str = "round(total * 100)") -> int:
    """Count the rows that are not what they should be, by a query that is not ours."""
    (found,) = rows(target, f"SELECT count(*) FROM {table} WHERE cents IS DISTINCT FROM {cents}")[0]
    return int(str(found))


@pytest.mark.first_case
@pytest.mark.parametrize("order", ["auto", "key", "pages"])
def test_every_row_is_filled_and_those_that_are_are_not_written_again(target: Target, order: Asked) -> None:
    """NULL sources too; rows are counted that were really written, and a second backfill writes none."""
    with working(target) as conn:
        made = resolve(conn, "orders", CENTS)
        done = filled(conn, made, order=order)
        assert (done.rows, done.refused, done.order.by_pages) == (2572, (), order == "pages")
        assert backfill.proof(conn, made, statement_timeout_ms=30_000, in_sync=False) == 0
        assert filled(conn, made, order=order, run_id="again").rows == 0
    assert left(target) == 0


@pytest.mark.first_case
@pytest.mark.parametrize(
    ("type_", "was", "becomes"),
    [
        ("bigint", "7", "NULL"), ("bigint", "NULL", "7"), ("bigint", "7", "8"), ("text", "'a '", "'a'"),
        ("varchar(9)", "'A'", "'a'"), ('text COLLATE pg_catalog."C"', "'x'", "('y' COLLATE pg_catalog.\"C\")"),
        ("bpchar(3)", "'a'", "'b'"), ("numeric", "1.0", "1.00"), ("float8", "0", "'-0'::float8"),
        ("interval", "'24 hours'", "interval '1 day'"), ("json", "'{}'", "'{ }'::json"), ("bool", "false", "true"),
        ("uuid", "NULL", "md5('x')::uuid"), ("bytea", "''", "NULL"), ("timestamptz", "'-infinity'", "'infinity'"),
        ("int[]", "'{1}'", "'[0:0]={1}'::int[]"),
    ],
)  # fmt: skip
def test_value_that_differs_in_its_bytes_is_written_once(target: Target, type_: str, was: str, becomes: str) -> None:
    """Whether values of its type are compared as they are, or byte by byte as records; the same one is left alone."""
    do(target, f"CREATE TABLE valued (id int PRIMARY KEY, v {type_}); INSERT INTO valued VALUES (1, {was})")
    with working(target) as conn:
        made = resolve(conn, "valued", {"v": becomes})
        assert [filled(conn, made, run_id=run_id).rows for run_id in ("first", "second")] == [1, 0]
        assert backfill.proof(conn, made, statement_timeout_ms=30_000, in_sync=False) == 0


def test_filled_column_is_emptied_in_the_same_way(target: Target) -> None:
    """The way back of a column that was empty, as the guide says."""
    with working(target) as conn:
        filled(conn, resolve(conn, "orders", CENTS))
        assert filled(conn, resolve(conn, "orders", {"cents": "NULL"}), run_id="back").rows == 2572
    assert rows(target, "SELECT count(cents) FROM orders") == [(0,)]


@pytest.mark.slow
def test_order_is_chosen_by_facts_and_tried_where_no_update_is_hot(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the trial does is done; a second run of the same name goes on with what is left."""
    monkeypatch.setattr(batch_order, "SMALL_ROWS", 100)
    with working(target) as conn:
        made = resolve(conn, "orders", CENTS)
        found = batch_order.facts(conn, made)
        assert not found.is_indexed
        for correlation, by_pages in ((0.01, False), (-0.4, False), (0.6, True), (-1.0, True), (None, True)):
            chosen = batch_order.decided(made, replace(found, correlation=correlation), "auto")
            assert (chosen and chosen.by_pages) is by_pages, correlation
        for correlation, indexed in ((0.01, False), (-0.4, True)):
            large = replace(found, bytes=found.room_bytes, correlation=correlation, is_indexed=indexed)
            chosen = batch_order.decided(made, large, "auto")
            assert chosen is not None
            assert chosen.by_pages, (correlation, indexed)
        do(target, "CREATE INDEX ON orders (abs(cents))")
        assert batch_order.decided(made, batch_order.facts(conn, made), "auto") is None
        done = filled(conn, made)
        assert [name for name, _ in done.order.measured] == ["by pages", "by key"]
        assert done.rows == 2572
        assert backfill.proof(conn, made, statement_timeout_ms=30_000, in_sync=False) == 0
    assert left(target) == 0


@pytest.mark.first_case
@pytest.mark.parametrize(
    ("made", "columns", "key"),
    [
        ("id bigint PRIMARY KEY", "i", ("id",)),
        ("id uuid PRIMARY KEY", "md5(i::text)::uuid", ("id",)),
        ('id text COLLATE "C" PRIMARY KEY', "'k' || i", ("id",)),
        ('"Odd ""Id" timestamptz PRIMARY KEY', "'2026-01-01'::timestamptz + i * interval '1 s'", ('Odd "Id',)),
        ("a int, b text, PRIMARY KEY (b, a)", "i % 7, 'x' || i", ("b", "a")),
        ("a int", "i % 7", ()),
    ],
    ids=["bigint", "uuid", "text", "timestamptz", "composite", "none"],
)
def test_table_of_any_key_is_filled(target: Target, made: str, columns: str, key: tuple[str, ...]) -> None:
    """Or of none: its ranges are of pages."""
    do(target, f'CREATE TABLE public."Any {{t}}" ({made}, total int, cents bigint);'
               f'INSERT INTO "Any {{t}}" SELECT {columns}, i, NULL FROM generate_series(1, 1000) AS i')  # fmt: skip
    with working(target) as conn:
        meant = resolve(conn, '"Any {t}"', {"cents": "total * 100"})
        assert meant.key == key
        installed(conn, meant)
        assert filled(conn, meant, in_sync=True).rows == 1000
        assert backfill.proof(conn, meant, statement_timeout_ms=30_000, in_sync=True) == 0
    assert left(target, '"Any {t}"', "total * 100") == 0


def test_partitioned_table_is_filled_by_either_form(target: Target) -> None:
    """Ranges of pages are of all partitions at once."""
    do(target, "CREATE TABLE public.parts (id int PRIMARY KEY, total int, cents bigint) PARTITION BY RANGE (id);"
               "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (900);"
               "CREATE TABLE parts_2 PARTITION OF parts DEFAULT;"
               "INSERT INTO parts SELECT i, i FROM generate_series(1, 2000) AS i")  # fmt: skip
    with working(target) as conn:
        for run, order in enumerate(("key", "pages")):
            made = resolve(conn, "parts", {"cents": f"total * {100 + run}"})
            assert filled(conn, made, order=order, run_id=order).rows == 2000  # type: ignore[arg-type]
            assert left(target, "parts", f"total * {100 + run}") == 0


def test_order_of_a_partitioned_table_is_that_of_its_partitions(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their sizes, and how far the key follows the pages in each; the room is small beside them, so it is by pages."""
    monkeypatch.setattr(batch_order, "SMALL_ROWS", 100)
    do(target, """CREATE TABLE public.parts (id uuid, at int, total int, cents bigint, PRIMARY KEY (id, at))
                  PARTITION BY RANGE (at);
                  CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (900);
                  CREATE TABLE parts_2 PARTITION OF parts DEFAULT PARTITION BY RANGE (at);
                  CREATE TABLE parts_3 PARTITION OF parts_2 DEFAULT;
                  INSERT INTO parts SELECT md5(i::text)::uuid, i, i FROM generate_series(1, 2000) AS i;
                  ANALYZE parts; ANALYZE parts_1; ANALYZE parts_3""")  # fmt: skip
    whole = "SELECT pg_table_size('parts_1') + pg_table_size('parts_3')"
    with working(target) as conn:
        made = resolve(conn, "parts", {"cents": "total * 100"})
        found = batch_order.facts(conn, made)
        assert (found.rows_estimate, found.is_indexed, found.indexes) == (2000, False, 1)
        assert rows(target, whole) == [(found.bytes,)]
        assert found.is_scattered
        chosen = batch_order.decided(made, found, "auto")
        assert (chosen and chosen.by_pages) is False
        monkeypatch.setattr(batch_order, "OF_ROOM", found.room_bytes)
        done = filled(conn, made)
        assert (done.order.by_pages, done.rows) == (True, 2000)
    assert left(target, "parts", "total * 100") == 0


WRONG: dict[str, tuple[dict[str, Any], type[RunbookError], str]] = {
    "no column": ({"values": {}}, WrongInput, "fill names no column"),
    "an unknown column": ({"values": {"pence": "1"}}, WrongInput, "has no column pence"),
    "an unknown table": ({"table": "public.nothing"}, WrongInput, "there is no table public.nothing"),
    "no name": ({"table": "a.b.c.d"}, WrongInput, "no name of a table"),
    "a view": ({"table": "shown"}, WrongInput, "cannot be backfilled"),
    "a catalog": ({"table": "pg_class"}, WrongInput, "cannot be backfilled"),
    "a parent": ({"table": "mother"}, WrongInput, "cannot be backfilled"),
    "a generated column": ({"table": "generated", "values": {"twice": "1"}}, WrongInput, "is generated"),
    "two expressions": ({"values": {"cents": "1), (2"}}, WrongInput, "cannot be read"),
    "a statement": ({"values": {"cents": "1); DROP TABLE orders; SELECT (1"}}, WrongInput, "cannot be read"),
    "a query": ({"values": {"cents": "1) FROM orders WHERE (true"}}, WrongInput, "cannot be read"),
    "an empty one": ({"values": {"cents": " "}}, WrongInput, "cannot be read"),
    "a wrong one": ({"values": {"cents": "total *"}}, WrongInput, "cannot be read"),
    "an unknown name": ({"values": {"cents": "totals * 100"}}, WrongInput, 'column "totals" does not exist'),
    "a type that cannot be cast": ({"values": {"cents": "note || 'x'"}}, WrongInput, "is of type bigint"),
    "a cast that is none": ({"values": {"cents": "total::point"}}, WrongInput, "cannot cast type"),
    "a wrong condition": ({"where": "total >"}, WrongInput, "the expression of where cannot be read"),
    "a condition that is none": ({"where": "total"}, WrongInput, "must be type boolean"),
    "a way back that is wrong": ({"back": {"total": "cents || 'x'"}}, WrongInput, "total"),
    "a volatile one": ({"values": {"cents": "(random() * 100)::int"}}, Refused, "another value each time"),
    "a volatile condition": ({"where": "clock_timestamp() > '2000-01-01'"}, Refused, "clock_timestamp"),
}


@pytest.mark.first_case
@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_filled_is_refused_before_anything_changes(target: Target, name: str) -> None:
    """The server is asked what the words mean; nothing is written, and no table of ours is left."""
    do(target, "CREATE VIEW public.shown AS SELECT * FROM orders;"
               "CREATE TABLE public.generated (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED);"
               "CREATE TABLE public.mother (id int, cents int);"
               "CREATE TABLE public.child () INHERITS (mother)")  # fmt: skip
    given, kind, told = WRONG[name]
    with working(target) as conn:
        table, values = given.get("table", "orders"), given.get("values", CENTS)
        with pytest.raises(kind) as caught:
            resolve(conn, table, values, where=given.get("where", ""), back=given.get("back", {}))
        assert told in str(caught.value)
    assert rows(target, "SELECT count(cents), count(*) FROM orders") == [(0, 3000)]


@pytest.mark.first_case
@pytest.mark.parametrize(
    ("values", "where", "restless"),
    [
        ({"total": "coalesce(total, 0) + 1"}, "", 3000),
        ({"cents": "coalesce(cents, 0) + 1"}, "", 3000),
        ({"note": "note || 'x'"}, "note LIKE 'n7x%' OR note = 'n7'", 1),
        ({"note": "note || 'x'"}, "note = 'n7'", 0),
        ({"note": "id::text", "cents": "length(note)"}, "", 3000),
        ({"note": "upper(note)"}, "", 0),
        ({"total": "round(total)"}, "", 0),
        ({"total": "0"}, "total > 0", 0),
        ({"cents": "coalesce(cents, 7)"}, "", 0),
        ({"cents": "total * 100"}, "", 0),
    ],
)
def test_what_would_never_be_done_is_refused(target: Target, values: dict[str, str], where: str, restless: int) -> None:
    """An expression may read what it fills where doing it twice changes nothing; the rows are asked, not the text."""
    with working(target) as conn:
        made = resolve(conn, "orders", values, where=where)
        if not restless:
            backfill_check.refuse_restless(conn, made, statement_timeout_ms=30_000)
            return
        with pytest.raises(Refused, match="would differ again once filled") as caught:
            backfill_check.refuse_restless(conn, made, statement_timeout_ms=30_000)
    assert str(caught.value).startswith(f"{restless:,} row")


PLANTED = """
CREATE FUNCTION public.planted(text, text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE ''planted''; END';
CREATE FUNCTION public.planted(tid, tid) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE ''planted''; END';
CREATE FUNCTION public.planted(bigint) RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RAISE ''planted''; END';
CREATE AGGREGATE public.count(*) (SFUNC = planted, STYPE = bigint, INITCOND = 0);
"""


def test_what_somebody_planted_is_not_called(target: Target) -> None:
    """By the look, the batches, the proof or the trigger: where the search_path finds it before what is PostgreSQL's.

    The operators are those of text and of places; the aggregate is count.
    """
    operators = [
        f"CREATE OPERATOR public.{name} (LEFTARG = {type_}, RIGHTARG = {type_}, FUNCTION = public.planted);"
        for type_ in ("text", "tid")
        for name in ("=", "<>", "<", "<=", ">", ">=")
    ]
    do(target, PLANTED + "".join(operators))
    with working(target) as conn:
        (name,) = conn.execute("SELECT current_database()").fetchone() or ("",)
        path = sql.SQL("ALTER DATABASE {} SET search_path = public, pg_catalog")
        conn.execute(path.format(sql.Identifier(str(name))))
    with working(target) as conn:
        for bait in ("'a'::text <> 'b'", "ctid >= '(0,0)' FROM orders", "count(*) FROM orders"):
            with conn.as_target(), pytest.raises(psycopg.errors.RaiseException, match="planted"):
                conn.execute(f"SELECT {bait}".encode())
        made = resolve(conn, "orders", CENTS)
        found = backfill_check.check(conn, made)
        assert (found.is_whole, found.bad) == (True, ())
        assert backfill.proof(conn, made, statement_timeout_ms=30_000, in_sync=False) == 2572
        installed(conn, made)
        assert filled(conn, made, in_sync=True).rows == 2572
        own = resolve(conn, "orders", {"total": "total + 1"})
        with pytest.raises(Refused, match="would differ again"):
            backfill_check.refuse_restless(conn, own, statement_timeout_ms=30_000)
        assert backfill.proof(conn, made, statement_timeout_ms=30_000, in_sync=True) == 0
        with conn.as_target():
            conn.execute("INSERT INTO orders (total) VALUES (7); UPDATE orders SET total = 8 WHERE total = 7")
    with connect(target) as conn:
        query = "SELECT pg_catalog.count(*) FROM orders WHERE cents IS DISTINCT FROM round(total * 100)"
        assert conn.execute(query).fetchone() == (0,)


OWNERS = {
    "a trigger": "CREATE TRIGGER t BEFORE UPDATE ON things FOR EACH ROW EXECUTE FUNCTION rings()",
    "a check": "ALTER TABLE things ADD CHECK (sings(n) > 0)",
    "an index": "CREATE INDEX ON things ((n + sings(1)))",
    "a rule": "CREATE RULE r AS ON UPDATE TO things DO ALSO SELECT sings(1)",
}
HIDDEN = {
    "a function": "sings(n)",
    "an operator": "n <+> 1",
    "a domain": "n::counted",
}


@pytest.fixture
def owned(target: Target) -> Iterator[str]:
    """The name of a role that owns table things, and has no right beyond it."""
    do(target, "CREATE ROLE owns_things; GRANT CREATE ON SCHEMA public TO owns_things; SET ROLE owns_things;"
               "CREATE TABLE things (id int PRIMARY KEY, n int, m int); INSERT INTO things VALUES (1, 2);"
               "CREATE FUNCTION sings(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1';"
               "CREATE FUNCTION adds(int, int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1';"
               "CREATE OPERATOR <+> (LEFTARG = int, RIGHTARG = int, FUNCTION = adds); CREATE DOMAIN counted AS int;"
               "CREATE FUNCTION rings() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'")  # fmt: skip
    yield "owns_things"
    do(target, "DROP OWNED BY owns_things CASCADE; DROP ROLE owns_things")


@pytest.mark.slow
def test_table_whose_rows_run_code_of_somebody_else_is_not_filled(target: Target, owned: str) -> None:
    """Each way to have a row call something: told at the plan, and again before the loop."""
    with working(target) as conn:
        for how, planted in OWNERS.items():
            made = resolve(conn, "things", {"m": "n"})
            with conn.transaction(force_rollback=True):
                conn.execute(f"SET LOCAL ROLE {owned}; SET LOCAL search_path = public; {planted}".encode())
                conn.execute("RESET ROLE; SET LOCAL search_path = pg_catalog, pg_temp")
                for ask in (lambda: resolve(conn, "things", {"m": "n"}),
                            lambda: backfill_trust.refuse_foreign_code(conn, made.table)):  # noqa: B023 # fmt: skip
                    with pytest.raises(Refused, match=r"refused to change rows of public\.things"):
                        ask()
            assert resolve(conn, "things", {"m": "n"}).table == made.table, how


@pytest.mark.slow
@pytest.mark.parametrize("hidden", HIDDEN)
def test_trigger_calls_no_code_of_somebody_else(target: Target, owned: str, hidden: str) -> None:
    """It has our rights in every session: what another role may change at any time would have them too."""
    with working(target) as conn:
        made = resolve(conn, "things", {"m": HIDDEN[hidden]})
        installed(conn, made)
        with pytest.raises(Refused, match="its expressions call code of another role"):
            backfill_trust.refuse_foreign_text(conn, made.table, made.fill)
        own = resolve(conn, "things", {"m": "n + 1"})
        installed(conn, own)
        backfill_trust.refuse_foreign_text(conn, own.table, own.fill)
    assert owned


def test_expression_is_told_to_be_immutable_or_not(target: Target) -> None:
    """By the server itself; what is not has its turn by the key, and never by pages."""
    with working(target) as conn:
        subquery = "(SELECT max(i) FROM generate_series(1, 3) AS i)"
        for text, expected in {
            "round(total * 100)": True, "orders.total": True, "extract(epoch FROM now())": False, subquery: False,
        }.items():  # fmt: skip
            assert resolve(conn, "orders", {"cents": text}).is_immutable == expected
        made = resolve(conn, "orders", {"cents": subquery})
        found = batch_order.facts(conn, made)
        with pytest.raises(Refused, match="by its pages"):
            batch_order.decided(made, found, "pages")
        assert filled(conn, made).rows == 3000


@pytest.mark.slow
def test_look_finds_every_value_that_cannot_be_assigned(target: Target) -> None:
    """As an UPDATE would: overflow, a length, NOT NULL, a domain, a check over other columns; each row by its key."""
    do(target, "CREATE DOMAIN public.small AS int CHECK (VALUE < 100);"
               "CREATE TABLE public.many (id int PRIMARY KEY, v text, n smallint, s varchar(3), d small,"
               " k int NOT NULL, m int CHECK (m <> 7), CHECK (n IS NULL OR n < id + 5000));"
               "INSERT INTO many (id, v, k) SELECT i, i::text, 0 FROM generate_series(1, 5000) AS i;"
               "UPDATE many SET v = 'x' WHERE id IN (17, 18, 4000);"
               "UPDATE many SET v = '40000' WHERE id = 44; UPDATE many SET v = '9000' WHERE id = 45")  # fmt: skip
    with working(target) as conn:

        def bad(**values: str) -> dict[str, str]:
            made = resolve(conn, "many", values, where="id < 4990")
            found = backfill_check.check(conn, made)
            assert found.is_whole
            return {f"id = {', '.join(one.key)}": one.sqlstate for one in found.bad}

        assert bad(n="v::int") == {
            "id = 17": "22P02", "id = 18": "22P02", "id = 44": "22003", "id = 45": "23514", "id = 4000": "22P02",
        }  # fmt: skip
        assert bad(s="nullif('x' || id, 'x1234')", d="least(id, 99)") != {}
        assert bad(s="left(v, 3)", d="99") == {}
        assert bad(d="CASE WHEN id = 70 THEN 100 END") == {"id = 70": "23514"}
        assert bad(k="nullif(id, 71)") == {"id = 71": "23502"}
        assert bad(m="nullif(id % 1000, 7) + 0 * id") == {}
        assert bad(m="CASE WHEN id = 3333 THEN 7 ELSE id END") == {"id = 7": "23514", "id = 3333": "23514"}
        many = backfill_check.check(conn, resolve(conn, "many", {"s": "'long' || id"}), most=5)
        assert (len(many.bad), many.bad[0].sqlstate) == (5, "22001")
    assert rows(target, "SELECT count(n), count(s), count(d) FROM many") == [(0, 0, 0)]
    assert rows(target, "SELECT count(*) FROM pg_class WHERE relname = 'pgrunbook_try'") == [(0,)]


def test_rows_that_are_refused_are_passed_over_or_stop(target: Target) -> None:
    """A trigger of the application that raises is found by no look; the policy says what becomes of the row."""
    do(target, "CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
               " IF new.note = 'n100' THEN RAISE 'not this one'; END IF; RETURN new; END $$;"
               "CREATE TRIGGER no BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION no()")  # fmt: skip
    with working(target) as conn:
        made = resolve(conn, "orders", CENTS)
        assert [row["name"] for row in backfill.fired(conn, made)] == ["no"]
        with pytest.raises(psycopg.errors.RaiseException) as caught:
            filled(conn, made, order="key")
        assert caught.value.__notes__[0].startswith("It is the row id = ")
        done = filled(conn, made, order="key", policy=BadRows("skip"))
        assert [(one.sqlstate, one.said) for one in done.refused] == [("P0001", "not this one")]
    assert left(target) == 1


def test_columns_stay_in_sync_whatever_is_written(target: Target) -> None:
    """INSERT and UPDATE of either column, before, during and behind the batches, in every session."""
    with working(target) as conn:
        made = resolve(conn, "orders", CENTS, back={"total": "cents / 100.0"})
        installed(conn, made)
        do(
            target,
            "INSERT INTO orders (note, total) VALUES ('old', 1.23);"
            "INSERT INTO orders (note, cents) VALUES ('new', 456)",
        )
        do(target, "SET session_replication_role = replica; INSERT INTO orders (note, total) VALUES ('replica', 7)")
        do(
            target,
            "UPDATE orders SET total = total + 1 WHERE note = 'old'; UPDATE orders SET cents = 999 WHERE note = 'new'",
        )
        do(target, "INSERT INTO orders (note) VALUES ('null'); UPDATE orders SET total = NULL WHERE note = 'replica'")
        assert rows(target, "SELECT note, total, cents FROM orders WHERE note !~ '^n[0-9]' ORDER BY 1") == [
            ("new", Decimal("9.99"), 999), ("null", None, None), ("old", Decimal("2.23"), 223),
            ("replica", None, None),
        ]  # fmt: skip
        filled(conn, made, in_sync=True)
        assert backfill.proof(conn, made, statement_timeout_ms=30_000, in_sync=True) == 0
    assert left(target) == 0


def test_expression_that_fails_in_the_trigger_fails_no_write(target: Target) -> None:
    """The column becomes NULL; what the application wrote stays, and the proof is told of it."""
    with working(target) as conn:
        made = resolve(conn, "orders", {"cents": "regexp_replace(note, 'n', '')::bigint"})
        installed(conn, made)
        do(
            target,
            "INSERT INTO orders (note) VALUES ('no number'); UPDATE orders SET note = 'nor here' WHERE note = 'n5'",
        )
        assert rows(target, "SELECT count(*) FROM orders WHERE note LIKE 'no%'") == [(2,)]
        assert rows(target, "SELECT cents FROM orders WHERE note = 'no number'") == [(None,)]


def test_trigger_that_somebody_switched_off_is_no_proof(target: Target) -> None:
    """Off, off and on again, or dropped; the full text says what to do."""
    with working(target) as conn:
        made = resolve(conn, "orders", CENTS)
        for meanwhile in ("DISABLE TRIGGER {0}", "DISABLE TRIGGER {0}; ALTER TABLE orders ENABLE ALWAYS TRIGGER {0}"):
            installed(conn, made)
            do(target, f"ALTER TABLE orders {meanwhile.format(chr(34) + made.fill.trigger_name + chr(34))}")
            with pytest.raises(Broken) as caught:
                backfill.proof(conn, made, statement_timeout_ms=30_000, in_sync=True)
        assert str(caught.value) == (
            "cannot tell which rows of public.orders were written meanwhile\n"
            f'Detail: Somebody has switched trigger "{made.fill.trigger_name}" off, and on again perhaps.\n'
            "State: The batches before are committed.\n"
            "Hint: Run the backfill again from its first cell: it installs the trigger anew, and finds what differs."
        )
        do(target, f'DROP TRIGGER "{made.fill.trigger_name}" ON orders')
        with pytest.raises(Broken, match="is gone"):
            backfill.proof(conn, made, statement_timeout_ms=30_000, in_sync=True)


def test_removal_takes_all_of_ours_away(target: Target) -> None:
    """Trigger and functions, also of an installation that was made twice."""
    with working(target) as conn:
        made = resolve(conn, "orders", CENTS, where="note <> 'x'", back={"total": "cents / 100.0"})
        installed(conn, made)
        installed(conn, made)
        assert len(rows(target, "SELECT proname FROM pg_proc WHERE proname LIKE 'fill%'")) == 4
        conn.execute(made.fill.removal().encode())
    assert rows(target, "SELECT proname FROM pg_proc WHERE proname LIKE 'fill%'") == []
    assert rows(target, "SELECT tgname FROM pg_trigger WHERE tgname LIKE '%fill%'") == []


def test_doctor_names_what_a_backfill_has_left_and_how_to_remove_it(target: Target) -> None:
    """One statement takes the trigger and its functions away."""
    with working(target) as conn:
        made = resolve(conn, "orders", CENTS, where="note <> 'x'")
        installed(conn, made)
        (found,) = leftovers.remnants(conn)
        assert (found.kind, found.where) == ("helper of a run", "public.orders")
        assert "a backfill has left it" in found.why
        conn.execute(found.statement.encode())
        assert leftovers.remnants(conn) == []
    assert rows(target, "SELECT proname FROM pg_proc WHERE proname LIKE 'fill%'") == []


class Writers:
    """Writers that change a table and its twin in one transaction, until they are stopped."""

    def __init__(self, target: Target, seed: int) -> None:
        self.target, self.seed, self.errors = target, seed, list[str]()
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self._write, args=(n,)) for n in range(2)]
        self.writes = 0

    def __enter__(self) -> Writers:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join(timeout=60)

    def _write(self, number: int) -> None:
        chance = random.Random(f"{self.seed} {number}")  # noqa: S311 - no secret
        conn: Any = None
        while not self.over.is_set():
            try:
                if conn is None or conn.closed:
                    conn = connect(self.target, purpose="writer")
                    conn.execute("SET lock_timeout = '20s'")
                with conn.transaction():
                    conn.execute("SELECT pg_catalog.pg_advisory_xact_lock(1)")  # in one order on both tables
                    for text in self._texts(chance):
                        for table in ("orders", "twin"):
                            conn.execute(text.replace("TABLE", table).encode())
                self.writes += 1
            except (psycopg.OperationalError, RunbookError) as exc:
                if isinstance(exc, psycopg.errors.LockNotAvailable):
                    self.errors.append(str(exc))
                time.sleep(0.05)  # the server is down: a test has killed it
            except psycopg.Error as exc:
                self.errors.append(str(exc))
        if conn is not None:
            conn.close()

    def _texts(self, chance: random.Random) -> list[str]:
        two = f"n{chance.randrange(10)}{chance.randrange(10)}"
        note, other = (f"n{chance.randrange(1, 3100)}" for _ in range(2))
        total = chance.choice(["NULL", str(chance.randrange(10_000) / 100)])
        key = f"md5('{chance.random()}')::uuid"
        if chance.random() < 0.002:
            return ["TRUNCATE TABLE", f"INSERT INTO TABLE (id, note, total) VALUES ({key}, '{note}', {total})"]
        return chance.choices(
            [
                [f"INSERT INTO TABLE (id, note, total) VALUES ({key}, '{note}', {total})"],
                [f"UPDATE TABLE SET total = {total} WHERE note = '{note}'"],
                [f"UPDATE TABLE SET total = {total}, note = '{other}' WHERE note = '{note}'"],
                [f"UPDATE TABLE SET id = md5(id::text)::uuid WHERE note = '{note}'"],
                [f"DELETE FROM TABLE WHERE note = '{note}'"],
                [f"UPDATE TABLE SET total = total + 1 WHERE note LIKE '{two}%'"],
            ],
            [3, 4, 2, 2, 1, 0.3],
        )[0]


def differing(target: Target) -> int:
    """Count the rows in which the table and its twin differ, and those that are not filled as they should be."""
    return left(target) + int(str(rows(target, "SELECT count(*) FROM (SELECT id, total, note FROM orders EXCEPT ALL"
                                               " SELECT id, total, note FROM twin) AS x")[0][0])) + int(str(
        rows(target, "SELECT count(*) FROM (SELECT id, total, note FROM twin EXCEPT ALL"
                     " SELECT id, total, note FROM orders) AS x")[0][0]))  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("order", ["key", "pages"])
def test_twin_of_the_table_differs_in_no_row_after_a_backfill_under_writes(target: Target, order: Asked) -> None:
    """Inserts, deletes, updates to NULL, of the key, of everything, TRUNCATE: no writer sees an error."""
    do(target, "CREATE TABLE public.twin (LIKE orders INCLUDING ALL); INSERT INTO twin SELECT * FROM orders")
    with working(target) as conn, Writers(target, 1) as writers:
        made = resolve(conn, "orders", CENTS)
        installed(conn, made)
        for number in range(2):
            filled(conn, made, order=order, in_sync=True, run_id=str(number), on_batch=lambda *_: time.sleep(0.01))
        assert backfill.proof(conn, made, statement_timeout_ms=30_000, in_sync=True) == 0
    assert (writers.errors, differing(target)) == ([], 0)
    assert writers.writes > 20


FILL_ONCE = """
from pgrunbook.config import targets
from test_online_backfill import CENTS, filled, resolve, working
with working(targets.load("demo")) as conn:
    filled(conn, resolve(conn, "orders", CENTS), order="{order}", in_sync=True, on_batch=lambda *_: None)
"""


@pytest.mark.slow
def test_backfill_whose_session_is_ended_again_and_again_fills_each_row(target: Target) -> None:
    """At random moments, under writes: what was committed stays, and the same loop goes on behind it."""
    do(target, "CREATE TABLE public.twin (LIKE orders INCLUDING ALL); INSERT INTO twin SELECT * FROM orders")
    chance, ended = random.Random(7), 0  # noqa: S311 - no secret
    with Writers(target, 2) as writers:
        with working(target) as conn:
            installed(conn, resolve(conn, "orders", CENTS))
        for order in ("key", "pages"):
            while ended < 8:
                with working(target) as conn:
                    pid, after_s = conn.info.backend_pid, chance.random() * 0.15
                    timer = threading.Timer(after_s, do, [target, f"SELECT pg_terminate_backend({pid})"])
                    timer.start()
                    try:
                        filled(conn, resolve(conn, "orders", CENTS), order=order, in_sync=True)  # type: ignore[arg-type]
                        timer.cancel()
                        break
                    except (psycopg.OperationalError, RunbookError):
                        ended += 1
                    finally:
                        timer.join()
        with working(target) as conn:
            made = resolve(conn, "orders", CENTS)
            filled(conn, made, order="key", in_sync=True)
            assert backfill.proof(conn, made, statement_timeout_ms=30_000, in_sync=True) == 0
    assert (writers.errors, differing(target)) == ([], 0)


@pytest.mark.slow
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("order", ["key", "pages"])
def test_backfill_survives_kills_of_the_runner_and_of_the_server(target: Target, order: str) -> None:
    """kill -9 of the process that fills, and of a server process, which ends all others: 25 times in all, each form."""
    do(target, "INSERT INTO orders (total, note) SELECT i, 'n' || i FROM generate_series(1, 20000) AS i")
    do(target, "CREATE TABLE public.twin (LIKE orders INCLUDING ALL); INSERT INTO twin SELECT * FROM orders")
    chance, killed = random.Random(3), 0  # noqa: S311 - no secret
    command = [sys.executable, "-c", FILL_ONCE.format(order=order)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    with Writers(target, 4) as writers:
        with working(target) as conn:
            installed(conn, resolve(conn, "orders", CENTS))
        while killed < 25:
            with subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL) as process:
                time.sleep(0.8 + chance.random() * 0.6)
                if process.poll() is None and chance.random() < 0.3:
                    with connect(target) as victim:
                        os.kill(victim.info.backend_pid, signal.SIGKILL)
                process.kill()
                killed += 1
            wait_until_alive(target)
        with working(target) as conn:
            made = resolve(conn, "orders", CENTS)
            filled(conn, made, order=order, in_sync=True)  # type: ignore[arg-type]
            assert backfill.proof(conn, made, statement_timeout_ms=30_000, in_sync=True) == 0
    assert (writers.errors, differing(target)) == ([], 0)


def wait_until_alive(target: Target) -> None:
    """Wait until the server answers again."""
    for _ in range(600):
        try:
            do(target, "SELECT 1")
        except (psycopg.Error, RunbookError):
            time.sleep(0.05)
        else:
            return
    raise AssertionError("the server did not come back")
