"""Keys and signers: who can sign, and whose signature counts."""

from __future__ import annotations

import base64
import os
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pgrunbook.errors import RecordFailed, Refused, RunbookError, WrongInput
from pgrunbook.seal import envelope, public_key, signers, signing_key
from pgrunbook.seal.envelope import Envelope, Signature

PASSPHRASE = "correct horse"  # noqa: S105 - of a key that is made here and thrown away
MOMENT = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, no signers and no agent but what a test makes."""
    monkeypatch.setenv("PGRUNBOOK_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("PGRUNBOOK_SIGNERS", str(tmp_path / "signers"))
    for name in ("PGRUNBOOK_KEY", "SSH_AUTH_SOCK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A real ssh-agent."""
    place = tmp_path / "agent"
    started = subprocess.Popen(["ssh-agent", "-D", "-a", str(place)], stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    assert str(place) in started.stdout.readline()
    monkeypatch.setenv("SSH_AUTH_SOCK", str(place))
    yield
    started.terminate()
    started.communicate()


def made_by_ssh(path: Path, passphrase: str = "", kind: str = "ed25519") -> Path:
    """A key of the operator's own."""
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "ann", "-f", str(path)], check=True)
    return path


def loaded_into_the_agent(path: Path, folder: Path) -> None:
    """ssh-add asks a program for the passphrase where it has no terminal."""
    asks = folder / "asks"
    asks.write_text(f"#!/bin/sh\necho {PASSPHRASE}\n")
    asks.chmod(0o700)
    environment = {**os.environ, "SSH_ASKPASS": str(asks), "SSH_ASKPASS_REQUIRE": "force"}
    subprocess.run(["ssh-add", "-q", str(path)], check=True, env=environment, stdin=subprocess.DEVNULL)


def refusal(kind: type[RunbookError]) -> str:
    """What loading the key says."""
    with pytest.raises(kind) as caught:
        signing_key.load()
    assert caught.value.state == "Nothing was started; nothing changed in the database."
    assert caught.value.hint
    return caught.value.detail


def test_without_a_key_nothing_is_signed() -> None:
    """No key was made, and none is named."""
    assert signing_key.load() is None


def test_a_key_that_we_make_is_one_of_openssh(tmp_path: Path) -> None:
    """ssh-keygen reads it, and names it as we do; its owner alone can read it; signers has its public half."""
    made = signing_key.make("ann@example.org")
    assert made.path == tmp_path / "state" / "id_ed25519"
    assert made.path.stat().st_mode & 0o777 == 0o600
    told = subprocess.run(["ssh-keygen", "-l", "-f", str(made.path)], capture_output=True, text=True, check=True).stdout
    assert told.split()[1] == made.public.fingerprint
    found = signing_key.load()
    assert found is not None
    assert found.public == made.public
    assert (signers.load() or {})[made.public.fingerprint].name == "ann@example.org"
    with pytest.raises(WrongInput, match="there is a key already"):
        signing_key.make("bob")


def test_a_signature_is_good_for_its_bytes_and_its_key_only(tmp_path: Path) -> None:
    """Any other byte, payload or key makes it bad."""
    made = signing_key.make("ann")
    signature = made.sign(envelope.signed_bytes(b"{}"))
    assert signature.keyid == made.public.fingerprint
    assert made.public.signed(signature.value, envelope.signed_bytes(b"{}"))
    assert not made.public.signed(signature.value, envelope.signed_bytes(b"{ }"))
    assert not made.public.signed(bytes(64), envelope.signed_bytes(b"{}"))
    other = signing_key.public_of(made_by_ssh(tmp_path / "other").with_suffix(".pub"))
    assert not other.signed(signature.value, envelope.signed_bytes(b"{}"))


def test_an_envelope_is_read_as_it_was_written() -> None:
    """Its payload is any bytes; its encoding is that of the specification's own example."""
    kept = Envelope(b'{"a":"\xc3\xa9"}', (Signature("SHA256:x", bytes(range(64))),))
    assert envelope.read(kept.line()) == kept
    assert envelope.signed_bytes(b"hello world") == b"DSSEv1 28 application/vnd.in-toto+json 11 hello world"
    for wrong in (
        b"",
        b"{}",
        b"[]",
        b'{"payloadType":"x"}',
        kept.line()[:-9],
        kept.line().replace(b"in-toto", b"other"),
    ):
        with pytest.raises(RunbookError, match="no envelope"):
            envelope.read(wrong)


def test_the_operators_own_key_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PGRUNBOOK_KEY names it."""
    monkeypatch.setenv("PGRUNBOOK_KEY", str(made_by_ssh(tmp_path / "own")))
    key = signing_key.load()
    assert key is not None
    assert (key.where, key.path) == ("its file", tmp_path / "own")
    assert key.public.signed(key.sign(b"data").value, b"data")


@pytest.mark.usefixtures("agent")
def test_a_key_with_a_passphrase_signs_through_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named by either of its files; before it is loaded, the error says how to load it."""
    own = made_by_ssh(tmp_path / "own", PASSPHRASE)
    monkeypatch.setenv("PGRUNBOOK_KEY", str(own))
    assert "no ssh-agent holds SHA256:" in refusal(WrongInput)
    loaded_into_the_agent(own, tmp_path)
    for named in (own, own.with_suffix(".pub")):
        monkeypatch.setenv("PGRUNBOOK_KEY", str(named))
        key = signing_key.load()
        assert key is not None
        assert key.where == "the ssh-agent"
        assert key.public.signed(key.sign(b"data" * 5_000).value, b"data" * 5_000)
    subprocess.run(["ssh-add", "-q", "-D"], check=True, stderr=subprocess.DEVNULL)
    with pytest.raises(RecordFailed, match="could not sign with the ssh-agent"):
        key.sign(b"data")


def test_a_key_with_a_passphrase_needs_an_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is none here, or one that does not answer."""
    own = made_by_ssh(tmp_path / "own", PASSPHRASE)
    monkeypatch.setenv("PGRUNBOOK_KEY", str(own))
    assert "has a passphrase or lies elsewhere, and no ssh-agent holds SHA256:" in refusal(WrongInput)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "nobody"))
    with pytest.raises(RecordFailed, match="could not sign with the ssh-agent"):
        signing_key.load()
    own.with_suffix(".pub").unlink()
    assert "no .pub file lies beside it" in refusal(WrongInput)


@pytest.mark.parametrize(
    ("mode", "is_good"), [(0o600, True), (0o400, True), (0o640, False), (0o604, False), (0o666, False)]
)
def test_a_key_that_others_can_read_does_not_sign(mode: int, is_good: bool) -> None:
    """As for ssh itself."""
    made = signing_key.make("ann")
    made.path.chmod(mode)
    if is_good:
        assert signing_key.load() is not None
    else:
        assert f"others can read it, or write it (mode {mode:04o})" in refusal(WrongInput)


@pytest.mark.slow
def test_a_key_that_is_lost_or_of_another_kind_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever names a key wants signed records: none is unsigned instead."""
    for name, told in {
        "lost": "it is not there",
        "rsa": "it is no ssh-ed25519 key",
        "rubbish": "it is no private key of OpenSSH",
    }.items():
        monkeypatch.setenv("PGRUNBOOK_KEY", str(tmp_path / name))
        if name == "rsa":
            made_by_ssh(tmp_path / name, kind="rsa")
        if name == "rubbish":
            (tmp_path / name).write_text(
                "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"
            )
            (tmp_path / name).chmod(0o600)
        assert told in refusal(WrongInput)
    rsa = (tmp_path / "rsa.pub").read_text().split()
    with pytest.raises(WrongInput, match="could not read the public key in the test"):
        public_key.parsed(rsa[0], rsa[1], place="the test")


def test_a_revoked_key_signs_nothing_more() -> None:
    """What it signed before stays good; from the moment on it is not."""
    made = signing_key.make("ann")
    told = signers.revoke(made.public.fingerprint, MOMENT)
    assert told.name == "ann"
    assert "The key of ann was revoked or expired at 2026-11-01 00:00Z" in refusal(Refused)
    signer = (signers.load() or {})[made.public.fingerprint]
    assert signer.lacks(datetime(2026, 10, 31, 23, 59, tzinfo=UTC)) == ""
    assert signer.lacks(MOMENT) == "the key of ann was revoked or expired at 2026-11-01 00:00Z"
    with pytest.raises(WrongInput, match="was revoked at 2026-11-01 00:00Z already"):
        signers.revoke(made.public.fingerprint, datetime(2026, 12, 1, tzinfo=UTC))
    assert signers.revoke(made.public.fingerprint, datetime(2026, 9, 1, tzinfo=UTC)).name == "ann"  # it was worse
    assert signers.path().read_text().count("valid-before") == 1


def test_an_expired_key_signs_nothing() -> None:
    """Its time stands in signers, as ssh has it; one whose time has not come is as bad."""
    made = signing_key.make("ann")
    for option, says in (
        ('valid-before="20200101Z"', "The key of ann was revoked or expired at 2020-01-01 00:00Z"),
        ('valid-after="29990101Z"', "The key of ann is good from 2999-01-01 00:00Z on"),
    ):
        signers.path().write_text(f'ann namespaces="pgrunbook",{option} {made.public.text}\n')
        assert says in refusal(Refused)


def test_ssh_reads_our_signers_as_we_do(tmp_path: Path) -> None:
    """ssh-keygen finds whose key it is, also after a revocation."""
    made = signing_key.make("ann@example.org")
    data = tmp_path / "data"
    data.write_bytes(b"data")
    subprocess.run(["ssh-keygen", "-q", "-Y", "sign", "-f", str(made.path), "-n", "pgrunbook", str(data)],
                   check=True, capture_output=True)  # fmt: skip

    def whose(moment: str) -> str:
        command = ["ssh-keygen", "-Y", "find-principals", "-f", str(signers.path()), "-s", f"{data}.sig",
                   "-O", f"verify-time={moment}"]  # fmt: skip
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    assert whose("20261201Z") == "ann@example.org"
    signers.revoke(made.public.fingerprint, MOMENT)
    assert (whose("20261031Z"), whose("20261201Z")) == ("ann@example.org", "")


KEY = "ssh-ed25519 " + base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0 " + bytes(32)).decode()
READ = {
    f"ann {KEY}": ("ann", None, None),
    f'ann namespaces="git,pgrunbook" {KEY} a comment': ("ann", None, None),
    f'"ann,anna" valid-after="20260101Z",valid-before="20270101120000Z" {KEY}':
        ("ann,anna", datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, 12, tzinfo=UTC)),
    f'ann VALID-BEFORE="202701011230Z" {KEY}': ("ann", None, datetime(2027, 1, 1, 12, 30, tzinfo=UTC)),
}  # fmt: skip


@pytest.mark.parametrize("line", READ)
def test_a_line_of_signers_is_read(line: str) -> None:
    """Comments and empty lines are passed over, and keys for something else."""
    signers.path().write_text(f'# the team\n\n{line}\nbob namespaces="git" {KEY}\n')
    (found,) = (signers.load() or {}).values()
    assert (found.name, found.valid_after, found.valid_before) == READ[line]


@pytest.mark.parametrize(
    "line",
    ["ann", f"{KEY}", "ann ssh-rsa AAAA", f"ann cert-authority {KEY}", f'ann valid-before="2027" {KEY}',
     f"ann {KEY[:-8]}", f'ann valid-before="20271301Z" {KEY}', "ann ssh-ed25519 %%%", f"ann {KEY}\nbob {KEY}",
     f"ann touch-required {KEY}"],
)  # fmt: skip
def test_a_line_that_we_cannot_check_is_an_error_with_its_place(line: str) -> None:
    """It is never passed over: somebody would believe that it counts."""
    signers.path().write_text(f"{line}\n")
    with pytest.raises(WrongInput) as caught:
        signers.load()
    assert re.search(r"signers, line [12]", str(caught.value))


def test_without_signers_nobody_is_known() -> None:
    """That is something else than nobody who is a signer."""
    assert signers.load() is None
    signers.path().write_text("# none yet\n")
    assert signers.load() == {}
