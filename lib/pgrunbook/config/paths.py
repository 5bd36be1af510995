"""Paths: the project, its outputs, and the state that outlives a run."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from pgrunbook.errors import WrongInput

CHECKOUT = Path(__file__).resolve().parents[3]  # `make setup` installs the library where it lies
# sun_path holds 108 bytes with its final zero; the file is called .s.PGSQL.5432
# (https://www.postgresql.org/docs/current/runtime-config-connection.html#GUC-UNIX-SOCKET-DIRECTORIES).
SOCKET_DIR_MAX_BYTES = 107 - len("/.s.PGSQL.5432")


def project_dir() -> Path:
    """Return the folder that holds ``targets.toml``: PGRUNBOOK_HOME, or the nearest above the working directory.

    Raises WrongInput where there is none.
    """
    named = os.environ.get("PGRUNBOOK_HOME")
    if named:
        return Path(named).resolve()
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "targets.toml").is_file():
            return folder
    raise WrongInput(
        "could not find targets.toml",
        detail=f"It is neither in {here} nor in a folder above it.",
        hint="Change to the project's folder, or name it in PGRUNBOOK_HOME.",
    )


def shipped(folder: str, name: str) -> Path:
    """Return the path of a notebook or runbook: the project's own, else the one that came with this library.

    So a project needs nothing of its own but ``targets.toml``. The file may be in neither.
    """
    own = project_dir() / folder / name
    return own if own.is_file() else CHECKOUT / folder / name


def outputs_dir() -> Path:
    """Return the folder of all runs: PGRUNBOOK_OUTPUTS, or ``outputs`` in the project."""
    named = os.environ.get("PGRUNBOOK_OUTPUTS")
    return Path(named).resolve() if named else project_dir() / "outputs"


def state_dir() -> Path:
    """Return the folder of servers, backups and archives.

    PGRUNBOOK_STATE, for root /var/lib/pgrunbook, else the user's data directory.
    """
    named = os.environ.get("PGRUNBOOK_STATE")
    if named:
        return Path(named).resolve()
    if os.geteuid() == 0:
        return Path("/var/lib/pgrunbook")
    import platformdirs

    return Path(platformdirs.user_data_dir("pgrunbook"))


def socket_dir(server: str) -> Path:
    """Return the directory of an embedded server's socket, in a form that every system and libpq take.

    It is in the state directory where that path is short and has no comma (for libpq a comma ends the host).
    Else it is in the temporary directory, under a name composed of the user and the state directory.
    """
    beside_the_data = state_dir() / "sockets" / server
    if len(os.fsencode(beside_the_data)) <= SOCKET_DIR_MAX_BYTES and "," not in str(beside_the_data):
        return beside_the_data
    key = hashlib.sha256(os.fsencode(beside_the_data)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"pgrunbook-{os.geteuid()}-{key}"
