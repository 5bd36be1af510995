"""Rows of VALUES that hold no secret, left out before a long text is searched for secrets."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from pgrunbook.config.secret_patterns import may_name_a_secret
from pgrunbook.sql.values_lists import PLAIN_ROWS, ShortText, ValuesReader, compiled, without

_NAMES_BEHIND = 4_000


def without_harmless_rows(text: str, told: Sequence[tuple[int, int]]) -> ShortText:
    """Return a text without rows of constants that hold no secret by themselves, where no name tells that they do.

    The first row of each list stays, and all rows of a list whose statement may name a secret before them, or behind
    them where the list is a table: ``(VALUES ...) AS users (name, password)``. ``told`` are the hints of the text.
    """
    return without(text, _cuts(text, told))


def _cuts(text: str, told: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    reader = ValuesReader(text)
    for found in reader.lists():
        if may_name_a_secret(text[found.begins : found.start]):
            continue
        cuts = list(_harmless(reader, told, len(text)))
        is_table = found.before[1] == "("
        if not is_table or not may_name_a_secret(text[reader.at : reader.at + _NAMES_BEHIND]):
            yield from cuts


def _harmless(reader: ValuesReader, told: Sequence[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    kept = end = -1
    for row in reader.rows():
        before = bisect_right(told, (row.end,)) - 1  # the last hint that begins in the row or before it
        if kept >= 0 and row.cells and (before < 0 or told[before][1] <= row.start):
            reader.pass_by(compiled(PLAIN_ROWS), told[before + 1][0] if before + 1 < len(told) else size)
            end = reader.at
            continue
        if end > kept:
            yield kept, end
        kept = end = row.end
    if end > kept:
        yield kept, end
