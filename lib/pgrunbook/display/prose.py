"""Numbers and lists as a sentence says them: "1 row", "2 rows", "a, b and 17 more"."""

from __future__ import annotations

from collections.abc import Sequence


def counted(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun: ``counted(1, "row")`` is "1 row", ``counted(2, "row")`` is "2 rows"."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def listed(names: Sequence[object], most: int = 12) -> str:
    """Return names as a list in a sentence, at most so many of them and then how many more; "none" without any."""
    shown = [str(name) for name in names[:most]]
    if len(names) > most:
        return f"{', '.join(shown)} and {len(names) - most:,} more"
    return f"{', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else "".join(shown) or "none"
