"""Prisma's migrations: NAME/migration.sql, and _prisma_migrations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.errors import WrongInput
from pgrunbook.history.files import IN_FOLDER, read_migration, read_text
from pgrunbook.history.pairing import RowRules
from pgrunbook.history.state import AppliedMigration, History, Migration, State, unfinished
from pgrunbook.history.table import Shape, Table, fetch_rows
from pgrunbook.history.tool import Sign, Tool

LOCK_FILE = "migration_lock.toml"
PROVIDER = re.compile(r'^\s*provider\s*=\s*"(?P<name>[^"]*)"', re.M)
ADVISORY_LOCK = 72707369


class Prisma(Tool):
    """Reads and writes Prisma's history as Prisma 5 to 7 do.

    A row that was rolled back (``rolled_back_at``) counts for nothing; one that was begun and not finished stops us,
    as it stops ``prisma migrate deploy``. What we take back, we delete: Prisma has no rollback of what was finished.

    Source: schema-engine/connectors/sql-schema-connector of https://github.com/prisma/prisma-engines.
    """

    kind = "prisma"
    name = "Prisma"
    shapes = (Shape("_prisma_migrations", "id checksum finished_at migration_name rolled_back_at started_at"),)
    key = ("id",)
    way = "Apply it with prisma migrate deploy."
    known = (
        "Prisma's (id, checksum, finished_at, migration_name, logs, rolled_back_at, started_at, applied_steps_count)"
    )
    identity = "Prisma: rows known by the migration's name"
    ddl = (
        'CREATE TABLE IF NOT EXISTS {table} ("id" VARCHAR(36) PRIMARY KEY NOT NULL,'
        ' "checksum" VARCHAR(64) NOT NULL, "finished_at" TIMESTAMPTZ, "migration_name" VARCHAR(255) NOT NULL,'
        ' "logs" TEXT, "rolled_back_at" TIMESTAMPTZ, "started_at" TIMESTAMPTZ NOT NULL DEFAULT now(),'
        ' "applied_steps_count" INTEGER NOT NULL DEFAULT 0)'
    )

    def places(self, package: Path) -> list[Path]:
        """Return Prisma's default."""
        return [package / "prisma" / "migrations"]

    def sign(self, folder: Path) -> Sign | None:
        """Look for migration_lock.toml, which Prisma writes beside its migrations."""
        return Sign(f"it has {LOCK_FILE}", certain=True) if (folder / LOCK_FILE).is_file() else None

    def read_folder(self, folder: Path) -> list[Migration]:
        """Return the migrations by name. Raises WrongInput for those of another database."""
        if (folder / LOCK_FILE).exists():
            provider = PROVIDER.search(read_text(folder / LOCK_FILE, folder))
            if provider is not None and provider["name"] not in ("postgresql", "postgres"):
                raise WrongInput(
                    f"the migrations of {folder} are for {provider['name']}",
                    detail=f"{LOCK_FILE} says so.",
                    hint="Correct migrations in targets.toml.",
                )
        names = sorted(path.name for path in folder.iterdir() if (path / IN_FOLDER).is_file())
        if not names:
            raise WrongInput(f"{folder} holds no NAME/{IN_FOLDER}", hint="Correct migrations in targets.toml.")
        return [
            read_migration(folder / name / IN_FOLDER, folder / name / "down.sql", root=folder, name=name, ordinal=n)
            for n, name in enumerate(names)
        ]

    def rows(self, conn: Connection, table: Table) -> list[AppliedMigration]:
        """Return the rows that count, as they began. Raises Refused when one was not finished."""
        columns = sql.SQL("id, checksum, finished_at, migration_name, rolled_back_at, finished_at AS at")
        rows = fetch_rows(conn, table, columns, sql.SQL("started_at, migration_name"))
        counting = [row for row in rows if row["rolled_back_at"] is None]
        for row in counting:
            name = row["migration_name"]
            if row["finished_at"] is None:
                raise unfinished(
                    table.qualified, name, "Prisma",
                    f'"prisma migrate resolve --applied {name}" where it is complete, '
                    f'"prisma migrate resolve --rolled-back {name}" where nothing of it is there',
                )  # fmt: skip
        return [AppliedMigration.of(str(row["migration_name"]), row, str(row["checksum"])) for row in counting]

    def row_rules(self, regime: str, rows: Sequence[AppliedMigration]) -> RowRules:
        """Return the rules by name and checksum."""
        return _PrismaRules()

    def new_row(self, migration: Migration, regime: str) -> dict[str, object]:
        """Return Prisma's own row, with a new id."""
        return {
            "id": sql.SQL("pg_catalog.gen_random_uuid()::text"),
            "checksum": migration.hash,
            "finished_at": sql.SQL("pg_catalog.clock_timestamp()"),
            "migration_name": migration.name,
            "started_at": sql.SQL("pg_catalog.now()"),
            "applied_steps_count": 1,
        }

    def lock_keys(self, conn: Connection, history: History) -> list[int]:
        """Return the key of Prisma's lock."""
        return [ADVISORY_LOCK]


class _PrismaRules(RowRules):
    tool_does_with_older = "prisma migrate deploy applies it anyway, in another order than on a new database."
    tool_does_without = "prisma migrate deploy goes on."
    renewal = "Make it again under a new name"
    primary_key = "id"

    def key(self, migration: Migration) -> str:
        return migration.name

    def row_key(self, row: AppliedMigration) -> str | None:
        return row.name

    def applied(self, migration: Migration, row: AppliedMigration, match: str) -> tuple[State, str]:
        if row.hash == migration.hash or migration.differs_in_line_ends_only(row.hash):
            return State.APPLIED, ""
        return State.EDITED, (
            "Its file was changed after it was applied: prisma migrate dev would ask to reset the database. "
            "Bring the applied text back from git, and put the change into a new migration."
        )

    def duplicate_note(self, row: AppliedMigration, first: AppliedMigration) -> str:
        return (
            "Recorded more than once: it may have run twice. Check what it did to the database, "
            f"then delete the row with id {row.row['id']}."
        )
