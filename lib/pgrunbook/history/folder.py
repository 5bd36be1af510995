"""The migrations folder: where it is, whose it is, and its files, read exactly."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Literal

from pgrunbook.errors import WrongInput
from pgrunbook.history import drizzle_config
from pgrunbook.history.state import Migration

NUMBERED = re.compile(r"(?P<number>\d+)_.+\.sql", re.ASCII | re.IGNORECASE)
# dbmate's own rules for names and marks (migrationFileRegexp, upRegExp and downRegExp of pkg/dbmate).
DBMATE_FILE = re.compile(r"\d+.*\.sql", re.ASCII)
DBMATE_MARK = re.compile(r"^--\s*migrate:(?P<way>up|down)(?!\S)(?P<options>.*)", re.ASCII | re.MULTILINE)
# Tools that hold both directions in one file: run as plain SQL, it would undo itself.
OTHERS_MARK = re.compile(r"^[ \t]*--[ \t]*(migrate:up|\+goose[ \t]+up|\+migrate[ \t]+up)\b", re.I | re.M)


def find_folder(path: Path, history: Literal["auto", "drizzle", "dbmate", "plain"]) -> tuple[Path, str]:
    """Return the folder that holds the migrations, and its kind.

    ``path`` is that folder, or a package that contains it where Drizzle or dbmate puts it.
    Raises WrongInput when it is missing, empty, not a folder, or of no known kind.
    """
    _expect_folder(path)
    for folder in _candidates(path):
        _refuse_prisma(folder)
        kind = _kind_of(folder)
        if kind is not None:
            return folder, kind if history == "auto" else history
    raise WrongInput(
        f"could not find a migration in {path}",
        detail="Looked for meta/_journal.json, NAME/migration.sql and NNNN_name.sql, there and in "
        f"{', '.join(str(folder) for folder in _candidates(path)[1:]) or 'no other folder'}.",
        hint="Correct migrations in targets.toml, or generate the first migration.",
    )


def is_drizzle_directory(path: Path) -> bool:
    """Tell whether the path is one migration of Drizzle 1.0's layout."""
    return (path / "migration.sql").is_file()


def sql_files(folder: Path) -> list[Path]:
    """Return the SQL files in the folder by name, hidden ones left out, links to nowhere not."""
    files = (path for path in folder.iterdir() if not path.is_dir() and not path.name.startswith("."))
    return sorted(path for path in files if path.suffix.lower() == ".sql")


def is_down(path: Path) -> bool:
    """Tell whether the file is the way back of a migration beside it."""
    return path.name.lower().endswith(".down.sql")


def read_migration(path: Path, down_path: Path | None, *, name: str, ordinal: int, when_ms: int | None) -> Migration:
    """Return the migration in the file, with its way back where there is one."""
    content = path.read_bytes()
    down = down_path if down_path is not None and down_path.is_file() else None
    return Migration(
        name=name,
        path=path,
        sql=_as_text(path, content),
        hash=hashlib.sha256(content).hexdigest(),
        ordinal=ordinal,
        when_ms=when_ms,
        down_path=down,
        down_sql=read_text(down) if down else None,
    )


def read_text(path: Path) -> str:
    """Return the file's exact text, line ends as they are. Raises WrongInput when it is not UTF-8."""
    return _as_text(path, path.read_bytes())


def _candidates(path: Path) -> list[Path]:
    out = drizzle_config.read_config(path).out
    below = [path / out if out is not None else path / "drizzle", path / "migrations", path / "db" / "migrations"]
    return [path, *(folder.resolve() for folder in dict.fromkeys(below) if folder.is_dir())]


def _kind_of(folder: Path) -> str | None:
    if (folder / "meta" / "_journal.json").exists() or any(map(is_drizzle_directory, folder.iterdir())):
        return "drizzle"
    numbered = [path for path in sql_files(folder) if NUMBERED.fullmatch(path.name)]
    if numbered and any(folder.glob("meta/*_snapshot.json")):
        return "drizzle"  # its journal is lost: drizzle.py says so; taken for plain, all would look pending
    if any(map(_is_of_dbmate, sql_files(folder))):
        return "dbmate"
    return "plain" if numbered else None


def _refuse_prisma(folder: Path) -> None:
    """A folder of Prisma looks like one of Drizzle's layouts; its history is in a table of its own."""
    if (folder / "migration_lock.toml").exists():
        raise WrongInput(
            f"{folder} is a migrations folder of Prisma, which is not understood",
            detail="It holds migration_lock.toml; what is applied stands in _prisma_migrations, which we do not read.",
            hint="Apply it with prisma migrate deploy; pgrunbook review judges its files.",
        )


def _is_of_dbmate(path: Path) -> bool:
    if not DBMATE_FILE.fullmatch(path.name):
        return False
    text = path.read_bytes().decode("utf-8-sig", "replace")
    return any(mark["way"] == "up" for mark in DBMATE_MARK.finditer(text))


def _expect_folder(path: Path) -> None:
    if path.is_dir():
        return
    if path.exists():
        raise WrongInput(
            f"{path} is a file, not a migrations folder",
            hint="Name the folder that holds it as migrations in targets.toml.",
        )
    raise WrongInput(
        f"could not find the migrations folder {path}",
        hint="Correct migrations in targets.toml; it is told from the folder of targets.toml.",
    )


def _as_text(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        raise WrongInput(
            f"{path} is not UTF-8",
            detail=f"Byte {exc.start} (0x{content[exc.start]:02x}, line {line}): {exc.reason}.",
            hint="Save it as UTF-8; if it is applied already, its hash changes with that.",
        ) from exc
