"""How many random examples a property test tries: few in `make test`, many in `make test-all`."""

from __future__ import annotations

import os

GIVEN = os.environ.get("PGRUNBOOK_TEST_EXAMPLES", "few")


def examples(few: int, many: int) -> int:
    """Return the number to try: PGRUNBOOK_TEST_EXAMPLES is "few", "many", or a number for all tests."""
    return {"few": few, "many": many}.get(GIVEN) or int(GIVEN)
