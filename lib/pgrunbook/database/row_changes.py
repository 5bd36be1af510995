"""The rows that differ between two streams of a table's rows, each in the order of the key's hash; for checksums."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, repeat
from typing import Literal

from psycopg.rows import TupleRow

SAMPLE_CHARS = 200
Change = Literal["missing", "changed", "new"]


@dataclass(frozen=True)
class Sample:
    """One row that differs: its primary key, or the start of the whole row where there is none; and its values.

    ``values`` are those of the first side, of a new row those of the second; "" where they are not asked for.
    """

    change: Change
    key: str
    values: str = ""


@dataclass(frozen=True)
class TableDifference:
    """How many rows of the first table are missing from the second or changed there, and how many are new.

    ``columns_apart`` names the columns that only one side has, which were left out of the comparison.
    """

    missing: int
    changed: int
    new: int
    samples: tuple[Sample, ...]
    columns_apart: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.missing or self.changed or self.new)


def merged(
    rows_a: Iterable[TupleRow], rows_b: Iterable[TupleRow], limit: int, each: Callable[[Sample], None] | None
) -> TableDifference:
    """Return how two streams of (hash of key, text of key, hash of row, values), in that order, differ."""
    counts: Counter[Change] = Counter()
    samples: list[Sample] = []
    for change, key, values, rows in _changes(rows_a, rows_b):
        counts[change] += rows
        if each is not None:
            for _ in range(rows):
                each(Sample(change, key, values))
        if len(samples) < limit:
            samples.append(Sample(change, key[:SAMPLE_CHARS]))
    return TableDifference(counts["missing"], counts["changed"], counts["new"], tuple(samples))


def _changes(rows_a: Iterable[TupleRow], rows_b: Iterable[TupleRow]) -> Iterator[tuple[Change, str, str, int]]:
    """Merge two streams in the order of the key's hash; yield change, key, values and number of rows."""
    merged = heapq.merge(zip(rows_a, repeat("a")), zip(rows_b, repeat("b")), key=_key_hash)
    for _, group in groupby(merged, key=_key_hash):
        (row, side), *others = group
        if not others:
            yield "missing" if side == "a" else "new", row[1], row[3], 1
        elif len(others) > 1 or others[0][1] == side or others[0][0][1] != row[1]:
            yield from _compared([(row, side), *others])
        elif others[0][0][:3] != row[:3]:
            yield "changed", row[1], row[3] if side == "a" else others[0][0][3], 1


def _compared(rows: list[tuple[TupleRow, str]]) -> Iterator[tuple[Change, str, str, int]]:
    """Compare rows whose keys have the same hash: mostly one key, or equal rows of a table without key."""
    a, b = (Counter(row[:3] for row, side in rows if side == wanted) for wanted in ("a", "b"))
    gone, come = (Counter(row[1] for row in only.elements()) for only in (a - b, b - a))
    differ = (a - b) + (b - a)
    values = {(row[1], side): row[3] for row, side in rows if row[:3] in differ}
    # A key that is on both sides with other rows was changed; it is once on each where it is primary.
    yield from (("changed", key, values[key, "a"], count) for key, count in (gone & come).items())
    yield from (("missing", key, values[key, "a"], count) for key, count in (gone - come).items())
    yield from (("new", key, values[key, "b"], count) for key, count in (come - gone).items())


def _key_hash(row: tuple[TupleRow, str]) -> int:
    return row[0][0]  # type: ignore[no-any-return]
