"""Approvals: who may change a protected target, when, and what each refusal says."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest

from acting import (
    PATIENCE_S,
    error,
    events,
    in_transaction,
    newest_run,
    notebook,
    outputs,
    pgrunbook,
    run,
    wait_until,
)
from conftest import do, rows
from pgrunbook.app import json_schema
from pgrunbook.config.targets import Target
from pgrunbook.errors import Refused, WrongInput
from pgrunbook.plan import plan as plans
from pgrunbook.record import run as runs
from pgrunbook.record.run import Run, Status
from pgrunbook.runner import runbook
from pgrunbook.seal import approval, attempt, envelope, signers, signing_key, standing
from pgrunbook.seal.approval import APPROVALS_FILE, Approval
from pgrunbook.session import change_request
from scenes import gone

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
    assert (report.exit_code, report.problems, report.runs[0].approval) == (0, (), "by bob@example.org")


@pytest.mark.slow
def test_nothing_is_executed_without_an_approval(target: Target, people: People, command: Command) -> None:
    """Of migrate alone as well; JSON tells what was approved, and requests what waits for whom."""
    made, code = run("migrate")
    assert (code, made.status) == (3, Status.REFUSED)
    waiting = printed(command, "requests", "requests")["requests"]
    assert [(one["waits_for"], one["whom"], one["next"]) for one in waiting] == [
        ("approval", "somebody else than the operator", f"pgrunbook approve {made.run_id}")
    ]
    people.are("bob")
    code, _, err = command("approve", made.run_id)
    assert (code, err.splitlines()[0]) == (2, "nobody is there to confirm the approval")
    one = printed(command, "approve", "approve", made.run_id, "--yes", "--expires", "30m")
    plan = events(made, "plan-frozen")[0]["digest"]
    assert (one["approver"], one["fingerprint"], one["digest"]) == ("bob@example.org", people.key_of("bob"), plan)
    assert printed(command, "requests", "requests")["requests"] == []
    # Who has approved does not execute it as well.
    again, code = runbook.resume(made.run_id)
    assert (code, again.parts[0].says) == (3, "the approval of this change does not count")
    people.are("ann")
    done, code = runbook.resume(made.run_id)
    assert (code, done.status) == (0, Status.DONE), done.parts
    assert rows(target, "SELECT count(*) FROM pg_attribute WHERE attname = 'm'") == [(1,)]


def printed(command: Command, schema: str, *arguments: str) -> Any:
    """Return what a command prints with --json, which keeps to its schema."""
    code, out, err = command(*arguments, "--json")
    assert code == 0, err
    found = json.loads(out)
    jsonschema.validate(found, json.loads(json_schema.kept(cast("json_schema.Name", schema))))
    return found


@pytest.fixture
def closed(project: Project, people: People) -> Target:
    """A target that nobody may change before 2030-01-01."""
    people.are("ann")
    made = project(folder=FILES)
    with (people.folder.parent / "targets.toml").open("a") as file:
        file.write('[demo.window]\nfreeze = "2020-01-01/2029-12-31"\nzone = "Asia/Kathmandu"\n')
    do(made, "CREATE TABLE a (id int PRIMARY KEY)")
    return made


@pytest.mark.slow
def test_outside_of_its_window_a_target_is_not_changed(closed: Target, command: Command) -> None:
    """It says why; an emergency does it all the same, and shows everywhere."""
    made, code = run("migrate")
    assert code == 3
    said = error(made).splitlines()
    assert said[0] == 'target "demo" is not to be changed now'
    assert said[1].startswith("Detail: By this machine's clock it is ")
    assert said[1].endswith("in Asia/Kathmandu, and 2020-01-01/2029-12-31 is frozen.")
    assert said[2:] == [
        "State: Nothing changed in the database.",
        (
            "Hint: It does not open within two months. In an emergency: "
            f'pgrunbook run --resume {made.run_id} --emergency "what happens"'
        ),
    ]
    assert rows(closed, "SELECT to_regnamespace('pgrunbook') IS NULL") == [(True,)]
    why = "orders fail since 14:02, INC-77"
    with pytest.raises(WrongInput, match="an emergency needs a reason"):
        runbook.resume(made.run_id, emergency="quick")
    done, code = runbook.resume(made.run_id, emergency=why)
    assert (code, done.status) == (0, Status.DONE), done.parts
    for cell in ("take-restore-point", "execute-plan"):
        assert outputs(done, cell).startswith("EMERGENCY: This is changed without the approval of somebody else")
    assert "#cf222e" in str(notebook(done))
    assert [e["reason"] for e in events(done, "emergency")] == [why]
    assert events(done, "change-permitted")[0]["emergency"] == why
    assert "headless, EMERGENCY" in command("runs")[1]
    line = json.loads(envelope.read((done.folder.parent / "ledger.jsonl").read_bytes().splitlines()[-1]).payload)
    assert (line["predicate"]["emergency"], line["predicate"]["approval"]) == (why, None)
    assert f"EMERGENCY: {why}; none" in command("evidence")[1]


@pytest.mark.slow
def test_an_emergency_opens_no_gate(project: Project, people: People, command: Command) -> None:
    """Nor does it leave out the rehearsal: it is refused as ever."""
    people.are("ann")
    target = project(folder={"0001_a.sql": "ALTER TABLE a RENAME TO b"}, protected=True)
    do(target, "CREATE TABLE a (id int PRIMARY KEY)")
    made, code = runbook.run("release", "demo", {"with_data": "false"}, emergency="orders fail, INC-77")
    assert (code, made.parts[1].says) == (3, "the plan has 1 gate that nobody has accepted")
    assert events(made, "ways-back")
    waiting = printed(command, "requests", "requests")["requests"]
    assert ("gates", ["0001_a:1"], f"pgrunbook accept {made.run_id}") in [
        (one["waits_for"], one["what"], one["next"]) for one in waiting
    ]


@pytest.mark.slow
def test_after_it_expired_nothing_is_begun_and_what_has_begun_is_finished(project: Project, people: People) -> None:
    """A run that was permitted and waited for its lock in vain is asked again; one that was killed half way is not."""
    files = {"0001_a.sql": "ALTER TABLE a ADD m int", "0002_b.sql": "ALTER TABLE b ADD o int"}
    target = project(folder=files, protected=True, lock_patience_ms=14_000, attempts=1)
    do(target, "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)")
    made, code = run("migrate")
    assert code == 3
    people.are("bob")
    approved(made, lasts=timedelta(seconds=18))
    people.are("ann")
    # It is permitted in time, and waits for the lock longer than the approval counts: nothing is applied.
    with in_transaction(target, "LOCK TABLE a IN ACCESS SHARE MODE"):
        made, code = runbook.resume(made.run_id)
    assert (code, made.parts[0].says.partition(" in ")[0]) == (1, 'could not lock "a"')
    assert len(events(made, "change-permitted")) == 1
    expire(made)
    made, code = runbook.resume(made.run_id)
    assert (code, made.parts[0].says) == (3, "the approval of this change does not count")
    people.are("bob")
    approved(made, lasts=timedelta(seconds=18))
    people.are("ann")
    with (
        in_transaction(target, "LOCK TABLE b IN ACCESS SHARE MODE"),
        pgrunbook("run", "--resume", made.run_id) as process,
    ):
        wait_until(lambda: events(made, "committed"))
        process.kill()
        wait_until(gone(target))  # the kernel ends with its runner
    expire(made)
    assert rows(target, "SELECT attname FROM pg_attribute WHERE attname IN ('m', 'o')") == [("m",)]
    wait_until(lambda: not made.is_held())
    done, code = runbook.resume(made.run_id)
    assert (code, done.status) == (0, Status.DONE), done.parts
    assert len(rows(target, "SELECT attname FROM pg_attribute WHERE attname IN ('m', 'o')")) == 2


def expire(made: Run) -> None:
    """Wait until the last approval of a run has expired."""
    last = approval.read(made)[-1]
    assert isinstance(last, Approval)
    while datetime.now(UTC) < last.expires_at:
        time.sleep(0.05)


@pytest.mark.slow
def test_a_plan_that_was_changed_after_its_approval_is_not_executed(target: Target, people: People) -> None:
    """Neither an edited plan nor an approval that was copied from another run counts."""
    first, _ = run("migrate")
    people.are("bob")
    approved(first)
    people.are("ann")
    second, _ = run("migrate")
    shutil.copy(first.folder / APPROVALS_FILE, second.folder / APPROVALS_FILE)
    made, code = runbook.resume(second.run_id)
    assert code == 3
    assert f"Detail: Of 1 approval the last: it is for run {first.run_id}." in error(made)
    path = first.folder / "plan.json"
    facts = json.loads(path.read_text())
    facts["plan"]["attempts"] = 7
    digest = plans.Plan.model_validate(facts["plan"]).digest
    path.write_text(json.dumps({**facts, "digest": digest}))
    made, code = runbook.resume(first.run_id)
    assert (code, made.parts[0].says) == (3, "plan.json is not the plan that was frozen in this run")
    people.are("bob")
    with pytest.raises(Refused, match="is not the plan that was frozen in it"):
        approved(made)
    assert rows(target, "SELECT count(*) FROM pg_attribute WHERE attname = 'm'") == [(0,)]


@pytest.mark.slow
def test_automation_waits_for_its_approval(target: Target, people: People) -> None:
    """Until its patience ends, with 3; or until somebody approves, and it goes on by itself."""
    with pgrunbook("run", "migrate", "--target", "demo", "--wait-approval", "1s") as process:
        assert process.wait(PATIENCE_S) == 3
    with pgrunbook("run", "migrate", "--target", "demo", "--wait-approval", "2m") as process:
        wait_until(lambda: len(runs.folders()) == 2 and (made := newest_run()) and made.status is Status.REFUSED)
        made = newest_run()
        assert made is not None
        wait_until(lambda: not attempt.is_open(made))
        people.are("bob")
        assert typed("0000", "approve", made.run_id) == 3
        assert typed(made.run_id[-4:], "approve", made.run_id) == 0
        assert process.wait(PATIENCE_S) == 0, process.stderr.read() if process.stderr else ""
    assert rows(target, "SELECT count(*) FROM pg_attribute WHERE attname = 'm'") == [(1,)]


def typed(answer: str, *arguments: str) -> int:
    """Run a command on a terminal, where somebody answers; return its exit code."""
    keyboard, terminal = os.openpty()
    with pgrunbook(*arguments, stdin=terminal) as process:
        os.write(keyboard, f"{answer}\n".encode())
        process.communicate(timeout=PATIENCE_S)
    os.close(keyboard)
    os.close(terminal)
    return process.returncode


@pytest.mark.slow
def test_a_release_that_fails_takes_back_its_own_without_another_approval(project: Project, people: People) -> None:
    """A rollback that somebody begins as a run of its own needs one of its own."""
    files = {"0001_a.sql": "ALTER TABLE a ADD m int", "0002_b.sql": "SELECT 1 / (SELECT count(*) FROM b)"}
    target = project(folder=files, protected=True)
    do(target, "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int); INSERT INTO b VALUES (1)")
    made, code = run("release", accept="way-back:0002_b")
    assert code == 3
    people.are("bob")
    approved(made)
    people.are("ann")
    do(target, "DELETE FROM b")
    made, code = runbook.resume(made.run_id)
    assert (code, [str(part.status) for part in made.parts][-1]) == (1, "done"), made.parts
    assert rows(target, "SELECT count(*) FROM pg_attribute WHERE attname = 'm'") == [(0,)]
    do(target, "INSERT INTO b VALUES (1)")
    made, _ = run("release", accept="way-back:0002_b")
    people.are("bob")
    approved(made)
    people.are("ann")
    made, code = runbook.resume(made.run_id)
    assert code == 0, made.parts
    back, code = run("rollback", migrations="2")
    assert (code, back.parts[0].says) == (3, "this change is not approved"), back.parts
    people.are("bob")
    approved(back)
    people.are("ann")
    back, code = runbook.resume(back.run_id)
    assert (code, back.status) == (0, Status.DONE), back.parts
    assert rows(target, "SELECT count(*) FROM pg_attribute WHERE attname = 'm'") == [(0,)]
