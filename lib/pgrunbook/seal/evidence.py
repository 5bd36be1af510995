"""The evidence of changes for an auditor: a row for each attempt that was sealed, with what standards ask for."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from pgrunbook.record import table_file
from pgrunbook.seal import signers, verification
from pgrunbook.seal.verification import SealedLine, Verification

FIELDS = (
    "run", "line", "began", "ended", "outcome", "runbook", "target", "system_identifier", "change", "reason", "risk",
    "requested_by", "signed_by", "operator_named", "database_role", "approval", "gates_accepted", "plan_digest",
    "rehearsed", "way_back", "migrations", "committed", "git_commit", "record_agrees", "signature", "chain",
)  # fmt: skip


def write(file: TextIO, outputs: Path, *, since: str = "", until: str = "", target: str = "") -> int:
    """Write the attempts that ended in a period as CSV, both days included; return how many.

    Raises WrongInput where there is no ledger, or ``signers`` cannot be read.
    """
    found = verification.chain(outputs, signers.load())
    writer = csv.writer(file)
    writer.writerow(FIELDS)
    count = 0
    for line in found.lines:
        day = str(line.predicate["at"])[:10]
        if line.is_open or (since and day < since) or (until and day > until):
            continue
        facts = dict(_facts(line, found))
        if target and facts["target"] != target:
            continue
        writer.writerow([table_file.cell(str(facts[name])) for name in FIELDS])
        count += 1
    return count


def _facts(line: SealedLine, found: Verification) -> Iterator[tuple[str, object]]:
    said = line.predicate
    operator, plan, why = (_object(said.get(name)) for name in ("operator", "plan", "why"))
    target = _object(said.get("target"))
    yield from {
        "run": line.run_id,
        "line": line.seq,
        "began": said.get("started_at"),
        "ended": said.get("ended_at"),
    }.items()
    yield from {"outcome": said.get("outcome"), "runbook": _object(said.get("runbook")).get("name")}.items()
    yield from {"target": target.get("name"), "system_identifier": target.get("system_identifier")}.items()
    yield from {name: why.get(name, "") for name in ("change", "reason", "risk", "requested_by")}.items()
    yield "signed_by", line.signer
    yield from {
        "operator_named": operator.get("environment_says"),
        "database_role": operator.get("database_role"),
    }.items()
    yield "approval", _approved(said)
    accepted = said.get("accepted") or []
    yield "gates_accepted", "; ".join(f"{', '.join(one['gates'])} by {one['by']}" for one in accepted)
    yield from {"plan_digest": plan.get("digest", ""), "rehearsed": plan.get("rehearsed", "")}.items()
    yield "way_back", (_object(plan.get("way_back")).get("unproven") or "proven") if plan else ""
    yield "migrations", ", ".join(map(str, plan.get("migrations", ())))
    steps = [_object(one) for one in said.get("steps", ())]
    yield (
        "committed",
        "; ".join(f"{s.get('migration')} {s.get('direction')}: {s.get('committed')} steps" for s in steps),
    )
    yield "git_commit", said.get("git_commit", "")
    yield "record_agrees", "yes" if _object(said.get("faithful")).get("holds") else "no"
    yield "signature", _word(found, line, "signature") or line.signer
    yield "chain", _word(found, line, "chain") or "holds"


def _approved(said: Mapping[str, Any]) -> str:
    approval = _object(said.get("approval"))
    by = f"{approval.get('by')} ({approval.get('fingerprint')}) at {approval.get('at')}" if approval else "none"
    return f"EMERGENCY: {said['emergency']}; {by}" if said.get("emergency") else by


def _word(found: Verification, line: SealedLine, part: str) -> str:
    return next((p.word for p in found.problems if p.part == part and p.seq == line.seq), "")


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
