"""The ledger: one chain over all runs, whoever writes to it, whatever a crash or a full disk leaves of it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from pgrunbook.errors import RecordFailed
from pgrunbook.seal import envelope, ledger, signing_key
from pgrunbook.seal.ledger import CLOSED, OPENED, Line
from pgrunbook.seal.signing_key import SigningKey

WRITER = """
import sys
from pathlib import Path
from pgrunbook.seal import ledger
for n in range(int(sys.argv[2])):
    print(ledger.append(Path(sys.argv[1]), "opened", f"run-{sys.argv[3]}-{n}", [], {}, None).seq, flush=True)
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the ledger lies."""
    monkeypatch.setenv("PGRUNBOOK_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("PGRUNBOOK_SIGNERS", str(tmp_path / "signers"))
    return ledger.path(tmp_path)


@pytest.fixture
def key(file: Path) -> SigningKey:
    """A key that signs."""
    assert file
    return signing_key.make("ann")


def append(file: Path, run_id: str, kind: str = OPENED, key: SigningKey | None = None) -> Line:
    """A line with nothing to say."""
    return ledger.append(file, kind, run_id, [{"name": "a", "digest": {"sha256": "0" * 64}}], {"says": "é\n"}, key)


def test_a_line_is_an_in_toto_statement_that_names_the_line_before(file: Path, key: SigningKey) -> None:
    """Other programs read it: DSSE around a Statement v1, signed with Ed25519."""
    first, second = append(file, "one", key=key), append(file, "one", CLOSED)
    lines = file.read_bytes().splitlines()
    assert (first.seq, second.seq, second.ledger) == (1, 2, first.ledger)
    assert [sha256(line).hexdigest() for line in lines] == [first.sha256, second.sha256]
    assert (first.predicate["prev"], second.predicate["prev"]) == ("", first.sha256)
    signed, unsigned = (envelope.read(line) for line in lines)
    statement = signed.statement()
    assert (statement["_type"], statement["predicateType"]) == (
        "https://in-toto.io/Statement/v1",
        "urn:pgrunbook:run:v1",
    )
    assert statement["subject"] == [{"name": "a", "digest": {"sha256": "0" * 64}}]
    assert statement["predicate"]["says"] == "é\n"
    assert key.public.signed(signed.signatures[0].value, signed.signed_bytes)
    assert statement["predicate"]["signer"] == {"fingerprint": key.public.fingerprint, "key": key.public.text}
    assert (unsigned.signatures, unsigned.statement()["predicate"]["signer"]) == ((), None)
    assert file.stat().st_mode & 0o777 == 0o600


def test_the_last_line_of_a_run_is_found(file: Path) -> None:
    """However long the file is, and whatever a crash left in it."""
    assert ledger.last_of(file, "one") is None
    for number in range(200):
        append(file, f"run {number % 7}")
    with file.open("ab") as opened:
        opened.write(b'{"payload":"')
    found = [ledger.last_of(file, f"run {number}") for number in range(8)]
    assert [one and one.seq for one in found] == [197, 198, 199, 200, 194, 195, 196, None]
    assert list(ledger.lines_backwards(file))[:0:-1] == file.read_bytes().splitlines()[:-1]


def writers(file: Path, count: int, lines: int) -> Iterator[subprocess.Popen[str]]:
    for number in range(count):
        command = [sys.executable, "-c", WRITER, str(file), str(lines), str(number)]
        yield subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_runs_that_are_sealed_at_once_get_a_line_each(file: Path) -> None:
    """Each line follows the one before it: a lock keeps their writers apart."""
    started = list(writers(file, 2, 60))
    told = [int(line) for one in started for line in one.communicate()[0].split()]
    assert sorted(told) == list(range(1, 121))
    before = ""
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        predicate = ledger.predicate_of(line)
        assert (predicate["seq"], predicate["prev"]) == (number, before)
        before = sha256(line).hexdigest()


PIECES = {
    "a piece": b'{"payload":"ey',
    "one byte": b"{",
    "two pieces": b'{"payl\n{"pay',
    "a piece and its newline": b'{"pa\n',
}


@pytest.mark.parametrize("piece", PIECES)
def test_a_line_that_a_crash_cut_off_stays_and_the_next_one_says_so(file: Path, piece: str) -> None:
    """The chain goes on from the last whole line; nothing of the piece is lost."""
    first = append(file, "one")
    with file.open("ab") as opened:
        opened.write(PIECES[piece])
    second, third = append(file, "two"), append(file, "three")
    left = PIECES[piece].strip(b"\n")
    assert (second.seq, second.predicate["prev"]) == (2, first.sha256)
    assert second.predicate["after_torn"] == {"bytes": len(left), "sha256": sha256(left).hexdigest()}
    assert left in file.read_bytes()
    assert (third.seq, "after_torn" in third.predicate) == (3, False)
    assert file.read_bytes().count(b"\n") == 3 + left.count(b"\n") + 1


def test_a_ledger_that_is_only_a_piece_begins_behind_it(file: Path) -> None:
    """The very first line was cut off."""
    file.write_bytes(b'{"pay')
    assert (append(file, "one").seq, append(file, "two").seq) == (1, 2)
    empty = file.with_name("empty")
    empty.touch()
    assert append(empty, "one").seq == 1
    assert "after_torn" not in ledger.predicate_of(empty.read_bytes())


def test_a_line_longer_than_what_is_read_of_the_end(file: Path) -> None:
    """A run with thousands of files."""
    subjects = [{"name": f"table-{number}.csv", "digest": {"sha256": "0" * 64}} for number in range(5_000)]
    first = ledger.append(file, CLOSED, "one", subjects, {}, None)
    assert len(file.read_bytes()) > 500_000
    assert append(file, "two").predicate["prev"] == first.sha256
    found = ledger.last_of(file, "one")
    assert found is not None
    assert found.sha256 == first.sha256


@pytest.mark.parametrize("kind", [OPENED, CLOSED])
def test_a_full_disk_leaves_the_ledger_as_it_was(file: Path, kind: str) -> None:
    """Nothing of the line stays, and what to do is told: begin again, or seal what has ended."""
    append(file, "one")
    before = file.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limits[1]))
    try:
        with pytest.raises(RecordFailed) as caught:
            append(file, "two", kind)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_bytes() == before
    assert caught.value.message == "could not write the ledger"
    assert ("pgrunbook seal two" in caught.value.hint) == (kind == CLOSED)
    assert append(file, "two").seq == 2


def test_a_ledger_that_cannot_be_opened_is_told(file: Path) -> None:
    """A folder in its place."""
    file.mkdir()
    with pytest.raises(RecordFailed, match="could not write the ledger"):
        append(file, "one")


@pytest.mark.slow
def test_a_writer_that_is_killed_leaves_whole_lines(file: Path) -> None:
    """What it was told of is in the ledger, and the chain holds."""
    for turn in range(3):
        (killed,) = writers(file, 1, 10_000)
        assert killed.stdout is not None
        told = [int(killed.stdout.readline()) for _ in range(2 + turn * 5)]
        killed.kill()
        killed.communicate()
        numbers = [ledger.predicate_of(line)["seq"] for line in file.read_bytes().splitlines() if ledger.is_line(line)]
        assert numbers == list(range(1, len(numbers) + 1))
        assert set(told) <= set(numbers)


def test_a_signature_that_fails_writes_nothing(file: Path, key: SigningKey, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key went out of the agent meanwhile."""
    append(file, "one", key=key)
    before = file.read_bytes()
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(RecordFailed, match="could not sign with the ssh-agent"):
        append(file, "one", CLOSED, SigningKey(key.public, key.path))
    assert file.read_bytes() == before
    assert json.loads(before)["signatures"][0]["keyid"] == key.public.fingerprint
    assert os.path.lexists(key.path)
