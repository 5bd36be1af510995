"""The values of a column survive its DROP, and a change of type, also while others write."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest

from budget import sample
from pgrunbook import undo_data
from pgrunbook.database import checksums, schema
from pgrunbook.database.schema_diff import diff
from pgrunbook.errors import Refused
from pgrunbook.inverse.inverter import Inverter
from pgrunbook.online.batches import BatchProgress, run_batches
from pgrunbook.sql.secrets import spans
from pgrunbook.undo_data import (
    CannotCaptureError,
    Site,
    StepKey,
    capture_statement,
    gone_to_nobody,
    list_entries,
    unclaimed,
)
from pgrunbook.undo_data.size_estimate import estimate_of
from servers import Server
from undo_data_stage import Conn, Way, database, do, give_back_migration, statement, texts, value

# ruff: noqa: E501 - one statement on a line, whatever its length


BASE = """
CREATE SCHEMA app;
CREATE TYPE app.mood AS ENUM ('sad', 'ok');
CREATE TYPE app.pair AS (x integer, at timestamptz);
CREATE DOMAIN app.positive AS integer CHECK (VALUE > 0);
CREATE TABLE app."T x" ("K 1" text, k2 app.positive, m app.mood DEFAULT 'ok', moods app.mood[], pair app.pair, n numeric(10, 3) DEFAULT 1.5, f float8, j jsonb, js json, p point, ts timestamptz[], ch char(5) DEFAULT 'a', bits bit(3), iv interval, by bytea, "select" varchar(7) NOT NULL DEFAULT 'x', PRIMARY KEY ("K 1", k2));
INSERT INTO app."T x" SELECT 'k' || i % 7, i, 'sad', '{ok,NULL,sad}', ROW(i, '2026-01-01'::timestamptz)::app.pair, 1.500 + i, i / 3.0, '{"a": [1, "x"]}', '{"b":  1}', point(i, 1), ARRAY['2026-05-05'::timestamptz], 'ab', '101', '1 day 24 hours', '\\x00ff', 'v' || i FROM generate_series(1, 60) AS i;
UPDATE app."T x" SET m = NULL, moods = NULL, pair = NULL, n = NULL, f = 'NaN', j = NULL, p = NULL, ch = NULL, iv = NULL WHERE k2 % 5 = 0;
CREATE TABLE t (id integer PRIMARY KEY, a integer, b text);
INSERT INTO t SELECT i, i * 10, 'b' || i FROM generate_series(1, 200) AS i;
CREATE TABLE ident (a text PRIMARY KEY, num bigint GENERATED ALWAYS AS IDENTITY, half bigint GENERATED ALWAYS AS (length(a)) STORED);
INSERT INTO ident (a) SELECT 'a' || i FROM generate_series(1, 30) AS i;
CREATE TABLE p (id integer, at date, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE p_2 (v text, at date NOT NULL, id integer NOT NULL);
ALTER TABLE p ATTACH PARTITION p_2 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO p SELECT i, '2025-10-01'::date + i * 3, 'v' || i FROM generate_series(1, 60) AS i;
CREATE TABLE keyless (a integer, b integer);
CREATE TABLE parent (id integer PRIMARY KEY, a integer);
CREATE TABLE child () INHERITS (parent);
CREATE TABLE by_time (at app.pair PRIMARY KEY, v integer);
"""


@pytest.fixture(scope="module")
def made(server: Server) -> Iterator[Conn]:
    """A database with the tables."""
    with database(server, "keeping_columns", BASE) as conn:
        yield conn


@pytest.fixture
def conn(made: Conn) -> Iterator[Conn]:
    """A connection to the tables as new: all that is done is rolled back."""
    with made.transaction(force_rollback=True):
        yield made


@pytest.fixture
def own(server: Server) -> Iterator[Conn]:
    """A connection to a database of its own, which other sessions can use."""
    with database(server, "own_keeping_columns", BASE) as conn:
        yield conn


DROPS = [
    "ALTER TABLE t DROP COLUMN a",
    "ALTER TABLE t DROP COLUMN a, DROP COLUMN b",
    'ALTER TABLE app."T x" ' + ", ".join(f"DROP COLUMN {name}" for name in ("m", "moods", "pair", "n", "f", "j", "js", "p", "ts", "ch", "bits", "iv", "by", '"select"')),
    "ALTER TABLE ident DROP COLUMN num",
    "ALTER TABLE p DROP COLUMN v",
    "ALTER TABLE t ALTER COLUMN b TYPE varchar(2) USING left(b, 2)",
    "ALTER TABLE t ALTER COLUMN b TYPE integer USING length(b), ALTER COLUMN a TYPE smallint USING a / 7",
    "ALTER TABLE p ALTER COLUMN v TYPE integer USING 1",
    'ALTER TABLE app."T x" ALTER COLUMN n TYPE integer, ALTER COLUMN ts TYPE text[] USING \'{}\', DROP COLUMN pair',
    "DROP TYPE app.mood CASCADE",
    "DROP TYPE app.pair CASCADE",
    "ALTER TABLE t DROP COLUMN id, ALTER COLUMN b SET NOT NULL, ADD PRIMARY KEY (b)",
    "ALTER TABLE p DROP CONSTRAINT p_pkey, DROP COLUMN id, ADD CONSTRAINT p_pkey PRIMARY KEY (at)",
    'ALTER TABLE app."T x" DROP CONSTRAINT "T x_pkey", DROP COLUMN "K 1", ADD PRIMARY KEY ("select", k2)',
]  # fmt: skip


@pytest.mark.first_case
@pytest.mark.parametrize("sql", sample(DROPS, 6))
@pytest.mark.parametrize("batch_rows", [7, pytest.param(1_000, marks=pytest.mark.slow)])
def test_values_come_back_exactly(conn: Conn, sql: str, batch_rows: int) -> None:
    """Small tables and large ones, keys and types of every kind: rows and schema are what they were."""
    if sql == "DROP TYPE app.pair CASCADE":
        conn.execute("DROP TABLE by_time")  # its only key goes with it
    before, rows = schema.snapshot(conn), checksums.checksums(conn)
    with conn.transaction(force_rollback=True):
        conn.execute(sql.encode())
        plain = schema.snapshot(conn)
    way = Way(conn, sql, batch_rows)
    assert way.because == ""
    loops = len(way.keeps) if batch_rows == 7 and "PRIMARY KEY" not in sql else 0  # a new key: all at once
    assert [step.batches is not None for step in way.expansion.steps].count(True) == loops
    way.there()
    assert schema.snapshot(conn) == plain
    assert {kept.state for kept in undo_data.list_entries(conn)} == {"kept"}
    way.back()
    assert checksums.checksums(conn) == rows
    assert [d.line() for d in diff(before, schema.snapshot(conn)) if d.change != "moved"] == []
    assert {kept.state for kept in undo_data.list_entries(conn)} == {"given back"}


WRITES = [
    "UPDATE t SET a = a + 1 WHERE id % 3 = 0",
    "UPDATE t SET id = id - 1",
    "UPDATE t SET id = 1000 - id",
    "UPDATE t SET b = b || '.'",
    "DELETE FROM t WHERE id % 7 = 0",
    "INSERT INTO t SELECT i, -i FROM generate_series(1, 300) AS i ON CONFLICT (id) DO UPDATE SET a = 5",
    "DELETE FROM t WHERE id = 5; INSERT INTO t VALUES (5, 55)",
    "SET session_replication_role = replica; UPDATE t SET a = -1 WHERE id < 20; RESET session_replication_role",
    "TRUNCATE t; INSERT INTO t VALUES (3, 33)",
]


def beside(conn: Conn, table: str, key: str, column: str, kept_as: str) -> int:
    """Return how many rows of a table and of its side table do not go together."""
    on = " AND ".join(f"k.pgrunbook_key_{n} = t.{name}" for n, name in enumerate(key.split(), 1))
    first = key.split()[0]
    return int(value(conn, f"SELECT count(*) FROM {table} AS t FULL JOIN (SELECT * FROM pgrunbook.{kept_as} WHERE pgrunbook_gone IS NULL) AS k ON {on}"
                           f" WHERE t.{first} IS NULL OR k.pgrunbook_key_1 IS NULL"
                           f" OR t.{column} IS DISTINCT FROM k.pgrunbook_value"))  # fmt: skip


@pytest.mark.first_case
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("when", [1, 2])
def test_what_is_written_while_it_is_copied_is_kept(conn: Conn, write: str, when: int) -> None:
    """Before the rows are copied, and after: each row has its last value, and rows that are gone have none."""
    way = Way(conn, "ALTER TABLE t DROP COLUMN a", 7)

    def written(number: int) -> None:
        if number == when:
            conn.execute(write.encode())
        if number == 2:
            assert beside(conn, "t", "id", "a", way.keep.kept_as) == 0

    way.there(between=written)
    assert not value(conn, "SELECT count(*) FROM pg_trigger WHERE tgname ~ 'pgrunbook' AND tgtype & 4 <> 0")


def test_keys_that_rows_take_over_from_each_other_are_kept(conn: Conn) -> None:
    """A key that is checked at the end only: each row takes the one of the next, which is updated after it."""
    conn.execute("CREATE TABLE turns (id integer PRIMARY KEY DEFERRABLE, a integer)")
    conn.execute("INSERT INTO turns SELECT i, i * 10 FROM generate_series(1, 30) AS i")
    way = Way(conn, "ALTER TABLE turns DROP COLUMN a", 7)

    def written(number: int) -> None:
        if number <= 2:
            conn.execute("UPDATE turns SET id = id + 1")
        if number == 2:
            assert beside(conn, "turns", "id", "a", way.keep.kept_as) == 0

    way.there(between=written)


def test_rows_of_partitions_that_move_are_kept(conn: Conn) -> None:
    """The trigger fires in each partition, also for sessions that apply what is replicated."""
    way = Way(conn, "ALTER TABLE p DROP COLUMN v", 7)

    def written(number: int) -> None:
        if number == 1:
            conn.execute("UPDATE p SET at = at + 100, v = v || '!' WHERE at < '2025-12-31'")
            conn.execute("SET session_replication_role = replica; UPDATE p SET v = 'r' WHERE id < 9")
            conn.execute("RESET session_replication_role; INSERT INTO p_2 VALUES ('new', '2026-11-11', 1)")
        if number == 2:
            assert beside(conn, "p", "id at", "v", way.keep.kept_as) == 0

    way.there(between=written)


@pytest.mark.slow
def test_writers_at_work_lose_nothing(own: Conn, server: Server) -> None:
    """A session that inserts, updates, moves and deletes all the time, while the loop copies row by row."""
    role = f"writer_{server.version}"
    if not value(own, f"SELECT count(*) FROM pg_roles WHERE rolname = '{role}'"):
        own.execute(f"CREATE ROLE {role}")
    own.execute(f"GRANT ALL ON t TO {role}; GRANT USAGE ON SCHEMA public TO {role}")
    way = Way(own, "ALTER TABLE t DROP COLUMN a", 1)
    written, is_over = [0], threading.Event()

    def write() -> None:
        with server.connect("own_keeping_columns") as other:
            other.execute(f"SET ROLE {role}")
            while not is_over.is_set() or not written[0]:
                number = written[0] = written[0] + 1
                place = number * 37 % 250
                other.execute(f"INSERT INTO t VALUES ({place}, {number}) ON CONFLICT (id) DO UPDATE SET a = {number}")
                other.execute(f"UPDATE t SET a = a + 1 WHERE id = {(place + 11) % 250}")
                if number % 5 == 0:
                    other.execute(f"DELETE FROM t WHERE id = {(place + 7) % 250}")

    thread = threading.Thread(target=write)

    def between(number: int) -> None:
        if number == 1:
            thread.start()
        if number == 2:
            is_over.set()
            thread.join()
            assert written[0] > 3
            missing = value(
                own,
                f"SELECT count(*) FROM t LEFT JOIN pgrunbook.{way.keep.kept_as} AS k ON k.pgrunbook_key_1 = t.id AND k.pgrunbook_gone IS NULL WHERE k.pgrunbook_value IS DISTINCT FROM t.a",
            )
            assert missing == 0

    try:
        way.there(between=between)
    finally:
        is_over.set()


@pytest.mark.newest
@pytest.mark.parametrize("stop", [1, 2])
def test_cut_off_between_steps_it_is_gone_on_with(own: Conn, server: Server, stop: int) -> None:
    """Another session does the rest; what was written meanwhile is kept."""
    way = Way(own, "ALTER TABLE t DROP COLUMN a", 7)
    rows = texts(own, "t")
    with pytest.raises(ZeroDivisionError):
        way.there(between=lambda number: 1 / (number - stop))  # type: ignore[arg-type]
    own.execute("UPDATE t SET a = 0 WHERE id = 3; UPDATE t SET a = 30 WHERE id = 3")
    with server.connect("own_keeping_columns") as other:
        for number, step in enumerate(way.expansion.steps[stop:], stop + 1):
            do(other, step, way.site, number)
        way.back(other)
    assert sorted(f"({i},{a},{b})" for i, a, b in own.execute("SELECT id, a, b FROM t")) == rows


@pytest.mark.parametrize("when", [1, 2])
def test_a_trigger_that_was_off_while_it_is_copied_is_told(conn: Conn, when: int) -> None:
    """And on again as before: nobody knows what was written meanwhile, and the column is not dropped."""
    way = Way(conn, "ALTER TABLE t DROP COLUMN a", 7)
    name = f'" pgrunbook_{way.keep.kept_as}_copy"'

    def written(number: int) -> None:
        if number == when:
            conn.execute(f"ALTER TABLE t DISABLE TRIGGER {name}; UPDATE t SET a = -1 WHERE id = 3".encode())
            conn.execute(f"ALTER TABLE t ENABLE ALWAYS TRIGGER {name}".encode())

    with pytest.raises(psycopg.Error, match=f"somebody has switched trigger {name} off while public.t.a was copied"):
        way.there(between=written)
    assert value(conn, "SELECT a FROM t WHERE id = 3") == -1


def test_a_statement_that_is_refused_leaves_nothing_of_ours(conn: Conn) -> None:
    """The queries of the expansion give the statements that take trigger, function, side table and note away."""
    way = Way(conn, "ALTER TABLE t DROP COLUMN a", 7)
    before = schema.snapshot(conn)
    with pytest.raises(ZeroDivisionError):
        way.there(between=lambda number: 1 / (number - 2))  # type: ignore[arg-type]
    assert value(conn, "SELECT count(*) FROM pg_trigger WHERE tgname ~ 'pgrunbook'") == 2
    for query in way.expansion.cleanup:
        for (told,) in conn.execute(query.encode()).fetchall():
            conn.execute(told.encode())
    assert diff(before, schema.snapshot(conn)) == []
    assert not value(conn, "SELECT count(*) FROM pg_trigger WHERE tgname ~ 'pgrunbook'")
    assert undo_data.list_entries(conn) == []
    assert not value(
        conn,
        "SELECT count(*) FROM pg_class WHERE relname ~ '^kept_[0-9a-f]{16}' AND relnamespace = 'pgrunbook'::regnamespace",
    )
    assert not value(conn, "SELECT count(*) FROM pg_proc WHERE pronamespace = 'pgrunbook'::regnamespace")
    assert [told for query in way.expansion.cleanup for told in conn.execute(query.encode())] == []
    way.there()


CANNOT = {
    "ALTER TABLE keyless DROP COLUMN a": "keyless has no unique key",
    "ALTER TABLE t DROP COLUMN id": "t has no unique key without this column",
    "ALTER TABLE t DROP COLUMN a, DROP COLUMN id": "t has no unique key",
    "ALTER TABLE parent DROP COLUMN a": "child has no unique key without this column",
    "ALTER TABLE by_time DROP COLUMN v": "by_time has the key at, whose text depends on settings",
}


@pytest.mark.parametrize("sql", CANNOT)
def test_what_cannot_be_kept_says_why(conn: Conn, sql: str) -> None:
    """A sentence; the expansion is the one that was given."""
    way = Way(conn, sql)
    assert way.because.startswith("It cannot be undone, because ")
    assert way.because.endswith(".")
    assert CANNOT[sql] in way.because
    assert [step.sql for step in way.expansion.steps] == [sql]


@pytest.mark.parametrize("batch_rows", [7, 1_000])
def test_rows_that_a_policy_hides_are_not_passed_over(own: Conn, server: Server, batch_rows: int) -> None:
    """Planned by somebody who sees all rows, executed by the owner who does not: it is refused, not half done."""
    role = f"owner_{server.version}_{batch_rows}"
    own.execute(
        f"CREATE ROLE {role}; GRANT ALL ON DATABASE own_keeping_columns TO {role}; ALTER TABLE t OWNER TO {role}"
    )
    own.execute("GRANT ALL ON SCHEMA public TO PUBLIC")
    own.execute(
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; CREATE POLICY few ON t USING (id < 5)"
    )
    way = Way(own, "ALTER TABLE t DROP COLUMN a", batch_rows)
    assert way.because == ""
    try:
        with server.connect("own_keeping_columns") as other:
            other.execute(f"SET ROLE {role}")
            assert "row level security" in Way(own, "ALTER TABLE t DROP COLUMN a", batch_rows, rows_conn=other).because
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row level security"):
                way.there(other)
        assert value(own, "SELECT sum(a) FROM t") == 201_000
    finally:
        own.execute(f"REASSIGN OWNED BY {role} TO postgres; DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize("batch_rows", [7, 1_000])
def test_old_values_come_back_only_where_the_new_ones_still_stand(conn: Conn, batch_rows: int) -> None:
    """A change of type that lost something: rows that somebody has written since keep what they have."""
    conn.execute("CREATE TABLE times (id integer PRIMARY KEY, at timestamptz)")
    conn.execute(
        "INSERT INTO times SELECT i, '2026-01-01 00:30:15.5+00'::timestamptz + i * '1 day'::interval FROM generate_series(1, 50) AS i"
    )
    way = Way(conn, "ALTER TABLE times ALTER COLUMN at TYPE timestamptz(0)", batch_rows)
    wanted = dict(conn.execute("SELECT id, at FROM times").fetchall())
    way.there()
    conn.execute("UPDATE times SET at = '2030-01-01' WHERE id = 3; INSERT INTO times VALUES (99, '2031-01-01')")
    conn.execute("UPDATE times SET at = at WHERE id = 4; UPDATE times SET id = 77 WHERE id = 5")
    conn.execute("SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German'")
    (entry,) = list_entries(conn)
    before = unclaimed(conn, entry, has_new_type=True)
    way.back()
    behind = unclaimed(conn, entry)
    assert before == behind
    assert (behind.values, behind.written, [line.partition(":")[0] for line in behind.samples]) == (1, 1, ["id 3"])
    assert [left for _, left in gone_to_nobody(conn, ["0001_x"], "up")] == [1]
    conn.execute("RESET TimeZone; RESET DateStyle")
    found = dict(conn.execute("SELECT id, at FROM times").fetchall())
    wanted[3] = value(conn, "SELECT '2030-01-01'::timestamptz")
    wanted[99] = value(conn, "SELECT '2031-01-01'::timestamptz")
    wanted[77] = wanted.pop(5)  # its value has followed it
    assert found == wanted


FOLLOWED = {
    "deleted, and its key used again": ("DELETE FROM t WHERE id = 5; INSERT INTO t (id) VALUES (5)", {5: None}),
    "moved": ("UPDATE t SET id = 1007 WHERE id = 7", {7: ..., 1007: 70}),
    "moved, and its key used again": ("UPDATE t SET id = 1007 WHERE id = 7; INSERT INTO t (id) VALUES (7)", {7: None, 1007: 70}),
    "swapped": ("UPDATE t SET id = 0 WHERE id = 8; UPDATE t SET id = 8 WHERE id = 9; UPDATE t SET id = 9 WHERE id = 0", {8: 90, 9: 80}),
    "moved in a row": ("UPDATE t SET id = id - 1 WHERE id IN (2, 1)", {0: 10, 1: 20, 2: ...}),
    "moved where one was": ("DELETE FROM t WHERE id = 6; UPDATE t SET id = 6 WHERE id = 7", {6: 70, 7: ...}),
    "moved and gone": ("UPDATE t SET id = 1007 WHERE id = 7; DELETE FROM t WHERE id = 1007; INSERT INTO t (id) VALUES (1007)", {7: ..., 1007: None}),
    "there again": ("UPDATE t SET id = 1007 WHERE id = 7; UPDATE t SET id = 7 WHERE id = 1007", {7: 70}),
    "merged": ("INSERT INTO t (id) VALUES (5) ON CONFLICT (id) DO UPDATE SET id = 1005", {5: ..., 1005: 50}),
    "all gone": ("TRUNCATE t; INSERT INTO t (id) VALUES (3)", {3: None, 4: ...}),
    "replicated": ("SET session_replication_role = replica; UPDATE t SET id = 1007 WHERE id = 7; DELETE FROM t WHERE id = 5; INSERT INTO t (id) VALUES (5); RESET session_replication_role", {5: None, 7: ..., 1007: 70}),
}  # fmt: skip


@pytest.mark.first_case
@pytest.mark.parametrize("write", sample(FOLLOWED, 4))
@pytest.mark.parametrize("batch_rows", [1_000, pytest.param(7, marks=pytest.mark.slow)])
@pytest.mark.parametrize("isolation", ["READ COMMITTED", pytest.param("REPEATABLE READ", marks=pytest.mark.slow)])
def test_captured_values_follow_their_rows(
    own: Conn, server: Server, write: str, batch_rows: int, isolation: str
) -> None:
    """A value goes where its row goes, and never to another row that gets its key; then no trigger is left."""
    way = Way(own, "ALTER TABLE t DROP COLUMN a", batch_rows)
    plain = schema.snapshot(own)
    way.there()
    assert [line for line in diff(plain, schema.snapshot(own)) if line.kind == "trigger"] == []
    writes, wanted = FOLLOWED[write]
    with server.connect("own_keeping_columns") as other:
        other.execute(f"BEGIN ISOLATION LEVEL {isolation}")
        other.execute(f"{writes}; COMMIT")
    way.back()
    found = dict(own.execute("SELECT id, a FROM t").fetchall())
    assert {key: found.get(key, ...) for key in wanted} == wanted
    if write != "all gone":
        assert [found[key] for key in (20, 30, 200)] == [200, 300, 2000]
    assert own.execute("SELECT tgname FROM pg_trigger WHERE tgname ~ 'pgrunbook'").fetchall() == []
    assert own.execute("SELECT proname FROM pg_proc WHERE pronamespace = 'pgrunbook'::regnamespace").fetchall() == []


@pytest.mark.newest
@pytest.mark.parametrize("batch_rows", [7, 1_000])
def test_rows_that_others_write_while_values_come_back_are_theirs(own: Conn, server: Server, batch_rows: int) -> None:
    """A row whose key changes gets its value, and what somebody writes into the column stays, NULL too."""
    way = Way(own, "ALTER TABLE t DROP COLUMN a", batch_rows)
    way.there()

    def write(sql: str) -> None:
        with server.connect("own_keeping_columns") as other:
            other.execute(sql.encode())

    def at_batch(now: BatchProgress) -> None:
        if now.batches == 1:
            write(
                "UPDATE t SET id = -5 WHERE id = 150; UPDATE t SET id = 1001 WHERE id = 1; UPDATE t SET id = 2 + 1000 WHERE id = 180"
            )
            write("DELETE FROM t WHERE id = 190; INSERT INTO t (id) VALUES (190)")
            write("UPDATE t SET a = 4711 WHERE id IN (120, 121); UPDATE t SET a = NULL WHERE id = 121")

    with own.transaction():
        own.execute("ALTER TABLE t ADD COLUMN a integer")
        steps = iter(undo_data.revert_column(own, way.keep, rows_conn=None, batch_rows=batch_rows))
        first = next(steps)
        own.execute(first.sql.encode())
    for step in steps:
        if step.batches is None:
            with own.transaction():
                own.execute(step.sql.encode())
        else:
            run_batches(own, step.batches, resume_from="back", on_batch=at_batch)
    found = dict(own.execute("SELECT id, a FROM t").fetchall())
    if batch_rows == 1_000:
        assert found == {n: n * 10 for n in range(1, 201)}
        return
    wanted = {n: n * 10 for n in range(1, 201) if n not in (1, 150, 180)}
    assert found == {**wanted, -5: 1500, 1001: 10, 1002: 1800, 190: None, 120: 4711, 121: None}


@pytest.mark.slow
@pytest.mark.newest
@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
def test_a_value_that_is_copied_behind_a_writer_is_read_again(own: Conn, server: Server, isolation: str) -> None:
    """A batch reads a row before its deletion is committed, or the deleting session does not see what was copied."""
    way = Way(own, "ALTER TABLE t DROP COLUMN a", 7)

    def between(number: int) -> None:
        if number == 1:
            other.execute(f"BEGIN ISOLATION LEVEL {isolation}; SELECT")
            other.execute("SELECT count(*) FROM ident")
            other.execute("DELETE FROM t WHERE id = 5")
        if number == 2:
            other.execute("UPDATE t SET a = 7 WHERE id = 6; UPDATE t SET id = 1007 WHERE id = 7; COMMIT")

    with server.connect("own_keeping_columns") as other:
        way.there(between=between)
        other.execute("INSERT INTO t (id) VALUES (5), (7)")
    way.back()
    found = dict(own.execute("SELECT id, a FROM t").fetchall())
    assert {n: found[n] for n in (4, 5, 6, 7, 8, 1007)} == {4: 40, 5: None, 6: 7, 7: None, 8: 80, 1007: 70}


def test_captured_values_follow_rows_to_another_partition(own: Conn) -> None:
    """Which is a deletion and an insertion: the key before and behind it are seen before."""
    way = Way(own, "ALTER TABLE p DROP COLUMN v")
    way.there()
    own.execute(
        "UPDATE p SET at = at + 365 WHERE id = 3; DELETE FROM p WHERE id = 4; UPDATE p SET id = 99 WHERE id = 5"
    )
    own.execute("INSERT INTO p (id, at) VALUES (4, '2025-10-13')")
    way.back()
    assert own.execute("SELECT id, v FROM p WHERE id IN (3, 4, 5, 99) ORDER BY id").fetchall() == [
        (3, "v3"), (4, None), (99, "v5"),
    ]  # fmt: skip


SHIFTS = {
    "k + 1": "UPDATE turns SET id = id + 1",
    "k + 1, twice": "BEGIN; UPDATE turns SET id = id + 1; UPDATE turns SET id = id + 1; COMMIT",
    "k + 1, with one that was not captured": "INSERT INTO turns (id, n) VALUES (31, 31); BEGIN; INSERT INTO turns (id, n) VALUES (32, 32); UPDATE turns SET id = id + 1; COMMIT",
    "the other way round": "UPDATE turns SET id = 31 - id",
    "in between": "INSERT INTO turns (id, n) VALUES (0, 0); DELETE FROM turns WHERE id = 4; INSERT INTO turns (id, n) VALUES (4, 104); UPDATE turns SET id = id + 1; UPDATE turns SET id = id + 1",
}  # fmt: skip


@pytest.mark.first_case
@pytest.mark.newest
@pytest.mark.parametrize("shift", sample(SHIFTS, 3))
@pytest.mark.parametrize("partitions", ["", " PARTITION BY RANGE (id)"])
def test_values_follow_rows_that_take_each_others_keys(own: Conn, shift: str, partitions: str) -> None:
    """The key of each row is that of the next one, which is changed after it: no value is lost, or goes astray."""
    own.execute(f"CREATE TABLE turns (id integer PRIMARY KEY DEFERRABLE, n integer, a integer){partitions}".encode())
    if partitions:
        own.execute("CREATE TABLE turns_1 PARTITION OF turns FOR VALUES FROM (0) TO (9)")
        own.execute("CREATE TABLE turns_2 PARTITION OF turns DEFAULT")
    own.execute("INSERT INTO turns SELECT i, i, i * 10 FROM generate_series(1, 30) AS i")
    way = Way(own, "ALTER TABLE turns DROP COLUMN a", 1_000)
    way.there()
    own.execute(SHIFTS[shift].encode())
    way.back()
    found = dict(own.execute("SELECT n, a FROM turns").fetchall())
    assert found == {n: n * 10 if 0 < n <= 30 else None for n in found}


def test_values_of_a_partition_that_is_emptied_go(own: Conn) -> None:
    """Those of the other partitions stay."""
    way = Way(own, "ALTER TABLE p DROP COLUMN v")
    way.there()
    (emptied,) = own.execute("SELECT id, at FROM p_2 ORDER BY id LIMIT 1").fetchall()
    count = value(own, "SELECT count(*) FROM p_1")
    own.execute("TRUNCATE p_2")
    own.execute("INSERT INTO p (id, at) VALUES (%s, %s)", emptied)
    way.back()
    assert own.execute("SELECT v FROM p_2").fetchall() == [(None,)]
    assert value(own, "SELECT count(*) FROM p_1 WHERE v = 'v' || id") == count


def test_a_key_stays_free_to_change_while_values_follow_it(own: Conn) -> None:
    """Another type, another name, gone: nothing of ours depends on it, and writers go on."""
    way = Way(own, "ALTER TABLE t DROP COLUMN a")
    way.there()
    own.execute("ALTER TABLE t ALTER COLUMN id TYPE bigint; UPDATE t SET id = 10000000000 WHERE id = 7")
    own.execute("ALTER TABLE t RENAME COLUMN id TO number; UPDATE t SET number = 3 WHERE number = 3")
    own.execute(
        "DELETE FROM t WHERE number = 4; ALTER TABLE t DROP COLUMN number; DELETE FROM t WHERE b = 'b5'; TRUNCATE t"
    )


@pytest.mark.newest
def test_values_of_rows_that_a_migration_inserted_come_back_with_them(own: Conn) -> None:
    """Its rollback deletes them, and the next release inserts them again, as another step perhaps."""
    insert = "INSERT INTO t (id, a) VALUES (900, 9000), (901, 9010)"

    def inserted(run_id: str, step: int) -> None:
        with own.transaction():
            own.execute(capture_statement(own, insert, StepKey(run_id, "0001_x", "up", step)).encode())

    inserted("one", 1)
    own.execute("ALTER TABLE t ADD COLUMN z integer; UPDATE t SET z = id")
    way = Way(own, "ALTER TABLE t DROP COLUMN z", site=Site("0002_y", "a" * 64, "down", 1))
    way.there()
    give_back_migration(own, "0001_x", "up")
    assert value(own, "SELECT count(*) FROM t WHERE id > 899") == 0
    own.execute("INSERT INTO t (id) VALUES (901); DELETE FROM t WHERE id = 901; INSERT INTO t (id) VALUES (902)")
    inserted("two", 4)
    way.back()
    assert own.execute("SELECT id, z FROM t WHERE id > 899 OR id < 3 ORDER BY id").fetchall() == [
        (1, 1), (2, 2), (900, 900), (901, 901), (902, None),
    ]  # fmt: skip


@pytest.mark.newest
@pytest.mark.parametrize("batch_rows", [7, 1_000])
def test_nothing_that_we_write_looks_like_a_secret(own: Conn, batch_rows: int) -> None:
    """A plan masks what looks like one, and asks the folder for it: our own texts are not there."""
    way = Way(own, "ALTER TABLE t DROP COLUMN a", batch_rows)
    way.there()
    own.execute("ALTER TABLE t ADD COLUMN a integer")
    steps = undo_data.revert_column(own, way.keep, rows_conn=None, batch_rows=batch_rows)
    assert [spans(step.sql) for step in (*way.expansion.steps, *steps) if spans(step.sql)] == []


@pytest.mark.newest
@pytest.mark.parametrize(
    "done", ["DROP TABLE t; CREATE TABLE t (id integer PRIMARY KEY, b text)", "ALTER TABLE t DISABLE TRIGGER ALL"]
)
def test_values_whose_rows_nobody_followed_do_not_come_back(own: Conn, done: str) -> None:
    """A table that was made anew, or whose triggers are off: another row may have the key."""
    way = Way(own, "ALTER TABLE t DROP COLUMN a")
    way.there()
    own.execute(f"{done}; ALTER TABLE t ADD COLUMN a integer".encode())
    with pytest.raises(CannotCaptureError, match=r"nobody knows which rows of public\.t are those of then"):
        undo_data.revert_column(own, way.keep, rows_conn=None, batch_rows=7)


def test_purge_takes_the_triggers_with_the_values(own: Conn) -> None:
    """Nothing is left on the table."""
    Way(own, "ALTER TABLE t DROP COLUMN a").there()
    (entry,) = undo_data.list_entries(own)
    undo_data.purge(own, [entry.id])
    assert own.execute("SELECT tgname FROM pg_trigger WHERE tgname ~ 'pgrunbook'").fetchall() == []
    own.execute("UPDATE t SET id = 5000 WHERE id = 5")


@pytest.mark.first_case
@pytest.mark.parametrize("batch_rows", [7, 1_000])
@pytest.mark.parametrize(
    ("sql", "write"),
    [
        ("ALTER TABLE t DROP COLUMN a", "UPDATE t SET a = 4711 WHERE id = 3"),
        ('ALTER TABLE app."T x" DROP COLUMN ch', "UPDATE app.\"T x\" SET ch = 'mine' WHERE k2 = 3"),
        ('ALTER TABLE app."T x" DROP COLUMN n', 'UPDATE app."T x" SET n = 1.501 WHERE k2 = 3'),
    ],
)  # fmt: skip
def test_what_somebody_writes_before_it_is_filled_stays(conn: Conn, batch_rows: int, sql: str, write: str) -> None:
    """The column is there again with NULL, or with a default that is a constant: another value is somebody's."""
    with conn.transaction(force_rollback=True):
        conn.execute(write.encode())
        wanted = checksums.checksums(conn)
    way = Way(conn, sql, batch_rows)
    way.there()
    way.back(between=lambda: conn.execute(write.encode()) and None)
    assert checksums.checksums(conn) == wanted


def test_a_fill_touches_only_rows_that_get_another_value(conn: Conn) -> None:
    """A row whose value is right already is not written again."""
    conn.execute("UPDATE t SET a = NULL WHERE id > 10")
    way = Way(conn, "ALTER TABLE t DROP COLUMN a")
    way.there()
    conn.execute("ALTER TABLE t ADD COLUMN a integer")
    (step,) = undo_data.revert_column(conn, way.keep, rows_conn=None, batch_rows=1_000)
    assert conn.execute(step.sql.encode()).rowcount == 10


def test_rows_made_since_are_counted(conn: Conn) -> None:
    """What NOT NULL asks before it is set again: how many rows have no kept value."""
    way = Way(conn, "ALTER TABLE t DROP COLUMN a")
    way.there()
    count = f"SELECT count(*) FROM t WHERE {undo_data.uncaptured(conn, way.keep)}"
    assert value(conn, count) == 0
    conn.execute(
        "INSERT INTO t VALUES (1001, 'x'), (1002, 'y'); DELETE FROM t WHERE id = 7; UPDATE t SET id = 2000 WHERE id = 8"
    )
    assert value(conn, count) == 2
    (kept,) = undo_data.list_entries(conn)
    assert undo_data.as_keep(kept) == replace(way.keep, type="")


@pytest.mark.parametrize("batch_rows", [7, 1_000])
def test_the_same_statement_again_keeps_beside_what_was_kept_before(conn: Conn, batch_rows: int) -> None:
    """Nothing that is still kept is lost, or mixed with what is kept now."""
    first = Way(conn, "ALTER TABLE t DROP COLUMN a", batch_rows)
    first.there()
    conn.execute("ALTER TABLE t ADD COLUMN a integer; UPDATE t SET a = 2")
    second = Way(conn, "ALTER TABLE t DROP COLUMN a", batch_rows, run_id="again")
    assert second.keep.kept_as == first.keep.kept_as
    second.there()
    newer, older = undo_data.list_entries(conn)
    assert older.kept_as == f"{newer.kept_as}_{older.id}"
    assert value(conn, f"SELECT sum(pgrunbook_value) FROM pgrunbook.{newer.kept_as}") == 400
    assert value(conn, f"SELECT sum(pgrunbook_value) FROM pgrunbook.{older.kept_as}") == 201_000
    second.back()
    assert value(conn, "SELECT sum(a) FROM t") == 400
    assert sorted(undo_data.purge(conn, [newer.id, older.id])) == sorted([newer.kept_as, older.kept_as])


def test_names_are_the_same_in_every_plan_of_the_same_text(conn: Conn) -> None:
    """They tell site, table and column apart, and nothing else."""
    undo = Inverter(conn).inverse(statement("ALTER TABLE t DROP COLUMN a, DROP COLUMN b"))
    one, other = Site("m", "s", "up", 1), Site("m", "s", "down", 1)
    names = [site.name(keep) for site in (one, one, other) for keep in undo.keeps]
    assert names[:2] == names[2:4]
    assert len(set(names)) == 4


def test_what_was_purged_cannot_be_filled_back(conn: Conn) -> None:
    """It says what, when, and what is left to do."""
    way = Way(conn, "ALTER TABLE t DROP COLUMN a")
    way.there()
    (kept,) = undo_data.list_entries(conn)
    undo_data.purge(conn, [kept.id])
    conn.execute("ALTER TABLE t ADD COLUMN a integer")
    with pytest.raises(Refused) as caught:
        undo_data.revert_column(conn, way.keep, rows_conn=None, batch_rows=7)
    assert caught.value.lines()[0] == "cannot revert column a of table public.t"
    assert caught.value.detail.startswith("It was purged on 20")
    assert "0001_x" in caught.value.detail
    assert caught.value.hint.startswith("Restore a point in time before the purge")


def test_how_much_will_be_kept_is_estimated(conn: Conn) -> None:
    """From the planner's statistics; a table that is only moved costs nothing new."""
    conn.execute("INSERT INTO t SELECT i, i, 'b' || i FROM generate_series(1001, 20800) AS i; ANALYZE t")
    way = Way(conn, "ALTER TABLE t DROP COLUMN b")
    told = estimate_of(conn, way.keep)
    way.there()
    conn.execute("ANALYZE")
    (kept,) = undo_data.list_entries(conn)
    assert told.rows_estimate == 20_000
    assert told.bytes_estimate / 2 < kept.bytes < told.bytes_estimate * 2
    whole = Way(conn, "DROP TABLE t")
    assert estimate_of(conn, whole.keep).bytes_estimate == 0
