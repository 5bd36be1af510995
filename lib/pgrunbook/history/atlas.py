"""Atlas' migrations: TIMESTAMP_name.sql with atlas.sum beside, and atlas_schema_revisions."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from psycopg import sql

from pgrunbook import __version__
from pgrunbook.config.targets import Target
from pgrunbook.database.connection import Connection
from pgrunbook.errors import WrongInput
from pgrunbook.history import marks
from pgrunbook.history.files import FileNames, read_bytes, read_migration, read_text, sql_files
from pgrunbook.history.pairing import Pairing, RowRules, VersionRules
from pgrunbook.history.state import AppliedMigration, Command, History, Migration, State, unfinished
from pgrunbook.history.table import Shape, Table, fetch_rows, near_table
from pgrunbook.history.tool import MICROSECONDS, Sign, Tool

SUM = "atlas.sum"
TABLE = "atlas_schema_revisions"
NAMES = FileNames(
    pattern=re.compile(r"[^_]+(_.*)?\.sql"),
    form="TIMESTAMP_name.sql",
    rule="Atlas' migrations are named TIMESTAMP_name.sql.",
    twice="Atlas cannot record both",
)
DIRECTIVE = re.compile(r"^-- *atlas:(?P<name>delimiter|checkpoint|txtar|import)\b.*$", re.M)
IGNORED = re.compile(r"\A(--.*\n)*-- *atlas:sum +ignore\b", re.M)
OF_OTHERS = re.compile(r"V[0-9].*__.*\.sql|.*\.(up|down)\.sql")
BASELINE = 1
LOCK = b"atlas_migrate_execute"


class Atlas(Tool):
    """Reads and writes Atlas' history as its CLI does from 0.10 on, in Atlas' own form of folders.

    The folder has to agree with atlas.sum, which every edit breaks. ``atlas:txmode`` has no effect: a statement that
    cannot run in a transaction always runs alone here.

    Source: sql/migrate/dir.go, sql/migrate/migrate.go and cmd/atlas/internal/migrate/ent of
    https://github.com/ariga/atlas.
    """

    kind = "atlas"
    name = "Atlas"
    shapes = (Shape(TABLE, "version description type applied total executed_at execution_time error hash"),)
    key = ("version",)
    way = "Apply it with atlas migrate apply."
    known = "Atlas' (version, description, type, applied, total, executed_at, execution_time, error, ..., hash, ...)"
    identity = "Atlas: rows known by their version"
    ddl = (
        "CREATE TABLE IF NOT EXISTS {table} (version character varying NOT NULL, description character varying"
        " NOT NULL, type bigint NOT NULL DEFAULT 2, applied bigint NOT NULL DEFAULT 0, total bigint NOT NULL"
        " DEFAULT 0, executed_at timestamptz NOT NULL, execution_time bigint NOT NULL, error text NULL, error_stmt"
        " text NULL, hash character varying NOT NULL, partial_hashes jsonb NULL, operator_version character varying"
        " NOT NULL, PRIMARY KEY (version))"
    )

    def sign(self, folder: Path) -> Sign | None:
        """Look for atlas.sum; Atlas writes it beside the files of other tools, too."""
        if not (folder / SUM).is_file():
            return None
        files = sql_files(folder)
        texts = (read_bytes(path, folder).decode("utf-8", "replace") for path in files)
        if any(OF_OTHERS.fullmatch(path.name) for path in files) or any(
            mark.tool for t in texts for mark in marks.of(t)
        ):
            return None
        return Sign(f"it has {SUM}", certain=True)

    def read_folder(self, folder: Path) -> list[Migration]:
        """Return the migrations by name. Raises WrongInput when they do not agree with atlas.sum."""
        paths = NAMES.those_of(sql_files(folder))
        NAMES.check(folder, paths, _version)
        read = [read_migration(path, None, root=folder, name=path.stem, ordinal=n) for n, path in enumerate(paths)]
        for migration in read:
            _expect_plain(migration)
        _expect_sum(folder, read)
        return read

    def find_table(self, conn: Connection, target: Target, folder: Path) -> Table:
        """Return atlas_schema_revisions, in the schema of this name where nothing else is named."""
        shape = Shape(TABLE, self.shapes[0].columns, schema=TABLE)
        return near_table(conn, target, shape, known=self.known, tool=self.name)

    def rows(self, conn: Connection, table: Table) -> list[AppliedMigration]:
        """Return the rows by version, not those of Atlas itself. Raises Refused when one was not finished."""
        columns = sql.SQL("version, description, type, applied, total, error, executed_at, executed_at AS at")
        found = fetch_rows(conn, table, columns, sql.SQL('version COLLATE "C"'))
        rows = [row for row in found if not str(row["version"]).startswith(".")]
        for row in rows:
            if row["error"] or row["applied"] != row["total"]:
                raise unfinished(
                    table.qualified, row["version"], self.name, '"atlas migrate set" names where it stands'
                )
        return [_applied(row) for row in rows]

    def row_rules(self, regime: str, rows: Sequence[AppliedMigration]) -> RowRules:
        """Return the rules by version."""
        return _AtlasRules(_version, "Atlas refuses it (without --exec-order).", without="atlas migrate apply goes on.")

    def new_row(self, migration: Migration, regime: str) -> dict[str, object]:
        """Return Atlas' own row but for the hash; the time is in nanoseconds."""
        count = len(migration.statements())
        return {
            "version": _version(migration.path),
            "description": migration.name[len(_version(migration.path)) + 1 :],
            "type": 2,
            "applied": count,
            "total": count,
            "executed_at": sql.SQL("pg_catalog.transaction_timestamp()"),
            "execution_time": sql.SQL(f"{MICROSECONDS} * 1000"),
            "error": "",
            "error_stmt": "",
            "operator_version": f"pgrunbook {__version__}",
        }

    def record(self, history: History, migration: Migration) -> Command:
        """Return the INSERT of one row, with the file's hash in the chain of atlas.sum."""
        files = [entry.migration for entry in history.entries if entry.migration is not None]
        row = {"hash": dict(_chain(files))[migration.path.name], **self.new_row(migration, history.regime)}
        return self.insert(history, row)

    def lock_keys(self, conn: Connection, history: History) -> list[int]:
        """Return the key of Atlas' lock: FNV-1 of its name."""
        value = 2166136261
        for byte in LOCK:
            value = value * 16777619 % 2**32 ^ byte
        return [value]


class _AtlasRules(VersionRules):
    def pair(self, migrations: Sequence[Migration], rows: Sequence[AppliedMigration]) -> Pairing:
        """Pair by version, and all up to a baseline with its row."""
        pairing = super().pair(migrations, rows)
        for base in (row for row in rows if row.row["type"] == BASELINE):
            for migration in migrations:
                if self.key(migration) <= self.row_key(base):
                    pairing.rows.setdefault(migration.ordinal, (base, "baseline"))
        left = [row for row in pairing.left if row.row["type"] != BASELINE]
        return Pairing(pairing.rows, left)

    def applied(self, migration: Migration, row: AppliedMigration, match: str) -> tuple[State, str]:
        note = f"Not after the baseline {row.name}: Atlas takes it for applied."
        return State.APPLIED, note if match == "baseline" else ""


def _version(path: Path) -> str:
    return path.stem.split("_", 1)[0]


def _chain(migrations: Sequence[Migration]) -> list[tuple[str, str]]:
    """Return each file with the hash that atlas.sum has for it: of all names and texts up to it."""
    value, found = hashlib.sha256(), []
    for migration in migrations:
        value.update(migration.path.name.encode())
        if not IGNORED.search(migration.sql):
            value.update(migration.sql.encode())
            found.append((migration.path.name, base64.b64encode(value.digest()).decode()))
    return found


def _expect_sum(folder: Path, migrations: Sequence[Migration]) -> None:
    lines = read_text(folder / SUM, folder).splitlines()[1:] if (folder / SUM).exists() else []
    listed = dict(line.rsplit(" h1:", 1) for line in lines if " h1:" in line)
    wrong = next((name for name, value in _chain(migrations) if listed.get(name) != value), None)
    gone = next((name for name in listed if not (folder / name).exists()), None)
    if wrong or gone:
        raise WrongInput(
            f"{folder} does not agree with its {SUM}",
            detail=f"The first difference is {wrong or gone}: it was changed, added or removed after that was written.",
            hint='Bring the files back from git; where the change is meant, run "atlas migrate hash".',
        )


def _expect_plain(migration: Migration) -> None:
    found = DIRECTIVE.search(migration.sql)
    if found is not None:
        line = migration.sql.count("\n", 0, found.start()) + 1
        raise WrongInput(
            f"{migration.path}, line {line}: atlas:{found['name']} is for Atlas only",
            detail=f"The line is: {found.group().strip()[:200]}",
            hint="Apply this migration with Atlas, or write it without.",
        )


def _applied(row: dict[str, object]) -> AppliedMigration:
    name = f"{row['version']}_{row['description']}" if row["description"] else str(row["version"])
    return AppliedMigration.of(name, row)
