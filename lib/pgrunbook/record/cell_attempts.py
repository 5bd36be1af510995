"""The runs of the cells of a notebook, as its log tells them: what each showed at its end, and what is odd about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pgrunbook.record import cell_log
from pgrunbook.record.cell_log import Line

SET_UP = "set-up"
REPLACED = ("data", "metadata")  # what a display's new value replaces


class Ended(StrEnum):
    """How the run of a cell ended."""

    DONE = "done"
    FAILED = "failed"
    AT_WORK = "at work"
    BROKEN_OFF = "broken off"
    UNSEEN = "run before set-up"  # its kernel recorded nothing yet


@dataclass
class Attempt:
    """One run of a cell, in the order in which they began.

    ``at`` is the place of its cell in the notebook, None where the notebook has no such cell.
    """

    cell: str
    source: str
    kernel: str
    by: str
    started_at: str
    at: int | None = None
    count: int | None = None
    is_edited: bool = False
    ended: Ended = Ended.BROKEN_OFF
    ended_at: str = ""
    took_ms: float = 0.0
    dropped_bytes: int = 0
    outputs: list[Line] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    clears_next: bool = False

    @property
    def says(self) -> str:
        """When and how it ended, for a person."""
        return f"{self.started_at[11:19]} UTC, {self.ended}"


def attempts(lines: Sequence[Line], ids: Sequence[str], *, living: str | None) -> list[Attempt]:
    """Return the runs of cells, oldest first; ``ids`` are the cells of the notebook, in order.

    What a kernel began and did not end is at work in the ``living`` kernel, and broken off in another; "" is any whose
    process has not ended.
    """
    ended = cell_log.ended_kernels(lines) if living == "" else set[str]()

    def is_living(kernel: str) -> bool:
        return kernel == living or (living == "" and kernel not in ended)

    places = {cell: place for place, cell in enumerate(ids)}
    kernels: dict[str, str] = {}
    found: dict[tuple[str, int], Attempt] = {}
    displays: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        kernel, number = str(line.get("kernel", "")), line.get("n")
        if line["is"] == "kernel":
            kernels[kernel] = str(line.get("by", ""))
            continue
        if line["is"] == "cell":
            cell = str(line.get("cell") or "")
            found[kernel, int(line["n"])] = Attempt(
                cell, str(line["source"]), kernel, kernels.get(kernel, ""), str(line["at"]), places.get(cell),
                line.get("count"), bool(line.get("edited")),
                Ended.UNSEEN if line.get("unseen") else Ended.AT_WORK if is_living(kernel) else Ended.BROKEN_OFF,
            )  # fmt: skip
            continue
        run = found.get((kernel, number)) if isinstance(number, int) else None
        if run is not None:
            _follow(run, line, displays)
    every = list(found.values())
    _remark(every, ids)
    return every


def _follow(run: Attempt, line: Line, displays: dict[tuple[str, str], list[Line]]) -> None:
    """Let one line happen to the run of a cell, as a front end would show it."""
    match line["is"]:
        case "output":
            output = dict(line["output"])
            if run.clears_next:
                run.outputs, run.clears_next = [], False
            last = run.outputs[-1] if run.outputs else {}
            if output["output_type"] == "stream" == last.get("output_type") and output["name"] == last["name"]:
                last["text"] += output["text"]
                return
            run.outputs.append(output)
            if "display" in line:
                displays.setdefault((run.kernel, line["display"]), []).append(output)
        case "update":
            for output in displays.get((run.kernel, line["display"]), []):
                output.update({key: line["output"][key] for key in REPLACED})
        case "clear" if line.get("waits"):
            run.clears_next = True
        case "clear":
            run.outputs = []
        case "end":
            run.ended = Ended.DONE if line["ok"] else Ended.FAILED
            run.ended_at, run.took_ms = str(line["at"]), float(line["ms"])
            run.dropped_bytes = int(line.get("dropped_bytes", 0))


def _remark(every: Sequence[Attempt], ids: Sequence[str]) -> None:
    """Note at each run what a reader of the notebook would not expect of it."""
    well: set[str] = set()
    seen: dict[str, int] = {}
    for run in every:
        if run.at is None:
            run.remarks.append("Not a cell of this notebook: it was run from a console, or was added by hand.")
        else:
            missing = [cell for cell in ids[: run.at] if cell not in well]
            if missing and run.ended is not Ended.UNSEEN:
                run.remarks.append(f"Out of order: before it, {_listed(missing)} had not been run to the end.")
            seen[run.cell] = seen.get(run.cell, 0) + 1
            if seen[run.cell] > 1:
                run.remarks.append(f"Run {seen[run.cell]} times; this is the last.")
        if run.is_edited:
            run.remarks.append("Edited: its text is not that of the notebook as it was given.")
        if run.ended is Ended.BROKEN_OFF:
            run.remarks.append("Broken off: its kernel ended before the cell did. The database says what was done.")
        if run.ended is Ended.UNSEEN and not _is_above_set_up(run, ids):
            run.remarks.append("Run before the set-up cell: what it showed was not recorded.")
        if run.dropped_bytes:
            run.remarks.append(f"It showed {run.dropped_bytes:,} bytes more than a record keeps of one cell.")
        if run.ended in (Ended.DONE, Ended.UNSEEN):
            well.add(run.cell)


def _is_above_set_up(run: Attempt, ids: Sequence[str]) -> bool:
    """Tell whether it is one of the cells with the parameters, which show nothing."""
    return run.at is not None and SET_UP in ids[run.at :]


def _listed(cells: Sequence[str]) -> str:
    shown = ", ".join(cells[:4])
    return f"{shown} and {len(cells) - 4} more" if len(cells) > 4 else shown


def by_others(every: Sequence[Attempt], operator: str) -> Mapping[str, list[str]]:
    """Return who else than the run's operator ran which cells."""
    found: dict[str, list[str]] = {}
    for run in every:
        if run.by and run.by != operator:
            found.setdefault(run.by, []).append(run.cell or "a cell of their own")
    return found


def from_log(lines: Sequence[Line]) -> dict[str, Any] | None:
    """Return the notebook that the log says was given, None where it names none."""
    given = next((line["notebook"] for line in lines if line["is"] == "notebook"), None)
    return given if isinstance(given, dict) else None
