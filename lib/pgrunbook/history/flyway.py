"""Flyway's migrations: V1_2__description.sql with U1_2__ beside it, R__description.sql, and flyway_schema_history."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.errors import WrongInput
from pgrunbook.history.files import FileNames, read_migration, sql_files, sql_files_below
from pgrunbook.history.flyway_rules import FlywayRules, checksum, description, key_of
from pgrunbook.history.pairing import RowRules
from pgrunbook.history.state import AppliedMigration, Command, Entry, History, Migration, unfinished
from pgrunbook.history.table import Shape, Table, fetch_rows
from pgrunbook.history.tool import MICROSECONDS, Sign, Tool

NAMES = FileNames(
    pattern=re.compile(r"V(?P<version>[0-9]+(?:[._][0-9]+)*)__.*\.sql|R__.*\.sql"),
    form="V1_2__description.sql",
    rule="Flyway's migrations are named V1_2__description.sql, U1_2__description.sql and R__description.sql.",
    twice="Flyway refuses the folder",
    almost=re.compile(r"[VRB][\d._]*_.*\.sql", re.I),
)
UNDO = re.compile(r"U[0-9]+(?:[._][0-9]+)*__.*\.sql")
PLACEHOLDER = re.compile(r"\$\{[^}\s]*\}")
MAGIC = 77431708279161  # "Flyway" in ASCII
OF_A_FILE = ("SQL", "JDBC", "SPRING_JDBC", "SQL_BASELINE", "BASELINE")


class Flyway(Tool):
    """Reads and writes Flyway's history as its community edition does from 5 to 11.

    Versions come before repeatable migrations (``R__``), which run again when their checksum changes. What we take
    back, we delete from the table, as the community edition has no undo that records anything.

    Source: JdbcTableSchemaHistory, PostgreSQLDatabase and ChecksumCalculator of https://github.com/flyway/flyway.
    """

    kind = "flyway"
    name = "Flyway"
    shapes = (Shape("flyway_schema_history", "installed_rank version description type script checksum success"),)
    key = ("installed_rank",)
    way = "Apply it with flyway migrate."
    known = "Flyway's (installed_rank, version, description, type, script, checksum, installed_by, installed_on, ...)"
    identity = "Flyway: rows known by their version, repeatable migrations by their description"
    ddl = (
        "CREATE TABLE {table} (installed_rank INT NOT NULL, version VARCHAR(50), description VARCHAR(200) NOT NULL,"
        " type VARCHAR(20) NOT NULL, script VARCHAR(1000) NOT NULL, checksum INTEGER,"
        " installed_by VARCHAR(100) NOT NULL, installed_on TIMESTAMP NOT NULL DEFAULT now(),"
        " execution_time INTEGER NOT NULL, success BOOLEAN NOT NULL, CONSTRAINT {pk} PRIMARY KEY (installed_rank))"
    )
    programs = re.compile(r"[VRU].*__.*\.(java|kt|class)")

    def places(self, package: Path) -> list[Path]:
        """Return the place in a project of Maven or Gradle."""
        return [package / "src/main/resources/db/migration"]

    def sign(self, folder: Path) -> Sign | None:
        """Look for V1__description.sql or R__description.sql."""
        first = next((path.name for path in sql_files(folder) if NAMES.pattern.fullmatch(path.name)), None)
        return Sign(f"it has {first}", certain=True) if first else None

    def read_folder(self, folder: Path) -> list[Migration]:
        """Return the versions in their order, then the repeatable ones by their description."""
        files = sql_files_below(folder)
        paths = NAMES.those_of([path for path in files if not UNDO.fullmatch(path.name)])
        NAMES.check(folder, paths, lambda path: str(key_of(path.name)))
        undos = {key_of(path.name): path for path in files if UNDO.fullmatch(path.name)}
        ordered = sorted(paths, key=lambda path: (path.name.startswith("R"), key_of(path.name)))
        return [_migration(path, undos.get(key_of(path.name)), folder, n) for n, path in enumerate(ordered)]

    def rows(self, conn: Connection, table: Table) -> list[AppliedMigration]:
        """Return the rows that count, by rank. Raises Refused when one failed."""
        columns = sql.SQL(
            "installed_rank, version, description, type, script, checksum, installed_on::timestamptz AS at, success"
        )
        found = fetch_rows(conn, table, columns, sql.SQL("installed_rank"))
        for row in found:
            if not row["success"]:
                raise unfinished(table.qualified, row["script"], self.name, '"flyway repair", which deletes its row')
        return [_applied(row) for row in _counting(found)]

    def row_rules(self, regime: str, rows: Sequence[AppliedMigration]) -> RowRules:
        """Return the rules by version and checksum."""
        return FlywayRules(rows)

    def prepare_table(self, history: History) -> list[sql.Composed]:
        """Return Flyway's own DDL: the table, its key and its index."""
        index = sql.SQL("CREATE INDEX {} ON {} (success)")
        made = index.format(sql.Identifier(f"{history.table}_s_idx"), history.identifier)
        return [*super().prepare_table(history), made]

    def new_row(self, migration: Migration, regime: str) -> dict[str, object]:
        """Return Flyway's own row but for rank and script; the time is in milliseconds."""
        found = NAMES.pattern.fullmatch(migration.path.name)
        version = found["version"] if found else None
        return {
            "version": version.replace("_", ".") if version else None,
            "description": description(migration.path.name),
            "type": "SQL",
            "checksum": checksum(migration.sql),
            "installed_by": sql.SQL("current_user"),
            "execution_time": sql.SQL(f"({MICROSECONDS} / 1000)::int"),
            "success": True,
        }

    def record(self, history: History, migration: Migration) -> Command:
        """Return the INSERT of one row with the next rank, and the file's path in the folder."""
        rank = sql.SQL("(SELECT coalesce(pg_catalog.max(installed_rank), 0) + 1 FROM {})")
        row: dict[str, object] = {
            "installed_rank": rank.format(history.identifier_beside_params),
            "script": migration.path.relative_to(history.folder).as_posix(),
        }
        return self.insert(history, row | self.new_row(migration, history.regime))

    def unrecord(self, history: History, entry: Entry) -> Command:
        """Return the DELETE of the row. Raises WrongInput for what is before the baseline, which has none."""
        if entry.applied is not None and entry.applied.row["type"] == "BASELINE":
            raise WrongInput(
                f'cannot remove "{entry.name}" from {history.qualified_table}',
                detail=f"It is not after the baseline {entry.applied.row['version']}, and has no row of its own.",
                hint="Take back what was applied after the baseline only.",
            )
        return super().unrecord(history, entry)

    def lock_keys(self, conn: Connection, history: History) -> list[int]:
        """Return the key of Flyway's lock, by the quoted name of the table."""
        return [MAGIC + _java_hash(f'"{history.schema}"."{history.table}"')]


def _migration(path: Path, undo: Path | None, root: Path, ordinal: int) -> Migration:
    if path.with_name(f"{path.name}.conf").exists():
        raise WrongInput(
            f"{path}.conf changes how Flyway runs the file",
            detail="pgrunbook does not read it; what cannot run in a transaction runs outside of one anyway.",
            hint="Remove it where it only says executeInTransaction=false; else apply this migration with Flyway.",
        )
    migration = read_migration(path, undo, root=root, name=path.stem, ordinal=ordinal)
    found = PLACEHOLDER.search(migration.sql)
    if found is not None:
        line = migration.sql.count("\n", 0, found.start()) + 1
        raise WrongInput(
            f"{path}, line {line}: {found.group()} is a placeholder of Flyway",
            detail="Flyway's configuration has its value, which pgrunbook does not read.",
            hint="Write the value itself, or apply this migration with Flyway.",
        )
    return migration


def _applied(row: dict[str, object]) -> AppliedMigration:
    name = str(row["script"]).rsplit("/", 1)[-1].removesuffix(".sql")
    known = None if row["checksum"] is None else str(row["checksum"])
    return AppliedMigration.of(name, row, known)


def _counting(found: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """The rows of what is applied: not those that a later row says are undone or deleted.

    Of a repeatable migration the newest row counts.
    """
    counting: dict[object, dict[str, object]] = {}
    for row in found:
        key = ("R", row["description"]) if row["version"] is None else row["version"]
        counting.pop(key, None)
        if row["type"] in OF_A_FILE:
            counting[key] = row
    return list(counting.values())


def _java_hash(text: str) -> int:
    """What String.hashCode of Java is, of a text in the basic plane."""
    value = 0
    for sign in text:
        value = (value * 31 + ord(sign)) % 2**32
    return value - 2**32 if value >= 2**31 else value
