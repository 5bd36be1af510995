"""Lock files: a living process holds one, and the system lets go of it when that process ends."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

POLL_S = 0.05


def take(path: Path, timeout_s: float, *, shared: bool = False) -> int | None:
    """Return an open handle on the locked file, which is made where it is missing; None when others keep it locked.

    Several processes may hold it ``shared``. Closing the handle lets go of it.

    Raises PermissionError when the file belongs to somebody else.
    """
    ends_at = time.monotonic() + timeout_s
    while True:
        handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            # Who holds it may remove the file: a lock on a removed file keeps nobody out.
            if os.fstat(handle).st_ino == path.stat().st_ino:
                return handle
        except (BlockingIOError, FileNotFoundError):
            if time.monotonic() > ends_at:
                os.close(handle)
                return None
        os.close(handle)
        time.sleep(POLL_S)
