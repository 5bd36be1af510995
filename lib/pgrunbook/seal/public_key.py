"""A public ssh-ed25519 key, as OpenSSH writes it, and how ssh-keygen -l names it."""

from __future__ import annotations

import base64
import hashlib
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from pgrunbook.errors import WrongInput

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

KIND = "ssh-ed25519"
_PREFIX = struct.pack(">I", len(KIND)) + KIND.encode() + struct.pack(">I", 32)


@dataclass(frozen=True)
class PublicKey:
    """The 32 bytes of a public Ed25519 key."""

    raw: bytes

    @property
    def blob(self) -> bytes:
        """The key as ssh's protocol has it."""
        return _PREFIX + self.raw

    @property
    def fingerprint(self) -> str:
        """The name of the key, as ssh-keygen -l prints it."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")

    @property
    def text(self) -> str:
        """The key as a line of OpenSSH, without a comment."""
        return f"{KIND} {base64.b64encode(self.blob).decode()}"

    def signed(self, value: bytes, data: bytes) -> bool:
        """Tell whether a signature over data was made with the private key of this one."""
        from cryptography.exceptions import InvalidSignature

        try:
            _loaded(self.raw).verify(value, data)
        except InvalidSignature:
            return False
        return True


@lru_cache(maxsize=256)
def _loaded(raw: bytes) -> Ed25519PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    return Ed25519PublicKey.from_public_bytes(raw)


def parsed(kind: str, encoded: str, *, place: str) -> PublicKey:
    """Return the key of two words of OpenSSH. Raises WrongInput, with the ``place`` where they stand."""
    try:
        blob = base64.b64decode(encoded, validate=True)
    except ValueError as exc:
        raise _wrong(place, "it is no base64") from exc
    if kind != KIND or not blob.startswith(_PREFIX) or len(blob) != len(_PREFIX) + 32:
        raise _wrong(place, f"it is a key of kind {kind[:40]}, and only {KIND} is taken")
    return PublicKey(blob[-32:])


def _wrong(place: str, why: str) -> WrongInput:
    return WrongInput(
        f"could not read the public key in {place}",
        detail=f"{why[0].upper()}{why[1:]}.",
        hint="Make one with pgrunbook key new, or with ssh-keygen -t ed25519.",
    )
