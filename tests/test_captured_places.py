"""What a release says where the server refuses what it reapplies."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conftest import do, rows
from pgrunbook.config.targets import Target
from pgrunbook.errors import StatementFailed
from returning import execute, plan_of, rehearsed, release, take_back

# ruff: noqa: E501 - one statement on a line, whatever its length

Project = Callable[..., Target]
AGAIN = "20261122T180000Z-release-demo-8888"

# What a captured row refers to is gone: the migration, and what a release says of the row.
GONE = {
    "a table": ("CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES parent);", "INSERT INTO c VALUES (10, 1), (20, 2)", "c"),
    "a key of two columns": ('CREATE TABLE c (id int, n int, p int, "q Q" text, PRIMARY KEY (id, n), FOREIGN KEY (p, "q Q") REFERENCES pair);', "INSERT INTO c VALUES (10, 1, 1, 'a, b'), (20, 2, 2, 'c, (d)=(e)')", "c"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize("case", GONE)
def test_a_captured_row_that_refers_to_what_is_gone_is_named(project: Project, case: str) -> None:
    """Where it lies, its key, and how to go on; when it is corrected there, the same release goes on."""
    made, rows_, name = GONE[case]
    target = project(folder={"0001_a.sql": made})
    do(target, "CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent VALUES (1), (2)")
    do(
        target,
        "CREATE TABLE pair (p int, q text, PRIMARY KEY (p, q)); INSERT INTO pair VALUES (1, 'a, b'), (2, 'c, (d)=(e)')",
    )
    release(target)
    do(target, rows_)
    take_back(target)
    do(target, "DELETE FROM parent WHERE id = 2; DELETE FROM pair WHERE p = 2")
    plan = plan_of(target, rehearsed(target))
    with pytest.raises(StatementFailed) as caught:
        execute(target, plan, AGAIN)
    ((there, number),) = rows(target, "SELECT kept_as, id FROM pgrunbook.kept")
    key = "id 20, n 2" if "two" in case else "id 20"
    assert f"It may be a row in pgrunbook.{there}, captured of public.{name} ({key})." in caught.value.detail
    assert f"by UPDATE or DELETE in pgrunbook.{there}; then " in caught.value.hint
    assert caught.value.hint.endswith(f"pgrunbook run purge --target demo -p ids={number} -p force=true.")
    do(target, f"DELETE FROM pgrunbook.{there} WHERE id = 20")
    execute(target, plan, AGAIN)
    assert rows(target, f"SELECT id FROM {name}") == [(10,)]


@pytest.mark.slow
def test_a_value_that_came_back_is_not_said_to_be_undone(project: Project) -> None:
    """The constraint behind it is refused: what is there stays, and is said to stay; the same run goes on."""
    target = project(folder={"0001_a.sql": "ALTER TABLE k ADD COLUMN p int REFERENCES parent;"})
    do(target, "CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent VALUES (1), (2)")
    do(target, "CREATE TABLE k (id int PRIMARY KEY); INSERT INTO k VALUES (1), (2)")
    release(target)
    do(target, "UPDATE k SET p = id")
    take_back(target)
    do(target, "DELETE FROM parent WHERE id = 2")
    plan = plan_of(target, rehearsed(target))
    with pytest.raises(StatementFailed) as caught:
        execute(target, plan, AGAIN)
    assert caught.value.state.startswith("Of 0001_a these steps are done and stay so: 1, 2, 3;")
    assert rows(target, "SELECT id, p FROM k ORDER BY id") == [(1, 1), (2, 2)]
    do(target, "INSERT INTO parent VALUES (2)")
    execute(target, plan, AGAIN)
    assert rows(target, "SELECT convalidated FROM pg_constraint WHERE conname = 'k_p_fkey'") == [(True,)]
