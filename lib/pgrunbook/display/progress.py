"""What a step is doing right now: told where the work is done, shown by the session, which looks once a second.

::

    with progress.doing("copying the data") as stage:
        stage.how_far("120 of 800 MB")

Whoever works tells it, whether anybody looks or not: it costs a list entry, and draws nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

SHORTEST_S = 0.1  # a stage that took less is not worth a word


class Stage:
    """A piece of work, and how far it has come."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._how_far = ""
        self._began = time.monotonic()

    def how_far(self, says: str) -> None:
        """Say how far it has come: "120 of 800 MB"."""
        self._how_far = says

    @property
    def took_s(self) -> float:
        """How long it has taken so far, in seconds."""
        return time.monotonic() - self._began

    def __str__(self) -> str:
        return f"{self.what}: {self._how_far}" if self._how_far else self.what


class Work:
    """All that is done while somebody looks: stages at work, and the outermost ones that ended."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.ended: list[tuple[str, float]] = []
        self._broke_off: tuple[BaseException | None, str] = (None, "")

    @property
    def took_s(self) -> float:
        """How long it has taken so far, in seconds."""
        return time.monotonic() - self.began

    def now(self) -> str:
        """Return what is done now, "" where nobody tells it; what other threads do meanwhile comes last."""
        with _lock:
            return ". Meanwhile ".join(": ".join(map(str, stages)) for stages in _stages.values() if stages)

    def broke_off(self, error: BaseException) -> str:
        """Return what was done when an error came up, "" where nobody told it."""
        before, where = self._broke_off
        return where if before is not None and _stems_from(error, before) else ""

    def note(self, error: BaseException, where: str) -> None:
        """Note an error that ends a stage; of stages that it ends one after the other, the innermost counts."""
        if not self.broke_off(error):
            self._broke_off = (error, where)

    def account(self) -> str:
        """Return how long it took, and each stage of it."""
        told = [f"{what} {took_s:.1f} s" for what, took_s in self.ended if took_s >= SHORTEST_S]
        return f"{self.took_s:.1f} s" + (f": {', '.join(told)}" if told else "")


_lock = threading.Lock()
_stages: dict[int, list[Stage]] = {}  # of each thread, the innermost last
_watching: list[Work] = []


@contextmanager
def watched() -> Iterator[Work]:
    """Yield all that is done in this process while the body runs."""
    work = Work()
    _watching.append(work)
    try:
        yield work
    finally:
        _watching.remove(work)


@contextmanager
def doing(what: str) -> Iterator[Stage]:
    """Tell that a piece of work begins, and ends with the body; the stages within it are told behind it."""
    stage, thread = Stage(what), threading.get_ident()
    with _lock:
        mine = _stages.setdefault(thread, [])
        mine.append(stage)
    try:
        yield stage
    except BaseException as exc:
        for work in _watching:
            work.note(exc, ": ".join(map(str, mine)))
        raise
    finally:
        with _lock:
            mine.remove(stage)
            if not mine:
                del _stages[thread]
                for work in _watching:
                    work.ended.append((what, stage.took_s))


def _stems_from(error: BaseException | None, cause: BaseException) -> bool:
    seen = set[int]()  # an error that was raised from itself is its own cause
    while error is not None and error is not cause and id(error) not in seen:
        seen.add(id(error))
        error = error.__context__ if error.__cause__ in (None, error) else error.__cause__
    return error is cause


def current() -> Stage:
    """Return the innermost stage of this thread; where there is none, one that nobody sees."""
    with _lock:
        mine = _stages.get(threading.get_ident())
        return mine[-1] if mine else Stage("")
