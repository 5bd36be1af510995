"""What an approval is worth: each way to forge, replay, edit or outlive one, and what is said of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pgrunbook.app.cli_approval import duration
from pgrunbook.errors import Refused, RunbookError, WrongInput
from pgrunbook.record import run as runs
from pgrunbook.record.run import Run, Status
from pgrunbook.seal import approval, attempt, envelope, signers, signing_key
from pgrunbook.seal.approval import APPROVALS_FILE, Approvals, ChangeSubject
from pgrunbook.seal.changes import PERMITTED
from pgrunbook.seal.envelope import Envelope
from pgrunbook.seal.signing_key import SigningKey
from pgrunbook.session import change_request, emergency
from pgrunbook.session.change_request import NEEDED

PLAN = "ab" * 32
HOUR = timedelta(hours=1)


@dataclass
class Scene:
    """A run on a protected target that ann has begun, and the keys of her colleagues."""

    folder: Path
    patch: pytest.MonkeyPatch
    run: Run

    def key(self, name: str, person: str = "") -> SigningKey:
        """Return somebody's key, which is at the keyboard from now on."""
        self.patch.setenv("PGRUNBOOK_KEY", str(self.folder / name))
        if not (self.folder / name).exists():
            signing_key.make(person or f"{name}@example.org")
        found = signing_key.load()
        assert found is not None
        return found

    @property
    def subject(self) -> ChangeSubject:
        """What the run would change."""
        return ChangeSubject(self.run.run_id, "shop", "7123", "shop", (PLAN,))

    def approve(
        self, name: str = "bob", person: str = "", *, of: ChangeSubject | None = None, lasts: timedelta = HOUR
    ) -> None:
        """Let somebody sign an approval, of this run's change or of another."""
        key, now = self.key(name, person), datetime.now(UTC)
        approval.sign(self.run, of or self.subject, key, person or f"{name}@example.org", expires_at=now + lasts)

    def found(self, *, is_begun: bool = False, protected: bool = True) -> Approvals:
        """Whether the change is approved, when ann executes it."""
        ann = self.key("ann").public.fingerprint
        return approval.of(self.run, self.subject, {ann}, protected=protected, is_begun=is_begun)

    def rewrite(self, change: Callable[[dict[str, Any]], None], *, signed_by: str = "") -> None:
        """Write the last approval anew with other content: with its old signature, or with one of somebody's key."""
        path = self.run.folder / APPROVALS_FILE
        *before, line = path.read_bytes().splitlines()
        wrapped = envelope.read(line)
        statement = wrapped.statement()
        change(statement)
        payload = envelope.encoded(statement)
        signatures = wrapped.signatures
        if signed_by:
            signatures = (self.key(signed_by).sign(envelope.signed_bytes(payload)),)
        path.write_bytes(b"\n".join([*before, Envelope(payload, signatures).line()]) + b"\n")


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setenv("PGRUNBOOK_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("PGRUNBOOK_SIGNERS", str(tmp_path / "signers"))
    monkeypatch.setenv("PGRUNBOOK_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("PGRUNBOOK_TARGETS", str(tmp_path / "targets.toml"))
    (tmp_path / "targets.toml").write_text('[shop]\nservice = "shop"\nprotected = true\n')
    found = Scene(tmp_path, monkeypatch, runs.create("release", "shop", {}, how="headless"))
    found.key("ann")
    found.run.journal.write("run-started", run_id=found.run.run_id)
    attempt.begin(found.run, protected=True, needs_approval=True)
    found.run.journal.write("target-met", system_identifier="7123", database="shop")
    found.run.status = Status.REFUSED
    found.run.save()
    return found


def later(statement: dict[str, Any]) -> None:
    """Let an approval count for ten years."""
    statement["predicate"]["expires_at"] = "2036-01-01T00:00:00.000Z"


def of_bob(statement: dict[str, Any]) -> None:
    """Let an approval say that bob has signed it."""
    statement["predicate"]["approver"] = {
        "name": "bob@example.org",
        "fingerprint": next(k for k, one in (signers.load() or {}).items() if one.name == "bob@example.org"),
    }


def by_carol(scene: Scene) -> None:
    """Carol signs what says that bob has signed it."""
    scene.approve()
    scene.rewrite(of_bob, signed_by="carol")


def stranger(scene: Scene) -> None:
    """Somebody signs whom signers does not name any more."""
    scene.approve("mallory")
    kept = [line for line in signers.path().read_text().splitlines() if "mallory" not in line]
    signers.path().write_text("\n".join(kept) + "\n")


def edited(scene: Scene) -> None:
    scene.approve()
    scene.rewrite(later)


def to_come(scene: Scene) -> None:
    scene.approve(lasts=timedelta(days=30))
    moment = runs.stamp(datetime.now(UTC) + timedelta(days=1))
    scene.rewrite(lambda s: s["predicate"].update(signed_at=moment), signed_by="bob")


def revoked(scene: Scene, when: datetime) -> None:
    """Bob's key is bad from a moment on, which has come."""
    scene.approve()
    bad_from = signers.revoke(scene.key("bob").public.fingerprint, when)
    signer = (signers.load() or {})[bad_from.key.fingerprint]
    while not signer.lacks(datetime.now(UTC)):  # a moment is of whole seconds
        time.sleep(0.01)


def replaced(scene: Scene, **facts: Any) -> None:
    scene.approve(of=replace(scene.subject, **facts))


def unsigned(scene: Scene) -> None:
    scene.approve()
    path = scene.run.folder / APPROVALS_FILE
    path.write_bytes(Envelope(envelope.read(path.read_bytes().strip()).payload).line() + b"\n")


def requested_by_bob(scene: Scene) -> None:
    scene.run.about["requested_by"] = "bob@example.org"
    scene.approve()


def no_json(scene: Scene) -> None:
    (scene.run.folder / APPROVALS_FILE).write_text("yes, please\n")


def a_line_of_the_ledger(scene: Scene) -> None:
    """What is signed by a known key, and is no approval."""
    scene.key("bob")
    attempt.begin(scene.run)
    ledger_line = (scene.run.folder.parent / "ledger.jsonl").read_bytes().splitlines()[-1]
    (scene.run.folder / APPROVALS_FILE).write_bytes(ledger_line + b"\n")


OTHER = "20261130T000000Z-release-shop-0000"
FORGED: list[tuple[str, Callable[[Scene], None], str]] = [
    ("another run", lambda s: replaced(s, run_id=OTHER), f"it is for run {OTHER}"),
    ("another target", lambda s: replaced(s, target="test"), "it is for database shop of system 7123 (target test)"),
    ("another server", lambda s: replaced(s, system_identifier="9"), "it is for database shop of system 9"),
    ("another database", lambda s: replaced(s, database="test"), "it is for database test of system 7123"),
    ("another plan", lambda s: replaced(s, of=("cd" * 32,)), f"it is for digest {'cd' * 8}, and this has {'ab' * 8}"),
    ("a part of it", lambda s: replaced(s, of=("rows in conflict: restore",)), "it is for digest"),
    ("edited", edited, "its signature is not the one of bob@example.org over what it says: it was edited"),
    ("unsigned", unsigned, "its signature is of somebody else"),
    ("signed by another", by_carol, "its signature is of somebody else"),
    ("a stranger", stranger, "which signers does not name"),
    ("no approval", no_json, "it cannot be read"),
    ("another statement", a_line_of_the_ledger, "it cannot be read"),
    ("by the operator", lambda s: s.approve("ann"), "ann@example.org approves with the key of who makes the change"),
    ("by another key of hers", lambda s: s.approve("ann2", "ann@example.org"), "ann@example.org makes the change"),
    ("by who asked for it", requested_by_bob, "bob@example.org has requested the change"),
    ("of a key revoked before", lambda s: revoked(s, datetime.now(UTC) - HOUR), "was revoked or expired at"),
    ("to come", to_come, "which is to come"),
]
LAPSED: list[tuple[str, Callable[[Scene], None], str]] = [
    ("expired", lambda s: s.approve(lasts=timedelta(seconds=-1)), "it expired at"),
    ("of a key revoked since", lambda s: revoked(s, datetime.now(UTC)), "was revoked or expired at"),
]


@pytest.mark.parametrize(("forge", "says"), [pytest.param(f, t, id=n) for n, f, t in FORGED + LAPSED])
def test_an_approval_that_does_not_count_says_why(scene: Scene, forge: Callable[[Scene], None], says: str) -> None:
    """A good one behind it is enough."""
    forge(scene)
    found = scene.found()
    assert found.counts is None
    assert says in found.why
    scene.approve("dave")
    counting = scene.found()
    assert counting.counts is not None
    assert (counting.counts.approver, counting.why) == ("dave@example.org", "")


@pytest.mark.first_case
@pytest.mark.parametrize(("forge", "says"), [pytest.param(f, t, id=n) for n, f, t in FORGED])
def test_what_was_never_good_finishes_nothing(scene: Scene, forge: Callable[[Scene], None], says: str) -> None:
    """A change that has begun needs an approval that counted once."""
    forge(scene)
    found = scene.found(is_begun=True)
    assert found.counts is None
    assert says in found.why


@pytest.mark.parametrize("lapse", [pytest.param(f, id=n) for n, f, _ in LAPSED])
def test_what_has_begun_may_be_finished(scene: Scene, lapse: Callable[[Scene], None]) -> None:
    """Neither an expiry nor a key that was revoked since leaves half of a change behind."""
    lapse(scene)
    assert scene.found(is_begun=True).counts is not None


def test_who_approves_several_things_approves_each(scene: Scene) -> None:
    """Not the other way: two things need an approval of both; nor does a digest of something else pass."""
    both = replace(scene.subject, of=("column a", "column b"))
    scene.approve(of=both)
    ann = {scene.key("ann").public.fingerprint}
    for of, counts in ((("column b",), True), (("column b", "column c"), False), (("column a", "column b"), True)):
        found = approval.of(scene.run, replace(both, of=of), ann, protected=True)
        assert (found.counts is not None) is counts
    scene.rewrite(lambda s: s["subject"][0]["digest"].update(sha256=PLAN), signed_by="bob")
    assert approval.of(scene.run, both, ann, protected=True).why.startswith("it is for digest")


def test_the_first_of_two_approvers_is_enough(scene: Scene) -> None:
    """The second one's expired."""
    scene.approve("bob")
    scene.approve("carol", lasts=timedelta(seconds=-1))
    found = scene.found()
    assert found.counts is not None
    assert found.counts.approver == "bob@example.org"


def test_where_a_target_is_not_protected_the_operator_may_approve(scene: Scene) -> None:
    """With a key that signers names; a stranger may not."""
    scene.approve("ann")
    assert scene.found(protected=False).counts is not None
    stranger(scene)
    lines = (scene.run.folder / APPROVALS_FILE).read_bytes().splitlines()
    (scene.run.folder / APPROVALS_FILE).write_bytes(lines[-1] + b"\n")
    assert scene.found(protected=False).counts is None


def test_a_line_that_a_crash_cut_off_keeps_nobody_from_approving(scene: Scene) -> None:
    """The next one begins a line of its own."""
    scene.approve("bob", lasts=timedelta(seconds=-1))
    path = scene.run.folder / APPROVALS_FILE
    path.write_bytes(path.read_bytes()[:-40])
    assert "it cannot be read" in scene.found().why
    scene.approve("carol")
    assert scene.found().counts is not None


def refused(scene: Scene, kind: type[RunbookError] = Refused) -> list[str]:
    """What approving the run says."""
    with pytest.raises(kind) as caught:
        change_request.approve(change_request.to_approve(scene.run.run_id), lasts=HOUR)
    assert not (scene.run.folder / APPROVALS_FILE).exists()
    return caught.value.lines()


def ask(scene: Scene) -> None:
    """Let the run be refused for want of an approval."""
    scene.run.journal.write("procedure-started", procedure="purge", run_id=scene.run.run_id)
    scene.run.journal.write(
        NEEDED,
        procedure="purge",
        cell="purge-it",
        of=["item 7"],
        digest="",
        why="",
        system_identifier="7123",
        database="shop",
    )


def test_what_asks_for_nothing_is_not_approved(scene: Scene) -> None:
    """Neither a run without a plan, nor one on a target without approval, nor one that is done."""
    run_id = scene.run.run_id
    scene.key("bob")
    assert refused(scene, WrongInput) == [
        f"run {run_id} has nothing to approve",
        "Detail: It has frozen no plan, and nothing of it was refused for want of an approval.",
        "State: Nothing changed in the database.",
        "Hint: Run prepare first: it makes the plan.",
    ]
    ask(scene)
    scene.run.status = Status.DONE
    scene.run.save()
    assert refused(scene) == [
        f"run {run_id} is done",
        "Detail: An approval counts before something is executed.",
        "State: Nothing changed in the database or in the record.",
        f"Hint: See what was approved and done: pgrunbook show {run_id}",
    ]
    (scene.folder / "targets.toml").write_text('[shop]\nservice = "shop"\n')
    assert refused(scene, WrongInput)[0] == 'target "shop" asks for no approval'


def test_nobody_approves_what_is_being_executed(scene: Scene) -> None:
    """Once it has ended, and goes on, an approval counts again."""
    ask(scene)
    scene.run.journal.write(
        PERMITTED, procedure="purge", cell="purge-it", of=["item 7"], approval="", by="", emergency=""
    )
    scene.key("bob")
    scene.run.hold()
    assert refused(scene)[0] == f"run {scene.run.run_id} is executing what would be approved"
    scene.run.release()
    assert change_request.approve(change_request.to_approve(scene.run.run_id), lasts=HOUR).approver == "bob@example.org"


def test_an_approver_is_known_and_somebody_else(scene: Scene) -> None:
    """Who has no key, one that signers does not name, or that of the operator, is told what to do."""
    run_id = scene.run.run_id
    ask(scene)
    assert refused(scene) == [
        'target "shop" is protected: somebody else approves a change than who makes it',
        "Detail: ann@example.org approves with the key of who makes the change.",
        "State: Nothing changed in the database or in the record.",
        f"Hint: Have somebody else type: pgrunbook approve {run_id}",
    ]
    scene.key("eve")
    signers.path().write_text("".join(x for x in signers.path().read_text().splitlines(True) if "eve" not in x))
    said = refused(scene)
    assert said[0] == "an approval is signed by somebody who is known"
    assert said[1].endswith(f"does not name {scene.key('eve').public.fingerprint}.")
    scene.patch.delenv("PGRUNBOOK_KEY")
    assert refused(scene)[3] == "Hint: Make one: pgrunbook key new NAME."


def test_an_approval_is_in_the_journal_and_in_the_ledger(scene: Scene) -> None:
    """Of a run that was sealed it opens an attempt of its own; who began the run stays its operator."""
    ask(scene)
    attempt.end(scene.run)
    scene.key("bob")
    signed = change_request.approve(change_request.to_approve(scene.run.run_id), lasts=HOUR, reason="read")
    assert not attempt.is_open(scene.run)
    assert change_request.operators(scene.run) == {scene.key("ann").public.fingerprint}
    last = json.loads(
        envelope.read((scene.run.folder.parent / "ledger.jsonl").read_bytes().splitlines()[-1]).payload
    )  # fmt: skip
    said = last["predicate"]["approval"]
    assert (said["by"], said["reason"], said["sha256"], said["used"]) == (
        "bob@example.org",
        "read",
        signed.sha256,
        False,
    )
    assert APPROVALS_FILE in [one["name"] for one in last["subject"]]


@pytest.mark.parametrize("text", ["", "24", "h", "0h", "-1h", "31d", "1.5h", "24 h", "1h30m", "99999h"])
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    """With an example."""
    with pytest.raises(WrongInput) as caught:
        duration(text, "--expires")
    assert caught.value.lines() == [
        f'--expires "{text}" is no length of time',
        "Detail: It is a number with s, m, h or d, up to 30 days.",
        "State: Nothing changed in the database.",
        "Hint: For example: --expires 24h.",
    ]


def test_lengths_of_time() -> None:
    """Seconds, minutes, hours, days."""
    assert [duration(text, "") for text in ("45s", "30m", "24h", "30d")] == [
        timedelta(seconds=45), timedelta(minutes=30), timedelta(hours=24), timedelta(days=30),
    ]  # fmt: skip


@pytest.mark.parametrize("reason", ["now", "it burns", "  x   y "])
def test_an_emergency_needs_a_reason(reason: str) -> None:
    """Three words at least."""
    with pytest.raises(WrongInput) as caught:
        emergency.check(reason)
    assert caught.value.lines() == [
        "an emergency needs a reason",
        f'Detail: "{reason}" has {len(reason.split())} of the 3 words that it takes at least.',
        "State: Nothing was started; nothing changed in the database.",
        'Hint: Say what happens, for example: --emergency "orders fail since 14:02, INC-77".',
    ]
