"""Random releases on random schemas with rows, up and down: all is as it was, or it is said before anything changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, assume, event, given, settings
from hypothesis import strategies as st
from psycopg import sql

from budget import examples
from conftest import Site, connect, do
from pgrunbook.config import targets
from pgrunbook.config.targets import Target
from pgrunbook.database.schema_diff import diff
from pgrunbook.draft.expected_differences import is_declared
from pgrunbook.errors import RunbookError
from returning import everything, execute, plan_of, rehearsed, take_back
from scenes import RUN
from test_inverse_property import changes, schemas

Project = Callable[..., Target]

ROWS = st.sampled_from(
    (
        "UPDATE r SET b = coalesce(b, 0) + 1",
        "UPDATE r SET a = NULL WHERE id > 4",
        "DELETE FROM r WHERE \"C c\" > '3'",
        "DELETE FROM other WHERE id < 3",
        "INSERT INTO other (id, a) VALUES (50, 50)",
        "UPDATE parted SET b = 'z' WHERE id % 2 = 0",
        "INSERT INTO parted VALUES (77, 7, 'new')",
        "TRUNCATE parted",
    )
)


@pytest.fixture(scope="module")
def reader(site: Site) -> Iterator[None]:
    """The role that random statements name."""
    with site.server.connect() as conn:
        conn.execute("CREATE ROLE runbook_reader")
    yield
    with site.server.connect() as conn:
        conn.execute("DROP ROLE runbook_reader")


@pytest.mark.slow
@settings(
    max_examples=examples(2, 12),
    deadline=None,
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
    phases=[Phase.generate],  # an example takes seconds, and is small as it is
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(made=schemas(), statements=st.lists(st.one_of(changes, ROWS), min_size=1, max_size=5))
@pytest.mark.usefixtures("reader")
def test_random_releases_come_back_or_say_why_not(
    project: Project, site: Site, made: list[str], statements: list[str]
) -> None:
    """Each statement that the server takes is a migration of its own; what branches have proven holds on the target."""
    target = project(folder={}, name="demo", batch_rows=3)
    try:
        do(target, ";\n".join(made))
        assert target.migrations is not None
        target.migrations.mkdir()
        taken = _taken(target, statements)
        assume(taken)
        for number, statement in enumerate(taken, 1):
            (target.migrations / f"{number:04}_m.sql").write_text(statement)
        before, rows_before = everything(target)
        try:
            done = rehearsed(target)
        except RunbookError:
            event("told before the fact")
            assert everything(target) == (before, rows_before)
            return
        assert all(c.proof.proven or c.proof.says for c in done.changes)
        execute(target, plan_of(target, done), RUN)
        names = [c.migration for c in done.changes]
        unproven = [c.migration for c in done.changes if not c.proof.proven]
        wanted = names[names.index(unproven[-1]) + 1 :] if unproven else names
        middle = everything(target)
        with suppress(RunbookError):
            if not wanted:
                event("the last one has no way back, and says so")
                return
            take_back(target, *wanted)
        if everything(target) == middle:
            event("nothing to take back, or refused before anything changed")
            return
        event("some taken back" if unproven else "all taken back")
        if not unproven:
            after, rows_after = everything(target)
            differs = [each for c in done.changes for each in c.proof.differs]
            assert [d for d in diff(before, after) if not is_declared(d, differs)] == []
            assert rows_after == rows_before
    finally:
        _forget(site, target)


def _taken(target: Target, statements: list[str]) -> list[str]:
    """Return the statements that the server takes, one after the other; nothing of it stays."""
    found = []
    with connect(target, purpose="test") as conn, conn.transaction(force_rollback=True):
        for statement in statements:
            try:
                with conn.transaction():
                    conn.execute(statement.encode())
            except psycopg.Error:
                continue
            found.append(statement)
    return found


def _forget(site: Site, target: Target) -> None:
    """Let the next example declare its target anew."""
    targets.targets_file().unlink()
    assert target.migrations is not None
    shutil.rmtree(target.migrations)
    with site.server.connect() as conn:
        drop = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(str(target.database)))
        conn.execute(drop)
