"""Plain migrations: NNNN_name.sql with NNNN_name.down.sql, and schema_migrations(version, applied_at)."""

from __future__ import annotations

import itertools
import re
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from psycopg import sql

from pgrunbook.config.targets import Target
from pgrunbook.database.connection import Connection
from pgrunbook.errors import WrongInput
from pgrunbook.history.folder import NUMBERED, OTHERS_MARK, is_down, read_migration, sql_files
from pgrunbook.history.pairing import Pairing, Pass, insert_rows, mark_out_of_order, pair
from pgrunbook.history.state import AppliedMigration, Command, Entry, History, Migration, State
from pgrunbook.history.table import Table, fetch_rows, schema_exists, tables_named, the_one, unknown_columns

DEFAULT_SCHEMA = "public"
DEFAULT_TABLE = "schema_migrations"
COLUMNS = frozenset({"version", "applied_at"})
KNOWN = "(version, applied_at)"
TIMES = frozenset({"timestamp with time zone", "timestamp without time zone"})
INTEGERS = frozenset({"bigint", "integer", "smallint"})

CREATE_SCHEMA = sql.SQL("CREATE SCHEMA IF NOT EXISTS {schema}")
CREATE_TABLE = sql.SQL(
    "CREATE TABLE IF NOT EXISTS {table} "
    "(version text PRIMARY KEY, applied_at timestamp with time zone NOT NULL DEFAULT now())"
)


class VersionForm(StrEnum):
    """What the table's rows call a migration; new rows are written alike."""

    STEM = "plain: version is the file's name"
    PADDED = "plain: version is the file's number with its zeros"
    NUMBER = "plain: version is the file's number"


class Plain:
    """Reads and keeps numbered SQL files and the table schema_migrations."""

    kind = "plain"

    def read(self, conn: Connection, target: Target, folder: Path) -> History:
        """Compare the folder with schema_migrations."""
        migrations = _read_folder(folder)
        table = _find_table(conn, target)
        rows = _rows(conn, table) if table.exists else []
        return History(
            kind=self.kind,
            regime=_form(table, rows),
            folder=folder,
            schema=table.schema,
            table=table.name,
            exists=table.exists,
            schema_exists=table.exists or schema_exists(conn, table.schema),
            how_found=table.how_found,
            entries=_compare(migrations, rows),
            rows=tuple(rows),
        )

    def prepare_table(self, history: History) -> list[sql.Composed]:
        """Give the DDL of the table, with a primary key; the schema's only where it is missing."""
        table = CREATE_TABLE.format(table=history.identifier)
        if history.schema_exists:
            return [table]
        return [CREATE_SCHEMA.format(schema=sql.Identifier(history.schema)), table]

    def record(self, history: History, migration: Migration) -> Command:
        """Give the INSERT of the version, in the form that the table's rows have."""
        statement = sql.SQL("INSERT INTO {} (version, applied_at) VALUES (%s, now())")
        return statement.format(history.identifier_beside_params), (_version(migration, history.regime),)

    def unrecord(self, history: History, applied: AppliedMigration) -> Command:
        """Give the DELETE of exactly that row, also where the table has no primary key and holds it twice."""
        statement = sql.SQL(
            "DELETE FROM {0} WHERE ctid = (SELECT ctid FROM {0} WHERE version = %s "
            "AND applied_at IS NOT DISTINCT FROM %s LIMIT 1 FOR UPDATE)"
        ).format(history.identifier_beside_params)
        return statement, (applied.row["version"], applied.row["applied_at"])


def _version(migration: Migration, form: str) -> str | None:
    if form == VersionForm.NUMBER:
        return str(_number(migration.name))
    return _digits(migration.name) if form == VersionForm.PADDED else migration.name


def _read_folder(folder: Path) -> list[Migration]:
    """The migrations by number: 9 before 10."""
    paths = [path for path in sql_files(folder) if not is_down(path)]
    for path in paths:
        if not NUMBERED.fullmatch(path.name):
            raise WrongInput(
                f"{path} has no number",
                detail="A plain migration is called NNNN_name.sql, and its way back NNNN_name.down.sql.",
                hint="Give it a number, or take it out of the folder.",
            )
    if not paths:
        raise WrongInput(f"{folder} holds no NNNN_name.sql", hint="Correct migrations in targets.toml.")
    ordered = sorted(paths, key=lambda path: _number(path.name) or 0)
    _expect_one_each(ordered)
    _expect_no_stray_down(folder, ordered)
    return [_migration(path, ordinal) for ordinal, path in enumerate(ordered)]


def _migration(path: Path, ordinal: int) -> Migration:
    down = path.with_name(f"{path.stem}.down.sql")
    migration = read_migration(path, down, name=path.stem, ordinal=ordinal, when_ms=None)
    mark = OTHERS_MARK.search(migration.sql)
    if mark is None:
        return migration
    raise WrongInput(
        f"{path} holds both directions of a migration",
        detail=f'"{mark.group().strip()}" is the mark of another tool; as plain SQL it is undone at once.',
        hint="Where the folder is dbmate's, correct the mark, or name history in targets.toml; "
        f"else put the way back into {down.name} and take the marks out.",
    )


def _expect_one_each(ordered: list[Path]) -> None:
    for one, next_one in itertools.pairwise(ordered):
        if _number(one.name) == _number(next_one.name):
            raise WrongInput(
                f"two migrations have the number {_number(one.name)}",
                detail=f"{one} and {next_one.name}; which comes first is not known.",
                hint="Give the one that is not applied anywhere the next free number.",
            )


def _expect_no_stray_down(folder: Path, ordered: list[Path]) -> None:
    stems = {path.stem for path in ordered}
    for path in sql_files(folder):
        if is_down(path) and path.name[: -len(".down.sql")] not in stems:
            raise WrongInput(
                f"{path} is the way back of a migration that is not there",
                detail=f"There is no {path.name[: -len('.down.sql')]}.sql beside it.",
                hint="Rename it like its migration, or take it out of the folder.",
            )


def _find_table(conn: Connection, target: Target) -> Table:
    found = tables_named(conn, {target.history_table or DEFAULT_TABLE}, schema=target.history_schema)
    if target.history_schema is None:
        # Other products keep a table of this name in a schema of their own; only ours has a time.
        found = [table for table in found if table.schema == DEFAULT_SCHEMA or _is_plain_table(table)]
    if len(found) == 1 and set(found[0].columns) == {"version"}:
        raise WrongInput(
            f"{found[0].qualified} is the history table of dbmate or Rails",
            detail="It has the column version only, and does not say when a migration was applied.",
            hint="If another table is meant, name it in targets.toml: history_schema and history_table. "
            'The files of dbmate have "-- migrate:up", which none has here.',
        )
    table = the_one(found, _is_plain_table, known=KNOWN)
    if table is not None:
        return table
    named = target.history_schema or target.history_table
    how = "named in targets.toml" if named else "the default"
    return Table(
        target.history_schema or DEFAULT_SCHEMA,
        target.history_table or DEFAULT_TABLE,
        {},
        f"{how}; it does not exist yet",
    )


def _is_plain_table(table: Table) -> bool:
    return frozenset(table.columns) == COLUMNS and table.columns["applied_at"] in TIMES


def _rows(conn: Connection, table: Table) -> list[AppliedMigration]:
    columns = sql.SQL("version::text AS version, applied_at, applied_at::timestamptz AS at")
    rows = fetch_rows(conn, table, columns, sql.SQL("applied_at NULLS FIRST, version"))
    if any(row["version"] is None for row in rows):
        raise unknown_columns(table, known=f"{KNOWN} with a version in every row")
    applied = [_applied(row) for row in rows]
    unnumbered = float("inf")
    return sorted(applied, key=lambda row: unnumbered if (n := _number(row.name)) is None else n)


def _applied(row: dict[str, object]) -> AppliedMigration:
    at = row.pop("at")
    return AppliedMigration(str(row["version"]), None, at if isinstance(at, datetime) else None, row)


def _digits(version: str | None) -> str | None:
    found = re.match(r"[0-9]+(?=_|$)", version or "")
    return found.group() if found else None


def _number(version: str | None) -> int | None:
    digits = _digits(version)
    return int(digits) if digits else None


def _form(table: Table, rows: list[AppliedMigration]) -> VersionForm:
    versions = [row.name or "" for row in rows]
    if table.columns.get("version") in INTEGERS:
        return VersionForm.NUMBER
    if not versions or not all(re.fullmatch("[0-9]+", version) for version in versions):
        return VersionForm.STEM
    return VersionForm.PADDED if any(version.startswith("0") for version in versions) else VersionForm.NUMBER


def _compare(migrations: list[Migration], rows: list[AppliedMigration]) -> tuple[Entry, ...]:
    pairing = pair(
        migrations,
        rows,
        [
            Pass("name", lambda m: m.name, lambda r: r.name),
            Pass("number", lambda m: _number(m.name), _only_number),
            Pass("renamed", lambda m: _number(m.name), lambda r: _number(r.name)),
        ],
    )
    entries = [_entry(migration, pairing) for migration in migrations]
    extra = [_extra(row, migrations, pairing) for row in pairing.left]
    return tuple(mark_out_of_order(insert_rows(entries, extra, _is_older), _older_note))


def _only_number(row: AppliedMigration) -> int | None:
    return _number(row.name) if row.name == _digits(row.name) else None


def _entry(migration: Migration, pairing: Pairing) -> Entry:
    if migration.ordinal not in pairing.rows:
        return Entry(migration.name, State.PENDING, migration, None)
    row, match = pairing.rows[migration.ordinal]
    if match != "renamed":
        return Entry(migration.name, State.APPLIED, migration, row, content_known=False)
    note = (
        f'The history table has "{row.name}" under its number: it was renamed after it was applied, '
        "or it is another migration. Rename it back, or give it the next free number if it is another."
    )
    return Entry(migration.name, State.EDITED, migration, row, note, content_known=False)


def _extra(row: AppliedMigration, migrations: list[Migration], pairing: Pairing) -> Entry:
    for migration in migrations:
        if migration.ordinal in pairing.rows and _number(migration.name) == _number(row.name):
            note = (
                "Recorded more than once: it may have run twice. Look what it did to the database, "
                "delete the row that is too many, and give the table a primary key on version."
            )
            return Entry(migration.name, State.DUPLICATE, migration, row, note, content_known=False)
    note = (
        "The history table says that it is applied, but the folder does not hold it. "
        "Bring its file back from git, or roll it back where the file is, before you go on."
    )
    return Entry(row.name or "", State.MISSING, None, row, note, content_known=False)


def _is_older(row: AppliedMigration, migration: Migration) -> bool:
    number = _number(row.name)
    return number is not None and number < (_number(migration.name) or 0)


def _older_note(_: Entry, newest: Entry) -> str:
    return (
        f"Older than {newest.name}, which is applied. "
        "Give it the next free number, so that it is the newest, or apply it on purpose."
    )
