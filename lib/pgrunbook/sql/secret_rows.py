"""Rows of VALUES that hold no secret, left out before a long text is searched for secrets."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pgrunbook.config.secret_patterns import may_name_a_secret
from pgrunbook.sql.secret_prose import closer_look
from pgrunbook.sql.values_lists import ShortText, ValuesReader, without

_NAMES_BEHIND = 4_000


def without_harmless_rows(text: str) -> ShortText:
    """Return a text without rows of constants that hold no secret by themselves, where no name tells that they do.

    The first row of each list stays, and all rows of a list whose statement may name a secret before them, or behind
    them where the list is a table: ``(VALUES ...) AS users (name, password)``.
    """
    return without(text, _cuts(text))


def _cuts(text: str) -> Iterator[tuple[int, int]]:
    reader, is_worth_it = ValuesReader(text), closer_look(text)
    for found in reader.lists():
        if may_name_a_secret(text[found.begins : found.start]):
            continue
        cuts = list(_harmless(text, reader, is_worth_it))
        is_table = found.before[1] == "("
        if not is_table or not may_name_a_secret(text[reader.at : reader.at + _NAMES_BEHIND]):
            yield from cuts


def _harmless(text: str, reader: ValuesReader, is_worth_it: Callable[[str], bool]) -> Iterator[tuple[int, int]]:
    kept = end = -1
    for row in reader.rows():
        if kept >= 0 and row.cells and not is_worth_it(text[row.start : row.end]):
            end = row.end
            continue
        if end > kept:
            yield kept, end
        kept = end = row.end
    if end > kept:
        yield kept, end
