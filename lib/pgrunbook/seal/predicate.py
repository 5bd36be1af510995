"""What the seal of a run says of it: who, what, when, why, where, and how it ended; read from its record."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from pgrunbook.config import paths, regular_file
from pgrunbook.errors import WrongInput
from pgrunbook.record.journal import Event, is_chained
from pgrunbook.record.run import Run
from pgrunbook.seal import changes, subjects

PLANS = {"plan-frozen": "plan.json", "rollback-plan-frozen": "rollback-plan.json"}
_GIT_S = 5


def of_opening(run: Run, *, protected: bool, needs_approval: bool, continues: int | None) -> dict[str, Any]:
    """Return what is known of a run when an attempt of it opens."""
    return {
        "runbook": run.runbook,
        "target": {"name": run.target, "protected": protected, "needs_approval": needs_approval},
        "operator": operator(run, [], has_key=False),
        "started_at": run.started_at,
        "continues": continues,
        "journal": _journal(run),
    }


def of_closing(run: Run, events: Sequence[Event], *, has_key: bool) -> dict[str, Any]:
    """Return what is known of a run when an attempt of it ends."""
    plan_event = next((e for e in reversed(events) if e["event"] in PLANS), None)
    plan = _plan(run, plan_event)
    met = _last(events, "target-met")
    return {
        "runbook": {"name": run.runbook, "sha256": _shipped("runbooks", f"{run.runbook}.yaml")},
        "notebooks": {p.procedure: _shipped("notebooks", f"{p.procedure}.ipynb") for p in run.parts},
        "git_commit": _git_commit(),
        "why": {"change": "", "reason": "", "risk": "", "requested_by": "", **run.about},
        "operator": operator(run, events, has_key=has_key),
        "approval": _approval(events),
        "emergency": str(_last(events, "emergency").get("reason", "")),
        "changed": changes.has_changed(events),
        "permitted": changes.permitted(events),
        "accepted": [
            {"gates": e["gates"], "by": e.get("by", ""), "at": e["at"]} for e in _all(events, "gates-accepted")
        ],
        "target": {
            "name": run.target,
            **{name: met.get(name, "") for name in ("server_version", "database", "system_identifier")},
        },
        "parameters": run.parameters,
        "outcome": str(run.status),
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "how": run.how,
        "machine": run.machine,
        "procedures": [
            {"procedure": p.procedure, "status": str(p.status), "started_at": p.started_at, "ended_at": p.ended_at,
             "says": p.says} for p in run.parts
        ],
        "plan": plan,
        "steps": _steps(events),
        "versions": run.versions,
        "journal": _journal(run) | {"chained": is_chained(events)},
        "outside": subjects.working_copies(run),
    }  # fmt: skip


def _approval(events: Sequence[Event]) -> dict[str, Any] | None:
    """Return who has approved what was changed, or would have been; None where nobody has."""
    approved, permitted = _all(events, "approved"), _last(events, "change-permitted")
    used = next((e for e in approved if e["sha256"] == permitted.get("approval")), None)
    chosen = used or (approved[-1] if approved else None)
    if chosen is None:
        return None
    names = ("by", "fingerprint", "digest", "at", "expires_at", "reason", "sha256")
    return {**{name: chosen[name] for name in names}, "used": used is not None}


def operator(run: Run, events: Sequence[Event], *, has_key: bool) -> dict[str, Any]:
    """Return who is at work, as each source tells it, and which of that is proven."""
    role = str(_last(events, "target-met").get("session_user", ""))
    anchored = _last(events, "anchored")
    try:
        login = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        login = ""
    proven = [*(["key"] if has_key else []), *(["database_role"] if anchored else [])]
    return {
        "environment_says": run.operator,
        "os_uid": os.getuid(),
        "os_login": login,
        "database_role": str(anchored.get("session_user", role)),
        "proven": proven,
    }


def _plan(run: Run, frozen: Event | None) -> dict[str, Any] | None:
    """Return what the last frozen plan promises; only its digest where its file is not that plan any more."""
    if frozen is None:
        return None
    found: dict[str, Any] = {"digest": frozen["digest"], "file": PLANS[frozen["event"]]}
    try:
        kept = regular_file.read_json(run.folder / found["file"], dict)
    except WrongInput:
        return found
    plan = kept.get("plan")
    if kept.get("digest") != frozen["digest"] or not isinstance(plan, dict):
        return found
    changes = plan.get("changes") or []
    return {
        **found,
        "direction": plan.get("direction"),
        "migrations": [change.get("migration") for change in changes],
        "rehearsed": plan.get("rehearsed", ""),
        "way_back": {"unproven": plan.get("unproven", "")},
        "schema": {
            "before": changes[0].get("schema_before", "") if changes else "",
            "after": changes[-1].get("schema_after", "") if changes else "",
        },
    }


def _steps(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Return for each migration how many of its steps ran, how many were committed, and whether all of it was."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for event in events:
        if event["event"] not in ("step-ran", "committed"):
            continue
        name, direction = str(event.get("migration", "")), str(event.get("direction", ""))
        new = {"migration": name, "direction": direction, "ran": 0, "committed": 0, "whole": False}
        one = found.setdefault((name, direction), new)
        one["ran"] += event["event"] == "step-ran"
        one["committed"] += len(event.get("steps", ()))
        one["whole"] = one["whole"] or bool(event.get("whole_migration"))
    return list(found.values())


def _journal(run: Run) -> dict[str, Any]:
    path = run.journal.path
    raw = regular_file.read_bytes(path) if regular_file.is_there(path) else b""
    return {"bytes": len(raw), "events": raw.count(b"\n"), "sha256": sha256(raw).hexdigest()}


def _all(events: Sequence[Event], name: str) -> list[Event]:
    return [event for event in events if event["event"] == name]


def _last(events: Sequence[Event], name: str) -> Mapping[str, Any]:
    found = _all(events, name)
    return found[-1] if found else {}


def _shipped(folder: str, name: str) -> str:
    """Return the sha256 of a file of the project or the library, "" where there is none."""
    try:
        return subjects.digest(paths.shipped(folder, name))
    except WrongInput:
        return ""


def _git_commit() -> str:
    """Return the commit of the project's folder, "" where it is in no git repository, or git is not to be had."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--verify", "HEAD"], cwd=Path(paths.project_dir()), capture_output=True, text=True,
            timeout=_GIT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired, WrongInput):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
