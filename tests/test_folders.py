"""A folder of each tool, released, rolled back and released again; its rows are those that the tool would write."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from acting import run
from conftest import ROOT, connect, do, rows, write_folder
from pgrunbook import history as histories
from pgrunbook.config.targets import Target
from pgrunbook.errors import Refused, RunbookError, TargetBusy
from pgrunbook.history import History, State, flyway_rules
from pgrunbook.plan import plan as plans
from pgrunbook.review import review as reviews
from scenes import error_of, execute, plan_of

Project = Callable[..., Target]

# Five migrations, up and down.
STEPS = {
    "people": ("CREATE TABLE people (id int PRIMARY KEY, name text, age int);", "DROP TABLE people;"),
    "by_name": ("CREATE INDEX CONCURRENTLY people_name ON people (name);", "DROP INDEX people_name;"),
    "ada": ("INSERT INTO people VALUES (1, 'Ada', 36);", "DELETE FROM people WHERE id = 1;"),
    "years": ("ALTER TABLE people RENAME age TO years;", "ALTER TABLE people RENAME years TO age;"),
    "no_years": ("ALTER TABLE people DROP years;", "ALTER TABLE people ADD years int;"),
}
TITLES = list(STEPS)
LYING = ROOT / "tests" / "folders"
# What zlib's crc32 is of each, as Java's signed int.
CRC = {
    t: int.from_bytes(zlib.crc32(up.encode()).to_bytes(4, "big"), "big", signed=True) for t, (up, _) in STEPS.items()
}


@dataclass(frozen=True)
class Folder:
    """How a tool lays out the five: ``file`` makes the files of one, ``rows`` are what its table says after so many."""

    file: Callable[[int, str, str, str], dict[str, str]]
    query: str
    rows: Callable[[int], list[tuple[object, ...]]]
    name: Callable[[int, str], str]
    beside: dict[str, str] = field(default_factory=dict)
    down: bool = True
    finish: Callable[[dict[str, str]], dict[str, str]] = dict

    def files(self, count: int = 5) -> dict[str, str]:
        """Return the files of the first so many, path to text."""
        made = dict(self.beside)
        for number, (title, (up, down)) in enumerate(list(STEPS.items())[:count], 1):
            made |= self.file(number, title, up, down)
        return self.finish(made)

    @property
    def names(self) -> list[str]:
        """The names of the five, as the history has them."""
        return [self.name(number, title) for number, title in enumerate(TITLES, 1)]


def with_sum(files: dict[str, str]) -> dict[str, str]:
    """The files with Atlas' atlas.sum beside them."""
    lines, value = [], hashlib.sha256()
    for name, text in sorted(files.items()):
        value.update(name.encode() + text.encode())
        lines.append(f"{name} h1:{base64.b64encode(value.digest()).decode()}\n")
    return files | {"atlas.sum": f"h1:not-read=\n{''.join(lines)}"}


FOLDERS = {
    "atlas": Folder(
        lambda n, title, up, _: {f"2026010100000{n}_{title}.sql": f"-- {title}\n{up}\n"},
        "SELECT version, description, type, applied, total, execution_time > 0, error, error_stmt, length(hash),"
        " partial_hashes, operator_version LIKE 'pgrunbook %'"
        " FROM atlas_schema_revisions.atlas_schema_revisions ORDER BY version",
        lambda count: [
            (f"2026010100000{n}", title, 2, 1, 1, True, "", "", 44, None, True)
            for n, title in enumerate(TITLES[:count], 1)
        ],
        lambda n, title: f"2026010100000{n}_{title}",
        down=False,
        finish=with_sum,
    ),
    "golang-migrate": Folder(
        lambda n, title, up, down: {f"{n:06}_{title}.up.sql": up, f"{n:06}_{title}.down.sql": down},
        "SELECT version, dirty FROM schema_migrations",
        lambda count: [(count, False)],
        lambda n, title: f"{n:06}_{title}",
        {"go.mod": "require github.com/golang-migrate/migrate/v4 v4.18.1"},
    ),
    "flyway": Folder(
        lambda n, title, up, down: {f"V{n}_0__{title}.sql": up, f"U{n}_0__{title}.sql": down},
        "SELECT installed_rank, version, description, type, script, checksum, installed_by, execution_time >= 0,"
        " success FROM flyway_schema_history ORDER BY installed_rank",
        lambda count: [
            (n, f"{n}.0", title.replace("_", " "), "SQL", f"V{n}_0__{title}.sql", CRC[title], "postgres", True, True)
            for n, title in enumerate(TITLES[:count], 1)
        ],
        lambda n, title: f"V{n}_0__{title}",
    ),
    "goose": Folder(
        lambda n, title, up, down: {
            f"{n:05}_{title}.sql": f"-- +goose NO TRANSACTION\n-- +goose Up\n-- +goose StatementBegin\n{up}\n"
            f"-- +goose StatementEnd\n\n-- +goose Down\n{down}\n"
        },
        "SELECT version_id, is_applied FROM goose_db_version ORDER BY version_id",
        lambda count: [(n, True) for n in range(count + 1)],
        lambda n, title: f"{n:05}_{title}",
    ),
    "node-pg-migrate": Folder(
        lambda n, title, up, down: {
            f"170000000000{n}_{title}.sql": f"-- Up Migration\n{up}\n\n-- Down Migration\n{down}\n"
        },
        "SELECT name, run_on <= localtimestamp FROM pgmigrations ORDER BY run_on, id",
        lambda count: [(f"170000000000{n}_{title}", True) for n, title in enumerate(TITLES[:count], 1)],
        lambda n, title: f"170000000000{n}_{title}",
    ),
    "supabase": Folder(
        lambda n, title, up, _: {f"2026010100000{n}_{title}.sql": f"-- {title}\n{up}\nSELECT 'é';\n-- end\n"},
        "SELECT version, name, statements FROM supabase_migrations.schema_migrations ORDER BY version",
        lambda count: [
            (f"2026010100000{n}", title, [f"-- {title}\n{up.rstrip(';')}", "SELECT 'é'", "-- end"])
            for n, (title, (up, _)) in enumerate(list(STEPS.items())[:count], 1)
        ],
        lambda n, title: f"2026010100000{n}_{title}",
        down=False,
    ),
    "diesel": Folder(
        lambda n, title, up, down: {
            f"2026-01-01-00000{n}_{title}/up.sql": up,
            f"2026-01-01-00000{n}_{title}/down.sql": down,
        },
        "SELECT version, run_on <= localtimestamp FROM __diesel_schema_migrations ORDER BY version",
        lambda count: [(f"2026010100000{n}", True) for n in range(1, count + 1)],
        lambda n, title: f"2026-01-01-00000{n}_{title}",
    ),
    "sqlx": Folder(
        lambda n, title, up, down: {f"2026010100000{n}_{title}.up.sql": up, f"2026010100000{n}_{title}.down.sql": down},
        "SELECT version, description, success, encode(checksum, 'hex'), execution_time > 0 FROM _sqlx_migrations"
        " ORDER BY version",
        lambda count: [
            (20260101000000 + n, title.replace("_", " "), True, hashlib.sha384(up.encode()).hexdigest(), True)
            for n, (title, (up, _)) in enumerate(list(STEPS.items())[:count], 1)
        ],
        lambda n, title: f"2026010100000{n}_{title}",
        {"Cargo.toml": '[dependencies]\nsqlx = "0.8"\n'},
    ),
    "prisma": Folder(
        lambda n, title, up, down: {
            f"2026010100000{n}_{title}/migration.sql": up,
            f"2026010100000{n}_{title}/down.sql": down,
        },
        "SELECT length(id), checksum, migration_name, finished_at >= started_at, logs, rolled_back_at,"
        " applied_steps_count FROM _prisma_migrations ORDER BY migration_name",
        lambda count: [
            (36, hashlib.sha256(up.encode()).hexdigest(), f"2026010100000{n}_{title}", True, None, None, 1)
            for n, (title, (up, _)) in enumerate(list(STEPS.items())[:count], 1)
        ],
        lambda n, title: f"2026010100000{n}_{title}",
        {"migration_lock.toml": 'provider = "postgresql"\n'},
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


@pytest.mark.first_case
@pytest.mark.parametrize("tool", FOLDERS)
def test_released_rolled_back_and_released_again(project: Project, tool: str) -> None:
    """Each row is the tool's own, after each; and every migration has the name that the tool's users know."""
    folder = FOLDERS[tool]
    target = project(folder=folder.files(), history="auto" if folder.down else tool)
    found = read(target)
    assert (found.kind, found.exists, found.problems()) == (tool, False, [])
    assert found.recognised_by
    assert [m.name for m in found.pending()] == folder.names
    execute(target)
    assert rows(target, folder.query) == folder.rows(5)
    found = read(target)
    assert (found.pending(), found.problems(), found.version()) == ([], [], folder.names[-1])
    if not folder.down:
        with connect(target, purpose="test") as conn:
            assert [conn.execute(*histories.unrecord(found, e)).rowcount for e in found.applied()[3:]] == [1, 1]
        assert rows(target, folder.query) == folder.rows(3)
        assert [m.name for m in read(target).pending()] == folder.names[3:]
        return
    back(target, 2)
    assert rows(target, folder.query) == folder.rows(3)
    assert [m.name for m in read(target).pending()] == folder.names[3:]
    assert rows(target, "SELECT id, name FROM people") == [(1, "Ada")]
    execute(target)
    assert rows(target, folder.query) == folder.rows(5)
    back(target, 5)
    assert rows(target, folder.query) == (folder.rows(0) if tool != "golang-migrate" else [])
    assert rows(target, "SELECT to_regclass('people')") == [(None,)]


@pytest.mark.slow
@pytest.mark.parametrize("tool", FOLDERS)
def test_a_whole_release_of_each_tool(project: Project, tool: str) -> None:
    """Prepared, rehearsed with its ways back, accepted by the names of its own files, released and rolled back."""
    folder = FOLDERS[tool]
    target = project(folder=folder.files(3), history=tool)
    execute(target)
    write_folder(target.migrations, folder.files())
    made, code = run("prepare")
    assert code == 0, made.parts[-1].says
    gates = [gate.key for gate in plans.read(made.folder / "plan.json").gates()]
    assert {key.split(":")[0] for key in gates} >= set(folder.names[3:])
    done, code = run("migrate", accept=",".join(gates))
    assert code == 0, done.parts[-1].says
    assert rows(target, folder.query) == folder.rows(5)
    texts = [str(path) for path in sorted(target.migrations.rglob("*.sql")) if "down" not in path.name]
    told, _ = reviews.run([Path(text) for text in texts], target=None, fail_on="never", form="json")
    assert set(folder.names) <= {one["place"].split(":")[0] for one in json.loads(told)}


@pytest.mark.parametrize("tool", FOLDERS)
def test_the_folders_that_lie_here_are_the_five(tool: str) -> None:
    """As a person would look at them."""
    root = LYING / tool
    there = {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*") if path.is_file()}
    assert there == FOLDERS[tool].files()


@pytest.mark.slow
@pytest.mark.parametrize("tool", FOLDERS)
def test_status_review_release_rollback_and_release_of_each_folder(
    project: Project, tool: str, command: Callable[..., tuple[int, str, str]]
) -> None:
    """By the commands that a team types; the tool's rows are its own at each end."""
    folder = FOLDERS[tool]
    target = project(folder={}, history=tool)
    shutil.copytree(LYING / tool, target.migrations, dirs_exist_ok=True)
    assert " 5 " in command("status", "--target", "demo")[1]
    files = [str(path) for path in sorted(target.migrations.rglob("*.sql")) if not is_way_back(path)]
    code, out, err = command("review", *files, "--fail-on", "never")
    assert (code, "people" in out) == (0, True), err
    made, code = run("prepare")
    assert code == 0, made.parts[-1].says
    gates = ",".join(gate.key for gate in plans.read(made.folder / "plan.json").gates())
    for _ in range(2):
        done, code = run("release", accept=gates)
        assert code == 0, done.parts[-1].says
        assert rows(target, folder.query) == folder.rows(5)
        assert (read(target).pending(), read(target).problems()) == ([], [])
        taken, code = run("rollback", of_run=done.run_id)
        assert code == 0, taken.parts[-1].says
        assert rows(target, "SELECT to_regclass('people')") == [(None,)]
        assert len(read(target).pending()) == 5


def is_way_back(path: Path) -> bool:
    return "down" in path.name or path.name.startswith("U")


# -- what a team does between


def titled(files: dict[str, str], *titles: str) -> list[str]:
    """The names of the files of some of the five."""
    return [name for name in files if any(re.search(rf"[0-9]_+{title}(?=[./])", name) for title in titles)]


def renamed(files: dict[str, str]) -> dict[str, str]:
    ours = titled(files, "ada")
    return {name.replace("_ada", "_ada_new") if name in ours else name: text for name, text in files.items()}


def edited(files: dict[str, str]) -> dict[str, str]:
    return {name: text.replace("'Ada'", "'Ida'") for name, text in files.items()}


def without(*titles: str) -> Callable[[dict[str, str]], dict[str, str]]:
    def remove(files: dict[str, str]) -> dict[str, str]:
        gone = titled(files, *titles)
        return {name: text for name, text in files.items() if name not in gone}

    return remove


def squashed(files: dict[str, str]) -> dict[str, str]:
    """All five in the file of the last."""
    last = STEPS["no_years"][0]
    whole = "\n".join(up for up, _ in STEPS.values())
    return {name: text.replace(last, whole) for name, text in without(*TITLES[:4])(files).items()}


GOES_ON, BY_SUM = {"atlas", "goose", "diesel", "prisma"}, {"flyway", "sqlx", "prisma"}
DONE, GONE, EDIT, AGAIN = State.APPLIED, State.MISSING, State.EDITED, State.OUT_OF_ORDER


def seen(tool: str) -> dict[str, tuple[Callable[[dict[str, str]], dict[str, str]], list[State]]]:
    """What is done to a folder of five that are applied, and the states that the tool itself would see."""
    gone = State.ABSENT if tool in GOES_ON else GONE
    of_name = {"flyway": [EDIT], "prisma": [gone, AGAIN], "node-pg-migrate": [AGAIN, gone]}.get(tool, [DONE])
    edit = EDIT if tool in BY_SUM else DONE
    if tool == "golang-migrate":  # its one row knows of no other
        last, all_but_one, middle = [DONE] * 4 + [gone], [DONE], [DONE] * 4
    else:
        last, all_but_one, middle = [DONE] * 4 + [gone], [gone] * 4 + [edit], [DONE] * 2 + [gone] + [DONE] * 2
    return {
        "renamed": (renamed, [DONE] * 2 + of_name + [DONE] * 2),
        "edited": (edited, [DONE] * 2 + [edit] + [DONE] * 2),
        "one is gone": (without("ada"), middle),
        "the last is gone": (without("no_years"), last),
        "squashed": (squashed, all_but_one),
    }


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize("tool", FOLDERS)
def test_what_a_team_does_to_applied_files_is_seen_as_its_tool_sees_it(project: Project, tool: str) -> None:
    """And what the tool goes on with is released: a sixth behind the five, squashed or whole."""
    folder = FOLDERS[tool]
    target = project(folder=folder.files(), history=tool)
    execute(target)
    for done, (change, expected) in seen(tool).items():
        shutil.rmtree(target.migrations)
        files = change({name: text for name, text in folder.files().items() if name != "atlas.sum"})
        write_folder(target.migrations, folder.finish(files))
        assert (done, list(states(target).values())) == (done, expected)
        assert {one.state for one in read(target).problems()} == {*expected} & {GONE, EDIT, AGAIN}
        assert all(one.note for one in read(target).entries if one.state is not DONE)
    files = without(*TITLES[:4])({name: text for name, text in folder.files().items() if name != "atlas.sum"})
    sixth = folder.file(6, "six", "CREATE TABLE six (n int);", "DROP TABLE six;")
    shutil.rmtree(target.migrations)
    write_folder(target.migrations, folder.finish(files | sixth))
    if tool in GOES_ON | {"golang-migrate"}:
        execute(target)
        assert rows(target, "SELECT count(*) FROM six") == [(0,)]
        assert (read(target).pending(), read(target).problems()) == ([], [])
    else:
        assert read(target).problems()


@pytest.mark.slow
@pytest.mark.parametrize("tool", sorted(GOES_ON))
def test_what_lost_its_file_is_not_taken_back_and_the_way_is_told(project: Project, tool: str) -> None:
    """By number, and by name; nothing changed."""
    folder = FOLDERS[tool]
    target = project(folder=folder.files(), history=tool)
    execute(target)
    shutil.rmtree(target.migrations)
    files = without("no_years")({name: text for name, text in folder.files().items() if name != "atlas.sum"})
    write_folder(target.migrations, folder.finish(files))
    name = read(target).entries[-1].name
    for given in ({}, {"migration": name}):
        made, code = run("rollback", **given)
        assert (code, made.parts[-1].says) == (3, f"cannot take back {name}: its file is not in the folder")
    assert rows(target, folder.query) == folder.rows(5)


@pytest.mark.slow
@pytest.mark.first_case
@pytest.mark.parametrize("tool", FOLDERS)
def test_a_column_more_is_left_alone_and_one_that_asks_for_a_value_refused(project: Project, tool: str) -> None:
    """A newer version of the tool may have made it: that is told before anything runs."""
    folder = FOLDERS[tool]
    target = project(folder=folder.files(1), history=tool)
    execute(target)
    table = read(target).qualified_table
    do(target, f"ALTER TABLE {table} ADD more text, ADD checked text NOT NULL DEFAULT 'x'")
    write_folder(target.migrations, folder.files(2))
    execute(target)
    assert rows(target, folder.query) == folder.rows(2)
    do(target, f"ALTER TABLE {table} ALTER checked DROP DEFAULT")
    assert f"cannot write into the history table {table}: it has more columns than are known" in message_of(target)
    assert "A new row must name checked" in message_of(target)


@pytest.mark.slow
@pytest.mark.parametrize("tool", FOLDERS)
def test_a_folder_of_two_thousand_files_is_read_and_its_last_one_prepared(project: Project, tool: str) -> None:
    """With as many rows, each its own."""
    folder, files = FOLDERS[tool], dict(FOLDERS[tool].beside)
    for number in range(1, 2001):
        files |= folder.file(number, f"t{number}", f"CREATE TABLE t{number} (n int);", f"DROP TABLE t{number};")
    target = project(folder=folder.finish(files), history=tool)
    found = read(target)
    assert len(found.pending()) == 2000
    with connect(target) as conn, conn.transaction():
        for statement in histories.prepare_table(found):
            conn.execute(statement)
        for migration in found.pending()[:-1]:
            conn.execute(*histories.record(found, migration))
    assert [one.name for one in read(target).pending()] == [found.pending()[-1].name]
    made, code = run("prepare")
    assert code == 0, made.parts[-1].says


# -- golang-migrate


def test_a_dirty_version_is_told_with_the_way_out(project: Project) -> None:
    """golang-migrate itself refuses it, too."""
    target = project(folder=FOLDERS["golang-migrate"].files())
    do(target, "CREATE TABLE schema_migrations (version bigint PRIMARY KEY, dirty boolean NOT NULL)")
    do(target, "INSERT INTO schema_migrations VALUES (2, true)")
    error = error_of(lambda: read(target))
    assert isinstance(error, Refused)
    assert str(error) == (
        "the history table public.schema_migrations says that version 2 was not finished\n"
        "Detail: golang-migrate began it, and what it left in the database is not known.\n"
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
    target = project(folder=files, history="golang-migrate")
    assert [(m.name, m.down_sql) for m in read(target).pending()] == [("1_make", "DROP TABLE a;"), ("10_b", None)]
    write_folder(target.migrations, {"3_c.down.sql": "SELECT 1;"})
    assert message_of(target).startswith("FOLDER/3_c.down.sql undoes a version that no file applies\n")


def test_node_pg_migrate_orders_files_of_one_number_by_their_names(project: Project) -> None:
    """Two lines of work that began at the same time; its own order of names, where it is the same everywhere."""
    names = ["7_a2", "7_a-10b", "7-A10", "7_B", "12_x"]
    target = project(folder={f"{name}.sql": "SELECT 1;" for name in names}, history="node-pg-migrate")
    assert [m.name for m in read(target).pending()] == names


@pytest.mark.parametrize("others", [["7_é", "7_f"], ["7_a-b", "7_ab"]])
def test_files_of_one_number_in_no_certain_order_are_refused(project: Project, others: list[str]) -> None:
    """By letters that languages order differently, or by punctuation alone."""
    target = project(folder={f"{name}.sql": "SELECT 1;" for name in others}, history="node-pg-migrate")
    assert message_of(target).startswith("two migrations have the number 7\n")


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


# -- tools with checksums

CHECKSUMS = {
    "flyway": ("UPDATE flyway_schema_history SET success = false WHERE installed_rank = 2", "V2_0__by_name.sql"),
    "sqlx": ("UPDATE _sqlx_migrations SET success = false WHERE version = 20260101000002", "20260101000002"),
    "prisma": (
        "UPDATE _prisma_migrations SET finished_at = NULL WHERE migration_name = '20260101000002_by_name'",
        "20260101000002_by_name",
    ),
}


@pytest.mark.first_case
@pytest.mark.parametrize("tool", CHECKSUMS)
def test_a_file_that_was_changed_is_edited_and_what_was_not_finished_stops_us(project: Project, tool: str) -> None:
    """As it stops the tool itself."""
    folder = FOLDERS[tool]
    target = project(folder=folder.files())
    execute(target)
    changed = next(name for name in folder.files() if "people" in name and "down" not in name and name[0] != "U")
    write_folder(target.migrations, {changed: "CREATE TABLE people (id int);"})
    assert list(states(target).values()) == [State.EDITED, *[State.APPLIED] * 4]
    do(target, CHECKSUMS[tool][0])
    assert f"says that {CHECKSUMS[tool][1]} was not finished\n" in message_of(target)


def test_what_prisma_has_rolled_back_is_pending(project: Project) -> None:
    """Its row stays, and counts for nothing."""
    target = project(folder=FOLDERS["prisma"].files())
    execute(target)
    do(
        target,
        "UPDATE _prisma_migrations SET rolled_back_at = now(), finished_at = NULL WHERE migration_name LIKE '%5_%'",
    )
    assert [m.name for m in read(target).pending()] == ["20260101000005_no_years"]


def test_a_folder_of_prisma_for_another_database_is_refused(project: Project) -> None:
    """Its lock file names it."""
    target = project(folder=FOLDERS["prisma"].files() | {"migration_lock.toml": 'provider = "mysql"'})
    assert message_of(target).startswith(
        "the migrations of FOLDER are for mysql\nDetail: migration_lock.toml says so.\n"
    )


# -- Flyway


@pytest.mark.parametrize("text", ["CREATE TABLE a ();\n", "\ufeffCREATE TABLE a ();\r\n-- ü\n\n", "a\rb", ""])
def test_a_checksum_is_that_of_the_lines(text: str) -> None:
    """Line ends and a byte order mark count for nothing, so that git may change them."""
    value = 0
    for line in text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        value = zlib.crc32(line.encode(), value)
    assert flyway_rules.checksum(text) == (value if value < 2**31 else value - 2**32)


def test_versions_are_ordered_as_flyway_orders_them(project: Project) -> None:
    """By their parts; 1.0 is 1, and a file may lie below the folder."""
    names = ["V10__c.sql", "V9_1__b.sql", "V9.0__a.sql", "sub/V11__d.sql", "R__view.sql"]
    target = project(folder=dict.fromkeys(names, "SELECT 1;"))
    assert [m.name for m in read(target).pending()] == ["V9.0__a", "V9_1__b", "V10__c", "V11__d", "R__view"]
    execute(target)
    assert rows(target, "SELECT version, script FROM flyway_schema_history ORDER BY installed_rank") == [
        ("9.0", "V9.0__a.sql"),
        ("9.1", "V9_1__b.sql"),
        ("10", "V10__c.sql"),
        ("11", "sub/V11__d.sql"),
        (None, "R__view.sql"),
    ]
    write_folder(target.migrations, {"V9__z.sql": "SELECT 1;"})
    assert message_of(target).startswith("two migrations have the version (9,)\n")


@pytest.mark.slow
def test_a_repeatable_migration_runs_again_when_it_changes(project: Project) -> None:
    """After every version, and in no order with them."""
    view = "CREATE OR REPLACE VIEW v AS SELECT 1 AS a"
    target = project(folder={"V1__a.sql": "CREATE TABLE a ();", "R__v.sql": f"{view};"})
    execute(target)
    assert states(target) == {"V1__a": State.APPLIED, "R__v": State.APPLIED}
    write_folder(target.migrations, {"R__v.sql": f"{view}, 2 AS b;", "V2__b.sql": "CREATE TABLE b ();"})
    assert [m.name for m in read(target).pending()] == ["V2__b", "R__v"]
    execute(target)
    assert rows(target, "SELECT description, count(*) FROM flyway_schema_history GROUP BY 1 ORDER BY 1") == [
        ("a", 1),
        ("b", 1),
        ("v", 2),
    ]
    assert read(target).pending() == []


def test_what_is_not_after_the_baseline_is_taken_for_applied(project: Project) -> None:
    """And has no row to take back."""
    target = project(folder=FOLDERS["flyway"].files())
    with connect(target, purpose="test") as conn:
        for statement in histories.prepare_table(histories.read(conn, target)):
            conn.execute(statement)
    do(
        target,
        "INSERT INTO flyway_schema_history VALUES"
        " (1, '2', '<< Flyway Baseline >>', 'BASELINE', '<< Flyway Baseline >>', NULL, 'me', now(), 0, true)",
    )
    assert list(states(target).values()) == [*[State.APPLIED] * 2, *[State.PENDING] * 3]
    found = read(target)
    assert "baseline 2" in found.entries[0].note
    error = error_of(lambda: histories.unrecord(found, found.entries[0]))
    assert str(error).startswith('cannot remove "V1_0__people" from public.flyway_schema_history\n')


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        (
            "V6__f.sql",
            "SELECT 1;\nDROP TABLE ${schema}.a;",
            "FOLDER/V6__f.sql, line 2: ${schema} is a placeholder of Flyway",
        ),
        ("V6__f.sql.conf", "executeInTransaction=false", None),
        ("V1_0__people.sql.conf", "x", "FOLDER/V1_0__people.sql.conf changes how Flyway runs the file"),
        ("V6__F.java", "class F {}", "FOLDER/V6__F.java is a program, and only Flyway can run it"),
        ("V6_f.sql", "SELECT 1;", "FOLDER/V6_f.sql is named almost as a migration"),
        ("B6__f.sql", "SELECT 1;", "FOLDER/B6__f.sql is named almost as a migration"),
    ],
)
def test_what_only_flyway_can_run_is_refused(project: Project, file: str, text: str, says: str | None) -> None:
    """By the file's name."""
    target = project(folder=FOLDERS["flyway"].files() | {file: text})
    if says is None:
        assert read(target).problems() == []
    else:
        assert message_of(target).startswith(f"{says}\n")


def test_a_row_that_says_undone_makes_it_pending(project: Project) -> None:
    """As Flyway's own undo leaves it."""
    target = project(folder=FOLDERS["flyway"].files())
    execute(target)
    do(
        target,
        "INSERT INTO flyway_schema_history VALUES"
        " (6, '5.0', 'no years', 'UNDO_SQL', 'U5_0__no_years.sql', 1, 'me', now(), 0, true)",
    )
    assert [m.name for m in read(target).pending()] == ["V5_0__no_years"]


# -- goose


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("-- +goose Up\nSELECT 1;\n-- +goose Dwn\nSELECT 2;", "line 3: cannot read '-- +goose Dwn'"),
        ("-- +goose up\nSELECT 1;", "line 1: cannot read '-- +goose up'"),
        ("-- +goose Up\n-- +goose ENVSUB ON\nSELECT '${A}';", "line 2: cannot read '-- +goose ENVSUB ON'"),
        ("SELECT 1;\n-- +goose Down\n", 'line 2: goose expects one "-- +goose Up", and after it at most one'),
        ("-- +goose Up\n-- +goose Up\n", 'line 2: goose expects one "-- +goose Up"'),
    ],
)
def test_a_file_that_goose_would_read_otherwise_is_refused(project: Project, text: str, says: str) -> None:
    """By file and line."""
    target = project(folder=FOLDERS["goose"].files() | {"00006_f.sql": text})
    assert message_of(target).startswith(f"FOLDER/00006_f.sql, {says}")


def test_a_program_between_goose_files_is_refused(project: Project) -> None:
    """Only goose can run it; its tests are none."""
    target = project(folder=FOLDERS["goose"].files() | {"00003_f_test.go": "package m"})
    assert read(target).problems() == []
    write_folder(target.migrations, {"00006_f.go": "package m"})
    assert message_of(target).startswith("FOLDER/00006_f.go is a program, and only goose can run it\n")


# -- Atlas


def test_a_folder_that_does_not_agree_with_its_sum_is_refused(project: Project) -> None:
    """Every edit breaks it, of a name as of a text."""
    target = project(folder=FOLDERS["atlas"].files())
    execute(target)
    hashes = rows(target, "SELECT hash FROM atlas_schema_revisions.atlas_schema_revisions ORDER BY version")
    listed = (target.migrations / "atlas.sum").read_text().splitlines()[1:]
    assert [f"h1:{value}" for (value,) in hashes] == [line.split(" ")[1] for line in listed]
    write_folder(target.migrations, {"20260101000002_by_name.sql": "SELECT 1;"})
    assert message_of(target) == (
        "FOLDER does not agree with its atlas.sum\n"
        "Detail: The first difference is 20260101000002_by_name.sql: "
        "it was changed, added or removed after that was written.\n"
        "State: Nothing changed in the database.\n"
        'Hint: Bring the files back from git; where the change is meant, run "atlas migrate hash".'
    )


def test_a_directive_that_only_atlas_knows_is_refused(project: Project) -> None:
    """By file and line; its mode of transactions has no effect."""
    files = {"1_a.sql": "-- atlas:txmode none\n\nSELECT 1;"}
    assert read(project(folder=with_sum(files))).problems() == []
    files |= {"2_b.sql": "-- b\n-- atlas:delimiter \\n\\n\nSELECT 1;"}
    target = project(folder=with_sum(files), name="delimited")
    assert message_of(target).startswith("FOLDER/2_b.sql, line 2: atlas:delimiter is for Atlas only\n")
