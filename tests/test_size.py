"""Statements of many megabytes, and of many levels: judged in seconds, or refused with one clear error."""

from __future__ import annotations

import cProfile
import pstats

import pytest

from pgrunbook.database.catalog import UNKNOWN
from pgrunbook.effects.statements import effects
from pgrunbook.errors import WrongInput
from pgrunbook.review.review import as_text, review
from pgrunbook.review.statement_scenes import script, stage
from pgrunbook.sql.statements import parse

MANY = 200_000
LARGE = {
    "in": "SELECT 1;\nDELETE FROM t WHERE a IN (1" + ", 1" * MANY + ")",
    "array": "SELECT 1;\nDELETE FROM t WHERE a = ANY (ARRAY[1" + ", 1" * MANY + "])",
    "or": "SELECT 1;\nDELETE FROM t WHERE a = 1" + " OR a = 2" * MANY,
    "sum": "SELECT 1;\nUPDATE t SET a = 1" + " + 1" * MANY,
    "union": "SELECT 1;\nINSERT INTO t SELECT 1" + " UNION ALL SELECT 1" * MANY,
    "deep union": "SELECT 1;\nINSERT INTO t SELECT 1" + " UNION ALL SELECT 1" * 3_000,
    "columns": "SELECT 1;\nSELECT a" + ", a" * MANY + " FROM t",
    "case": "SELECT 1;\nUPDATE t SET a = CASE a " + "WHEN 1 THEN 2 " * MANY + "END",
    "block": "SELECT 1;\nDO $$ BEGIN " + "UPDATE t SET a = 1;\n" * (MANY // 2) + " END $$",
    "sum in a block": "SELECT 1;\nDO $$ BEGIN UPDATE t SET a = 1" + " + 1" * 100_000 + "; END $$",
}
JUDGED = {
    "comment": "COMMENT ON TABLE t IS '" + "x" * 100 * MANY + "'",
    "value": "INSERT INTO t VALUES ('" + "x" * 100 * MANY + "')",
    "array text": "DELETE FROM t WHERE a = ANY ('{" + "1," * MANY + "1}')",
    "function": "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS $$ " + "UPDATE t SET a = 1;\n" * MANY + " $$",
    "rows": "INSERT INTO t VALUES (1, 'a')" + ", (2, 'b')" * MANY,
    "sum": "UPDATE t SET a = 1" + " + 1" * 1_000,
    "sum in a block": "DO $$ BEGIN UPDATE t SET a = 1" + " + 1" * 1_000 + "; END $$",
    "texts": "ALTER TABLE t ADD CHECK (b <> 'a'" + " || 'b'" * 500 + ")",
    "union": "INSERT INTO t SELECT 1" + " UNION ALL SELECT 1" * 1_000,
    "in": "DELETE FROM t WHERE a IN (1" + ", 1" * 5_000 + ")",
}


QUICK = ("sum", "block", "sum in a block")


@pytest.mark.slow
@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in LARGE])
def test_a_statement_that_is_too_large_is_refused_by_its_line(name: str) -> None:
    """The parser is not asked, which takes minutes or ends the process; nor is a judge that would take as long."""
    with pytest.raises(WrongInput, match=r"a.sql, line 2: the statement is too large to be judged"):
        parse(LARGE[name], "a.sql")
    with pytest.raises(WrongInput, match=r"line 2: the statement is too large"):
        review([("a.sql", LARGE[name])], with_squawk=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", JUDGED)
def test_a_statement_that_is_large_or_deep_is_judged(name: str) -> None:
    """A constant, rows, or a body that nobody calls may have any size, and a chain a thousand parts."""
    found = review([("a.sql", JUDGED[name])], with_squawk=False)
    assert len(found) == 1
    assert "1 statement" in as_text(found)


KINDS = (
    "SELECT {}", "INSERT INTO t VALUES ({})", "ALTER TABLE a{} ADD COLUMN b text", "ALTER TABLE a ADD COLUMN b{} text",
    "DROP TABLE a{}", "UPDATE a SET b = {}", "CREATE INDEX i{} ON t (id)", "CREATE TABLE IF NOT EXISTS t{} (id int)",
)  # fmt: skip


def calls(*files: str) -> int:
    """Return how many functions are called to review these files."""
    with cProfile.Profile() as profile:
        review([(f"{number}.sql", sql) for number, sql in enumerate(files)], with_squawk=False)
    return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["SET a.b = '{}'", *(pytest.param(each, marks=pytest.mark.slow) for each in KINDS)])
def test_twice_as_many_statements_take_twice_the_work(kind: str) -> None:
    """Counted in calls of functions: a rule that looks at all others for each statement ends at ten thousand."""

    def of(numbers: range) -> int:
        return calls(";\n".join(kind.format(number) for number in numbers))

    of(range(5))  # what is read once
    assert of(range(1_000, 1_400)) < 2.3 * of(range(2_000, 2_200))


BODY = """
SELECT count(*) INTO v FROM audit WHERE at > now() AND what = 'step {0}';
IF v > {0} THEN PERFORM note_{1}('{0}'); UPDATE audit SET what = 'late {0}' WHERE what IS NULL; END IF;
"""


def in_plpgsql(number: int, steps: int, writes: int = 3) -> str:
    """Return a file that makes a table with a trigger, and writes to it."""
    body = "".join(BODY.format(step, number) for step in range(steps))
    return (
        f"""
    CREATE TABLE IF NOT EXISTS audit (at timestamptz, what text);
    CREATE TABLE t_{number} (id integer, a text);
    CREATE FUNCTION note_{number}(what text) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN INSERT INTO audit VALUES (now(), what); END $$;
    CREATE FUNCTION work_{number}() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE v integer; BEGIN {body} RETURN NEW; END $$;
    CREATE TRIGGER work BEFORE INSERT ON t_{number} FOR EACH ROW EXECUTE FUNCTION work_{number}();
    """
        + f"INSERT INTO t_{number} VALUES (1, 'a');\n" * writes
    )


@pytest.mark.slow
def test_a_body_is_judged_once_however_often_it_runs() -> None:
    """A folder of files takes as many times the work of one; a body of twice the size takes twice; a write no more."""
    calls(in_plpgsql(0, 2))
    one = calls(in_plpgsql(1, 8))
    assert calls(*(in_plpgsql(10 + number, 8) for number in range(2))) < 2.2 * one
    assert calls(in_plpgsql(20, 16)) < 2.2 * one
    assert calls(in_plpgsql(21, 8, writes=12)) < 1.8 * one


def test_what_a_routine_does_is_told_where_it_runs_first() -> None:
    """The second write would run it again: a reviewer reads of it once, by the line of the first."""
    make = in_plpgsql(0, 1, writes=0).replace("CREATE TABLE IF NOT EXISTS audit (at timestamptz, what text);", "")
    bulk = make.replace("WHERE what IS NULL", "")
    found = review([("a.sql", bulk + "INSERT INTO t_0 VALUES (1);\nINSERT INTO t_0 VALUES (2);")], with_squawk=False)
    told = [(f.statement, h.id) for f in found for h in f.hazards if h.effect.startswith("Inside work_0")]
    assert ("INSERT INTO t_0 VALUES (1)", "update-unbatched") in told
    assert {statement for statement, _ in told} == {"INSERT INTO t_0 VALUES (1)"}


@pytest.mark.slow
def test_a_shared_body_is_judged_once_while_other_tables_change() -> None:
    """Each file of a folder alters another table, and runs what a routine does with its own: that is judged once."""
    shared = in_plpgsql(0, 12, writes=0)
    files = [f"CREATE TABLE o{n} (id integer);\nINSERT INTO t_0 VALUES ({n});" for n in range(12)]
    calls(shared, *files)
    none, two, all_ = calls(shared), calls(shared, *files[:2]), calls(shared, *files)
    assert (all_ - two) / 10 < (two - none) / 4


LINKS = (
    "CREATE TABLE b (id integer REFERENCES a)", "ALTER TABLE b DROP CONSTRAINT b_id_fkey",
    "ALTER TABLE b ADD CONSTRAINT b_a FOREIGN KEY (id) REFERENCES a ON DELETE CASCADE",
    "ALTER TABLE b ADD PRIMARY KEY (id)", "CREATE TABLE c (id integer REFERENCES b)",
    "CREATE TABLE c2 (id integer REFERENCES c)", "CREATE TABLE a1 () INHERITS (a)",
    "CREATE TABLE p1 PARTITION OF p DEFAULT", "CREATE TABLE p2 PARTITION OF p FOR VALUES IN (1)",
    "CREATE OR REPLACE VIEW v AS SELECT a.id FROM a, b",
    "CREATE OR REPLACE VIEW v AS SELECT id FROM w", "CREATE OR REPLACE VIEW w AS SELECT id FROM b",
    "ALTER TABLE d ADD FOREIGN KEY (id) REFERENCES p", "ALTER TABLE p DETACH PARTITION p1", "DROP TABLE c2",
    "CREATE RULE r AS ON DELETE TO v DO INSTEAD NOTHING", "DROP TABLE b CASCADE", "ALTER TABLE a RENAME TO z",
    "DROP TABLE p1",
)  # fmt: skip
WRITES = (
    "INSERT INTO {} VALUES (1)",
    "UPDATE {} SET id = 2",
    "DELETE FROM {}",
    "TABLE {}",
    "SELECT FROM {} FOR UPDATE",
)


def test_what_a_routine_does_is_told_anew_when_its_tables_have_changed() -> None:
    """Keys of others that refer to them, partitions, what views read: each change tells as alone."""
    tables = "CREATE TABLE a (id integer PRIMARY KEY); CREATE TABLE d (id integer); CREATE VIEW w AS TABLE a;"
    tables += "CREATE VIEW v AS SELECT id FROM a; CREATE TABLE p (id integer PRIMARY KEY) PARTITION BY LIST (id);"
    body = ";\n".join(write.format(name) for name in ("a", "d", "p", "v") for write in WRITES)
    run = "SELECT f()"
    makes = f"{tables} CREATE FUNCTION f() RETURNS void LANGUAGE sql AS '{body}';"
    scenes = stage(script([("1.sql", ";\n".join([makes + run, *(f"{link};\n{run}" for link in LINKS)]))]), UNKNOWN)
    told = [scene.effects for scene in scenes if scene.statement.sql == run]
    assert told == [effects(scene.node, scene.catalog) for scene in scenes if scene.statement.sql == run]
    assert len(dict.fromkeys(told)) > len(LINKS) // 2  # each link shows, or nearly so
