"""Folders and history tables of all known tools: read, or refused by the tool's name; never taken for another's."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgrunbook import history
from pgrunbook.database.connection import Connection
from pgrunbook.errors import WrongInput
from pgrunbook.history import marks
from pgrunbook.history.folder import TOOLS, find_folder
from pgrunbook.history.other_tools import OTHER_TOOLS
from test_history import conn, message_of, read, write

__all__ = ["conn"]  # the fixture

SQL = "CREATE TABLE a ();\n"
# Folders as the tools lay them out, by the tool's name.
FOLDERS = {
    "Drizzle": [
        {"0000_a.sql": SQL, "meta/_journal.json": "{}"},
        {"20260101000000_a/migration.sql": SQL, "20260101000000_a/snapshot.json": "{}"},
    ],
    "dbmate": [{"20260101000000_a.sql": "-- migrate:up\n" + SQL + "-- migrate:down\n", "schema.sql": SQL}],
    "plain files": [
        {"0001_a.sql": SQL, "0001_a.down.sql": SQL, "README.md": "", "seed.sql": SQL},
        {"1_a.sql": "-- Up\n" + SQL + "-- Down\n-- DROP TABLE a;\n"},
    ],
    "Prisma": [{"migration_lock.toml": "", "20260101000000_a/migration.sql": SQL}],
    "Alembic": [
        {"env.py": "from alembic import context", "versions/ab12_x.py": "down_revision = None"},
        {"ab12_x.py": "revision = 'ab12'\ndown_revision = None\n"},
    ],
    "Django": [{"__init__.py": "", "0001_initial.py": "class Migration(migrations.Migration): pass"}],
    "Rails": [{"20260101000000_a.rb": "class A < ActiveRecord::Migration[7.1]"}],
    "Sequel": [{"001_a.rb": "Sequel.migration do"}],
    "Ecto": [{"20260101000000_a.exs": "defmodule A", ".formatter.exs": ""}],
    "Laravel": [{"2026_01_01_000000_a.php": "<?php"}],
    "Doctrine": [{"Version20260101000000.php": "<?php"}],
    "Phinx": [{"20260101000000_a.php": "<?php"}],
    "Entity Framework": [{"20260101000000_A.cs": "", "20260101000000_A.Designer.cs": ""}],
    "TypeORM": [{"1700000000000-A.ts": "export class A implements MigrationInterface {}"}],
    "Sequelize": [{"20260101000000-a.js": "module.exports = { up: (queryInterface) => {} }"}],
    "Knex": [
        {"20260101000000_a.js": "exports.up = (knex) => {}"},
        {"20260101A-drop-a.ts": "import type { Knex } from 'knex';", "run.ts": ""},
    ],
    "Kysely": [{"20260101T000000000Z-a.ts": "import { Kysely } from 'kysely'"}],
    "MikroORM": [{"Migration20260101000000.ts": ""}],
    "db-migrate": [{"20260101000000-a.js": "var dbm = require('db-migrate')", "sqls/20260101000000-a-up.sql": SQL}],
    "node-pg-migrate": [
        {"1700000000000_a.sql": "-- Up Migration\n" + SQL + "-- Down Migration\nDROP TABLE a;\n"},
        {"1700000000000_a.sql": SQL, "package.json": '{"devDependencies": {"node-pg-migrate": "9"}}'},
    ],
    "golang-migrate": [
        {"000001_a.up.sql": SQL, "000001_a.down.sql": SQL, "go.mod": "require github.com/golang-migrate/migrate/v4"}
    ],
    "sqlx": [
        {"0001_a.up.sql": SQL, "0001_a.down.sql": SQL, "Cargo.toml": "sqlx = 1"},
        {"20260101000000_a.sql": SQL, "Cargo.toml": "sqlx = 1"},
    ],
    "goose": [{"00001_a.sql": "-- +goose Up\n" + SQL + "-- +goose Down\nDROP TABLE a;\n"}],
    "Flyway": [{"V1__a.sql": SQL, "U1__a.sql": SQL, "R__b.sql": SQL}],
    "Hasura": [{"1700000000000_a/up.sql": SQL, "1700000000000_a/down.sql": SQL}],
    "diesel": [{"2026-01-01-000000_a/up.sql": SQL, "2026-01-01-000000_a/down.sql": SQL}],
    "Atlas": [{"20260101000000_a.sql": SQL, "atlas.sum": "h1:x="}],
    "Liquibase": [
        {"changelog.sql": "--liquibase formatted sql\n--changeset a:1\n" + SQL},
        {"db.changelog-master.yaml": "databaseChangeLog:\n"},
    ],
    "sqitch": [
        {"sqitch.plan": "%project=a", "deploy/a.sql": "BEGIN;"},
        {"sqitch.plan": "a [b] 2026-01-01T10:00:00Z Ann <ann@example.com> # first\n"},
        {"a.sql": "-- Deploy shop:a to pg\n\nBEGIN;\n" + SQL + "COMMIT;\n"},
    ],
    "sql-migrate": [{"1_a.sql": "-- +migrate Up\n" + SQL + "-- +migrate Down\nDROP TABLE a;\n"}],
    "rambler": [{"01_a.sql": "-- rambler up\n" + SQL + "-- rambler down\nDROP TABLE a;\n"}],
    "MyBatis Migrations": [{"20260101000000_a.sql": "-- // a\n" + SQL + "-- //@UNDO\nDROP TABLE a;\n"}],
    "tern": [{"001_a.sql": SQL + "---- create above / drop below ----\nDROP TABLE a;\n"}],
    "yoyo": [
        {"0001_a.sql": SQL, "0001_a.rollback.sql": SQL},
        {"0001_a.py": "from yoyo import step"},
        {"0002_b.sql": "-- depends: 0001_a\n" + SQL},
    ],
    "pgroll": [{"01_a.json": '{"operations": []}'}],
    "graphile-migrate": [{"committed/000001.sql": "--! Previous: -\n" + SQL, "current.sql": ""}],
    "Postgrator": [{"001.do.a.sql": SQL, "001.undo.a.sql": SQL}],
    "Play Evolutions": [{"1.sql": "-- !Ups\n" + SQL + "-- !Downs\nDROP TABLE a;\n"}],
    "shmig": [{"1700000000-a.sql": "-- ==== UP ====\n" + SQL + "-- ==== DOWN ====\nDROP TABLE a;\n"}],
}
CASES = [(tool, number) for tool, layouts in FOLDERS.items() for number in range(len(layouts))]
READ = {tool.name: tool for tool in TOOLS.values()}


@pytest.mark.parametrize(("tool", "number"), CASES)
def test_a_folder_is_known_by_what_its_tool_writes(tmp_path: Path, tool: str, number: int) -> None:
    """And read, or refused by the tool's name with what its team can do meanwhile."""
    write(tmp_path, FOLDERS[tool][number])
    if tool in READ:
        found = find_folder(tmp_path, "auto")
        assert found.tool.name == tool
        assert found.why
        return
    with pytest.raises(WrongInput) as caught:
        find_folder(tmp_path, "auto")
    assert caught.value.message == f"{tmp_path} is a migrations folder of {tool}, which pgrunbook does not read"
    assert caught.value.hint


def test_files_of_numbers_alone_may_be_anybodys(tmp_path: Path) -> None:
    """One tool more would take them: that is no reason to take the folder for its own."""
    write(tmp_path, {"000001.sql": SQL, "000002.sql": SQL})
    with pytest.raises(WrongInput, match="cannot tell which tool's migrations are in") as caught:
        find_folder(tmp_path, "auto")
    assert caught.value.detail.startswith("They may be node-pg-migrate's: it has 000001.sql.")
    assert find_folder(tmp_path, "auto", frozenset({"node-pg-migrate"})).tool.name == "node-pg-migrate"


def test_a_review_is_advised_where_there_is_sql() -> None:
    """The files of a tool that runs programs cannot be reviewed, and its team is not sent there."""
    for tool in OTHER_TOOLS:
        if tool.files:
            names = [name for layout in FOLDERS[tool.name] for name in layout] if tool.name in FOLDERS else []
            has_sql = any(name.endswith(".sql") for name in names)
            assert has_sql or "pgrunbook review" not in tool.way, tool.name


@pytest.mark.parametrize("name", ["0002_a.SQL", "2_A.Sql", "v3_a.sql", "0004-a.sql", "0005_a.UP.sql", "0006.sql"])
def test_a_name_that_is_almost_another_tools_does_not_tell_the_tool(tmp_path: Path, name: str) -> None:
    """No tool is asked to complain of a folder that is not its own."""
    write(tmp_path, {"0001_a.sql": SQL, name: SQL})
    assert find_folder(tmp_path, "auto").tool.name == "plain files"


def test_each_known_tool_is_tried() -> None:
    """By its folder where that tells, and by its table."""
    assert set(FOLDERS) >= {tool.name for tool in OTHER_TOOLS if tool.files} - {"reshape"}
    assert all(tool.files or tool.shapes for tool in OTHER_TOOLS)


TABLES = {
    shape.name + shape.columns: (tool.name, shape) for tool in (*TOOLS.values(), *OTHER_TOOLS) for shape in tool.shapes
}


def test_a_history_table_of_another_tool_is_refused_by_its_name(conn: Connection, tmp_path: Path) -> None:
    """Each shape in turn: with a history of our own, everything that is applied would run again."""
    write(tmp_path, {"0001_a.sql": SQL})
    wrong = []
    for tool, shape in TABLES.values():
        if tool == "plain files":
            continue
        schema = shape.schema or "public"
        columns = ", ".join(f'"{column}" text' for column in shape.columns.split())
        with conn.transaction(force_rollback=True):
            conn.execute(f'CREATE SCHEMA IF NOT EXISTS "{schema}"; CREATE TABLE "{schema}"."{shape.name}" ({columns})')
            if shape.beside:
                conn.execute(f'CREATE TABLE "{schema}"."{shape.beside}" (key text)')
            try:
                read(conn, tmp_path, history="plain")
                wrong.append(f"{tool}: not seen")
            except WrongInput as exc:
                if f"{schema}.{shape.name} of " not in exc.message or tool not in exc.message:
                    wrong.append(f"{tool}: {exc.message}")
    assert wrong == []


def test_the_refusal_says_why_and_what_to_do(conn: Connection, tmp_path: Path) -> None:
    """The way of the other tool, or a name for a history of its own."""
    write(tmp_path, {"0001_a.sql": SQL})
    conn.execute("CREATE TABLE schema_migrations (version bigint PRIMARY KEY, dirty boolean)")
    assert message_of(conn, tmp_path) == (
        "the database has the history table public.schema_migrations of golang-migrate, "
        "and FOLDER is read as plain files\n"
        "Detail: It has 0001_a.sql. With a new history, what is applied would run again.\n"
        "State: Nothing changed in the database.\n"
        "Hint: Apply it with migrate up. If that table belongs to something else, "
        "name the table of this folder as history_schema and history_table in targets.toml."
    )
    assert read(conn, tmp_path, history_table="ours").qualified_table == "public.ours"


def test_a_second_history_beside_our_own_is_no_obstacle(conn: Connection, tmp_path: Path) -> None:
    """Applications share a database; and products have tables of such names in schemas of their own."""
    write(tmp_path, {"0001_a.sql": SQL})
    conn.execute("CREATE SCHEMA auth CREATE TABLE schema_migrations (version text)")
    assert read(conn, tmp_path).qualified_table == "public.schema_migrations"
    conn.execute("CREATE TABLE schema_migrations (version text, applied_at timestamptz)")
    conn.execute("CREATE TABLE alembic_version (version_num text)")
    assert read(conn, tmp_path).exists


def test_a_table_that_is_not_the_named_one_does_not_tell_the_tool(conn: Connection, tmp_path: Path) -> None:
    """It belongs to another application of the database."""
    write(tmp_path, {"0001_a.sql": SQL})
    needed = next(shape for name, _, shape in history._shapes() if name == "sqlx").columns.split()
    conn.execute(f"CREATE TABLE _sqlx_migrations ({', '.join(f'{column} text' for column in needed)})")
    assert "sqlx" in message_of(conn, tmp_path)
    found = read(conn, tmp_path, history_table="ours")
    assert (found.kind, found.qualified_table) == ("plain", "public.ours")


def test_a_version_alone_is_rails_beside_its_other_table_else_dbmates(conn: Connection, tmp_path: Path) -> None:
    """dbmate's folder does not write to Rails' table."""
    write(tmp_path, FOLDERS["dbmate"][0])
    conn.execute("CREATE TABLE schema_migrations (version varchar PRIMARY KEY)")
    assert read(conn, tmp_path).exists
    conn.execute("CREATE TABLE ar_internal_metadata (key varchar)")
    assert "has the history table public.schema_migrations of Rails" in message_of(conn, tmp_path)


def test_a_projects_other_files_do_not_name_its_folder(tmp_path: Path) -> None:
    """What looks like another tool's lies in the project, and not beside the migrations."""
    write(tmp_path, {"codegen.yml": "operations: []", "0001_initial.py": "from django import x"})
    write(tmp_path, {"migrations/0001_a.sql": SQL})
    found = find_folder(tmp_path, "auto")
    assert (found.path, found.tool.name) == (tmp_path / "migrations", "plain files")


def test_a_projects_file_is_looked_for_up_to_the_root_of_its_repository(tmp_path: Path) -> None:
    """And not in what another repository lies in."""
    deep = "inner/internal/adapters/storage/postgres/db/migrations"
    write(tmp_path, {f"{deep}/1_a.up.sql": SQL, "inner/go.mod": "module a"})
    assert find_folder(tmp_path / deep, "auto").tool.name == "golang-migrate"
    write(tmp_path, {"inner/internal/.git/HEAD": ""})
    with pytest.raises(WrongInput, match="cannot tell which tool's migrations are in"):
        find_folder(tmp_path / deep, "auto")


def test_folders_below_that_hold_migrations_are_named(conn: Connection, tmp_path: Path) -> None:
    """One for each database that the program runs on; what comes with packages is not the team's."""
    for folder in ("h2", "postgresql", "node_modules/x/migrations", ".cache", "docs"):
        write(tmp_path, {f"{folder}/{'a.md' if folder == 'docs' else 'V1__a.sql'}": SQL})
    assert message_of(conn, tmp_path) == (
        "could not find a migration in FOLDER\n"
        "Detail: There are some below, in h2 and postgresql.\n"
        "State: Nothing changed in the database.\n"
        "Hint: Name the folder of those that this database gets as migrations in targets.toml."
    )


def test_two_tools_in_one_folder_are_refused(conn: Connection, tmp_path: Path) -> None:
    """Nobody knows which of them is to be applied."""
    write(tmp_path, FOLDERS["dbmate"][0] | FOLDERS["Drizzle"][0])
    assert message_of(conn, tmp_path) == (
        "FOLDER holds migrations of Drizzle and dbmate\n"
        'Detail: Drizzle: it has meta/_journal.json; dbmate: 20260101000000_a.sql has "-- migrate:up".\n'
        "State: Nothing changed in the database.\n"
        "Hint: Put each tool's files into a folder of its own, and name one of them in targets.toml."
    )


def test_what_may_be_several_tools_is_told_by_the_table_else_asked(conn: Connection, tmp_path: Path) -> None:
    """Names like these are golang-migrate's and sqlx'."""
    write(tmp_path, {"0001_a.up.sql": SQL, "0001_a.down.sql": SQL})
    assert message_of(conn, tmp_path) == (
        "cannot tell which tool's migrations are in FOLDER\n"
        "Detail: They may be those of golang-migrate and sqlx: it has 0001_a.up.sql. "
        "The database has no history table of either, and no project file names one.\n"
        "State: Nothing changed in the database.\n"
        'Hint: Name it in targets.toml: history = "golang-migrate" or "sqlx".'
    )
    assert read(conn, tmp_path, history="sqlx").kind == "sqlx"
    conn.execute("CREATE TABLE schema_migrations (version bigint PRIMARY KEY, dirty boolean)")
    found = read(conn, tmp_path)
    assert (found.kind, found.recognised_by) == (
        "golang-migrate",
        "it has 0001_a.up.sql, and its history table is in the database",
    )


DOWN = "DROP TABLE a;\n"
REFUSED_MARKS = {
    **{tool: next(iter(FOLDERS[tool][0].values())) for tool in marks.MARKS if tool in FOLDERS},
    "node-pg-migrate": f"-- Up Migration\n{SQL}-- Down Migration\n{DOWN}",
    "nobody's, by its plus": f"-- +something\n{SQL}",
    "nobody's, by its words": f"-- Up\n{SQL}\n  -- Down\n{DOWN}",
    "nobody's, by its sign": f"-- [up]\n{SQL}-- @DOWN:\n{DOWN}",
    "nobody's, by its lines": f"---- UP ----\n{SQL}--------- DOWN ---------\n{DOWN}",
    "nobody's, by its colon": f"-- xyz:up\n{SQL}",
    "nobody's, of rollback": f"{SQL}-- ROLLBACK SCRIPT\n{DOWN}",
    "nobody's, above and below": f"{SQL}---- do above / undo below ----\n{DOWN}",
    "dbmate's, unknown": f"-- migrate:xyz\n{SQL}",
}


@pytest.mark.first_case
@pytest.mark.parametrize("whose", REFUSED_MARKS)
def test_both_directions_in_one_file_are_never_run_one_after_the_other(
    conn: Connection, tmp_path: Path, whose: str
) -> None:
    """Whatever targets.toml says of the folder; file and line are named, and by the review, too."""
    text = f"-- why\n{REFUSED_MARKS[whose]}"
    write(tmp_path, {"0001_a.sql": text})
    told = message_of(conn, tmp_path, history="plain").splitlines()
    tool = "a tool that pgrunbook does not know" if "'" in whose else whose
    tool = "dbmate" if whose.startswith("dbmate") else tool
    assert told[0].startswith("FOLDER/0001_a.sql, line ")
    assert told[0].endswith(f": this is a mark of {tool}")
    assert [line.split(":")[0] for line in told] == [told[0].split(":")[0], "Detail", "State", "Hint"]
    if tool not in READ:
        with pytest.raises(WrongInput, match=r"0001_a\.sql, line \d+: this is a mark of"):
            history.up_part(tmp_path / "0001_a.sql", text)


HEADED_UP, HEADED_DOWN = f"-- Up Migration: add a\n{SQL}", f"-- Direction: DOWN\n-- Down migration for a\n{DOWN}"
HEADED = {
    "golang-migrate": {"1_a.up.sql": HEADED_UP, "1_a.down.sql": HEADED_DOWN, "go.mod": "golang-migrate"},
    "sqlx": {"1_a.sql": HEADED_UP, "Cargo.toml": "sqlx = 1"},
    "Supabase": {"supabase/migrations/20260101000000_a.sql": HEADED_UP},
    "Prisma": {"migration_lock.toml": "", "1_a/migration.sql": HEADED_UP, "1_a/down.sql": HEADED_DOWN},
    "diesel": {"2026-01-01-000000_a/up.sql": HEADED_UP, "2026-01-01-000000_a/down.sql": HEADED_DOWN},
    "Flyway": {"V1__a.sql": HEADED_UP, "U1__a.sql": HEADED_DOWN},
    "plain files": {"0001_a.sql": HEADED_UP, "0001_a.down.sql": HEADED_DOWN},
}


@pytest.mark.parametrize("tool", HEADED)
def test_a_file_headed_by_its_direction_is_no_other_tools(conn: Connection, tmp_path: Path, tool: str) -> None:
    """The words that node-pg-migrate cuts files by are words that people write."""
    write(tmp_path, HEADED[tool])
    found = read(conn, tmp_path)
    assert (TOOLS[found.kind].name, [m.sql for m in found.pending()]) == (tool, [HEADED_UP])


def test_a_way_back_that_does_it_again_is_refused(conn: Connection, tmp_path: Path) -> None:
    """What follows the words of the other direction would be run, too."""
    write(tmp_path, {"0001_a.sql": SQL, "0001_a.down.sql": f"{HEADED_DOWN}-- Up migration\n{SQL}"})
    assert message_of(conn, tmp_path).startswith("FOLDER/0001_a.down.sql, line 4: this is a mark of node-pg-migrate\n")


def test_its_mark_alone_tells_node_pg_migrate_where_no_project_does(tmp_path: Path) -> None:
    """A template whose way back was removed."""
    write(tmp_path, {"1_a.sql": f"-- Up Migration\n{SQL}"})
    assert find_folder(tmp_path, "auto").tool.name == "node-pg-migrate"
    write(tmp_path, {"Cargo.toml": "sqlx = 1"})
    assert find_folder(tmp_path, "auto").tool.name == "sqlx"


@pytest.mark.parametrize(
    "text",
    [
        "-- Up\nCREATE TABLE a ();\n-- Down\n-- DROP TABLE a;\n",
        "-- down: the lift is broken\nSELECT 1;",
        "CREATE TABLE lift (\n  -- up\n  a int,\n  -- down\n  b int\n);",
        "SELECT '\n-- Down Migration\n';",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$\n-- down\nSELECT 1 $$;",
        "-- +5 columns, and + more\nSELECT 1;",
        "-- roll it back by hand: DROP TABLE a;\nSELECT 1;",
        "-- see above\n-- the rows below\nSELECT 1;",
        "-- note: up to here\nSELECT 1;",
        "-- UP migration\n-- Adds a column.\nSELECT 1;",
        "-- Migration: up\nSELECT 1;",
        "-- ==== UP ====\nSELECT 1;\n-- ==== DOWN ====\n-- SELECT 2;",
        "SELECT 1;\n-- Up migration of the rest: see below\nSELECT 2;",
        "-- Why.\n-- Rollback:\n--   DROP TABLE a;\n--   DROP TABLE b;\n\nSELECT 1;",
        "CREATE TABLE lift (\n  -- down migration of 1870\n  a int);",
    ],
)
def test_a_comment_that_only_resembles_a_mark_is_none(tmp_path: Path, text: str) -> None:
    """Where no statement follows, or it stands in a statement or a string, nothing would be undone."""
    assert history.up_part(tmp_path / "0001_a.sql", text) == text
