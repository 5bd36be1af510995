"""The migrations folder of a target: where it is, and which tool wrote it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pgrunbook.display.prose import listed
from pgrunbook.errors import WrongInput
from pgrunbook.history import other_tools
from pgrunbook.history.atlas import Atlas
from pgrunbook.history.dbmate import Dbmate
from pgrunbook.history.diesel import Diesel
from pgrunbook.history.drizzle import Drizzle
from pgrunbook.history.flyway import Flyway
from pgrunbook.history.golang_migrate import GolangMigrate
from pgrunbook.history.goose import Goose
from pgrunbook.history.node_pg_migrate import NodePgMigrate
from pgrunbook.history.plain import Plain
from pgrunbook.history.prisma import Prisma
from pgrunbook.history.sqlx import Sqlx
from pgrunbook.history.supabase import Supabase
from pgrunbook.history.tool import Sign, Tool

TOOLS: dict[str, Tool] = {
    tool.kind: tool
    for tool in (
        Prisma(), Drizzle(), Dbmate(), Goose(), Flyway(), Diesel(), Atlas(),
        GolangMigrate(), Sqlx(), NodePgMigrate(), Supabase(), Plain(),
    )
}  # fmt: skip

USUAL = ("migrations", "db/migrations", "db/migration", "sql/schema")
PASSED_OVER = ("node_modules", "vendor", "target")
NEAR = 8  # folders above the migrations where a project's file is looked for, up to the root of the repository
BELOW = 500  # folders in which migrations are looked for, to name them where there are none


@dataclass(frozen=True)
class MigrationsFolder:
    """A folder that holds migrations, the tool that wrote them, and why it is taken for that tool's."""

    path: Path
    tool: Tool
    why: str


def find_folder(path: Path, history: str, in_database: Collection[str] = ()) -> MigrationsFolder:
    """Return the folder that holds the migrations, and the tool that wrote them.

    ``path`` is that folder, or a package that contains it where a tool puts it; ``history`` is the tool's kind, or
    "auto"; ``in_database`` are the names of the tools that have a history table in the database.

    1. What only one tool has: its journal, its marks, its names.
    2. The folder of a tool that we do not read is refused by its name.
    3. What several tools have (NNNN_name.sql): the one whose table is in the database, or that the project depends
       on, else plain files.

    Raises WrongInput when it is missing, empty, not a folder, or written by no known tool, or by two.
    """
    _expect_folder(path)
    candidates = _candidates(path)
    signs = {folder: _signs(folder) for folder in candidates}
    if history != "auto":
        for folder in candidates:
            if signs[folder]:
                return MigrationsFolder(folder, TOOLS[history], f'history = "{history}" in targets.toml')
        raise _nothing(path, candidates)
    for folder in candidates:
        certain = [(tool, sign) for tool, sign in signs[folder] if sign.certain]
        if len(certain) > 1:
            raise _two(folder, certain)
        if certain:
            return MigrationsFolder(folder, certain[0][0], certain[0][1].why)
    for folder in candidates:
        if signs[folder]:
            other_tools.refuse(folder)
            return _likely(folder, signs[folder], in_database)
    for folder in candidates:
        other_tools.refuse(folder)
    raise _nothing(path, candidates)


def _signs(folder: Path) -> list[tuple[Tool, Sign]]:
    found = ((tool, tool.sign(folder)) for tool in TOOLS.values())
    return [(tool, sign) for tool, sign in found if sign is not None]


def _likely(folder: Path, signs: list[tuple[Tool, Sign]], in_database: Collection[str]) -> MigrationsFolder:
    """Return the tool of a folder that may be several tools'."""
    there = [(tool, sign) for tool, sign in signs if tool.name in in_database]
    if len(there) == 1:
        tool, sign = there[0]
        return MigrationsFolder(folder, tool, f"{sign.why}, and its history table is in the database")
    for tool, sign in signs:
        if tool.dependency is not None and _names(folder, *tool.dependency):
            file, name = tool.dependency
            return MigrationsFolder(folder, tool, f"{sign.why}, and {file} {f'names {name}' if name else 'is there'}")
    for tool, sign in signs:
        if sign.marked:
            return MigrationsFolder(folder, tool, sign.why)
    alone = len(signs) == 1 and signs[0][0].dependency is None  # no project file could have named it
    if alone or any(tool.kind == "plain" for tool, _ in signs):
        tool, sign = signs[-1]
        return MigrationsFolder(folder, tool, sign.why)
    whose = f"those of {listed([tool.name for tool, _ in signs])}" if len(signs) > 1 else f"{signs[0][0].name}'s"
    raise WrongInput(
        f"cannot tell which tool's migrations are in {folder}",
        detail=f"They may be {whose}: {signs[0][1].why}. "
        f"The database has no history table of {'either' if len(signs) > 1 else 'it'}, and no project file names one.",
        hint=f"Name it in targets.toml: history = {' or '.join(chr(34) + t.kind + chr(34) for t, _ in signs)}.",
    )


def _names(folder: Path, manifest: str, dependency: str) -> bool:
    """Tell whether the nearest such file of a project, in or above the folder, names the dependency."""
    places = [folder.absolute(), *folder.absolute().parents[:NEAR]]
    root = next((number for number, place in enumerate(places) if (place / ".git").exists()), NEAR)
    paths = (place / manifest for place in places[: root + 1])
    nearest = next((path for path in paths if path.is_file()), None)
    return nearest is not None and dependency in nearest.read_text(encoding="utf-8", errors="replace")


def _candidates(path: Path) -> list[Path]:
    below = [*(place for tool in TOOLS.values() for place in tool.places(path)), *(path / name for name in USUAL)]
    return [path, *dict.fromkeys(folder.resolve() for folder in below if folder.is_dir())]


def _two(folder: Path, certain: list[tuple[Tool, Sign]]) -> WrongInput:
    return WrongInput(
        f"{folder} holds migrations of {listed([tool.name for tool, _ in certain])}",
        detail=f"{'; '.join(f'{tool.name}: {sign.why}' for tool, sign in certain)}.",
        hint="Put each tool's files into a folder of its own, and name one of them in targets.toml.",
    )


def _below(path: Path) -> list[Path]:
    """Return the folders below that hold migrations."""
    found = []
    for folder, names, _ in itertools.islice(os.walk(path), BELOW):
        names[:] = sorted(name for name in names if not name.startswith(".") and name not in PASSED_OVER)
        with suppress(WrongInput, OSError):  # what cannot be read is told where it is named
            found += [Path(folder)] if _signs(Path(folder)) else []
    return found


def _nothing(path: Path, candidates: list[Path]) -> WrongInput:
    below = _below(path)
    if below:
        return WrongInput(
            f"could not find a migration in {path}",
            detail=f"There are some below, in {listed([str(folder.relative_to(path)) for folder in below[:5]])}.",
            hint="Name the folder of those that this database gets as migrations in targets.toml.",
        )
    return WrongInput(
        f"could not find a migration in {path}",
        detail="Looked for meta/_journal.json, NAME/migration.sql and NNNN_name.sql, there and in "
        f"{', '.join(str(folder) for folder in candidates[1:]) or 'no other folder'}.",
        hint="Correct migrations in targets.toml, or generate the first migration.",
    )


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
        hint="Correct migrations in targets.toml; a relative path starts at the folder of targets.toml.",
    )
