"""The recorder in a notebook's kernel: it writes every cell that runs into the journal of the run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from hashlib import sha256
from time import monotonic
from typing import Any

from pgrunbook.config import paths
from pgrunbook.errors import RunbookError, WrongInput
from pgrunbook.record.journal import Journal
from pgrunbook.session.recorder import Recorder

OURS = "of_pgrunbook"  # marks our recorder among the kernel's hooks


def record(
    journal: Journal,
    procedure: str,
    on_error: Callable[[BaseException], None],
    recorder: Recorder | None,
    before_cell: Callable[[], None] = lambda: None,
    after_cell: Callable[[], None] = lambda: None,
) -> None:
    """Write every cell that runs in this kernel into the journal, also those run twice or changed.

    What it shows is the ``recorder``'s. ``on_error`` is called with the error that ended a cell, ``before_cell`` before
    its first event is written and ``after_cell`` when all of it is. Outside of a kernel nothing is recorded.
    """
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        return
    known = _ids(procedure)
    now = {"cell": "set-up", "at": monotonic()}

    def before(info: Any) -> None:
        _told(before_cell)
        digest = _digest(str(info.raw_cell))
        # Headless front ends do not send the id of a cell to the kernel; we find it by the source.
        now.update(cell=known.get(digest) or info.cell_id, at=monotonic())
        journal.write("cell-started", procedure=procedure, cell=now["cell"], source_sha256=digest,
                      as_in_source=digest in known)  # fmt: skip
        if recorder is not None:
            request = str(shell.kernel.get_parent()["header"]["msg_id"])
            recorder.began(str(info.raw_cell), info.cell_id, count=shell.execution_count - 1, request=request)

    def after(result: Any) -> None:
        error = result.error_before_exec or result.error_in_exec
        failed = {"error": _lines(error), "kind": type(error).__name__} if error else {}
        took_ms = round((monotonic() - float(str(now["at"]))) * 1000, 1)
        journal.write("cell-ended", procedure=procedure, cell=now["cell"], ok=error is None, ms=took_ms, **failed)
        if error is not None:
            on_error(error)
        if recorder is not None:
            recorder.ended(ok=error is None, took_ms=took_ms)
        _told(after_cell)

    for name, hook in (("pre_run_cell", before), ("post_run_cell", after)):
        for old in [h for h in shell.events.callbacks[name] if getattr(h, OURS, False)]:
            shell.events.unregister(name, old)  # the set-up cell was run again: one recorder is enough
        setattr(hook, OURS, True)
        shell.events.register(name, hook)


def _told(call: Callable[[], None]) -> None:
    """Show an error of the record's seal under the cell: IPython would show a traceback, and go on as well."""
    try:
        call()
    except RunbookError as exc:
        sys.stderr.write("\n".join(exc.lines()) + "\n")


def _ids(procedure: str) -> dict[str, str]:
    """Return the id of each cell of the source notebook by the sha256 of its text."""
    try:
        path = paths.shipped("notebooks", f"{procedure}.ipynb")
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError, WrongInput):
        return {}  # a copy outside of its project: the front end's own ids count, where it sends them
    return {_digest("".join(cell["source"])): str(cell["id"]) for cell in cells if cell["cell_type"] == "code"}


def _digest(source: str) -> str:
    return sha256(source.encode()).hexdigest()


def _lines(error: BaseException) -> list[str]:
    return error.lines() if isinstance(error, RunbookError) else [str(error)[:500]]
