"""JSON Schemas of ``plan.json``, ``rehearsal.json`` and of what commands print, for the automation of operators.

The package holds them as files that are made from the models; ``pgrunbook schema`` prints them.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any, Literal

from pydantic import BaseModel

from pgrunbook.app import run_report
from pgrunbook.branches.backup_report import BackupReport
from pgrunbook.branches.branch import BranchReport
from pgrunbook.plan.plan import Plan
from pgrunbook.rehearse.drift import Drift
from pgrunbook.rehearse.trial import Trial
from pgrunbook.seal.standing import VerificationReport

Name = Literal[
    "plan", "rehearsal", "drift", "backup", "branch", "run", "runs", "show", "status", "accept", "verify", "approve",
    "requests",
]  # fmt: skip
# What the commands print with --json.
_PRINTED: dict[str, type[BaseModel]] = {
    "drift": Drift,
    "backup": BackupReport,
    "branch": BranchReport,
    "run": run_report.EndedRun,
    "runs": run_report.RunsReport,
    "show": run_report.ShownRun,
    "status": run_report.StatusReport,
    "accept": run_report.AcceptedGates,
    "verify": VerificationReport,
    "approve": run_report.ApprovedChange,
    "requests": run_report.RequestsReport,
}
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def made(name: Name) -> str:
    """Return the schema of a file, made from the models now."""
    if name == "plan":
        schema = _plan()
    elif name == "rehearsal":
        schema = {"$schema": DIALECT, "title": "rehearsal.json", **_of(Trial)}
    else:
        schema = {"$schema": DIALECT, "title": f"pgrunbook {name} --json", **_of(_PRINTED[name])}
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def kept(name: Name) -> str:
    """Return the schema that the package holds: automation can rely on it."""
    return (resources.files("pgrunbook.app") / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8")


def _plan() -> dict[str, Any]:
    """The file holds the plan and the digest of its canonical text (sorted keys, no blanks)."""
    plan = _of(Plan)
    return {
        "$schema": DIALECT,
        "title": "plan.json",
        "type": "object",
        "additionalProperties": False,
        "required": ["digest", "plan"],
        "properties": {"digest": {"type": "string", "pattern": "^[0-9a-f]{64}$"}, "plan": {"$ref": "#/$defs/Plan"}},
        "$defs": {**plan.pop("$defs"), "Plan": plan},
    }


def _of(model: type[BaseModel]) -> dict[str, Any]:
    return {key: value for key, value in model.model_json_schema(mode="serialization").items() if key != "title"}
