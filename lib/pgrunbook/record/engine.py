"""The papermill engine ``pgrunbook``: executed notebooks that say what really happened.

What stock papermill 2.7 does otherwise, each shown by a test: it marks a cell that timed out, was
interrupted or lost its kernel as completed, and every later cell with it; it ends a run that a cell
left by ``sys.exit(0)`` as a success; it stops at SIGTERM without ending the statement in the server;
it saves in place, so that a reader or a crash may see half a file.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import nbformat
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine, NotebookExecutionManager
from papermill.utils import merge_kwargs, remove_args

from pgrunbook.record.files import write_atomically

GRACE_S = 15.0


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
        """Execute every cell until one fails; the record is saved whatever happens."""
        record = TruthfulRecord(
            nb,
            output_path=record_path or output_path,
            progress_bar=progress_bar,
            log_output=log_output,
            autosave_cell_every=autosave_cell_every,
        )
        record.notebook_start()
        try:
            cls.execute_managed_notebook(record, kernel_name, log_output=log_output, **options)
        finally:
            record.cleanup_pbar()
            record.notebook_complete()
        return record.nb

    @classmethod
    def execute_managed_notebook(cls, nb_man: TruthfulRecord, kernel_name: str, **options: Any) -> None:
        """Run the cells in a kernel that is interrupted, then ended, when we are told to stop."""
        log_output = options.pop("log_output", False)
        timeout = options.pop("execution_timeout", None)
        grace_s = float(options.pop("grace_s", GRACE_S))
        on_cell = options.pop("on_cell", None)
        first_code = options.pop("first_code", "")
        os.environ["PGRUNBOOK_ENGINE"] = "pgrunbook"  # the set-up cell asks whether the record can be trusted
        early = options.pop("km", None)
        known = remove_args(["input_path", "start_timeout"], **options)
        client = TruthfulClient(
            nb_man,
            km=early,
            **merge_kwargs(
                known,
                kernel_name=kernel_name,
                timeout=timeout,
                startup_timeout=options.get("start_timeout", 60),
                interrupt_on_timeout=True,
                shutdown_kernel="immediate",
                coalesce_streams=True,
                log_output=log_output,
            ),
        )
        client.on_cell, client.grace_s, client.first_code = on_cell, grace_s, first_code
        with client.stoppable():
            client.execute()


class TruthfulRecord(NotebookExecutionManager):  # type: ignore[misc]
    """The executed notebook: saved whole, and never better than what happened."""

    def save(self, **_: Any) -> None:
        """Save the notebook so that a crash leaves the old file or the new one."""
        if self.output_path:
            write_atomically(Path(self.output_path), nbformat.writes(self.nb) + "\n")
        self.last_save_time = self.now()

    def cell_start(self, cell: Any, cell_index: int | None = None, **_: Any) -> None:
        """Mark a cell as running; only code cells are worth a save."""
        if cell.cell_type == "code":
            super().cell_start(cell, cell_index)

    def cell_complete(self, cell: Any, cell_index: int | None = None, **_: Any) -> None:
        """Mark a cell as done, unless it failed."""
        if cell.cell_type == "code":
            super().cell_complete(cell, cell_index)
        else:
            cell.metadata.papermill["status"] = self.COMPLETED

    def notebook_complete(self, **_: Any) -> None:
        """Close the record: what did not run stays ``pending``, and the whole is failed unless all ran."""
        self.end_time = self.now()
        facts = self.nb.metadata.papermill
        facts["end_time"] = self.end_time.isoformat()
        facts["duration"] = (self.end_time - self.start_time).total_seconds()
        states = {cell.metadata.papermill["status"] for cell in self.nb.cells if cell.cell_type == "code"}
        facts["exception"] = bool(states - {self.COMPLETED})
        self.save()


class TruthfulClient(PapermillNotebookClient):  # type: ignore[misc]
    """nbclient with the order of papermill, an honest end for each cell, and a way to be stopped."""

    on_cell: Callable[[Any], None] | None = None
    grace_s: float = GRACE_S
    first_code: str = ""
    stopped_by: int = 0
    killed_by_us: bool = False

    def papermill_execute_cells(self) -> None:
        """Run the cells in order; the first that fails, for whatever reason, is marked so and ends the run."""
        for index, cell in enumerate(self.nb.cells):
            if self.stopped_by:
                break
            if self.on_cell is not None and cell.cell_type == "code":
                self.on_cell(cell)
            self.nb_man.cell_start(cell, index)
            try:
                self.execute_cell(cell, index)
                self._refuse_exit(cell)
            except (CellExecutionError, CellTimeoutError, DeadKernelError) as exc:
                self._note_failure(cell, index, exc)
                break
            except BaseException as exc:
                self._note_failure(cell, index, exc)
                raise
            finally:
                self.nb_man.cell_complete(cell, cell_index=index)

    def execute(self, **options: Any) -> Any:
        """Execute as papermill does, but ask a kernel that is gone for nothing."""
        self.reset_execution_trackers()
        with self.setup_kernel(**options):
            if self.first_code:
                self.wait_for_reply(self.kc.execute(self.first_code, silent=True))
            self.papermill_execute_cells()
        return self.nb

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Interrupt the kernel at SIGTERM or SIGINT, and kill it when the cell has not ended in time.

        An interrupt lets psycopg cancel the statement in the server, and our own code say in the record
        what state the database is in; a killed kernel could do neither.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, _: FrameType | None) -> None:
        again, self.stopped_by = self.stopped_by, number
        process = getattr(getattr(self.km, "provisioner", None), "process", None)
        if process is None or process.poll() is not None:
            return
        if again:
            self._kill(process)
            return
        os.kill(process.pid, signal.SIGINT)
        timer = threading.Timer(self.grace_s, self._kill, [process])
        timer.daemon = True
        timer.start()

    def _kill(self, process: Any) -> None:
        if process.poll() is None:
            self.killed_by_us = True
            with suppress(ProcessLookupError):  # it may end between the question and the signal
                os.kill(process.pid, signal.SIGKILL)

    def _refuse_exit(self, cell: Any) -> None:
        for output in cell.get("outputs", []):
            if output.output_type == "error" and output.ename == "SystemExit":
                raise CellExecutionError("", "SystemExit", output.evalue)

    def _note_failure(self, cell: Any, index: int, exc: BaseException) -> None:
        """Put the reason into the cell where the kernel could not, and mark the cell as failed."""
        errors = [output for output in cell.get("outputs", []) if output.output_type == "error"]
        for output in errors:
            if output.ename == "SystemExit":
                # papermill takes SystemExit with 0 or nothing for success; a step that ends its kernel is none.
                output.evalue = f"{output.evalue or 0} (a cell ended the kernel: this counts as failed)"
        if not errors and cell.cell_type == "code":
            cell.outputs.append(nbformat.v4.new_output("error", **self._reason(exc)))
        self.nb_man.cell_exception(cell, cell_index=index, exception=exc)

    def _reason(self, exc: BaseException) -> dict[str, Any]:
        if isinstance(exc, CellTimeoutError):
            name, says = "CellTimeout", f"the cell did not end within {self.timeout} s"
        elif isinstance(exc, DeadKernelError) and self.killed_by_us:
            name, says = "Stopped", f"the cell did not end within {self.grace_s:.0f} s of being interrupted"
        elif isinstance(exc, DeadKernelError):
            name, says = "KernelDied", "the kernel died in this cell"
        else:
            name, says = type(exc).__name__, str(exc) or "the run was stopped in this cell"
        state = "State: as the database says (schema pgrunbook, history table); an open transaction was aborted."
        hint = "Hint: run the same run again with --resume: it goes on at the first step not done."
        return {"ename": name, "evalue": says, "traceback": [says, state, hint]}
