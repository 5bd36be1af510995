"""Equality of rows both ways: what differs by nature is left out and named, anything else is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import psycopg
import pytest

from budget import sample
from conftest import connect, do
from pgrunbook.config.targets import Target
from pgrunbook.database.checksums import TableName
from pgrunbook.database.connection import Connection
from pgrunbook.plan.declared import Declared
from pgrunbook.rehearse import row_equality
from pgrunbook.rehearse.row_equality import Equality
from servers import Server

TABLES = """
CREATE FUNCTION fixed(integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2';
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN NEW.updated_at := clock_timestamp(); RETURN NEW; END';
CREATE TABLE t (id integer PRIMARY KEY, a integer, b text, at timestamptz, u uuid);
INSERT INTO t SELECT i, i, 'b' || i FROM generate_series(1, 20) AS i;
CREATE TABLE "Odd t" (id integer PRIMARY KEY, "At at" timestamptz);
INSERT INTO "Odd t" SELECT generate_series(1, 5);
CREATE TABLE d (id serial PRIMARY KEY, a integer, at timestamptz DEFAULT now(), u uuid DEFAULT gen_random_uuid());
CREATE TABLE touched (id integer PRIMARY KEY, a integer, updated_at timestamptz);
INSERT INTO touched SELECT i, i FROM generate_series(1, 20) AS i;
CREATE TRIGGER touch BEFORE INSERT OR UPDATE ON touched FOR EACH ROW EXECUTE FUNCTION touch();
CREATE TABLE p (id integer, a integer, at timestamptz DEFAULT now(), PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (10);
CREATE TABLE p_2 PARTITION OF p FOR VALUES FROM (10) TO (99) PARTITION BY RANGE (id);
CREATE TABLE p_2_x PARTITION OF p_2 DEFAULT;
INSERT INTO p SELECT i, i, '2026-01-01' FROM generate_series(1, 20) AS i;
CREATE TABLE j (id integer PRIMARY KEY, j json, x xml, n numeric, f float);
INSERT INTO j SELECT i, '{"b": 1, "a":  2}', NULL, 1.0, 0.0 FROM generate_series(1, 3) AS i;
CREATE TABLE keyless (a integer, at timestamptz);
INSERT INTO keyless SELECT i % 3 FROM generate_series(1, 20) AS i;
"""


WRITERS = """
CREATE FUNCTION log() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN INSERT INTO d (a, at) VALUES (1, clock_timestamp()); RETURN NULL; END';
CREATE FUNCTION into_n() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN INSERT INTO n VALUES (clock_timestamp()); RETURN NULL; END';
CREATE FUNCTION stamp(integer) RETURNS integer LANGUAGE sql
    AS 'UPDATE t SET at = clock_timestamp() WHERE id = $1 RETURNING id';
CREATE PROCEDURE stamp_all() LANGUAGE sql AS 'UPDATE t SET at = clock_timestamp()';
"""
LABELS = """
SELECT c.oid::regclass::text
FROM pg_class AS c
WHERE c.relkind IN ('r', 'm') AND c.relnamespace = 'public'::regnamespace
ORDER BY 1
"""


@dataclass(frozen=True)
class Pair:
    """Two databases alike, on which the same release is executed, one after the other."""

    plain: Connection
    safe: Connection

    def ends(
        self,
        release: Sequence[str],
        *,
        apart: str = "SELECT",
        differs: Sequence[Declared] = (),
        updated: Sequence[str] = (),
    ) -> Equality:
        """Execute a release on both, and ``apart`` on one; say how all their tables compare."""
        for statement in release:
            self.plain.execute(statement.encode())
        volatile = row_equality.volatile_values(release, differs, self.safe, self.plain, updated=updated)
        for statement in release:
            self.safe.execute(statement.encode())
        self.safe.execute(apart.encode())
        tables = row_equality.named(self.safe, [label for (label,) in self.safe.execute(LABELS).fetchall()])  # type: ignore[misc]
        return row_equality.compare(self.plain, self.safe, tables, volatile)


@pytest.fixture
def pair(newest: Server) -> Iterator[Pair]:
    """Two databases with the tables above."""
    tables = newest.database("row_equality", TABLES)
    with (
        newest.copied("plain", tables) as one,
        newest.copied("safe", tables) as other,
        newest.connect(one) as plain,
        newest.connect(other) as safe,
    ):
        yield Pair(plain, safe)


def value(column: str) -> str:
    """How a column that was passed over is told."""
    table, _, name = column.rpartition(".")
    return f'values of "public"."{table}".{name}: they differ each time'


def counted(table: str) -> str:
    """How a table that was only counted is told."""
    return f'rows of "public"."{table}": counted only, as what writes them may write other values each time'


# Each line: the columns that are passed over because of the statements behind them.
WANDERING = """
t.at: UPDATE t SET at = now()
t.at: UPDATE t SET at = CURRENT_TIMESTAMP, a = a + 1 WHERE id < 9
t.at: UPDATE t SET at = clock_timestamp() - interval '1 day'
t.at: UPDATE t SET at = LOCALTIMESTAMP
t.at: DO 'BEGIN UPDATE t SET at = clock_timestamp();END'
t.at + t.u: UPDATE t AS x SET (at, u) = (SELECT now(), gen_random_uuid())
t.u: UPDATE t SET u = gen_random_uuid()
t.b: UPDATE t SET b = random()::text
t.b: WITH x AS (UPDATE t SET b = now()::text RETURNING 1) SELECT count(*) FROM x
Odd t.At at: UPDATE "Odd t" SET "At at" = now()
d.at + d.u: INSERT INTO d (a) VALUES (1), (2)
d.at + d.id + d.u: INSERT INTO d (a) SELECT a FROM t
d.at + d.u: INSERT INTO d DEFAULT VALUES
d.u: INSERT INTO d (a, at) VALUES (1, '2026-01-01')
t.at: INSERT INTO t (id, a, at) VALUES (90, 1, now())
t.at: INSERT INTO t VALUES (90, 1, 'b', now())
p_1.at + p_2_x.at: UPDATE p SET at = now()
p_1.at: UPDATE p_1 SET at = now()
p_1.at: INSERT INTO p (id) VALUES (0)
keyless.at: UPDATE keyless SET at = now()
d.at + d.u: INSERT INTO d (a) VALUES (1); UPDATE d SET at = DEFAULT
t.at: INSERT INTO t (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET at = now()
t.at: MERGE INTO t USING (SELECT 1 AS id) AS s ON t.id = s.id WHEN MATCHED THEN UPDATE SET at = now()
t.at: MERGE INTO t USING (SELECT 99 AS i) AS s ON id = i WHEN NOT MATCHED THEN INSERT (id, at) VALUES (i, now())
t.r: ALTER TABLE t ADD COLUMN r float DEFAULT random()
t.r: ALTER TABLE t ADD COLUMN r uuid NOT NULL DEFAULT gen_random_uuid(), ADD COLUMN s int DEFAULT 1
t.r: ALTER TABLE t ADD COLUMN r timestamptz DEFAULT now()
p_1.r + p_2_x.r: ALTER TABLE p ADD COLUMN r float DEFAULT random()
t.b: ALTER TABLE t ALTER b TYPE text USING gen_random_uuid()::text
n.at: CREATE TABLE n (id int, at timestamptz DEFAULT now()); INSERT INTO n (id) VALUES (1)
n.at: CREATE TABLE n AS SELECT 1 AS id, now() AS at
n.at: SELECT id, now() AS at INTO n FROM t
n.at: CREATE TABLE n (id int); ALTER TABLE n ADD COLUMN at timestamptz; INSERT INTO n VALUES (1, now())
renamed.at: UPDATE t SET at = now(); ALTER TABLE t RENAME TO renamed
t.later: UPDATE t SET at = now(); ALTER TABLE t RENAME COLUMN at TO later
renamed.at: ALTER TABLE t RENAME TO renamed; UPDATE renamed SET at = now()
t.later: ALTER TABLE t RENAME at TO later; UPDATE t SET later = now()
t.at: ALTER TABLE t ALTER at SET DEFAULT now(); INSERT INTO t (id) VALUES (90)
d.at + d.u + t.at: INSERT INTO d (a) VALUES (3); UPDATE t SET at = d.at FROM d
t.at + t.g: ALTER TABLE t ADD COLUMN g timestamptz; UPDATE t SET at = now(); UPDATE t SET g = at
""".strip().split("\n")


@pytest.mark.first_case
@pytest.mark.parametrize("line", sample(WANDERING, 6))
def test_a_value_that_is_another_one_each_time_is_passed_over_and_named(pair: Pair, line: str) -> None:
    """The plain SQL itself would differ from a second run of it: those columns are left out, and no other."""
    names, _, release = line.partition(": ")
    equality = pair.ends(release.split("; "))
    assert equality.differences == ()
    assert sorted(equality.passed_over) == sorted(map(value, names.split(" + ")))


COUNTED = """
touched: UPDATE touched SET a = a + 1
touched: INSERT INTO touched (id) VALUES (30)
d: CREATE TRIGGER log AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION log(); UPDATE t SET a = 1
d: CREATE TRIGGER log AFTER DELETE ON t FOR EACH ROW EXECUTE FUNCTION log(); DELETE FROM t WHERE id = 3
d: CREATE TRIGGER log AFTER TRUNCATE ON t FOR EACH STATEMENT EXECUTE FUNCTION log(); TRUNCATE t
d: CREATE TRIGGER log AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION log(); UPDATE t SET a = 1; DROP TRIGGER log ON t
n: CREATE TABLE n (at timestamptz); CREATE TRIGGER w AFTER UPDATE ON t EXECUTE FUNCTION into_n(); UPDATE t SET a = 1
t: DO 'DECLARE i record;BEGIN FOR i IN SELECT 1 LOOP UPDATE t SET at = clock_timestamp();END LOOP;END'
t: SELECT stamp(3)
t: CALL stamp_all()
mv: UPDATE t SET a = a + 1; CREATE MATERIALIZED VIEW mv AS SELECT clock_timestamp() AS at
mv: CREATE MATERIALIZED VIEW mv AS SELECT clock_timestamp() AS at; REFRESH MATERIALIZED VIEW mv
""".strip().split("\n")


@pytest.mark.parametrize("line", sample(COUNTED, 4))
def test_rows_that_something_else_writes_are_counted(pair: Pair, line: str) -> None:
    """A trigger, a function or a block does not tell in the statement what it writes: that is said, table by table."""
    pair_of = (pair.plain, pair.safe)
    for conn in pair_of:
        conn.execute(WRITERS)
    table, _, release = line.partition(": ")
    equality = pair.ends(release.split("; "))
    assert equality.differences == ()
    assert equality.passed_over == (counted(table),)


def test_rows_that_traffic_touches_are_counted_where_triggers_fire(pair: Pair) -> None:
    """Traffic sets columns to themselves, and the trigger notes when: not a difference between the two ways."""
    traffic = "UPDATE touched SET a = a"
    assert pair.ends(["SELECT 1"], apart=traffic, updated=["public.touched"]).differences == ()
    assert pair.ends(["SELECT 1"], apart=traffic, updated=["public.t"]).differences != ()


# Each line is executed on both sides, and what is behind the bar on one of them.
APART = """
UPDATE t SET a = a + 1 | UPDATE t SET a = 0 WHERE id = 7
UPDATE t SET a = fixed(a), b = upper(b || 'x') | UPDATE t SET b = 'y' WHERE id = 7
UPDATE t SET at = now() | UPDATE t SET a = 0 WHERE id = 7
UPDATE t SET at = '2026-01-01' | UPDATE t SET at = now() WHERE id = 7
UPDATE t SET a = 1 WHERE at IS NULL OR at < now() | UPDATE t SET a = 0 WHERE id = 7
INSERT INTO d (a, at, u) VALUES (1, '2026-01-01', NULL) | UPDATE d SET at = '2027-01-01'
INSERT INTO d (a) VALUES (1) | UPDATE d SET id = 9
INSERT INTO d (a, id) SELECT a, id FROM t | UPDATE d SET id = 99 WHERE id = 7
INSERT INTO d (a) VALUES (1) | UPDATE d SET a = 9
INSERT INTO t (id, a, at) VALUES (90, 1, now()) | UPDATE t SET a = 0 WHERE id = 7
INSERT INTO t VALUES (90, 1, 'b', now()) | UPDATE t SET b = '0' WHERE id = 7
INSERT INTO t (id, at) SELECT 90, now() | DELETE FROM t WHERE id = 7
ALTER TABLE t ADD COLUMN r float DEFAULT 1.5 | UPDATE t SET r = 2 WHERE id = 7
ALTER TABLE t ADD COLUMN r float DEFAULT random() | UPDATE t SET a = 0 WHERE id = 7
UPDATE p SET at = now() | UPDATE p SET a = 0 WHERE id = 7
UPDATE p_1 SET at = now() | UPDATE p SET at = NULL WHERE id = 17
UPDATE touched SET a = 1 | DELETE FROM touched WHERE id = 7
SELECT stamp(3) | DELETE FROM t WHERE id = 7
CREATE TABLE n AS SELECT 7 AS id, now() AS at | UPDATE n SET id = 8
UPDATE j SET j = '{"b": 1, "a":  2}' | UPDATE j SET j = '{"a": 2, "b": 1}' WHERE id = 2
UPDATE j SET n = n | UPDATE j SET n = 1.00 WHERE id = 2
UPDATE keyless SET a = a + 1 | UPDATE keyless SET a = 7 WHERE ctid = (SELECT min(ctid) FROM keyless)
""".strip().split("\n")


@pytest.mark.first_case
@pytest.mark.parametrize("line", sample(APART, 4))
def test_what_differs_otherwise_is_told(pair: Pair, line: str) -> None:
    """Immutable expressions excuse nothing, and what is volatile excuses no other column, row or table."""
    for conn in (pair.plain, pair.safe):
        conn.execute(WRITERS)
    release, _, apart = line.partition(" | ")
    equality = pair.ends([release], apart=apart)
    assert len(equality.differences) == 1, equality


def test_a_difference_is_told_with_its_rows_and_a_key(pair: Pair) -> None:
    """How many rows there are, how many are missing, other and new, and which."""
    equality = pair.ends(
        ["UPDATE t SET a = a + 1"],
        apart="UPDATE t SET a = 0 WHERE id = 7; DELETE FROM t WHERE id = 9; INSERT INTO t VALUES (90), (91)",
    )
    (told,) = equality.differences
    assert told.startswith('"public"."t": 20 rows after the plain SQL, 21 after the plan; 1 missing, 1 other, 2 new (')
    samples = told.partition("new (")[2].rstrip(")").split(", ")
    assert len(samples) == 3
    assert set(samples) < {"7", "9", "90", "91"}


def test_equal_rows_are_equal_whatever_they_hold(pair: Pair) -> None:
    """Documents, numbers and names as they are: nothing is passed over, and every table is named."""
    equality = pair.ends(["UPDATE j SET n = n + 1", 'UPDATE "Odd t" SET id = id + 100', "UPDATE d SET a = 1"])
    assert (equality.differences, equality.passed_over) == ((), ())
    assert '"public"."Odd t"' in equality.compared
    assert '"public"."p_2_x"' in equality.compared
    assert '"public"."p"' not in equality.compared


def test_the_order_in_which_rows_are_numbered_may_be_declared(pair: Pair) -> None:
    """A safe form numbers rows by the key, the plain one as they lie: excused for that column of that table alone."""
    declared = [Declared("values", "n", "each row gets one of its own")]
    release = ["ALTER TABLE t ADD COLUMN n serial", "UPDATE j SET n = 2"]
    equality = pair.ends(release, apart="UPDATE t SET n = 100 - n", differs=declared)
    assert (equality.passed_over, equality.differences) == ((value("t.n"),), ())
    volatile = row_equality.volatile_values(release, declared, pair.safe, pair.plain)
    pair.safe.execute("UPDATE j SET n = 3 WHERE id = 2")
    assert len(row_equality.compare(pair.plain, pair.safe, [TableName("public", "j")], volatile).differences) == 1


def test_xml_is_compared_as_it_is_written(server: Server) -> None:
    """It has no equality of its own: other spaces are another value, and a difference is told with its key."""
    for name in ("xml_a", "xml_b"):
        server.make(name)
    with server.connect("xml_a") as plain, server.connect("xml_b") as safe:
        for conn in (plain, safe):
            conn.execute("CREATE TABLE x (id integer PRIMARY KEY, doc xml)")
            try:
                conn.execute("INSERT INTO x VALUES (1, '<a  b=\"1\"/>'), (2, NULL)")
            except psycopg.errors.FeatureNotSupported:
                pytest.skip("this server is built without libxml")
        table, volatile = [TableName("public", "x")], row_equality.VolatileValues()
        assert row_equality.compare(plain, safe, table, volatile).differences == ()
        safe.execute("UPDATE x SET doc = '<a b=\"1\"/>' WHERE id = 1")
        (told,) = row_equality.compare(plain, safe, table, volatile).differences
        assert told.endswith("0 missing, 1 other, 0 new (1)")


NUMBERED = ("serial", "bigint GENERATED ALWAYS AS IDENTITY", "int DEFAULT nextval('d_id_seq')")


@pytest.mark.parametrize(
    ("release", "apart"),
    sample([
        ("CREATE SEQUENCE s; UPDATE t SET a = nextval('s')", "UPDATE t SET a = 21 - a"),
        ("INSERT INTO d (a, at, u) SELECT a, NULL, NULL FROM t", "UPDATE d SET id = 200 - id"),
        ("CREATE TABLE n (a int, i int GENERATED ALWAYS AS IDENTITY); INSERT INTO n SELECT a FROM t",
         "UPDATE n SET i = DEFAULT"),
        *((f"ALTER TABLE keyless ADD COLUMN n {words}", "UPDATE keyless SET n = DEFAULT") for words in NUMBERED),
        ("CREATE SEQUENCE s; INSERT INTO keyless SELECT nextval('s') FROM t UNION ALL SELECT 99",
         "UPDATE keyless SET a = 98 WHERE a = 99"),
    ], 3),
)  # fmt: skip
def test_numbers_given_to_rows_as_they_lie_differ_by_nature(pair: Pair, release: str, apart: str) -> None:
    """Batches leave the rows of a table in another order, and sequences number them as they come."""
    equality = pair.ends(release.split("; "), apart=apart)
    assert equality.differences == ()
    assert equality.passed_over != ()


def test_a_table_that_is_not_there_any_more_is_not_compared(pair: Pair) -> None:
    """Names that mean nothing at the end, and those of what has no rows, are passed over."""
    labels = ["public.nothing", "public.p", 'public."Odd t"', "public.t", "nowhere.t"]
    assert row_equality.named(pair.safe, labels) == [TableName("public", "Odd t"), TableName("public", "t")]


def test_a_sequence_that_did_not_come_as_far_is_told(project: Callable[..., Target]) -> None:
    """What it gives next is there already; one that has come further is harmless."""
    plain, safe = project(folder={}, name="plain"), project(folder={}, name="safe")
    for target in (plain, safe):
        do(target, "CREATE SEQUENCE s; CREATE SEQUENCE down INCREMENT -1")
    with connect(plain) as one, connect(safe) as other:
        do(safe, "SELECT nextval('s'), nextval('down')")
        assert row_equality.sequences_behind(one, other) == []
        do(plain, "SELECT nextval('s'), nextval('down'), nextval('s'), nextval('down')")
        assert sorted(row_equality.sequences_behind(one, other)) == [
            "sequence public.down gives -2 next after the plan, -3 after the plain SQL",
            "sequence public.s gives 2 next after the plan, 3 after the plain SQL",
        ]
        do(safe, "ALTER SEQUENCE s RESTART 3; ALTER SEQUENCE down RESTART -9")  # given nothing since
        assert row_equality.sequences_behind(one, other) == []
        do(plain, "ALTER SEQUENCE s RESTART 100")
        assert row_equality.sequences_behind(one, other) == [
            "sequence public.s gives 3 next after the plan, 100 after the plain SQL"
        ]
