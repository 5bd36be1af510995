"""Files that others may have changed or replaced, read whole: what is no file is refused, nobody waits for a FIFO."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from pgrunbook.errors import WrongInput

UNREADABLE_HINT = "Put the file back from a copy of the record; or start a new run."
Json = TypeVar("Json")
_KINDS: dict[type, str] = {
    dict: "an object", list: "an array", str: "a string", int: "a number", float: "a number", bool: "true or false",
    type(None): "null",
}  # fmt: skip


def is_there(path: Path) -> bool:
    """Tell whether a file of a record is there, also one that cannot be read: a folder, a FIFO, a broken link."""
    return os.path.lexists(path)


def read(path: Path) -> str:
    """Return the text of a file of a record. Raises WrongInput as :func:`read_bytes`, and when it is not UTF-8."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as exc:
        detail = f"{path} is not UTF-8: {exc.reason} at byte {exc.start}."
        raise WrongInput(f"could not read {path.name}", detail=detail, hint=UNREADABLE_HINT) from exc


def read_bytes(path: Path) -> bytes:
    """Return what a file of a record holds.

    Raises WrongInput when it is not there, or cannot be read, or is no file: nobody waits for a FIFO.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise WrongInput(f"could not read {path.name}", detail=f"{path} is no file.", hint=UNREADABLE_HINT)
            return file.read()
    except OSError as exc:
        detail = f"{path}: {exc.strerror or exc}."
        raise WrongInput(f"could not read {path.name}", detail=detail, hint=UNREADABLE_HINT) from exc


def refuse_irregular(path: Path) -> None:
    """See that a file of a record can be read, and is one. Raises WrongInput as :func:`read_bytes`."""
    if path.is_file():
        return
    read_bytes(path)


def read_json(path: Path, kind: type[Json]) -> Json:
    """Return what a JSON file of a record holds. Raises WrongInput as :func:`read`, and when it holds another kind."""
    try:
        found = json.loads(read(path))
    except (ValueError, RecursionError) as exc:
        detail = f"{path} holds no JSON: {str(exc)[:200]}."
        raise WrongInput(f"could not read {path.name}", detail=detail, hint=UNREADABLE_HINT) from exc
    if not isinstance(found, kind):
        detail = f"{path} holds {_KINDS[type(found)]}, not {_KINDS[kind]}."
        raise WrongInput(f"could not read {path.name}", detail=detail, hint=UNREADABLE_HINT)
    return found


def read_model(path: Path, model: type[Json]) -> Json:
    """Return what a JSON file of a record holds. Raises WrongInput as :func:`read_json`, and when it does not fit."""
    try:
        return TypeAdapter(model).validate_python(read_json(path, object))
    except ValidationError as exc:
        detail = f"{path} is not as we write it: {told(exc)}."
        raise WrongInput(f"could not read {path.name}", detail=detail, hint=UNREADABLE_HINT) from exc


def told(exc: ValidationError) -> str:
    """Return what is wrong where, for a Detail."""
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in exc.errors())
