"""Places: the names that operators give statements, ``MIGRATION:LINE``; the one writer, parser and resolver of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

from pgrunbook.display.prose import listed
from pgrunbook.errors import WrongInput

# A line is counted from 1; the second statement that begins on it is ``.2``, the first has no number.
_PLACE = re.compile(r"(?P<migration>\S(?:.*\S)?):(?P<line>[1-9][0-9]*)(?:\.(?P<nth>[2-9]|[1-9][0-9]+))?")
MOST_NAMED = 20


class Place(NamedTuple):
    """Where a statement begins: its migration as the history names it, the line, and which statement of that line."""

    migration: str
    line: int
    nth: int = 1

    def __str__(self) -> str:
        return f"{self.migration}:{self.line}" + (f".{self.nth}" if self.nth > 1 else "")


class NamedPlace(NamedTuple):
    """What an operator may name: a gate or a statement by ``key``, a statement also by the name of its file.

    ``place`` is None for a key that names no statement.
    """

    key: str
    file: str = ""
    place: Place | None = None


def parsed(text: str) -> Place | None:
    """Return the place that a text spells, by a migration or by a file; None where it spells none."""
    found = _PLACE.fullmatch(text)
    return Place(found["migration"], int(found["line"]), int(found["nth"] or 1)) if found else None


def numbered(migration: str, lines: Iterable[int]) -> list[Place]:
    """Return the places of a migration's statements, which begin on these lines, in order."""
    seen: dict[int, int] = {}
    places = []
    for line in lines:
        seen[line] = seen.get(line, 0) + 1
        places.append(Place(migration, line, seen[line]))
    return places


def resolved(given: Iterable[str], there: Collection[NamedPlace]) -> list[str]:
    """Return the key that each text names; ``FILE.sql:LINE`` is read where only one statement begins there.

    Raises WrongInput for a text that names nothing of what is there, and for one that names two.
    """
    return [_one(text, there) for text in given]


def _one(text: str, there: Collection[NamedPlace]) -> str:
    found = list(dict.fromkeys(one.key for one in there if one.key == text or _is_in_file(text, one)))
    if len(found) == 1:
        return found[0]
    if found:
        count = "two" if len(found) == 2 else str(len(found))
        raise WrongInput(
            f"{text} names {count}: {listed(found, MOST_NAMED)}",
            detail="A place is MIGRATION:LINE; the name of a file says it only where one statement fits.",
            hint="Name the one that is meant, as it is spelled here.",
        )
    keys = list(dict.fromkeys(one.key for one in there))
    raise WrongInput(
        f"there is no such place: {text}",
        detail=f"The places are {listed(keys, MOST_NAMED)}." if keys else "There is no place that could be named.",
        hint="A place is MIGRATION:LINE; the second statement that begins on a line is MIGRATION:LINE.2.",
    )


def _is_in_file(text: str, one: NamedPlace) -> bool:
    """Tell whether a text names a statement by its file: without a number, any statement of the line."""
    named = parsed(text)
    if named is None or one.place is None or (named.migration, named.line) != (one.file, one.place.line):
        return False
    return named.nth in (1, one.place.nth)
