"""The options of drizzle.config.ts about migrations, read as text: pgrunbook does not run the program."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

NAMES = tuple(f"drizzle.config.{ending}" for ending in ("ts", "mts", "cts", "js", "mjs", "cjs", "json"))

NEAR = 2  # folders above the migrations

# Strings first, so that the "//" of a URL does not begin a comment.
TOKENS = re.compile(r"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`(?:\\.|[^`\\])*`)|//[^\n]*|/\*.*?\*/""", re.S)
LITERAL = r"""["'`]([^"'`$]*)["'`]"""


@dataclass(frozen=True)
class DrizzleConfig:
    """The literal options of a configuration; None for an option that it does not have.

    ``unclear`` is True when an option for the history table is not a literal: only running it would show the value.
    """

    path: Path | None = None
    out: str | None = None
    schema: str | None = None
    table: str | None = None
    unclear: bool = False


def read_config(folder: Path) -> DrizzleConfig:
    """Return the configuration in the folder, an empty one when there is no file."""
    for path in (folder / name for name in NAMES):
        if path.is_file():
            return _parse(path, path.read_text(encoding="utf-8", errors="replace"))
    return DrizzleConfig()


def nearest_config(folder: Path) -> DrizzleConfig:
    """Return the configuration of the migrations folder: the nearest one in it or above it.

    One whose ``out`` is another folder belongs to another application. Without a literal ``out``, it counts only
    within two folders above.
    """
    folder = folder.resolve()
    for distance, place in enumerate((folder, *folder.parents)):
        config = read_config(place)
        is_ours = distance <= NEAR if config.out is None else (place / config.out).resolve() == folder
        if config.path is not None and is_ours:
            return config
    return DrizzleConfig()


def _parse(path: Path, text: str) -> DrizzleConfig:
    text = TOKENS.sub(lambda found: found.group(1) or " ", text)
    out, _ = _option(text, "out")
    section = re.search(r"""(?<![\w./])["']?migrations["']?\s*:\s*(\{[^{}]*\})?""", text)
    if section is None:
        return DrizzleConfig(path=path, out=out)
    schema, schema_unclear = _option(section.group(1) or "", "schema")
    table, table_unclear = _option(section.group(1) or "", "table")
    unclear = section.group(1) is None or schema_unclear or table_unclear
    return DrizzleConfig(path=path, out=out, schema=schema, table=table, unclear=unclear)


def _option(text: str, name: str) -> tuple[str | None, bool]:
    """The option's literal value; True when it has a value that is not a literal."""
    found = re.search(rf"""(?<![\w./])["']?{name}["']?\s*:\s*(?:{LITERAL})?""", text)
    if found is None:
        return None, False
    return found.group(1) or None, found.group(1) is None
