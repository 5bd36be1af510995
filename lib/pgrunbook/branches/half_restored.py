"""The mark of a server that a restore has begun to make: it says what it is, also after the restore was killed."""

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
