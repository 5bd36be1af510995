"""The one reader of folder and history table; a tool's own module holds only what differs."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, LiteralString

from psycopg import sql

from pgrunbook.config.targets import Target
from pgrunbook.database.connection import Connection
from pgrunbook.errors import WrongInput
from pgrunbook.history import foreign_parts, known_tables, marks
from pgrunbook.history.files import is_down, read_migration, sql_files
from pgrunbook.history.known_tables import KnownTable
from pgrunbook.history.pairing import RowRules, compare
from pgrunbook.history.state import AppliedMigration, Command, Entry, History, Migration, State
from pgrunbook.history.table import Shape, Table, near_table, schema_exists

# How long the transaction that writes the row has taken, as an expression.
MICROSECONDS = (
    "(extract(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.transaction_timestamp()) * 1000000)::bigint"
)
CREATE_SCHEMA = sql.SQL("CREATE SCHEMA IF NOT EXISTS {schema}")


@dataclass(frozen=True)
class Sign:
    """Why a folder may be a tool's; ``certain`` where no other tool has such folders.

    ``marked`` is for what tells the tool where nothing else names another one.
    """

    why: str
    certain: bool
    marked: bool = False


class Tool(ABC):
    """A migration tool whose folder we read, and whose history table we read and write.

    The methods below are the hooks. ``kind`` is the tool's name in targets.toml, ``name`` that for people;
    ``shapes`` are those of its history table, ``known`` are the columns of that for people, ``types`` those that they
    may have ("" for any), ``key`` the columns that identify a row; ``identity`` tells how rows are known, ``ddl``
    creates the table, with ``{table}`` for its name, ``{pk}`` for its key's. ``way`` is how the tool's team applies
    migrations. ``programs`` are the names of migrations that are no SQL. ``dependency`` is a file of a project, and
    how it names the tool ("" where the file alone tells).
    """

    kind: ClassVar[str]
    name: ClassVar[str]
    shapes: ClassVar[tuple[Shape, ...]]
    known: ClassVar[str]
    types: ClassVar[str] = ""
    key: ClassVar[tuple[str, ...]]
    identity: ClassVar[str]
    ddl: ClassVar[LiteralString]
    way: ClassVar[str]
    programs: ClassVar[re.Pattern[str] | None] = None
    dependency: ClassVar[tuple[str, str] | None] = None

    def read(self, conn: Connection, target: Target, folder: Path, why: str, others: Sequence[KnownTable]) -> History:
        """Compare the folder with the history table; ``others`` are the history tables of other tools.

        Raises Refused when it would run somebody else's code, WrongInput for a folder that cannot be read as the
        tool's, or whose history is another tool's.
        """
        self._expect_no_program(folder)
        migrations = self.read_folder(folder)
        for migration in migrations:
            self._expect_own_marks(migration)
        table = self._own_table(conn, target, folder, why, others)
        if table.exists:
            foreign_parts.refuse(conn, table.schema, table.name)
        rows = self.rows(conn, table) if table.exists else []
        regime = self.regime(folder, table, rows)
        if migrations:
            self._expect_no_other_column(table, self.new_row(migrations[0], regime))
        return History(
            kind=self.kind,
            regime=regime,
            folder=folder,
            schema=table.schema,
            table=table.name,
            exists=table.exists,
            schema_exists=table.exists or schema_exists(conn, table.schema),
            how_found=table.how_found,
            entries=(*compare(migrations, rows, self.row_rules(regime, rows)), *self._leftovers(folder, migrations)),
            rows=tuple(rows),
            recognised_by=why,
        )

    def prepare_table(self, history: History) -> list[sql.Composed]:
        """Return the DDL of the history table; of its schema only if it is missing, for that needs more rights."""
        names = {"table": history.identifier, "pk": sql.Identifier(f"{history.table}_pk")}
        table = self.create_table(history.regime).format(**names)
        if history.schema_exists:
            return [table]
        return [CREATE_SCHEMA.format(schema=sql.Identifier(history.schema)), table]

    def record(self, history: History, migration: Migration) -> Command:
        """Return the INSERT of one row."""
        return self.insert(history, self.new_row(migration, history.regime))

    def insert(self, history: History, row: Mapping[str, object]) -> Command:
        """Return the INSERT of a row, column to value; a value may be an SQL expression."""
        expressions = {column: value for column, value in row.items() if isinstance(value, sql.Composable)}
        statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            history.identifier_beside_params,
            sql.SQL(", ").join(map(sql.Identifier, row)),
            sql.SQL(", ").join(expressions.get(column, sql.Placeholder()) for column in row),
        )
        return statement, tuple(value for column, value in row.items() if column not in expressions)

    def unrecord(self, history: History, entry: Entry) -> Command:
        """Return the DELETE of exactly one row, even if the table has no primary key and duplicate rows."""
        assert entry.applied is not None  # noqa: S101 - the caller has asked
        statement = sql.SQL("DELETE FROM {0} WHERE ctid = (SELECT ctid FROM {0} WHERE {1} LIMIT 1 FOR UPDATE)").format(
            history.identifier_beside_params,
            sql.SQL(" AND ").join(
                sql.SQL("{} IS NOT DISTINCT FROM %s").format(sql.Identifier(column)) for column in self.key
            ),
        )
        return statement, tuple(entry.applied.row[column] for column in self.key)

    def lock_keys(self, conn: Connection, history: History) -> list[int]:
        """Return the keys of the advisory locks that the tool holds while it migrates, [] when it has none."""
        return []

    def up(self, path: Path, text: str) -> str:
        """Return the part of a file's text that applies the migration, on the file's own lines."""
        return self.sections(path, text)[0]

    def sections(self, path: Path, text: str) -> tuple[str, str | None]:
        """Return the parts of a file's text that apply the migration and undo it, on the file's own lines."""
        return text, None

    def _of_two_sections(self, path: Path, root: Path, ordinal: int) -> Migration:
        whole = read_migration(path, None, root=root, name=path.stem, ordinal=ordinal)
        up, down = self.sections(path, whole.sql)
        return replace(whole, sql=up, down_sql=down, down_path=path if down else None, whole=whole.sql)

    def _own_table(
        self, conn: Connection, target: Target, folder: Path, why: str, others: Sequence[KnownTable]
    ) -> Table:
        """Return the history table; another tool's is refused, unless it lies beside one of our own."""
        named = target.history_schema or target.history_table
        try:
            table = self.find_table(conn, target, folder)
        except WrongInput:
            if others and not named:
                raise known_tables.second(folder, self.name, why, others) from None
            raise
        taken = [other for other in others if other.table.qualified == table.qualified]
        if taken or (others and not table.exists and not named):
            raise known_tables.second(folder, self.name, why, taken or others)
        return table

    def _expect_no_program(self, folder: Path) -> None:
        for path in sorted(folder.iterdir()) if self.programs else ():
            if self.programs and self.programs.fullmatch(path.name):
                raise WrongInput(
                    f"{path} is a program, and only {self.name} can run it",
                    detail="Its place is between the SQL files, so what comes after it cannot be applied without it.",
                    hint=f"{self.way} Or write it in SQL.",
                )

    def _expect_no_other_column(self, table: Table, row: Mapping[str, object]) -> None:
        """Refuse a history table in which no row could be written: a newer version of the tool may have made it."""
        written = {*row, *self.key, *(column for shape in self.shapes for column in shape.needed)}
        if more := sorted(table.required - written):
            raise WrongInput(
                f"cannot write into the history table {table.qualified}: it has more columns than are known",
                detail=f"A new row must name {', '.join(more)}, for which there is no value; known are {self.known}.",
                hint=f"Where a newer {self.name} has made them, apply what is pending with it; or give them a default.",
            )

    def _expect_own_marks(self, migration: Migration) -> None:
        marks.refuse(migration.path, migration.sql, own=self.name)
        if migration.down_sql is not None and migration.down_path is not None:
            marks.refuse(migration.down_path, migration.down_sql, own=self.name, undoes=True)

    def _leftovers(self, folder: Path, migrations: Sequence[Migration]) -> list[Entry]:
        """Return an entry for each SQL file of the folder that the tool would not run."""
        known = {path for m in migrations for path in (m.path, m.down_path)}
        left = [path for path in sql_files(folder) if path not in known]
        return [Entry(path.name, State.LEFTOVER, None, None, self.leftover(path)) for path in left]

    # -- the folder

    def leftover(self, path: Path) -> str:
        """Return the note of an SQL file that the tool would not run."""
        if is_down(path):
            return "It undoes a migration that is not in the folder, and is not executed."
        return f"It is not executed: its name is not that of a migration of {self.name}."

    def places(self, package: Path) -> list[Path]:
        """Return where in a package the tool puts the folder, [] when it has no place of its own."""
        return []

    @abstractmethod
    def sign(self, folder: Path) -> Sign | None:
        """Return why the folder is the tool's, or may be, None when it is not."""

    @abstractmethod
    def read_folder(self, folder: Path) -> list[Migration]:
        """Return the migrations in the order in which the tool applies them."""

    # -- the history table

    def find_table(self, conn: Connection, target: Target, folder: Path) -> Table:
        """Return the history table, or the one that the tool would create."""
        return near_table(conn, target, self.shapes[0], known=self.known, tool=self.name, types=self.types)

    @abstractmethod
    def rows(self, conn: Connection, table: Table) -> list[AppliedMigration]:
        """Return the rows of an existing table, in the order in which they were applied."""

    def regime(self, folder: Path, table: Table, rows: Sequence[AppliedMigration]) -> str:
        """Return how the tool identifies its rows: for people, and for hooks where versions of the tool differ."""
        return self.identity

    @abstractmethod
    def row_rules(self, regime: str, rows: Sequence[AppliedMigration]) -> RowRules:
        """Return the rules that pair rows with migrations."""

    # -- what is written

    def create_table(self, regime: str) -> sql.SQL:
        """Return the DDL of the history table."""
        return sql.SQL(self.ddl)

    @abstractmethod
    def new_row(self, migration: Migration, regime: str) -> dict[str, object]:
        """Return the row of an applied migration, column to value; a value may be an SQL expression."""
