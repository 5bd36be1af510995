"""What a down script would lose, counted in the database before it is run."""

from __future__ import annotations

from collections.abc import Callable

from conftest import connect, do
from pgrunbook.config.targets import Target
from pgrunbook.draft.build import as_written
from pgrunbook.sql import statements
from pgrunbook.undo_data.losses import Loss, losses
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


def test_what_cannot_be_counted_is_not_taken_for_nothing(project: Callable[..., Target]) -> None:
    """A locked table's rows are unknown, which is not none."""
    target = project(folder={})
    do(target, "CREATE TABLE e (n int)")
    with session(target, "LOCK TABLE e"):
        assert found(target, "DROP TABLE e") == [("e", None, "rows")]


def test_what_nothing_is_dropped_of_is_no_loss(project: Callable[..., Target]) -> None:
    """Indexes, views and new columns hold no rows."""
    assert found(project(folder={}), "DROP INDEX i; DROP VIEW v; ALTER TABLE a ADD n int") == []
