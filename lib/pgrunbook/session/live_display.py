"""One display in the cell that runs, redrawn as often as it is called for; outside of a kernel nothing is drawn."""

from __future__ import annotations

import sys
from typing import Any


class LiveDisplay:
    """A display that replaces what it has drawn before."""

    def __init__(self) -> None:
        self._handle: Any = None

    @property
    def is_drawn(self) -> bool:
        """Whether something was drawn."""
        return self._handle is not None

    def draw(self, view: object) -> None:
        """Draw a view in the place of the last one."""
        if "IPython" not in sys.modules:
            return
        from IPython import get_ipython
        from IPython.display import display

        if get_ipython() is None:
            return
        if self._handle is None:
            self._handle = display(view, display_id=True)
        else:
            self._handle.update(view)
