"""A branch with the target's data that is made ahead: in a thread, while the schema is rehearsed; for prepare.

It is for small databases, and where a runner goes on at once: to give a large copy up takes as long as to make it, and
a person may look at a result for an hour, while the target changes.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager

from pgrunbook.branches import data_branch, in_memory
from pgrunbook.branches.data_branch import Copy
from pgrunbook.config.targets import Target

MOST_BYTES = 256 * 1024 * 1024


@contextmanager
def begun(target: Target, size_bytes: int, *, most_bytes: int, goes_on: bool) -> Iterator[CopyAhead | None]:
    """Begin a copy of a target whose database has that size, for what ``goes_on`` at once behind the body.

    After an error in the body it is given up. Of a large one only the checkpoint is begun, and nothing is given.
    """
    if size_bytes > MOST_BYTES or not goes_on:
        data_branch.checkpoint_ahead(target)
        yield None
        return
    ahead = CopyAhead(target, most_bytes=most_bytes)
    try:
        yield ahead
    except BaseException:
        ahead.give_up()
        raise


class CopyAhead:
    """A copy with its twin, made in a thread; it is removed when it is given up, or was taken."""

    def __init__(self, target: Target, *, most_bytes: int) -> None:
        self._target, self._most_bytes = target, most_bytes
        self._made: Future[Copy] = Future()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._make, name="copy ahead", daemon=True)
        self._thread.start()
        atexit.register(self.give_up)

    def take(self) -> AbstractContextManager[Copy]:
        """Give the copy; a second time, a new one. It raises what ``data_branch.with_data`` does."""
        if self._over.is_set():
            return data_branch.with_data(self._target, most_bytes=self._most_bytes, twin=True)
        return self._taken()

    def give_up(self) -> None:
        """Remove the copy, if it is still there; wait until it is gone."""
        atexit.unregister(self.give_up)
        self._over.set()
        self._thread.join()

    @contextmanager
    def _taken(self) -> Iterator[Copy]:
        try:
            in_memory.note_use()  # a rehearsal for which the memory is too small begins again
            yield self._made.result()
        finally:
            self.give_up()  # and wait: what comes next may measure the target

    def _make(self) -> None:
        try:
            with data_branch.with_data(self._target, most_bytes=self._most_bytes, twin=True) as copy:
                self._made.set_result(copy)
                self._over.wait()
        except BaseException as exc:
            if self._made.done():
                raise
            self._made.set_exception(exc)
