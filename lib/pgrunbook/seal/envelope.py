"""An envelope of DSSE: a payload with the signatures over it (https://github.com/secure-systems-lab/dsse)."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

from pgrunbook.errors import Broken

PAYLOAD_TYPE = "application/vnd.in-toto+json"


@dataclass(frozen=True)
class Signature:
    """One signature: by which key, as ssh-keygen -l names it, and its 64 bytes."""

    keyid: str
    value: bytes


@dataclass(frozen=True)
class Envelope:
    """A payload as its bytes, and the signatures over them; none where it is unsigned."""

    payload: bytes
    signatures: tuple[Signature, ...] = ()

    @property
    def signed_bytes(self) -> bytes:
        """What a signature is over: the pre-authentication encoding of DSSE."""
        return signed_bytes(self.payload)

    def line(self) -> bytes:
        """The envelope as one line of JSON."""
        signatures = [{"keyid": one.keyid, "sig": _text(one.value)} for one in self.signatures]
        return encoded({"payload": _text(self.payload), "payloadType": PAYLOAD_TYPE, "signatures": signatures})

    def statement(self) -> dict[str, Any]:
        """The payload as JSON. Raises Broken where it holds none."""
        try:
            found = json.loads(self.payload)
        except (ValueError, RecursionError) as exc:
            raise Broken("the payload of an envelope holds no JSON", detail=str(exc)[:200], state="") from exc
        if not isinstance(found, dict):
            raise Broken("the payload of an envelope is no statement", state="")
        return found


def read(line: bytes) -> Envelope:
    """Return the envelope that a line holds, whatever its signatures are worth. Raises Broken where it holds none."""
    try:
        found = json.loads(line)
        if found["payloadType"] != PAYLOAD_TYPE:
            raise ValueError(f"its payload is {found['payloadType']}")
        signatures = tuple(Signature(str(s["keyid"]), _bytes(s["sig"])) for s in found["signatures"])
        return Envelope(_bytes(found["payload"]), signatures)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise Broken("a line holds no envelope", detail=f"{type(exc).__name__}: {str(exc)[:200]}.", state="") from exc


def signed_bytes(payload: bytes) -> bytes:
    """Return what is signed of a payload."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def encoded(found: object) -> bytes:
    """Return JSON as we write it: sorted keys, no blanks, one line."""
    return json.dumps(found, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str).encode()


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
