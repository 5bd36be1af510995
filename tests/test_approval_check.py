"""Verify tells which changes were approved: each way to change a protected target without, and what is said of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pgrunbook.record import run as runs
from pgrunbook.record.run import Status
from pgrunbook.seal import attempt, report, run_index, signers, standing
from pgrunbook.seal.approval import APPROVALS_FILE
from pgrunbook.seal.changes import ANCHORED, PERMITTED
from pgrunbook.seal.standing import VerificationReport
from pgrunbook.session import emergency
from scenes import until
from test_approval_forged import HOUR, PLAN, Scene, by_carol, edited, later, requested_by_bob, scene, stranger, unsigned

Command = Callable[..., tuple[int, str, str]]
__all__ = ["scene"]
WHY = "orders fail since 14:02"


def changed(
    scene: Scene, *, approval: str | None = None, at: datetime | None = None, of: str = PLAN, reason: str = ""
) -> None:
    """Let ann change the target: permitted by the last approval of the run, or as is said."""
    path = scene.run.folder / APPROVALS_FILE
    line = path.read_bytes().splitlines()[-1] if path.exists() else b""
    used = runs_sha(line) if approval is None and line else approval or ""
    scene.key("ann")
    facts = {"at": runs.stamp(at)} if at else {}
    scene.run.journal.write(ANCHORED, line=1, for_restore_point=False, **ANCHOR)
    scene.run.journal.write(
        PERMITTED, procedure="migrate", cell="execute-plan", of=[of], approval=used, by="", emergency=reason, **facts
    )


ANCHOR = {"ledger": "x", "target": "shop", "system_identifier": "7123", "timeline": 1, "lsn": "0/1",
          "session_user": "ann"}  # fmt: skip


def runs_sha(line: bytes) -> str:
    """The name of an approval: the sha256 of its line."""
    from hashlib import sha256

    return sha256(line).hexdigest()


def sealed(scene: Scene, status: Status = Status.DONE) -> VerificationReport:
    """Let the run end, and verify it."""
    scene.key("ann")
    scene.run.status, scene.run.ended_at = status, runs.stamp()
    scene.run.save()
    attempt.end(scene.run)
    return verify(scene)


def verify(scene: Scene) -> VerificationReport:
    return standing.report(scene.run.folder.parent, files=True)


def approved_and(tamper: Callable[[Scene], object]) -> Callable[[Scene], None]:
    """What is done to the approval before the change rests on it."""

    def act(scene: Scene) -> None:
        tamper(scene)
        changed(scene)

    return act


def revoked_before(scene: Scene) -> None:
    scene.approve()
    signers.revoke(scene.key("bob").public.fingerprint, datetime.now(UTC) - HOUR)


def dated_back(scene: Scene) -> None:
    """It had expired; the journal says that it was used a day before, when it had not been signed and no run begun."""
    scene.approve(lasts=timedelta(seconds=-1))
    changed(scene, at=datetime.now(UTC) - timedelta(days=1))


def dated_ahead(scene: Scene) -> None:
    scene.approve()
    changed(scene, at=datetime.now(UTC) + timedelta(days=1))


def gone(scene: Scene) -> None:
    scene.approve()
    changed(scene)
    (scene.run.folder / APPROVALS_FILE).unlink()


def of_another_run(scene: Scene) -> None:
    """An approval that lies in the folder, and is for another run."""
    scene.approve(of=replace(scene.subject, run_id="20261130T000000Z-release-shop-0000"))
    changed(scene)


def not_permitted(scene: Scene) -> None:
    """Who has left the permit out."""
    scene.approve()
    scene.run.journal.write(ANCHORED, line=1, for_restore_point=False, **ANCHOR)


def another_plan(scene: Scene) -> None:
    scene.approve(of=replace(scene.subject, of=("cd" * 32,)))
    changed(scene)


NOT_APPROVED: dict[str, tuple[Callable[[Scene], None], str]] = {
    "nobody approved": (changed, "it was permitted without an approval"),
    "no permit": (not_permitted, "it changed shop, and was not permitted to"),
    "expired then": (approved_and(lambda s: s.approve(lasts=timedelta(seconds=-1))), "it expired at"),
    "another digest": (another_plan, f"it is for digest {'cd' * 8}, and this has {'ab' * 8}"),
    "another run": (of_another_run, "it is for run 20261130T000000Z-release-shop-0000"),
    "another database": (
        approved_and(lambda s: s.approve(of=replace(s.subject, database="test"))), "it is for database test of"
    ),
    "by the operator": (approved_and(lambda s: s.approve("ann")), "approves with the key of who makes the change"),
    "by another key of the operator": (
        approved_and(lambda s: s.approve("ann2", "ann@example.org")), "ann@example.org makes the change"
    ),
    "by who asked for it": (approved_and(requested_by_bob), "bob@example.org has requested the change"),
    "by a stranger": (approved_and(stranger), "which signers does not name"),
    "by a key revoked before": (approved_and(revoked_before), "was revoked or expired at"),
    "edited": (approved_and(edited), "it was edited"),
    "unsigned": (approved_and(unsigned), "its signature is of somebody else"),
    "signed by another": (approved_and(by_carol), "its signature is of somebody else"),
    "used before the run": (dated_back, "which is not within its attempt"),
    "used when the run had ended": (dated_ahead, "which is not within its attempt"),
    "the file is gone": (gone, f"is not in {APPROVALS_FILE}"),
    "it names another": (lambda s: (s.approve(), changed(s, approval="0" * 64))[-1], f"is not in {APPROVALS_FILE}"),
}  # fmt: skip


@pytest.mark.parametrize("what", NOT_APPROVED)
def test_a_change_of_a_protected_target_without_a_valid_approval_is_told(scene: Scene, what: str) -> None:
    """By a word of its own and why; nothing else is wrong with the record, and the exit code is 3."""
    act, says = NOT_APPROVED[what]
    act(scene)
    found = sealed(scene)
    assert [(one.part, one.word) for one in found.problems] == [("approval", "not approved")]
    assert says in found.problems[0].says
    assert (found.exit_code, found.runs[0].approval) == (3, "not approved")


def approved(scene: Scene) -> None:
    scene.approve()
    changed(scene)


def expired_since(scene: Scene) -> None:
    """It counted when it was used."""
    lasts = timedelta(seconds=1)
    scene.approve(lasts=lasts)
    changed(scene)
    over = datetime.now(UTC) + lasts
    until(lambda: datetime.now(UTC) > over)


def revoked_since(scene: Scene) -> None:
    scene.approve()
    changed(scene)
    signers.revoke(scene.key("bob").public.fingerprint, datetime.now(UTC) + timedelta(seconds=1))


def finished_later(scene: Scene) -> None:
    """Permitted while it counted, and finished in another attempt when it had expired."""
    scene.approve(lasts=HOUR)
    changed(scene)
    sealed(scene, Status.FAILED)
    attempt.begin(scene.run, protected=True, needs_approval=True)
    line = attempt.standing(scene.run)["seq"]
    scene.run.journal.write(ANCHORED, line=line, for_restore_point=False, **ANCHOR)


def by_resuming_operator(scene: Scene) -> None:
    """Dave has approved, and goes on with the run when it has begun: it was not his change then."""
    scene.approve("dave")
    changed(scene)


@pytest.mark.first_case
@pytest.mark.parametrize("act", [approved, expired_since, revoked_since, finished_later, by_resuming_operator])
def test_a_change_that_was_approved_says_by_whom(scene: Scene, act: Callable[[Scene], None]) -> None:
    """Whatever became of the approval afterwards."""
    act(scene)
    found = sealed(scene)
    who = "dave" if act is by_resuming_operator else "bob"
    assert (found.exit_code, found.problems, found.runs[0].approval) == (0, (), f"by {who}@example.org")


def test_who_changes_nothing_needs_nobody(scene: Scene) -> None:
    """A run that was refused, or has taken a restore point only."""
    scene.run.journal.write(ANCHORED, line=1, for_restore_point=True, **ANCHOR)
    assert sealed(scene).runs[0].approval == "-"


def test_where_nobody_is_asked_verify_says_so(scene: Scene) -> None:
    """A protected target with approval = false: it is the team's choice, and true."""
    sealed(scene)
    attempt.begin(scene.run, protected=True, needs_approval=False)
    scene.run.journal.write(ANCHORED, line=3, for_restore_point=False, **ANCHOR)
    found = sealed(scene)
    assert (found.exit_code, found.runs[0].approval) == (0, "nobody was asked")


def test_without_signers_an_approval_is_not_checked(scene: Scene) -> None:
    """As a signature is."""
    approved(scene)
    sealed(scene)
    signers.path().unlink()
    found = verify(scene)
    assert (found.exit_code, found.runs[0].approval) == (1, "not checked")
    assert {(one.part, one.word) for one in found.problems} >= {("approval", "not checked")}


@pytest.mark.parametrize(("act", "word"), [(approved, "by bob@example.org"), (not_permitted, "not approved")])
def test_of_a_run_that_was_killed_the_journal_is_asked(scene: Scene, act: Callable[[Scene], None], word: str) -> None:
    """It is not sealed, and tells of its change all the same."""
    act(scene)
    assert verify(scene).runs[0].approval == word


def in_an_emergency(scene: Scene) -> VerificationReport:
    emergency.declare(scene.run, WHY)
    changed(scene, reason=WHY)
    return sealed(scene)


def test_an_emergency_is_true_and_loud(scene: Scene, command: Command, tmp_path: Path) -> None:
    """In verify, runs, requests, the run's page and the page of all; red where somebody looks."""
    found = in_an_emergency(scene)
    assert (found.exit_code, found.problems, found.runs[0].approval) == (0, (), "EMERGENCY")
    run_id = scene.run.run_id
    assert loud_in(scene, command) == ["EMERGENCY"] * 5
    (told,) = json.loads(command("requests", "--json")[1])["loud"]
    assert (told["run_id"], told["approval"], told["target"]) == (run_id, "EMERGENCY", "shop")
    assert "1 run changed a protected target" in (tmp_path / "outputs" / "index.html").read_text()


def test_what_nobody_approved_is_as_loud(scene: Scene, command: Command) -> None:
    """Everywhere the same words."""
    not_permitted(scene)
    sealed(scene)
    assert loud_in(scene, command) == ["NOT APPROVED"] * 5


def loud_in(scene: Scene, command: Command) -> list[str]:
    """How a run stands in runs, requests, its page, the page of all, and verify, as capitals."""
    run_id = scene.run.run_id
    listed = next(line for line in command("runs")[1].splitlines() if line.startswith(run_id))
    waits = next(line for line in command("requests")[1].splitlines() if line.endswith("Z") and ": release on" in line)
    page = report.write(runs.load(scene.run.folder)).read_text()
    index = run_index.write(scene.run.folder.parent).read_text()
    data = re.search("<script type='application/json' id='data'>(.*?)</script>", index, re.S)
    said = re.search(r"<header class='bad'><p>([A-Z ]+): shop was changed without the approval", page)
    assert data is not None
    assert said is not None
    (row,) = json.loads(data[1])
    verified = next(one.approval for one in verify(scene).runs)
    found = re.search("headless, ([A-Z ]+?)  ", listed)
    assert found is not None
    return [found[1], waits.partition(":")[0], said[1], str(row[9]).upper(), verified.upper()]


def test_a_run_on_another_target_is_not_asked(scene: Scene) -> None:
    """One that is not protected changes what it may."""
    made = runs.create("release", "other", {}, how="headless")
    attempt.begin(made)
    made.journal.write(ANCHORED, line=2, for_restore_point=False, **ANCHOR)
    made.status = Status.DONE
    made.save()
    attempt.end(made)
    assert [one.approval for one in verify(scene).runs] == ["-", "-"]


def test_an_approval_that_lasts_longer_than_was_signed_is_edited(scene: Scene) -> None:
    """Even by its approver, when the change rested on the line of before."""
    scene.approve(lasts=timedelta(seconds=-1))
    changed(scene)
    scene.rewrite(later, signed_by="bob")
    assert sealed(scene).runs[0].approval == "not approved"
