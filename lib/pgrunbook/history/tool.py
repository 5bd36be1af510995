"""The one reader of folder and history table; a tool's own module holds only what differs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from psycopg import sql

from pgrunbook.config.targets import Target
from pgrunbook.database.connection import Connection
from pgrunbook.history import foreign_parts
from pgrunbook.history.pairing import RowRules, compare
from pgrunbook.history.state import AppliedMigration, Command, History, Migration
from pgrunbook.history.table import Table, schema_exists

CREATE_SCHEMA = sql.SQL("CREATE SCHEMA IF NOT EXISTS {schema}")


class Tool(ABC):
    """A migration tool whose folder we read, and whose history table we read and write.

    The abstract methods are the hooks. ``kind`` is the tool's name in targets.toml; ``key`` are the columns that
    identify a row of the history table.
    """

    kind: ClassVar[str]
    key: ClassVar[tuple[str, ...]]

    def read(self, conn: Connection, target: Target, folder: Path) -> History:
        """Compare the folder with the history table. Raises Refused when it would run somebody else's code."""
        migrations = self.read_folder(folder)
        table = self.find_table(conn, target, folder)
        if table.exists:
            foreign_parts.refuse(conn, table.schema, table.name)
        rows = self.rows(conn, table) if table.exists else []
        regime = self.regime(folder, table, rows)
        return History(
            kind=self.kind,
            regime=regime,
            folder=folder,
            schema=table.schema,
            table=table.name,
            exists=table.exists,
            schema_exists=table.exists or schema_exists(conn, table.schema),
            how_found=table.how_found,
            entries=compare(migrations, rows, self.row_rules(regime, rows)),
            rows=tuple(rows),
        )

    def prepare_table(self, history: History) -> list[sql.Composed]:
        """Return the DDL of the history table; of its schema only if it is missing, for that needs more rights."""
        table = self.create_table(history.regime).format(table=history.identifier)
        if history.schema_exists:
            return [table]
        return [CREATE_SCHEMA.format(schema=sql.Identifier(history.schema)), table]

    def record(self, history: History, migration: Migration) -> Command:
        """Return the INSERT of one row."""
        row = self.new_row(migration, history.regime)
        expressions = {column: value for column, value in row.items() if isinstance(value, sql.Composable)}
        statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            history.identifier_beside_params,
            sql.SQL(", ").join(map(sql.Identifier, row)),
            sql.SQL(", ").join(expressions.get(column, sql.Placeholder()) for column in row),
        )
        return statement, tuple(value for column, value in row.items() if column not in expressions)

    def unrecord(self, history: History, applied: AppliedMigration) -> Command:
        """Return the DELETE of exactly one row, even if the table has no primary key and duplicate rows."""
        statement = sql.SQL("DELETE FROM {0} WHERE ctid = (SELECT ctid FROM {0} WHERE {1} LIMIT 1 FOR UPDATE)").format(
            history.identifier_beside_params,
            sql.SQL(" AND ").join(
                sql.SQL("{} IS NOT DISTINCT FROM %s").format(sql.Identifier(column)) for column in self.key
            ),
        )
        return statement, tuple(applied.row[column] for column in self.key)

    # -- the folder

    def places(self, package: Path) -> list[Path]:
        """Return where in a package the tool puts the folder, [] when it has no place of its own."""
        return []

    @abstractmethod
    def is_layout(self, folder: Path) -> bool:
        """Tell whether the tool wrote the folder."""

    @abstractmethod
    def read_folder(self, folder: Path) -> list[Migration]:
        """Return the migrations in the order in which the tool applies them."""

    # -- the history table

    @abstractmethod
    def find_table(self, conn: Connection, target: Target, folder: Path) -> Table:
        """Return the history table, or the one that the tool would create."""

    @abstractmethod
    def rows(self, conn: Connection, table: Table) -> list[AppliedMigration]:
        """Return the rows of an existing table, in the order in which they were applied."""

    @abstractmethod
    def regime(self, folder: Path, table: Table, rows: Sequence[AppliedMigration]) -> str:
        """Return how the tool identifies its rows: for people, and for hooks where versions of the tool differ."""

    @abstractmethod
    def row_rules(self, regime: str, rows: Sequence[AppliedMigration]) -> RowRules:
        """Return the rules that pair rows with migrations."""

    # -- what is written

    @abstractmethod
    def create_table(self, regime: str) -> sql.SQL:
        """Return the DDL of the history table, with ``{table}`` for its name."""

    @abstractmethod
    def new_row(self, migration: Migration, regime: str) -> dict[str, object]:
        """Return the row of an applied migration, column to value; a value may be an SQL expression."""
