"""Files of a record, written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from pgrunbook.errors import RecordFailed

RECORD_FAILED_HINT = (
    "Free space or repair the folder, then run the same command again: it resumes where the database is."
)


def write_atomically(path: Path, parts: str | Iterable[str]) -> None:
    """Write a file so that readers see the old text or the new one, never a part, whenever a crash comes.

    Only its owner can read it, whatever the umask: a record holds rows.

    Raises RecordFailed when the disk is full or the folder cannot be written.
    """
    with replacement(path) as file:
        file.writelines([parts] if isinstance(parts, str) else parts)


@contextmanager
def replacement(path: Path) -> Iterator[TextIO]:
    """Yield a file to write, which takes the place of ``path`` when the body ends; as :func:`write_atomically`."""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as exc:
        raise _failed(path, exc) from exc
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
        sync_folder(path.parent)
    except OSError as exc:
        Path(temporary).unlink(missing_ok=True)
        raise _failed(path, exc) from exc
    except BaseException:
        Path(temporary).unlink(missing_ok=True)  # somebody stops this process
        raise


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a new file name survives a crash."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _failed(path: Path, exc: OSError) -> RecordFailed:
    return RecordFailed(
        f"could not write the record {path.name}",
        detail=f"{path}: {exc.strerror or exc}.",
        state="The database is as the last recorded step left it; a step that cannot be recorded is not run.",
        hint=RECORD_FAILED_HINT,
    )


def append_line(path: Path, line: str) -> None:
    """Append a line to a file that only we may read; what a crash leaves is whole lines. Raises RecordFailed."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, f"{line}\n".encode())
        finally:
            os.close(handle)
    except OSError as exc:
        raise RecordFailed(
            f"could not write {path.name}", detail=f"{path}: {exc.strerror or exc}.", hint=RECORD_FAILED_HINT
        ) from exc
