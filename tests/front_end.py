"""A front end without a browser: it asks a kernel for cells as JupyterLab does, with their ids, and may go away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty
from typing import Any

import nbformat
from jupyter_client.manager import KernelManager

from pgrunbook.app import lab
from pgrunbook.record.run import WORK, Run

PATIENCE_S = 100
TOKEN = "of-tests"  # noqa: S105 - of a server that lives for a scene


class FrontEnd:
    """A notebook that is open, and its kernel."""

    def __init__(self, path: Path, *, ids: bool = True) -> None:
        self.path = path
        self._ids = ids
        self._notebook = nbformat.read(path, as_version=4)
        self._manager = KernelManager(kernel_name="python3")
        self._manager.start_kernel(cwd=str(path.parent))
        self._connect()

    def cells(self) -> list[str]:
        """Return the ids of the code cells, in order."""
        return [cell.id for cell in self._notebook.cells if cell.cell_type == "code"]

    def run(self, *cells: str) -> dict[str, Any]:
        """Run cells by id, in this order; return the reply of the last."""
        reply: dict[str, Any] = {}
        for cell in cells:
            reply = self.run_text(self.source(cell), cell)
        return reply

    def begin(self) -> None:
        """Run the cells above the first step: the parameters and set-up."""
        at = self.cells().index("set-up")
        assert self.run(*self.cells()[: at + 1])["status"] == "ok"

    def source(self, cell: str) -> str:
        """Return the text of a cell."""
        return str(next(c.source for c in self._notebook.cells if c.id == cell))

    def run_text(self, text: str, cell: str | None = None) -> dict[str, Any]:
        """Run a text as a cell, or as a console's where no cell is named; wait for its reply."""
        return self.wait(self.ask(text, cell))

    def wait(self, request: str) -> dict[str, Any]:
        """Wait for the reply to a request."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                reply = self._client.get_shell_msg(timeout=1)
            except Empty:
                assert self._manager.is_alive(), "the kernel died"
                continue
            if reply["parent_header"].get("msg_id") == request:
                return dict(reply["content"])
        raise AssertionError("the cell did not end")

    def ask(self, text: str, cell: str | None = None) -> str:
        """Ask for a text to be run, and do not wait: the tab may be closed now."""
        content = {"code": text, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": True,
                   "stop_on_error": True}  # fmt: skip
        message = self._client.session.msg("execute_request", content)
        message["metadata"] = {"cellId": cell or "1b9d6bcd-bbfd-4b2d"} if self._ids else {}
        self._client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    def leave(self) -> None:
        """Close the tab: nobody listens any more, and the kernel goes on."""
        self._client.stop_channels()

    def return_(self) -> None:
        """Open the tab again."""
        self._connect()

    def interrupt(self) -> None:
        """Do what Kernel > Interrupt does."""
        self._manager.interrupt_kernel()

    def restart(self) -> None:
        """Do what Kernel > Restart does."""
        self._client.stop_channels()
        self._manager.restart_kernel()
        self._connect()

    def kill(self) -> None:
        """Kill the kernel, as a machine short of memory does."""
        os.kill(self._manager.provisioner.pid, signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE_S
        while self._manager.is_alive() and time.monotonic() < deadline:
            time.sleep(0.02)

    def close(self) -> None:
        """End the kernel."""
        self._client.stop_channels()
        if self._manager.is_alive():
            self._manager.shutdown_kernel()
        self._manager.cleanup_resources()

    def _connect(self) -> None:
        self._client = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=PATIENCE_S)


@contextmanager
def opened(made: Run, notebook: str, *, ids: bool = True) -> Iterator[FrontEnd]:
    """A working copy of a run, open in a front end; with ``ids`` it tells the kernel those of the cells."""
    front = FrontEnd(made.folder / WORK / notebook, ids=ids)
    try:
        yield front
    finally:
        front.close()


def record(made: Run, notebook: str) -> Any:
    """Return the executed copy of a notebook, which has to be a valid one."""
    found = nbformat.read(made.folder / notebook, as_version=4)
    nbformat.validate(found)
    return found


def shown(notebook: Any, cell: str) -> str:
    """Return all that a cell of a notebook shows, in every form."""
    return str(next(c for c in notebook.cells if c.id == cell).get("outputs"))


def states(notebook: Any) -> dict[str, str]:
    """Return how each code cell of a record stands."""
    return {c.id: c.metadata.papermill.status for c in notebook.cells if c.cell_type == "code"}


def top(notebook: Any) -> str:
    """Return what stands at the top of a record."""
    return str(notebook.cells[0].source)


@contextmanager
def jupyter(module: str, folder: Path, *options: str, **environment: str) -> Iterator[str]:
    """A Jupyter server that is started as `pgrunbook start` does it, its own files in a folder; give its URL."""
    runtime = folder / ".runtime"
    chosen = {**lab.environment(), "JUPYTER_RUNTIME_DIR": str(runtime), "JUPYTER_TOKEN": TOKEN, **environment}
    command = [sys.executable, "-m", module, "--ServerApp.port=0", "--ServerApp.open_browser=False", "--allow-root"]
    with (folder / "server.log").open("w") as log, subprocess.Popen(
        [*command, *options], env=chosen, stdout=log, stderr=log, cwd=folder
    ) as process:  # fmt: skip
        try:
            url, deadline = "", time.monotonic() + PATIENCE_S
            while not url and time.monotonic() < deadline and process.poll() is None:
                url = next((_url(path.read_text()) for path in runtime.glob(f"jpserver-{process.pid}.json")), "")
                time.sleep(0.05)
            assert url, (folder / "server.log").read_text()
            yield url
        finally:
            process.terminate()
            process.wait()


def _url(told: str) -> str:
    """Return where a server says that it is, "" where its file is not whole yet."""
    try:
        facts = json.loads(told)
    except ValueError:
        return ""
    return f"http://127.0.0.1:{facts['port']}{facts['base_url']}"
