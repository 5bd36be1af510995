"""Verify: whatever somebody does to the records of runs, it says what, and where."""

from __future__ import annotations

import copy
import json
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from pgrunbook.errors import RecordFailed, Refused, WrongInput
from pgrunbook.record import run as runs
from pgrunbook.record.run import Part, Run, Status
from pgrunbook.seal import attempt, envelope, ledger, signers, signing_key, standing
from pgrunbook.seal.envelope import Envelope
from pgrunbook.seal.signing_key import SigningKey
from pgrunbook.seal.standing import VerificationReport

Command = Callable[..., tuple[int, str, str]]


@dataclass
class Records:
    """Sealed runs: ``one`` and ``three`` in an attempt each, ``two`` in two; ``open`` was killed."""

    outputs: Path
    runs: dict[str, Run]
    key: SigningKey

    @property
    def ledger(self) -> Path:
        """Where the ledger lies."""
        return ledger.path(self.outputs)

    @property
    def lines(self) -> list[bytes]:
        """Its lines."""
        return self.ledger.read_bytes().splitlines()

    def write(self, lines: list[bytes]) -> None:
        """Write the ledger anew."""
        self.ledger.write_bytes(b"".join(line + b"\n" for line in lines))

    def folder(self, name: str) -> Path:
        """The folder of a run."""
        return self.runs[name].folder

    def verify(self, *, files: bool = True) -> VerificationReport:
        """Verify them."""
        return standing.report(self.outputs, files=files)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records that are true, to be copied."""
    folder = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        led_to(folder, patch)
        signing_key.make("ann@example.org")
        for name in ("one", "two", "three", "open"):
            made = begun(name)
            if name != "open":
                ended(made)
            if name == "two":
                attempt.begin(made)
                keep_earlier(made)
                ended(made)
    return folder


@pytest.fixture
def records(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Records:
    """A copy of them."""
    folder = tmp_path / "records"
    shutil.copytree(kept, folder)
    led_to(folder, monkeypatch)
    key = signing_key.load()
    assert key is not None
    made = [runs.load(one) for one in runs.folders()]
    return Records(folder / "outputs", {one.runbook: one for one in made}, key)


def led_to(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Have runs, keys and signers in a folder."""
    for name in ("outputs", "state", "signers"):
        patch.setenv(f"PGRUNBOOK_{name.upper()}", str(folder / name))
    patch.delenv("PGRUNBOOK_KEY", raising=False)


def keep_earlier(made: Run) -> None:
    """Keep the notebook of an earlier attempt, as a runner does."""
    (made.folder / "01-prepare.ipynb").rename(made.folder / "01-prepare.attempt-1.ipynb")


def begun(name: str) -> Run:
    """A run that has begun, as a runner does."""
    made = runs.create(name, "demo", {}, how="headless")
    made.journal.write("run-started", run_id=made.run_id, operator=made.operator)
    attempt.begin(made)
    return made


def ended(made: Run) -> None:
    """A run that has ended, and is sealed."""
    made.parts = [Part("prepare", "01-prepare.ipynb", Status.DONE)]
    made.keep("statements.csv", "a,b\n1,2\n")
    made.keep("01-prepare.ipynb", json.dumps({"cells": [], "metadata": {"at": runs.stamp()}}))
    made.journal.write("verdict", procedure="prepare", says="done")
    made.status, made.ended_at = Status.DONE, runs.stamp()
    made.save()
    attempt.end(made)


def test_records_that_are_true(records: Records) -> None:
    """The lines of each run, whose they are, and that they agree; the run that was killed stays open."""
    found = records.verify()
    assert (found.exit_code, found.is_true, found.problems, found.notes) == (0, True, (), ())
    told = [(one.runbook, one.outcome, one.attempts, one.first_line, one.last_line) for one in found.runs]
    assert told == [
        ("one", "done", 1, 1, 2),
        ("two", "done", 2, 3, 6),
        ("three", "done", 1, 7, 8),
        ("open", "open", 1, 9, 9),
    ]
    assert {(one.chain, one.signature, one.files, one.anchor) for one in found.runs} == {
        ("holds", "ann@example.org", "as sealed", "not looked at")
    }
    assert [one.faithful for one in found.runs] == ["yes", "yes", "yes", "-"]


class KilledError(BaseException):
    """Stands for a process that is killed: nothing that follows is done."""


@pytest.mark.first_case
@pytest.mark.parametrize("call", range(1, 7))
def test_records_of_a_run_that_was_killed_behind_a_line_of_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """Of any of its lines, opened or closed: it goes on, or is sealed by the command, and its lines fit together."""
    led_to(tmp_path, monkeypatch)
    append, calls = ledger.append, 0

    def killed(*arguments: Any) -> Any:
        nonlocal calls
        calls, line = calls + 1, append(*arguments)
        if calls == call:
            raise KilledError
        return line

    monkeypatch.setattr(ledger, "append", killed)
    made = runs.create("killed", "demo", {}, how="headless")
    made.journal.write("run-started", run_id=made.run_id)
    for _ in range(3):
        with suppress(KilledError):
            attempt.begin(made)
            if (made.folder / "01-prepare.ipynb").exists():
                runs.keep_attempt(made.folder / "01-prepare.ipynb")
            ended(made)
        told = {one.outcome for one in standing.report(tmp_path / "outputs", files=True).runs}
        assert told == {"open" if attempt.is_open(made) else "done"}
        if attempt.is_open(made) and call % 2:
            attempt.end(made)
    assert standing.report(tmp_path / "outputs", files=True).problems == ()
    assert not attempt.is_open(made)


def edited(file: str, run: str = "one") -> Callable[[Records], None]:
    def tamper(records: Records) -> None:
        path = records.folder(run) / file
        path.write_bytes(path.read_bytes().replace(b"1", b"7", 1))

    return tamper


def with_lines(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Records], None]:
    return lambda records: records.write(change(records.lines))


def changed(line: bytes, key: SigningKey | None = None, **facts: object) -> bytes:
    """The line with other facts: with its old signature, or signed anew."""
    before = envelope.read(line)
    statement = before.statement()
    statement["predicate"].update(facts)
    payload = envelope.encoded(statement)
    signatures = (key.sign(envelope.signed_bytes(payload)),) if key else before.signatures
    return Envelope(payload, signatures).line()


def unsigned(line: bytes, **facts: object) -> bytes:
    """The line with other facts and without a signature."""
    return Envelope(envelope.read(changed(line, **facts)).payload).line()


def digest_of(line: bytes) -> str:
    return sha256(line).hexdigest()


def chained_anew(lines: list[bytes], change: Callable[[bytes, str], bytes]) -> list[bytes]:
    """All lines with the hash of the line before, as somebody writes them who knows how."""
    done: list[bytes] = []
    for line in lines:
        done.append(change(line, sha256(done[-1]).hexdigest() if done else ""))
    return done


def mallory(records: Records) -> SigningKey:
    """The key of somebody whom signers does not name."""
    path = records.outputs.parent / "mallory"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGRUNBOOK_KEY", str(path))
        found = signing_key.load()
    assert found is not None
    return found


def signed_by_mallory(records: Records) -> None:
    key = mallory(records)
    signer = {"fingerprint": key.public.fingerprint, "key": key.public.text}
    records.write(chained_anew(records.lines, lambda line, prev: changed(line, key, prev=prev, signer=signer)))


def signed_as_ann_by_mallory(records: Records) -> None:
    key = mallory(records)
    lines = records.lines
    fake = envelope.read(changed(lines[7], key, outcome="failed"))
    signature = envelope.Signature(records.key.public.fingerprint, fake.signatures[0].value)
    records.write([*lines[:7], Envelope(fake.payload, (signature,)).line(), *lines[8:]])


def journal_line_deleted(records: Records) -> None:
    path = records.folder("one") / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2] + lines[-1:]))


def journal_written_anew(records: Records) -> None:
    """With right numbers and a right chain of its own."""
    path = records.folder("one") / "journal.jsonl"
    events = [json.loads(line) for line in path.read_bytes().splitlines()]
    before, lines = "", []
    for event in events:
        event.update(prev=before, **({"operator": "eve"} if "operator" in event else {}))
        lines.append(json.dumps(event, separators=(",", ":")).encode())
        before = sha256(lines[-1]).hexdigest()
    path.write_bytes(b"".join(line + b"\n" for line in lines))


def operator_renamed(records: Records) -> None:
    path = records.folder("one") / "run.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "operator": "eve"}, indent=1, ensure_ascii=False) + "\n")


def folders_swapped(records: Records) -> None:
    one, three = records.folder("one"), records.folder("three")
    one.rename(one.with_name("aside"))
    three.rename(one)
    one.with_name("aside").rename(three)


def removed(name: str, run: str = "one") -> Callable[[Records], None]:
    return lambda records: (records.folder(run) / name).unlink()


def unreadable_in_place(records: Records) -> None:
    path = records.folder("one") / "statements.csv"
    path.unlink()
    path.symlink_to("/dev/zero")


def run_put_there(records: Records) -> None:
    """A run whose lines are cut off: its journal names them."""
    lines = records.lines
    ended(begun("late"))
    records.write(lines)


def ran_at(index: int, moment: str) -> Callable[[Records], None]:
    """The owner of the key moves the time of a line."""

    def tamper(records: Records) -> None:
        lines = records.lines
        later = chained_anew(
            lines,
            lambda line, prev: changed(
                line, records.key, prev=prev, **({"at": moment} if line is lines[index] else {})
            ),
        )
        records.write(later)

    return tamper


def revoked_yesterday(records: Records) -> None:
    signers.revoke(records.key.public.fingerprint, datetime.now(UTC) - timedelta(days=1))


def revoked_and_dated_back(records: Records) -> None:
    """The last line says that it is older than the revocation; the lines before it are of ann's good days."""
    lines = records.lines
    signers.revoke(records.key.public.fingerprint, datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=1))
    later = (datetime.now(UTC) + timedelta(days=2)).isoformat()
    fake = changed(lines[8], at=later)
    before = changed(lines[7], records.key, at=later)
    records.write([*lines[:7], before, changed(fake, records.key, prev=sha256(before).hexdigest(), at=runs.stamp())])


TAMPERINGS: dict[str, tuple[Callable[[Records], Any], list[tuple[str, str, str]]]] = {
    # what is done, and what has to be found: part, word, and the run it is found in ("" for none)
    "an output is edited": (edited("statements.csv"), [("files", "altered", "one")]),
    "a notebook is edited": (edited("01-prepare.ipynb"), [("files", "altered", "one")]),
    "an earlier attempt's notebook is edited": (
        edited("01-prepare.attempt-1.ipynb", "two"), [("files", "altered", "two")]
    ),
    "run.json: the operator is renamed": (operator_renamed, [("files", "altered", "one")]),
    "a journal line is edited": (edited("journal.jsonl"), [("files", "altered", "one")]),
    "a journal line is deleted": (journal_line_deleted, [("files", "truncated", "one")]),
    "the journal of a killed run is edited": (edited("journal.jsonl", "open"), [("files", "altered", "open")]),
    "the journal is written anew, and right in itself": (journal_written_anew, [("files", "altered", "one")]),
    "the journal goes on after the seal": (
        lambda r: r.runs["one"].journal.write("step-ran", migration="x"), [("files", "added", "one")]
    ),
    "the journal is gone": (removed("journal.jsonl"), [("files", "missing", "one")]),
    "a file is gone": (removed("statements.csv"), [("files", "missing", "one")]),
    "a file is put there": (
        lambda r: (r.folder("one") / "approval.csv").write_text("yes"), [("files", "added", "one")]
    ),
    "a file is replaced by a device": (unreadable_in_place, [("files", "altered", "one")]),
    "a run's folder is gone": (lambda r: shutil.rmtree(r.folder("two")), [("files", "missing", "two")]),
    "two runs' folders are swapped": (folders_swapped, [("files", "altered", "one"), ("files", "altered", "three")]),
    "a line is edited: the operator is renamed": (
        with_lines(lambda x: [*x[:1], changed(x[1], operator={"environment_says": "eve"}), *x[2:]]),
        [("signature", "forged", "one"), ("chain", "altered", "one")],
    ),
    "the last line is edited": (
        with_lines(lambda x: [*x[:8], changed(x[8], runbook="other")]), [("signature", "forged", "open")]
    ),
    "the digest of a file is edited in the seal": (
        with_lines(lambda x: [*x[:1], x[1].replace(b'"payload":"ey', b'"payload":"eg'), *x[2:]]),
        [("chain", "altered", "")],
    ),
    "a line is signed by somebody else": (signed_by_mallory, [("signature", "forged", "one")]),
    "a line is signed by somebody else in ann's name": (signed_as_ann_by_mallory, [("signature", "forged", "three")]),
    "a signature is taken away": (
        with_lines(lambda x: [*x[:8], unsigned(x[8])]), [("signature", "forged", "open")]
    ),
    "a line is made an unsigned one": (
        with_lines(lambda x: [*x[:7], unsigned(x[7], signer=None), *x[8:]]), [("chain", "altered", "three")]
    ),
    "a line of a protected target is unsigned": (
        with_lines(lambda x: [*x[:8], unsigned(x[8], signer=None, target={"name": "prod", "protected": True})]),
        [("signature", "forged", "open")],
    ),
    "a line is deleted": (with_lines(lambda x: x[:3] + x[4:]), [("chain", "missing", "two")]),
    "the first line is deleted": (with_lines(lambda x: x[1:]), [("chain", "missing", "one")]),
    "a run is deleted, with its folder": (
        lambda r: (r.write(r.lines[:2] + r.lines[6:]), shutil.rmtree(r.folder("two"))), [("chain", "missing", "three")]
    ),
    "the tail is cut": (with_lines(lambda x: x[:6]), [("chain", "truncated", "three"), ("chain", "truncated", "open")]),
    "a run's lines are cut before it was written to the end": (run_put_there, [("chain", "truncated", "")]),
    "two runs are swapped": (
        with_lines(lambda x: x[:2] + x[6:8] + x[2:6] + x[8:]),
        [("chain", "reordered", "three"), ("chain", "reordered", "two")],
    ),
    "two lines of a run are swapped": (with_lines(lambda x: [x[1], x[0], *x[2:]]), [("chain", "reordered", "one")]),
    "a line is replayed": (with_lines(lambda x: [*x, x[1]]), [("chain", "replayed", "one")]),
    "a line of another ledger is put in": (
        lambda r: r.write([*r.lines, changed(r.lines[8], r.key, ledger="x", seq=10, prev=digest_of(r.lines[8]))]),
        [("chain", "forged", "open")],
    ),
    "rubbish is put in": (with_lines(lambda x: [*x[:4], b"rubbish", *x[4:]]), [("chain", "altered", "")]),
    "the last line is cut in half": (
        lambda r: r.ledger.write_bytes(r.ledger.read_bytes()[:-300]),
        [("chain", "truncated", ""), ("chain", "truncated", "open")],
    ),
    "a line says that it continues another run's": (
        with_lines(lambda x: [*x[:8], changed(x[8], continues=8)]),
        [("signature", "forged", "open"), ("chain", "missing", "open")],
    ),
    "a key is revoked from before the run on": (revoked_yesterday, [("signature", "revoked", "one")]),
    "a revoked key signs and dates it back": (revoked_and_dated_back, [("signature", "revoked", "open")]),
    "a line has no time": (ran_at(8, "yesterday"), [("signature", "forged", "open")]),
    "signers forgets ann": (
        lambda _: signers.path().write_text("# nobody\n"), [("signature", "forged", "one")]
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", TAMPERINGS)
def test_a_tampering_is_found_and_said_where(records: Records, what: str) -> None:
    """Each of these, with its place; and the exit code is that of what is altered."""
    tamper, expected = TAMPERINGS[what]
    tamper(records)
    found = records.verify()
    names = {run.run_id: name for name, run in records.runs.items()}
    told = {(one.part, one.word, names.get(one.run, "")) for one in found.problems}
    assert set(expected) <= told, found.problems
    assert (found.exit_code, found.is_true) == (3, False)
    assert all(one.says for one in found.problems)


def places(part: object, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Each place in a statement."""
    if at:
        yield at
    some = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    for key, one in some:
        yield from places(one, (*at, key))


def otherwise(statement: object, at: tuple[str | int, ...]) -> Iterator[object]:
    """The statement with something else at a place: nothing, another name, and a value of each other type."""
    for value in ("GONE", "RENAMED", None, "", "x", -1, 2**70, 1.5, True, [], {}, [1], {"a": 1}):
        made: Any = copy.deepcopy(statement)
        within = made
        for key in at[:-1]:
            within = within[key]
        was = within[at[-1]]
        if value in ("GONE", "RENAMED"):
            del within[at[-1]]
        if value == "RENAMED" and isinstance(within, dict):
            within[f"{at[-1]}x"] = was
        elif value not in ("GONE", "RENAMED"):
            within[at[-1]] = value
        if made != statement:
            yield made


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1, 4, 8])
def test_a_line_that_says_something_else_is_told_and_never_a_traceback(records: Records, number: int) -> None:
    """At each place of it."""
    whole, failed = records.lines, list[str]()
    before = envelope.read(whole[number])
    for at in places(before.statement()):
        for made in otherwise(before.statement(), at):
            line = Envelope(envelope.encoded(made), before.signatures).line()
            records.write([*whole[:number], line, *whole[number + 1 :]])
            try:
                if records.verify().exit_code != 3:
                    failed.append(f"{at}: true")
            except WrongInput:
                continue
            except Exception as exc:
                failed.append(f"{at}: {exc!r}")
    assert not failed


def test_the_list_of_tamperings_is_long_enough() -> None:
    """At least twenty-five; the database's own are in test_anchors."""
    assert len(TAMPERINGS) >= 25


def test_what_is_untouched_is_not_accused(records: Records) -> None:
    """One run's tampering is told of that run only."""
    edited("statements.csv")(records)
    (problem,) = records.verify().problems
    assert (problem.run, problem.line) == (records.runs["one"].run_id, 2)
    assert problem.says == "statements.csv is not as it was sealed"
    assert records.verify(files=False).problems == ()  # nobody looked at files


def test_without_signers_a_signature_is_not_checked(records: Records) -> None:
    """That is neither true nor altered."""
    signers.path().unlink()
    found = records.verify()
    assert (found.exit_code, {one.word for one in found.problems}) == (1, {"not checked"})
    edited("statements.csv")(records)
    assert records.verify().exit_code == 3


def test_a_key_that_is_revoked_from_now_on_leaves_what_it_signed(records: Records) -> None:
    """Older signatures stay good; newer ones are not."""
    signers.revoke(records.key.public.fingerprint, datetime.now(UTC))
    found = records.verify()
    assert (found.exit_code, found.problems) == (0, ())
    (signer,) = (signers.load() or {}).values()
    assert signer.lacks(datetime.now(UTC) + timedelta(seconds=1)).startswith("the key of ann@example.org was revoked")


def test_unsigned_runs_are_said_to_be_unsigned(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are true all the same; a protected target refuses them before anything begins."""
    monkeypatch.setenv("PGRUNBOOK_STATE", str(records.outputs.parent / "elsewhere"))
    ended(begun("late"))
    found = records.verify()
    assert (found.exit_code, found.runs[-1].signature) == (0, "unsigned")
    with pytest.raises(Refused, match='target "prod" is protected'):
        attempt.refuse_unsigned("prod", protected=True)


def test_a_protected_target_takes_a_key_that_signers_names(records: Records) -> None:
    """A key that nobody vouches for is as good as none."""
    attempt.refuse_unsigned("prod", protected=True)
    signers.path().write_text("")
    with pytest.raises(Refused) as caught:
        attempt.refuse_unsigned("prod", protected=True)
    assert records.key.public.fingerprint in caught.value.detail
    assert caught.value.state == "Nothing was started; nothing changed in the database."


def test_a_crash_while_the_ledger_was_written_is_told(records: Records) -> None:
    """The next line says so; a piece that nobody tells of is altered."""
    with records.ledger.open("ab") as file:
        file.write(b'{"payload":"')
    ended(begun("late"))
    found = records.verify()
    assert (found.exit_code, found.problems) == (0, ())
    assert found.notes == ("line 11 follows a line that was cut off by a crash (12 bytes)",)
    records.ledger.write_bytes(records.ledger.read_bytes().replace(b'{"payload":"\n', b""))
    assert [one.word for one in records.verify().problems] == ["missing"]


def test_a_clock_that_jumps_is_told_and_nothing_else(records: Records) -> None:
    """It went forward before the third line, and back after it."""
    ran_at(2, "2035-01-01T00:00:00.000000Z")(records)
    found = records.verify()
    assert (found.exit_code, found.problems) == (0, ())
    assert any(note.startswith("the clock went back before line 4") for note in found.notes)


def test_records_that_are_copied_elsewhere_are_as_true_there(records: Records, tmp_path: Path) -> None:
    """All of them, with the ledger; a folder alone under another name is no run."""
    shutil.copytree(records.outputs, tmp_path / "copy")
    found = standing.report(tmp_path / "copy", files=True)
    assert (found.exit_code, len(found.runs)) == (0, 4)
    shutil.copytree(records.folder("one"), records.outputs / f"{records.folder('one').name[:-4]}ffff")
    (problem,) = records.verify().problems
    assert (problem.word, problem.says) == ("truncated", "its journal names a line of the ledger, which has none of it")


def test_where_there_is_no_ledger_nothing_could_be_checked(tmp_path: Path) -> None:
    """That is no answer."""
    with pytest.raises(WrongInput, match=r"could not read ledger\.jsonl"):
        standing.report(tmp_path)


def test_the_command_says_it_in_a_table_and_in_json(records: Records, command: Command) -> None:
    """Exit codes 0, 3 and 1; --files looks at files."""
    code, out, _ = command("verify", "--files")
    assert (code, out.splitlines()[-1]) == (0, "true: 4 runs, 9 lines of the ledger")
    assert "ann@example.org" in out
    edited("statements.csv")(records)
    assert command("verify")[0] == 0
    code, out, _ = command("verify", str(records.outputs), "--files")
    assert code == 3
    assert f"ALTERED: statements.csv is not as it was sealed ({records.runs['one'].run_id})" in out
    assert out.splitlines()[-1] == "NOT TRUE: 4 runs, 9 lines of the ledger"
    code, out, _ = command("verify", "--files", "--json")
    told = json.loads(out)
    assert (code, told["is_true"], told["exit_code"], len(told["runs"])) == (3, False, 3, 4)
    assert told["problems"][0]["word"] == "altered"
    records.ledger.unlink()
    code, _, err = command("verify")
    assert (code, err.splitlines()[0]) == (1, "could not read ledger.jsonl")


def test_a_run_that_is_at_work_is_said_to_be(records: Records) -> None:
    """As long as a process holds its folder."""
    records.runs["open"].hold()
    try:
        assert records.verify().runs[-1].outcome == "at work"
    finally:
        records.runs["open"].release()
    assert records.verify().runs[-1].outcome == "open"


def test_an_earlier_attempts_notebook_that_is_overwritten_is_found(records: Records) -> None:
    """Each attempt's own stays."""
    attempt.begin(records.runs["one"])
    ended(records.runs["one"])
    (problem,) = records.verify().problems
    assert (problem.word, problem.line) == ("altered", 2)
    assert problem.says == "01-prepare.ipynb of the attempt that line 2 seals is not there as it was"


@pytest.mark.parametrize("name", ["one", "open"])
@pytest.mark.parametrize("tamper", [journal_written_anew, journal_line_deleted])
def test_a_run_whose_journal_was_changed_is_not_gone_on_with(
    records: Records, name: str, tamper: Callable[[Records], None]
) -> None:
    """Sealed or killed: what its last line says of the journal has to be so, also where that is right in itself."""
    other = Records(records.outputs, {"one": records.runs[name]}, records.key)
    tamper(other)
    with pytest.raises(WrongInput) as caught:
        attempt.begin(records.runs[name])
    assert "is not as it was when line" in caught.value.message


def test_what_a_folder_remembers_of_its_line_may_be_lost(records: Records) -> None:
    """The ledger knows it: the run goes on as it would have."""
    (records.folder("one") / attempt.MARK_FILE).unlink()
    attempt.begin(records.runs["one"])
    keep_earlier(records.runs["one"])
    ended(records.runs["one"])
    found = records.verify()
    assert (found.exit_code, found.problems, found.runs[0].attempts) == (0, (), 2)


def test_a_run_that_was_killed_is_sealed_by_command(records: Records, command: Command) -> None:
    """What the crash left is what is sealed; a second time is refused."""
    run_id = records.runs["open"].run_id
    code, out, _ = command("seal", run_id)
    assert (code, out) == (0, f"sealed: {run_id}, line 10, {records.key.public.fingerprint}\n")
    found = records.verify()
    assert (found.exit_code, found.runs[-1].outcome) == (0, "running")
    code, _, err = command("seal", run_id)
    assert (code, err.splitlines()[0]) == (3, f"run {run_id} has no open attempt to seal")


SECRETS = {
    "statements.csv": "a,b\n1,password=hunter2-and-more\n",
    "told.json": '{"api_key": "k9Xq2LmZ81vTq0Rr7YpB"}',
    "plan.sql": "-- ok\nCREATE ROLE x PASSWORD 'hunter2-and-more';\n",
    "notes.txt": "it said s3cr3t-of-the-environment\n",
    "01-prepare.ipynb": json.dumps({"cells": [{"cell_type": "code", "source": ["print(1)"], "metadata": {}, "outputs": [
        {"output_type": "stream", "name": "stdout", "text": ["ok\n", "postgres://joe:hunter2-and-more@db/x\n"]}]}]}),
}  # fmt: skip


@pytest.mark.first_case
@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_in_a_file_keeps_the_run_from_being_sealed(
    records: Records, command: Command, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Its place is told, and never the secret; masked on request, and that is recorded."""
    monkeypatch.setenv("BILLING_API_KEY", "s3cr3t-of-the-environment")
    made = begun("late")
    (made.folder / name).write_text(SECRETS[name])
    made.status = Status.DONE
    made.save()
    with pytest.raises(Refused) as caught:
        attempt.end(made)
    assert caught.value.message == f"the record of run {made.run_id} holds secrets, and is not sealed"
    assert caught.value.detail.startswith(f"{name}:")
    assert not [word for word in ("hunter2", "k9Xq2", "s3cr3t") if word in str(caught.value)]
    assert command("seal", made.run_id)[0] == 3
    code, out, _ = command("seal", made.run_id, "--redact")
    assert code == 0
    assert out.startswith(f"masked: {name}:")
    text = "".join(path.read_text() for path in made.folder.iterdir() if path.is_file())
    assert not [word for word in ("hunter2", "k9Xq2", "s3cr3t") if word in text]
    assert '"event":"redacted"' in text
    assert records.verify().exit_code == 0


def test_a_secret_in_the_journal_is_masked_and_the_journal_chained_anew(
    records: Records, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It went through the door before anybody knew that it was one."""
    made = begun("late")
    made.journal.write("told", word="s3cr3t-of-the-environment")
    made.journal.write("verdict", procedure="prepare", says="done")
    monkeypatch.setenv("BILLING_API_KEY", "s3cr3t-of-the-environment")
    with pytest.raises(Refused, match="holds secrets"):
        attempt.end(made)
    assert command("seal", made.run_id, "--redact")[0] == 0
    assert b"s3cr3t" not in made.journal.path.read_bytes()
    assert records.verify().exit_code == 0


def test_a_full_disk_while_sealing_leaves_the_run_open(records: Records, command: Command) -> None:
    """Nothing of the line stays; seal goes on when there is room."""
    made = begun("late")

    before = records.ledger.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limits[1]))
    try:
        with pytest.raises(RecordFailed) as caught:
            ended(made)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert records.ledger.read_bytes() == before
    assert caught.value.hint.endswith(f"pgrunbook seal {made.run_id}")
    assert (records.verify().runs[-1].outcome, records.verify().exit_code) == ("open", 0)
    assert command("seal", made.run_id)[0] == 0
    assert records.verify().runs[-1].outcome == "done"


@pytest.mark.slow
def test_a_notebook_of_fifty_megabytes_is_sealed(records: Records) -> None:
    """In seconds, and found when a byte of it is changed."""
    made = begun("late")
    image = {"output_type": "display_data", "metadata": {}, "data": {"image/png": "iVBORw0KGgo" * 4_600_000}}
    cell = {"cell_type": "code", "source": "x", "metadata": {}, "outputs": [image]}
    (made.folder / "02-big.ipynb").write_text(json.dumps({"cells": [cell]}))
    ended(made)
    assert records.verify().exit_code == 0
    with (made.folder / "02-big.ipynb").open("r+b") as file:
        file.seek(40_000_000)
        file.write(b"#")
    assert records.verify().exit_code == 3


def test_keys_are_made_shown_added_and_revoked_by_command(records: Records, command: Command) -> None:
    """Each says what it has done."""
    fingerprint = records.key.public.fingerprint
    assert command("key", "show")[1].splitlines()[-1] == f"whose: ann@example.org, as {signers.path()} says"
    mallory(records)
    file = records.outputs.parent / "mallory.pub"
    assert "has a line for bob now: SHA256:" in command("key", "add", "bob", str(file))[1]
    assert ["ann@example.org", fingerprint] in [line.split() for line in command("key", "list")[1].splitlines()]
    code, _, err = command("key", "new", "ann")
    assert (code, err.splitlines()[0]) == (2, f"there is a key already: {records.key.path}")
    code, out, _ = command("key", "revoke", fingerprint, "--from", "2026-12-31")
    assert (code, out) == (0, f"revoked from 2026-12-31 00:00Z on: {fingerprint} of ann@example.org\n")
    assert command("key", "revoke", fingerprint, "--from", "soon")[0] == 2
    records.key.path.unlink()
    assert command("key", "show")[1].startswith("no key: runs are sealed unsigned\n")
    assert command("key", "new", "carl")[0] == 0
