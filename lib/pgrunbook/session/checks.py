"""The checks of a notebook: cells that have to pass before another cell changes something.

1. A check writes into the run's journal that it begins, and that it has passed, with what it was about.
2. A cell that changes something reads the journal. Each of its checks has to have passed in this kernel, since the
   notebook was begun there, and all of them about the same; the last try of each counts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, TypeVar

from pgrunbook.errors import Refused
from pgrunbook.record import journal
from pgrunbook.record.run import Run
from pgrunbook.session.session import Session, step

_BEFORE_ROLLBACK = ("what-goes-back", "what-about-new-rows", "try-it")
# For each cell that changes something: the checks that have to pass before it, in the order of the notebook.
NEEDED: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "migrate": {
        "take-restore-point": ("is-it-still-so",),
        "execute-plan": ("is-it-still-so", "take-restore-point"),
    },
    "rollback": {
        "take-restore-point": _BEFORE_ROLLBACK,
        "take-back": (*_BEFORE_ROLLBACK, "take-restore-point"),
    },
    "backfill": {
        "keep-in-sync": ("plan-the-batches", "look-at-the-rows"),
        "fill-the-rows": ("plan-the-batches", "look-at-the-rows"),
        "let-go": ("plan-the-batches",),
    },
    "purge": {"purge-it": ("what-is-captured", "what-goes")},
    "restore": {
        "restore-to-branch": ("choose-the-point",),
        "salvage-rows": ("what-to-salvage", "try-salvage"),
        "fence": ("what-to-carry",),
        "cut-over": ("what-to-carry",),
    },
    "contract": {"drop-it": ("what-is-still-double", "who-uses-it", "do-they-agree")},
    "rollout": {
        "add-the-flag": ("plan-the-stages",),
        "roll-out": ("plan-the-stages",),
        "remove-the-flag": ("plan-the-stages", "who-reads-it"),
    },
    "swap": dict.fromkeys(("make-and-fill", "cut-over", "settle", "end-it"), ("what-hangs", "try-the-shape")),
}
View = TypeVar("View")


def check(function: Callable[[Session], View]) -> Callable[[Session], View]:
    """Make a function a step that is a check: the journal says when it begins, and that it has passed.

    What it was about is ``Session.subject``, as the function leaves it.
    """
    cell = function.__name__.replace("_", "-")

    @wraps(function)
    def recorded(here: Session) -> View:
        here.journal("check-begun", run=here.run.run_id, cell=cell)
        view = function(here)
        here.journal("check-passed", run=here.run.run_id, cell=cell, of=sorted(here.subject))
        return view

    return step(recorded)


def passed(here: Session, procedure: str, cell: str) -> frozenset[str]:
    """Return what the checks of a cell have passed for.

    Raises Refused where one has not passed, with the cell to run first.
    """
    found = _passed(told(here.run), procedure, here.run.run_id) if here.procedure == procedure else {}
    needed = NEEDED[procedure][cell]
    for one in needed:
        if one not in found:
            raise refusal(cell, one)
    about = found[needed[0]]
    for one in needed:
        if found[one] != about:
            raise refusal(cell, one, other=True)
    return about


def refusal(cell: str, needed: str, *, other: bool = False) -> Refused:
    """Return the error of a cell whose check has not passed, or has passed for an ``other`` plan, choice or point."""
    why = "since this notebook was begun it was not run, or it has refused"
    return Refused(
        f'cell "{cell}" changes nothing before cell "{needed}" has passed',
        detail=f'Cell "{needed}": {"it has passed for something else than what would be done now" if other else why}.',
        hint=f'Run cell "{needed}" first, then this cell again.',
    )


def told(run: Run) -> Sequence[Mapping[str, Any]]:
    """Return the events by which a permit is decided: those of the run's own journal, oldest first."""
    return journal.read(run.journal.path)


def _passed(events: Sequence[Mapping[str, Any]], procedure: str, run_id: str) -> dict[str, frozenset[str]]:
    """Return what each check has passed for in this kernel, since the procedure was begun there for the last time."""
    found: dict[str, frozenset[str]] = {}
    for event in events:
        if event.get("procedure") != procedure or event.get("pid") != os.getpid():
            continue
        match event["event"]:
            case "procedure-started":
                found.clear()
            case "check-begun":
                found.pop(event["cell"], None)
            case "check-passed" if event["run"] == run_id:
                found[event["cell"]] = frozenset(event["of"])
    return found
