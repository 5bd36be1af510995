"""The key under which texts that hold a secret are hashed: a file of the state directory, never in a record."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

from pgrunbook.config import paths
from pgrunbook.errors import RecordFailed

KEY_FILE = "secret.key"
_BYTES = 32


def path() -> Path:
    """Return where the key lies: ``secret.key`` in the state directory."""
    return paths.state_dir() / KEY_FILE


def read() -> bytes | None:
    """Return the key, None where there is none. Raises RecordFailed when it cannot be read."""
    try:
        key = bytes.fromhex(path().read_text(encoding="ascii").strip())
        if len(key) < _BYTES:
            raise ValueError(f"it holds {len(key)} bytes, not {_BYTES}")
        return key
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        raise _failed("read", exc) from exc


def read_or_make() -> bytes:
    """Return the key, which is made at its first use, readable by its owner alone.

    Raises RecordFailed when it can be neither read nor written.
    """
    key = read()
    if key is not None:
        return key
    draft = path().with_name(f".{KEY_FILE}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        path().parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path())  # fails where another process made it meanwhile: its key is the key
        except FileExistsError:
            return read_or_make()
    except OSError as exc:
        raise _failed("write", exc) from exc
    finally:
        draft.unlink(missing_ok=True)
    return read_or_make()


def name_of(key: bytes) -> str:
    """Return a name by which a key is told from others, and which says nothing of it."""
    return hashlib.sha256(b"name of a key of pgrunbook" + key).hexdigest()[:8]


def _failed(verb: str, exc: Exception) -> RecordFailed:
    return RecordFailed(
        f"could not {verb} the key under which secrets are hashed",
        detail=f"{path()}: {getattr(exc, 'strerror', None) or exc}.",
        hint="Make the state directory (PGRUNBOOK_STATE) readable and writable for this user alone.",
    )
