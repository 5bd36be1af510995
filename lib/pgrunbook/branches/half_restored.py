"""Servers that are not whole: half restored ones, which a mark tells, and those that have lost their data."""

from __future__ import annotations

from pathlib import Path

from pgrunbook.errors import Refused

MARK = "half-restored"


def told(folder: Path) -> str | None:
    """Return what the restore has said of the server in the folder, None where no restore is at it."""
    try:
        return (folder / MARK).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None


def refuse(name: str, folder: Path) -> None:
    """Raise Refused for a server that is half restored: its data are those of no moment."""
    says = told(folder)
    if says is not None:
        raise Refused(
            f'server "{name}" is half restored',
            detail=says,
            hint=f"Restore to this name again, or remove it: pgrunbook server destroy --name {name}.",
        )


def refuse_lost(name: str, folder: Path) -> None:
    """Raise Refused for a server without data whose backups or archive are there: a new one would write over them."""
    left = [kind for kind in ("backups", "archive") if (folder / kind).is_dir() and any((folder / kind).iterdir())]
    if left:
        raise Refused(
            f'server "{name}" has lost its data',
            detail=f"{folder / 'data'} is gone, while its {' and '.join(left)} are there.",
            hint="Restore it to another name: pgrunbook run restore --target <target> -p to=<time with zone>.",
        )
