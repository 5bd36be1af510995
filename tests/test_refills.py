"""Release, write, rollback, release: what was written is there again, before what asks for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conftest import connect, do, rows
from pgrunbook import history as histories
from pgrunbook import undo_data
from pgrunbook.config.targets import Target
from pgrunbook.errors import StatementFailed
from pgrunbook.rehearse import with_data
from returning import RELEASE, everything, execute, plan_of, rehearsed, release, take_back

# ruff: noqa: E501 - one statement on a line, whatever its length

Project = Callable[..., Target]
AGAIN = RELEASE.replace("7f3a", "8888")

BASE = """
CREATE TABLE k (id int PRIMARY KEY, v text);
INSERT INTO k SELECT i, 'v' || i FROM generate_series(1, 20) AS i;
CREATE TABLE child (id int PRIMARY KEY, city int);
INSERT INTO child SELECT i FROM generate_series(1, 20) AS i;
"""
FILL = "UPDATE k SET bar = id * 10"
# What is there before, the migration, and what applications write before it is taken back.
CASES = {
    "a column that a CHECK asks for": ("", "ALTER TABLE k ADD COLUMN bar int;\n--> statement-breakpoint\nALTER TABLE k ADD CONSTRAINT has CHECK (bar IS NOT NULL) NOT VALID;", FILL),
    "a column and a valid CHECK": ("DELETE FROM k", "ALTER TABLE k ADD COLUMN bar int;\nALTER TABLE k ADD CHECK (bar IS NOT NULL);", "INSERT INTO k SELECT i, 'v', i FROM generate_series(1, 20) AS i"),
    "a column that is NOT NULL": ("DELETE FROM k", "ALTER TABLE k ADD COLUMN bar int NOT NULL;", "INSERT INTO k SELECT i, 'v', i FROM generate_series(1, 20) AS i"),
    "a column that is NOT NULL by a name": ("DELETE FROM k", "ALTER TABLE k ADD COLUMN bar int CONSTRAINT needed NOT NULL;", "INSERT INTO k SELECT i, 'v', i FROM generate_series(1, 20) AS i"),
    "a column with a CHECK of its own": ("DELETE FROM k", "ALTER TABLE k ADD COLUMN bar int DEFAULT 0 CHECK (bar > 0);", "INSERT INTO k SELECT i, 'v', i FROM generate_series(1, 20) AS i"),
    "a column with a key of its own": ("DELETE FROM k", "ALTER TABLE k ADD COLUMN bar int DEFAULT 0 UNIQUE;", "INSERT INTO k SELECT i, 'v', i FROM generate_series(1, 20) AS i"),
    "a number with a key": ("", "ALTER TABLE k ADD COLUMN bar serial UNIQUE;", "UPDATE k SET bar = 100 - id; INSERT INTO k (id) VALUES (21)"),
    "a column that becomes NOT NULL": ("DELETE FROM k", "ALTER TABLE k ADD COLUMN bar int;\nALTER TABLE k ALTER COLUMN bar SET NOT NULL;", "INSERT INTO k SELECT i, 'v', i FROM generate_series(1, 20) AS i"),
    "two columns that need each other": ("DELETE FROM k", "ALTER TABLE k ADD COLUMN a int NOT NULL, ADD COLUMN b int NOT NULL, ADD CHECK (a < b);", "INSERT INTO k SELECT i, 'v', i, i + 1 FROM generate_series(1, 20) AS i"),
    "a column that a unique index asks for": ("DELETE FROM k", "ALTER TABLE k ADD COLUMN bar int NOT NULL DEFAULT 0;\nCREATE UNIQUE INDEX one_bar ON k (bar);", "INSERT INTO k SELECT i, 'v', i FROM generate_series(1, 20) AS i"),
    "a column that refers to a new table": ("", "CREATE TABLE cities (id int PRIMARY KEY, name text);\nALTER TABLE k ADD COLUMN city int REFERENCES cities;", "INSERT INTO cities VALUES (1, 'a'), (2, 'b'); UPDATE k SET city = 1 + id % 2"),
    "an old column that refers to a new table": ("", "CREATE TABLE cities (id int PRIMARY KEY, name text);\nALTER TABLE child ADD CONSTRAINT lives FOREIGN KEY (city) REFERENCES cities;", "INSERT INTO cities VALUES (1, 'a'), (2, 'b'); UPDATE child SET city = 1 + id % 2"),
    "two new tables, one of which refers to the other": ("", "CREATE TABLE cities (id int PRIMARY KEY, name text);\nCREATE TABLE streets (id serial PRIMARY KEY, city int NOT NULL REFERENCES cities);", "INSERT INTO cities VALUES (1, 'a'), (2, 'b'); INSERT INTO streets (city) VALUES (1), (2), (2)"),
    "a table that grows in the same migration": ("", "CREATE TABLE cities (id int PRIMARY KEY, name text);\nALTER TABLE cities ADD COLUMN size int NOT NULL;\nALTER TABLE cities ALTER COLUMN size TYPE bigint;", "INSERT INTO cities VALUES (1, 'a', 5), (2, 'b', 60)"),
    "a materialized view": ("", "CREATE TABLE cities (id int PRIMARY KEY, name text);\nCREATE MATERIALIZED VIEW names AS SELECT name FROM cities;", "INSERT INTO cities VALUES (1, 'a'), (2, 'b'); REFRESH MATERIALIZED VIEW names"),
    "a table that is made of a new column": ("", "ALTER TABLE k ADD COLUMN bar int;\nCREATE MATERIALIZED VIEW bars AS SELECT bar FROM k;", FILL + "; REFRESH MATERIALIZED VIEW bars"),
    "seeds that somebody changed and deleted": ("", "CREATE TABLE cities (id int PRIMARY KEY, name text);\nINSERT INTO cities VALUES (1, 'seed'), (2, 'seed'), (3, 'seed');\nALTER TABLE child ADD FOREIGN KEY (city) REFERENCES cities;", "UPDATE cities SET name = 'mine' WHERE id = 1; DELETE FROM cities WHERE id = 2; INSERT INTO cities VALUES (9, 'new'); UPDATE child SET city = 9"),
    "seeds behind an index": ("", "CREATE TABLE cities (id int PRIMARY KEY, name text);\nCREATE INDEX by_name ON cities (name);\nINSERT INTO cities VALUES (1, 'seed'), (2, 'seed');", "UPDATE cities SET name = 'mine' WHERE id = 1"),
    "a column that the migration fills": ("", "ALTER TABLE k ADD COLUMN bar int;\nUPDATE k SET bar = 1;\nALTER TABLE k ALTER COLUMN bar SET NOT NULL;", "UPDATE k SET bar = 2 WHERE id < 9; INSERT INTO k VALUES (30, 'x', 3)"),
    "a column that is filled behind its index": ("", "ALTER TABLE k ADD COLUMN bar int;\nCREATE INDEX bars ON k (bar);\nUPDATE k SET bar = 1;", "UPDATE k SET bar = 2 WHERE id < 9"),
    "partitions": ("", "CREATE TABLE p (id int, at int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);\nCREATE INDEX by_at ON p (at);\nCREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);\nCREATE TABLE p2 PARTITION OF p DEFAULT;", "INSERT INTO p SELECT i, i FROM generate_series(1, 20) AS i"),
    "a trigger": ("CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.name := NEW.name || '!'; RETURN NEW; END $$", "CREATE TABLE cities (id int PRIMARY KEY, name text);\nCREATE TRIGGER loud BEFORE INSERT ON cities FOR EACH ROW EXECUTE FUNCTION shout();", "INSERT INTO cities VALUES (1, 'a')"),
    "a wider type": ("ALTER TABLE k ADD COLUMN n int; UPDATE k SET n = id", "ALTER TABLE k ALTER COLUMN n TYPE numeric;", "UPDATE k SET n = n + 0.25 WHERE id < 5"),
    "a text that becomes an enum": ("", "CREATE TYPE mood AS ENUM ('sad', 'ok');\nALTER TABLE k ALTER v TYPE mood USING CASE WHEN v > 'v15' THEN 'ok' ELSE 'sad' END::mood;", "UPDATE k SET v = 'ok' WHERE id < 3; INSERT INTO k VALUES (30, 'ok')"),
    "a text that becomes a shorter one": ("", "ALTER TABLE k ADD CHECK (v <> '');\nALTER TABLE k ALTER v TYPE varchar(9) USING upper(v);\nALTER TABLE k ADD CHECK (v < 'w');", "UPDATE k SET v = 'mine' WHERE id < 3; INSERT INTO k VALUES (30, 'ours')"),
    "a table that a query fills": ("", "CREATE TABLE few AS SELECT id, v FROM k WHERE id < 9;\nALTER TABLE few ADD PRIMARY KEY (id);", "UPDATE few SET v = 'mine' WHERE id = 1; DELETE FROM few WHERE id = 2; INSERT INTO few VALUES (90, 'new')"),
    "a table that a SELECT INTO fills": ("", "SELECT id, v INTO few FROM k;\nCREATE UNIQUE INDEX ON few (id);", "DELETE FROM few WHERE id > 2; INSERT INTO few VALUES (90, 'new')"),
    "an identity": ("", "ALTER TABLE k ADD COLUMN bar int GENERATED ALWAYS AS IDENTITY;", "DELETE FROM k WHERE id < 4; INSERT INTO k (id) VALUES (21)"),
    "a domain and an enum": ("DELETE FROM k", "CREATE TYPE mood AS ENUM ('sad', 'ok');\nCREATE DOMAIN even AS int CHECK (VALUE % 2 = 0);\nALTER TABLE k ADD COLUMN m mood NOT NULL, ADD COLUMN e even NOT NULL;", "INSERT INTO k SELECT i, 'v', 'ok', i * 2 FROM generate_series(1, 20) AS i"),
}  # fmt: skip


QUICK = ("a column that is NOT NULL",)
RUNS = [
    pytest.param(case, batch_rows, marks=[] if case in QUICK and batch_rows == 7 else [pytest.mark.slow])
    for case in CASES
    for batch_rows in (1_000, 7)
]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "batch_rows"), RUNS)
def test_rows_are_equal_at_each_stop(project: Project, case: str, batch_rows: int) -> None:
    """Before and after the rollback, and after the first and the second release; the schema, too."""
    before, text, between = CASES[case]
    target = project(folder={"0001_x.sql": text}, batch_rows=batch_rows)
    do(target, BASE + before)
    release(target)
    do(target, between)
    schema, held = everything(target)
    take_back(target)
    release(target, run_id=AGAIN)
    again, there = everything(target)
    assert there == held
    assert again == schema
    assert (
        rows(target, "SELECT kind, table_name FROM pgrunbook.kept WHERE direction = 'down' AND state <> 'given back'")
        == []
    )


@pytest.mark.parametrize(
    "case", ["seeds behind an index", pytest.param("a column that is NOT NULL", marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_the_second_release_is_rehearsed_with_what_comes_back(project: Project, case: str) -> None:
    """The plain SQL would fail on these rows; the plan goes up, down and up again with them."""
    before, text, between = CASES[case]
    target = project(folder={"0001_x.sql": text})
    do(target, BASE + before)
    release(target)
    do(target, between)
    held = everything(target)
    take_back(target)
    done = rehearsed(target)
    with connect(target, purpose="plans") as conn:
        ways = with_data.rehearse(target, histories.read(conn, target).pending(), done, conn, most_bytes=10**9)
    assert [(seen.proven, seen.says) for seen in ways.trial.ways_back] == [(True, "with the target's rows: equal, too")]
    execute(target, plan_of(target, done), AGAIN)
    assert everything(target) == held


@pytest.mark.slow
def test_values_that_a_corrected_migration_refuses_are_found_on_the_branch(project: Project) -> None:
    """What comes back does not satisfy the new CHECK: prepare says so, and nothing changed."""
    target = project(folder={"0001_x.sql": "ALTER TABLE k ADD COLUMN bar int;"})
    do(target, BASE)
    release(target)
    do(target, FILL)
    take_back(target)
    assert target.migrations is not None
    (target.migrations / "0001_x.sql").write_text("ALTER TABLE k ADD COLUMN bar int CHECK (bar < 150);")
    done = rehearsed(target)
    with connect(target, purpose="plans") as conn, pytest.raises(StatementFailed) as caught:
        with_data.rehearse(target, histories.read(conn, target).pending(), done, conn, most_bytes=10**9)
    assert "k_bar_check" in caught.value.message
    assert caught.value.state == "Nothing changed in the target: it failed in a rehearsal."


@pytest.mark.slow
def test_what_does_not_come_back_is_a_line_of_the_plan(project: Project) -> None:
    """The corrected migration has another type: what was captured stays, and plan and validate say so."""
    target = project(folder={"0001_x.sql": "ALTER TABLE k ADD COLUMN bar varchar(9);"})
    do(target, BASE)
    release(target)
    do(target, "UPDATE k SET bar = 'b' || id WHERE id < 4")
    take_back(target)
    assert target.migrations is not None
    (target.migrations / "0001_x.sql").write_text("ALTER TABLE k ADD COLUMN bar int;")
    (change,) = release(target, run_id=AGAIN).changes
    told = change.statements[-1].explains
    assert told.startswith("What public.k.bar held before the rollback stays captured as pgrunbook.kept_")
    assert told.endswith(": column bar has type integer now, and the values are character varying.")
    with connect(target, purpose="looks") as conn:
        assert [(kept.columns, holds) for kept, holds in undo_data.still_captured(conn, ["0001_x"])] == [(("bar",), 3)]


@pytest.mark.slow
def test_captured_rows_that_new_seeds_keep_out_are_a_line_of_the_plan(project: Project) -> None:
    """The corrected migration inserts other values under their keys: these win, and it is told how often."""
    made = "CREATE TABLE cities (id int PRIMARY KEY, name text);\nINSERT INTO cities VALUES (1, 'seed'), (2, 'seed'){};"
    target = project(folder={"0001_x.sql": made.format("")})
    do(target, BASE)
    release(target)
    do(target, "UPDATE cities SET name = 'mine' WHERE id = 1; INSERT INTO cities VALUES (9, 'nine')")
    take_back(target)
    assert target.migrations is not None
    (target.migrations / "0001_x.sql").write_text(made.format(", (3, 'third')"))
    (change,) = release(target, run_id=AGAIN).changes
    told = change.statements[-1].explains
    assert "1 row of it has the key of a row that the migration itself inserts with other values now" in told
    assert rows(target, "SELECT * FROM cities ORDER BY id") == [(1, "seed"), (2, "seed"), (3, "third"), (9, "nine")]
    with connect(target, purpose="looks") as conn:
        assert [(kept.kind, holds) for kept, holds in undo_data.still_captured(conn, ["0001_x"])] == [("table", 3)]
