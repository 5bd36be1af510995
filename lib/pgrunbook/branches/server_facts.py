"""What a server's folder says of it beside its data: each process that opens the server reads it.

A server that was made on this machine's own terms has no such file, and the defaults.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from pgrunbook.branches.branch_target import POSTGRES
from pgrunbook.config import regular_file
from pgrunbook.errors import WrongInput

FILE = "server.json"


class ServerFacts(BaseModel):
    """``superuser`` and ``database`` are those of our own sessions; ``bindir`` is its installation's, "" for ours.

    ``settings`` are given to each start beside those of every server of ours. ``is_confined`` keeps its processes to
    its own folder (``branches.confinement``).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    superuser: str = POSTGRES
    database: str = POSTGRES
    bindir: str = ""
    settings: dict[str, str] = {}
    is_confined: bool = False


def read(folder: Path) -> ServerFacts:
    """Return what the folder says of its server. Raises WrongInput where the file cannot be understood."""
    path = folder / FILE
    try:
        return ServerFacts.model_validate_json(path.read_bytes())
    except (FileNotFoundError, PermissionError):  # of somebody else: whatever is done with it says so
        return ServerFacts()
    except ValidationError as exc:
        raise WrongInput(f"could not read {path}", detail=regular_file.told(exc)) from exc
