"""What was captured follows its row also while sessions wait for each other, and never makes them wait for more."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

import scenes
from budget import sample
from conftest import connect, do, rows
from pgrunbook.config.targets import Target
from pgrunbook.online.batches import run_batches
from pgrunbook.plan.plan import Plan
from pgrunbook.plan.step import RANGE, Batches
from pgrunbook.undo_data import (
    CannotCaptureError,
    Site,
    StepKey,
    capture_batches,
    capture_statement,
    conflicts,
    gone_to_nobody,
    list_entries,
    unclaimed,
)
from returning import ROLLBACK, execute, journal_of, plan_of, prepared, rehearsed, since
from scenes import beside, gone, until
from servers import Server, Servers
from undo_data_stage import Conn, Way, database, give_back_migration

# ruff: noqa: E501 - one statement on a line, whatever its length
PARTITIONED = """
CREATE TABLE t (id integer PRIMARY KEY, n integer, a integer) PARTITION BY RANGE (id);
CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (100);
CREATE TABLE t_2 PARTITION OF t FOR VALUES FROM (1000) TO (2000);
CREATE TABLE t_rest PARTITION OF t DEFAULT;
INSERT INTO t SELECT i, i, i * 10 FROM generate_series(1, 200) AS i;
"""


@pytest.fixture
def own(server: Server) -> Iterator[Conn]:
    """A connection to a partitioned table whose rows 1 to 200 are in two partitions."""
    with database(server, "own_followers", PARTITIONED) as conn:
        yield conn


# How the row 150 leaves its key before 160, which somebody holds.
LEAVES = {
    "deleted": "DELETE FROM t WHERE id IN (150, 160)",
    "moved": "UPDATE t SET id = id + 5000 WHERE id IN (150, 160)",
    "to the other partition": "UPDATE t SET id = id + 1000 WHERE id IN (150, 160)",
}


@pytest.mark.slow
@pytest.mark.parametrize("is_over", ["COMMIT", pytest.param("ROLLBACK", marks=pytest.mark.slow)])
@pytest.mark.parametrize("comes", [60, pytest.param(170, marks=pytest.mark.slow)])
@pytest.mark.parametrize("leaves", LEAVES)
def test_a_row_takes_a_key_that_another_session_is_leaving(
    own: Conn, server: Server, leaves: str, comes: int, is_over: str
) -> None:
    """From another partition or its own: it waits as it would without us, and each row gets what was captured of it."""
    way = Way(own, "ALTER TABLE t DROP COLUMN a")
    way.there()
    with (
        server.connect("own_followers") as first, server.connect("own_followers") as third,
        server.connect("own_followers") as mover, ThreadPoolExecutor(2) as beside,
    ):  # fmt: skip

        def waits(one: Conn) -> bool:
            return own.execute(f"SELECT FROM pg_locks WHERE pid = {one.info.backend_pid} AND NOT granted").rowcount > 0

        with third.transaction():
            third.execute("SELECT FROM t WHERE id = 160 FOR UPDATE")
            first.execute("BEGIN")
            left = beside.submit(first.execute, LEAVES[leaves].encode())
            until(lambda: waits(first))
            came = beside.submit(mover.execute, f"UPDATE t SET id = 150 WHERE id = {comes}".encode())
            until(lambda: waits(mover))
        assert left.result(30).rowcount == 2
        first.execute(is_over.encode())
        if is_over == "COMMIT":
            assert came.result(30).rowcount == 1
        else:
            with pytest.raises(psycopg.errors.UniqueViolation):
                came.result(30)
    way.back()
    found = dict(own.execute("SELECT n, a FROM t").fetchall())
    gone = {150, 160} if is_over == "COMMIT" and leaves == "deleted" else set()
    assert found == {n: n * 10 for n in range(1, 201) if n not in gone}


# A type, a key, and an equal one that looks different.
EQUAL = {
    "numeric": ("1.0", "1.000"),
    "float8": ("-0", "0"),
    "interval": ("1 mon", "30 days"),
    "jsonb": ('{"a": 1.0}', '{"a": 1.000}'),
    "numeric[]": ("{1.0}", "{1.00}"),
    "numrange": ("[1.0,2.0]", "[1,2.00]"),
    "citext": ("a", "A"),
}


@pytest.mark.slow
@pytest.mark.newest
def test_a_key_that_is_written_again_as_an_equal_one_stays_that_of_its_row(own: Conn) -> None:
    """Under its operator, the row that has the new key is the row itself."""
    own.execute("CREATE EXTENSION IF NOT EXISTS citext")
    ways = {}
    for type_, (first, second) in EQUAL.items():
        is_partitioned = type_ == "numeric[]"
        own.execute(
            f'CREATE TABLE "e {type_}" (f {type_}, part integer DEFAULT 1, u integer, a integer, PRIMARY KEY (f, part))'
            f"{' PARTITION BY LIST (part)' if is_partitioned else ''}".encode()
        )
        if is_partitioned:
            own.execute(f'CREATE TABLE e_1 PARTITION OF "e {type_}" FOR VALUES IN (1)'.encode())
        own.execute(f"INSERT INTO \"e {type_}\" (f, u, a) VALUES ('{first}', 7, 8)".encode())
        ways[type_] = Way(own, f'ALTER TABLE "e {type_}" DROP COLUMN a')
        ways[type_].there()
        with own.transaction():
            step = StepKey("r", "m", "up", len(ways))
            own.execute(capture_statement(own, f'UPDATE "e {type_}" SET u = 0', step).encode())
        own.execute(f"UPDATE \"e {type_}\" SET f = '{second}'".encode())
    for way in ways.values():
        way.back()
    give_back_migration(own, "m", "up", on_conflict="keep")
    found = {type_: own.execute(f'SELECT u, a FROM "e {type_}"'.encode()).fetchall() for type_ in EQUAL}
    assert found == {type_: [(7, 8)] for type_ in EQUAL}


# Types of a key that the application has made, with values of rows 1 to 4 and another one.
MADE = """
CREATE DOMAIN num AS integer; CREATE DOMAIN word AS text; CREATE DOMAIN nums AS integer[]; CREATE DOMAIN blob AS bytea;
CREATE TYPE mood AS ENUM ('x', 'y'); CREATE TYPE pair AS (a num, b text); CREATE TYPE span AS RANGE (subtype = integer);
CREATE TYPE at AS (a pair, t timestamptz); CREATE DOMAIN floats AS float8[]; CREATE DOMAIN day AS date;
"""
STEADY = {
    "num[]": ["{1}", "{1,2}", "{}", "{NULL}", "{7}"],
    "word[]": ["{a}", '{"a b"}', '{"{}"}', '{""}', "{z}"],
    "nums": ["{1}", "{1,2}", "{}", "{NULL}", "{7}"],
    "mood[]": ["{x}", "{x,y}", "{}", "{NULL}", "{y}"],
    "pair": ['(1,"a b")', "(1,)", "(,)", "(2,b)", "(7,z)"],
    "pair[]": ['{"(1,a)"}', '{"(1,)"}', "{}", '{NULL,"(2,b)"}', '{"(7,z)"}'],
    "span": ["[1,3)", "[1,)", "empty", "(,)", "[7,9)"],
}
UNSTEADY = ("blob", "at", "floats", "day", "day[]")


@pytest.mark.slow
@pytest.mark.newest
@pytest.mark.parametrize("type_", sample([*STEADY], 3))
def test_keys_of_types_that_the_application_has_made_are_followed(own: Conn, server: Server, type_: str) -> None:
    """Where their text does not depend on settings; also behind another name of the key."""
    first, second, _, fourth, other = STEADY[type_]
    values = ", ".join(f"('{key}', {n}, {n}, {n})" for n, key in enumerate(STEADY[type_][:3], 1))
    own.execute(f"{MADE}; CREATE TABLE m (f {type_} PRIMARY KEY, n integer, u integer, a integer)".encode())
    own.execute(f"INSERT INTO m VALUES {values}".encode())
    way = Way(own, "ALTER TABLE m DROP COLUMN a")
    assert way.because == ""
    way.there()
    for number, statement in enumerate(["UPDATE m SET u = 0", f"INSERT INTO m VALUES ('{fourth}', 4, 4)"], 1):
        with own.transaction():
            own.execute(capture_statement(own, statement, StepKey("r", "m", "up", number)).encode())
    with server.connect("own_followers") as client:
        client.execute("SET DateStyle = 'German'; SET extra_float_digits = 0; SET bytea_output = 'escape'")
        client.execute(f"UPDATE m SET f = '{other}' WHERE n = 1; DELETE FROM m WHERE n = 2".encode())
        client.execute(f"ALTER TABLE m RENAME COLUMN f TO g; INSERT INTO m VALUES ('{second}', 9, 9)".encode())
        client.execute(f"UPDATE m SET g = '{first}' WHERE n = 3; DELETE FROM m WHERE n = 4".encode())
        client.execute(f"INSERT INTO m VALUES ('{fourth}', 4, 4); ALTER TABLE m RENAME COLUMN g TO f".encode())
    way.back()
    assert [left for _, left in gone_to_nobody(own, ["0001_x"], "up")] == [1]
    give_back_migration(own, "m", "up", on_conflict="keep")
    found = own.execute("SELECT n, u, a FROM m ORDER BY n").fetchall()
    assert found == [(1, 1, 1), (3, 3, 3), (4, 4, None), (9, 9, None)]


@pytest.mark.newest
def test_keys_whose_text_depends_on_settings_are_told(own: Conn) -> None:
    """As deep as such a type lies in them."""
    own.execute(MADE)
    for type_ in UNSTEADY:
        own.execute(f'CREATE TABLE "m {type_}" (f {type_} PRIMARY KEY, a integer)'.encode())
        assert "whose text depends on settings" in Way(own, f'ALTER TABLE "m {type_}" DROP COLUMN a').because


@pytest.mark.first_case
@pytest.mark.newest
@pytest.mark.parametrize("name", ["00_again", "!", pytest.param("zzz", marks=pytest.mark.slow)])
def test_a_trigger_of_the_application_changes_the_key_again(own: Conn, name: str) -> None:
    """Whatever its name is: we see the first change before the second one, which may leave the partition."""
    own.execute(
        "CREATE TABLE whole (id integer PRIMARY KEY, n integer, a integer); INSERT INTO whole SELECT * FROM t;"
        "CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF pg_trigger_depth() = 1 THEN"
        " IF TG_WHEN = ''BEFORE'' THEN NEW.id := NEW.id + 1000;"
        " ELSIF TG_ARGV[0] = ''t'' THEN UPDATE t SET id = id + 1000 WHERE id = NEW.id;"
        " ELSE UPDATE whole SET id = id + 1000 WHERE id = NEW.id; END IF; END IF; RETURN NEW; END'"
    )
    when = "BEFORE" if name == "zzz" else "AFTER"
    for table in ("t", "whole"):
        made = f'CREATE TRIGGER "{name}" {when} UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION again({table})'
        own.execute(made.encode())
        way = Way(own, f"ALTER TABLE {table} DROP COLUMN a")
        way.there()
        own.execute(f"UPDATE {table} SET id = id + 500 WHERE id BETWEEN 120 AND 130".encode())
        own.execute(f'DROP TRIGGER "{name}" ON {table}'.encode())
        way.back()
        found = own.execute(f"SELECT id, n, a FROM {table}".encode()).fetchall()
        assert {(id_, n, a) for id_, n, a in found if 120 <= n <= 130} == {
            (n + 1500, n, n * 10) for n in range(120, 131)
        }
        assert [row for row in found if row[2] != row[1] * 10] == []


@pytest.mark.first_case
@pytest.mark.newest
@pytest.mark.parametrize("table", ["t", "whole"])
def test_two_rows_that_a_step_deletes_have_one_key_in_turn(own: Conn, table: str) -> None:
    """Between two batches the second one comes to the key of the first: it is back, and the first one is listed."""
    own.execute("CREATE TABLE whole (id integer PRIMARY KEY, n integer, a integer); INSERT INTO whole SELECT * FROM t")
    way = Way(own, f"ALTER TABLE {table} DROP COLUMN a")
    way.there()
    for batch in ("", f"UPDATE {table} SET id = 27 WHERE id = 30"):
        with own.transaction():
            own.execute((batch or "SELECT").encode())
            own.execute(
                capture_statement(own, f"DELETE FROM {table} WHERE id = 27", StepKey("r", "m", "up", 1)).encode()
            )
    found = give_back_migration(own, "m", "up", on_conflict="keep")
    way.back()
    assert own.execute(f"SELECT n, a FROM {table} WHERE id IN (27, 30)".encode()).fetchall() == [(30, 300)]
    assert found.left


@pytest.mark.first_case
@pytest.mark.newest
@pytest.mark.parametrize("deferrable", ["", " DEFERRABLE"])
def test_a_trigger_of_the_application_changes_rows_whose_change_we_have_not_seen(own: Conn, deferrable: str) -> None:
    """Those behind it in the same statement: moved again, and again by the next trigger, or deleted."""
    own.execute(
        f"CREATE TABLE whole (id integer PRIMARY KEY{deferrable}, n integer, a integer);"
        "INSERT INTO whole SELECT i, i, i * 10 FROM generate_series(1, 6) AS i;"
        "CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN"
        " IF pg_trigger_depth() = 1 AND OLD.id = 1 THEN UPDATE whole SET id = id + 1000 WHERE id IN (103, 104);"
        " DELETE FROM whole WHERE id = 105;"
        " ELSIF pg_trigger_depth() = 2 AND NEW.id = 1103 THEN UPDATE whole SET id = 7 WHERE id = 1104; END IF;"
        " RETURN NULL; END'; CREATE TRIGGER a AFTER UPDATE ON whole FOR EACH ROW EXECUTE FUNCTION again()".encode()
    )
    way = Way(own, "ALTER TABLE whole DROP COLUMN a")
    way.there()
    with own.transaction():
        own.execute(capture_statement(own, "UPDATE whole SET n = -n", StepKey("r", "m", "up", 1)).encode())
    own.execute("UPDATE whole SET id = id + 100; INSERT INTO whole (id, n) VALUES (105, 0), (104, 0), (103, 0)")
    give_back_migration(own, "m", "up", on_conflict="keep")
    way.back()
    found = own.execute("SELECT id, n, a FROM whole ORDER BY n, id").fetchall()
    assert found == [
        *((id_, 0, None) for id_ in (103, 104, 105)),
        (101, 1, 10),
        (102, 2, 20),
        (1103, 3, 30),
        (7, 4, 40),
        (106, 6, 60),
    ]


STOPS = {
    "DELETE": ("NULL", {150: 150}),
    "INSERT": ("NULL", {}),
    "INSERT, with another key": ("NEW", {1950: 150}),
}


@pytest.mark.first_case
@pytest.mark.newest
@pytest.mark.parametrize("stop", STOPS)
def test_a_move_that_a_trigger_of_the_application_stops(own: Conn, stop: str) -> None:
    """A row that stays keeps its value; one that comes to another key than it said, or to none, loses it to nobody."""
    event, returns, wanted = stop.partition(",")[0], *STOPS[stop]
    own.execute(
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS"
        f" 'BEGIN IF TG_OP = ''INSERT'' THEN NEW.id := 1950; END IF; RETURN {returns}; END';"
        f"CREATE TRIGGER f BEFORE {event} ON {'t_rest' if event == 'DELETE' else 't_2'} FOR EACH ROW"
        " EXECUTE FUNCTION f()".encode()
    )
    way = Way(own, "ALTER TABLE t DROP COLUMN a")
    way.there()
    own.execute("UPDATE t SET id = 1150 WHERE id = 150; DROP FUNCTION f CASCADE; INSERT INTO t VALUES (1150, -1)")
    way.back()
    found = own.execute("SELECT id, n, a FROM t WHERE n IN (-1, 150)").fetchall()
    assert {id_: n for id_, n, _ in found if n > 0} == wanted
    assert {a for _, n, a in found if n < 0} == {None}
    assert {a for _, n, a in found if n > 0} <= {1500, None}


@pytest.mark.newest
def test_columns_may_have_the_names_of_our_variables(own: Conn) -> None:
    """Which are those of a side table too: what is captured follows its row all the same."""
    names = ("this", "goes", "leaves", "comes", "leaving", "there", "named", "is_ours", "old_1", "new_1", "k", "t")
    columns = ", ".join(f"{name} integer DEFAULT 1" for name in names)
    own.execute(
        f"CREATE TABLE named (id integer PRIMARY KEY DEFERRABLE, {columns}) PARTITION BY RANGE (id);"
        "CREATE TABLE named_1 PARTITION OF named FOR VALUES FROM (0) TO (10);"
        "CREATE TABLE named_2 PARTITION OF named DEFAULT; INSERT INTO named (id) VALUES (1), (2)".encode()
    )
    changed = f"UPDATE named SET {', '.join(f'{name} = 2' for name in names)}"
    with own.transaction():
        own.execute(capture_statement(own, changed, StepKey("r", "m", "up", 1)).encode())
    own.execute("UPDATE named SET id = id + 10; UPDATE named SET id = id + 1; DELETE FROM named WHERE id = 12")
    give_back_migration(own, "m", "up", on_conflict="keep")
    assert own.execute("SELECT * FROM named").fetchall() == [(13, *[1] * len(names))]


@pytest.mark.slow
def test_plan_and_rollback_tell_the_locks_of_the_triggers(project: Callable[..., Target]) -> None:
    """The UPDATE locks writers out until its transaction ends; rollback drops the triggers, which nobody shares."""
    target = project(folder={"0001_a.sql": "UPDATE t SET a = 0;\nALTER TABLE t DROP COLUMN b"})
    do(target, "CREATE TABLE t (id integer PRIMARY KEY, a integer, b integer); INSERT INTO t VALUES (1, 1, 1)")
    plan = plan_of(target, rehearsed(target))
    (change,) = plan.changes
    assert [one.explains.partition(", triggers on")[2] for one in change.statements] == [
        " public.t let it follow its rows.", " public.t let captured values follow their rows.",
    ]  # fmt: skip
    assert ("public.t", "ShareRowExclusiveLock") in {(lock.object, lock.mode) for lock in change.steps[0].locks}
    execute(target, plan, "20261122T165431Z-release-demo-7f3a")
    back, _ = prepared(target)
    drops = [step for step in back.changes[0].steps if step.gives_rows or step.gives_back]
    assert len(drops) == 2
    assert all(("public.t", "AccessExclusiveLock") in {(o.object, o.mode) for o in step.locks} for step in drops)


STRANGE = {
    "update": "UPDATE strange SET a = 0",
    "on conflict": "INSERT INTO strange VALUES (1, 0), (4, 4) ON CONFLICT (id) DO UPDATE SET a = excluded.a",
    "set null": "DELETE FROM head WHERE id = 1",
    "insert": "INSERT INTO strange VALUES (4, 4), (5, 5), (6, 6)",
}


@pytest.mark.first_case
@pytest.mark.parametrize("kind", STRANGE)
def test_rows_of_another_roles_table_are_captured_without_triggers(own: Conn, server: Server, kind: str) -> None:
    """Who may update a table and does not own it has a way back, too; the plan tells what nobody can tell there."""
    role = f"stranger_{server.version}"
    own.execute(
        f"CREATE TABLE head (id integer PRIMARY KEY); INSERT INTO head VALUES (1);"
        "CREATE TABLE strange (id integer PRIMARY KEY, a integer, head integer REFERENCES head ON DELETE SET NULL);"
        "INSERT INTO strange VALUES (1, 1, 1), (2, 2, 1), (3, 3, 1); UPDATE strange SET head = NULL WHERE id = 3;"
        f"CREATE ROLE {role}; GRANT ALL ON DATABASE own_followers TO {role};"
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON strange, head TO {role}".encode()
    )
    before = own.execute("SELECT * FROM strange ORDER BY id").fetchall()
    try:
        with server.connect("own_followers") as other:
            other.execute(f"SET ROLE {role}")
            way = Way(other, STRANGE[kind])
            assert way.because == ""
            told = "what it inserts into" if kind == "insert" else "the rows of"
            assert re.search(f"No trigger .*{told} public.strange", way.expansion.explains)
            way.there()
            assert own.execute("SELECT * FROM strange ORDER BY id").fetchall() != before
            own.execute("UPDATE strange SET a = 5 WHERE id = 3; UPDATE strange SET id = 7 WHERE id = 2")
            if kind == "insert":
                own.execute("UPDATE strange SET id = 8 WHERE id = 4; DELETE FROM strange WHERE id = 5")
            given = give_back_migration(other, way.site.migration, "up", on_conflict="keep")
            if kind == "insert":
                told = {row.key["id"]: row.way for row in given.left.samples}
                assert (given.rows, told) == (1, {"4": "not to be told", "5": "not to be told"})
        found = {row[0]: row for row in own.execute("SELECT * FROM strange").fetchall()}
        assert (found[1], found[3][1]) == (before[0], 5)
    finally:
        own.execute(f"REASSIGN OWNED BY {role} TO postgres; DROP OWNED BY {role}; DROP ROLE {role}".encode())


# What happens to the partition t_2 with the row 1500; which rows get what was captured then, of a column and of an
# UPDATE; and of which key the column's values are told to go to nobody.
DETACHED = {
    "its key is used again elsewhere": ("CREATE TABLE t_3 PARTITION OF t FOR VALUES FROM (1000) TO (2000); INSERT INTO t VALUES (1500, -1)", {}, {}, 1500),
    "its key is used again, and moved": ("INSERT INTO t VALUES (1500, -1); UPDATE t SET id = 150000 WHERE id = 1500", {}, {}, 1500),
    "its key is used again in the default partition": ("INSERT INTO t VALUES (1500, -1)", {}, {}, 1500),
    "it is attached again": ("{attach}", {1500: 1500}, {1500: 1500}, None),
    "it is attached again with another row": ("DELETE FROM t_2; INSERT INTO t_2 (id, n) VALUES (1500, -1); {attach}", {}, {}, 1500),
    "it is attached again, and its row moved": ("DELETE FROM t_2; INSERT INTO t_2 (id, n) VALUES (1500, -1); {attach}; UPDATE t SET id = 5000 WHERE id = 1500", {}, {}, 1500),
    "it is dropped": ("DROP TABLE t_2; INSERT INTO t VALUES (1500, -1)", {}, {}, 1500),
    "others are attached": ("CREATE TABLE t_4 (LIKE t_2); INSERT INTO t_4 (id, n) VALUES (1500, -1); ALTER TABLE t ATTACH PARTITION t_4 FOR VALUES FROM (1000) TO (2000)", {}, {}, 1500),
    "others are attached, and a row comes": ("CREATE TABLE t_4 PARTITION OF t FOR VALUES FROM (1000) TO (2000); UPDATE t SET id = 1700 WHERE id = 150", {1700: 150}, {1700: 150}, 1500),
    "its row was written meanwhile": ("UPDATE t_2 SET n = -1; {attach}", {}, {}, 1500),
    "its row was written meanwhile, then moved": ("UPDATE t_2 SET n = -1; {attach}; UPDATE t SET id = 5000 WHERE id = 1500", {}, {}, 1500),
    "its row of then is moved": ("{attach}; UPDATE t SET id = 5000 WHERE id = 1500", {5000: 1500}, {}, None),
    "its row of then is deleted, and its key used again": ("{attach}; DELETE FROM t WHERE id = 1500; INSERT INTO t VALUES (1500, -1)", {}, {}, 1500),
    "twice, its row moved in between": ("{attach}; UPDATE t SET id = 1600 WHERE id = 1500; ALTER TABLE t DETACH PARTITION t_2; {attach}", {}, {}, 1600),
    "its row comes to a new one, which is detached too": ("{new}; ALTER TABLE t DETACH PARTITION t_5; {attach_new}", {}, {}, 25000),
    "its row comes to a new one, is written there, and comes back": ("{new}; ALTER TABLE t DETACH PARTITION t_5; UPDATE t_5 SET n = -1; {attach_new}", {}, {}, 25000),
    "its row comes to a new one, where another has its key": ("{new}; ALTER TABLE t DETACH PARTITION t_5; DELETE FROM t_5; INSERT INTO t_5 (id, n) VALUES (25000, -1); {attach_new}", {}, {}, 25000),
    "its row comes to a new one, where another has its key and moves": ("{new}; ALTER TABLE t DETACH PARTITION t_5; DELETE FROM t_5; INSERT INTO t_5 (id, n) VALUES (25000, -1); {attach_new}; UPDATE t SET id = 1500 WHERE id = 25000", {}, {}, 25000),
    "its row comes to a new one": ("{new}", {25000: 1500}, {}, None),
    "its row comes to a newer one, which is truncated": ("{new}; TRUNCATE t_5; INSERT INTO t VALUES (25000, -1)", {}, {}, 25000),
    "its row comes to one of a newer one, which is truncated": ("{attach}; CREATE TABLE t_5 PARTITION OF t FOR VALUES FROM (20000) TO (30000) PARTITION BY LIST (id); CREATE TABLE t_6 PARTITION OF t_5 DEFAULT; UPDATE t SET id = 25000 WHERE id = 1500; TRUNCATE t_5; INSERT INTO t VALUES (25000, -1)", {}, {}, 25000),
    "two rows exchange their keys": ("INSERT INTO t_2 (id, n) VALUES (1501, -1); UPDATE t_2 SET id = id + 100; UPDATE t_2 SET id = CASE id WHEN 1600 THEN 1501 ELSE 1500 END; {attach}", {}, {}, 1500),
}  # fmt: skip


@pytest.mark.first_case
@pytest.mark.parametrize("way", ["column", pytest.param("rows", marks=pytest.mark.newest)])
@pytest.mark.parametrize("case", sample([*DETACHED], 3))
def test_rows_behind_a_detached_partition_are_not_those_of_then(own: Conn, case: str, way: str) -> None:
    """No trigger sees it go or come: but for rows that nobody has written since, what was captured there is nobody's.

    What is in the others comes back.
    """
    own.execute("INSERT INTO t VALUES (1500, 1500, 15000); ALTER TABLE t ADD u integer; UPDATE t SET u = a")
    dropped = Way(own, "ALTER TABLE t DROP COLUMN a")
    if way == "column":
        dropped.there()
    else:
        with own.transaction():
            own.execute(capture_statement(own, "UPDATE t SET a = 0", StepKey("r", "m", "up", 1)).encode())
    attach = "ALTER TABLE t ATTACH PARTITION t_2 FOR VALUES FROM (1000) TO (2000)"
    does, of_column, of_rows, told = DETACHED[case]
    wanted = of_column if way == "column" else of_rows
    attach_new = "ALTER TABLE t ATTACH PARTITION t_5 FOR VALUES FROM (20000) TO (30000)"
    new = f"{attach}; CREATE TABLE t_5 (LIKE t_2); {attach_new}; UPDATE t SET id = 25000 WHERE id = 1500"
    does = does.format(attach=attach, attach_new=attach_new, new=new)
    for statement in f"ALTER TABLE t DETACH PARTITION t_2; {does}".split("; "):
        own.execute(statement.encode())
    (entry,) = list_entries(own)
    if way == "column":
        assert unclaimed(own, entry).samples == ((f"id {told}: a 15000",) if told else ())
        dropped.back()
        empty: tuple[object, ...] = (None,)
    else:
        assert {row.key["id"] for row in conflicts(own, entry).samples} <= {"1500", "1600"}
        assert bool(conflicts(own, entry)) == (1500 not in wanted)
        give_back_migration(own, "m", "up", on_conflict="keep")
        empty = (0, None)
    found = {id_: (n, a) for id_, n, a in own.execute("SELECT id, n, a FROM t")}
    assert {key: found[key] for key in wanted} == {key: (n, n * 10) for key, n in wanted.items()}
    assert {found[id_][1] for id_ in found if id_ >= 1000 and id_ not in wanted} <= {*empty}
    assert {id_ for id_, (n, a) in found.items() if id_ < 1000 and a != n * 10} == set()


# How somebody switches our triggers off on a table for a time, and on again;
SWITCHED = {
    "all": ("ALTER TABLE {table} DISABLE TRIGGER ALL", "ALTER TABLE {table} ENABLE TRIGGER ALL"),
    "all, and on in every session": ("ALTER TABLE {table} DISABLE TRIGGER ALL", "{enable}"),
    "those of users": ("ALTER TABLE {table} DISABLE TRIGGER USER", "{enable}"),
    "for a replica only": ("{replica}", "{enable}"),
    "each": ("{disable}", "{enable}"),
    "in the catalog": ("SET allow_system_table_mods = on; UPDATE pg_trigger SET tgenabled = 'D' WHERE tgrelid = '{table}'::regclass", "UPDATE pg_trigger SET tgenabled = 'A' WHERE tgrelid = '{table}'::regclass"),
    "dropped, and made by the same definition": ("{drop}", "BEGIN; {make}; {enable}; COMMIT"),
    "with the table": ("{drop}; CREATE TABLE anew (LIKE whole INCLUDING ALL); INSERT INTO anew SELECT * FROM whole; DROP TABLE whole; ALTER TABLE anew RENAME TO whole", "BEGIN; {make}; {enable}; COMMIT"),
}  # fmt: skip

# Partitions are told by their own notes.
NOTED = ("t with the table", "t_1 with the table")


def _each(conn: Conn, table: str, statement: str) -> str:
    """Return what does this with each of our triggers on a table that can be dropped there."""
    found = conn.execute(
        "SELECT string_agg(format(%s, tgrelid::regclass, tgname, pg_get_triggerdef(oid)), '; ') FROM pg_trigger"
        " WHERE tgrelid = %s::regclass AND tgparentid = 0 AND tgfoid::regproc::text LIKE '%%write_kept%%'",
        [statement, table],
    ).fetchone()
    assert found is not None
    return str(found[0])


@pytest.mark.first_case
@pytest.mark.parametrize("way", ["column", "rows"])
@pytest.mark.parametrize(
    ("table", "switch"),
    [(table, switch) for table in ("t", "t_1", "whole") for switch in SWITCHED if f"{table} {switch}" not in NOTED],
)
def test_rows_that_somebody_has_written_with_triggers_off_are_told(
    own: Conn, table: str, way: str, switch: str
) -> None:
    """Of a partition, too, and where they are on again as they were: nobody knows whose the captured values are."""
    captured = "whole" if table == "whole" else "t"
    if table == "whole":
        own.execute(
            "CREATE TABLE whole (id integer PRIMARY KEY, n integer, a integer); INSERT INTO whole SELECT * FROM t"
        )
    dropped = Way(own, f"ALTER TABLE {captured} DROP COLUMN a")
    if way == "column":
        dropped.there()
    else:
        with own.transaction():
            step = StepKey("r", "m", "up", 1)
            own.execute(capture_statement(own, f"UPDATE {captured} SET a = 0", step).encode())
    each = {
        "drop": _each(own, table, "DROP TRIGGER %2$I ON %1$s"), "make": _each(own, table, "%3$s"),
        "replica": _each(own, table, "ALTER TABLE %1$s ENABLE REPLICA TRIGGER %2$I"),
        "disable": _each(own, table, "ALTER TABLE %1$s DISABLE TRIGGER %2$I"),
        "enable": _each(own, table, "ALTER TABLE %1$s ENABLE ALWAYS TRIGGER %2$I"),
    }  # fmt: skip
    off, on = (one.format(table=table, **each) for one in SWITCHED[switch])
    own.execute(f"{off}; DELETE FROM {captured} WHERE id = 5; INSERT INTO {captured} (id, n) VALUES (5, -1)".encode())
    own.execute(on.encode())
    if way == "rows":
        (entry,) = list_entries(own)
        assert conflicts(own, entry).rows == 200
        return
    with pytest.raises(CannotCaptureError, match=r"switched triggers of pgrunbook off"):
        dropped.back()


# What somebody does with the columns of a table while triggers follow its rows by the column id, and puts right again.
RENAMED = {
    "a key that has another name meanwhile": ("ALTER TABLE {table} RENAME id TO other", "DELETE FROM {table} WHERE other = 5; INSERT INTO {table} (other, n) VALUES (5, -1)", "ALTER TABLE {table} RENAME other TO id"),
    "two columns that exchange their names meanwhile": ("{exchange}", "DELETE FROM {table} WHERE n = 5; UPDATE {table} SET n = 5 WHERE n = 7; INSERT INTO {table} (n, id) VALUES (7, -1)", "{exchange}"),
    "a table that has another name meanwhile": ("ALTER TABLE {table} RENAME TO other; CREATE TABLE {table} AS TABLE other", "TRUNCATE other; INSERT INTO other (id, n) VALUES (5, -1)", "DROP TABLE {table}; ALTER TABLE other RENAME TO {table}"),
    "a table that is in another schema meanwhile": ("CREATE SCHEMA other; ALTER TABLE {table} SET SCHEMA other", "DELETE FROM other.{table} WHERE id = 5; INSERT INTO other.{table} (id, n) VALUES (5, -1)", "ALTER TABLE other.{table} SET SCHEMA public"),
    "catalogs that are written anew": ("VACUUM FULL pg_trigger; VACUUM FULL pg_depend", "DELETE FROM {table} WHERE id = 5; INSERT INTO {table} (id, n) VALUES (5, -1)", "VACUUM FREEZE pg_trigger; VACUUM FREEZE pg_depend"),
    "triggers that are switched on again": ("{enable}", "DELETE FROM {table} WHERE id = 5; INSERT INTO {table} (id, n) VALUES (5, -1)", "ANALYZE {table}; ALTER TABLE {table} ALTER id SET STATISTICS 10, ALTER n SET DEFAULT 1; REINDEX TABLE {table}"),
}  # fmt: skip


@pytest.mark.first_case
@pytest.mark.parametrize("table", ["t", "whole"])
@pytest.mark.parametrize("case", RENAMED)
def test_rows_are_followed_by_the_columns_of_then_whatever_their_names_are(own: Conn, case: str, table: str) -> None:
    """And by these alone: each row gets what was captured of it, and another one with its key nothing."""
    if table == "whole":
        own.execute(
            "CREATE TABLE whole (id integer PRIMARY KEY, n integer, a integer); INSERT INTO whole SELECT * FROM t"
        )
    own.execute(f"UPDATE {table} SET n = 1000 - id".encode())
    way = Way(own, f"ALTER TABLE {table} DROP COLUMN a")
    way.there()
    exchange = (
        f"ALTER TABLE {table} RENAME id TO x; ALTER TABLE {table} RENAME n TO id; ALTER TABLE {table} RENAME x TO n"
    )
    enable = _each(own, table, "ALTER TABLE %1$s ENABLE ALWAYS TRIGGER %2$I")
    for part in RENAMED[case]:
        for statement in part.format(table=table, exchange=exchange, enable=enable).split("; "):
            own.execute(statement.encode())
    way.back()
    found = own.execute(f"SELECT id, n, a FROM {table}".encode()).fetchall()
    assert {(id_, n) for id_, n, a in found if a is None} == {(id_, n) for id_, n, _ in found if n == -1} != set()
    assert [(id_, n, a) for id_, n, a in found if n != -1 and a != (1000 - n) * 10] == []


# Ways to delete the rows 5 and 70, to write another one with the key 5, whose number is -1, and to give the row 7 the
# key 70.
PLAIN = "DELETE FROM {table} WHERE id IN (5, 70); INSERT INTO {table} (id, n) VALUES (5, -1); UPDATE {table} SET id = 70 WHERE id = 7"
THROUGH = "DELETE FROM v WHERE id IN (5, 70); INSERT INTO v VALUES (5, -1); UPDATE v SET id = 70 WHERE id = 7"
WRITTEN = {
    "on conflict": "DELETE FROM {table} WHERE id IN (5, 70); INSERT INTO {table} (id, n) VALUES (5, -1), (7, 0) ON CONFLICT (id) DO UPDATE SET id = 70",
    "merge": "MERGE INTO {table} USING (VALUES (5), (70)) AS s (id) ON {table}.id = s.id WHEN MATCHED THEN DELETE; MERGE INTO {table} USING (VALUES (7, 70, 0), (5, 5, -1)) AS s (id, goes, n) ON {table}.id = s.id WHEN MATCHED THEN UPDATE SET id = goes WHEN NOT MATCHED THEN INSERT (id, n) VALUES (s.id, s.n)",
    "copy": "DELETE FROM {table} WHERE id IN (5, 70); COPY {table} (id, n) FROM PROGRAM 'echo 5,-1' (FORMAT csv); UPDATE {table} SET id = 70 WHERE id = 7",
    "through a view": f"CREATE VIEW v AS SELECT id, n FROM {{table}}; {THROUGH}",
    "instead of": f"CREATE VIEW v AS SELECT id, n FROM {{table}} WHERE true OFFSET 0; CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN\nIF TG_OP = 'DELETE' THEN DELETE FROM {{table}} WHERE id = OLD.id;\nRETURN OLD;\nELSIF TG_OP = 'INSERT' THEN INSERT INTO {{table}} (id, n) VALUES (NEW.id, NEW.n);\nELSE UPDATE {{table}} SET id = NEW.id WHERE id = OLD.id;\nEND IF;\nRETURN NEW;\nEND $$; CREATE TRIGGER f INSTEAD OF INSERT OR UPDATE OR DELETE ON v FOR EACH ROW EXECUTE FUNCTION f(); {THROUGH}",
    "by a deferred trigger": "CREATE TABLE o (id integer); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN\nDELETE FROM {table} WHERE id = 5;\nINSERT INTO {table} (id, n) VALUES (5, -1);\nUPDATE {table} SET id = 70 WHERE id = 7;\nRETURN NULL;\nEND $$; CREATE CONSTRAINT TRIGGER f AFTER INSERT ON o INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION f(); BEGIN; INSERT INTO o VALUES (1); DELETE FROM {table} WHERE id = 70; COMMIT",
    "by a foreign key": "CREATE TABLE o (id integer PRIMARY KEY); INSERT INTO o SELECT id FROM {table}; ALTER TABLE {table} ADD FOREIGN KEY (id) REFERENCES o ON DELETE CASCADE ON UPDATE CASCADE; DELETE FROM o WHERE id IN (5, 70); INSERT INTO o VALUES (5); INSERT INTO {table} (id, n) VALUES (5, -1); UPDATE o SET id = 70 WHERE id = 7",
    "by rules": f"CREATE VIEW v AS SELECT id, n FROM {{table}}; CREATE RULE d AS ON DELETE TO v DO INSTEAD DELETE FROM {{table}} WHERE id = OLD.id; CREATE RULE u AS ON UPDATE TO v DO INSTEAD UPDATE {{table}} SET id = NEW.id WHERE id = OLD.id; {THROUGH}",
    "as a replica": f"SET session_replication_role = replica; {PLAIN}",
    "serializable": f"SET default_transaction_isolation = serializable; {PLAIN}",
    "repeatable read, in one transaction": f"SET default_transaction_isolation = 'repeatable read'; BEGIN; {PLAIN}; COMMIT",
    "with a planted path": f"CREATE SCHEMA planted; CREATE OPERATOR planted.= (FUNCTION = int4ne, LEFTARG = integer, RIGHTARG = integer); CREATE FUNCTION planted.concat(text, text) RETURNS text LANGUAGE sql RETURN 'planted'; SET search_path = planted, public, pg_catalog; {PLAIN.replace('WHERE id = 7', 'WHERE id BETWEEN 7 AND 7').replace('id IN (5, 70)', 'id BETWEEN 5 AND 5 OR id BETWEEN 70 AND 70')}",
    "with other settings": f"SET quote_all_identifiers = on; SET row_security = off; SET transform_null_equals = on; SET statement_timeout = '20s'; SET DateStyle = German; SET lc_messages = 'C'; {PLAIN}",
    "with a cursor": "BEGIN; DECLARE c CURSOR FOR SELECT FROM {table} WHERE id + 0 = 5 FOR UPDATE; FETCH c; DELETE FROM {table} WHERE CURRENT OF c; DELETE FROM {table} WHERE id = 70; INSERT INTO {table} (id, n) VALUES (5, -1); UPDATE {table} SET id = 70 WHERE id = 7; COMMIT",
    "by another role": f"CREATE ROLE writer_{{version}}; GRANT ALL ON {{table}} TO writer_{{version}}; SET ROLE writer_{{version}}; {PLAIN}; RESET ROLE; DROP OWNED BY writer_{{version}}; DROP ROLE writer_{{version}}",
    "around a savepoint": f"BEGIN; {PLAIN}; SAVEPOINT s; DELETE FROM {{table}}; ROLLBACK TO s; COMMIT",
}  # fmt: skip


@pytest.mark.first_case
@pytest.mark.parametrize("table", ["t", "whole"])
@pytest.mark.parametrize("case", WRITTEN)
def test_rows_are_followed_whatever_writes_them(own: Conn, server: Server, case: str, table: str) -> None:
    """Each row gets what was captured of it, under its new key; another one that has its key gets nothing."""
    if case == "merge" and server.version < 15:
        pytest.skip("PostgreSQL 14 does not know it")
    if table == "whole":
        own.execute(
            "CREATE TABLE whole (id integer PRIMARY KEY, n integer, a integer); INSERT INTO whole SELECT * FROM t"
        )
    own.execute(f"ALTER TABLE {table} ADD u integer; UPDATE {table} SET u = a".encode())
    way = Way(own, f"ALTER TABLE {table} DROP COLUMN a")
    way.there()
    with own.transaction():
        own.execute(capture_statement(own, f"UPDATE {table} SET u = 0", StepKey("r", "m", "up", 1)).encode())
    with server.connect("own_followers") as client:
        for statement in WRITTEN[case].format(table=table, version=server.version).split("; "):
            client.execute(statement.encode())
    way.back()
    give_back_migration(own, "m", "up", on_conflict="keep")
    found = own.execute(f"SELECT id, n, a, u FROM {table}".encode()).fetchall()
    assert {row for row in found if row[1] in (-1, 5, 7, 70)} == {(5, -1, None, None), (70, 7, 70, 70)}
    assert [row for row in found if row[1] != -1 and not row[2] == row[3] == row[1] * 10] == []


@pytest.mark.slow
@pytest.mark.newest
@pytest.mark.parametrize("emptied", ["SELECT", "TRUNCATE t_1"])
def test_rows_are_followed_in_a_copy_from_a_dump(own: Conn, server: Server, emptied: str) -> None:
    """Its tables, partitions, columns and triggers have other numbers: what somebody writes there is seen all the same."""
    own.execute("ALTER TABLE t DROP COLUMN n, ADD n integer; UPDATE t SET n = id")
    way = Way(own, "ALTER TABLE t DROP COLUMN a")
    way.there()
    who = ["-h", server.socket_dir, "-U", "postgres"]
    dumped = subprocess.run(
        [server.client("pg_dump"), *who, "own_followers"], stdout=subprocess.PIPE, check=True, text=True
    ).stdout.replace("SET transaction_timeout = 0;\n", "")  # of a newer pg_dump
    server.make("own_copy")
    load = [server.client("psql"), *who, "-Xq", "-v", "ON_ERROR_STOP=1", "-d", "own_copy"]
    subprocess.run(load, input=dumped, stdout=subprocess.DEVNULL, check=True, text=True)
    with server.connect("own_copy") as copy:
        copy.execute(f"{emptied}; DELETE FROM t WHERE id = 5; INSERT INTO t (id, n) VALUES (5, -1)".encode())
        copy.execute("UPDATE t SET id = 150000 WHERE id = 150")
        way.back(copy)
        found = copy.execute("SELECT n, a FROM t").fetchall()
    server.administer("DROP DATABASE own_copy")
    wanted = {n: n * 10 for n in range(1, 201) if n != 5} | {-1: None} if emptied == "SELECT" else {-1: None}
    assert {n: a for n, a in found if n in wanted} == wanted
    assert [(n, a) for n, a in found if a not in (None, n * 10)] == []


@pytest.mark.first_case
@pytest.mark.parametrize("is_written", [False, True])
def test_a_key_that_a_later_release_drops_is_that_of_then_behind_its_return(own: Conn, *, is_written: bool) -> None:
    """It has another number then; where somebody has written meanwhile, nobody knows the rows, and it is told."""
    own.execute("CREATE TABLE two (id integer UNIQUE NOT NULL, k integer PRIMARY KEY, n integer, a integer)")
    own.execute("INSERT INTO two SELECT 1000 - id, id, n, a FROM t")
    first = Way(own, "ALTER TABLE two DROP COLUMN a")
    first.there()
    second = Way(own, "ALTER TABLE two DROP COLUMN k", site=Site("0002_x", "b" * 64, "up", 1))
    second.there()
    if is_written:
        own.execute("UPDATE two SET n = n")
    second.back()
    own.execute("UPDATE two SET k = 500 WHERE n = 1; INSERT INTO two (id, k, n) VALUES (1, 1, -1)")
    first.back()
    found = own.execute("SELECT n, a FROM two").fetchall()
    assert {a for n, a in found if n < 0} == {None}
    assert {a for n, a in found if n > 0 and a != n * 10} == ({None} if is_written else set())
    assert [left for _, left in gone_to_nobody(own, ["0001_x"], "up")] == ([200] if is_written else [])


@pytest.mark.first_case
@pytest.mark.newest
@pytest.mark.parametrize("way", ["column", "rows"])
def test_another_column_that_takes_the_name_of_the_key_is_not_that_of_then(own: Conn, way: str) -> None:
    """Nobody knows which row has a key of then: it is told, and nothing comes back to others."""
    own.execute("CREATE TABLE whole (id integer PRIMARY KEY, n integer, a integer); INSERT INTO whole SELECT * FROM t")
    dropped = Way(own, "ALTER TABLE whole DROP COLUMN a")
    if way == "column":
        dropped.there()
    else:
        with own.transaction():
            own.execute(capture_statement(own, "UPDATE whole SET a = 0", StepKey("r", "m", "up", 1)).encode())
    own.execute("ALTER TABLE whole DROP COLUMN id; UPDATE whole SET n = 201 - n; ALTER TABLE whole RENAME n TO id")
    own.execute("ALTER TABLE whole ADD PRIMARY KEY (id), ADD n integer")
    if way == "rows":
        (entry,) = list_entries(own)
        assert conflicts(own, entry).rows == 200
        return
    with pytest.raises(CannotCaptureError, match=r"somebody has made the table or its key anew"):
        dropped.back()


@pytest.mark.newest
def test_rows_of_a_loop_behind_a_detached_partition_come_back(own: Conn) -> None:
    """Each batch has written its rows, and what it captured of them; what somebody wrote meanwhile stays."""
    own.execute("INSERT INTO t VALUES (1500, 1500, 15000), (1600, 1600, 16000)")
    loop = Batches("public", "t", "t", f"UPDATE t SET a = 0 WHERE {RANGE}", ("id",), ("integer",), rows=30)
    run_batches(own, capture_batches(own, loop, StepKey("r", "m", "up", 1)), resume_from="loop")
    own.execute(
        "ALTER TABLE t DETACH PARTITION t_2; UPDATE t_2 SET n = 5 WHERE id = 1600;"
        "ALTER TABLE t ATTACH PARTITION t_2 FOR VALUES FROM (1000) TO (2000)"
    )
    assert [one.line() for one in conflicts(own, list_entries(own)[0]).samples] == [
        "\"public\".\"t\" (id 1600) not to be told since m: before a '16000'; wrote a '0'; now not known"
    ]
    give_back_migration(own, "m", "up", on_conflict="keep")
    assert own.execute("SELECT id, a FROM t WHERE a <> n * 10").fetchall() == [(1600, 0)]
    assert own.execute("SELECT a FROM t WHERE id = 1500").fetchall() == [(15000,)]


@pytest.mark.slow
@pytest.mark.newest
def test_rollback_gives_every_value_to_rows_behind_a_partition_that_is_attached_again(
    project: Callable[..., Target],
) -> None:
    """Of several columns of a row, and what an UPDATE changed: also behind the first, it is known by what is noted."""
    drops = "ALTER TABLE t DROP COLUMN a, DROP COLUMN n"
    target = project(
        folder={"0001_a.sql": f"UPDATE t SET u = 0;\n{drops}", "0002_b.sql": "ALTER TABLE t DROP COLUMN v"}
    )
    do(target, f"{PARTITIONED}; INSERT INTO t VALUES (1500, 1500, 15000); ALTER TABLE t ADD u integer, ADD v integer")
    do(target, "UPDATE t SET u = id, v = id")
    execute(target, plan_of(target, rehearsed(target)), "20261122T165431Z-release-demo-7f3a")
    do(
        target,
        "ALTER TABLE t DETACH PARTITION t_2; ALTER TABLE t ATTACH PARTITION t_2 FOR VALUES FROM (1000) TO (2000)",
    )
    found = since(target)
    assert not found.unclaimed
    assert [one.found.rows for one in found.rows if one.found] == []
    plan, _ = prepared(target)
    execute(target, plan, ROLLBACK)
    assert "to nobody" not in journal_of(target).read_text()
    assert rows(target, "SELECT n, a, u, v FROM t WHERE id = 1500") == [(1500, 15000, 1500, 1500)]
    assert rows(target, "SELECT count(*) FROM t WHERE a = n * 10 AND u = id AND v = id") == [(201,)]


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.newest
@pytest.mark.parametrize(("before", "after", "given"), [
    ("", "", [(1500, 15000), (1600, 16000)]),
    ("ALTER TABLE t DETACH PARTITION t_2; CREATE TABLE t_3 (LIKE t_2); ALTER TABLE t_2 RENAME TO t_4; ALTER TABLE t_3 RENAME TO t_2; {attach}; UPDATE t SET id = 1700 WHERE id = 150", "", [(1700, 1500)]),
    ("{detach}; UPDATE t_2 SET id = id + 1 WHERE id = 1600; {attach}", "", [(1500, 15000), (1601, None)]),
    ("", "{detach}; UPDATE t_2 SET id = id + 1 WHERE id = 1600; {attach}", [(1500, 15000), (1601, None)]),
    ("", "{detach}; DELETE FROM t_2 WHERE id = 1600; INSERT INTO t_2 VALUES (1600, 1); {attach}", [(1500, 15000), (1600, None)]),
])  # fmt: skip
def test_a_partition_that_a_release_drops_gets_the_values_of_its_rows(
    project: Callable[..., Target], before: str, after: str, given: list[tuple[int, int | None]]
) -> None:
    """It is parked meanwhile, and written by nobody; where it was detached besides, before or after, as ever."""
    target = project(folder={"0001_a.sql": "ALTER TABLE t DROP COLUMN a"})
    do(target, f"{PARTITIONED}; INSERT INTO t VALUES (1500, 1500, 15000), (1600, 1600, 16000)")
    execute(target, plan_of(target, rehearsed(target)), "20261122T165431Z-release-demo-7f3a")
    words = {
        "detach": "ALTER TABLE t DETACH PARTITION t_2",
        "attach": "ALTER TABLE t ATTACH PARTITION t_2 FOR VALUES FROM (1000) TO (2000)",
    }
    if before:
        do(target, before.format(**words))
    (target.migrations / "0002_b.sql").write_text("DROP TABLE t_2")
    execute(target, plan_of(target, rehearsed(target)), "20261122T165431Z-release-demo-7f3b")
    execute(target, prepared(target, ["0002_b"])[0], ROLLBACK)
    if after:
        do(target, after.format(**words))
    execute(target, prepared(target, ["0001_a"])[0], f"{ROLLBACK}2")
    assert rows(target, "SELECT id, a FROM t WHERE id >= 1000 ORDER BY id") == given


@pytest.mark.slow
@pytest.mark.newest
def test_rollback_tells_which_captured_values_go_to_nobody(project: Callable[..., Target]) -> None:
    """Before, with their keys, and behind the step that reverts the others."""
    target = project(folder={"0001_a.sql": "ALTER TABLE t DROP COLUMN a"})
    do(target, f"{PARTITIONED}; INSERT INTO t VALUES (1500, 1500, 15000), (1501, 1501, 15010), (1502, 1502, NULL)")
    execute(target, plan_of(target, rehearsed(target)), "20261122T165431Z-release-demo-7f3a")
    do(
        target,
        "DELETE FROM t WHERE id = 150; ALTER TABLE t DETACH PARTITION t_2; UPDATE t_2 SET n = n WHERE id <> 1501;"
        "ALTER TABLE t ATTACH PARTITION t_2 FOR VALUES FROM (1000) TO (2000)",
    )
    (shown,) = since(target).table("stop").rows
    assert (shown[1], shown[3], shown[4].under) == ("public.t.a", "2 values", "id 1500: a 15000\nid 150: a 1500")
    plan, _ = prepared(target)
    execute(target, plan, ROLLBACK)
    assert "2 captured values of public.t.a go to nobody" in journal_of(target).read_text()
    assert "1 row deleted since, and 1 value of rows that nobody knows" in journal_of(target).read_text()
    assert rows(target, "SELECT a FROM t WHERE id >= 1000 ORDER BY id") == [(None,), (15010,), (None,)]


# What becomes of rows 801 and 1801, which a step has inserted; the rows that a revert then lists, by key, with what it
# says of them, and the ids that are there behind it, where it leaves these and where it overwrites them.
INSERTED = {
    "nothing": ("SELECT", {}, [], []),
    "changed": ("UPDATE t SET a = 1 WHERE id = 801", {"801": "changed"}, [801], []),
    "another key": ("UPDATE t SET id = 850 WHERE id = 801", {"850": "changed"}, [850], []),
    "another partition": ("UPDATE t SET id = 1850 WHERE id = 801", {"1850": "changed"}, [1850], []),
    "another key and back": ("UPDATE t SET id = 850 WHERE id = 801; UPDATE t SET id = 801 WHERE id = 850", {}, [], []),
    "keys exchanged": (
        "UPDATE t SET id = 850 WHERE id = 801; UPDATE t SET id = 801 WHERE id = 1801; UPDATE t SET id = 1801 WHERE id = 850",
        {"801": "changed", "1801": "changed"}, [801, 1801], [],
    ),
    "deleted": ("DELETE FROM t WHERE id = 801", {}, [], []),
    "truncated": ("TRUNCATE t", {}, [], []),
    "deleted and inserted": ("DELETE FROM t WHERE id = 801; INSERT INTO t VALUES (801, 801, 8010)", {"801": "not to be told"}, [801], [801]),
    "its key taken by another": ("DELETE FROM t WHERE id = 801; UPDATE t SET id = 801 WHERE id = 150", {"801": "not to be told"}, [801], [801]),
    "its key taken by one beside it": ("DELETE FROM t WHERE id = 801; UPDATE t SET id = 801 WHERE id = 1801", {"801": "changed"}, [801], []),
}  # fmt: skip


@pytest.mark.first_case
@pytest.mark.parametrize("table", ["parted", "plain"])
@pytest.mark.parametrize("case", INSERTED)
def test_inserted_rows_are_followed(own: Conn, case: str, table: str) -> None:
    """A row whose key somebody has changed is one that somebody has changed; one that is not ours stays."""
    if table == "plain":
        own.execute("ALTER TABLE t RENAME TO old; CREATE TABLE t (id integer PRIMARY KEY, n integer, a integer)")
        own.execute("INSERT INTO t SELECT * FROM old")
    goes, told, kept, restored = INSERTED[case]
    inserts = "INSERT INTO t VALUES (801, 801, 8010), (1801, 1801, 18010)"
    for number, (on_conflict, wanted) in enumerate({"keep": kept, "restore": restored}.items()):
        own.execute("BEGIN")
        own.execute(capture_statement(own, inserts, StepKey("r", f"m{number}", "up", 1)).encode())
        own.execute("COMMIT")
        for write in goes.split("; "):
            own.execute(write.encode())
        (entry,) = (one for one in list_entries(own) if one.state == "kept")
        assert {row.key["id"]: row.way for row in conflicts(own, entry).samples} == told
        given = give_back_migration(own, f"m{number}", "up", on_conflict=on_conflict)
        assert {row.key["id"]: row.way for row in given.left.samples if on_conflict == "keep"} == (
            told if number == 0 else {}
        )
        assert own.execute("SELECT id FROM t WHERE n IN (801, 1801) OR id = 801 ORDER BY id").fetchall() == [
            (id_,) for id_ in wanted
        ]
        own.execute(
            "DELETE FROM t WHERE n IN (801, 1801) OR id = 801; INSERT INTO t SELECT 150, 150, 1500 ON CONFLICT DO NOTHING"
        )
        assert own.execute("SELECT FROM pg_trigger WHERE tgname LIKE '%kept%'").rowcount == 0


# How rows with the captured values of a go, and the keys of those that go to nobody.
GOES = {
    "deleted": ("DELETE FROM t WHERE id IN (5, 150)", ["5", "150"]),
    "its key taken": ("DELETE FROM t WHERE id = 5; UPDATE t SET id = 5 WHERE id = 6", ["5"]),
    "its key used again": ("DELETE FROM t WHERE id = 5; INSERT INTO t (id) VALUES (5)", ["5"]),
    "deleted under another key": ("UPDATE t SET id = 5000 WHERE id = 5; DELETE FROM t WHERE n = 5", ["5000"]),
    "all": ("TRUNCATE t", [*map(str, range(1, 201))]),
    "all of a partition": ("TRUNCATE t_1", [*map(str, range(1, 100))]),
}


@pytest.mark.first_case
@pytest.mark.parametrize("case", GOES)
def test_values_of_rows_that_are_gone_are_counted_and_can_be_read(own: Conn, case: str) -> None:
    """Before and behind the revert; a row that had no value has lost none."""
    own.execute("UPDATE t SET a = NULL WHERE id = 7; DELETE FROM t WHERE id = 7; INSERT INTO t VALUES (7, 7, NULL)")
    goes, keys = GOES[case]
    way = Way(own, "ALTER TABLE t DROP COLUMN a")
    way.there()
    own.execute(goes.encode())
    (entry,) = list_entries(own)
    wanted = [key for key in keys if key != "7"]
    values = unclaimed(own, entry)
    assert (values.values, values.deleted, len(values.samples)) == (len(wanted), len(wanted), min(len(wanted), 20))
    assert {line.partition(":")[0] for line in values.samples} <= {f"id {key}" for key in wanted}
    way.back()
    assert [(one.id, left) for one, left in gone_to_nobody(own, ["0001_x"], "up")] == [(entry.id, len(wanted))]
    assert "deleted since" in values.says


@pytest.mark.newest
def test_values_of_rows_that_a_later_step_has_deleted_go_to_nobody_unless_it_is_taken_back_before(own: Conn) -> None:
    """What that step captured brings the row back, and then its value finds it."""
    way = Way(own, "ALTER TABLE t DROP COLUMN a")
    way.there()
    with own.transaction():
        own.execute(capture_statement(own, "DELETE FROM t WHERE id = 5", StepKey("r", "0002_y", "up", 1)).encode())
    (entry,) = (one for one in list_entries(own) if one.kind == "column")
    assert [unclaimed(own, entry, taken_back=names).values for names in ([], ["0002"], ["0002_y"])] == [1, 1, 0]
    give_back_migration(own, "0002_y", "up")
    way.back()
    assert own.execute("SELECT a FROM t WHERE id = 5").fetchall() == [(50,)]
    assert gone_to_nobody(own, ["0001_x"], "up") == []


@pytest.mark.slow
@pytest.mark.newest
def test_values_follow_rows_whose_key_a_plain_block_has_changed(project: Callable[..., Target]) -> None:
    """It is captured as its statement, so each value finds its row again."""
    column = "ALTER TABLE k ALTER COLUMN a TYPE varchar(1) USING left(a, 1)"
    target = project(folder={"0001_a.sql": column, "0002_b.sql": "DO $$ BEGIN UPDATE k SET id = id + 10; END $$"})
    do(target, "CREATE TABLE k (id integer PRIMARY KEY, a text); INSERT INTO k VALUES (1, 'a1'), (2, 'a2')")
    execute(target, plan_of(target, rehearsed(target)), "20261122T165431Z-release-demo-7f3a")
    execute(target, prepared(target)[0], ROLLBACK)
    assert rows(target, "SELECT id, a FROM k ORDER BY id") == [(1, "a1"), (2, "a2")]


@pytest.mark.slow
@pytest.mark.newest
def test_rollback_tells_the_values_of_rows_whose_key_a_block_has_changed(project: Callable[..., Target]) -> None:
    """Its table is captured as a whole, so nobody knows which row has come to which key."""
    column = "ALTER TABLE k ALTER COLUMN a TYPE varchar(1) USING left(a, 1)"
    block = "DO $$ BEGIN PERFORM FROM k; UPDATE k SET id = id + 10; END $$"
    target = project(folder={"0001_a.sql": column, "0002_b.sql": block})
    do(target, "CREATE TABLE k (id integer PRIMARY KEY, a text); INSERT INTO k VALUES (1, 'a1'), (2, 'a2')")
    execute(target, plan_of(target, rehearsed(target)), "20261122T165431Z-release-demo-7f3a")
    execute(target, prepared(target)[0], ROLLBACK)
    assert "2 captured values of public.k.a go to nobody" in journal_of(target).read_text()
    assert rows(target, "SELECT id FROM k ORDER BY id") == [(1,), (2,)]


@pytest.mark.slow
@pytest.mark.newest
@pytest.mark.parametrize("ends", ["COMMIT", pytest.param("ROLLBACK", marks=pytest.mark.slow)])
def test_a_revert_goes_on_behind_a_prepared_transaction(servers: Servers, server: Server, ends: str) -> None:
    """Which moves and deletes rows: the revert fails until they are free, then each row gets what is its own."""
    other = servers.get(server.version, max_prepared_transactions="2")
    with database(other, "own_prepared", PARTITIONED) as own:
        with own.transaction():
            own.execute(capture_statement(own, "UPDATE t SET a = 0", StepKey("r", "m", "up", 1)).encode())
        own.execute(
            "BEGIN; UPDATE t SET id = 5000 WHERE id = 150; UPDATE t SET id = 1500 WHERE id = 151;"
            "DELETE FROM t WHERE id = 160; UPDATE t SET id = 160 WHERE id = 10; PREPARE TRANSACTION 'shop'"
        )
        with pytest.raises(psycopg.errors.LockNotAvailable):
            give_back_migration(own, "m", "up", on_conflict="keep")
        own.execute(f"{ends} PREPARED 'shop'".encode())
        give_back_migration(own, "m", "up", on_conflict="keep")
        found = dict(own.execute("SELECT n, a FROM t").fetchall())
    assert found == {n: n * 10 for n in range(1, 201) if (n, ends) != (160, "COMMIT")}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_every_step_there_back_and_there_each_row_has_what_is_its_own(project: Callable[..., Target]) -> None:
    """Between side table, triggers, labels of deleted rows, and what comes back: the next run ends as one would."""
    up = "UPDATE t SET a = 0 WHERE id % 2 = 0;\nDELETE FROM t WHERE id = 3;\nALTER TABLE t DROP COLUMN b;\nALTER TABLE t ADD COLUMN m integer"
    target = project(folder={"0001_a.sql": up}).model_copy(update={"batch_rows": 30})
    do(target, f"{PARTITIONED.replace('a integer)', 'a integer, b text)')}; UPDATE t SET b = 'b' || id")
    _killed(target, plan_of(target, rehearsed(target)))
    do(
        target,
        "DELETE FROM t WHERE id = 6; INSERT INTO t VALUES (6, 6, 66); UPDATE t SET m = n; UPDATE t SET id = 1000 + id WHERE id IN (4, 5)",
    )
    plan, _ = prepared(target)
    _killed(target, plan)
    with connect(target, purpose="looks") as conn:
        found = {n: (id_, a, b) for id_, n, a, b in conn.execute("SELECT id, n, a, b FROM t").fetchall()}
    wanted = {n: (n, n * 10, f"b{n}") for n in range(1, 201)}
    assert found == {**wanted, 4: (1004, 40, "b4"), 5: (1005, 50, "b5"), 6: (6, 66, None)}
    _killed(target, plan_of(target, rehearsed(target)))
    with connect(target, purpose="looks") as conn:
        last = dict(conn.execute("SELECT id, m FROM t").fetchall())
    assert last == {n: n for n in range(1, 201) if n not in (3, 4, 5)} | {1004: 4, 1005: 5}


def _killed(target: Target, plan: Plan) -> None:
    for step in plan.changes[0].steps:
        for moment in ("begins", "ran"):
            with beside(target, plan, killed_when=f"{moment} {step.number}") as process:
                assert process.wait() == -9, step
            until(gone(target))
    scenes.execute(target, plan)


KEYED = {
    "one": "id integer PRIMARY KEY",
    "deferrable": "id integer PRIMARY KEY DEFERRABLE",
    "of a type of the application": "id word PRIMARY KEY",
}
SCANS = "SELECT sum(seq_scan)::integer, count(*) FROM pg_stat_xact_user_tables WHERE schemaname = 'pgrunbook' AND relname ~ '^kept_'"


@pytest.mark.first_case
@pytest.mark.parametrize("key", [*KEYED, "partitioned"])
@pytest.mark.parametrize("captured", sample(["column", "rows"], 3))
def test_no_row_that_is_written_has_all_that_was_captured_read(
    own: Conn, server: Server, key: str, captured: str
) -> None:
    """Whatever happens to it: its key finds what was captured of it by an index."""
    table, value = ("t", "id") if key == "partitioned" else ("plain", "id::text::word" if "type" in key else "id")
    if table == "plain":
        own.execute(f"CREATE DOMAIN word AS text; CREATE TABLE plain ({KEYED[key]}, n integer, a integer)".encode())
    own.execute(f"INSERT INTO {table} SELECT {value} FROM generate_series(2001, 6000) AS id".encode())
    if captured == "column":
        Way(own, f"ALTER TABLE {table} DROP COLUMN a").there()
    else:
        with own.transaction():
            own.execute(capture_statement(own, f"UPDATE {table} SET a = 1", StepKey("r", "m", "up", 1)).encode())
    chosen = "id IN ('3000', '3001', '3002')" if "type" in key else "id IN (3000, 3001, 3002)"
    moved = "id || 'x'" if "type" in key else "id + 10000"
    inserted = f"INSERT INTO {table} SELECT {value} FROM generate_series(3000, 3002) AS id"
    with server.connect("own_followers") as client, client.transaction():
        client.execute(
            f"UPDATE {table} SET n = 1 WHERE {chosen}; UPDATE {table} SET id = {moved} WHERE {chosen}".encode()
        )
        client.execute(f"DELETE FROM {table} WHERE n = 1; {inserted}".encode())
        assert client.execute(SCANS).fetchall() == [(0, 1)]
