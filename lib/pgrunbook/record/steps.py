"""How the steps of a run stand, read from its executed notebooks; the page of a run shows them, beside the last run."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgrunbook.config import regular_file
from pgrunbook.errors import WrongInput
from pgrunbook.record import run as runs
from pgrunbook.record.cell_attempts import SET_UP
from pgrunbook.record.run import Part, Run

TO_DO = "to do"
MOST_SAID, MOST_OF_AN_ERROR = 160, 2_000  # characters
UNTITLED = "<div style='max-height:"  # how a table without a title begins
WORDS = {"completed": "done", "failed": "failed", "running": "at work"}


@dataclass(frozen=True)
class CellStanding:
    """How one cell of an executed notebook stands, the first line of what it shows, and the others of an error."""

    cell: str
    changes_state: bool
    state: str = TO_DO
    ended_at: str = ""
    says: str = ""
    more: str = ""


def standing(run: Run, part: Part) -> list[CellStanding]:
    """Return the steps of a part, in order; [] where its notebook is not there or cannot be read."""
    path = run.folder / part.notebook
    if not part.notebook or not regular_file.is_there(path):
        return []
    try:
        cells = regular_file.read_json(path, dict).get("cells", [])
    except WrongInput:
        return []
    code = [cell for cell in cells if isinstance(cell, dict) and cell.get("cell_type") == "code"]
    ids = [str(cell.get("id")) for cell in code]
    above = ids.index(SET_UP) + 1 if SET_UP in ids else 0
    return [_standing(cell) for cell in code[above:] if "not-of-this-notebook" not in _tags(cell)]


def last_run(procedure: str, target: str, *, but: Path) -> tuple[Run, Part] | None:
    """Return the last other run of a procedure on a target that somebody began, None where there is none."""
    for folder in reversed(runs.folders()):
        if folder == but:
            continue
        try:
            run = runs.load(folder)
        except WrongInput:
            continue  # `pgrunbook runs` reports a folder that cannot be read
        part = next((p for p in run.parts if p.procedure == procedure), None)
        if run.target == target and part is not None and part.started_at:
            return run, part
    return None


def _standing(cell: Mapping[str, Any]) -> CellStanding:
    facts = cell["metadata"].get("papermill", {})
    return CellStanding(
        str(cell.get("id")), "changes-state" in _tags(cell), WORDS.get(facts.get("status"), TO_DO),
        str(facts.get("end_time") or "")[:19].replace("T", " "), _says(cell), _more(cell),
    )  # fmt: skip


def _tags(cell: Mapping[str, Any]) -> list[str]:
    return list(cell["metadata"].get("tags", []))


def _more(cell: Mapping[str, Any]) -> str:
    """Return what follows the first line of the error of a cell: the state of the database, and what to do next."""
    found = ["".join(output["evalue"]) for output in cell.get("outputs", []) if output.get("evalue")]
    return found[-1].strip().partition("\n")[2][:MOST_OF_AN_ERROR] if found else ""


def _says(cell: Mapping[str, Any]) -> str:
    """Return the first line of the error of a cell, or of the last thing that it shows."""
    for output in reversed(cell.get("outputs", [])):
        if output.get("metadata", {}).get("pgrunbook"):
            continue  # what the record says of the cell
        data = output.get("data", {})
        text = output.get("evalue") or data.get("text/plain") or output.get("text") or ""
        line = next((line for line in "".join(text).splitlines() if line.strip()), "")
        html = "".join(data.get("text/html", ""))
        if html.startswith(UNTITLED):
            return f"{html.partition('<tbody>')[2].partition('</tbody>')[0].count('<tr>')} rows"  # no title to tell
        return textwrap.shorten(line, MOST_SAID, placeholder=" …")
    return ""
