"""dbmate's migrations: VERSION_name.sql with both directions in one file, and schema_migrations(version)."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path

from pglast.parser import ParseError, scan
from psycopg import sql

from pgrunbook.config.targets import Target
from pgrunbook.database.connection import Connection
from pgrunbook.errors import WrongInput
from pgrunbook.history.folder import DBMATE_FILE, DBMATE_MARK, read_migration, sql_files
from pgrunbook.history.pairing import Pairing, Pass, insert_rows, mark_out_of_order, pair
from pgrunbook.history.state import AppliedMigration, Command, Entry, History, Migration, State
from pgrunbook.history.table import (
    Table,
    current_schema,
    fetch_rows,
    schema_exists,
    tables_named,
    the_one,
    unknown_columns,
)

DEFAULT_TABLE = "schema_migrations"
KNOWN = "dbmate's (version) of a type for text"
TEXTS = frozenset({"character varying", "text"})
REGIME = "dbmate: version is the number in the file's name"
OPTIONS = frozenset({"transaction:true", "transaction:false"})
NOTHING_OR_COMMENT = re.compile(r"\s*(--|$)", re.ASCII)
NO_STATEMENT = frozenset({"SQL_COMMENT", "C_COMMENT", "ASCII_59"})  # the last is the semicolon

CREATE_SCHEMA = sql.SQL("CREATE SCHEMA IF NOT EXISTS {schema}")
CREATE_TABLE = sql.SQL("CREATE TABLE IF NOT EXISTS {table} (version varchar PRIMARY KEY)")


class Dbmate:
    """Reads and keeps dbmate's history as dbmate 2.36 does.

    Order: dbmate goes by the files' names as bytes, 10_b before 9_a, and so do we. It applies a pending version
    that is older than an applied one without a word, and with ``--strict`` refuses it; such a one is
    ``out_of_order`` here, which is as ``--strict``, until the operator chooses to apply it.

    Edits: the hash is that of the whole file, so that a change of either direction is seen between a plan and
    its execution. The table keeps none, so dbmate cannot notice that an applied file was edited or renamed, and
    neither can we: ``content_known`` is False.

    ``transaction:false`` is understood and changes nothing. dbmate needs it for a statement that cannot run in
    a transaction; that one is run alone here with or without it. All other statements of such a file are
    committed together with the history row, which dbmate then writes on its own.

    Source: pkg/dbmate/migration.go and db.go of https://github.com/amacneil/dbmate.
    """

    kind = "dbmate"

    def read(self, conn: Connection, target: Target, folder: Path) -> History:
        """Compare the folder with schema_migrations."""
        migrations = _read_folder(folder)
        table = _find_table(conn, target)
        rows = _rows(conn, table) if table.exists else []
        return History(
            kind=self.kind,
            regime=REGIME,
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
        """Give dbmate's own DDL; like dbmate, the schema's only where it is missing."""
        table = CREATE_TABLE.format(table=history.identifier)
        if history.schema_exists:
            return [table]
        return [CREATE_SCHEMA.format(schema=sql.Identifier(history.schema)), table]

    def record(self, history: History, migration: Migration) -> Command:
        """Give dbmate's own INSERT."""
        statement = sql.SQL("INSERT INTO {} (version) VALUES (%s)")
        return statement.format(history.identifier_beside_params), (_version(migration.path),)

    def unrecord(self, history: History, applied: AppliedMigration) -> Command:
        """Give the DELETE of exactly one row, also where the table has no primary key and holds it twice."""
        statement = sql.SQL(
            "DELETE FROM {0} WHERE ctid = (SELECT ctid FROM {0} WHERE version = %s LIMIT 1 FOR UPDATE)"
        ).format(history.identifier_beside_params)
        return statement, (applied.row["version"],)


# -- the folder


def _version(path: Path) -> str:
    found = re.match(r"\d+", path.name, re.ASCII)
    return found.group() if found else ""


def _read_folder(folder: Path) -> list[Migration]:
    paths = sorted(sql_files(folder), key=lambda path: path.name)
    for path in paths:
        if not DBMATE_FILE.fullmatch(path.name):
            raise WrongInput(
                f"{path} has no version",
                detail="A migration of dbmate is called YYYYMMDDHHMMSS_name.sql; dbmate passes over every other file.",
                hint="Give it a version, or take it out of the folder.",
            )
    if not paths:
        raise WrongInput(f"{folder} holds no YYYYMMDDHHMMSS_name.sql", hint="Correct migrations in targets.toml.")
    _expect_one_each(paths)
    return [_migration(path, ordinal) for ordinal, path in enumerate(paths)]


def _expect_one_each(paths: list[Path]) -> None:
    for one, other in itertools.pairwise(sorted(paths, key=_version)):
        if _version(one) == _version(other):
            raise WrongInput(
                f"two migrations have the version {_version(one)}",
                detail=f"{one} and {other.name}; dbmate takes both for applied once one of them is.",
                hint="Give the one that is not applied anywhere a version of its own.",
            )


def _migration(path: Path, ordinal: int) -> Migration:
    whole = read_migration(path, None, name=path.stem, ordinal=ordinal, when_ms=None)
    up, down = sections(path, whole.sql)
    return replace(whole, sql=up, down_sql=down, down_path=path if down else None)


def is_one(text: str) -> bool:
    """Tell whether a file's text is dbmate's: it says where the way up begins."""
    return any(mark["way"] == "up" for mark in DBMATE_MARK.finditer(text))


def sections(path: Path, text: str) -> tuple[str, str | None]:
    """Cut the file into the way up and the way back, as dbmate does; each stands on the lines it has in the file.

    A section down without a statement leads nowhere: dbmate would delete the row and leave what was made.
    """
    marks = list(DBMATE_MARK.finditer(text))
    at = next((place for place, mark in enumerate(marks) if mark["way"] == "up"), None)
    if at is None:
        raise _no_up(path, text)
    up, after = marks[at], marks[at + 1 :]
    _expect_only_comments(path, text[: up.start()])
    if [mark["way"] for mark in after] != ["down"]:
        raise _not_one_down(path, text, up, after)
    for mark in (up, after[0]):
        _expect_known_options(path, text, mark)
    cut = after[0].start()
    down = "\n" * text.count("\n", 0, cut) + text[cut:]
    return text[:cut], down if _has_statement(down) else None


def _has_statement(text: str) -> bool:
    try:
        return any(token.name not in NO_STATEMENT for token in scan(text))
    except ParseError:
        return True  # whoever wants to run it gets the parser's own message


def _expect_only_comments(path: Path, before: str) -> None:
    for number, line in enumerate(before.split("\n"), 1):
        if not NOTHING_OR_COMMENT.match(line):
            raise WrongInput(
                f'{path}, line {number}: it stands before "-- migrate:up"',
                detail=f"dbmate refuses all but comments with -- there; the line is: {line.strip()[:200]}",
                hint="Move it below that line.",
            )


def _expect_known_options(path: Path, text: str, mark: re.Match[str]) -> None:
    wrong = [word for word in mark["options"].split() if word not in OPTIONS]
    if wrong:
        raise WrongInput(
            f'{path}, line {_line_of(text, mark.start("way"))}: unknown option "{wrong[0]}"',
            detail="dbmate passes over it without a word; known are transaction:true and transaction:false.",
            hint="Correct it, or take it out.",
        )


def _no_up(path: Path, text: str) -> WrongInput:
    nearly = re.search("migrate:up", text, re.IGNORECASE)
    line = _line_of(text, nearly.start()) if nearly else 1
    told = text.split("\n")[line - 1].rstrip()[:200]
    return WrongInput(
        f'{path}, line {line}: the file has no "-- migrate:up"',
        detail=f"dbmate looks for it at the beginning of a line, in small letters; the line is: {told!r}",
        hint='Write "-- migrate:up" above the statements, and "-- migrate:down" above the way back.',
    )


def _not_one_down(path: Path, text: str, up: re.Match[str], after: list[re.Match[str]]) -> WrongInput:
    if not after:
        return WrongInput(
            f'{path}, line {_line_of(text, up.start("way"))}: no "-- migrate:down" follows "-- migrate:up"',
            detail="dbmate refuses a file without it.",
            hint='Add "-- migrate:down" at the end, with nothing below it where there is no way back.',
        )
    second = after[0] if after[0]["way"] == "up" else after[1]
    return WrongInput(
        f'{path}, line {_line_of(text, second.start("way"))}: a second "-- migrate:{second["way"]}"',
        detail="A file has one version, which dbmate cannot record for two sections.",
        hint="Make it a migration of its own, or one section of both.",
    )


def _line_of(text: str, index: int) -> int:
    return text.count("\n", 0, index) + 1


# -- the history table


def _find_table(conn: Connection, target: Target) -> Table:
    """Find the history table.

    1. What targets.toml names, counts.
    2. Else it is in the schema that dbmate takes: the first of the search_path.
    3. One of the same shape in another schema may be ours too, where dbmate's URL has a search_path; but Rails
       and Supabase have such tables, so the operator has to tell.
    """
    name, schema = target.history_table or DEFAULT_TABLE, target.history_schema or current_schema(conn)
    found = tables_named(conn, {name}, schema=target.history_schema)
    table = the_one([table for table in found if table.schema == schema], _is_dbmate_table, known=KNOWN)
    if table is not None:
        return table
    others = [table.qualified for table in found if _is_dbmate_table(table)]
    if others:
        raise WrongInput(
            f"could not tell the history table: there is no {schema}.{name}, but {' and '.join(others)}",
            detail="dbmate takes the search_path of its URL, which is not known here; "
            "with the wrong table every migration would run again.",
            hint="Name the schema in targets.toml: "
            f'history_schema = "{schema}" begins anew where the other is not dbmate\'s.',
        )
    how = "named in targets.toml" if target.history_schema or target.history_table else "dbmate's default"
    return Table(schema, name, {}, f"{how}; it does not exist yet")


def _is_dbmate_table(table: Table) -> bool:
    return set(table.columns) == {"version"} and table.columns["version"] in TEXTS


def _rows(conn: Connection, table: Table) -> list[AppliedMigration]:
    rows = fetch_rows(conn, table, sql.SQL("version"), sql.SQL('version COLLATE "C"'))
    if any(row["version"] is None for row in rows):
        raise unknown_columns(table, known=f"{KNOWN} with a version in every row")
    return [AppliedMigration(str(row["version"]), None, None, row) for row in rows]


# -- the states


def _compare(migrations: list[Migration], rows: list[AppliedMigration]) -> tuple[Entry, ...]:
    pairing = pair(migrations, rows, [Pass("version", lambda m: _version(m.path), lambda r: r.name)])
    entries = [_entry(migration, pairing) for migration in migrations]
    extra = [_extra(row, migrations) for row in pairing.left]
    return tuple(mark_out_of_order(insert_rows(entries, extra, _is_older), _older_note))


def _entry(migration: Migration, pairing: Pairing) -> Entry:
    if migration.ordinal not in pairing.rows:
        return Entry(migration.name, State.PENDING, migration, None)
    row, _ = pairing.rows[migration.ordinal]
    return Entry(migration.name, State.APPLIED, migration, row, content_known=False)


def _extra(row: AppliedMigration, migrations: list[Migration]) -> Entry:
    for migration in migrations:
        if _version(migration.path) == row.name:
            note = (
                "Recorded more than once: it may have run twice. Look what it did to the database, "
                "delete the row that is too many, and give the table its primary key on version."
            )
            return Entry(migration.name, State.DUPLICATE, migration, row, note, content_known=False)
    note = (
        "The history table says that it is applied, but the folder does not hold it; dbmate does not look. "
        "Bring its file back from git, or roll it back where the file is, before you go on."
    )
    return Entry(row.name or "", State.MISSING, None, row, note, content_known=False)


def _is_older(row: AppliedMigration, migration: Migration) -> bool:
    return f"{row.name}_" < migration.path.name


def _older_note(_: Entry, newest: Entry) -> str:
    return (
        f"Older than {newest.name}, which is applied. dbmate applies it all the same (but with --strict), in "
        "another order than on a new database. Give it a new version, so that it is the newest, or apply it on purpose."
    )
