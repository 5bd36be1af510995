"""Plain migrations: NNNN_name.sql with NNNN_name.down.sql, and schema_migrations(version, applied_at)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from psycopg import sql

from pgrunbook.config.targets import Target
from pgrunbook.database.connection import Connection
from pgrunbook.errors import WrongInput
from pgrunbook.history.files import NUMBERED, FileNames, is_down, read_migration, sql_files
from pgrunbook.history.pairing import Pass, RowRules
from pgrunbook.history.state import AppliedMigration, Migration, State
from pgrunbook.history.table import (
    Shape,
    Table,
    current_schema,
    fetch_versions,
    schema_exists,
    table_to_be,
    tables_named,
    the_one,
)
from pgrunbook.history.tool import Sign, Tool

DEFAULT_SCHEMA = "public"
DEFAULT_TABLE = "schema_migrations"
COLUMNS = frozenset({"version", "applied_at"})
TIMES = frozenset({"timestamp with time zone", "timestamp without time zone"})
INTEGERS = frozenset({"bigint", "integer", "smallint"})
NAMES = FileNames(
    pattern=NUMBERED,
    form="NNNN_name.sql",
    part="number",
    rule="A plain migration is named NNNN_name.sql, and the file that undoes it NNNN_name.down.sql.",
    twice="their order is unknown",
    unused="the next free number",
    almost=re.compile(r"v?\d", re.ASCII | re.IGNORECASE),
)
# Files that undo a migration, as other tools name them; read as plain, they would be applied.
UNDOING = re.compile(r"(?P<stem>.*?)(?P<sign>[._-])(down|undo|rollback|revert|backward|back)\.sql", re.I)


class VersionForm(StrEnum):
    """What the column version holds; new rows get the same form."""

    STEM = "plain: version is the file's name"
    PADDED = "plain: version is the file's number with its zeros"
    NUMBER = "plain: version is the file's number"


class Plain(Tool):
    """Reads numbered SQL files, and reads and writes the table schema_migrations."""

    kind = "plain"
    name = "plain files"
    shapes = (Shape(DEFAULT_TABLE, "version applied_at"),)
    key = ("version", "applied_at")
    way = "Name its migrations folder."
    known = "(version, applied_at)"
    ddl = (
        "CREATE TABLE IF NOT EXISTS {table} "
        "(version text PRIMARY KEY, applied_at timestamp with time zone NOT NULL DEFAULT now())"
    )

    def sign(self, folder: Path) -> Sign | None:
        """Look for a file with a number."""
        names = (path.name for path in sql_files(folder) if NUMBERED.fullmatch(path.name))
        first = next((name for name in names if not name.lower().endswith((".up.sql", ".down.sql"))), None)
        return Sign(f"it has {first}", certain=False) if first else None

    def read_folder(self, folder: Path) -> list[Migration]:
        """Return the migrations by number: 9 before 10."""
        paths = NAMES.those_of(path for path in sql_files(folder) if not is_down(path))
        _expect_no_undoing(paths)
        NAMES.check(folder, paths, lambda path: _number(path.name) or 0)
        ordered = sorted(paths, key=lambda path: _number(path.name) or 0)
        return [_migration(path, ordinal) for ordinal, path in enumerate(ordered)]

    def find_table(self, conn: Connection, target: Target, folder: Path) -> Table:
        """Return schema_migrations."""
        return _find_table(conn, target)

    def rows(self, conn: Connection, table: Table) -> list[AppliedMigration]:
        """Return the rows by number, those without one last."""
        columns = sql.SQL("version::text AS version, applied_at, applied_at::timestamptz AS at")
        rows = fetch_versions(conn, table, columns, sql.SQL("applied_at NULLS FIRST, version"), known=self.known)
        unnumbered = float("inf")
        applied = [AppliedMigration.of(str(row["version"]), row) for row in rows]
        return sorted(applied, key=lambda row: unnumbered if (n := _number(row.name)) is None else n)

    def regime(self, folder: Path, table: Table, rows: Sequence[AppliedMigration]) -> VersionForm:
        """Return the form of the versions that the rows have."""
        return _form(table, rows)

    def row_rules(self, regime: str, rows: Sequence[AppliedMigration]) -> RowRules:
        """Return the rules by number."""
        return _PlainRules()

    def new_row(self, migration: Migration, regime: str) -> dict[str, object]:
        """Return the version, in the form that the table's rows have."""
        return {"version": _version(migration, regime), "applied_at": sql.SQL("now()")}


class _PlainRules(RowRules):
    renewal = "Give it the next free number"

    def key(self, migration: Migration) -> int | None:
        return _number(migration.name)

    def row_key(self, row: AppliedMigration) -> int | None:
        return _number(row.name)

    def passes(self) -> list[Pass]:
        return [
            Pass("name", lambda m: m.name, lambda r: r.name),
            Pass("number", self.key, _only_number),
            Pass("renamed", self.key, self.row_key),
        ]

    def applied(self, migration: Migration, row: AppliedMigration, match: str) -> tuple[State, str]:
        if match != "renamed":
            return State.APPLIED, ""
        return State.EDITED, (
            f'The history table has "{row.name}" under its number: the file was renamed after it was applied, '
            "or it is another migration. Rename it back, or give another migration the next free number."
        )


def _version(migration: Migration, form: str) -> str | None:
    if form == VersionForm.NUMBER:
        return str(_number(migration.name))
    return _digits(migration.name) if form == VersionForm.PADDED else migration.name


def _migration(path: Path, ordinal: int) -> Migration:
    down = path.with_name(f"{path.stem}.down.sql")
    return read_migration(path, down, root=path.parent, name=path.stem, ordinal=ordinal)


def _expect_no_undoing(paths: Sequence[Path]) -> None:
    """Refuse 0001_a_down.sql beside another file with its number, and 0001_a.undo.sql in any case."""
    numbers = Counter(_number(path.name) for path in paths)
    for path in paths:
        undoing = UNDOING.fullmatch(path.name)
        if undoing is not None and (undoing["sign"] == "." or numbers[_number(path.name)] > 1):
            stem = undoing["stem"]
            raise WrongInput(
                f"{path} seems to undo a migration, and would be applied as one",
                detail=f"The file that undoes {stem}.sql is named {stem}.down.sql.",
                hint="Rename both so, or apply the folder with the tool that names its files this way.",
            )


def _find_table(conn: Connection, target: Target) -> Table:
    found = tables_named(conn, {target.history_table or DEFAULT_TABLE}, schema=target.history_schema)
    if target.history_schema is None:
        # Other products have a table of this name in a schema of their own; only ours has applied_at.
        found = [table for table in found if table.schema == DEFAULT_SCHEMA or _is_plain_table(table)]
    table = the_one(found, _is_plain_table, known=Plain.known)
    if table is not None:
        return table
    usual = DEFAULT_SCHEMA if schema_exists(conn, DEFAULT_SCHEMA) else current_schema(conn)
    schema, name = target.history_schema or usual, target.history_table or DEFAULT_TABLE
    return table_to_be(target, schema, name, default="the default")


def _is_plain_table(table: Table) -> bool:
    return frozenset(table.columns) == COLUMNS and table.columns["applied_at"] in TIMES


def _digits(version: str | None) -> str | None:
    found = re.match(r"[0-9]+(?=_|$)", version or "")
    return found.group() if found else None


def _number(version: str | None) -> int | None:
    digits = _digits(version)
    return int(digits) if digits else None


def _only_number(row: AppliedMigration) -> int | None:
    return _number(row.name) if row.name == _digits(row.name) else None


def _form(table: Table, rows: Sequence[AppliedMigration]) -> VersionForm:
    versions = [row.name or "" for row in rows]
    if table.columns.get("version") in INTEGERS:
        return VersionForm.NUMBER
    if not versions or not all(re.fullmatch("[0-9]+", version) for version in versions):
        return VersionForm.STEM
    return VersionForm.PADDED if any(version.startswith("0") for version in versions) else VersionForm.NUMBER
