"""Assertions of the operator: verify/*.sql beside the migrations, each a query that must return no row."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from acting import completed, error, events, outputs, run
from conftest import connect, do, rows, write_folder
from pgrunbook import history as histories
from pgrunbook.config.targets import Target
from pgrunbook.database import assertions, connection
from pgrunbook.database.assertions import Assertion, AssertionResult
from pgrunbook.errors import WrongInput
from pgrunbook.history import verify_folder
from scenes import session
from test_folders import FOLDERS

Project = Callable[..., Target]
TIMEOUT_MS = 20_000
NO_QUERY = "refused: it is no query that only reads: SELECT, VALUES, TABLE, or WITH and one of these"


@pytest.fixture
def target(project: Project) -> Target:
    """A database with a table, and functions that write, wait and signal."""
    target = project(folder={})
    do(target, """
        CREATE TABLE a (n int, t text); INSERT INTO a VALUES (1, 'x'), (2, NULL), (3, 'y'); CREATE SEQUENCE s;
        CREATE FUNCTION writes() RETURNS int LANGUAGE plpgsql AS $$
            BEGIN INSERT INTO a VALUES (9, 'by a function'); RETURN 1; END $$;
        CREATE FUNCTION opens() RETURNS int LANGUAGE plpgsql AS $$
            BEGIN SET LOCAL transaction_read_only = off; RETURN writes(); END $$;
        CREATE FUNCTION unbounded() RETURNS text LANGUAGE sql AS $$
            SELECT set_config('statement_timeout', '0', false) $$;
    """)  # fmt: skip
    return target


def checked(target: Target, text: str, timeout_ms: int = TIMEOUT_MS) -> AssertionResult:
    with connection.connect(target) as conn:
        return assertions.check(conn, Assertion("x.sql", text), timeout_ms=timeout_ms)


@pytest.mark.parametrize(
    "text",
    ["SELECT n FROM a WHERE n > 3", "-- none\nTABLE a LIMIT 0;\n-- end",
     "WITH b AS (SELECT 1 AS n) SELECT FROM b WHERE n = 2",
     "SELECT FROM a WHERE t LIKE '%s%'", "BEGIN; SELECT FROM a WHERE false; COMMIT;"],
)  # fmt: skip
def test_a_query_without_rows_holds(target: Target, text: str) -> None:
    """In any form of a query; its names are those of the target's session, for which public needs no naming."""
    assert checked(target, text).holds


def test_rows_are_counted_and_the_first_are_kept_as_the_server_writes_them(target: Target) -> None:
    """Of a million rows twenty come over."""
    found = checked(target, 'SELECT n, t, ARRAY[n] AS "A" FROM a ORDER BY n')
    assert (found.holds, found.rows, found.is_counted, found.columns) == (False, 3, True, ("n", "t", "A"))
    assert found.first == (("1", "x", "{1}"), ("2", "NULL", "{2}"), ("3", "y", "{3}"))
    found = checked(target, "SELECT * FROM generate_series(1, 1000000)")
    assert (found.rows, found.is_counted, len(found.first), found.why) == (1_000_000, True, 20, "")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "refused: it holds 0 statements, and an assertion is one query"),
        ("SELECT 1; SELECT 2", "refused: it holds 2 statements, and an assertion is one query"),
        ("DELETE FROM a", NO_QUERY),
        ("SELECT n INTO b FROM a", NO_QUERY),
        ("WITH gone AS (DELETE FROM a RETURNING n) SELECT FROM gone",
         NO_QUERY),
        ("SELECT pg_terminate_backend(1)", "refused: it ends what other sessions do (pg_terminate_backend)"),
        ("SELECT 1; COMMIT", 'refused: x.sql, line 1: a migration cannot hold BEGIN, COMMIT or ROLLBACK'),
        ("SELECT nextval('s')", "refused: cannot execute nextval() in a read-only transaction"),
        ("SELECT writes()", "refused: cannot execute INSERT in a read-only transaction; an assertion only reads"),
        ("SELECT n FROM a FOR UPDATE",
         "refused: cannot execute SELECT FOR UPDATE in a read-only transaction; an assertion only reads"),
        ("SELECT opens()", "could not be checked: transaction read-write mode must be set before any query"),
        ("SELECT FROM nowhere", 'could not be checked: relation "nowhere" does not exist'),
    ],
)  # fmt: skip
def test_what_is_no_query_or_writes_is_refused(target: Target, text: str, why: str) -> None:
    """By us where its text tells, else by the server, also where a function writes; and nothing is written."""
    found = checked(target, text)
    assert (found.holds, found.why[: len(why)]) == (False, why)
    assert rows(target, "SELECT count(*), (SELECT is_called FROM s) FROM a") == [(3, False)]


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("SELECT pg_sleep(60)", 0),
        ("WITH RECURSIVE n AS (SELECT 1 UNION ALL SELECT 1 FROM n) SELECT * FROM n", 20),
        ("SELECT unbounded() FROM a UNION ALL SELECT pg_sleep(60)::text FROM generate_series(1, 30)", 0),
    ],
)
def test_a_query_that_never_ends_is_named_with_its_limit(target: Target, text: str, seen: int) -> None:
    """Whatever its own text sets; what it had found by then is kept."""
    found = checked(target, text, 100)
    assert found.why == "could not be checked within 0.1 s: canceling statement due to statement timeout"
    assert (found.holds, found.rows, found.is_counted) == (False, seen, False)


def test_a_table_that_is_locked_is_told_as_such(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not wait for it for long."""
    monkeypatch.setattr(assertions, "READ_LOCK_TIMEOUT_MS", 50)
    with session(target, "LOCK TABLE a"):
        assert checked(target, "TABLE a").why == "could not be checked: canceling statement due to lock timeout"


@pytest.mark.first_case
@pytest.mark.parametrize("tool", ["plain", *FOLDERS])
def test_no_reader_takes_an_assertion_for_a_migration(project: Project, tool: str) -> None:
    """In the folder itself or next to it, and whatever its name looks like."""
    files = FOLDERS[tool].files() if tool in FOLDERS else {"0001_a.sql": "CREATE TABLE a ();"}
    target = project(folder=files, history=tool)
    with connect(target) as conn:
        before = histories.read(conn, target)
        assert verify_folder.assertions(before.folder) == []
        inside = {f"verify/{name.replace('/', '-')}": "SELECT 1 WHERE false" for name in files if name.endswith(".sql")}
        write_folder(target.migrations or Path(), {**inside, "../verify/b.sql": "SELECT 2", "../verify/read.me": ""})
        after = histories.read(conn, target)
    assert [(m.name, m.hash) for m in after.pending()] == [(m.name, m.hash) for m in before.pending()]
    assert [m.name for m in after.pending()]
    assert [a.name for a in verify_folder.assertions(after.folder)] == [*sorted(inside), "verify/b.sql"]


def test_what_is_no_file_is_refused(target: Target) -> None:
    """Nobody waits for a FIFO, and no link leads out of the folder."""
    folder = target.migrations or Path()
    write_folder(folder, {"0001_a.sql": "", "verify/a.sql": ""})
    os.mkfifo(folder / "verify" / "b.sql")
    with pytest.raises(WrongInput, match="It is no file"):
        verify_folder.assertions(folder)


@pytest.mark.slow
def test_assertions_are_tried_on_the_branch_behind_the_plan(project: Project) -> None:
    """So prepare tells what validate would say: of a column that only the plan makes, of rows that only it changes."""
    target = project(folder={
        "0001_a.sql": "ALTER TABLE t ADD COLUMN b int; UPDATE t SET b = a - 1",
        "verify/positive.sql": "SELECT a FROM t WHERE b < 1", "verify/known.sql": "SELECT a FROM t WHERE b IS NULL",
        "verify/writes.sql": "DELETE FROM t",
    })  # fmt: skip
    do(target, "CREATE TABLE t (a int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 40)")
    made, code = run("prepare", with_data="true")
    assert (code, completed(made)) == (0, True), error(made)
    told = outputs(made, "rehearse")
    assert re.search(r"verify/positive.sql +does not hold +1 row", told)
    assert re.search(r"verify/known.sql +holds", told)
    assert re.search(r"verify/writes.sql +does not hold +refused", told)
    assert "verify/positive.sql and verify/writes.sql did not hold on the branch" in outputs(made, "verdict")
    (event,) = events(made, "assertions-rehearsed")
    assert event["rows"] == {"verify/known.sql": 0, "verify/positive.sql": 1, "verify/writes.sql": 0}
    assert rows(target, "SELECT count(*) FROM t") == [(40,)]
