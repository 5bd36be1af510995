"""The client with which the engine runs the cells of a notebook: in order, each with a true end, and stoppable."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from queue import Empty
from time import monotonic
from types import FrameType
from typing import Any

import nbformat
from jupyter_core.utils import ensure_event_loop
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbclient.util import run_hook, run_sync
from papermill.clientwrap import PapermillNotebookClient

from pgrunbook.errors import Unreachable
from pgrunbook.runner.kernel import sockets
from pgrunbook.runner.stops import STOPS

GRACE_S = 15.0
PREPARING_S = 0.1  # from the kernel's message that it begins a cell to the cell's first line
SAYS_SO = {"Interrupted", "KeyboardInterrupt"}  # errors of a cell whose text says that it was stopped


class TruthfulClient(PapermillNotebookClient):  # type: ignore[misc]  # papermill ships no types
    """nbclient with the order of papermill, a true end for each cell, and a way to stop it."""

    on_cell: Callable[[Any], None] | None = None
    grace_s: float = GRACE_S
    first_code: str = ""
    stopped_by: str = ""
    timed_out: bool = False
    killed_by_us: bool = False
    _at_cells: bool = False
    _loop: asyncio.AbstractEventLoop | None = None
    _sockets: Path | None = None

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._stopped, self._stopped_again, self._begun = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def execute(self, **options: Any) -> Any:
        """Start a kernel where there is none, and run the cells.

        Raises Unreachable when the kernel does not start.
        """
        self.reset_execution_trackers()
        with ExitStack() as kernel:
            if self.km is None:
                self._sockets = kernel.enter_context(sockets())
            kernel.callback(_close_loop)
            kernel.callback(self._leave_kernel)
            try:
                kernel.enter_context(self.setup_kernel(**options))
                if self.first_code:
                    self.wait_for_reply(self.kc.execute(self.first_code, silent=True))
            except Exception as exc:
                if not self.stopped_by and isinstance(exc, RuntimeError):  # nbclient's DeadKernelError is one too
                    raise _no_kernel(exc) from exc
                if not self.stopped_by:
                    raise
            self._at_cells = True
            self.papermill_execute_cells()
        return self.nb

    def papermill_execute_cells(self) -> None:
        """Run the cells in order; the first that fails, for whatever reason, is marked as failed and ends the run."""
        for index, cell in enumerate(self.nb.cells):
            if self.stopped_by and cell.cell_type == "code":
                cell.outputs = [_error("Stopped", f"the run was stopped ({self.stopped_by}) before this cell")]
                return
            try:
                self.nb_man.cell_start(cell, index)
                if self.on_cell is not None and cell.cell_type == "code":
                    self.on_cell(cell)
                run_sync(self._run_cell)(cell, index)
            except (CellExecutionError, CellTimeoutError, DeadKernelError) as exc:
                self._note_failure(cell, index, exc)
                return
            except BaseException as exc:
                self._note_failure(cell, index, exc)
                raise
            finally:
                self.nb_man.cell_complete(cell, cell_index=index)

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """End the running cell, and the run, at SIGTERM, SIGINT or SIGHUP; a signal that is ignored stays ignored.

        Signals come to the main thread only: in other threads the caller has to handle them.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handled = [number for number in STOPS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._stop) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def start_new_kernel_client(self) -> Any:
        """Connect to the kernel; nbclient's own method then waits 0.2 s for messages that nobody needs."""
        return run_sync(self._connect)()

    def create_kernel_manager(self) -> Any:
        """Make the manager of a kernel that listens on sockets in a private folder: on TCP, others may listen too."""
        manager = super().create_kernel_manager()
        manager.transport, manager.ip = "ipc", str(self._sockets / "k" if self._sockets else "k")
        return manager

    def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
        """Note that the kernel has begun the cell; the rest is papermill's."""
        if msg["msg_type"] == "execute_input":
            self._begun.set()
        return super().process_message(msg, cell, cell_index)

    def _get_timeout(self, _: Any) -> None:
        """Return None: we watch the time ourselves, as nbclient never kills a cell that ignores the interrupt."""

    async def _connect(self) -> Any:
        self.kc = self.km.client()
        self.kc.start_channels()
        self.kc.allow_stdin = False
        deadline = monotonic() + self.startup_timeout
        while monotonic() < deadline:
            self.kc.kernel_info()
            with suppress(Empty):
                await self.kc.get_shell_msg(timeout=1)
                await self.kc.get_iopub_msg(timeout=0.2)  # outputs come only from here on
                await run_hook(self.on_notebook_start, notebook=self.nb)
                return self.kc
            if not await self.km.is_alive():
                raise DeadKernelError("the kernel died as it started")
        raise RuntimeError(f"the kernel did not answer within {self.startup_timeout} s")

    async def _run_cell(self, cell: Any, index: int) -> None:
        self._begun.clear()
        self._loop = asyncio.get_running_loop()
        watch = asyncio.create_task(self._end_in_time(super()._get_timeout(cell)))
        try:
            await self.async_execute_cell(cell, index)
        finally:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch
        if self.timed_out:
            raise CellTimeoutError("the cell ended too late, and after it was interrupted")

    async def _end_in_time(self, limit_s: float | None) -> None:
        """End the running cell when it takes too long or somebody stops the run.

        1. Wait for either.
        2. Interrupt the cell, once the kernel has begun it: an idle kernel ignores the signal, and
           one that still prepares the cell may lose it. psycopg then cancels the statement in the
           server, and our own code records the state of the database; a killed kernel could do neither.
        3. When it has not ended in time, or is stopped a second time, kill the kernel.
        """
        try:
            async with asyncio.timeout(limit_s):
                await self._stopped.wait()
        except TimeoutError:
            self.timed_out = True
        with suppress(TimeoutError):
            async with asyncio.timeout(self.grace_s):
                await self._begun.wait()
                await asyncio.sleep(PREPARING_S)
                self._signal(signal.SIGINT)
                await self._stopped_again.wait()
        self._kill()

    def _stop(self, number: int, _: FrameType | None) -> None:
        stopped = self._stopped_again if self.stopped_by else self._stopped
        self.stopped_by = signal.Signals(number).name
        if self._loop is None:
            stopped.set()
        else:
            self._loop.call_soon_threadsafe(stopped.set)
        if not self._at_cells:
            self._kill()  # the kernel still starts: nothing is lost

    def _leave_kernel(self) -> None:
        """Close our channels, and end a kernel of ours where setup_kernel failed before it could."""
        if self.owns_km and self.km is not None and self.km.has_kernel:
            self._cleanup_kernel()
        elif self.kc is not None:
            self.kc.stop_channels()

    def _kill(self) -> None:
        self.killed_by_us = True
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        # To the kernel alone, not to its group as jupyter_client does: servers that a cell started are in it.
        process = getattr(getattr(self.km, "provisioner", None), "process", None)
        if process is not None and process.poll() is None:
            os.kill(process.pid, number)

    def _note_failure(self, cell: Any, index: int, exc: BaseException) -> None:
        """Put the reason into the cell where the kernel could not, and mark the cell as failed."""
        if cell.cell_type == "code":
            errors = [output for output in cell.outputs if output.output_type == "error"]
            for output in errors:
                if output.ename == "SystemExit":
                    # For papermill SystemExit with 0 or nothing is a success; a step that ends its kernel has failed.
                    output.evalue = f"{output.evalue or 0} (a cell ended the kernel: this counts as failed)"
            if reason := self._reason(exc, {output.ename for output in errors}):
                cell.outputs.insert(len(cell.outputs) - len(errors), _error(*reason))
        self.nb_man.cell_exception(cell, cell_index=index, exception=exc)

    def _reason(self, exc: BaseException, names: set[str]) -> tuple[str, str] | None:
        late = f", nor within {self.grace_s:g} s of being interrupted" if self.killed_by_us else ""
        if self.timed_out:
            return "CellTimeout", f"the cell did not end within {self.timeout} s{late}"
        if self.stopped_by and not names & SAYS_SO:
            return "Stopped", f"the run was stopped ({self.stopped_by}) in this cell" + (
                ", which did not end in time and was killed" if self.killed_by_us else ""
            )
        if names:
            return None
        if isinstance(exc, DeadKernelError):
            return "KernelDied", "the kernel died in this cell"
        return type(exc).__name__, str(exc) or "the run was stopped in this cell"


def _close_loop() -> None:
    """Close the event loop that nbclient made and left open, as asyncio.run would."""
    loop = ensure_event_loop()
    if not loop.is_running():
        loop.close()
        asyncio.set_event_loop(None)


def _error(name: str, says: str) -> Any:
    state = "State: as the database says (schema pgrunbook, history table); an open transaction was aborted."
    hint = "Hint: go on at the first step that is not done: pgrunbook run --resume, or run this notebook again."
    if name not in ("Stopped", "KernelDied"):  # a runbook may take back what it applied
        hint = "Hint: see how the run ended: pgrunbook runs. Go on with it, or start a new one where it was taken back."
    return nbformat.v4.new_output("error", ename=name, evalue=says, traceback=[says, state, hint])


def _no_kernel(exc: BaseException) -> Unreachable:
    return Unreachable(
        "could not start the kernel that runs the notebook",
        detail=f"{str(exc).rstrip('.')}.",
        hint="Start one by hand and read its error: python -m ipykernel_launcher.",
    )
