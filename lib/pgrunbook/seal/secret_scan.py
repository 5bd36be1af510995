"""The look through a run's folder before it is sealed, for what the door let through or somebody put there.

1. What the door of ``record`` would still mask in a text.
2. The values of this environment's own secrets: variables with a telling name, and passwords in URLs.
3. A value of high entropy beside a telling name, as in ``{"api_key": "..."}``.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pgrunbook.config.secret_patterns import names_a_secret
from pgrunbook.record import door
from pgrunbook.record.files import write_atomically
from pgrunbook.record.journal import PREV
from pgrunbook.record.run import JOURNAL_FILE, Run
from pgrunbook.seal import subjects
from pgrunbook.sql.secret_prose import MASK

BINARY = frozenset((".png", ".jpg", ".jpeg", ".pdf", ".gz", ".zst", ".zip"))
SHORTEST, MOST_FOUND = 8, 50
LEAST_BITS = 3.0  # of entropy for each character: a word of a language has less, a random key more
_HASH = re.compile(r"[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_JOINED = frozenset(("source", "text"))  # texts that a notebook's file holds as a list of lines


@dataclass(frozen=True)
class SecretPlace:
    """A secret in a file of a run: where, and of which kind; never the secret itself."""

    file: str
    line: int
    kind: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} ({self.kind})"


@dataclass
class _Look:
    """A look through one file: what of it is a secret, and the file without them."""

    file: str
    raw: str
    values: Mapping[str, str]
    found: list[SecretPlace] = field(default_factory=list)

    def masked(self, text: str, mask: Callable[[str], str], name: str = "", line: int = 0) -> str:
        """Return a text without secrets, and note what was one; ``name`` is what the text is the value of."""
        kind, after = "", text
        for value, variable in self.values.items():
            if value in after:
                kind, after = f"the value of {variable}", after.replace(value, MASK)
        if name and names_a_secret(name) and is_random(after):
            kind, after = f"a random value named {name}", MASK
        if (looked := mask(after)) != after:
            kind, after = kind or "written as a secret is", looked
        if kind:
            self.found.append(SecretPlace(self.file, line or self._line_of(text), kind))
        return after

    def _line_of(self, text: str) -> int:
        for spelled in (json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text.partition("\n")[0])[1:-1]):
            at = self.raw.find(spelled)
            if at >= 0:
                return self.raw.count("\n", 0, at) + 1
        return 1


def scan(run: Run) -> list[SecretPlace]:
    """Return the secrets in the files of a run, at most 50. Raises OSError for a file that cannot be read."""
    found: list[SecretPlace] = []
    for look, _ in _looks(run):
        found += look.found
        if len(found) >= MOST_FOUND:
            break
    return found[:MOST_FOUND]


def redact(run: Run) -> list[SecretPlace]:
    """Mask the secrets in the files of a run, and return where they were; the caller records that.

    The lines of a journal are chained anew from the first that held one: it is not sealed yet.
    Raises RecordFailed when a file cannot be written.
    """
    found: list[SecretPlace] = []
    for look, after in _looks(run):
        if look.found:
            write_atomically(run.folder / look.file, after)
            found += look.found
    return found


def is_random(value: str) -> bool:
    """Tell whether a value looks like a key: long, without blanks, of many different characters, and no digest."""
    if len(value) < SHORTEST * 2 or re.search(r"\s", value) or _HASH.fullmatch(value):
        return False
    counts = Counter(value)
    bits = -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values())
    return bits >= LEAST_BITS and re.search(r"\d", value) is not None and re.search(r"[A-Za-z]", value) is not None


def _looks(run: Run) -> Iterator[tuple[_Look, str]]:
    values = of_environment(os.environ)
    for name in subjects.files(run.folder):
        if Path(name).suffix.lower() not in BINARY:
            look = _Look(name, (run.folder / name).read_text(encoding="utf-8", errors="replace"), values)
            yield look, _without(look)


def of_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the secrets of an environment: value to the variable that holds it."""
    found: dict[str, str] = {}
    for name, value in environment.items():
        if names_a_secret(name) and len(value) >= SHORTEST and not value.startswith(("/", "~")):
            found[value] = name
        password = None
        with suppress(ValueError):  # it is no URL
            password = urlsplit(value).password if "://" in value else None
        if password and len(password) >= SHORTEST:
            found.update({password: name, unquote(password): name})
    return found


def _without(look: _Look) -> str:
    """Return the text of a file without secrets, looked through as its kind of file is written."""
    if look.file == JOURNAL_FILE:
        return _journal(look)
    suffix = Path(look.file).suffix.lower()
    with suppress(ValueError, RecursionError):  # what is no JSON is looked through as a text
        if suffix in (".json", ".ipynb"):
            before = json.loads(look.raw)
            after = _cleaned(look, before)
            return look.raw if after == before else json.dumps(after, indent=1, ensure_ascii=False) + "\n"
    if suffix == ".csv":
        return _csv(look)
    lines = look.raw.split("\n")
    return "\n".join(look.masked(text, door.masked, line=number) for number, text in enumerate(lines, 1))


def _journal(look: _Look) -> str:
    lines, last, changed = [], "", False
    for number, line in enumerate(look.raw.split("\n"), 1):
        before = after = None
        with suppress(ValueError, RecursionError):  # a piece that a crash left
            before = json.loads(line)
        if isinstance(before, dict):
            after = _cleaned(look, before, line=number)
            if changed and PREV in after:
                after[PREV] = sha256(last.encode()).hexdigest() if last else ""
        written = line if after == before else json.dumps(after, ensure_ascii=False, separators=(",", ":"))
        if before is None:
            written = look.masked(line, door.masked, line=number)
        changed = changed or written != line
        lines.append(written)
        last = written or last
    return "\n".join(lines)


def _csv(look: _Look) -> str:
    rows = list(csv.reader(io.StringIO(look.raw, newline="")))
    masked = [[look.masked(cell, door.masked) for cell in row] for row in rows]
    if masked == rows:
        return look.raw
    written = io.StringIO(newline="")
    csv.writer(written).writerows(masked)
    return written.getvalue()


def _cleaned(look: _Look, value: Any, name: str = "", line: int = 0) -> Any:
    """Return JSON without secrets; a text is looked through as the door does that wrote it."""
    if isinstance(value, str):
        if name in door.BINARY:
            return value
        if name in door.MARKUP:
            return look.masked(value, door.masked_markup, line=line)
        return look.masked(value, lambda text: str(door.masked_facts({name: text})[name]), name, line)
    if isinstance(value, dict):
        return {key: _cleaned(look, inner, key, line) for key, inner in value.items()}
    if isinstance(value, list):
        return _of_list(look, value, name, line)
    return value


def _of_list(look: _Look, value: Sequence[Any], name: str, line: int) -> Any:
    if (name in _JOINED or "/" in name) and all(isinstance(part, str) for part in value):
        joined = "".join(value)
        after = _cleaned(look, joined, name, line)
        return value if after == joined else after
    return [_cleaned(look, inner, name, line) for inner in value]
