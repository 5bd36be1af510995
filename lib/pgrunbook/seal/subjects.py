"""The files of a run that its seal is over, each with its sha256."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pgrunbook.record.run import JOURNAL_FILE, WORK, Run

# Made from the record, and made again at will: they prove nothing.
MADE_FROM_IT = frozenset(("report.html",))
CHECKPOINTS = ".ipynb_checkpoints"


def files(folder: Path) -> Iterator[str]:
    """Yield the names of the files that a seal is over, as paths below the folder, in their order.

    Left out are files whose name begins with a dot (locks, and what a crash left half written), the working copies of a
    run by hand, which a browser saves when it likes, and pages that are made from the record.
    """
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(n for n in folders if n != CHECKPOINTS and not (n == WORK and Path(place) == folder))
        for name in sorted(names):
            found = (Path(place) / name).relative_to(folder).as_posix()
            if not name.startswith(".") and found not in MADE_FROM_IT:
                yield found


def of(run: Run) -> list[dict[str, Any]]:
    """Return the subjects of a run's seal. Raises OSError for a file that cannot be read."""
    return [_subject(run.folder, name) for name in files(run.folder)]


def journal_only(run: Run) -> list[dict[str, Any]]:
    """Return the journal as it is now as the only subject: what is so when an attempt opens."""
    return [_subject(run.folder, JOURNAL_FILE)]


def working_copies(run: Run) -> list[str]:
    """Return the notebooks that a browser saves when it likes, also after the seal: they are outside of it."""
    return sorted(f"{WORK}/{path.name}" for path in (run.folder / WORK).glob("*.ipynb"))


def digest(path: Path, most: int | None = None) -> str:
    """Return the sha256 of a file, or of its first ``most`` bytes; "" where that is no file, or is shorter."""
    found = hashlib.sha256()
    left = most
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return ""
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        return ""
    with os.fdopen(handle, "rb", buffering=0) as file:
        while left is None or left > 0:
            part = file.read(1 << 20 if left is None else min(left, 1 << 20))
            if not part:
                break
            found.update(part)
            left = None if left is None else left - len(part)
    return "" if left else found.hexdigest()


def _subject(folder: Path, name: str) -> dict[str, Any]:
    found = digest(folder / name)
    if not found and (folder / name).exists():
        raise OSError(5, "cannot be read, or is no file", str(folder / name))
    size = (folder / name).stat().st_size if found else 0
    sha256 = found or hashlib.sha256(b"").hexdigest()
    return {"name": name, "digest": {"sha256": sha256}, "annotations": {"bytes": size}}
