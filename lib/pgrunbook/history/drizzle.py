"""Drizzle's migrations, in each of its layouts and history tables (drizzle-orm 0.x and 1.0)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from psycopg import sql

from pgrunbook.config.targets import Target
from pgrunbook.database.connection import Connection
from pgrunbook.errors import WrongInput
from pgrunbook.history import drizzle_folder
from pgrunbook.history.drizzle_config import DrizzleConfig, nearest_config, read_config
from pgrunbook.history.drizzle_states import DrizzleRules, Regime
from pgrunbook.history.files import IN_FOLDER, NUMBERED, sql_files
from pgrunbook.history.pairing import RowRules
from pgrunbook.history.state import AppliedMigration, Command, Entry, History, Migration
from pgrunbook.history.table import Shape, Table, fetch_rows, table_to_be, tables_named, the_one
from pgrunbook.history.tool import Sign, Tool

DEFAULT_SCHEMA = "drizzle"
DEFAULT_TABLE = "__drizzle_migrations"

# Drizzle knows the version of its table by the column "name" (drizzle-orm/up-migrations/utils.js).
VERSION_0 = frozenset({"id", "hash", "created_at"})
VERSION_1 = VERSION_0 | {"name", "applied_at"}
COLUMNS_0 = sql.SQL("id, hash, created_at::bigint AS created_at")
COLUMNS_1 = sql.SQL("id, hash, created_at::bigint AS created_at, name, applied_at")
BY_ID = sql.SQL("id")  # the order in which they were applied
WHOLE_NUMBERS = frozenset({"bigint", "integer", "numeric"})

CREATE_VERSION_0 = sql.SQL(
    "CREATE TABLE IF NOT EXISTS {table} (id SERIAL PRIMARY KEY, hash text NOT NULL, created_at bigint)"
)
CREATE_VERSION_1 = sql.SQL(
    "CREATE TABLE IF NOT EXISTS {table} (id SERIAL PRIMARY KEY, hash text NOT NULL, created_at bigint, "
    "name text, applied_at timestamp with time zone DEFAULT now())"
)


class Drizzle(Tool):
    """Reads and writes Drizzle's history as drizzle-orm 0.45 and 1.0.0-rc.5 do."""

    kind = "drizzle"
    name = "Drizzle"
    shapes = (Shape(DEFAULT_TABLE, "id hash created_at"),)
    way = "Apply it with drizzle-kit migrate."
    known = "Drizzle's (id, hash, created_at) and (id, hash, created_at, name, applied_at)"
    key = ("id", "hash")

    def places(self, package: Path) -> list[Path]:
        """Return what the configuration names, or Drizzle's default."""
        out = read_config(package).out
        return [package / ("drizzle" if out is None else out)]

    def sign(self, folder: Path) -> Sign | None:
        """Look for a journal, or folders with a migration.sql.

        A folder that lost its journal is Drizzle's too, and ``read_folder`` refuses it; as a plain folder, all of it
        would look pending.
        """
        if drizzle_folder.has_journal(folder):
            return Sign(f"it has {drizzle_folder.JOURNAL}", certain=True)
        for path in sorted(filter(drizzle_folder.is_migration, folder.iterdir())):
            return Sign(f"it has {path.name}/{IN_FOLDER}", certain=(path / "snapshot.json").is_file())
        snapshot = next((path.name for path in folder.glob("meta/*_snapshot.json")), None)
        numbered = any(NUMBERED.fullmatch(path.name) for path in sql_files(folder))
        return Sign(f"it has meta/{snapshot}", certain=True) if numbered and snapshot else None

    def read_folder(self, folder: Path) -> list[Migration]:
        """Return the migrations of either layout."""
        return drizzle_folder.read_folder(folder)

    def leftover(self, path: Path) -> str:
        """Return why Drizzle would not run the file."""
        return drizzle_folder.leftover(path, path.parent) or super().leftover(path)

    def find_table(self, conn: Connection, target: Target, folder: Path) -> Table:
        """Return __drizzle_migrations. Raises WrongInput when its version does not fit the folder."""
        table = _find_table(conn, target, nearest_config(folder))
        if drizzle_folder.has_journal(folder) and "name" in table.columns:
            raise _upgraded(folder, table)
        return table

    def rows(self, conn: Connection, table: Table) -> list[AppliedMigration]:
        """Return the rows by id."""
        columns = COLUMNS_1 if "name" in table.columns else COLUMNS_0
        return [_applied(row) for row in fetch_rows(conn, table, columns, BY_ID)]

    def regime(self, folder: Path, table: Table, rows: Sequence[AppliedMigration]) -> Regime:
        """Return how this version of Drizzle knows its rows; without a table, the newest would make it."""
        if drizzle_folder.has_journal(folder):
            return Regime.JOURNAL
        return Regime.NAMES if "name" in table.columns or not table.exists else Regime.TIMES

    def row_rules(self, regime: str, rows: Sequence[AppliedMigration]) -> RowRules:
        """Return the rules by name or by time."""
        return DrizzleRules(Regime(regime), rows)

    def create_table(self, regime: str) -> sql.SQL:
        """Return Drizzle's own DDL."""
        return CREATE_VERSION_1 if regime == Regime.NAMES else CREATE_VERSION_0

    def new_row(self, migration: Migration, regime: str) -> dict[str, object]:
        """Return Drizzle's own row: created_at is when the migration was generated, in milliseconds."""
        row: dict[str, object] = {"hash": migration.hash, "created_at": migration.when_ms}
        return row | {"name": migration.name} if regime == Regime.NAMES else row

    def unrecord(self, history: History, entry: Entry) -> Command:
        """Return the DELETE by primary key and hash: the role needs no right to UPDATE, as FOR UPDATE would ask."""
        statement = sql.SQL("DELETE FROM {} WHERE id = %s AND hash = %s").format(history.identifier_beside_params)
        assert entry.applied is not None  # noqa: S101 - the caller has asked
        return statement, (entry.applied.row["id"], entry.applied.hash)


def _upgraded(folder: Path, table: Table) -> WrongInput:
    return WrongInput(
        f"{folder} has the layout of Drizzle 0.x, but Drizzle 1.0 has upgraded {table.qualified}",
        detail=f'The folder has {drizzle_folder.JOURNAL}; the table has the column "name".',
        hint='Run "drizzle-kit up" of drizzle-kit 1.0 on the folder, or use the folder where that was done.',
    )


def _applied(row: dict[str, object]) -> AppliedMigration:
    name, at = row.get("name"), row.get("applied_at")
    return AppliedMigration(
        name=None if name is None else str(name),
        hash=str(row["hash"]),
        applied_at=at if isinstance(at, datetime) else None,
        row=row,
    )


def _is_drizzle_table(table: Table) -> bool:
    types = table.columns
    if frozenset(types) not in (VERSION_0, VERSION_1) or types["created_at"] not in WHOLE_NUMBERS:
        return False
    return types.get("applied_at", "timestamp with time zone") == "timestamp with time zone"


def _find_table(conn: Connection, target: Target, config: DrizzleConfig) -> Table:
    """Find the history table.

    1. Take what targets.toml names.
    2. Else take the table of that name in the database. When there are several, as in a database that applications
       share, take the one that drizzle.config names; without that, the operator must name it.
    3. Else take what drizzle.config names; it must not contradict 2, or Drizzle would start a second history.
    4. Else take Drizzle's default.
    """
    schema, name = target.history_schema or config.schema, target.history_table or config.table
    names = {target.history_table} if target.history_table else {DEFAULT_TABLE, config.table or DEFAULT_TABLE}
    expected = f"{schema or DEFAULT_SCHEMA}.{name or DEFAULT_TABLE}"
    table = the_one(
        tables_named(conn, names, schema=target.history_schema),
        _is_drizzle_table,
        known=Drizzle.known,
        preferred=expected if schema or name else "",
    )
    if table is None:
        return _table_to_be(target, config)
    if schema in (None, table.schema) and name in (None, table.name):
        return table
    raise WrongInput(
        f"{config.path} names a history table that does not exist",
        detail=f"{expected} does not exist; the database has {table.qualified}. "
        "If that belongs to this folder, Drizzle would run every migration again.",
        hint="Correct the configuration, or name the right table in targets.toml: history_schema and history_table.",
    )


def _table_to_be(target: Target, config: DrizzleConfig) -> Table:
    schema, name = target.history_schema or config.schema, target.history_table or config.table
    if config.unclear and (schema is None or name is None):
        raise WrongInput(
            f"cannot read the name of the history table from {config.path}",
            detail="The database has none yet, and the configuration computes its name; pgrunbook does not run it.",
            hint="Name it in targets.toml: history_schema and history_table.",
        )
    default = "Drizzle's default"
    if config.path is not None and (config.schema or config.table):
        default = f"named in {config.path.name}"
    return table_to_be(target, schema or DEFAULT_SCHEMA, name or DEFAULT_TABLE, default=default)
