"""`pgrunbook archive`: sealed runs in one file, which says what was done to it, and folders that go only then."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from pgrunbook.errors import RecordFailed, Refused, WrongInput
from pgrunbook.record import run as runs
from pgrunbook.record.run import WORK
from pgrunbook.seal import archive, archive_check, archived, attempt, envelope, standing
from pgrunbook.seal.archive import Archive
from test_verification import Records, begun, ended, kept, led_to, mallory, records

__all__ = ["kept", "records"]
Command = Callable[..., tuple[int, str, str]]
Members = dict[str, bytes]


def packed(records: Records, *names: str, to: str = "a.tar.gz") -> Archive:
    """Archive runs."""
    ids = [records.runs[name].run_id for name in names or ("one", "two", "three")]
    with archive.chosen(ids) as (fit, refused):
        assert not refused
        return archive.write(fit, records.outputs.parent / to)


def members(file: Path) -> Members:
    """What is in an archive."""
    with tarfile.open(file) as tar:
        return {one.name: (tar.extractfile(one) or io.BytesIO()).read() for one in tar}


def repacked(file: Path, content: Members) -> None:
    """Write an archive anew, as somebody does who knows how."""
    file.unlink()
    with gzip.open(file, "wb") as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for name, value in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(value)
            tar.addfile(info, io.BytesIO(value))


@pytest.mark.slow
def test_an_archive_is_true_without_the_folder_of_the_runs(
    records: Records, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    """Outside of a project; with all files, all lines of these runs, and the seal of who packed it."""
    made = packed(records, "one", "two")
    moved = records.outputs.parent / "elsewhere" / "b.tar.gz"
    moved.parent.mkdir()
    Path(made.place).rename(moved)
    records.outputs.rename(records.outputs.parent / "gone")
    monkeypatch.delenv("PGRUNBOOK_HOME", raising=False)
    monkeypatch.delenv("PGRUNBOOK_OUTPUTS")
    monkeypatch.chdir("/")
    code, out, err = command("verify", str(moved))
    assert (code, err) == (0, "")
    assert "sealed by ann@example.org" in out
    assert "true: 2 runs, 6 lines of the ledger" in out
    found = json.loads(command("verify", str(moved), "--json")[1])
    assert [(one["runbook"], one["attempts"], one["files"], one["signature"]) for one in found["runs"]] == [
        ("one", 1, "as sealed", "ann@example.org"),
        ("two", 2, "as sealed", "ann@example.org"),
    ]
    assert moved.stat().st_mode & 0o777 == 0o400
    assert command("verify", str(moved), "--target", "demo")[0] == 1


def test_the_same_runs_make_the_same_bytes(records: Records) -> None:
    """On another day, in another order, under another name; a file that is there stays, and is never overwritten."""
    first = packed(records, "one", "two")
    second = packed(records, "two", "one", to="b.tar.gz")
    assert Path(first.place).read_bytes() == Path(second.place).read_bytes()
    assert first.sha256 == second.sha256 == sha256(Path(first.place).read_bytes()).hexdigest()
    before = Path(first.place).stat()
    assert packed(records, "one", "two").sha256 == first.sha256
    assert Path(first.place).stat() == before
    with pytest.raises(WrongInput) as refused:
        packed(records, "three")
    assert "an archive is never overwritten" in str(refused.value)
    assert "No run was archived, and none removed" in str(refused.value)


def without(name: str) -> Callable[[Members, Records], None]:
    return lambda content, _: content.pop(next(one for one in content if one.endswith(name))) and None


def edited(name: str) -> Callable[[Members, Records], None]:
    def edit(content: Members, _: Records) -> None:
        whole = next(one for one in content if one.endswith(name))
        content[whole] = content[whole].replace(b"1", b"7", 1)

    return edit


def edited_with_its_manifest(content: Members, _: Records) -> None:
    """The manifest is changed with the file, and its seal is taken away."""
    name = next(one for one in content if one.endswith("statements.csv"))
    content[name] += b"3,4\n"
    statement = json.loads(content["manifest.json"])
    next(one for one in statement["subject"] if one["name"] == name)["digest"]["sha256"] = sha256(
        content[name]
    ).hexdigest()
    statement["predicate"]["signer"] = None
    content["manifest.json"] = envelope.encoded(statement)
    content["manifest.dsse.json"] = envelope.Envelope(content["manifest.json"]).line()


def with_a_file(content: Members, records: Records) -> None:
    content[f"outputs/{records.runs['one'].run_id}/new.csv"] = b"x"


def with_one_outside(content: Members, _: Records) -> None:
    content["../outside"] = b"x"


def without_a_run(content: Members, records: Records) -> None:
    for name in [one for one in content if records.runs["one"].run_id in one]:
        del content[name]


def without_its_lines(content: Members, records: Records) -> None:
    without_a_run(content, records)
    lines = content["outputs/ledger.jsonl"].splitlines(keepends=True)
    content["outputs/ledger.jsonl"] = b"".join(lines[2:])


def with_other_signers(content: Members, _: Records) -> None:
    content["signers"] = b"# nobody\n"


def unsealed(content: Members, _: Records) -> None:
    content["manifest.dsse.json"] = envelope.Envelope(content["manifest.json"]).line()


@pytest.mark.first_case
@pytest.mark.parametrize(
    ("tamper", "word"),
    [
        (edited("statements.csv"), "altered"),
        (edited("journal.jsonl"), "altered"),
        (edited("ledger.jsonl"), "altered"),
        (edited("manifest.json"), "altered"),
        (edited_with_its_manifest, "altered"),
        (with_other_signers, "altered"),
        (without("statements.csv"), "missing"),
        (without("journal.jsonl"), "missing"),
        (without("ledger.jsonl"), "missing"),
        (without("manifest.json"), "missing"),
        (without("manifest.dsse.json"), "missing"),
        (without_a_run, "missing"),
        (without_its_lines, "missing"),
        (with_a_file, "added"),
        (with_one_outside, "added"),
        (unsealed, "forged"),
    ],
)  # fmt: skip
def test_an_archive_says_what_was_done_to_it(
    records: Records, tamper: Callable[[Members, Records], None], word: str
) -> None:
    """Whoever packs it anew."""
    file = Path(packed(records, "one", "two").place)
    content = members(file)
    repacked(file, content)
    assert archive_check.report(file).exit_code == 0
    tamper(content, records)
    repacked(file, content)
    found = archive_check.report(file)
    assert found.exit_code == 3
    assert word in {problem.word for problem in found.problems}, found.problems
    assert not (file.parent / "outside").exists()
    assert not Path("/tmp/outside").exists()  # noqa: S108


@pytest.mark.slow
def test_a_damaged_archive_is_told_wherever_it_is_cut_or_flipped(records: Records) -> None:
    """Each of forty places; it is never true, and never a traceback."""
    file = Path(packed(records, "one").place)
    whole = file.read_bytes()
    file.chmod(0o600)
    for at in range(12, len(whole), max(1, len(whole) // 40)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :]):
            file.write_bytes(damaged)
            try:
                assert archive_check.report(file).exit_code == 3, at
            except WrongInput as exc:
                assert "is no archive of runs" in exc.message  # noqa: PT017
    for other in (b"", b"no archive", gzip.compress(b"no tar"), whole[:10]):
        file.write_bytes(other)
        with pytest.raises(WrongInput, match="is no archive of runs"):
            archive_check.report(file)


def test_without_signers_of_ones_own_an_archive_is_not_checked(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own say who signed; that these are ours, nobody says."""
    file = Path(packed(records, "one").place)
    monkeypatch.setenv("PGRUNBOOK_SIGNERS", str(records.outputs.parent / "none"))
    found = archive_check.report(file)
    says = "no signers of yours are here; the keys are those that lie in the archive:"
    assert (found.exit_code, found.runs[0].signature) == (1, "ann@example.org")
    assert [(one.word, one.says) for one in found.problems] == [
        ("not checked", f"{says} name yours in PGRUNBOOK_SIGNERS")
    ]


@pytest.mark.slow
def test_what_is_open_or_not_as_it_was_sealed_is_refused(records: Records, command: Command) -> None:
    """With the reason, where somebody names it; else it stays out, and that is told."""
    code, _, err = command("archive", records.runs["open"].run_id)
    assert code == 3
    assert f"run {records.runs['open'].run_id} cannot be archived" in err
    assert "Its last attempt is open: go on with it, or seal it as it is" in err
    assert "State: No run was archived, and none removed" in err
    statements = records.folder("two") / "statements.csv"
    statements.chmod(0o600)
    statements.write_text("a\n")
    code, _, err = command("archive", records.runs["two"].run_id, records.runs["one"].run_id)
    assert (code, "not as it was sealed (altered: statements.csv" in err) == (3, True)
    code, out, err = command("archive")
    assert (code, "archived: 2 runs" in out) == (0, True)
    assert f"left out: {records.runs['two'].run_id}: it is not as it was sealed" in err
    assert f"left out: {records.runs['open'].run_id}: its last attempt is open" in err
    code, out, _ = command("archive", "--before", "2020-01-01")
    assert (code, out) == (0, "no run to archive\n")
    assert command("archive", "--before", "yesterday")[0] == 2
    records.runs["three"].hold()
    try:
        with attempt.addition(records.runs["three"]):
            code, _, err = command("archive", records.runs["three"].run_id)
    finally:
        records.runs["three"].release()
    assert (code, "its last attempt is open" in err.lower()) == (3, True)


def test_folders_are_removed_when_the_archive_was_verified_and_the_ledger_says_so(
    records: Records, command: Command
) -> None:
    """verify says where they lie; the archive has what the folders had, working copies too."""
    (records.folder("one") / WORK).mkdir()
    (records.folder("one") / WORK / "01-prepare.ipynb").write_text("{}")
    there = [one for one in records.folder("one").rglob("*") if one.is_file() and not one.name.startswith(".")]
    had = {one.relative_to(records.outputs).as_posix(): one.read_bytes() for one in there}
    code, out, err = command("archive", records.runs["one"].run_id, "--remove")
    assert (code, err) == (0, "")
    place, digest = out.split(" in ")[1].split(", sha256 ")[0], out.split("sha256 ")[1][:64]
    assert "removed: the folders of 1 run" in out
    assert not records.folder("one").exists()
    content = members(records.outputs / place)
    assert {name.removeprefix("outputs/"): value for name, value in content.items() if "/20" in name} == had
    found = records.verify()
    assert (found.exit_code, found.lines) == (0, 10)
    assert found.runs[0].files == f"archived in {place} (sha256 {digest[:12]})"
    assert f"line 10: 1 run archived in {place} (sha256 {digest})" in found.notes
    assert command("verify", str(records.outputs / place))[0] == 0

    (records.outputs / place).chmod(0o600)
    (records.outputs / place).write_bytes(b"other")
    found = records.verify()
    assert [(one.word, one.says) for one in found.problems] == [
        ("altered", f"{place} is not the archive that line 10 names")
    ]
    (records.outputs / place).unlink()
    found = records.verify()
    assert found.exit_code == 0
    assert any("is not here, and was not looked at" in note for note in found.notes)


def test_a_folder_that_is_back_is_compared_again(records: Records) -> None:
    """Whoever unpacks the archive has the run again, with all that verify asks for."""
    made = packed(records, "one")
    with archive.chosen([records.runs["one"].run_id]) as (fit, _):
        archive.remove(fit, made, records.outputs)
        archive.remove([], made, records.outputs)  # again, after a crash: the ledger says it already
    assert len(records.lines) == 10
    with tarfile.open(made.place) as tar:
        tar.extractall(records.outputs.parent / "back", filter="data")
    (records.outputs.parent / "back" / "outputs" / records.runs["one"].run_id).rename(records.folder("one"))
    found = records.verify()
    assert (found.exit_code, found.runs[0].files) == (0, "as sealed")
    assert runs.find(records.runs["one"].run_id).run_id == records.runs["one"].run_id
    attempt.write_late(runs.load(records.folder("one")), "note")  # it goes on
    assert records.verify().exit_code == 0
    for file in records.folder("one").iterdir():
        file.unlink()
    records.folder("one").rmdir()
    assert {problem.word for problem in records.verify().problems} == {"missing"}  # the archive is of before


def test_nobody_hides_a_removed_folder_behind_a_line_without_a_good_signature(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unsigned, or of a key that signers does not name; and who has no key removes nothing."""
    made = packed(records, "one")
    before = records.lines
    with archive.chosen([records.runs["one"].run_id]) as (fit, _):
        monkeypatch.setenv("PGRUNBOOK_STATE", str(records.outputs.parent / "nothing"))
        with pytest.raises(Refused, match="nobody would sign") as refused:
            archive.remove(fit, made, records.outputs)
        assert "no folder was removed" in str(refused.value)
        monkeypatch.setenv("PGRUNBOOK_KEY", str(mallory(records).path))
        with pytest.raises(Refused, match="nobody would sign") as refused:
            archive.remove(fit, made, records.outputs)
        assert "does not name SHA256:" in str(refused.value)
        monkeypatch.delenv("PGRUNBOOK_KEY")
        assert records.folder("one").is_dir()
        archived.write(records.outputs, made.place, made.sha256, made.bytes, made.runs)
        archived.remove(fit[0])
    assert {(one.word, one.run) for one in records.verify().problems} == {
        ("missing", records.runs["one"].run_id),
        ("forged", records.runs["one"].run_id),
    }
    other = {**made.runs, records.runs["one"].run_id: "0" * 64}
    monkeypatch.setenv("PGRUNBOOK_STATE", str(records.outputs.parent / "state"))
    records.write(before)
    archived.write(records.outputs, made.place, made.sha256, made.bytes, other)
    assert {one.word for one in records.verify().problems} == {"missing", "altered"}


WRITES = ("open", "os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.truncate")


def killed(records: Records, at: int) -> tuple[int, int]:
    """Archive and remove two runs in a process that is killed at its event of that number; how it ended, and events."""
    told = records.outputs.parent / "count"
    child = os.fork()
    if child == 0:
        _be_killed(records, at, told)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, int(told.read_text()) if told.exists() else 0


def _be_killed(records: Records, at: int, told: Path) -> None:
    count, code = 0, 1

    def counted(event: str, _: object) -> None:
        nonlocal count
        if event in WRITES:
            count += 1
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        with archive.chosen([records.runs[name].run_id for name in ("one", "two")]) as (fit, _):
            sys.addaudithook(counted)
            made = archive.write(fit, records.outputs.parent / "k.tar.gz")
            archive.remove(fit, made, records.outputs)
        at, code = 0, 0
        told.write_text(str(count))
    finally:
        os._exit(code)


@pytest.mark.parametrize("share", [pytest.param(0.5, id="half"), *(
    pytest.param(n / 24, id=f"{n}", marks=pytest.mark.slow) for n in range(1, 24) if n != 12
)])  # fmt: skip
def test_a_kill_leaves_the_old_state_or_the_new(records: Records, tmp_path: Path, share: float) -> None:
    """At any moment: what has the name of the archive is whole, and verify is true; the same command does the rest."""
    rehearsed = tmp_path / "rehearsed"
    subprocess.run(["cp", "-a", str(records.outputs.parent), str(rehearsed)], check=True)
    with pytest.MonkeyPatch.context() as patch:
        led_to(rehearsed, patch)
        code, every = killed(Records(rehearsed / "outputs", records.runs, records.key), 0)
    assert code == 0
    assert not (rehearsed / "outputs" / records.runs["one"].run_id).exists()
    assert killed(records, max(1, int(every * share))) == (-signal.SIGKILL, 0)
    file = records.outputs.parent / "k.tar.gz"
    if file.exists():
        assert archive_check.report(file).exit_code == 0
    assert standing.report(records.outputs, files=True).exit_code == 0
    archived.clear(records.outputs)
    left = [records.runs[name].run_id for name in ("one", "two") if records.folder(name).exists()]
    if left:
        with archive.chosen(left) as (fit, refused):
            assert not refused
            again = archive.write(fit, file if len(left) == 2 else file.with_name("rest.tar.gz"))
            archive.remove(fit, again, records.outputs)
    assert standing.report(records.outputs, files=True).exit_code == 0
    assert not list(records.outputs.glob(".archived-*"))
    assert not records.folder("one").exists()


def test_a_full_disk_leaves_nothing(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the archive nor a half; the error says what state that is."""

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device", str(handle))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RecordFailed) as failed:
            packed(records, "one")
    assert "No space left on device" in str(failed.value)
    assert "No run was archived" in str(failed.value)
    assert not list(records.outputs.parent.glob("*.tar.gz")) + list(records.outputs.parent.glob(".*.half"))


def test_what_a_crash_left_of_a_line_is_in_the_archive_too(records: Records) -> None:
    """The line behind it tells of it, and verify asks for it."""
    records.ledger.write_bytes(records.ledger.read_bytes() + b'{"payload": "cut')
    made = begun("torn")
    ended(made)
    with archive.chosen([made.run_id]) as (fit, _):
        file = Path(archive.write(fit, records.outputs.parent / "t.tar.gz").place)
    found = archive_check.report(file)
    assert (found.exit_code, found.lines) == (0, 2)
