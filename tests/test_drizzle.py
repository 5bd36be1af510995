"""Drizzle's folders and tables, both ways with the real migrate() of drizzle-orm 0.45 and 1.0."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import random
import shutil
import string
import subprocess
from pathlib import Path

import pytest

from pgrunbook.database.connection import Connection
from pgrunbook.history import State
from pgrunbook.history.drizzle_folder import name_order
from pgrunbook.history.drizzle_states import Regime
from test_history import apply, conn, message_of, read, roll_back, states, write

__all__ = ["conn"]  # the fixture

PEER = Path(__file__).parent / "drizzle_peer"
LAYOUTS = pytest.mark.parametrize("major", ["0", "1"])
FIRST = "CREATE TABLE a (id int);--> statement-breakpoint\nCREATE TABLE b (größe text);"
TEXTS = {
    "20260101000000_one": FIRST,
    "20260102000000_two": "CREATE TABLE c ();",
    "20260103000000_six": "CREATE TABLE d ();",
}
NAMES = list(TEXTS)
DAY_MS = 86_400_000
FIRST_MS = 1_767_225_600_000  # 2026-01-01 00:00:00 UTC


@pytest.fixture(scope="session")
def drizzle() -> Path:
    """The real packages, installed once from the lock file."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed: the real Drizzle is not asked")
    with (PEER / "package.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # pytest-xdist starts several of us
        stamp = PEER / "node_modules" / ".package-lock.json"
        wanted = PEER / "package-lock.json"
        if not stamp.exists() or stamp.stat().st_mtime < wanted.stat().st_mtime:
            done = subprocess.run(
                ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
                cwd=PEER,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                pytest.skip(f"npm could not install drizzle-orm: {done.stderr.strip()[-200:]}")
    return PEER / "migrate.mjs"


def run_drizzle(script: Path, major: str, conn: Connection, folder: Path, table: str = "") -> list[str]:
    """Run Drizzle's own migrate(); return the statements beyond those that look after its table."""
    schema, name = table.split(".") if table else ("drizzle", "__drizzle_migrations")
    address = {"PGHOST": conn.info.host, "PGUSER": "postgres", "PGDATABASE": conn.info.dbname}
    done = subprocess.run(
        ["node", script, major, folder, schema, name],
        env=os.environ | address,
        capture_output=True,
        text=True,
        check=True,
    )
    own = ("create schema if not exists", "create table if not exists", "select", "begin", "commit")
    return [sent for sent in json.loads(done.stdout) if not sent.lower().startswith(own)]


def rows_of(conn: Connection, table: str = "drizzle.__drizzle_migrations") -> list[tuple[object, ...]]:
    """Every row and the sequence behind the ids."""
    sequence = conn.execute("SELECT pg_get_serial_sequence(%s, 'id')", (table,)).fetchone()[0]
    rows = conn.execute(f"SELECT * FROM {table} ORDER BY id").fetchall()
    return [*rows, *conn.execute(f"SELECT last_value, is_called FROM {sequence}").fetchall()]


def shape_of(conn: Connection, table: str = "drizzle.__drizzle_migrations") -> list[tuple[object, ...]]:
    columns = (
        "SELECT attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid) "
        "FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum "
        "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    )
    constraints = "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %s::regclass"
    return [row for query in (columns, constraints) for row in conn.execute(query, (table,))]


def folder_of(folder: Path, major: str, names: list[str] | None = None) -> Path:
    """The migrations of TEXTS in the layout of that Drizzle, times and names alike."""
    chosen = NAMES if names is None else names
    if major == "1":
        return write(folder, {f"{name}/migration.sql": TEXTS[name] for name in chosen})
    write(folder, {f"{name}.sql": TEXTS[name] for name in chosen})
    return journal_of(folder, [(name, FIRST_MS + NAMES.index(name) * DAY_MS) for name in chosen])


def journal_of(folder: Path, entries: list[tuple[str, int]]) -> Path:
    listed = [{"idx": n, "when": when, "tag": tag, "breakpoints": True} for n, (tag, when) in enumerate(entries)]
    return write(
        folder,
        {"meta/_journal.json": json.dumps({"version": "7", "dialect": "postgresql", "entries": listed})},
    )


def file_of(folder: Path, major: str, name: str) -> Path:
    return folder / name / "migration.sql" if major == "1" else folder / f"{name}.sql"


def version_0(conn: Connection, *rows: tuple[str, int | None]) -> None:
    """A table of three columns, with rows of (text of the migration, created_at)."""
    conn.execute(
        "CREATE SCHEMA drizzle CREATE TABLE __drizzle_migrations "
        "(id serial PRIMARY KEY, hash text NOT NULL, created_at bigint)"
    )
    for text, created_at in rows:
        conn.execute(
            "INSERT INTO drizzle.__drizzle_migrations (hash, created_at) VALUES (%s, %s)",
            (sha(text), created_at),
        )


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# Both ways with the real Drizzle


@pytest.mark.first_case
@LAYOUTS
def test_after_ours_drizzle_finds_nothing(drizzle: Path, conn: Connection, tmp_path: Path, major: str) -> None:
    """Its migrate() sends nothing and leaves the table as it is, row by row."""
    folder = folder_of(tmp_path, major)
    apply(conn, read(conn, folder))
    before = rows_of(conn)
    assert run_drizzle(drizzle, major, conn, folder) == []
    assert rows_of(conn) == before
    assert read(conn, folder).pending() == []


@pytest.mark.first_case
@LAYOUTS
def test_after_drizzle_we_find_nothing(drizzle: Path, conn: Connection, tmp_path: Path, major: str) -> None:
    """What it applied is applied for us, by its hash."""
    folder = folder_of(tmp_path, major)
    assert len(run_drizzle(drizzle, major, conn, folder)) == 4 + 3
    found = read(conn, folder)
    assert [(entry.state, entry.note) for entry in found.entries] == [(State.APPLIED, "")] * 3
    assert all(entry.content_known for entry in found.entries)
    assert found.version() == NAMES[-1]
    assert (found.entries[0].applied.applied_at is None) == (major == "0")


@pytest.mark.first_case
@LAYOUTS
def test_the_table_is_drizzles_own(drizzle: Path, conn: Connection, tmp_path: Path, major: str) -> None:
    """Table and rows that we write are those that it would have written."""
    folder = folder_of(tmp_path, major)
    run_drizzle(drizzle, major, conn, folder, "theirs.done")
    conn.execute("DROP TABLE a, b, c, d")
    apply(conn, read(conn, folder, history_schema="ours", history_table="done"))
    theirs, ours = (
        (shape_of(conn, f"{schema}.done"), [row[:4] for row in rows_of(conn, f"{schema}.done")])
        for schema in ("theirs", "ours")
    )
    assert str(theirs).replace("theirs", "ours") == str(ours)


@pytest.mark.slow
@pytest.mark.first_case
@LAYOUTS
def test_we_take_turns(drizzle: Path, conn: Connection, tmp_path: Path, major: str) -> None:
    """One migration by Drizzle, one by us, one by Drizzle."""
    folder = folder_of(tmp_path, major, NAMES[:1])
    run_drizzle(drizzle, major, conn, folder)
    folder_of(tmp_path, major, NAMES[:2])
    apply(conn, read(conn, folder))
    folder_of(tmp_path, major)
    assert run_drizzle(drizzle, major, conn, folder)[0] == TEXTS[NAMES[2]]
    assert set(states(read(conn, folder)).values()) == {State.APPLIED}


@pytest.mark.slow
@pytest.mark.first_case
@LAYOUTS
def test_after_a_rollback_both_find_it_pending(drizzle: Path, conn: Connection, tmp_path: Path, major: str) -> None:
    """The way back lies beside the migration, and Drizzle does not mind it."""
    folder = folder_of(tmp_path, major)
    down = f"{NAMES[2]}/down.sql" if major == "1" else f"{NAMES[2]}.down.sql"
    write(folder, {down: "DROP TABLE d"})
    run_drizzle(drizzle, major, conn, folder)
    found = read(conn, folder)
    roll_back(conn, found, found.entries[-1])
    assert [m.name for m in read(conn, folder).pending()] == NAMES[2:]
    assert run_drizzle(drizzle, major, conn, folder)[0] == TEXTS[NAMES[2]]


@pytest.mark.slow
@pytest.mark.first_case
@LAYOUTS
def test_out_of_order_is_an_error_and_can_be_applied_on_purpose(
    drizzle: Path, conn: Connection, tmp_path: Path, major: str
) -> None:
    """What Drizzle 0.x skips without a word; applied by us, it stays applied for Drizzle."""
    folder = folder_of(tmp_path, major, [NAMES[0], NAMES[2]])
    run_drizzle(drizzle, major, conn, folder)
    folder_of(tmp_path, major)
    if major == "0":
        assert run_drizzle(drizzle, major, conn, folder) == []

    found = read(conn, folder)

    assert states(found)[NAMES[1]] is State.OUT_OF_ORDER
    assert [entry.name for entry in found.problems()] == NAMES[1:2]
    assert ("silently skips it" if major == "0" else "applies it anyway") in found.problems()[0].note
    assert found.pending() == found.problems(out_of_order=True) == []
    apply(conn, found, found.pending(out_of_order=True))
    before = rows_of(conn)
    assert run_drizzle(drizzle, major, conn, folder) == []
    assert rows_of(conn) == before
    assert read(conn, folder).problems() == []


@pytest.mark.slow
@pytest.mark.first_case
@LAYOUTS
def test_edited_is_an_error(drizzle: Path, conn: Connection, tmp_path: Path, major: str) -> None:
    """Drizzle does not look at an applied file again; we do."""
    folder = folder_of(tmp_path, major)
    run_drizzle(drizzle, major, conn, folder)
    file_of(folder, major, NAMES[0]).write_text(FIRST + "\n")
    assert run_drizzle(drizzle, major, conn, folder) == []
    [problem] = read(conn, folder).problems()
    assert (problem.name, problem.state) == (NAMES[0], State.EDITED)
    assert problem.note == (
        f"Its file was changed after it was applied (sha256 {sha(FIRST)[:12]} then, "
        f"{sha(FIRST + chr(10))[:12]} now); Drizzle does not check. "
        "Bring the applied text back from git, and put the change into a new migration."
    )


@pytest.mark.first_case
@LAYOUTS
@pytest.mark.slow
def test_other_line_ends_or_a_byte_order_mark_are_no_edit(
    drizzle: Path, conn: Connection, tmp_path: Path, major: str
) -> None:
    """git may have written them; the real tool does not look, and what was applied is the same text."""
    folder = folder_of(tmp_path, major)
    variants = [FIRST.replace("\n", end) for end in ("\n", "\r\n", "\r")]
    variants += [f"\ufeff{text}" for text in variants]
    run_drizzle(drizzle, major, conn, folder)
    for text in variants:
        file_of(folder, major, NAMES[0]).write_bytes(text.encode())
        found = read(conn, folder)
        assert found.problems() == []
        told = "Only its line ends or its byte order mark are others than when it was applied."
        assert found.entries[0].note == ("" if text == FIRST else told)
        assert run_drizzle(drizzle, major, conn, folder) == []
    for text in variants:
        file_of(folder, major, NAMES[0]).write_bytes(f"{text}\n".encode())
        assert [entry.state for entry in read(conn, folder).problems()] == [State.EDITED]


@pytest.mark.slow
@pytest.mark.first_case
@LAYOUTS
def test_a_breakpoint_ends_a_statement_as_in_the_real_tool(
    drizzle: Path, conn: Connection, tmp_path: Path, major: str
) -> None:
    """Without a semicolon before it: Drizzle sends what stands between two of them."""
    folder = folder_of(tmp_path, major, NAMES[:1])
    text = "CREATE TABLE a (id int)\n--> statement-breakpoint\nCREATE TABLE b (id int)\n--> statement-breakpoint\n"
    file_of(folder, major, NAMES[0]).write_text(text)
    ours = [statement.sql for statement in read(conn, folder).pending()[0].statements()]
    theirs = [sent.strip() for sent in run_drizzle(drizzle, major, conn, folder) if "create table" in sent.lower()]
    assert ours == theirs == ["CREATE TABLE a (id int)", "CREATE TABLE b (id int)"]


@pytest.mark.slow
def test_a_renamed_folder_is_an_error_for_drizzle_would_run_it_again(
    drizzle: Path, conn: Connection, tmp_path: Path
) -> None:
    """Drizzle 1.0 knows a migration by its name only."""
    folder = folder_of(tmp_path, "1")
    run_drizzle(drizzle, "1", conn, folder)
    (folder / NAMES[2]).rename(folder / "20260104000000_new")
    found = read(conn, folder)
    assert [(e.name, e.state) for e in found.problems()] == [("20260104000000_new", State.EDITED)]
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run_drizzle(drizzle, "1", conn, folder)
    assert 'relation "d" already exists' in caught.value.stderr


@pytest.mark.slow
@pytest.mark.parametrize("moved_ms", [+DAY_MS, -DAY_MS // 2])
def test_a_new_time_in_the_journal_counts_where_drizzle_would_run_it_again(
    drizzle: Path, conn: Connection, tmp_path: Path, moved_ms: int
) -> None:
    """Later than all others it stops us; earlier, it is only told."""
    folder = folder_of(tmp_path, "0")
    run_drizzle(drizzle, "0", conn, folder)
    times = [FIRST_MS, FIRST_MS + DAY_MS, FIRST_MS + 2 * DAY_MS + moved_ms]
    journal_of(folder, list(zip(NAMES, times, strict=True)))
    entry = read(conn, folder).entries[2]
    assert "It was applied with the time" in entry.note
    if moved_ms > 0:
        assert entry.state is State.EDITED
        with pytest.raises(subprocess.CalledProcessError, match="migrate"):
            run_drizzle(drizzle, "0", conn, folder)
    else:
        assert entry.state is State.APPLIED
        assert run_drizzle(drizzle, "0", conn, folder) == []


@pytest.mark.slow
def test_a_table_of_the_betas_is_kept_until_drizzle_upgrades_it(
    drizzle: Path, conn: Connection, tmp_path: Path
) -> None:
    """Folders and three columns: our rows are matched by the upgrade of 1.0, and nothing is run again."""
    folder = folder_of(tmp_path, "1")
    version_0(conn, (FIRST, FIRST_MS + 254))
    conn.execute("CREATE TABLE a (); CREATE TABLE b ()")
    found = read(conn, folder)
    assert found.regime == Regime.TIMES
    assert [entry.state for entry in found.entries] == ["applied", "pending", "pending"]
    assert "beta.13 to beta.15 would run it again" in found.entries[0].note
    apply(conn, found)

    upgrade = run_drizzle(drizzle, "1", conn, folder)

    assert {statement.split()[0] for statement in upgrade} <= {"ALTER", "UPDATE"}
    found = read(conn, folder)
    assert found.regime == Regime.NAMES
    assert [(row.name, row.applied_at) for row in found.rows] == [(name, None) for name in NAMES]
    assert [entry.state for entry in found.entries] == ["applied"] * 3
    before = rows_of(conn)
    assert run_drizzle(drizzle, "1", conn, folder) == []
    assert rows_of(conn) == before


@pytest.mark.slow
def test_a_row_without_a_name_is_known_by_its_time_and_hash(drizzle: Path, conn: Connection, tmp_path: Path) -> None:
    """A Drizzle 0.x that went on after the upgrade leaves such rows, and 1.0 would run them again."""
    folder = folder_of(tmp_path, "1")
    run_drizzle(drizzle, "1", conn, folder)
    conn.execute("UPDATE drizzle.__drizzle_migrations SET name = NULL WHERE id = 3")
    found = read(conn, folder)
    assert [entry.state for entry in found.entries] == ["applied"] * 3
    assert found.entries[2].note == (
        "Its row 3 has no name, so Drizzle 1.0 would run it again. Set name to '20260103000000_six' there."
    )
    with pytest.raises(subprocess.CalledProcessError):
        run_drizzle(drizzle, "1", conn, folder)


@pytest.mark.slow
def test_names_are_ordered_as_javascript_does(drizzle: Path) -> None:
    """Folders of one second are applied in the order of localeCompare."""
    chance = random.Random(7)  # noqa: S311
    signs = string.ascii_letters + string.digits + string.punctuation + "aAbB__-- "
    names = sorted({"".join(chance.choices(signs, k=chance.randint(1, 6))) for _ in range(400)})
    script = "console.log(JSON.stringify(JSON.parse(process.argv[1]).sort((a, b) => a.localeCompare(b))))"
    done = subprocess.run(
        ["node", "-e", script, json.dumps(names)],
        cwd=drizzle.parent,
        check=True,
        capture_output=True,
        text=True,
    )
    assert sorted(names, key=name_order) == json.loads(done.stdout)


# States that need no Drizzle


@pytest.mark.first_case
@LAYOUTS
def test_a_row_without_a_file_is_missing(conn: Connection, tmp_path: Path, major: str) -> None:
    """It stands where it would be, and Drizzle says nothing of it."""
    apply(conn, read(conn, folder_of(tmp_path / "all", major)))
    found = read(conn, folder_of(tmp_path / "less", major, [NAMES[0], NAMES[2]]))
    name = NAMES[1] if major == "1" else "row 2 of 2026-01-02 00:00:00 UTC"
    assert [(entry.name, entry.state) for entry in found.entries] == [
        (NAMES[0], State.APPLIED),
        (name, State.MISSING),
        (NAMES[2], State.APPLIED),
    ]
    assert not found.entries[1].content_known
    roll_back(conn, found, found.entries[1])
    assert len(rows_of(conn)) == 2 + 1


@pytest.mark.first_case
@LAYOUTS
def test_a_second_row_is_a_duplicate(conn: Connection, tmp_path: Path, major: str) -> None:
    """One row counts, the other can be taken out alone."""
    folder = folder_of(tmp_path, major)
    apply(conn, read(conn, folder))
    name = ", name" if major == "1" else ""
    conn.execute(
        f"INSERT INTO drizzle.__drizzle_migrations (hash, created_at{name}) "
        f"SELECT hash, created_at{name} FROM drizzle.__drizzle_migrations WHERE id = 1"
    )
    found = read(conn, folder)
    assert [entry.state for entry in found.entries] == ["applied", "duplicate", "applied", "applied"]
    [problem] = found.problems()
    assert problem.note == (
        "Recorded twice, in rows 1 and 4: it may have run twice. Check what it did to the database, then delete row 4."
    )
    roll_back(conn, found, problem)
    assert read(conn, folder).problems() == []


def test_rows_of_the_journal_and_of_the_folder_are_one_migration(conn: Connection, tmp_path: Path) -> None:
    """beta.13 to beta.15 ran all again after "drizzle-kit up": milliseconds and seconds of one time."""
    folder = folder_of(tmp_path, "1", NAMES[:1])
    version_0(conn, (FIRST, FIRST_MS + 254), (FIRST, FIRST_MS))
    assert [entry.state for entry in read(conn, folder).entries] == ["applied", "duplicate"]


def test_equal_texts_are_told_apart_by_their_time(conn: Connection, tmp_path: Path) -> None:
    """Custom migrations are often left empty: a hash alone does not say which one is applied."""
    folder = write(tmp_path, {f"2026010{day}000000_empty/migration.sql": "-- empty" for day in (1, 2, 3)})
    version_0(conn, ("-- empty", FIRST_MS + DAY_MS))
    assert [entry.state for entry in read(conn, folder).entries] == ["out_of_order", "applied", "pending"]


def test_the_journals_times_count_to_the_millisecond(conn: Connection, tmp_path: Path) -> None:
    """Two generated in one second are two migrations."""
    folder_of(tmp_path, "0", NAMES[:2])
    journal_of(tmp_path, [(NAMES[0], FIRST_MS + 1), (NAMES[1], FIRST_MS + 2)])
    version_0(conn, ("another text", FIRST_MS + 2))
    assert [entry.state for entry in read(conn, tmp_path).entries] == ["out_of_order", "edited"]


@pytest.mark.slow
def test_one_of_the_same_time_as_the_newest_is_skipped_too(drizzle: Path, conn: Connection, tmp_path: Path) -> None:
    """Drizzle 0.x applies what is later than its newest row, and nothing else."""
    folder = journal_of(folder_of(tmp_path, "0", NAMES[:2]), [(NAMES[0], FIRST_MS)])
    (folder / f"{NAMES[1]}.sql").rename(tmp_path / "later")
    run_drizzle(drizzle, "0", conn, folder)
    (tmp_path / "later").rename(folder / f"{NAMES[1]}.sql")
    journal_of(folder, [(NAMES[0], FIRST_MS), (NAMES[1], FIRST_MS)])
    assert run_drizzle(drizzle, "0", conn, folder) == []
    assert [entry.state for entry in read(conn, folder).entries] == ["applied", "out_of_order"]


def test_a_row_without_a_time_is_told(conn: Connection, tmp_path: Path) -> None:
    """Sorted first by "desc", it makes Drizzle 0.x run everything again."""
    folder = folder_of(tmp_path, "0", NAMES[:1])
    version_0(conn, (FIRST, None))
    [entry] = read(conn, folder).entries
    assert (entry.state, "Drizzle would run every migration again" in entry.note) == (State.APPLIED, True)


def test_times_are_the_watermark_of_the_betas(conn: Connection, tmp_path: Path) -> None:
    """Folders with a table of three columns: what is older than the newest row is out of order."""
    folder = folder_of(tmp_path, "1")
    version_0(conn, (TEXTS[NAMES[1]], FIRST_MS + DAY_MS))
    found = read(conn, folder)
    assert [entry.state for entry in found.entries] == ["out_of_order", "applied", "pending"]
    assert "Drizzle before 1.0.0-beta.13 silently skips it" in found.entries[0].note


# Where the table is


@pytest.mark.slow
def test_the_table_is_found_where_it_is(drizzle: Path, conn: Connection, tmp_path: Path) -> None:
    """Zeitwork's is in public; after a change of its configuration there may be two."""
    folder = folder_of(tmp_path, "1")
    run_drizzle(drizzle, "1", conn, folder, "public.__drizzle_migrations")
    found = read(conn, folder)
    assert (found.qualified_table, found.how_found) == (
        "public.__drizzle_migrations",
        "found in the database",
    )
    conn.execute("CREATE SCHEMA drizzle CREATE TABLE __drizzle_migrations (LIKE public.__drizzle_migrations)")
    assert "found 2 history tables" in message_of(conn, folder)
    assert read(conn, folder, history_schema="public").pending() == []
    write(tmp_path, {"drizzle.config.ts": "export default { out: '.', migrations: { schema: 'public' } }"})
    assert read(conn, folder).qualified_table == "public.__drizzle_migrations"


@pytest.mark.parametrize(
    ("out", "expected"),
    [("./src/db/deep/sql", "ops.__drizzle_migrations"), ("./x", "drizzle.__drizzle_migrations")],
)
def test_a_configuration_belongs_to_the_folder_that_it_writes(
    conn: Connection, tmp_path: Path, out: str, expected: str
) -> None:
    """It may lie far above; one of another application does not count."""
    folder = folder_of(tmp_path / "src" / "db" / "deep" / "sql", "1")
    write(tmp_path, {"drizzle.config.ts": f"export default {{ out: '{out}', migrations: {{ schema: 'ops' }} }}"})
    assert read(conn, folder).qualified_table == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            'migrations: { // table: "no"\n table: "done", schema: "ops" }, dbCredentials: { url: "a://b" }',
            "ops.done",
        ),
        ("migrations: { schema: 'ops' }", "ops.__drizzle_migrations"),
        ('out: "./migrations", /* migrations: { schema: "no" } */', "drizzle.__drizzle_migrations"),
    ],
)
def test_the_table_to_be_is_named_by_the_configuration(
    conn: Connection, tmp_path: Path, text: str, expected: str
) -> None:
    """Read as text, comments left out."""
    folder = folder_of(tmp_path / "migrations", "1")
    write(tmp_path, {"drizzle.config.ts": f"export default defineConfig({{ {text} }})"})
    found = read(conn, folder)
    named = "Drizzle's default" if expected.startswith("drizzle.") else "named in drizzle.config.ts"
    assert (found.qualified_table, found.how_found) == (expected, f"{named}; it does not exist yet")
    apply(conn, found)
    assert read(conn, folder).qualified_table == expected


def test_a_named_table_may_have_any_name(conn: Connection, tmp_path: Path) -> None:
    """Quotes and per cent signs do no harm."""
    folder, named = folder_of(tmp_path, "1"), {"history_schema": "50%s", "history_table": 'a "b" %'}
    apply(conn, read(conn, folder, **named))
    found = read(conn, folder, **named)
    roll_back(conn, found, found.entries[2])
    assert len(read(conn, folder, **named).pending()) == 1


def test_a_configuration_that_computes_the_name_is_refused(conn: Connection, tmp_path: Path) -> None:
    """It is a program, and we do not run it: the target has to name the table."""
    folder = folder_of(tmp_path / "migrations", "1")
    write(tmp_path, {"drizzle.config.ts": "export default { migrations: { schema: process.env.SCHEMA } }"})
    assert message_of(conn, folder).replace(str(tmp_path), "PACKAGE") == (
        "cannot read the name of the history table from PACKAGE/drizzle.config.ts\n"
        "Detail: The database has none yet, and the configuration computes its name; pgrunbook does not run it.\n"
        "State: Nothing changed in the database.\n"
        "Hint: Name it in targets.toml: history_schema and history_table."
    )
    named = read(conn, folder, history_schema="ops", history_table="done")
    assert (named.qualified_table, named.how_found) == (
        "ops.done",
        "named in targets.toml; it does not exist yet",
    )


def test_a_configuration_that_contradicts_the_database_is_refused(conn: Connection, tmp_path: Path) -> None:
    """Drizzle would make a second table there, and run everything again."""
    folder = folder_of(tmp_path / "migrations", "1")
    apply(conn, read(conn, folder))
    write(tmp_path, {"drizzle.config.ts": 'export default { migrations: { schema: "public" } }'})
    assert message_of(conn, folder).replace(str(tmp_path), "PACKAGE") == (
        "PACKAGE/drizzle.config.ts names a history table that does not exist\n"
        "Detail: public.__drizzle_migrations does not exist; the database has drizzle.__drizzle_migrations. "
        "If that belongs to this folder, Drizzle would run every migration again.\n"
        "State: Nothing changed in the database.\n"
        "Hint: Correct the configuration, or name the right table in targets.toml: "
        "history_schema and history_table."
    )
    assert read(conn, folder, history_schema="drizzle").pending() == []


# What is refused


@pytest.mark.parametrize("columns", ["id int, hash text", "id int, hash text, created_at timestamptz"])
def test_unknown_columns_are_refused(conn: Connection, tmp_path: Path, columns: str) -> None:
    """They are listed, for it may be another tool's table."""
    conn.execute(f"CREATE TABLE __drizzle_migrations ({columns})")
    told = message_of(conn, folder_of(tmp_path, "0")).splitlines()
    assert told[0] == "cannot read the history table public.__drizzle_migrations: its columns are unknown"
    assert told[1].startswith("Detail: It has (id integer, hash text")
    assert told[1].endswith(
        "expected are Drizzle's (id, hash, created_at) and (id, hash, created_at, name, applied_at)."
    )


@pytest.mark.slow
def test_an_upgraded_table_and_a_journal_are_refused(drizzle: Path, conn: Connection, tmp_path: Path) -> None:
    """The folder is older than the database."""
    run_drizzle(drizzle, "1", conn, folder_of(tmp_path / "new", "1"))
    assert message_of(conn, folder_of(tmp_path / "old", "0")) == (
        "FOLDER has the layout of Drizzle 0.x, but Drizzle 1.0 has upgraded drizzle.__drizzle_migrations\n"
        'Detail: The folder has meta/_journal.json; the table has the column "name".\n'
        "State: Nothing changed in the database.\n"
        'Hint: Run "drizzle-kit up" of drizzle-kit 1.0 on the folder, '
        "or use the folder where that was done."
    )


def test_a_folder_of_both_layouts_is_refused(conn: Connection, tmp_path: Path) -> None:
    """Neither Drizzle would apply all of it."""
    folder_of(tmp_path, "0")
    assert message_of(conn, folder_of(tmp_path, "1")) == (
        "FOLDER mixes Drizzle's two layouts\n"
        "Detail: It has meta/_journal.json and 3 folders with a migration.sql, "
        "20260101000000_one among them.\n"
        "State: Nothing changed in the database.\n"
        'Hint: Run "drizzle-kit up" of drizzle-kit 1.0, which turns the journal into folders.'
    )


@pytest.mark.first_case
@pytest.mark.parametrize(
    ("journal", "detail"),
    [
        ('{"entries": [', "Line 1, column 14: Expecting value."),
        ("[]", 'It has no list "entries".'),
        ('{"entries": {}}', 'It has no list "entries".'),
        ('{"dialect": "mysql", "entries": []}', "Its dialect is 'mysql', not postgresql."),
        ('{"entries": [7]}', 'Entry 0 has no "tag" that is the name of a file.'),
        ('{"entries": [{"tag": "../a", "when": 1}]}', 'Entry 0 has no "tag" that is the name of a file.'),
        ('{"entries": [{"tag": "a", "when": "1"}]}', 'Entry 0 ("a") has no "when" in whole milliseconds.'),
        ('{"entries": [{"tag": "a", "when": 1}, {"tag": "a", "when": 2}]}', 'It lists "a" 2 times.'),
    ],
)
def test_a_broken_journal_is_refused(conn: Connection, tmp_path: Path, journal: str, detail: str) -> None:
    """A merge may break it; the place is named."""
    write(tmp_path, {"meta/_journal.json": journal, "a.sql": "SELECT 1"})
    assert message_of(conn, tmp_path) == (
        "could not read the journal FOLDER/meta/_journal.json\n"
        f"Detail: {detail}\n"
        "State: Nothing changed in the database.\n"
        "Hint: Bring it back from git, or repair it by hand; a merge may have broken it."
    )


def test_a_journal_without_entries_is_an_empty_folder(conn: Connection, tmp_path: Path) -> None:
    """As empty as a folder without files."""
    assert message_of(conn, journal_of(tmp_path, [])).splitlines()[0] == "FOLDER holds no migration"


def test_an_entry_without_its_file_is_refused(conn: Connection, tmp_path: Path) -> None:
    """Drizzle stops there, too."""
    folder_of(tmp_path, "0")
    (tmp_path / f"{NAMES[1]}.sql").unlink()
    assert message_of(conn, tmp_path) == (
        f"could not find FOLDER/{NAMES[1]}.sql\n"
        f'Detail: meta/_journal.json lists "{NAMES[1]}", and Drizzle fails without the file.\n'
        "State: Nothing changed in the database.\n"
        "Hint: Bring the file back from git, or remove the entry if it was never applied."
    )


@pytest.mark.parametrize(
    ("major", "name", "why"),
    [
        ("0", "0003_new.sql", "meta/_journal.json has no entry for it: neither Drizzle nor pgrunbook applies it."),
        ("0", "0003_new.down.sql", "It undoes a migration that is not in the folder, and is not executed."),
        ("1", "a.sql", "Here a migration is a folder with a migration.sql: neither Drizzle nor pgrunbook applies it."),
    ],
)
def test_a_file_that_drizzle_would_never_apply_is_a_note(
    conn: Connection, tmp_path: Path, major: str, name: str, why: str
) -> None:
    """It is not applied here either, and said so."""
    folder_of(tmp_path, major)
    found = read(conn, write(tmp_path, {name: "SELECT 1"}))
    assert [(e.name, e.note) for e in found.entries if e.state is State.LEFTOVER] == [(name, why)]
    assert (len(found.pending()), found.problems()) == (3, [])


def test_a_lost_journal_does_not_make_the_folder_plain(conn: Connection, tmp_path: Path) -> None:
    """As plain files everything would look pending."""
    write(tmp_path, {"0000_a.sql": "SELECT 1", "meta/0000_snapshot.json": "{}"})
    assert message_of(conn, tmp_path) == (
        "FOLDER has no meta/_journal.json\n"
        "Detail: It holds the times by which Drizzle identifies its migrations.\n"
        "State: Nothing changed in the database.\n"
        "Hint: Bring it back from git; drizzle-kit writes it beside the migrations."
    )


@pytest.mark.parametrize(
    ("name", "why"),
    [("new", "it does not have the form YYYYMMDDHHMMSS"), ("20261301000000_x", "unconverted data remains")],
)
def test_a_folder_without_a_time_is_refused(conn: Connection, tmp_path: Path, name: str, why: str) -> None:
    """Drizzle would record NaN for it, and fail after it had applied it."""
    told = message_of(conn, write(tmp_path, {f"{name}/migration.sql": "SELECT 1"})).splitlines()
    assert told[0] == f"cannot read the time in the name of FOLDER/{name}"
    assert told[1].startswith(f'Detail: "{name[:14]}": ')
    assert why in told[1]


def test_rows_are_told_in_the_order_of_application(conn: Connection, tmp_path: Path) -> None:
    """The rows are told in the order of their ids, whatever their times."""
    folder = folder_of(tmp_path, "0", NAMES[1:])
    apply(conn, read(conn, folder))
    found = read(conn, folder_of(tmp_path, "0"))
    apply(conn, found, found.pending(out_of_order=True))
    ids = [row.row["id"] for row in read(conn, folder).rows]
    assert all(a < b for a, b in itertools.pairwise(ids))
    assert read(conn, folder).rows[-1].hash == sha(FIRST)
