"""A folder of each tool, released, rolled back and released again; its rows are those that the tool would write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from conftest import connect, do, rows, write_folder
from pgrunbook import history as histories
from pgrunbook.config.targets import Target
from pgrunbook.errors import Refused, RunbookError, TargetBusy
from pgrunbook.history import History, State
from scenes import error_of, execute, plan_of

Project = Callable[..., Target]

# Five migrations, up and down.
STEPS = {
    "people": ("CREATE TABLE people (id int PRIMARY KEY, name text, age int);", "DROP TABLE people;"),
    "by_name": ("CREATE INDEX CONCURRENTLY people_name ON people (name);", "DROP INDEX people_name;"),
    "ada": ("INSERT INTO people VALUES (1, 'Ada', 36);", "DELETE FROM people WHERE id = 1;"),
    "years": ("ALTER TABLE people RENAME age TO years;", "ALTER TABLE people RENAME years TO age;"),
    "no_name": ("ALTER TABLE people DROP name;", "ALTER TABLE people ADD name text;"),
}
TITLES = list(STEPS)


@dataclass(frozen=True)
class Folder:
    """How a tool lays out the five: ``file`` makes the files of one, ``rows`` what its table then says, in order."""

    file: Callable[[int, str, str, str], dict[str, str]]
    query: str
    rows: list[tuple[object, ...]]
    after_two_back: list[tuple[object, ...]]
    names: list[str]
    options: dict[str, str] = field(default_factory=dict)

    def files(self, count: int = 5) -> dict[str, str]:
        """Return the files of the first so many, path to text."""
        made: dict[str, str] = {}
        for number, (title, (up, down)) in enumerate(list(STEPS.items())[:count], 1):
            made |= self.file(number, title, up, down)
        return made


FOLDERS = {
    "golang-migrate": Folder(
        lambda n, title, up, down: {f"{n:06}_{title}.up.sql": up, f"{n:06}_{title}.down.sql": down},
        "SELECT version, dirty FROM schema_migrations",
        [(5, False)],
        [(3, False)],
        [f"{n:06}_{title}" for n, title in enumerate(TITLES, 1)],
    ),
}


def read(target: Target) -> History:
    with connect(target, purpose="test") as conn:
        return histories.read(conn, target)


def states(target: Target) -> dict[str, State]:
    return {entry.name: entry.state for entry in read(target).entries}


def message_of(target: Target) -> str:
    error = error_of(lambda: read(target))
    assert isinstance(error, RunbookError)
    return str(error).replace(str(target.migrations), "FOLDER")


def back(target: Target, count: int) -> None:
    plan = plan_of(target, direction="down")
    execute(target, plan.model_copy(update={"changes": plan.changes[:count]}))


@pytest.mark.parametrize("tool", FOLDERS)
def test_released_rolled_back_and_released_again(project: Project, tool: str) -> None:
    """Each row is the tool's own, after each; and every migration has the name that the tool's users know."""
    folder = FOLDERS[tool]
    target = project(folder=folder.files())
    found = read(target)
    assert (found.kind, found.exists, found.problems()) == (tool, False, [])
    assert found.recognised_by
    assert [m.name for m in found.pending()] == folder.names
    execute(target)
    assert rows(target, folder.query) == folder.rows
    found = read(target)
    assert (found.pending(), found.problems(), found.version()) == ([], [], folder.names[-1])
    back(target, 2)
    assert rows(target, folder.query) == folder.after_two_back
    assert [m.name for m in read(target).pending()] == folder.names[3:]
    assert rows(target, "SELECT id, age FROM people") == [(1, 36)]
    execute(target)
    assert rows(target, folder.query) == folder.rows
    back(target, 5)
    assert rows(target, folder.query) == []
    assert rows(target, "SELECT to_regclass('people')") == [(None,)]


@pytest.mark.parametrize("tool", FOLDERS)
def test_what_the_tool_has_applied_is_not_applied_again(project: Project, tool: str) -> None:
    """A newer file is pending, and nothing else."""
    folder = FOLDERS[tool]
    target = project(folder=folder.files(3))
    execute(target)
    write_folder(target.migrations, folder.files())
    assert [m.name for m in read(target).pending()] == folder.names[3:]


# -- golang-migrate


def test_a_dirty_version_is_told_with_the_way_out(project: Project) -> None:
    """golang-migrate itself refuses it, too."""
    target = project(folder=FOLDERS["golang-migrate"].files())
    do(target, "CREATE TABLE schema_migrations (version bigint PRIMARY KEY, dirty boolean NOT NULL)")
    do(target, "INSERT INTO schema_migrations VALUES (2, true)")
    error = error_of(lambda: read(target))
    assert isinstance(error, Refused)
    assert str(error) == (
        "the history table public.schema_migrations is dirty at version 2\n"
        "Detail: golang-migrate began version 2 and did not finish it; what it left is not known.\n"
        "State: Nothing changed in the database.\n"
        'Hint: Finish or undo by hand what it left, then say so: "migrate force 2" where it is complete, '
        '"migrate force" with the version before where nothing of it is there.'
    )


def test_a_version_that_is_not_in_the_folder_is_missing(project: Project) -> None:
    """golang-migrate says that it finds no migration for it."""
    target = project(folder=FOLDERS["golang-migrate"].files())
    do(target, "CREATE TABLE schema_migrations (version bigint PRIMARY KEY, dirty boolean NOT NULL)")
    do(target, "INSERT INTO schema_migrations VALUES (7, false)")
    assert list(states(target).values()) == [*[State.APPLIED] * 5, State.MISSING]


def test_two_versions_in_a_table_for_one_are_refused(project: Project) -> None:
    """Nobody knows which of them counts."""
    target = project(folder=FOLDERS["golang-migrate"].files())
    do(target, "CREATE TABLE schema_migrations (version bigint PRIMARY KEY, dirty boolean NOT NULL)")
    do(target, "INSERT INTO schema_migrations VALUES (1, false), (2, false)")
    assert message_of(target).startswith("public.schema_migrations has 2 rows\n")


def test_a_down_file_may_have_another_title_and_alone_is_refused(project: Project) -> None:
    """Its number counts, as golang-migrate counts it."""
    files = {"1_make.up.sql": "CREATE TABLE a ();", "1_drop.down.sql": "DROP TABLE a;", "10_b.up.sql": "SELECT 1;"}
    target = project(folder=files)
    assert [(m.name, m.down_sql) for m in read(target).pending()] == [("1_make", "DROP TABLE a;"), ("10_b", None)]
    write_folder(target.migrations, {"3_c.down.sql": "SELECT 1;"})
    assert message_of(target).startswith("FOLDER/3_c.down.sql undoes a version that no file applies\n")


def test_while_the_tool_is_at_work_we_are_not(project: Project) -> None:
    """Its advisory lock is ours meanwhile, under both names that its programs give the database."""
    target = project(folder=FOLDERS["golang-migrate"].files())
    with connect(target, purpose="test") as ours, connect(target, purpose="test") as theirs:
        found = histories.read(ours, target)
        # GenerateAdvisoryLockId("shop", "public", "schema_migrations") of golang-migrate v4 for this database's name.
        with histories.tool_lock(ours, found, wait_s=0.1):
            held = theirs.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone()
            assert held == (2,)
            with pytest.raises(TargetBusy) as caught, histories.tool_lock(theirs, found, wait_s=0.1):
                pass
        assert caught.value.message == "golang-migrate is at work on this database"
        assert theirs.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone() == (0,)
