"""What an attempt of a run has changed in its target, and what permitted that; read from its journal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pgrunbook.record.journal import Event

OPENING, ANCHORED, PERMITTED = "ledger-opened", "anchored", "change-permitted"
BEGUN = ("step-started", "committed")


def has_changed(events: Sequence[Event]) -> bool:
    """Tell whether the last attempt was permitted to change its target, and began; a restore point changes nothing."""
    own = _of_last_attempt(events)
    return any((e["event"] == ANCHORED and not e.get("for_restore_point")) or e["event"] in BEGUN for e in own)


def permitted(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Return each permit of a run, oldest first: in the attempt of which line, when, for what, and on what it rests."""
    found, line, fingerprint = [], 0, ""
    for event in events:
        if event["event"] == OPENING:
            line, fingerprint = int(event["seq_of_line"]), str(event.get("fingerprint", ""))
        elif event["event"] == PERMITTED:
            names = ("procedure", "cell", "of", "at", "approval", "emergency")
            found.append({**{name: event.get(name, "") for name in names}, "line": line, "operator": fingerprint})
    return found


def _of_last_attempt(events: Sequence[Event]) -> Sequence[Event]:
    begun = next((n for n in range(len(events) - 1, -1, -1) if events[n]["event"] == OPENING), 0)
    return events[begun:]
