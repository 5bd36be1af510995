"""The registry of columns that live beside another until contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from conftest import connect, do
from pgrunbook.config.targets import Target
from pgrunbook.database import shadows, step_log
from pgrunbook.database.connection import Connection
from pgrunbook.database.schema import snapshot
from pgrunbook.database.schema_diff import diff
from pgrunbook.database.shadows import Shadow
from pgrunbook.draft.expected_differences import is_declared
from pgrunbook.plan.declared import Declared

Project = Callable[..., Target]
PAIR = Shadow("public", "Odd t", "new name", "old.name", "rename", "0001_a", "sync_0123456789abcdef")


@pytest.fixture
def conn(project: Project) -> Iterator[Connection]:
    """A database with a partitioned table that has both columns."""
    target = project(folder={})
    do(target, 'CREATE TABLE "Odd t" (id int, "new name" text) PARTITION BY LIST (id)')
    do(target, 'CREATE TABLE part PARTITION OF "Odd t" FOR VALUES IN (1)')
    with connect(target) as conn:
        yield conn


def test_a_shadow_is_there_from_its_entry_to_its_removal(conn: Connection) -> None:
    """Nobody needs to have the registry; an entry whose column is gone is no shadow."""
    assert shadows.read(conn) == []
    step_log.create(conn)
    assert shadows.read(conn) == []
    conn.execute(PAIR.entry().encode())
    assert shadows.read(conn) == []
    conn.execute('ALTER TABLE "Odd t" ADD COLUMN "old.name" text')
    (found,) = shadows.read(conn)
    assert (found.made_at is not None, found.label) == (True, 'public."Odd t"."old.name"')
    assert found.beside == 'public."Odd t"."new name"'
    assert shadows.of_column([found], "public", "Odd t", "new name") is found
    assert shadows.of_column([found], "public", "Odd t", "old.name") is found
    assert shadows.of_column([found], "public", "Odd t", "id") is None
    assert shadows.of_column([found], "public", "other", "old.name") is None
    conn.execute(found.removal().encode())
    assert shadows.read(conn) == []


def test_what_hangs_on_a_shadow_is_declared_and_nothing_else(conn: Connection) -> None:
    """The column, its indexes, checks and rights, also of partitions, by the names that a snapshot gives them."""
    step_log.create(conn)
    before = snapshot(conn)
    for statement in (
        'ALTER TABLE "Odd t" ADD COLUMN "old.name" text',
        'CREATE INDEX beside ON "Odd t" (lower("old.name"))',
        'ALTER TABLE "Odd t" ADD CONSTRAINT short CHECK (length("old.name") < 9)',
        'GRANT SELECT ("old.name") ON "Odd t" TO PUBLIC',
        PAIR.entry(),
    ):
        conn.execute(statement.encode())
    found = shadows.objects(conn, shadows.read(conn))
    declared = [Declared("until contract", one.name, "") for one in found]
    assert {one.shadow.label for one in found} == {PAIR.label}
    assert len(found) == 7
    assert [d for d in diff(before, snapshot(conn)) if not is_declared(d, declared)] == []
    assert [d for d in diff(snapshot(conn), before) if not is_declared(d, declared)] == []
    conn.execute('ALTER TABLE "Odd t" ADD COLUMN mine text; CREATE INDEX other ON "Odd t" (mine)')
    names = [d.name for d in diff(before, snapshot(conn)) if not is_declared(d, declared)]
    assert sorted(names) == [
        'public."Odd t".mine',
        'public."Odd t".other',
        "public.part.mine",
        "public.part.part_mine_idx",
    ]
