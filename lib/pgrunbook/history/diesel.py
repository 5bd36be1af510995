"""diesel's migrations: TIMESTAMP_name/up.sql with down.sql, and __diesel_schema_migrations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.errors import WrongInput
from pgrunbook.history.files import FileNames, read_migration
from pgrunbook.history.pairing import RowRules, VersionRules
from pgrunbook.history.state import AppliedMigration, Migration
from pgrunbook.history.table import Shape, Table, fetch_versions
from pgrunbook.history.tool import Sign, Tool

UP, DOWN = "up.sql", "down.sql"
NAMES = FileNames(
    pattern=re.compile(r"[0-9][0-9-]*_.*"),
    form=f"TIMESTAMP_name/{UP}",
    rule="A migration of diesel is a folder TIMESTAMP_name with an up.sql.",
    twice="diesel cannot record both",
)
DATED = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}-[0-9]+_.*|00000000000000_diesel_initial_setup")


class Diesel(Tool):
    """Reads and writes diesel's history as diesel 2 does.

    ``run_in_transaction = false`` in metadata.toml has no effect: a statement that cannot run in a transaction
    always runs alone here.

    Source: migrations_internals/src/lib.rs and setup_migration_table.sql of https://github.com/diesel-rs/diesel.
    """

    kind = "diesel"
    name = "diesel"
    shapes = (Shape("__diesel_schema_migrations", "version run_on"),)
    key = ("version",)
    way = "Apply it with diesel migration run."
    known = "diesel's (version, run_on)"
    identity = "diesel: rows known by their version"
    ddl = (
        "CREATE TABLE IF NOT EXISTS {table} (version VARCHAR(50) PRIMARY KEY NOT NULL,"
        " run_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP)"
    )
    dependency = ("Cargo.toml", "diesel")

    def sign(self, folder: Path) -> Sign | None:
        """Look for folders with an up.sql; other tools have these with other names."""
        names = sorted(path.name for path in folder.iterdir() if (path / UP).is_file())
        if not names:
            return None
        return Sign(f"it has {names[0]}/{UP}", certain=any(DATED.fullmatch(name) for name in names))

    def read_folder(self, folder: Path) -> list[Migration]:
        """Return the migrations by version."""
        paths = [path for path in folder.iterdir() if path.is_dir() and (path / UP).exists()]
        for path in paths:
            if not NAMES.pattern.fullmatch(path.name):
                raise WrongInput(
                    f"{path} has no version", detail=NAMES.rule, hint="Give it a version, or remove it from the folder."
                )
        NAMES.check(folder, paths, _version)
        return [
            read_migration(path / UP, path / DOWN, root=folder, name=path.name, ordinal=n)
            for n, path in enumerate(sorted(paths, key=_version))
        ]

    def rows(self, conn: Connection, table: Table) -> list[AppliedMigration]:
        """Return the rows by version."""
        columns = sql.SQL("version, run_on::timestamptz AS at")
        rows = fetch_versions(conn, table, columns, sql.SQL('version COLLATE "C"'), known=self.known)
        return [AppliedMigration.of(str(row["version"]), row) for row in rows]

    def row_rules(self, regime: str, rows: Sequence[AppliedMigration]) -> RowRules:
        """Return the rules by version."""
        return VersionRules(
            lambda path: _version(path.parent),
            "diesel applies it anyway, in another order than on a new database.",
            without="diesel migration run goes on.",
        )

    def new_row(self, migration: Migration, regime: str) -> dict[str, object]:
        """Return the version."""
        return {"version": _version(migration.path.parent)}


def _version(path: Path) -> str:
    return path.name.split("_", 1)[0].replace("-", "")
