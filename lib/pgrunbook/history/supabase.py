"""Supabase's migrations: supabase/migrations/TIMESTAMP_name.sql, and supabase_migrations.schema_migrations."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from pglast.parser import split
from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.history.files import FileNames, read_migration, sql_files
from pgrunbook.history.pairing import RowRules, VersionRules
from pgrunbook.history.state import AppliedMigration, Migration
from pgrunbook.history.table import Shape, Table, fetch_versions
from pgrunbook.history.tool import Sign, Tool
from pgrunbook.sql import secrets
from pgrunbook.sql.values_lists import lettered

NAMES = FileNames(
    pattern=re.compile(r"[0-9]+_.*\.sql"),
    form="TIMESTAMP_name.sql",
    rule="Supabase's migrations are named TIMESTAMP_name.sql; its CLI skips every other file.",
    twice="Supabase cannot record both",
    almost=re.compile(r"[0-9].*\.sql", re.I),
)
# The first file of early versions, which the CLI skips (shouldSkip of pkg/migration/list.go).
OLD_START = re.compile(r"(?P<version>[0-9]{14})_init\.sql")
OLD_UNTIL = 20211209000000


class Supabase(Tool):
    """Reads and writes Supabase's history as its CLI 2 does.

    The row holds the migration's statements, each as in the file; a secret in them is masked. ``supabase db push``
    refuses a pending version that is older than an applied one, and so do we.

    Source: pkg/migration/history.go, file.go and list.go of https://github.com/supabase/cli.
    """

    kind = "supabase"
    name = "Supabase"
    shapes = (Shape("schema_migrations", "version statements name", schema="supabase_migrations"),)
    key = ("version",)
    way = "Apply it with supabase db push."
    known = "Supabase's (version, statements, name)"
    identity = "Supabase: rows known by their version"
    ddl = "CREATE TABLE IF NOT EXISTS {table} (version text NOT NULL PRIMARY KEY, statements text[], name text)"

    def places(self, package: Path) -> list[Path]:
        """Return Supabase's default."""
        return [package / "supabase" / "migrations"]

    def sign(self, folder: Path) -> Sign | None:
        """Look for the folder's name, or the configuration beside it; the files are named as many tools' are."""
        names = [path.name for path in sql_files(folder) if NAMES.pattern.fullmatch(path.name)]
        if all(name.endswith((".up.sql", ".down.sql")) for name in names):
            return None
        if folder.resolve().parts[-2:] == ("supabase", "migrations"):
            return Sign("it is supabase/migrations", certain=True)
        return Sign("it has TIMESTAMP_name.sql", certain=False)

    def read_folder(self, folder: Path) -> list[Migration]:
        """Return the migrations by name."""
        paths = NAMES.those_of(sql_files(folder))
        old = OLD_START.fullmatch(paths[0].name) if paths else None
        if old is not None and int(old["version"]) < OLD_UNTIL:
            paths = paths[1:]
        NAMES.check(folder, paths, _version)
        return [read_migration(path, None, root=folder, name=path.stem, ordinal=n) for n, path in enumerate(paths)]

    def rows(self, conn: Connection, table: Table) -> list[AppliedMigration]:
        """Return the rows by version."""
        rows = fetch_versions(conn, table, sql.SQL("version, name"), sql.SQL('version COLLATE "C"'), known=self.known)
        return [AppliedMigration(_name(row), None, None, row) for row in rows]

    def row_rules(self, regime: str, rows: Sequence[AppliedMigration]) -> RowRules:
        """Return the rules by version."""
        return VersionRules(_version, "supabase db push refuses it (without --include-all).")

    def new_row(self, migration: Migration, regime: str) -> dict[str, object]:
        """Return Supabase's own row."""
        version = _version(migration.path)
        return {
            "version": version,
            "name": migration.name[len(version) + 1 :],
            "statements": [secrets.masked(text) for text in _statements(migration.sql)],
        }


def _version(path: Path) -> str:
    return path.name.split("_", 1)[0]


def _name(row: dict[str, object]) -> str:
    return f"{row['version']}_{row['name']}" if row["name"] else str(row["version"])


def _statements(text: str) -> list[str]:
    """The statements as they stand in the file, with the comments above them; comments at its end are one, too."""
    parts = split(lettered(text), only_slices=True)
    edges = [0, *(part.stop for part in parts), len(text)]
    found = (text[start:end].strip().removeprefix(";").strip() for start, end in itertools.pairwise(edges))
    return [statement for statement in found if statement]
