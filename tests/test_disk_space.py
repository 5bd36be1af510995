"""Room on the disk for what a plan builds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conftest import connect, do
from pgrunbook import history as histories
from pgrunbook.config.targets import Target
from pgrunbook.draft import disk_space, release
from pgrunbook.draft.disk_space import Need
from pgrunbook.errors import Refused

Project = Callable[..., Target]
MB = 1024 * 1024


def needs(target: Target) -> list[Need]:
    with connect(target) as conn:
        pending = histories.read(conn, target).pending()
        return disk_space.needs(conn, release.unproven(target, conn, pending, {}))


@pytest.mark.slow
def test_what_builds_an_index_or_writes_a_table_anew_needs_room(project: Project) -> None:
    """As much again as the table, and its WAL; what only writes the catalog needs none."""
    target = project(
        folder={
            "0001_a.sql": "ALTER TABLE a ADD m int;\nCREATE INDEX a_n ON a (n)",
            "0002_b.sql": "ALTER TABLE a ALTER COLUMN n TYPE bigint",
        }
    )
    do(target, "CREATE TABLE a (n int PRIMARY KEY, t text)")
    do(target, "INSERT INTO a SELECT i, repeat('x', 500) FROM generate_series(1, 5000) AS i")
    rewrite, *indexes = needs(target)
    assert (rewrite.migration, rewrite.step.kind) == ("0002_b", "UPDATE"), "all rows are written beside what they were"
    assert [index.migration for index in indexes] == ["0001_a", "0002_b"], "the index, and the key of the new column"
    assert {index.step.kind for index in indexes} <= {"CREATE INDEX CONCURRENTLY", "CREATE UNIQUE INDEX CONCURRENTLY"}
    assert rewrite.bytes > indexes[0].bytes >= indexes[1].bytes > 4 * MB


@pytest.mark.slow
def test_a_disk_that_is_too_small_is_refused_before_anything_is_tried(project: Project) -> None:
    """The error says which step, how much it may need, and how much there is."""
    target = project(folder={"0001_a.sql": "CREATE INDEX a_n ON a (n)"})
    do(target, "CREATE TABLE a (n int); INSERT INTO a SELECT generate_series(1, 50000)")
    found = needs(target)
    disk_space.refuse_without(found, 100 * MB)
    with pytest.raises(Refused) as caught:
        disk_space.refuse_without(found, MB)
    assert str(caught.value) == (
        "not enough disk for step 1 of 0001_a (CREATE INDEX CONCURRENTLY)\n"
        "Detail: It may need 4 MB at its peak (what it builds, and its WAL); free are 1 MB.\n"
        "State: Nothing changed in the database.\n"
        "Hint: Free space on the server's disk, then prepare again."
    )
