"""node-pg-migrate's migrations in SQL: NUMBER_name.sql with both directions in one file, and pgmigrations."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from psycopg import sql

from pgrunbook.database.connection import Connection
from pgrunbook.errors import WrongInput
from pgrunbook.history.files import FileNames, read_bytes, sql_files
from pgrunbook.history.pairing import RowRules
from pgrunbook.history.state import AppliedMigration, History, Migration
from pgrunbook.history.table import Shape, Table, fetch_rows
from pgrunbook.history.tool import Sign, Tool

NAMES = FileNames(
    pattern=re.compile(r"[0-9]+.*\.sql"),
    form="NUMBER_name.sql",
    part="number",
    rule="node-pg-migrate's migrations are named NUMBER_name.sql.",
    twice="their order depends on the machine",
    unused="a number of its own",
    almost=re.compile(r".*[-_ ].*\.sql", re.I),
)
# createMigrationCommentRegex of src/sqlMigration.ts.
UP = re.compile(r"^\s*--[\s-]*up\s+migration", re.I | re.M)
DOWN = re.compile(r"^\s*--[\s-]*down\s+migration", re.I | re.M)
# As its template has them; a comment that begins so ("-- Up migration: add a column") may be anybody's.
ALONE = re.compile(r"^[ \t]*--[ \t-]*(up|down)[ \t]+migration[ \t]*\r?$", re.I | re.M)
# A name that is ordered alike in all languages.
_SPELLED = re.compile(r"[0-9A-Za-z ._-]+")
ADVISORY_LOCK = 7241865325823964


class NodePgMigrate(Tool):
    """Reads and writes node-pg-migrate's history as its version 9 does.

    A migration is known by its file's name. The order is that of the numbers, of which one of 17 digits is a time in
    UTC. node-pg-migrate refuses a pending migration before an applied one (checkOrder), and so do we.

    Source: src/runner.ts, src/migration.ts and src/sqlMigration.ts of https://github.com/salsita/node-pg-migrate.
    """

    kind = "node-pg-migrate"
    name = "node-pg-migrate"
    shapes = (Shape("pgmigrations", "id name run_on"),)
    key = ("id",)
    way = "Apply it with node-pg-migrate up."
    known = "node-pg-migrate's (id, name, run_on)"
    identity = "node-pg-migrate: rows known by the file's name"
    ddl = "CREATE TABLE {table} (id SERIAL PRIMARY KEY, name varchar(255) NOT NULL, run_on timestamp NOT NULL)"
    dependency = ("package.json", "node-pg-migrate")
    programs = re.compile(r"[0-9]+.*\.(js|ts|cjs|mjs|cts|mts)")

    def sign(self, folder: Path) -> Sign | None:
        """Look for "-- Up Migration" and "-- Down Migration" in a numbered file; alone, other tools may have it."""
        numbered = [path for path in sql_files(folder) if NAMES.pattern.fullmatch(path.name)]
        numbered = [path for path in numbered if not path.name.endswith((".up.sql", ".down.sql"))]
        marked = None
        for path in numbered:
            text = read_bytes(path, folder).decode("utf-8", "replace")
            ways = {found.group(1).lower() for found in ALONE.finditer(text)} if "--" in text else set()
            if "up" in ways:
                marked = Sign(f'{path.name} has "-- Up Migration"', certain="down" in ways, marked=True)
            if marked is not None and marked.certain:
                break
        return marked or (Sign(f"it has {numbered[0].name}", certain=False) if numbered else None)

    def sections(self, path: Path, text: str) -> tuple[str, str | None]:
        """Cut as node-pg-migrate does, whichever comes first."""
        up, down = UP.search(text), DOWN.search(text)
        starts = up.start() if up else 0
        if down is None:
            return _part(text, starts, None), None
        return (
            _part(text, starts, down.start() if down.start() > starts else None),
            _part(text, down.start(), starts if up and starts > down.start() else None),
        )

    def read_folder(self, folder: Path) -> list[Migration]:
        """Return the migrations by number, else by name, each cut into its two parts."""
        paths = sorted(NAMES.those_of(sql_files(folder)), key=_place)
        unsettled = _unsettled(paths)
        NAMES.check(folder, paths, lambda path: str(unsettled.get(path, path.name)))
        return [self._of_two_sections(path, folder, ordinal) for ordinal, path in enumerate(paths)]

    def rows(self, conn: Connection, table: Table) -> list[AppliedMigration]:
        """Return the rows as they were applied."""
        columns = sql.SQL("id, name, run_on, run_on::timestamptz AS at")
        rows = fetch_rows(conn, table, columns, sql.SQL("run_on, id"))
        return [AppliedMigration.of(str(row["name"]), row) for row in rows]

    def row_rules(self, regime: str, rows: Sequence[AppliedMigration]) -> RowRules:
        """Return the rules by name."""
        return _NameRules()

    def new_row(self, migration: Migration, regime: str) -> dict[str, object]:
        """Return node-pg-migrate's own row."""
        return {"name": migration.name, "run_on": sql.SQL("now()")}

    def lock_keys(self, conn: Connection, history: History) -> list[int]:
        """Return the key of node-pg-migrate's lock."""
        return [ADVISORY_LOCK]


class _NameRules(RowRules):
    tool_does_with_older = "node-pg-migrate refuses it (without --no-check-order)."
    renewal = "Give it a new number"
    primary_key = "name"

    def key(self, migration: Migration) -> str:
        return migration.name

    def row_key(self, row: AppliedMigration) -> str | None:
        return row.name

    def is_older(self, row: AppliedMigration, migration: Migration) -> bool:
        return _place(Path(f"{row.name}.sql")) < _place(migration.path)


def _number(path: Path) -> int:
    """The number by which node-pg-migrate orders: 17 digits are a time, as milliseconds (getNumericPrefix)."""
    found = re.match("[0-9]+", path.name)
    digits = found.group() if found else "0"
    if len(digits) != 17:
        return int(digits)
    try:
        moment = datetime.strptime(f"{digits}000", "%Y%m%d%H%M%S%f").replace(tzinfo=UTC)
    except ValueError as exc:
        raise WrongInput(
            f"cannot read the time in the name of {path}",
            detail=f'"{digits}": {exc}.',
            hint="Give it the name that node-pg-migrate gave it: YYYYMMDDHHMMSSmmm_name.sql, in UTC.",
        ) from exc
    return int(moment.timestamp()) * 1000 + int(digits[14:])


def _place(path: Path) -> tuple[object, ...]:
    """Return what a file is ordered by: its number, then its words, numbers in them as such and punctuation left out.

    This is localeCompare as compareMigrationFileNames calls it, for names that all languages order alike.
    """
    words = re.findall(r"[0-9]+|[A-Za-z]", path.name)
    folded = [(0, int(word), "") if word.isdigit() else (1, 0, word.lower()) for word in words]
    return _number(path), folded, [word.isupper() for word in words]


def _unsettled(paths: Sequence[Path]) -> dict[Path, int]:
    """Return the files, with their number, that others of this number are not surely ordered against by name."""
    by_number = {number: list(same) for number, same in itertools.groupby(paths, _number)}
    return {
        path: number
        for number, same in by_number.items()
        if not all(_SPELLED.fullmatch(path.name) for path in same) or len({str(_place(p)) for p in same}) < len(same)
        for path in same
        if len(same) > 1
    }


def _part(text: str, start: int, end: int | None) -> str:
    return "\n" * text.count("\n", 0, start) + text[start:end]
