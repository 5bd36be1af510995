"""Copies of sealed runs at a URL, and archives there: on a real S3 server, and in a folder of another disk."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from acting import wait_until
from pgrunbook.errors import Refused, RunbookError, Unreachable, WrongInput
from pgrunbook.record import run as runs
from pgrunbook.record.run import Run
from pgrunbook.seal import archive, attempt, copies, remote, remote_archive, signing_key
from test_verification import begun, ended, keep_earlier, led_to

Command = Callable[..., tuple[int, str, str]]
BUCKET = "records"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of an S3 server of ours, in a process of its own."""
    pytest.importorskip("moto")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve = "import sys; from moto.server import main; main(sys.argv[1:])"
    with subprocess.Popen(
        [sys.executable, "-c", serve, "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            wait_until(lambda: answers(port))
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def answers(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(params=[pytest.param("s3", marks=pytest.mark.slow), "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where copies go to; keys and runs are in a folder of the test."""
    led_to(tmp_path, monkeypatch)
    signing_key.make("ann@example.org")
    if request.param == "file":
        pytest.importorskip("fsspec")
        return f"file://{tmp_path}/other disk/copies"
    address = request.getfixturevalue("s3")
    lead_to_s3(address, monkeypatch)
    return f"s3://{BUCKET}/{tmp_path.name}"


def lead_to_s3(address: str, patch: pytest.MonkeyPatch) -> None:
    """Have the environment that leads to the S3 server, with an empty bucket for each test below its name."""
    for name, value in {
        "AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "AKIAOFTESTSNOBODY", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_SECRET_ACCESS_KEY": "of/tests/and/nobody/else", "AWS_EC2_METADATA_DISABLED": "true",
    }.items():  # fmt: skip
        patch.setenv(name, value)
    request = urllib.request.Request(f"{address}/{BUCKET}", method="PUT")  # noqa: S310 - our own server
    urllib.request.urlopen(request, timeout=60).close()  # noqa: S310


def sealed(name: str) -> Run:
    made = begun(name)
    ended(made)
    return made


def test_a_run_is_copied_when_it_is_sealed(place: str, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file and the whole ledger, again when it goes on; verify reads the copy alone, and nothing says a key."""
    early = sealed("early")  # before anybody asked for copies: only its lines are there
    monkeypatch.setenv("PGRUNBOOK_COPIES", f"{place}/")
    one, two, still = sealed("one"), sealed("two"), begun("open")
    attempt.begin(two)
    keep_earlier(two)
    ended(two)
    assert command("runs")[2] == f"NOT COPIED: run {early.run_id} is not at {place}: pgrunbook archive --copies\n"
    code, out, _ = command("verify", place, "--files")
    assert (code, f"MISSING: the folder of run {early.run_id} is not there" in out) == (3, True)
    assert command("archive", "--copies") == (0, f"copied: {early.run_id}\n{place} has every sealed run\n", "")
    assert command("runs")[2] == ""

    outputs = one.folder.parent
    outputs.rename(outputs.with_name("elsewhere"))
    for files in ((), ("--files",)):
        code, out, err = command("verify", place, *files, "--json")
        found = json.loads(out)
        assert (code, err, found["outputs"], found["problems"]) == (0, "", place, [])
        assert found["notes"] == [f"run {still.run_id} is open: it is copied when it is sealed"]
        state = "as sealed" if files else "not looked at"
        assert [(r["runbook"], r["attempts"], r["files"]) for r in found["runs"]] == [
            ("early", 1, state), ("one", 1, state), ("two", 2, state), ("open", 1, state),
        ]  # fmt: skip
    written = b"".join(path.read_bytes() for path in outputs.with_name("elsewhere").rglob("*") if path.is_file())
    assert b"of/tests/and" not in written
    assert b"AKIAOFTESTS" not in written


def tampered(place: str, name: str, change: Callable[[bytes], bytes], tmp_path: Path) -> None:
    there = remote.Remote(place)
    there.get(name, tmp_path / "got")
    there.put(name, change((tmp_path / "got").read_bytes()))


@pytest.mark.slow
def test_a_copy_says_what_was_done_to_it(
    place: str, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file that was changed, put in or taken away, a ledger that was written anew or lacks a part."""
    monkeypatch.setenv("PGRUNBOOK_COPIES", place)
    one, two = sealed("one"), sealed("two")
    there = remote.Remote(place)
    ledgers = [name for name in there.names() if name.startswith("ledger/")]
    assert len(ledgers) == 2
    table = f"{one.run_id}/statements.csv"
    tampered(place, table, lambda raw: raw.replace(b"1", b"7"), tmp_path)
    there.put(f"{two.run_id}/new.csv", b"x")
    code, out, _ = command("verify", place, "--files")
    assert code == 3
    assert f"ALTERED: statements.csv is not as it was sealed ({one.run_id})" in out
    assert f"ADDED: new.csv was not there when it was sealed ({two.run_id})" in out
    tampered(place, table, lambda raw: raw.replace(b"7", b"1"), tmp_path)
    there._files.rm_file(there._place(f"{two.run_id}/new.csv"))
    assert command("verify", place, "--files")[0] == 0
    there._files.rm_file(there._place(f"{two.run_id}/run.json"))
    assert "MISSING: run.json is not there" in command("verify", place, "--files")[1]
    assert f"MISSING: the folder of run {two.run_id} is not there" in command("verify", place)[1]
    there.put(f"{two.run_id}/run.json", two.folder / "run.json")
    there.put(f"ledger/{0:015}-{4:015}.jsonl", b"anew")
    assert "holds other bytes than the part before it" in command("verify", place)[1]
    there._files.rm_file(there._place(f"ledger/{0:015}-{4:015}.jsonl"))
    there._files.rm_file(there._place(ledgers[0]))
    code, out, _ = command("verify", place)
    assert (code, "a part is missing" in out) == (3, True)
    there._files.rm_file(there._place(ledgers[1]))
    assert "there is no copy of a ledger" in command("verify", place)[2]


@pytest.mark.parametrize("name", ["ledger/../../planted", "/planted", "ledger//planted", "./planted", "..", "ledger/"])
def test_a_name_that_leads_out_of_the_place_is_refused(tmp_path: Path, name: str) -> None:
    """Whoever may write into a bucket names its objects: nothing is read or written by such a name."""
    there, room = remote.Remote(f"file://{tmp_path}/place"), tmp_path / "room"
    for asks in (lambda: there.get(name, room / name), lambda: there.put(name, b"x"), lambda: there.is_there(name)):
        with pytest.raises(Refused, match="a name that leads out of it"):
            asks()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_object_that_leads_out_of_the_bucket_writes_nothing_here(
    s3: str, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A stranger's object beside the copies: verify says so, and leaves this machine as it is."""
    lead_to_s3(s3, monkeypatch)
    place = f"s3://{BUCKET}/{tmp_path.name}"
    monkeypatch.setenv("PGRUNBOOK_COPIES", place)
    sealed("one")
    there = remote.Remote(place)
    there._files.pipe_file(f"{there._root}/ledger/../../../../../..{tmp_path}/planted", b"x")
    code, _, err = command("verify", place)
    assert code != 0
    assert "holds a name that leads out of it" in err
    assert not (tmp_path / "planted").exists()


@pytest.mark.slow
def test_an_archive_at_a_url_is_read_back_before_folders_go(place: str, command: Command) -> None:
    """It is verified where it lies; another one never takes its place."""
    one, two = sealed("one"), sealed("two")
    url = f"{place}/2026.tar.gz"
    code, out, err = command("archive", one.run_id, "--out", url, "--remove")
    assert (code, err) == (0, "")
    assert f"archived: 1 run in {url}, sha256 " in out
    assert not one.folder.exists()
    assert command("verify", url)[0] == 0
    code, out, _ = command("verify")
    assert (code, f"1 run archived in {url} (sha256 " in out) == (0, True)
    code, _, err = command("archive", two.run_id, "--out", url, "--remove")
    assert (code, "is not the archive that was packed" in err) == (1, True)
    assert two.folder.is_dir()
    code, out, _ = command("archive", "--out", place)
    made = out.split(" in ")[1].split(",")[0]
    assert (code, made.startswith(f"{place}/runs-"), command("verify", made)[0]) == (0, True, 0)


@pytest.mark.slow
def test_a_copy_that_fails_keeps_no_run_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told at once, and by runs, until it is made; a full, closed or absent place is as bad as another."""
    pytest.importorskip("fsspec")
    led_to(tmp_path, monkeypatch)
    blocked = tmp_path / "blocked"
    blocked.write_text("a file is in the way")
    monkeypatch.setenv("PGRUNBOOK_COPIES", f"file://{blocked}/copies")
    made = sealed("one")
    assert not attempt.is_open(made)
    assert f"run {made.run_id} is sealed, and NOT COPIED to file://{blocked}/copies" in caplog.text
    assert "NOT COPIED" in command("runs")[2]
    code, out, err = command("archive", "--copies")
    assert (code, "not every sealed run" in out) == (1, True)
    assert f"not copied: {made.run_id}: could not reach" in err
    blocked.unlink()
    assert command("archive", "--copies")[0] == 0
    assert command("verify", f"file://{blocked}/copies", "--files")[0] == 0
    monkeypatch.setenv("PGRUNBOOK_COPIES", f"file://{tmp_path}/another")
    assert copies.lacking(runs.folders()) == [made.folder]  # another place has nothing yet
    assert command("archive", "--copies", made.run_id)[0] == 2
    monkeypatch.delenv("PGRUNBOOK_COPIES")
    assert "nobody asks for copies" in command("archive", "--copies")[2]
    assert command("runs")[2] == ""


@pytest.mark.slow
def test_an_s3_that_does_not_answer_or_lets_nobody_in_is_one_clear_error(
    s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Within seconds, and without a key in the text."""
    led_to(tmp_path, monkeypatch)
    lead_to_s3(s3, monkeypatch)
    with pytest.raises(RunbookError) as absent:
        remote.Remote("s3://not-there/at-all").put("a", b"x")
    assert isinstance(absent.value, Unreachable)
    assert "State: Nothing was copied; nothing changed in the database." in str(absent.value)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(Unreachable) as failed:
            remote.Remote(f"s3://{BUCKET}/x").put("a", b"x")
    assert "AKIAOFTESTS" not in str(failed.value)
    with pytest.raises(Refused, match="does not let us in") as closed, remote.told("s3://x"):
        raise PermissionError(13, "of/tests/and/nobody/else is not good")
    assert "of/tests" not in str(closed.value)


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIA:secret@bucket/prefix", "s3://key@bucket", "s3://bucket/x?secret=y", "s3://bucket#secret", "s3://",
        "ftp://host/x", "bucket/prefix", "memory://x", "file://",
    ],
)  # fmt: skip
def test_a_url_that_holds_a_key_or_is_none_is_refused_before_anything_begins(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its text is told only where it holds nothing but a place."""
    led_to(tmp_path, monkeypatch)
    monkeypatch.setenv("PGRUNBOOK_COPIES", url)
    with pytest.raises(WrongInput) as refused:
        begun("one")
    assert "secret" not in str(refused.value)
    assert "key@" not in str(refused.value)
    assert not (tmp_path / "outputs" / "ledger.jsonl").exists()


def test_without_the_library_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything begins; nothing else needs it."""
    led_to(tmp_path, monkeypatch)
    found = importlib.util.find_spec

    def hidden(name: str, *more: Any) -> Any:
        return None if name in ("s3fs", "fsspec") else found(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    sealed("one")
    monkeypatch.setenv("PGRUNBOOK_COPIES", "s3://bucket/prefix")
    with pytest.raises(WrongInput) as refused:
        begun("two")
    assert "could not reach s3://bucket/prefix: fsspec is not installed" in str(refused.value)
    assert "Hint: Install it: pip install 'pgrunbook[s3]'" in str(refused.value)
    with archive.chosen([]) as (fit, _), pytest.raises(WrongInput, match="is not installed"):
        remote_archive.write(fit, "s3://bucket/prefix")


def test_parts_of_a_ledger_make_the_whole_in_any_order() -> None:
    """Two runs that ended at once copied some bytes twice."""
    raw = b"abcdefgh"

    def part(begin: int, end: int) -> tuple[str, bytes]:
        return f"ledger/{begin:015}-{end:015}.jsonl", raw[begin:end]

    assert copies.joined([part(4, 8), part(0, 4), part(2, 6), part(0, 8)]) == (raw, [])
    assert copies.joined([part(0, 2), part(4, 8)])[0] == b"ab"
    assert copies.joined([part(0, 4), (part(4, 8)[0], b"efg")])[1]
