"""The ssh-agent of the operator, which signs with keys that have a passphrase.

Source: https://datatracker.ietf.org/doc/html/draft-ietf-sshm-ssh-agent
"""

from __future__ import annotations

import os
import socket
import struct

from pgrunbook.errors import RecordFailed

_IDENTITIES, _IDENTITIES_ANSWER, _SIGN, _SIGN_RESPONSE = 11, 12, 13, 14
_PATIENCE_S = 60  # an agent may ask its owner
_MOST_BYTES = 1 << 20


def holds(blob: bytes) -> bool:
    """Tell whether an agent runs and holds the key with this public blob. Raises RecordFailed."""
    if not os.environ.get("SSH_AUTH_SOCK"):
        return False
    kind, body = _asked(bytes([_IDENTITIES]))
    if kind != _IDENTITIES_ANSWER:
        return False
    (count,) = struct.unpack_from(">I", body)
    at = 4
    for _ in range(count):
        key, at = _string(body, at)
        _comment, at = _string(body, at)
        if key == blob:
            return True
    return False


def sign(blob: bytes, data: bytes) -> bytes:
    """Return the 64 bytes of the Ed25519 signature of the agent's key. Raises RecordFailed when it does not sign."""
    kind, body = _asked(bytes([_SIGN]) + _packed(blob) + _packed(data) + struct.pack(">I", 0))
    if kind != _SIGN_RESPONSE:
        raise _failed("it refused to sign, or does not hold the key")
    signature, _ = _string(body, 0)
    algorithm, at = _string(signature, 0)
    value, _ = _string(signature, at)
    if algorithm != b"ssh-ed25519" or len(value) != 64:
        raise _failed(f"it signed with {algorithm.decode('ascii', 'replace')}")
    return value


def _asked(message: bytes) -> tuple[int, bytes]:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
            agent.settimeout(_PATIENCE_S)
            agent.connect(os.environ.get("SSH_AUTH_SOCK", ""))
            agent.sendall(_packed(message))
            (length,) = struct.unpack(">I", _received(agent, 4))
            if not 0 < length <= _MOST_BYTES:
                raise _failed(f"it answered with {length} bytes")
            answer = _received(agent, length)
    except OSError as exc:
        raise _failed(str(exc)) from exc
    return answer[0], answer[1:]


def _received(agent: socket.socket, length: int) -> bytes:
    found = b""
    while len(found) < length:
        part = agent.recv(length - len(found))
        if not part:
            raise OSError("the agent closed the connection")
        found += part
    return found


def _packed(raw: bytes) -> bytes:
    return struct.pack(">I", len(raw)) + raw


def _string(raw: bytes, at: int) -> tuple[bytes, int]:
    try:
        (length,) = struct.unpack_from(">I", raw, at)
    except struct.error as exc:
        raise _failed("its answer is cut off") from exc
    if at + 4 + length > len(raw):
        raise _failed("its answer is cut off")
    return raw[at + 4 : at + 4 + length], at + 4 + length


def _failed(why: str) -> RecordFailed:
    return RecordFailed(
        "could not sign with the ssh-agent",
        detail=f"{os.environ.get('SSH_AUTH_SOCK') or 'SSH_AUTH_SOCK is not set'}: {why}.",
        state="The database is as the last recorded step left it; the record is not sealed.",
        hint="Load the key with ssh-add, then run the same command again; pgrunbook key show tells which key is meant.",
    )
