"""The executed copy of a notebook that somebody stepped through: made from what its kernel wrote, not by a browser.

It stands where a headless run has its executed notebook, and has the same cells. A cell shows its last run; those
before it are folded under it. What a reader would not expect is told at the top, and at the cell.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from difflib import unified_diff
from html import escape
from pathlib import Path
from typing import Any

from pgrunbook.config.regular_file import is_there
from pgrunbook.errors import RecordFailed, WrongInput
from pgrunbook.record import cell_attempts, cell_log
from pgrunbook.record import run as runs
from pgrunbook.record.cell_attempts import SET_UP, Attempt, Ended
from pgrunbook.record.files import write_atomically
from pgrunbook.record.run import Run, Status

FOLDED = 10  # earlier runs of a cell whose outputs are shown; the log has all
TOP = "about-this-record"
STATUS = {Ended.DONE: "completed", Ended.UNSEEN: "completed", Ended.AT_WORK: "running"}
STATE = "State: as the database says (schema pgrunbook, history table); an open transaction was aborted."
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def log_of(run: Run, notebook: str) -> Path:
    """Return the path of the log of a notebook's cells."""
    return run.folder / f"{Path(notebook).stem}{cell_log.SUFFIX}"


def refresh(run: Run) -> None:
    """Make the executed copies of a run anew whose kernel ended without a last word, or shows more by now.

    Raises RecordFailed where they cannot be written, WrongInput where a log cannot be read.
    """
    for path in sorted(run.folder.glob(f"*{cell_log.SUFFIX}")):
        write(run, path, living="" if cell_log.is_open(path) else None)


def write(run: Run, log: Path, *, living: str | None) -> None:
    """Make the executed copy from its log, where it is not made from all of it already.

    ``living`` is the kernel whose cells are at work, None where no kernel is alive, "" where one is.

    Raises RecordFailed, WrongInput as :func:`refresh`.
    """
    path = log.with_name(f"{log.name.removesuffix(cell_log.SUFFIX)}.ipynb")
    lines = cell_log.read(log)
    made = _made(run, path.name, lines, living=living)
    text = json.dumps(made, indent=1, ensure_ascii=False, sort_keys=True) + "\n" if made else ""
    if text and not (is_there(path) and path.read_text(encoding="utf-8") == text):
        write_atomically(path, text)


def refresh_broken_off(target: str) -> list[str]:
    """Refresh the runs on a target whose kernel or runner was killed; return what could not be written or read."""
    failed = []
    for folder in runs.folders():
        try:
            run = runs.load(folder)
        except WrongInput:
            continue  # `pgrunbook runs` reports a folder that cannot be read
        if run.target == target and run.actual_status() is Status.BROKEN_OFF:
            failed.append(try_to_refresh(run))
    return [why for why in failed if why]


def try_to_refresh(run: Run) -> str:
    """Refresh where that can be done; return why not, "" where it was done: whoever only looks is not kept from it."""
    try:
        refresh(run)
    except (RecordFailed, WrongInput) as exc:
        return exc.message
    return ""


def _made(run: Run, name: str, lines: Sequence[cell_log.Line], *, living: str | None) -> dict[str, Any] | None:
    given = cell_attempts.from_log(lines)
    if given is None:
        return None
    ids = [cell["id"] for cell in given["cells"] if cell["cell_type"] == "code"]
    every = cell_attempts.attempts(lines, ids, living=living)
    cells = [_top(run, name, every, ids), *_outside(every, None)]
    for cell in given["cells"]:
        if cell["cell_type"] == "code":
            mine = [one for one in every if one.cell == cell["id"] and one.at is not None]
            cells += [_filled(cell, mine), *_outside(every, cell["id"])]
        else:
            cells.append(cell)
    states = {cell["metadata"]["papermill"]["status"] for cell in cells if cell["cell_type"] == "code"}
    started = [one.started_at for one in every] or [run.started_at]
    ended = [one.ended_at for one in every if one.ended_at]
    facts = _times(started[0], ended[-1] if ended else None)
    metadata = {**given["metadata"], "papermill": {**facts, "exception": bool(states - {"completed"})}}
    return {**given, "cells": cells, "metadata": metadata}


def _filled(cell: dict[str, Any], mine: Sequence[Attempt]) -> dict[str, Any]:
    """Return a cell as it was run for the last time, with what it showed, and the runs before it folded."""
    if not mine:
        return {**cell, "execution_count": None, "outputs": [], "metadata": {**cell["metadata"], "papermill": _PENDING}}
    last = mine[-1]
    edited = [_note("The text as it was given", _diff(cell["source"], last.source))] if last.is_edited else []
    remarks = [_note(remark) for remark in last.remarks]
    facts = {**_times(last.started_at, last.ended_at or None), "status": STATUS.get(last.ended, "failed"),
             "exception": last.ended in (Ended.FAILED, Ended.BROKEN_OFF)}  # fmt: skip
    outputs = [*remarks, *edited, *_shown(last), *_folded(mine[:-1], last)]
    return {
        **cell,
        "source": last.source,
        "execution_count": last.count,
        "outputs": outputs,
        "metadata": {**cell["metadata"], "papermill": facts},
    }


_PENDING = {"status": "pending", "start_time": None, "end_time": None, "duration": None, "exception": None}


def _shown(run: Attempt) -> list[dict[str, Any]]:
    if run.ended is not Ended.BROKEN_OFF:
        return list(run.outputs)
    says = "the kernel ended in this cell: it was closed, restarted or killed"
    hint = "Hint: restart the kernel, run the cells from the top, then go on at the first step that is not done."
    error = {"output_type": "error", "ename": "KernelDied", "evalue": says, "traceback": [says, STATE, hint]}
    return [*run.outputs, error]


def _folded(before: Sequence[Attempt], last: Attempt) -> list[dict[str, Any]]:
    """Return an output for each earlier run of a cell, which unfolds to what it showed."""
    found = []
    for number, run in enumerate(before, 1):
        title = f"Run {number}, {run.says}" + (f", by {run.by}" if run.by != last.by else "")
        if len(before) - number >= FOLDED:
            body = "<p>What it showed is in the log beside this notebook.</p>"
        else:
            texts = [_html(output) for output in _shown(run)]
            body = "".join([*([f"<pre>{escape(run.source)}</pre>"] if run.source != last.source else []), *texts])
        found.append(_display(title, f"<details><summary>{escape(title)}</summary>{body}</details>"))
    return found


def _outside(every: Sequence[Attempt], after: str | None) -> list[dict[str, Any]]:
    """Return the cells that are not of the notebook and ran behind a cell of it, or before any."""
    found, behind = [], None
    for number, run in enumerate(every):
        if run.at is not None:
            behind = run.cell
        elif behind == after:
            cell = {"cell_type": "code", "id": f"beside-{number}", "metadata": {"tags": ["not-of-this-notebook"]}}
            found.append(_filled(cell, [run]))
    return found


def _top(run: Run, name: str, every: Sequence[Attempt], ids: Sequence[str]) -> dict[str, Any]:
    """Return the text on top: who ran it, where every attempt is, and all that is odd."""
    log = f"{Path(name).stem}{cell_log.SUFFIX}"
    what = f"**The record of {name}**, run {run.run_id} on `{run.target}`, begun by {run.operator}."
    how = f"The kernel wrote it as the cells ran; `{log}` has every run of each."
    remarks = _oddities(run, every, ids) or ["Every cell ran once, in order, unchanged."]
    said = [f"{what} {how}", "", *(f"- {remark}" for remark in remarks)]
    return {"cell_type": "markdown", "id": TOP, "metadata": {"tags": [TOP]}, "source": "\n".join(said)}


def _oddities(run: Run, every: Sequence[Attempt], ids: Sequence[str]) -> list[str]:
    found: list[str] = []
    kernels = list(dict.fromkeys(one.kernel for one in every))
    if len(kernels) > 1:
        found.append(f"The kernel was started {len(kernels)} times.")
    above = ids[: ids.index(SET_UP) + 1] if SET_UP in ids and len(kernels) > 1 else []  # each kernel begins with them
    for cell in ids:
        mine = [one for one in every if one.cell == cell and one.at is not None]
        if len(mine) > 1 and cell not in above:
            found.append(f"Cell `{cell}` was run {len(mine)} times: {'; '.join(one.says for one in mine)}.")
        said = dict.fromkeys(r for one in mine for r in one.remarks if not r.startswith("Run "))
        found += [f"Cell `{cell}`: {remark}" for remark in said]
    beside = sum(one.at is None for one in every)
    if beside:
        found.append(f"{beside} of the cells below are not of this notebook: from a console, or added by hand.")
    for who, cells in cell_attempts.by_others(every, run.operator).items():
        named = ", ".join(f"`{cell}`" for cell in dict.fromkeys(cells))
        found.append(f"Run by {who}, who did not begin this run: {named}.")
    ran = {one.cell for one in every}
    left = [cell for cell in ids if cell not in ran]
    if left:
        found.append(f"Not run: {', '.join(f'`{cell}`' for cell in left)}.")
    return found


def _times(start: str, end: str | None) -> dict[str, Any]:
    took = (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds() if end else None
    return {"start_time": start, "end_time": end, "duration": took}


def _note(says: str, under: str = "") -> dict[str, Any]:
    folded = f"<details><summary>{escape(says)}</summary><pre>{escape(under)}</pre></details>"
    html = f"<div style='color:#9a6700'>{folded if under else escape(says)}</div>"
    return _display(f"{says}\n{under}" if under else says, html)


def _display(text: str, html: str) -> dict[str, Any]:
    data = {"text/plain": text, "text/html": html}
    return {"output_type": "display_data", "data": data, "metadata": {"pgrunbook": "record"}}


def _diff(given: str, ran: str) -> str:
    return "\n".join(unified_diff(given.splitlines(), ran.splitlines(), "as given", "as run", lineterm="", n=0))


def _html(output: dict[str, Any]) -> str:
    """Return an output as HTML, in the richest form that it has."""
    data = output.get("data", {})
    if "text/html" in data or "image/svg+xml" in data:
        return str(data.get("text/html") or data["image/svg+xml"])
    if "image/png" in data:
        return f'<img alt="picture" src="data:image/png;base64,{"".join(data["image/png"].split())}">'
    text = output.get("text") or data.get("text/plain") or "\n".join(output.get("traceback", []))
    return f"<pre>{escape(_COLOUR.sub('', text))}</pre>"
