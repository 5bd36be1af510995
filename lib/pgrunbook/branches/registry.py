"""The branches that are known on this machine: a record each, which is there from before the branch until behind it.

Who makes or removes a branch holds a lock file of its name, and the system lets go of it when that process ends: so a
branch that a killed process has left is known as half made.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from pydantic import ValidationError

from pgrunbook.branches import lock_file
from pgrunbook.branches.binaries import state_folder
from pgrunbook.branches.branch import Branch, BranchState
from pgrunbook.config import regular_file
from pgrunbook.errors import Blocked, Refused, WrongInput
from pgrunbook.record.files import write_atomically

LOCK_TIMEOUT_S = 1.0
NAME_MAX_BYTES = 200  # file systems take 255 with what we put behind it


def branches(target: str = "") -> list[Branch]:
    """Return the recorded branches of a target, or of all, oldest first. Raises WrongInput for a damaged record."""
    found = [_read(path) for path in sorted(state_folder("branches").glob("*.json"))]
    mine = [one for one in found if one is not None and target in ("", one.target)]
    return sorted(mine, key=lambda one: one.made_at)


def branch(target: str, name: str) -> Branch | None:
    """Return the record of a branch, None where there is none."""
    return _read(_path(f"{target}@{name}"))


def write(one: Branch) -> None:
    """Write the record of a branch. Raises RecordFailed."""
    write_atomically(_path(one.full_name), one.model_dump_json(indent=1) + "\n")


def forget(one: Branch) -> None:
    """Remove the record of a branch that is not there any more."""
    _path(one.full_name).unlink(missing_ok=True)


@contextmanager
def held(full_name: str) -> Iterator[None]:
    """Hold the name of a branch, so that nobody else makes, changes or removes it meanwhile. Raises Blocked."""
    path = _path(full_name).with_suffix(".lock")
    handle = lock_file.take(path, LOCK_TIMEOUT_S)
    if handle is None:
        raise Blocked(
            f'branch "{full_name}" is being made, changed or removed by another process',
            state="Nothing was started.",
            hint="Wait until that has ended; pgrunbook branch list shows how it stands.",
        )
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is locked: who waits for it takes another one
        os.close(handle)


@contextmanager
def making(one: Branch, remove: Callable[[Branch], None]) -> Iterator[None]:
    """Hold the name of a new branch, with a record that it is being made; without the branch there is no record.

    ``remove`` takes away what a killed process has left under that name.

    Raises Refused where the branch exists, Blocked where another process is making it.
    """
    with held(one.full_name):
        there = branch(one.target, one.name)
        if there is not None and there.state is BranchState.BEING_MADE:
            remove(there)
        elif there is not None:
            raise Refused(
                f'branch "{one.full_name}" exists',
                detail=f"{there.owner} made it on {there.made_at:%Y-%m-%d %H:%M} UTC"
                + (f": {there.purpose}." if there.purpose else "."),
                state="Nothing was started.",
                hint=f"Choose another name, make it anew (pgrunbook branch reset {one.full_name}), or remove it: "
                f"pgrunbook branch delete {one.full_name}.",
            )
        write(one)
        try:
            yield
        except BaseException:
            forget(one)
            raise


def is_held(full_name: str) -> bool:
    """Tell whether a process is making, changing or removing a branch."""
    path = _path(full_name).with_suffix(".lock")
    if not path.exists():
        return False
    handle = lock_file.take(path, 0)
    if handle is None:
        return True
    path.unlink(missing_ok=True)
    os.close(handle)
    return False


def _path(full_name: str) -> Path:
    name = quote(full_name, safe="@ ")
    if len(name) > NAME_MAX_BYTES:
        name = f"{name[:NAME_MAX_BYTES]}-{hashlib.sha256(full_name.encode()).hexdigest()[:12]}"
    return state_folder("branches") / f"{name}.json"


def _read(path: Path) -> Branch | None:
    try:
        return Branch.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except PermissionError as exc:
        raise Refused(
            f"could not read the branch of {path.name}",
            detail=f"{path} belongs to another user.",
            hint="Run as that user, or use another PGRUNBOOK_STATE.",
        ) from exc
    except ValidationError as exc:
        raise WrongInput(
            f"could not read {path}",
            detail=regular_file.told(exc),
            hint="Remove the file; pgrunbook server status shows the server that it named.",
        ) from exc
