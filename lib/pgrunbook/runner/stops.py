"""Signals that stop a command: one exception for all, which waits while a record is written; the engine has its own.

Without a handler SIGTERM ends Python at once: no word, and a record that says "running".
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pgrunbook.errors import Interrupted

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
AGAIN_S = 0.02
# Callbacks that the collector calls, by module and function; the first is that by which an import lets go of its lock.
SWALLOWING = {
    ("importlib._bootstrap", "cb"),
    ("_frozen_importlib", "cb"),
    ("weakref", "remove"),
    ("weakref", "__call__"),
    ("_weakrefset", "_remove"),
    ("logging", "_removeHandlerRef"),
}


class _Gate:
    """Whether a signal is let through now, the one that waits, and the last one that stopped something."""

    is_shut = False
    waiting = ""
    stopped_by = ""


@contextmanager
def listening(*, is_last: bool = False) -> Iterator[None]:
    """Handle the signals that stop a command while the body runs; none is let through before :func:`let_through`.

    A signal that is ignored stays ignored, as nohup and a shell's background want it. Where the body ``is_last``, the
    process ends behind it, and a signal does not change its exit code any more.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _Gate.waiting = _Gate.stopped_by = ""
    heard = [number for number in STOPS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _came) for number in heard}
    with _set(shut=True):
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_IGN if is_last else handler)


@contextmanager
def let_through() -> Iterator[None]:
    """Raise KeyboardInterrupt for a signal that comes meanwhile, or has come before."""
    with _set(shut=False):
        if _Gate.waiting:
            _stop()
        yield


@contextmanager
def held() -> Iterator[None]:
    """Let a signal wait that comes meanwhile, so that what is being written is written as a whole."""
    with _set(shut=True):
        yield
    if _Gate.waiting and not _Gate.is_shut:
        _stop()


def stopped() -> Interrupted | None:
    """Return the error for a command that a signal has stopped, None where none has."""
    if not _Gate.stopped_by:
        return None
    return Interrupted(
        f"stopped by {_Gate.stopped_by}",
        detail="The signal came before this command had ended.",
        state="What it had done until then stays; an open transaction was aborted.",
        hint="Run the same command again.",
    )


@contextmanager
def _set(*, shut: bool) -> Iterator[None]:
    before, _Gate.is_shut = _Gate.is_shut, shut
    try:
        yield
    finally:
        _Gate.is_shut = before


def _came(number: int, frame: FrameType | None) -> None:
    """Note the signal and raise; within a callback that swallows exceptions it is sent again a moment later.

    Source: https://docs.python.org/3/library/weakref.html#weakref.ref, of exceptions in callbacks
    """
    _Gate.waiting = signal.Signals(number).name
    if _Gate.is_shut:
        return
    if frame is not None and _is_swallowing(frame):
        threading.Timer(AGAIN_S, os.kill, (os.getpid(), number)).start()
    else:
        _stop()


def _is_swallowing(frame: FrameType) -> bool:
    """Tell whether Python would ignore an exception here: under the collector, not under a line of the program."""
    each: FrameType | None = frame
    while each is not None:
        name = each.f_code.co_name
        if name == "__del__" or (each.f_globals.get("__name__"), name) in SWALLOWING:
            return True
        each = each.f_back
    return False


def _stop() -> None:
    _Gate.stopped_by, _Gate.waiting = _Gate.waiting, ""
    raise KeyboardInterrupt(_Gate.stopped_by)
