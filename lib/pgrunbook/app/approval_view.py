"""What an approver reads before they sign: the change as it is digested, and the evidence that its run has found."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from pgrunbook.config import regular_file
from pgrunbook.display.show import Card, Table
from pgrunbook.draft import plan_sql
from pgrunbook.errors import WrongInput
from pgrunbook.procedures import plan_views, rollback_views
from pgrunbook.session import acceptance, change_request, checks

if TYPE_CHECKING:
    from pgrunbook.record.run import Run
    from pgrunbook.session.change_request import ChangeRequest

TABLES = {
    "is-it-safe-to-start": "Checklist, as prepare found it",
    "what-will-it-do": "Hazards, as prepare found them",
    "rehearsed": "Rehearsal, as prepare observed it",
}
CELLS_OF_ROLLBACK = ("what-goes-back", "what-about-new-rows", "try-it")


def text(request: ChangeRequest) -> str:
    """Return what is shown of a change, as text: who makes it, its plan or what its checks have shown, the evidence."""
    made, plan = request.run, request.plan
    parts: list[object] = [_card(request)]
    if plan is not None:
        left = [gate.key for gate in acceptance.left(made, plan)]
        parts += [plan_views.plan(plan, change_request.target_of(made), left)]
        parts += [plan_views.statements(plan.changes, title="What is executed")]
        if plan.direction == "up":
            parts += ["The way back", rollback_views.ways_back(plan.changes)]
            parts += [found for name, title in TABLES.items() if (found := _table(made, name, title))]
        else:
            parts += _shown(made, "rollback", CELLS_OF_ROLLBACK)
        parts += ["".join(plan_sql.parts(plan)).rstrip()]
    else:
        parts += _shown(made, request.procedure, checks.NEEDED.get(request.procedure, {}).get(request.cell, ()))
    return "\n\n".join(part if isinstance(part, str) else repr(part) for part in parts)


def _card(request: ChangeRequest) -> Card:
    made, subject = request.run, request.subject
    given = made.parameters.get(request.procedure) or {}
    facts: list[tuple[str, object]] = [
        ("run", made.run_id),
        ("target", f"{made.target}: database {subject.database or '?'}, system {subject.system_identifier or '?'}"),
        ("operator", f"{made.operator} on {made.machine}, as the environment says"),
        *((name, value) for name, value in made.about.items()),
        ("what is done", f"{request.procedure}, cell {request.cell}"),
        *((f"-p {name}", value) for name, value in given.items() if name != "target"),
        ("it is about", "; ".join(subject.of)),
        ("digest", subject.digest),
    ]
    return Card("You are asked to approve", facts)


def _table(made: Run, name: str, title: str) -> Table | None:
    path = made.folder / f"{name}.csv"
    if not regular_file.is_there(path):
        return None
    rows = list(csv.reader(io.StringIO(regular_file.read(path))))
    return Table(rows[0], rows[1:], title=title) if rows else None


def _shown(made: Run, procedure: str, cells: tuple[str, ...]) -> list[object]:
    """Return what cells of an executed notebook show, as text; what cannot be read is said."""
    part = next((part for part in made.parts if part.procedure == procedure), None)
    name = part.notebook if part is not None else f"{procedure}.ipynb"
    try:
        notebook = regular_file.read_json(made.folder / name, dict)
    except WrongInput as exc:
        return [f"{name} cannot be shown: {exc.detail}"]
    by_id = {str(cell.get("id")): cell for cell in notebook.get("cells", [])}
    return [f"{procedure}, cell {cell}\n{_outputs(by_id[cell])}" for cell in cells if cell in by_id]


def _outputs(cell: dict[str, Any]) -> str:
    texts = [out.get("text") or out.get("data", {}).get("text/plain") or "" for out in cell.get("outputs", [])]
    return "\n".join("".join(one) for one in texts if one) or "(it showed nothing)"
