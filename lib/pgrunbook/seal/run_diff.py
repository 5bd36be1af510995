"""What differs between two runs: parameters, plan, outcome, durations, schema, versions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pgrunbook.config import regular_file
from pgrunbook.display.prose import counted
from pgrunbook.display.show import Table
from pgrunbook.errors import WrongInput
from pgrunbook.record import journal
from pgrunbook.record.run import Run
from pgrunbook.seal.predicate import PLANS


def table(left: Run, right: Run) -> Table:
    """Return a row for each thing that differs. Raises WrongInput where a journal cannot be read."""
    a, b = _facts(left), _facts(right)
    rows = [
        (name, a.get(name, "-"), b.get(name, "-")) for name in dict.fromkeys([*a, *b]) if a.get(name) != b.get(name)
    ]
    return Table(["what", left.run_id, right.run_id], rows, empty="Nothing differs.", most=len(rows) or 1)


def _facts(run: Run) -> dict[str, str]:
    found = {
        "runbook": run.runbook,
        "target": run.target,
        "operator": run.operator,
        "machine": run.machine,
        "how": run.how,
        "outcome": str(run.actual_status()),
        "took": "" if run.took_s is None else f"{run.took_s:.1f} s",
        **{f"why: {name}": value for name, value in run.about.items()},
        **{f"version: {name}": value for name, value in run.versions.items()},
    }
    for procedure, parameters in run.parameters.items():
        given = parameters if isinstance(parameters, dict) else {"": parameters}
        found |= {f"parameter: {procedure} {name}": _text(value) for name, value in given.items()}
    for part, status in run.standing():
        found[f"procedure: {part.procedure}"] = f"{status}: {part.says}" if part.says else str(status)
    return found | _of_plan(run) | _of_steps(run)


def _of_plan(run: Run) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in PLANS.values():
        try:
            kept = regular_file.read_json(run.folder / name, dict)
            changes = list(kept["plan"]["changes"])
        except (WrongInput, KeyError, TypeError):
            continue
        found[f"{name}: digest"] = str(kept.get("digest"))
        found[f"{name}: rehearsed"] = str(kept["plan"].get("rehearsed"))
        found[f"{name}: schema before"] = str(changes[0].get("schema_before")) if changes else ""
        found[f"{name}: schema after"] = str(changes[-1].get("schema_after")) if changes else ""
        for change in changes:
            found[f"{name}: {change['migration']}"] = f"{len(change['steps'])} steps of {change['file_sha256'][:12]}"
    return found


def _of_steps(run: Run) -> dict[str, str]:
    events = journal.read(run.journal.path)
    ran = [e for e in events if e["event"] == "step-ran"]
    names = [f"step: {e['migration']} {e.get('direction', '')} {e['step']}" for e in ran]
    return {name: _ran(event) for name, event in zip(names, ran, strict=True)}


def _ran(event: Mapping[str, Any]) -> str:
    wrote = f", {counted(event['rows'], 'row')}" if event.get("rows") is not None else ""
    return f"{event.get('ms', 0):,.1f} ms{wrote}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
