"""The findings that a team has when it begins: they are left out later, so that what is shown is new."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from pgrunbook.errors import WrongInput
from pgrunbook.review.hazards import Hazard
from pgrunbook.sql.places import Place
from pgrunbook.sql.secrets import masked

Mark = tuple[str, str, str]
Found = tuple[str, Place, Hazard]


def mark(statement: str, place: Place, hazard: Hazard) -> Mark:
    """Return what a finding is known by: its migration, its rule and the text of its statement, but not its line."""
    words = " ".join(masked(statement).split())
    return place.migration, hazard.id, hashlib.sha256(words.encode()).hexdigest()[:16]


def read(file: Path) -> frozenset[Mark] | None:
    """Return the marks in a file, None where there is none yet.

    Raises WrongInput when it is not a baseline.
    """
    if not file.exists():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return frozenset((one["migration"], one["rule"], one["statement"]) for one in found["findings"])
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise WrongInput(
            f"cannot read the baseline {file}",
            detail=f"It is not a file that --baseline has written: {exc}",
            hint="Name another file, or delete it: the next review with --baseline writes it anew.",
        ) from exc


def write(file: Path, found: Iterable[Found]) -> int:
    """Write what was found; return how many findings these are.

    Raises WrongInput when the file cannot be written.
    """
    marks = sorted({mark(*one) for one in found})
    rows = [dict(zip(("migration", "rule", "statement"), one, strict=True)) for one in marks]
    lines = ",\n".join(f"    {json.dumps(row)}" for row in rows)
    text = f'{{\n  "findings": [\n{lines}\n  ]\n}}\n' if rows else '{\n  "findings": []\n}\n'
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise WrongInput(f"cannot write the baseline {file}", detail=str(exc)) from exc
    return len(marks)


def is_new(known: frozenset[Mark]) -> Callable[[str, Place, Hazard], bool]:
    """Return the question whether a finding is not among those that are known."""
    return lambda statement, place, hazard: mark(statement, place, hazard) not in known
