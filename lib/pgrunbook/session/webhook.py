"""A webhook of a chat: what a watch has to say is posted as ``{"text": ...}``, which chat tools accept.

A thread of its own posts it: a webhook that hangs or fails stalls nobody. Its address is a secret, and is never told.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable

from pgrunbook.errors import RecordFailed
from pgrunbook.record import door

ATTEMPTS = 3
PAUSE_S = 2.0
TIMEOUT_S = 5.0
MOST_WAITING = 50

log = logging.getLogger(__name__)


class Webhook:
    """Posts texts in the order in which they were given; ``note`` gets an event for each that was posted or was not."""

    def __init__(self, url: str, note: Callable[..., object]) -> None:
        self._url, self._note = url, note
        self._texts: queue.Queue[str | None] = queue.Queue()
        self._thread = threading.Thread(target=self._post_all, daemon=True)
        self._thread.start()

    def send(self, text: str) -> None:
        """Post a text soon; returns at once. Where fifty wait already, it is dropped, and noted so."""
        if self._texts.qsize() >= MOST_WAITING:
            self._told("webhook-failed", text, why=f"{MOST_WAITING} messages wait already")
        else:
            self._texts.put(text)

    def close(self, wait_s: float = TIMEOUT_S) -> None:
        """Post what waits, for so long at most."""
        self._texts.put(None)
        self._thread.join(wait_s)
        if self._thread.is_alive():
            self._told("webhook-failed", "", why=f"it had not answered {wait_s:.0f} s after the end")

    def _post_all(self) -> None:
        while (text := self._texts.get()) is not None:
            for attempt in range(1, ATTEMPTS + 1):
                if not (why := self._refused(text)):
                    self._told("webhook-called", text, attempt=attempt)
                    break
                if attempt == ATTEMPTS:
                    self._told("webhook-failed", text, why=f"{why}, {ATTEMPTS} times")
                else:
                    time.sleep(PAUSE_S)

    def _refused(self, text: str) -> str:
        """Post a text; return why that failed, "" where it did not."""
        body = json.dumps({"text": door.masked(text)}).encode()
        try:
            request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})  # noqa: S310 - the target checks it
            with urllib.request.urlopen(request, timeout=TIMEOUT_S):  # noqa: S310
                return ""
        except urllib.error.HTTPError as exc:
            exc.close()
            return f"it answers {exc.code}"
        except Exception as exc:  # an address may be wrong in many ways, and no error may tell it
            return f"it cannot be reached ({type(exc).__name__})"

    def _told(self, event: str, text: str, **facts: object) -> None:
        try:
            self._note(event, text=text, **facts)
        except RecordFailed:
            log.warning("%s, and the journal cannot be written", event)
