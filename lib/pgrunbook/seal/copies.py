"""Copies of sealed runs at a URL (``PGRUNBOOK_COPIES``), each made when its run is sealed.

::

    RUN/...                  the files that the seal is over
    ledger/FROM-TO.jsonl     the bytes of the ledger from one place to another: together they are all of it

A copy that cannot be made keeps no run from ending: it is told, and ``pgrunbook archive --copies`` makes it later. The
files go before the lines that name them, and nothing is ever deleted there.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pgrunbook.config import paths, regular_file
from pgrunbook.errors import RunbookError, WrongInput
from pgrunbook.record import run as runs
from pgrunbook.record.files import write_atomically
from pgrunbook.record.run import Run
from pgrunbook.seal import ledger, remote, subjects
from pgrunbook.seal.remote import Remote

NAMED = "PGRUNBOOK_COPIES"
MARK_FILE = ".seal"  # how the run stands in the ledger, to be asked without reading that; {} while a line is written
COPIED_FILE = ".copied"  # which seal of the run was copied where; beside the runs, how much of the ledger
LEDGER = "ledger"

log = logging.getLogger(__name__)


def url() -> str:
    """Return where runs are copied to, "" where nobody asks for it."""
    return os.environ.get(NAMED, "").strip().rstrip("/")


def refuse_unusable() -> None:
    """See that copies can be made where they are asked for, before anything begins. Raises WrongInput."""
    if url():
        remote.refuse(url())


def try_to_copy(run: Run) -> str:
    """Copy a run that was just sealed, where that is asked for; return why it could not be, "" where it was."""
    if not url():
        return ""
    try:
        _copy(run, Remote(url()))
    except (RunbookError, OSError) as exc:
        why = f"{exc.message}: {exc.detail}" if isinstance(exc, RunbookError) else str(exc)
        log.error(
            "run %s is sealed, and NOT COPIED to %s: %s Later: pgrunbook archive --copies", run.run_id, url(), why
        )
        return why
    return ""


def catch_up() -> tuple[list[str], dict[str, str]]:
    """Make the copies that lack; return the runs that were copied, and why others were not.

    Raises WrongInput where nobody asks for copies, or the URL is none, Unreachable for the end of the ledger.
    """
    if not url():
        raise WrongInput("nobody asks for copies", hint=f"Name a place: {NAMED}=s3://bucket/prefix")
    refuse_unusable()
    done, failed = [], {}
    for folder in lacking(runs.folders()):
        try:
            why = try_to_copy(runs.load(folder))
        except WrongInput as exc:
            why = f"{exc.message}: {exc.detail}"
        if why:
            failed[folder.name] = why
        else:
            done.append(folder.name)
    if not failed and ledger.path(paths.outputs_dir()).is_file():  # what was archived is a line of no run
        _copy_ledger(paths.outputs_dir(), Remote(url()))
    return done, failed


def lacking(folders: Iterable[Path]) -> list[Path]:
    """Return the folders of sealed runs whose last seal was not copied; [] where nobody asks for copies."""
    return [one for one in folders if url() and _is_lacking(one)]


def told(folders: Iterable[Path]) -> str:
    """Return what a person is told of runs that were not copied, "" where there is nothing to tell."""
    found = lacking(folders)
    if not found:
        return ""
    which = f"run {found[-1].name} is" if len(found) == 1 else f"{len(found)} sealed runs are"
    return f"NOT COPIED: {which} not at {url()}: pgrunbook archive --copies\n"


def joined(parts: Sequence[tuple[str, bytes]]) -> tuple[bytes, list[str]]:
    """Return the ledger that parts of it make, by name and content, and what does not fit of them."""
    whole, wrong = b"", []
    for name, content in sorted(parts):
        begin, _, end = name.rpartition("/")[2].removesuffix(".jsonl").partition("-")
        if not (begin.isdigit() and end.isdigit()) or int(end) - int(begin) != len(content):
            wrong.append(f"{name} has {len(content)} bytes, and another name or length than we write")
        elif int(begin) > len(whole):
            wrong.append(f"between byte {len(whole)} of the ledger and {name} a part is missing")
            break
        else:
            both = min(len(whole), int(end)) - int(begin)
            if whole[int(begin) : int(begin) + both] != content[:both]:
                wrong.append(f"{name} holds other bytes than the part before it: the ledger was written anew")
                break
            whole += content[both:]
    return whole, wrong


def _is_lacking(folder: Path) -> bool:
    sealed = _facts(folder / MARK_FILE)
    if sealed.get("kind") != ledger.CLOSED:
        return False
    return _facts(folder / COPIED_FILE) != {"url": url(), "sha256": sealed.get("sha256")}


def _copy(run: Run, there: Remote) -> None:
    sealed = _facts(run.folder / MARK_FILE)
    for name in subjects.files(run.folder):
        there.put(f"{run.run_id}/{name}", run.folder / name)
    _copy_ledger(run.folder.parent, there)
    write_atomically(run.folder / COPIED_FILE, json.dumps({"url": there.url, "sha256": sealed.get("sha256")}) + "\n")


def _copy_ledger(outputs: Path, there: Remote) -> None:
    """Copy what the ledger has got since the last time; two at once copy some of it twice, which does no harm."""
    raw = ledger.read(ledger.path(outputs))
    known = _facts(outputs / COPIED_FILE)
    begin = int(known["bytes"]) if known.get("url") == there.url and int(known["bytes"]) <= len(raw) else 0
    if begin < len(raw):
        there.put(f"{LEDGER}/{begin:015}-{len(raw):015}.jsonl", raw[begin:])
        write_atomically(outputs / COPIED_FILE, json.dumps({"url": there.url, "bytes": len(raw)}) + "\n")


def _facts(file: Path) -> dict[str, Any]:
    try:
        return regular_file.read_json(file, dict)
    except WrongInput:
        return {}
