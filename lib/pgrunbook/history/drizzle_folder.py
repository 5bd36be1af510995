"""Drizzle's two folder layouts: a journal with NNNN_tag.sql (0.x), and NAME/migration.sql (1.0)."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

from pgrunbook.display.prose import counted
from pgrunbook.errors import WrongInput
from pgrunbook.history.files import IN_FOLDER, is_down, read_migration, read_text
from pgrunbook.history.state import Migration

JOURNAL = Path("meta") / "_journal.json"
DIALECTS = frozenset({"postgresql", "pg", None})
SIGNS = " _-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$"  # in the order of the collation


def has_journal(folder: Path) -> bool:
    """Tell whether the folder has Drizzle 0.x's layout."""
    return (folder / JOURNAL).exists()


def is_migration(path: Path) -> bool:
    """Tell whether the path is one migration of Drizzle 1.0's layout."""
    return (path / IN_FOLDER).is_file()


def read_folder(folder: Path) -> list[Migration]:
    """Return the migrations in the order in which Drizzle applies them.

    Raises WrongInput when journal and files contradict each other, or the layouts are mixed.
    """
    directories = [path for path in folder.iterdir() if is_migration(path)]
    if has_journal(folder) and directories:
        raise WrongInput(
            f"{folder} mixes Drizzle's two layouts",
            detail=f"It has {JOURNAL} and {counted(len(directories), 'folder')} with a migration.sql, "
            f"{min(path.name for path in directories)} among them.",
            hint='Run "drizzle-kit up" of drizzle-kit 1.0, which turns the journal into folders.',
        )
    if not has_journal(folder) and not directories:
        raise WrongInput(
            f"{folder} has no {JOURNAL}",
            detail="It holds the times by which Drizzle identifies its migrations.",
            hint="Bring it back from git; drizzle-kit writes it beside the migrations.",
        )
    return _read_journal(folder) if has_journal(folder) else _read_directories(directories)


def leftover(path: Path, folder: Path) -> str | None:
    """Return why Drizzle would never apply an SQL file of the folder, None for one that undoes a migration."""
    if is_down(path):
        return None
    if has_journal(folder):
        return f"{JOURNAL} has no entry for it: neither Drizzle nor pgrunbook applies it."
    return "Here a migration is a folder with a migration.sql: neither Drizzle nor pgrunbook applies it."


def _read_directories(directories: list[Path]) -> list[Migration]:
    ordered = sorted(directories, key=lambda path: name_order(path.name))
    return [
        read_migration(p / IN_FOLDER, p / "down.sql", root=p.parent, name=p.name, ordinal=n, when_ms=_folder_ms(p))
        for n, p in enumerate(ordered)
    ]


def name_order(name: str) -> tuple[list[tuple[int, str]], str]:
    """Return the sort key that orders ASCII names as JavaScript's localeCompare does.

    That is Unicode's root collation: signs, digits, letters; case decides only when all else is equal, lower case
    first (https://www.unicode.org/reports/tr10/). Other letters come last, by code point.
    """
    return [(SIGNS.find(c) if c in SIGNS else len(SIGNS), c.lower()) for c in name], name.swapcase()


def _folder_ms(path: Path) -> int:
    """The UTC time in the first 14 characters, as Drizzle's formatToMillis reads it."""
    digits = path.name[:14]
    try:
        if not re.fullmatch(r"[0-9]{14}", digits):
            raise ValueError("it does not have the form YYYYMMDDHHMMSS")
        moment = datetime.strptime(digits, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError as exc:
        raise WrongInput(
            f"cannot read the time in the name of {path}",
            detail=f'"{digits}": {exc}.',
            hint="Give the folder the name that drizzle-kit gave it: YYYYMMDDHHMMSS_name, in UTC.",
        ) from exc
    return int(moment.timestamp()) * 1000


def _read_journal(folder: Path) -> list[Migration]:
    entries = _journal_entries(folder / JOURNAL)
    tags = [tag for tag, _ in entries]
    twice = sorted({tag for tag in tags if tags.count(tag) > 1})
    if twice:
        raise _broken(folder / JOURNAL, f'It lists "{twice[0]}" {tags.count(twice[0])} times.')
    for tag in tags:
        if not (folder / f"{tag}.sql").is_file():
            raise WrongInput(
                f"could not find {folder / f'{tag}.sql'}",
                detail=f'{JOURNAL} lists "{tag}", and Drizzle fails without the file.',
                hint="Bring the file back from git, or remove the entry if it was never applied.",
            )
    return [
        read_migration(
            folder / f"{tag}.sql", folder / f"{tag}.down.sql", root=folder, name=tag, ordinal=n, when_ms=when
        )
        for n, (tag, when) in enumerate(entries)
    ]


def _journal_entries(path: Path) -> list[tuple[str, int]]:
    try:
        journal = json.loads(read_text(path, path.parents[1]))
    except json.JSONDecodeError as exc:
        raise _broken(path, f"Line {exc.lineno}, column {exc.colno}: {exc.msg}.") from exc
    except RecursionError as exc:
        raise _broken(path, "It is nested too deeply.") from exc
    entries = journal.get("entries") if isinstance(journal, dict) else None
    if not isinstance(entries, list):
        raise _broken(path, 'It has no list "entries".')
    if journal.get("dialect") not in DIALECTS:
        raise _broken(path, f"Its dialect is {journal['dialect']!r}, not postgresql.")
    if not entries:
        raise WrongInput(
            f"{path.parent.parent} holds no migration",
            detail=f"{JOURNAL} has no entries.",
            hint="Generate the first migration, or correct migrations in targets.toml.",
        )
    return [_journal_entry(path, number, entry) for number, entry in enumerate(entries)]


def _journal_entry(path: Path, number: int, entry: object) -> tuple[str, int]:
    tag, when = (entry.get("tag"), entry.get("when")) if isinstance(entry, dict) else (None, None)
    if not isinstance(tag, str) or tag != Path(tag).name:
        raise _broken(path, f'Entry {number} has no "tag" that is the name of a file.')
    if not isinstance(when, int) or isinstance(when, bool):
        raise _broken(path, f'Entry {number} ("{tag}") has no "when" in whole milliseconds.')
    return tag, when


def _broken(path: Path, detail: str) -> WrongInput:
    return WrongInput(
        f"could not read the journal {path}",
        detail=detail,
        hint="Bring it back from git, or repair it by hand; a merge may have broken it.",
    )
