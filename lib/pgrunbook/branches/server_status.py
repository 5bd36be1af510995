"""What an embedded server is doing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path


class ServerState(Enum):
    """What an embedded server is doing."""

    RUNNING = "running"
    STOPPED = "stopped"
    ABSENT = "absent"
    HALF_RESTORED = "half restored"
    HALF_REMOVED = "half removed"


@dataclass(frozen=True)
class ServerStatus:
    """An embedded server as it is now; ``pid`` is None unless it runs, ``major`` is None where it is absent.

    ``says`` is what there is to know of a half restored or half removed one.
    """

    name: str
    state: ServerState
    major: int | None
    pid: int | None
    data_dir: Path
    socket_dir: Path
    says: str = ""
