"""What a down script would lose, counted in the database before it is run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conftest import connect, do, rows
from pgrunbook.config.targets import Target
from pgrunbook.draft.build import as_written
from pgrunbook.sql import statements
from pgrunbook.undo_data.losses import Loss, losses
from returning import RELEASE, release, since, take_back
from scenes import session


def found(target: Target, script: str) -> list[tuple[str, int | None, str]]:
    """What the script would lose."""
    written = statements.parse(script, "m.sql")
    change = as_written("m", "f", "the migration itself", written, target)
    with connect(target, purpose="test") as conn:
        return [(loss.what, loss.holds, loss.unit) for loss in losses(conn, [change]) if isinstance(loss, Loss)]


def test_rows_and_values_are_counted(project: Callable[..., Target]) -> None:
    """Rows of tables, values of columns that are not NULL, also of quoted names and in schemas."""
    target = project(folder={})
    do(
        target,
        'CREATE SCHEMA s; CREATE TABLE s."A b" (n int, "M m" int); INSERT INTO s."A b" VALUES (1, 2), (3, NULL);'
        "CREATE TABLE e (n int)",
    )
    assert found(target, 'ALTER TABLE s."A b" DROP n, DROP COLUMN "M m"; DROP TABLE e, s."A b"; SELECT 1') == [
        ("s.A b.n", 2, "values"),
        ("s.A b.M m", 1, "values"),
        ("e", 0, "rows"),
        ("s.A b", 2, "rows"),
    ]
    assert found(target, 'TRUNCATE e, s."A b"') == [("e", 0, "rows"), ("s.A b", 2, "rows")]
    assert found(target, "DROP SCHEMA s CASCADE") == [("s.A b", 2, "rows")]


def test_what_is_not_there_holds_nothing(project: Callable[..., Target]) -> None:
    """A table, column or schema that is gone already is no loss."""
    target = project(folder={})
    do(target, "CREATE TABLE e (n int)")
    lost = found(target, "DROP TABLE gone, no.where; ALTER TABLE e DROP m; DROP SCHEMA no")
    assert [holds for _, holds, _ in lost] == [0, 0, 0]


@pytest.mark.slow
def test_what_cannot_be_counted_is_not_taken_for_nothing(project: Callable[..., Target]) -> None:
    """A locked table's rows are unknown, which is not none."""
    target = project(folder={})
    do(target, "CREATE TABLE e (n int)")
    with session(target, "LOCK TABLE e"):
        assert found(target, "DROP TABLE e") == [("e", None, "rows")]


def test_what_nothing_is_dropped_of_is_no_loss(project: Callable[..., Target]) -> None:
    """Indexes, views and new columns hold no rows."""
    assert found(project(folder={}), "DROP INDEX i; DROP VIEW v; ALTER TABLE a ADD n int") == []


def test_a_generated_column_holds_nothing_of_its_own(project: Callable[..., Target]) -> None:
    """Stored or virtual: its values are computed again."""
    target = project(folder={})
    do(target, "CREATE TABLE g (n int, s int GENERATED ALWAYS AS (n * 2) STORED); INSERT INTO g VALUES (1)")
    assert found(target, "ALTER TABLE g DROP s") == [("g.s", 0, "values")]
    with connect(target, purpose="test") as conn:
        is_newest = conn.info.server_version >= 180000
    if is_newest:
        do(target, "ALTER TABLE g ADD COLUMN v int GENERATED ALWAYS AS (n * 3) VIRTUAL")
        assert found(target, "ALTER TABLE g DROP v") == [("g.v", 0, "values")]


@pytest.mark.slow
def test_rows_of_a_table_that_is_parked_before_its_schema_goes_are_no_loss(project: Callable[..., Target]) -> None:
    """The migration made both; its way back captures the table, then drops the schema."""
    text = (
        'CREATE SCHEMA "S 1";\nCREATE TABLE "S 1"."T" (id int PRIMARY KEY, g int GENERATED ALWAYS AS (id * 2) STORED);'
    )
    target = project(folder={"0001_x.sql": text})
    release(target)
    do(target, 'INSERT INTO "S 1"."T" VALUES (1), (2)')
    effects = since(target)
    assert [(loss.what, loss.holds, bool(loss.kept_as)) for loss in effects.goes] == [('"S 1"."T"', 2, True)]
    take_back(target)
    release(target, run_id=RELEASE.replace("7f3a", "8888"))
    assert rows(target, 'SELECT g FROM "S 1"."T" ORDER BY id') == [(2,), (4,)]


@pytest.mark.slow
@pytest.mark.newest
def test_a_table_that_others_inherit_from_is_counted_by_itself(project: Callable[..., Target]) -> None:
    """The values of its children are captured, and counted, beside its own."""
    target = project(folder={"0001_a.sql": "ALTER TABLE top ADD COLUMN n integer"})
    do(target, "CREATE TABLE top (id integer PRIMARY KEY); CREATE TABLE kid (PRIMARY KEY (id)) INHERITS (top)")
    release(target)
    do(target, "INSERT INTO top VALUES (1, 1), (2, 2); INSERT INTO kid VALUES (1, 1)")
    assert [(loss.what, loss.holds) for loss in since(target).goes] == [("public.top.n", 2), ("public.kid.n", 1)]
