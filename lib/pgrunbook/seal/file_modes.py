"""The modes of a run's files: read-only when they are sealed; what grows is writable again when the run goes on.

Folders stay writable, so that a whole file can take the place of one: whoever wants to can change a record, and verify
says so. The modes keep what is done by mistake from being done.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Iterator
from pathlib import Path

from pgrunbook.config.regular_file import is_there
from pgrunbook.record.cell_log import SUFFIX
from pgrunbook.record.run import JOURNAL_FILE, Run
from pgrunbook.seal import subjects

_WRITE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH

log = logging.getLogger(__name__)


def protect(run: Run) -> None:
    """Make the files of a sealed run read-only. Where that is not allowed, it stays sealed, and a warning says it."""
    for name in subjects.files(run.folder):
        try:
            _change(run.folder / name, take=_WRITE)
        except OSError as exc:
            log.warning("run %s is sealed, but %s stays writable: %s", run.run_id, name, exc.strerror or exc)
            return


def release(run: Run) -> None:
    """Make writable again what an attempt appends to: the journal and the logs of cells; all else is written anew.

    Where that is not allowed, the writer of the file says so.
    """
    for path in _growing(run.folder):
        try:
            _change(path, give=stat.S_IWUSR)
        except FileNotFoundError:
            continue  # a run that begins has no journal yet
        except OSError as exc:
            log.warning("%s stays read-only: %s", path, exc.strerror or exc)


def _growing(folder: Path) -> Iterator[Path]:
    if is_there(folder / JOURNAL_FILE):  # a run that is about to begin has none yet
        yield folder / JOURNAL_FILE
    yield from sorted(folder.glob(f"*{SUFFIX}"))


def _change(path: Path, *, take: int = 0, give: int = 0) -> None:
    """Change the mode of a file; what is no file (a link, a FIFO) is left alone, and so is one that fits already."""
    found = path.lstat()
    wanted = (stat.S_IMODE(found.st_mode) & ~take) | give
    if stat.S_ISREG(found.st_mode) and wanted != stat.S_IMODE(found.st_mode):
        path.chmod(wanted)
