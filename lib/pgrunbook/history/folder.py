"""The migrations folder of a target: where it is, and which tool wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pgrunbook.errors import WrongInput
from pgrunbook.history.dbmate import Dbmate
from pgrunbook.history.drizzle import Drizzle
from pgrunbook.history.plain import Plain
from pgrunbook.history.tool import Tool

# A folder belongs to the first tool that recognises it.
TOOLS: dict[str, Tool] = {tool.kind: tool for tool in (Drizzle(), Dbmate(), Plain())}

USUAL = ("migrations", "db/migrations")  # below a package


def find_folder(path: Path, history: Literal["auto", "drizzle", "dbmate", "plain"]) -> tuple[Path, Tool]:
    """Return the folder that holds the migrations, and the tool that wrote them.

    ``path`` is that folder, or a package that contains it where a tool puts it.
    Raises WrongInput when it is missing, empty, not a folder, or written by no known tool.
    """
    _expect_folder(path)
    for folder in _candidates(path):
        _refuse_prisma(folder)
        tool = next((tool for tool in TOOLS.values() if tool.is_layout(folder)), None)
        if tool is not None:
            return folder, tool if history == "auto" else TOOLS[history]
    raise WrongInput(
        f"could not find a migration in {path}",
        detail="Looked for meta/_journal.json, NAME/migration.sql and NNNN_name.sql, there and in "
        f"{', '.join(str(folder) for folder in _candidates(path)[1:]) or 'no other folder'}.",
        hint="Correct migrations in targets.toml, or generate the first migration.",
    )


def _candidates(path: Path) -> list[Path]:
    below = [*(place for tool in TOOLS.values() for place in tool.places(path)), *(path / name for name in USUAL)]
    return [path, *(folder.resolve() for folder in dict.fromkeys(below) if folder.is_dir())]


def _refuse_prisma(folder: Path) -> None:
    """Refuse a folder of Prisma, which looks like one of Drizzle's; its history is in another table."""
    if (folder / "migration_lock.toml").exists():
        raise WrongInput(
            f"{folder} is a migrations folder of Prisma, which pgrunbook does not support",
            detail="It has migration_lock.toml; its history is in _prisma_migrations, which pgrunbook does not read.",
            hint="Apply it with prisma migrate deploy; pgrunbook review checks its files.",
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
