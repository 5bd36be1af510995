"""The folder and the history table as every tool has them, and what is refused of them."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgrunbook import history
from pgrunbook.config.targets import Target
from pgrunbook.database.connection import Connection
from pgrunbook.errors import Blocked, WrongInput
from pgrunbook.history import State
from servers import WHEEL, Servers


@pytest.fixture
def conn(servers: Servers) -> Iterator[Connection]:
    """A connection to a database of the test's own, on the newest version."""
    server = servers.get(WHEEL)
    name = f"test_{uuid.uuid4().hex[:12]}"
    with server.copied(name, "template1"), server.connect(name) as connection:
        yield connection


def target_for(folder: Path | None, **options: object) -> Target:
    return Target(name="test", server="none", migrations=folder, **options)


def read(conn: Connection, folder: Path, **options: object) -> history.History:
    return history.read(conn, target_for(folder, **options))


def states(found: history.History) -> dict[str, State]:
    return {entry.name: entry.state for entry in found.entries}


def apply(conn: Connection, found: history.History, migrations: list[history.Migration] | None = None) -> None:
    """What the executor does, in its smallest form: each migration and its row in one transaction."""
    for statement in history.prepare_table(found):
        conn.execute(statement)
    for migration in found.pending() if migrations is None else migrations:
        with conn.transaction():
            conn.execute(migration.sql.encode())
            conn.execute(*history.record(found, migration))


def roll_back(conn: Connection, found: history.History, entry: history.Entry) -> None:
    with conn.transaction():
        if entry.migration is not None and entry.migration.down_sql:
            conn.execute(entry.migration.down_sql.encode())
        assert conn.execute(*history.unrecord(found, entry)).rowcount == 1


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text.encode())
    return folder


def test_a_migration_is_read_byte_for_byte(conn: Connection, tmp_path: Path) -> None:
    """Line ends and signs beyond ASCII are as in the file, for Drizzle hashes the file."""
    text = "-- größer\r\nCREATE TABLE a (b text);\r\n"
    write(tmp_path, {"0001_a.sql": text, "0001_a.down.sql": "DROP TABLE a;\r\n"})

    [migration] = read(conn, tmp_path).pending()

    printed = subprocess.run(["sha256sum", migration.path], check=True, capture_output=True, text=True).stdout
    assert migration.hash == printed.split()[0]
    assert (migration.sql, migration.down_sql) == (text, "DROP TABLE a;\r\n")


def test_a_fingerprint_changes_with_the_history_and_only_with_it(conn: Connection, tmp_path: Path) -> None:
    """A plan's base is the same in every session, and another after each change."""
    write(tmp_path, {"0001_a.sql": "SELECT 1", "0002_b.sql": "SELECT 2"})
    empty = read(conn, tmp_path).fingerprint()
    found = read(conn, tmp_path)
    apply(conn, found, found.pending()[:1])
    before = read(conn, tmp_path).fingerprint()
    conn.execute("SET TimeZone = 'Asia/Tokyo'")
    assert read(conn, tmp_path).fingerprint() == before != empty
    apply(conn, read(conn, tmp_path))
    assert read(conn, tmp_path).fingerprint() != before


@pytest.mark.parametrize("above", ["migrations", "drizzle", "sql/pg"])
def test_a_package_is_searched_for_its_migrations(conn: Connection, tmp_path: Path, above: str) -> None:
    """The package's folder is as good as the migrations folder in it."""
    folder = write(tmp_path / above, {"20260101000000_a/migration.sql": "SELECT 1"})
    write(tmp_path, {"drizzle.config.ts": f'export default {{ out: "./{above}", schema: "./schema.ts" }}'})
    found = read(conn, tmp_path)
    assert (found.kind, found.folder) == ("drizzle", folder)


def message_of(conn: Connection, folder: Path | None, **options: object) -> str:
    with pytest.raises(WrongInput) as caught:
        history.read(conn, target_for(folder, **options))
    shown = str(caught.value)
    return shown.replace(str(folder), "FOLDER") if folder is not None else shown


def test_a_target_without_a_folder_is_refused(conn: Connection) -> None:
    """The message says where to name one."""
    assert message_of(conn, None) == (
        'target "test" names no migrations folder\n'
        "State: Nothing changed in the database.\n"
        'Hint: Add migrations = "path/of/the/folder" to section [test] of targets.toml.'
    )


def test_a_missing_folder_is_refused(conn: Connection, tmp_path: Path) -> None:
    """The message names the folder that was looked for."""
    assert message_of(conn, tmp_path / "gone") == (
        "could not find the migrations folder FOLDER\n"
        "State: Nothing changed in the database.\n"
        "Hint: Correct migrations in targets.toml; a relative path starts at the folder of targets.toml."
    )


def test_a_file_in_the_folders_place_is_refused(conn: Connection, tmp_path: Path) -> None:
    """One migration is not a history."""
    write(tmp_path, {"0001_a.sql": "SELECT 1"})
    assert message_of(conn, tmp_path / "0001_a.sql") == (
        "FOLDER is a file, not a migrations folder\n"
        "State: Nothing changed in the database.\n"
        "Hint: Name the folder that holds it as migrations in targets.toml."
    )


def test_an_empty_folder_is_refused(conn: Connection, tmp_path: Path) -> None:
    """A folder without a migration is a wrong path more often than a new project."""
    write(tmp_path, {"README.md": "nothing here"})
    assert message_of(conn, tmp_path) == (
        "could not find a migration in FOLDER\n"
        "Detail: Looked for meta/_journal.json, NAME/migration.sql and NNNN_name.sql, "
        "there and in no other folder.\n"
        "State: Nothing changed in the database.\n"
        "Hint: Correct migrations in targets.toml, or generate the first migration."
    )


@pytest.mark.parametrize("kind", ["drizzle", "plain"])
def test_an_empty_folder_is_refused_for_a_named_kind(conn: Connection, tmp_path: Path, kind: str) -> None:
    """Naming the tool does not make an empty folder a history."""
    assert "could not find a migration in FOLDER" in message_of(conn, tmp_path, history=kind)


@pytest.mark.parametrize("name", ["0001_a.sql", "0001_a.down.sql"])
def test_a_file_that_is_not_utf8_is_refused(conn: Connection, tmp_path: Path, name: str) -> None:
    """The message names the first wrong byte and its line."""
    write(tmp_path, {"0001_a.sql": "SELECT 1"})
    (tmp_path / name).write_bytes(b"-- ok\n-- caf\xe9\nSELECT 1")
    assert message_of(conn, tmp_path) == (
        f"FOLDER/{name} is not UTF-8\n"
        "Detail: Byte 12 (0xe9, line 2): invalid continuation byte.\n"
        "State: Nothing changed in the database.\n"
        "Hint: Save it as UTF-8; that changes the hash of a migration that is already applied."
    )


def test_a_link_to_nowhere_is_refused(conn: Connection, tmp_path: Path) -> None:
    """A migration that cannot be read is not left out."""
    write(tmp_path, {"0001_a.sql": "SELECT 1"})
    (tmp_path / "0002_b.sql").symlink_to("gone.sql")
    assert message_of(conn, tmp_path) == (
        "could not read FOLDER/0002_b.sql\n"
        "Detail: No such file or directory.\n"
        "State: Nothing changed in the database.\n"
        "Hint: Make it readable for this user, or correct migrations in targets.toml."
    )


def test_a_history_table_that_may_not_be_read_is_refused(conn: Connection, tmp_path: Path) -> None:
    """The message says which rights are missing, not that nothing is applied."""
    write(tmp_path, {"0001_a.sql": "SELECT 1"})
    apply(conn, read(conn, tmp_path))
    role = f"reader_{uuid.uuid4().hex[:8]}"
    conn.execute(f"CREATE ROLE {role}; SET ROLE {role}")
    try:
        assert message_of(conn, tmp_path) == (
            "could not read the history table public.schema_migrations\n"
            "Detail: permission denied for table schema_migrations\n"
            "State: Nothing changed in the database.\n"
            "Hint: Connect as a role with USAGE on the schema and SELECT on the table."
        )
    finally:
        conn.execute(f"RESET ROLE; DROP ROLE {role}")


def test_a_locked_history_table_is_not_waited_for(conn: Connection, tmp_path: Path) -> None:
    """Another migrator that alters the table is named as the likely cause."""
    write(tmp_path, {"0001_a.sql": "SELECT 1"})
    apply(conn, read(conn, tmp_path))
    conn.execute("SET lock_timeout = 20")
    with Connection.connect(host=conn.info.host, user="postgres", dbname=conn.info.dbname) as other:
        other.execute("LOCK TABLE schema_migrations IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(Blocked) as caught:
            read(conn, tmp_path)
    assert str(caught.value) == (
        "could not read the history table public.schema_migrations\n"
        "Detail: canceling statement due to lock timeout\n"
        "State: Nothing changed in the database.\n"
        "Hint: A session holds AccessExclusiveLock on it, perhaps another migration; "
        "wait for it, then run again."
    )


def test_a_migration_without_a_row_cannot_be_taken_back(conn: Connection, tmp_path: Path) -> None:
    """Nothing is deleted for a migration that is not applied."""
    found = read(conn, write(tmp_path, {"0001_a.sql": "SELECT 1"}))
    with pytest.raises(WrongInput) as caught:
        history.unrecord(found, found.entries[0])
    assert str(caught.value) == (
        'cannot remove "0001_a" from public.schema_migrations\n'
        "Detail: It has no row there: it is not applied.\n"
        "State: Nothing changed in the database.\n"
        "Hint: Name a migration that is applied."
    )
