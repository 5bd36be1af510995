"""The operator's key, which signs the records of their runs: one made here, or their own ssh-ed25519 key.

A key that is named and cannot be used is an error. Only where none is named, and none was made, a run is unsigned.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pgrunbook.config import paths, regular_file
from pgrunbook.errors import RecordFailed, Refused, WrongInput
from pgrunbook.record.files import write_atomically
from pgrunbook.seal import public_key, signers, ssh_agent
from pgrunbook.seal.envelope import Signature
from pgrunbook.seal.public_key import PublicKey

NAMED = "PGRUNBOOK_KEY"
KEY_FILE = "id_ed25519"
_NEVER_STARTED = "Nothing was started; nothing changed in the database."


@dataclass(frozen=True)
class SigningKey:
    """A key that can sign now: in its file, or in the ssh-agent (``private`` is None)."""

    public: PublicKey
    path: Path
    private: Any = field(default=None, repr=False)

    @property
    def where(self) -> str:
        """How it is reached, for people."""
        return "its file" if self.private is not None else "the ssh-agent"

    def sign(self, data: bytes) -> Signature:
        """Return the signature over data. Raises RecordFailed when the agent does not sign."""
        value = self.private.sign(data) if self.private is not None else ssh_agent.sign(self.public.blob, data)
        if not self.public.signed(value, data):
            raise RecordFailed(
                "the signature just made is not good",
                detail=f"{self.path} and its public key do not fit together.",
                state="The record is not sealed.",
                hint="Name another key in PGRUNBOOK_KEY, or make one: pgrunbook key new.",
            )
        return Signature(self.public.fingerprint, value)


def path() -> Path:
    """Return where the key lies: the file that PGRUNBOOK_KEY names, or the one of ``pgrunbook key new``."""
    named = os.environ.get(NAMED)
    return Path(named).expanduser().resolve() if named else paths.state_dir() / KEY_FILE


def load() -> SigningKey | None:
    """Return the key that signs, None where none is named and none was made.

    Raises WrongInput for one that is named and not there, that others can read, that has a passphrase and is in no
    agent, that is no ssh-ed25519 key; Refused for one that ``signers`` says is not good now.
    """
    chosen = path()
    if not regular_file.is_there(chosen):
        if not os.environ.get(NAMED):
            return None
        raise _unusable(chosen, "it is not there", f"Put it back, or unset {NAMED} to seal unsigned.")
    found = _loaded(chosen)
    signer = (signers.load() or {}).get(found.public.fingerprint)
    lacks = signer.lacks(datetime.now(UTC)) if signer else ""
    if lacks:
        raise Refused(
            f"the key {found.public.fingerprint} must not sign",
            detail=f"{lacks[0].upper()}{lacks[1:]}, as {signers.path()} says.",
            state=_NEVER_STARTED,
            hint=f"Make a new one: pgrunbook key new; or name another in {NAMED}.",
        )
    return found


def make(name: str) -> SigningKey:
    """Make a key, readable by its owner alone, and add its public half to ``signers`` under a name; return it.

    Raises WrongInput where there is one already, RecordFailed when it cannot be written.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    chosen = path()
    if regular_file.is_there(chosen):
        raise WrongInput(
            f"there is a key already: {chosen}",
            detail="What it signed could not be signed with another one; it is never overwritten.",
            hint="Move it away first, and revoke it: pgrunbook key revoke.",
        )
    private = Ed25519PrivateKey.generate()
    made = SigningKey(PublicKey(private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)), chosen, private)
    signers.add(name, made.public)
    try:
        chosen.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(chosen, private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        write_atomically(_public_file(chosen), f"{made.public.text} {name}\n")  # of a lost key it may be there
        _public_file(chosen).chmod(0o644)
    except OSError as exc:
        raise RecordFailed(
            "could not write the key",
            detail=f"{chosen}: {exc.strerror or exc}.",
            hint=f"Make room, or make the folder writable; take the line of {name} out of {signers.path()}.",
        ) from exc
    return made


def public_of(file: Path) -> PublicKey:
    """Return the public key of a ``.pub`` file. Raises WrongInput."""
    words = regular_file.read(file).split()
    if len(words) < 2:
        raise _unusable(file, "it holds no public key", "Name a file that ssh-keygen wrote, with its .pub.")
    return public_key.parsed(words[0], words[1], place=str(file))


def _loaded(chosen: Path) -> SigningKey:
    if chosen.suffix == ".pub":
        return _in_agent(chosen, public_of(chosen))
    _refuse_readable(chosen)
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

    raw = regular_file.read_bytes(chosen)
    try:
        private = load_ssh_private_key(raw, None)
    except TypeError:  # it has a passphrase
        if not _public_file(chosen).is_file():
            raise _unusable(
                chosen, "it has a passphrase, and no .pub file lies beside it", "Write it: ssh-keygen -y."
            ) from None
        return _in_agent(chosen, public_of(_public_file(chosen)))
    except ValueError as exc:
        raise _unusable(chosen, f"it is no private key of OpenSSH ({exc})", "Make one: pgrunbook key new.") from exc
    if not isinstance(private, Ed25519PrivateKey):
        raise _unusable(chosen, "it is no ssh-ed25519 key", "Make one: pgrunbook key new, or ssh-keygen -t ed25519.")
    return SigningKey(PublicKey(private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)), chosen, private)


def _in_agent(chosen: Path, public: PublicKey) -> SigningKey:
    if not ssh_agent.holds(public.blob):
        raise _unusable(
            chosen,
            f"its private half has a passphrase or lies elsewhere, and no ssh-agent holds {public.fingerprint}",
            f"Load it: ssh-add {chosen.with_suffix('') if chosen.suffix == '.pub' else chosen}",
        )
    return SigningKey(public, chosen)


def _refuse_readable(chosen: Path) -> None:
    facts = chosen.stat()
    if stat.S_IMODE(facts.st_mode) & 0o077:
        mode = f"{stat.S_IMODE(facts.st_mode):04o}"
        raise _unusable(chosen, f"others can read it, or write it (mode {mode})", f"chmod 600 {chosen}")
    if facts.st_uid not in (os.geteuid(), 0):
        raise _unusable(chosen, f"it belongs to user id {facts.st_uid}", "Take a key of your own.")


def _public_file(chosen: Path) -> Path:
    return chosen.with_name(f"{chosen.name}.pub")


def _write(file: Path, content: bytes) -> None:
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())


def _unusable(chosen: Path, why: str, hint: str) -> WrongInput:
    return WrongInput(
        "could not use the key that signs records", detail=f"{chosen}: {why}.", state=_NEVER_STARTED, hint=hint
    )
