"""Runs: statements that differ in their values only are judged once, sent together, and taken back together."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conftest import connect, do, rows
from pgrunbook import history as histories
from pgrunbook.config.targets import Target
from pgrunbook.draft import build
from pgrunbook.errors import Refused
from pgrunbook.plan.hidden import hidden, revealed
from pgrunbook.plan.plan import Base, Plan
from pgrunbook.procedures import plan_views
from pgrunbook.rehearse import with_data
from pgrunbook.sql import runs, statements
from returning import execute, plan_of, prepared, rehearsed, release, take_back
from scenes import error_of

Project = Callable[..., Target]

INSERT = "INSERT INTO t (id, a) VALUES (%d, 'a')"
TABLES = """
CREATE TABLE t (id integer PRIMARY KEY, a text NOT NULL, told integer DEFAULT 0);
CREATE TABLE u (id integer PRIMARY KEY, a text NOT NULL);
CREATE TABLE log (id serial PRIMARY KEY, rows integer);
CREATE FUNCTION count_them() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN INSERT INTO log (rows) SELECT count(*) FROM t; RETURN NULL; END';
CREATE TRIGGER count_them AFTER INSERT ON t FOR EACH STATEMENT EXECUTE FUNCTION count_them();
"""


def grouped(sql: str) -> list[int]:
    """How many statements each run of a text has."""
    return [len(run) for run in runs.runs(statements.parse(sql, "m.sql"))]


@pytest.mark.parametrize(
    "second",
    [
        INSERT % 2,
        "INSERT INTO t (id, a) VALUES (-2, NULL)",
        "INSERT INTO t (id, a) VALUES (2.5, DEFAULT), (3, 'c;d')",
        "insert  into t(id,a)\nvalues (2 /* ; */, $x$a$x$)",
    ],
)
def test_what_differs_in_values_is_one_run(second: str) -> None:
    """Literals, their number and their spelling; the text of each stays as it is."""
    sql = f"{INSERT % 1};\n{second};\n{INSERT % 9}"
    assert grouped(sql) == [3]
    assert runs.joined(statements.parse(sql, "m.sql")) == sql


@pytest.mark.parametrize(
    "second",
    [
        "INSERT INTO u (id, a) VALUES (2, 'a')",
        "INSERT INTO s.t (id, a) VALUES (2, 'a')",
        "INSERT INTO t (a, id) VALUES ('a', 2)",
        "INSERT INTO t VALUES (2, 'a')",
        "INSERT INTO t (id, a) OVERRIDING SYSTEM VALUE VALUES (2, 'a')",
        "INSERT INTO t (id, a) VALUES (2, 'a') RETURNING id",
        "INSERT INTO t (id, a) VALUES (2, 'a') ON CONFLICT DO NOTHING",
        "INSERT INTO t (id, a) VALUES (2, lower('A'))",
        "INSERT INTO t (id, a) VALUES (2, CURRENT_DATE)",
        "INSERT INTO t (id, a) VALUES (2, (SELECT 'a'))",
        "INSERT INTO t (id, a) VALUES (2, 'a'::text)",
        "INSERT INTO t (id, a) SELECT 2, 'a'",
        "INSERT INTO t AS x (id, a) VALUES (2, 'a')",
        "INSERT INTO t DEFAULT VALUES",
        "UPDATE t SET a = 'a' WHERE id = 2",
        "WITH x AS (SELECT 1) INSERT INTO t (id, a) VALUES (2, 'a')",
    ],
)
def test_what_differs_in_more_is_none(second: str) -> None:
    """Another table, schema, column, order of columns, type, expression or clause."""
    assert grouped(f"{INSERT % 1};\n{second};\n{INSERT % 9}") == [1, 1, 1]


@pytest.mark.parametrize(
    "value", ["lower('A')", "CURRENT_DATE", "(SELECT 'a')", "1 + 1", "now()", "nextval('s')", "a.b", "ROW(1)"]
)
def test_what_calls_or_reads_is_none(value: str) -> None:
    """Two of them have the same text, but perhaps not the same effect."""
    one = f"INSERT INTO t (a) VALUES ({value})"
    assert grouped(f"{one};\n{one}") == [1, 1]


@pytest.mark.parametrize(
    ("clause", "together"),
    [
        ("ON CONFLICT DO NOTHING", True),
        ("ON CONFLICT (id) DO UPDATE SET a = excluded.a WHERE t.a <> excluded.a", True),
        ("ON CONFLICT (id) DO UPDATE SET a = lower(excluded.a)", False),
        ("ON CONFLICT (id) DO UPDATE SET a = (SELECT max(a) FROM t)", False),
    ],
)
def test_what_has_one_clause_for_conflicts_is_one_run(clause: str, together: bool) -> None:
    """As seeds of a lookup table are often written; another clause begins another run."""
    one, other = f"{INSERT % 1} {clause}", f"{INSERT % 2} {clause}"
    assert grouped(f"{one};\n{other}") == ([2] if together else [1, 1])
    assert grouped(f"{one};\n{other} /**/;\n{INSERT % 3}")[-1] == 1


def test_a_run_has_an_end() -> None:
    """By its number of statements, and by its length."""
    assert grouped(";\n".join(INSERT % number for number in range(runs.MOST_STATEMENTS * 2 + 1))) == [250, 250, 1]
    long = "INSERT INTO t (id, a) VALUES (1, '%s')" % ("x" * (runs.MOST_CHARACTERS // 2 - 100))
    assert grouped(";\n".join([long] * 3)) == [2, 1]


@pytest.mark.slow
def test_a_release_of_runs_goes_up_and_down(project: Project) -> None:
    """As many rows, triggers and captures as one by one; the plan shows a run as one, and takes it back as one."""
    written = [INSERT % number for number in range(600)]
    written[300:300] = ["INSERT INTO u (id, a) VALUES (1, 'ü;''');", "UPDATE u SET a = 'b'"]
    target = project(folder={"0001_m.sql": ";\n".join(written)})
    do(target, TABLES)
    done = rehearsed(target)
    (change,) = done.changes
    assert [step.statements for step in change.steps] == [250, 50, 1, 1, 250, 50]
    assert [numbers for numbers, _ in change.shown()] == [
        "1 to 250", "251 to 300", "301", "302", "303 to 552", "553 to 602",
    ]  # fmt: skip
    assert len(plan_views.statements(done.changes).rows) == 6
    with connect(target, purpose="test") as conn:
        pending = histories.read(conn, target).pending()
        ways = with_data.rehearse(target, pending, done, conn, most_bytes=2**40)
    assert [(s.plain.rows, s.safe.rows) for s in ways.trial.statements if s.plain and s.safe] == [
        (250, 250), (50, 50), (1, 1), (1, 1), (250, 250), (50, 50),
    ]  # fmt: skip
    execute(target, plan_of(target, done), "20261122T165431Z-release-demo-7f3a")
    assert rows(target, "SELECT count(*), sum(id) FROM t") == [(600, 599 * 300)]
    assert rows(target, "SELECT count(*), min(rows), max(rows) FROM log") == [(600, 1, 600)]
    assert rows(target, "SELECT * FROM u") == [(1, "b")]
    assert rows(target, "SELECT count(*) FROM pgrunbook.kept") == [(6,)]
    plan, _ = prepared(target)
    assert [step.gives_rows for _, step in plan.steps()] == [(6, 5, 4, 3, 2, 1)]
    execute(target, plan, "20261122T170000Z-rollback-demo-1b2c")
    assert rows(target, "SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM u)") == [(0, 0)]


@pytest.mark.slow
def test_a_run_that_is_captured_as_a_whole_shows_its_lock(project: Project) -> None:
    """The rows that it updates and inserts are captured once, and go back."""
    insert = f"{INSERT} ON CONFLICT (id) DO UPDATE SET a = excluded.a"
    target = project(folder={"0001_m.sql": ";\n".join(insert % number for number in range(7))})
    do(target, f"{TABLES} INSERT INTO t (id, a) VALUES (3, 'mine')")
    before = rows(target, "SELECT id, a FROM t ORDER BY id")
    plan = release(target)
    (step,) = plan.changes[0].steps
    assert step.statements == 7
    assert ("public.t", "ShareRowExclusiveLock") in [(lock.object, lock.mode) for lock in step.locks]
    assert len(rows(target, "SELECT FROM t")) == 7
    take_back(target)
    assert rows(target, "SELECT id, a FROM t ORDER BY id") == before


def test_the_secrets_of_a_run_are_hidden_and_found_again() -> None:
    """Each is masked in the text that is sent together, and comes back from the file alone."""
    row = "INSERT INTO users (id, name, password) VALUES (%d, 'n', 'hunter-%d-zz')"
    text = ";\n".join(row % (number, number) for number in range(1, 5))
    target = Target(name="demo", server="main", database="demo")
    change = build.as_written("0001_m", "a" * 64, "computed", statements.parse(text, "m.sql"), target)
    assert [step.statements for step in change.steps] == [4]
    base = Base(
        system_identifier="1", database="demo", server_version_num=180000, schema_fingerprint="",
        history_fingerprint="", version=None,
    )  # fmt: skip
    plan = Plan(direction="up", target="demo", base=base, attempts=3, rehearsed="no", changes=(change,))
    (masked,) = hidden(plan).changes
    assert "hunter" not in masked.model_dump_json()
    assert revealed(masked, [("m.sql", text)]) == change
    with pytest.raises(Refused, match="a secret of 0001_m is not the one"):
        revealed(masked, [("m.sql", text.replace("hunter-3", "hunter-9"))])


@pytest.mark.first_case
@pytest.mark.parametrize(
    ("wrong", "told"),
    [("(7, NULL)", 'null value in column "a"'), ("('x', 'a')", 'invalid input syntax for type integer: "x"')],
)
def test_an_error_in_a_run_names_its_lines(project: Project, wrong: str, told: str) -> None:
    """Of a run it says between which lines the statement stands, and changes nothing."""
    text = ";\n".join([INSERT % 1, INSERT % 2, f"INSERT INTO t (id, a) VALUES {wrong}", INSERT % 3])
    target = project(folder={"0001_m.sql": text})
    do(target, TABLES)
    error = error_of(lambda: rehearsed(target))
    start = "step 1 of 0001_m (INSERT; 0001_m.sql, one of lines 1 to 4) would fail: "
    assert error.message.startswith(start + told)
    assert rows(target, "SELECT count(*) FROM t") == [(0,)]
