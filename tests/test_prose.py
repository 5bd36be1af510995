"""prose.py: numbers and lists as sentences say them, and conflicts one per line."""

from __future__ import annotations

import pytest

from pgrunbook.database.checksums import TableName
from pgrunbook.display.prose import counted, listed
from pgrunbook.undo_data.conflicts import LINE_CHARS, Conflict, Conflicts


@pytest.mark.parametrize(
    ("number", "one", "many", "says"),
    [
        (0, "row", "", "0 rows"),
        (1, "row", "", "1 row"),
        (2, "row", "", "2 rows"),
        (18_000, "batch", "batches", "18,000 batches"),
        (1, "migration is", "migrations are", "1 migration is"),
    ],
)
def test_a_number_has_its_noun(number: int, one: str, many: str, says: str) -> None:
    """One is one."""
    assert counted(number, one, many) == says


@pytest.mark.parametrize(
    ("names", "most", "says"),
    [([], 3, "none"), (["a"], 3, "a"), (["a", "b"], 3, "a and b"), ([1, 2, 3], 3, "1, 2 and 3"),
     ([*"abcde"], 3, "a, b, c and 2 more")],
)  # fmt: skip
def test_a_list_is_bounded(names: list[object], most: int, says: str) -> None:
    """And says how many it leaves out."""
    assert listed(names, most) == says


@pytest.mark.parametrize(("rows", "lines"), [(1, 1), (2, 2), (5, 5), (6, 6), (22, 6), (1_022, 6)])
def test_conflicts_stand_one_per_line(rows: int, lines: int) -> None:
    """Five of them at most, each of bounded length, and how many more there are."""
    sample = Conflict(
        TableName("public", "k"), "changed", {"n": "1"}, {"v": "a" * 200}, {"v": "b" * 100}, {"v": "c" * 200}
    )
    told = Conflicts(rows, (sample,) * min(rows, 20)).lines().strip("\n").split("\n")
    assert len(told) == lines
    assert all(len(line.strip()) <= LINE_CHARS for line in told)
    assert (told[-1].strip() == f"and {rows - 5:,} more") == (rows > 5)
