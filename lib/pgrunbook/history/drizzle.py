"""Drizzle's migrations, in each of its layouts and history tables (drizzle-orm 0.x and 1.0)."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from psycopg import sql

from pgrunbook.config.targets import Target
from pgrunbook.database.connection import Connection
from pgrunbook.errors import WrongInput
from pgrunbook.history import drizzle_folder
from pgrunbook.history.drizzle_config import DrizzleConfig, nearest_config
from pgrunbook.history.drizzle_states import Regime, compare
from pgrunbook.history.state import AppliedMigration, Command, History, Migration
from pgrunbook.history.table import Table, fetch_rows, schema_exists, tables_named, the_one

DEFAULT_SCHEMA = "drizzle"
DEFAULT_TABLE = "__drizzle_migrations"

# Drizzle tells its table's version by the column "name" (drizzle-orm/up-migrations/utils.js).
VERSION_0 = frozenset({"id", "hash", "created_at"})
VERSION_1 = VERSION_0 | {"name", "applied_at"}
KNOWN = "Drizzle's (id, hash, created_at) and (id, hash, created_at, name, applied_at)"
WHOLE_NUMBERS = frozenset({"bigint", "integer", "numeric"})

CREATE_SCHEMA = sql.SQL("CREATE SCHEMA IF NOT EXISTS {schema}")
CREATE_VERSION_0 = sql.SQL(
    "CREATE TABLE IF NOT EXISTS {table} (id SERIAL PRIMARY KEY, hash text NOT NULL, created_at bigint)"
)
CREATE_VERSION_1 = sql.SQL(
    "CREATE TABLE IF NOT EXISTS {table} (id SERIAL PRIMARY KEY, hash text NOT NULL, created_at bigint, "
    "name text, applied_at timestamp with time zone DEFAULT now())"
)


class Drizzle:
    """Reads and keeps Drizzle's history as drizzle-orm 0.45 and 1.0.0-rc.5 do."""

    kind = "drizzle"

    def read(self, conn: Connection, target: Target, folder: Path) -> History:
        """Compare the folder with Drizzle's history table."""
        migrations = drizzle_folder.read_folder(folder)
        table = _find_table(conn, target, nearest_config(folder))
        regime = _regime(folder, table)
        rows = _rows(conn, table) if table.exists else []
        return History(
            kind=self.kind,
            regime=regime,
            folder=folder,
            schema=table.schema,
            table=table.name,
            exists=table.exists,
            schema_exists=table.exists or schema_exists(conn, table.schema),
            how_found=table.how_found,
            entries=compare(migrations, rows, regime),
            rows=tuple(rows),
        )

    def prepare_table(self, history: History) -> list[sql.Composed]:
        """Give Drizzle's own DDL; the schema's only where it is missing, for that asks for more rights."""
        create = CREATE_VERSION_1 if history.regime == Regime.NAMES else CREATE_VERSION_0
        table = create.format(table=history.identifier)
        return [table] if history.schema_exists else [_create_schema(history), table]

    def record(self, history: History, migration: Migration) -> Command:
        """Give Drizzle's own INSERT: created_at is when the migration was generated, in milliseconds."""
        values: dict[str, object] = {"hash": migration.hash, "created_at": migration.when_ms}
        if history.regime == Regime.NAMES:
            values["name"] = migration.name
        statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            history.identifier_beside_params,
            sql.SQL(", ").join(map(sql.Identifier, values)),
            sql.SQL(", ").join(sql.Placeholder() * len(values)),
        )
        return statement, tuple(values.values())

    def unrecord(self, history: History, applied: AppliedMigration) -> Command:
        """Give the DELETE of that row, by its primary key and its hash."""
        statement = sql.SQL("DELETE FROM {} WHERE id = %s AND hash = %s").format(history.identifier_beside_params)
        return statement, (applied.row["id"], applied.hash)


def _create_schema(history: History) -> sql.Composed:
    return CREATE_SCHEMA.format(schema=sql.Identifier(history.schema))


def _regime(folder: Path, table: Table) -> Regime:
    version_1 = "name" in table.columns
    if not drizzle_folder.has_journal(folder):
        # Without a table, the newest Drizzle is the one that would make it.
        return Regime.NAMES if version_1 or not table.exists else Regime.TIMES
    if version_1:
        raise WrongInput(
            f"{folder} is of Drizzle 0.x, but {table.qualified} was upgraded by Drizzle 1.0",
            detail=f"The folder has {drizzle_folder.JOURNAL}; the table has the column name.",
            hint='Run "drizzle-kit up" of drizzle-kit 1.0 on the folder, or take the folder from where that was done.',
        )
    return Regime.JOURNAL


def _rows(conn: Connection, table: Table) -> list[AppliedMigration]:
    """The rows by id, which is the order in which they were applied."""
    columns = [sql.SQL("id, hash, created_at::bigint AS created_at")]
    if "name" in table.columns:
        columns.append(sql.SQL("name, applied_at"))
    rows = fetch_rows(conn, table, sql.SQL(", ").join(columns), sql.SQL("id"))
    return [_applied(row) for row in rows]


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

    1. What targets.toml names, counts.
    2. Else the table of that name that the database has. Where it has several, as applications that share a
       database do, the one that drizzle.config names; without that, the operator has to tell them apart.
    3. Else what drizzle.config names; it must not contradict 2, or Drizzle would begin anew beside it.
    4. Else Drizzle's default.
    """
    schema, name = target.history_schema or config.schema, target.history_table or config.table
    names = {target.history_table} if target.history_table else {DEFAULT_TABLE, config.table or DEFAULT_TABLE}
    expected = f"{schema or DEFAULT_SCHEMA}.{name or DEFAULT_TABLE}"
    table = the_one(
        tables_named(conn, names, schema=target.history_schema),
        _is_drizzle_table,
        known=KNOWN,
        preferred=expected if schema or name else "",
    )
    if table is None:
        return _table_to_be(target, config)
    if schema in (None, table.schema) and name in (None, table.name):
        return table
    raise WrongInput(
        f"{config.path} names another history table than the database has",
        detail=f"{expected} does not exist; the database has {table.qualified}. "
        "If that is this folder's, Drizzle itself would run every migration again.",
        hint="Correct the configuration, or name the table that counts in targets.toml: "
        "history_schema and history_table.",
    )


def _table_to_be(target: Target, config: DrizzleConfig) -> Table:
    schema, name = target.history_schema or config.schema, target.history_table or config.table
    if config.unclear and (schema is None or name is None):
        raise WrongInput(
            f"could not tell the history table from {config.path}",
            detail="The database has none yet, and the configuration computes its name; it is not run here.",
            hint="Name it in targets.toml: history_schema and history_table.",
        )
    if target.history_schema or target.history_table:
        how = "named in targets.toml"
    elif config.path is not None and (config.schema or config.table):
        how = f"named in {config.path.name}"
    else:
        how = "Drizzle's default"
    return Table(schema or DEFAULT_SCHEMA, name or DEFAULT_TABLE, {}, f"{how}; it does not exist yet")
