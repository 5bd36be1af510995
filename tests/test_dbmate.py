"""dbmate's folders and table, executed for real, and both ways with the real dbmate."""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from budget import sample
from conftest import ROOT, Site, connect, do, rows, write_folder
from pgrunbook import history as histories
from pgrunbook.config.targets import Target
from pgrunbook.errors import Refused, WrongInput
from pgrunbook.history import History, State
from pgrunbook.history import dbmate as dbmate_files
from pgrunbook.plan.plan import Plan
from scenes import error_of, execute, plan_of

Project = Callable[..., Target]
BENCH = ROOT / "tests" / "bench"
PROGRAM = Path("node_modules") / "@dbmate" / "linux-x64" / "bin" / "dbmate"
STATE = "State: Nothing changed in the database."
VERSIONS = 'SELECT version FROM schema_migrations ORDER BY version COLLATE "C"'
ONE, TWO, SIX = "20260101000000_one", "20260102000000_two", "20260103000000_six"


def both(up: str, down: str = "", option: str = "") -> str:
    return f"-- migrate:up{option}\n{up}\n\n-- migrate:down{option}\n{down}\n"


FOLDER = {
    f"{ONE}.sql": both("CREATE TABLE a (id int, größe text);", "DROP TABLE a;"),
    f"{TWO}.sql": both("CREATE INDEX CONCURRENTLY a_id ON a (id);", "DROP INDEX a_id;", " transaction:false"),
    f"{SIX}.sql": both("CREATE TABLE c ();\nINSERT INTO a VALUES (1);", "DELETE FROM a;\nDROP TABLE c;"),
}


class Dbmate:
    """The real program, called as its users call it."""

    def __init__(self, program: Path) -> None:
        self.program = program

    def run(self, target: Target, *words: str, table: str = "") -> subprocess.CompletedProcess[str]:
        """Call it on the target's database and folder."""
        at = target.conninfo()
        url = f"postgres://postgres@/{at['dbname']}?socket={quote(at['host'])}&sslmode=disable"
        command = [self.program, "--url", url, "--migrations-dir", str(target.migrations), "--no-dump-schema"]
        command += ["--migrations-table", table] if table else []
        return subprocess.run([*command, *words], capture_output=True, text=True, check=False, cwd=target.migrations)

    def up(self, target: Target, table: str = "") -> list[str]:
        """Apply what is pending; return the files that it applied."""
        done = self.run(target, "up", table=table)
        assert done.returncode == 0, done.stderr
        return [line.split()[1] for line in done.stdout.splitlines() if line.startswith("Applying: ")]

    def status(self, target: Target, table: str = "") -> list[str]:
        """Return dbmate's list of files in its order: "[X] file" where it is applied."""
        done = self.run(target, "status", table=table)
        assert done.returncode == 0, done.stderr
        return [line for line in done.stdout.splitlines() if line.startswith("[")]


@pytest.fixture(scope="session")
def dbmate(site: Site) -> Dbmate:
    """The one that `make bench` has installed, or one of this session's own."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip("the npm package of dbmate that is pinned is for Linux on x86_64: the real dbmate is not asked")
    if (BENCH / PROGRAM).is_file():
        return Dbmate(BENCH / PROGRAM)
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed: the real dbmate is not asked")
    cache = site.state / "dbmate"
    cache.mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(BENCH / name, cache)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=cache, capture_output=True, text=True, check=False)
    if not (cache / PROGRAM).is_file():
        pytest.skip(f"npm could not install dbmate: {' '.join(done.stderr.split())[-200:]}")
    return Dbmate(cache / PROGRAM)


def read(target: Target) -> History:
    with connect(target, purpose="test") as conn:
        return histories.read(conn, target)


def states(target: Target) -> dict[str, State]:
    return {entry.name: entry.state for entry in read(target).entries}


def versions(target: Target) -> list[object]:
    return [version for (version,) in rows(target, VERSIONS)]


def tables(target: Target) -> set[object]:
    return {name for (name,) in rows(target, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}


def folder_of(target: Target) -> Path:
    assert target.migrations is not None
    return target.migrations


def newest_back(target: Target) -> Plan:
    """The plan that takes the newest migration back."""
    plan = plan_of(target, direction="down")
    return plan.model_copy(update={"changes": plan.changes[:1]})


def message_of(target: Target) -> str:
    error = error_of(lambda: read(target))
    assert isinstance(error, WrongInput)
    return str(error).replace(str(target.migrations), "FOLDER")


# -- the protocol, executed


@pytest.mark.slow
def test_there_and_back(project: Project) -> None:
    """Up records each version in the migration's own transaction, down takes back exactly one."""
    target = project(folder=FOLDER)
    found = read(target)
    assert (found.kind, found.exists, found.version()) == ("dbmate", False, None)
    assert (found.qualified_table, found.how_found) == (
        "public.schema_migrations",
        "dbmate's default; it does not exist yet",
    )
    execute(target)
    assert versions(target) == ["20260101000000", "20260102000000", "20260103000000"]
    found = read(target)
    assert (found.version(), found.pending(), found.problems()) == (SIX, [], [])
    assert found.how_found == "found in the database"
    execute(target, newest_back(target))
    assert states(target) == {ONE: State.APPLIED, TWO: State.APPLIED, SIX: State.PENDING}
    assert "c" not in tables(target)
    execute(target, plan_of(target, direction="down"))
    assert versions(target) == []
    assert "a" not in tables(target)


def test_a_migration_and_its_version_are_committed_in_one_transaction(project: Project) -> None:
    """So that neither is there without the other, also where dbmate would write them one by one."""
    text = both("CREATE TABLE a (id int);\nINSERT INTO a VALUES (1);", option=" transaction:false")
    target = project(folder={f"{ONE}.sql": text})
    execute(target)
    assert len(rows(target, "SELECT xmin::text FROM a UNION SELECT xmin::text FROM schema_migrations")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("option", ["", " transaction:true", " transaction:false"])
def test_what_cannot_run_in_a_transaction_runs_alone_with_or_without_the_option(project: Project, option: str) -> None:
    """The statement itself says that it has to; the option adds nothing."""
    text = both("CREATE TABLE a (id int);\nCREATE INDEX CONCURRENTLY ON a (id);", option=option)
    target = project(folder={f"{ONE}.sql": text})
    assert [segment.kind for segment in plan_of(target).changes[0].segments()] == ["together", "alone", "together"]
    execute(target)
    assert versions(target) == ["20260101000000"]


@pytest.mark.slow
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_statements_are_named_by_the_line_of_the_file(project: Project, end: str) -> None:
    """In both directions, so that an error points to where one looks."""
    text = "-- why\n\n-- migrate:up\nSELECT 1;\n\n--migrate:down\n-- back\nSELECT 2;\n"
    target = project(folder={})
    folder_of(target).mkdir()
    (folder_of(target) / f"{ONE}.sql").write_bytes(text.replace("\n", end).encode())
    assert [(step.sql, step.line) for _, step in plan_of(target).steps()] == [("SELECT 1", 4)]
    execute(target)
    assert [(step.sql, step.line) for _, step in plan_of(target, direction="down").steps()] == [("SELECT 2", 8)]
    [entry] = read(target).entries
    assert entry.migration is not None
    assert "SELECT 1" in entry.migration.sql
    assert "SELECT 2" not in entry.migration.sql
    assert entry.migration.down_path == entry.migration.path


@pytest.mark.parametrize("down", ["", "\n\n", "-- it cannot\n", "/* it /* really */ cannot */ ;\n"])
def test_an_empty_way_back_is_none(project: Project, down: str) -> None:
    """dbmate would take the row out and leave what was made."""
    target = project(folder={f"{ONE}.sql": both("CREATE TABLE a ();", down)})
    [migration] = read(target).pending()
    assert (migration.down_path, migration.down_sql) == (None, None)
    assert plan_of(target).changes[0].way_back == "computed"


def test_the_hash_is_that_of_the_whole_file(project: Project) -> None:
    """A file that is edited between the plan and its execution is not executed, whichever part was edited."""
    target = project(folder=FOLDER)
    plan = plan_of(target)
    file = folder_of(target) / f"{ONE}.sql"
    assert plan.changes[0].file_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    file.write_text(file.read_text().replace("DROP TABLE a", "DROP TABLE a CASCADE"))
    assert isinstance(error_of(lambda: execute(target, plan)), Refused)


def test_an_edit_of_an_applied_file_is_not_known(project: Project) -> None:
    """dbmate keeps a version and nothing else, and the entry says so."""
    target = project(folder={f"{ONE}.sql": FOLDER[f"{ONE}.sql"]})
    execute(target)
    file = folder_of(target) / f"{ONE}.sql"
    file.write_text(both("CREATE TABLE other ();"))
    file.rename(file.with_name("20260101000000_renamed.sql"))
    [entry] = read(target).entries
    assert (entry.name, entry.state, entry.content_known) == ("20260101000000_renamed", State.APPLIED, False)
    assert entry.applied is not None
    assert (entry.applied.hash, entry.applied.applied_at) == (None, None)


# -- the states


def test_an_older_one_that_came_later_is_out_of_order(project: Project) -> None:
    """It stops a migrate, as dbmate's --strict does, until the operator chooses to apply it."""
    target = project(folder={name: FOLDER[name] for name in (f"{ONE}.sql", f"{SIX}.sql")})
    execute(target)
    write_folder(folder_of(target), {f"{TWO}.sql": FOLDER[f"{TWO}.sql"]})
    found = read(target)
    assert [entry.state for entry in found.entries] == ["applied", "out_of_order", "applied"]
    [problem] = found.problems()
    assert problem.note == (
        "Older than 20260103000000_six, which is applied. dbmate applies it anyway (except with --strict), in "
        "another order than on a new database. Give it a new version, so that it is the newest, "
        "or apply it on purpose: -p out_of_order=true."
    )
    assert found.pending() == found.problems(out_of_order=True) == []
    assert [migration.name for migration in found.pending(out_of_order=True)] == [TWO]


def test_rows_without_a_file_are_missing_and_stand_in_their_place(project: Project) -> None:
    """dbmate does not look at them; here they stop a migrate."""
    target = project(folder={name: FOLDER[name] for name in (f"{ONE}.sql", f"{SIX}.sql")})
    do(target, "CREATE TABLE schema_migrations (version varchar PRIMARY KEY)")
    do(target, "INSERT INTO schema_migrations VALUES ('20260101000000'), ('20260102000000'), ('zero')")
    assert list(states(target).items()) == [
        (ONE, State.APPLIED),
        ("20260102000000", State.MISSING),
        (SIX, State.OUT_OF_ORDER),
        ("zero", State.MISSING),
    ]


def test_a_version_that_is_there_twice_is_taken_out_once(project: Project) -> None:
    """A table that was made by hand may have no primary key."""
    target = project(folder={f"{ONE}.sql": FOLDER[f"{ONE}.sql"]})
    do(target, "CREATE TABLE schema_migrations (version text)")
    do(target, "INSERT INTO schema_migrations VALUES ('20260101000000'), ('20260101000000')")
    found = read(target)
    assert [entry.state for entry in found.entries] == [State.APPLIED, State.DUPLICATE]
    with connect(target, purpose="test") as conn:
        assert conn.execute(*histories.unrecord(found, found.problems()[0])).rowcount == 1
    assert versions(target) == ["20260101000000"]


# -- which folder it is


def test_a_folder_of_dbmate_is_recognised_and_others_as_before(project: Project) -> None:
    """By a file with dbmate's own mark; a mark that dbmate does not see makes no folder of dbmate's."""
    kinds = {}
    for name, files in {
        "marked": {"1.sql": both("SELECT 1;"), "2_b.sql": both("SELECT 2;")},
        "plain": {"0001_a.sql": "SELECT '-- migrate:up', '\n-- migrate:down\n'"},
        "folders": {"20260101000000_a/migration.sql": "SELECT 1;"},
    }.items():
        kinds[name] = read(project(folder=files, name=name)).kind
    assert kinds == {"marked": "dbmate", "plain": "plain", "folders": "drizzle"}


def test_a_package_is_searched_where_dbmate_keeps_its_migrations(project: Project) -> None:
    """db/migrations is where dbmate looks when nobody tells it."""
    target = project(folder={f"db/migrations/{name}": text for name, text in FOLDER.items()})
    assert read(target).folder == folder_of(target) / "db" / "migrations"


def test_a_kind_that_is_named_counts(project: Project) -> None:
    """A folder of plain files that is said to be dbmate's is refused, not taken for another."""
    target = project(folder={"0001_a.sql": "SELECT 1;\n"}, history="dbmate")
    assert message_of(target) == (
        'FOLDER/0001_a.sql, line 1: the file has no "-- migrate:up"\n'
        "Detail: dbmate expects it at the beginning of a line, in lower case; the line is: 'SELECT 1;'\n"
        f"{STATE}\n"
        'Hint: Write "-- migrate:up" above the statements, and "-- migrate:down" above those that undo them.'
    )


# -- which table it is


@pytest.mark.slow
def test_the_table_is_in_the_first_schema_of_the_search_path(project: Project) -> None:
    """As dbmate has it; a named schema counts before that, and is made with the table."""
    target = project(folder=FOLDER)
    do(target, "CREATE SCHEMA app")
    do(target, f'ALTER DATABASE "{target.conninfo()["dbname"]}" SET search_path = app, public')
    assert read(target).qualified_table == "app.schema_migrations"
    named = target.model_copy(update={"history_schema": "Ops 50%x", "history_table": 'done"'})
    assert read(named).how_found == "named in targets.toml; it does not exist yet"
    execute(named)
    assert read(named).version() == SIX
    assert rows(named, 'SELECT count(*) FROM "Ops 50%x"."done"""') == [(3,)]
    execute(named, newest_back(named))
    assert read(named).version() == TWO
    assert not read(target).exists


def test_a_table_in_another_schema_has_to_be_told_apart(project: Project) -> None:
    """It may be dbmate's, by the search_path of its URL, or another product's."""
    target = project(folder=FOLDER)
    do(target, "CREATE SCHEMA auth CREATE TABLE schema_migrations (version varchar(255) PRIMARY KEY)")
    assert message_of(target) == (
        "cannot tell which history table to use: "
        "public.schema_migrations does not exist, but auth.schema_migrations does\n"
        "Detail: dbmate uses the search_path of its URL, which pgrunbook does not know; "
        "with the wrong table every migration would run again.\n"
        f"{STATE}\n"
        "Hint: Name the schema in targets.toml: "
        'history_schema = "public" starts a new history if the other table is not dbmate\'s.'
    )
    assert read(target.model_copy(update={"history_schema": "public"})).qualified_table == "public.schema_migrations"
    assert read(target.model_copy(update={"history_schema": "auth"})).exists
    do(target, "CREATE TABLE schema_migrations (version varchar PRIMARY KEY)")
    assert read(target).qualified_table == "public.schema_migrations"


def test_unknown_columns_are_refused(project: Project) -> None:
    """What another tool keeps under this name is not written to."""
    target = project(folder=FOLDER)
    do(target, "CREATE TABLE schema_migrations (version text, since date)")
    told = message_of(target).splitlines()
    assert told[0] == "cannot read the history table public.schema_migrations: its columns are unknown"
    assert told[1].endswith("; expected are dbmate's (version) of a type for text.")


def test_a_row_without_a_version_is_refused(project: Project) -> None:
    """Nobody can say what is applied by it."""
    target = project(folder=FOLDER)
    do(target, "CREATE TABLE schema_migrations (version text)")
    do(target, "INSERT INTO schema_migrations VALUES (NULL)")
    assert "with a version in every row" in message_of(target)


# -- what is refused of a file

UP, DOWN = "-- migrate:up\n", "-- migrate:down\n"
# A file, and the message for it; dbmate refuses each of these, too.
REFUSED = {
    "no up": (
        "SELECT 1;\n  -- Migrate:Up\nSELECT 1;\n-- migrate:down\n",
        (
            'FOLDER/2_b.sql, line 2: the file has no "-- migrate:up"\n'
            "Detail: dbmate expects it at the beginning of a line, in lower case; "
            "the line is: '  -- Migrate:Up'\n"
            f"{STATE}\n"
            'Hint: Write "-- migrate:up" above the statements, and "-- migrate:down" above those that undo them.'
        ),
    ),
    "byte order mark": (
        f"\ufeff{UP}SELECT 1;\n{DOWN}",
        (
            'FOLDER/2_b.sql, line 1: the file has no "-- migrate:up"\n'
            "Detail: dbmate expects it at the beginning of a line, in lower case; "
            "the line is: '\\ufeff-- migrate:up'\n"
            f"{STATE}\n"
            'Hint: Write "-- migrate:up" above the statements, and "-- migrate:down" above those that undo them.'
        ),
    ),
    "two ups": (
        f"{UP}SELECT 1;\n{DOWN}{UP}SELECT 2;\n{DOWN}",
        (
            'FOLDER/2_b.sql, line 4: a second "-- migrate:up"\n'
            "Detail: A file has one version, and dbmate cannot record two sections under it.\n"
            f"{STATE}\n"
            "Hint: Move the section into a migration of its own, or merge both sections."
        ),
    ),
    "two downs": (
        f"{UP}SELECT 1;\n{DOWN}SELECT 2;\n\n{DOWN}SELECT 3;\n",
        (
            'FOLDER/2_b.sql, line 6: a second "-- migrate:down"\n'
            "Detail: A file has one version, and dbmate cannot record two sections under it.\n"
            f"{STATE}\n"
            "Hint: Move the section into a migration of its own, or merge both sections."
        ),
    ),
    "no down": (
        f"-- why\n{DOWN}{UP}SELECT 1;\n",
        (
            'FOLDER/2_b.sql, line 3: no "-- migrate:down" follows "-- migrate:up"\n'
            "Detail: dbmate refuses a file without it.\n"
            f"{STATE}\n"
            'Hint: Add "-- migrate:down" at the end; leave it empty when there is no way back.'
        ),
    ),
    "SQL before": (
        f"-- why\n\nSET x.y = 1;\n{UP}SELECT 1;\n{DOWN}",
        (
            'FOLDER/2_b.sql, line 3: this line is before "-- migrate:up"\n'
            "Detail: dbmate allows only comments with -- there; the line is: SET x.y = 1;\n"
            f"{STATE}\n"
            'Hint: Move it below "-- migrate:up".'
        ),
    ),
    "a comment of C before": (
        f"/* why */\n{UP}SELECT 1;\n{DOWN}",
        (
            'FOLDER/2_b.sql, line 1: this line is before "-- migrate:up"\n'
            "Detail: dbmate allows only comments with -- there; the line is: /* why */\n"
            f"{STATE}\n"
            'Hint: Move it below "-- migrate:up".'
        ),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_dbmate_refuses_is_refused(project: Project, case: str) -> None:
    """With the file and the line, before anything is run."""
    text, message = REFUSED[case]
    assert message_of(project(folder={"1_a.sql": both("SELECT 1;"), "2_b.sql": text})) == message


@pytest.mark.first_case
@pytest.mark.parametrize("case", sample(REFUSED, 3))
def test_dbmate_refuses_it_too(project: Project, dbmate: Dbmate, case: str) -> None:
    """The rules are dbmate's, not ours."""
    done = dbmate.run(project(folder={"2_b.sql": REFUSED[case][0]}), "up")
    assert done.returncode != 0
    assert "dbmate " in done.stderr or "duplicate key" in done.stderr


@pytest.mark.parametrize(
    ("text", "line", "option"),
    [
        (both("SELECT 1;", option=" transaction:flase"), 1, "transaction:flase"),
        (f"-- why\n\n{UP}SELECT 1;\n-- migrate:down transaction:false foo:bar\n", 5, "foo:bar"),
    ],
)
def test_an_option_that_dbmate_would_pass_over_is_refused(project: Project, text: str, line: int, option: str) -> None:
    """Somebody wrote it on purpose, and dbmate would run the file as if it were not there."""
    assert message_of(project(folder={"1_a.sql": text})) == (
        f'FOLDER/1_a.sql, line {line}: unknown option "{option}"\n'
        "Detail: dbmate silently ignores it; the options are transaction:true and transaction:false.\n"
        f"{STATE}\n"
        "Hint: Correct or remove it."
    )


def test_two_files_of_one_version_are_refused(project: Project) -> None:
    """Only one of them could be recorded; the way back of plain folders is such a second file."""
    target = project(folder={"1_a.sql": both("SELECT 1;"), "10_b.sql": both(""), "1_a.down.sql": both("SELECT 2;")})
    assert message_of(target) == (
        "two migrations have the version 1\n"
        "Detail: FOLDER/1_a.down.sql and 1_a.sql; when one of them is applied, dbmate takes both for applied.\n"
        f"{STATE}\n"
        "Hint: Give the one that is not applied anywhere a version of its own."
    )


def test_a_file_that_dbmate_passes_over_is_a_note(project: Project) -> None:
    """But one whose name differs in its case only seems meant to be applied, and is refused."""
    files = {"1_a.sql": both("SELECT 1;"), "seed.sql": "SELECT 1;"}
    assert states(project(folder=files)) == {"1_a": State.PENDING, "seed.sql": State.LEFTOVER}
    assert message_of(project(folder=files | {"2_b.SQL": both("SELECT 1;")}, name="cased")) == (
        "FOLDER/2_b.SQL is named almost as a migration\n"
        "Detail: dbmate's migrations are named YYYYMMDDHHMMSS_name.sql; it ignores every other file.\n"
        f"{STATE}\n"
        "Hint: Rename it to the form YYYYMMDDHHMMSS_name.sql, or remove it from the folder."
    )


def test_an_empty_folder_is_refused(project: Project) -> None:
    """Another tool's layout that is said to be dbmate's holds nothing of dbmate's."""
    target = project(folder={"20260101000000_a/migration.sql": "SELECT 1;"}, history="dbmate")
    assert message_of(target) == (
        f"FOLDER holds no YYYYMMDDHHMMSS_name.sql\n{STATE}\nHint: Correct migrations in targets.toml."
    )


# -- both ways with the real dbmate

SHAPE = (
    "SELECT attname, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute"
    " WHERE attrelid = 'schema_migrations'::regclass AND attnum > 0"
    " UNION ALL SELECT conname, pg_get_constraintdef(oid), true FROM pg_constraint"
    " WHERE conrelid = 'schema_migrations'::regclass AND contype = 'p'"
)


def test_after_us_dbmate_finds_nothing_to_do(project: Project, dbmate: Dbmate) -> None:
    """And takes back what we applied as if it had done it."""
    target = project(folder=FOLDER)
    execute(target)
    assert dbmate.status(target) == [f"[X] {name}.sql" for name in (ONE, TWO, SIX)]
    assert dbmate.up(target) == []
    assert dbmate.run(target, "rollback").returncode == 0
    assert states(target) == {ONE: State.APPLIED, TWO: State.APPLIED, SIX: State.PENDING}


def test_after_dbmate_we_find_nothing_to_do(project: Project, dbmate: Dbmate) -> None:
    """And what we take back is pending for dbmate, which applies it again."""
    target = project(folder=FOLDER)
    assert dbmate.up(target) == list(FOLDER)
    found = read(target)
    assert (found.pending(), found.problems(), found.version()) == ([], [], SIX)
    execute(target, newest_back(target))
    assert dbmate.status(target) == [f"[X] {ONE}.sql", f"[X] {TWO}.sql", f"[ ] {SIX}.sql"]
    assert dbmate.up(target) == [f"{SIX}.sql"]
    assert read(target).pending() == []


def test_our_table_is_dbmates(project: Project, dbmate: Dbmate) -> None:
    """Type, key and the key's name."""
    ours, theirs = project(folder=FOLDER), project(folder=FOLDER, name="theirs")
    execute(ours)
    dbmate.up(theirs)
    assert rows(ours, SHAPE) == rows(theirs, SHAPE)
    assert versions(ours) == versions(theirs)


@pytest.mark.slow
def test_a_named_table_is_dbmates_too(project: Project, dbmate: Dbmate) -> None:
    """Its --migrations-table is our history_schema and history_table."""
    target = project(folder=FOLDER, history_schema="ops", history_table="done")
    execute(target)
    assert dbmate.up(target, table="ops.done") == []
    execute(target, newest_back(target))
    assert dbmate.up(target, table="ops.done") == [f"{SIX}.sql"]
    assert read(target).pending() == []


def test_the_order_is_dbmates(project: Project, dbmate: Dbmate) -> None:
    """By the names' bytes, in which 10_b comes before 1_a and 9_d, and 09_c is another version than 9_d."""
    names = ["1_a.sql", "10_b.sql", "09_c.sql", "9_d.sql", "4.sql", "20.plus.sql", "5_ü.sql", "3-x.sql"]
    target = project(folder={name: both("SELECT 1;") for name in names})
    ours = [f"[ ] {migration.path.name}" for migration in read(target).pending()]
    assert ours == dbmate.status(target)
    assert ours[:4] == ["[ ] 09_c.sql", "[ ] 10_b.sql", "[ ] 1_a.sql", "[ ] 20.plus.sql"]
    execute(target)
    assert dbmate.up(target) == []


def test_odd_files_are_cut_as_dbmate_cuts_them(project: Project, dbmate: Dbmate) -> None:
    """What either of us applies, the other finds applied, and the same tables are there."""
    files = {
        "1.sql": "--migrate:up\nCREATE TABLE a ();\n--\t migrate:down   \t\nDROP TABLE a;",
        "2_b.sql": "-- why\r\n\r\n-- migrate:up\r\nCREATE TABLE b ();\r\n-- migrate:down\r\nDROP TABLE b;\r\n",
        "3_c.sql": f"  -- a remark\n{DOWN}{UP}CREATE TABLE c ();\n  {UP}{DOWN}  {DOWN}DROP TABLE c;",
        "4_d.sql": f"{UP}-- migrate:upwards\nCREATE TABLE d ();\n{DOWN}-- migrate:downwards\n",
        "5_e.sql": f"{UP}{DOWN}",
        "6_f.sql": "-- migrate:up transaction:true\nCREATE TABLE f ();\n-- migrate:down\ttransaction:true",
    }
    ours, theirs = project(folder=files), project(folder=files, name="theirs")
    execute(ours)
    dbmate.up(theirs)
    assert tables(ours) == tables(theirs) == {"a", "b", "c", "d", "f", "schema_migrations"}
    assert dbmate.up(ours) == read(theirs).pending() == []


def test_a_file_with_other_line_ends_is_as_it_was(tmp_path: Path) -> None:
    """Its fingerprint is that of the whole file, with both sections."""
    text = "-- migrate:up\nCREATE TABLE a ();\n-- migrate:down\nDROP TABLE a;\n"
    found = {}
    for name, other in {"lf": text, "crlf": text.replace("\n", "\r\n"), "edited": text.replace(" a", " b")}.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "20260101_a.sql").write_bytes(other.encode())
        (found[name],) = dbmate_files.Dbmate().read_folder(folder)
    assert found["crlf"].as_it_was(found["lf"].fingerprint) is not None
    assert found["lf"].as_it_was(found["crlf"].fingerprint) is not None
    assert found["edited"].as_it_was(found["lf"].fingerprint) is None
