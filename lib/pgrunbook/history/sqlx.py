"""sqlx's migrations: VERSION_description.sql, or .up.sql and .down.sql, and _sqlx_migrations."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.history.files import FileNames, is_down, read_migration, sql_files, version_of
from pgrunbook.history.pairing import RowRules, VersionRules
from pgrunbook.history.state import AppliedMigration, History, Migration, State, unfinished
from pgrunbook.history.table import Shape, Table, fetch_versions
from pgrunbook.history.tool import MICROSECONDS, Sign, Tool

NAMES = FileNames(
    pattern=re.compile(r"(?P<version>[0-9]+)_(?P<description>.*?)(\.up|\.down)?\.sql"),
    form="VERSION_description.sql",
    rule="sqlx's migrations are named VERSION_description.sql; it refuses a folder where VERSION is no number.",
    twice="sqlx cannot record both",
    almost=re.compile(r"[^_]*_.*\.sql"),
)
LOCK_FACTOR = 0x3D32AD9E


class Sqlx(Tool):
    """Reads and writes sqlx' history as 0.8 does.

    ``-- no-transaction`` has no effect: a statement that cannot run in a transaction always runs alone here. sqlx
    writes the duration after the migration; ours is that of the transaction that writes the row.

    Source: sqlx-core/src/migrate/ and sqlx-postgres/src/migrate.rs of https://github.com/launchbadge/sqlx.
    """

    kind = "sqlx"
    name = "sqlx"
    shapes = (Shape("_sqlx_migrations", "version description installed_on success checksum execution_time"),)
    key = ("version",)
    way = "Apply it with sqlx migrate run."
    known = "sqlx's (version, description, installed_on, success, checksum, execution_time)"
    identity = "sqlx: rows known by their version"
    ddl = (
        "CREATE TABLE IF NOT EXISTS {table} (version BIGINT PRIMARY KEY, description TEXT NOT NULL, installed_on"
        " TIMESTAMPTZ NOT NULL DEFAULT now(), success BOOLEAN NOT NULL, checksum BYTEA NOT NULL,"
        " execution_time BIGINT NOT NULL)"
    )
    dependency = ("Cargo.toml", "sqlx")

    def sign(self, folder: Path) -> Sign | None:
        """Look for VERSION_description.sql, which others have, too."""
        names = (path.name for path in sql_files(folder) if NAMES.pattern.fullmatch(path.name) and not is_down(path))
        first = next(names, None)
        return Sign(f"it has {first}", certain=False) if first else None

    def read_folder(self, folder: Path) -> list[Migration]:
        """Return the migrations by number."""
        paths = NAMES.those_of(sql_files(folder))
        ups = sorted((path for path in paths if not is_down(path)), key=version_of)
        NAMES.check(folder, ups, version_of)
        downs = {version_of(path): path for path in paths if is_down(path)}
        return [
            read_migration(
                path,
                downs.get(version_of(path)),
                root=folder,
                name=path.stem.removesuffix(".up"),
                ordinal=n,
            )
            for n, path in enumerate(ups)
        ]

    def rows(self, conn: Connection, table: Table) -> list[AppliedMigration]:
        """Return the rows by version. Raises Refused when one was not finished."""
        columns = sql.SQL("version, description, installed_on, success, pg_catalog.encode(checksum, 'hex') AS checksum")
        rows = fetch_versions(conn, table, columns, sql.SQL("version"), known=self.known)
        for row in rows:
            if not row["success"]:
                raise unfinished(
                    table.qualified, row["version"], "sqlx", 'delete its row, and run "sqlx migrate run" again'
                )
        return [
            AppliedMigration(f"{row['version']}_{row['description']}", str(row["checksum"]), None, row) for row in rows
        ]

    def row_rules(self, regime: str, rows: Sequence[AppliedMigration]) -> RowRules:
        """Return the rules by version and checksum."""
        return _SqlxRules(version_of, "sqlx applies it anyway, in another order than on a new database.")

    def new_row(self, migration: Migration, regime: str) -> dict[str, object]:
        """Return sqlx' own row; the time is in nanoseconds."""
        return {
            "version": version_of(migration.path),
            "description": migration.name.split("_", 1)[1].replace("_", " "),
            "success": True,
            "checksum": _checksum(migration),
            "execution_time": sql.SQL(f"{MICROSECONDS} * 1000"),
        }

    def lock_keys(self, conn: Connection, history: History) -> list[int]:
        """Return the key of sqlx' lock, by the name of the database."""
        return [LOCK_FACTOR * zlib.crc32(conn.info.dbname.encode())]


class _SqlxRules(VersionRules):
    def applied(self, migration: Migration, row: AppliedMigration, match: str) -> tuple[State, str]:
        if row.hash == _checksum(migration).hex():
            return State.APPLIED, ""
        return State.EDITED, (
            "Its file was changed after it was applied: sqlx refuses every run until it is as it was. "
            "Bring the applied text back from git, and put the change into a new migration."
        )


def _checksum(migration: Migration) -> bytes:
    return hashlib.sha384(migration.sql.encode()).digest()
