"""What a Jupyter server must not do to records: save over them, rename or delete them, or put something beside them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from tornado import web

from pgrunbook.errors import WrongInput
from pgrunbook.record import run as runs
from pgrunbook.record.run import RUN_FILE, WORK
from pgrunbook.seal import attempt, ledger

LOCKED = 423
_WRITE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def guard(contents: Any) -> None:
    """Let the contents of a server refuse what would change a record, with HTTP 423 and the reason.

    The hook before a save is not enough: it is not asked for the later parts of a large file, nor when a checkpoint is
    restored.
    """

    def at(path: str) -> Path:
        return Path(contents._get_os_path(path))

    _refuse(contents, "save", lambda _, path="": why_not_saved(at(path)))
    _refuse(contents, "restore_checkpoint", lambda _, path: why_not_saved(at(path)))
    _refuse(contents, "delete_file", lambda path: why_not_moved(at(path)))
    _refuse(contents, "rename_file", lambda old, new: why_not_moved(at(old)) or why_not_saved(at(new)))


def why_not_saved(file: Path) -> str:
    """Return why a file may not be written, "" where it may be: a record is written by pgrunbook only."""
    run, name = _record(file)
    if run is not None and not _is_work(name):
        copy = run / WORK / file.name
        there = f" The notebook to work in is {WORK}/{file.name}." if copy.is_file() else ""
        return f"{name} is part of the record of run {run.name}: only pgrunbook writes it.{there}"
    if _is_ledger(file):
        return f"{file.name} is the ledger over all runs: only pgrunbook writes it."
    if file.is_file() and not file.stat().st_mode & _WRITE:
        return f"{file.name} is sealed: a record is written once. Start a new run to do it again."
    return ""


def why_not_moved(file: Path) -> str:
    """Return why a file or folder may not be renamed or deleted, "" where it may be.

    Working copies may be, as long as their run is not sealed.
    """
    run, name = _record(file)
    if run is not None and _is_work(name):
        is_kept = name == WORK or _is_sealed(run)
        return f"{name} belongs to run {run.name}: it stays as its operator left it." if is_kept else ""
    if run is not None:
        return f"{name or run.name} is part of the record of run {run.name}: it is neither renamed nor deleted."
    if _is_ledger(file):
        return f"{file.name} is the ledger over all runs: it is neither renamed nor deleted."
    if file.is_dir() and _holds_records(file):
        return f"{file.name} holds records of runs: it is neither renamed nor deleted."
    if file.is_file() and not file.stat().st_mode & _WRITE:
        return f"{file.name} is sealed: it is neither renamed nor deleted."
    return ""


def _refuse(contents: Any, name: str, why: Callable[..., str]) -> None:
    done = getattr(contents, name)

    @wraps(done)
    def refusing(*given: Any, **options: Any) -> Any:
        reason = why(*given, **options)
        if reason:
            raise web.HTTPError(LOCKED, reason, reason="Locked")
        return done(*given, **options)  # of an asynchronous server, what is awaited

    setattr(contents, name, refusing)


def _record(file: Path) -> tuple[Path | None, str]:
    """Return the folder of the run that a path lies in, or is, and its name there; None where it is in none."""
    whole = file.parent.resolve() / file.name
    for folder in (whole, *whole.parents):
        if runs.RUN_ID.fullmatch(folder.name) and (folder / RUN_FILE).is_file():
            return folder, "" if folder == whole else whole.relative_to(folder).as_posix()
    return None, ""


def _is_work(name: str) -> bool:
    return name == WORK or name.startswith(f"{WORK}/")


def _is_ledger(file: Path) -> bool:
    return file.name == ledger.LEDGER_FILE and file.is_file()


def _is_sealed(folder: Path) -> bool:
    try:
        found = runs.load(folder)
        return bool(attempt.standing(found)) and not attempt.is_open(found)
    except WrongInput:
        return True  # what cannot be read now is nothing to delete


def _holds_records(folder: Path) -> bool:
    """Tell whether a folder of runs is this one, or lies somewhere below it."""
    for place, folders, files in os.walk(folder):
        if ledger.LEDGER_FILE in files or any((Path(place) / one / RUN_FILE).is_file() for one in folders):
            return True
    return False
