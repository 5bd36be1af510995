"""Where the time of a run of ours goes, from its journal and the times in its executed notebook."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median

import nbformat
from rounds import Sample

from pgrunbook.record import journal


def stages(folder: Path, sample: Sample) -> dict[str, float]:
    """Return how long each stage of a run took, in milliseconds, in the order in which they came."""
    marks = list(_marks(folder, sample))
    ends = [began for _, began in marks[1:]] + [sample.started_at + timedelta(seconds=sample.took_s)]
    return {name: (end - began) / timedelta(milliseconds=1) for (name, began), end in zip(marks, ends, strict=True)}


def medians(runs: Sequence[dict[str, float]]) -> dict[str, tuple[float, float, float]]:
    """Return median, least and most of each stage over several runs."""
    each = {name: [run[name] for run in runs] for name in runs[0]}
    return {name: (median(times), min(times), max(times)) for name, times in each.items()}


def _marks(folder: Path, sample: Sample) -> Iterator[tuple[str, datetime]]:
    """Yield each stage with the moment at which it began."""
    at = {event["event"]: datetime.fromisoformat(event["at"]) for event in journal.read(folder / "journal.jsonl")}
    notebook = nbformat.read(folder / "01-migrate.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    yield "Python's start and our imports, until the run exists", sample.started_at
    yield "import of papermill, reading the notebook", at["notebook-started"]
    yield "waiting for the kernel", datetime.fromisoformat(notebook.metadata.papermill.start_time)
    for cell in cells:
        yield f"cell `{_name(cell)}`", datetime.fromisoformat(cell.metadata.papermill.start_time)
    last = cells[-1].metadata.papermill
    yield "last save, end of the kernel", datetime.fromisoformat(last.end_time)
    yield "end of the process", at["run-ended"]


def _name(cell: nbformat.NotebookNode) -> str:
    return "injected-parameters" if "injected-parameters" in cell.metadata.get("tags", []) else str(cell.id)
