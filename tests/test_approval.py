"""Approvals: who may change a protected target, when, and what each refusal says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from acting import error, events, run
from conftest import do, rows
from pgrunbook.config.targets import Target
from pgrunbook.record.run import Run, Status
from pgrunbook.runner import runbook
from pgrunbook.seal import signers, signing_key, standing
from pgrunbook.seal.approval import Approval
from pgrunbook.session import change_request

Project = Callable[..., Target]
Command = Callable[..., tuple[int, str, str]]
FILES = {"0001_a.sql": "ALTER TABLE a ADD m int"}


@dataclass(frozen=True)
class People:
    """Keys of several people, of which one is at the keyboard."""

    folder: Path
    patch: pytest.MonkeyPatch

    def are(self, name: str) -> None:
        """Let somebody sit at the keyboard; their key is made when they first do."""
        self.patch.setenv("PGRUNBOOK_KEY", str(self.folder / name))
        if not (self.folder / name).exists():
            signing_key.make(f"{name}@example.org")

    def key_of(self, name: str) -> str:
        """The fingerprint of somebody's key."""
        return next(key for key, one in (signers.load() or {}).items() if one.name == f"{name}@example.org")


@pytest.fixture
def people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> People:
    """Ann is at the keyboard; signers is that of this test."""
    monkeypatch.setenv("PGRUNBOOK_SIGNERS", str(tmp_path / "signers"))
    found = People(tmp_path / "keys", monkeypatch)
    found.folder.mkdir()
    found.are("ann")
    return found


def approved(made: Run, lasts: timedelta = timedelta(hours=1), reason: str = "") -> Approval:
    """Let who is at the keyboard approve what a run asks for."""
    return change_request.approve(change_request.to_approve(made.run_id), lasts=lasts, reason=reason)


@pytest.fixture
def target(project: Project, people: People) -> Target:  # noqa: ARG001 - a protected target asks for a key
    """A protected target with one migration that has no gate."""
    made = project(folder=FILES, protected=True)
    do(made, "CREATE TABLE a (id int PRIMARY KEY)")
    return made


@pytest.mark.slow
def test_a_protected_target_is_migrated_when_somebody_else_has_approved(
    target: Target, people: People, command: Command
) -> None:
    """Refused in the first cell that would write, with what to type; the record holds who approved."""
    made, code = run("release")
    assert (code, made.status) == (3, Status.REFUSED)
    plan = events(made, "plan-frozen")[0]["digest"]
    assert error(made, 1) == (
        "this change is not approved\n"
        f'Detail: Target "demo" asks for somebody else\'s approval of what is executed (digest {plan[:16]}).\n'
        "State: Nothing changed in the database.\n"
        f"Hint: Have it approved: pgrunbook approve {made.run_id}; then pgrunbook run --resume {made.run_id}"
    )
    assert rows(target, "SELECT to_regnamespace('pgrunbook') IS NULL") == [(True,)]
    code, out, err = command("approve", made.run_id, "--yes")
    assert (code, err.splitlines()[0]) == (
        3, 'target "demo" is protected: somebody else approves a change than who makes it',
    )  # fmt: skip
    people.are("bob")
    code, out, err = command("approve", made.run_id, "--yes", "--expires", "2h", "--reason", "read it")
    assert code == 0, err
    assert out.splitlines()[0] == "You are asked to approve"
    for shown in (
        "ALTER TABLE",
        "way back proven",
        plan,
        "Checklist, as prepare found it",
        "Hazards, as prepare found",
    ):
        assert shown in out
    people.are("ann")
    made, code = runbook.resume(made.run_id)
    assert (code, made.status) == (0, Status.DONE), made.parts
    (one,), (used,) = events(made, "approved"), events(made, "change-permitted")
    assert (one["by"], one["digest"], one["reason"], used["approval"]) == (
        "bob@example.org", plan, "read it", one["sha256"],
    )  # fmt: skip
    sealed = json.loads((made.folder / ".seal").read_text())
    assert sealed["kind"] == "closed"
    report = standing.report(made.folder.parent, files=True)
    assert (report.exit_code, report.problems) == (0, ())
