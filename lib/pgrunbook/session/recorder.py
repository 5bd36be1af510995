"""The recorder in a kernel: it writes what cells show into the run folder as it happens, and makes the copy of it."""

from __future__ import annotations

import atexit
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from pgrunbook.config import paths
from pgrunbook.errors import RecordFailed, WrongInput
from pgrunbook.record import cell_log, door, executed_copy
from pgrunbook.record import run as runs
from pgrunbook.record.cell_log import CellLog
from pgrunbook.record.run import Part, Run
from pgrunbook.seal import attempt
from pgrunbook.session import outputs

INJECTED = "# Parameters"  # how papermill begins the cell that it puts in
_OUTPUT = {
    "stream": ("name", "text"),
    "display_data": ("data", "metadata"),
    "update_display_data": ("data", "metadata"),
    "execute_result": ("data", "metadata", "execution_count"),
    "error": ("ename", "evalue", "traceback"),
}
_at_work: list[Recorder] = []  # one: that of the notebook in this kernel


class Recorder:
    """Writes what each cell of a notebook shows, in the kernel that runs it."""

    def __init__(self, run: Run, notebook: str, *, how: str) -> None:
        self._run = run
        self._path = executed_copy.log_of(run, notebook)
        self._numbers: dict[str, int] = {}  # the run of a cell by the request that began it
        self._now = 0
        lines = cell_log.read(self._path)
        given = next(line["notebook"] for line in lines if line["is"] == "notebook")
        self._sources = {c["id"]: "".join(c["source"]) for c in given["cells"] if c["cell_type"] == "code"}
        self._by_source = {source.rstrip(): cell for cell, source in self._sources.items()}
        self._knows_ids = True
        self.log = CellLog(self._path, by=runs.operator(), uid=os.getuid(), machine=run.machine, how=how)

    def begin(self, shell: Any) -> None:
        """Begin with the cell that is at work, set-up; those before it were run without a recorder."""
        request = shell.kernel.get_parent()
        source = str(request.get("content", {}).get("code", ""))
        told = (request.get("metadata") or {}).get("cellId")
        self._knows_ids = told in self._sources  # a front end that has ids of its own is read by the text of a cell
        before = [str(text) for text in shell.history_manager.input_hist_raw[1:]]
        if before and before[-1].rstrip() == source.rstrip():
            before.pop()
        for count, text in enumerate(before, 1):
            self.log.begun(door.masked(text), count=count, unseen=True, **self._place(text, None))
        self.began(source, told, count=len(before) + 1, request=str(request["header"]["msg_id"]))

    def began(self, source: str, told: str | None, *, count: int, request: str) -> None:
        """Write that a cell begins; ``told`` is the id that the front end gave."""
        self._now = self.log.begun(door.masked(source), count=count, **self._place(source, told))
        self._numbers[request] = self._now

    def showed(self, kind: str, content: Any, request: str) -> None:
        """Write what a cell shows. What it shows later, from a thread of its own, is that cell's."""
        number = self._numbers.get(request, self._now)
        if not number:
            return
        if kind == "clear_output":
            self.log.cleared(number, waits=bool(content.get("wait")))
            return
        output = {"output_type": kind, **{key: content.get(key) for key in _OUTPUT[kind]}}
        display = str((content.get("transient") or {}).get("display_id") or "")
        if kind == "update_display_data":
            self.log.redrew(display, {**output, "output_type": "display_data"})
        else:
            self.log.showed(number, output, display)

    def ended(self, *, ok: bool, took_ms: float) -> None:
        """Write that the cell has ended, and make the executed copy."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # the kernel sends what is printed from a thread, a little later
        self.log.ended(self._now, ok=ok, took_ms=took_ms)
        self.make_copy()

    def make_copy(self) -> None:
        """Make the executed copy. What cannot be written is raised before something is changed."""
        try:
            executed_copy.write(self._run, self._path, living=self.log.kernel)
        except RecordFailed as exc:
            self.log.broken = exc

    def end(self) -> None:
        """Stop recording: the kernel ends, or another notebook begins in it."""
        try:
            with attempt.addition(self._run):  # the run may be sealed by now
                self.log.note("kernel-ended")
                executed_copy.write(self._run, self._path, living=None)
        except RecordFailed as exc:
            self.log.broken = exc  # the next command of ours that meets the run makes the copy
        self.log.close()

    def _place(self, source: str, told: str | None) -> dict[str, object]:
        """Return which cell of the notebook it is, by its id or by its text, and whether that is another now."""
        cell = told if told in self._sources else None
        if cell is None and (told is None or not self._knows_ids):
            cell = self._by_source.get(source.rstrip()) or _parameters_cell(source, self._sources)
        return {"cell": cell, "edited": cell is not None and source.rstrip() != self._sources[cell].rstrip()}


def start(run: Run, procedure: str, *, how: str) -> Recorder | None:
    """Begin to record the notebook of a procedure in this kernel; None outside of one.

    Raises RecordFailed where the run folder cannot be written.
    """
    from IPython import get_ipython

    shell = get_ipython()
    if getattr(shell, "kernel", None) is None:
        return None
    stop()
    part = next((p for p in run.parts if p.procedure == procedure), None)
    if part is None:
        part = Part(procedure, "")
        run.parts.append(part)
    if not part.notebook:
        part.notebook = f"{run.parts.index(part) + 1:02}-{procedure}.ipynb"
        run.save()
    path = executed_copy.log_of(run, part.notebook)
    if not path.exists():
        given = _shipped(procedure, [str(text) for text in shell.history_manager.input_hist_raw])
        if given is None:
            return None
        cell_log.give(path, given)
    made = Recorder(run, part.notebook, how=how)
    _at_work.append(made)
    outputs.listen(made.showed)
    made.begin(shell)
    return made


def stop() -> None:
    """End the recording in this kernel, if there is one."""
    outputs.listen(None)
    while _at_work:
        _at_work.pop().end()


atexit.register(stop)


def given(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """Return a notebook as a log begins with it: without outputs and secrets."""
    cells = []
    for cell in notebook["cells"]:
        bare = {**cell, "source": door.masked("".join(cell["source"]))}
        if cell["cell_type"] == "code":
            bare |= {"outputs": [], "execution_count": None}
        cells.append(bare)
    return {**notebook, "cells": cells}


def _shipped(procedure: str, ran: list[str]) -> dict[str, Any] | None:
    """Return the notebook of a procedure as it is shipped, with the parameters that papermill put in; None without."""
    try:
        path = paths.shipped("notebooks", f"{procedure}.ipynb")
        notebook = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, WrongInput):
        return None  # a copy outside of its project: only the journal tells of it
    made = given(notebook)
    injected = next((text for text in ran if text.startswith(INJECTED)), None)
    if injected is not None:
        made["cells"].insert(_after_parameters(made["cells"]), {
            "cell_type": "code", "id": "injected-parameters", "metadata": {"tags": ["injected-parameters"]},
            "source": door.masked(injected), "outputs": [], "execution_count": None,
        })  # fmt: skip
    return made


def _after_parameters(cells: list[dict[str, Any]]) -> int:
    return next((place for place, cell in enumerate(cells, 1) if cell.get("id") == "parameters"), 0)


def _parameters_cell(source: str, sources: Mapping[str, str]) -> str | None:
    """Return the cell of parameters where the text is one with other values."""
    is_one = source.lstrip().startswith("target = ") and "parameters" in sources
    return "parameters" if is_one else None
