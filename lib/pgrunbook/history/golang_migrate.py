"""golang-migrate's migrations: VERSION_title.up.sql and .down.sql, and schema_migrations with one row."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from pathlib import Path

from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.errors import WrongInput
from pgrunbook.history.files import FileNames, read_migration, sql_files, version_of
from pgrunbook.history.pairing import Pairing, RowRules, VersionRules
from pgrunbook.history.state import AppliedMigration, Command, Entry, History, Migration, unfinished
from pgrunbook.history.table import Shape, Table, fetch_versions
from pgrunbook.history.tool import Sign, Tool

NAMES = FileNames(
    pattern=re.compile(r"(?P<version>[0-9]+)_(?P<title>.*)\.up\.sql"),  # source/parse.go
    form="VERSION_title.up.sql",
    rule="golang-migrate's migrations are named VERSION_title.up.sql and VERSION_title.down.sql.",
    twice="golang-migrate refuses the folder",
)
DOWN = re.compile(r"([0-9]+)_.*\.down\.sql")
LOCK_SALT = 1486364155


class GolangMigrate(Tool):
    """Reads and writes golang-migrate's history as v4 does.

    The table has one row, the newest version: every file up to it counts as applied, also one that came later. A
    version is recorded in the migration's own transaction, so that ``dirty`` is never left behind by us.

    Source: migrate.go, source/parse.go and database/postgres/postgres.go of
    https://github.com/golang-migrate/migrate.
    """

    kind = "golang-migrate"
    name = "golang-migrate"
    shapes = (Shape("schema_migrations", "version dirty"),)
    key = ("version",)
    way = "Apply it with migrate up."
    known = "golang-migrate's (version, dirty)"
    identity = "golang-migrate: one row with the newest version"
    ddl = "CREATE TABLE IF NOT EXISTS {table} (version bigint not null primary key, dirty boolean not null)"
    dependency = ("go.mod", "")  # its program is mostly installed apart; sqlx is for Rust

    def sign(self, folder: Path) -> Sign | None:
        """Look for VERSION_title.up.sql, which sqlx has, too."""
        first = next(filter(NAMES.has_form, sql_files(folder)), None)
        return Sign(f"it has {first.name}", certain=False) if first else None

    def read_folder(self, folder: Path) -> list[Migration]:
        """Return the migrations by number; the down file of a version may have another title."""
        ups = sorted(NAMES.those_of(sql_files(folder)), key=version_of)
        NAMES.check(folder, ups, version_of)
        downs = {version_of(path): path for path in sql_files(folder) if DOWN.fullmatch(path.name)}
        alone = downs.keys() - set(map(version_of, ups))
        if alone:
            raise WrongInput(
                f"{downs[min(alone)]} undoes a version that no file applies",
                detail="golang-migrate would take it for a version without statements, and record it.",
                hint="Bring its .up.sql back from git, or remove it from the folder.",
            )
        return [
            read_migration(path, downs.get(version_of(path)), root=folder, name=path.name[: -len(".up.sql")], ordinal=n)
            for n, path in enumerate(ups)
        ]

    def rows(self, conn: Connection, table: Table) -> list[AppliedMigration]:
        """Return the one row, [] when nothing is applied. Raises Refused when it is dirty."""
        rows = fetch_versions(conn, table, sql.SQL("version, dirty"), sql.SQL("version"), known=self.known)
        if len(rows) > 1:
            raise WrongInput(
                f"{table.qualified} has {len(rows)} rows",
                detail="golang-migrate keeps one, the newest version.",
                hint='Find out which version the database has, and set it with "migrate force VERSION".',
            )
        for row in rows:
            if row["dirty"]:
                raise unfinished(
                    table.qualified, f"version {row['version']}", self.name,
                    f'"migrate force {row["version"]}" where it is complete, "migrate force" with the version before '
                    "where nothing of it is there",
                )  # fmt: skip
        return [AppliedMigration(str(row["version"]), None, None, row) for row in rows]

    def row_rules(self, regime: str, rows: Sequence[AppliedMigration]) -> RowRules:
        """Return the rules by number."""
        return _NewestVersion(version_of, older="")

    def new_row(self, migration: Migration, regime: str) -> dict[str, object]:
        """Return the version."""
        return {"version": version_of(migration.path), "dirty": False}

    def record(self, history: History, migration: Migration) -> Command:
        """Return the statement that puts the version in the place of the one before it, and of no other.

        A table without rows is taken, too: that of a branch without rows.
        """
        statement = sql.SQL(
            "WITH gone AS (DELETE FROM {0} RETURNING version) INSERT INTO {0} (version, dirty)"
            " SELECT %s, false FROM (SELECT pg_catalog.max(version) AS version FROM gone) AS before"
            " WHERE coalesce(before.version, %s::bigint) IS NOT DISTINCT FROM %s::bigint"
        ).format(history.identifier_beside_params)
        before = _before(history, migration)
        return statement, (version_of(migration.path), before, before)

    def unrecord(self, history: History, entry: Entry) -> Command:
        """Return the statement that puts the version before in the place of the migration's."""
        version = (
            version_of(entry.migration.path) if entry.migration else entry.applied and entry.applied.row["version"]
        )
        before = _before(history, entry.migration) if entry.migration else None
        table = history.identifier_beside_params
        delete = sql.SQL("DELETE FROM {} WHERE version = %s AND NOT dirty").format(table)
        if before is None:
            return delete, (version,)
        return sql.SQL(
            "WITH gone AS ({} RETURNING version) INSERT INTO {} (version, dirty) SELECT %s, false FROM gone"
        ).format(delete, table), (version, before)

    def lock_keys(self, conn: Connection, history: History) -> list[int]:
        """Return the keys of golang-migrate's lock: its program names the database with the URL's slash."""
        names = (conn.info.dbname, f"/{conn.info.dbname}")
        joined = (f"{history.schema}\0{history.table}\0{name}".encode() for name in names)
        return [zlib.crc32(text) * LOCK_SALT % 2**32 for text in joined]


class _NewestVersion(VersionRules):
    def pair(self, migrations: Sequence[Migration], rows: Sequence[AppliedMigration]) -> Pairing:
        """Pair the one row with every version up to it."""
        paired = {m.ordinal: (row, "version") for row in rows for m in migrations if self.key(m) <= self.row_key(row)}
        known = set(map(self.key, migrations))
        return Pairing(paired, [row for row in rows if self.row_key(row) not in known])


def _before(history: History, migration: Migration) -> int | None:
    """The version before a migration's in the folder, None before the first."""
    earlier = [e.migration for e in history.entries if e.migration is not None]
    return max((version_of(m.path) for m in earlier if m.ordinal < migration.ordinal), default=None)
