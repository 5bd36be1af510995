"""dbmate's migrations: VERSION_name.sql with both directions in one file, and schema_migrations(version)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from psycopg import sql

from pgrunbook.config.targets import Target
from pgrunbook.database.connection import Connection
from pgrunbook.history.dbmate_sections import is_one, sections
from pgrunbook.history.files import FileNames, read_bytes, read_migration, sql_files
from pgrunbook.history.pairing import BRING_BACK, RowRules
from pgrunbook.history.state import AppliedMigration, Migration
from pgrunbook.history.table import Shape, Table, fetch_versions, near_table
from pgrunbook.history.tool import Sign, Tool

DEFAULT_TABLE = "schema_migrations"
KNOWN = "dbmate's (version) of a type for text"
TEXTS = "character varying, text"
NAMES = FileNames(
    pattern=re.compile(r"\d+.*\.sql", re.ASCII),  # migrationFileRegexp
    form="YYYYMMDDHHMMSS_name.sql",
    part="version",
    rule="dbmate's migrations are named YYYYMMDDHHMMSS_name.sql; it ignores every other file.",
    twice="when one of them is applied, dbmate takes both for applied",
    unused="a version of its own",
    almost=re.compile(r"\d.*\.sql", re.ASCII | re.IGNORECASE),
)


class Dbmate(Tool):
    """Reads and writes dbmate's history as dbmate 2.36 does.

    Order: by the files' names as bytes, 10_b before 9_a, as dbmate does. dbmate silently applies a pending version
    that is older than an applied one, and refuses it with ``--strict``. Here it is ``out_of_order``, as with
    ``--strict``, until the operator chooses to apply it.

    Edits: the hash covers the whole file, so a change of either section between plan and execution is found. The
    table stores no hash: neither dbmate nor we can find that an applied file was edited or renamed, and
    ``content_known`` is False.

    ``transaction:false`` is accepted and has no effect. dbmate needs it for a statement that cannot run in a
    transaction; here that statement always runs alone. All other statements of such a file are committed together
    with the history row, for which dbmate uses a transaction of its own.

    Source: pkg/dbmate/migration.go and db.go of https://github.com/amacneil/dbmate.
    """

    kind = "dbmate"
    name = "dbmate"
    shapes = (Shape(DEFAULT_TABLE, "version"),)
    key = ("version",)
    way = "Apply it with dbmate up."

    def sign(self, folder: Path) -> Sign | None:
        """Look for a file with a version and "-- migrate:up"."""
        for path in NAMES.those_of(sql_files(folder)):
            if is_one(read_bytes(path, folder).decode("utf-8-sig", "replace")):
                return Sign(f'{path.name} has "-- migrate:up"', certain=True)
        return None

    def up(self, path: Path, text: str) -> str:
        """Return the section "-- migrate:up"."""
        return sections(path, text)[0]

    def read_folder(self, folder: Path) -> list[Migration]:
        """Return the files by name, each cut into its two sections."""
        paths = sorted(NAMES.those_of(sql_files(folder)), key=lambda path: path.name)
        NAMES.check(folder, paths, _version)
        return [_migration(path, ordinal) for ordinal, path in enumerate(paths)]

    def find_table(self, conn: Connection, target: Target, folder: Path) -> Table:
        """Return schema_migrations."""
        return near_table(conn, target, self.shapes[0], known=KNOWN, tool=self.name, types=TEXTS)

    def rows(self, conn: Connection, table: Table) -> list[AppliedMigration]:
        """Return the rows by version, as bytes."""
        rows = fetch_versions(conn, table, sql.SQL("version"), sql.SQL('version COLLATE "C"'), known=KNOWN)
        return [AppliedMigration(str(row["version"]), None, None, row) for row in rows]

    def regime(self, folder: Path, table: Table, rows: Sequence[AppliedMigration]) -> str:
        """Return the one regime."""
        return "dbmate: version is the number in the file's name"

    def row_rules(self, regime: str, rows: Sequence[AppliedMigration]) -> RowRules:
        """Return the rules by version."""
        return _DbmateRules()

    def create_table(self, regime: str) -> sql.SQL:
        """Return dbmate's own DDL."""
        return sql.SQL("CREATE TABLE IF NOT EXISTS {table} (version varchar PRIMARY KEY)")

    def new_row(self, migration: Migration, regime: str) -> dict[str, object]:
        """Return the version."""
        return {"version": _version(migration.path)}


class _DbmateRules(RowRules):
    tool_does_with_older = "dbmate applies it anyway (except with --strict), in another order than on a new database."

    def key(self, migration: Migration) -> str:
        return _version(migration.path)

    def row_key(self, row: AppliedMigration) -> str | None:
        return row.name

    def is_older(self, row: AppliedMigration, migration: Migration) -> bool:
        return f"{row.name}_" < migration.path.name

    def missing_note(self, row: AppliedMigration) -> str:
        return (
            "The history table says that it is applied, but it is not in the folder; dbmate does not check. "
            f"{BRING_BACK}"
        )


def _version(path: Path) -> str:
    found = re.match(r"\d+", path.name, re.ASCII)
    return found.group() if found else ""


def _migration(path: Path, ordinal: int) -> Migration:
    whole = read_migration(path, None, root=path.parent, name=path.stem, ordinal=ordinal, when_ms=None)
    up, down = sections(path, whole.sql)
    return replace(whole, sql=up, down_sql=down, down_path=path if down else None, whole=whole.sql)
