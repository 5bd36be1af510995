"""A connection service file of libpq, in which one service is led to another server; restore cuts over with it.

Source: https://www.postgresql.org/docs/current/libpq-pgservice.html
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from pgrunbook.config import regular_file
from pgrunbook.errors import RunbookError, WrongInput

WHERE = ("host", "hostaddr", "port")  # what says where the server is
_SECTION = re.compile(r"\s*\[(.+)\]\s*$")
_WORD = re.compile(r"\s*([a-z_]+)\s*=(.*)$")


def address(path: Path, service: str) -> dict[str, str]:
    """Return where a service leads now: host, hostaddr and port, those that are given.

    Raises WrongInput where the file cannot be read, or does not have the service once.
    """
    found = [_value(line) for is_in, line in _lines(_text(path), service) if is_in and _SECTION.match(line) is None]
    heads = [line for is_in, line in _lines(_text(path), service) if is_in and _SECTION.match(line)]
    if len(heads) != 1:
        raise WrongInput(
            f"{path} has {'no' if not heads else 'more than one'} service [{service}]",
            detail="Programs that connect by it would not be led over.",
            hint=f"Write a section [{service}] with host, port and dbname into it, once.",
        )
    return {name: value for name, value in filter(None, found) if name in WHERE}


def switch(path: Path, service: str, to: Mapping[str, str]) -> None:
    """Lead a service elsewhere: readers see the old file or the new one, never a part; all else in it stays.

    Raises WrongInput as :func:`address`, RunbookError where the file cannot be written.
    """
    if address(path, service) == dict(to):
        return
    lines = []
    for is_in, line in _lines(_text(path), service):
        value = _value(line) if is_in else None
        if value is None or value[0] not in WHERE:
            lines.append(line)
        if is_in and _SECTION.match(line):
            lines += [f"{name}={value}" for name, value in to.items()]
    try:
        facts = path.stat()
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), facts.st_mode & 0o7777)
            if os.geteuid() == 0:
                os.fchown(file.fileno(), facts.st_uid, facts.st_gid)
            file.write("\n".join(lines) + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError as exc:
        raise RunbookError(
            f"could not write {path}",
            detail=f"{exc.strerror or exc}.",
            state=f"Service [{service}] leads to where it did.",
            hint="Make its folder writable, then do this again.",
        ) from exc


def _text(path: Path) -> str:
    try:
        return regular_file.read_bytes(path).decode()
    except UnicodeDecodeError as exc:
        raise WrongInput(f"could not read {path}", detail="It is not UTF-8.") from exc


def _lines(text: str, service: str) -> Iterator[tuple[bool, str]]:
    """Yield each line, and whether it belongs to the service."""
    is_in = False
    for line in text.splitlines():
        head = _SECTION.match(line)
        if head:
            is_in = head[1].strip() == service
        yield is_in, line


def _value(line: str) -> tuple[str, str] | None:
    found = None if line.lstrip().startswith("#") else _WORD.match(line)
    return None if found is None else (found[1], found[2].strip())
