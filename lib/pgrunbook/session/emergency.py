"""The emergency: a change without an approval, outside of its window; loud, and never without gates or rehearsal."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pgrunbook.display.show import BAD, Banner
from pgrunbook.errors import WrongInput
from pgrunbook.record import run as runs
from pgrunbook.record.run import Run

EMERGENCY = "emergency"  # the event of the journal, and what run.json says of the run
LEAST_WORDS = 3


def check(reason: str) -> None:
    """Check that a reason is one. Raises WrongInput."""
    if reason and len(reason.split()) < LEAST_WORDS:
        raise WrongInput(
            "an emergency needs a reason",
            detail=f'"{reason}" has {len(reason.split())} of the {LEAST_WORDS} words that it takes at least.',
            state="Nothing was started; nothing changed in the database.",
            hint='Say what happens, for example: --emergency "orders fail since 14:02, INC-77".',
        )


def declare(run: Run, reason: str) -> None:
    """Note that a run is an emergency, where there is a reason. Raises RecordFailed."""
    if reason:
        run.about[EMERGENCY] = reason
        run.save()
        run.journal.write(EMERGENCY, reason=reason, by=runs.operator())


def reason_of(events: Collection[Mapping[str, Any]]) -> str:
    """Return the reason for which a run is an emergency, "" where it is none."""
    return next((str(e["reason"]) for e in reversed([*events]) if e["event"] == EMERGENCY), "")


def banner(reason: str) -> Banner:
    """Return what a person sees before it."""
    says = "This is changed without the approval of somebody else, whenever the window is."
    return Banner(EMERGENCY, says, [("reason", reason)], tone=BAD)
