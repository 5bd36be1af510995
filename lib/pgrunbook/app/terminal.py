"""The last lines of a headless run on the terminal; several commands write them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgrunbook.record.run import Run


def end(made: Run, code: int) -> None:
    """Write how a headless run ended, where its record is, and what to do next; exit with its code unless that is 0."""
    from pgrunbook.runner import headless

    sys.stderr.write(f"{made.status}: {made.folder}\n")
    if code:
        following = headless.next_step(made)
        sys.stderr.write(f"{following}\n" if following else "")
        sys.exit(code)
