"""Plain SQL files and schema_migrations(version, applied_at)."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from pgrunbook import history
from pgrunbook.database.connection import Connection
from pgrunbook.history import State
from test_history import apply, conn, message_of, read, roll_back, states, write

__all__ = ["conn"]  # the fixture

TABLE = "CREATE TABLE schema_migrations (version text, applied_at timestamptz)"


def versions(conn: Connection, table: str = "schema_migrations") -> list[str]:
    return [str(version) for (version,) in conn.execute(f"SELECT version FROM {table} ORDER BY applied_at, version")]


def numbered(folder: Path, *names: str) -> Path:
    return write(folder, {f"{name}.sql": f'CREATE TABLE "{name}" ()' for name in names})


def test_there_and_back(conn: Connection, tmp_path: Path) -> None:
    """Up records each migration, down takes back exactly one."""
    numbered(tmp_path, "0001_a", "0002_b")
    write(tmp_path, {"0002_b.down.sql": 'DROP TABLE "0002_b"'})
    found = read(conn, tmp_path)
    assert (found.exists, found.version(), found.qualified_table) == (False, None, "public.schema_migrations")
    apply(conn, found)

    found = read(conn, tmp_path)
    assert (found.exists, found.version(), found.pending()) == (True, "0002_b", [])
    assert found.how_found == "found in the database"
    assert not any(entry.content_known for entry in found.entries)
    at = found.entries[0].applied.applied_at
    assert (datetime.now(UTC) - at).total_seconds() < 60

    roll_back(conn, found, found.entries[1])
    found = read(conn, tmp_path)
    assert states(found) == {"0001_a": State.APPLIED, "0002_b": State.PENDING}
    assert conn.execute("SELECT to_regclass('\"0002_b\"')").fetchone() == (None,)


def test_numbers_are_ordered_as_numbers(conn: Connection, tmp_path: Path) -> None:
    """9 comes before 10 in the folder and in the table, which text would order the other way."""
    numbered(tmp_path, "10_b", "9_a", "011_c")
    found = read(conn, tmp_path)
    assert [m.name for m in found.pending()] == ["9_a", "10_b", "011_c"]
    apply(conn, found, found.pending()[:2])
    found = read(conn, tmp_path)
    assert (found.version(), [m.name for m in found.pending()]) == ("10_b", ["011_c"])
    assert [row.name for row in found.rows] == ["9_a", "10_b"]


@pytest.mark.parametrize(
    ("kind", "rows", "expected"),
    [
        ("text", "('1')", "2"),
        ("text", "('0001')", "0002"),
        ("bigint", "(1)", "2"),
        ("varchar", "('0001_a')", "0002_b"),
    ],
)
def test_rows_are_written_in_the_form_of_those_before(
    conn: Connection, tmp_path: Path, kind: str, rows: str, expected: str
) -> None:
    """A table that holds numbers is understood, and goes on holding numbers."""
    numbered(tmp_path, "0001_a", "0002_b")
    conn.execute(f"CREATE TABLE schema_migrations (version {kind} PRIMARY KEY, applied_at timestamp DEFAULT now())")
    conn.execute(f"INSERT INTO schema_migrations VALUES {rows}")
    found = read(conn, tmp_path)
    assert states(found) == {"0001_a": State.APPLIED, "0002_b": State.PENDING}
    apply(conn, found)
    assert expected in versions(conn)
    found = read(conn, tmp_path)
    assert found.problems() == found.pending() == []
    roll_back(conn, found, found.entries[1])
    assert expected not in versions(conn)


def test_an_older_one_that_came_later_is_out_of_order(conn: Connection, tmp_path: Path) -> None:
    """It stops a migrate, until the operator chooses to apply it."""
    numbered(tmp_path, "0001_a", "0003_c")
    apply(conn, read(conn, tmp_path))
    numbered(tmp_path, "0002_b", "0004_d")
    found = read(conn, tmp_path)
    assert [entry.state for entry in found.entries] == ["applied", "out_of_order", "applied", "pending"]
    [problem] = found.problems()
    assert problem.note == (
        "Older than 0003_c, which is applied. "
        "Give it the next free number, so that it is the newest, or apply it on purpose: -p out_of_order=true."
    )
    assert [m.name for m in found.pending()] == ["0004_d"]
    assert found.problems(out_of_order=True) == []
    apply(conn, found, found.pending(out_of_order=True))
    assert read(conn, tmp_path).problems() == []


def test_rows_without_a_time_and_rows_twice_are_understood(conn: Connection, tmp_path: Path) -> None:
    """Without a primary key a version may stand there twice: each row can be taken out alone."""
    numbered(tmp_path, "0001_a", "0002_b")
    conn.execute(TABLE)
    conn.execute("INSERT INTO schema_migrations VALUES ('0001_a', NULL), ('0001_a', NULL), ('0002_b', now())")
    found = read(conn, tmp_path)
    assert [(e.name, e.state) for e in found.entries] == [
        ("0001_a", State.APPLIED),
        ("0001_a", State.DUPLICATE),
        ("0002_b", State.APPLIED),
    ]
    assert found.entries[0].applied.applied_at is None
    assert found.version() == "0002_b"
    [duplicate] = found.problems()
    roll_back(conn, found, duplicate)
    assert sorted(versions(conn)) == ["0001_a", "0002_b"]


def test_of_two_rows_the_older_counts(conn: Connection, tmp_path: Path) -> None:
    """One without a time is taken for the older, and the later one for the one too many."""
    numbered(tmp_path, "0001_a")
    conn.execute(TABLE)
    conn.execute("INSERT INTO schema_migrations VALUES ('0001_a', now()), ('0001_a', '2026-01-01'), ('0001_a', NULL)")
    told = [entry.applied.applied_at for entry in read(conn, tmp_path).entries]
    assert told[0] is None
    assert told[1] < told[2]


def test_a_row_in_both_forms_is_a_duplicate(conn: Connection, tmp_path: Path) -> None:
    """'3' and '0003_c' are one migration."""
    numbered(tmp_path, "0003_c")
    conn.execute(TABLE)
    conn.execute("INSERT INTO schema_migrations VALUES ('3', now()), ('0003_c', now())")
    assert [entry.state for entry in read(conn, tmp_path).entries] == ["applied", "duplicate"]


def test_rows_without_a_file_are_missing_and_stand_in_their_place(conn: Connection, tmp_path: Path) -> None:
    """A row that nobody can read as a number comes last."""
    numbered(tmp_path, "0001_a", "0003_c")
    conn.execute(TABLE)
    conn.execute("INSERT INTO schema_migrations VALUES ('0001_a', now()), ('0002_gone', now()), ('baseline', NULL)")
    found = read(conn, tmp_path)
    assert [(e.name, e.state) for e in found.entries] == [
        ("0001_a", State.APPLIED),
        ("0002_gone", State.MISSING),
        ("0003_c", State.OUT_OF_ORDER),
        ("baseline", State.MISSING),
    ]


def test_another_name_under_the_number_is_not_taken_for_applied(conn: Connection, tmp_path: Path) -> None:
    """Two git branches may both have made a 0002: the one in the folder need not be the one applied."""
    numbered(tmp_path, "0001_a", "0002_mine")
    conn.execute(TABLE)
    conn.execute("INSERT INTO schema_migrations VALUES ('0001_a', now()), ('0002_theirs', now())")
    found = read(conn, tmp_path)
    assert states(found) == {"0001_a": State.APPLIED, "0002_mine": State.EDITED}
    assert '"0002_theirs"' in found.problems()[0].note


def test_the_table_is_found_in_another_schema(conn: Connection, tmp_path: Path) -> None:
    """A product's own schema_migrations does not count; ours does, wherever it is."""
    numbered(tmp_path, "0001_a")
    conn.execute("CREATE SCHEMA auth CREATE TABLE schema_migrations (version text)")
    assert read(conn, tmp_path).qualified_table == "public.schema_migrations"
    conn.execute("CREATE SCHEMA ops CREATE TABLE schema_migrations (version text, applied_at timestamptz)")
    found = read(conn, tmp_path)
    assert (found.qualified_table, found.how_found) == ("ops.schema_migrations", "found in the database")
    conn.execute(TABLE)
    assert message_of(conn, tmp_path) == (
        "found 2 history tables: ops.schema_migrations, public.schema_migrations\n"
        "Detail: With the wrong one, migrations would run again.\n"
        "State: Nothing changed in the database.\n"
        "Hint: Name the right one in targets.toml: history_schema and history_table."
    )
    assert read(conn, tmp_path, history_schema="ops").qualified_table == "ops.schema_migrations"


def test_a_named_table_is_made_with_its_schema(conn: Connection, tmp_path: Path) -> None:
    """Names are quoted, and the table has the primary key that the guide's lacks."""
    numbered(tmp_path, "0001_a")
    apply(conn, read(conn, tmp_path, history_schema="Ops 50%x", history_table='done"'))
    found = read(conn, tmp_path, history_schema="Ops 50%x", history_table='done"')
    assert found.version() == "0001_a"
    with pytest.raises(psycopg.errors.UniqueViolation):
        conn.execute(*history.record(found, found.entries[0].migration))
    roll_back(conn, found, found.entries[0])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["0007_a", "7_b"], "two migrations have the number 7"),
        (["0001_a", "0002-b"], "FOLDER/0002-b.sql is named almost as a migration"),
        (["0001_a", "2"], "FOLDER/2.sql is named almost as a migration"),
        (["0001_a", "V2__b"], "FOLDER/V2__b.sql is named almost as a migration"),
        (["0001_up", "0001_down"], "FOLDER/0001_down.sql seems to undo a migration, and would be applied as one"),
        (["0001_a_up", "0001_a_DOWN"], "FOLDER/0001_a_DOWN.sql seems to undo a migration, and would be applied as one"),
        (["0001_a", "0002_b.undo"], "FOLDER/0002_b.undo.sql seems to undo a migration, and would be applied as one"),
    ],
)
def test_a_folder_that_can_be_read_two_ways_is_refused(
    conn: Connection, tmp_path: Path, files: list[str], message: str
) -> None:
    """Nothing is left out of a folder without a word."""
    told = message_of(conn, numbered(tmp_path, *files), history="plain")
    assert told.splitlines()[0] == message
    assert [line.split(":")[0] for line in told.splitlines()[1:]] == ["Detail", "State", "Hint"]


def test_what_is_no_migration_is_a_note(conn: Connection, tmp_path: Path) -> None:
    """It is not executed, and said so; nothing stops for it."""
    numbered(tmp_path, "0001_a", "0002_scale_down", "seed", "schema", "0009_gone.down")
    write(tmp_path, {"README.md": "why", "snapshots/0001_a.sql": "SELECT 1"})
    found = read(conn, tmp_path)
    assert [m.name for m in found.pending()] == ["0001_a", "0002_scale_down"]
    assert found.problems() == found.applied() == []
    notes = {e.name: e.note for e in found.entries if e.state is State.LEFTOVER}
    assert list(notes) == ["0009_gone.down.sql", "schema.sql", "seed.sql"]
    assert notes["0009_gone.down.sql"] == "It undoes a migration that is not in the folder, and is not executed."
    assert notes["seed.sql"] == "It is not executed: its name is not that of a migration of plain files."
