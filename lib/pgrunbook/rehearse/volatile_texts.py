"""Texts of a schema that differ each time the same statements run; the rehearsals compare all else.

A moment ('now'), a random number, an OID or a number of a sequence went into a default, a view or a comment.

The same statements run twice, on two equal branches. A word that differs between the two is volatile; a third text
is the same where it differs in volatile words only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from pgrunbook.database.schema import Snapshot
from pgrunbook.database.schema_diff import Difference, diff
from pgrunbook.errors import Refused

# A moment is one word: that of another run may have the same hour, or the same second.
_WORDS = re.compile(r"'(?:[^']|'')*'|[\w.:+-]*\d[\w.:+-]*|\w+|\s+|.", re.S)
_Object = tuple[str, str]


class VolatileTexts:
    """The objects whose texts differ between two runs of the same statements, and the words in which they do."""

    def __init__(self, one: Snapshot, other: Snapshot) -> None:
        differences = diff(one, other)
        self.renamed = tuple(d for d in differences if d.change != "changed")
        self._words = {(d.kind, d.name): _differing(d.before, d.after) for d in differences if d.change == "changed"}

    @property
    def objects(self) -> tuple[_Object, ...]:
        """The objects, by kind and name."""
        return tuple(self._words)

    def without(self, found: Iterable[Difference]) -> list[Difference]:
        """Return the differences that are not in volatile words only."""
        return [difference for difference in found if not self._explains(difference)]

    def refuse_names(self, migration: str) -> None:
        """Raise Refused where objects have other names each time: nothing can be promised of these."""
        if self.renamed:
            raise Refused(
                f"{migration} ends in another schema each time it runs",
                detail="; ".join(d.line() for d in self.renamed[:8]),
                state="Nothing changed in the target: this was found on a branch.",
                hint="Write names that do not depend on the time, a random or an internal number.",
            )

    def _explains(self, difference: Difference) -> bool:
        place = (difference.kind, difference.name)
        if place not in self._words or difference.change != "changed":
            return False
        volatile, found = self._words[place], _differing(difference.before, difference.after)
        return volatile is None or (found is not None and found <= volatile)


def _differing(one: str, other: str) -> set[int] | None:
    """Return the places of the words that differ; None where the texts have another number of words."""
    words, others = _WORDS.findall(one), _WORDS.findall(other)
    if len(words) != len(others):
        return None
    return {place for place, pair in enumerate(zip(words, others, strict=True)) if pair[0] != pair[1]}
