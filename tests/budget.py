"""How many examples and cases a test tries: few in `make test`, all in `make test-all`."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

GIVEN = os.environ.get("PGRUNBOOK_TEST_EXAMPLES", "few")


def examples(few: int, many: int) -> int:
    """Return the number to try: PGRUNBOOK_TEST_EXAMPLES is "few", "many", or a number for all tests."""
    return {"few": few, "many": many}.get(GIVEN) or int(GIVEN)


def sample(cases: Sequence[object], every: int) -> list[object]:
    """Return cases as parameters; all but each ``every``-th are left to `make test-all`."""
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow if number % every else ())
        for number, case in enumerate(cases)
    ]
