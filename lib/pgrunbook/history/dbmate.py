"""dbmate's migrations: VERSION_name.sql with both directions in one file, and schema_migrations(version)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.history.dbmate_sections import is_one, sections
from pgrunbook.history.files import FileNames, read_bytes, sql_files
from pgrunbook.history.pairing import BRING_BACK, RowRules, VersionRules
from pgrunbook.history.state import AppliedMigration, Migration
from pgrunbook.history.table import Shape, Table, fetch_versions
from pgrunbook.history.tool import Sign, Tool

DEFAULT_TABLE = "schema_migrations"
NAMES = FileNames(
    pattern=re.compile(r"\d+.*\.sql", re.ASCII),  # migrationFileRegexp
    form="YYYYMMDDHHMMSS_name.sql",
    rule="dbmate's migrations are named YYYYMMDDHHMMSS_name.sql; it ignores every other file.",
    twice="when one of them is applied, dbmate takes both for applied",
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
    known = "dbmate's (version) of a type for text"
    types = "character varying, text"
    identity = "dbmate: version is the number in the file's name"
    ddl = "CREATE TABLE IF NOT EXISTS {table} (version varchar PRIMARY KEY)"

    def sign(self, folder: Path) -> Sign | None:
        """Look for a file with a version and "-- migrate:up"."""
        for path in filter(NAMES.has_form, sql_files(folder)):
            if is_one(read_bytes(path, folder).decode("utf-8-sig", "replace")):
                return Sign(f'{path.name} has "-- migrate:up"', certain=True)
        return None

    def sections(self, path: Path, text: str) -> tuple[str, str | None]:
        """Return the sections "-- migrate:up" and "-- migrate:down"."""
        return sections(path, text)

    def read_folder(self, folder: Path) -> list[Migration]:
        """Return the files by name, each cut into its two sections."""
        paths = sorted(NAMES.those_of(sql_files(folder)), key=lambda path: path.name)
        NAMES.check(folder, paths, _version)
        return [self._of_two_sections(path, folder, ordinal) for ordinal, path in enumerate(paths)]

    def rows(self, conn: Connection, table: Table) -> list[AppliedMigration]:
        """Return the rows by version, as bytes."""
        rows = fetch_versions(conn, table, sql.SQL("version"), sql.SQL('version COLLATE "C"'), known=self.known)
        return [AppliedMigration(str(row["version"]), None, None, row) for row in rows]

    def row_rules(self, regime: str, rows: Sequence[AppliedMigration]) -> RowRules:
        """Return the rules by version."""
        return _DbmateRules(
            _version, "dbmate applies it anyway (except with --strict), in another order than on a new database."
        )

    def new_row(self, migration: Migration, regime: str) -> dict[str, object]:
        """Return the version."""
        return {"version": _version(migration.path)}


class _DbmateRules(VersionRules):
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
