"""The papermill engine ``pgrunbook``: its executed notebooks say what really happened.

Stock papermill 2.7 differs, each shown by a test: it marks a cell that timed out, was interrupted or lost
its kernel as completed, and every later cell with it; a run that a cell ended by ``sys.exit(0)`` is a
success; at SIGTERM it stops without ending the statement in the server; it saves in place, so that a
reader or a crash may see half a file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import Context
from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat
from papermill.engines import Engine, NotebookExecutionManager
from papermill.iorw import LocalHandler, papermill_io
from papermill.log import logger
from papermill.utils import merge_kwargs, remove_args

from pgrunbook.record import door
from pgrunbook.record.files import write_atomically
from pgrunbook.runner.client import GRACE_S, TruthfulClient

# How long the last outputs of a cell may take that has ended. nbclient's 4 s fail a run on a busy machine, though all
# is done.
OUTPUT_TIMEOUT_S = 60


class RunbookEngine(Engine):  # type: ignore[misc]  # papermill ships no types
    """Executes a notebook as nbclient does, and records it truthfully.

    Options beside papermill's own: ``record_path`` (where to save, instead of papermill's output path),
    ``km`` (a kernel manager whose kernel runs already), ``first_code`` (run in the kernel before the first
    cell, and not part of the record), ``on_cell`` (called with each cell as it starts),
    ``grace_s`` (seconds that a cell gets to end after it was interrupted).
    """

    @classmethod
    def execute_notebook(
        cls,
        nb: Any,
        kernel_name: str,
        output_path: str | None = None,
        progress_bar: bool = True,
        log_output: bool = False,
        autosave_cell_every: int = 30,
        record_path: str | None = None,
        **options: Any,
    ) -> Any:
        """Execute every cell until one fails, or somebody stops the run; the record is saved whatever happens."""
        path = record_path or output_path
        if type(papermill_io.get_handler(path)) is LocalHandler:
            papermill_io.register(path, WholeFiles())  # for papermill's own last write as well
        record = TruthfulRecord(
            nb,
            output_path=path,
            progress_bar=progress_bar,
            log_output=log_output,
            autosave_cell_every=autosave_cell_every,
        )
        client = _client(record, kernel_name, log_output=log_output, **options)
        with client.stoppable():
            record.notebook_start()
            try:
                # A fresh context, so that the event loop is ours. The set-up cell reads the variable.
                Context().run(client.execute, env={**os.environ, "PGRUNBOOK_ENGINE": "pgrunbook"})
            finally:
                record.cleanup_pbar()
                record.notebook_complete()
        return record.nb


def _client(
    record: TruthfulRecord,
    kernel_name: str,
    *,
    km: Any = None,
    on_cell: Callable[[Any], None] | None = None,
    first_code: str = "",
    grace_s: float = GRACE_S,
    start_timeout: int = 60,
    execution_timeout: float | None = None,
    timeout: float | None = None,
    **options: Any,
) -> TruthfulClient:
    known = remove_args(["input_path", "startup_timeout", "interrupt_on_timeout"], **options)
    known.setdefault("iopub_timeout", OUTPUT_TIMEOUT_S)
    client = TruthfulClient(
        record,
        km=km,
        **merge_kwargs(
            known,
            kernel_name=kernel_name,
            timeout=execution_timeout or timeout,
            startup_timeout=start_timeout,
            shutdown_kernel="immediate",
            coalesce_streams=True,
            log=logger,
        ),
    )
    client.on_cell, client.first_code, client.grace_s = on_cell, first_code, float(grace_s)
    return client


class WholeFiles(LocalHandler):  # type: ignore[misc]
    """papermill's local files, each written whole or not at all."""

    def write(self, buf: str, path: str) -> None:
        """Write a notebook; a terminal or a pipe is written to as papermill does."""
        local = papermill_io.get_handler("local")
        file = Path(local._cwd or "", path).resolve()  # relative to where papermill was called, whatever --cwd says
        if file.exists() and not file.is_file():
            local.write(buf, path)
        else:
            write_atomically(file, buf)


class TruthfulRecord(NotebookExecutionManager):  # type: ignore[misc]
    """The executed notebook: saved whole, and never better than what happened."""

    def cell_start(self, cell: Any, cell_index: int | None = None, **_: Any) -> None:
        """Mark a cell as running; only code cells are worth a save."""
        if cell.cell_type == "code":
            super().cell_start(cell, cell_index)

    def cell_complete(self, cell: Any, **_: Any) -> None:
        """Mark a cell as done, unless it failed; the start of the next cell, or the end, saves it."""
        for place, output in enumerate(cell.get("outputs", ())):
            # The kernel has masked it; one that another client started has not.
            cell.outputs[place] = nbformat.from_dict(door.masked_output(output))
        facts, end_at = cell.metadata.papermill, self.now()
        if facts["start_time"]:
            facts["end_time"] = end_at.isoformat()
            facts["duration"] = (end_at - datetime.fromisoformat(facts["start_time"])).total_seconds()
        if facts["status"] != self.FAILED:
            facts["status"] = self.COMPLETED
        if self.pbar:
            self.pbar.update(1)

    def notebook_complete(self, **_: Any) -> None:
        """Close the record: cells that did not run stay ``pending``, and the whole is failed unless all ran."""
        self.end_time = self.now()
        facts = self.nb.metadata.papermill
        facts["end_time"] = self.end_time.isoformat()
        facts["duration"] = (self.end_time - self.start_time).total_seconds()
        states = {cell.metadata.papermill["status"] for cell in self.nb.cells if cell.cell_type == "code"}
        facts["exception"] = bool(states - {self.COMPLETED})
        self.save()
