"""Hazards in SARIF 2.1.0, the form in which code hosts show findings beside the lines of a pull request.

Source: https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from pgrunbook.review.hazards import Hazard
from pgrunbook.sql.places import Place
from pgrunbook.sql.secrets import masked

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def sarif(found: Sequence[tuple[str, Place, Hazard]], notices: Sequence[str] = ()) -> dict[str, Any]:
    """Return one run with a result for each hazard of a statement; ``notices`` say what was not checked."""
    rules = {hazard.id: hazard.condition for *_, hazard in found}
    ranks = {name: number for number, name in enumerate(rules)}
    invocation: dict[str, Any] = {"executionSuccessful": True}
    if notices:
        invocation["toolExecutionNotifications"] = [{"level": "note", "message": {"text": n}} for n in notices]
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "pgrunbook",
                        "version": version("pgrunbook"),
                        "rules": [
                            {"id": name, "shortDescription": {"text": condition}} for name, condition in rules.items()
                        ],
                    }
                },
                "invocations": [invocation],
                "results": [_result(*one, ranks[one[-1].id]) for one in found],
            }
        ],
    }


def _result(statement: str, place: Place, hazard: Hazard, rank: int) -> dict[str, Any]:
    mark = hashlib.sha256(f"{hazard.id}\n{masked(statement)}".encode()).hexdigest()
    return {
        "ruleId": hazard.id,
        "ruleIndex": rank,
        "level": str(hazard.severity),
        "message": {"text": f"{hazard.effect}\n\nInstead:\n{hazard.way_out}"},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": quote(PurePath(hazard.file).as_posix())},
                    "region": {"startLine": hazard.line},
                },
                "logicalLocations": [{"fullyQualifiedName": str(place)}],
            }
        ],
        "partialFingerprints": {"statement/v1": mark},
    }
